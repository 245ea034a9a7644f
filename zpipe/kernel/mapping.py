"""Parts of files mapped into memory: a window for write(2) only, and a mapping to work in.

Python code must never read the window: where the file was cut, that ends the process by SIGBUS.
write(2) on it is safe: the kernel answers with a short count, EFAULT, or NUL bytes up to the end
of the last page, which the caller has to find by comparing with fstat.
"""

from __future__ import annotations

import errno
import mmap

PAGE = mmap.PAGESIZE

_POPULATED = 256 << 20  # bytes of one call that cannot be interrupted
_POPULATE_READ = 22  # MADV_POPULATE_READ, Linux 5.14
_MS_SYNC = 4


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


class Mapping:
    """Map `count` bytes from `offset`, any offset and at least one byte, to read or write there.

    `view` is exactly the bytes asked for; `writable` mappings of a file that is not `private`
    change the file. Ranges are relative to `view`, and widened to whole pages.

    Raises: OSError     EACCES: the fd is not open for it; ENODEV: cannot be mapped; ENOMEM.
            ValueError  the file ends before the mapping does.
    Source: mmap(2).
    """

    __slots__ = ("_map", "_place", "_skip", "_whole", "view")

    def __init__(self, fd: int, offset: int, count: int, *, writable: bool, private: bool):
        from zpipe.kernel.copying import place_of

        self._skip = offset % PAGE
        self._map = mmap.mmap(
            fd,
            count + self._skip,
            flags=mmap.MAP_PRIVATE if private else mmap.MAP_SHARED,
            prot=mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0),
            offset=offset - self._skip,
        )
        self._place = place_of(self._map)
        self._lend()

    def _lend(self) -> None:
        self._whole = memoryview(self._map)
        self.view = self._whole[self._skip :]

    def close(self) -> None:
        """Unmap; `view` is released.

        Raises: BufferError  a slice of `view` is in use: all stays as it is.
        """
        self.view.release()
        self._whole.release()
        try:
            self._map.close()
        except BufferError:
            self._lend()
            raise

    def advise(self, advice: int, offset: int, count: int) -> None:
        """Tell the kernel how a range will be used. Raises: OSError. Source: madvise(2)."""
        self._call("madvise", offset, count, advice)

    def populate(self, offset: int, count: int) -> None:
        """Read a range into memory and map its pages, so that touching it does not wait.

        Raises: OSError  EFAULT: the file ends before the range does; EIO.
        Source: madvise(2), MADV_POPULATE_READ; MADV_WILLNEED before Linux 5.14.
        """
        end = offset + count
        try:
            for start in range(offset, end, _POPULATED):
                self._call("madvise", start, min(_POPULATED, end - start), _POPULATE_READ)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self.advise(mmap.MADV_WILLNEED, offset, count)

    def synchronize(self, offset: int, count: int) -> None:
        """Wait until what was stored into a range is on the disk.

        Raises: OSError  EIO, ENOSPC: it could not be written.
        Source: msync(2), MS_SYNC.
        """
        self._call("msync", offset, count, _MS_SYNC)

    def resident(self, offset: int, count: int) -> bool:
        """Tell whether all pages of a range are in memory at this moment.

        True, too, for a file that the process may not write and does not own (Linux 5.2).

        Source: mincore(2).
        """
        import ctypes

        size = min(count, _POPULATED)
        states = (ctypes.c_ubyte * (size // PAGE + 2))()
        for start in range(offset, offset + count, size):
            part = min(size, offset + count - start)
            pages = self._call("mincore", start, part, states)
            if any(not state & 1 for state in states[:pages]):
                return False
        return True

    def _call(self, name: str, offset: int, count: int, argument: object) -> int:
        """Make a call on the pages of a range; return how many they are."""
        from ctypes import c_size_t, c_void_p

        from zpipe.kernel.libc import checked, libc

        first = (self._skip + offset) // PAGE * PAGE
        length = self._skip + offset + count - first
        # through ctypes others run meanwhile; mmap's own methods would hold them all up
        checked(getattr(libc(), name)(c_void_p(self._place + first), c_size_t(length), argument))
        return -(-length // PAGE)
