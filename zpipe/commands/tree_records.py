"""The copying of a tree as JSON Lines, one object a line, bytes as integers: for programs."""

from __future__ import annotations

import json
import os

from zpipe.commands.records import VERSION
from zpipe.errors import Interrupted, UsageError
from zpipe.tree.report import TreeFeedback

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zpipe.errors import ZpipeError
    from zpipe.tree.report import TreeReport
    from zpipe.tree.tasks import Done, Problem


class TreeRecords(TreeFeedback):
    """Writes to an fd that was passed in. Types: start, said, progress, file, failed, error, end.

    Raises: UsageError  the fd is not open for writing.
    """

    interval = 1.0
    sizes = True

    def __init__(self, fd: int, files: bool):
        self._fd = fd
        self.names = files
        self._report: TreeReport | None = None
        try:
            os.write(fd, b"")
        except OSError as error:
            raise UsageError(f"--json-fd {fd}: write: {os.strerror(error.errno or 0)}") from error

    def said(self, text: str) -> None:
        self._write("said", text=text)

    def began(self, report: TreeReport) -> None:
        self._report = report
        self._write("start", sources=report.sources)

    def lost(self, problem: Problem) -> None:
        self._write("failed", path=problem.path, text=problem.text, kind=problem.kind)

    def done(self, done: Done) -> None:
        if self.names:
            self._write(
                "file",
                source=done.source,
                path=done.path,
                act=done.act,
                bytes=done.size,
                sha256=done.digest or None,
            )

    def progress(self, report: TreeReport) -> None:
        self._write("progress", **_place(report))

    def status(self, report: TreeReport) -> None:
        self._write("progress", **_place(report))

    def ended(self, report: TreeReport) -> None:
        used = report.resources
        self._write(
            "end",
            **_place(report),
            directories=report.directories,
            bytes_by_mover=dict(report.by_mover),
            fallbacks=[
                {"mover": mover, "call": call, "errno": number, "times": count}
                for (mover, call, number), count in report.fallbacks.items()
            ],
            failed=report.lost,
            workers=report.workers,
            executor=report.executor,
            user_seconds=round(used.user, 6),
            system_seconds=round(used.system, 6),
        )

    def ended_by(self, error: ZpipeError) -> None:
        """Tell what ended the run, as the last record."""
        self._write(
            "error",
            text=str(error),
            exit=error.exit_code,
            signal=error.signum if isinstance(error, Interrupted) else None,
        )

    def _write(self, record: str, /, **fields: object) -> None:
        line = json.dumps({"v": VERSION, "type": record, **fields}) + "\n"
        rest = memoryview(line.encode())
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError:
            pass  # whoever listened has gone; the bytes go on


class Both(TreeFeedback):
    """Tells two listeners."""

    def __init__(self, first: TreeFeedback, second: TreeFeedback):
        self._all = (first, second)
        intervals = [each.interval for each in self._all if each.interval is not None]
        self.interval = min(intervals) if intervals else None
        self.names = first.names or second.names
        self.sizes = first.sizes or second.sizes

    def said(self, text: str) -> None:
        for each in self._all:
            each.said(text)

    def began(self, report: TreeReport) -> None:
        for each in self._all:
            each.began(report)

    def lost(self, problem: Problem) -> None:
        for each in self._all:
            each.lost(problem)

    def done(self, done: Done) -> None:
        for each in self._all:
            each.done(done)

    def progress(self, report: TreeReport) -> None:
        for each in self._all:
            each.progress(report)

    def status(self, report: TreeReport) -> None:
        for each in self._all:
            each.status(report)

    def ended(self, report: TreeReport) -> None:
        for each in self._all:
            each.ended(report)


def _place(report: TreeReport) -> dict[str, object]:
    return {
        "path": report.at_hand or None,
        "files": report.files,
        "files_found": report.found,
        "walked": report.walked,
        "kept": report.kept,
        "bytes": report.moved,
        "bytes_found": report.expected,
        "seconds": round(report.seconds, 6),
    }
