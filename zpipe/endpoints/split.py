"""A sink that goes on in a new file after an exact number of bytes: `part-%04d.bin`.

Each part is a file end of its own, finished before the next one is opened; a part that is never
begun is never created, save the first.
"""

from __future__ import annotations

import re

from zpipe.endpoints.contract import End
from zpipe.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from zpipe.endpoints.contract import Waiter

_CONVERSION = re.compile(r"%(0?[0-9]{0,2})d")


def has_pattern(path: str) -> bool:
    """Tell whether a path has a place for the number of a part."""
    return len(_CONVERSION.findall(path.replace("%%", ""))) == 1


def judge(path: str, size: int | None, name: str) -> None:
    """Raise: UsageError  the path has no place for a number, or parts would be empty."""
    if size == 0:
        raise UsageError(f"{name}: option split_size: a part must have a byte at least")
    if not has_pattern(path):
        raise UsageError(
            f"{name}: option split_size: the name needs one place for the number, like part-%04d"
        )


def part_name(path: str, number: int) -> str:
    """Return the name of a part; `%%` stands for a percent sign."""

    def fill(found: re.Match[str]) -> str:
        if found[0] == "%%":
            return "%"
        return format(number, f"{found[1]}d")

    return re.sub(r"%%|%(0?[0-9]{0,2})d", fill, path)


class SplitEnd(End):
    """The part that is being written. `open_part` opens the part of a number."""

    def __init__(self, open_part: Callable[[int], End], size: int, name: str):
        self._open_part = open_part
        self._size = size
        self._part = open_part(0)
        super().__init__(self._part.fd, name, self._part.facts)
        self.room = size
        self.provisional = self._part.provisional

    def prepare(self) -> None:
        self._part.prepare()

    def turn(self, waiter: Waiter) -> None:
        self._part.finish(waiter)
        self._part.close()
        self.parts += 1
        part = self._open_part(self.parts)
        self._part, self.fd, self.facts, self.room = part, part.fd, part.facts, self._size
        part.prepare()

    def finish(self, waiter: Waiter, *, complete: bool = True) -> None:
        self.fd = -1
        self._part.finish(waiter, complete=complete)
        self.notes += self._part.notes
        self.notes.append(f"{self.parts + 1} files")

    def close(self) -> None:
        self.fd = -1
        self._part.close()

    def abandon(self) -> None:
        self._part.abandon()
        self.fd = -1
