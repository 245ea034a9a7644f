"""What is worth doing, from findings alone."""

from __future__ import annotations

import errno

import pytest

from zpipe.doctor.advice import advise
from zpipe.doctor.copying import copies_within
from zpipe.doctor.findings import Finding

GOOD = [
    Finding("host", "container", "", "fact"),
    Finding("host", "seccomp", "", "fact", value={"mode": "0"}),
    Finding("moving", "splice-tcp", "splice TCP", "ok"),
    Finding("moving", "tee", "tee pipe to pipe", "ok"),
    Finding("pipes", "fs.pipe-max-size", "", "ok", value=1 << 20),
    Finding("pipes", "fs.pipe-user-pages-soft", "", "fact", value=16384),
    Finding("pipes", "fs.pipe-user-pages-hard", "", "fact", value=0),
    Finding("pipes", "large-pipes", "", "ok"),
    Finding("limits", "open-files", "", "ok"),
    Finding("network", "device", "", "ok", value={"device": "eth0"}),
    Finding("network", "congestion", "", "ok", value={"congestion": "cubic", "paces": False}),
    Finding("network", "net.core.somaxconn", "", "ok", value=4096),
]


def changed(*findings: Finding) -> list[Finding]:
    names = {finding.name for finding in findings}
    return [each for each in GOOD if each.name not in names] + list(findings)


def test_what_is_well_needs_nothing() -> None:
    assert advise(GOOD) == []
    assert advise([]) == []


@pytest.mark.parametrize(
    ("finding", "name", "command"),
    [
        (
            Finding("pipes", "fs.pipe-max-size", "", "limited", value=65536),
            "fs.pipe-max-size",
            "sysctl -w fs.pipe-max-size=1048576",
        ),
        (
            Finding("pipes", "large-pipes", "", "limited"),
            "fs.pipe-user-pages-soft",
            "sysctl -w fs.pipe-user-pages-soft=65536",
        ),
        (
            Finding("network", "net.core.somaxconn", "", "limited", value=128),
            "net.core.somaxconn",
            "sysctl -w net.core.somaxconn=4096",
        ),
        (Finding("limits", "open-files", "", "limited"), "open-files", "ulimit -Hn 65536"),
        (
            Finding("limits", "dirty-memory", "", "limited"),
            "dirty-memory",
            "sysctl -w vm.dirty_bytes=268435456",
        ),
        (
            Finding("network", "device", "", "limited", value={"device": "eth1"}),
            "device",
            "ethtool -K eth1 sg on tso on gso on",
        ),
        (
            Finding("network", "congestion", "", "limited", value={"paces": True}),
            "congestion",
            "ip route change local 127.0.0.1 dev lo table local",
        ),
        (
            Finding("moving", "tee", "tee pipe to pipe", "refused", errno=errno.EPERM),
            "filter",
            "look for a security module",
        ),
    ],
)
def test_what_hinders_is_worth_a_change(finding: Finding, name: str, command: str) -> None:
    (advice,) = advise(changed(finding))
    assert advice.name == name
    assert advice.command.startswith(command)
    assert advice.why


@pytest.mark.parametrize(
    "finding",
    [
        Finding("moving", "tee", "", "refused", errno=errno.EINVAL),
        Finding("pipes", "fs.pipe-max-size", "", "unknown"),
        Finding("network", "congestion", "", "refused", errno=errno.EAFNOSUPPORT),
        Finding("path", "reflink", "", "refused", errno=errno.EOPNOTSUPP, path="/"),
    ],
)
def test_what_cannot_be_changed_or_is_not_known_is_left_alone(finding: Finding) -> None:
    assert advise(changed(finding)) == []


@pytest.mark.parametrize(
    ("container", "mode", "fragment"),
    [
        ("Docker", "2", "--security-opt seccomp="),
        (None, "2", "SystemCallFilter="),
        ("Docker", "0", "security module"),
    ],
)
def test_who_refuses_is_told_apart(container: str | None, mode: str, fragment: str) -> None:
    (advice,) = advise(
        changed(
            Finding("host", "container", "", "fact", value=container),
            Finding("host", "seccomp", "", "fact", value={"mode": mode}),
            Finding("moving", "tee", "tee pipe to pipe", "absent", errno=errno.ENOSYS),
        )
    )
    assert fragment in advice.command
    assert "tee pipe to pipe" in advice.why


def test_few_pipes_for_want_of_fds_are_no_matter_of_the_quota() -> None:
    found = advise(
        changed(
            Finding("pipes", "large-pipes", "", "limited"),
            Finding("limits", "open-files", "", "limited"),
        )
    )
    assert [advice.name for advice in found] == ["open-files"]


def place(family: str | None, **states: str) -> list[Finding]:
    return [
        Finding("path", "filesystem", "", "fact", value={"family": family}, path="x"),
        *(
            Finding("path", name.replace("_", "-"), "", state, path="x")  # type: ignore[arg-type]
            for name, state in states.items()
        ),
    ]


@pytest.mark.parametrize(
    ("findings", "mover"),
    [
        (place("btrfs", reflink="ok", copy_range="ok"), "reflink"),
        (place("btrfs", reflink="refused", copy_range="ok"), "copy_range"),
        (place("ext4", reflink="refused", copy_range="ok"), "copy_range"),
        (place(None, reflink="refused", copy_range="refused"), "sendfile"),
        (
            [
                *place(None, reflink="refused", copy_range="refused"),
                Finding("moving", "sendfile-to-file", "", "refused"),
            ],
            "splice",
        ),
        (
            [
                *place(None, reflink="refused", copy_range="refused"),
                Finding("moving", "sendfile-to-file", "", "refused"),
                Finding("moving", "splice-pipe-to-file", "", "refused"),
            ],
            "plain",
        ),
    ],
)
def test_the_plan_keeps_to_what_is_granted(findings: list[Finding], mover: str) -> None:
    answer = copies_within(findings, "x")
    assert isinstance(answer.value, dict)
    assert answer.value["small"] == mover
    assert answer.detail.startswith(mover)
