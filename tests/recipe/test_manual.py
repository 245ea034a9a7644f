"""zpipe-recipe(5): every field stands in it and in an example, and every example is sound."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest
import yaml

from tests.machine import ROOT
from zpipe.endpoints import KINDS, kind_of
from zpipe.recipe import form
from zpipe.recipe.load import loads
from zpipe.recipe.meanings import MEANINGS
from zpipe.recipe.params import given
from zpipe.recipe.problems import RecipeError

PAGE = (ROOT / "man/man5/zpipe-recipe.5").read_text()
EXAMPLE = re.compile(r'^\.\\" example(.*)\n\.Bd .*\n((?:.*\n)*?)\.Ed$', re.MULTILINE)
EXAMPLES = [(words.split(), text) for words, text in EXAMPLE.findall(PAGE)]
# form -> where mappings of it stand in a recipe: * is any name, # any place in a list
PLACES: dict[str, tuple[str, ...]] = {
    "Recipe": ("",),
    "Param": ("params.*",),
    "Edge": ("edges.#",),
    "Upstream": ("proxies.*.upstreams.#",),
    "Check": ("proxies.*.check",),
    "Mirror": ("proxies.*.mirrors.#",),
    "Capture": ("proxies.*.capture",),
    "Limits": ("proxies.*.limits",),
    "Timeouts": ("proxies.*.timeouts",),
    "Proxy": ("proxies.*",),
    "Service": ("service",),
    "Defaults": ("defaults",),
}
SECTIONS = {
    "Recipe": "Sh THE FILE",
    "Param": "Sh PARAMETERS",
    "Edge": "Sh EDGES",
    "Defaults": "Sh EDGES",
    "Proxy": "Sh PROXIES",
    "Upstream": "Ss Upstreams",
    "Check": "Ss Check",
    "Mirror": "Ss Mirrors",
    "Capture": "Ss Capture",
    "Limits": "Ss Limits",
    "Timeouts": "Ss Timeouts",
    "Service": "Sh SERVICE",
}


def unescaped(text: str) -> str:
    """Return the text of a literal display as a reader sees it."""
    return text.replace("\\-", "-").replace("\\&", "").replace("\\e", "\\")


def section(heading: str) -> str:
    """Return the source below a heading, up to the next of its kind."""
    mark = f"\n.{heading}\n"
    assert mark in PAGE, heading
    return re.split(rf"\n\.{heading[:2]} |\n\.Sh ", PAGE.partition(mark)[2])[0]


def values_at(tree: Any, place: str) -> list[Any]:
    """Return what stands in a recipe at the places that a pattern names."""
    found = [tree]
    for step in filter(None, place.split(".")):
        below: list[Any] = []
        for value in found:
            if step in "*#":
                below += value.values() if isinstance(value, dict) else []
                below += value if isinstance(value, list) else []
            elif isinstance(value, dict) and step in value:
                below.append(value[step])
        found = below
    return found


def fields(name: str) -> list[str]:
    return [field.encode_name for field in msgspec.structs.fields(getattr(form, name))]


def test_the_page_has_examples() -> None:
    assert len(EXAMPLES) == PAGE.count('\n.\\" example') >= 6


@pytest.mark.parametrize(("words", "text"), EXAMPLES, ids=lambda each: str(each)[:20])
def test_examples_are_sound(words: list[str], text: str) -> None:
    made = loads(unescaped(text).encode(), "example", given(words), {"HOME": "/home/user"})
    assert made.graph is not None or made.settings


def test_the_mistake_is_told_as_the_page_shows_it() -> None:
    written = unescaped(EXAMPLES[0][1])
    with pytest.raises(RecipeError) as caught:
        loads(written.replace("timeout:", "timout:").encode(), "nightly.yaml", {}, {})
    shown = " ".join(unescaped(PAGE).replace("\\\n", "\n").split())
    assert str(caught.value) in shown


@pytest.mark.parametrize("name", PLACES)
def test_every_field_is_told_and_shown(name: str) -> None:
    recipes = [yaml.safe_load(unescaped(text)) for _, text in EXAMPLES]
    shown = {
        key
        for recipe in recipes
        for place in PLACES[name]
        for value in values_at(recipe, place)
        if isinstance(value, dict)
        for key in value
    }
    if name == "Defaults":  # what they share with edges is shown there
        shown |= set(fields("Edge"))
    told = section(SECTIONS[name])
    if name == "Defaults":
        told += section("Sh DEFAULTS")
    for field in fields(name):
        assert field in shown, f"no example has {name}: {field}"
        assert re.search(rf"^\.It (.* , )?Cm {field} :", told, re.MULTILINE), f"{name}: {field}"


@pytest.mark.parametrize("name", [name for name in KINDS if name != "-"])
def test_every_kind_and_its_options_are_told_and_shown(name: str) -> None:
    nodes = [
        node
        for _, text in EXAMPLES
        for node in (yaml.safe_load(unescaped(text)).get("nodes") or {}).values()
        if isinstance(node, dict)
    ]
    # YAML reads the key null as None
    mine = [{str(key or "null") for key in node} for node in nodes]
    mine = [keys for keys in mine if name in keys]
    assert mine, f"no example has a node {name}"
    told = re.search(rf"^\.It Cm {name} : .*\n((?:(?!\.It|\.El).*\n)*)", PAGE, re.MULTILINE)
    assert told is not None, name
    for option in kind_of(name).options:
        assert any(option in keys for keys in mine), f"no example has {name} with {option}"
        assert re.search(rf"\b{option}\b", told[1]), f"{name}: {option}"


def test_every_field_has_a_meaning() -> None:
    for name in PLACES:
        assert set(MEANINGS[name]) == set(fields(name))


def test_bounds_are_those_of_the_program() -> None:
    from zpipe.recipe.document import MOST_BYTES, MOST_DEPTH, MOST_VALUES
    from zpipe.recipe.edges import MOST_EDGES

    text = " ".join(section("Sh THE FILE").split())
    assert f"at most {MOST_BYTES >> 20} MiB, {MOST_DEPTH} levels" in text
    assert f"{MOST_VALUES:,} values" in text
    assert f"{MOST_EDGES:,} edges" in text


def test_every_section_of_the_forms_is_here() -> None:
    forms = {
        name
        for name, each in vars(form).items()
        if isinstance(each, type) and issubclass(each, form.Form)
    }
    assert forms - {"Form", "EdgeOptions"} == set(PLACES) == set(SECTIONS)
