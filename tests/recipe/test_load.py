"""Reading a recipe: from a file, from standard input, and nothing else is opened."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from zpipe.errors import UsageError
from zpipe.recipe.document import MOST_BYTES
from zpipe.recipe.load import load, loads
from zpipe.recipe.problems import RecipeError

if TYPE_CHECKING:
    from pathlib import Path

RECIPE = "zpipe: 1\nparams: {TO: {type: path}}\nnodes: {a: /a, b: '${TO}'}\nedges: [a -> b]\n"


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "copy.yaml"
    path.write_text(RECIPE)
    made = load(str(path), {"TO": "/b"}, {})
    assert made.graph is not None
    assert made.graph.node("b").endpoint.address == "/b"
    assert (made.name, made.document.name) == ("copy", str(path))


def test_the_environment_is_that_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZPIPE_TEST", "/here")
    made = loads(RECIPE.replace("TO: {type: path}", "TO: '${env:ZPIPE_TEST}'").encode(), "x")
    assert made.graph is not None
    assert made.graph.node("b").endpoint.address == "/here"


def test_standard_input() -> None:
    reader, writer = os.pipe()
    kept = os.dup(0)
    try:
        os.write(writer, RECIPE.encode())
        os.close(writer)
        os.dup2(reader, 0)
        made = load("-", {"TO": "/b"})
    finally:
        os.dup2(kept, 0)
        os.close(kept)
        os.close(reader)
    assert (made.name, made.document.name) == ("recipe", "-")


def test_what_cannot_be_read(tmp_path: Path) -> None:
    for path, why in (
        (tmp_path / "none", "No such file or directory"),
        (tmp_path, "Is a directory"),
        ("a\0b", "a NUL cannot be in a path"),
    ):
        with pytest.raises(UsageError) as caught:
            load(str(path))
        assert str(caught.value) == f"{path}: open: {why}"
        assert not isinstance(caught.value, RecipeError)


@pytest.mark.parametrize("size", [MOST_BYTES, MOST_BYTES + 1, 2 * MOST_BYTES])
def test_a_recipe_has_bounds(tmp_path: Path, size: int) -> None:
    path = tmp_path / "big"
    path.write_bytes(RECIPE.encode().ljust(size, b"\n"))
    if size <= MOST_BYTES:
        assert load(str(path), {"TO": "/b"}).graph is not None
        return
    with pytest.raises(RecipeError, match="larger than 1 MiB"):
        load(str(path), {"TO": "/b"})


def test_an_endless_file_is_refused() -> None:
    with pytest.raises(RecipeError, match="larger than 1 MiB"):
        load("/dev/zero")


def test_nothing_else_is_opened_created_or_asked_for(tmp_path: Path) -> None:
    opened: list[str] = []
    watching = True

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if watching and event.partition(".")[0] in ("open", "socket", "subprocess"):
            opened.append(f"{event} {arguments[0]}")

    text = f"""\
zpipe: 1
nodes:
  a: {tmp_path}/a
  b: {{file: {tmp_path}/b, mode: 0600}}
  c: {{exec: [touch, {tmp_path}/c]}}
  d: {{tcp: "localhost:1"}}
  e: {{unix-listen: {tmp_path}/e}}
  f: {{tcp-listen: "localhost:0"}}
  g: pipe:{tmp_path}/g
  h: {{hash: sha256, file: {tmp_path}/h}}
edges: ["a, f -> b", a -> c, a -> d, g -> e, "a -> h"]
proxies:
  p: {{listen: "localhost:0", upstreams: "localhost:1", capture: {tmp_path}/p}}
service: {{user: nobody, access_log: {tmp_path}/log}}
"""
    data = text.encode()
    loads(data, "x", {}, {})  # modules are loaded on first use
    sys.addaudithook(watch)
    try:
        loads(data, "x", {}, {})
    finally:
        watching = False  # a hook cannot be removed
    assert opened == []
    assert list(tmp_path.iterdir()) == []
