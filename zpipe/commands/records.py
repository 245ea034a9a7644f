"""The run as JSON Lines, one object a line, bytes as integers: for programs."""

from __future__ import annotations

import json
import os

from zpipe.engine.feedback import Feedback
from zpipe.errors import Interrupted, OutputsDropped, TransferError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zpipe.engine.report import Fallback, HopReport, OutletReport, Report
    from zpipe.errors import ZpipeError

VERSION = 1


class Records(Feedback):
    """Writes to an fd that was passed in. Types: start, said, answer, progress, fallback, failed,
    dropped, hop, error, end.

    Raises: UsageError  the fd is not open for writing.
    """

    interval = 1.0

    def __init__(self, fd: int):
        self._fd = fd
        self._report: Report | None = None
        self._outputs: list[dict[str, object]] = []
        try:
            os.write(fd, b"")
        except OSError as error:
            raise UsageError(f"--json-fd {fd}: write: {os.strerror(error.errno or 0)}") from error

    def said(self, text: str) -> None:
        self._write("said", text=text)

    def began(self, hop: HopReport) -> None:
        first = hop.plan.first
        self._write(
            "start",
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
        self._write("progress", **self._place(hop))

    def status(self, hop: HopReport) -> None:
        self._write("progress", **self._place(hop))

    def fell_back(self, hop: HopReport, fallback: Fallback) -> None:
        self._write(
            "fallback",
            mover=fallback.mover,
            call=fallback.call,
            errno=fallback.errno,
            reason=fallback.reason,
            bytes=fallback.delivered,
        )

    def ended(self, hop: HopReport) -> None:
        self._write(
            "hop",
            **self._place(hop),
            bytes_by_mover=dict(hop.bytes_by_mover),
            calls=dict(hop.calls),
            waited={name: round(span, 6) for name, span in hop.waited.items()},
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
        )

    def failed(self, error: ZpipeError) -> None:
        self._write("failed", text=str(error))

    def dropped(self, outlet: OutletReport) -> None:
        self._write("dropped", **_output(outlet))

    def answered(self, text: str) -> None:
        self._write("answer", text=text)

    def stopped(self, report: Report) -> None:
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

    def _place(self, hop: HopReport) -> dict[str, object]:
        several = {"outputs": [_output(outlet) for outlet in hop.outlets]}
        return (several if len(hop.outlets) > 1 else {}) | {
            "source": hop.source,
            "sink": hop.sink,
            "mover": hop.mover,
            "bytes": hop.moved,
            "expected": hop.expected,
            "seconds": round(hop.seconds, 6),
        }

    def _write(self, kind: str, **fields: object) -> None:
        line = json.dumps({"v": VERSION, "type": kind, **fields}) + "\n"
        rest = memoryview(line.encode())
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError:
            pass  # whoever listened has gone; the bytes go on


def _output(outlet: OutletReport) -> dict[str, object]:
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
