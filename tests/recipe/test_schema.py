"""The JSON Schema says what the forms and the kinds of ends say, in terms that editors know."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from zpipe.endpoints import KINDS, kind_of
from zpipe.recipe import form
from zpipe.recipe.meanings import MEANINGS
from zpipe.recipe.schema import DIALECT, schema

if TYPE_CHECKING:
    from collections.abc import Iterator

MADE = schema()
REFERENCE = {"type": "string", "pattern": r"\$\{"}


def walk(tree: Any) -> Iterator[dict[str, Any]]:
    """Yield every mapping of a schema."""
    if isinstance(tree, dict):
        yield tree
        for value in tree.values():
            yield from walk(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from walk(value)


def node_of(kind: str) -> dict[str, Any]:
    """Return the schema of a node of one kind."""
    (found,) = (each for each in MADE["$defs"]["Node"]["anyOf"] if each.get("required") == [kind])
    assert isinstance(found, dict)
    return found


def test_it_is_a_schema_that_can_be_written_down() -> None:
    assert json.loads(json.dumps(MADE)) == MADE
    assert MADE["$schema"] == DIALECT
    assert MADE["$id"] == "urn:zpipe:recipe:1"
    assert MADE["required"] == ["zpipe"]
    for part in walk(MADE):
        reference = part.get("$ref")
        assert reference is None or reference.removeprefix("#/$defs/") in MADE["$defs"]


def test_nothing_is_null_and_nothing_else_is_allowed() -> None:
    for part in walk(MADE):
        assert part.get("type") != "null"
        if "properties" in part and part is not MADE["properties"]:
            assert part["additionalProperties"] is False


@pytest.mark.parametrize("name", [name for name in MEANINGS if name != "Node"])
def test_every_form_has_its_fields_with_their_meanings(name: str) -> None:
    made = MADE if name == "Recipe" else MADE["$defs"][name]
    fields = msgspec.structs.fields(getattr(form, name))
    assert list(made["properties"]) == [field.encode_name for field in fields]
    assert set(made["required"]) == {field.encode_name for field in fields if field.required}
    for key, each in made["properties"].items():
        assert each["description"] == MEANINGS[name][key]


@pytest.mark.parametrize("name", [name for name in KINDS if name != "-"])
def test_every_kind_is_a_node(name: str) -> None:
    kind = kind_of(name)
    made = node_of(name)
    assert set(made["properties"]) == {name, *kind.options, "on_error"}
    for option, meaning in kind.options.items():
        assert made["properties"][option]["description"] == meaning


def test_what_an_editor_takes_for_a_number_is_allowed() -> None:
    edge = MADE["$defs"]["Edge"]["properties"]
    assert "number" in edge["limit"]["type"]
    assert "number" in edge["stall_timeout"]["type"]
    assert "number" in node_of("file")["properties"]["mode"]["type"]
    assert {"string", "number", "boolean"} == set(
        MADE["$defs"]["Param"]["properties"]["default"]["type"]
    )


def test_a_reference_may_stand_for_anything() -> None:
    edge = MADE["$defs"]["Edge"]["properties"]
    for each in (edge["sync"], edge["when_full"], edge["via"]):
        assert REFERENCE in each["anyOf"]
    assert REFERENCE in MADE["$defs"]["Service"]["properties"]["workers"]["anyOf"]


def test_bounds_and_choices_are_those_of_the_forms() -> None:
    workers = MADE["$defs"]["Service"]["properties"]["workers"]["anyOf"][0]
    assert (workers["type"], workers["minimum"], workers["maximum"]) == ("integer", 1, 256)
    full = MADE["$defs"]["Edge"]["properties"]["when_full"]["anyOf"][0]
    assert set(full["enum"]) == {"block", "detach", "spill"}


def test_kinds_without_an_address_and_commands() -> None:
    assert node_of("null")["properties"]["null"]["enum"] == [True]
    choices = node_of("exec")["properties"]["exec"]["anyOf"]
    assert [each["type"] for each in choices] == ["string", "array"]


def test_descriptions_are_in_one_line() -> None:
    for part in walk(MADE):
        text = part.get("description")
        if isinstance(text, str):
            assert text
            assert "\n" not in text
            assert "  " not in text
