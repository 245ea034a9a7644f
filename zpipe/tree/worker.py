"""Carry out tasks: in this process, in a forked one, or wherever an executor sends them.

What goes wrong with one entry is in the outcome, and the others go on. Knows nothing of how an
entry is made, nor of the tasks before and after this one: a task may be done twice.
"""

from __future__ import annotations

import os

from zpipe.errors import Interrupted, ZpipeError, reason
from zpipe.tree.regular import RegularFiles
from zpipe.tree.site import Site
from zpipe.tree.tasks import Chunk, Outcome, Problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from zpipe.engine.limiter import Limiter
    from zpipe.engine.stop import Stop
    from zpipe.tree.tasks import Batch, Task
    from zpipe.tree.wishes import TreeWishes


class Worker:
    """Carries tasks one after the other. `divides`: big files are left for being divided. `moving`
    hears of bytes within a long one, `ask` is asked about each target that is there.
    """

    def __init__(
        self,
        wishes: TreeWishes,
        stop: Stop,
        *,
        divides: bool,
        limiter: Limiter | None = None,
        moving: Callable[[int], None] | None = None,
        ask: Callable[[str], bool] | None = None,
    ):
        self._wishes = wishes
        self._stop = stop
        self._limiter = limiter
        self._moving = moving
        self._ask = ask
        self._files = RegularFiles(wishes, stop, divides=divides, limiter=limiter, moving=moving)
        self._site: Site
        self._out = Outcome(0)

    def carry(self, task: Task) -> Outcome:
        """Carry one task. What goes wrong with a file is in the outcome.

        Raises: Interrupted.
        """
        return self._chunk(task) if isinstance(task, Chunk) else self._batch(task)

    @property
    def partial(self) -> Outcome:
        """What was done of the task that a signal has ended."""
        self._out.partial = True
        return self._out

    def _batch(self, batch: Batch) -> Outcome:
        self._site = site = Site(batch, self._wishes, self._ask)
        self._out = out = site.out
        files = self._files
        files.begin(site)
        carry = files.carry
        try:
            site.open()
            if batch.others or self._wishes.make != "copy":
                from zpipe.tree.others import Others

                others = Others(site, self._wishes, carry)
                carry = carry if self._wishes.make == "copy" else others.link
            for name in batch.files:
                self._stop.check()
                self._entry(name, carry)
            for name in batch.others:
                self._stop.check()
                self._entry(name, others.carry)
            files.settle()
            if self._wishes.sync and out.files:
                os.fsync(site.target)
        except OSError as error:
            self._lost(batch, error)
        finally:
            files.discard()
            site.close()
        return out

    def _entry(self, name: str, carry: Callable[[str], None]) -> None:
        site = self._site
        site.number += 1
        try:
            carry(name)
        except Interrupted:
            raise
        except ZpipeError as error:
            path = site.source_of(name)
            site.out.problems.append(Problem(path, str(error)))
        except OSError as error:
            path = site.source_of(name)
            site.out.problems.append(Problem(path, f"{path}: copy: {reason(error)}"))

    def _lost(self, batch: Batch, error: OSError) -> None:
        """The directory itself cannot be had any more."""
        site, out = self._site, self._out
        told = {problem.path for problem in out.problems}
        act = "open" if site.target < 0 else "fsync"
        folder = batch.source if site.source < 0 else batch.target
        for name in (*batch.files, *batch.others):
            path = site.source_of(name)
            if path not in told:
                text = f"{path}: {folder}: {act}: {reason(error)}"
                out.problems.append(Problem(path, text))

    def _chunk(self, chunk: Chunk) -> Outcome:
        from zpipe.tree.ranges import carry_chunk

        self._out = out = Outcome(chunk.number)
        carry_chunk(
            chunk, out, self._wishes, stop=self._stop, limiter=self._limiter, moving=self._moving
        )
        return out
