"""Questions about an fd that fstat does not answer."""

from __future__ import annotations

import fcntl
import os

SIOCOUTQ = 0x5411

# statfs(2) f_type; names as in facts.NEVER_CLONES. ext2, ext3 and ext4 share one number.
_FILESYSTEMS = {
    0xEF53: "ext",
    0x01021994: "tmpfs",
    0x858458F6: "ramfs",
    0x9123683E: "btrfs",
    0x58465342: "xfs",
    0xCA451A4E: "bcachefs",
    0x2FC12FC1: "zfs",
    0x6969: "nfs",
    0xFF534D42: "cifs",
    0xFE534D42: "smb2",
    0x65735546: "fuse",
    0x794C7630: "overlay",
    0x9FA0: "proc",
    0x62656572: "sysfs",
    0x4D44: "vfat",
    0xF2F52010: "f2fs",
    0x73717368: "squashfs",
}


def status_flags(fd: int) -> int:
    """Return the open file description's flags (F_GETFL)."""
    return fcntl.fcntl(fd, fcntl.F_GETFL)


def set_nonblocking(fd: int, on: bool = True) -> None:
    """Set or clear O_NONBLOCK; for fds that are ours alone, since the description is shared."""
    os.set_blocking(fd, not on)


def filesystem(fd: int) -> str | None:
    """Return the name of the filesystem that an fd lives on; None for one not in the table.

    Source: statfs(2).
    """
    import ctypes

    from zpipe.kernel.libc import libc

    buffer = (ctypes.c_long * 64)()
    if libc().fstatfs(fd, buffer) != 0:
        return None
    return _FILESYSTEMS.get(buffer[0] & 0xFFFFFFFF)


def unsent(fd: int) -> int:
    """Return the bytes of a socket that its peer has not acknowledged (SIOCOUTQ).

    On loopback it is 0 as soon as they lie in the peer's queue, read or not.
    """
    from array import array

    count = array("i", [0])
    fcntl.ioctl(fd, SIOCOUTQ, count)
    return count[0]
