"""How large pipes may be, and how many large ones this user really gets."""

from __future__ import annotations

import os
import resource

from zpipe.doctor.findings import Answer, Probe, Refused, Trying, errno_name
from zpipe.doctor.limits import Setting, number, setting_probe
from zpipe.doctor.scratch import Scratch
from zpipe.kernel.mapping import PAGE
from zpipe.kernel.pipes import CAPACITY, get_capacity, set_capacity
from zpipe.units import format_size

# pipes of 1 MiB that one copy with several outputs asks for at the most
ENOUGH = 16
_MOST = 128  # that are tried: twice what the kernel's default leaves to an unprivileged user
_SPARE = 32  # fds that are left alone

SETTINGS = (
    Setting(
        "fs.pipe-max-size",
        "fs.pipe-max-size",
        lambda text: Answer(
            "ok" if number(text) >= CAPACITY else "limited", format_size(number(text))
        ),
        "zpipe asks for pipes of 1 MiB: with smaller ones it makes more system calls for each MiB",
    ),
    Setting(
        "fs.pipe-user-pages-soft",
        "fs.pipe-user-pages-soft",
        lambda text: Answer("fact", _pages(number(text))),
    ),
    Setting(
        "fs.pipe-user-pages-hard",
        "fs.pipe-user-pages-hard",
        lambda text: Answer("fact", _pages(number(text))),
    ),
)


def probes() -> list[Probe]:
    """Return the questions."""
    return [
        *map(setting_probe, SETTINGS),
        Probe(
            "new-pipe",
            "a new pipe",
            new_pipe,
            "zpipe reads and writes where a pipe of its own would be too small",
        ),
        Probe(
            "grown-pipe",
            "a pipe, grown",
            grown_pipe,
            "pipes stay as they are: more system calls for each MiB",
        ),
        Probe(
            "large-pipes",
            "pipes of 1 MiB",
            large_pipes,
            "several outputs at once and busy proxies get smaller pipes, or read and write",
        ),
    ]


def _pages(count: int) -> str:
    if count == 0:
        return "no limit"
    return f"{count} pages: {format_size(count * PAGE)} for all pipes of an unprivileged user"


def new_pipe() -> Answer:
    """Look at the capacity of a pipe as it comes: 8 KiB once the user's quota is used up."""
    with Scratch() as scratch:
        reader, _ = _made(scratch)
        with Trying("fcntl(F_GETPIPE_SZ)"):
            capacity = get_capacity(reader)
    if capacity < 1 << 16:
        told = f"{format_size(capacity)}: other pipes of this user take up the quota"
        return Answer("limited", told, capacity)
    return Answer("ok", format_size(capacity), capacity)


def grown_pipe() -> Answer:
    with Scratch() as scratch:
        _, writer = _made(scratch)
        with Trying("fcntl(F_SETPIPE_SZ)"):
            capacity = set_capacity(writer, CAPACITY)
    if capacity < CAPACITY:
        return Answer("limited", f"{format_size(capacity)} of 1 MiB asked for", capacity)
    return Answer("ok", f"{format_size(capacity)}", capacity)


def large_pipes() -> Answer:
    """Make pipes of 1 MiB until one is refused, and give all back at once."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    fds = _MOST * 2 if soft == resource.RLIM_INFINITY else soft - _SPARE
    most = max(0, min(_MOST, fds // 2))
    made, then = 0, ""
    with Scratch() as scratch:
        try:
            while made < most:
                _, writer = _made(scratch)
                if set_capacity(writer, CAPACITY) < CAPACITY:
                    break
                made += 1
        except Refused as error:
            then = f"no pipe at all ({errno_name(error.errno)})"
        except PermissionError:
            reader, _ = _made(scratch)
            then = f"they stay at {format_size(get_capacity(reader))}"
    value = {"count": made, "tried": most}
    if made == most < ENOUGH:
        return Answer("unknown", "there are too few fds to try it", value)
    if made == most:
        told = f"{made} at once were granted; more were not tried"
        return Answer("ok", told, value)
    told = f"{made} at once; then {then or 'they are smaller'}"
    return Answer("ok" if made >= ENOUGH else "limited" if made else "refused", told, value)


def _made(scratch: Scratch) -> tuple[int, int]:
    with Trying("pipe2"):
        reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    return scratch.keep(reader), scratch.keep(writer)
