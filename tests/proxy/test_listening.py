"""Listeners: opened at addresses, taken from socket activation, shared, refused and closed."""

from __future__ import annotations

import errno
import grp
import os
import pwd
import socket
import stat
import traceback
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.endpoints.meeting import need_family
from tests.machine import as_stranger, need_root
from zpipe.errors import UsageError
from zpipe.proxy.activation import passed
from zpipe.proxy.addresses import parse_address, resolve
from zpipe.proxy.listening import Listener, leads_to, open_listeners
from zpipe.proxy.users import number_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

HOSTS = [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "[::1]")]
INHERITED = [
    (socket.IPPROTO_TCP, socket.TCP_NODELAY),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE),
    (socket.SOL_SOCKET, socket.SO_OOBINLINE),
]


@contextmanager
def listening(
    *texts: str, workers: int = 1, environment: dict[str, str] | None = None
) -> Iterator[list[list[Listener]]]:
    """Open listeners, and close them at the end."""
    addresses = tuple(parse_address(text, listen=True) for text in texts)
    found = open_listeners(addresses, workers=workers, environment=environment or {})
    try:
        yield found
    finally:
        for one in found:
            for listener in one:
                listener.close()


def refusal(*texts: str, workers: int = 1, environment: dict[str, str] | None = None) -> str:
    """Return the error with which listening is refused; no fd may stay open."""
    before = os.listdir("/proc/self/fd")
    with (
        pytest.raises(UsageError) as caught,
        listening(*texts, workers=workers, environment=environment),
    ):
        pass
    assert os.listdir("/proc/self/fd") == before
    (line,) = caught.value.args
    return str(line)


def port_of(listener: Listener) -> int:
    return int(listener.socket.getsockname()[1])


def connected(listener: Listener, host: str = "") -> socket.socket:
    """Connect to a listener."""
    if listener.family == socket.AF_UNIX:
        end = socket.socket(socket.AF_UNIX)
        end.connect(listener.socket.getsockname())
        return end
    return socket.create_connection((host or listener.socket.getsockname()[0], port_of(listener)))


def reaches(listener: Listener, host: str = "") -> bool:
    """Tell whether a new client is the listener's."""
    with connected(listener, host) as client:
        client.sendall(b"x")
        listener.socket.settimeout(10)
        accepted, _ = listener.socket.accept()
        listener.socket.setblocking(False)
        with accepted:
            return accepted.recv(1) == b"x"


# TCP


@pytest.mark.parametrize(("family", "host"), HOSTS)
def test_a_listener_of_either_family_does_not_block(family: int, host: str) -> None:
    need_family(family)
    with listening(f"{host}:0") as ((listener,),):
        assert listener.family == listener.socket.family == family
        assert listener.address == f"{host}:{port_of(listener)}"
        assert (listener.owned, listener.path) == (True, None)
        with pytest.raises(BlockingIOError):
            listener.socket.accept()
        assert not os.get_inheritable(listener.socket.fileno())
        assert reaches(listener)


@pytest.mark.parametrize(("family", "host"), HOSTS)
def test_accepted_sockets_inherit_the_options(family: int, host: str) -> None:
    need_family(family)
    with listening(f"{host}:0") as ((listener,),), connected(listener):
        listener.socket.settimeout(10)
        accepted, _ = listener.socket.accept()
        with accepted:
            for level, name in INHERITED:
                assert accepted.getsockopt(level, name), name
            control = accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
            assert not control.startswith(b"bbr"), "loopback needs no pacing"


def test_an_address_that_leaves_the_machine_keeps_its_congestion_control() -> None:
    with socket.socket() as other, listening("0.0.0.0:0") as ((listener,),):
        theirs, mine = (
            end.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
            for end in (other, listener.socket)
        )
        assert mine == theirs


def test_an_urgent_byte_stays_in_the_stream() -> None:
    with listening("127.0.0.1:0") as ((listener,),), connected(listener) as client:
        client.sendall(b"a")
        client.send(b"b", socket.MSG_OOB)
        client.sendall(b"c")
        client.shutdown(socket.SHUT_WR)
        listener.socket.settimeout(10)
        accepted, _ = listener.socket.accept()
        with accepted, accepted.makefile("rb") as stream:
            assert stream.read() == b"abc"


def test_no_host_is_every_address_of_both_families() -> None:
    with listening(":0") as ((listener,),):
        assert listener.address == f"*:{port_of(listener)}"
        assert reaches(listener, "127.0.0.1")
        if listener.family == socket.AF_INET6:
            assert reaches(listener, "::1")


def test_v6only_leaves_the_port_of_ipv4_to_others() -> None:
    need_family(socket.AF_INET6)
    with listening("[::]:0?v6only=1") as ((six,),):
        assert six.address == f"[::]:{port_of(six)}"
        with listening(f"0.0.0.0:{port_of(six)}") as ((four,),):
            assert reaches(four, "127.0.0.1")
            assert reaches(six, "::1")
    with listening(":0?v6only=1") as ((six,),):
        assert six.socket.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    text = "127.0.0.1:0?v6only=1"
    assert refusal(text) == f"{text}: listen: v6only: the host has no IPv6 address"


def test_both_families_take_the_port_of_ipv4_and_the_error_says_how_not_to() -> None:
    need_family(socket.AF_INET6)
    with listening("0.0.0.0:0") as ((four,),):
        text = f":{port_of(four)}"
        assert refusal(text) == (
            f"{text}: listen: Address already in use (with ?v6only=1 it leaves IPv4 to others)"
        )


def test_every_address_of_a_name_is_listened_at_with_one_port() -> None:
    places = resolve(parse_address("localhost:0", listen=True))
    with listening("localhost:0") as (found,):
        assert len({port_of(listener) for listener in found}) == 1
        hosts = [listener.socket.getsockname()[0] for listener in found]
        assert set(hosts) <= {place[0] for _, place in places}
        assert "127.0.0.1" in hosts


def test_a_port_that_was_just_left_can_be_listened_at() -> None:
    """Connections in TIME_WAIT do not keep it."""
    with listening("127.0.0.1:0") as ((listener,),):
        text = listener.address
        with connected(listener) as client:
            listener.socket.settimeout(10)
            accepted, _ = listener.socket.accept()
            accepted.close()  # first: this side waits
            assert client.recv(1) == b""
    with listening(text) as ((listener,),):
        assert reaches(listener)


def test_many_may_wait_to_be_accepted() -> None:
    with listening("127.0.0.1:0") as ((listener,),):
        clients = [connected(listener) for _ in range(200)]
        for client in clients:
            client.close()


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("theirs", [1, 2])
def test_a_port_in_use_is_refused_also_by_workers_who_would_share(
    workers: int, theirs: int
) -> None:
    with listening("127.0.0.1:0", workers=theirs) as found:
        text = found[0][0].address
        assert refusal(text, workers=workers) == f"{text}: listen: Address already in use"
        for one in found:
            assert one[0].socket.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)


@pytest.mark.parametrize("workers", [1, 2])
def test_an_address_that_is_given_twice_is_refused(workers: int, tmp_path: Path) -> None:
    with listening("127.0.0.1:0") as ((listener,),):
        text = listener.address
    assert refusal(text, text, workers=workers) == f"{text}: listen: Address already in use"
    text = f"unix:{tmp_path}/s"
    again = f"unix:{tmp_path}/./s"
    assert refusal(text, again, workers=workers) == f"{again}: listen: Address already in use"
    assert os.listdir(tmp_path) == []


def test_each_worker_has_a_socket_of_its_own_at_the_same_port() -> None:
    with listening("127.0.0.1:0", "127.0.0.1:0", workers=3) as found:
        for place in (0, 1):
            ends = [one[place].socket for one in found]
            assert len({end.fileno() for end in ends}) == 3
            assert len({end.getsockname() for end in ends}) == 1
            assert len({one[place].address for one in found}) == 1
        # the kernel spreads clients over all of them
        waiting = set(range(3))
        clients = []
        while waiting:
            clients.append(connected(found[0][0]))
            assert len(clients) < 1000
            for number in list(waiting):
                try:
                    accepted, _ = found[number][0].socket.accept()
                except BlockingIOError:
                    continue
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                accepted.close()
                waiting.discard(number)
        for client in clients:
            client.close()


def test_an_address_of_another_machine_is_refused() -> None:
    text = "192.0.2.1:80"
    assert refusal(text) == f"{text}: listen: Cannot assign requested address"


def test_a_name_that_does_not_resolve_is_refused() -> None:
    assert refusal("a..b:80").startswith("a..b:80: resolve: ")


def test_a_failure_closes_what_was_opened_before(tmp_path: Path) -> None:
    with listening("127.0.0.1:0") as ((listener,),):
        free = listener.address
    assert "192.0.2.1" in refusal(free, f"unix:{tmp_path}/s", "192.0.2.1:80")
    assert os.listdir(tmp_path) == []
    with listening(free):
        pass


# UNIX


def test_a_path_is_private_unless_it_is_given_away(tmp_path: Path) -> None:
    with listening(f"unix:{tmp_path}/a", f"unix:{tmp_path}/b?mode=0666") as ((a, b),):
        assert a.address == f"unix:{tmp_path}/a"
        assert (a.family, a.path) == (socket.AF_UNIX, f"{tmp_path}/a")
        assert stat.S_IMODE(os.stat(tmp_path / "a").st_mode) == 0o600
        assert stat.S_IMODE(os.stat(tmp_path / "b").st_mode) == 0o666
        assert reaches(a)
        assert reaches(b)
    assert os.listdir(tmp_path) == []


def test_owner_and_group_by_name_or_number(tmp_path: Path) -> None:
    need_root()
    name = pwd.getpwuid(0).pw_name
    with listening(f"unix:{tmp_path}/s?user=65534&group=12345&mode=0660"):
        found = os.stat(tmp_path / "s")
        assert (found.st_uid, found.st_gid) == (65534, 12345)
        assert stat.S_IMODE(found.st_mode) == 0o660
    with listening(f"unix:{tmp_path}/s?user={name}"):
        assert os.stat(tmp_path / "s").st_uid == 0


def test_an_unknown_owner_is_refused_before_the_path_is_made(tmp_path: Path) -> None:
    text = f"unix:{tmp_path}/s?user=no-such"
    assert refusal(text) == f"{text}: listen: no user is named no-such"
    text = f"unix:{tmp_path}/s?group=no-such"
    assert refusal(text) == f"{text}: listen: no group is named no-such"
    assert os.listdir(tmp_path) == []


def test_numbers_of_users_and_groups() -> None:
    assert number_of("user", pwd.getpwuid(0).pw_name) == 0
    assert number_of("group", grp.getgrgid(0).gr_name) == 0
    assert number_of("user", "12345") == number_of("group", "12345") == 12345
    assert number_of("user", "no-such") is None
    assert number_of("group", "4294967295") is None, "chown would take it for: leave as it is"


def test_only_root_gives_a_path_away(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)

    def work() -> None:
        with pytest.raises(UsageError, match=r"unix:s.user=0: listen: Operation not permitted"):
            open_listeners((parse_address("unix:s?user=0", listen=True),))
        assert os.listdir() == []

    as_stranger(tmp_path, work)


def test_a_path_that_nobody_serves_any_more_is_replaced(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(path)
        gone.listen()
    with listening(f"unix:{path}") as ((listener,),):
        assert reaches(listener)


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
def test_a_path_that_somebody_serves_is_refused(kind: int, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX, kind) as alive:
        alive.bind(path)
        if kind != socket.SOCK_DGRAM:
            alive.listen()
        assert refusal(f"unix:{path}") == f"unix:{path}: listen: Address already in use"
        assert os.path.exists(path)


def test_a_path_whose_queue_is_full_is_alive(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with ExitStack() as stack:
        alive = stack.enter_context(socket.socket(socket.AF_UNIX))
        alive.bind(path)
        alive.listen(0)
        full = 0
        while full != errno.EAGAIN:
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            full = client.connect_ex(path)
            assert full in {0, errno.EAGAIN}
        assert refusal(f"unix:{path}") == f"unix:{path}: listen: Address already in use"


def test_what_is_not_a_socket_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("kept")
    text = f"unix:{path}"
    assert refusal(text) == f"{text}: listen: {path} is there, and is not a socket"
    assert path.read_text() == "kept"
    link = tmp_path / "link"
    link.symlink_to("nowhere")
    assert "is not a socket" in refusal(f"unix:{link}")
    assert link.is_symlink()


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    text = f"unix:{tmp_path}/none/s"
    assert refusal(text) == f"{text}: listen: No such file or directory"


def test_only_our_own_path_is_removed(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with listening(f"unix:{path}"):
        os.unlink(path)
        other = socket.socket(socket.AF_UNIX)
        other.bind(path)
    with other:
        assert os.path.exists(path)
    os.unlink(path)
    with listening(f"unix:{path}"):
        os.unlink(path)  # gone already: no error


def test_a_worker_that_ends_leaves_the_path_to_the_others(tmp_path: Path) -> None:
    with listening(f"unix:{tmp_path}/s", workers=2) as ((mine,), (theirs,)):
        assert mine is theirs
        child = os.fork()
        if child == 0:
            try:
                theirs.close()
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        assert reaches(mine)
    assert os.listdir(tmp_path) == []


def test_an_abstract_name_leaves_nothing_behind() -> None:
    text = f"unix:@zpipe-test-{os.getpid()}"
    with listening(text) as ((listener,),):
        assert (listener.address, listener.path) == (text, None)
        assert reaches(listener)
        assert refusal(text) == f"{text}: listen: Address already in use"
    with listening(text):
        pass


# Socket activation


def in_child(sockets: list[socket.socket], work: Callable[[], None]) -> None:
    """Do `work` in a forked child whose fds from 3 on are these sockets; fail as it fails."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        report = os.dup2(writer, 1000)
        try:
            for place, end in enumerate(sockets):
                os.dup2(end.fileno(), 900 + place)
            for place in range(len(sockets)):
                os.dup2(900 + place, 3 + place)
            work()
        except BaseException:
            os.write(report, traceback.format_exc()[-60000:].encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader) as told:
        failure = told.read()
    os.waitpid(child, 0)
    assert not failure, failure


def activation(count: int, *names: str) -> dict[str, str]:
    """Return the environment of a process that is passed sockets."""
    found = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(count)}
    return {**found, "LISTEN_FDNAMES": ":".join(names)} if names else found


def test_what_was_passed_is_told_by_the_environment() -> None:
    assert passed({}) == []
    assert passed(activation(0)) == []
    assert passed(activation(2)) == [(3, ""), (4, "")]
    assert passed(activation(3, "web", "db")) == [(3, "web"), (4, "db"), (5, "")]
    assert passed({**activation(1), "LISTEN_PID": "1"}) == [], "meant for another process"
    assert passed({**activation(1), "LISTEN_FDS": "x"}) == []
    assert passed({**activation(1), "LISTEN_FDS": "-1"}) == []


def test_passed_sockets_are_listened_at_when_there_is_no_address(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tmp_path / "s"))
        unix.listen()

        def work() -> None:
            found = open_listeners((), workers=2, environment=activation(2, "web", "local"))
            assert found[0] == found[1], "workers share what was passed"
            first, second = found[0]
            assert first.address == f"127.0.0.1:{tcp.getsockname()[1]}"
            assert second.address == f"unix:{tmp_path}/s"
            for number, listener in enumerate((first, second), 3):
                assert listener.socket.fileno() == number
                assert not listener.socket.getblocking()
                assert not os.get_inheritable(number)
                assert not listener.owned
                assert reaches(listener)
            with connected(first):
                first.socket.settimeout(10)
                accepted, _ = first.socket.accept()
                for level, name in INHERITED:
                    assert accepted.getsockopt(level, name), name
            for listener in (first, second):
                listener.close()
                listener.close()
            assert os.path.exists(tmp_path / "s"), "the path is not ours"

        in_child([tcp, unix], work)
        # whoever passed them has them still
        for end in (tcp, unix):
            listener = Listener(end, "")
            assert reaches(listener)


def test_sockets_are_meant_by_number_or_name() -> None:
    ends = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]

    def work() -> None:
        environment = activation(3, "web", "db", "web")

        def numbers(*texts: str) -> list[int]:
            addresses = tuple(parse_address(text, listen=True) for text in texts)
            (found,) = open_listeners(addresses, environment=environment)
            return [listener.socket.detach() for listener in found]

        assert numbers("fd:web") == [3, 5]
        assert numbers("fd:4", "fd:web") == [4, 3, 5]
        environment = {}
        assert numbers("fd:5") == [5], "inherited in another way"
        environment = activation(3, "web", "db", "web")
        for texts, why in [
            (("fd:api",), "fd:api: listen: no passed socket has this name; passed are web, db"),
            (("fd:3", "fd:web"), "fd 3 (web): listen: is given twice"),
        ]:
            with pytest.raises(UsageError) as caught:
                numbers(*texts)
            assert str(caught.value) == why
        # the refusal has closed fd 3
        environment = {}
        with pytest.raises(UsageError, match=r"fd:web: listen: .*; none was passed by name"):
            numbers("fd:web")

    in_child(ends, work)
    for end in ends:
        end.close()


def test_what_was_passed_must_listen_for_streams() -> None:
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    idle = socket.socket()
    one, other = socket.socketpair()
    reader, writer = os.pipe()
    with datagrams, idle, one, other, open(reader) as _, open(writer, "w") as _:
        for fd, why in [
            (999, "Bad file descriptor"),
            (reader, "is not a socket"),
            (datagrams.fileno(), "is not a stream socket of TCP or UNIX"),
            (idle.fileno(), "is a socket that does not listen"),
            (one.fileno(), "is a socket that does not listen"),
        ]:
            assert refusal(f"fd:{fd}") == f"fd {fd}: listen: {why}"
            if fd != 999:
                os.fstat(fd)  # it is not ours to close


def test_a_bad_one_among_the_passed_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as good, socket.socket() as bad:

        def work() -> None:
            with pytest.raises(UsageError) as caught:
                open_listeners((), environment=activation(2, "web", "db"))
            assert str(caught.value) == "fd 4 (db): listen: is a socket that does not listen"

        in_child([good, bad], work)


def test_nothing_to_listen_at_is_refused() -> None:
    assert refusal() == "listen: no address was given, and no socket passed in"


def test_a_standard_fd_stays_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as end:

        def work() -> None:
            os.dup2(3, 0)
            (((listener),),) = open_listeners((parse_address("fd:0", listen=True),))
            listener.close()
            os.fstat(0)

        in_child([end], work)


# Loops


def place(text: str) -> tuple[int, Any]:
    """Return the first place of an address."""
    return resolve(parse_address(text))[0]


def test_a_connection_to_the_listener_itself_is_known(tmp_path: Path) -> None:
    path = tmp_path / "s"
    (tmp_path / "link").symlink_to(path)
    name = f"unix:@zpipe-loop-{os.getpid()}"
    with listening("127.0.0.1:0", "0.0.0.0:0", f"unix:{path}", name) as ((own, all_v4, at, by),):
        port, everywhere = port_of(own), port_of(all_v4)
        for listener, text, loops in [
            (own, f"127.0.0.1:{port}", True),
            (own, f"[::ffff:127.0.0.1]:{port}", True),
            (own, f"0.0.0.0:{port}", True),
            (own, f"127.0.0.2:{port}", False),
            (own, f"127.0.0.1:{everywhere}", False),
            (own, f"unix:{path}", False),
            (all_v4, f"127.0.0.2:{everywhere}", True),
            (all_v4, f"192.0.2.1:{everywhere}", False),
            (all_v4, f"[::1]:{everywhere}", False),
            (at, f"unix:{tmp_path}/link", True),
            (at, f"unix:{tmp_path}/other", False),
            (at, name, False),
            (by, name, True),
            (by, f"{name}x", False),
            (at, f"127.0.0.1:{port}", False),
        ]:
            assert leads_to(listener, *place(text)) is loops, (listener.address, text)


def test_a_listener_of_both_families_is_reached_by_both() -> None:
    need_family(socket.AF_INET6)
    with listening(":0") as ((listener,),):
        for host in ("127.0.0.1", "[::1]", "[::]", "0.0.0.0"):
            assert leads_to(listener, *place(f"{host}:{port_of(listener)}")), host
        assert not leads_to(listener, *place(f"192.0.2.1:{port_of(listener)}"))
