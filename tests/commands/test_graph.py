"""`zpipe graph`: what is planned, or what a report tells, comes to the right edges."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import pytest

from tests.commands.shell import BIG, refused, went_well
from tests.machine import content, zpipe

if TYPE_CHECKING:
    from pathlib import Path

RECIPE = """zpipe: 1
name: try
nodes:
  disk: b
  copy: copy
  pass: {exec: cat}
  out: out
edges:
  - {from: disk, to: [copy, pass], rate_limit: 8M}
  - pass -> out
"""
JOINED = """zpipe: 1
nodes: {one: b, two: {exec: [cat, b]}, side: 'null:', all: all}
edges:
  - one -> all, side
  - two -> all
"""
PROXY = """zpipe: 1
proxies:
  web:
    listen: :8080
    upstreams: 10.0.0.1:80
    route_sni: {'*.example.org': 10.0.0.2:443}
    mirrors: 10.0.0.3:80
    capture: tapes
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "b").write_bytes(content(BIG))
    (tmp_path / "r.yaml").write_text(RECIPE)
    (tmp_path / "joined.yaml").write_text(JOINED)
    (tmp_path / "proxy.yaml").write_text(PROXY)
    return tmp_path


def drawn(folder: Path, *words: str) -> str:
    done = zpipe("graph", *words, cwd=folder)
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout.decode()


def line_of(text: str, *fragments: str) -> str:
    (line,) = [line for line in text.splitlines() if all(each in line for each in fragments)]
    return line


def test_movers_and_limits_are_those_of_the_plan(folder: Path) -> None:
    text = drawn(folder, "r.yaml")
    assert text.startswith("try\n")
    assert "tee, ≤ 8 MiB/s" in line_of(text, "disk", "copy")
    assert "── splice ──▶ out" in text
    assert os.listdir(folder).count("copy") == 0, "nothing was carried out"


def test_an_end_that_cannot_be_foreseen_leaves_its_edge_without_a_mover(folder: Path) -> None:
    (folder / "b").unlink()
    text = drawn(folder, "r.yaml")
    assert "disk ──┬─ ≤ 8 MiB/s ──▶ copy" in text
    assert "── splice ──▶ out" in text


@pytest.mark.parametrize(
    ("words", "begin"),
    [
        (["--format", "text"], "try\n"),
        (["--format", "mermaid"], "---\n"),
        (["--format", "dot"], "digraph"),
        (["--format", "svg"], "<svg"),
    ],
)
def test_each_format(folder: Path, words: list[str], begin: str) -> None:
    text = drawn(folder, "r.yaml", *words)
    assert text.startswith(begin)
    assert "copy" in text


@pytest.mark.parametrize(
    ("name", "more", "begin"),
    [
        ("x.svg", [], "<svg"),
        ("x.gv", [], "digraph"),
        ("x.txt", [], "try\n"),
        ("x.svg", ["--format", "dot"], "digraph"),
    ],
)
def test_the_name_of_the_output_tells_the_format(
    folder: Path, name: str, more: list[str], begin: str
) -> None:
    went_well(zpipe("graph", "r.yaml", "-o", name, *more, cwd=folder))
    assert (folder / name).read_text().startswith(begin)


def test_an_svg_is_xml(folder: Path) -> None:
    root = ElementTree.fromstring(drawn(folder, "r.yaml", "--format", "svg"))
    assert root.tag.endswith("svg")


def test_proxies_are_drawn(folder: Path) -> None:
    text = drawn(folder, "proxy.yaml")
    for name in (":8080", "10.0.0.1:80", "10.0.0.2:443", "10.0.0.3:80", "tapes"):
        assert name in text
    assert "*.example.org" in line_of(text, "10.0.0.2:443")
    assert "tee" in line_of(text, "10.0.0.3:80")


# Reports


def test_a_report_has_what_really_went_there(folder: Path) -> None:
    went_well(zpipe("run", "r.yaml", "--report", "run.json", cwd=folder))
    text = drawn(folder, "r.yaml", "--report", "run.json")
    assert "97.7 KiB" in line_of(text, "disk", "copy")
    assert "≤" not in text
    assert text.count("97.7 KiB") == 3


def test_what_goes_through_a_joint_is_at_the_edge_of_its_source(folder: Path) -> None:
    went_well(zpipe("run", "joined.yaml", "--report", "run.json", cwd=folder))
    text = drawn(folder, "joined.yaml", "--report", "run.json")
    assert text.count("97.7 KiB") == 3
    assert "joint" not in text
    assert (folder / "all").read_bytes() == content(BIG) * 2


def test_a_report_that_still_grows(folder: Path) -> None:
    went_well(zpipe("run", "r.yaml", "--report", "run.json", cwd=folder))
    lines = (folder / "run.json").read_bytes().splitlines(keepends=True)
    starts = [line for line in lines if json.loads(line)["type"] == "start"]
    progress = {
        "v": 1,
        "type": "progress",
        "from": "pass",
        "to": ["out"],
        "mover": "plain",
        "state": "flowing",
        "bytes": 2048,
        "seconds": 2.0,
        "expected": None,
    }
    later = json.dumps(progress | {"bytes": 4096, "seconds": 4.0})
    written = [*starts, json.dumps(progress).encode(), b"\n", later.encode(), b'\n{"v": 1, "ty']
    (folder / "run.json").write_bytes(b"".join(written))
    text = drawn(folder, "r.yaml", "--report", "run.json")
    assert "plain, 1.00 KiB/s, 4.00 KiB" in text


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "run.json: is no report of r.yaml: it tells of other nodes"),
        (b"\x00\xff\xfe", "run.json:1: is no record of zpipe run"),
        (b"[1]\n", "run.json:1: is no record of zpipe run"),
        (b'{"v": 2, "type": "end"}\n', "run.json:1: is no record of zpipe run"),
        (b'{"v": 1, "type": "end"}\n{\n{}\n', "run.json:2: is no record of zpipe run"),
        (
            b'{"v": 1, "type": "start", "from": "x", "to": ["y"]}\n',
            "run.json: is no report of r.yaml: it tells of other nodes",
        ),
        (
            b'{"v": 1, "type": "hop", "from": "disk", "to": ["copy"], "bytes": "x"}\n',
            "run.json: holds records that zpipe run does not write",
        ),
        (b'{"v": 1, "type": "proxy", "upstreams": 3}\n', "run.json: holds records"),
    ],
)
def test_what_is_no_report(folder: Path, data: bytes, why: str) -> None:
    (folder / "run.json").write_bytes(data)
    refused(zpipe("graph", "r.yaml", "--report", "run.json", cwd=folder), 2, why)


@pytest.mark.parametrize(
    ("words", "status", "why"),
    [
        (["none.yaml"], 2, "none.yaml: open: No such file or directory"),
        (["r.yaml", "--report", "none"], 1, "none: open: No such file or directory"),
        (["r.yaml", "-o", "none/x.svg"], 1, "none/x.svg: open: No such file or directory"),
        (["r.yaml", "-o", "/dev/full"], 1, "/dev/full: write: No space left on device"),
        (
            ["r.yaml", "--format", "png"],
            2,
            "graph: --format: png: give one of text, mermaid, dot, svg",
        ),
    ],
)
def test_what_goes_wrong(folder: Path, words: list[str], status: int, why: str) -> None:
    refused(zpipe("graph", *words, cwd=folder), status, why)
