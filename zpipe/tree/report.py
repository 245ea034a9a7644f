"""What became of the copying of trees, and who is told on the way."""

from __future__ import annotations

from collections import Counter

from zpipe.engine.report import Resources

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zpipe.tree.tasks import Done, Problem


class TreeReport:
    """Counts of a whole run; filled in while it goes on.

    `found` and `expected` count files and bytes that the walk has met, `expected` only where
    somebody is shown them; `walked`: it has met them all. `kept`: files that were left as they are.
    `resources` are those of this process and of the workers that it has forked.
    """

    def __init__(self) -> None:
        self.sources: list[str] = []
        self.target = ""
        self.found = 0
        self.expected = 0
        self.walked = False
        self.files = 0
        self.directories = 0
        self.kept = 0
        self.moved = 0
        self.by_mover: Counter[str] = Counter()
        self.fallbacks: Counter[tuple[str, str, int]] = Counter()
        self.problems: list[Problem] = []
        self.at_hand = ""
        self.workers = 1
        self.executor = "none"
        self.seconds = 0.0
        self.sync = False
        self.resources = Resources(0, 0, 0, 0, 0)

    @property
    def lost(self) -> int:
        """Files and directories that were not copied, or not with all attributes."""
        return len({problem.path for problem in self.problems})


class TreeFeedback:
    """Listens to a run. `interval`: seconds between two calls of `progress`; `names`: `done` is to
    be called for each file; `sizes`: bytes are to be counted by the walk.
    """

    interval: float | None = None
    names = False
    sizes = False

    def said(self, text: str) -> None:
        """Something that cannot wait for the end."""

    def began(self, report: TreeReport) -> None:
        """The walk begins."""

    def lost(self, problem: Problem) -> None:
        """A file could not be copied; the others go on."""

    def done(self, done: Done) -> None:
        """A file is in its place, or was left as it is."""

    def progress(self, report: TreeReport) -> None:
        """The interval has passed once more."""

    def status(self, report: TreeReport) -> None:
        """The user asked for a line about where things stand (SIGUSR1)."""

    def ended(self, report: TreeReport) -> None:
        """Everything has come to its end."""


def sum_of(used: Resources, more: Resources) -> Resources:
    """Return the resources of two that were used in the same time, which is the longer one."""
    return Resources(
        max(used.seconds, more.seconds),
        used.user + more.user,
        used.system + more.system,
        used.voluntary_switches + more.voluntary_switches,
        used.involuntary_switches + more.involuntary_switches,
    )
