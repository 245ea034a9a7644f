"""Entries of a batch that have no bytes: symbolic links, special files, and links as copies.

Each is made under a temporary name, given its attributes by its path, and renamed. A device or a
FIFO is never opened: that means something. Knows nothing of the contents of files.
"""

from __future__ import annotations

import errno
import os
import stat

from zpipe.errors import TransferError, open_failed, reason
from zpipe.tree.attributes import grant, keep, keep_special
from zpipe.tree.place import allowed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from zpipe.tree.site import Site
    from zpipe.tree.wishes import TreeWishes


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
            path = os.path.join(site.batch.target, temporary)
            keep(site.source_of(name), info, path, target, self._wishes)

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
            path = os.path.join(site.batch.target, temporary)
            try:
                keep_special(site.source_of(name), info, path, target, wishes)
            finally:
                if withheld is not None:
                    grant(path, withheld, target)

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
