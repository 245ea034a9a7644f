"""`zpipe plan FILE` and `zpipe plan COMMAND ARG...`."""

from __future__ import annotations

from importlib import import_module

import click

from zpipe.commands.loading import parameters, show_plan_of
from zpipe.errors import UsageError

EXAMPLES = """\b
Examples:
  zpipe plan backup.yaml -p HOST=10.0.0.7
  zpipe plan backup.yaml --json | jq '.totals[]'
  zpipe plan cp disk.img --to copy.img --to tcp://receiver:9000
  zpipe plan proxy --listen :80 --mirror staging:80 10.0.0.1:80
"""

# commands that have --dry-run, which is what planning them means
_DRY = ("cp", "cat", "tee")
PLANNED = (*_DRY, "proxy")


class Plan(click.Command):
    """Leaves the words behind the name of a command to that command."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take options from behind a recipe, and none from behind a command."""
        ctx.allow_interspersed_args = False
        found, _, _ = self.make_parser(ctx).parse_args(list(args))
        words = found.get("words")
        # without any words it is a value of click's own
        of_command = isinstance(words, (tuple, list)) and words and words[0] in PLANNED
        ctx.allow_interspersed_args = not of_command
        return super().parse_args(ctx, args)


@click.command(
    "plan",
    cls=Plan,
    epilog=EXAMPLES,
    help=f"""Show how bytes would go, at what cost and why, and do nothing.

    FILE is a recipe, or - for one on standard input. COMMAND is {", ".join(_DRY)} or proxy, with
    its own options and operands; a recipe of such a name is written ./{_DRY[0]}. Files that exist
    are looked at; nothing is connected to, created or started.
    """,
)
@click.argument(
    "words", nargs=-1, type=click.UNPROCESSED, metavar="FILE | COMMAND [ARG]...", required=True
)
@parameters()
@click.option("--json", is_flag=True, help="Print the plan as a JSON document.")
@click.pass_context
def plan_command(
    ctx: click.Context, /, words: tuple[str, ...], params: tuple[str, ...], json: bool
) -> None:
    """Find out what is to be planned, and show its plan."""
    name, *rest = words
    if name in PLANNED and params:
        raise UsageError("-p: is for a recipe; the options of a command stand behind it")
    if name in _DRY:
        _of_command(ctx, name, [*(["--json"] if json else []), *rest])
    elif name == "proxy":
        _of_proxy(ctx, rest, json=json)
    elif rest:
        known = f"{', '.join(PLANNED[:-1])} or {PLANNED[-1]}"
        raise UsageError(f"plan: {rest[0]}: give one recipe, or {known} before its operands")
    else:
        _of_recipe(name, params, json=json)


def _of_command(ctx: click.Context, name: str, words: list[str]) -> None:
    """Do what the command itself does with --dry-run."""
    command: click.Command = import_module(f"zpipe.commands.{name}").COMMAND
    with command.make_context(name, ["--dry-run", *words], parent=ctx) as inner:
        command.invoke(inner)


def _of_proxy(ctx: click.Context, words: list[str], *, json: bool) -> None:
    from zpipe.commands.plan_table import show_plan
    from zpipe.commands.proxy import COMMAND
    from zpipe.commands.proxy_settings import settings_of
    from zpipe.proxy.forecast import forecast

    with COMMAND.make_context("proxy", words, parent=ctx) as inner:
        settings = settings_of(inner)
        if inner.params["stdio"]:
            raise UsageError("--stdio: is not planned: only proxies that listen are")
    show_plan([], [("", forecast(settings))], json=json)


def _of_recipe(path: str, texts: tuple[str, ...], *, json: bool) -> None:
    from zpipe.recipe.load import load
    from zpipe.recipe.params import given

    show_plan_of(load(path, given(texts)), json=json)


COMMAND: click.Command = plan_command
