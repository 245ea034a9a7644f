"""What kind of machine it is, by the marks that it leaves: here in folders made for it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from zpipe.doctor import host

if TYPE_CHECKING:
    from pathlib import Path


def write(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


@pytest.mark.parametrize(
    ("files", "environment", "name"),
    [
        ({}, {}, None),
        ({"proc/1/cgroup": "0::/init.scope\n"}, {}, None),
        ({".dockerenv": ""}, {}, "Docker"),
        ({"run/.containerenv": ""}, {}, "Podman"),
        ({"run/systemd/container": "systemd-nspawn\n"}, {}, "systemd-nspawn"),
        ({"proc/1/cgroup": "5:cpu:/docker/0123\n"}, {}, "Docker"),
        ({"proc/1/cgroup": "0::/kubepods.slice/x\n"}, {}, "Kubernetes"),
        ({"proc/1/cgroup": "0::/machine.slice/libpod-1.scope\n"}, {}, "Podman"),
        ({}, {"container": "lxc"}, "lxc"),
        ({".dockerenv": ""}, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "Kubernetes"),
    ],
)
def test_containers_are_noticed(
    files: dict[str, str], environment: dict[str, str], name: str | None, tmp_path: Path
) -> None:
    for path, text in files.items():
        write(tmp_path, path, text)
    answer = host.container(str(tmp_path), environment)
    assert answer.value == name
    assert answer.state == "fact"
    assert answer.detail.startswith(name or "none noticed")


@pytest.mark.parametrize(
    ("release", "build", "name", "state"),
    [
        ("6.18.4", "#1 SMP", None, "fact"),
        ("4.4.0", "#1 SMP Sun Jan 10 15:06:54 PST 2016", "gVisor", "limited"),
        ("4.19.0-gvisor", "#1 SMP Sun Jan 10 15:06:54 PST 2016", "gVisor", "limited"),
        ("4.4.0-210-generic", "#242-Ubuntu SMP", None, "fact"),
        ("4.4.0-19041-Microsoft", "#1-Microsoft", "WSL1", "limited"),
        ("5.15.167.4-microsoft-standard-WSL2", "#1 SMP", "WSL2", "fact"),
    ],
)
def test_other_kernels_are_noticed(release: str, build: str, name: str | None, state: str) -> None:
    answer = host.sandbox_of(release, build)
    assert (answer.value, answer.state) == (name, state)


@pytest.mark.parametrize(
    ("status", "detail"),
    [
        ("Seccomp:\t0\nSeccomp_filters:\t0\n", "no filter of system calls"),
        ("Seccomp:\t2\nSeccomp_filters:\t1\n", "a filter of system calls in place"),
        ("NoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t3\n", "3 filters of system calls"),
        ("NoNewPrivs:\t1\nSeccomp:\t2\n", "a filter of system calls in place, and no new"),
        ("Name:\tx\n", "/proc/self/status does not tell"),
    ],
)
def test_filters_are_noticed(status: str, detail: str, tmp_path: Path) -> None:
    write(tmp_path, "proc/self/status", status)
    assert host.seccomp(str(tmp_path)).detail.startswith(detail)


def capabilities(*bits: int) -> str:
    return f"CapEff:\t{sum(1 << bit for bit in bits):016x}\n"


@pytest.mark.parametrize(
    ("status", "detail"),
    [
        (capabilities(), "without capabilities"),
        (capabilities(*range(41)), "with all capabilities of use to zpipe"),
        (capabilities(*(set(range(41)) - {24})), "without CAP_SYS_RESOURCE"),
        (capabilities(28), "with CAP_LEASE"),
        ("", "does not tell the capabilities"),
    ],
)
def test_rights_are_told(status: str, detail: str, tmp_path: Path) -> None:
    write(tmp_path, "proc/self/status", status)
    answer = host.user(str(tmp_path))
    assert answer.detail.endswith(detail)
    assert ("root" if os.geteuid() == 0 else f"user {os.geteuid()}") in answer.detail


@pytest.mark.parametrize(
    ("text", "mapped"),
    [
        ("         0          0 4294967295\n", False),
        ("         0       1000          1\n", True),
        ("         0       1000          1\n         1     100000      65536\n", True),
    ],
)
def test_a_user_namespace_is_noticed(text: str, mapped: bool, tmp_path: Path) -> None:
    write(tmp_path, "proc/self/uid_map", text)
    answer = host.user_namespace(str(tmp_path))
    assert answer.value is mapped
    assert ("user 0 here is 1000 outside" in answer.detail) is mapped


def test_versions_are_those_that_are_installed() -> None:
    import click

    found: Any = host.libraries()
    assert found.state == "ok"
    assert set(found.value) == set(host.LIBRARIES)
    assert f"click {found.value['click']}" in found.detail
    assert click.__name__ in found.value
    missing: Any = host.optional()
    assert set(missing.value) == set(host.OPTIONAL)
    for name, use in host.OPTIONAL.items():
        assert (f"{name} ({use})" in missing.detail) is (missing.value[name] is None)
