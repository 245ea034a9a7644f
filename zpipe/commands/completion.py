"""`zpipe completion SHELL`.

The scripts lie beside the code as they are installed for the shells; nothing is made here.
"""

from __future__ import annotations

import click

from zpipe.commands.option_types import OneOf
from zpipe.commands.speaking import write_out

EXAMPLES = """\b
Examples:
  source <(zpipe completion bash)
  zpipe completion zsh > ~/.zfunc/_zpipe
  zpipe completion fish > ~/.config/fish/completions/zpipe.fish
"""

# shell -> its script
SCRIPTS = {"bash": "zpipe.bash", "zsh": "zpipe.zsh", "fish": "zpipe.fish"}


@click.command(
    "completion",
    epilog=EXAMPLES,
    help=f"""Print the script by which SHELL completes command lines of zpipe.

    SHELL is {", ".join(SCRIPTS)}. The script calls no program that takes time: it knows commands,
    options and their values by itself. zpipe-completion(1) tells where each shell looks for it.
    """,
)
@click.argument("shell", type=OneOf(tuple(SCRIPTS)), metavar="SHELL")
def completion_command(shell: str) -> None:
    """Print what is shipped."""
    write_out(script(shell))


def script(shell: str) -> str:
    """Return the text of a script, without the last line break."""
    from pkgutil import get_data

    data = get_data("zpipe", f"completion/{SCRIPTS[shell]}")
    assert data is not None, "the package is read by something that reads no data"
    return data.decode().removesuffix("\n")


COMMAND: click.Command = completion_command
