"""Move bytes between a place in a file and any other fd, by the best of three tiers.

In the kernel (copy_file_range, splice, sendfile), from a mapping, through a buffer: each that may
serve is tried in turn, and the system call decides. A call that a pair of kinds refused is not made
again for such a pair in this process, once another one has carried what it would not. A kind is a
type of fd with its filesystem, device or address family, and its flags.

Both places are exact at every moment: a file is read by offsets, so nothing is lost when a call
gives up in the middle. What was read from a stream cannot be put back: where it cannot be written
either, that is a TransferError.
"""

from __future__ import annotations

import os
from contextlib import closing

from zpipe.channel.ways import TIERS, WAYS, Unavailable
from zpipe.errors import TransferError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zpipe.channel.place import Place
    from zpipe.channel.ways import Path, Tier


class Transferred(int):
    """A count of bytes that knows which way they went.

    `path` is the call that carried the most of them: "copy_file_range", "splice", "sendfile",
    "mapped" (mmap and write) or "buffer" (read and write); None: there were none. `tier` is
    "kernel", "mapped" or "buffer". `refused` names the calls that were tried first in vain, with
    the errno of each; 0: it came to an end that was none.

    >>> Transferred(10, "sendfile") + 1
    11
    >>> Transferred(10, "sendfile").tier
    'kernel'
    """

    path: Path | None
    refused: tuple[tuple[Path, int], ...]

    def __new__(
        cls, count: int, path: Path | None = None, refused: tuple[tuple[Path, int], ...] = ()
    ) -> Transferred:
        self = super().__new__(cls, count)
        self.path = path
        self.refused = refused
        return self

    @property
    def tier(self) -> Tier | None:
        return TIERS[self.path] if self.path is not None else None

    def __repr__(self) -> str:
        return f"Transferred({int(self)}, path={self.path!r})"

    def __str__(self) -> str:
        return str(int(self))


_refused: dict[tuple[object, object], frozenset[Path]] = {}


def refusals() -> dict[tuple[object, object], frozenset[Path]]:
    """Return what is remembered: pairs of kinds, each with the calls that are not made for it."""
    return dict(_refused)


def forget() -> None:
    """Forget all refusals: after a change of policy, or of a mount, all is tried anew."""
    _refused.clear()


def move(src: Place, dst: Place, count: int) -> Transferred:
    """Move up to `count` bytes from one place to the other; both are advanced.

    Returns: the bytes moved; fewer than asked for where the source ends, an end that does not
             block is not ready, or an error came after a part: asked again, it is raised.
    Raises: BlockingIOError  nothing moved, and an end that does not block is not ready.
            OSError          nothing moved.
            TransferError    bytes of a stream are lost; `delivered` is what was moved before.
            SourceTruncated  the source was cut while it was mapped, against a lease.
            ValueError       the ranges overlap in one file.
    """
    if src.regular and src.info.st_size and src.offset is not None:
        count = min(count, src.info.st_size - src.offset)
    if count <= 0:
        return Transferred(0)
    _refuse_overlap(src, dst, count)
    pair = (src.kind, dst.kind)
    known = _refused.get(pair, frozenset())
    moved = 0
    carried: dict[Path, int] = {}
    refused: dict[Path, int] = {}
    for way in WAYS:
        if way.path in known or not way.fits(src, dst, count - moved):
            continue
        try:
            with closing(way.run(src, dst, count - moved)) as run:
                for part in run:
                    moved += part
                    src.advance(part)
                    dst.advance(part)
                    carried[way.path] = carried.get(way.path, 0) + part
            if moved == count or way is WAYS[-1] or src.ended():
                break
            refused[way.path] = 0
        except Unavailable:
            continue
        except TransferError as error:
            error.delivered = moved
            raise
        except OSError as error:
            if error.errno in way.refusals and not isinstance(error, BlockingIOError):
                refused[way.path] = error.errno or 0
                continue
            if not moved:
                raise
            break
    if not (src.direct or dst.direct):  # they refuse what is not aligned: this call, not the kind
        # what nothing else could carry either says nothing of the kind
        never = frozenset(path for path in refused if carried and path not in carried)
        if never - known:
            _refused[pair] = known | never
    path = max(carried.items(), key=lambda item: item[1])[0] if carried else None
    return Transferred(moved, path, tuple(refused.items()))


def _refuse_overlap(src: Place, dst: Place, count: int) -> None:
    """Refuse to write over what is still to be read; the kernel would, or would go in a circle."""
    if src.offset is None or dst.append or not src.same_file(dst):
        return
    to = os.lseek(dst.fd, 0, os.SEEK_CUR) if dst.offset is None else dst.offset
    if src.offset < to + count and to < src.offset + count:
        raise ValueError(f"{dst.name}: the ranges overlap: {count} bytes from {src.offset} to {to}")
