"""Sockets that listen: opened at an address, or passed in by socket activation.

Everything is open before anything is served, and a failure closes what was opened. What accepted
sockets inherit is set here, once, instead of on each of them.
"""

from __future__ import annotations

import errno
import os
import socket
import stat

from zpipe.endpoints import unix_path
from zpipe.errors import UsageError, reason
from zpipe.kernel.network import STREAM, do_not_pace
from zpipe.proxy.activation import described, named, passed
from zpipe.proxy.addresses import resolve, shown
from zpipe.proxy.users import number_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    from zpipe.proxy.settings import Address
    from zpipe.proxy.upstreams import Target

_BACKLOG = 4096  # the kernel cuts it to net.core.somaxconn
_INET = (socket.AF_INET, socket.AF_INET6)
# the machine, or this namespace of it, has no IPv6
_NO_FAMILY = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)


class Listener:
    """A socket that listens and does not block.

    `address` is for people, with the real port. `owned` is False for a socket that was passed in:
    it is never shut down. Workers may share one; the path of a UNIX socket is removed by the
    process that has made it, and only while it is still the same.
    """

    __slots__ = ("_identity", "_maker", "address", "asked", "family", "owned", "path", "socket")

    def __init__(self, end: socket.socket, address: str, *, owned: bool = True):
        self.asked: Address | None = None  # what it was opened for; None: it was passed unasked
        self.socket = end
        self.address = address
        self.family = int(end.family)
        self.owned = owned
        self.path: str | None = None  # removed by close
        self._identity: tuple[int, int] | None = None
        self._maker = os.getpid()

    def bind_path(self, path: str) -> None:
        """Bind to a path, which is removed by close; nobody can connect yet. Raises: OSError."""
        self._identity = unix_path.bind(self.socket, path)
        self.path = path

    def hand_over(self, address: Address) -> None:
        """Give the path, which is there, another mode and owner.

        Raises: UsageError  `ADDRESS: listen: REASON`.
        """
        if self.path is None or self._identity is None:
            return
        mode = 0o600 if address.mode is None else address.mode
        try:
            unix_path.give(self.path, self._identity, mode, _owner(address))
        except OSError as error:
            raise UsageError(f"{address.text}: listen: {reason(error)}") from error

    def close(self) -> None:
        """Stop listening; may be called twice."""
        if self.socket.fileno() < 0:
            return
        if not self.owned and self.socket.fileno() <= 2:
            self.socket.detach()  # a standard fd stays open, or its number goes to something else
            return
        if self.path is not None and self._identity and self._maker == os.getpid():
            try:
                unix_path.remove(self.path, self._identity)
            except OSError:
                pass  # gone, or not ours to remove after --user; the next start replaces it
        self.socket.close()


def close_all(listeners: Iterable[list[Listener]]) -> None:
    """Close the listeners of all workers; what they share is closed once."""
    for own in listeners:
        for listener in own:
            listener.close()


def open_listeners(
    addresses: tuple[Address, ...],
    *,
    workers: int = 1,
    environment: Mapping[str, str] = os.environ,
) -> list[list[Listener]]:
    """Open what is listened at, one list for each worker; without addresses, what was passed in.

    TCP listeners are one socket a worker (SO_REUSEPORT), all others one that the workers share.

    Raises: UsageError  `ADDRESS: listen: REASON`; nothing stays open.
    """
    found: list[list[Listener]] = [[] for _ in range(workers)]
    try:
        if not addresses:
            fds = passed(environment)
            if not fds:
                raise UsageError("listen: no address was given, and no socket passed in")
            for fd, name in fds:
                _share(found, _take(fd, described(fd, name)))
        for address in addresses:
            before = len(found[0])
            if address.kind == "fd":
                for fd, called in named(address, environment):
                    if any(listener.socket.fileno() == fd for listener in found[0]):
                        raise UsageError(f"{called}: listen: is given twice")
                    _share(found, _take(fd, called))
            elif address.kind == "unix":
                _share(found, _listen_unix(address))
            else:
                _listen_tcp(address, found)
            for own in found:
                for listener in own[before:]:
                    listener.asked = address
    except BaseException:
        close_all(found)
        raise
    return found


def _share(found: list[list[Listener]], listener: Listener) -> None:
    for one in found:
        one.append(listener)


# Passed in


def _take(fd: int, name: str) -> Listener:
    """Take a socket that was passed in. Raises: UsageError  it is not one that listens."""
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            raise UsageError(f"{name}: listen: is not a socket")
        end = socket.socket(fileno=fd)
    except OSError as error:
        raise UsageError(f"{name}: listen: {reason(error)}") from error
    try:
        if end.type != socket.SOCK_STREAM or end.family not in (*_INET, socket.AF_UNIX):
            raise UsageError(f"{name}: listen: is not a stream socket of TCP or UNIX")
        if not end.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise UsageError(f"{name}: listen: is a socket that does not listen")
        # Shared with whoever passed it, who as a rule only polls it; accept has no other way not
        # to wait for a client that has left, and systemd sets the flag anew for each process.
        end.setblocking(False)
        end.set_inheritable(False)
        if end.family in _INET:
            _set_inherited(end)
        listener = Listener(end, _address_of(end), owned=False)
    except OSError as error:
        end.detach()
        raise UsageError(f"{name}: listen: {reason(error)}") from error
    except UsageError:
        end.detach()
        raise
    return listener


# TCP


def _listen_tcp(address: Address, found: list[list[Listener]]) -> None:
    """Listen at every address of a host, with one socket a worker.

    Raises: UsageError  one of them failed; what is in `found` is the caller's to close.
    """
    places = _places(address)
    port = address.port
    opened = 0
    for number, (family, place) in enumerate(places):
        try:
            for one in found:
                end = _bound(family, (place[0], port, *place[2:]), address, alone=one is found[0])
                one.append(Listener(end, ""))
                port = port or end.getsockname()[1]  # one port for all of them
                if len(found) > 1:
                    # Not before bind: the first must find out that others listen there, even if
                    # those are willing to share.
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            for one in found:
                end = one[-1].socket
                _set_inherited(end)
                end.listen(_BACKLOG)
                one[-1].address = _address_of(end)
        except OSError as error:
            more = places[number + 1 :] or opened
            if error.errno in _NO_FAMILY and family == socket.AF_INET6 and more:
                continue  # one name, two families, and a machine that lacks one
            raise UsageError(f"{address.text}: listen: {_reason(error, address)}") from error
        opened += 1


def _places(address: Address) -> list[tuple[int, Any]]:
    """Return what to bind to; without a host: `::` for both families, `0.0.0.0` in its absence."""
    if not address.host:
        places: list[tuple[int, Any]] = [(socket.AF_INET6, ("::", address.port, 0, 0))]
        if address.v6only or _bindable(places[0]):
            return places
        return [(socket.AF_INET, ("0.0.0.0", address.port))]
    places = resolve(address, passive=True)
    if address.v6only:
        places = [place for place in places if place[0] == socket.AF_INET6]
        if not places:
            raise UsageError(f"{address.text}: listen: v6only: the host has no IPv6 address")
    return places


def _bindable(place: tuple[int, Any]) -> bool:
    """Tell whether the machine has a family, and addresses of it."""
    family, (host, _, *rest) = place
    try:
        with socket.socket(family, STREAM) as end:
            end.bind((host, 0, *rest))
    except OSError:
        return False
    return True


def _bound(family: int, place: Any, address: Address, *, alone: bool) -> socket.socket:
    end = socket.socket(family, STREAM)
    try:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if not alone:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            # said either way: the default is a sysctl
            end.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address.v6only)
        end.bind(place)
    except BaseException:
        end.close()
        raise
    return end


def _set_inherited(end: socket.socket) -> None:
    """Set what the sockets that are accepted have from their listener (Linux). Raises: OSError."""
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    # an urgent byte stays in its place in the stream, instead of being lost beside it
    end.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
    host = end.getsockname()[0]
    if host == "::1" or host.removeprefix("::ffff:").startswith("127."):
        do_not_pace(end.fileno())


def _reason(error: OSError, address: Address) -> str:
    text = reason(error)
    if error.errno == errno.EADDRINUSE and address.host in ("", "::") and not address.v6only:
        return f"{text} (with ?v6only=1 it leaves IPv4 to others)"
    return text


def _address_of(end: socket.socket) -> str:
    name = end.getsockname()
    if name[:1] == ("::",) and not end.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY):
        return f"*:{name[1]}"  # both families
    return shown(end.family, name)


# UNIX


def _listen_unix(address: Address) -> Listener:
    ((_, place),) = resolve(address)
    _owner(address)  # nothing is made for one who is not there
    end = socket.socket(socket.AF_UNIX, STREAM)
    listener = Listener(end, shown(socket.AF_UNIX, place))
    try:
        if isinstance(place, str):
            try:
                listener.bind_path(place)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                _remove_stale(place, address)
                listener.bind_path(place)
            listener.hand_over(address)  # before listen: until then nobody can connect
        else:
            end.bind(place)
        end.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise UsageError(f"{address.text}: listen: {reason(error)}") from error
    except UsageError:
        listener.close()
        raise
    return listener


def _owner(address: Address) -> tuple[int, int]:
    """Return user and group by number. Raises: UsageError  there is none of that name."""
    return _number(address, "user", address.user), _number(address, "group", address.group)


def _remove_stale(path: str, address: Address) -> None:
    """Remove the path of a socket whose process has gone without tidying up.

    Raises: UsageError  it is something else, or somebody listens there.
            OSError     it cannot be looked at or removed.
    """
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise UsageError(f"{address.text}: listen: {path} is there, and is not a socket")
        with socket.socket(socket.AF_UNIX, STREAM) as probe:
            # EAGAIN: a queue that is full; EPROTOTYPE: not a stream; both are alive
            answer = probe.connect_ex(path)
        if answer == errno.ECONNREFUSED:
            os.unlink(path)
            return
    except FileNotFoundError:
        return  # its process has just tidied up
    if answer == errno.EACCES:
        raise OSError(answer, "")
    if answer != errno.ENOENT:
        raise OSError(errno.EADDRINUSE, "")


def _number(address: Address, what: str, name: str | None) -> int:
    """Return the number of a user or group; -1 leaves it as it is. Raises: UsageError."""
    number = -1 if name is None else number_of(what, name)
    if number is None:
        raise UsageError(f"{address.text}: listen: no {what} is named {name}")
    return number


# Upstreams that are the proxy itself


def no_loop(targets: Iterable[Target], listeners: Sequence[Listener]) -> None:
    """Raise: UsageError  an upstream or a mirror is the proxy itself."""
    for target in targets:
        for listener in listeners:
            if any(leads_to(listener, *place) for place in target.addresses):
                raise UsageError(f"{target.name}: is the proxy itself, at {listener.address}")


def leads_to(listener: Listener, family: int, place: Any) -> bool:
    """Tell whether a connection to a socket address would come back to a listener."""
    if (family == socket.AF_UNIX) != (listener.family == socket.AF_UNIX):
        return False
    own = listener.socket.getsockname()
    if family == socket.AF_UNIX:
        if isinstance(own, bytes) or isinstance(place, bytes):
            return bool(own == place)
        return os.path.exists(place) and os.path.exists(own) and os.path.samefile(place, own)
    if own[1] != place[1]:
        return False
    mine, theirs = own[0].removeprefix("::ffff:"), place[0].removeprefix("::ffff:")
    if theirs in ("0.0.0.0", "::"):
        theirs = "127.0.0.1" if theirs == "0.0.0.0" else "::1"  # that is what connect makes of it
    if mine not in ("0.0.0.0", "::"):
        return bool(mine == theirs)
    takes = mine == "::" or family == socket.AF_INET
    return takes and _is_local(theirs)


def _is_local(host: str) -> bool:
    """Tell whether an address is one of this machine: only to such can be bound."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return _bindable((family, (host, 0, 0, 0) if family == socket.AF_INET6 else (host, 0)))
