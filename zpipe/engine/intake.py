"""The source of a fan: rounds are taken from it and given to the branches that are ready.

Never sleeps; tells by `waits` that the source was empty, and by `allowance` what a rate limit says.
"""

from __future__ import annotations

from collections import Counter

from zpipe.engine.report import Fallback, HopReport
from zpipe.engine.trunk import BufferTrunk, PipeTrunk
from zpipe.engine.watch import Watch, act
from zpipe.errors import TransferError, reason
from zpipe.movers.contract import Ended, FallBack, MoveFault
from zpipe.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from zpipe.endpoints.contract import End
    from zpipe.engine.branch import Branch
    from zpipe.engine.feedback import Feedback
    from zpipe.engine.limiter import Limiter
    from zpipe.engine.trunk import Trunk
    from zpipe.graph.model import Wishes
    from zpipe.kernel.lease import Lease
    from zpipe.kernel.pipes import Pipe
    from zpipe.plan.choice import HopPlan

_UNBOUNDED = 1 << 62
_FEW = 16 * 1024  # of a stream: what comes in smaller rounds is read and written
_LITTLE = 4096


class Intake:
    """The source at hand. `taken` counts its bytes; `ended`: no more will be taken."""

    def __init__(
        self,
        source: End,
        sinks: str,
        wishes: Wishes,
        plan: HopPlan,
        *,
        feedback: Feedback,
        lease: Lease | None,
        limiter: Limiter | None,
    ):
        self.source = source
        self.taken = 0
        self.ended = False
        self.waits = False  # it was empty when it was last asked
        self.limiter = limiter
        self._watch = Watch(source, wishes)
        self._wishes = wishes
        self._feedback = feedback
        self._lease = lease
        self._limit = self._watch.limit
        self._room = 0
        self._tee: PipeTrunk | None = None
        self._buffer: BufferTrunk | None = None  # for small rounds, beside the other one
        self._few = _FEW
        self._much = False
        self._small = 0  # rounds one after the other
        self._by: dict[str, int] = {}
        self._trunk: Trunk | None = None
        self.report = HopReport(source.name, sinks, plan, expected=self._limit)

    def begin(self, pipe: Pipe | None, room: int) -> None:
        """Take rounds into the pipe, or into a buffer of at most `room` bytes.

        From a stream, rounds go through a buffer while they are small: that is fewer calls, and
        a line is sooner where it goes.
        """
        self._room = room
        way = self.report.plan.first.name
        if pipe is None or way == "plain":
            self._to_buffer(b"")
            return
        self._trunk = self._tee = PipeTrunk(self.source.port(), pipe, self.report.calls, way)
        facts = self.source.facts
        free = self._wishes.via is None and "plain" not in self._wishes.without
        if free and (facts.type in ("pipe", "tty") or facts.is_socket):
            self._few = min(_FEW, room)
            port = self.source.port()
            self._trunk = self._buffer = BufferTrunk(port, self.report.calls, self._few)
        self.report.mover = self._trunk.name

    @property
    def trunk(self) -> Trunk:
        assert self._trunk is not None
        return self._trunk

    @property
    def loaded(self) -> int:
        """Bytes of a round that nobody was given yet."""
        return self._trunk.loaded if self._trunk is not None else 0

    @property
    def is_over(self) -> bool:
        return self.ended and not self.loaded

    def allowance(self) -> int:
        """Return how many bytes may be taken now; 0: the rate limit, or the end."""
        left = _UNBOUNDED if self._limit is None else self._limit - self.taken
        return left if self.limiter is None else min(left, self.limiter.allowance())

    @property
    def held_up(self) -> bool:
        """It is the branches that keep the next thing from happening: nothing else is missing."""
        if self.loaded or self.ended:
            return True
        return self._next.lends and not self.waits and self.allowance() > 0

    @property
    def _next(self) -> Trunk:
        if self._buffer is not None and self._tee is not None:
            return self._tee if self._much else self._buffer
        return self.trunk

    def take(self, branches: Sequence[Branch]) -> bool:
        """Take a round if there is room for one; tell whether anything happened.

        Raises: TransferError, SourceChanged  the source failed; what the sinks have is not told.
        """
        if self.loaded or self.ended or self.waits:
            return False
        self._trunk = trunk = self._next
        if self._limit is not None and self.taken >= self._limit:
            self.ended = True
            return True
        if trunk.lends and not _all_ready(branches):
            return False
        allowance = self.allowance()
        if not allowance:
            return False
        try:
            taken = trunk.take(allowance)
        except MoveFault as fault:
            raise self._failure(fault) from fault
        if isinstance(taken, int):
            if self._limit is not None and taken > self._limit - self.taken:
                taken = trunk.loaded = self._limit - self.taken  # of a datagram
            self.taken += taken
            self._by[trunk.name] = self._by.get(trunk.name, 0) + taken
            # a full buffer: there is more; two small rounds of a pipe: there is not
            self._small = self._small + 1 if taken < _LITTLE else 0
            self._much = taken >= self._few or (self._much and self._small < 2)
            if self.limiter is not None:
                self.limiter.spend(taken)
            return True
        if isinstance(taken, Ended):
            self.ended = True
        elif isinstance(taken, FallBack):
            self._fall_back(taken, b"")
        else:
            self.waits = True
            return False
        return True

    def give(self, branches: Sequence[Branch]) -> bool:
        """Give the round to all branches if all are ready; tell whether anything happened.

        Raises: TransferError  a call failed half-way.
        """
        trunk = self.trunk
        if not trunk.loaded or not branches or not _all_ready(branches):
            return False
        try:
            refused = trunk.give(branches)
        except OSError as error:
            raise TransferError(
                f"{self.source.name}: tee: {reason(error)}", errno=error.errno
            ) from error
        if refused is not None:
            assert isinstance(trunk, PipeTrunk)
            self._fall_back(refused, trunk.empty())
        elif self._lease is not None and not self._lease.held():
            # it waits for us, at most for lease-break-time: the comparison tells
            self.report.notes.append(f"another process asked for the source at byte {self.taken}")
            self._lease = None
            self.source.facts = replace(self.source.facts, stable=False)
        return True

    def compare(self) -> None:
        """Raise: SourceChanged  the source is not what it was."""
        self._watch.check(self.report.moved)

    def account(self, underway: int, seconds: float) -> None:
        """Bring the report up to date; `underway` bytes of what was taken are with no sink yet."""
        report = self.report
        report.seconds = seconds
        report.moved = max(0, self.taken - self.loaded - underway)
        if self._by:
            report.mover = max(self._by, key=lambda name: self._by[name])
            others = sum(count for name, count in self._by.items() if name != report.mover)
            report.bytes_by_mover = Counter({name: n for name, n in self._by.items() if n})
            report.bytes_by_mover[report.mover] = max(0, report.moved - others)
        facts = self.source.facts
        if not facts.on_disk and not facts.generated:
            report.lost = self.loaded

    def _to_buffer(self, rescued: bytes) -> None:
        self._tee = None
        self._trunk = BufferTrunk(self.source.port(), self.report.calls, self._room, rescued)
        self.report.mover = "plain"

    def _fall_back(self, refusal: FallBack, rescued: bytes) -> None:
        report = self.report
        fallback = Fallback(self.trunk.name, refusal.call, refusal.errno, report.moved)
        report.fallbacks.append(fallback)
        if self._wishes.via is not None or "plain" in self._wishes.without:
            asked = f"--via {self._wishes.via}: " if self._wishes.via else ""
            raise TransferError(
                f"{self.source.name}: {asked}{refusal.call}: {fallback.reason}",
                errno=refusal.errno or None,
            )
        self._feedback.fell_back(report, fallback)
        if rescued:
            # it never came further than the pipe that it is read out of
            self._by[self.trunk.name] -= len(rescued)
            self._by["plain"] = self._by.get("plain", 0) + len(rescued)
        self._to_buffer(rescued)

    def _failure(self, fault: MoveFault) -> TransferError:
        # if it has changed, that is the true reason
        self._watch.check(self.report.moved)
        why = fault.error.strerror or reason(fault.error)
        error = TransferError(
            f"{self.source.name}: {act(fault.call, 'read')}: {why}",
            delivered=self.report.moved,
            errno=fault.error.errno,
        )
        error.of_source = True
        return error


def _all_ready(branches: Sequence[Branch]) -> bool:
    # not all(): this stands in the way of every line, and a generator costs as much as the rest
    for branch in branches:  # noqa: SIM110
        if not branch.ready:
            return False
    return True


def tell_no_pipes(intake: Intake, error: OSError, feedback: Feedback) -> None:
    """Note that rounds go through a buffer, since there are no pipes to be had."""
    report = intake.report
    fallback = Fallback(report.plan.first.name, "pipe", error.errno or 0, 0)
    report.fallbacks.append(fallback)
    feedback.fell_back(report, fallback)
