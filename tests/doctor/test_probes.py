"""Every question, asked on this kernel: what it grants, what it refuses, what its users get."""

from __future__ import annotations

import errno
import os
import resource
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from tests.machine import as_stranger, loop_device, mounted, need_root
from zpipe.doctor import calls, limits, moving, network, pipes, places
from zpipe.doctor.findings import Answer, Probe, answered
from zpipe.doctor.limits import Setting, setting_probe
from zpipe.kernel import offloads
from zpipe.kernel.direct import set_direct, told_alignment
from zpipe.kernel.pipes import Pipe

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MOVING = [probe.name for probe in moving.probes(None)]
CALLS = [probe.name for probe in calls.probes(None)]


def asked(probes: list[Probe], name: str) -> Answer:
    return answered(next(probe.ask for probe in probes if probe.name == name))


def value(answer: Answer) -> Any:
    return answer.value


@pytest.mark.parametrize("name", MOVING)
@pytest.mark.parametrize("memory", [False, True])
def test_this_kernel_moves_bytes(name: str, memory: bool, tmp_path: Path) -> None:
    answer = asked(moving.probes(None if memory else str(tmp_path)), name)
    across = name == "copy-range-across" and not memory
    assert (answer.state, answer.errno) == (("fact", errno.EXDEV) if across else ("ok", 0)), answer
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", CALLS)
def test_this_kernel_has_the_other_calls(name: str, tmp_path: Path) -> None:
    assert asked(calls.probes(str(tmp_path)), name) == Answer("ok")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("module", [moving, calls])
def test_names_are_told_apart(module: Any) -> None:
    probes = module.probes(None)
    assert len({probe.name for probe in probes}) == len({probe.label for probe in probes})
    assert len({probe.name for probe in probes}) == len(probes)
    assert all(probe.effect for probe in probes)


# Places


def place(path: Path | str, name: str) -> Answer:
    return asked(places.probes(str(path)), name)


def test_a_filesystem_that_shares_blocks_clones(sharing: Path) -> None:
    assert place(sharing, "reflink") == Answer("ok")
    assert os.listdir(sharing) == [] or not any(".zpipe" in name for name in os.listdir(sharing))


@pytest.mark.parametrize(("kind", "name"), [("ext4", "ext4"), ("tmpfs", "tmpfs")])
def test_other_filesystems_refuse_to(kind: str, name: str, tmp_path: Path) -> None:
    with mounted(kind, tmp_path / "mount", 16 << 20) as mount:
        found = places.filesystem(str(mount))
        assert (value(found)["type"], value(found)["family"]) == (kind, name)
        assert value(found)["mount"] == str(mount)
        answer = place(mount, "reflink")
        assert (answer.state, answer.errno) == ("refused", errno.EOPNOTSUPP)
        for other in ("copy-range", "tmpfile", "lease", "holes"):
            assert place(mount, other) == Answer("ok"), other


def test_the_alignment_is_told_and_tried(tmp_path: Path) -> None:
    with mounted("ext4", tmp_path / "mount", 16 << 20) as mount:
        answer = place(mount, "direct")
        assert answer.state == "ok"
        fd = os.open(mount / "file", os.O_RDWR | os.O_CREAT)
        told = told_alignment(fd)
        os.close(fd)
        found = value(answer)
        assert found["told"] == told
        assert found["alignment"] == (told or 4096) >= found["least"] > 1


def test_direct_io_on_memory_is_called_what_it_is(tiny: Path) -> None:
    fd = os.open(tiny / "file", os.O_RDWR | os.O_CREAT)
    try:
        set_direct(fd, True)
    except OSError:
        pytest.skip("this kernel's tmpfs refuses O_DIRECT")
    finally:
        os.close(fd)
    answer = place(tiny, "direct")
    assert answer.state == "limited"
    assert "page cache" in answer.detail
    assert value(answer)["told"] is None


def test_a_block_device_is_only_read(tmp_path: Path) -> None:
    need_root()
    image = tmp_path / "image"
    image.write_bytes(os.urandom(1 << 20))
    before = image.read_bytes()
    with loop_device(image) as device:
        found = places.filesystem(str(device))
        assert value(found)["kind"] == "device"
        answer = asked(places.device_probes(str(device)), "direct")
        assert answer.state == "ok", answer
        assert value(answer)["least"] >= 512
    assert image.read_bytes() == before


@pytest.mark.parametrize("name", [probe.name for probe in places.probes(".")])
def test_a_full_filesystem_is_no_place_to_try_on(name: str, tiny: Path) -> None:
    with open(tiny / "big", "wb") as file:
        file.truncate(0)
        try:
            while True:
                os.write(file.fileno(), bytes(1 << 16))
        except OSError as error:
            assert error.errno == errno.ENOSPC
    answer = place(tiny, name)
    if name == "tmpfile":
        assert answer == Answer("ok")
    else:
        assert answer.state in ("unknown", "refused"), answer
        assert "ENOSPC" in answer.detail


def test_where_nothing_may_be_made_nothing_is_known(tmp_path: Path) -> None:
    os.chmod(tmp_path, 0o755)
    probes = places.probes(".")

    def work() -> None:
        for probe in probes:
            answer = answered(probe.ask)
            assert answer.state == "unknown", (probe.name, answer)
            assert "EACCES" in answer.detail

    as_stranger(tmp_path, work)


def test_a_file_stands_for_its_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    for name in ("file", "link"):
        found = places.filesystem(str(tmp_path / name))
        assert value(found)["folder"] == str(tmp_path)
        assert value(found)["kind"] == "file"


def test_a_fifo_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert places.filesystem(str(tmp_path / "fifo")).state == "failed"


MOUNTS = """\
22 27 0:21 / /proc rw - proc proc rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 27 0:30 / /srv/a\\040b rw - xfs /dev/vdb rw
31 27 0:31 / /srv rw - tmpfs tmpfs rw
32 31 0:32 / /srv ro,nosuid - squashfs /dev/loop0 ro
34 27 0:34 / /srv/é rw - ext4 /dev/vdd rw
33 27 0:33 /sub /data rw - btrfs /dev/vdc rw
"""


@pytest.mark.parametrize(
    ("device", "path", "found"),
    [
        ((254, 0), "/home/x", ("ext4", "/", False)),
        ((0, 30), "/srv/a b/c", ("xfs", "/srv/a b", False)),
        ((0, 32), "/srv/x", ("squashfs", "/srv", True)),
        ((0, 34), "/srv/é/x", ("ext4", "/srv/é", False)),
        ((254, 0), "/srvice", ("ext4", "/", False)),
        ((0, 77), "/data/sub", ("btrfs", "/data", False)),
    ],
)
def test_the_mount_of_a_path_is_found(
    device: tuple[int, int], path: str, found: tuple[str, str, bool]
) -> None:
    assert places.mount_of(MOUNTS.splitlines(), os.makedev(*device), path) == found


# Pipes and limits


def test_a_user_without_rights_gets_a_quota_of_pipes(tmp_path: Path) -> None:
    os.chmod(tmp_path, 0o777)
    probes = pipes.probes()
    with open("/proc/sys/fs/pipe-user-pages-soft") as file:
        pages = int(file.read())
    if not 256 <= pages <= 128 * 256:
        pytest.skip(f"the quota of this machine is of {pages} pages")

    def work() -> None:
        assert value(asked(probes, "large-pipes")) == {"count": pages // 256, "tried": 128}
        with ExitStack() as stack:
            for _ in range(pages // 256):
                stack.callback(Pipe(1 << 20).close)
            few = asked(probes, "large-pipes")
            assert (few.state, value(few)["count"]) == ("refused", 0)
            small = asked(probes, "new-pipe")
            assert (small.state, small.value) == ("limited", 8192)
            assert asked(probes, "grown-pipe").errno == errno.EPERM
        assert asked(probes, "new-pipe") == Answer("ok", "64.0 KiB", 65536)

    as_stranger(tmp_path, work)


@pytest.mark.parametrize(("fds", "state"), [(16, "unknown"), (100, "ok")])
def test_few_fds_do_not_fail_the_count_of_pipes(fds: int, state: str, tmp_path: Path) -> None:
    os.chmod(tmp_path, 0o777)

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (fds, fds))
        assert asked(pipes.probes(), "large-pipes").state == state
        files = asked(limits.probes(), "open-files")
        assert (files.state, files.value) == ("limited", {"soft": fds, "hard": fds})

    as_stranger(tmp_path, work)


def test_a_limit_of_file_sizes_is_told(tmp_path: Path) -> None:
    os.chmod(tmp_path, 0o777)

    def work() -> None:
        assert asked(limits.probes(), "file-size").state == "ok"
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        answer = asked(limits.probes(), "file-size")
        assert (answer.state, answer.detail) == ("limited", "1.00 MiB")

    as_stranger(tmp_path, work)


TABLE = {each.name: each for each in (*pipes.SETTINGS, *limits.SETTINGS, *network.SETTINGS)}


@pytest.mark.parametrize(
    ("name", "text", "state", "detail"),
    [
        ("fs.pipe-max-size", "1048576", "ok", "1.00 MiB"),
        ("fs.pipe-max-size", "65536", "limited", "64.0 KiB"),
        ("fs.pipe-user-pages-soft", "0", "fact", "no limit"),
        ("fs.pipe-user-pages-soft", "16384", "fact", "64.0 MiB"),
        ("fs.leases-enable", "1", "ok", "on"),
        ("fs.leases-enable", "0", "limited", "off"),
        ("fs.lease-break-time", "0", "limited", "0 s"),
        ("net.core.somaxconn", "128", "limited", "128"),
        ("net.core.somaxconn", "4096", "ok", "4096"),
        ("net.ipv4.tcp_rmem", "4096 131072 6291456", "ok", "6.00 MiB"),
        ("net.ipv4.tcp_wmem", "4096 16384 65536", "limited", "64.0 KiB"),
        ("net.ipv4.tcp_mem", "100 200 300", "limited", "800 KiB"),
        ("net.ipv4.ip_local_port_range", "32768 60999", "ok", "28232"),
        ("net.ipv4.ip_local_port_range", "60000 60009", "limited", "10 connections"),
    ],
)
def test_settings_are_judged(name: str, text: str, state: str, detail: str) -> None:
    answer = TABLE[name].judge(text)
    assert answer.state == state
    assert detail in answer.detail


@pytest.mark.parametrize("name", TABLE)
def test_settings_of_this_machine_are_read(name: str) -> None:
    answer = answered(setting_probe(TABLE[name]).ask)
    try:
        with open(f"/proc/sys/{name.replace('.', '/')}") as file:
            numbers = [int(word) for word in file.read().split()]
    except FileNotFoundError:
        assert name.startswith("net.")
        assert answer == Answer("unknown", "not shown in this network namespace")
        return
    assert answer.state in ("ok", "fact", "limited")
    assert answer.value == (numbers if len(numbers) > 1 else numbers[0])


def test_a_setting_that_is_not_there_or_makes_no_sense() -> None:
    missing = setting_probe(Setting("fs.nosuch", "", lambda _: Answer("ok")))
    assert answered(missing.ask) == Answer("unknown", "/proc/sys/fs/nosuch is not there")
    odd = setting_probe(Setting("kernel.ostype", "", limits.at_least(1)))
    assert answered(odd.ask) == Answer("unknown", "/proc/sys/kernel/ostype says 'Linux'")


def test_dirty_memory_is_reckoned() -> None:
    answer = limits.dirty_memory()
    assert value(answer)["bytes"] > 0
    assert answer.state == ("ok" if value(answer)["bytes"] >= 64 << 20 else "limited")


# The network


def test_loopback_is_up_and_gathers() -> None:
    assert "lo" in network.devices()
    answer = network.device("lo")
    assert answer.state == "ok"
    assert value(answer) == {"device": "lo", "scatter-gather": True, "tso": True, "gso": True}


def test_a_device_that_is_not_there() -> None:
    with pytest.raises(OSError, match="No such device"):
        offloads.is_up("nosuch0")
    assert network.device("nosuch0").state == "unknown"


def in_a_network_of_its_own(work: Callable[[], None]) -> None:
    """Do it in a child whose network namespace has but a loopback device, which is down."""
    need_root()
    child = os.fork()
    if child == 0:
        try:
            import ctypes

            assert ctypes.CDLL(None).unshare(0x40000000) == 0  # CLONE_NEWNET
            work()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0


def test_a_device_that_is_down_is_not_looked_at() -> None:
    def work() -> None:
        assert not offloads.is_up("lo")
        assert network.devices() == []
        # and without loopback there is no TCP to be tried
        answer = asked(moving.probes(None), "splice-tcp")
        assert (answer.state, answer.errno) == ("refused", errno.ENETUNREACH), answer

    in_a_network_of_its_own(work)


def test_the_congestion_control_is_that_of_a_connection() -> None:
    with socket.socket() as listener, socket.socket() as near:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        near.connect(listener.getsockname())
        text = near.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
    name = text.partition(b"\0")[0].decode()
    answer = network.congestion()
    assert value(answer) == {"congestion": name, "paces": name.startswith("bbr")}
    assert answer.state == ("limited" if name.startswith("bbr") else "ok")
