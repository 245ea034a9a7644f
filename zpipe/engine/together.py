"""Carry several streams at the same time, a thread for each, and judge what failed.

Each stream opens, waits and finishes as if it were alone. Here is decided what becomes of the
others when one fails: all stop, or, where the user wants it so, those go on that do not need it.
What only follows from another failure is not told.
"""

from __future__ import annotations

import os
import select
import threading
import time
from contextlib import ExitStack
from functools import partial

from zpipe.engine.feedback import Feedback
from zpipe.engine.passing import passages_of
from zpipe.engine.stop import ENDING, Relayed
from zpipe.engine.stream import UnderWay
from zpipe.engine.waiting import empty
from zpipe.errors import (
    Interrupted,
    OutputsDropped,
    TransferError,
    ZpipeError,
    reason,
    signal_name,
)
from zpipe.graph.wiring import JOINT
from zpipe.movers.contract import start

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from zpipe.engine.passing import Passage
    from zpipe.engine.report import OutletReport, Report
    from zpipe.engine.stop import Stop
    from zpipe.graph.wiring import Stream, Wiring

_AT_THE_END = frozenset({"file", "hash", "null", "pattern"})  # kinds that nobody has before
# seconds that streams have to end, once they were asked twice: a child that heeds no SIGTERM is
# killed within one
_PARTING = 3.0


def carry_together(wiring: Wiring, feedback: Feedback, stop: Stop, report: Report) -> None:
    """Carry every stream to its end.

    Raises: ZpipeError  of the first that failed, or OutputsDropped where the others are complete.
    """
    with ExitStack() as stack:
        try:
            passages = passages_of(wiring)
            for passage in passages.values():
                stack.callback(passage.close)
            stops = []
            kept = _kept(wiring)
            for stream in wiring.streams:
                stops.append(relayed := Relayed(keeps=stream.sources[0].id in kept))
                stack.callback(relayed.close)
            done = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            stack.callback(os.close, done)
        except OSError as error:
            raise TransferError(f"make pipes: {reason(error)}", errno=error.errno) from error
        together = _Together(wiring, _Locked(feedback), stop, report, passages, stops, done)
        try:
            together.carry()
        finally:
            if not together.join():
                stack.pop_all()  # a disk holds a thread: the fds stay with it


class _Together:
    def __init__(
        self,
        wiring: Wiring,
        feedback: Feedback,
        stop: Stop,
        report: Report,
        passages: dict[str, Passage],
        stops: list[Relayed],
        done: int,
    ):
        self._streams = wiring.streams
        self._feedback = feedback
        self._stop = stop
        self._report = report
        self._passages = passages
        self._stops = stops
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._done = done
        self._running = 0
        self._failures: list[ZpipeError] = []  # for whose sake all stop
        self._spared: list[ZpipeError] = []
        self._is_short = False  # an output lacks what one of its sources should have had
        self._internal: BaseException | None = None
        self._interrupted: Interrupted | None = None
        self._give_up_at: float | None = None

    def carry(self) -> None:
        """See `carry_together`."""
        self._start()
        while self._running and not self._is_given_up:
            try:
                if self._give_up_at is None:
                    self._stop.check()
                self._sleep()
            except Interrupted as interrupted:
                self._interrupt(interrupted)
        if self._interrupted is None:
            try:
                self._stop.check()  # it came with the end, or was the cause of it
            except Interrupted as interrupted:
                self._interrupted = interrupted
        self._judge()

    def join(self) -> bool:
        """See the threads ended; False where one of them cannot be."""
        if self._running:
            return False
        for thread in self._threads:
            thread.join()
        return True

    def _start(self) -> None:
        """Start all threads, or none has done anything."""
        for stream, stop in zip(self._streams, self._stops, strict=True):
            thread = threading.Thread(target=self._run, args=(stream, stop), daemon=True)
            try:
                with self._lock:
                    self._running += 1
                start(thread)
            except OSError as error:
                with self._lock:
                    self._running -= 1
                text = f"start a thread for each of {len(self._streams)} streams: {reason(error)}"
                self._fail(TransferError(text, errno=error.errno))
                return
            self._threads.append(thread)

    def _sleep(self) -> None:
        poller = select.poll()
        poller.register(self._done, select.POLLIN)
        if self._stop.wakeup >= 0:
            poller.register(self._stop.wakeup, select.POLLIN)
        left = None
        if self._give_up_at is not None:
            left = max(0.0, self._give_up_at - time.monotonic()) * 1000 + 1
        for fd, _ in poller.poll(left):
            empty(fd)
        if self._stop.status_wanted:
            self._stop.status_wanted = False
            for stop in self._stops:
                stop.ask_status()

    @property
    def _is_given_up(self) -> bool:
        return self._give_up_at is not None and time.monotonic() >= self._give_up_at

    def _interrupt(self, interrupted: Interrupted) -> None:
        """Let every stream deliver what it has; when asked again, end.

        What is written by another stream is read to its end, which then is no good one.
        """
        again = self._interrupted is not None
        if again:
            self._give_up_at = time.monotonic() + _PARTING
        else:
            self._stop.heard()  # else further ones change nothing
        self._interrupted = interrupted
        for passage in self._passages.values():
            passage.interrupt(interrupted.signum)
        for stop in self._stops:
            stop.ask(partial(Interrupted, interrupted.signum), at_once=again)

    # In the threads

    def _run(self, stream: Stream, stop: Relayed) -> None:
        try:
            with ExitStack() as stack:
                under_way = UnderWay(
                    stream, self._feedback, stop, self._report, stack, self._passages
                )
                try:
                    under_way.carry()
                except ZpipeError as error:
                    # before the ends are closed, so that what follows from it comes later
                    self._note(error, stream)
        except BaseException as error:  # an error of ours: it is raised again where all ends
            self._internal = error
            self._cancel()
        finally:
            for nodes, sink in ((stream.sources, False), (stream.sinks, True)):
                for node in nodes:
                    if node.id in self._passages:
                        self._passages[node.id].forgo(sink=sink)
            with self._lock:
                self._running -= 1
            os.eventfd_write(self._done, 1)

    def _note(self, error: ZpipeError, stream: Stream) -> None:
        """Take note of what has ended a stream."""
        if isinstance(error, (Interrupted, _Cancelled)):
            return
        if error.consequence or error.spared:
            with self._lock:
                self._spared.append(error)
            if error.of_source:
                passed_over = error.told and not isinstance(error, OutputsDropped)
                joined = any(node.endpoint.kind == JOINT for node in stream.sinks)
                self._is_short |= passed_over or (joined and not error.consequence)
            if not error.told and not error.consequence:
                error.told = True
                self._feedback.failed(error)
        else:
            self._fail(error)

    def _fail(self, error: ZpipeError) -> None:
        with self._lock:
            self._failures.append(error)
        self._cancel()

    def _cancel(self) -> None:
        for stop in self._stops:
            stop.ask(_Cancelled, at_once=True)

    # The end

    def _judge(self) -> None:
        """Raise what all of it amounts to."""
        order = {node.id: n for n, stream in enumerate(self._streams) for node in stream.sources}
        self._report.hops.sort(key=lambda hop: order[hop.ends[0]])
        if self._internal is not None:
            raise self._internal
        # a terminal sends its signal to the children, too
        by_signal = all(error.died_of in ENDING for error in self._failures)
        if self._failures and not (self._interrupted is not None and by_signal):
            first, *others = self._failures
            # they failed at the same time, each by itself
            lines = [line for error in others if not error.told for line in error.args]
            if lines and not first.told:
                first.args = (*first.args, *dict.fromkeys(lines))
            raise first
        if self._interrupted is not None:
            ends = [outlet for outlet in self._outlets if outlet.node not in self._passages]
            moved = sum(outlet.moved for outlet in ends)
            name = signal_name(self._interrupted.signum)
            self._interrupted.args = (f"ended by {name}; {moved} bytes were delivered",)
            raise self._interrupted
        told = [error for error in self._spared if not error.consequence]
        if not self._spared:
            return
        lines = [str(line) for error in told for line in error.args]
        failure: ZpipeError
        if not self._is_short and any(outlet.state == "done" for outlet in self._outlets):
            failure = OutputsDropped(*lines)
        else:
            failure = TransferError("\n".join(lines), delivered=self._report.moved)
        failure.told = True
        raise failure

    @property
    def _outlets(self) -> list[OutletReport]:
        """Return every sink once: those of a sequence share them."""
        found = {id(one): one for hop in self._report.hops for one in hop.outlets}
        return list(found.values())


def _kept(wiring: Wiring) -> set[str]:
    """Return the sources of which something is kept that is not read to its end: it goes to
    somebody who has it at once, and not to a file that is put in place when it is complete.
    """
    joints = {way.id: joint.out.id for joint in wiring.joints for way in joint.ways}
    kept = {
        (stream.sources[0].id, sink.id)
        for stream in wiring.streams
        for sink in stream.sinks
        if sink.endpoint.kind not in _AT_THE_END
        or stream.wishes[0].inplace
        or stream.wishes[0].append
    }
    passing = {node.id for node in wiring.passing} | set(joints)
    found = {source for source, sink in kept if sink not in passing}
    while True:
        more = {
            stream.sources[0].id
            for stream in wiring.streams
            for sink in stream.sinks
            if joints.get(sink.id, sink.id) in found
        }
        if more <= found:
            break
        found |= more
    # those of a sequence share their sinks
    return {
        s.id for stream in wiring.streams if stream.sources[0].id in found for s in stream.sources
    }


class _Cancelled(ZpipeError):
    """Another stream has failed, and all stop."""

    def __init__(self) -> None:
        super().__init__("stopped, since another part has failed")


class _Locked(Feedback):
    """Lets one thread speak at a time."""

    def __init__(self, feedback: Feedback):
        self._feedback = feedback
        self._lock = threading.RLock()
        self.interval = feedback.interval

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("_") or name == "interval":
            return object.__getattribute__(self, name)
        call: Callable[..., None] = getattr(self._feedback, name)

        def locked(*values: object) -> None:
            with self._lock:
                call(*values)

        return locked
