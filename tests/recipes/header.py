"""The comment that each recipe begins with: what it is for, how to try it, what plan to expect."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.machine import ROOT

if TYPE_CHECKING:
    from pathlib import Path

RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
_FORM = re.compile(
    r"# Purpose: [A-Z].*\n"
    r"(#          \S.*\n)*"
    r"(?<=\.\n)#\n"
    r"# Try it:\n"
    r"(?P<commands>(#     \S.*\n)+)"
    r"#\n"
    r"# Plan:\n"
    r"(?P<plan>(#     .+ -> .+: [a-z_]+\n)+)"
    r"#     [A-Z].*\n"
    r"(#     \S.*\n)*"
    r"(?<=\.\n)#\n"
    r"# yaml-language-server: \$schema=zpipe\.schema\.json\n"
    r"\n"
    r"zpipe: 1\n"
)


@dataclass(frozen=True)
class Header:
    """What a recipe tells of itself: a command a line; and hops, as the plan calls them, with the
    mover of each.
    """

    commands: tuple[str, ...]
    plan: tuple[tuple[str, str], ...]


def header(recipe: Path) -> Header:
    """Return the header of a recipe; fail where it has not the form of all others."""
    found = _FORM.match(recipe.read_text())
    assert found, f"{recipe.name}: the header is not like those of the others"
    hops = [line.rpartition(": ") for line in _lines(found["plan"])]
    return Header(_lines(found["commands"]), tuple((name, mover) for name, _, mover in hops))


def _lines(text: str) -> tuple[str, ...]:
    return tuple(line.removeprefix("#     ") for line in text.splitlines())
