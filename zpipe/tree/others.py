"""Entries of a batch that have no bytes: symbolic links, special files, and links as copies.

Each is made under a temporary name, given its attributes, and renamed. A device or a FIFO is never
opened, which would mean something: it is held by O_PATH, so that nothing else can take its place
while it is given its owner and mode. Knows nothing of the contents of files.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager

from zpipe.errors import TransferError, open_failed, reason
from zpipe.tree.attributes import grant, keep
from zpipe.tree.place import allowed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from zpipe.tree.site import Site
    from zpipe.tree.wishes import TreeWishes


_HOLD = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class Others:
    """Makes the others of one site; `regular` carries what has become a regular file meanwhile."""

    def __init__(self, site: Site, wishes: TreeWishes, regular: Callable[[str], None]):
        self._site = site
        self._wishes = wishes
        self._regular = regular

    def carry(self, name: str) -> None:
        """Make a symbolic link or a special file like another. Raises: OSError, ZpipeError."""
        site = self._site
        try:
            info = os.stat(name, dir_fd=site.source, follow_symlinks=site.batch.follow)
        except OSError as error:
            raise open_failed(site.source_of(name), "stat", error) from error
        if stat.S_ISDIR(info.st_mode):
            raise TransferError(f"{site.source_of(name)}: has become a directory meanwhile")
        if self._wishes.make != "copy":
            self.link(name)
        elif stat.S_ISREG(info.st_mode):
            self._regular(name)
        elif site.batch.fresh or not site.stays(name, info)[0]:
            self._make_like(name, info)

    def _make_like(self, name: str, info: os.stat_result) -> None:
        site = self._site
        target, temporary = site.target_of(name), site.temporary_of(name)
        act = "symlink" if stat.S_ISLNK(info.st_mode) else "mknod"
        make = self._symlink if stat.S_ISLNK(info.st_mode) else self._mknod
        try:
            make(name, info, temporary, target)
            self._rename(name, temporary)
        except BaseException as error:
            self._discard(temporary)
            if isinstance(error, OSError):
                raise TransferError(
                    f"{target}: {act}: {reason(error)}", errno=error.errno
                ) from error
            raise
        site.made(name, info, "", "made")

    def _symlink(self, name: str, info: os.stat_result, temporary: str, target: str) -> None:
        site = self._site
        leads = os.readlink(name, dir_fd=site.source)
        self._made(lambda: os.symlink(leads, temporary, dir_fd=site.target), temporary)
        if self._wishes.preserve:
            with self._held(temporary, stat.S_IFLNK) as held:
                keep(site.source_of(name), info, held, target, self._wishes, bits=False)

    def _mknod(self, name: str, info: os.stat_result, temporary: str, target: str) -> None:
        site, wishes = self._site, self._wishes
        mode = wishes.mode(info)
        withheld = None
        if wishes.withholds:
            withheld = allowed(site.target, temporary, mode)
            mode &= 0o700
        kind = stat.S_IFMT(info.st_mode)
        self._made(
            lambda: os.mknod(temporary, kind | mode, info.st_rdev, dir_fd=site.target), temporary
        )
        if wishes.preserve:
            with self._held(temporary, kind) as held:
                try:
                    keep(site.source_of(name), info, held, target, wishes)
                finally:
                    if withheld is not None:
                        grant(held, withheld, target)

    @contextmanager
    def _held(self, temporary: str, kind: int) -> Iterator[str]:
        """Give a path that leads to what was made, whatever its name comes to mean.

        Raises: OSError  ESTALE: it is another file already.
        """
        fd = os.open(temporary, _HOLD, dir_fd=self._site.target)
        try:
            found = os.fstat(fd)
            if stat.S_IFMT(found.st_mode) != kind or found.st_nlink != 1:
                raise OSError(errno.ESTALE, "")
            yield f"/proc/self/fd/{fd}"
        finally:
            os.close(fd)

    def link(self, name: str) -> None:
        """Make a link instead of a copy. Raises: OSError, ZpipeError."""
        site, wishes = self._site, self._wishes
        batch, target = site.batch, site.target_of(name)
        info = os.stat(name, dir_fd=site.source, follow_symlinks=batch.follow)
        if not batch.fresh:
            stays, found = site.stays(name, info)
            if stays:
                return
            if found is not None and not wishes.force and wishes.existing == "replace":
                text = f"{target}: {wishes.make}: {os.strerror(errno.EEXIST)} (-f replaces it)"
                raise TransferError(text, errno=errno.EEXIST)
        temporary = site.temporary_of(name)
        source = site.source_of(name)
        if wishes.make == "symlink" and not source.startswith("/") and not self._is_here():
            raise TransferError(
                f"{target}: symlink: {source} is a relative path, which would be looked for in"
                f" {batch.target}: give the whole path"
            )

        def make() -> None:
            if wishes.make == "symlink":
                os.symlink(source, temporary, dir_fd=site.target)
                return
            os.link(
                name,
                temporary,
                src_dir_fd=site.source,
                dst_dir_fd=site.target,
                follow_symlinks=batch.follow,
            )

        try:
            self._made(make, temporary)
            self._rename(name, temporary)
        except OSError as error:
            raise TransferError(
                f"{target}: {wishes.make}: {reason(error)}", errno=error.errno
            ) from error
        finally:
            # a rename to another name of the same file does nothing at all
            self._discard(temporary)
        site.made(name, info, "", "linked")

    def _is_here(self) -> bool:
        """Whether the target directory is the one that relative paths begin at."""
        here, target = os.stat("."), os.fstat(self._site.target)
        return (here.st_dev, here.st_ino) == (target.st_dev, target.st_ino)

    def _made(self, make: Callable[[], None], temporary: str) -> None:
        try:
            make()
        except FileExistsError:
            os.unlink(temporary, dir_fd=self._site.target)
            make()

    def _rename(self, name: str, temporary: str) -> None:
        site = self._site
        as_name = site.batch.as_name or name
        os.rename(temporary, as_name, src_dir_fd=site.target, dst_dir_fd=site.target)

    def _discard(self, temporary: str) -> None:
        try:
            os.unlink(temporary, dir_fd=self._site.target)
        except OSError:
            pass
