"""Files of a batch that are written and not yet in their place: read back from the disk first.

Many together, for which one sync of their filesystem is enough. Knows nothing of how they were
written: the digest of what should be there is all that it is given.
"""

from __future__ import annotations

import errno
import os
import stat

from zpipe.errors import TransferError, reason
from zpipe.kernel.sync import syncfs
from zpipe.tree.digest import VERIFYING, on_disk
from zpipe.tree.place import Place
from zpipe.tree.tasks import Problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zpipe.engine.stop import Stop
    from zpipe.tree.place import Taken
    from zpipe.tree.site import Site
    from zpipe.tree.wishes import TreeWishes

# what somebody has put in its place is neither followed nor waited for
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

ENOUGH = 64  # files that are verified together


class Unverified:
    """A file that is written; `ranges` are those of `digest`."""

    def __init__(
        self,
        name: str,
        info: os.stat_result,
        place: Place | Taken,
        digest: str,
        ranges: list[tuple[int, int]],
    ):
        """Raises: OSError  of a write that fails late."""
        self.name = name
        self.info = info
        self.place = place
        self.digest = digest
        self.ranges = ranges
        self.mode: int | None = None  # to be set at the end
        found = os.fstat(place.fd)
        self.own = found.st_dev, found.st_ino
        mode = stat.S_IMODE(found.st_mode)
        if not mode & stat.S_IRUSR and isinstance(place, Place):
            # its owner, who may be us, is to read it once more
            os.fchmod(place.fd, mode | stat.S_IRUSR)
            self.mode = mode
        place.close()


class Verification:
    """Takes files with `add`, and puts them in place with `settle` where they are what they
    should be.
    """

    def __init__(self, site: Site, wishes: TreeWishes, stop: Stop):
        self._site = site
        self._algorithm = wishes.digest or VERIFYING
        self._stop = stop
        self.waiting: list[Unverified] = []

    def add(self, each: Unverified) -> None:
        """Take a file. Raises: Interrupted, OSError."""
        self.waiting.append(each)
        if len(self.waiting) >= ENOUGH:
            self.settle()

    def settle(self) -> None:
        """Read back what was written, and put it in place where it is the same.

        Raises: Interrupted  it is left to `discard` what still waits.
                OSError      the filesystem could not be synced.
        """
        if not self.waiting:
            return
        site = self._site
        syncfs(site.target)
        while self.waiting:
            self._stop.check()
            each = self.waiting[0]
            problem = self._compare(each)
            self.waiting.pop(0)
            if problem is None:
                site.made(each.name, each.info, each.digest, "copied")
            else:
                each.place.discard()
                site.out.problems.append(problem)

    def _compare(self, each: Unverified) -> Problem | None:
        """Put a file in place, or tell why not."""
        site, place = self._site, each.place
        source, target = site.source_of(each.name), site.target_of(each.name)
        try:
            fd = self._open(each)
            try:
                found = on_disk(fd, each.ranges, name=target, algorithm=self._algorithm)
                if found != each.digest:
                    text = f"{target}: verify: what was read back is not what was written"
                    text += "" if place.in_place else "; nothing was put in place"
                    return Problem(source, text, "mismatch")
                if each.mode is not None:
                    os.fchmod(fd, each.mode)
            finally:
                os.close(fd)
            place.commit()
        except OSError as error:
            return Problem(source, f"{target}: rename: {reason(error)}")
        except TransferError as error:
            return Problem(source, str(error))
        return None

    def _open(self, each: Unverified) -> int:
        """Open for reading what was written. Raises: TransferError  that is not there any more."""
        place = each.place
        try:
            if isinstance(place, Place):
                fd = os.open(place.temporary, _READ, dir_fd=self._site.target)
            else:
                fd = os.open(f"/proc/self/fd/{place.fd}", os.O_RDONLY | os.O_CLOEXEC)
            found = os.fstat(fd)
            if (found.st_dev, found.st_ino) != each.own:
                os.close(fd)
                raise OSError(errno.ESTALE, "")
        except OSError as error:
            text = f"{self._site.target_of(each.name)}: verify: open: {reason(error)}"
            raise TransferError(text, errno=error.errno) from error
        return fd

    def discard(self) -> None:
        """Leave nothing of what still waits."""
        for each in self.waiting:
            each.place.discard()
