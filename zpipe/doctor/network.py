"""The network devices, how TCP is paced, and the settings of TCP."""

from __future__ import annotations

import socket
from functools import partial

from zpipe.doctor.findings import Answer, Probe, Trying, errno_name
from zpipe.doctor.limits import (
    MIB,
    Setting,
    at_least,
    number,
    setting_probe,
    size_at_least,
)
from zpipe.doctor.scratch import Scratch
from zpipe.kernel.mapping import PAGE
from zpipe.kernel.offloads import SHORT, is_up, offloads

_DEVICES = 16  # that are looked at: hosts of containers have hundreds that are all the same
_BACKLOG = 1024
_PORTS = 16384
UNPACED = "reno"  # part of every kernel, and allowed to every user


def _ports(text: str) -> Answer:
    first, last = number(text), number(text, 1)
    count = max(0, last - first + 1)
    told = f"{first}-{last}: {count} connections at once to one address"
    return Answer("ok" if count >= _PORTS else "limited", told)


SETTINGS = (
    Setting(
        "net.core.somaxconn",
        "net.core.somaxconn",
        at_least(_BACKLOG),
        "so many clients of a proxy may wait to be accepted: a burst of more is turned away for a"
        " second or longer",
    ),
    Setting(
        "net.ipv4.tcp_rmem",
        "tcp_rmem, maximum",
        size_at_least(MIB, place=2),
        "TCP receives in small windows: slow on fast or long ways",
    ),
    Setting(
        "net.ipv4.tcp_wmem",
        "tcp_wmem, maximum",
        size_at_least(MIB, place=2),
        "TCP takes less than a pipe of zpipe holds: more system calls, and slow on long ways",
    ),
    Setting(
        "net.ipv4.tcp_mem",
        "tcp_mem, pressure",
        size_at_least(64 * MIB, place=1, factor=PAGE),
        "all TCP connections together get so little memory that many in bulk slow down",
    ),
    Setting(
        "net.ipv4.ip_local_port_range",
        "ip_local_port_range",
        _ports,
        "a proxy has no more connections than that to one upstream",
    ),
)


def probes() -> list[Probe]:
    """Return the questions."""
    return [
        *(_device_probe(name) for name in devices()),
        Probe(
            "congestion",
            "TCP on loopback",
            congestion,
            "what other programs send over loopback is paced as if there were a network; zpipe"
            f" takes its own connections there out of it ({UNPACED})",
        ),
        *map(setting_probe, SETTINGS),
    ]


def devices() -> list[str]:
    """Return the names of the devices that are in use, and that are looked at."""
    found = []
    try:
        names = [name for _, name in socket.if_nameindex()]
    except OSError:
        return []
    for name in names:
        try:
            if is_up(name):
                found.append(name)
        except OSError:
            continue
    return found[:_DEVICES]


def _device_probe(name: str) -> Probe:
    return Probe(
        "device",
        f"device {name}",
        partial(device, name),
        f"what splice and sendfile send by {name} is copied once more, and cut into packets by"
        " the processor",
    )


def device(name: str) -> Answer:
    """Tell what a device takes over."""
    found = offloads(name)
    value = {"device": name, **found}
    on = [SHORT[feature] for feature, state in found.items() if state]
    off = [SHORT[feature] for feature, state in found.items() if state is False]
    told = "; ".join(
        [
            *([f"{', '.join(on)} on"] if on else []),
            *([f"{', '.join(off)} off"] if off else []),
        ]
    )
    if not told:
        return Answer("unknown", "it does not tell", value)
    return Answer("limited" if found["scatter-gather"] is False else "ok", told, value)


def congestion() -> Answer:
    """Ask a connection over loopback which congestion control it has, and if it may be changed."""
    with Scratch() as scratch:
        end, _ = scratch.tcp()
        with Trying("getsockopt(TCP_CONGESTION)"):
            text = end.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
        name = text.partition(b"\0")[0].decode()
        value = {"congestion": name, "paces": name.startswith("bbr")}
        if not name.startswith("bbr"):
            return Answer("ok", name, value)
        try:
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, UNPACED.encode())
        except OSError as error:
            refused = f"{name} paces, and {UNPACED} is refused ({errno_name(error.errno or 0)})"
            return Answer("limited", refused, value)
    return Answer("limited", f"{name} paces: it is meant for networks", value)
