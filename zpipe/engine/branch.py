"""One sink of several under way: what it was given, and what it took.

A sink that can say "not now" is pumped by the fan itself, which never waits for it; one that cannot
has a thread of its own, see threaded.py. Between the fan and either there may be a stage that
spills. Knows nothing of the other sinks, nor of what becomes of one that fails.
"""

from __future__ import annotations

import os
import select
import time
from collections import Counter

from zpipe.kernel import pipes
from zpipe.movers.pump import Pump

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zpipe.endpoints.contract import End, Waiter
    from zpipe.engine.report import OutletReport
    from zpipe.engine.spill import Stage
    from zpipe.graph.policy import Policy
    from zpipe.kernel.pipes import Pipe

IN_TURNS = 2  # rounds that a thread is given at once
JOIN = 0.1  # seconds that a thread has for ending, before its sink is left to it


class Branch:
    """Pumped by the fan. `handed` counts bytes that this sink was given.

    Without an inlet, since no pipes could be had, bytes are lent from the fan's buffer.
    """

    threaded = False

    def __init__(
        self,
        end: End,
        policy: Policy,
        outlet: OutletReport,
        waiter: Waiter,
        inlet: Pipe | None,
        stage: Stage | None,
    ):
        self.end = end
        self.policy = policy
        self.outlet = outlet
        self.calls: Counter[str] = Counter()
        self._inlet = stage.inlet if stage is not None else inlet
        self.stage = stage
        self.handed = 0
        self._stuck_since: float | None = None
        self._stuck_at = -1
        self._input_ended = False
        self._waiter = waiter
        out = stage.outlet if stage is not None else inlet
        self._reader = out.reader if out is not None else -1
        self.pump = Pump(end.port(), self._reader, self.calls)
        self._blocked = 0.0
        self._blocked_from: float | None = None

        self.awaited = False  # the fan sleeps until this one is ready

    # What it was given

    @property
    def inlet(self) -> Pipe | None:
        """The empty pipe that takes the next round, once the branch is ready; None: a buffer."""
        return self._inlet

    @property
    def caught_up(self) -> bool:
        """Nothing of what was given is left in a pipe before the sink or before its stage."""
        return self.ready

    @property
    def ready(self) -> bool:
        """The next round can be given."""
        if self.stage is not None:
            return self.stage.passed >= self.handed
        return not self.pump.held

    @property
    def finished(self) -> bool:
        """The sink has everything; asked once the input has ended."""
        if self.pump.held:
            return False
        return self.stage is None or (self.stage.done and not pipes.buffered(self._reader))

    @property
    def progress(self) -> int:
        """A number that changes whenever something moves."""
        return self.pump.moved + (self.stage.passed if self.stage is not None else 0)

    def count(self, moved: int) -> None:
        """Take note of what was tee'd into the inlet."""
        self.handed += moved
        if self.stage is None:
            self.pump.in_pipe = moved

    def lend(self, data: memoryview) -> None:
        """Give bytes of a buffer, which stay as they are until the branch is ready again."""
        if self.stage is not None:
            self.handed += len(data)  # before the stage can have passed any of it
            _fill(self.stage.inlet, data)
            return
        self.handed += len(data)
        self.pump.rest = data

    def end_input(self) -> None:
        """Nothing more will come. The branch is ready."""
        self._input_ended = True
        if self.stage is not None:
            self.stage.inlet.close_writer()

    # Pumping

    @property
    def waits(self) -> bool:
        """The sink was full when it was last asked, and no poll has said otherwise."""
        return self._blocked_from is not None

    def resume(self) -> None:
        """A poll says that the sink is ready, or has failed."""
        if self._blocked_from is not None:
            self._blocked += time.monotonic() - self._blocked_from
            self._blocked_from = None

    def work(self) -> bool:
        """Pump until the sink is full or everything is delivered; tell whether anything moved.

        Raises: MoveFault      the sink failed.
                TransferError  a part could not be finished, or the next one not be opened.
        """
        if self.stage is not None and not self.pump.held:
            self.pump.in_pipe = pipes.buffered(self._reader)
        before = self.pump.moved
        while self.pump.held:
            if not self._push():
                self._blocked_from = time.monotonic()
                break
        if self.stage is not None and self.pump.moved != before and not self.pump.held:
            self.stage.hungry()
        return self.pump.moved != before

    def _push(self) -> bool:
        """Move once; False when the sink is full."""
        end, pump = self.end, self.pump
        if end.room == 0:
            end.turn(self._waiter)
            pump.sink = end.port()
        moved = pump.push(end.room)
        if not isinstance(moved, int):
            return False
        if end.room is not None:
            end.room -= moved
        return True

    def interests(self) -> dict[int, int]:
        """Return what to poll for: room, death, and bytes that a stage has passed on."""
        facts = self.end.facts
        found = {}
        if not facts.on_disk and not facts.generated:
            found[self.end.fd] = select.POLLOUT if self.pump.held else 0
        if self.stage is not None and not self.pump.held and not self.finished:
            found[self._reader] = select.POLLIN
        return found

    @property
    def detachable(self) -> bool:
        policy = self.policy
        spills = policy.when_full == "spill" and policy.spill_then == "detach"
        return spills or policy.when_full == "detach"

    def deadline(self, now: float) -> float | None:
        """Return when patience with this sink ends; None: nobody waits for it."""
        if self.caught_up and (not self._input_ended or self.finished):
            self._stuck_since = None
            return None
        if self._stuck_since is None or self.progress != self._stuck_at:
            self._stuck_since, self._stuck_at = now, self.progress
        return self._stuck_since + self.policy.detach_after

    # The end

    @property
    def underway(self) -> int:
        """Bytes that were given, and that neither the sink nor a stage has taken."""
        taken = self.stage.passed if self.stage is not None else self.pump.moved
        return max(0, self.handed - taken)

    @property
    def held_by_disk(self) -> bool:
        """A thread could not be ended: the kernel holds it."""
        return self.stage is not None and not self.stage.done

    def all_calls(self) -> Counter[str]:
        """Return the system calls so far, of all threads."""
        return self.calls + self.stage.calls if self.stage is not None else Counter(self.calls)

    def how(self, way: str) -> str:
        """Return the mover's name for this sink, where rounds go this way."""
        return way if way == "plain" or self.pump.refusal is None else f"{way}, written"

    def look(self) -> None:
        """Bring the report up to date."""
        outlet, stage = self.outlet, self.stage
        outlet.moved = self.pump.moved
        now = time.monotonic()
        outlet.blocked = self._blocked + (now - self._blocked_from if self.waits else 0.0)  # type: ignore[operator]
        outlet.lag = self.handed - self.pump.moved
        if stage is not None:
            outlet.spilled = stage.spill.size
            outlet.deepest = stage.spill.deepest
        if outlet.state in ("flowing", "blocked", "spilling"):
            outlet.state = self._state()

    def _state(self) -> str:
        if self.outlet.spilled:
            return "spilling"
        return "blocked" if self.waits else "flowing"

    def fault(self) -> Exception | None:
        """Return what has failed in a thread of this branch."""
        return self.stage.fault if self.stage is not None else None

    def cut(self, *, gently: bool = False) -> None:
        """Give up the sink at once, without waiting for it; `gently`: it has gone by itself."""
        self.resume()
        self.look()
        self._give_up()
        if self.held_by_disk:
            self.end.abandon()
        elif gently:
            self.end.hang_up()
        else:
            self.end.cut()

    def halt(self) -> None:
        """Move nothing any more, and know what was moved. May be called twice."""
        self.resume()
        self._give_up()
        self.look()

    def close(self) -> None:
        """Release everything but the end. May be called twice."""
        self._give_up()
        if self.held_by_disk:
            self.end.abandon()

    def _give_up(self) -> None:
        if self.stage is not None:
            self.stage.close(JOIN)
        elif self._inlet is not None:
            self._inlet.close()


def _fill(inlet: Pipe, data: memoryview) -> None:
    """Write into an inlet that is empty: it has room for all of the buffer."""
    while data:
        data = data[os.write(inlet.writer, data) :]
