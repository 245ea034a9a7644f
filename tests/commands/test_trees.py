"""`zpipe cp` for trees, as a command: which wishes words mean, and what it says afterwards."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.commands.shell import refused, went_well
from tests.machine import LONGEST, content, environment, need, zpipe
from zpipe.commands import cp as cp_command
from zpipe.commands import trees
from zpipe.commands.tree_letters import LETTERS, demanded_of, wishes_of_letters
from zpipe.commands.tree_words import explained, quoted, status_line
from zpipe.commands.trees import Request, in_short, path_of
from zpipe.errors import UsageError
from zpipe.tree.report import TreeReport
from zpipe.tree.tasks import Problem
from zpipe.tree.wishes import ATTRIBUTES, PLAIN, TreeWishes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ODD = [b"plain", b"two words", b"it's", b'say "hi"', b"both ' and $\"", b"new\nline", b"\xff\xfe"]
ODD += [b"-r", b"tab\there", b"back\\slash", b"\x1b[31mred", "ümläut →".encode(), b"`id`", b"'\n1"]

ALL: dict[str, Any] = {"preserve": frozenset(ATTRIBUTES), "default_mode": False}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Files of 25,000 bytes in two directories, and one beside them."""
    for name in ("a", "b"):
        (tmp_path / "s" / name).mkdir(parents=True)
        for number in range(2):
            (tmp_path / "s" / name / f"{number}").write_bytes(content(25_000, seed=number))
    (tmp_path / "s" / "c").write_bytes(content(1000))
    return tmp_path


# Letters


@pytest.mark.parametrize(
    ("letters", "wanted"),
    [
        ("r", {"recursive": True, "follow": "never"}),
        ("R", {"recursive": True, "follow": "never"}),
        ("p", {"preserve": PLAIN, "follow": "always", "default_mode": False}),
        ("a", {"recursive": True, "follow": "never", **ALL}),
        ("d", {"follow": "never", "preserve": frozenset({"links"})}),
        ("dp", {"follow": "never", "preserve": PLAIN | {"links"}, "default_mode": False}),
        ("rL", {"recursive": True, "follow": "always"}),
        ("LP", {"follow": "never"}),
        ("PL", {"follow": "always"}),
        ("aL", {"follow": "always", "recursive": True, **ALL}),
        ("La", {"follow": "never", "recursive": True, **ALL}),
        ("rH", {"recursive": True, "follow": "operands"}),
        ("n", {"existing": "skip", "ask": False, "follow": "always"}),
        ("ni", {"existing": "ask", "ask": True, "follow": "always"}),
        ("f", {"force": True, "follow": "always"}),
        ("x", {"one_filesystem": True, "follow": "always"}),
        ("l", {"make": "link", "follow": "always"}),
        ("ls", {"make": "symlink", "follow": "always"}),
        ("rs", {"make": "symlink", "follow": "never", "recursive": True}),
        ("T", {"into": False, "follow": "always"}),
        ("v", {"verbose": True, "follow": "always"}),
    ],
)
def test_letters_mean_what_they_mean_to_cp(letters: str, wanted: dict[str, Any]) -> None:
    assert wishes_of_letters(letters) == {"preserve": frozenset(), **wanted}


def test_extended_attributes_are_demanded_only_where_they_were_named() -> None:
    everything = frozenset(ATTRIBUTES)
    assert demanded_of(everything) == PLAIN
    assert demanded_of(everything, frozenset({"xattr"})) == PLAIN | {"xattr"}
    assert demanded_of(PLAIN, frozenset({"xattr"})) == PLAIN
    assert demanded_of(frozenset(), frozenset({"mode"})) == frozenset()


class Taken:
    """What a way of reading words has asked for, without its being done."""

    def __init__(self) -> None:
        self.asked: tuple[Request, TreeWishes] | None = None

    def __call__(self, request: Request, wishes: TreeWishes) -> None:
        self.asked = (request, wishes)


@pytest.fixture(scope="module")
def taken() -> Iterator[Taken]:
    with pytest.MonkeyPatch.context() as patch:
        taker = Taken()
        patch.setattr(trees, "carry", taker)
        patch.setattr(cp_command, "carry_trees", taker)
        yield taker


clusters = st.text(sorted(LETTERS), min_size=1, max_size=4).map(lambda letters: f"-{letters}")
operands = st.sampled_from(["s", "./d", "file:x", "tcp://h:1", "null:", "-", "s/", "a b"])
lines = st.tuples(
    st.lists(clusters, min_size=1, max_size=3), st.lists(operands, min_size=2, max_size=4)
).flatmap(lambda pair: st.permutations([*pair[0], *pair[1]]))


@given(words=lines)
@example(words=["-iu", "s", "d"])
@example(words=["-l", "-r", "s", "d"])
def test_the_short_way_reads_words_as_the_long_way_does(taken: Taken, words: list[str]) -> None:
    def short() -> object:
        assert in_short(words)
        return taken.asked

    def long() -> object:
        cp_command.COMMAND.main(list(words), standalone_mode=False)
        return taken.asked

    assert outcome(taken, short) == outcome(taken, long)


def outcome(taken: Taken, read: Any) -> object:
    """Return what a reading asks for, or why it is refused."""
    taken.asked = None
    try:
        found = read()
        assert found is not None
        return found
    except UsageError as error:
        return str(error)


@pytest.mark.parametrize(
    "words",
    [
        *(["s", "d"], ["-r", "s"], ["-r"], ["--recursive", "s", "d"], ["-rq", "s", "d"]),
        *(["-rt", "d", "s"], ["-r", "--", "s", "d"], ["-rj2", "s", "d"]),
    ],
)
def test_the_short_way_leaves_to_the_long_one_what_it_does_not_know(
    taken: Taken, words: list[str]
) -> None:
    assert not in_short(words)


@pytest.mark.parametrize("operand", ["tcp://h:1", "null:", "exec:true", "-", "file:x?offset=1"])
def test_only_paths_are_operands_of_a_tree(operand: str) -> None:
    with pytest.raises(UsageError, match="is no path"):
        path_of(operand)


@pytest.mark.parametrize("operand", ["x", "./-", "file:x", "./null:"])
def test_paths_are_taken_as_they_are(operand: str) -> None:
    assert path_of(operand) == operand.removeprefix("file:")


@pytest.mark.parametrize(
    ("words", "fragment"),
    [
        (["--json-files"], "--json-files: has no effect"),
        (["--offset", "5"], "--offset: is for one source"),
        (["--executor", "threads", "--rate-limit", "5"], "--executor: a rate limit"),
        (["--executor", "threads", "-i"], "--executor: "),
        (["-j", "2", "--rate-limit", "5"], "--rate-limit: "),
        (["--resume", "--inplace"], "exclude each other"),
        (["-l", "--verify"], "-l and -s"),
        (["--preserve=all,nosuch"], "nosuch: known are mode"),
        (["--reflink=always", "--sparse=never"], "exclude each other"),
        (["-T", "-t", "d"], "-t and -T"),
    ],
)
def test_wishes_that_make_no_sense(taken: Taken, words: list[str], fragment: str) -> None:
    with pytest.raises(UsageError, match=re.escape(fragment)):
        cp_command.COMMAND.main(["-r", *words, "s", "d"], standalone_mode=False)


# Names on standard output


def test_quoted_names_are_read_back_by_a_shell() -> None:
    for name in ODD:
        word = os.fsencode(quoted(os.fsdecode(name)))
        assert b"\n" not in word and b"\x1b" not in word
        done = subprocess.run(
            [need("bash"), "-c", b"printf %s " + word], capture_output=True, check=True
        )
        assert done.stdout == name, word


@given(name=st.binary(min_size=1, max_size=12).filter(lambda name: 0 not in name))
def test_a_quoted_name_is_one_line_that_steers_nothing(name: bytes) -> None:
    word = quoted(os.fsdecode(name))
    assert all(ord(char) >= 32 and ord(char) != 127 for char in word)
    assert not any(0xD800 <= ord(char) <= 0xDFFF for char in word)


def test_verbose_names_each_file_once(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    for name in ODD:
        (tmp_path / "s" / os.fsdecode(name)).write_bytes(b"x")
    done = zpipe("cp", "-rv", "s", "d", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    files = [os.fsdecode(name) for name in ODD]
    wanted = [f"{quoted(f's/{name}')} -> {quoted(f'd/{name}')}" for name in files]
    assert sorted(done.stdout.decode().splitlines()) == sorted(["'s' -> 'd'", *wanted])


def test_verbose_does_not_name_what_was_left_as_it_is(tree: Path) -> None:
    (tree / "d/a").mkdir(parents=True)
    (tree / "d/a/0").write_bytes(b"old")
    done = zpipe("cp", "-rnvT", "s", "d", cwd=tree)
    assert done.returncode == 0
    assert b"'s/a/1' -> 'd/a/1'\n" in done.stdout
    assert b"a/0" not in done.stdout
    assert (tree / "d/a/0").read_bytes() == b"old"


def test_nobody_reads_the_names(tree: Path) -> None:
    """As cat and others: ended by SIGPIPE, quietly, and no temporary file is left."""
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as stdout:
        done = zpipe("cp", "-rv", "s", "d", cwd=tree, stdout=stdout)
    assert (done.returncode, done.stderr) == (-13, b"")
    assert not [name for _, _, files in os.walk(tree) for name in files if ".zpipe-" in name]


def test_a_full_standard_output_fails_the_run(tree: Path) -> None:
    with open("/dev/full", "wb") as stdout:
        done = zpipe("cp", "-rv", "s", "d", cwd=tree, stdout=stdout)
    refused(done, 1, "standard output: write: No space left on device")


# What is explained


def shown(done: subprocess.CompletedProcess[bytes]) -> dict[str, list[str]]:
    """Return the rows of what `--explain` has shown, by their names."""
    assert done.returncode == 0, done.stderr
    rows: dict[str, list[str]] = {}
    name = ""
    for line in done.stderr.decode().splitlines():
        assert line.startswith("  "), line
        name = line[:12].strip() or name
        rows.setdefault(name, []).append(line[12:])
    return rows


def test_explain_sums_bytes_by_mover(tree: Path) -> None:
    """Small files go by plain; what is longer goes by the mover that was asked for, or not."""
    with open(tree / "s/long", "wb") as file:
        file.write(content(300_000))
    rows = shown(zpipe("cp", "-r", "--reflink=never", "--explain", "s", "d", cwd=tree))
    assert rows["outcome"][0].startswith("6 files and 3 directories, 401000 bytes (392 KiB) in ")
    sums = dict(line.split(": ") for line in rows["bytes"])
    assert sum(map(int, sums.values())) == 401_000
    assert len(sums) == 2 and sums["plain"] == "101000"
    rows = shown(zpipe("cp", "-r", "--via", "splice", "--explain", "s", "e", cwd=tree))
    assert rows["bytes"] == ["splice: 401000"]


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_each_distinct_reason_of_a_fallback_is_named_once(tree: Path, jobs: str) -> None:
    """To another filesystem nothing can be shared; one line says so, for however many files."""
    for number in range(200):
        (tree / "s/a" / f"more{number}").write_bytes(b"x")
    target = f"/dev/shm/{tree.name}-{os.getpid()}"
    try:
        rows = shown(zpipe("cp", "-r", "-j", jobs, "--explain", "s", target, cwd=tree))
    finally:
        subprocess.run(["rm", "-r", target], check=False)
    reasons = [re.sub(r" \(\d+ times\)", "", line) for line in rows["fallback"]]
    assert len(reasons) == len(set(reasons)) == 1
    assert re.fullmatch(r"reflink: ioctl\(FICLONE\): .+ \(E[A-Z]+\)", reasons[0])


def report(**facts: Any) -> TreeReport:
    made = TreeReport()
    for name, value in facts.items():
        assert hasattr(made, name)
        setattr(made, name, value)
    return made


def test_explained_tells_what_was_kept_and_lost() -> None:
    text = explained(
        report(files=1, directories=1, kept=3, problems=[Problem("x", "x: no"), Problem("y", "y")])
    )
    assert "1 file and 1 directory, 0 bytes (0 B) in " in text
    assert re.search(r"^  kept +3 files", text, re.MULTILINE)
    assert re.search(r"^  lost +2$", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("facts", "line"),
    [
        ({}, "0 files, 0 B, 0.00 ms"),
        ({"files": 3, "moved": 2048, "seconds": 2.0}, "3 files, 2.00 KiB, 1.00 KiB/s, 2.00 s"),
        (
            {"files": 3, "found": 9, "moved": 1024, "expected": 4096, "seconds": 1.0},
            "3 files, 1.00 KiB of 4.00 KiB so far written, 1.00 KiB/s, 1.00 s",
        ),
        (
            {"files": 3, "found": 9, "walked": True, "moved": 1024, "expected": 4096},
            "3 of 9 files, 1.00 KiB of 4.00 KiB written, 0.00 ms",
        ),
        (
            {"moved": 1024, "expected": 4096, "walked": True, "sync": True, "at_hand": "s/a"},
            "s/a: 0 of 0 files, 1.00 KiB of 4.00 KiB on disk, 0.00 ms",
        ),
        ({"problems": [Problem("x", "x")]}, "0 files, 0 B, 0.00 ms; 1 not copied"),
        (
            {"problems": [Problem("x", "x: no"), Problem("x", "x: neither")]},
            "0 files, 0 B, 0.00 ms; 1 not copied",
        ),
    ],
)
def test_the_status_line_of_a_tree(facts: dict[str, Any], line: str) -> None:
    assert status_line(report(**facts)) == line


# What is loaded


@pytest.mark.parametrize("files", [3, 200])
def test_a_tree_needs_neither_the_command_line_library_nor_other_slow_ones(
    tmp_path: Path, files: int
) -> None:
    """With few files this process does it all, with more of them it has workers."""
    (tmp_path / "s").mkdir()
    for number in range(files):
        (tmp_path / "s" / f"{number}").write_bytes(b"x")
    script = (
        "import sys\n"
        "from zpipe.cli import main\n"
        "try:\n"
        "    main(['cp', '-r', 's', 'd'])\n"
        "except SystemExit as end:\n"
        "    assert end.code == 0\n"
        "print(*sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", script],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        timeout=LONGEST,
        check=True,
    )
    assert len(os.listdir(tmp_path / "d")) == files
    loaded = set(done.stdout.decode().split())
    slow = {"click", "rich", "hashlib", "json", "pickle", "logging", "subprocess", "dataclasses"}
    slow |= {"concurrent.futures", "threading", "multiprocessing", "typing", "importlib.metadata"}
    assert not loaded & slow


def test_a_quiet_run_says_nothing(tree: Path) -> None:
    done = zpipe("cp", "-rq", "s", "d", cwd=tree)
    went_well(done)
    assert done.stdout == b""
