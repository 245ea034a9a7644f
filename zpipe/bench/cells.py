"""What is measured: techniques, routes and sizes. Tables; measures nothing.

To measure one more technique, give it a line in `TECHNIQUES`, and one in textbook.py.
"""

from __future__ import annotations

from zpipe.values import Value

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

SIZES = (512, 4 * KIB, 64 * KIB, MIB, 64 * MIB)
RECORDS = tuple(128 << power for power in range(14))  # 128 B to 1 MiB
FEW_SIZES = (64 * KIB, 64 * MIB)
OUTPUTS = 3  # pipes of pipe -> pipes

# what a transfer moves before the first one that counts: loads code, touches buffers
WARM_UP = MIB


class Technique(Value):
    """`mover` carries it to one sink, `way` to several (zpipe.plan.fan); '': it cannot."""

    name: str
    mover: str = ""
    way: str = ""


TECHNIQUES = {
    technique.name: technique
    for technique in (
        Technique("read+write", "plain", "plain"),
        Technique("mmap+write", "mapped"),
        Technique("sendfile", "sendfile"),
        Technique("splice", "splice"),
        Technique("copy_file_range", "copy_range"),
        Technique("reflink", "reflink"),
        Technique("O_DIRECT", "direct"),
        Technique("tee", way="tee"),
    )
}


class Route(Value):
    """From where to where; `several`: to more than one sink."""

    name: str
    source: str
    sink: str
    several: bool = False

    @property
    def title(self) -> str:
        """The name for people: `file -> TCP`."""
        return f"{_shown(self.source)} -> {_shown(self.sink)}{'s' if self.several else ''}"


ROUTES = {
    route.name: route
    for route in (
        Route("file-file", "file", "file"),
        Route("file-tcp", "file", "tcp"),
        Route("file-pipe", "file", "pipe"),
        Route("tcp-tcp", "tcp", "tcp"),
        Route("pipe-pipes", "pipe", "pipe", several=True),
    )
}

# the log of a broker, to its consumer: not a route of the techniques
LOG = Route("log-tcp", "log", "tcp")


class Cell(Value):
    """One thing to measure: `size` bytes at a time, by a technique (or program), on a route."""

    technique: str
    route: Route
    size: int

    @property
    def family(self) -> tuple[str, str]:
        """What cells of other sizes share with it."""
        return self.technique, self.route.name


def _shown(kind: str) -> str:
    return "TCP" if kind == "tcp" else kind
