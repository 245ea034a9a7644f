"""What the engine tells while it works; a front end overrides what it shows."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zpipe.engine.report import Fallback, HopReport, OutletReport, Report
    from zpipe.errors import ZpipeError


class Feedback:
    """Listens to a run. `interval` is the time in seconds between two calls of `progress`."""

    interval: float | None = None

    def said(self, text: str) -> None:
        """Something that cannot wait for the report, such as a port that was chosen."""

    def answered(self, text: str) -> None:
        """A result that was asked for, to be shown as it is: a digest."""

    def failed(self, error: ZpipeError) -> None:
        """A source of several could not be read; the next one goes on."""

    def dropped(self, outlet: OutletReport) -> None:
        """An output is given up; the others go on."""

    def began(self, hop: HopReport) -> None:
        """A hop is opened and planned; nothing has moved."""

    def progress(self, hop: HopReport) -> None:
        """The interval has passed once more."""

    def status(self, hop: HopReport) -> None:
        """The user asked for a line about where things stand (SIGUSR1)."""

    def fell_back(self, hop: HopReport, fallback: Fallback) -> None:
        """A mover gave up; the next of the plan goes on."""

    def ended(self, hop: HopReport) -> None:
        """A hop has ended and its ends are finished."""

    def stopped(self, report: Report) -> None:
        """Everything has come to its end, or to the error that is raised next."""

    def closed(self, report: Report) -> None:
        """Everything has ended well."""
