"""`zpipe doctor [PATH...]`."""

from __future__ import annotations

import os

import click

from zpipe.commands.speaking import columns, write_out
from zpipe.errors import UsageError, ZpipeError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zpipe.doctor.findings import Finding

EXAMPLES = """\b
Examples:
  zpipe doctor
  zpipe doctor /srv/backup /dev/shm
  zpipe doctor --json | jq -r '.advice[].command'
"""

_WIDTH = 100  # where there is no terminal, and the most where there is one


@click.command(
    "doctor",
    epilog=EXAMPLES,
    help="""Find out what zpipe can do on this machine, by trying it, and what is worth changing.

    PATH is a directory, a file, which stands for its directory, or a block device, which is only
    read; without any, the current directory and TMPDIR are tried. It takes less than a second,
    needs no rights, and leaves nothing behind.
    """,
)
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@click.option("--json", is_flag=True, help="Print what was found as a JSON document.")
def doctor_command(paths: tuple[str, ...], *, json: bool) -> None:
    """Examine, show what was found, and fail if the examination went wrong."""
    if "" in paths:
        raise UsageError("doctor: an operand is empty")
    from zpipe.commands.doctor_table import document, table
    from zpipe.doctor.examine import examine

    found = examine(paths)
    if json:
        from json import dumps

        write_out(dumps(document(found)))
    else:
        write_out(table(found, min(columns(_WIDTH), _WIDTH), colour=_coloured()))
    if found.failures:
        raise ZpipeError(*map(_failure, found.failures))


def _failure(finding: Finding) -> str:
    reason = os.strerror(finding.errno) if finding.errno else finding.detail
    if finding.name == "filesystem" and finding.path is not None:
        return f"{finding.path}: examine: {reason}"
    where = f"{finding.path}: " if finding.path is not None else ""
    return f"{where}{finding.label}: examine: {reason}"


def _coloured() -> bool:
    """Tell whether a terminal shows it that knows colours, and whose user wants them."""
    return os.isatty(1) and os.environ.get("TERM") != "dumb" and not os.environ.get("NO_COLOR")


COMMAND: click.Command = doctor_command
