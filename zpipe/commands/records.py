"""The run as records, and these as JSON Lines, one object a line, bytes as integers: for programs.

What a person is shown of a recipe is made of the same records.
"""

from __future__ import annotations

import json
import os
import time

from zpipe.engine.feedback import Feedback
from zpipe.errors import Interrupted, OutputsDropped, TransferError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from zpipe.engine.report import Fallback, HopReport, OutletReport, ProcessReport, Report
    from zpipe.errors import ZpipeError

    Record = dict[str, object]

VERSION = 1


class Lines:
    """Writes records to an fd that was passed in.

    Raises: UsageError  it is not open for writing.
    """

    def __init__(self, fd: int):
        self._fd = fd
        try:
            os.write(fd, b"")
        except OSError as error:
            raise UsageError(f"--json-fd {fd}: write: {os.strerror(error.errno or 0)}") from error

    def __call__(self, record: Record) -> None:
        rest = memoryview(as_line(record))
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError:
            pass  # whoever listened has gone; the bytes go on


def as_line(record: Record) -> bytes:
    """Return a record as it is written."""
    return json.dumps(record).encode() + b"\n"


class Records(Feedback):
    """Makes records, and gives each to `take`. Types: start, said, answer, progress, fallback,
    failed, dropped, hop, error, end.
    """

    def __init__(self, take: Callable[[Record], object], *, interval: float | None = 1.0):
        self.interval = interval
        self._take = take
        self._report: Report | None = None
        self._outputs: list[Record] = []
        self._told: dict[int, float] = {}  # when a hop was told of last: others may be quicker
        self._ended: set[int] = set()

    def said(self, text: str) -> None:
        self._write("said", text=text)

    def began(self, hop: HopReport) -> None:
        first = hop.plan.first
        self._write(
            "start",
            **_ends(hop),
            source=hop.source,
            sink=hop.sink,
            expected=hop.expected,
            mover=first.name,
            candidates=[candidate.name for candidate in hop.plan.candidates],
            refused={refusal.name: refusal.why for refusal in hop.plan.refusals},
            cpu_copies=first.cost.cpu_copies,
            dma_copies=first.cost.dma_copies,
            syscalls_per_mib=first.cost.syscalls_per_mib,
            caveat=first.caveat or None,
        )

    def progress(self, hop: HopReport) -> None:
        now = time.monotonic()
        last = self._told.get(id(hop))
        # a little early is in time: the engine's clock has ticked
        if last is None or now - last >= 0.9 * (self.interval or 0.0):
            self._told[id(hop)] = now
            self._write("progress", **self._place(hop))

    def status(self, hop: HopReport) -> None:
        self._write("progress", **self._place(hop))

    def fell_back(self, hop: HopReport, fallback: Fallback) -> None:
        self._write(
            "fallback",
            **_ends(hop),
            mover=fallback.mover,
            call=fallback.call,
            errno=fallback.errno,
            reason=fallback.reason,
            bytes=fallback.delivered,
        )

    def ended(self, hop: HopReport) -> None:
        self._ended.add(id(hop))
        self._write(
            "hop",
            **self._place(hop),
            calls=dict(hop.calls),
            notes=hop.notes,
        )

    def closed(self, report: Report) -> None:
        self._end(report)

    def _end(self, report: Report) -> None:
        used = report.resources
        self._write(
            "end",
            bytes=report.moved,
            seconds=round(used.seconds, 6),
            user_seconds=round(used.user, 6),
            system_seconds=round(used.system, 6),
            voluntary_switches=used.voluntary_switches,
            involuntary_switches=used.involuntary_switches,
            outputs=self._outputs,
            processes=[_process(process) for process in report.processes],
        )

    def failed(self, error: ZpipeError) -> None:
        self._write("failed", text=str(error))

    def dropped(self, outlet: OutletReport) -> None:
        self._write("dropped", **_output(outlet))

    def answered(self, text: str) -> None:
        self._write("answer", text=text)

    def stopped(self, report: Report) -> None:
        for hop in report.hops:
            if id(hop) not in self._ended:
                self._write("progress", **self._place(hop))  # so far it came
        # those of a sequence share their outlets
        seen = {id(outlet): outlet for hop in report.hops for outlet in hop.outlets}
        self._outputs = [_output(outlet) for outlet in seen.values()]
        self._report = report

    def ended_by(self, error: ZpipeError) -> None:
        """Tell what ended the run, as the last record; where some outputs are complete, after the
        end that they came to.
        """
        if isinstance(error, OutputsDropped) and self._report is not None:
            self._end(self._report)
        self._write(
            "error",
            text=str(error),
            exit=error.exit_code,
            errno=error.errno if isinstance(error, TransferError) else None,
            bytes=error.delivered,
            signal=error.signum if isinstance(error, Interrupted) else None,
            outputs=self._outputs,
        )

    def _place(self, hop: HopReport) -> Record:
        several = {"outputs": [_output(outlet) for outlet in hop.outlets]}
        waited = hop.waited_until(time.monotonic())
        return {
            "from": hop.ends[0],
            "to": list(hop.ends[1]),
            "source": hop.source,
            "sink": hop.sink,
            "mover": hop.mover,
            "state": _state(hop),
            "bytes": hop.moved,
            "bytes_by_mover": dict(hop.bytes_by_mover),
            "expected": hop.expected,
            "seconds": round(hop.seconds, 6),
            "waited": {name: round(span, 6) for name, span in waited.items()},
            **(several if len(hop.outlets) > 1 else {}),
        }

    def _write(self, kind: str, **fields: object) -> None:
        self._take({"v": VERSION, "type": kind, **fields})


def _ends(hop: HopReport) -> Record:
    """Return the nodes of the graph between which a hop is."""
    return {"from": hop.ends[0], "to": list(hop.ends[1])}


def _state(hop: HopReport) -> str:
    """Return the state of the one output, or what is true of several: they tell more themselves."""
    if hop.complete:
        return "done"
    states = {outlet.state for outlet in hop.outlets}
    state = states.pop() if len(states) == 1 else "flowing"
    # what went on with another source is no less complete
    return "failed" if state == "done" else state


def _process(process: ProcessReport) -> Record:
    """Return what is known of a process that took part."""
    return {
        "name": process.name,
        "node": process.node,
        "pid": process.pid,
        "status": process.status,
    }


def _output(outlet: OutletReport) -> Record:
    """Return what is known of one output."""
    return {
        "sink": outlet.sink,
        "state": outlet.state,
        "mover": outlet.mover or None,
        "bytes": outlet.moved,
        "lag": outlet.lag,
        "seconds_blocked": round(outlet.blocked, 6),
        "when_full": outlet.policy,
        "spilled": outlet.spilled,
        "most_spilled": outlet.deepest,
        "error": outlet.error,
    }
