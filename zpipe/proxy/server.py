"""The process that serves proxies, from the first listener to the last connection.

SIGTERM or SIGINT: no new connections, the open ones go on for the drain timeout; once more: at
once. SIGHUP: logs are opened anew, names are resolved, and where that is wanted new settings are
read (see `reload`). SIGUSR1: one line of status. What serves is a `Worker`, here or in processes of
its own (see `supervisor`).
"""

from __future__ import annotations

from zpipe.errors import Interrupted
from zpipe.proxy.counters import shown
from zpipe.proxy.front import Front
from zpipe.proxy.limits import raise_fd_limit
from zpipe.proxy.listening import close_all
from zpipe.proxy.loop import Loop
from zpipe.proxy.worker import Worker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from zpipe.proxy.book import Book, Change, Load
    from zpipe.proxy.front import Shows, Told
    from zpipe.proxy.listening import Listener
    from zpipe.proxy.metrics import Collects
    from zpipe.proxy.plan import Plan
    from zpipe.proxy.reload import Reloads
    from zpipe.proxy.settings import Operation


def serve(
    plans: list[Plan],
    listeners: list[list[list[Listener]]],
    operation: Operation,
    told: Told,
    shows: Shows | None = None,
    reload: Load | None = None,
    stopping: Callable[[int], None] | None = None,
    collectors: Iterable[Collects] = (),
) -> None:
    """Serve proxies until a signal asks for the end; `listeners` are per proxy and per worker.

    The addresses of the upstreams have been found (`resolve_first`). Whoever has opened the
    listeners closes them. `reload` returns the settings of all proxies anew, each with a name of
    its own; it is called in a thread, on SIGHUP, in the one process or in that which watches over
    the workers. It may raise UsageError: that is told, as whatever else prevents a reload, and the
    old settings stay. `stopping` is called in the loop's thread with the number of each signal that
    asks for the end; `collectors` make metrics beside those of the proxies.

    Raises: UsageError   metrics, user or group.
            Interrupted  asked twice.
    """
    raise_fd_limit()
    book = None
    if reload is not None:
        from zpipe.proxy.book import Book

        settings = [plan.settings for plan in plans]
        book = Book(settings, listeners, reload, whole=operation.workers > 1)
    if operation.workers > 1:
        from zpipe.proxy.supervisor import (
            supervise,
        )  # before rights are dropped, as all that is known
    loop = Loop()
    try:
        front = Front(loop, operation, told, stopping=stopping, collectors=collectors)
        try:
            if operation.workers > 1:
                at_once = supervise(loop, front, plans, listeners, operation, told, shows, book)
            else:
                own = [each[0] for each in listeners]
                at_once = _serve_here(loop, front, plans, own, operation, told, shows, book)
        finally:
            front.close()
    finally:
        loop.close()
        if book is not None:
            book.close()
    if at_once:
        raise Interrupted(front.asked[-1])


def reloads_of(
    loop: Loop,
    book: Book | None,
    operation: Operation,
    told: Told,
    apply: Callable[[Change], None],
    between: Callable[[], None] = lambda: None,
) -> Reloads | None:
    """Return what reads new settings; None: nothing does."""
    if book is None:
        return None
    from zpipe.proxy.reload import Reloads

    return Reloads(loop, book, apply, told, quiet=operation.quiet, between=between)


def _serve_here(
    loop: Loop,
    front: Front,
    plans: list[Plan],
    listeners: list[list[Listener]],
    operation: Operation,
    told: Told,
    shows: Shows | None,
    book: Book | None,
) -> bool:
    """Serve in this process. Returns: whether it was asked twice."""
    # opened with the rights that it is opened with again after it has been rotated
    worker = Worker(loop, plans, listeners, operation, told)

    def apply(change: Change) -> None:
        assert book is not None
        worker.change(change)
        close_all([book.turn(change)])

    reloads = reloads_of(loop, book, operation, told, apply)

    def reload(done: Callable[[], None]) -> None:
        worker.reload()
        if reloads is not None:
            reloads.ask(done)
        else:
            done()

    def terminate() -> None:
        if reloads is not None:
            reloads.close()
        worker.terminate()

    front.begin(lambda: shown(worker.snapshot()))
    restore = front.listen_to_signals(terminate, reload)
    try:
        worker.start()
        front.ready(shows)
        return worker.run()
    finally:
        restore()
        if reloads is not None:
            reloads.close()
