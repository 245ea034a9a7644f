"""What `zpipe cat` asks of the kernel, seen by strace: who carries bytes, what is let be."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.machine import LONGEST, ZPIPE, content, environment
from tests.paths.tracing import MOVING, Call, parse, strace

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

BIG, SMALL = content(300_001), content(100, 2)
COPYING = ("read", "readv", "recvfrom", "write", "sendto")
# of these much is read and written besides payload: modules, records, what wakes a thread
WHOLE = 4096


class Traced(NamedTuple):
    """A run that has ended."""

    status: int
    output: bytes
    errors: str
    records: list[dict[str, Any]]
    calls: list[Call]

    def moved(self, *names: str) -> int:
        """Return the sum of what calls of these names returned."""
        return sum(call.result for call in self.calls if call.name in names and call.result > 0)

    @property
    def movers(self) -> list[str]:
        return [record["mover"] for record in self.records if record["type"] == "hop"]

    def written(self) -> int:
        """Return how much was written by copies, but for records."""
        return self.moved("write", "sendto") - sum(
            len(json.dumps(record)) + 1 for record in self.records
        )


def trace(
    *words: str,
    folder: Path,
    data: bytes | None = None,
    stdin: int | None = None,
    stdout: int = subprocess.PIPE,
    calls: Sequence[str] = MOVING,
) -> Traced:
    """Run `zpipe cat` under strace, with its records on an fd of their own."""
    log, told = folder / "log", folder / "told"
    prefix = [strace(), "-f", "--seccomp-bpf", "-qq", "-s", "200", "-e", "signal=none"]
    prefix += ["-e", f"trace=execve,{','.join(calls)}", "-o", str(log)]
    source: dict[str, Any] = {"input": data or b""} if stdin is None else {"stdin": stdin}
    with open(told, "wb") as file:
        done = subprocess.run(
            [*prefix, *ZPIPE, "cat", "--json-fd", str(file.fileno()), *words],
            **source,
            stdout=stdout,
            stderr=subprocess.PIPE,
            cwd=folder,
            env=environment(),
            pass_fds=[file.fileno()],
            timeout=LONGEST,
            check=False,
        )
    records = [json.loads(line) for line in told.read_text().splitlines()]
    seen = parse(log.read_text())
    return Traced(done.returncode, done.stdout or b"", done.stderr.decode(), records, seen)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "big").write_bytes(BIG)
    (tmp_path / "small").write_bytes(SMALL)
    return tmp_path


def test_each_source_goes_its_own_way_to_a_pipe(folder: Path) -> None:
    """A big file is sent, a small one copied, a pipe spliced, what only looks like a file read."""
    words = ["big", "small", "-", "/proc/version"]
    done = trace(*words, folder=folder, data=BIG)
    assert done.status == 0, done.errors
    assert done.output[: 2 * len(BIG) + len(SMALL)] == BIG + SMALL + BIG
    assert done.movers == ["sendfile", "plain", "splice", "plain"]
    assert done.moved("sendfile") == len(BIG)
    # in and out of the private pipe; what comes in small pieces may be copied
    assert done.moved("splice") >= len(BIG)
    assert done.moved("splice") + 2 * done.written() >= 2 * len(BIG)


def test_a_file_to_a_file_is_copied_by_the_kernel(folder: Path) -> None:
    with open(folder / "sink", "wb") as sink:
        done = trace("big", "big", folder=folder, stdout=sink.fileno())
    assert (done.status, (folder / "sink").read_bytes()) == (0, BIG + BIG)
    assert set(done.movers) <= {"copy_range", "reflink", "parallel"}
    assert done.moved("copy_file_range") == 2 * len(BIG) or done.movers[0] == "reflink"
    assert done.written() < WHOLE


def test_an_appending_file_is_written(folder: Path) -> None:
    with open(folder / "sink", "ab") as sink:
        done = trace("big", "-", folder=folder, data=BIG, stdout=sink.fileno())
    assert (done.status, (folder / "sink").read_bytes()) == (0, BIG + BIG)
    assert done.moved("sendfile", "copy_file_range") == 0
    assert done.written() >= 2 * len(BIG)


@pytest.mark.parametrize("source", ["big", "-"])
@pytest.mark.parametrize(
    ("options", "names"),
    [
        (["--hash", "sha256"], {"splice", "tee"}),
        (["--buffer", "1M"], {"splice"}),
        (["--buffer", "16M"], {"splice"}),
    ],
    ids=lambda value: " ".join(sorted(value)),
)
def test_a_fan_and_a_buffer_double_and_keep_references(
    folder: Path, source: str, options: list[str], names: set[str]
) -> None:
    """Standard output gets what the kernel holds; only the digest's thread reads bytes."""
    calls = (*MOVING, "tee")
    done = trace(*options, source, folder=folder, data=BIG, calls=calls)
    assert (done.status, done.output) == (0, BIG)
    seen = {call.name for call in done.calls if call.result >= WHOLE}
    assert names <= seen
    copied = done.moved("write")
    if source == "big":
        assert copied < WHOLE + sum(len(json.dumps(record)) for record in done.records)
        assert done.moved("splice") >= 2 * len(BIG)
    if "tee" in names:
        assert done.moved("tee") + copied >= len(BIG)


@pytest.mark.parametrize("family", [socket.AF_UNIX, socket.AF_INET])
def test_a_shared_socket_is_never_asked_without_being_ready(folder: Path, family: int) -> None:
    """It blocks, and its flags are not ours to change: calls that would wait are marked not to."""
    with socket.socket(family) as server:
        server.bind(str(folder / "s") if family == socket.AF_UNIX else ("127.0.0.1", 0))
        server.listen()
        near = socket.socket(family)
        near.connect(server.getsockname())
        far, _ = server.accept()
    with near, far:
        got: list[bytes] = []

        def receive() -> None:
            with near.makefile("rb") as stream:
                got.append(stream.read(2 * len(BIG)))

        thread = threading.Thread(target=receive)
        thread.start()
        done = trace("big", "-", folder=folder, data=BIG, stdout=far.fileno())
        thread.join(LONGEST)
        assert (done.status, got) == (0, [BIG + BIG])
    sent = [call for call in done.calls if call.name == "sendto" and "nlmsg" not in call.arguments]
    assert all("MSG_DONTWAIT" in call.arguments for call in sent)
    assert sum(call.result for call in sent if call.result > 0) == 2 * len(BIG)
    on_it = [call for call in done.calls if call.name in ("splice", "sendfile", "write")]
    assert not [call for call in on_it if re.match(r"1,|\d+, NULL, 1,", call.arguments)]


@pytest.mark.parametrize("options", [[], ["--hash", "md5"], ["--buffer", "1M"]], ids=str)
def test_inherited_fds_are_not_reconfigured(folder: Path, options: list[str]) -> None:
    """No flag is set on them, not even for a moment; nor is a pipe of theirs spliced as it is."""
    reader, writer = os.pipe()
    try:
        os.write(writer, SMALL)
        os.close(writer)
        calls = ("fcntl", "ioctl", "splice", "shutdown", "setsockopt")
        done = trace(*options, "-", folder=folder, stdin=reader, calls=calls)
    finally:
        os.close(reader)
    assert (done.status, done.output) == (0, SMALL)
    for call in done.calls:
        own = call.fd > 2
        assert own or not re.search("F_SETFL|FIONBIO", call.arguments), call
        if call.name == "splice":
            # through a description of our own that does not block
            assert own and not re.match(r"\d+, NULL, [012],", call.arguments), call


def test_a_dry_run_only_looks(folder: Path) -> None:
    """Nothing is connected to, started or created, and what could wait is not opened."""
    os.mkfifo(folder / "fifo")
    calls = ("socket", "connect", "openat", "vfork", "clone3", "fork", "splice", "sendfile", "tee")
    words = ["--dry-run", "--hash", "md5", "--hash-file", "sum", "fifo", "exec:touch x"]
    words += ["tcp://127.0.0.1:9", "unix:nosuch", "big", "-"]
    done = trace(*words, folder=folder, data=BIG, calls=calls)
    assert done.status == 0, done.errors
    # a datagram socket asks the routing table, and sends nothing
    asking = {call.result for call in done.calls if re.search("DGRAM|NETLINK", call.arguments)}
    doing = [call for call in done.calls if call.name not in ("openat", "socket")]
    assert not [call for call in doing if call.fd not in asking]
    assert not [call for call in done.calls if "SOCK_STREAM" in call.arguments]
    opened = [call.arguments for call in done.calls if call.name == "openat"]
    assert not [text for text in opened if '"fifo"' in text or '"sum"' in text]
    assert not [text for text in opened if "O_CREAT" in text and '"/' not in text]
    assert sorted(os.listdir(folder)) == ["big", "fifo", "log", "small", "told"]


def test_sources_beyond_the_count_are_not_opened(folder: Path) -> None:
    words = ["--bytes", str(len(SMALL)), "small", "big"]
    done = trace(*words, folder=folder, calls=("openat",))
    assert (done.status, done.output) == (0, SMALL)
    opened = [call.arguments for call in done.calls]
    assert [text for text in opened if '"small"' in text]
    assert not [text for text in opened if '"big"' in text]
