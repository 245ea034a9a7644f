"""One big file that goes in ranges: its temporary file, what is left of it, and its end."""

from __future__ import annotations

import errno
import os
import stat

from zpipe.endpoints.replace import take_on
from zpipe.errors import SourceChanged, TransferError, open_failed, reason
from zpipe.tree.attributes import keep
from zpipe.tree.content import segments
from zpipe.tree.journal import Part
from zpipe.tree.place import temporary_name
from zpipe.tree.tasks import Chunk, Done, Problem, identity_of
from zpipe.tree.wishes import CHUNK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from zpipe.tree.journal import Journal
    from zpipe.tree.tasks import Identity
    from zpipe.tree.walk import Folder
    from zpipe.tree.wishes import TreeWishes


class Division:
    """`had`: bytes that an earlier run has finished. `note`: what the user is told."""

    def __init__(
        self,
        source: str,
        target: str,
        wishes: TreeWishes,
        folder: Folder | None,
        journal: Journal | None,
        token: str,
        number: int,
        identity: Identity,
        umask: int,
    ):
        """`identity` is what the worker saw, by which it is known to be a regular file.

        Raises: TransferError, SourceChanged.
        """
        self._umask = umask
        self.source = source
        self.target = target
        self.folder = folder
        self.failed = self.given_up = self.ended = False
        self.left = 0
        self.had = 0
        self.note = ""
        self.problem: Problem | None = None  # something that is in place, but not as it should be
        self.by_number: dict[int, int] = {}  # chunk -> offset
        self._wishes = wishes
        self._offsets: set[int] = set()
        self._own: os.stat_result  # of the temporary file
        try:
            self._info = os.stat(source)
        except OSError as error:
            raise open_failed(source, "stat", error) from error
        self.identity = identity_of(self._info)
        if self.identity != identity:
            raise SourceChanged(
                f"{source}: read: the source changed while it was read; nothing was put in place"
            )
        above, name = os.path.split(target)
        self.temporary = os.path.join(above, temporary_name(name, f"{token}-big", number))
        if journal is None or not self._take_up(journal.part_of(target)):
            self._begin()
            if journal is not None:
                inode = os.lstat(self.temporary).st_ino
                part = Part(self.temporary, self.identity, inode, _generation(self.temporary))
                journal.part(target, part)
                journal.flush()

    def _take_up(self, part: Part | None) -> bool:
        """Go on with what an earlier run has left; False where there is nothing to go on with."""
        if part is None:
            return False
        try:
            found = os.lstat(part.temporary)
        except OSError:
            return False
        if found.st_ino != part.inode or not stat.S_ISREG(found.st_mode):
            return False
        if part.generation is not None and part.generation != _generation(part.temporary):
            return False  # a number that was free was given to another file
        if part.identity != self.identity:
            self.note = f"{self.source}: has changed since: the copy starts again"
            try:
                os.unlink(part.temporary)
            except OSError:
                pass
            return False
        self._own = found
        self.temporary = part.temporary
        self._offsets = set(part.offsets)
        return True

    def _begin(self) -> None:
        try:
            if os.path.lexists(self.temporary):
                os.unlink(self.temporary)  # of a run that was killed
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            fd = os.open(self.temporary, flags, 0o600)
            try:
                self._own = os.fstat(fd)
                os.ftruncate(fd, self._info.st_size)
            except OSError:
                os.unlink(self.temporary)
                raise
            finally:
                os.close(fd)
        except OSError as error:
            raise open_failed(self.target, "open", error) from error

    def _refuse_another(self, fd: int) -> None:
        """Refuse a file that has taken the place of ours, before it is given our attributes.

        Raises: OSError  ESTALE.
        """
        found = os.fstat(fd)
        if not os.path.samestat(found, self._own):
            raise OSError(errno.ESTALE, "")

    def chunks(self, number: Callable[[], int]) -> list[Chunk]:
        """Return the ranges that have data and are not done yet. Raises: TransferError."""
        size = self._info.st_size
        found: list[Chunk] = []
        for offset in self._with_data(size):
            length = min(CHUNK, size - offset)
            if offset in self._offsets:
                self.had += length
                continue
            own = number()
            self.by_number[own] = offset
            found.append(
                Chunk(
                    own,
                    self.source,
                    self.temporary,
                    self.target,
                    offset,
                    length,
                    self.identity,
                    self._own.st_ino,
                )
            )
        self.left = len(found)
        return found

    def _with_data(self, size: int) -> list[int]:
        if self._wishes.sparse == "never":
            return list(range(0, size, CHUNK))
        try:
            fd = os.open(self.source, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise open_failed(self.source, "open", error) from error
        offsets: list[int] = []
        try:
            for first, last in segments(fd, 0, size):
                begin = first - first % CHUNK
                if offsets and begin <= offsets[-1]:
                    begin = offsets[-1] + CHUNK
                offsets += range(begin, last, CHUNK)
        finally:
            os.close(fd)
        return offsets

    def commit(self) -> Done:
        """Compare, give attributes, and put in place. Raises: TransferError, SourceChanged."""
        self.ended = True
        wishes, info = self._wishes, self._info
        act = "open"
        try:
            source = os.open(self.source, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                if identity_of(os.fstat(source)) != self.identity:
                    raise SourceChanged(
                        f"{self.source}: read: the source changed while it was read; nothing was"
                        " put in place"
                    )
                fd = os.open(self.temporary, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    self._refuse_another(fd)
                    self._dress(source, fd, info)
                    act = "fsync"
                    if wishes.sync or wishes.resume:
                        os.fsync(fd)
                finally:
                    os.close(fd)
            finally:
                os.close(source)
            act = "rename"
            os.rename(self.temporary, self.target)
            there = identity_of(os.lstat(self.target))
            if wishes.sync:
                act = "fsync of the directory"
                _sync_folder(os.path.dirname(self.target) or ".")
        except OSError as error:
            raise TransferError(
                f"{self.target}: {act}: {reason(error)}", errno=error.errno
            ) from error
        return Done(self.source, self.target, info.st_size, self.identity, there)

    def _dress(self, source: int, fd: int, info: os.stat_result) -> None:
        """Give the file the attributes that it will have."""
        wishes = self._wishes
        mode = wishes.mode(info) & ~self._umask
        try:
            found = os.lstat(self.target)
        except FileNotFoundError:
            found = None
        if found is not None:
            # as any target that is replaced: it keeps its own
            take_on(fd, self.target, found)
            mode = stat.S_IMODE(found.st_mode)
        if not wishes.withholds:
            os.fchmod(fd, mode)
        try:
            keep(source, info, fd, self.target, wishes)
        except TransferError as error:
            self.problem = Problem(self.source, str(error), "attribute")
        if wishes.withholds:
            own = os.fstat(fd)
            if found is not None and (own.st_uid, own.st_gid) != (found.st_uid, found.st_gid):
                # what a bit grants is not to become somebody else's
                mode &= ~(stat.S_ISUID | stat.S_ISGID)
            os.fchmod(fd, mode)

    def discard(self, *, keep: bool) -> None:
        """Leave no temporary file, unless it is to be gone on with."""
        self.ended = True
        if keep:
            return
        try:
            os.unlink(self.temporary)
        except OSError:
            pass


def _generation(path: str) -> int | None:
    from zpipe.kernel.inspect import generation

    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        return generation(fd)
    finally:
        os.close(fd)


def _sync_folder(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
