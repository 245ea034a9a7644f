"""What an interrupted copy has finished: JSON Lines beside the target, for `--resume`.

A line is written only when what it speaks of is on the disk, so that it is true after a power cut,
too. Nothing is inferred from sizes: a source counts as copied while device, inode, size, mtime and
ctime are those of the record, and a target while it is the very file that was put in place.
"""

from __future__ import annotations

import json
import os

from zpipe.errors import TransferError, reason
from zpipe.kernel.sync import syncfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from zpipe.tree.tasks import Done, Identity

_VERSION = 1
_EVERY = 4096  # records that are kept back at the most


class Part:
    """A big file of which ranges are finished."""

    def __init__(self, temporary: str, identity: Identity, inode: int):
        self.temporary = temporary
        self.identity = identity
        self.inode = inode
        self.offsets: set[int] = set()


class Journal:
    """Open from the beginning of a run to its end; locked, so that no other run writes it."""

    def __init__(self, path: str, sources: Sequence[str], target: str, *, into: bool):
        """Take up the journal of the same copy, or begin one.

        Raises: TransferError  another process is at it, it is of another copy, or cannot be had.
        """
        self.path = path
        self.resumed = False
        self.finished: dict[str, tuple[Identity, Identity]] = {}
        self.parts: dict[str, Part] = {}
        self._pending: list[str] = []
        header = {
            "v": _VERSION,
            "type": "copy",
            "sources": [os.path.abspath(source) for source in sources],
            "target": os.path.abspath(target),
            "into": into,
        }
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise TransferError(f"{path}: open: {reason(error)}", errno=error.errno) from error
        try:
            self._lock()
            self._load(header)
        except BaseException:
            os.close(self._fd)
            raise

    @staticmethod
    def says_into(path: str) -> bool | None:
        """Return what a journal says of the target being a directory to copy into; None: there is
        no journal.
        """
        try:
            with open(path, encoding="utf-8") as file:
                header = json.loads(file.readline() or "{}")
                return bool(header["into"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _lock(self) -> None:
        try:
            os.lockf(self._fd, os.F_TLOCK, 0)
        except OSError as error:
            text = f"{self.path}: lock: another zpipe is at this copy"
            raise TransferError(text, errno=error.errno) from error

    def _load(self, header: dict[str, object]) -> None:
        with open(self._fd, "rb", closefd=False) as file:
            lines = file.read().splitlines(keepends=True)
        whole = 0
        for number, line in enumerate(lines):
            try:
                record = json.loads(line)
                if not line.endswith(b"\n"):
                    raise ValueError
            except ValueError:
                break  # the end of it was never written
            if number == 0:
                if record != header:
                    raise TransferError(
                        f"{self.path}: read: is the journal of another copy: remove it, or repeat"
                        " that one"
                    )
                self.resumed = True
            else:
                self._take(record)
            whole += len(line)
        os.ftruncate(self._fd, whole)
        if not self.resumed:
            os.write(self._fd, (json.dumps(header) + "\n").encode())
            os.fsync(self._fd)

    def _take(self, record: dict[str, object]) -> None:
        kind = record.get("type")
        path = str(record.get("path"))
        if kind == "done":
            self.finished[path] = (_identity(record["source"]), _identity(record["target"]))
            self.parts.pop(path, None)
        elif kind == "part":
            inode = record["inode"]
            assert isinstance(inode, int)
            self.parts[path] = Part(str(record["temporary"]), _identity(record["source"]), inode)
        elif kind == "range" and path in self.parts:
            offset = record["offset"]
            assert isinstance(offset, int)
            self.parts[path].offsets.add(offset)

    def done(self, done: Done) -> None:
        """Note a file; it is written down by the next `flush`."""
        self._note(type="done", path=done.path, source=done.identity, target=done.target)

    def part(self, path: str, part: Part) -> None:
        """Note the temporary file of a big one."""
        self.parts[path] = part
        self._note(
            type="part",
            path=path,
            temporary=part.temporary,
            source=part.identity,
            inode=part.inode,
        )

    def range(self, path: str, offset: int) -> None:
        """Note that a range, from this offset to the end of its chunk, is on the disk."""
        self.parts[path].offsets.add(offset)
        self._note(type="range", path=path, offset=offset)

    def _note(self, **record: object) -> None:
        self._pending.append(json.dumps(record) + "\n")

    @property
    def full(self) -> bool:
        return len(self._pending) >= _EVERY

    def flush(self, folder: int) -> None:
        """Make durable what was copied to the filesystem of `folder`, then what is noted of it.

        Raises: TransferError.
        """
        if not self._pending:
            return
        pending, self._pending = self._pending, []
        try:
            syncfs(folder)
            data = memoryview("".join(pending).encode())
            while data:
                data = data[os.write(self._fd, data) :]
            os.fsync(self._fd)
        except OSError as error:
            raise TransferError(
                f"{self.path}: write: {reason(error)}", errno=error.errno
            ) from error

    def remove(self) -> None:
        """Everything is copied."""
        try:
            os.unlink(self.path)
        except OSError:
            pass

    def close(self) -> None:
        """Leave it for the next time. May be called twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _identity(value: object) -> Identity:
    assert isinstance(value, list)
    device, inode, size, mtime, ctime = value
    return (device, inode, size, mtime, ctime)
