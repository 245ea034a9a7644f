"""The sinks of a fan: those that still take, and what becomes of one that fails or is too slow.

A sink that fails or is detached is dropped at a byte that the report names, and the others go on,
or its policy says that all stop. Knows nothing of sources and rounds, and waits for nobody but the
end of a sink that is seen through to it.
"""

from __future__ import annotations

import errno
import select
import time

from zpipe.engine.watch import act
from zpipe.errors import (
    ConsumerGone,
    Interrupted,
    StalledError,
    TransferError,
    ZpipeError,
    reason,
)
from zpipe.movers.contract import MoveFault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from zpipe.endpoints.contract import End
    from zpipe.engine.branch import Branch
    from zpipe.engine.feedback import Feedback
    from zpipe.engine.waiting import EngineWaiter

_DEAD = select.POLLERR | select.POLLHUP | select.POLLNVAL


class Sinks:
    """`branches`: all of them; `live`: those that still take."""

    def __init__(self, waiter: EngineWaiter, feedback: Feedback):
        self.branches: Sequence[Branch] = ()
        self.live: list[Branch] = []
        self._waiter = waiter
        self._feedback = feedback

    def take(self, branches: Sequence[Branch]) -> None:
        """Begin with these."""
        self.branches = branches
        # threads last: see WorkerBranch.work
        self.live = sorted(branches, key=lambda branch: branch.threaded)

    def work(self, branch: Branch) -> bool:
        """Pump for a sink, unless it is full; tell whether anything may have changed.

        Raises: ZpipeError  it is one for whose sake all stop.
        """
        if branch.waits:
            return False
        try:
            return branch.work()
        except MoveFault as fault:
            self._failed(branch, fault.call, fault.error)
        except ZpipeError as error:
            self._drop(branch, str(error), "failed", error)
        return True

    def look_after(self) -> bool:
        """See to what threads have met, and to the patience with sinks that take nothing; tell
        whether one was dropped: then the others may go on.
        """
        now = time.monotonic()
        before = len(self.live)
        for branch in list(self.live):
            fault = branch.fault()
            if isinstance(fault, MoveFault):
                self._failed(branch, fault.call, fault.error)
            elif isinstance(fault, ZpipeError):
                self._drop(branch, str(fault), "failed", fault)
            elif isinstance(fault, OSError):
                text = f"{branch.end.name}: spill: {reason(fault)}"
                self._drop(branch, text, "failed", TransferError(text, errno=fault.errno))
            elif branch.detachable:
                deadline = branch.deadline(now)
                if deadline is not None and now >= deadline:
                    span = f"{branch.policy.detach_after:g} s"
                    text = f"{branch.end.name}: write: took no data for {span}"
                    self._drop(branch, text, "detached", TransferError(text))
        return len(self.live) != before

    def heed(self, branch: Branch, events: int) -> None:
        """Take what a poll has said of a sink."""
        if not events:
            return
        if branch.pump.held:
            branch.resume()  # the next write meets the error, if there is one
        elif events & _DEAD:
            number = errno.EPIPE
            if branch.end.facts.is_socket:
                from zpipe.kernel.network import error_of

                number = error_of(branch.end.fd) or number
            self._failed(branch, "poll", OSError(number, ""))

    def outcome(self) -> str:
        """Return what became of the bytes, for an error."""
        told = []
        for branch in self.live:
            end = branch.end
            if not end.provisional:
                told.append(f"{end.name} took {branch.pump.moved} bytes")
            elif end.parts:
                told.append(f"{end.name}: {_in_place(end)}")
        return ", ".join(told) or "nothing was put in place"

    # What goes wrong

    def _failed(self, branch: Branch, call: str, error: OSError) -> None:
        """Drop a sink whose call has failed; a pipe that nobody reads may be no failure."""
        end = branch.end
        nobody = error.errno == errno.EPIPE
        if nobody and end.facts.type == "pipe" and branch.policy.may_leave:
            self._drop(branch, None, "left", None)
            return
        why = error.strerror or reason(error)
        if nobody:
            why += end.last_words(self._waiter)
        text = f"{end.name}: {act(call, 'write')}: {why}"
        kind = ConsumerGone if nobody and end.quiet_pipe else TransferError
        moved = branch.pump.moved
        self._drop(branch, text, "failed", kind(text, delivered=moved, errno=error.errno))

    def _drop(self, branch: Branch, text: str | None, state: str, error: ZpipeError | None) -> None:
        """Go on without a sink. Raises: ZpipeError  it is one for whose sake all stop."""
        self.live.remove(branch)
        provisional = branch.end.provisional
        branch.cut(gently=state == "left")
        if error is not None and branch.policy.on_error == "stop":
            if not provisional:
                error.args = (f"{error}; {branch.pump.moved} bytes were delivered",)
            elif branch.end.parts:
                error.args = (f"{error}; {_in_place(branch.end)}",)
            branch.outlet.state, branch.outlet.error = state, text
            raise error
        if text is not None:
            place = f"dropped at byte {branch.pump.moved}"
            if provisional:
                place = _in_place(branch.end)
            text = f"{text}; {place}" + (", the others go on" if self.live else "")
        self._note_drop(branch, text, state)

    def _note_drop(self, branch: Branch, text: str | None, state: str) -> None:
        branch.outlet.state, branch.outlet.error = state, text
        self._feedback.dropped(branch.outlet)

    # The end

    def finish(self, branch: Branch) -> list[str]:
        """See a sink through to its end; return what is to be noted of it.

        Raises: Interrupted, StalledError.
                ZpipeError  it is one for whose sake all stop.
        """
        end, outlet = branch.end, branch.outlet
        if outlet.state == "left" and end.fd < 0 and not end.waits_for_child:
            return []
        try:
            end.finish(self._waiter)
        except (Interrupted, StalledError):
            raise
        except ZpipeError as error:
            if branch.policy.on_error == "stop":
                if isinstance(error, TransferError):
                    error.delivered = branch.pump.moved
                raise
            self._note_drop(branch, str(error), "failed")
            return []
        if outlet.state != "left":
            outlet.state = "done"
        return [f"{end.name}: {note}" for note in end.notes]

    def halt(self) -> None:
        """End all threads, so that what is told of their sinks stays true."""
        for branch in self.branches:
            branch.halt()

    def close(self) -> None:
        """Release everything but the ends."""
        for branch in self.branches:
            branch.close()


def _in_place(end: End) -> str:
    """Return what is left of a provisional end that was not finished."""
    if not end.parts:
        return "nothing was put in place"
    return f"{end.parts} file{'s were' if end.parts > 1 else ' was'} put in place"
