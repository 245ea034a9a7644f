"""The recipes that end by themselves, each run with real ends; what arrives is compared."""

from __future__ import annotations

import gzip
import hashlib
import os
import socket
import threading
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.commands.shell import names, refused, went_well
from tests.machine import content, loop_device
from tests.proxy.proxying import RESET, connected, echo, exactly, received, sending, serving
from tests.recipes.running import receiving, run, running
from zpipe.endpoints.pattern import blocks

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SIZE = 3 << 20
MUCH = 32 << 20  # more than two sockets hold


def sum_of(data: bytes, name: object) -> str:
    """Return the line of sha256sum."""
    return f"{hashlib.sha256(data).hexdigest()}  {name}\n"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    place = tmp_path / "source"
    place.write_bytes(content(SIZE))
    return place


@contextmanager
def device_of(image: Path) -> Iterator[Path]:
    """Make a block device of a file where that is allowed; the file itself will do elsewhere."""
    with ExitStack() as stack:
        try:
            place = stack.enter_context(loop_device(image))
        except pytest.skip.Exception:
            place = image
        yield place


def test_fan_out(tmp_path: Path, source: Path) -> None:
    with receiving() as (host, had):
        went_well(run("fan-out", tmp_path, SOURCE=source, HOST=host.text))
    assert (tmp_path / "copy.img").read_bytes() == content(SIZE)
    assert (tmp_path / "second.img").read_bytes() == content(SIZE)
    assert had == [content(SIZE)]


def test_the_copies_of_a_fan_out_are_complete_when_the_host_dies_half_way(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(content(MUCH))

    def die(end: socket.socket) -> None:
        assert exactly(end, SIZE) == content(MUCH)[:SIZE]
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    with serving(die) as host:
        done = run("fan-out", tmp_path, SOURCE=source, HOST=host.text)
    refused(done, 5, f"tcp://{host.text}: ")
    assert names(tmp_path) == ["copy.img", "second.img", "source"]
    assert (tmp_path / "copy.img").read_bytes() == content(MUCH)
    assert (tmp_path / "second.img").read_bytes() == content(MUCH)


def test_a_fan_out_ends_when_a_copy_cannot_be_written(tmp_path: Path, source: Path) -> None:
    with receiving() as (host, _):
        nowhere = tmp_path / "nowhere" / "copy"
        done = run("fan-out", tmp_path, SOURCE=source, HOST=host.text, SECOND=nowhere)
    assert done.returncode == 1
    assert names(tmp_path) == ["source"]


def test_compress_and_ship(tmp_path: Path, source: Path) -> None:
    with receiving() as (host, had):
        went_well(run("compress-and-ship", tmp_path, SOURCE=source, HOST=host.text, LEVEL=1))
    assert gzip.decompress(had[0]) == content(SIZE)
    assert (tmp_path / "original.sha256").read_text() == sum_of(content(SIZE), source)
    assert (tmp_path / "shipped.sha256").read_text() == sum_of(had[0], "-")


def test_there_is_no_checksum_of_what_was_not_shipped(tmp_path: Path, source: Path) -> None:
    def die(end: socket.socket) -> None:
        exactly(end, 1000)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    with serving(die) as host:
        done = run("compress-and-ship", tmp_path, SOURCE=source, HOST=host.text)
    assert done.returncode == 1
    # that of the file may be there: all of it was read
    assert "shipped.sha256" not in names(tmp_path)


def send(end: socket.socket, data: bytes) -> None:
    """Send all, and see the other side end."""
    with sending(end, data):
        assert received(end) == b""


def test_receive_and_check(tmp_path: Path) -> None:
    with running("receive-and-check", tmp_path, LISTEN="127.0.0.1:0") as recipe:
        with recipe.connect() as end:
            send(end, gzip.compress(content(SIZE), 1))
        assert recipe.ends() == 0
    assert (tmp_path / "received").read_bytes() == content(SIZE)
    assert (tmp_path / "received.sha256").read_text() == sum_of(content(SIZE), "received")
    assert names(tmp_path) == ["received", "received.sha256"]


@pytest.mark.parametrize("cut", ["nothing", "half", "one byte less"])
def test_what_is_received_in_part_is_under_no_name(tmp_path: Path, cut: str) -> None:
    packed = gzip.compress(content(SIZE), 1)
    data = {"nothing": b"", "half": packed[: SIZE // 2], "one byte less": packed[:-1]}[cut]
    with running("receive-and-check", tmp_path, LISTEN="127.0.0.1:0") as recipe:
        with recipe.connect() as end:
            send(end, data)
        assert recipe.ends() == 1
    assert "exec:gunzip -c: exit status 1" in recipe.told
    assert names(tmp_path) == []


def test_compress_and_ship_to_receive_and_check(tmp_path: Path, source: Path) -> None:
    with running("receive-and-check", tmp_path, LISTEN="127.0.0.1:0") as receiver:
        host = receiver.place()
        went_well(run("compress-and-ship", tmp_path, SOURCE=source, HOST=host))
        assert receiver.ends() == 0
    assert (tmp_path / "received").read_bytes() == content(SIZE)


def test_capture_socket(tmp_path: Path) -> None:
    feed = "tcp-listen://127.0.0.1:0"
    with running("capture-socket", tmp_path, FEED=feed, SIZE="1M", PARTS="%d") as recipe:
        with recipe.connect() as end:
            send(end, content(SIZE + 5))
        assert recipe.ends() == 0
    assert names(tmp_path) == ["0", "1", "2", "3"]
    parts = [(tmp_path / name).read_bytes() for name in names(tmp_path)]
    assert [len(part) for part in parts] == [1 << 20, 1 << 20, 1 << 20, 5]
    assert b"".join(parts) == content(SIZE + 5)


@pytest.mark.parametrize("direct", ["false", "true"])
def test_backup_device(tmp_path: Path, source: Path, direct: str) -> None:
    with device_of(source) as device, receiving() as (host, had):
        done = run("backup-device", tmp_path, DEVICE=device, HOST=host.text, DIRECT=direct)
    went_well(done)
    assert had == [(tmp_path / "backup.gz").read_bytes()]
    assert gzip.decompress(had[0]) == content(SIZE)
    assert (tmp_path / "backup.sha256").read_text() == sum_of(content(SIZE), device)


def test_a_backup_is_made_when_nobody_else_takes_it(tmp_path: Path, source: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{taken.getsockname()[1]}"
        done = run("backup-device", tmp_path, DEVICE=source, HOST=nobody)
    refused(done, 5, f"tcp://{nobody}: connect: Connection refused")
    assert gzip.decompress((tmp_path / "backup.gz").read_bytes()) == content(SIZE)


def test_restore_device(tmp_path: Path) -> None:
    (tmp_path / "backup.gz").write_bytes(gzip.compress(content(SIZE), 1))
    image = tmp_path / "image"
    image.write_bytes(bytes(SIZE))
    with device_of(image) as device:
        went_well(run("restore-device", tmp_path, DEVICE=device))
    assert image.read_bytes() == content(SIZE)
    assert (tmp_path / "restored.sha256").read_text() == sum_of(content(SIZE), device)


def test_concatenate(tmp_path: Path) -> None:
    parts = {"one": content(SIZE, 1), "two": b"", "three": content(1000, 3)}
    for name, data in parts.items():
        (tmp_path / name).write_bytes(data)
    went_well(run("concatenate", tmp_path, FIRST="one", SECOND="two", THIRD="three"))
    whole = b"".join(parts.values())
    assert (tmp_path / "whole").read_bytes() == whole
    assert (tmp_path / "whole.sha256").read_text() == sum_of(whole, "whole")


def test_without_a_part_there_is_no_whole(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"1")
    refused(run("concatenate", tmp_path, FIRST="one", SECOND="one", THIRD="two"), 1, "two: open: ")
    assert names(tmp_path) == ["one"]


def test_merge_logs(tmp_path: Path) -> None:
    logs = [[b"%d of %d\n" % (n, log) for n in range(20_000)] for log in range(3)]
    fifos = [tmp_path / f"fifo{log}" for log in range(3)]
    for fifo in fifos:
        os.mkfifo(fifo)
    (tmp_path / "merged.log").write_bytes(b"before\n")

    def write(fifo: Path, lines: list[bytes]) -> None:
        with open(fifo, "wb", buffering=1000) as file:  # no line ends where a write does
            file.writelines(lines)

    writers = [threading.Thread(target=write, args=each) for each in zip(fifos, logs, strict=True)]
    for writer in writers:
        writer.start()
    first, second, third = (f"pipe:{fifo}" for fifo in fifos)
    done = run("merge-logs", tmp_path, FIRST=first, SECOND=second, THIRD=third)
    for writer in writers:
        writer.join()
    went_well(done)
    before, *merged = (tmp_path / "merged.log").read_bytes().splitlines(keepends=True)
    assert before == b"before\n"
    for log, lines in enumerate(logs):
        assert [line for line in merged if line.endswith(b" %d\n" % log)] == lines
    assert len(merged) == sum(map(len, logs))


def pattern(seed: str, size: int) -> bytes:
    """Return the first bytes of a pattern."""
    whole = bytearray()
    for block in blocks(seed):
        if len(whole) >= size:
            break
        whole += block
    return bytes(whole[:size])


def test_load_pattern(tmp_path: Path) -> None:
    with receiving() as (host, had):
        went_well(run("load-pattern", tmp_path, HOST=host.text, SIZE="300K", SEED="s"))
    assert had == [pattern("s", 300 << 10)]


@pytest.mark.parametrize("wrong", [None, 0, 299 << 10])
def test_check_pattern(tmp_path: Path, wrong: int | None) -> None:
    data = bytearray(pattern("s", 300 << 10))
    if wrong is not None:
        data[wrong] ^= 1
    given = {"LISTEN": "127.0.0.1:0", "SIZE": "300K", "SEED": "s"}
    with running("check-pattern", tmp_path, **given) as recipe:
        with recipe.connect() as end:
            send(end, bytes(data))
        assert recipe.ends() == (0 if wrong is None else 3)
    if wrong is not None:
        assert f"differs from the pattern at byte {wrong}" in recipe.told


def test_tap(tmp_path: Path) -> None:
    done = run("tap", tmp_path, data=content(SIZE))
    went_well(done)
    assert done.stdout == (tmp_path / "copy").read_bytes() == content(SIZE)
    assert (tmp_path / "copy.sha256").read_text() == sum_of(content(SIZE), "copy")


@pytest.mark.parametrize("data", [b"", b"hello\n", content(SIZE)], ids=len)
def test_netcat(tmp_path: Path, data: bytes) -> None:
    with serving(echo) as server:
        done = run("netcat", tmp_path, data=data, SERVER=f"tcp://{server.text}")
    went_well(done)
    assert done.stdout == data


def test_netcat_tells_the_server_of_the_end_before_it_answers(tmp_path: Path) -> None:
    def reverse(end: socket.socket) -> None:
        end.sendall(received(end)[::-1])

    with serving(reverse, f"unix:{tmp_path}/server") as server:
        done = run("netcat", tmp_path, data=content(SIZE), SERVER=server.text)
    went_well(done)
    assert done.stdout == content(SIZE)[::-1]


def test_echo(tmp_path: Path) -> None:
    with running("echo", tmp_path, LISTEN="tcp-listen://127.0.0.1:0") as recipe:
        with connected(recipe.place()) as end, sending(end, content(SIZE)):
            assert received(end) == content(SIZE)
        assert recipe.ends() == 0
