"""The manual says what the program does: its tables, its records, and every one of its examples."""

from __future__ import annotations

import ast
import gzip
import re
import shutil
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.machine import LONGEST, ROOT, content, environment, in_bash, need, started, zpipe
from zpipe.commands import COMMANDS

if TYPE_CHECKING:
    from pathlib import Path

PAGES = sorted((ROOT / "man").glob("man*/*"))
CP = ROOT / "man/man1/zpipe-cp.1"
GENERATOR = ".ci/man.py"


def generator(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, folder / GENERATOR, *words],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=LONGEST,
        check=False,
    )


def section(page: Path, name: str) -> str:
    """Return the source of one section of a page."""
    return page.read_text().partition(f"\n.Sh {name}\n")[2].partition("\n.Sh ")[0]


def test_tables_are_those_of_the_program() -> None:
    done = generator(ROOT, "--check")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_stale_page_is_named_and_renewed(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "man", tmp_path / "man")
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / GENERATOR, tmp_path / GENERATOR)
    page = tmp_path / "man/man1/zpipe-cp.1"
    page.write_text(page.read_text().replace(".It Fl -offset", ".It Fl -onset"))
    stale = generator(tmp_path, "--check")
    assert stale.returncode == 1
    assert stale.stdout.startswith("man/man1/zpipe-cp.1: ")
    assert len(stale.stdout.splitlines()) == 1
    assert generator(tmp_path).returncode == 0
    assert page.read_text() == CP.read_text()
    assert generator(tmp_path, "--check").returncode == 0


def test_every_command_has_a_page() -> None:
    names = {page.name for page in PAGES}
    assert {f"zpipe-{name}.1" for name in COMMANDS} <= names
    assert {"zpipe.1", "zpipe-endpoints.7"} <= names


def test_the_map_of_the_readme_names_what_is_there() -> None:
    part = (ROOT / "README.md").read_text().partition("\n## Where things are\n")[2]
    folder = ROOT
    named = 0
    for row in part.split("```")[1].splitlines():
        if (found := re.match(r"(  )?(\w+/)?", row)) is not None and not row.startswith("    "):
            folder = ROOT / ("zpipe" if found[1] else "") / (found[2] or "")
        for name in re.findall(r"(?<![/\w])\w+\.py\b", row):
            named += 1
            assert (folder / name).is_file(), f"{folder.relative_to(ROOT)} has no {name}"
    assert named > 100


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_pages_are_sound(page: Path) -> None:
    name, _, number = page.name.rpartition(".")
    text = page.read_text()
    assert page.parent.name == f"man{number}"
    assert f"\n.Dt {name.upper()} {number}\n" in text
    own = {each.name for each in PAGES}
    for other, place in re.findall(r"^(?:\.|\.It )Xr (zpipe\S*) (\d)", text, re.MULTILINE):
        assert f"{other}.{place}" in own, f"{page.name} refers to {other}({place})"
    lint = [need("mandoc"), "-T", "lint", "-W", "warning", str(page)]
    done = subprocess.run(lint, capture_output=True, text=True, timeout=LONGEST, check=False)
    assert done.returncode == 0, done.stdout


def keys_of(function: ast.FunctionDef) -> set[str]:
    """Return the keys of every dictionary that stands in a function."""
    return {
        str(key.value)
        for inner in ast.walk(function)
        if isinstance(inner, ast.Dict)
        for key in inner.keys
        if isinstance(key, ast.Constant)
    }


def fields_of_records(module: str) -> dict[str, set[str]]:
    """Return the fields of each type of record, as a module writes them."""
    tree = ast.parse((ROOT / f"zpipe/commands/{module}.py").read_text())
    functions = {
        node.name: keys_of(node) for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)
    }
    found: dict[str, set[str]] = {}
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "_write"
            and isinstance(node.args[0], ast.Constant)
        ):
            fields = found.setdefault(str(node.args[0].value), set())
            for keyword in node.keywords:
                if keyword.arg is not None:
                    fields.add(keyword.arg)
                    continue
                # **self._place(hop), **_output(outlet)
                assert isinstance(keyword.value, ast.Call)
                maker = keyword.value.func
                fields |= functions[maker.attr if isinstance(maker, ast.Attribute) else maker.id]  # type: ignore[attr-defined]
    return found


def told_fields(text: str) -> dict[str, set[str]]:
    """Return the fields of each type of record, as a list in the manual tells them."""
    told: dict[str, set[str]] = {}
    for item in text.split("\n.It Cm ")[1:]:
        name, _, rest = item.partition("\n")
        words = re.findall(r"^\.Va (.*)$", rest, re.MULTILINE)
        told[name] = set(re.findall(r"\w+", " ".join(words)))
    return told


def test_records_are_told_in_full() -> None:
    told = told_fields(section(CP, "JSON").partition("\n.Ss ")[0])
    told["dropped"].discard("outputs")  # the others have them
    told["hop"] |= told["progress"]
    assert told == fields_of_records("records")


def test_records_of_trees_are_told_in_full() -> None:
    told = told_fields(section(CP, "JSON").partition("\n.Ss Records of trees\n")[2])
    told["end"] |= told["progress"]
    assert told == fields_of_records("tree_records")


def test_hidden_options_are_not_shown() -> None:
    text = (ROOT / "man/man1/zpipe-cat.1").read_text()
    table = text.partition('.\\" begin: options of cat')[2].partition('.\\" end:')[0]
    assert ".It Fl -bytes" in table
    assert "number" not in table


def test_digests_are_told_in_full() -> None:
    text = (ROOT / "man/man7/zpipe-endpoints.7").read_text()
    part = text.partition("\n.Ss Digests\n")[2].partition("\n.Ss ")[0]
    words = " ".join(re.findall(r"^\.Cm (.*)$", part, re.MULTILINE))
    told = set(re.findall(r"\w+", words)) - {"hash", "file"}
    done = zpipe("tee", "hash:none")
    assert done.returncode == 2
    assert told == set(re.findall(r"\w+", done.stderr.decode().partition("known are ")[2]))


def examples(page: Path) -> list[str]:
    """Return the examples of a page, as they are pasted."""
    blocks = re.findall(
        r"^\.Bd -literal.*\n((?:.*\n)*?)\.Ed$", section(page, "EXAMPLES"), re.MULTILINE
    )
    return [block.replace("\\-", "-").replace("\\e", "\\") for block in blocks]


def lines_of_cp() -> list[str]:
    """Return the command lines of the page of cp, each of which stands for itself."""
    return [line for block in examples(CP) for line in block.splitlines()]


def scripts() -> list[str]:
    """Return what is run: the lines of cp, and the blocks of the pages of pipelines."""
    lines = [line for line in lines_of_cp() if "-listen" not in line]
    pages = [ROOT / f"man/man1/zpipe-{name}.1" for name in ("cat", "tee")]
    return lines + [block for page in pages for block in examples(page)]


def prepare(folder: Path) -> bytes:
    """Put what the examples name into a folder; return the content of `disk.img`."""
    (folder / "backup").mkdir()
    data = content(5 << 20)
    (folder / "disk.img").write_bytes(data)
    (folder / "photos/2026").mkdir(parents=True)
    (folder / "photos/2026/film.mov").write_bytes(data)
    (folder / "photos/notes.tmp").write_bytes(b"x")
    (folder / "part-1").write_bytes(data[: 2 << 20])
    (folder / "part-2").write_bytes(data[2 << 20 :])
    return data


def listening(port: int) -> bool:
    """Tell whether somebody listens on a TCP port, without connecting to it."""
    for name in ("tcp", "tcp6"):
        try:
            with open(f"/proc/net/{name}") as table:
                if any(f":{port:04X} " in line and " 0A " in line for line in table):
                    return True
        except FileNotFoundError:
            pass  # a kernel without IPv6
    return False


@pytest.mark.parametrize("line", scripts())
def test_examples_run(line: str, tmp_path: Path) -> None:
    """Senders of an example send to the receiver that stands in the line before, or to another."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "there").mkdir()
    data = prepare(tmp_path)
    lines = lines_of_cp()
    before = lines[lines.index(line) - 1] if line in lines else ""
    receiver = before if "-listen" in before else "zpipe cp tcp-listen://:9000 disk.img"
    sends = "tcp://" in line and "--dry-run" not in line
    with ExitStack() as stack:
        if sends:
            words = receiver.replace("9000", str(port)).split()[1:]
            process = stack.enter_context(started(*words, cwd=tmp_path / "there"))
            end = time.monotonic() + LONGEST
            while not listening(port) and process.poll() is None and time.monotonic() < end:
                time.sleep(0.01)
        command = line.replace("receiver:9000", f"127.0.0.1:{port}")
        command = command.replace("sleep 1;", "sleep 0.1;")  # who is late is as late as ever
        done = in_bash(command, tmp_path)
        if sends:
            assert process.wait(LONGEST) == 0
            assert (tmp_path / "there/disk.img").read_bytes() == data
    if "photos" in line:
        copies = [path.read_bytes() for path in (tmp_path / "backup").rglob("film.mov")]
        assert copies == ([] if "--dry-run" in line else [data])
        return
    if "--dry-run" in line or "--explain" in line:
        assert "plan " in done.stdout + done.stderr
        return
    for name in ("copy.img", "whole.img", "whole"):
        if re.search(rf"(tee .*|> ){re.escape(name)}\b(?!\.)", line):
            assert (tmp_path / name).read_bytes() == data
    if "> disk.gz" in line:
        assert gzip.decompress((tmp_path / "disk.gz").read_bytes()) == data
