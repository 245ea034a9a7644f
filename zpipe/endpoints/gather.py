"""Ask the kernel what an fd is: everything that a plan wants to know beforehand."""

from __future__ import annotations

import os
import stat

from zpipe.facts import FdFacts
from zpipe.kernel import inspect, pipes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zpipe.facts import FdType

# devices of memory (major 1) that give or take bytes without ever waiting
_GENERATED = {3: "null", 5: "zero", 7: "full", 8: "random", 9: "urandom"}


def gather(fd: int, *, owned: bool = True, fresh: bool = False) -> FdFacts:
    """Return the facts of an open fd. `owned`: opened by us. `fresh`: a sink that holds nothing.

    Raises: OSError  EBADF: not open.
    """
    info = os.fstat(fd)
    flags = inspect.status_flags(fd)
    access = flags & os.O_ACCMODE
    device = (os.major(info.st_rdev), os.minor(info.st_rdev)) if info.st_rdev else None
    kind = _type(fd, info, device)
    on_disk = kind in ("regular", "block")
    position = os.lseek(fd, 0, os.SEEK_CUR) if on_disk else None
    size = None
    if position is not None:
        end = info.st_size if kind == "regular" else os.lseek(fd, 0, os.SEEK_END)
        os.lseek(fd, position, os.SEEK_SET)
        size = max(0, end - position)
    route, gathers = _route(fd) if kind == "tcp" else (None, None)
    return FdFacts(
        type=kind,
        readable=access != os.O_WRONLY,
        writable=access != os.O_RDONLY,
        position=position,
        size=size,
        identity=identity(info),
        device=device,
        allocated=info.st_blocks * 512 if kind == "regular" else None,
        append=bool(flags & os.O_APPEND),
        direct=bool(flags & os.O_DIRECT),
        capacity=pipes.get_capacity(fd) if kind == "pipe" else None,
        nonblocking=bool(flags & os.O_NONBLOCK),
        owned=owned,
        fresh=fresh,
        filesystem=inspect.filesystem(fd) if on_disk else None,
        scatter_gather=gathers,
        route=route,
        generated=kind == "character" and device is not None and _is_generated(device),
    )


def identity(info: os.stat_result) -> tuple[int, int]:
    """Return what makes two names one file: device and inode, or a block device's own number."""
    if stat.S_ISBLK(info.st_mode):
        return (-1, info.st_rdev)
    return (info.st_dev, info.st_ino)


def preview_path(path: str) -> FdFacts | None:
    """Return likely facts of a path without opening anything that could wait; None: no such file.

    Raises: OSError  it cannot be looked at.
    """
    try:
        info = os.stat(path)
    except FileNotFoundError:
        return None
    device = (os.major(info.st_rdev), os.minor(info.st_rdev)) if info.st_rdev else None
    if stat.S_ISREG(info.st_mode) or stat.S_ISBLK(info.st_mode):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except PermissionError:
            if not os.access(path, os.W_OK):
                raise
            # a sink that may be written and not read; nothing is written here
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            return gather(fd)
        finally:
            os.close(fd)
    kind = _type(-1, info, device)
    generated = kind == "character" and device is not None and _is_generated(device)
    return FdFacts(kind, device=device, generated=generated, nonblocking=True)


def _is_generated(device: tuple[int, int]) -> bool:
    return device[0] == 1 and device[1] in _GENERATED


def _type(fd: int, info: os.stat_result, device: tuple[int, int] | None) -> FdType:
    mode = info.st_mode
    if stat.S_ISREG(mode):
        return "regular"
    if stat.S_ISFIFO(mode):
        return "pipe"
    if stat.S_ISSOCK(mode):
        return _socket_type(fd)
    if stat.S_ISBLK(mode):
        return "block"
    if stat.S_ISDIR(mode):
        return "directory"
    if stat.S_ISCHR(mode):
        # majors of terminals: 4 and 5 (tty, console), 136..143 (pseudo terminals)
        terminal = os.isatty(fd) if fd >= 0 else device is not None and device[0] in (4, 5, 136)
        return "tty" if terminal else "character"
    return "other"


def _socket_type(fd: int) -> FdType:
    import socket

    if fd < 0:
        return "unix"
    with socket.socket(fileno=os.dup(fd)) as end:
        if end.type == socket.SOCK_STREAM:
            if end.family in (socket.AF_INET, socket.AF_INET6):
                return "tcp"
            return "unix" if end.family == socket.AF_UNIX else "other"
        if end.type == socket.SOCK_SEQPACKET:
            return "seqpacket"
        return "datagram" if end.type == socket.SOCK_DGRAM else "other"


def _route(fd: int) -> tuple[str | None, bool | None]:
    import socket

    from zpipe.kernel.network import gathers, route_device

    with socket.socket(fileno=os.dup(fd)) as end:
        try:
            address = str(end.getpeername()[0])
        except OSError:
            return None, None
        family = end.family
    mapped = address.removeprefix("::ffff:")
    if "." in mapped:
        family, address = socket.AF_INET, mapped
    device = route_device(family, address)
    return device, gathers(device) if device is not None else None
