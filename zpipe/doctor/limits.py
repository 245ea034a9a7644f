"""Settings of the kernel and limits of this process that zpipe can run into."""

from __future__ import annotations

import os
import resource
from functools import partial

from zpipe.doctor.findings import Answer, Probe
from zpipe.units import format_size
from zpipe.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 1 << 20
FDS = 4096  # about two thousand connections of a proxy
_BREAK_TIME = 5  # seconds in which the holder of a lease has to notice and to finish
_DIRTY = 64 * MIB
_DIRTY_SETTINGS = ("dirty_bytes", "dirty_ratio")


class Setting(Value):
    """A file below /proc/sys, by its name as in sysctl(8), and how its text is judged."""

    name: str
    label: str
    judge: Callable[[str], Answer]
    effect: str = ""


def setting_probe(setting: Setting) -> Probe:
    """Return the question about a setting."""
    return Probe(setting.name, setting.label, partial(_judged, setting), setting.effect)


def _judged(setting: Setting) -> Answer:
    path = f"/proc/sys/{setting.name.replace('.', '/')}"
    try:
        text = _read(path).strip()
    except FileNotFoundError:
        folder = os.path.dirname(path)
        if setting.name.startswith("net.") and os.path.isdir(folder):  # it is of the host alone
            return Answer("unknown", "not shown in this network namespace")
        return Answer("unknown", f"{path} is not there")
    try:
        answer = setting.judge(text)
    except (ValueError, IndexError):
        return Answer("unknown", f"{path} says {text!r}")
    value: object = [int(word) if word.isdigit() else word for word in text.split()]
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return Answer(answer.state, answer.detail, value)


def _read(path: str) -> str:
    with open(path) as file:
        return file.read()


def number(text: str, place: int = 0) -> int:
    """Return one of the numbers of a setting. Raises: ValueError, IndexError."""
    return int(text.split()[place])


def at_least(least: int, unit: str = "", place: int = 0) -> Callable[[str], Answer]:
    """Return a judge that calls smaller numbers limited."""

    def judge(text: str) -> Answer:
        found = number(text, place)
        return Answer("ok" if found >= least else "limited", f"{found}{unit}")

    return judge


def size_at_least(least: int, place: int = 0, factor: int = 1) -> Callable[[str], Answer]:
    """Return a judge that calls smaller sizes limited."""

    def judge(text: str) -> Answer:
        found = number(text, place) * factor
        return Answer("ok" if found >= least else "limited", format_size(found))

    return judge


def _leases(text: str) -> Answer:
    return Answer("ok" if number(text) else "limited", "on" if number(text) else "off")


SETTINGS = (
    Setting(
        "fs.leases-enable",
        "fs.leases-enable",
        _leases,
        "nobody can be held off a source while it is read: --lease copies its bytes instead",
    ),
    Setting(
        "fs.lease-break-time",
        "fs.lease-break-time",
        at_least(_BREAK_TIME, " s"),
        "who is held off a source by a lease waits only so long: slow readers lose it",
    ),
)


def probes() -> list[Probe]:
    """Return the questions."""
    return [
        Probe(
            "open-files",
            "open files",
            open_files,
            "a proxy has room for fewer connections; it takes two fds for each",
        ),
        Probe("file-size", "file size", file_size, "larger files cannot be written"),
        *map(setting_probe, SETTINGS),
        Probe(
            "dirty-memory",
            "dirty memory",
            dirty_memory,
            "writers wait for the disk after so few bytes, however fast they come",
        ),
    ]


def open_files() -> Answer:
    """Judge the hard limit: a proxy takes all that it may without more rights."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    known = {"soft": _finite(soft), "hard": _finite(hard)}
    told = f"{_told(soft)}, and {_told(hard)} for a proxy, which raises it as far as it may"
    if soft == hard:
        told = _told(soft)
    few = hard != resource.RLIM_INFINITY and hard < FDS
    return Answer("limited" if few else "ok", told, known)


def file_size() -> Answer:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    known = {"soft": _finite(soft), "hard": _finite(hard)}
    if soft == resource.RLIM_INFINITY:
        return Answer("ok", "no limit", known)
    return Answer("limited", format_size(soft), known)


def _finite(limit: int) -> int | None:
    return None if limit == resource.RLIM_INFINITY else limit


def _told(limit: int) -> str:
    return "no limit" if limit == resource.RLIM_INFINITY else str(limit)


def dirty_memory() -> Answer:
    """Find out how many bytes may wait to be written before writers have to wait."""
    try:
        count, ratio = (number(_read(f"/proc/sys/vm/{name}")) for name in _DIRTY_SETTINGS)
    except FileNotFoundError as error:
        return Answer("unknown", f"{error.filename} is not there")
    told = "vm.dirty_bytes"
    if count == 0:
        # of what is free or can be freed, as the kernel reckons
        page = os.sysconf("SC_PAGE_SIZE")
        count = os.sysconf("SC_AVPHYS_PAGES") * page * ratio // 100
        told = f"vm.dirty_ratio {ratio}%"
        available = _available()
        if available is not None:
            count = available * ratio // 100
    value = {"bytes": count, "ratio": ratio}
    enough = count >= _DIRTY
    return Answer(
        "ok" if enough else "limited", f"{told}: {format_size(count)} may wait for the disk", value
    )


def _available() -> int | None:
    """Return the bytes of memory that are free or can be freed; None: it does not tell."""
    try:
        with open("/proc/meminfo") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None
