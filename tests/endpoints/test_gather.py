"""What the kernel tells of each sort of fd."""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.endpoints.meeting import need_family
from tests.machine import as_stranger, content, loop_device, mounted
from zpipe.endpoints.gather import gather, identity, preview_path
from zpipe.facts import FdFacts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


def opened(stack: ExitStack, path: Path | str, flags: int = os.O_RDONLY) -> int:
    fd = os.open(path, flags, 0o600)
    stack.callback(os.close, fd)
    return fd


def test_a_regular_file_is_measured_from_its_position(tmp_path: Path, stack: ExitStack) -> None:
    (tmp_path / "file").write_bytes(content(100_000))
    fd = opened(stack, tmp_path / "file")
    os.lseek(fd, 1000, os.SEEK_SET)
    facts = gather(fd)
    info = os.fstat(fd)
    assert (facts.type, facts.position, facts.size) == ("regular", 1000, 99_000)
    assert (facts.readable, facts.writable, facts.append) == (True, False, False)
    assert facts.identity == (info.st_dev, info.st_ino) == identity(info)
    assert facts.allocated == info.st_blocks * 512
    assert facts.owned
    assert facts.on_disk
    assert not facts.may_block
    assert os.lseek(fd, 0, os.SEEK_CUR) == 1000


def test_a_position_past_the_end_leaves_nothing_to_read(tmp_path: Path, stack: ExitStack) -> None:
    (tmp_path / "file").write_bytes(b"data")
    fd = opened(stack, tmp_path / "file")
    os.lseek(fd, 1000, os.SEEK_SET)
    assert (gather(fd).position, gather(fd).size) == (1000, 0)


def test_flags_are_told(tmp_path: Path, stack: ExitStack) -> None:
    path = tmp_path / "file"
    facts = gather(opened(stack, path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), fresh=True)
    assert (facts.readable, facts.writable, facts.append, facts.fresh) == (False, True, True, True)
    assert gather(opened(stack, path, os.O_RDWR)).readable
    assert not gather(opened(stack, path, os.O_RDWR), owned=False).owned


def test_o_direct_is_told(tmp_path: Path, stack: ExitStack) -> None:
    place = stack.enter_context(mounted("ext4", tmp_path / "ext4", 16 << 20))
    (place / "file").write_bytes(content(4096))
    with ExitStack() as inner:
        assert gather(opened(inner, place / "file", os.O_RDONLY | os.O_DIRECT)).direct
        assert not gather(opened(inner, place / "file")).direct
        assert gather(opened(inner, place / "file")).filesystem == "ext4"


def test_a_sparse_file_has_holes_and_a_dense_one_has_none(tmp_path: Path, stack: ExitStack) -> None:
    sparse = opened(stack, tmp_path / "sparse", os.O_RDWR | os.O_CREAT)
    os.ftruncate(sparse, 1 << 20)
    os.pwrite(sparse, b"x", 1 << 19)
    assert gather(sparse).has_holes
    dense = opened(stack, tmp_path / "dense", os.O_RDWR | os.O_CREAT)
    os.write(dense, content(1 << 20))
    os.fsync(dense)  # blocks of a file that is not written back may not be counted yet
    assert not gather(dense).has_holes


def test_a_block_device_has_the_size_of_the_device(tmp_path: Path, stack: ExitStack) -> None:
    (tmp_path / "image").write_bytes(bytes(3 << 20))
    device = stack.enter_context(loop_device(tmp_path / "image"))
    with ExitStack() as inner:
        fd = opened(inner, device)
        os.lseek(fd, 4096, os.SEEK_SET)
        facts = gather(fd)
        assert (facts.type, facts.position, facts.size) == ("block", 4096, (3 << 20) - 4096)
        assert os.lseek(fd, 0, os.SEEK_CUR) == 4096
        # two nodes of one device are the same thing, whatever their inodes are
        assert facts.identity == (-1, os.fstat(fd).st_rdev)


@pytest.mark.parametrize(
    ("path", "device"), [("/dev/null", (1, 3)), ("/dev/zero", (1, 5)), ("/dev/full", (1, 7))]
)
def test_devices_of_memory_never_block(
    path: str, device: tuple[int, int], stack: ExitStack
) -> None:
    facts = gather(opened(stack, path, os.O_RDWR))
    assert (facts.type, facts.device, facts.generated) == ("character", device, True)
    assert not facts.may_block
    assert (facts.position, facts.size) == (None, None)


def test_a_terminal_may_block(stack: ExitStack) -> None:
    for fd in os.openpty():
        stack.callback(os.close, fd)
    facts = gather(fd)
    assert (facts.type, facts.generated, facts.may_block) == ("tty", False, True)


def test_a_pipe_has_a_capacity(stack: ExitStack) -> None:
    reader, writer = os.pipe2(os.O_NONBLOCK)
    stack.callback(os.close, reader)
    stack.callback(os.close, writer)
    facts = gather(reader)
    assert (facts.type, facts.capacity) == ("pipe", 16 * os.sysconf("SC_PAGE_SIZE"))
    assert (facts.readable, facts.writable, facts.nonblocking) == (True, False, True)
    assert (gather(writer).readable, gather(writer).writable) == (False, True)
    os.set_blocking(reader, True)
    assert gather(reader).may_block


@pytest.mark.parametrize(
    ("family", "type_", "name"),
    [
        (socket.AF_UNIX, socket.SOCK_STREAM, "unix"),
        (socket.AF_UNIX, socket.SOCK_DGRAM, "datagram"),
        (socket.AF_UNIX, socket.SOCK_SEQPACKET, "seqpacket"),
        (socket.AF_INET, socket.SOCK_STREAM, "tcp"),
        (socket.AF_INET6, socket.SOCK_STREAM, "tcp"),
        (socket.AF_INET, socket.SOCK_DGRAM, "datagram"),
        (socket.AF_NETLINK, socket.SOCK_RAW, "other"),
    ],
)
def test_a_socket_has_its_type(family: int, type_: int, name: str) -> None:
    if family == socket.AF_INET6:
        need_family(family)
    with socket.socket(family, type_) as end:
        facts = gather(end.fileno())
    assert facts.type == name
    assert facts.is_socket == (name != "other")
    assert facts.keeps_boundaries == (name in ("datagram", "seqpacket"))
    assert (facts.route, facts.scatter_gather) == (None, None)


@pytest.mark.parametrize(
    ("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
)
def test_a_connection_to_this_machine_goes_by_loopback(
    family: socket.AddressFamily, address: str
) -> None:
    need_family(family)
    with (
        socket.create_server((address, 0), family=family) as listener,
        socket.create_connection(listener.getsockname()[:2]) as near,
    ):
        facts = gather(near.fileno())
    assert (facts.type, facts.route, facts.scatter_gather) == ("tcp", "lo", True)


def test_a_mapped_address_goes_by_the_route_of_its_ipv4_address() -> None:
    need_family(socket.AF_INET6)
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket(socket.AF_INET6) as near:
        near.connect(("::ffff:127.0.0.1", listener.getsockname()[1]))
        assert gather(near.fileno()).route == "lo"


def test_a_directory_and_what_is_nothing_of_these(tmp_path: Path, stack: ExitStack) -> None:
    assert gather(opened(stack, tmp_path)).type == "directory"
    event = os.eventfd(0)
    stack.callback(os.close, event)
    assert gather(event).type == "other"


def test_an_fd_that_is_not_open_is_an_error() -> None:
    with pytest.raises(OSError, match="Errno 9]"):
        gather(-1)


def test_a_preview_of_a_path_opens_nothing_that_waits(tmp_path: Path) -> None:
    """A FIFO without its other side would: looking at it must return, and change nothing."""
    os.mkfifo(tmp_path / "fifo")
    assert preview_path(f"{tmp_path}/fifo") == FdFacts("pipe", nonblocking=True)
    assert preview_path(f"{tmp_path}/missing") is None
    (tmp_path / "file").write_bytes(b"data")
    found = preview_path(f"{tmp_path}/file")
    assert found is not None
    assert (found.type, found.size) == ("regular", 4)
    null = preview_path("/dev/null")
    assert null is not None
    assert (null.type, null.generated, null.device) == ("character", True, (1, 3))
    with pytest.raises(NotADirectoryError):
        preview_path(f"{tmp_path}/file/below")


def test_a_preview_of_a_terminal_is_one(stack: ExitStack) -> None:
    master, slave = os.openpty()
    stack.callback(os.close, master)
    stack.callback(os.close, slave)
    facts = preview_path(os.ttyname(slave))
    assert facts is not None
    assert (facts.type, facts.generated) == ("tty", False)


def test_a_preview_of_what_may_only_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    for name, mode in (("log", 0o222), ("secret", 0o600)):
        (tmp_path / name).write_bytes(b"data")
        (tmp_path / name).chmod(mode)

    def look() -> None:
        found = preview_path("log")
        assert found is not None
        assert (found.type, found.writable) == ("regular", True)
        with pytest.raises(PermissionError):
            preview_path("secret")

    as_stranger(tmp_path, look)
    assert (tmp_path / "log").read_bytes() == b"data"
