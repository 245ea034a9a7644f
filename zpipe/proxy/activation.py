"""Sockets that whoever has started this process has passed to it: sd_listen_fds(3).

Knows the environment and the numbers of fds. No fd is looked at: what becomes of one is told by
`listening`.
"""

from __future__ import annotations

import os

from zpipe.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from zpipe.proxy.settings import Address

_FIRST = 3  # SD_LISTEN_FDS_START


def passed(environment: Mapping[str, str] = os.environ) -> list[tuple[int, str]]:
    """Return fds and names of the sockets that were passed to this process; none is looked at."""
    count = environment.get("LISTEN_FDS", "")
    if environment.get("LISTEN_PID") != str(os.getpid()) or not count.isdecimal():
        return []
    names = environment.get("LISTEN_FDNAMES", "").split(":")
    names += [""] * (int(count) - len(names))
    return [(_FIRST + place, names[place]) for place in range(int(count))]


def named(address: Address, environment: Mapping[str, str]) -> list[tuple[int, str]]:
    """Return the fds that `fd:N` or `fd:NAME` means, and what messages call them."""
    fds = passed(environment)
    if address.path.isdecimal():
        number = int(address.path)
        return [(number, described(number, dict(fds).get(number, "")))]
    found = [(fd, described(fd, name)) for fd, name in fds if name == address.path]
    if not found:
        names = ", ".join(dict.fromkeys(name for _, name in fds if name))
        what = f"passed are {names}" if names else "none was passed by name"
        raise UsageError(f"{address.text}: listen: no passed socket has this name; {what}")
    return found


def fds_of(address: Address, environment: Mapping[str, str] = os.environ) -> list[int]:
    """Return the fds that `fd:N` or `fd:NAME` means. Raises: UsageError  none has this name."""
    return [fd for fd, _ in named(address, environment)]


def described(fd: int, name: str) -> str:
    """Return what messages call an fd that was passed, under a name or an empty one."""
    return f"fd {fd} ({name})" if name else f"fd {fd}"
