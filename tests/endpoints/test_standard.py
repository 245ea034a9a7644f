"""Standard input and output: by place, and never changed for those who share them."""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.endpoints.meeting import Meeting, sink, source, write_all
from tests.machine import content, zpipe
from zpipe.errors import TransferError
from zpipe.kernel.inspect import status_flags

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DATA = content(100_000)


@contextmanager
def standing_in(*fds: int) -> Iterator[None]:
    """Let fds be standard input and standard output for a while."""
    with ExitStack() as stack:
        for number, fd in enumerate(fds):
            kept = os.dup(number)
            stack.callback(os.close, kept)
            stack.callback(os.dup2, kept, number)
            os.dup2(fd, number)
        yield


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    fds = os.pipe()
    yield fds
    for fd in fds:
        os.close(fd)


def test_the_place_decides_which_of_the_two_it_is(pipe: tuple[int, int]) -> None:
    with standing_in(*pipe), source("-") as src, sink("-") as dst:
        assert (src.name, dst.name) == ("standard input", "standard output")
        write_all(dst, b"data")
        assert os.read(src.fd, 9) == b"data"


def test_the_flags_that_a_shell_shares_stay(pipe: tuple[int, int]) -> None:
    before = [status_flags(fd) for fd in pipe]
    with standing_in(*pipe):
        with source("-") as src, sink("-") as dst:
            assert src.facts.nonblocking
            assert dst.facts.nonblocking
            dst.finish(Meeting())
        os.write(1, b"open")
        assert os.read(0, 9) == b"open"
    assert [status_flags(fd) for fd in pipe] == before


def test_nobody_reading_standard_output_is_no_failure(pipe: tuple[int, int]) -> None:
    """It ends as cat ends, by SIGPIPE; the engine heeds this mark."""
    with standing_in(*pipe), source("-") as src, sink("-") as dst:
        assert dst.quiet_pipe
        assert not src.quiet_pipe


@pytest.mark.parametrize(
    ("redirection", "operands", "text"),
    [
        ("<&-", ("-", "null:"), "standard input: read: is not open for reading"),
        (">&-", ("null:", "-"), "standard output: write: is not open for writing"),
    ],
)
def test_a_standard_fd_that_is_closed_is_told(
    redirection: str, operands: tuple[str, str], text: str
) -> None:
    done = zpipe("cp", *operands, before=["sh", "-c", f'exec "$@" {redirection}', "sh"])
    assert done.returncode == 1
    assert text in done.stderr.decode()


def test_redirected_files_are_read_and_appended_to(tmp_path: Path) -> None:
    (tmp_path / "src").write_bytes(DATA)
    (tmp_path / "dst").write_bytes(b"kept")
    with open(tmp_path / "src", "rb") as src, open(tmp_path / "dst", "ab") as dst:
        src.seek(1000)
        done = zpipe("cp", "-", "-", stdin=src, stdout=dst)
        assert (done.returncode, done.stderr) == (0, b"")
        assert src.seek(0, os.SEEK_CUR) == len(DATA)
    assert (tmp_path / "dst").read_bytes() == b"kept" + DATA[1000:]


def test_a_directory_as_standard_input_is_told(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        with standing_in(fd), pytest.raises(TransferError) as caught:
            source("-")
    finally:
        os.close(fd)
    assert str(caught.value) == "standard input: read: Is a directory"


def test_it_is_an_error_and_not_a_guess_that_a_closed_fd_cannot_be_previewed() -> None:
    from zpipe.endpoints import kind_of, parse

    kept = os.dup(0)
    os.close(0)
    try:
        with pytest.raises(TransferError, match="standard input: open: Bad file descriptor"):
            kind_of("-").preview(parse("-", sink=False), sink=False)
    finally:
        os.dup2(kept, 0)
        os.close(kept)
