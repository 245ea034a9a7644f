"""The files of a run: in a folder of its own, which is gone at the end however that comes."""

from __future__ import annotations

import os
import shutil
import tempfile

from zpipe.bench.cells import MIB
from zpipe.errors import TransferError, open_failed
from zpipe.units import format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_SYNC_EVERY = 64 * MIB
_SPARE = 64 * MIB  # left to others


def default_folder() -> str:
    """Return where the files lie unless the user says so: on a disk, not in memory."""
    return os.environ.get("TMPDIR") or "/var/tmp"


class Scratch:
    """A folder in `place` for files of given sizes, as a context.

    Raises: TransferError  it cannot be made, or has not `needed` bytes to give.
    """

    def __init__(self, place: str, needed: int):
        self._sources: dict[int, str] = {}
        self.folder = ""
        try:
            free = os.statvfs(place)
            room = free.f_bavail * free.f_frsize
            if room < needed + _SPARE:
                raise TransferError(
                    f"{place}: measure: {format_size(needed + _SPARE)} are needed there, and"
                    f" {format_size(room)} are free: give smaller --sizes, or another --dir"
                )
            self.folder = tempfile.mkdtemp(prefix="zpipe-bench-", dir=place)
        except OSError as error:
            raise open_failed(place, "create a folder", error) from error

    def __enter__(self) -> Scratch:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def source(self, size: int, check: Callable[[], None]) -> str:
        """Return the path of a file of so many bytes, which lies in the page cache and on the disk.

        `check` is called now and then while it is written, and may raise.

        Raises: TransferError  it cannot be written.
        """
        if size not in self._sources:
            path = os.path.join(self.folder, f"source-{size}")
            try:
                _fill(path, size, check)
            except OSError as error:
                raise open_failed(path, "write", error) from error
            self._sources[size] = path
        return self._sources[size]

    def sink(self, number: int = 0) -> str:
        """Return the path of a file to be written."""
        return os.path.join(self.folder, f"sink-{number}")

    def clear(self) -> None:
        """Remove what was written, but not what is read."""
        for name in os.listdir(self.folder):
            if name.startswith("sink-"):
                os.unlink(os.path.join(self.folder, name))


def _fill(path: str, size: int, check: Callable[[], None]) -> None:
    """Write bytes that no disk makes less of, and have them written: nobody is to wait later."""
    block = bytearray(os.urandom(MIB))
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        done = 0
        while done < size:
            check()
            block[:8] = done.to_bytes(8, "big")
            done += os.pwrite(fd, memoryview(block)[: size - done], done)
            if done % _SYNC_EVERY == 0:
                os.fdatasync(fd)
        os.fsync(fd)
    except BaseException:
        os.close(fd)
        os.unlink(path)
        raise
    os.close(fd)
