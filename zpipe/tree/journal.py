"""What an interrupted copy has finished: JSON Lines beside the target, for `--resume`.

A line is written only when what it speaks of is on the disk, so that it is true after a power cut,
too. Nothing is inferred from sizes: a source counts as copied while device, inode, size, mtime and
ctime are those of the record, and a target while it is the very file that was put in place.
"""

from __future__ import annotations

import json
import os
import stat

from zpipe.errors import TransferError, reason
from zpipe.kernel.sync import syncfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from zpipe.tree.tasks import Done, Identity
    from zpipe.tree.wishes import TreeWishes

_VERSION = 1
# wishes that decide what a finished file is
_HEEDED = ("follow", "preserve", "make", "sparse", "reflink", "verify", "digest", "exclude")
# the name is known: a link that somebody has put there must not lead elsewhere
_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
_LONGEST_HEADER = 64 * 1024
_EVERY = 4096  # records that are kept back at the most


class Part:
    """A big file of which ranges are finished."""

    def __init__(
        self, temporary: str, identity: Identity, inode: int, generation: int | None = None
    ):
        self.temporary = temporary
        self.identity = identity
        self.inode = inode
        self.generation = generation  # tells two files of one inode number apart
        self.offsets: set[int] = set()


class Journal:
    """Open from the beginning of a run to its end; locked, so that no other run writes it."""

    def __init__(
        self, path: str, sources: Sequence[str], target: str, wishes: TreeWishes, *, into: bool
    ):
        """Take up the journal of the same copy, or begin one.

        Raises: TransferError  another process is at it, it is of another copy, or cannot be had.
        """
        self.path = path
        self.resumed = False
        self.token = os.urandom(4).hex()  # of temporary names: the same in all runs of this copy
        self.sync_to = target  # or what is above, as long as it is not there
        self._finished: dict[str, tuple[Identity, Identity, str]] = {}
        self._parts: dict[str, Part] = {}
        self._pending: list[str] = []
        header = {
            "v": _VERSION,
            "type": "copy",
            "sources": [os.path.abspath(source) for source in sources],
            "target": os.path.abspath(target),
            "into": into,
            "wishes": {name: _plain(getattr(wishes, name)) for name in _HEEDED},
        }
        try:
            self._fd = os.open(path, _FLAGS | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError as error:
            raise TransferError(f"{path}: open: {reason(error)}", errno=error.errno) from error
        try:
            self._refuse_planted()
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
            fd = os.open(path, _FLAGS)
            with open(fd, "rb") as file:
                if not _is_own(fd):
                    return None
                header = json.loads(file.readline(_LONGEST_HEADER) or b"{}")
                return bool(header["into"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _refuse_planted(self) -> None:
        """Refuse what somebody else may have put under the name that everybody knows.

        Raises: TransferError.
        """
        if not _is_own(self._fd):
            raise TransferError(f"{self.path}: open: is not a journal of this user: remove it")

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
                if number == 0 and (line.endswith(b"\n") or len(line) > _LONGEST_HEADER):
                    raise TransferError(
                        f"{self.path}: read: is no journal of zpipe: remove it"
                    ) from None
                break  # the end of it was never written
            if number == 0:
                self._agree(record, header)
                self.resumed = True
            elif not self._take(record):
                break
            whole += len(line)
        os.ftruncate(self._fd, whole)
        if not self.resumed:
            header["token"] = self.token
            os.write(self._fd, (json.dumps(header) + "\n").encode())
            os.fsync(self._fd)

    def _agree(self, found: object, header: dict[str, object]) -> None:
        """Raise: TransferError  the journal is not of this copy."""
        if not isinstance(found, dict):
            found = {}
        token = found.pop("token", None)
        if {**found, "wishes": 0} != {**header, "wishes": 0} or not isinstance(token, str):
            raise TransferError(
                f"{self.path}: read: is the journal of another copy: remove it, or repeat that one"
            )
        if found != header:
            before, now = found.get("wishes"), header["wishes"]
            assert isinstance(now, dict)
            other = [
                name for name in now if isinstance(before, dict) and before.get(name) != now[name]
            ]
            raise TransferError(
                f"{self.path}: read: was begun with other options ({', '.join(other)}): repeat"
                " those, or remove it"
            )
        self.token = token

    def _take(self, record: dict[str, Any]) -> bool:
        """Take up a record; False where it is none: then it was never written whole."""
        try:
            kind, path = record["type"], record["path"]
            if kind == "done":
                digest = record.get("digest", "")
                both = _identity(record["source"]), _identity(record["target"])
                self._finished[path] = (*both, digest)
                self._parts.pop(path, None)
            elif kind == "part":
                source = _identity(record["source"])
                inode, generation = record["inode"], record.get("generation")
                folder, name = os.path.split(record["temporary"])
                if folder != os.path.dirname(path) or ".zpipe-" not in name:
                    return False
                self._parts[path] = Part(record["temporary"], source, inode, generation)
            elif kind == "range":
                self._parts[path].offsets.add(record["offset"])
        except (KeyError, TypeError, ValueError, AttributeError):
            return False
        return True

    def finished_of(self, path: str) -> tuple[Identity, Identity, str] | None:
        """Return what the source and the target were when a file was finished, and its digest."""
        return self._finished.get(os.path.abspath(path))

    def part_of(self, path: str) -> Part | None:
        """Return what there is of a big file."""
        return self._parts.get(os.path.abspath(path))

    def done(self, done: Done) -> None:
        """Note a file; it is written down by the next `flush`."""
        self._note(
            type="done",
            path=os.path.abspath(done.path),
            source=done.identity,
            target=done.target,
            digest=done.digest,
        )

    def part(self, path: str, part: Part) -> None:
        """Note the temporary file of a big one."""
        path = os.path.abspath(path)
        self._parts[path] = part
        self._note(
            type="part",
            path=path,
            temporary=os.path.abspath(part.temporary),
            source=part.identity,
            inode=part.inode,
            generation=part.generation,
        )

    def range(self, path: str, offset: int) -> None:
        """Note that a range, from this offset to the end of its chunk, is on the disk."""
        path = os.path.abspath(path)
        self._parts[path].offsets.add(offset)
        self._note(type="range", path=path, offset=offset)

    def clean(self, folder: str) -> None:
        """Remove from a directory of the target what a killed run has left, and nobody goes on
        with.
        """
        mine = f".zpipe-{self.token}"
        wanted = {part.temporary for part in self._parts.values()}
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if mine in entry.name and os.path.abspath(entry.path) not in wanted:
                        os.unlink(entry.path)
        except OSError:
            pass  # it is no more than tidying up

    def _note(self, **record: object) -> None:
        self._pending.append(json.dumps(record) + "\n")

    @property
    def full(self) -> bool:
        return len(self._pending) >= _EVERY

    def flush(self) -> None:
        """Make durable what was copied to the target's filesystem, then what is noted of it.

        Raises: TransferError.
        """
        if not self._pending:
            return
        pending, self._pending = self._pending, []
        try:
            self._sync()
            data = memoryview("".join(pending).encode())
            while data:
                data = data[os.write(self._fd, data) :]
            os.fsync(self._fd)
        except OSError as error:
            raise TransferError(
                f"{self.path}: write: {reason(error)}", errno=error.errno
            ) from error

    def _sync(self) -> None:
        folder = os.path.abspath(self.sync_to)
        while not os.path.isdir(folder) and folder != "/":
            folder = os.path.dirname(folder)
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            syncfs(fd)
        finally:
            os.close(fd)

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


def _identity(value: Any) -> Identity:
    """Raises: TypeError, ValueError  it is none."""
    if not all(type(each) is int for each in value):
        raise TypeError
    device, inode, size, mtime, ctime = value
    return (device, inode, size, mtime, ctime)


def _is_own(fd: int) -> bool:
    """Whether a file is of this user, or of root, and nobody else's by another name."""
    info = os.fstat(fd)
    return stat.S_ISREG(info.st_mode) and info.st_nlink == 1 and info.st_uid in (os.geteuid(), 0)


def _plain(value: object) -> object:
    return sorted(value) if isinstance(value, (frozenset, tuple)) else value
