"""Who is ready, and whose time has come."""

from __future__ import annotations

import os
import select
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from zpipe.proxy.expiry import Expiry
from zpipe.proxy.loop import BUFFER, Loop, Timer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

IN, OUT, ET = select.EPOLLIN, select.EPOLLOUT, select.EPOLLET


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


class Pair:
    """A socket that the loop watches, and its other end."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.ours.setblocking(False)
        self.fd = self.ours.fileno()

    def close(self) -> None:
        self.ours.close()
        self.theirs.close()


@pytest.fixture
def pairs() -> Iterator[Callable[[], Pair]]:
    made: list[Pair] = []

    def make() -> Pair:
        made.append(Pair())
        return made[-1]

    yield make
    for pair in made:
        pair.close()


class Noting:
    """A lane that notes what it is told."""

    def __init__(self, sink: int):
        self.sink = sink
        self.count = 0
        self.told: list[tuple[object, ...]] = []

    def more(self, count: int) -> None:
        self.told.append(("more", count))

    def unread(self, error: OSError) -> None:
        self.told.append(("unread", type(error)))

    def unwritten(self, count: int, taken: int, error: OSError | None) -> None:
        self.told.append(("unwritten", count, taken, type(error)))


def test_a_handler_is_called_with_what_happened(loop: Loop, pairs: Callable[[], Pair]) -> None:
    pair = pairs()
    seen: list[int] = []

    def ready(event: int) -> None:
        seen.append(event)
        loop.stop()

    loop.watch(pair.fd, IN | OUT, ready)
    pair.theirs.send(b"x")
    loop.run()
    assert seen == [IN | OUT]


def test_handlers_of_high_fds_have_room(loop: Loop, pairs: Callable[[], Pair]) -> None:
    pair = pairs()
    high = os.dup2(pair.fd, 700)
    try:
        loop.watch(high, IN, lambda event: loop.stop())
        pair.theirs.send(b"x")
        loop.run()
    finally:
        loop.forget(high)
        os.close(high)


def test_a_handler_that_is_replaced_is_not_called(loop: Loop, pairs: Callable[[], Pair]) -> None:
    pair = pairs()
    loop.watch(pair.fd, IN, lambda event: pytest.fail("the old one"))
    loop.handle(pair.fd, lambda event: loop.stop())
    pair.theirs.send(b"x")
    loop.run()


def test_nobody_hears_of_an_fd_that_was_closed_in_the_same_batch(
    loop: Loop, pairs: Callable[[], Pair]
) -> None:
    both = [pairs(), pairs()]
    called: list[int] = []

    def ready(which: int) -> Callable[[int], None]:
        def close_the_other(event: int) -> None:
            called.append(which)
            other = both[1 - which]
            loop.closed(other.fd)
            other.ours.close()
            loop.stop()

        return close_the_other

    for which, pair in enumerate(both):
        loop.watch(pair.fd, IN, ready(which))
        pair.theirs.send(b"x")
    loop.run()
    assert len(called) == 1


def test_what_comes_after_the_batch_waits_for_all_its_handlers(
    loop: Loop, pairs: Callable[[], Pair]
) -> None:
    order: list[str] = []

    def ready(event: int) -> None:
        order.append("handler")
        loop.after(lambda: order.append("after"))
        loop.stop()

    for pair in (pairs(), pairs(), pairs()):
        loop.watch(pair.fd, IN, ready)
        pair.theirs.send(b"x")
    loop.run()
    assert order == ["handler"] * 3 + ["after"] * 3


def test_work_that_yields_goes_on_beside_events_and_without_them(
    loop: Loop, pairs: Callable[[], Pair]
) -> None:
    pair = pairs()
    order: list[str] = []

    def step() -> None:
        order.append("step")
        if len(order) == 3:
            pair.theirs.send(b"x")
        loop.again(step)

    def ready(event: int) -> None:
        order.append("event")
        loop.stop()

    loop.watch(pair.fd, IN | ET, ready)
    loop.again(step)
    loop.run()
    assert order[:3] == ["step"] * 3
    assert "event" in order


def test_an_fd_that_is_forgotten_is_still_open(loop: Loop, pairs: Callable[[], Pair]) -> None:
    forgotten, other = pairs(), pairs()
    loop.watch(forgotten.fd, IN, lambda event: pytest.fail("forgotten"))
    loop.forget(forgotten.fd)
    loop.forget(forgotten.fd)  # twice is no harm
    forgotten.theirs.send(b"x")
    loop.watch(other.fd, IN, lambda event: loop.stop())
    other.theirs.send(b"x")
    loop.run()
    assert forgotten.ours.recv(1) == b"x"


def test_a_change_reports_anew_what_is_ready_at_an_edge(
    loop: Loop, pairs: Callable[[], Pair]
) -> None:
    pair = pairs()
    seen: list[int] = []

    def ready(event: int) -> None:
        seen.append(event)
        if len(seen) == 1:
            loop.change(pair.fd, IN | OUT | ET)
        else:
            loop.stop()

    loop.watch(pair.fd, IN | ET, ready)
    pair.theirs.send(b"x")
    loop.run()
    assert seen == [IN, IN | OUT]


def test_timers_go_off_in_order_and_not_before_their_time(loop: Loop) -> None:
    order: list[int] = []

    def last() -> None:
        order.append(2)
        loop.stop()

    loop.later(0.02, last)
    loop.later(0.01, lambda: order.append(1))
    loop.later(0.0, lambda: order.append(0))
    start = loop.now
    loop.run()
    assert order == [0, 1, 2]
    assert loop.now >= start + 0.02


def test_a_timer_that_was_cancelled_does_nothing(loop: Loop) -> None:
    timer = loop.later(0.0, lambda: pytest.fail("cancelled"))
    timer.cancel()
    timer.cancel()
    loop.later(0.005, loop.stop)
    loop.run()


def test_a_timer_may_set_another_one(loop: Loop) -> None:
    left = [5]

    def again() -> None:
        left[0] -= 1
        if left[0]:
            loop.later(0.0, again)
        else:
            loop.stop()

    loop.later(0.0, again)
    loop.run()
    assert left == [0]


def test_other_threads_are_heard_in_the_thread_of_the_loop(loop: Loop) -> None:
    heard: list[int] = []
    count = 5000  # more than the pipe that wakes it may take at once

    def call() -> None:
        heard.append(threading.get_ident())
        if len(heard) == 2 * count:
            loop.stop()

    def ask() -> None:
        for _ in range(count):
            loop.soon(call)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    loop.run()
    for thread in threads:
        thread.join()
    assert heard == [threading.get_ident()] * (2 * count)


def test_more_wishes_than_its_pipe_takes_are_all_heard_before_it_runs(loop: Loop) -> None:
    heard: list[int] = []
    for number in range(70_000):
        loop.soon(lambda number=number: heard.append(number))  # type: ignore[misc]
    loop.soon(loop.stop)
    loop.run()
    assert heard == list(range(70_000))


def test_a_byte_at_its_fd_wakes_it_as_a_signal_does(loop: Loop) -> None:
    loop.later(60, lambda: pytest.fail("it slept on"))
    loop.soon(lambda: None)
    os.write(loop.wakeup_fd, b"\x0f")
    loop.soon(loop.stop)
    loop.run()


# Lanes


def test_a_lane_carries_messages_without_its_methods(loop: Loop, pairs: Callable[[], Pair]) -> None:
    source, sink = pairs(), pairs()
    lane = Noting(sink.fd)
    loop.watch(source.fd, IN | ET, lambda event: loop.stop())
    loop.lane(source.fd, lane)
    got: list[bytes] = []

    def arrived(event: int) -> None:
        got.append(sink.theirs.recv(100))
        if len(got) < 20:
            source.theirs.send(b"message %d" % len(got))
        else:
            source.theirs.close()  # the handler is told of that

    loop.watch(sink.theirs.fileno(), IN, arrived)
    source.theirs.send(b"message 0")
    loop.run()
    assert got == [b"message %d" % number for number in range(20)]
    assert lane.count == sum(map(len, got))
    assert lane.told in ([], [("more", 0)])


def test_a_lane_is_told_of_a_whole_buffer_and_of_a_full_sink(
    loop: Loop, pairs: Callable[[], Pair]
) -> None:
    source, sink = pairs(), pairs()
    lane = Noting(sink.fd)
    loop.watch(source.fd, IN, lambda event: pytest.fail("the lane does it"))
    loop.lane(source.fd, lane)
    source.theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    source.theirs.setblocking(False)
    sent = 0
    while sent < 2 * BUFFER:
        sent += source.theirs.send(bytes(BUFFER))
    loop.later(0.0, loop.stop)
    loop.run()
    assert lane.told[0] == ("more", BUFFER)
    assert lane.count == 0  # what is in the buffer is its own to write

    while True:
        try:
            sink.ours.send(bytes(4096))
        except BlockingIOError:
            break
    lane.told.clear()
    while True:  # leave less than a buffer
        try:
            source.ours.recv(4096)
        except BlockingIOError:
            break
    source.theirs.send(b"x" * 100)
    loop.later(0.0, loop.stop)
    loop.run()
    assert lane.told == [("unwritten", 100, 0, BlockingIOError)]


def test_a_lane_is_told_of_errors(loop: Loop, pairs: Callable[[], Pair]) -> None:
    source, sink = pairs(), pairs()
    lane = Noting(sink.fd)
    loop.watch(source.fd, IN, lambda event: None)
    loop.lane(source.fd, lane)
    sink.theirs.close()
    source.theirs.send(b"x")
    loop.later(0.0, loop.stop)
    loop.run()
    assert lane.told == [("unwritten", 1, 0, BrokenPipeError)]
    assert lane.count == 0


# Expiry


def test_time_runs_out_in_order_for_those_that_have_not_left(loop: Loop) -> None:
    gone: list[str] = []

    def act(one: str) -> None:
        gone.append(one)
        if one == "last":
            loop.stop()

    expiry = Expiry(loop, 0.01, act)
    for one in ("first", "left", "second", "last"):
        expiry.add(one)
    expiry.add("first")  # its time runs already
    expiry.discard("left")
    expiry.discard("never in")
    loop.run()
    assert gone == ["first", "second", "last"]


def test_nobody_expires_where_there_is_no_timeout(loop: Loop) -> None:
    expiry = Expiry[str](loop, None, lambda one: pytest.fail("never"))
    expiry.add("one")
    loop.later(0.01, loop.stop)
    loop.run()


def test_one_that_stays_in_again_and_again_needs_one_timer() -> None:
    class Counting(Loop):
        waiting = most = 0

        def later(self, seconds: float, call: Callable[[], None]) -> Timer:
            def counted() -> None:
                self.waiting -= 1
                call()

            self.waiting += 1
            self.most = max(self.most, self.waiting)
            return super().later(seconds, counted)

    loop = Counting()
    turns = [0]

    def act(one: int) -> None:
        turns[0] += 1
        if turns[0] == 60:
            loop.stop()
        expiry.add(one)

    expiry = Expiry(loop, 0.002, act)
    for number in range(3):  # not all at the same time
        loop.later(0.0005 * number, lambda number=number: expiry.add(number))  # type: ignore[misc]
    try:
        loop.run()
    finally:
        loop.close()
    assert loop.most <= 5
