"""Digests of what is copied, computed beside the copying; and of what a disk holds afterwards."""

from __future__ import annotations

import os

from zpipe.errors import TransferError, reason
from zpipe.kernel.direct import aligned_buffer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

VERIFYING = "sha256"
_PIECE = 1 << 20
_ALIGN = 4096
_ZEROS = bytes(1 << 16)
_THREAD_FROM = 4 << 20  # bytes, from which on a thread is worth it


class Digest:
    """A digest that may be computed by a thread: hashing lets go of the interpreter."""

    def __init__(self, algorithm: str, expected: int, *, wants_holes: bool):
        import hashlib

        self.wants_holes = wants_holes
        self._hash = hashlib.new(algorithm)
        self._thread: Any = None
        if expected >= _THREAD_FROM:
            import threading
            from _queue import SimpleQueue

            self._work: SimpleQueue[memoryview | None] = SimpleQueue()
            self._settled: SimpleQueue[None] = SimpleQueue()
            self._busy = False
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()

    def update(self, piece: memoryview | bytes) -> None:
        """Take bytes, which must stay as they are until the next call but one, or `settle`."""
        if self._thread is None:
            self._hash.update(piece)
            return
        self.settle()
        self._busy = True
        self._work.put(memoryview(piece))

    def settle(self) -> None:
        """Wait until everything is taken."""
        if self._thread is not None and self._busy:
            self._settled.get()
            self._busy = False

    def zeros(self, count: int) -> None:
        """Take as many zeros."""
        while count > 0:
            self.update(_ZEROS[: min(count, len(_ZEROS))])
            count -= len(_ZEROS)

    def read(self, fd: int, begin: int, end: int) -> None:
        """Take a range of a file. Raises: OSError."""
        pieces = [memoryview(bytearray(_PIECE)), memoryview(bytearray(_PIECE))]
        turn = 0
        while begin < end:
            piece = pieces[turn][: min(_PIECE, end - begin)]
            turn = 1 - turn
            got = os.preadv(fd, [piece], begin)
            if not got:
                break
            self.update(piece[:got])
            begin += got
        self.settle()

    def hex(self) -> str:
        """Return the digest, and end the thread."""
        self.close()
        return str(self._hash.hexdigest())

    def close(self) -> None:
        """End the thread. May be called twice."""
        if self._thread is not None:
            self.settle()
            self._work.put(None)
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while (piece := self._work.get()) is not None:
            self._hash.update(piece)
            self._settled.put(None)


def on_disk(
    fd: int, ranges: Sequence[tuple[int, int]], *, name: str, algorithm: str = VERIFYING
) -> str:
    """Return the digest of ranges as the disk has them: by O_DIRECT, or with the page cache dropped
    first. The file was synced, and is open for reading. `name` is for messages.

    Raises: TransferError  it cannot be read.
    """
    total = sum(last - first for first, last in ranges)
    digest = Digest(algorithm, total, wants_holes=False)
    try:
        direct = _direct(fd) if total >= _PIECE else -1
        try:
            for first, last in ranges:
                if direct < 0 or not _read_direct(direct, first, last, digest):
                    os.posix_fadvise(fd, first, last - first, os.POSIX_FADV_DONTNEED)
                    digest.read(fd, first, last)
        finally:
            if direct >= 0:
                os.close(direct)
        return digest.hex()
    except OSError as error:
        text = f"{name}: verify: read: {reason(error)}; nothing was put in place"
        raise TransferError(text, errno=error.errno) from error
    finally:
        digest.close()


def _direct(fd: int) -> int:
    """Open the same file once more, whatever its name leads to by now."""
    try:
        return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
    except OSError:
        return -1  # not on this filesystem: the page cache is dropped instead


def _read_direct(fd: int, first: int, last: int, digest: Digest) -> bool:
    """Take a range past the page cache; False when it cannot begin, and nothing was taken."""
    if first % _ALIGN:
        return False
    pieces = [memoryview(aligned_buffer(_PIECE)), memoryview(aligned_buffer(_PIECE))]
    turn = 0
    place = first
    while place < last:
        piece = pieces[turn]
        turn = 1 - turn
        try:
            got = os.preadv(fd, [piece], place)
        except OSError:
            if place == first:
                return False
            raise
        if not got:
            break
        got = min(got, last - place)
        digest.update(piece[:got])
        place += got
        if got % _ALIGN and place < last:
            return _rest(fd, place, last)
    digest.settle()
    return True


def _rest(fd: int, place: int, last: int) -> bool:
    raise TransferError(f"verify: read: {last - place} bytes are missing at byte {place}")
