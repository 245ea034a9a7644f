"""FICLONE and FICLONERANGE: share blocks instead of copying them (btrfs, xfs, bcachefs, ...)."""

from __future__ import annotations

import fcntl

FICLONE = 0x40049409  # in the fcntl module only since Python 3.12
FICLONERANGE = 0x4020940D


def clone(src: int, dst: int) -> None:
    """Make the file `dst` share all blocks of the file `src`; its size becomes that of `src`.

    `dst` must not be larger than `src`. File positions do not move.

    Raises: OSError  EOPNOTSUPP: no reflinks here; EXDEV: two filesystems; EINVAL: larger target.
    Source: ioctl_ficlone(2).
    """
    fcntl.ioctl(dst, FICLONE, src)


def clone_range(src: int, dst: int, offset: int, count: int, target: int) -> None:
    """Share `count` bytes from `offset` of `src` at `target` of `dst`; 0 is "to the end".

    Offsets and count are multiples of the block size, save for a range that ends at the source's
    end of file.

    Raises: OSError  as `clone`, and EINVAL for a range that is not aligned or past the end.
    Source: ioctl_ficlonerange(2).
    """
    from struct import pack

    fcntl.ioctl(dst, FICLONERANGE, pack("qQQQ", src, offset, count, target))
