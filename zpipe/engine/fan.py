"""Carry one stream of bytes to several sinks: take a round, give it to each, pump.

A round is what fits a pipe. It is tee'd (tee(2)) into a pipe of equal capacity for each sink, only
when all of those are empty, so that each tee gives the same bytes; the last sink gets the round's
own references. Where pipes or tee cannot be had, a round is read into a buffer and written to each.
So no sink is ever more than a round behind another, save for what a stage has spilled.

Sleeps, and knows when a source or all of it is over. What becomes of a single sink is not known
here: see sinks.py.
"""

from __future__ import annotations

import os
import select
import time
from collections import Counter

from zpipe.engine.intake import Intake, tell_no_pipes
from zpipe.engine.outlets import make_branches, rounds_of_copies
from zpipe.engine.sinks import Sinks
from zpipe.errors import (
    Interrupted,
    SourceChanged,
    StalledError,
    TransferError,
    UsageError,
    signal_name,
)
from zpipe.plan.fan import choose_fan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from zpipe.endpoints.contract import End
    from zpipe.engine.branch import Branch
    from zpipe.engine.feedback import Feedback
    from zpipe.engine.limiter import Limiter
    from zpipe.engine.report import OutletReport
    from zpipe.engine.stop import Stop
    from zpipe.engine.waiting import EngineWaiter
    from zpipe.graph.model import Wishes
    from zpipe.graph.policy import Policy
    from zpipe.kernel.lease import Lease
    from zpipe.kernel.pipes import Pipe

_LONG = 60.0  # seconds: a sleep without a deadline is no longer


class FanHop:
    """One source of a fan, like a `Hop` in what it offers."""

    def __init__(self, fan: Fan, intake: Intake):
        self._fan = fan
        self._intake = intake
        self.report = intake.report

    def carry(self) -> None:
        """See `Fan.carry`."""
        self._fan.carry(self._intake)


class Fan:
    """Several sinks, open, for one source after the other."""

    def __init__(
        self,
        sinks: Sequence[tuple[End, Policy, OutletReport]],
        wishes: Wishes,
        *,
        waiter: EngineWaiter,
        feedback: Feedback,
        stop: Stop,
    ):
        self._ends = sinks
        self._wishes = wishes
        self._waiter = waiter
        self._feedback = feedback
        self._stop = stop
        self._sinks = Sinks(waiter, feedback)
        self._pipe: Pipe | None = None  # the trunk's; kept from one source to the next
        self._no_pipes: OSError | None = None
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._intake: Intake | None = None  # the last one, also when it is over
        self._interrupted: Interrupted | None = None
        self._failure: TransferError | None = None  # of the source at hand
        self._began = self._moved_at = time.monotonic()
        self._counted: Counter[str] = Counter()  # calls of branches that are in a report
        self._marks = -1  # what had moved by `_moved_at`

    @property
    def over(self) -> bool:
        """Nobody takes any more, or a signal has asked for the end."""
        return self.interrupted or not self._sinks.live

    @property
    def interrupted(self) -> bool:
        """A signal has asked for the end: what was read is delivered, and no more is."""
        return self._interrupted is not None

    # A source

    def hop(
        self, source: End, wishes: Wishes, lease: Lease | None, limiter: Limiter | None
    ) -> FanHop:
        """Return the hop from an open source, planned; nothing has moved.

        Raises: UsageError     the way asked for cannot serve.
                TransferError  there is no place to spill to.
        """
        if source.facts.keeps_boundaries:
            for end, policy, _ in self._ends:
                if end.facts.keeps_boundaries and policy.when_full == "spill":
                    raise UsageError(f"{end.name}: spill would lose the boundaries of messages")
        plan = choose_fan(source.facts, [end.facts for end, _, _ in self._ends], wishes)
        names = ", ".join(end.name for end, _, _ in self._ends)
        intake = Intake(
            source, names, wishes, plan, feedback=self._feedback, lease=lease, limiter=limiter
        )
        if not self._sinks.branches:
            made = make_branches(self._ends, wishes, self._waiter, self._woken)
            branches, self._pipe, self._no_pipes = made
            self._sinks.take(branches)
        return FanHop(self, intake)

    def carry(self, intake: Intake) -> None:
        """Give everything that a source has to every live sink, or into its stage.

        Raises: TransferError  the source failed, or a sink for whose sake all stop.
                SourceChanged, StalledError, ConsumerGone, Interrupted.
        """
        self._intake = intake
        self._began = time.monotonic()
        self._waiter.ticked = self._waiter.ticked or self._began
        self._waiter.tick = self._tick
        for branch in self._sinks.branches:
            facts, source = branch.end.facts, intake.source.facts
            branch.pump.cuts = facts.keeps_boundaries and not source.keeps_boundaries
        intake.begin(self._pipe, rounds_of_copies(self._sinks.branches))
        if self._no_pipes is not None and intake.report.plan.first.name != "plain":
            tell_no_pipes(intake, self._no_pipes, self._feedback)
        try:
            self._loop(intake)
            if self._interrupted is None and self._sinks.live and self._failure is None:
                try:
                    intake.compare()
                except SourceChanged as error:
                    self._failure = error
            failure, self._failure = self._failure, None
            if failure is not None:
                failure.args = (f"{failure}; {self._sinks.outcome()}",)
                raise failure
        except BaseException as error:
            if not (isinstance(error, TransferError) and error.of_source):
                self._sinks.halt()  # else the next source may follow
            raise
        finally:
            self._waiter.tick = None
            self._account()

    # The end

    def finish(self) -> None:
        """See every sink through to its end, once the last source has ended. What has become of
        each is in its report.

        Raises: Interrupted  a signal has asked for the end; what was read is delivered.
                ZpipeError   a sink failed for whose sake all stop.
        """
        self._waiter.tick = self._tick
        try:
            for branch in self._sinks.live:
                branch.end_input()
            self._loop(None)
        except BaseException:
            self._sinks.halt()
            raise
        finally:
            self._waiter.tick = None
            self._account()
        for branch in self._sinks.branches:
            if branch.outlet.given_up or (self._interrupted and branch.end.provisional):
                continue  # it is not complete: nothing is put in place
            if branch.outlet.state != "done":
                self._finish(branch)
        if self._interrupted is not None:
            self._interrupted.args = (f"{self._interrupted}; {self._sinks.outcome()}",)
            raise self._interrupted

    def close(self) -> None:
        """Release everything but the ends."""
        self._sinks.close()
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None
        fd, self._wake = self._wake, -1
        # a thread that a disk holds may still want to wake somebody by it
        if fd >= 0 and not any(branch.held_by_disk for branch in self._sinks.branches):
            os.close(fd)

    # The loop

    def _loop(self, intake: Intake | None) -> None:
        """Move until the source has ended and every branch is ready; without one, until every
        branch has finished.
        """
        sinks = self._sinks
        while True:
            try:
                self._stop.check()
                moved = False
                if intake is not None:
                    moved = self._move(intake)
                for branch in list(sinks.live):
                    moved |= sinks.work(branch)
                moved |= sinks.look_after()
                if self._is_over(intake):
                    return
                if self._feedback.interval is not None or self._stop.status_wanted:
                    self._tick()
                if not moved:
                    self._sleep(intake)
            except Interrupted as interrupted:
                self._end_early(interrupted, intake)

    def _move(self, intake: Intake) -> bool:
        """Take and give; what was read of a source before it failed is delivered."""
        try:
            live = self._sinks.live
            moved = intake.take(live)
            return intake.give(live) or moved
        except TransferError as error:
            if not error.of_source:
                self._sinks.halt()
                error.args = (f"{error}; {self._sinks.outcome()}",)
                raise
            self._failure = error
            intake.ended = True
            return True

    def _is_over(self, intake: Intake | None) -> bool:
        if not self._sinks.live:
            return True
        if intake is None:
            return self._all_finished()
        return intake.is_over and all(branch.caught_up for branch in self._sinks.live)

    def _all_finished(self) -> bool:
        live = self._sinks.live
        finished = [branch for branch in live if branch.finished]
        if len(finished) == len(live):
            return True
        for branch in finished:
            # whoever reads it may be whom the others wait for
            if branch.end.finishes_at_once:
                live.remove(branch)
                self._finish(branch)
        return False

    def _finish(self, branch: Branch) -> None:
        notes = self._sinks.finish(branch)
        if self._intake is not None:
            self._intake.report.notes += notes

    def _end_early(self, interrupted: Interrupted, intake: Intake | None) -> None:
        """Go on with what was read already; a second signal does not wait for that.

        Raises: Interrupted.
        """
        name = self._intake.source.name if self._intake is not None else "fan-out"
        interrupted.args = (f"{name}: ended by {signal_name(interrupted.signum)}",)
        provisional = all(branch.end.provisional for branch in self._sinks.live)
        if self._interrupted is not None or provisional:
            self._sinks.halt()
            interrupted.args = (f"{interrupted}; {self._sinks.outcome()}",)
            raise interrupted
        self._interrupted = interrupted
        self._stop.heard()
        if intake is not None:
            intake.ended = True

    def _sleep(self, intake: Intake | None) -> None:
        """Wait until a source, a sink, a thread or the time has something to say."""
        if intake is not None and self._await(intake):
            return
        interests = {self._wake: select.POLLIN}
        began = time.monotonic()
        timeout = _LONG
        source = None
        cause = "sink"
        if intake is not None and not intake.loaded and not intake.ended:
            if intake.waits:
                source, cause = intake.source, "source"
                interests[source.fd] = select.POLLIN
            elif intake.limiter is not None and not intake.allowance():
                timeout, cause = intake.limiter.delay(), "rate limit"
        for branch in self._sinks.live:
            for fd, events in branch.interests().items():
                # a socket may be the source and a sink
                interests[fd] = interests.get(fd, 0) | events
            if branch.detachable and (deadline := branch.deadline(began)) is not None:
                timeout = min(timeout, max(0.0, deadline - began))
        stalled = self._stall_deadline(began)
        if stalled is not None:
            timeout = min(timeout, max(0.0, stalled - began))
        report = self._intake.report if self._intake is not None else None
        if report is not None:
            report.waits = (cause, began)
        try:
            fired = self._waiter.sleep(interests, timeout) or {}
        finally:
            now = time.monotonic()
            if report is not None:
                report.end_wait(now)
        if not fired:
            if stalled is not None and now >= stalled:
                raise self._stalled(source)
            return
        if source is not None and intake is not None and fired.get(source.fd, 0) & ~select.POLLOUT:
            intake.waits = False
            if len(fired) == 1 and fired[source.fd] == select.POLLIN:
                return  # as for every line of a quiet pipeline: the shortest way to the sinks
        if self._wake in fired:
            os.eventfd_read(self._wake)
        for branch in list(self._sinks.live):
            self._sinks.heed(branch, fired.get(branch.end.fd, 0))

    def _await(self, intake: Intake) -> bool:
        """Ask the first thread that is behind to wake us, if it is they who are waited for; tell
        whether there is no need to sleep.

        The others are no further, or are asked next. Any of them may have caught up since they were
        last looked at, and would not have woken anybody then: so each is asked after it was told.
        """
        held_up = intake.held_up
        first = None
        for branch in self._sinks.live:
            branch.awaited = held_up and first is None and not self._is_ready(branch, intake)
            first = branch if branch.awaited else first
        return held_up and (first is None or self._is_ready(first, intake))

    def _is_ready(self, branch: Branch, intake: Intake) -> bool:
        return branch.caught_up if intake.is_over else branch.ready

    def _stall_deadline(self, now: float) -> float | None:
        if self._wishes.stall_timeout is None:
            return None
        marks = sum(branch.progress + branch.handed for branch in self._sinks.branches)
        if marks != self._marks:
            self._marks, self._moved_at = marks, now
        return self._moved_at + self._wishes.stall_timeout

    def _stalled(self, source: End | None) -> StalledError:
        slow = [
            branch.end.name for branch in self._sinks.live if branch.pump.held or not branch.ready
        ]
        self._sinks.halt()
        span = f"{self._wishes.stall_timeout:g} s"
        if source is not None:
            stalled = StalledError(
                f"{source.name}: no data came for {span}; {self._sinks.outcome()}"
            )
            stalled.of_source = True
            return stalled
        return StalledError(f"{', '.join(slow)}: took no data for {span}; {self._sinks.outcome()}")

    # What is shown

    def _account(self) -> None:
        for branch in self._sinks.branches:
            branch.look()
        intake = self._intake
        if intake is not None:
            underway = max((branch.underway for branch in self._sinks.live), default=0)
            intake.account(underway, time.monotonic() - self._began)
            calls = sum((branch.all_calls() for branch in self._sinks.branches), Counter())
            intake.report.calls += calls - self._counted
            self._counted = calls
            for branch in self._sinks.branches:
                branch.outlet.mover = branch.how(intake.report.mover)
            if self._waiter.polls:
                intake.report.calls["poll"] = self._waiter.polls

    def _tick(self) -> None:
        now = time.monotonic()
        interval = self._feedback.interval
        due = interval is not None and now - self._waiter.ticked >= interval
        if self._intake is None or not (due or self._stop.status_wanted):
            return
        self._account()
        if self._stop.status_wanted:
            self._stop.status_wanted = False
            self._feedback.status(self._intake.report)
        if due:
            self._waiter.ticked = now
            self._feedback.progress(self._intake.report)

    def _woken(self) -> None:
        """Wake the loop; called by threads."""
        if self._wake >= 0:
            os.eventfd_write(self._wake, 1)
