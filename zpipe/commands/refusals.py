"""What the command line library refuses, in the words that all of zpipe speaks: the command, the
option or operand, and what to give.
"""

from __future__ import annotations

import re

import click

from zpipe.commands import COMMANDS
from zpipe.spelling import suggestion

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_EXTRA = re.compile(r"unexpected extra arguments? \((.*)\)", re.DOTALL)
_TAKES_NONE = "does not take a value"


def in_our_words(error: click.ClickException, words: Sequence[str]) -> str:
    """Return the line that tells of it, without the name of the program; `words` are what was
    given to that.
    """
    command = words[0] if words and words[0] in COMMANDS else ""
    prefix = f"{command}: " if command else ""
    if isinstance(error, click.BadParameter) and not isinstance(error, click.MissingParameter):
        text = " ".join(error.message.split())
        if isinstance(error.param, click.Argument):
            return text  # it begins with the operand
        if error.param is not None:
            text = f"{max(error.param.opts, key=len)}: {text}"
        return f"{prefix}{text}"
    return f"{prefix}{_of_form(error)} ({' '.join(filter(None, ('zpipe', command, '--help')))})"


def _of_form(error: click.ClickException) -> str:
    """Return what is wrong with the words as they stand; the help shows how they should."""
    if isinstance(error, click.MissingParameter) and error.param is not None:
        return f"give {error.param.human_readable_name}"
    if isinstance(error, click.NoSuchOption):
        near = suggestion(error.option_name, error.possibilities or ())
        return f"{error.option_name}: unknown option{near}"
    message = " ".join(error.format_message().split())
    if isinstance(error, click.BadOptionUsage):
        wrong = "takes no value" if _TAKES_NONE in message else "give a value"
        return f"{error.option_name}: {wrong}"
    extra = _EXTRA.search(message)
    return f"{extra[1]}: more than it takes" if extra else message
