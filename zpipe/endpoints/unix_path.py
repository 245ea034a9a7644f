"""The path of a UNIX socket that listens: made, given its mode and owner, removed.

Where others may write to the folder, a name can mean another file from one call to the next. So a
path is made with a mode that lets nobody else in, and that no socket in use has: by this it is
known again, and what is done to it afterwards is done to that file, whatever its name has come to
mean.
"""

from __future__ import annotations

import os
import socket
import stat

Identity = tuple[int, int]
AS_IT_IS = (-1, -1)  # user and group
_MADE = 0o200  # its owner can find out that nobody listens, should we die before it has its mode


def bind(end: socket.socket, path: str) -> Identity:
    """Bind a socket to a path that nobody else can connect to yet. Return what it is known by.

    Raises: OSError  also where the path is another file already.
    """
    # Linux: the inode that bind makes has the mode of the socket's own less the umask, but not
    # its owner
    os.fchmod(end.fileno(), _MADE)
    end.bind(path)
    found = os.lstat(path)
    if not stat.S_ISSOCK(found.st_mode) or found.st_uid != os.geteuid():
        raise _replaced(path)
    if stat.S_IMODE(found.st_mode) & ~_MADE:
        raise OSError(f"{path} is another file by now, or its filesystem keeps no modes")
    return found.st_dev, found.st_ino


def give(path: str, known_by: Identity, mode: int, owner: tuple[int, int] = AS_IT_IS) -> None:
    """Give a path that `bind` has made a mode and an owner.

    Raises: OSError  also where the path is another file by now: that one is left alone.
    """
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if _identity(os.fstat(fd)) != known_by:
            raise _replaced(path)
        # fchmod(2) and fchown(2) take no O_PATH, and fchmodat2(2) has come with Linux 6.6 only
        itself = f"/proc/self/fd/{fd}"
        try:
            if owner != AS_IT_IS:
                os.chown(itself, *owner)
            os.chmod(itself, mode)
        except FileNotFoundError:
            raise OSError("its mode takes /proc, which is not there") from None
    finally:
        os.close(fd)


def remove(path: str, known_by: Identity) -> None:
    """Remove a path that `bind` has made, unless it is another file by now. Raises: OSError."""
    if _identity(os.lstat(path)) == known_by:
        os.unlink(path)


def _identity(found: os.stat_result) -> Identity:
    return found.st_dev, found.st_ino


def _replaced(path: str) -> OSError:
    return OSError(f"{path} is another file by now")
