"""Ask again, now and then, where the names of targets are.

The system's resolver can only be waited for, so one thread waits, and hands what it hears to the
loop. There is none where nothing has a name. An error changes nothing: the addresses that are
known stay in use.
"""

from __future__ import annotations

import socket
from functools import partial

from zpipe.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from threading import Event, Lock
    from typing import Any

    from zpipe.proxy.loop import Loop
    from zpipe.proxy.settings import Address
    from zpipe.proxy.upstreams import Target


def resolve_first(targets: Iterable[Target]) -> None:
    """Give every target its addresses; may wait long.

    Raises: UsageError  names that do not resolve, all of them.
    """
    from zpipe.proxy.addresses import resolve

    problems: dict[str, None] = {}
    for target in targets:
        try:
            target.addresses = resolve(target.upstream.address)
        except UsageError as error:
            problems[str(error)] = None
    if problems:
        raise UsageError(*problems)


class Resolver:
    """Keep the addresses of targets fresh; `told` gets a line when a name ceases to resolve.

    `every` in seconds; 0: only when `now` is called.
    """

    def __init__(
        self, loop: Loop, targets: Iterable[Target], every: float, told: Callable[[str], None]
    ):
        self._loop = loop
        self._targets = [target for target in targets if has_name(target.upstream.address)]
        self._every = every
        self._told = told
        self._problems: dict[Target, str] = {}
        self._closed = False
        self._asked: Event | None = None
        self._lock: Lock | None = None  # held to call the loop, and to give it up

    def start(self) -> None:
        """Begin to ask, for the first time after `every` seconds."""
        if not self._targets or self._asked is not None:
            return
        from threading import Event, Lock, Thread

        self._asked, self._lock = Event(), Lock()
        work = Thread(
            target=self._work, args=(self._asked, self._lock), name="resolver", daemon=True
        )
        work.start()

    def now(self) -> None:
        """Ask at once; where it asks just now, once more."""
        if self._asked is not None:
            self._asked.set()

    def close(self) -> None:
        """Ask no more, and change nothing from here on; the thread is not waited for."""
        self._closed = True
        if self._asked is not None and self._lock is not None:
            # Once this is done the thread no longer wakes the loop: the number of the fd that
            # wakes it may soon be another file's.
            with self._lock:
                self._asked.set()

    def _work(self, asked: Event, lock: Lock) -> None:
        """Ask and hand over; runs in the thread."""
        from threading import TIMEOUT_MAX

        pause = self._every if 0 < self._every < TIMEOUT_MAX else None
        while not self._closed:
            asked.wait(pause)
            asked.clear()
            for target in self._targets:
                if self._closed:
                    return
                heard = partial(self._heard, target, *_found(target.upstream.address))
                with lock:
                    if not self._closed:
                        self._loop.soon(heard)

    def _heard(self, target: Target, found: list[tuple[int, Any]], problem: str) -> None:
        if self._closed:
            return
        if found:
            self._problems.pop(target, None)
            if found != target.addresses:
                target.addresses = found
        elif self._problems.get(target) != problem:
            self._problems[target] = problem
            self._told(f"{problem}; the addresses from before stay in use")


def has_name(address: Address) -> bool:
    """Tell whether an address must be looked up: a path or a number is what it is."""
    if address.kind != "tcp" or not address.host:
        return False
    try:
        socket.getaddrinfo(
            address.host.encode(errors="surrogateescape"), None, flags=socket.AI_NUMERICHOST
        )
    except OSError:
        return True
    return False


def _found(address: Address) -> tuple[list[tuple[int, Any]], str]:
    """Return the addresses, or the reason why there are none."""
    from zpipe.proxy.addresses import resolve

    try:
        found = resolve(address)
    except UsageError as error:
        return [], str(error)
    except OSError as error:
        return [], f"{address.text}: resolve: {error}"
    return found, f"{address.text}: resolve: no address"
