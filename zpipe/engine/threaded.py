"""A sink of several that has a thread of its own: a file or a block device is never "not ready".

What is in a pipe that a thread splices out of is left alone until that thread has taken all of it:
the kernel holds a pipe while its bytes go to a file, and would make anybody else wait.
"""

from __future__ import annotations

import threading
import time
from _queue import SimpleQueue  # of queue, without heapq and what else that loads

from zpipe.engine.branch import IN_TURNS, JOIN, Branch
from zpipe.errors import ZpipeError
from zpipe.movers.contract import MoveFault, start

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from zpipe.endpoints.contract import End, Waiter
    from zpipe.engine.report import OutletReport
    from zpipe.engine.spill import Stage
    from zpipe.graph.policy import Policy
    from zpipe.kernel.pipes import Pipe


class WorkerBranch(Branch):
    """Pumped by a thread of its own: for files, which are never "not ready".

    Without a stage it is given a second round while it is at the first: the thread need not wait
    for the slowest of the others before it has work again. Rounds in pipes take its inlets in
    turns; those of a buffer are handed over as they are.
    """

    threaded = True

    def __init__(
        self,
        end: End,
        policy: Policy,
        outlet: OutletReport,
        waiter: Waiter,
        inlets: Sequence[Pipe],
        stage: Stage | None,
        *,
        wake: Callable[[], None],
    ):
        """Raises: OSError  no thread can be had."""
        super().__init__(end, policy, outlet, waiter, None, stage)
        self._inlets = [stage.inlet] if stage is not None else inlets
        self._filled = self._emptied = 0  # inlets, since the beginning
        self._begun = self._ended = 0  # rounds
        self._untold: list[int | bytes] = []  # rounds that the thread does not know of
        self._wake = wake
        self._given_up = False
        self._done = False
        self._fault: Exception | None = None
        self._rounds: SimpleQueue[int | bytes] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        start(self._thread)
        if stage is not None:
            stage.filled = self._rounds.put

    @property
    def inlet(self) -> Pipe | None:
        return self._inlets[self._filled % len(self._inlets)] if self._inlets else None

    @property
    def ready(self) -> bool:
        if self.stage is not None:
            return super().ready
        return self._begun - self._ended < IN_TURNS

    @property
    def caught_up(self) -> bool:
        return super().ready if self.stage is not None else self._begun == self._ended

    @property
    def finished(self) -> bool:
        return self._done

    @property
    def held_by_disk(self) -> bool:
        return self._thread.is_alive() or super().held_by_disk

    def count(self, moved: int) -> None:
        self.handed += moved
        if self.stage is None:
            self._filled += 1
            self._begun += 1
            self._untold.append(moved)

    def lend(self, data: memoryview) -> None:
        if self.stage is not None:
            super().lend(data)
            return
        self.handed += len(data)
        self._begun += 1
        self._untold.append(bytes(data))  # the buffer is the fan's, and will be filled again

    def end_input(self) -> None:
        super().end_input()
        if self.stage is None:
            self.work()
            self._rounds.put(0)

    def work(self) -> bool:
        """Tell the thread what there is.

        Not before the others were pumped for: from then on threads contend for the interpreter
        and for processors, and a line on its way to a pipe would be late by half a millisecond.
        """
        for data in self._untold:
            self._rounds.put(data)
        self._untold.clear()
        return False

    def interests(self) -> dict[int, int]:
        return {}

    def fault(self) -> Exception | None:
        return self._fault or super().fault()

    def _state(self) -> str:
        return "spilling" if self.outlet.spilled else "flowing"

    def _give_up(self) -> None:
        self._given_up = True
        self._rounds.put(0)
        self._thread.join(JOIN)
        if self._thread.is_alive():
            return  # the pipes stay with it
        super()._give_up()
        for inlet in self._inlets:
            inlet.close()

    def _run(self) -> None:
        try:
            self._work()
        except (MoveFault, ZpipeError, OSError) as error:
            self._fault = error
        finally:
            self._done = True
            self._wake()

    def _work(self) -> None:
        pump, stage = self.pump, self.stage
        while given := self._rounds.get():
            if isinstance(given, bytes):
                pump.rest = memoryview(given)
            else:
                pump.in_pipe = given
                if stage is None:
                    pump.reader = self._inlets[self._emptied % len(self._inlets)].reader
                    self._emptied += 1
            began = time.monotonic()
            while pump.held:
                if self._given_up:
                    return
                self._push()
            self._blocked += time.monotonic() - began
            self._ended += 1
            if stage is not None:
                stage.hungry()
            elif self.awaited:
                self._wake()
