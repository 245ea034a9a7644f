"""Where the blocks of a file lie on its device, by FIEMAP: the proof of sharing and of holes."""

from __future__ import annotations

import fcntl
import os
import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

FS_IOC_FIEMAP = 0xC020660B
FIEMAP_FLAG_SYNC = 1
_SHARED = 0x2000
_HEAD, _EXTENT, _MOST = "QQIIII", "QQQ16xI12x", 512


class Extent(NamedTuple):
    """A run of blocks."""

    logical: int
    physical: int
    length: int
    shared: bool


def extents(path: str | Path) -> list[Extent]:
    """Return the extents of a file, after its data was written back."""
    size = struct.calcsize(_EXTENT)
    head = struct.calcsize(_HEAD)
    buffer = bytearray(struct.pack(_HEAD, 0, 2**64 - 1, FIEMAP_FLAG_SYNC, 0, _MOST, 0))
    buffer += bytes(size * _MOST)
    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, FS_IOC_FIEMAP, buffer)
    finally:
        os.close(fd)
    count = struct.unpack_from(_HEAD, buffer)[3]
    found = []
    for place in range(count):
        logical, physical, length, flags = struct.unpack_from(_EXTENT, buffer, head + place * size)
        found.append(Extent(logical, physical, length, bool(flags & _SHARED)))
    return found


def blocks(path: str | Path) -> set[int]:
    """Return the numbers of the 4 KiB blocks on the device that hold a file."""
    return {
        extent.physical // 4096 + number
        for extent in extents(path)
        for number in range(-(-extent.length // 4096))
    }
