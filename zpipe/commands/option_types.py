"""What values of options and operands are read as. A refusal names the value, and what to give."""

from __future__ import annotations

from typing import Any

import click

from zpipe.errors import UsageError
from zpipe.spelling import one_of
from zpipe.units import parse_duration, parse_pipe_size, parse_rate, parse_size, whole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def parse_fd(text: str) -> int:
    """Return the number of an fd. Raises: UsageError  it is none."""
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise UsageError(f"{text}: not an fd: give a number from 0")
    return int(text)


class OneOf(click.Choice):  # type: ignore[type-arg,unused-ignore]
    """One of a few words; any other is refused with those that there are."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the word."""
        if isinstance(value, str) and value not in self.choices:
            self.fail(f"{value}: give {one_of(value, self.choices)}", param, ctx)
        return value


class Quantity(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """An option's value read by one of the parsers of units."""

    def __init__(self, name: str, parse: Callable[[str], float]):
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number that a text names."""
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except UsageError as error:
            self.fail(str(error), param, ctx)


SIZE = Quantity("size", parse_size)
PIPE_SIZE = Quantity("size", parse_pipe_size)
RATE = Quantity("rate", parse_rate)
DURATION = Quantity("time", parse_duration)
FD = Quantity("fd", parse_fd)


def number(least: int, most: int) -> Quantity:
    """Return the type of whole numbers in a range."""
    return Quantity("n", whole(least, most))
