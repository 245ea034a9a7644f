"""Both ends are opened in an order that loses nothing, and a stable source is made so here."""

from __future__ import annotations

import os
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

import zpipe
from tests.machine import content, leftovers

if TYPE_CHECKING:
    from pathlib import Path

BIG = 200_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "b").write_bytes(content(BIG))
    (tmp_path / "x").write_bytes(b"old")
    return tmp_path


@pytest.mark.parametrize("wishes", [{}, {"append": True}, {"inplace": True}], ids=str)
@pytest.mark.parametrize("source", ["nosuch", "exec:nosuch-program", "tcp://127.0.0.1:1", "fd:99"])
def test_a_source_that_fails_leaves_the_target_untouched(
    folder: Path, source: str, wishes: dict[str, Any]
) -> None:
    before = os.stat(folder / "x")
    for target in ("x", "new"):
        with pytest.raises(zpipe.TransferError):
            zpipe.copy(source, str(folder / target), **wishes)
    assert (folder / "x").read_bytes() == b"old"
    assert os.stat(folder / "x").st_mtime_ns == before.st_mtime_ns
    assert sorted(os.listdir(folder)) == ["b", "x"]


def test_a_source_that_fails_makes_no_connection_to_the_target(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        with pytest.raises(zpipe.TransferError):
            zpipe.copy("nosuch", f"tcp://127.0.0.1:{server.getsockname()[1]}")
        with pytest.raises(BlockingIOError):
            server.accept()


def test_a_target_that_fails_ends_the_child_that_is_the_source(folder: Path) -> None:
    command = f"exec:sh -c 'echo $$ >{folder}/pid; exec sleep 60'"
    with pytest.raises(zpipe.TransferError, match="nosuch/x: open"):
        zpipe.copy(command, str(folder / "nosuch" / "x"))
    if (folder / "pid").exists() and (folder / "pid").read_text():
        with pytest.raises(ProcessLookupError):
            os.kill(int((folder / "pid").read_text()), 0)


@pytest.mark.parametrize("wish", ["append", "inplace"])
def test_what_is_for_files_is_refused_before_anything_is_opened(folder: Path, wish: str) -> None:
    wishes: dict[str, Any] = {wish: True}
    with pytest.raises(zpipe.UsageError, match=f"null:: --{wish} is for a file"):
        zpipe.copy(f"exec:touch {folder}/started", "null:", **wishes)
    assert not (folder / "started").exists()


def test_a_new_target_gets_the_permissions_of_a_file_and_not_those_of_a_stream(
    folder: Path,
) -> None:
    (folder / "b").chmod(0o600)
    mask = os.umask(0o022)
    try:
        zpipe.copy(str(folder / "b"), str(folder / "of file"))
        zpipe.copy("zero:?size=10", str(folder / "of stream"))
        zpipe.copy(str(folder / "b"), f"file:{folder}/of option?mode=0640")
    finally:
        os.umask(mask)
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in folder.glob("of *")}
    assert modes == {"of file": "0o600", "of stream": "0o644", "of option": "0o640"}


# Stability


def into_a_pipe(source: Path, **wishes: Any) -> tuple[zpipe.Report, bytes]:
    """Copy into a pipe that holds all of it, change the source, and only then read the pipe."""
    reader, writer = os.pipe()
    import fcntl

    fcntl.fcntl(writer, 1031, 1 << 20)  # F_SETPIPE_SZ
    try:
        report = zpipe.copy(str(source), f"fd:{writer}", **wishes)
    finally:
        os.close(writer)
    with open(source, "r+b") as file:
        file.write(bytes(BIG))
    with open(reader, "rb") as pipe:
        return report, pipe.read()


def test_a_stable_source_is_copied_where_it_cannot_be_cloned(folder: Path) -> None:
    report, got = into_a_pipe(folder / "b", stable=True)
    assert got == content(BIG)
    refused = {refusal.name for refusal in report.hops[0].plan.refusals}
    assert report.hops[0].mover == "plain" or "cloned" in " ".join(report.hops[0].notes)
    assert {"sendfile", "splice"} <= refused or report.hops[0].mover in ("sendfile", "splice")


@pytest.mark.parametrize("offset", [0, 4096, 5000])
def test_a_stable_source_is_cloned_first_where_blocks_can_be_shared(
    sharing: Path, offset: int
) -> None:
    """Then its pages may go by reference: nobody can write to the clone."""
    before = sorted(os.listdir(sharing))
    source = sharing / "b"
    source.write_bytes(content(BIG))
    report, got = into_a_pipe(source, stable=True, offset=offset)
    assert got == content(BIG)[offset:]
    assert report.hops[0].mover == "sendfile"
    assert any("cloned first" in note for note in report.hops[0].notes)
    source.unlink()
    assert sorted(os.listdir(sharing)) == before


def test_a_clone_is_not_disturbed_by_changes_while_it_is_read(sharing: Path) -> None:
    source = sharing / "b"
    source.write_bytes(content(4 << 20))
    os.mkfifo(sharing / "fifo")
    outcome: list[object] = []

    def work() -> None:
        outcome.append(zpipe.copy(str(source), str(sharing / "fifo"), stable=True).moved)

    thread = threading.Thread(target=work)
    thread.start()
    with open(sharing / "fifo", "rb") as fifo:
        got = fifo.read(1)
        source.write_bytes(b"something else")
        got += fifo.read()
    thread.join()
    assert outcome == [4 << 20]
    assert got == content(4 << 20)
    source.unlink()
    (sharing / "fifo").unlink()


def test_an_inherited_source_is_left_as_it_is(sharing: Path) -> None:
    """Its fd is shared with others: it is not exchanged for a clone, its bytes are copied."""
    source = sharing / "b"
    source.write_bytes(content(BIG))
    with open(source, "rb", buffering=0) as file:
        inode = os.fstat(file.fileno()).st_ino
        reader, writer = os.pipe()
        thread = threading.Thread(
            target=zpipe.copy,
            args=(f"fd:{file.fileno()}", f"fd:{writer}"),
            kwargs={"stable": True, "length": 1000},
        )
        thread.start()
        assert len(os.read(reader, 1000)) == 1000
        thread.join()
        assert os.fstat(file.fileno()).st_ino == inode
        assert file.tell() == 1000
        os.close(reader)
        os.close(writer)
    source.unlink()


def test_a_lease_is_noted_and_given_back(folder: Path) -> None:
    report = zpipe.copy(str(folder / "b"), "null:", lease=True)
    assert "the source is held by a lease: others wait to write to it" in report.hops[0].notes
    with open(folder / "b", "r+b"):
        pass  # would wait for ever, or for lease-break-time


def test_a_lease_that_cannot_be_had_means_copies(folder: Path) -> None:
    with open(folder / "b", "r+b"):
        report, got = into_a_pipe(folder / "b", lease=True)
    assert got == content(BIG)
    assert any(note.startswith("no lease on the source") for note in report.hops[0].notes)
    assert not leftovers(folder)


@pytest.mark.parametrize("source", ["zero:?size=10", "exec:echo hello", "null:"])
def test_a_lease_on_what_is_no_file_is_no_hindrance(source: str) -> None:
    assert zpipe.copy(source, "null:", lease=True).hops[0].complete
