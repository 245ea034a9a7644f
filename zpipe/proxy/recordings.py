"""Captured connections as they lie in a folder: the lines of its index, and the files beside it.

A line is believed only as far as it was checked: what it names becomes the name of a file, and what
it counts is compared with what is there. Reads while others record, and never writes. Knows nothing
of how connections are played back.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass

from zpipe.errors import TransferError, UsageError, reason
from zpipe.proxy.capture_folder import ID, INDEX, VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Literal


@dataclass(frozen=True, slots=True)
class Recorded:
    """A line of the index, without its chunks."""

    id: str
    began: float
    up: int
    down: int
    complete: bool  # nothing that went through is missing
    reason: str
    offset: int  # of the line
    length: int


class Recordings:
    """A folder that `capture` has filled, or is filling: what is in its index at the moment."""

    def __init__(self, directory: str):
        """Raises: UsageError  it is none, or its index is not sound."""
        self._name = directory
        self._fd = self._index = -1
        try:
            self._fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._index = os.open(INDEX, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._fd)
            self.connections = sorted(self._read(), key=lambda each: (each.began, each.id))
        except BaseException as error:
            there = self._fd >= 0
            self.close()
            if isinstance(error, FileNotFoundError) and there:
                raise UsageError(
                    f"{directory}: replay: is no capture: {INDEX} is missing"
                ) from error
            if isinstance(error, OSError):
                raise UsageError(f"{directory}: replay: {reason(error)}") from error
            raise

    def close(self) -> None:
        """May be called twice."""
        for fd in (self._fd, self._index):
            if fd >= 0:
                os.close(fd)
        self._fd = self._index = -1

    def chosen(self, ids: Sequence[str]) -> list[Recorded]:
        """Return the connections with these names, or all, in the order in which they began.

        Raises: UsageError  a name is not there.
        """
        known = {each.id for each in self.connections}
        wanted = set(ids) or known
        for name in ids:
            if name not in known:
                raise UsageError(f"{self._name}: replay: has no connection {name}")
        return [each for each in self.connections if each.id in wanted]

    def chunks(self, recorded: Recorded) -> list[tuple[int, bool, int]]:
        """Return milliseconds, up or down, and bytes of each chunk; no bytes: the end."""
        line = os.pread(self._index, recorded.length, recorded.offset)
        return [(moment, kind == "u", count) for moment, kind, count in json.loads(line)["chunks"]]

    def open(self, recorded: Recorded, kind: Literal["up", "down"]) -> int:
        """Open the bytes of one direction; -1: there are none.

        Raises: TransferError  they are not there, or not those that the index speaks of.
        """
        size = recorded.up if kind == "up" else recorded.down
        if not size:
            return -1
        name = f"{recorded.id}.{kind}"
        try:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._fd)
        except OSError as error:
            raise TransferError(f"{name}: open: {reason(error)}", errno=error.errno) from error
        found = os.fstat(fd).st_size
        if found != size:
            os.close(fd)
            raise TransferError(f"{name}: open: has {found} bytes, in the index it has {size}")
        return fd

    def _read(self) -> Iterable[Recorded]:
        """Raises: UsageError  a line is none of a capture; OSError."""
        offset = 0
        with open(self._index, "rb", closefd=False) as file:
            for number, line in enumerate(file, 1):
                try:
                    yield _recorded(line, offset)
                except (*_NO_LINE, _Unsound) as error:
                    place = f"{self._name}/{INDEX}: line {number}"
                    why = error.args[0] if isinstance(error, _Unsound) else "is none of a capture"
                    raise UsageError(f"{place}: {why}") from error
                offset += len(line)


class _Unsound(Exception):
    """What is wrong with a line, in words."""


# what JSON says that is none, or is nested too deep, and values of another type
_NO_LINE = (ValueError, KeyError, TypeError, AttributeError, RecursionError)


def _recorded(line: bytes, offset: int) -> Recorded:
    """Raises: _Unsound, and those of _NO_LINE  the line is none of a capture."""
    if not line.endswith(b"\n"):
        raise _Unsound("has no end: it is being written, or was cut")
    found = json.loads(line)
    if found["v"] != VERSION:
        raise _Unsound(f"is of version {found['v']}, not {VERSION}")
    if not ID.fullmatch(found["id"]):  # it becomes the name of a file
        raise _Unsound("has no name that a capture gives")
    counts = {"u": 0, "d": 0}
    for moment, kind, count in found["chunks"]:
        if type(moment) is not int or type(count) is not int or min(moment, count) < 0:
            raise ValueError
        counts[kind] += count
    if counts != {"u": found["up"], "d": found["down"]}:
        raise _Unsound("its chunks are not those of its bytes")
    began = float(found["began"])
    if not abs(began) < 1e12:  # nor is that a number
        raise ValueError
    return Recorded(
        found["id"],
        began,
        counts["u"],
        counts["d"],
        not any(found["missed"].values()) and "given_up" not in found,
        str(found["reason"]),
        offset,
        len(line),
    )
