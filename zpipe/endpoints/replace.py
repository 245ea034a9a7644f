"""Put a complete file in the place of a name, or leave everything as it was.

Bytes go to a temporary name beside the target, created O_EXCL; a rename makes them the target.
A target keeps its mode, owner and extended attributes. Where that cannot be kept, or a rename
would break what others rely on, the target is written in place, and `reason` says why.

Imports nothing heavy: a copy of a tiny file loads this and little else.
"""

from __future__ import annotations

import errno
import os
import stat

from zpipe.errors import TransferError, onto_itself, open_failed

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
_IN_PLACE = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY
_NAME_MAX = 255
_LINKS_MAX = 40  # path_resolution(7)


class Replacement:
    """The file that will carry a name. `fd` is open for writing at position 0, empty once `prepare`
    was called.

    `reason` is None for a rename, else why the target is written in place.
    """

    __slots__ = ("_existing", "_temporary", "fd", "path", "reason")

    def __init__(
        self,
        path: str,
        *,
        mode: int = 0o666,
        inplace: bool = False,
        refuse: tuple[int, int] | None = None,
        temporary: str | None = None,
    ):
        """Open the place for the new bytes; see `Opening` for `mode` and `refuse`. `temporary` is
        the name beside the target that is nobody else's, if the caller has one: what a killed run
        left of it goes.

        Raises: UsageError     the target is the source itself.
                TransferError  with the kernel's reason.
        """
        # a symbolic link stays a link: what it points to is replaced
        self.path, passed = _follow(path) if os.path.islink(path) else (path, False)
        self.fd = -1
        self._temporary: str | None = None
        self._existing: os.stat_result | None = None
        try:
            self._existing = os.stat(self.path)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise open_failed(path, "open", error) from error
        found = self._existing
        if found is not None:
            if refuse == (found.st_dev, found.st_ino):
                raise onto_itself(path)
            if stat.S_ISDIR(found.st_mode):
                raise open_failed(path, "open", OSError(errno.EISDIR, ""))
        self.reason = "--inplace" if inplace else _in_place(self.path, found)
        if passed and self.reason is None:
            self.reason = "it is an open file of a process"
        try:
            if self.reason is None:
                self._open_beside(mode, temporary)
            if self.reason is not None:
                self.fd = os.open(self.path, _IN_PLACE, mode)
        except OSError as error:
            raise open_failed(path, "open", error) from error

    def prepare(self) -> None:
        """Truncate a target that is written in place; not before it is sure that bytes will come.

        Raises: TransferError  with the kernel's reason.
        """
        if self.reason is not None and self._existing is not None:
            try:
                os.ftruncate(self.fd, 0)
            except OSError as error:
                raise open_failed(self.path, "truncate", error) from error

    def commit(self, *, sync: bool = False, mode: int | None = None) -> None:
        """Close the file and give it its name; with `sync`, make file and name durable first.
        `mode`: permission bits to have instead of those of the target that was there.

        Raises: TransferError  fsync, close or rename failed: nothing carries the name, save where
                               only the fsync of the directory failed, after the rename.
        """
        act = "fsync"
        try:
            if sync:
                os.fsync(self.fd)
            if self._temporary is not None and self._existing is not None:
                act = "chmod"
                os.fchmod(self.fd, stat.S_IMODE(self._existing.st_mode) if mode is None else mode)
            act = "close"
            fd, self.fd = self.fd, -1
            os.close(fd)
            if self._temporary is not None:
                act = "rename"
                os.rename(self._temporary, self.path)
                self._temporary = None
            if sync:
                act = "fsync of the directory"
                _sync_directory(os.path.dirname(self.path) or ".")
        except OSError as error:
            self.discard()
            raise TransferError(
                f"{self.path}: {act}: {os.strerror(error.errno or 0)}", errno=error.errno
            ) from error

    def discard(self) -> None:
        """Close, and remove the temporary file if there is one. May be called twice."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        if self._temporary is not None:
            try:
                os.unlink(self._temporary)
            except FileNotFoundError:
                pass
            self._temporary = None

    def _open_beside(self, mode: int, own: str | None) -> None:
        """Create the temporary file, or set `reason` where the target must be written in place."""
        directory, name = os.path.split(self.path)
        if not name:
            raise OSError(errno.ENOTDIR, "")
        tail = f".zpipe-{os.urandom(6).hex()}"
        # the name is cut by bytes, so that the temporary one is never too long
        stem = os.fsdecode(os.fsencode(name)[: _NAME_MAX - len(tail) - 1])
        if len(os.fsencode(name)) > _NAME_MAX:
            raise OSError(errno.ENAMETOOLONG, "")
        temporary = os.path.join(directory, own or f".{stem}{tail}")
        found = self._existing
        try:
            if own is not None and os.path.lexists(temporary):
                os.unlink(temporary)
            # the umask and the directory's default ACL apply to a new file as they do for cp
            self.fd = os.open(temporary, _CREATE, mode if found is None else 0o600)
        except OSError as error:
            # EACCES, EPERM: of others, or immutable; EROFS: a file mounted into a read-only tree;
            # ENOENT: /proc, where nothing can be created
            takes_none = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT)
            if found is None or error.errno not in takes_none:
                raise
            self.reason = "its directory takes no new files"
            return
        self._temporary = temporary
        if found is not None and not take_on(self.fd, self.path, found):
            self.discard()
            self.reason = "its owner or attributes could not be kept"


def _follow(path: str) -> tuple[str, bool]:
    """Return what a symbolic link leads to, and whether it is one of /proc/PID/fd.

    Those (/dev/stdout, /dev/fd/N) lead to an open file, not to a name: the name that they show
    may be that of another file by now, or of none.
    """
    for _ in range(_LINKS_MAX):
        if not os.path.islink(path):
            break
        directory = os.path.dirname(path)
        if os.path.realpath(directory).startswith("/proc/"):
            return path, True
        path = os.path.join(directory, os.readlink(path))
    return path, False


def _in_place(path: str, found: os.stat_result | None) -> str | None:
    """Return why an existing target must not be replaced by a rename; None: it may be.

    Raises: OSError  EACCES: the target is not writable; a rename would walk around that.
    """
    if found is None:
        return None
    if not stat.S_ISREG(found.st_mode):
        return "it is not a regular file"
    if found.st_nlink > 1:
        return f"it has {found.st_nlink} links"
    if not os.access(path, os.W_OK, effective_ids=True):
        if os.statvfs(path).f_flag & os.ST_RDONLY:
            raise open_failed(path, "open", OSError(errno.EROFS, ""))
        raise open_failed(path, "open", OSError(errno.EACCES, ""))
    return None


def take_on(fd: int, path: str, found: os.stat_result) -> bool:
    """Give the temporary file the owner and extended attributes of the target it will replace."""
    own = os.fstat(fd)
    try:
        if (own.st_uid, own.st_gid) != (found.st_uid, found.st_gid):
            os.fchown(fd, found.st_uid, found.st_gid)
        for name in os.listxattr(path):
            # security.* (capabilities, labels, hashes) belongs to the bytes or to the policy
            if not name.startswith("security."):
                os.setxattr(fd, name, os.getxattr(path, name))
    except OSError as error:
        return error.errno == errno.EOPNOTSUPP
    return True


def _sync_directory(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
