"""What the commands that take a recipe have in common: its parameters, its plan, their output."""

from __future__ import annotations

import click

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    from zpipe.engine.forecast import Foreseen
    from zpipe.recipe.build import Built

    F = TypeVar("F", bound=Callable[..., Any])


def parameters() -> Callable[[F], F]:
    """Give a command the option -p, whose texts are named `params`."""
    return click.option(
        "-p",
        "params",
        multiple=True,
        metavar="NAME=VALUE",
        help="A parameter of the recipe; repeatable.",
    )


def foreseen_proxies(built: Built) -> list[tuple[str, list[Foreseen]]]:
    """Return the hops of each proxy, by its name."""
    if not built.settings:
        return []
    from zpipe.proxy.forecast import forecast

    return [(settings.name, forecast(settings)) for settings in built.settings]


def show_plan_of(built: Built, *, json: bool) -> None:
    """Print the plan of a recipe, of which nothing is opened.

    Raises: ZpipeError  it is certain to be refused, or standard output took nothing.
    """
    from zpipe.commands.plan_table import show_plan
    from zpipe.engine.forecast import forecast

    hops = forecast(built.graph) if built.graph is not None else []
    show_plan(hops, foreseen_proxies(built), by_id=True, json=json)
