"""One subcommand per module. [add here]

A command is a module that ends in `COMMAND: click.Command = ...`, and its name in `COMMANDS` with
the line that help shows. Modules load by name on first use.
"""

from __future__ import annotations

COMMANDS = {
    "cp": "Move one source to one sink, or to several; copy files and trees.",
    "cat": "Write sources one after the other to standard output, and measure.",
    "tee": "Copy standard input to standard output and to every output.",
    "proxy": "Listen, relay connections to upstreams, and mirror what goes through.",
    "status": "Show how the proxies of this user do, or one by its --metrics address.",
    "replay": "Play captured connections back to an upstream, and compare the answers.",
    "run": "Carry out a recipe: its streams until done, its proxies until stopped.",
    "check": "Tell whether recipes are valid, and what is wrong with them and where.",
    "graph": "Draw what a recipe joins, as text, SVG, Mermaid or DOT.",
    "plan": "Show how the bytes of a recipe or a command would go, at what cost, and why.",
    "bench": "Measure ways of carrying bytes side by side, on this machine.",
    "doctor": "Find out what zpipe can do on this machine, and what is worth changing.",
    "completion": "Print the script by which bash, zsh or fish completes command lines.",
}
