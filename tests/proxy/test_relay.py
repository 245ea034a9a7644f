"""Two sockets and what passes between them: sides that a real loop drives, in this process."""

from __future__ import annotations

import os
import select
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from tests.machine import LONGEST, content, until
from tests.proxy.proxying import exactly, received, reset, sending
from zpipe.engine.limiter import Limiter
from zpipe.kernel.pipes import buffered
from zpipe.proxy.loop import Loop
from zpipe.proxy.pool import Pool
from zpipe.proxy.relay import WATCHED, Shared, Side

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from zpipe.kernel.pipes import Pipe

MANY = 3 << 20
Seen = TypeVar("Seen")


def tcp_pair(host: str = "127.0.0.1") -> tuple[socket.socket, socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listener:
        listener.bind((host, 0))
        listener.listen(1)
        one = socket.create_connection(listener.getsockname()[:2])
        other, _ = listener.accept()
    for end in (one, other):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return one, other


def unix_pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair()


PAIRS: dict[str, Callable[[], tuple[socket.socket, socket.socket]]] = {
    "tcp": tcp_pair,
    "unix": unix_pair,
    "v6": lambda: tcp_pair("::1"),
}


class Relay:
    """`client` and `server` are the outer ends; the sides between them run in a thread."""

    def __init__(self, kinds: str = "tcp-tcp", *, splice: bool = True, pipes: int | None = None):
        one, other = kinds.split("-")
        self.client, ours = PAIRS[one]()
        self.server, theirs = PAIRS[other]()
        for end in (self.client, self.server):
            end.settimeout(LONGEST / 2)
        self.loop = Loop()
        self.pool = Pool(1 << 20, pipes)
        self.shared = Shared(self.loop, self.pool, splice=splice)
        self.sides = [self._side(ours), self._side(theirs)]
        self.sides[0].peer, self.sides[1].peer = self.sides[1], self.sides[0]
        self.why: list[tuple[int, int | None]] = []  # the side that broke, and its error
        self.halves = 0
        self.lost = 0
        self.done = threading.Event()
        self._failures: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _side(self, end: socket.socket) -> Side:
        raw = socket.SocketType(end.family, end.type, end.proto, end.detach())
        raw.setblocking(False)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)  # as those of a service have it
        return Side(raw, self, self.shared)

    # as their owner

    def ended(self) -> None:
        self.halves += 1
        if all(side.finished for side in self.sides):
            self._close()

    def broken(self, side: Side, error: OSError) -> None:
        self.why.append((self.sides.index(side), error.errno))
        self._close()

    def _close(self) -> None:
        for side in self.sides:
            if side.fd >= 0:
                self.lost += side.close()
        self.done.set()

    def _run(self) -> None:
        try:
            for side in self.sides:
                self.loop.watch(side.fd, WATCHED, side.ready)
            self.sides[0].requicken()
            self.loop.run()
        except BaseException as error:
            self._failures.append(error)
            self.done.set()

    def __enter__(self) -> Relay:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.server.close()
        over = self.done.wait(LONGEST / 2)
        self.loop.stop()
        self._thread.join(LONGEST / 2)
        assert not self._thread.is_alive(), "it does not come to an end"
        self._close()
        borrowed = self.pool.borrowed
        self.pool.close()
        self.loop.close()
        if self._failures:
            raise self._failures[0]
        assert over, "it goes on though both ends are closed"
        assert borrowed == 0

    def seen(self, look: Callable[[], Seen | None]) -> Seen:
        """Look in the loop's thread, where nothing moves meanwhile, until something is seen."""
        found: list[Seen] = []

        def again() -> None:
            if (one := look()) is not None:
                found.append(one)
            elif not self.done.is_set():
                self.loop.later(0.002, again)

        self.loop.soon(again)
        until(lambda: found, "it is seen")
        return found[0]

    @property
    def counts(self) -> tuple[int, int]:
        return self.sides[0].count, self.sides[1].count


@contextmanager
def tapped(relay: Relay, *taps: Tap) -> Iterator[None]:
    relay.sides[0].taps = taps
    with relay:
        yield


class Tap:
    """Takes a copy of everything."""

    waits = False

    def __init__(self, pool: Pool):
        self.pool = pool
        self.data_ = bytearray()
        self.missed = 0
        self.ended = False

    def data(self, data: bytes) -> None:
        self.data_ += data

    def pipe(self, pipe: Pipe, count: int) -> None:
        data = os.read(pipe.reader, count)
        while len(data) < count:
            data += os.read(pipe.reader, count - len(data))
        self.data_ += data
        self.pool.give_back(pipe)

    def no_pipe(self, count: int) -> None:
        self.missed += count

    def end(self) -> None:
        self.ended = True


# Bytes


@pytest.mark.parametrize("splice", [True, False], ids=["splice", "copy"])
@pytest.mark.parametrize("kinds", ["tcp-tcp", "unix-unix", "tcp-unix", "unix-tcp", "v6-v6"])
def test_both_directions_are_carried_at_once(kinds: str, splice: bool) -> None:
    up, down = content(MANY, 1), content(MANY + 1, 2)
    with (
        Relay(kinds, splice=splice) as relay,
        sending(relay.client, up),
        sending(relay.server, down),
    ):
        got: list[bytes] = []
        reader = threading.Thread(target=lambda: got.append(received(relay.server)))
        reader.start()
        assert received(relay.client) == down
        reader.join()
        assert got == [up]
        assert relay.done.wait(LONGEST / 2)
        assert relay.counts == (len(up), len(down))
        assert (relay.why, relay.lost) == ([], 0)
        # one that ends while something of it is held says so, and again when that is delivered
        assert 2 <= relay.halves <= 4
        spliced = relay.sides[0].spliced + relay.sides[1].spliced
        assert (spliced > 0) == splice


@pytest.mark.parametrize(
    "size", [0, 1, 4095, 4096, 65535, 65536, 65537, 131072, 131073, (1 << 20) - 1, 1 << 20, MANY]
)
@pytest.mark.parametrize("kinds", ["tcp-tcp", "unix-unix"])
def test_every_size_arrives_and_its_end(kinds: str, size: int) -> None:
    data = content(MANY)[:size]
    with Relay(kinds) as relay:
        with sending(relay.client, data):
            assert received(relay.server) == data
        with sending(relay.server, data):
            assert received(relay.client) == data
        assert relay.done.wait(LONGEST / 2)
        assert relay.counts == (size, size)


def test_small_messages_go_to_and_fro_by_the_lane() -> None:
    with Relay() as relay:
        for number in range(500):
            message = b"%d" % number
            relay.client.send(message)
            assert exactly(relay.server, len(message)) == message
            relay.server.send(message * 2)
            assert exactly(relay.client, 2 * len(message)) == message * 2
        assert all(side.quick for side in relay.sides)


def test_small_and_bulk_in_turn() -> None:
    bulk = content(MANY)
    with Relay() as relay:
        for part in (bulk[:100], bulk[:300_000], bulk[:1], bulk, bulk[:4096]):
            sender = threading.Thread(target=relay.client.sendall, args=(part,))
            sender.start()
            assert exactly(relay.server, len(part)) == part
            sender.join()
            relay.server.sendall(b"taken")
            assert exactly(relay.client, 5) == b"taken"
        until(
            lambda: all(side.quick for side in relay.sides) and not relay.pool.borrowed,
            "both are in their lanes again",
        )


CHUNKS = some.lists(
    some.one_of(
        some.integers(1, 100),
        some.sampled_from([1, 4095, 4096, 65535, 65536, 65537, 131072]),
        some.integers(1, 400_000),
    ),
    max_size=12,
)


@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(
    up=CHUNKS,
    down=CHUNKS,
    reads=some.lists(some.integers(1, 300_000), min_size=1, max_size=5),
    small_buffers=some.booleans(),
    kinds=some.sampled_from(["tcp-tcp", "unix-unix", "tcp-unix"]),
    pipes=some.sampled_from([0, 1, None]),
    rate=some.sampled_from([None, None, 50 << 20]),
)
def test_what_comes_out_is_what_went_in_however_it_is_sent_and_read(
    up: list[int],
    down: list[int],
    reads: list[int],
    small_buffers: bool,
    kinds: str,
    pipes: int | None,
    rate: int | None,
) -> None:
    relay = Relay(kinds, pipes=pipes)
    if rate is not None:
        for side in relay.sides:
            side.limiters = (Limiter(rate),)
    if small_buffers:
        for end in (relay.client, relay.server):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 << 10)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32 << 10)
    got: dict[str, bytes] = {}

    def send(end: socket.socket, sizes: list[int], seed: int) -> None:
        whole = content(5_000_000, seed)
        place = 0
        for size in sizes:
            end.sendall(whole[place : place + size])
            place += size
        end.shutdown(socket.SHUT_WR)

    def receive(end: socket.socket, name: str, total: int) -> None:
        whole = bytearray()
        turn = 0
        # in tiny steps only where they do not take for ever
        while data := end.recv(max(reads[turn % len(reads)], total // 300)):
            whole += data
            turn += 1
        got[name] = bytes(whole)

    with relay:
        threads = [
            threading.Thread(target=send, args=(relay.client, up, 1)),
            threading.Thread(target=send, args=(relay.server, down, 2)),
            threading.Thread(target=receive, args=(relay.client, "down", sum(down))),
            threading.Thread(target=receive, args=(relay.server, "up", sum(up))),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LONGEST)
        assert got["up"] == content(5_000_000, 1)[: sum(up)]
        assert got["down"] == content(5_000_000, 2)[: sum(down)]
        assert relay.done.wait(LONGEST / 2)
        assert relay.counts == (sum(up), sum(down))
        assert (relay.why, relay.lost) == ([], 0)


# Full, slow, and at rest


def filled(end: socket.socket) -> int:
    """Send until nothing more is taken; return how much was."""
    end.settimeout(0.0)
    count = 0
    part = content(1 << 20)
    last = -1
    while count != last:  # what was sent moves on meanwhile, for a while
        last = count
        try:
            while True:
                count += end.send(part[count % (1 << 20) :])
        except BlockingIOError:
            pass
        # room comes at once or not at all, as nobody reads
        ready = threading.Event()
        ready.wait(0.05)
    end.settimeout(LONGEST / 2)
    return count


def repeated(count: int) -> bytes:
    whole, rest = divmod(count, 1 << 20)
    return content(1 << 20) * whole + content(1 << 20)[:rest]


@pytest.mark.parametrize("splice", [True, False], ids=["splice", "copy"])
@pytest.mark.parametrize("kinds", ["tcp-tcp", "unix-unix"])
def test_both_sides_full_at_once_and_then_read(kinds: str, splice: bool) -> None:
    with Relay(kinds, splice=splice) as relay:
        sent = filled(relay.client), filled(relay.server)
        until(lambda: all(one.stuck and one.held for one in relay.sides), "both are full")
        for reader, sender, count in (
            (relay.server, relay.client, sent[0]),
            (relay.client, relay.server, sent[1]),
        ):
            sender.shutdown(socket.SHUT_WR)
            assert received(reader) == repeated(count)
        assert relay.done.wait(LONGEST / 2)
        assert relay.counts == sent
        assert relay.lost == 0


def test_one_full_direction_does_not_hold_the_other_one() -> None:
    with Relay() as relay:
        sent = filled(relay.client)
        until(lambda: relay.sides[0].stuck, "the peer is full")
        for number in range(100):
            relay.server.send(b"%4d" % number)
            assert exactly(relay.client, 4) == b"%4d" % number
        relay.client.shutdown(socket.SHUT_WR)
        assert received(relay.server) == repeated(sent)


def test_a_pipe_is_held_only_while_bytes_are_in_it() -> None:
    with Relay() as relay:
        sent = filled(relay.client)
        side = relay.sides[0]

        def look() -> tuple[int, int, int] | None:
            return (side.held, side.in_pipe, relay.pool.borrowed) if side.stuck else None

        held, in_pipe, borrowed = relay.seen(look)
        assert held > 0
        assert borrowed == int(in_pipe > 0)  # what filled it up may have been a copy
        reader = threading.Thread(target=exactly, args=(relay.server, sent))
        reader.start()
        reader.join(LONGEST)
        until(lambda: relay.pool.borrowed == 0, "the pipe is given back")
        relay.client.send(b"small again")
        assert exactly(relay.server, 11) == b"small again"


@pytest.mark.parametrize(
    ("kinds", "size"), [("unix-unix", 1), ("unix-unix", 100), ("unix-tcp", 1000), ("tcp-tcp", 100)]
)
def test_segments_that_use_up_the_slots_of_a_pipe_do_not_stall(kinds: str, size: int) -> None:
    """Each segment takes a slot of 4 KiB, whatever its length."""
    count = 20_000 if size < 1000 else 5000
    with Relay(kinds) as relay:
        start = content(300_000)  # makes it splice

        def send() -> None:
            relay.client.sendall(start)
            for _ in range(count):
                relay.client.send(b"x" * size)
            relay.client.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        assert received(relay.server) == start + b"x" * size * count
        sender.join()
        assert relay.sides[0].spliced


# The end


def test_a_half_close_is_passed_on_and_the_late_answer_comes_back() -> None:
    with Relay() as relay:
        relay.client.send(b"question")
        relay.client.shutdown(socket.SHUT_WR)
        assert received(relay.server) == b"question"
        assert not relay.done.is_set()
        with sending(relay.server, content(MANY)):
            assert received(relay.client) == content(MANY)
        assert relay.done.wait(LONGEST / 2)


@pytest.mark.parametrize("splice", [True, False], ids=["splice", "copy"])
def test_an_end_waits_for_what_is_held(splice: bool) -> None:
    """A shutdown that overtakes what is in the pipe cuts it off."""
    with Relay(splice=splice) as relay:
        sent = filled(relay.client)
        relay.client.shutdown(socket.SHUT_WR)
        relay.server.sendall(b"x")
        assert exactly(relay.client, 1) == b"x"
        until(lambda: relay.sides[0].stuck, "the peer is full")
        assert received(relay.server) == repeated(sent)


@pytest.mark.parametrize(("kinds", "which"), [("tcp-tcp", 0), ("tcp-tcp", 1), ("tcp-unix", 0)])
def test_a_reset_is_told_with_its_side_after_all_that_came_before(kinds: str, which: int) -> None:
    with Relay(kinds) as relay:
        ends = [relay.client, relay.server]
        ends[which].send(b"last words")
        reset(ends[which])
        assert exactly(ends[1 - which], 10) == b"last words"
        assert relay.done.wait(LONGEST / 2)
        [(side, _)] = relay.why
        assert side == which
        assert relay.counts[which] == 10


@pytest.mark.parametrize("splice", [True, False], ids=["splice", "copy"])
def test_what_the_peer_does_not_take_any_more_is_counted_as_lost(splice: bool) -> None:
    with Relay(splice=splice) as relay:
        sent = filled(relay.client)
        side = relay.sides[0]

        def leave() -> int | None:
            if not side.stuck:
                return None
            reset(relay.server)
            return side.held

        held = relay.seen(leave)
        assert held > 0
        assert relay.done.wait(LONGEST / 2)
        assert relay.lost == held
        assert relay.counts[0] + relay.lost <= sent
        pipe = relay.pool.take()  # one with bytes in it would not be lent again
        assert pipe is not None
        assert buffered(pipe.reader) == 0
        relay.pool.give_back(pipe)


def test_an_unread_message_of_a_broken_unix_socket_is_counted() -> None:
    with Relay("unix-unix") as relay:
        relay.server.close()
        until(lambda: relay.halves or relay.done.is_set(), "it has heard of that")
        relay.client.send(b"too late")
        assert relay.done.wait(LONGEST / 2)
        assert relay.lost == 8


@pytest.mark.parametrize("which", [0, 1])
def test_a_reset_in_the_middle_of_bulk_ends_it(which: int) -> None:
    """A side that splices is closed within its own loop."""
    with Relay() as relay:
        ends = [relay.client, relay.server]
        for end in ends:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        ends[0].sendall(content(300_000))
        assert exactly(ends[1], 300_000) == content(300_000)
        relay.sides[0].bulk = True  # as it is while more comes
        reset(ends[which])
        assert relay.done.wait(LONGEST / 2)
        assert relay.why[0][0] == which
        assert relay.lost == 0


# Urgent data


@pytest.mark.parametrize("kinds", ["tcp-tcp", "unix-unix"])
@pytest.mark.parametrize(
    ("before", "after"),
    [(b"", b""), (b"a", b""), (b"", b"b"), (b"a", b"b"), (b"a" * 300_000, b"b" * 300_000)],
    ids=["only", "last", "first", "between", "in-bulk"],
)
@pytest.mark.parametrize("which", [0, 1])
def test_an_urgent_byte_stays_in_its_place(
    kinds: str, which: int, before: bytes, after: bytes
) -> None:
    with Relay(kinds) as relay:
        ends = [relay.client, relay.server]
        source, sink = ends[which], ends[1 - which]
        got: list[bytes] = []
        reader = threading.Thread(target=lambda: got.append(received(sink)))
        reader.start()
        source.sendall(before)
        source.send(b"!", socket.MSG_OOB)
        source.sendall(after)
        source.shutdown(socket.SHUT_WR)
        reader.join(LONGEST)
        assert got == [before + b"!" + after]


@pytest.mark.parametrize("splice", [True, False], ids=["splice", "copy"])
def test_many_urgent_bytes_in_a_stream_are_neither_lost_nor_a_stall(splice: bool) -> None:
    with Relay(splice=splice) as relay:
        parts = [content(200_000, 3)[: 1 + 7919 * number % 200_000] for number in range(100)]
        got: list[bytes] = []
        reader = threading.Thread(target=lambda: got.append(received(relay.server)))
        reader.start()
        for part in parts:
            relay.client.sendall(part)
            relay.client.send(b"!", socket.MSG_OOB)
        relay.client.shutdown(socket.SHUT_WR)
        reader.join(LONGEST)
        assert got == [b"".join(part + b"!" for part in parts)]


@pytest.mark.parametrize("bulk", [True, False])
def test_a_read_that_comes_upon_an_urgent_byte_before_its_event_takes_it(bulk: bool) -> None:
    """A side that reads on meets it before epoll has told of it."""
    relay = Relay()
    relay.client.send(b"!", socket.MSG_OOB)
    poll = select.poll()
    poll.register(relay.sides[0].fd, select.POLLPRI)
    arrived = poll.poll(LONGEST * 500)
    relay.sides[0].readable = True
    relay.sides[0].bulk = bulk
    relay.sides[0].pull()
    with relay:
        assert arrived
        relay.client.shutdown(socket.SHUT_WR)
        assert received(relay.server) == b"!"


# Who else has a say


@pytest.mark.parametrize("splice", [True, False], ids=["splice", "copy"])
def test_a_tap_gets_all_bytes_of_its_direction_in_order(splice: bool) -> None:
    relay = Relay(splice=splice)
    tap, other = Tap(relay.pool), Tap(relay.pool)
    data = content(MANY)
    with tapped(relay, tap, other), sending(relay.client, data):
        assert received(relay.server) == data
        relay.server.sendall(b"not this")
        assert exactly(relay.client, 8) == b"not this"
        for one in (tap, other):
            until(lambda one=one: one.ended, "it was told of the end")  # type: ignore[misc]
            assert (one.missed, bytes(one.data_)) == (0, data)


def test_a_tap_that_waits_holds_the_side_until_it_resumes() -> None:
    relay = Relay()
    tap = Tap(relay.pool)
    tap.waits = True
    with tapped(relay, tap):
        relay.client.send(b"one")
        assert exactly(relay.server, 3) == b"one"
        relay.client.send(b"two")
        until(lambda: relay.sides[0].readable, "it knows that there is more")
        assert bytes(tap.data_) == b"one"
        tap.waits = False
        relay.loop.soon(relay.sides[0].resume)
        assert exactly(relay.server, 3) == b"two"
        until(lambda: bytes(tap.data_) == b"onetwo", "it has both")


def test_without_pipes_bulk_is_copied() -> None:
    with Relay(pipes=0) as relay, sending(relay.client, content(MANY)):
        assert received(relay.server) == content(MANY)
        assert relay.sides[0].spliced == 0


def test_what_is_given_comes_before_all_else() -> None:
    relay = Relay()
    relay.sides[0].give(b"header ")
    relay.client.send(b"data")
    with relay:
        assert exactly(relay.server, 11) == b"header data"


@pytest.mark.parametrize("rate", [1 << 20, 20 << 20])
def test_a_rate_changes_no_byte(rate: int) -> None:
    relay = Relay()
    data = content(rate // 10)
    relay.sides[0].limiters = (Limiter(rate),)
    with relay, sending(relay.client, data):
        assert received(relay.server) == data


def test_a_bulk_side_lets_others_have_their_turn() -> None:
    """A source that is never empty would keep everybody else waiting for ever."""
    with Relay() as relay:
        stop = threading.Event()

        def send() -> None:
            part = content(1 << 20)
            while not stop.is_set():
                relay.client.sendall(part)
            relay.client.shutdown(socket.SHUT_WR)

        def read() -> None:
            while relay.server.recv(1 << 20):
                pass

        threads = [threading.Thread(target=send), threading.Thread(target=read)]
        for thread in threads:
            thread.start()
        turns: list[int] = []
        for number in range(100):
            relay.loop.soon(lambda number=number: turns.append(number))  # type: ignore[misc]
            until(lambda number=number: number in turns, "it has its turn")  # type: ignore[misc]
        stop.set()
        for thread in threads:
            thread.join(LONGEST)
        assert len(turns) == 100
