"""The model of what a hop costs, by halves: into a pipe, out of a pipe, and by DMA.

The numbers are those of Linux 6.x, read in its source and checked by experiment: splice from a
page-cache file passes references (filemap_splice_read), splice to a buffered file copies once
(iter_file_splice_write; SPLICE_F_MOVE does nothing since 2.6.21), sockets take references where
the device gathers from scattered pages (MSG_SPLICE_PAGES).
"""

from __future__ import annotations

from zpipe.kernel.transfer import SMALL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zpipe.facts import FdFacts

MIB = 1 << 20


def into_pipe(source: FdFacts) -> float:
    """CPU copies of a byte that splice takes from a source into a pipe."""
    if source.on_disk:
        return 1 if source.filesystem in ("proc", "sysfs") else 0
    if source.type in ("pipe", "tcp", "unix"):
        return 0  # page fragments pass by reference; a small linear head of each packet is copied
    return 1


def out_of_pipe(sink: FdFacts) -> float:
    """CPU copies of a byte that splice gives from a pipe to a sink."""
    if sink.on_disk:
        return 0 if sink.direct else 1
    if sink.type in ("pipe", "unix"):
        return 0
    if sink.type in ("tcp", "datagram"):
        return 0 if sink.scatter_gather in (True, None) else 1
    return 0 if sink.generated else 1


def by_user(facts: FdFacts) -> float:
    """CPU copies of a byte that passes between user memory and an end by read or write."""
    return 0 if facts.generated and facts.device == (1, 3) else 1


def dma(source: FdFacts, sink: FdFacts) -> float:
    """DMA copies of a byte: a disk read unless it is cached, a disk write some time, a network.

    tmpfs, pipes, UNIX sockets and loopback have no device.
    """
    return _devices(source) + _devices(sink)


def _devices(facts: FdFacts) -> int:
    if facts.on_disk:
        return 0 if facts.filesystem in ("tmpfs", "ramfs", "proc", "sysfs") else 1
    return 1 if facts.type in ("tcp", "datagram") and facts.route not in (None, "lo") else 0


def few(source: FdFacts) -> str:
    """Return why read and write are quicker for a file that is this small, or ''."""
    if source.type != "regular" or source.size is None or source.size > SMALL:
        return ""
    return f"{source.size} bytes are few: read and write are quicker"
