"""One subcommand per module. [add here]

A command is a module that ends in `COMMAND: click.Command = ...`, and its name in `COMMANDS` with
the line that help shows. Modules load by name on first use.
"""

from __future__ import annotations

COMMANDS = {
    "cp": "Move one source to one sink: files, sockets, pipes, processes.",
}
