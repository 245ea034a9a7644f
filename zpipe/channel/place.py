"""A place in something open: an fd, an offset into it, and what kind of thing it is."""

from __future__ import annotations

import os
import stat
import sys

from zpipe.kernel.inspect import status_flags

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class HasFileno(Protocol):
        """What Python calls a file: sockets, pipes and processes have it, too."""

        def fileno(self) -> int: ...


def fd_of(end: int | HasFileno) -> int:
    """Return the fd of what has one."""
    return end if isinstance(end, int) else end.fileno()


# what may make a system call answer otherwise for a file that is the same in all else
_FLAGS = os.O_ACCMODE | os.O_APPEND | os.O_DIRECT


class Place:
    """Where bytes are read or written. An offset of None is the fd's own position, or a stream.

    Raises: OSError     EBADF: not open.
            TypeError   a TLS socket: what goes through its fd is not what is meant.
            ValueError  a socket that keeps message boundaries, which a file has not.
    """

    __slots__ = (
        "_end",
        "append",
        "direct",
        "fd",
        "info",
        "kind",
        "offset",
        "on_disk",
        "pipe",
        "regular",
        "socket",
    )

    def __init__(self, end: int | HasFileno, offset: int | None):
        # this is all that a small transfer costs beside its one system call
        self._end = end
        self.fd = fd = fd_of(end)
        self.offset = offset
        self.info = info = os.fstat(fd)
        flags = status_flags(fd)
        self.append = bool(flags & os.O_APPEND)
        self.direct = bool(flags & os.O_DIRECT)
        kind = stat.S_IFMT(info.st_mode)
        detail: object = info.st_rdev
        self.regular = self.pipe = self.socket = False
        if kind == stat.S_IFREG:
            self.regular = True
            detail = info.st_dev
        elif kind == stat.S_IFIFO:
            self.pipe = True
        elif kind == stat.S_IFSOCK:
            self.socket = True
            detail = self._socket_kind()
        self.on_disk = self.regular or kind == stat.S_IFBLK
        self.kind = (kind, detail, flags & _FLAGS)

    @property
    def name(self) -> str:
        named = getattr(self._end, "name", None)
        return os.fsdecode(named) if isinstance(named, str | bytes) else f"fd {self.fd}"

    def _socket_kind(self) -> tuple[int, int]:
        import socket

        end = self._end
        if isinstance(end, socket.socket):
            tls = sys.modules.get("ssl")  # whoever has such a socket has loaded it
            if tls is not None and isinstance(end, tls.SSLSocket):
                raise TypeError("a TLS socket: its fd carries what is encrypted; use its methods")
            family, kind = end.family, end.type
        else:
            # asked of a duplicate: it is closed whatever happens
            with socket.socket(fileno=os.dup(self.fd)) as asked:
                family, kind = asked.family, asked.type
        if kind != socket.SOCK_STREAM:
            raise ValueError(
                f"{self.name}: {kind.name} keeps message boundaries, which a file has not"
            )
        return int(family), int(kind)

    def same_file(self, other: Place) -> bool:
        """Tell whether both are in one regular file."""
        ours, theirs = self.info, other.info
        return self.regular and (ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino)

    def advance(self, count: int) -> None:
        """Go on by so many bytes; where the fd's own position is meant, the kernel does."""
        if self.offset is not None:
            self.offset += count

    def ended(self) -> bool:
        """Tell whether there is nothing more to read; a stream is asked by whoever reads it."""
        if self.offset is None:
            return True
        try:
            return not os.pread(self.fd, 1, self.offset)
        except OSError:
            return False  # let the next one say it

    def write(self, data: memoryview) -> int:
        """Write some of `data` here; return the bytes. Raises: OSError."""
        if self.offset is None:
            return os.write(self.fd, data)
        return os.pwrite(self.fd, data, self.offset)

    def read(self, buffer: memoryview) -> int:
        """Read some bytes from here; 0: the end. Raises: OSError."""
        if self.offset is None:
            return os.readv(self.fd, [buffer])
        return os.preadv(self.fd, [buffer], self.offset)
