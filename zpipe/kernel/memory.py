"""Memory that the standard library only half offers: sealed memfds, aligned mappings."""

from __future__ import annotations

import fcntl
import mmap
import os

from zpipe.kernel.copying import place_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    pass

PAGE = mmap.PAGESIZE

F_SEAL_SEAL = 0x01
F_SEAL_SHRINK = 0x02
F_SEAL_GROW = 0x04
F_SEAL_WRITE = 0x08
MFD_NOEXEC_SEAL = 0x08  # Linux 6.3

_F_ADD_SEALS = 1033
_F_GET_SEALS = 1034


def memfd(name: str) -> int:
    """Return the fd of an unnamed file in memory, empty, that takes seals and is never executed.

    Raises: OSError  EMFILE, ENFILE, ENOMEM; ENOSYS, EPERM: a sandbox refuses the call.
    Source: memfd_create(2).
    """
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        return os.memfd_create(name, flags | MFD_NOEXEC_SEAL)
    except OSError:
        # EINVAL before 6.3; whatever else is wrong, the call without the flag says it too
        return os.memfd_create(name, flags)


def add_seals(fd: int, seals: int) -> None:
    """Forbid for ever what `seals` name, to everybody who has this file.

    Raises: OSError  EPERM: sealed by F_SEAL_SEAL, or not writable; EBUSY: F_SEAL_WRITE while it is
                     mapped for writing; EINVAL: not a file that takes seals.
    Source: fcntl(2), "File Sealing".
    """
    fcntl.fcntl(fd, _F_ADD_SEALS, seals)


def get_seals(fd: int) -> int:
    """Return the seals of a file.

    Raises: OSError  EINVAL: not a file that takes seals.
    """
    return fcntl.fcntl(fd, _F_GET_SEALS)


def is_eventfd(fd: int) -> bool:
    """Tell whether an fd is an eventfd: nothing but its name in /proc says so."""
    try:
        return os.readlink(f"/proc/self/fd/{fd}") == "anon_inode:[eventfd]"
    except OSError:
        return False


def aligned(size: int, alignment: int) -> tuple[mmap.mmap, int]:
    """Map zeroed memory and return it with the place where `size` aligned bytes begin.

    It is shared with children that are forked, as open(2) demands of memory for O_DIRECT: of
    private memory a fork during a transfer can leave the bytes in the wrong process. What is
    mapped too much for the sake of alignment is never touched, and so costs addresses only.

    Raises: OSError  ENOMEM.
    """
    if alignment <= PAGE:
        return mmap.mmap(-1, size), 0
    found = mmap.mmap(-1, size + alignment - PAGE)
    return found, -place_of(found) % alignment
