"""Regular files of a batch: read or cloned or moved, given their attributes, and put in place.

One byte of a small file is read into a buffer and written from it, by three calls for the file and
five for its names; every other way costs more than that. Big files and holes go by the movers.
Knows nothing of links and special files, nor of what becomes of a big file that is to be divided.
"""

from __future__ import annotations

import errno
import os
import stat

from zpipe.errors import SourceChanged, TransferError, open_failed, reason
from zpipe.kernel.changes import changes
from zpipe.kernel.clone import clone
from zpipe.tree.attributes import grant, keep
from zpipe.tree.place import take_place
from zpipe.tree.tasks import Big, Problem, identity_of
from zpipe.tree.wishes import BIG

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from zpipe.engine.limiter import Limiter
    from zpipe.engine.stop import Stop
    from zpipe.tree.digest import Digest
    from zpipe.tree.place import Place, Taken
    from zpipe.tree.site import Site
    from zpipe.tree.verifying import Verification
    from zpipe.tree.wishes import TreeWishes

SMALL = 256 * 1024  # bytes: read and written at once
_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY


class RegularFiles:
    """Carries one file after the other, between `begin` and `discard` those of one site. See
    `Worker` for `divides` and the rest.
    """

    def __init__(
        self,
        wishes: TreeWishes,
        stop: Stop,
        *,
        divides: bool,
        limiter: Limiter | None,
        moving: Callable[[int], None] | None,
    ):
        self._wishes = wishes
        self._stop = stop
        self._divides = divides and wishes.divides
        self._limiter = limiter
        self._moving = moving
        self._never_clones: set[tuple[int, int]] = set()  # pairs of devices
        # in short: no wish that the quickest way does not know
        self._plain = (
            wishes.via is None
            and "plain" not in wishes.without
            and wishes.reflink != "always"
            and wishes.sparse != "always"
            and limiter is None
        )
        self._clones = (
            wishes.reflink == "auto"
            and "reflink" not in wishes.without
            and wishes.via in (None, "reflink")
            and not wishes.verify
            and wishes.digest is None
            and wishes.sparse == "auto"
        )
        self._site: Site
        self._verification: Verification | None = None

    def begin(self, site: Site) -> None:
        """Go on with the files of another batch."""
        self._site = site
        if self._wishes.verify:
            from zpipe.tree.verifying import Verification

            self._verification = Verification(site, self._wishes, self._stop)

    def settle(self) -> None:
        """Put in place what still waits for it. Raises: OSError, Interrupted."""
        if self._verification is not None:
            self._verification.settle()

    def discard(self) -> None:
        """Leave nothing of what is not in its place."""
        if self._verification is not None:
            self._verification.discard()

    def carry(self, name: str) -> None:
        """Carry one file, or leave it for being divided.

        Raises: OSError, TransferError, SourceChanged  it is not in its place.
                Interrupted.
        """
        site = self._site
        fd = self._open(name, 0 if site.batch.follow else os.O_NOFOLLOW)
        try:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode):
                raise TransferError(f"{site.source_of(name)}: read: is no regular file any more")
            found = None
            if not site.batch.fresh:
                stays, found = site.stays(name, info)
                if stays:
                    return
            self._make(name, fd, info, found)
        finally:
            os.close(fd)

    def _open(self, name: str, follow: int) -> int:
        folder = self._site.source
        try:
            try:
                # what has become a FIFO meanwhile must not be waited for
                return os.open(name, _OPEN | os.O_NONBLOCK | follow, dir_fd=folder)
            except BlockingIOError:
                return os.open(name, _OPEN | follow, dir_fd=folder)  # a lease is being given up
        except OSError as error:
            raise open_failed(self._site.source_of(name), "open", error) from error

    def _make(self, name: str, fd: int, info: os.stat_result, found: os.stat_result | None) -> None:
        """Make the target, in whose place there is `found`."""
        site = self._site
        size = info.st_size
        data = None
        cloning = divided = False
        allocated = info.st_blocks * 512
        if not size or (size <= SMALL and self._plain and (allocated >= size or not allocated)):
            cloning = self._clones and allocated > 0 < size and self._may_clone(info)
            data = None if cloning else self._read(name, fd, info)
            if data and not allocated and len(data) == size and not data.strip(b"\0"):
                data = None  # a hole, and no file of /sys
        elif self._divides and size >= BIG and (found is None or self._is_ours(name, found)):
            divided = True
            if not (self._clones and self._may_clone(info)):
                site.out.big.append(Big(name, identity_of(info)))
                return
        target = site.target_of(name)
        temporary = site.temporary_of(name)
        try:
            place = take_place(site.target, target, temporary, found, info, self._wishes)
        except OSError as error:
            raise open_failed(target, "open", error) from error
        try:
            cloned = data is None and self._clones and self._clone(fd, place.fd, info)
            if divided and not cloned:
                place.discard()
                site.out.big.append(Big(name, identity_of(info)))
                return
            if cloning and not cloned:
                data = self._read(name, fd, info)
            self._fill(name, fd, info, place, data, cloned=cloned)
        except BaseException as error:
            place.discard()
            if isinstance(error, OSError):
                end = "" if place.in_place else "; nothing was put in place"
                raise TransferError(
                    f"{target}: write: {reason(error)}{end}", errno=error.errno
                ) from error
            raise

    def _fill(
        self,
        name: str,
        fd: int,
        info: os.stat_result,
        place: Place | Taken,
        data: bytes | None,
        *,
        cloned: bool,
    ) -> None:
        """Write, compare, give attributes, and put in place."""
        wishes, site = self._wishes, self._site
        digest = None
        hexes = ""
        ranges = [(0, info.st_size)]
        if wishes.digest is not None or wishes.verify:
            digest = self._digest(info.st_size)
        try:
            if data is not None:
                if not info.st_size:
                    data = _to_its_end(fd, data)
                    ranges = [(0, len(data))]
                rest = memoryview(data)
                while rest:
                    rest = rest[os.write(place.fd, rest) :]
                if digest is not None:
                    digest.update(data)
                site.out.count("plain", len(data))
            elif not cloned:
                ranges = self._by_movers(name, fd, info, place, digest)
            if digest is not None:
                hexes = digest.hex()
        finally:
            if digest is not None:
                digest.close()
        self._refuse_change(name, info, fd)
        if wishes.preserve:
            self._keep(name, fd, info, place)
        if self._verification is not None:
            self._verify(self._verification, name, info, place, hexes, ranges)
            return
        act = "fsync"
        try:
            if wishes.sync:
                os.fsync(place.fd)
            act = "rename"
            place.commit()
        except OSError as error:
            end = "" if place.in_place else "; nothing was put in place"
            text = f"{site.target_of(name)}: {act}: {reason(error)}{end}"
            raise TransferError(text, errno=error.errno) from error
        site.made(name, info, hexes, "copied")

    def _digest(self, size: int) -> Digest:
        from zpipe.tree.digest import VERIFYING, Digest

        wishes = self._wishes
        return Digest(wishes.digest or VERIFYING, size, wants_holes=wishes.digest is not None)

    def _verify(
        self,
        verification: Verification,
        name: str,
        info: os.stat_result,
        place: Place | Taken,
        digest: str,
        ranges: list[tuple[int, int]],
    ) -> None:
        from zpipe.tree.verifying import Unverified

        if self._wishes.digest is not None:
            # with its holes
            ranges = [(0, max(info.st_size, ranges[-1][1] if ranges else 0))]
        verification.add(Unverified(name, info, place, digest, ranges))
        if info.st_size > SMALL:
            verification.settle()

    # Small files

    def _read(self, name: str, fd: int, info: os.stat_result) -> bytes:
        """Return a small file whole. Raises: SourceChanged, TransferError."""
        size = info.st_size
        try:
            data = os.read(fd, size + 1)
            if len(data) == size or not size:
                return data
            while len(data) < size and (more := os.read(fd, size - len(data))):
                data += more  # as network filesystems may give it
        except OSError as error:
            raise open_failed(self._site.source_of(name), "read", error) from error
        if len(data) != size and info.st_blocks:
            self._refuse_change(name, info, fd)
            path = self._site.source_of(name)
            raise TransferError(f"{path}: read: ended at byte {len(data)} of {size}")
        return data

    # Others

    def _by_movers(
        self,
        name: str,
        fd: int,
        info: os.stat_result,
        place: Place | Taken,
        digest: Digest | None,
    ) -> list[tuple[int, int]]:
        from zpipe.tree.content import Range

        site = self._site
        size = info.st_size
        carrier = Range(
            fd,
            place.fd,
            site.source_of(name),
            site.target_of(name),
            self._wishes,
            site.out,
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
        site = self._site
        own = os.geteuid()
        return (
            stat.S_ISREG(found.st_mode)
            and found.st_nlink == 1
            and own in (0, found.st_uid)
            and os.access(
                site.batch.as_name or name, os.W_OK, dir_fd=site.target, effective_ids=True
            )
        )

    def _may_clone(self, info: os.stat_result) -> bool:
        return (info.st_dev, self._site.device) not in self._never_clones

    def _clone(self, fd: int, target: int, info: os.stat_result) -> bool:
        if not info.st_size or not self._may_clone(info):
            return False
        out = self._site.out
        try:
            clone(fd, target)
        except OSError as error:
            out.fell_back("reflink", "ioctl(FICLONE)", error.errno or 0)
            if error.errno in (errno.EOPNOTSUPP, errno.EXDEV, errno.ENOTTY, errno.ENOSYS):
                self._never_clones.add((info.st_dev, self._site.device))
            return False
        out.count("reflink", info.st_size)
        return True

    # What is kept

    def _refuse_change(self, name: str, before: os.stat_result, fd: int) -> None:
        """Raise: SourceChanged  the file is not what it was when it was opened."""
        if not before.st_size:
            return
        found = changes(before, os.fstat(fd))
        if found:
            raise SourceChanged(
                f"{self._site.source_of(name)}: read: the source changed while it was read"
                f" ({', '.join(found)}); nothing was put in place"
            )

    def _keep(self, name: str, source: int, info: os.stat_result, place: Place | Taken) -> None:
        """Keep attributes; what is lost is told, and the file is put in place nevertheless."""
        site = self._site
        target = site.target_of(name)
        try:
            try:
                keep(source, info, place.fd, target, self._wishes)
            finally:
                if place.withheld is not None:
                    grant(place.fd, place.withheld, target)
        except TransferError as error:
            site.out.problems.append(Problem(site.source_of(name), str(error), "attribute"))


def _to_its_end(fd: int, data: bytes) -> bytes:
    """Read on where the size is 0, as that of files in /proc is."""
    pieces = [data]
    while pieces[-1]:
        pieces.append(os.read(fd, SMALL))
    return b"".join(pieces)
