"""Questions about an fd that fstat does not answer."""

from __future__ import annotations

import fcntl
import os
import sys

SIOCOUTQ = 0x5411
FS_IOC_GETVERSION = 0x80087601  # _IOR('v', 1, long), of 64-bit kernels

# statfs(2) f_type; names as in facts.NEVER_CLONES. ext2, ext3 and ext4 share one number.
_FILESYSTEMS = {
    0xEF53: "ext4",  # and ext2 and ext3, which its code serves as a rule
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


def generation(fd: int) -> int | None:
    """Return what tells a file from those that had its inode number before; None: not known here.

    Source: FS_IOC_GETVERSION of ext4, xfs and btrfs, which write an int whatever its type says.
    """
    try:
        found: bytes = fcntl.ioctl(fd, FS_IOC_GETVERSION, bytes(8))
    except OSError:
        return None
    return int.from_bytes(found[:4], sys.byteorder)


def status_flags(fd: int) -> int:
    """Return the open file description's flags (F_GETFL)."""
    return fcntl.fcntl(fd, fcntl.F_GETFL)


def filesystem(fd: int) -> str | None:
    """Return the name of the filesystem that an fd lives on; None for one not in the table.

    The mount table tells by the device number, at a fortieth of the time that ctypes takes to
    load; btrfs gives each subvolume a number of its own, and is asked by statfs(2).
    """
    device = os.fstat(fd).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}".encode()
    try:
        with open("/proc/self/mountinfo", "rb", buffering=65536) as table:
            for line in table:
                words = line.split()
                if words[2] == wanted:
                    name = words[words.index(b"-") + 1].decode()
                    return "ext4" if name in ("ext2", "ext3", "ext4") else _known(name)
    except OSError:
        pass  # no /proc here
    import ctypes

    from zpipe.kernel.libc import libc

    buffer = (ctypes.c_long * 64)()
    if libc().fstatfs(fd, buffer) != 0:
        return None
    return _FILESYSTEMS.get(buffer[0] & 0xFFFFFFFF)


def _known(name: str) -> str | None:
    """Return the name that statfs would lead to: `nfs` for nfs4, `fuse` for fuse.sshfs."""
    name = "nfs" if name == "nfs4" else "fuse" if name.startswith("fuse") else name
    return name if name in _FILESYSTEMS.values() else None


def unsent(fd: int) -> int:
    """Return the bytes of a socket that its peer has not acknowledged (SIOCOUTQ).

    On loopback it is 0 as soon as they lie in the peer's queue, read or not.
    """
    return int.from_bytes(fcntl.ioctl(fd, SIOCOUTQ, bytes(4)), sys.byteorder)
