"""Active checks of real servers on a real loop."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest

from tests.machine import LONGEST, ROOT, content, environment, only_port
from tests.proxy.proxying import run_until
from zpipe.proxy.checks import Checker
from zpipe.proxy.loop import Loop
from zpipe.proxy.settings import Address, Check, Upstream
from zpipe.proxy.upstreams import Balancer, Target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Place = tuple[int, Any]

QUICK = 0.005  # seconds between two checks
PATIENT = 30.0  # a timeout that does not end a test by mistake


class Asked(Target):
    """A target that knows how often somebody began to connect to it."""

    __slots__ = ("times",)

    def __init__(self, upstream: Upstream, check: Check, place: Place):
        super().__init__(upstream, check)
        self.times = 0
        self.addresses = [place]

    def address(self) -> Place:
        self.times += 1
        return super().address()


class Checked:
    """A loop, the targets it checks, and the changes that were told."""

    def __init__(self, check: Check, *places: Place):
        self.loop = Loop()
        named = tuple(Upstream(Address("tcp", str(i))) for i in range(len(places)))
        balancer = Balancer(named, "first", check)
        self.targets = [Asked(one, check, place) for one, place in zip(named, places, strict=True)]
        for target in self.targets:
            target.times = 0  # setting the addresses has asked, too
        balancer.targets[:] = self.targets
        self.changes: list[tuple[str, bool]] = []
        self.seen: Callable[[], None] = lambda: None
        self.checker = Checker(self.loop, balancer, check, self._changed)

    def _changed(self, target: Target) -> None:
        self.changes.append((target.name, target.up))
        self.seen()

    def until(self, condition: Callable[[], object], what: str) -> None:
        run_until(self.loop, condition, what)

    def until_changed(self, *changes: tuple[str, bool]) -> None:
        self.until(lambda: len(self.changes) >= len(changes), f"the changes are {changes}")
        assert self.changes == list(changes)

    def until_asked(self, times: int) -> None:
        self.until(lambda: self.targets[0].times >= times, f"it was checked {times} times")


@contextmanager
def checked(check: Check, *places: Place) -> Iterator[Checked]:
    made = Checked(check, *places)
    try:
        made.checker.start()
        yield made
    finally:
        made.checker.close()
        made.loop.close()


def address_of(end: socket.socket) -> Place:
    return end.family, end.getsockname()


@contextmanager
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        listener.settimeout(LONGEST)
        yield listener


@contextmanager
def closed_port() -> Iterator[Place]:
    """Give an address that refuses: bound, so that nobody else takes it, and not listening."""
    with socket.socket() as end:
        end.bind(("127.0.0.1", 0))
        yield address_of(end)


@contextmanager
def black_hole() -> Iterator[Place]:
    """Give an address that does not answer: its backlog is full."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        waiting = False
        while not waiting:
            end = stack.enter_context(socket.socket())
            end.settimeout(0.3)
            try:
                end.connect(listener.getsockname())
            except TimeoutError:
                waiting = True
        yield address_of(listener)


class Server:
    """Serve one connection after the other in a thread, by a function; count them first."""

    def __init__(self, listener: socket.socket, serve: Callable[[socket.socket], None]):
        self.count = 0
        self.problems: list[BaseException] = []
        self._listener = listener
        self._serve = serve
        self._ended = False
        self._thread = Thread(target=self._work)

    def _work(self) -> None:
        while True:
            end, _ = self._listener.accept()
            with end:
                if self._ended:
                    return
                self.count += 1
                end.settimeout(LONGEST)
                try:
                    self._serve(end)
                except Exception as problem:
                    self.problems.append(problem)

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended = True
        with socket.socket(self._listener.family) as end:
            end.connect(self._listener.getsockname())
        self._thread.join()


def receive(end: socket.socket, count: int) -> bytes:
    """Receive so many bytes, or fewer at the end."""
    data = b""
    while len(data) < count and (more := end.recv(min(65536, count - len(data)))):
        data += more
    return data


def pong(end: socket.socket) -> None:
    """Answer PING, in two pieces, and wait for the end."""
    if receive(end, 4) != b"PING":
        return
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    end.sendall(b"+PO")
    end.sendall(b"NG\r\n")
    assert end.recv(1) == b""


def knock_down(target: Target) -> None:
    for _ in range(3):
        target.failed(0.0)
    assert not target.up


# what is success


def test_a_completed_connect_is_enough_where_nothing_is_expected() -> None:
    with listening() as listener, checked(Check(interval=QUICK), address_of(listener)) as made:
        knock_down(made.targets[0])
        made.until_changed(("0", True))
        made.until_asked(5)
        assert made.targets[0].up


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_a_unix_socket_is_checked_as_well(kind: str, tmp_path: Path) -> None:
    place = str(tmp_path / "socket") if kind == "path" else f"\0zpipe-test-{os.getpid()}"
    check = Check(interval=QUICK, timeout=PATIENT, send=b"PING", expect=b"PONG")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(place)
        listener.listen()
        with (
            Server(listener, lambda end: end.sendall(b"PONG")),
            checked(check, (socket.AF_UNIX, place)) as made,
        ):
            knock_down(made.targets[0])
            made.until_changed(("0", True))


def test_an_expected_answer_may_come_in_pieces() -> None:
    check = Check(interval=QUICK, timeout=PATIENT, send=b"PING", expect=b"PONG")
    with (
        listening() as listener,
        Server(listener, pong) as server,
        checked(check, address_of(listener)) as made,
    ):
        knock_down(made.targets[0])
        made.until_changed(("0", True))
        made.until(lambda: server.count >= 3, "it was checked three times")
        assert made.targets[0].up


def test_a_question_larger_than_the_socket_takes_at_once_is_sent_whole() -> None:
    question = content(8 << 20)
    check = Check(interval=3000.0, timeout=PATIENT, send=question, expect=b"thanks")

    def serve(end: socket.socket) -> None:
        assert receive(end, len(question)) == question
        end.sendall(b"thanks")

    with (
        listening() as listener,
        Server(listener, serve) as server,
        checked(check, address_of(listener)) as made,
    ):
        knock_down(made.targets[0])
        made.until_changed(("0", True))
    assert server.problems == []


# what is failure


@pytest.mark.parametrize(
    "answer",
    [b"", b"-ERR", b"x" * 4096, b"x" * 4096 + b"PONG", b"x" * 4093 + b"PONG"],
    ids=["closes", "wrong", "full", "late", "half-late"],
)
def test_an_answer_without_what_is_expected_fails_as_often_as_fall_says(answer: bytes) -> None:
    check = Check(interval=QUICK, timeout=PATIENT, fall=3, expect=b"PONG")
    counts: list[int] = []

    def serve(end: socket.socket) -> None:
        end.sendall(answer)
        if len(answer) < 4096:  # else it is over without waiting for the end
            end.shutdown(socket.SHUT_WR)
        end.recv(1)

    with (
        listening() as listener,
        Server(listener, serve) as server,
        checked(check, address_of(listener)) as made,
    ):
        made.seen = lambda: counts.append(server.count)
        made.until_changed(("0", False))
    assert counts == [3]


def test_an_answer_at_the_end_of_the_first_4_kib_is_seen() -> None:
    check = Check(interval=QUICK, timeout=PATIENT, expect=b"PONG")
    with (
        listening() as listener,
        Server(listener, lambda end: end.sendall(b"x" * 4092 + b"PONG")),
        checked(check, address_of(listener)) as made,
    ):
        knock_down(made.targets[0])
        made.until_changed(("0", True))


def test_a_reset_instead_of_an_answer_is_a_failure() -> None:
    check = Check(interval=QUICK, timeout=PATIENT, fall=1, send=b"PING", expect=b"PONG")

    def serve(end: socket.socket) -> None:
        receive(end, 4)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    with (
        listening() as listener,
        Server(listener, serve),
        checked(check, address_of(listener)) as made,
    ):
        made.until_changed(("0", False))


def test_a_server_that_accepts_and_says_nothing_fails_at_the_timeout() -> None:
    check = Check(interval=QUICK, timeout=0.02, expect=b"PONG")
    with listening() as listener, checked(check, address_of(listener)) as made:
        made.until_changed(("0", False))


def test_a_black_hole_fails_at_the_timeout() -> None:
    with black_hole() as place, checked(Check(interval=QUICK, timeout=0.02), place) as made:
        made.until_changed(("0", False))


def test_a_unix_path_without_a_server_is_a_failure(tmp_path: Path) -> None:
    place = (socket.AF_UNIX, str(tmp_path / "nobody"))
    with checked(Check(interval=QUICK), place) as made:
        made.until_changed(("0", False))


def test_an_address_that_makes_no_sense_is_a_failure_and_not_the_end(tmp_path: Path) -> None:
    place = (socket.AF_UNIX, "/" + "x" * 200)
    with checked(Check(interval=QUICK), place) as made:
        made.until_changed(("0", False))
        made.until_asked(6)


def test_a_connect_that_fails_at_once_leaves_the_loop_as_it_was(tmp_path: Path) -> None:
    place = (socket.AF_UNIX, str(tmp_path / "nobody"))
    with checked(Check(interval=QUICK), place) as made, ExitStack() as stack:
        for _ in range(100):  # the next fd has a number that the loop has never seen
            stack.callback(os.close, os.dup(made.loop.wakeup_fd))
        made.until_changed(("0", False))


def test_a_target_that_flaps_goes_down_and_up_each_time() -> None:
    with ExitStack() as stack:
        end = stack.enter_context(socket.socket())
        end.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        end.bind(("127.0.0.1", 0))
        place = address_of(end)
        made = stack.enter_context(checked(Check(interval=QUICK, timeout=PATIENT), place))
        expected: list[tuple[str, bool]] = []
        for _ in range(3):
            expected.append(("0", False))
            made.until_changed(*expected)
            end.listen(1024)
            expected.append(("0", True))
            made.until_changed(*expected)
            again = stack.enter_context(socket.socket())
            again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            end.close()
            again.bind(place[1])
            end = again


def test_each_target_has_its_own_outcome() -> None:
    with (
        listening() as listener,
        closed_port() as nobody,
        checked(Check(interval=QUICK), address_of(listener), nobody) as made,
    ):
        made.until_changed(("1", False))
        assert [target.up for target in made.targets] == [True, False]


def test_the_next_address_of_a_name_is_checked_where_one_fails() -> None:
    with (
        listening() as listener,
        closed_port() as nobody,
        checked(Check(interval=QUICK, fall=2), nobody) as made,
    ):
        made.targets[0].addresses = [nobody, address_of(listener)]
        made.until_asked(10)
        assert made.changes == []


# manners


def test_a_server_that_greets_sees_an_end_and_never_a_reset() -> None:
    ends: list[bytes] = []

    def serve(end: socket.socket) -> None:
        end.sendall(b"220 ready\r\n" * 50)
        ends.append(receive(end, 1))

    check = Check(interval=QUICK, timeout=PATIENT)
    with (
        listening() as listener,
        Server(listener, serve) as server,
        checked(check, address_of(listener)) as made,
    ):
        made.until(lambda: len(ends) + len(server.problems) >= 5, "five checks have ended")
        assert server.problems == []
        assert set(ends) == {b""}


def test_a_server_that_never_stops_sending_does_not_stop_the_checks() -> None:
    def serve(end: socket.socket) -> None:
        for _ in range(1000):
            end.sendall(bytes(65536))

    check = Check(interval=QUICK, timeout=PATIENT)
    with (
        listening() as listener,
        Server(listener, serve) as server,
        checked(check, address_of(listener)) as made,
    ):
        made.until(lambda: server.count >= 3, "three connections were accepted")
        assert made.targets[0].up
    assert len(server.problems) >= 2  # each was left in the middle


def test_a_server_that_does_not_close_is_left_when_the_next_check_is_due() -> None:
    check = Check(interval=QUICK, timeout=PATIENT)
    with listening() as listener, checked(check, address_of(listener)) as made:
        made.until_asked(5)
        assert made.targets[0].up


def test_the_first_checks_are_spread_over_the_interval() -> None:
    with listening() as listener:
        place = address_of(listener)
        with checked(Check(interval=3000.0), place, place, place) as made:
            made.until_asked(1)
            ended: list[bool] = []
            made.loop.later(0.05, lambda: ended.append(True))
            made.until(lambda: ended, "a moment has passed")
            assert [target.times for target in made.targets] == [1, 0, 0]


def test_want_of_fds_here_is_no_failure_there() -> None:
    check = Check(interval=QUICK, fall=1)
    with closed_port() as nobody, checked(check, nobody) as made:
        lowest = os.dup(0)
        os.close(lowest)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
            made.until_asked(10)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert made.changes == []
        made.until_changed(("0", False))


def sockets() -> set[str]:
    """Return the sockets of this process."""
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.add(os.readlink(f"/proc/self/fd/{fd}"))
        except FileNotFoundError:
            pass  # the one that listed the folder
    return {name for name in found if name.startswith("socket:")}


def test_close_in_the_middle_of_a_connect_leaves_no_fd() -> None:
    check = Check(interval=PATIENT, timeout=PATIENT)
    with black_hole() as hole, checked(check, hole) as made:
        before = sockets()
        made.until_asked(1)
        assert len(sockets()) == len(before) + 1
        made.checker.close()
        assert sockets() == before


def test_close_in_the_middle_of_an_answer_leaves_no_fd() -> None:
    check = Check(interval=PATIENT, timeout=PATIENT, send=b"PING", expect=b"PONG")
    asked: list[bytes] = []

    def serve(end: socket.socket) -> None:
        asked.append(receive(end, 4))
        end.sendall(b"PO")
        assert end.recv(1) == b""

    with (
        listening() as listener,
        Server(listener, serve) as server,
        checked(check, address_of(listener)) as made,
    ):
        before = sockets()
        made.until(lambda: asked, "the server was asked")
        made.checker.close()
        made.until(lambda: sockets() == before, "the server has closed its end, too")
        assert (asked, server.count) == ([b"PING"], 1)


def test_close_in_the_middle_of_a_goodbye_leaves_no_fd() -> None:
    check = Check(interval=PATIENT, timeout=PATIENT)
    with listening() as listener, checked(check, address_of(listener)) as made:
        before = sockets()
        knock_down(made.targets[0])
        made.until_changed(("0", True))
        assert len(sockets()) == len(before) + 1
        made.checker.close()
        assert sockets() == before


@pytest.mark.parametrize("expect", [b"", b"PONG", b"not this"])
def test_no_fd_is_open_between_two_checks(expect: bytes) -> None:
    def serve(end: socket.socket) -> None:
        end.sendall(b"PONG")
        end.shutdown(socket.SHUT_WR)
        receive(end, 1)

    check = Check(interval=3000.0, timeout=PATIENT, expect=expect)
    with (
        listening() as listener,
        Server(listener, serve) as server,
        checked(check, address_of(listener)) as made,
    ):
        before = sockets()
        made.until(lambda: server.count, "the check has come")
        made.until(lambda: sockets() == before, "both ends of it are closed")


def test_close_in_the_middle_of_a_change_ends_it() -> None:
    with closed_port() as nobody, checked(Check(interval=QUICK, fall=1), nobody) as made:
        made.seen = made.checker.close
        made.until_changed(("0", False))
        times = made.targets[0].times
        ended: list[bool] = []
        made.loop.later(0.05, lambda: ended.append(True))
        made.until(lambda: ended, "a moment has passed")
        assert made.targets[0].times == times


def meet_oneself() -> None:
    """Check a port where nobody listens, in a network where a connect has no other port."""
    check = Check(interval=3000.0, fall=1)  # one check only: the next would find no port at all
    with checked(check, (socket.AF_INET, ("127.0.0.1", 40000))) as made:
        made.until_changed(("0", False))


def test_a_connection_to_oneself_is_no_server() -> None:
    code = "from tests.proxy import test_checks as t; t.meet_oneself()"
    done = subprocess.run(
        [*only_port(40000), sys.executable, "-c", code],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        timeout=LONGEST,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
