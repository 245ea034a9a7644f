"""New settings while a proxy runs: one reload after the other.

What takes long (reading the settings, resolving names) is done in a thread of its own; what is
changed then is changed in the loop's thread, at once. Whatever cannot be had is told, and the old
settings stay. What is open for settings is for the `book` to know; what serves them is another's.
"""

from __future__ import annotations

from zpipe.errors import ZpipeError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from zpipe.proxy.book import Book, Change
    from zpipe.proxy.loop import Loop

    Told = Callable[[str], None]


class Reloads:
    """Does one reload after the other; `apply` is called in the loop, after a batch of events.

    `apply` raises UsageError where the change cannot be had after all, and has changed nothing
    then. `between` is called after each reload, and whoever asked when there is no other one to do.
    `reads` is true while the thread is at work.
    """

    def __init__(
        self,
        loop: Loop,
        book: Book,
        apply: Callable[[Change], None],
        told: Told,
        *,
        quiet: bool = False,
        between: Callable[[], None] = lambda: None,
    ):
        from threading import Lock

        self._loop = loop
        self._book = book
        self._apply = apply
        self._told = told
        self._quiet = quiet
        self._between = between
        self.reads = self._busy = False
        self._again = False
        self._closed = False
        self._done: Callable[[], None] = lambda: None
        self._lock = Lock()  # held to call the loop, and to give it up

    def ask(self, done: Callable[[], None]) -> None:
        """Begin a reload, or let there be another one after the one that is under way."""
        self._done = done
        if self._closed:
            done()
        elif self._busy:
            self._again = True
        else:
            self._begin()

    def _begin(self) -> None:
        from threading import Thread

        self.reads = self._busy = True
        work = Thread(target=self._work, name="reload", daemon=True)
        try:
            work.start()
        except RuntimeError as error:  # no threads are to be had
            self._finish(None, error)

    def _work(self) -> None:
        """Prepare, and hand over; runs in the thread."""
        change: Change | None = None
        problem: BaseException | None = None
        try:
            change = self._book.change()
        except BaseException as error:  # whatever it is, the proxies go on
            problem = error
        with self._lock:
            if not self._closed:
                self._loop.soon(lambda: self._loop.after(lambda: self._finish(change, problem)))
            elif change is not None:
                change.give_up()

    def _finish(self, change: Change | None, problem: BaseException | None) -> None:
        self.reads = False
        if self._closed:  # since it was handed over
            if change is not None:
                change.give_up()
            return
        if change is not None:
            try:
                self._apply(change)
            except ZpipeError as error:
                change.give_up()
                problem = error
        if problem is not None:
            for line in _lines(problem):
                self._told(f"reload: {line}; the old settings stay")
        elif not self._quiet:
            what = change.summary() if change is not None else "nothing has changed"
            self._told(f"reload: {what}")
        self._between()
        if self._again:
            self._again = False
            self._begin()
        else:
            self._busy = False
            self._done()

    def close(self) -> None:
        """Change nothing from here on; what is being prepared is given up."""
        with self._lock:
            self._closed = True


def _lines(problem: BaseException) -> list[str]:
    if isinstance(problem, ZpipeError):
        return str(problem).splitlines() or ["failed"]
    return [f"{type(problem).__name__}: {problem}"]
