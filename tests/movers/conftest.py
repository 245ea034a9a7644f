"""Places for files, and a bench that makes ends of every kind and closes them."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest

from tests.machine import content, loop_device, missing, mounted
from tests.movers import ends

if TYPE_CHECKING:
    from collections.abc import Iterator

DEVICE_SIZE = 1 << 20


@pytest.fixture(scope="session")
def memory() -> Iterator[Path]:
    """A directory in a tmpfs."""
    if not os.path.ismount("/dev/shm"):
        missing("/dev/shm is not a tmpfs")
    with TemporaryDirectory(dir="/dev/shm") as place:
        yield Path(place)


@pytest.fixture(scope="session")
def cloning(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One filesystem that shares blocks: enough for what all of them have in common."""
    base = tmp_path_factory.mktemp("cloning")
    with mounted("btrfs", base / "mount", 512 << 20) as place:
        yield place


@pytest.fixture(scope="session")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An ext4, which has O_DIRECT and no shared blocks."""
    base = tmp_path_factory.mktemp("extended")
    with mounted("ext4", base / "mount", 256 << 20) as place:
        yield place


@pytest.fixture(scope="session")
def devices(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """Two block devices of 1 MiB, the first one full of bytes."""
    base = tmp_path_factory.mktemp("devices")
    (base / "first").write_bytes(content(DEVICE_SIZE, 7))
    (base / "second").write_bytes(bytes(DEVICE_SIZE))
    with loop_device(base / "first") as first, loop_device(base / "second") as second:
        yield first, second


class Bench:
    """Makes ends by the names of their kinds; closes them at the end of the test."""

    def __init__(self, request: pytest.FixtureRequest, folder: Path, stack: ExitStack):
        self._request = request
        self._folder = folder
        self._stack = stack
        self._made = 0

    def place(self, kind: str) -> Path:
        """Return a name for a new file in the filesystem of that kind."""
        self._made += 1
        folder = self._folder
        if kind in ("memory", "cloning", "extended"):
            folder = Path(self._request.getfixturevalue(kind))
            path = folder / f"{self._folder.name}-{self._made}"
            self._stack.callback(path.unlink, missing_ok=True)
            return path
        return folder / f"file-{self._made}"

    def source(self, kind: str, data: bytes, *, blocking: bool = False) -> ends.Source:
        """Return a source of that kind with that data, if the kind lets one choose."""
        source: ends.Source
        if kind in ends.STREAMS:
            source = ends.StreamSource(ends.STREAMS[kind](), data, blocking=blocking)
        elif kind == "zero":
            source = ends.DeviceSource()
        elif kind == "block":
            source = ends.FileSource(self._request.getfixturevalue("devices")[0])
        else:
            path = self.place(kind)
            path.write_bytes(data)
            source = ends.FileSource(path)
        self._stack.callback(source.close)
        return source

    def sink(self, kind: str, *, blocking: bool = False) -> ends.Sink:
        """Return an empty sink of that kind."""
        sink: ends.Sink
        if kind in ends.STREAMS:
            sink = ends.StreamSink(ends.STREAMS[kind](), blocking=blocking)
        elif kind == "null":
            sink = ends.DeviceSink()
        elif kind == "block":
            sink = ends.FileSink(self._request.getfixturevalue("devices")[1])
        elif kind == "append":
            path = self.place("file")
            path.write_bytes(b"before")
            sink = ends.FileSink(path, append=True, skip=len(b"before"))
        else:
            sink = ends.FileSink(self.place(kind))
        self._stack.callback(sink.close)
        return sink


@pytest.fixture
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    with ExitStack() as stack:
        yield Bench(request, tmp_path, stack)
