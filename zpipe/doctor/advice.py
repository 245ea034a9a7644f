"""What is worth doing about findings. Pure.

Only what really hinders zpipe is worth a change: a setting that others would like larger is left
alone. The thresholds are those by which the findings were judged.
"""

from __future__ import annotations

from zpipe.doctor.findings import Advice
from zpipe.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from zpipe.doctor.findings import Finding

# settings by the names of their findings: what to set them to, and why
_SYSCTLS = {
    "fs.pipe-max-size": (
        "1048576",
        "zpipe's pipes are 1 MiB where they may be: a sixteenth of the system calls of 64 KiB",
    ),
    "fs.leases-enable": ("1", "--lease and the library's guards need leases"),
    "fs.lease-break-time": ("45", "who holds a lease needs time to finish what it reads"),
    "net.core.somaxconn": ("4096", "a proxy asks for a queue of 4096 clients"),
    "net.ipv4.tcp_rmem": ('"4096 131072 6291456"', "TCP receives in windows below 1 MiB"),
    "net.ipv4.tcp_wmem": ('"4096 16384 4194304"', "TCP holds less than one pipe of 1 MiB"),
    "net.ipv4.ip_local_port_range": (
        '"32768 60999"',
        "each connection of a proxy to an upstream takes a port",
    ),
}
_QUOTA_PAGES = 65536  # 256 MiB: 256 pipes of 1 MiB for a user
_FILTERED = frozenset({1, 38})  # EPERM, ENOSYS: how filters of system calls refuse


class _Given(Value):
    """The findings by their names; those of places are not among them."""

    by_name: Mapping[str, Finding]
    all: Sequence[Finding]

    def lacks(self, name: str) -> bool:
        return name in self.by_name and self.by_name[name].lacks


def advise(findings: Sequence[Finding]) -> list[Advice]:
    """Return what is worth doing, the most useful first."""
    given = _Given({each.name: each for each in findings if each.path is None}, findings)
    return [
        *_filter(given),
        *_quota(given),
        *_settings(given),
        *_limits(given),
        *_network(given),
    ]


def _filter(given: _Given) -> Iterable[Advice]:
    refused = [
        finding.label
        for finding in given.all
        if finding.group == "moving" and finding.lacks and finding.errno in _FILTERED
    ]
    if not refused:
        return
    why = f"something refuses calls that move bytes inside the kernel: {', '.join(refused)}"
    seccomp = given.by_name.get("seccomp")
    container = given.by_name.get("container")
    if not _filtered(seccomp):
        command = "look for a security module: there is no filter of system calls"
    elif container is not None and container.value:
        command = "start the container with --security-opt seccomp=PROFILE that allows them"
    else:
        command = "allow them in the filter (SystemCallFilter= of a systemd unit)"
    yield Advice("filter", why, command)


def _filtered(seccomp: Finding | None) -> bool:
    value = seccomp.value if seccomp is not None else None
    return isinstance(value, dict) and value.get("mode") not in (None, "0")


def _quota(given: _Given) -> Iterable[Advice]:
    if given.lacks("large-pipes") and not given.lacks("fs.pipe-max-size"):
        limit = given.by_name.get("open-files")
        if limit is not None and limit.lacks:
            return
        soft = given.by_name.get("fs.pipe-user-pages-soft")
        pages = soft.value if soft is not None and isinstance(soft.value, int) else 0
        why = "this user gets few large pipes, as all of its pipes share one quota"
        name = "fs.pipe-user-pages-soft"
        if 0 < pages < _QUOTA_PAGES:
            yield Advice(name, why, f"sysctl -w {name}={_QUOTA_PAGES}")
        hard = given.by_name.get("fs.pipe-user-pages-hard")
        if hard is not None and isinstance(hard.value, int) and 0 < hard.value < _QUOTA_PAGES:
            yield Advice(hard.name, why, f"sysctl -w {hard.name}=0")


def _settings(given: _Given) -> Iterable[Advice]:
    for name, (wanted, why) in _SYSCTLS.items():
        if given.lacks(name):
            yield Advice(name, why, f"sysctl -w {name}={wanted}")
    if given.lacks("dirty-memory"):
        why = "writers wait for the disk although there is memory"
        yield Advice("dirty-memory", why, "sysctl -w vm.dirty_bytes=268435456")


def _limits(given: _Given) -> Iterable[Advice]:
    if given.lacks("open-files"):
        why = "a proxy takes two fds for each connection"
        yield Advice("open-files", why, "ulimit -Hn 65536, or LimitNOFILE=65536 in a systemd unit")
    if given.lacks("file-size"):
        yield Advice("file-size", "larger files cannot be written", "ulimit -f unlimited")


def _network(given: _Given) -> Iterable[Advice]:
    for finding in given.all:
        value = finding.value
        if finding.name == "device" and finding.state == "limited" and isinstance(value, dict):
            name = value["device"]
            why = f"{name} could take over what the processor does now"
            yield Advice(finding.name, why, f"ethtool -K {name} sg on tso on gso on")
    congestion = given.by_name.get("congestion")
    if (
        congestion is not None
        and congestion.lacks
        and isinstance(congestion.value, dict)
        and congestion.value.get("paces")
    ):
        yield Advice(
            "congestion",
            "bbr spreads what goes over loopback in time, for a network that is not there",
            "ip route change local 127.0.0.1 dev lo table local proto kernel scope host"
            " src 127.0.0.1 congctl reno",
        )
