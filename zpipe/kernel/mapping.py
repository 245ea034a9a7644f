"""A window of a file mapped into memory, for write(2) only.

Python code must never read the mapping: where the file was cut, that ends the process by SIGBUS.
write(2) on it is safe: the kernel answers with a short count, EFAULT, or NUL bytes up to the end
of the last page, which the caller has to find by comparing with fstat.
"""

from __future__ import annotations

import mmap

PAGE = mmap.PAGESIZE


class Window:
    """Map `count` bytes from `offset`, any offset: the page boundary is found here.

    `view` is exactly the bytes asked for.

    Raises: OSError     ENODEV: cannot be mapped.
            ValueError  the file ends before the window begins.
    """

    __slots__ = ("_map", "_whole", "view")

    def __init__(self, fd: int, offset: int, count: int):
        skip = offset % PAGE
        self._map = mmap.mmap(
            fd,
            count + skip,
            flags=mmap.MAP_SHARED,
            prot=mmap.PROT_READ,
            offset=offset - skip,
        )
        self._whole = memoryview(self._map)
        self.view = self._whole[skip : skip + count]

    def close(self) -> None:
        """Unmap; every slice of `view` must have been released."""
        self.view.release()
        self._whole.release()
        self._map.close()
