"""A mirror gets what the client said, byte for byte, and what it does itself is nobody's business.

First the tap alone, in a loop of this process; then a whole `zpipe proxy`.
"""

from __future__ import annotations

import errno
import os
import socket
import tempfile
import threading
import tracemalloc
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.machine import LONGEST, content, until
from tests.proxy.proxying import RESET
from zpipe.engine.spill import SEGMENT
from zpipe.proxy.addresses import parse_address
from zpipe.proxy.loop import Loop
from zpipe.proxy.mirror import MirrorService
from zpipe.proxy.mirror_tap import MirrorTap
from zpipe.proxy.pool import Pool
from zpipe.proxy.relay import WATCHED, Shared, Side
from zpipe.proxy.settings import Mirror, Upstream
from zpipe.proxy.upstreams import Target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from zpipe.proxy.settings import WhenFull

MIB = 1 << 20
BULK = 8 * MIB  # more than what the kernel holds for one socket that nobody reads


class Server:
    """Somebody who listens, on TCP or on a UNIX path, and does what the test wants."""

    def __init__(self, path: Path | None = None, *, backlog: int = 128, room: int = 0):
        if path is None:
            self.listener = socket.socket()
            self.address: Any = ("127.0.0.1", 0)
        else:
            self.listener = socket.socket(socket.AF_UNIX)
            self.address = str(path)
        if room:
            self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
        self.listener.bind(self.address)
        self.listener.listen(backlog)
        self.listener.settimeout(LONGEST)
        self.address = self.listener.getsockname()
        self.name = f"unix:{self.address}" if path else f"127.0.0.1:{self.address[1]}"
        self._held = ExitStack()

    def accept(self) -> socket.socket:
        """Return the next connection; it is closed with the server at the latest."""
        sock, _ = self.listener.accept()
        sock.settimeout(LONGEST)
        return self._held.enter_context(sock)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()
        self.listener.close()


class Reading:
    """All that comes from a socket until its end, or until it breaks; read beside the test."""

    def __init__(self, sock: socket.socket):
        self.data = bytearray()
        self.error: OSError | None = None
        self._sock = sock
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            while data := self._sock.recv(MIB):
                self.data += data
        except OSError as error:
            self.error = error

    def all(self) -> bytes:
        """Wait for the end, and return what has come."""
        self._thread.join(LONGEST)
        assert not self._thread.is_alive(), "no end has come"
        return bytes(self.data)


@contextmanager
def full(server: Server) -> Iterator[None]:
    """Fill the backlog of a TCP listener: whoever connects hears nothing."""
    with ExitStack() as held:
        held.enter_context(socket.create_connection(server.address, LONGEST))
        filler = held.enter_context(socket.socket())
        filler.setblocking(False)
        filler.connect_ex(server.address)
        yield


def digest(data: bytes | bytearray) -> str:
    return sha256(data).hexdigest()


def receive(sock: socket.socket, count: int) -> bytes:
    """Read so many bytes, no more and no less."""
    data = bytearray()
    while len(data) < count:
        more = sock.recv(min(MIB, count - len(data)))
        assert more, f"the end after {len(data)} of {count} bytes"
        data += more
    return bytes(data)


def nothing_comes(sock: socket.socket) -> bool:
    """Tell whether a socket is open and has nothing to read."""
    sock.setblocking(False)
    try:
        sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    finally:
        sock.settimeout(LONGEST)
    return False


def inner_and_outer() -> tuple[socket.socket, socket.socket]:
    """Return the two ends of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        outer = socket.create_connection(listener.getsockname())
        inner, _ = listener.accept()
    for end in (inner, outer):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    inner.setblocking(False)
    outer.settimeout(LONGEST)
    return inner, outer


class Relay:
    """One mirrored connection in a loop of its own; the test has `client` and `upstream`."""

    def __init__(
        self,
        *mirrors: Mirror,
        most: int = 64,  # pipes
        capacity: int = MIB,
        connect: float = 5.0,
        also: Sequence[tuple[int, Any]] = (),  # further addresses of every mirror
    ):
        self.loop = Loop()
        self.pool = Pool(capacity, most)
        self.services = []
        for mirror in mirrors:
            target = Target(Upstream(mirror.address))
            place = mirror.address
            if place.kind == "unix":
                target.addresses = [(socket.AF_UNIX, place.path), *also]
            else:
                target.addresses = [(socket.AF_INET, (place.host, place.port)), *also]
            self.services.append(MirrorService(mirror, target, self.loop, self.pool, connect))
        self.broken_by: OSError | None = None
        self._closed = False
        inner, self.client = inner_and_outer()
        other, self.upstream = inner_and_outer()
        shared = Shared(self.loop, self.pool, splice=True)
        self.up, self.down = Side(inner, self, shared), Side(other, self, shared)
        self.up.peer, self.down.peer = self.down, self.up
        self.taps: list[MirrorTap] = []
        self._thread = threading.Thread(target=self.loop.run)
        self._thread.start()
        self.call(self._begin)

    def _begin(self) -> None:
        for side in (self.up, self.down):
            self.loop.watch(side.fd, WATCHED, side.ready)
        for service in self.services:
            wanted = service.mirror.direction
            for direction, side in (("up", self.up), ("down", self.down)):
                if wanted in (direction, "both"):
                    tap = service.tap(side)
                    self.taps.append(tap)
                    if not tap.given_up:
                        side.taps += (tap,)
        self.up.requicken()

    def call(self, what: Callable[[], object]) -> Any:
        """Do something in the loop, and return what it returns."""
        done = threading.Event()
        result: list[Any] = []

        def do() -> None:
            try:
                result.append(what())
            finally:
                done.set()

        self.loop.soon(do)
        assert done.wait(LONGEST), "the loop does not turn any more"
        return result[0]

    # What a side knows of its connection

    def ended(self) -> None:
        if self.up.finished and self.down.finished:
            self._close_sides()

    def broken(self, side: Side, error: OSError) -> None:
        self.broken_by = error
        self._close_sides()

    def _close_sides(self) -> None:
        if self._closed:
            return
        self._closed = True
        for side in (self.up, self.down):
            if not side.finished:
                for tap in side.taps:
                    tap.end()
            side.close()

    def settle(self) -> list[str]:
        """Wait until every tap has ended. Returns: how, in the order of the mirrors."""
        until(lambda: not any(service.active for service in self.services), "the taps have ended")
        return [tap.outcome for tap in self.taps]

    def close(self) -> None:
        def end() -> None:
            self._close_sides()
            for tap in self.taps:
                tap._close()
            self.loop.stop()

        self.loop.soon(end)
        self._thread.join(LONGEST)
        assert not self._thread.is_alive()
        self.client.close()
        self.upstream.close()
        assert self.pool.borrowed == 0, "pipes were not given back"
        self.pool.close()
        self.loop.close()


@contextmanager
def relay(*mirrors: Mirror, **more: Any) -> Iterator[Relay]:
    one = Relay(*mirrors, **more)
    try:
        yield one
    finally:
        one.close()


def mirror(server: Server, **wishes: Any) -> Mirror:
    return Mirror(parse_address(server.name), **wishes)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: that of a UNIX socket has 107 bytes at the most."""
    with tempfile.TemporaryDirectory(prefix="zp-") as name:
        yield Path(name)


@pytest.fixture(params=["tcp", "unix"])
def server(request: pytest.FixtureRequest, folder: Path) -> Iterator[Server]:
    with Server(folder / "mirror" if request.param == "unix" else None) as made:
        yield made


@pytest.fixture
def slow(folder: Path) -> Iterator[Server]:
    """A server for which the kernel holds no more than a few hundred KiB."""
    with Server(folder / "slow") as made:
        yield made


def pass_on(one: Relay, data: bytes) -> None:
    """Let the client say something, all of which the upstream reads."""
    reading = threading.Thread(target=one.client.sendall, args=(data,))
    reading.start()
    got = receive(one.upstream, len(data))
    reading.join(LONGEST)
    assert digest(got) == digest(data)


def ping_pong(one: Relay, rounds: int) -> bytes:
    """Say one thing after the other, each of which is answered. Returns: what was said."""
    said = bytearray()
    for number in range(rounds):
        word = b"%d?" % number
        one.client.sendall(word)
        assert receive(one.upstream, len(word)) == word
        one.upstream.sendall(word.upper())
        assert receive(one.client, len(word)) == word.upper()
        said += word
    return bytes(said)


# What it gets


def test_small_messages_reach_the_mirror_byte_for_byte(server: Server) -> None:
    with relay(mirror(server)) as one:
        copy = Reading(server.accept())
        said = ping_pong(one, 300)
        one.client.shutdown(socket.SHUT_WR)
        one.upstream.shutdown(socket.SHUT_WR)
        assert copy.all() == said
        assert one.services[0].bytes == len(said)


def test_bulk_is_duplicated_by_tee(server: Server) -> None:
    data = content(BULK)
    with relay(mirror(server, queue=64 * MIB)) as one:
        copy = Reading(server.accept())
        pass_on(one, data)
        one.client.shutdown(socket.SHUT_WR)
        assert digest(copy.all()) == digest(data)
        assert one.up.spliced > BULK // 2


def test_messages_and_bulk_in_turn_keep_their_order(server: Server) -> None:
    with relay(mirror(server, queue=64 * MIB)) as one:
        copy = Reading(server.accept())
        said = bytearray()
        for size in (1, 200_000, 5, 3 * MIB, 65_536, 1, 65_535, 65_537, 17, 2 * MIB, 3):
            data = content(size, seed=size)
            pass_on(one, data)
            said += data
        one.client.shutdown(socket.SHUT_WR)
        assert digest(copy.all()) == digest(said)
        assert 0 < one.up.spliced < len(said)


def test_a_mirror_of_what_the_upstream_answers_gets_nothing_else(server: Server) -> None:
    with relay(mirror(server, direction="down")) as one:
        copy = Reading(server.accept())
        said = ping_pong(one, 50)
        one.upstream.shutdown(socket.SHUT_WR)
        assert copy.all() == said.upper()


def test_a_mirror_of_both_directions_gets_a_connection_for_each(server: Server) -> None:
    with relay(mirror(server, direction="both")) as one:
        copies = [Reading(server.accept()) for _ in range(2)]
        said = ping_pong(one, 50)
        one.client.shutdown(socket.SHUT_WR)
        one.upstream.shutdown(socket.SHUT_WR)
        assert [copy.all() for copy in copies] == [said, said.upper()]
        assert one.services[0].connections == 2


def test_several_mirrors_get_the_same_and_a_stuck_one_takes_nothing_from_them(
    server: Server, slow: Server
) -> None:
    data = content(BULK)
    with relay(*(mirror(to, queue=32 * MIB) for to in (server, server)), mirror(slow)) as one:
        copies = [Reading(server.accept()) for _ in range(2)]
        slow.accept()
        pass_on(one, data)
        one.client.shutdown(socket.SHUT_WR)
        assert [digest(copy.all()) for copy in copies] == [digest(data)] * 2
        assert [tap.outcome for tap in one.taps] == ["ok", "ok", "full"]


def test_what_the_mirror_answers_reaches_nobody(server: Server) -> None:
    with relay(mirror(server)) as one:
        end = server.accept()
        copy = Reading(end)
        noise = content(4 * MIB)
        talking = threading.Thread(target=end.sendall, args=(noise,))
        talking.start()
        said = ping_pong(one, 100)
        talking.join(LONGEST)
        assert not talking.is_alive(), "the answers are not read"
        assert nothing_comes(one.client)
        assert nothing_comes(one.upstream)
        one.client.shutdown(socket.SHUT_WR)
        assert copy.all() == said


def test_a_mirror_that_ends_its_own_output_still_gets_everything(server: Server) -> None:
    data = content(3 * MIB)
    with relay(mirror(server, queue=32 * MIB)) as one:
        end = server.accept()
        end.shutdown(socket.SHUT_WR)
        copy = Reading(end)
        said = ping_pong(one, 20)
        pass_on(one, data)
        one.client.shutdown(socket.SHUT_WR)
        assert digest(copy.all()) == digest(said + data)
        end.close()
        assert one.settle() == ["ok"]


def test_the_mirror_is_let_go_when_both_have_ended(server: Server) -> None:
    with relay(mirror(server)) as one:
        end = server.accept()
        copy = Reading(end)
        said = ping_pong(one, 3)
        one.client.shutdown(socket.SHUT_WR)
        assert copy.all() == said
        assert one.services[0].active == 1, "it may still answer"
        end.close()
        assert one.settle() == ["ok"]


# Mirrors that do not keep up


def test_a_stuck_mirror_is_given_up_and_the_connection_goes_on_without(slow: Server) -> None:
    data = content(BULK)
    with relay(mirror(slow, queue=MIB)) as one:
        end = slow.accept()
        said = ping_pong(one, 20)
        pass_on(one, data)
        assert one.settle() == ["full"]
        assert one.services[0].given_up == {"full": 1}
        assert one.call(lambda: (one.up.taps, one.up.quick or one.up.bulk)) == ((), True)
        spliced = one.up.spliced
        pass_on(one, data)
        assert one.up.spliced > spliced, "bulk is still spliced"
        ping_pong(one, 20)
        got = Reading(end).all()
        assert (said + data).startswith(got)
        service = one.services[0]
        assert service.bytes == len(got)
        # what was read before it was given up was either sent or missed
        assert 0 < service.missed <= len(said) + len(data) - len(got)


def test_nobody_waits_for_a_stuck_mirror_of_small_messages(slow: Server) -> None:
    with relay(mirror(slow, queue=100_000)) as one:
        end = slow.accept()
        word = content(4_000)
        for _ in range(250):
            one.client.sendall(word)
            assert receive(one.upstream, len(word)) == word
        assert one.settle() == ["full"]
        got = Reading(end).all()
        assert (word * 250).startswith(got)
        assert 0 < one.services[0].missed <= 100_000 + len(word)


def test_a_queue_holds_as_many_bytes_as_it_is_given(slow: Server) -> None:
    data = content(24 * MIB)
    with relay(mirror(slow, queue=32 * MIB)) as one:
        end = slow.accept()
        pass_on(one, data)
        copy = Reading(end)
        one.client.shutdown(socket.SHUT_WR)
        assert digest(copy.all()) == digest(data)
        assert one.taps[0].outcome == "ok"


def test_a_queue_may_be_smaller_than_what_is_sent_at_once(slow: Server) -> None:
    with relay(mirror(slow, queue=1000)) as one:
        slow.accept()
        tap = one.taps[0]

        def fill() -> int:
            for _ in range(100_000):
                if tap.given_up:
                    break
                tap.data(bytes(900))
            return tap._service.missed

        assert 1000 < one.call(fill) <= 1900
        assert tap.outcome == "full"


def test_tiny_messages_do_not_take_more_memory_than_the_queue_allows(slow: Server) -> None:
    size = 256 << 10
    with relay(mirror(slow, queue=size)) as one:
        slow.accept()
        tap = one.taps[0]

        def fill() -> int:
            tap.data(bytes(BULK // 16))  # more than the kernel takes
            return 0

        one.call(fill)
        tracemalloc.start()
        try:

            def whisper() -> int:
                for _ in range(150_000):
                    tap.data(b"%d" % 7)
                return tracemalloc.get_traced_memory()[0]

            assert one.call(whisper) < 4 * size
        finally:
            tracemalloc.stop()


def test_a_primary_that_is_full_is_waited_for_and_the_mirror_still_has_it_all(
    server: Server,
) -> None:
    data = content(16 * MIB)
    with relay(mirror(server, queue=64 * MIB)) as one:
        copy = Reading(server.accept())
        sending = threading.Thread(target=one.client.sendall, args=(data,))
        sending.start()
        until(lambda: one.up.stuck, "the upstream takes no more")
        assert receive(one.upstream, len(data)) == data
        sending.join(LONGEST)
        one.client.shutdown(socket.SHUT_WR)
        assert digest(copy.all()) == digest(data)


# Waiting for the mirror


def test_a_mirror_may_hold_the_connection_up_and_nothing_is_lost(slow: Server) -> None:
    data = content(BULK)
    with relay(mirror(slow, queue=256 << 10, when_full="block")) as one:
        end = slow.accept()
        sending = threading.Thread(target=one.client.sendall, args=(data,))
        sending.start()
        beside = Reading(one.upstream)
        until(lambda: one.taps[0].waits, "the queue is full")
        # the loop has its turn before it answers, and reads nothing more in it
        held = one.call(lambda: one.up.count + one.up.held)
        assert held <= 2 * MIB, "it reads on although it should wait"
        assert one.call(lambda: one.up.count + one.up.held) == held
        copy = Reading(end)
        sending.join(LONGEST)
        one.client.shutdown(socket.SHUT_WR)
        assert digest(copy.all()) == digest(data)
        assert digest(beside.all()) == digest(data)
        assert one.taps[0].outcome == "ok"


def test_small_messages_wait_for_a_mirror_that_may_hold_them_up(slow: Server) -> None:
    word = content(4_000)
    with relay(mirror(slow, queue=50_000, when_full="block")) as one:
        end = slow.accept()
        sending = threading.Thread(target=one.client.sendall, args=(word * 1_000,))
        sending.start()
        beside = Reading(one.upstream)
        until(lambda: one.taps[0].waits, "the queue is full")
        copy = Reading(end)
        sending.join(LONGEST)
        one.client.shutdown(socket.SHUT_WR)
        assert copy.all() == word * 1_000 == beside.all()


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_mirror_that_dies_while_it_is_waited_for_lets_go(slow: Server, how: str) -> None:
    data = content(BULK)
    with relay(mirror(slow, queue=256 << 10, when_full="block")) as one:
        end = slow.accept()
        sending = threading.Thread(target=one.client.sendall, args=(data,))
        sending.start()
        until(lambda: one.taps[0].waits, "the queue is full")
        if how == "reset":
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        end.close()
        assert digest(receive(one.upstream, len(data))) == digest(data)
        sending.join(LONGEST)
        assert one.settle() == ["reset"]
        ping_pong(one, 5)
        assert one.call(lambda: one.up.quick or one.up.bulk), "it goes the quick way again"


# Spilling


def spills() -> list[str]:
    """Return the unlinked files that this process has open."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            name = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:
            continue
        if name.endswith("(deleted)") and not name.startswith(("/memfd", "/dev")):
            found.append(fd)
    return found


@pytest.fixture
def spill_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def test_what_is_spilled_arrives_in_order_at_a_mirror_that_reads_late(
    server: Server, spill_folder: Path
) -> None:
    before = len(spills())
    said = bytearray()
    with relay(mirror(server, queue=100_000, when_full="spill")) as one:
        end = server.accept()
        for size in (3, BULK, 70_000, 1, MIB, 5, 65_536, 11):
            data = content(size, seed=size)
            pass_on(one, data)
            said += data
        assert len(spills()) == before + 1
        assert not os.listdir(spill_folder), "the file has no name"
        copy = Reading(end)
        until(lambda: len(copy.data) == len(said), "all of it has come")
        until(lambda: len(spills()) == before, "the file is closed")
        # from here on it goes by the queue again, and then to another file
        said += ping_pong(one, 50)
        one.client.shutdown(socket.SHUT_WR)
        assert digest(copy.all()) == digest(said)
        assert one.taps[0].outcome == "ok"


def test_a_message_that_is_larger_than_a_pipe_is_spilled_as_a_whole(
    slow: Server, spill_folder: Path
) -> None:
    """Though what went to the file first is fetched again while the rest is still to be stored."""
    said = bytearray()
    with relay(mirror(slow, queue=1000, when_full="spill"), capacity=4096) as one:
        end = slow.accept()
        for number in range(20):
            data = content(60_000, seed=number)
            pass_on(one, data)
            said += data
        one.client.shutdown(socket.SHUT_WR)
        assert digest(Reading(end).all()) == digest(said)
        end.close()
        assert one.settle() == ["ok"]
        assert (one.services[0].missed, one.services[0].bytes) == (0, len(said))


def test_what_is_spilled_arrives_though_the_connection_has_ended(
    slow: Server, spill_folder: Path
) -> None:
    data = content(BULK)
    with relay(mirror(slow, queue=100_000, when_full="spill")) as one:
        end = slow.accept()
        pass_on(one, data)
        one.client.close()
        one.upstream.close()
        until(lambda: one._closed, "the connection has ended")
        assert digest(Reading(end).all()) == digest(data)
        end.close()
        assert one.settle() == ["ok"]
        assert one.services[0].missed == 0


def test_a_mirror_is_given_up_when_as_much_is_spilled_as_may_be(
    slow: Server, spill_folder: Path
) -> None:
    before = len(spills())
    data = content(BULK)
    with relay(mirror(slow, queue=100_000, when_full="spill", spill_max=3 * MIB)) as one:
        end = slow.accept()
        pass_on(one, data)
        assert one.settle() == ["spill-full"]
        assert len(spills()) == before
        assert data.startswith(Reading(end).all())
        ping_pong(one, 5)


def test_a_mirror_that_is_always_behind_does_not_fill_the_disk(
    slow: Server, spill_folder: Path
) -> None:
    before = set(spills())
    most = 4 * MIB
    said, got = sha256(), sha256()
    with relay(mirror(slow, queue=100_000, when_full="spill", spill_max=most)) as one:
        end = slow.accept()
        pass_on(one, data := content(3 * MIB))
        said.update(data)
        for number in range(12):
            got.update(receive(end, 2 * MIB))
            pass_on(one, data := content(2 * MIB, seed=number))
            said.update(data)
        files = set(spills()) - before
        assert files, "it has never caught up"
        used = sum(os.stat(f"/proc/self/fd/{fd}").st_blocks * 512 for fd in files)
        assert used <= most + SEGMENT
        one.client.shutdown(socket.SHUT_WR)
        got.update(Reading(end).all())
        assert got.digest() == said.digest()


def test_a_mirror_is_given_up_when_there_is_no_space_to_spill_to(
    slow: Server, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tiny))
    data = content(BULK)
    with relay(mirror(slow, queue=100_000, when_full="spill")) as one:
        end = slow.accept()
        pass_on(one, data)
        assert one.settle() == ["no-space"]
        assert data.startswith(Reading(end).all())
        ping_pong(one, 5)


def test_a_mirror_is_given_up_when_there_is_nowhere_to_spill_to(
    slow: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))
    data = content(BULK)
    with relay(mirror(slow, queue=100_000, when_full="spill")) as one:
        slow.accept()
        pass_on(one, data)
        # not "refused": the mirror is there
        assert one.settle() == ["error"]
        ping_pong(one, 5)


# Without pipes


@pytest.mark.parametrize("most", [1, 2, 3, 4])
@pytest.mark.parametrize("when_full", ["detach", "block", "spill"])
def test_with_few_pipes_the_mirror_gets_everything_by_copying(
    server: Server, most: int, when_full: WhenFull
) -> None:
    data = content(4 * MIB)
    with relay(mirror(server, queue=32 * MIB, when_full=when_full), most=most) as one:
        copy = Reading(server.accept())
        pass_on(one, data)
        said = ping_pong(one, 5)
        one.client.shutdown(socket.SHUT_WR)
        assert digest(copy.all()) == digest(data + said)
        assert one.taps[0].outcome == "ok"


# Mirrors that are not there, or go


def test_a_mirror_that_is_not_there_is_given_up(folder: Path) -> None:
    closed = Server()
    closed.listener.close()
    nowhere = Mirror(parse_address(f"unix:{folder}/nobody"))
    with relay(mirror(closed), nowhere, mirror(closed, when_full="block")) as one:
        ping_pong(one, 20)
        assert one.settle() == ["refused"] * 3
        pass_on(one, content(2 * MIB))


def test_a_mirror_whose_name_has_several_addresses_is_found_at_any(server: Server) -> None:
    closed = Server()
    closed.listener.close()
    with relay(mirror(closed), also=[(server.listener.family, server.address)]) as one:
        ping_pong(one, 5)
        assert one.settle() == ["refused"]

        def once_more() -> None:
            tap = one.services[0].tap(one.up)
            one.taps.append(tap)
            one.up.taps = (tap,)
            one.up.requicken()

        # as the next connection does
        one.call(once_more)
        copy = Reading(server.accept())
        said = ping_pong(one, 5)
        one.client.shutdown(socket.SHUT_WR)
        assert copy.all() == said


def test_a_mirror_that_refuses_at_once_may_have_a_high_fd(folder: Path) -> None:
    # the loop's tables grow with the fds that it has been told of
    with ExitStack() as held:
        for _ in range(300):
            held.enter_context(open(os.devnull, "rb"))
        with relay(Mirror(parse_address(f"unix:{folder}/nobody"))) as one:
            low = [one.up.fd, one.down.fd]
            for _ in range(2 * max(low)):
                held.enter_context(open(os.devnull, "rb"))
            assert one.call(lambda: one.services[0].tap(one.up).outcome) == "refused"
            ping_pong(one, 5)


@pytest.mark.parametrize("when_full", ["detach", "block", "spill"])
def test_a_mirror_that_does_not_answer_is_given_up_in_the_connect_timeout(
    when_full: WhenFull,
) -> None:
    with (
        Server(backlog=0) as hole,
        full(hole),
        relay(mirror(hole, when_full=when_full, queue=100_000), connect=0.1) as one,
    ):
        said = ping_pong(one, 20)
        assert one.settle() == ["timeout"]
        assert one.services[0].bytes == 0
        assert one.services[0].missed <= len(said)
        pass_on(one, content(2 * MIB))


def test_a_black_hole_holds_a_connection_up_for_the_connect_timeout_only() -> None:
    data = content(BULK)
    with (
        Server(backlog=0) as hole,
        full(hole),
        relay(mirror(hole, when_full="block", queue=100_000), connect=0.1) as one,
    ):
        pass_on(one, data)
        assert one.settle() == ["timeout"]


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("after", [0, 1000, 3 * MIB])
def test_a_mirror_that_leaves_is_given_up(server: Server, how: str, after: int) -> None:
    data = content(BULK)
    with relay(mirror(server, queue=32 * MIB)) as one:
        end = server.accept()
        sending = threading.Thread(target=one.client.sendall, args=(data,))
        sending.start()
        beside = Reading(one.upstream)
        assert data.startswith(receive(end, after))
        if how == "reset":
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        end.close()
        sending.join(LONGEST)
        one.client.shutdown(socket.SHUT_WR)
        assert digest(beside.all()) == digest(data)
        assert one.settle() == ["reset"]


def test_a_mirror_that_reads_nothing_of_the_rest_is_let_go_after_a_while(
    slow: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zpipe.proxy.mirror_tap._LINGER", 0.05)
    with relay(mirror(slow, queue=32 * MIB)) as one:
        slow.accept()
        pass_on(one, content(2 * MIB))
        one.client.close()
        one.upstream.close()
        assert one.settle() == ["timeout"]
        service = one.services[0]
        assert service.bytes + service.missed == 2 * MIB


def test_the_client_may_break_it_off_while_the_mirror_has_bytes_to_come(slow: Server) -> None:
    data = content(2 * MIB)
    with relay(mirror(slow, queue=32 * MIB)) as one:
        end = slow.accept()
        pass_on(one, data)
        one.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        one.client.close()
        until(lambda: one.broken_by, "the reset has come")
        assert one.broken_by is not None
        assert one.broken_by.errno == errno.ECONNRESET
        assert digest(Reading(end).all()) == digest(data)


def test_the_upstream_may_break_it_off_while_the_mirror_has_bytes_to_come(slow: Server) -> None:
    data = content(BULK)
    with relay(mirror(slow, queue=32 * MIB)) as one:
        end = slow.accept()
        one.client.sendall(data[: 2 * MIB])
        receive(one.upstream, 1000)
        one.upstream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        one.upstream.close()
        until(lambda: one.broken_by, "the reset has come")
        got = Reading(end).all()
        assert len(got) >= 1000
        assert data.startswith(got)


# Whatever comes

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("say"), st.sampled_from([1, 7, 1500, 65_535, 65_536, 65_537, 300_000])),
        st.tuples(st.just("say"), st.integers(1, 200_000)),
        st.tuples(st.just("look"), st.integers(1, 400_000)),
    ),
    max_size=25,
)


@given(
    steps=STEPS,
    queue=st.sampled_from([1, 1000, 100_000, MIB]),
    when_full=st.sampled_from(["detach", "spill"]),
    most=st.sampled_from([1, 3, 64]),
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_mirror_has_a_prefix_of_what_was_said_and_all_of_it_where_it_was_not_given_up(
    steps: list[tuple[str, int]],
    queue: int,
    when_full: WhenFull,
    most: int,
    folder: Path,
    spill_folder: Path,
) -> None:
    path = folder / "any"
    path.unlink(missing_ok=True)
    said, got = bytearray(), bytearray()
    with (
        Server(path) as server,
        relay(mirror(server, queue=queue, when_full=when_full), most=most) as one,
    ):
        end = server.accept()
        for act, size in steps:
            if act == "say":
                pass_on(one, data := content(MIB)[:size])
                said += data
            else:
                end.setblocking(False)
                try:
                    got += end.recv(size)
                except BlockingIOError:
                    pass
                end.settimeout(LONGEST)
        one.client.shutdown(socket.SHUT_WR)
        got += Reading(end).all()
        end.close()
        (outcome,) = one.settle()
        assert said.startswith(got)
        assert (outcome == "ok") == (len(got) == len(said))
        # to spill takes pipes, too
        reasons = {"detach": {"ok", "full"}, "spill": {"ok"} if most == 64 else {"ok", "no-pipes"}}
        assert outcome in reasons[when_full]
