"""Digests of what arrives: those that everybody else computes, given once and complete."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.endpoints.meeting import Meeting, open_end, sink, write_all
from tests.machine import content, leftovers
from zpipe.endpoints import kind_of, parse
from zpipe.errors import TransferError, UsageError
from zpipe.graph.model import Endpoint

DATA = content(700_001)
ALGORITHMS = sorted(name for name in hashlib.algorithms_guaranteed if "shake" not in name)


def digest(text: str, data: bytes) -> str:
    """Return what an end answers that was given this."""
    waiter = Meeting()
    with sink(text, waiter) as end:
        write_all(end, data)
        assert waiter.answers == [], "before its end nothing is known"
        end.finish(waiter)
    (answer,) = waiter.answers
    return answer


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_that_this_python_guarantees(algorithm: str) -> None:
    assert digest(f"hash:{algorithm}", DATA) == f"{hashlib.new(algorithm, DATA).hexdigest()}  -"


def test_of_nothing() -> None:
    assert digest("hash:sha256", b"") == f"{hashlib.sha256().hexdigest()}  -"


@settings(max_examples=30)
@given(st.lists(st.integers(1, 100_000), max_size=6))
def test_it_does_not_depend_on_how_the_bytes_come(sizes: list[int]) -> None:
    waiter = Meeting()
    data = DATA[: sum(sizes)]
    at = 0
    with sink("hash:sha1", waiter) as end:
        for size in sizes:
            write_all(end, data[at : at + size])
            at += size
        end.finish(waiter)
        assert end.notes == [f"sha1 {hashlib.sha1(data).hexdigest()}"]
    assert waiter.answers == [f"{hashlib.sha1(data).hexdigest()}  -"]


def test_the_name_beside_it() -> None:
    assert digest("hash:md5?name=a file", b"").endswith("  a file")


def test_into_a_file_that_is_complete_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "sum"
    waiter = Meeting()
    with sink(f"hash:sha256?file={path}&name=b", waiter) as end:
        write_all(end, DATA)
        assert os.listdir(tmp_path) == []
        end.finish(waiter)
    assert path.read_text() == f"{hashlib.sha256(DATA).hexdigest()}  b\n"
    assert os.listdir(tmp_path) == ["sum"]
    assert waiter.answers == []


def test_a_file_is_left_as_it_was_where_the_transfer_failed(tmp_path: Path) -> None:
    path = tmp_path / "sum"
    path.write_text("old")
    with sink(f"hash:sha256?file={path}") as end:
        write_all(end, DATA)
    assert path.read_text() == "old"
    assert not leftovers(tmp_path)


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("none/sum", "No such file or directory"),
        ("folder", "Is a directory"),
    ],
)
def test_a_file_that_cannot_be_written_is_an_error_in_its_name(
    place: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    waiter = Meeting()
    with sink(f"hash:md5?file={place}", waiter) as end, pytest.raises(TransferError) as raised:
        end.finish(waiter)
    assert str(raised.value).startswith(f"{place}: ")
    assert str(raised.value).endswith(f": {why}")
    assert os.listdir(tmp_path) == ["folder"]


def test_into_a_device_or_a_fifo(tmp_path: Path) -> None:
    """`--hash-file /dev/stderr`, and `--hash-file >(COMMAND)`."""
    reader, writer = os.pipe()
    os.mkfifo(tmp_path / "fifo")
    fifo = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    expected = f"{hashlib.md5(DATA).hexdigest()}  -\n".encode()
    try:
        for path, end in (("/dev/null", -1), (f"/dev/fd/{writer}", reader), ("fifo", fifo)):
            waiter = Meeting()
            with sink(f"hash:md5?file={tmp_path / path}", waiter) as made:
                write_all(made, DATA)
                made.finish(waiter)
            assert end < 0 or os.read(end, 100) == expected
        with sink("hash:md5?file=/dev/full") as made, pytest.raises(TransferError) as raised:
            made.finish(Meeting())
        assert str(raised.value) == "/dev/full: write: No space left on device"
    finally:
        for fd in (reader, writer, fifo):
            os.close(fd)


def test_the_thread_ends_with_its_end() -> None:
    before = set(threading.enumerate())
    end = sink("hash:sha256")
    assert len(set(threading.enumerate()) - before) == 1
    end.close()
    assert set(threading.enumerate()) <= before
    end.close()


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("hash:", "unknown algorithm (empty): known are "),
        ("hash:sha257", "unknown algorithm sha257: did you mean sha256? known are "),
        # of what length?
        ("hash:shake_128", "unknown algorithm shake_128: "),
        ("hash:md5?name=", "option name: give a value"),
    ],
)
def test_what_is_no_digest_is_refused(text: str, fragment: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse(text, sink=True)
    assert fragment in str(raised.value)


def test_it_is_no_source() -> None:
    with pytest.raises(UsageError, match="hash:md5: cannot be a source"):
        parse("hash:md5", sink=False)
    endpoint = Endpoint("hash:md5", "hash", "md5")
    with pytest.raises(UsageError, match="hash:md5: cannot be a source"):
        kind_of("hash").open_source(endpoint, None)  # type: ignore[arg-type]


def test_it_has_no_offsets() -> None:
    with pytest.raises(TransferError, match="seek to 5: a stream has no offsets"):
        open_end("hash:md5", Meeting(), sink=True, offset=5)
