"""The JSON Schema of recipes, for editors: made from the forms, the kinds of ends, and meanings.

An editor reads YAML with types, and zpipe reads texts: wherever a text may look like a number or a
truth value, the schema allows these, too; and a reference wherever it allows something else. What
depends on other values is left to `zpipe check`.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from zpipe.endpoints import KINDS, kind_of
from zpipe.recipe import form
from zpipe.recipe.edges import MOVERS_OF_EDGES
from zpipe.recipe.meanings import MEANINGS
from zpipe.recipe.nodes import is_flag, without_address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zpipe.endpoints.contract import EndpointKind

    Schema = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_REFERENCE = {"type": "string", "pattern": r"\$\{"}
_TEXT = {"type": ["string", "number", "boolean"]}
_ON_ERROR = ["stop", "detach"]


def schema() -> Schema:
    """Return the schema that `zpipe check --schema` prints."""
    made = msgspec.json.schema(form.Recipe)
    forms: Schema = {name: _of_form(name, each) for name, each in made["$defs"].items()}
    recipe = forms.pop("Recipe")
    properties = recipe["properties"]
    properties["zpipe"] = {"description": MEANINGS["Recipe"]["zpipe"], "enum": [form.VERSION]}
    properties["nodes"]["additionalProperties"] = {"$ref": "#/$defs/Node"}
    short = properties["edges"]["items"]["anyOf"][0]
    short.update(type="string", pattern=r"->|\$\{", examples=["disk -> copy, host"])
    return {
        "$schema": DIALECT,
        "$id": f"urn:zpipe:recipe:{form.VERSION}",
        **recipe,
        "title": "zpipe recipe",
        "description": "Files, sockets, pipes and processes, and what goes where between them;"
        " see zpipe-recipe(5).",
        "$defs": {**forms, "Node": _node()},
    }


def _of_form(name: str, made: Schema) -> Schema:
    """Return the schema of a form, with the meanings of its fields."""
    meanings = MEANINGS[name]
    properties = {}
    for key, each in made["properties"].items():
        properties[key] = {"description": meanings[key], **_loosened(each)}
        properties[key]["description"] = meanings[key]
    if name in ("Edge", "Defaults"):
        movers: Schema = {"enum": list(MOVERS_OF_EDGES)}
        properties["via"] |= _or_reference(movers)
        properties["via"].pop("type", None)
        properties["no_via"]["anyOf"] = [
            *_or_reference(movers)["anyOf"],
            {"type": "array", "items": _or_reference(movers)},
        ]
    return {
        "title": name,
        "description": " ".join(str(made.get("description", "")).split()),
        "type": "object",
        "properties": properties,
        "required": made["required"],
        "additionalProperties": False,
    }


def _loosened(made: Schema) -> Schema:
    """Return the schema of a field as an editor, which knows types, may find it written."""
    if "anyOf" in made:
        choices = [_loosened(each) for each in made["anyOf"] if each != {"type": "null"}]
        flat = [each for one in choices for each in one.get("anyOf", [one])]
        return choices[0] if len(choices) == 1 else {"anyOf": flat}
    if "enum" in made or made.get("type") in ("integer", "boolean"):
        return _or_reference({key: value for key, value in made.items() if key != "default"})
    found = {key: value for key, value in made.items() if key != "default"}
    if made.get("type") == "string":
        return {**found, **_TEXT}
    if made.get("type") == "array":
        found["items"] = _loosened(made["items"])
    elif made.get("type") == "object" and made.get("additionalProperties"):
        found["additionalProperties"] = _loosened(made["additionalProperties"])
    return found


def _or_reference(made: Schema) -> Schema:
    return {"anyOf": [made, _REFERENCE]}


def _node() -> Schema:
    on_error = {"description": MEANINGS["Node"]["on_error"], **_or_reference({"enum": _ON_ERROR})}
    address = {"description": MEANINGS["Node"]["address"], "type": "string"}
    forms = [
        _object("An address", "address", {"address": address, "on_error": on_error}),
        *(_kind(kind_of(name), on_error) for name in KINDS if re.match("[a-z]", name)),
    ]
    text = "Where bytes begin, end, or go through a process: an address, or a kind with options."
    return {"description": text, "anyOf": [{"type": "string"}, *forms]}


def _kind(kind: EndpointKind, on_error: Schema) -> Schema:
    """Return the schema of a node of one kind."""
    address: Schema = {"type": ["string", "number"]}
    if without_address(kind):
        address = {"enum": [True]}
    elif kind.name == "exec":
        address = {"anyOf": [{"type": "string"}, {"type": "array", "items": _TEXT, "minItems": 1}]}
    properties = {kind.name: {"description": kind.form, **address}}
    for name, meaning in kind.options.items():
        value = _or_reference({"enum": [True, False, 0, 1]}) if is_flag(kind, name) else _TEXT
        properties[name] = {"description": meaning, **value}
    return _object(kind.summary, kind.name, {**properties, "on_error": on_error})


def _object(description: str, required: str, properties: Schema) -> Schema:
    return {
        "description": description,
        "type": "object",
        "properties": properties,
        "required": [required],
        "additionalProperties": False,
    }
