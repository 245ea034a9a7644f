"""Walk one source directory after the other, and make the target's directories on the way.

Lazily: a directory is read when its turn has come, and forgotten when the last of its tasks is
done. Its attributes come last of all, since files that arrive in it change its times.
"""

from __future__ import annotations

import fnmatch
import os
import stat

from zpipe.errors import TransferError, reason
from zpipe.tree.attributes import keep
from zpipe.tree.tasks import Batch, Problem, join

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from zpipe.tree.report import TreeReport
    from zpipe.tree.wishes import TreeWishes

FILES = 256  # of one directory, that are one task
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Folder:
    """A directory under way. `open` counts what is still to be done in it and below."""

    __slots__ = ("fresh", "info", "open", "relative", "root", "source", "target", "through", "up")

    def __init__(
        self,
        source: str,
        target: str,
        relative: str,
        up: Folder | None,
        *,
        root: bool = False,
        through: bool = False,
    ):
        self.source = source
        self.target = target
        self.relative = relative  # to the operand: what an --exclude with slashes speaks of
        self.up = up
        self.root = root  # an operand: a symbolic link to it is followed
        self.through = through  # a symbolic link in the target is
        self.info: os.stat_result | None = None  # None: it could not be made
        self.fresh = False
        self.open = 1  # the walk itself


class Walk:
    """Yields the tasks of one source operand after the other."""

    def __init__(
        self,
        wishes: TreeWishes,
        report: TreeReport,
        *,
        token: str,
        lost: Callable[[Problem], None],
        admit: Callable[[Folder, os.DirEntry[str]], bool] | None,
        made: Callable[[Folder], None] | None = None,
        found: Callable[[str], None] | None = None,
    ):
        self._wishes = wishes
        self._report = report
        self._token = token
        self._lost = lost
        self._admit = admit
        self._tell_made = made
        self._tell_found = found
        # before any thread runs: it is the process's
        self.umask = os.umask(0)
        os.umask(self.umask)
        self._number = 0
        self._made: set[tuple[int, int]] = set()  # roots of targets, not to be walked into
        self._device = -1
        self.folders: dict[int, Folder | None] = {}  # task -> where it counts

    def number(self, folder: Folder | None) -> int:
        """Return the number of a new task in a directory."""
        self._number += 1
        self.folders[self._number] = folder
        if folder is not None:
            folder.open += 1
        return self._number

    def batch(
        self, folder: Folder, files: list[str], others: list[str], *, follow: bool | None = None
    ) -> Batch:
        """Return a task for names of a directory."""
        number = self.number(folder)
        return Batch(
            number=number,
            source=folder.source,
            target=folder.target,
            files=tuple(files),
            others=tuple(others),
            fresh=folder.fresh,
            follow=self._wishes.follow == "always" if follow is None else follow,
            token=f"{self._token}{number:x}",
        )

    def one(
        self,
        source: str,
        target: str,
        info: os.stat_result,
        parent: Folder | None,
        *,
        follow: bool,
    ) -> Batch:
        """Return the task for an operand that is no directory."""
        above, name = os.path.split(source)
        to, as_name = os.path.split(target)
        number = self.number(parent)
        regular = stat.S_ISREG(info.st_mode)
        return Batch(
            number=number,
            source=above,
            target=to,
            files=(name,) if regular else (),
            others=() if regular else (name,),
            follow=follow,
            as_name=as_name,
            token=f"{self._token}{number:x}",
        )

    def tree(
        self,
        source: str,
        target: str,
        info: os.stat_result,
        parent: Folder | None,
        *,
        through: bool,
    ) -> Iterator[Batch]:
        """Yield the tasks of a directory that is an operand."""
        root = Folder(source, target, "", parent, root=True, through=through)
        if parent is not None:
            parent.open += 1
        self._device = info.st_dev
        stack = [root]
        while stack:
            folder = stack.pop()
            if self._enter(folder):
                yield from self._scan(folder, stack)
            self.leave(folder)

    def leave(self, folder: Folder | None) -> None:
        """Something in a directory is done; finish those in which everything is."""
        while folder is not None:
            folder.open -= 1
            if folder.open:
                return
            self._finish(folder)
            folder = folder.up

    def enter_like(self, source: str, target: str, up: Folder | None) -> Folder | None:
        """Make a directory like another, for `--parents`; it is finished by `leave`."""
        folder = Folder(source, target, "", up, root=True, through=True)
        if self._enter(folder):
            return folder
        self.leave(up)
        return None

    def _enter(self, folder: Folder) -> bool:
        """Make the directory in the target; tell whether its entries are to be read."""
        follow = folder.root or self._wishes.follow == "always"
        try:
            info = os.stat(folder.source, follow_symlinks=follow)
        except OSError as error:
            self._problem(folder.source, f"{folder.source}: stat: {reason(error)}")
            return False
        if not stat.S_ISDIR(info.st_mode):
            self._problem(folder.source, f"{folder.source}: is no directory any more")
            return False
        own = (info.st_dev, info.st_ino)
        if own in self._made:
            text = f"{folder.source}: is the target itself: a directory is not copied into itself"
            self._problem(folder.source, text)
            return False
        below, above = folder, folder.up
        while above is not None and not below.root:
            if above.info is not None and (above.info.st_dev, above.info.st_ino) == own:
                text = f"{folder.source}: a symbolic link leads round in a circle"
                self._problem(folder.source, text)
                return False
            below, above = above, above.up
        if not self._make(folder, info):
            return False
        folder.info = info
        self._report.directories += folder.fresh
        if folder.fresh and self._tell_made is not None:
            self._tell_made(folder)
        if not folder.fresh and self._tell_found is not None:
            self._tell_found(folder.target)
        return not (self._wishes.one_filesystem and info.st_dev != self._device)

    def _make(self, folder: Folder, info: os.stat_result) -> bool:
        try:
            os.mkdir(folder.target, self._wishes.mode(info) | 0o700)
            folder.fresh = True
        except FileExistsError:
            try:
                found = os.stat(folder.target, follow_symlinks=folder.through)
            except OSError as error:
                self._problem(folder.source, f"{folder.target}: stat: {reason(error)}")
                return False
            if not stat.S_ISDIR(found.st_mode):
                text = f"{folder.target}: is not a directory: cannot be replaced by {folder.source}"
                self._problem(folder.source, text)
                return False
        except OSError as error:
            self._problem(folder.source, f"{folder.target}: mkdir: {reason(error)}")
            return False
        if folder.root:
            made = os.stat(folder.target)
            self._made.add((made.st_dev, made.st_ino))
        return True

    def _scan(self, folder: Folder, stack: list[Folder]) -> Iterator[Batch]:
        """Yield the tasks of one directory, and put those below it on the stack."""
        exclude, admit = self._wishes.exclude, self._admit
        follow = self._wishes.follow == "always"
        files: list[str] = []
        others: list[str] = []
        below: list[Folder] = []
        try:
            with os.scandir(folder.source) as entries:
                for entry in entries:
                    name = entry.name
                    if exclude and self._excluded(folder, name):
                        continue
                    try:
                        if entry.is_dir(follow_symlinks=follow):
                            path = join(folder.source, name)
                            to = join(folder.target, name)
                            relative = f"{folder.relative}/{name}"
                            below.append(Folder(path, to, relative, folder))
                            continue
                        regular = entry.is_file(follow_symlinks=follow)
                    except OSError as error:
                        path = join(folder.source, name)
                        self._problem(path, f"{path}: stat: {reason(error)}")
                        continue
                    self._report.found += 1
                    if admit is not None and not admit(folder, entry):
                        continue
                    (files if regular else others).append(name)
                    if len(files) + len(others) == FILES:
                        yield self.batch(folder, files, others)
                        files, others = [], []
        except OSError as error:
            self._problem(folder.source, f"{folder.source}: read: {reason(error)}")
        if files or others:
            yield self.batch(folder, files, others)
        folder.open += len(below)
        stack += reversed(below)

    def _excluded(self, folder: Folder, name: str) -> bool:
        path = f"{folder.relative}/{name}"[1:]
        return excluded(path, name, self._wishes.exclude)

    def _finish(self, folder: Folder) -> None:
        """Give a directory its attributes, now that nothing will change in it any more."""
        info, wishes = folder.info, self._wishes
        if info is None:
            return
        mode = wishes.mode(info)
        try:
            if wishes.preserve:
                self._keep(folder, info)
            if folder.fresh and "mode" not in wishes.preserve:
                final = mode & ~self.umask
                if final != (mode | 0o700) & ~self.umask:
                    self._narrow(folder.target, final)
            if wishes.sync:
                target = os.open(folder.target, _FOLDER)
                try:
                    os.fsync(target)
                finally:
                    os.close(target)
        except TransferError as error:
            self._lost(Problem(folder.source, str(error), "attribute"))
        except OSError as error:
            text = f"{folder.target}: chmod: {reason(error)}"
            self._lost(Problem(folder.source, text, "attribute"))

    def _narrow(self, target: str, mode: int) -> None:
        """Take away what was granted to the owner while files arrived, and nothing else."""
        now = stat.S_IMODE(os.stat(target).st_mode)
        os.chmod(target, now & ~(~mode & 0o700))

    def _keep(self, folder: Folder, info: os.stat_result) -> None:
        try:
            source = os.open(folder.source, _FOLDER)
        except OSError:
            source = -1  # it could not be read: what stat has told is kept
        try:
            target = os.open(folder.target, _FOLDER)
            try:
                keep(source, info, target, folder.target, self._wishes)
            finally:
                os.close(target)
        finally:
            if source >= 0:
                os.close(source)

    def _problem(self, path: str, text: str) -> None:
        self._lost(Problem(path, text))


def excluded(path: str, name: str, globs: Sequence[str]) -> bool:
    """Whether a glob matches a name, or where it has a slash within, a path below the operand."""
    if name in ("", ".", ".."):
        return False
    for glob in globs:
        bare = glob.rstrip("/")
        if fnmatch.fnmatchcase(path if "/" in bare else name, bare.lstrip("/")):
            return True
    return False
