"""Carry one stream: open its ends, plan, move, finish, and say what failed."""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack

from zpipe.engine.limiter import Limiter
from zpipe.engine.opening import open_sink, open_source, refuse_source, refuse_wishes, steady
from zpipe.engine.report import HopReport, OutletReport, ProcessReport
from zpipe.engine.waiting import EngineWaiter
from zpipe.errors import (
    Interrupted,
    OutputsDropped,
    StalledError,
    TransferError,
    ZpipeError,
)
from zpipe.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from zpipe.endpoints.contract import End
    from zpipe.engine.fan import Fan, FanHop
    from zpipe.engine.feedback import Feedback
    from zpipe.engine.hop import Hop
    from zpipe.engine.passing import Passage
    from zpipe.engine.report import Report
    from zpipe.engine.stop import Stop
    from zpipe.graph.model import Node, Wishes
    from zpipe.graph.policy import Policy
    from zpipe.graph.wiring import Stream


class UnderWay:
    """A stream that is being carried: its sinks are opened with its first source."""

    def __init__(
        self,
        stream: Stream,
        feedback: Feedback,
        stop: Stop,
        report: Report,
        stack: ExitStack,
        passages: Mapping[str, Passage],
    ):
        self._stream = stream
        self._passages = passages
        self._feedback = feedback
        self._stop = stop
        self._report = report
        self._stack = stack
        self._waiter = EngineWaiter(stop, feedback, stream.wishes[0].stall_timeout)
        rate = stream.wishes[0].rate_limit
        self._limiter = Limiter(rate) if rate else None  # of all sources together
        self._sinks: list[tuple[End, Policy, OutletReport]] = []
        self._outlets: list[OutletReport] = []
        self._opened = False
        self._fan: Fan | None = None
        self._hops: list[HopReport] = []
        self._read: list[HopReport] = []  # those whose source was read to its end
        self._left = False  # the one reader has gone, and may
        self._reading: Node | None = None

    def carry(self) -> None:
        """Carry every source to the sinks, and finish them.

        Raises: ZpipeError.
        """
        try:
            self._carry()
        except ZpipeError as error:
            self._fail(error)
            error.spared = self._is_spared(error)
            raise
        finally:
            self._look()

    def _carry(self) -> None:
        failed: list[str] = []
        for node, wishes in zip(self._stream.sources, self._stream.wishes, strict=True):
            if self._is_over:
                break
            try:
                with ExitStack() as stack:
                    self._carry_one(node, wishes, stack)
            except TransferError as error:
                if not (wishes.skip and error.of_source):
                    raise
                failed.append(str(error))
                self._feedback.failed(error)
        self._stop.excused = False
        if self._opened:
            self._finish()
        if failed:
            failure = TransferError("\n".join(failed), delivered=self._moved)
            failure.told = failure.of_source = True
            raise failure

    @property
    def _is_over(self) -> bool:
        """Nobody takes any more, the length is reached, or a signal has asked for the end."""
        total = self._stream.wishes[0].total
        if self._hops and total is not None and self._moved >= total:
            return True
        return self._left or (self._fan is not None and self._fan.over)

    @property
    def _moved(self) -> int:
        return sum(report.moved for report in self._hops)

    def _carry_one(self, node: Node, wishes: Wishes, stack: ExitStack) -> None:
        refuse_wishes(self._stream.sinks, wishes)
        self._reading = node
        passage = self._passages.get(node.id)
        self._stop.excused = self._stop.keeps and passage is not None and passage.passes_on
        source = open_source(node, wishes, self._waiter, stack, passage)
        self._note_process(node, source)
        if not self._opened:
            self._open_sinks(source, wishes)
        self._refuse_output(source)
        if wishes.total is not None:
            left = wishes.total - self._moved
            length = left if wishes.length is None else min(wishes.length, left)
            wishes = replace(wishes, length=length)
        ends = [end for end, _, _ in self._sinks]
        wishes, lease = steady(source, ends, wishes, stack)
        self._waiter.polls = 0
        if self._fan is None and self._needs_fan:
            from zpipe.engine.fan import Fan

            self._fan = Fan(
                self._sinks, wishes, waiter=self._waiter, feedback=self._feedback, stop=self._stop
            )
            self._stack.callback(self._fan.close)
        hop: Hop | FanHop
        if self._fan is not None:
            hop = self._fan.hop(source, wishes, lease, self._limiter)
        else:
            from zpipe.engine.hop import Hop
            from zpipe.plan.choice import choose

            plan = choose(source.facts, ends[0].facts, wishes)
            hop = Hop(
                source,
                ends[0],
                wishes,
                plan,
                waiter=self._waiter,
                feedback=self._feedback,
                stop=self._stop,
                lease=lease,
                limiter=self._limiter,
            )
        report = hop.report
        report.outlets = self._outlets
        report.ends = (node.id, tuple(to.id for to in self._stream.sinks))
        self._report.hops.append(report)
        self._hops.append(report)
        self._feedback.began(report)
        if len(self._hops) == 1:
            self._prepare()
        try:
            hop.carry()
        except TransferError as error:
            if not self._may_leave(error):
                raise
            self._left = True
        report.notes += source.notes
        # a source that failed (a child's exit status) must keep the sink from being put in place
        try:
            if self._fan is not None and self._fan.interrupted:
                source.cut()  # a child of its own is not waited for
            else:
                to_its_end = not self._is_over and report.moved != report.expected
                source.finish(self._waiter, complete=to_its_end)
        except TransferError as error:
            error.of_source = True
            raise
        self._read.append(report)
        if self._fan is None and ends[0].facts.position is not None:
            here = os.lseek(ends[0].fd, 0, os.SEEK_CUR)
            ends[0].facts = replace(ends[0].facts, fresh=False, position=here)

    def _may_leave(self, error: TransferError) -> bool:
        if self._fan is not None or error.errno != errno.EPIPE or error.of_source:
            return False
        end, policy, outlet = self._sinks[0]
        if not (policy.may_leave and end.facts.type == "pipe"):
            return False
        outlet.state = "left"
        return True

    @property
    def _needs_fan(self) -> bool:
        from zpipe.plan.fan import needs_fan

        policies = [policy for _, policy, _ in self._sinks]
        return needs_fan(policies, parts=any(end.room is not None for end, _, _ in self._sinks))

    def _open_sinks(self, source: End, wishes: Wishes) -> None:
        """Open each sink; one that cannot be had is dropped where the others may go on.

        Raises: ZpipeError  it is one for whose sake all stop, or none is left.
        """
        stream = self._stream
        alone = len(stream.sinks) == 1
        if not alone and not wishes.skip:
            refuse_source(stream.sinks, source)
        self._opened = True
        for node, policy in zip(stream.sinks, stream.policies, strict=True):
            outlet = OutletReport(node.endpoint.text, policy.when_full)
            self._outlets.append(outlet)
            try:
                passage = self._passages.get(node.id)
                end = open_sink(node, wishes, source, self._waiter, self._stack, passage)
            except (TransferError, StalledError) as error:
                if alone or policy.on_error == "stop":
                    raise
                outlet.error, outlet.state = str(error), "failed"
                self._feedback.dropped(outlet)
                continue
            outlet.sink = end.name
            outlet.node = node.id
            if passage is None:
                self._note_process(node, end)
            end.quiet_pipe = end.quiet_pipe and policy.sigpipe
            self._sinks.append((end, policy, outlet))
        if not self._sinks:
            self._judge()

    def _prepare(self) -> None:
        for end, _, _ in self._sinks:
            end.prepare()

    def _refuse_output(self, source: End) -> None:
        """Refuse to read what is being written: it would never end, where it has begun."""
        facts = source.facts
        for end, _, _ in self._sinks:
            same = facts.on_disk and end.facts.on_disk and facts.identity == end.facts.identity
            if same and facts.size != 0:
                error = TransferError(f"{source.name}: read: is the output itself")
                error.of_source = True
                raise error

    def _finish(self) -> None:
        if self._fan is not None:
            self._fan.finish()
        elif self._sinks:
            self._finish_only()
        for report in self._read:
            report.complete = True
            self._feedback.ended(report)
        self._judge()

    def _finish_only(self) -> None:
        end, _, outlet = self._sinks[0]
        if self._left:
            end.hang_up()
            if not end.waits_for_child:
                return
        try:
            end.finish(self._waiter)
        except TransferError as error:
            error.delivered = self._moved
            raise
        if not self._left:
            outlet.state = "done"
        if self._hops:
            self._hops[-1].notes += end.notes

    def _note_process(self, node: Node, end: End) -> None:
        if end.process is not None:
            self._report.processes.append(ProcessReport(node.id, end.process))

    def _is_spared(self, error: ZpipeError) -> bool:
        """Tell whether what does not need this stream goes on: the user wants it so."""
        if error.told or isinstance(error, OutputsDropped):
            return True  # what was dropped, or passed over, was so because it may be
        if error.of_source:
            return self._reading is not None and self._reading.on_error == "drop"
        sinks = self._stream.sinks
        return len(sinks) == 1 and sinks[0].on_error == "drop"

    def _fail(self, error: ZpipeError) -> None:
        """Note what has ended everything at a single sink."""
        for outlet in self._outlets:
            if outlet.state in ("flowing", "blocked", "spilling"):
                outlet.state = "stopped" if isinstance(error, Interrupted) else "failed"
                outlet.error = str(error)

    def _look(self) -> None:
        """Bring the report of a single sink up to date; a fan does so by itself."""
        if self._fan is not None or not self._hops or not self._sinks:
            return
        _, _, outlet = self._sinks[0]
        outlet.moved, outlet.mover = self._moved, self._hops[-1].mover
        outlet.blocked = sum(report.waited.get("sink", 0.0) for report in self._hops)

    def _judge(self) -> None:
        """Raise what the sinks that were dropped amount to."""
        dropped = [outlet for outlet in self._outlets if outlet.given_up]
        if not dropped:
            return
        lines = [outlet.error or outlet.sink for outlet in dropped]
        failure: ZpipeError
        if any(outlet.state == "done" for outlet in self._outlets):
            failure = OutputsDropped(*lines)
        else:
            failure = TransferError("\n".join(lines), delivered=0)
        failure.told = True  # each when it happened
        raise failure
