"""`zpipe cp --verify` and `--checksum-file`: what the disk has is compared, and written down."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.failures.test_tree import CHUNK, found, halted, holey, is_same, make, temporaries
from tests.machine import content, need, strace, zpipe

if TYPE_CHECKING:
    from pathlib import Path

SMALL = {f"{number:02}": content(100 + number, number) for number in range(70)}
MIDDLE = 1 << 20
BIG = 2 * CHUNK + (20 << 20)
# names that a line of a checksum file cannot hold as they are, or that look like something else
ODD = [
    b"plain",
    b"new\nline",
    b"back\\slash",
    b"\\both\n\\n",
    b"car\rriage",
    b"caf\xe9 \xff",
    " é ü".encode(),
    b"-dash",
    b"*star",
    b" space ",
    b"#hash",
]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A source with files of each way of copying."""
    make(tmp_path / "src" / "below", SMALL)
    make(tmp_path / "src", {"empty": b"", "middle": content(MIDDLE)})
    holey(tmp_path / "src" / "holes", b"data", 4 << 20)
    holey(tmp_path / "src" / "big", content(MIDDLE), BIG)
    return tmp_path


def checked(sums: Path, folder: Path) -> None:
    """Have sha256sum look at everything that a checksum file names."""
    command = [need("sha256sum"), "-c", "--strict", "--quiet", str(sums)]
    done = subprocess.run(command, cwd=folder, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.parametrize(
    "words",
    [
        ("-r", "-j3"),
        ("-a", "--sparse=always"),
        ("-r", "--sync", "--checksum-file", "sums"),
        ("-r", "--executor", "threads"),
    ],
    ids=" ".join,
)
def test_what_is_right_is_put_in_place(words: tuple[str, ...], tree: Path) -> None:
    """New targets at first, then such as are there already."""
    for _ in range(2):
        done = zpipe("cp", *words, "-T", "--verify", "src", "dst", cwd=tree)
        assert (done.returncode, done.stderr) == (0, b"")
        assert found(tree / "dst" / "below") == SMALL
        for name in ("empty", "middle", "holes", "big"):
            assert is_same(tree / "src" / name, tree / "dst" / name), name
        assert temporaries(tree) == []


def spoil(folder: Path, name: str) -> None:
    """Change one byte of what was written, behind zpipe's back, as a bad disk does."""
    (temporary,) = [each for each in temporaries(folder) if each.startswith(f".{name}.")]
    path = next(folder.rglob(temporary))
    with open(path, "r+b") as file:
        byte = file.read(1)
        file.seek(0)
        file.write(bytes([byte[0] ^ 1]))


@pytest.mark.parametrize("there", [False, True], ids=["new", "existing"])
@pytest.mark.parametrize(
    ("name", "call"), [("040", "syncfs"), ("middle", "syncfs"), ("big", "fdatasync")]
)
def test_what_is_wrong_on_the_disk(name: str, call: str, there: bool, tmp_path: Path) -> None:
    """Exit 3, nothing in its place, and everything else is where it belongs."""
    files = {f"0{number}": data for number, data in list(SMALL.items())[30:50]}
    source = make(tmp_path / "src", files)
    if name == "middle":
        (source / name).write_bytes(content(MIDDLE))
    elif name == "big":
        holey(source / name, content(MIDDLE), BIG)
    if there:
        make(tmp_path / "dst", {name: b"old"})
    command = ("-rT", "-j1", "--reflink=never", "--verify", "src", "dst")
    if name == "040":
        files.pop(name)
    with halted(call, *command, log=tmp_path / "log", cwd=tmp_path) as run:
        spoil(tmp_path / "dst", name)
    assert run.status == 3, run.errors
    told = run.errors.splitlines()
    assert len(told) == 2, told
    assert re.fullmatch(
        rf"zpipe: dst/{name}: verify: what was read back is not what was written"
        r"(, between bytes 0 and \d+)?; nothing was put in place",
        told[0],
    ), told
    assert told[1].startswith("zpipe: 1 file was not copied: ") and told[1].endswith(f"/{name}")
    assert temporaries(tmp_path) == []
    wanted = {**files, name: b"old"} if there else files
    assert found(tmp_path / "dst") == wanted


@pytest.mark.parametrize(("size", "when"), [(MIDDLE, 2), (BIG, 3)], ids=["middle", "big"])
def test_bytes_that_the_disk_claims_to_have(size: int, when: int, tree: Path) -> None:
    """A write that says it was done, and was not."""
    source = make(tree / "one", {"a": b"first"})
    holey(source / "bad", content(MIDDLE), size)
    lying = strace("-o", "/dev/null", "-e", "trace=pwrite64")
    lying += ["-e", f"inject=pwrite64:retval={512 << 10}:when={when}"]
    command = ("cp", "-r", "-j1", "--reflink=never", "--verify", "one", "dst")
    done = zpipe(*command, cwd=tree, before=lying)
    assert done.returncode == 3, done.stderr
    assert b"dst/bad: verify: what was read back is not what was written" in done.stderr
    assert found(tree / "dst") == {"a": b"first"}


def test_what_cannot_be_read_back_is_not_put_in_place(tmp_path: Path) -> None:
    """An error, and no mismatch: nobody knows what is there."""
    make(tmp_path / "src", {"bad": content(MIDDLE)})
    failing = strace("-o", "/dev/null", "-e", "trace=preadv,preadv2")
    # the source is read by two; neither O_DIRECT nor the page cache gives it back
    failing += ["-e", "inject=preadv,preadv2:error=EIO:when=3+"]
    command = ("cp", "-r", "-j1", "--reflink=never", "--verify", "src", "dst")
    done = zpipe(*command, cwd=tmp_path, before=failing)
    assert done.returncode == 1, done.stderr
    told = done.stderr.decode().splitlines()
    assert told[0].startswith("zpipe: dst/bad: verify: read: Input/output error"), told
    assert len(told) == 2 and told[1].startswith("zpipe: 1 file was not copied: ")
    assert found(tmp_path / "dst") == {}
    assert temporaries(tmp_path) == []


@pytest.mark.parametrize("existing", [False, True])
def test_interrupted_while_it_verifies(existing: bool, tmp_path: Path) -> None:
    """Many are written and wait; none of them is left."""
    make(tmp_path / "src", SMALL)
    if existing:
        make(tmp_path / "dst", dict.fromkeys(SMALL, b"old"))
    command = ("-rT", "-j1", "--verify", "src", "dst")
    with halted("syncfs", *command, log=tmp_path / "log", cwd=tmp_path) as run:
        assert len(temporaries(tmp_path / "dst")) > 10
        run.signal(signal.SIGINT)
    assert run.status == -signal.SIGINT
    assert temporaries(tmp_path) == []
    there = found(tmp_path / "dst")
    assert all(data in (SMALL[name], b"old") for name, data in there.items())


@pytest.mark.parametrize(
    "words", [("-j1",), ("-j3", "--verify"), ("--sparse=always",)], ids=" ".join
)
def test_sha256sum_accepts_the_checksum_file(words: tuple[str, ...], tree: Path) -> None:
    """Holes are zeros to it; each file has a line, whatever its name."""
    for number, name in enumerate(ODD):
        with open(os.path.join(os.fsencode(tree / "src"), name), "wb") as file:
            file.write(content(10, number))
    os.link(tree / "src" / "plain", tree / "src" / "another name")
    os.symlink("plain", tree / "src" / "pointer")
    os.truncate(tree / "src" / "big", 3 << 20)  # its zeros are hashed, too
    done = zpipe("cp", "-a", *words, "--checksum-file", "sums", "src", "dst", cwd=tree)
    assert (done.returncode, done.stderr) == (0, b"")
    checked(tree / "sums", tree)
    lines = (tree / "sums").read_bytes().splitlines()
    assert len(lines) == len(set(lines)) == len(found(tree / "dst"))
    sums = {line.split(b"  ", 1)[1]: line.split(b"  ", 1)[0].decode() for line in lines}
    holes = (tree / "src" / "holes").read_bytes()
    assert sums[b"dst/holes"] == hashlib.sha256(holes).hexdigest()
    assert sums[b"dst/empty"] == hashlib.sha256().hexdigest()
    # as sha256sum itself would have written them; the order is ours
    names = [line.split(b"  ", 1)[1] for line in lines if not line.startswith(b"\\")]
    command = [os.fsencode(need("sha256sum")), b"--", *names]
    theirs = subprocess.run(command, cwd=tree, capture_output=True, check=True)
    assert set(theirs.stdout.splitlines()) <= set(lines)


def test_a_checksum_file_notices_what_changes_later(tree: Path) -> None:
    """That is what it is for."""
    done = zpipe("cp", "-r", "--checksum-file", "sums", "src", "dst", cwd=tree)
    assert (done.returncode, done.stderr) == (0, b"")
    (tree / "dst" / "middle").write_bytes(b"other")
    command = [need("sha256sum"), "-c", "--strict", "--quiet", "sums"]
    found = subprocess.run(command, cwd=tree, capture_output=True, check=False)
    assert found.returncode == 1
    assert found.stdout == b"dst/middle: FAILED\n"


def test_a_checksum_file_of_what_could_be_copied(tmp_path: Path) -> None:
    """Files that were lost are not in it."""
    make(tmp_path / "src", {"a": b"first", "z": b"last"})
    (tmp_path / "dst" / "z").mkdir(parents=True)
    done = zpipe("cp", "-rT", "--checksum-file", "sums", "src", "dst", cwd=tmp_path)
    assert done.returncode == 1
    checked(tmp_path / "sums", tmp_path)
    assert (tmp_path / "sums").read_bytes().count(b"\n") == 1


def test_an_interrupted_run_leaves_the_old_checksum_file(tmp_path: Path) -> None:
    make(tmp_path / "src", SMALL)
    (tmp_path / "sums").write_bytes(b"old")
    command = ("-r", "-j1", "--checksum-file", "sums", "src", "dst")
    with halted("write", *command, log=tmp_path / "log", when=20, cwd=tmp_path) as run:
        run.signal(signal.SIGTERM)
    assert run.status == -signal.SIGTERM
    assert (tmp_path / "sums").read_bytes() == b"old"
    assert temporaries(tmp_path) == []


def test_a_checksum_file_that_cannot_be_written(tmp_path: Path) -> None:
    """It is known before anything is copied."""
    make(tmp_path / "src", SMALL)
    done = zpipe("cp", "-r", "--checksum-file", "no/where", "src", "dst", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == b"zpipe: no/where: open: No such file or directory\n"
    assert not (tmp_path / "dst").exists()


def test_no_room_for_the_checksum_file(tmp_path: Path, tiny: Path) -> None:
    """One line, no half of it under its name, and no temporary of what was being copied."""
    make(tmp_path / "src", SMALL)
    filler = tiny / "filler"
    with open(filler, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
    command = ("cp", "-r", "--checksum-file", tiny / "sums", "src", "dst")
    done = zpipe(*command, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.decode() == f"zpipe: {tiny}/sums: write: No space left on device\n"
    assert os.listdir(tiny) == ["filler"]
    assert temporaries(tmp_path) == []
