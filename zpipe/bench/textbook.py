"""What textbooks say of each technique, and why what is measured here is not the same.

The figures are those for sending one file once from a disk to a network: the picture of a read into
the page cache, a copy to the program, a copy to the socket, and a send by the device. A system call
is two switches between user and kernel mode, which textbooks call context switches.

Knows figures, and nothing of how they came about.
"""

from __future__ import annotations

from zpipe.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zpipe.movers.contract import Cost


_SAME = 0.05  # of the switches


class Entry(Value):
    """`cpu` and `dma` copies of each byte, `switches` for each piece that is moved.

    `technique` is that of cells.TECHNIQUES. `calls` says why there are not as many switches,
    `fewer` and `more` why there are not as many CPU copies.
    """

    title: str
    technique: str
    cpu: int
    dma: int
    switches: int
    calls: str
    fewer: str = "what is not copied is not there, or goes by reference"
    more: str = "this sink copies"


_FULL = "a sink that was full ended the call early, and after a poll another one went on"

TEXTBOOK = (
    Entry(
        "read+write",
        "read+write",
        2,
        2,
        4,
        "a read and a write for each 256 KiB, the size of the buffer, and not one of each for all",
    ),
    Entry(
        "mmap+write",
        "mmap+write",
        1,
        2,
        4,
        "an mmap for each 4 MiB, and after each write an fstat, to notice that the file was cut",
    ),
    Entry(
        "sendfile",
        "sendfile",
        1,
        2,
        2,
        _FULL,
        fewer="the device of this route gathers from scattered pages, as in the next row",
    ),
    Entry(
        "gathering sendfile",
        "sendfile",
        0,
        2,
        2,
        _FULL,
        more="this sink does not take references to pages, it copies",
    ),
    Entry(
        "splice",
        "splice",
        0,
        2,
        4,
        "one call into a pipe and one out of it for each pipe full, and more where the sink was",
        more="a file takes no references: it copies, whatever SPLICE_F_MOVE asks for",
    ),
    Entry(
        "copy_file_range",
        "copy_file_range",
        1,
        2,
        2,
        "a call moves 64 MiB at the most, so that it can be interrupted",
    ),
    Entry(
        "direct I/O",
        "O_DIRECT",
        0,
        2,
        4,
        "a read and a write for each 2 MiB, by two threads side by side",
        more="only disks take part in direct I/O: into a socket or pipe the CPU copies",
    ),
    Entry(
        "copy-on-write",
        "reflink",
        0,
        0,
        2,
        "large files are shared by ranges",
    ),
    Entry(
        "tee",
        "tee",
        0,
        0,
        2,
        "before a tee for each output but one, a splice into a private pipe; after it, a splice out"
        " of each",
    ),
)


class Measured(Value):
    """What was found of one technique, on one route, at one size.

    `cost` is by the model. `calls`, `faults` are of one transfer; `from_disk` is the share of the
    bytes that were really read from a disk, None: there is no disk on the way.
    """

    cost: Cost
    size: int
    calls: float
    faults: float
    from_disk: float | None
    route: str

    @property
    def switches(self) -> float:
        """Changes between user and kernel mode for one transfer."""
        return 2 * self.calls


def differences(entry: Entry, found: Measured) -> list[str]:
    """Say in what a measurement is not the textbook's, and why; nothing where it is the same."""
    lines: list[str] = []
    cpu, dma = found.cost.cpu_copies, found.cost.dma_copies
    if cpu != entry.cpu:
        why = entry.fewer if cpu < entry.cpu else entry.more
        lines.append(f"{_number(cpu)} CPU {_copies(cpu)} and not {entry.cpu}: {why}")
    if abs(found.switches / entry.switches - 1) > _SAME:
        lines.append(f"{_number(found.switches)} switches and not {entry.switches}: {entry.calls}")
    if found.faults >= 1:
        count = _number(found.faults)
        noun = "fault" if count == "1" else "faults"
        lines.append(f"{count} page {noun}, which books leave out: each is two switches more")
    if dma != entry.dma:
        why = "loopback and pipes are no devices"
        if found.route == "file-file":
            why = "no device is on the way" if not dma else "blocks are read and written"
        lines.append(f"{_number(dma)} DMA {_copies(dma)} and not {entry.dma}: {why}")
    if dma and found.from_disk is not None and found.from_disk < 0.5:
        lines.append(
            f"{found.from_disk:.0%} of the bytes were read from the disk: the page cache had the"
            " others"
        )
    return lines


def _copies(count: float) -> str:
    return "copy" if count == 1 else "copies"


def _number(value: float) -> str:
    return f"{value:.2g}" if value < 10 else f"{value:.0f}"
