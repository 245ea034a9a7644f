"""Options that several commands have, in one place, so that they mean the same everywhere."""

from __future__ import annotations

from typing import Any, TypeVar

import click

from zpipe.commands.carrying import Shown
from zpipe.commands.option_types import DURATION, FD, PIPE_SIZE, RATE, SIZE, OneOf
from zpipe.errors import UsageError
from zpipe.graph.policy import NEEDS, SPILL_THEN, WHEN_FULL, Policy, has_effect

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from zpipe.graph.model import Graph

F = TypeVar("F", bound="Callable[..., Any]")


def _all(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Return a decorator that applies options in the order in which help shows them."""

    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def moving(movers: Iterable[str]) -> Callable[[F], F]:
    """How bytes move: the same for every command that moves them."""
    names = tuple(movers)
    return _all(
        click.option(
            "--via",
            type=OneOf(names),
            metavar="MOVER",
            help=f"Move by this mover, or fail: {', '.join(names)}.",
        ),
        click.option(
            "--no-via",
            type=OneOf(names),
            metavar="MOVER",
            multiple=True,
            help="Never by this one; repeatable.",
        ),
        click.option("--stable", is_flag=True, help="Clone or copy what would go by reference."),
        click.option("--rate-limit", type=RATE, help="Bytes per second, at the most (no limit)."),
        click.option(
            "--stall-timeout", type=DURATION, help="Give up when nothing moves for so long (never)."
        ),
        click.option(
            "--pipe-size", type=PIPE_SIZE, help="Capacity of the private pipe, 4K to 2G (1M)."
        ),
    )


def policies() -> Callable[[F], F]:
    """What becomes of an output that cannot keep up with the others."""
    return _all(
        click.option(
            "--when-full",
            type=OneOf(WHEN_FULL),
            default="block",
            show_default=True,
            help="When an output, standard output too, takes no more: the others wait (block),"
            " it is dropped (detach), or a file takes its bytes (spill).",
        ),
        click.option(
            "--detach-after",
            type=DURATION,
            help="With detach: drop an output that takes nothing for so long (5s).",
        ),
        click.option("--spill-max", type=SIZE, help="Spill at most so much for each output (1G)."),
        click.option(
            "--spill-dir", metavar="DIR", help="Spill to files in DIR (TMPDIR, or /var/tmp)."
        ),
        click.option(
            "--spill-then",
            type=OneOf(SPILL_THEN),
            help="When so much is spilled already (block).",
        ),
    )


def showing() -> Callable[[F], F]:
    """What is told on the way and at the end."""
    return _all(
        click.option("--explain", is_flag=True, help="Show plan and outcome on standard error."),
        click.option(
            "--dry-run", is_flag=True, help="Show the plan; connect, create and start nothing."
        ),
        click.option("--json", is_flag=True, help="Report in JSON Lines on standard error."),
        click.option("--json-fd", type=FD, metavar="N", help="JSON Lines on fd N."),
        click.option(
            "--progress",
            type=OneOf(("auto", "always", "never")),
            default="auto",
            show_default=True,
            help="On a terminal after a second, always, or never.",
        ),
        click.option("-q", "--quiet", is_flag=True, help="No progress; errors only."),
    )


def shown_of(options: dict[str, Any]) -> Shown:
    """Return what the user wants to see."""
    return Shown(
        explain=options["explain"],
        json=options["json"] or options["json_fd"] is not None,
        json_fd=options["json_fd"],
        progress=options["progress"],
        quiet=options["quiet"],
        dry_run=options["dry_run"],
    )


def policy_of(options: dict[str, Any], **more: Any) -> Policy:
    """Return the policy for all outputs that have none of their own."""
    default = Policy()
    return Policy(
        when_full=options["when_full"],
        detach_after=options["detach_after"] or default.detach_after,
        spill_max=default.spill_max if options["spill_max"] is None else options["spill_max"],
        spill_dir=options["spill_dir"],
        spill_then=options["spill_then"] or default.spill_then,
        **more,
    )


def heeded(graph: Graph, options: dict[str, Any]) -> Graph:
    """Return the graph, in which every option for outputs means something for one of them.

    Raises: UsageError  an option has no effect.
    """
    for option, why in NEEDS.items():
        given = options[option] is not None
        if given and not any(has_effect(option, edge.policy) for edge in graph.edges):
            raise UsageError(f"--{option.replace('_', '-')}: has no effect: {why}")
    return graph


def no_contradiction(options: dict[str, Any]) -> None:
    """Raise: UsageError  a mover is both asked for and forbidden."""
    if options["via"] in options["no_via"]:
        raise UsageError(f"--via and --no-via: {options['via']} is both asked for and forbidden")


def not_here(letters: dict[str, str], why: str) -> Callable[[F], F]:
    """Refuse options of the command that is replaced, by their own names, with a reason."""

    def refuse(ctx: click.Context, param: click.Parameter, value: Any) -> None:
        if value and not ctx.resilient_parsing:
            raise UsageError(f"{param.opts[0]}: {why}")

    return _all(
        *(
            click.option(
                *filter(None, (short, long)),
                "_" + (short or long).strip("-").replace("-", "_") + "_not_here",
                is_flag=True,
                hidden=True,
                expose_value=False,
                is_eager=True,
                callback=refuse,
            )
            for short, long in letters.items()
        )
    )
