"""The network device on the way to an address, and whether it gathers from scattered pages.

Only a device with scatter-gather lets sendfile and splice hand page references to it; without,
the kernel copies the payload once more into a linear buffer.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct

STREAM = socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC

_RTM_GETROUTE, _NLM_F_REQUEST, _NLMSG_ERROR = 26, 1, 2
_RTA_DST, _RTA_OIF = 1, 4
_SIOCETHTOOL, _ETHTOOL_GSG = 0x8946, 0x00000018


def route_device(family: int, address: str) -> str | None:
    """Return the name of the device that packets to a numeric address leave by; None if unknown.

    Source: rtnetlink(7), RTM_GETROUTE.
    """
    try:
        packed = socket.inet_pton(family, address.partition("%")[0])
        attribute = struct.pack("HH", 4 + len(packed), _RTA_DST) + packed
        message = struct.pack("BBBBBBBBI", family, len(packed) * 8, 0, 0, 0, 0, 0, 0, 0) + attribute
        header = struct.pack("IHHII", 16 + len(message), _RTM_GETROUTE, _NLM_F_REQUEST, 1, 0)
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as query:
            query.sendto(header + message, (0, 0))
            answer = query.recv(65536)
        (kind,) = struct.unpack_from("H", answer, 4)
        if kind == _NLMSG_ERROR:
            return None
        place = 16 + 12  # past nlmsghdr and rtmsg
        while place + 4 <= len(answer):
            length, name = struct.unpack_from("HH", answer, place)
            if name == _RTA_OIF:
                (index,) = struct.unpack_from("I", answer, place + 4)
                return socket.if_indextoname(index)
            place += max(4, (length + 3) & ~3)
    except OSError:
        pass
    return None


def gathers(device: str) -> bool | None:
    """Tell whether a network device does scatter-gather (ETHTOOL_GSG); None if it does not say."""
    import ctypes

    value = (ctypes.c_uint32 * 2)(_ETHTOOL_GSG, 0)
    request = struct.pack("16sP8x", os.fsencode(device), ctypes.addressof(value))
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as query:
            fcntl.ioctl(query, _SIOCETHTOOL, request)
    except OSError:
        return None
    return bool(value[1])


def is_connected_to_itself(end: socket.SocketType) -> bool:
    """Whether a TCP socket is its own peer.

    Where nobody listens at a port of this machine that the kernel also gives to clients, a connect
    may be given that very port, and succeeds (a simultaneous open, RFC 9293, 3.5).

    Raises: OSError  ENOTCONN: it is not connected any more.
    """
    return end.family != socket.AF_UNIX and end.getsockname() == end.getpeername()


def reset_at_close(end: socket.SocketType) -> None:
    """Let close send RST and drop what was not sent (SO_LINGER of 0 seconds, socket(7)).

    Raises: OSError  the socket is no connection any more.
    """
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def peek(fd: int) -> bool:
    """Tell whether a stream socket has bytes to read; False is a true end of input.

    splice(2) returns 0 at an urgent mark and after a reset was reported once, so a 0 from it is
    not yet the end.

    Raises: BlockingIOError  open, and nothing to read now.
            OSError          the connection failed.
    """
    with socket.socket(fileno=os.dup(fd)) as end:
        return bool(end.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))


def receive_without_waiting(fd: int, buffer: memoryview) -> int:
    """Receive on a socket whose O_NONBLOCK is not ours to set; this passes an urgent mark.

    poll(2) calls a socket ready that has an urgent mark and nothing behind it (POLLPRI); it is
    idle again once a receive has found that out.

    Raises: BlockingIOError  nothing to read now.
    """
    with socket.socket(fileno=os.dup(fd)) as end:
        return end.recv_into(buffer, len(buffer), socket.MSG_DONTWAIT)


def send_without_waiting(fd: int, data: memoryview) -> int:
    """Send on a socket whose O_NONBLOCK is not ours to set.

    Raises: BlockingIOError  the socket's buffer is full.
    """
    with socket.socket(fileno=os.dup(fd)) as end:
        return end.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


def error_of(fd: int) -> int:
    """Return and clear the error that waits on a socket (SO_ERROR); 0 for none."""
    with socket.socket(fileno=os.dup(fd)) as end:
        return end.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


def do_not_pace(fd: int) -> str | None:
    """Take a connection that never leaves this machine out of a pacing congestion control.

    bbr spreads packets over time for the sake of a network; on loopback there is none, and
    sendfile measured seven times slower under it than under reno or cubic (Linux 6.18, 1 GiB).

    Returns: the name of the congestion control that was replaced; None: it was left alone.
    """
    with socket.socket(fileno=os.dup(fd)) as end:
        try:
            name = end.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
            now = name.partition(b"\0")[0].decode()
            if not now.startswith("bbr"):
                return None
            # reno is part of every kernel and allowed to every user
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")
        except OSError:
            return None
    return now
