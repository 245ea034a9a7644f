"""`zpipe check FILE...`."""

from __future__ import annotations

from typing import Any

import click

from zpipe.commands.loading import parameters
from zpipe.commands.speaking import tell, write_out
from zpipe.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zpipe.recipe.build import Built

EXAMPLES = """\b
Examples:
  zpipe check *.yaml
  zpipe check backup.yaml -p HOST=10.0.0.7 --json | jq '.files[].problems[]'
  zpipe check --schema > zpipe.schema.json
"""

VERSION = 1


@click.command(
    "check",
    epilog=EXAMPLES,
    help="""Tell whether each FILE is a valid recipe, and if not, all that is wrong and where.

    Nothing but the recipes is opened, and nothing that they name is looked at. - is standard
    input. The schema is for editors; see zpipe-recipe(5).
    """,
)
@click.argument("files", nargs=-1, metavar="FILE...")
@parameters()
@click.option("--json", is_flag=True, help="Print what was found as a JSON document.")
@click.option("--schema", is_flag=True, help="Print the JSON Schema of recipes, and no more.")
def check_command(
    files: tuple[str, ...], params: tuple[str, ...], *, json: bool, schema: bool
) -> None:
    """Judge each recipe, and fail if one is invalid."""
    if schema:
        if files or params or json:
            raise UsageError("--schema: stands alone")
        from json import dumps

        from zpipe.recipe.schema import schema as made

        write_out(dumps(made(), indent=2))
        return
    if not files:
        raise UsageError("check: nothing to check: give a recipe, or --schema")
    from zpipe.recipe.params import given

    values = given(params)
    found = [_judged(file, values, quiet=json) for file in files]
    if json:
        from json import dumps

        write_out(dumps({"v": VERSION, "files": found}))
    invalid = [each["file"] for each in found if not each["valid"]]
    if invalid:
        failure = UsageError(*(f"{name}: is invalid" for name in invalid))
        failure.told = True
        raise failure


def _judged(file: str, values: dict[str, str], *, quiet: bool) -> dict[str, Any]:
    """Return what is found in one recipe; unless `quiet`, tell it, too."""
    from zpipe.recipe.load import load
    from zpipe.recipe.problems import RecipeError

    problems: list[dict[str, Any]] = []
    try:
        built = load(file, values)
        if not quiet:
            write_out(f"{file}: ok ({_sum(built)})")
    except UsageError as error:
        if isinstance(error, RecipeError):
            problems = [
                {"line": each.line, "column": each.column, "text": each.text}
                for each in error.findings
            ]
        else:  # it cannot be read
            text = str(error).removeprefix(f"{file}: ")
            problems = [{"line": None, "column": None, "text": text}]
        if not quiet:
            for line in error.args:
                tell(str(line))
    return {"file": file, "valid": not problems, "problems": problems}


def _sum(built: Built) -> str:
    """Return `3 nodes, 2 edges, 1 proxy`."""
    counts = [(len(built.settings), "proxy", "proxies")]
    if built.graph is not None:
        counts = [
            (len(built.graph.nodes), "node", "nodes"),
            (len(built.graph.edges), "edge", "edges"),
            *counts,
        ]
    return ", ".join(f"{n} {one if n == 1 else many}" for n, one, many in counts if n)


COMMAND: click.Command = check_command
