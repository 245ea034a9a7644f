"""Every recipe: it has the header, it is loaded, drawn and planned, and there is a test of its run.

A new recipe is found by itself; it needs a test named after it beside the others.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.machine import ROOT, content, zpipe
from tests.recipes import test_proxies, test_streams
from tests.recipes.header import RECIPES, header
from zpipe.graph.drawings import FORMATS
from zpipe.recipe.decode import decode
from zpipe.recipe.document import parse
from zpipe.recipe.form import Param
from zpipe.recipe.load import load
from zpipe.recipe.params import given

if TYPE_CHECKING:
    from pathlib import Path

every = pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)


def params_of(recipe: Path) -> dict[str, Param]:
    """Return the parameters of a recipe, all of which are written out."""
    tree = parse(recipe.read_bytes(), recipe.name).tree
    assert isinstance(tree, dict)
    params, problems = decode(tree["params"], dict[str, Param])
    assert params is not None, problems
    return params


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the defaults of all recipes lead to something."""
    place = tmp_path_factory.mktemp("planned")
    for name in ("backup.gz", "part-aa", "part-ab", "part-ac"):
        (place / name).write_bytes(content(100_000))
    for name in ("first.fifo", "second.fifo", "third.fifo"):
        os.mkfifo(place / name)
    return place


def test_there_are_recipes() -> None:
    assert len(RECIPES) >= 12


@every
def test_it_is_run_by_a_test(recipe: Path) -> None:
    name = f"test_{recipe.stem.replace('-', '_')}"
    assert hasattr(test_streams, name) or hasattr(test_proxies, name), f"there is no {name}"


@every
def test_it_is_valid_as_it_stands(recipe: Path) -> None:
    built = load(str(recipe), {}, {})
    assert built.name == recipe.stem
    assert built.graph is not None or built.settings


@every
def test_each_parameter_has_a_default_a_description_and_a_use(recipe: Path) -> None:
    text = recipe.read_text()
    for name, param in params_of(recipe).items():
        assert param.default, name
        assert param.description, name
        assert f"${{{name}}}" in text, f"{name} changes nothing"


@every
@pytest.mark.parametrize("form", FORMATS)
def test_it_is_drawn(recipe: Path, form: str) -> None:
    done = zpipe("graph", recipe, "--format", form)
    assert (done.returncode, done.stderr) == (0, b"")
    built = load(str(recipe), {}, {})
    nodes = () if built.graph is None else built.graph.nodes
    for name in (*(node.id for node in nodes), *(proxy.name for proxy in built.settings)):
        assert name.encode() in done.stdout


@every
def test_the_plan_is_the_one_that_its_header_tells(recipe: Path, folder: Path) -> None:
    done = zpipe("plan", "--json", recipe, data=b"", cwd=folder)
    assert (done.returncode, done.stderr) == (0, b"")
    plan = json.loads(done.stdout)
    hops = [*plan["hops"], *(hop for proxy in plan["proxies"] for hop in proxy["hops"])]
    found = [(f"{hop['from']} -> {', '.join(hop['to'])}", hop["mover"]) for hop in hops]
    assert found == list(header(recipe).plan)


@every
def test_its_header_has_a_command_that_runs_it(recipe: Path) -> None:
    assert any(f"zpipe run {recipe.name}" in line for line in header(recipe).commands)


def test_recipes_meet_at_a_port_only_where_one_is_the_other_side() -> None:
    at: dict[str, set[str]] = {}
    for recipe in RECIPES:
        for param in params_of(recipe).values():
            for port in re.findall(r"127\.0\.0\.1:([0-9]+)", str(param.default)):
                at.setdefault(port, set()).add(recipe.stem)
    shared = sorted(sorted(names) for names in at.values() if len(names) > 1)
    assert shared == [
        ["check-pattern", "load-pattern"],
        ["compress-and-ship", "receive-and-check"],
        ["echo", "netcat"],
    ]


def test_the_readme_has_a_valid_line_for_every_recipe() -> None:
    text = (ROOT / "recipes" / "README.md").read_text()
    rows = re.findall(r"^\| \[(\S+)\]\(\1\) \| [A-Z].* \| `.*zpipe run (.*)` \|$", text, flags=re.M)
    assert sorted(name for name, _ in rows) == [recipe.name for recipe in RECIPES]
    for name, line in rows:
        first, *words = shlex.split(re.split(r"[<|\\]", line)[0])
        assert first == name
        assert set(words[::2]) <= {"-p"}, line
        load(str(ROOT / "recipes" / name), given(words[1::2]), {})


def test_the_recipe_of_the_readme_runs(tmp_path: Path) -> None:
    text = (ROOT / "recipes" / "README.md").read_text()
    (recipe,) = re.findall(r"```yaml\n(.*?)```", text, flags=re.S)
    (tmp_path / "own.yaml").write_text(recipe)
    done = zpipe("run", "--progress=never", "own.yaml", "-p", "SOURCE=/bin/sh", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    unpacked = subprocess.run(
        ["gunzip", "-c", "copy.gz"], cwd=tmp_path, capture_output=True, check=True
    )
    with open("/bin/sh", "rb") as file:
        assert unpacked.stdout == file.read()


def test_the_picture_of_the_readme_is_what_zpipe_draws() -> None:
    drawn = ROOT / "recipes" / "receive-and-check.svg"
    done = zpipe("graph", drawn.with_suffix(".yaml"), "--format", "svg")
    assert done.returncode == 0, done.stderr
    assert done.stdout == drawn.read_bytes()
