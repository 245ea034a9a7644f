"""Where a copy of trees speaks to people: lines on stderr, names on standard output, a question.

Knows nothing of what is copied how; the texts are made in tree_words.py.
"""

from __future__ import annotations

import os

from zpipe.commands.speaking import show, tell
from zpipe.tree.report import TreeFeedback

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from zpipe.commands.trees import Request
    from zpipe.tree.report import TreeReport
    from zpipe.tree.tasks import Done, Problem


class TreeConsole(TreeFeedback):
    """Speaks on stderr, and with -v on standard output."""

    def __init__(self, request: Request):
        self._request = request
        self.names = request.verbose
        self._display: Any = None
        if not request.quiet and request.progress != "never":
            from zpipe.commands.tree_progress import display_of

            self._display = display_of(request.progress)
            if self._display is not None:
                self.interval = self._display.interval
                self.sizes = True

    def said(self, text: str) -> None:
        self.clear()
        tell(text)

    def lost(self, problem: Problem) -> None:
        self.said(problem.text)

    def done(self, done: Done) -> None:
        if self._request.verbose and done.act != "kept":
            self.clear()
            from zpipe.commands.speaking import write_out
            from zpipe.commands.tree_words import arrow

            write_out(arrow(done.source, done.path))

    def progress(self, report: TreeReport) -> None:
        if self._display is not None:
            self._display.show(report)

    def status(self, report: TreeReport) -> None:
        from zpipe.commands.tree_words import status_line

        self.said(status_line(report))

    def ended(self, report: TreeReport) -> None:
        self.clear()
        if self._request.explain:
            from zpipe.commands.tree_words import explained

            show(explained(report))

    def clear(self) -> None:
        """Take away what would be in the way of the next line."""
        if self._display is not None:
            self._display.close()


def ask(path: str) -> bool:
    """Ask whether a target is to be replaced; the end of standard input is a no."""
    from zpipe.commands.tree_words import quoted

    try:
        os.write(2, b"zpipe: overwrite " + os.fsencode(quoted(path)) + b"? ")
    except OSError:
        pass
    answer = b""
    try:
        while not answer.endswith(b"\n"):
            byte = os.read(0, 1)
            if not byte:
                break
            answer += byte
    except OSError:
        return False
    return answer[:1] in (b"y", b"Y")
