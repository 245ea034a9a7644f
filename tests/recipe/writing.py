"""Recipes as texts, and what comes of them."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from zpipe.recipe.load import loads
from zpipe.recipe.problems import RecipeError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from zpipe.recipe.build import Built

NAME = "r.yaml"


def built(
    text: str,
    given: Mapping[str, str] | None = None,
    environ: Mapping[str, str] | None = None,
    *,
    name: str = NAME,
) -> Built:
    """Return what the text of a recipe stands for; `zpipe: 1` is put before it."""
    data = f"zpipe: 1\n{textwrap.dedent(text)}".encode()
    return loads(data, name, given, environ or {})


def findings(
    text: str,
    given: Mapping[str, str] | None = None,
    environ: Mapping[str, str] | None = None,
    *,
    name: str = NAME,
) -> list[str]:
    """Return the findings in a recipe, each as LINE:COLUMN: TEXT; none where it is sound.

    `zpipe: 1` is line 1, and the first line of the text is line 2.
    """
    try:
        built(text, given, environ, name=name)
    except RecipeError as error:
        assert all(found.file == name for found in error.findings)
        return [f"{found.line}:{found.column}: {found.text}" for found in error.findings]
    return []
