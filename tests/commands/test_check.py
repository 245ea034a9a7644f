"""`zpipe check`: what is valid, what is not, and where; for people and for programs."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from tests.commands.shell import refused
from tests.machine import zpipe

if TYPE_CHECKING:
    from pathlib import Path

GOOD = """zpipe: 1
nodes: {a: nosuch/a, b: nosuch/b, c: nosuch/c}
edges: [a -> b, a -> c]
proxies:
  p: {listen: ":1", upstreams: "nosuch.invalid:2"}
"""
BAD = """zpipe: 1
nodes: {a: x}
edgse: []
edges: [a -> b]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "good.yaml").write_text(GOOD)
    (tmp_path / "bad.yaml").write_text(BAD)
    return tmp_path


def test_a_valid_recipe_is_told_with_what_is_in_it(folder: Path) -> None:
    done = zpipe("check", "good.yaml", cwd=folder)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == b"good.yaml: ok (3 nodes, 2 edges, 1 proxy)\n"
    assert sorted(path.name for path in folder.iterdir()) == ["bad.yaml", "good.yaml"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("nodes: {a: x, b: y}\nedges: [a -> b]\n", "2 nodes, 1 edge"),
        ("proxies: {p: {listen: ':1', upstreams: 'h:2'}}\n", "1 proxy"),
        (
            "proxies:\n  p: {listen: ':1', upstreams: 'h:2'}\n"
            "  q: {listen: ':2', upstreams: 'h:2'}\n",
            "2 proxies",
        ),
    ],
)
def test_what_there_is_none_of_is_not_told(folder: Path, text: str, told: str) -> None:
    done = zpipe("check", "-", data=f"zpipe: 1\n{text}".encode())
    assert done.stdout.decode() == f"-: ok ({told})\n"


def test_all_files_are_judged_and_all_findings_told(folder: Path) -> None:
    done = zpipe("check", "bad.yaml", "good.yaml", "none.yaml", cwd=folder)
    assert done.returncode == 2
    assert done.stdout.startswith(b"good.yaml: ok (")
    lines = done.stderr.decode().splitlines()
    assert all(re.match(r"zpipe: bad\.yaml:\d+:\d+: ", line) for line in lines[:-1])
    assert any("edgse" in line and "edges" in line for line in lines)
    assert lines[-1] == "zpipe: none.yaml: open: No such file or directory"


def test_the_same_for_programs(folder: Path) -> None:
    done = zpipe("check", "--json", "good.yaml", "bad.yaml", "none.yaml", cwd=folder)
    assert (done.returncode, done.stderr) == (2, b"")
    found = json.loads(done.stdout)
    assert found["v"] == 1
    good, bad, none = found["files"]
    assert good == {"file": "good.yaml", "valid": True, "problems": []}
    assert (bad["file"], bad["valid"]) == ("bad.yaml", False)
    assert 3 in [problem["line"] for problem in bad["problems"]]
    for problem in bad["problems"]:
        assert problem["column"] > 0
        assert "bad.yaml" not in problem["text"]
    assert none["problems"] == [
        {"line": None, "column": None, "text": "open: No such file or directory"}
    ]


def test_parameters_are_those_of_every_file(folder: Path) -> None:
    text = "zpipe: 1\nparams: {N: {type: size}}\nnodes: {a: x, b: y}\nedges:\n"
    (folder / "p.yaml").write_text(text + "  - {from: a, to: b, limit: '${N}'}\n")
    assert zpipe("check", "p.yaml", "-p", "N=1K", cwd=folder).returncode == 0
    done = zpipe("check", "p.yaml", "-p", "N=lots", cwd=folder)
    assert "lots" in refused(done, 2)


def test_the_schema_is_one(folder: Path) -> None:
    done = zpipe("check", "--schema")
    assert (done.returncode, done.stderr) == (0, b"")
    schema = json.loads(done.stdout)
    assert schema["$schema"].startswith("https://json-schema.org/")
    assert {"nodes", "edges", "proxies"} <= set(schema["properties"])


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ([], "check: nothing to check: give a recipe, or --schema"),
        (["--schema", "x"], "check: --schema: stands alone"),
        (["x", "-p", "N"], "-p N: not a parameter"),
    ],
)
def test_what_makes_no_sense(words: list[str], why: str) -> None:
    refused(zpipe("check", *words), 2, why)
