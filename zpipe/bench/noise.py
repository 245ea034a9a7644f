"""How quiet the machine was while it was measured, and what it is.

The same small loop is timed before each round and at the end: on a quiet machine it always takes
the same time. What else ran is read from /proc, before and after; where that tells nothing, nothing
is said.
"""

from __future__ import annotations

import os
import statistics
import time
from dataclasses import dataclass

from zpipe.bench.cells import GIB, KIB

_LOOPS = 7  # each time
_TURNS = 20_000  # of the loop, about a millisecond
_BUSY = 0.05  # of a processor: another process that is named
_NAMED = 3
_WIDE = 0.10  # from the quickest loop to the third quartile
_STOLEN = 0.02
_LOAD = 0.5  # for each processor, before anything is measured

_GOVERNOR = "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"
_STEADY = ("performance", "userspace")


@dataclass(frozen=True, slots=True)
class Busy:
    """Another process: its name, and how much of a processor it used."""

    name: str
    pid: int
    share: float


@dataclass(frozen=True, slots=True)
class Noise:
    """`loop`: median, quickest and slowest of the calibration loop, in seconds; `spread`: from the
    quickest to the third quartile, by the quickest. `load`: the average of a minute before and
    after. `stolen`: share of the processors that the machine below has kept, None: not known.
    """

    loop: tuple[float, float, float]
    spread: float
    load: tuple[float, float]
    processors: int
    governor: str | None
    stolen: float | None
    busy: tuple[Busy, ...]

    @property
    def reasons(self) -> list[str]:
        """Why the machine was noisy; nothing: it was quiet."""
        found = []
        if self.spread > _WIDE:
            found.append(f"the same loop took up to {self.spread:.0%} longer than the quickest one")
        if self.load[0] > _LOAD * self.processors:
            found.append(f"the load was {self.load[0]:.2f} before anything was measured")
        if self.stolen is not None and self.stolen > _STOLEN:
            found.append(f"{self.stolen:.0%} of the processors went to other virtual machines")
        if self.busy:
            names = ", ".join(f"{each.name} ({each.share:.0%})" for each in self.busy)
            found.append(f"others used the processors: {names}")
        if self.governor is not None and self.governor not in _STEADY:
            found.append(f"the processors change their frequency (governor {self.governor})")
        return found


class Listener:
    """Listens from its making to `heard`."""

    def __init__(self) -> None:
        self._loops: list[float] = []
        self._began = time.monotonic()
        self._load = _load()
        self._stat = _stat()
        self._before = _processes()

    def calibrate(self) -> None:
        """Time the loop a few times."""
        for _ in range(_LOOPS):
            began = time.perf_counter()
            total = 0
            for number in range(_TURNS):
                total += number & 7
            self._loops.append(time.perf_counter() - began)

    def heard(self) -> Noise:
        """Return what there was."""
        self.calibrate()
        loops = self._loops
        quickest = min(loops)
        third = statistics.quantiles(loops, n=4, method="inclusive")[2]
        return Noise(
            (statistics.median(loops), quickest, max(loops)),
            third / quickest - 1,
            (self._load, _load()),
            len(os.sched_getaffinity(0)),
            _line(_GOVERNOR),
            self._stolen(),
            self._busy(),
        )

    def _stolen(self) -> float | None:
        now = _stat()
        if self._stat is None or now is None:
            return None
        total = now[0] - self._stat[0]
        return (now[1] - self._stat[1]) / total if total > 0 else 0.0

    def _busy(self) -> tuple[Busy, ...]:
        seconds = max(1e-9, time.monotonic() - self._began)
        found = []
        for (pid, began), (name, used) in _processes().items():
            share = (used - self._before.get((pid, began), ("", 0.0))[1]) / seconds
            if share >= _BUSY and pid != os.getpid():
                found.append(Busy(name, pid, share))
        return tuple(sorted(found, key=lambda each: -each.share)[:_NAMED])


def _load() -> float:
    try:
        return os.getloadavg()[0]
    except OSError:
        return 0.0


def _stat() -> tuple[int, int] | None:
    """Return the ticks of all processors, and those of them that were stolen."""
    line = _line("/proc/stat")
    words = line.split()[1:9] if line else []
    return (sum(map(int, words)), int(words[7])) if len(words) == 8 else None


def _processes() -> dict[tuple[int, str], tuple[str, float]]:
    """Return name and processor seconds of each process, by pid and start."""
    found: dict[tuple[int, str], tuple[str, float]] = {}
    tick = os.sysconf("SC_CLK_TCK")
    try:
        names = os.listdir("/proc")
    except OSError:
        return found
    for name in names:
        if not name.isdigit():
            continue
        line = _line(f"/proc/{name}/stat")
        if line is None:
            continue  # it has ended
        before, _, after = line.rpartition(")")
        words = after.split()
        found[int(name), words[19]] = (
            before.partition("(")[2],
            (int(words[11]) + int(words[12])) / tick,
        )
    return found


def _line(path: str) -> str | None:
    """Return the first line of a file; None: there is none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.readline().strip()
    except OSError:
        return None


def machine(folder: str) -> dict[str, object]:
    """Return what the figures were taken on: kernel, processor, memory, filesystem, network."""
    import platform

    from zpipe.kernel.inspect import filesystem

    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        kind = filesystem(fd)
    finally:
        os.close(fd)
    return {
        "kernel": platform.release(),
        "machine": platform.machine(),
        "processor": _model(),
        "processors": len(os.sched_getaffinity(0)),
        "memory": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "python": platform.python_version(),
        "filesystem": kind,
        "congestion_control": _line("/proc/sys/net/ipv4/tcp_congestion_control"),
    }


def _model() -> str | None:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file.read(16 * KIB).splitlines():
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return None


def described(found: dict[str, object]) -> str:
    """Return a machine in a line."""
    memory = found["memory"]
    assert isinstance(memory, int)
    parts = [
        f"Linux {found['kernel']} {found['machine']}",
        f"{found['processors']} processors"
        + (f" ({found['processor']})" if found["processor"] else ""),
        f"{memory / GIB:.0f} GiB",
        f"files on {found['filesystem'] or 'an unknown filesystem'}",
        f"Python {found['python']}",
    ]
    return ", ".join(parts)
