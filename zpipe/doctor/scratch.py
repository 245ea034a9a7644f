"""Things to try on: nameless files, pipes and connections that end with their block."""

from __future__ import annotations

import errno
import os
import socket
import tempfile
from contextlib import ExitStack

from zpipe.doctor.findings import NoPlace, Refused, Trying, errno_name
from zpipe.kernel.pipes import Pipe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

# two pages, of which no part looks like another
DATA = b"".join(number.to_bytes(4, "big") for number in range(2048))
# a filesystem without O_TMPFILE, and kernels that have never heard of it (open(2))
NO_TMPFILE = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOSYS})


class Scratch:
    """A block in which things are made, and closed at its end."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def keep(self, fd: int) -> int:
        """Close an fd at the end."""
        self._stack.callback(os.close, fd)
        return fd

    def pipe(self) -> Pipe:
        """Return a pipe that does not block."""
        with Trying("pipe2"):
            pipe = Pipe(1 << 16)
        self._stack.callback(pipe.close)
        return pipe

    def file(self, folder: str | None, data: bytes = DATA) -> int:
        """Return a nameless file, open for both, with `data` in it and at its beginning.

        Without a folder it is one in memory.

        Raises: NoPlace  no file can be made there.
        """
        try:
            fd = self.keep(nameless(folder))
            if data and os.pwrite(fd, data, 0) != len(data):
                raise OSError(errno.ENOSPC, "")
        except OSError as error:
            raise no_place(error, "here" if folder is not None else "in memory") from error
        return fd

    def again(self, fd: int, flags: int) -> int:
        """Open the same file once more, with flags of its own.

        Raises: NoPlace  there is no /proc.
        """
        try:
            return self.keep(os.open(f"/proc/self/fd/{fd}", flags | os.O_CLOEXEC))
        except FileNotFoundError:
            raise NoPlace("/proc/self/fd is not there") from None

    def close(self, end: socket.socket) -> socket.socket:
        """Close a socket at the end."""
        self._stack.callback(end.close)
        return end

    def listener(self) -> socket.socket:
        """Return a TCP listener on a free port of loopback."""
        with Trying("socket"):
            listener = self.close(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        with Trying("listen"):
            listener.bind(("127.0.0.1", 0))
            listener.listen(1)
        return listener

    def tcp(self) -> tuple[socket.socket, socket.socket]:
        """Return the two ends of a connection over loopback."""
        listener = self.listener()
        with Trying("socket"):
            one = self.close(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        with Trying("connect"):
            one.connect(listener.getsockname())
            other, _ = listener.accept()
        self.close(other)
        # bbr would spread a few bytes over milliseconds
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        other.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return one, other

    def unix(self) -> tuple[socket.socket, socket.socket]:
        """Return the two ends of a UNIX stream."""
        with Trying("socketpair"):
            one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        return self.close(one), self.close(other)


def no_place(error: OSError, where: str = "here") -> NoPlace:
    """Return what is to be told when there is nothing to try on."""
    number = error.errno or 0
    return NoPlace(f"no file can be made {where}: {errno_name(number)}, {os.strerror(number)}")


def nameless(folder: str | None) -> int:
    """Return a new file that has no name, or none any more; in memory without a folder.

    Raises: OSError
    """
    if folder is None:
        return os.memfd_create("zpipe-doctor", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in NO_TMPFILE:
            raise
    fd, name = tempfile.mkstemp(prefix=".zpipe-doctor-", dir=folder)
    os.unlink(name)
    return fd


def first_folder(folders: list[str]) -> str | None:
    """Return the first folder in which files can be made; None: there is none."""
    for folder in folders:
        try:
            os.close(nameless(folder))
        except OSError:
            continue
        return folder
    return None


def received(end: socket.socket, count: int) -> bytes:
    """Receive so many bytes, which are on their way."""
    data = b""
    while len(data) < count:
        some = end.recv(count - len(data))
        if not some:
            break
        data += some
    return data


def moved(call: str, count: int, wanted: int = len(DATA)) -> None:
    """Check that a call has moved all. Raises: Refused  it has not."""
    if count != wanted:
        raise Refused(call, 0, f"it moved {count} bytes of {wanted}, and raised no error")


def same(call: str, found: bytes, wanted: bytes = DATA) -> None:
    """Check what has arrived. Raises: Refused  it is not what was sent."""
    if found != wanted:
        raise Refused(call, 0, "it moved other bytes than were there, and raised no error")
