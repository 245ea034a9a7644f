"""Where a new file comes to stand: under a temporary name first, then by a rename.

In a directory that was made for the copy nothing is asked: the name is free, or another copy is
under way, and then the last rename wins. Elsewhere an existing target is judged first.
"""

from __future__ import annotations

import errno
import os
import stat

from zpipe.endpoints.replace import Replacement
from zpipe.errors import TransferError, reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zpipe.tree.wishes import TreeWishes

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
_KINDS = {
    stat.S_IFIFO: "FIFO",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
}
_LONGEST = 255 - 40  # bytes that a name may have beside the tail of a temporary one


def temporary_name(name: str, token: str, number: int) -> str:
    """Return a name beside `name` that no other task uses; the same when the task is done again."""
    if len(name) > _LONGEST // 4 and len(os.fsencode(name)) > _LONGEST:
        name = os.fsdecode(os.fsencode(name)[:_LONGEST])
    return f".{name}.zpipe-{token}-{number:x}"


def allowed(folder: int, temporary: str, mode: int) -> int:
    """Return the permission bits that a new file gets of `mode`: the umask, or the default ACL of
    its directory, takes its part. Asked of the kernel, by an empty file that is gone again.

    Raises: OSError.
    """
    empty = Place(folder, "", temporary, mode)
    try:
        return stat.S_IMODE(os.fstat(empty.fd).st_mode)
    finally:
        empty.discard()


class Place:
    """A new file under a temporary name in the directory `folder` (an fd). `withheld`: bits that
    are granted once it has its owner.
    """

    __slots__ = ("fd", "folder", "name", "temporary", "withheld")

    in_place = False

    def __init__(
        self, folder: int, name: str, temporary: str, mode: int, *, withholds: bool = False
    ):
        """Raises: OSError."""
        self.withheld: int | None = None
        if withholds:
            self.withheld = allowed(folder, temporary, mode)
            mode &= 0o700
        try:
            self.fd = os.open(temporary, _CREATE, mode, dir_fd=folder)
        except FileExistsError:
            # of a worker that was killed at this very task
            os.unlink(temporary, dir_fd=folder)
            self.fd = os.open(temporary, _CREATE, mode, dir_fd=folder)
        self.folder = folder
        self.name = name
        self.temporary = temporary

    def close(self) -> None:
        """Close the fd, which tells late errors of writing. Raises: OSError."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def commit(self) -> None:
        """Give the file its name. Raises: OSError."""
        self.close()
        os.rename(self.temporary, self.name, src_dir_fd=self.folder, dst_dir_fd=self.folder)

    def discard(self) -> None:
        """Leave nothing. May be called twice, and after `commit`."""
        try:
            self.close()
            os.unlink(self.temporary, dir_fd=self.folder)
        except OSError:
            pass


class Taken:
    """The place of a target that exists already: replaced, or written in place."""

    def __init__(
        self,
        replacement: Replacement,
        found: os.stat_result,
        *,
        keeps_mode: bool,
        withheld: int | None = None,
    ):
        self.withheld = withheld
        self._replacement = replacement
        self._found = found
        self._mode: int | None = None
        self._keeps_mode = keeps_mode
        self.in_place = replacement.reason is not None
        replacement.prepare()

    @property
    def fd(self) -> int:
        return self._replacement.fd

    def close(self) -> None:
        """Settle the mode: that which was set, or that of the target before."""
        own = os.fstat(self.fd)
        if not self._keeps_mode:
            self._mode = stat.S_IMODE(own.st_mode)
        elif (own.st_uid, own.st_gid) != (self._found.st_uid, self._found.st_gid):
            # what a bit grants is not to become somebody else's
            self._mode = stat.S_IMODE(self._found.st_mode) & ~(stat.S_ISUID | stat.S_ISGID)

    def commit(self) -> None:
        """Give the file its name. Raises: OSError, TransferError."""
        if self._mode is None:
            self.close()
        self._replacement.commit(mode=self._mode)

    def discard(self) -> None:
        self._replacement.discard()


def take_place(
    folder: int,
    path: str,
    temporary: str,
    found: os.stat_result | None,
    info: os.stat_result,
    wishes: TreeWishes,
) -> Place | Taken:
    """Open the place for a regular file at `path`; `found` is what is there already.

    Raises: OSError, TransferError.
    """
    mode = wishes.mode(info)
    withholds = "ownership" in wishes.preserve and wishes.withholds
    name = path[path.rfind("/") + 1 :]
    if found is not None and (wishes.remove or ("links" in wishes.preserve and _has_names(path))):
        found = None  # its other names are not to change: this one becomes another file's
    if found is None and not wishes.inplace:
        return Place(folder, name, temporary, mode, withholds=withholds)
    withheld = None
    first = mode
    if found is None and withholds and not os.path.exists(path):
        withheld = allowed(folder, temporary, mode)
        first = mode & 0o700
    try:
        replacement = Replacement(path, mode=first, inplace=wishes.inplace, temporary=temporary)
    except TransferError as error:
        if not (wishes.force and error.errno in (errno.EACCES, errno.EPERM, errno.ETXTBSY)):
            raise
        if wishes.inplace:
            os.unlink(path)
        return Place(folder, name, temporary, mode, withholds=withholds)
    before = os.stat(path) if found is not None else os.fstat(replacement.fd)
    keeps_mode = "mode" not in wishes.preserve
    return Taken(replacement, before, keeps_mode=keeps_mode, withheld=withheld)


def _is_name(source: str, target: str) -> bool:
    """Whether two paths are one name, not only one file."""
    one, other = (
        os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
        for path in (source, target)
    )
    return one == other


def _has_names(path: str) -> bool:
    try:
        found = os.stat(path)
        return stat.S_ISREG(found.st_mode) and found.st_nlink > 1
    except OSError:
        return False


def judge(
    folder: int, name: str, path: str, info: os.stat_result, source: str, wishes: TreeWishes
) -> tuple[bool, os.stat_result | None]:
    """Look at what stands where a file is to come; return whether it is to be left as it is, and
    what is there.

    Raises: TransferError  it must not be replaced.
    """
    try:
        found = os.lstat(name, dir_fd=folder)
    except FileNotFoundError:
        return False, None
    except OSError as error:
        raise TransferError(f"{path}: lstat: {reason(error)}", errno=error.errno) from error
    if stat.S_ISDIR(found.st_mode):
        raise TransferError(f"{path}: is a directory: cannot be replaced by {source}, which is not")
    if wishes.existing == "skip":
        return True, found
    kind = _KINDS.get(stat.S_IFMT(found.st_mode))
    if kind is not None and stat.S_ISREG(info.st_mode) and wishes.make == "copy":
        text = f"{path}: is a {kind}: zpipe cp SRC DST, without options of cp, writes to it"
        raise TransferError(text)
    if stat.S_ISLNK(info.st_mode) and not stat.S_ISLNK(found.st_mode):
        try:
            there = os.stat(source)
        except OSError:
            there = info
        if (there.st_dev, there.st_ino) == (found.st_dev, found.st_ino):
            raise TransferError(f"{path}: is what {source} points to: would be lost")
    real = found
    if wishes.remove and not _is_name(source, path):
        return False, found
    if stat.S_ISLNK(found.st_mode) and stat.S_ISREG(info.st_mode):
        try:
            real = os.stat(name, dir_fd=folder)
        except OSError as error:
            if wishes.make == "copy":
                text = f"{path}: open: is a dangling symbolic link, and is not written through"
                raise TransferError(text, errno=error.errno) from error
        if stat.S_ISDIR(real.st_mode) and wishes.make == "copy":
            text = f"{path}: leads to a directory: cannot be replaced by {source}, which is not"
            raise TransferError(text)
    if (real.st_dev, real.st_ino) == (info.st_dev, info.st_ino):
        if wishes.make != "copy" and not stat.S_ISLNK(found.st_mode):
            return True, found
        raise TransferError(f"{path}: is the source itself: a file cannot be copied onto itself")
    if wishes.update and real.st_mtime_ns >= info.st_mtime_ns:
        return True, found
    return False, found
