"""A source that must not change while it is read, and how much of it is wanted."""

from __future__ import annotations

import os

from zpipe.errors import SourceChanged
from zpipe.kernel.changes import changes
from zpipe.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zpipe.endpoints.contract import End
    from zpipe.graph.model import Wishes


class Watch:
    """Measures a regular source before it is read, and compares it afterwards.

    `limit` is the number of bytes to move, None: until the source ends.
    """

    def __init__(self, source: End, wishes: Wishes):
        self._source = source
        self._before = _measure(source)
        self._path = _path(source) if self._before else ""
        self.limit = _limit(source, wishes)

    def check(self, delivered: int, outcome: str = "") -> None:
        """Ask fstat whether a regular source is what it was; `outcome` ends the message.

        Raises: SourceChanged.
        """
        before = self._before
        # the size of a file of /proc is 0, and its times are those of the question
        if before is None or not before.st_size or self._source.facts.stable:
            return
        found = changes(before, os.fstat(self._source.fd))
        if found == ["ctime"] and _path(self._source) != self._path:
            return  # it was renamed, as logs are: that explains it
        if found:
            raise SourceChanged(
                f"{self._source.name}: read: the source changed while it was read"
                f" ({', '.join(found)}){'; ' if outcome else ''}{outcome}",
                delivered=delivered,
            )


def act(call: str, usual: str) -> str:
    """Name the act for people: the call where it says more than read or write."""
    plain = ("readv", "read", "recv", "write", "preadv", "pwrite", "splice", "poll")
    return usual if call in plain else call


def _path(source: End) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{source.fd}")
    except OSError:
        return ""  # no /proc here


def _measure(source: End) -> os.stat_result | None:
    """Return what later changes are measured against; a size that has moved by now counts."""
    facts = source.facts
    if facts.type != "regular" or facts.position is None:
        return None
    info = os.fstat(source.fd)
    source.facts = replace(facts, size=max(0, info.st_size - facts.position))
    return info


def _limit(source: End, wishes: Wishes) -> int | None:
    """Return how many bytes the hop is to move; None: until the source ends."""
    bounds = [bound for bound in (source.limit, wishes.length) if bound is not None]
    # a size of 0 may be that of a virtual file, which only its end tells
    if source.facts.size:
        bounds.append(source.facts.size)
    return min(bounds) if bounds else None
