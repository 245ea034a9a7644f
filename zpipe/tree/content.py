"""The bytes of one range of a file: by the movers, with its holes, or through our hands where they
are to be counted, compared or searched for zeros.
"""

from __future__ import annotations

import os

from zpipe.endpoints.contract import End
from zpipe.endpoints.gather import gather
from zpipe.engine.feedback import Feedback
from zpipe.engine.hop import Hop
from zpipe.engine.waiting import EngineWaiter
from zpipe.errors import TransferError, UsageError, reason
from zpipe.graph.model import Wishes
from zpipe.kernel.holes import next_data, next_hole
from zpipe.plan.choice import choose
from zpipe.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from zpipe.engine.limiter import Limiter
    from zpipe.engine.report import HopReport
    from zpipe.engine.stop import Stop
    from zpipe.tree.digest import Digest
    from zpipe.tree.tasks import Outcome
    from zpipe.tree.wishes import TreeWishes

BUFFER = 512 * 1024
BLOCK = 4096  # what a hole is made of
_ZEROS = bytes(BLOCK)
_SHARING = frozenset({"reflink", "copy_range"})  # the second may share, or let a server copy


class Watcher(Feedback):
    """Hears from the movers how far they are within a file."""

    interval = 0.2

    def __init__(self, moving: Callable[[int], None], stop: Stop):
        self._moving = moving
        self._stop = stop

    def progress(self, hop: HopReport) -> None:
        self._moving(hop.moved)

    def status(self, hop: HopReport) -> None:
        self._stop.status_wanted = True  # of the whole, not of this hop
        self._moving(hop.moved)


def segments(fd: int, begin: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield begin and end of each stretch of data; everything where the filesystem cannot tell."""
    place = begin
    while place < end:
        try:
            data = next_data(fd, place)
            if data is None or data >= end:
                return
            hole = min(end, next_hole(fd, data))
        except OSError:
            yield place, end
            return
        yield data, hole
        place = hole


class Range:
    """Carries ranges between one pair of open files; `name` and `target` are for messages."""

    def __init__(
        self,
        source: int,
        sink: int,
        name: str,
        target: str,
        wishes: TreeWishes,
        outcome: Outcome,
        *,
        stop: Stop,
        provisional: bool = True,
        limiter: Limiter | None = None,
        moving: Callable[[int], None] | None = None,
    ):
        self._source = source
        self._sink = sink
        self._name = name
        self._target = target
        self._wishes = wishes
        self._outcome = outcome
        self._stop = stop
        self._provisional = provisional
        self._limiter = limiter
        self._moving = moving
        self._feedback = Watcher(moving, stop) if moving is not None else Feedback()

    def carry(self, begin: int, end: int, digest: Digest | None) -> list[tuple[int, int]]:
        """Carry what lies between two offsets; return where data was written.

        A digest takes all that is carried; of holes it takes zeros only where it `wants_holes`.

        Raises: TransferError, SourceChanged, Interrupted.
        """
        wishes = self._wishes
        if wishes.sparse == "never":
            found: Iterator[tuple[int, int]] | list[tuple[int, int]] = [(begin, end)]
        elif wishes.reflink == "always":
            found = [(begin, end)]
        else:
            found = segments(self._source, begin, end)
        by_hand = wishes.sparse == "always" or (digest is not None and wishes.reflink != "always")
        written = []
        place = begin
        for first, last in found:
            if digest is not None and digest.wants_holes:
                digest.zeros(first - place)
            place = last
            if by_hand:
                self._pour(first, last, digest)
            else:
                self._hop(first, last)
                if digest is not None:
                    digest.read(self._source, first, last)
            written.append((first, last))
        if digest is not None and digest.wants_holes:
            digest.zeros(end - place)
        return written

    def _hop(self, begin: int, end: int) -> None:
        wishes = self._wishes
        os.lseek(self._source, begin, os.SEEK_SET)
        os.lseek(self._sink, begin, os.SEEK_SET)
        facts = gather(self._source)
        # what is between two holes has none
        facts = replace(facts, size=end - begin, allocated=end)
        source = End(self._source, self._name, facts)
        sink = End(self._sink, self._target, gather(self._sink, fresh=True))
        sink.provisional = self._provisional
        without = set(wishes.without) | {"parallel"}  # there are other workers
        via = wishes.via
        if wishes.reflink == "always":
            via = "reflink"
        if wishes.reflink == "never" or wishes.sparse == "never":
            without |= _SHARING
        hop_wishes = Wishes(
            length=end - begin, via=via, without=frozenset(without), pipe_size=wishes.pipe_size
        )
        try:
            asked = source.facts
            if via is not None or "plain" in without:
                # what is few for the fastest way must not be refused the way that was asked for
                asked = replace(asked, size=max(end - begin, 1 << 20))
            plan = choose(asked, sink.facts, hop_wishes)
        except UsageError as error:
            raise TransferError(f"{self._name} -> {self._target}: {error}") from error
        waiter = EngineWaiter(self._stop, self._feedback, None)
        hop = Hop(
            source,
            sink,
            hop_wishes,
            plan,
            waiter=waiter,
            feedback=self._feedback,
            stop=self._stop,
            limiter=self._limiter,
        )
        report = hop.report
        try:
            hop.carry()
        finally:
            for mover, count in report.bytes_by_mover.items():
                self._outcome.count(mover, count)
            for fallback in report.fallbacks:
                self._outcome.fell_back(fallback.mover, fallback.call, fallback.errno)
        if report.moved < end - begin:
            raise TransferError(
                f"{self._name}: read: the source ended at byte {begin + report.moved}"
            )

    def _pour(self, begin: int, end: int, digest: Digest | None) -> None:
        """Read and write, and let the digest see it; with `--sparse=always` leave zeros out."""
        pieces = [memoryview(bytearray(BUFFER)), memoryview(bytearray(BUFFER))]
        place = begin
        turn = 0
        while place < end:
            self._stop.check()
            room = min(BUFFER, end - place)
            if self._limiter is not None:
                while not (allowance := self._limiter.allowance()):
                    EngineWaiter(self._stop, self._feedback, None).sleep({}, self._limiter.delay())
                room = min(room, allowance)
            piece = pieces[turn][:room]
            turn = 1 - turn
            try:
                got = os.preadv(self._source, [piece], place)
            except OSError as error:
                raise self._error(self._name, "read", error) from error
            if not got:
                raise TransferError(f"{self._name}: read: the source ended at byte {place}")
            piece = piece[:got]
            if digest is not None:
                digest.update(piece)  # beside the write; waits for the piece before
            if self._wishes.sparse == "always":
                self._write_data(piece, place)
            else:
                self._write(piece, place)
            self._outcome.count("plain", got)
            if self._limiter is not None:
                self._limiter.spend(got)
            place += got
            if self._moving is not None:
                self._moving(place - begin)
        if digest is not None:
            digest.settle()

    def _write(self, piece: memoryview, place: int) -> None:
        try:
            while piece:
                count = os.pwrite(self._sink, piece, place)
                piece = piece[count:]
                place += count
        except OSError as error:
            raise self._error(self._target, "write", error) from error

    def _write_data(self, piece: memoryview, place: int) -> None:
        """Write what is not zeros. The file is as long as it will be, and a hole from the start."""
        first = None
        data = bytes(piece)
        # blocks of the file, whatever a read has returned
        offset = -(place % BLOCK)
        while offset < len(data):
            low, high = max(offset, 0), min(offset + BLOCK, len(data))
            zeros = data[low:high] == _ZEROS[: high - low]
            if zeros and first is not None:
                self._write(piece[first:low], place + first)
                first = None
            elif not zeros and first is None:
                first = low
            offset += BLOCK
        if first is not None:
            self._write(piece[first:], place + first)

    def _error(self, name: str, act: str, error: OSError) -> TransferError:
        end = "; nothing was put in place" if self._provisional else ""
        return TransferError(f"{name}: {act}: {reason(error)}{end}", errno=error.errno)
