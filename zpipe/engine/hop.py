"""Carry one hop: drive the plan's movers step by step, wait for them, fall back, count."""

from __future__ import annotations

import errno
import os
import select
import time
from contextlib import closing

from zpipe.engine.report import Fallback, HopReport
from zpipe.engine.watch import Watch, act
from zpipe.errors import (
    ConsumerGone,
    Interrupted,
    StalledError,
    TransferError,
    reason,
    signal_name,
)
from zpipe.kernel.errnos import SINK_ONLY
from zpipe.movers import mover_of
from zpipe.movers.contract import Ended, FallBack, Moved, MoveFault, Tuning
from zpipe.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zpipe.endpoints.contract import End
    from zpipe.engine.feedback import Feedback
    from zpipe.engine.limiter import Limiter
    from zpipe.engine.stop import Stop
    from zpipe.engine.waiting import EngineWaiter
    from zpipe.graph.model import Wishes
    from zpipe.kernel.lease import Lease
    from zpipe.movers.contract import Mover, Transfer, Wait
    from zpipe.plan.choice import HopPlan

_UNBOUNDED = 1 << 62


class Hop:
    """One source and one sink, both open, and the plan between them."""

    def __init__(
        self,
        source: End,
        sink: End,
        wishes: Wishes,
        plan: HopPlan,
        *,
        waiter: EngineWaiter,
        feedback: Feedback,
        stop: Stop,
        lease: Lease | None = None,
        limiter: Limiter | None = None,
    ):
        self._source = source
        self._sink = sink
        self._wishes = wishes
        self._waiter = waiter
        self._feedback = feedback
        self._stop = stop
        self._lease = lease
        self._limiter = limiter
        self._watch = Watch(source, wishes)
        self._limit = self._watch.limit
        self.report = HopReport(source.name, sink.name, plan, expected=self._limit)
        self._base = 0  # moved by the transfers that came before the one at hand
        self._began = 0.0

    def carry(self) -> None:
        """Move every byte, by one mover after another until one of them reaches the end.

        Raises: TransferError, SourceChanged, ConsumerGone, StalledError, Interrupted, UsageError.
        """
        report = self.report
        self._began = time.monotonic()
        self._waiter.ticked = self._waiter.ticked or self._began
        self._waiter.tick = self._tick
        try:
            for candidate in report.plan.candidates:
                report.mover = candidate.name
                if self._carry_by(mover_of(candidate.name)):
                    break
            else:
                raise self._nothing_left()
        except Interrupted as interrupted:
            interrupted.args = (
                f"{self._source.name} -> {self._sink.name}:"
                f" ended by {signal_name(interrupted.signum)}; {self._delivered_text()}",
            )
            interrupted.delivered = report.moved
            raise
        finally:
            self._waiter.tick = None
            report.seconds = time.monotonic() - self._began
            if self._waiter.polls:
                report.calls["poll"] = self._waiter.polls

    def _carry_by(self, mover: Mover) -> bool:
        """Drive one mover; True when it reached the end, False when the next one should go on."""
        limit = None if self._limit is None else self._limit - self.report.moved
        self._refresh()
        tuning = Tuning(self._wishes.pipe_size)
        try:
            transfer = mover.begin(self._source.port(), self._sink.port(), limit, tuning)
        except OSError as error:
            self._note_fallback(mover.name, FallBack("begin", error.errno or 0))
            return False
        self._base = self.report.moved
        try:
            with closing(transfer):
                try:
                    return self._drive(transfer, mover.name)
                except Interrupted:
                    self._flush(transfer)
                    raise
        except MoveFault as fault:
            self._account(transfer, mover.name)
            raise self._failure(fault, transfer) from fault
        finally:
            # after it is closed: a thread of its own may have completed a write meanwhile
            self._account(transfer, mover.name)
            self.report.calls += transfer.calls
            self.report.notes += transfer.notes
            self._count_lost(transfer)

    def _drive(self, transfer: Transfer, name: str) -> bool:
        limiter, lease = self._limiter, self._lease
        interval = self._feedback.interval
        allowance = _UNBOUNDED
        while True:
            self._stop.check()
            if limiter is not None:
                allowance = self._wait_for_credit(limiter)
            step = transfer.step(allowance)
            if isinstance(step, Moved):
                self.report.moved = self._base + transfer.delivered
                if limiter is not None:
                    limiter.spend(step.count)
                if lease is not None and not lease.held():
                    self.report.notes.append(
                        f"another process asked for the source at byte {self.report.moved}"
                    )
                    # it waits for us, at most for lease-break-time: the comparison tells
                    lease = None
                    self._source.facts = replace(self._source.facts, stable=False)
                if interval is not None or self._stop.status_wanted:
                    self._tick()
            elif isinstance(step, Ended):
                # while the transfer still holds what keeps writers off
                self._watch.check(self.report.moved, self._delivered_text())
                return True
            elif isinstance(step, FallBack):
                self._account(transfer, name)
                self._note_fallback(name, step)
                return False
            else:
                self._sleep(step)

    def _flush(self, transfer: Transfer) -> None:
        """Deliver what was read already: the source of a pipeline does not say it again.

        Raises: Interrupted  a second signal does not wait for that.
        """
        facts = self._source.facts
        if facts.on_disk or facts.generated:
            return  # it can be had again
        if self._sink.provisional or not (transfer.flushes and transfer.held):
            return
        self._stop.heard()
        while transfer.held:
            self._stop.check()
            step = transfer.step(0)
            if isinstance(step, (Ended, FallBack)):
                break
            if not isinstance(step, Moved):
                self._sleep(step)

    def _sleep(self, step: Wait) -> None:
        """Wait for one end, and notice meanwhile when the sink has died."""
        source, sink = self._source, self._sink
        end = source if step.side == "source" else sink
        # errors and hang-ups are always reported, interest 0 or not
        interests = {sink.fd: select.POLLOUT if end is sink else 0}
        if end is source:
            interests[source.fd] = select.POLLIN
        self.report.waits = (step.side, time.monotonic())
        try:
            fired = self._waiter.sleep(interests)
        finally:
            self.report.end_wait(time.monotonic())
        if fired is None:
            what = "no data came" if end is source else "took no data"
            stalled = StalledError(
                f"{end.name}: {what} for {self._wishes.stall_timeout:g} s; {self._delivered_text()}"
            )
            stalled.delivered = self.report.moved
            stalled.of_source = end is source
            raise stalled
        if end is source and source.fd not in fired:
            # the sink's reader has gone while there was nothing to read
            raise self._gone()

    def _gone(self) -> TransferError:
        number = errno.EPIPE
        if self._sink.facts.is_socket:
            from zpipe.kernel.network import error_of

            number = error_of(self._sink.fd) or number
        return self._failure(MoveFault("poll", "sink", OSError(number, "")), None)

    def _wait_for_credit(self, limiter: Limiter) -> int:
        while not (allowance := limiter.allowance()):
            self.report.waits = ("rate limit", time.monotonic())
            try:
                self._waiter.sleep({}, limiter.delay())
            finally:
                self.report.end_wait(time.monotonic())
        return allowance

    def _tick(self) -> None:
        now = time.monotonic()
        self.report.seconds = now - self._began
        if self._stop.status_wanted:
            self._stop.status_wanted = False
            self._feedback.status(self.report)
        interval = self._feedback.interval
        if interval is not None and now - self._waiter.ticked >= interval:
            self._waiter.ticked = now
            self._feedback.progress(self.report)

    def _refresh(self) -> None:
        """After a fallback that had moved bytes: the facts that movers begin with have changed."""
        if not self.report.moved:
            return
        source, sink = self._source, self._sink
        facts = source.facts
        if facts.position is not None:
            here = os.lseek(source.fd, 0, os.SEEK_CUR)
            size = None if facts.size is None else max(0, facts.size - (here - facts.position))
            source.facts = replace(facts, position=here, size=size)
        sink.facts = replace(sink.facts, fresh=False)

    def _account(self, transfer: Transfer, name: str) -> None:
        self.report.moved = self._base + transfer.delivered
        if transfer.delivered:
            self.report.bytes_by_mover[name] = transfer.delivered

    def _count_lost(self, transfer: Transfer) -> None:
        """What was taken from a file or made up can be had again; what came by a stream cannot."""
        facts = self._source.facts
        if not facts.on_disk and not facts.generated:
            self.report.lost = transfer.held

    def _note_fallback(self, name: str, step: FallBack) -> None:
        fallback = Fallback(name, step.call, step.errno, self.report.moved)
        self.report.fallbacks.append(fallback)
        self._feedback.fell_back(self.report, fallback)

    def _nothing_left(self) -> TransferError:
        last = self.report.fallbacks[-1]
        asked = f"--via {last.mover}: " if self._wishes.via else ""
        return TransferError(
            f"{self._source.name} -> {self._sink.name}: {asked}{last.call}: {last.reason};"
            f" {self._delivered_text()}",
            delivered=self.report.moved,
            errno=last.errno or None,
        )

    def _delivered_text(self) -> str:
        if self._sink.provisional:
            return "nothing was put in place"
        text = f"{self.report.moved} bytes were delivered"
        if self.report.lost:
            text += f", {self.report.lost} more were read and are lost"
        return text

    def _failure(self, fault: MoveFault, transfer: Transfer | None) -> TransferError:
        """Return the error that names the end, the act and the reason."""
        number = fault.error.errno
        if transfer is not None:
            self._count_lost(transfer)
        side = fault.side or ("sink" if number in SINK_ONLY else None)
        if side == "source":
            # if it has changed, that is the true reason
            self._watch.check(self.report.moved, self._delivered_text())
            where = f"{self._source.name}: {act(fault.call, 'read')}"
        elif side == "sink":
            verb = "write" if fault.side is None else act(fault.call, "write")
            where = f"{self._sink.name}: {verb}"
        else:
            where = f"{self._source.name} -> {self._sink.name}: {fault.call}"
        # an error may have words of its own: a source that was cut
        why = fault.error.strerror or reason(fault.error)
        if side == "sink" and number == errno.EPIPE:
            why += self._sink.last_words(self._waiter)
        text = f"{where}: {why}; {self._delivered_text()}"
        if number == errno.EPIPE and side == "sink" and self._sink.quiet_pipe:
            return ConsumerGone(text, delivered=self.report.moved, errno=number)
        error = TransferError(text, delivered=self.report.moved, errno=number)
        error.of_source = side == "source"
        return error
