"""What kind of machine this is: kernel, sandbox, rights, Python and its libraries."""

from __future__ import annotations

import os
import platform
import sys
from functools import partial
from importlib.metadata import PackageNotFoundError, version

from zpipe.doctor.findings import Answer, Probe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

# what gVisor calls itself in uname(2), whatever kernel is below it
_GVISOR = "#1 SMP Sun Jan 10 15:06:54 PST 2016"
_ALL_IDS = 4294967295
# of linux/capability.h, those that widen what zpipe can do
CAPABILITIES = {
    "CHOWN": 0,
    "DAC_OVERRIDE": 1,
    "FOWNER": 3,
    "NET_BIND_SERVICE": 10,
    "SYS_ADMIN": 21,
    "SYS_RESOURCE": 24,
    "MKNOD": 27,
    "LEASE": 28,
    "SETFCAP": 31,
}
LIBRARIES = ("click", "PyYAML", "msgspec", "rich", "prometheus-client")
# and what they are for
OPTIONAL = {
    "distributed": "cp --executor dask",
    "mpi4py": "cp --executor mpi",
    "matplotlib": "bench --plot",
}
# cgroup v1 paths, and v2 ones where the namespace is the host's
_IN_CGROUP = {
    "docker": "Docker",
    "kubepods": "Kubernetes",
    "libpod": "Podman",
    "lxc": "LXC",
    "containerd": "containerd",
    "machine.slice": "systemd-nspawn",
}


def probes(root: str = "/") -> list[Probe]:
    """Return the questions; files are looked for below `root`."""
    return [
        Probe("kernel", "kernel", kernel),
        Probe("sandbox", "sandbox", partial(sandbox, root)),
        Probe("container", "container", partial(container, root)),
        Probe("seccomp", "seccomp", partial(seccomp, root)),
        Probe("user", "user", partial(user, root)),
        Probe("user-namespace", "user namespace", partial(user_namespace, root)),
        Probe("python", "Python", python),
        Probe("libraries", "libraries", libraries, "zpipe may fail at any moment"),
        Probe("optional", "optional libraries", optional),
    ]


def kernel() -> Answer:
    found = os.uname()
    return Answer("fact", f"{found.sysname} {found.release} {found.machine}", found.release)


def sandbox(root: str) -> Answer:
    """Notice kernels that only look like Linux."""
    return sandbox_of(*os.uname()[2:4])


def sandbox_of(release: str, build: str) -> Answer:
    """Tell what a kernel's release and build say of it."""
    if "gvisor" in release.lower() + build.lower() or build == _GVISOR:
        return Answer("limited", "gVisor: a kernel of its own, without much of splice", "gVisor")
    if "microsoft" in release.lower():
        if "wsl2" in release.lower() or not release.startswith("4.4.0"):
            return Answer("fact", "WSL 2: Linux beside Windows", "WSL2")
        return Answer("limited", "WSL 1: Windows, speaking as Linux", "WSL1")
    return Answer("fact", "none noticed")


def container(root: str, environment: Mapping[str, str] = os.environ) -> Answer:
    """Notice a container by the marks that they leave."""
    name, mark = _container(root, environment)
    if not name:
        return Answer("fact", "none noticed")
    return Answer("fact", f"{name}, by {mark}: settings may be those of a host", name)


def _container(root: str, environment: Mapping[str, str]) -> tuple[str, str]:
    """Return what it is, and what tells; empty for none."""
    if environment.get("KUBERNETES_SERVICE_HOST"):
        return "Kubernetes", "KUBERNETES_SERVICE_HOST"
    for path, name in (("run/.containerenv", "Podman"), (".dockerenv", "Docker")):
        if os.path.exists(os.path.join(root, path)):
            return name, f"/{path}"
    if told := _text(root, "run/systemd/container").strip():
        return told, "/run/systemd/container"
    if told := environment.get("container", "").strip():
        return told, "the variable container"
    groups = _text(root, "proc/1/cgroup")
    for part, name in _IN_CGROUP.items():
        if part in groups:
            return name, "/proc/1/cgroup"
    return "", ""


def seccomp(root: str) -> Answer:
    """Tell whether a filter of system calls is in place; what it refuses is seen elsewhere."""
    status = _status(root)
    mode, count = status.get("Seccomp"), status.get("Seccomp_filters", "")
    confined = status.get("NoNewPrivs") == "1"
    value = {"mode": mode, "filters": count or None, "no_new_privileges": confined}
    if mode is None:
        return Answer("unknown", "/proc/self/status does not tell")
    if mode == "0":
        return Answer("fact", "no filter of system calls", value)
    many = f"{count} filters" if count not in ("", "1") else "a filter"
    more = ", and no new privileges" if confined else ""
    return Answer("fact", f"{many} of system calls in place{more}", value)


def user(root: str) -> Answer:
    """Tell who runs this, and which rights that zpipe has a use for."""
    uid = os.geteuid()
    who = "root" if uid == 0 else f"user {uid}"
    try:
        held = int(_status(root)["CapEff"], 16)
    except (KeyError, ValueError):
        return Answer("unknown", f"{who}; /proc/self/status does not tell the capabilities", uid)
    have = [name for name, bit in CAPABILITIES.items() if held >> bit & 1]
    lack = [name for name in CAPABILITIES if name not in have]
    value = {"uid": uid, "capabilities": have}
    if not have:
        return Answer("fact", f"{who}, without capabilities", value)
    if not lack:
        return Answer("fact", f"{who}, with all capabilities of use to zpipe", value)
    if len(lack) <= len(have):
        return Answer("fact", f"{who}, without {_capabilities(lack)}", value)
    return Answer("fact", f"{who}, with {_capabilities(have)}", value)


def _capabilities(names: list[str]) -> str:
    return ", ".join(f"CAP_{name}" for name in names)


def user_namespace(root: str) -> Answer:
    """Notice that ids are mapped: root here is somebody else outside."""
    lines = [line.split() for line in _text(root, "proc/self/uid_map").splitlines()]
    if not lines:
        return Answer("unknown", "/proc/self/uid_map does not tell")
    if len(lines) == 1 and lines[0] == ["0", "0", str(_ALL_IDS)]:
        return Answer("fact", "the first one: ids are those of the machine", False)
    inside, outside, _ = lines[0]
    return Answer("fact", f"its own: user {inside} here is {outside} outside", True)


def python() -> Answer:
    name = f"{platform.python_implementation()} {platform.python_version()}"
    return Answer("fact", f"{name}, {sys.executable}", platform.python_version())


def libraries() -> Answer:
    """Return the versions of the libraries that zpipe needs."""
    found = {name: _version(name) for name in LIBRARIES}
    told = [f"{name} {version or 'is not installed'}" for name, version in found.items()]
    return Answer("ok" if all(found.values()) else "absent", ", ".join(told), found)


def optional() -> Answer:
    """Return the versions of the libraries that some options need."""
    found = {name: _version(name) for name in OPTIONAL}
    have = [f"{name} {version}" for name, version in found.items() if version]
    lack = [f"{name} ({use})" for name, use in OPTIONAL.items() if not found[name]]
    told = [", ".join(have)] if have else []
    told += [f"not installed: {', '.join(lack)}"] if lack else []
    return Answer("fact", "; ".join(told), found)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _status(root: str) -> dict[str, str]:
    lines = _text(root, "proc/self/status").splitlines()
    return {name: text.strip() for name, _, text in (line.partition(":") for line in lines)}


def _text(root: str, path: str) -> str:
    try:
        with open(os.path.join(root, path), errors="replace") as file:
            return file.read()
    except OSError:
        return ""
