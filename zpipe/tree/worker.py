"""Carry out tasks: in this process, in a forked one, or wherever an executor sends them.

One byte of a small file is read into a buffer and written from it, by three calls for the file and
five for its names; every other way costs more than that. Big files and holes go by the movers.
"""

from __future__ import annotations

import errno
import os
import stat

from zpipe.errors import (
    Interrupted,
    SourceChanged,
    TransferError,
    ZpipeError,
    open_failed,
    reason,
)
from zpipe.kernel.changes import changes
from zpipe.kernel.clone import clone
from zpipe.tree.attributes import keep, keep_special
from zpipe.tree.place import Place, judge, take_place, temporary_name
from zpipe.tree.tasks import Batch, Big, Chunk, Done, Outcome, Problem, identity_of
from zpipe.tree.wishes import BIG

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from zpipe.engine.limiter import Limiter
    from zpipe.engine.stop import Stop
    from zpipe.tree.digest import Digest
    from zpipe.tree.place import Taken
    from zpipe.tree.tasks import Task
    from zpipe.tree.wishes import TreeWishes

SMALL = 256 * 1024  # bytes: read and written at once
_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Waiting:
    """A file that is written and not yet verified."""

    def __init__(
        self,
        path: str,
        place: Place | Taken,
        digest: str,
        ranges: list[tuple[int, int]],
        names: tuple[str, str, os.stat_result],
    ):
        self.path = path
        self.place = place
        self.digest = digest
        self.ranges = ranges
        self.names = names
        self.mode: int | None = None  # to be set at the end


class Worker:
    """Carries tasks one after the other. `moving` hears of bytes within a long one, `ask` is
    asked about each target that is there.
    """

    def __init__(
        self,
        wishes: TreeWishes,
        stop: Stop,
        *,
        divides: bool,
        limiter: Limiter | None = None,
        moving: Callable[[int], None] | None = None,
        ask: Callable[[str], bool] | None = None,
    ):
        self._wishes = wishes
        self._stop = stop
        self._ask = ask
        self._divides = divides and wishes.divides
        self._limiter = limiter
        self._moving = moving
        self._never_clones: set[tuple[int, int]] = set()
        # in short: no wish that the quickest way does not know
        self._plain = (
            wishes.via is None
            and "plain" not in wishes.without
            and wishes.reflink != "always"
            and wishes.sparse != "always"
            and limiter is None
        )
        self._clones = wishes.reflink == "auto" and "reflink" not in wishes.without
        self._clones = self._clones and wishes.via in (None, "reflink")
        self._clones = self._clones and not wishes.verify and wishes.digest is None
        self._clones = self._clones and wishes.sparse == "auto"
        self._tells = wishes.names or wishes.resume or wishes.digest is not None
        self._source = self._target = self._target_device = -1
        self._batch: Batch = Batch(0, "", "", ())
        self._out = Outcome(0)
        self._number = 0
        self._waiting: list[Waiting] = []

    def carry(self, task: Task) -> Outcome:
        """Carry one task. What goes wrong with a file is in the outcome.

        Raises: Interrupted.
        """
        return self._chunk(task) if isinstance(task, Chunk) else self._carry_batch(task)

    @property
    def partial(self) -> Outcome:
        """What was done of the task that a signal has ended."""
        self._out.partial = True
        return self._out

    # Small files

    def _carry_batch(self, batch: Batch) -> Outcome:
        self._out = out = Outcome(batch.number)
        self._batch = batch
        self._number = 0
        self._waiting = []
        try:
            self._source = os.open(batch.source or ".", _FOLDER)
            self._target = os.open(batch.target or ".", _FOLDER)
            self._target_device = os.fstat(self._target).st_dev
            for name in batch.files:
                self._stop.check()
                self._entry(name, self._file)
            for name in batch.others:
                self._stop.check()
                self._entry(name, self._other)
            if self._waiting:
                self._verify()
            if self._wishes.sync and out.files:
                os.fsync(self._target)
        except OSError as error:
            self._lost(batch, error)
        finally:
            for waiting in self._waiting:
                waiting.place.discard()
            for fd in (self._source, self._target):
                if fd >= 0:
                    os.close(fd)
            self._source = self._target = -1
        return out

    def _entry(self, name: str, carry: Callable[[str], None]) -> None:
        self._number += 1
        try:
            carry(name)
        except Interrupted:
            raise
        except ZpipeError as error:
            self._out.problems.append(Problem(self._path(name), str(error)))
        except OSError as error:
            text = f"{self._path(name)}: copy: {reason(error)}"
            self._out.problems.append(Problem(self._path(name), text))

    def _lost(self, batch: Batch, error: OSError) -> None:
        """The directory itself cannot be had any more."""
        told = {problem.path for problem in self._out.problems}
        act = "open" if self._target < 0 else "fsync"
        folder = batch.source if self._source < 0 else batch.target
        for name in (*batch.files, *batch.others):
            path = self._path(name)
            if path not in told:
                text = f"{path}: {folder}: {act}: {reason(error)}"
                self._out.problems.append(Problem(path, text))

    def _path(self, name: str) -> str:
        return join(self._batch.source, name)

    def _file(self, name: str) -> None:
        """Carry a regular file. Raises: OSError, ZpipeError."""
        wishes, batch = self._wishes, self._batch
        if wishes.make != "copy":
            self._link(name)
            return
        follow = 0 if batch.follow else os.O_NOFOLLOW
        fd = self._open(name, follow)
        try:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode):
                raise TransferError(f"{self._path(name)}: read: is no regular file any more")
            self._regular(name, fd, info)
        finally:
            os.close(fd)

    def _open(self, name: str, follow: int) -> int:
        try:
            try:
                # what has become a FIFO meanwhile must not be waited for
                flags = _OPEN | os.O_NONBLOCK | follow
                return os.open(name, flags, dir_fd=self._source)
            except BlockingIOError:
                return os.open(
                    name, _OPEN | follow, dir_fd=self._source
                )  # a lease is being given up
        except OSError as error:
            raise TransferError(
                f"{self._path(name)}: open: {reason(error)}", errno=error.errno
            ) from error

    def _regular(self, name: str, fd: int, info: os.stat_result) -> None:
        wishes, batch, out = self._wishes, self._batch, self._out
        as_name = batch.as_name or name
        found = None
        if not batch.fresh:
            leave, found = self._judge(name, as_name, info)
            if leave:
                return
        size = info.st_size
        data = None
        divided = False
        allocated = info.st_blocks * 512
        if not size or (size <= SMALL and self._plain and (allocated >= size or not allocated)):
            cloning = self._clones and size and allocated and self._may_clone(info)
            data = None if cloning else self._read(name, fd, info)
            if data and not allocated and len(data) == size and not data.strip(b"\0"):
                data = None  # a hole, and no file of /sys
        elif self._divides and size >= BIG and (found is None or self._is_ours(as_name, found)):
            divided = True
            if not (self._clones and self._may_clone(info)):
                out.big.append(Big(name, identity_of(info)))
                return
        temporary = temporary_name(as_name, batch.token, self._number)
        target = join(batch.target, as_name)
        try:
            place = take_place(self._target, target, temporary, found, info, wishes)
        except OSError as error:
            raise open_failed(target, "open", error) from error
        try:
            cloned = data is None and self._clones and self._clone(fd, place.fd, info)
            if divided and not cloned:
                place.discard()
                out.big.append(Big(name, identity_of(info)))
                return
            self._fill(name, as_name, fd, info, place, data, cloned=cloned)
        except BaseException as error:
            place.discard()
            if isinstance(error, OSError):
                end = "" if place.in_place else "; nothing was put in place"
                raise TransferError(
                    f"{target}: write: {reason(error)}{end}", errno=error.errno
                ) from error
            raise

    def _judge(
        self, name: str, as_name: str, info: os.stat_result
    ) -> tuple[bool, os.stat_result | None]:
        """See `judge`. Raises: TransferError."""
        target = join(self._batch.target, as_name)
        source = self._path(name)
        leave, found = judge(self._target, as_name, target, info, source, self._wishes)
        if found is not None and not leave and self._ask is not None:
            leave = not self._ask(target)
        if leave:
            self._out.skipped += 1
            if self._tells:
                self._note(name, as_name, info, "", "kept")
        return leave, found

    def _fill(
        self,
        name: str,
        as_name: str,
        fd: int,
        info: os.stat_result,
        place: Place | Taken,
        data: bytes | None,
        *,
        cloned: bool,
    ) -> None:
        """Write, compare, give attributes, and put in place."""
        wishes, out = self._wishes, self._out
        digest = None
        hexes = ""
        size = info.st_size
        ranges = [(0, size)]
        if wishes.digest is not None or wishes.verify:
            from zpipe.tree.digest import VERIFYING, Digest

            algorithm = wishes.digest or VERIFYING
            digest = Digest(algorithm, size, wants_holes=wishes.digest is not None)
        try:
            if data is not None and not size:
                data = self._virtual(fd, data)
                ranges = [(0, len(data))]
            if data is not None:
                rest = memoryview(data)
                while rest:
                    rest = rest[os.write(place.fd, rest) :]
                if digest is not None:
                    digest.update(data)
                out.count("plain", len(data))
            elif not cloned:
                ranges = self._by_movers(name, as_name, fd, info, place, digest)
            if digest is not None:
                hexes = digest.hex()
        finally:
            if digest is not None:
                digest.close()
        self._refuse_change(name, info, fd)
        if wishes.preserve:
            self._keep(name, as_name, fd, info, place.fd)
        if wishes.verify:
            if wishes.digest is not None:
                ranges = [(0, max(size, ranges[-1][1] if ranges else 0))]  # with its holes
            path = join(self._batch.target, as_name)
            waiting = Waiting(path, place, hexes, ranges, (name, as_name, info))
            mode = stat.S_IMODE(os.fstat(place.fd).st_mode)
            if not mode & stat.S_IRUSR and isinstance(place, Place):
                # its owner, who may be us, is to read it once more
                os.fchmod(place.fd, mode | stat.S_IRUSR)
                waiting.mode = mode
            place.close()
            self._waiting.append(waiting)
            if len(self._waiting) >= 64 or size > SMALL:
                self._verify()
            return
        if wishes.sync:
            os.fsync(place.fd)
        place.commit()
        out.files += 1
        if self._tells:
            self._note(name, as_name, info, hexes, "copied")

    def _read(self, name: str, fd: int, info: os.stat_result) -> bytes:
        """Return a small file whole. Raises: SourceChanged, TransferError."""
        size = info.st_size
        data = os.read(fd, size + 1)
        if len(data) == size or not size:
            return data
        while len(data) < size and (more := os.read(fd, size - len(data))):
            data += more  # as network filesystems may give it
        if len(data) != size and info.st_blocks:
            self._refuse_change(name, info, fd)
            raise TransferError(f"{self._path(name)}: read: ended at byte {len(data)} of {size}")
        return data

    def _virtual(self, fd: int, data: bytes) -> bytes:
        """Read on where the size is 0, as that of files in /proc is."""
        pieces = [data]
        while pieces[-1]:
            pieces.append(os.read(fd, SMALL))
        return b"".join(pieces)

    def _keep(
        self, name: str, as_name: str, source: int, info: os.stat_result, target: int
    ) -> None:
        """Keep attributes; what is lost is told, and the file is put in place nevertheless."""
        try:
            keep(source, info, target, join(self._batch.target, as_name), self._wishes)
        except TransferError as error:
            self._out.problems.append(Problem(self._path(name), str(error), "attribute"))

    def _by_movers(
        self,
        name: str,
        as_name: str,
        fd: int,
        info: os.stat_result,
        place: Place | Taken,
        digest: Digest | None,
    ) -> list[tuple[int, int]]:
        from zpipe.tree.content import Range

        size = info.st_size
        carrier = Range(
            fd,
            place.fd,
            self._path(name),
            join(self._batch.target, as_name),
            self._wishes,
            self._out,
            stop=self._stop,
            provisional=not place.in_place,
            limiter=self._limiter,
            moving=self._moving,
        )
        if self._wishes.sparse != "never":
            # before the first byte: what xfs allocates in advance beyond the end would fill holes
            os.ftruncate(place.fd, size)
        return carrier.carry(0, size, digest)

    def _is_ours(self, name: str, found: os.stat_result) -> bool:
        """Whether a target may be replaced by a file that we make, owner and all."""
        return (
            stat.S_ISREG(found.st_mode)
            and found.st_nlink == 1
            and found.st_uid in (os.geteuid(), found.st_uid if os.geteuid() == 0 else -1)
            and os.access(name, os.W_OK, dir_fd=self._target, effective_ids=True)
        )

    def _may_clone(self, info: os.stat_result) -> bool:
        return (info.st_dev, self._target_device) not in self._never_clones

    def _clone(self, fd: int, target: int, info: os.stat_result) -> bool:
        if not info.st_size or not self._may_clone(info):
            return False
        pair = (info.st_dev, self._target_device)
        try:
            clone(fd, target)
        except OSError as error:
            self._out.fell_back("reflink", "ioctl(FICLONE)", error.errno or 0)
            if error.errno in (errno.EOPNOTSUPP, errno.EXDEV, errno.ENOTTY, errno.ENOSYS):
                self._never_clones.add(pair)
            return False
        self._out.count("reflink", info.st_size)
        return True

    def _refuse_change(self, name: str, before: os.stat_result, fd: int) -> None:
        """Raise: SourceChanged  the file is not what it was when it was opened."""
        if not before.st_size:
            return
        found = changes(before, os.fstat(fd))
        if found:
            raise SourceChanged(
                f"{self._path(name)}: read: the source changed while it was read"
                f" ({', '.join(found)}); nothing was put in place"
            )

    # What is verified

    def _verify(self) -> None:
        """Read back what was written, from the disk, and put it in place where it is the same."""
        from zpipe.kernel.sync import syncfs
        from zpipe.tree.digest import VERIFYING, on_disk

        syncfs(self._target)
        algorithm = self._wishes.digest or VERIFYING
        while self._waiting:
            each = self._waiting[0]
            place, problem = each.place, None
            source = self._path(each.names[0])
            try:
                # who is interrupted here leaves it to the caller to discard all that waits
                self._stop.check()
                if isinstance(place, Place):
                    path, folder = place.temporary, self._target
                else:
                    path, folder = f"/proc/self/fd/{place.fd}", None
                found = on_disk(
                    path, each.ranges, folder=folder, name=each.path, algorithm=algorithm
                )
                if found == each.digest:
                    if each.mode is not None and isinstance(place, Place):
                        os.chmod(place.temporary, each.mode, dir_fd=self._target)
                    place.commit()
                else:
                    text = f"{each.path}: verify: what was read back is not what was written"
                    text += "" if place.in_place else "; nothing was put in place"
                    problem = Problem(source, text, "mismatch")
            except OSError as error:
                problem = Problem(source, f"{each.path}: rename: {reason(error)}")
            except TransferError as error:
                problem = Problem(source, str(error))
            self._waiting.pop(0)
            if problem is not None:
                place.discard()
                self._out.problems.append(problem)
                continue
            self._out.files += 1
            if self._tells:
                name, as_name, info = each.names
                self._note(name, as_name, info, each.digest, "copied")

    # What has no bytes

    def _other(self, name: str) -> None:
        """Make a symbolic link or a special file like another. Raises: OSError, ZpipeError."""
        batch, wishes = self._batch, self._wishes
        try:
            info = os.stat(name, dir_fd=self._source, follow_symlinks=batch.follow)
        except OSError as error:
            raise open_failed(self._path(name), "stat", error) from error
        if stat.S_ISREG(info.st_mode):
            self._file(name)
            return
        if stat.S_ISDIR(info.st_mode):
            raise TransferError(f"{self._path(name)}: has become a directory meanwhile")
        if wishes.make != "copy":
            self._link(name)
            return
        as_name = batch.as_name or name
        target = join(batch.target, as_name)
        if not batch.fresh:
            leave, _ = self._judge(name, as_name, info)
            if leave:
                return
        temporary = temporary_name(as_name, batch.token, self._number)
        act = "symlink"

        def make() -> None:
            nonlocal act
            if stat.S_ISLNK(info.st_mode):
                os.symlink(os.readlink(name, dir_fd=self._source), temporary, dir_fd=self._target)
                return
            act = "mknod"
            mode = stat.S_IFMT(info.st_mode) | wishes.mode(info)
            os.mknod(temporary, mode, info.st_rdev, dir_fd=self._target)

        path = join(batch.target, temporary)
        try:
            self._made(make, temporary)
            if wishes.preserve:
                own = self._path(name)
                if stat.S_ISLNK(info.st_mode):
                    keep(own, info, path, target, wishes)
                else:
                    # by path, and not by an fd: opening a device or a FIFO means something
                    keep_special(own, info, path, target, wishes)
            os.rename(temporary, as_name, src_dir_fd=self._target, dst_dir_fd=self._target)
        except BaseException as error:
            try:
                os.unlink(temporary, dir_fd=self._target)
            except OSError:
                pass
            if isinstance(error, OSError):
                raise TransferError(
                    f"{target}: {act}: {reason(error)}", errno=error.errno
                ) from error
            raise
        self._out.files += 1
        if self._tells:
            self._note(name, as_name, info, "", "made")

    def _link(self, name: str) -> None:
        """Make a link instead of a copy."""
        batch, wishes = self._batch, self._wishes
        as_name = batch.as_name or name
        target = join(batch.target, as_name)
        info = os.stat(name, dir_fd=self._source, follow_symlinks=batch.follow)
        if not batch.fresh:
            leave, found = self._judge(name, as_name, info)
            if leave:
                return
            if found is not None and not wishes.force and wishes.existing == "replace":
                text = f"{target}: {wishes.make}: {os.strerror(errno.EEXIST)} (-f replaces it)"
                raise TransferError(text, errno=errno.EEXIST)
        temporary = temporary_name(as_name, batch.token, self._number)
        source = self._path(name)
        if wishes.make == "symlink" and not source.startswith("/") and not self._is_here():
            raise TransferError(
                f"{target}: symlink: {source} is a relative path, which would be looked for in"
                f" {batch.target}: give the whole path"
            )

        def make() -> None:
            if wishes.make == "symlink":
                os.symlink(source, temporary, dir_fd=self._target)
                return
            os.link(
                name,
                temporary,
                src_dir_fd=self._source,
                dst_dir_fd=self._target,
                follow_symlinks=batch.follow,
            )

        try:
            self._made(make, temporary)
            os.rename(temporary, as_name, src_dir_fd=self._target, dst_dir_fd=self._target)
        except OSError as error:
            raise TransferError(
                f"{target}: {wishes.make}: {reason(error)}", errno=error.errno
            ) from error
        finally:
            try:
                # a rename to another name of the same file does nothing at all
                os.unlink(temporary, dir_fd=self._target)
            except OSError:
                pass
        self._out.files += 1
        if self._tells:
            self._note(name, as_name, info, "", "linked")

    def _is_here(self) -> bool:
        """Whether the target directory is the one that relative paths begin at."""
        here, target = os.stat("."), os.fstat(self._target)
        return (here.st_dev, here.st_ino) == (target.st_dev, target.st_ino)

    def _made(self, make: Callable[[], None], temporary: str) -> None:
        try:
            make()
        except FileExistsError:
            os.unlink(temporary, dir_fd=self._target)
            make()

    # Ranges of big files

    def _chunk(self, chunk: Chunk) -> Outcome:
        from zpipe.tree.ranges import carry_chunk

        self._out = out = Outcome(chunk.number)
        carry_chunk(
            chunk, out, self._wishes, stop=self._stop, limiter=self._limiter, moving=self._moving
        )
        return out

    def _note(self, name: str, as_name: str, info: os.stat_result, digest: str, act: str) -> None:
        self._out.done.append(self._done(name, as_name, info, digest, act))

    def _done(self, name: str, as_name: str, info: os.stat_result, digest: str, act: str) -> Done:
        target = join(self._batch.target, as_name)
        there = (0, 0, 0, 0, 0)
        if self._wishes.resume and act == "copied":
            try:
                there = identity_of(os.lstat(as_name, dir_fd=self._target))
            except OSError:
                pass  # it is gone again: another run will see that
        return Done(self._path(name), target, info.st_size, identity_of(info), there, digest, act)


def join(folder: str, name: str) -> str:
    """Return the path of a name in a folder; '' is here."""
    if not folder:
        return name
    return folder + name if folder.endswith("/") else f"{folder}/{name}"
