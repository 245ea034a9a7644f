"""One range of a big file: from the source into its temporary file, and back from the disk."""

from __future__ import annotations

import errno
import os

from zpipe.errors import Interrupted, SourceChanged, ZpipeError, open_failed, reason
from zpipe.tree.content import Range
from zpipe.tree.tasks import Problem, identity_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from zpipe.engine.limiter import Limiter
    from zpipe.engine.stop import Stop
    from zpipe.tree.tasks import Chunk, Outcome
    from zpipe.tree.wishes import TreeWishes

# what has become a FIFO meanwhile must not be waited for
_SOURCE = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
_SINK = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


def carry_chunk(
    chunk: Chunk,
    out: Outcome,
    wishes: TreeWishes,
    *,
    stop: Stop,
    limiter: Limiter | None,
    moving: Callable[[int], None] | None,
) -> None:
    """Carry a range; may be done twice. What goes wrong with it is in the outcome.

    Raises: Interrupted.
    """
    try:
        try:
            source = os.open(chunk.source, _SOURCE)
        except OSError as error:
            raise open_failed(chunk.source, "open", error) from error
        try:
            if identity_of(os.fstat(source)) != chunk.identity:
                raise SourceChanged(f"{chunk.source}: read: the source changed while it was read")
            sink = os.open(chunk.temporary, _SINK)
            try:
                found = os.fstat(sink)
                if found.st_ino != chunk.inode or found.st_nlink != 1:
                    raise OSError(errno.ESTALE, "")
                carrier = Range(
                    source,
                    sink,
                    chunk.source,
                    chunk.target,
                    wishes,
                    out,
                    stop=stop,
                    limiter=limiter,
                    moving=moving,
                )
                _carry(chunk, carrier, sink, wishes, out)
            finally:
                os.close(sink)
        finally:
            os.close(source)
    except Interrupted:
        raise
    except ZpipeError as error:
        out.problems.append(Problem(chunk.source, str(error)))
    except OSError as error:
        text = f"{chunk.target}: {chunk.temporary}: {reason(error)}"
        out.problems.append(Problem(chunk.source, text))
    out.failed = bool(out.problems)


def _carry(chunk: Chunk, carrier: Range, sink: int, wishes: TreeWishes, out: Outcome) -> None:
    end = chunk.offset + chunk.length
    if not wishes.verify:
        carrier.carry(chunk.offset, end, None)
        if wishes.resume:
            os.fdatasync(sink)  # what the journal says must be true after a power cut, too
        return
    from zpipe.tree.digest import VERIFYING, Digest, on_disk

    digest = Digest(VERIFYING, chunk.length, wants_holes=False)
    try:
        ranges = carrier.carry(chunk.offset, end, digest)
        hexes = digest.hex()
    finally:
        digest.close()
    os.fdatasync(sink)
    if on_disk(sink, ranges, name=chunk.target) != hexes:
        text = (
            f"{chunk.target}: verify: what was read back is not what was written, between"
            f" bytes {chunk.offset} and {end}; nothing was put in place"
        )
        out.problems.append(Problem(chunk.source, text, "mismatch"))
