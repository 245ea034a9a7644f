"""Files by path: where they begin and end, what is refused, and what else a path may name."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from tests.endpoints.meeting import Meeting, read_all, sink, source, write_all
from tests.machine import as_stranger, content, leftovers, loop_device, strace, zpipe
from zpipe.endpoints import kind_of, parse
from zpipe.endpoints.gather import identity
from zpipe.errors import TransferError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

DATA = content(10_000)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "file").write_bytes(DATA)
    return tmp_path / "file"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", DATA),
        ("?offset=100", DATA[100:]),
        ("?length=5", DATA[:5]),
        ("?offset=9K&length=2K", DATA[9216:]),
        ("?offset=100&length=0", b""),
        ("?offset=1M", b""),
    ],
)
def test_a_source_begins_and_ends_where_it_is_told(
    options: str, expected: bytes, file: Path
) -> None:
    with source(f"file:{file}{options}") as end:
        assert read_all(end) == expected


def test_offsets_of_address_and_command_add_up(file: Path) -> None:
    with source(f"file:{file}?offset=100", offset=10) as end:
        assert (end.facts.position, end.facts.size) == (110, len(DATA) - 110)
        assert read_all(end) == DATA[110:]


def test_an_offset_that_no_file_has_is_refused(file: Path) -> None:
    with pytest.raises(TransferError, match="seek to 9223372036854775807: Invalid argument"):
        source(f"file:{file}?offset=9223372036854775807")


def test_a_sink_is_not_there_before_it_is_finished(tmp_path: Path) -> None:
    path = tmp_path / "dst"
    with sink(str(path), mode=0o640) as end:
        assert end.provisional
        assert end.facts.fresh
        write_all(end, b"data")
        assert not path.exists()
        end.finish(Meeting())
    assert path.read_bytes() == b"data"
    assert not leftovers(tmp_path)


def test_a_sink_that_is_not_finished_leaves_the_old_content(file: Path) -> None:
    with sink(str(file)) as end:
        write_all(end, b"half")
    assert file.read_bytes() == DATA
    assert os.listdir(file.parent) == ["file"]


@pytest.mark.parametrize("way", ["opening", "option"])
def test_an_appending_sink_adds_at_the_end(way: str, file: Path) -> None:
    text = str(file) if way == "opening" else f"file:{file}?append=1"
    with sink(text, append=way == "opening") as end:
        assert end.facts.append
        assert not end.provisional
        write_all(end, b"more")
        end.finish(Meeting())
    assert file.read_bytes() == DATA + b"more"


def test_an_appending_sink_is_made_where_there_is_none(tmp_path: Path) -> None:
    with sink(f"file:{tmp_path}/log?append=1&mode=0600") as end:
        write_all(end, b"more")
        end.finish(Meeting())
    assert (tmp_path / "log").read_bytes() == b"more"
    assert stat.S_IMODE((tmp_path / "log").stat().st_mode) == 0o600


def test_a_sink_with_an_offset_is_written_there_and_not_cut(file: Path) -> None:
    with sink(f"file:{file}?offset=100") as end:
        assert not end.facts.fresh
        write_all(end, b"here")
        end.finish(Meeting())
    assert file.read_bytes() == DATA[:100] + b"here" + DATA[104:]


def test_the_mode_of_a_new_file_is_that_asked_for_less_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        for text, mode in ((f"{tmp_path}/a", 0o666), (f"file:{tmp_path}/b?mode=0777", 0o666)):
            with sink(text, mode=mode) as end:
                end.finish(Meeting())
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "b").stat().st_mode) == 0o750


@pytest.mark.parametrize("options", ["", "?append=1", "?offset=5"])
@pytest.mark.parametrize("inplace", [False, True])
def test_a_file_is_not_copied_onto_itself(options: str, inplace: bool, file: Path) -> None:
    os.link(file, file.with_name("other-name"))
    for name in ("file", "other-name"):
        with pytest.raises(UsageError, match="is the source itself"):
            sink(
                f"file:{file.with_name(name)}{options}",
                refuse=identity(os.stat(file)),
                inplace=inplace,
            )
    assert file.read_bytes() == DATA
    assert not leftovers(file.parent)


def test_a_block_device_is_written_as_it_is_and_known_by_any_of_its_names(tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(bytes(1 << 20))
    with loop_device(tmp_path / "image") as device:
        number = os.stat(device).st_rdev
        twin = tmp_path / "twin"
        os.mknod(twin, stat.S_IFBLK | 0o600, number)
        with sink(f"file:{device}?offset=4096", sync=True) as end:
            assert (end.facts.type, end.provisional) == ("block", False)
            write_all(end, b"data")
            end.finish(Meeting())
        with source(f"file:{device}?offset=4096&length=4") as end:
            assert read_all(end) == b"data"
        with source(str(device)) as end, pytest.raises(UsageError, match="is the source itself"):
            sink(str(twin), refuse=end.facts.identity)


def test_a_device_is_never_replaced_by_a_file(tmp_path: Path) -> None:
    for path in ("/dev/null", "/dev/full"):
        with sink(path) as end:
            assert (end.facts.type, end.provisional) == ("character", False)
            end.finish(Meeting())
        assert stat.S_ISCHR(os.stat(path).st_mode)


def test_a_terminal_is_opened_without_becoming_the_controlling_one() -> None:
    master, slave = os.openpty()
    try:
        with source(os.ttyname(slave)) as end:
            assert (end.facts.type, end.facts.nonblocking) == ("tty", True)
            with pytest.raises(BlockingIOError):
                os.read(end.fd, 1)
        assert os.get_blocking(slave)
    finally:
        os.close(master)
        os.close(slave)


def test_a_path_may_name_a_fifo(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")

    def write() -> None:
        fd = os.open(tmp_path / "fifo", os.O_WRONLY | os.O_NONBLOCK)
        os.write(fd, b"data")
        os.close(fd)

    with source(f"{tmp_path}/fifo", Meeting(write)) as end:
        assert read_all(end) == b"data"
    readers: list[int] = []

    def read() -> None:
        readers.append(os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK))

    try:
        with sink(f"{tmp_path}/fifo", Meeting(read)) as end:
            write_all(end, b"data")
            assert os.read(readers[0], 9) == b"data"
    finally:
        os.close(readers[0])
    for is_sink in (False, True):
        with pytest.raises(TransferError, match="seek to 5: a FIFO has no offsets"):
            (sink if is_sink else source)(f"file:{tmp_path}/fifo?offset=5").close()
    assert stat.S_ISFIFO(os.stat(tmp_path / "fifo").st_mode)


def test_o_direct_is_asked_for_and_set_by_nobody_yet(file: Path) -> None:
    for end in (source(f"file:{file}?direct=1"), sink(f"file:{file.parent}/dst?direct=1")):
        with end:
            assert end.facts.direct


def test_an_open_file_is_held_by_its_lease_until_the_other_side_lets_go(file: Path) -> None:
    """The open of a regular source waits for a lease instead of failing, as cat's does."""
    import threading

    from zpipe.kernel.lease import Lease

    holder = os.open(file, os.O_RDONLY)
    lease = Lease(holder)
    opened: list[bytes] = []

    def append() -> None:
        with sink(f"file:{file}?append=1") as end:
            opened.append(b"x")
            end.finish(Meeting())

    writer = threading.Thread(target=append)
    writer.start()
    while lease.held():
        os.sched_yield()
    assert not opened
    lease.release()
    writer.join()
    os.close(holder)
    assert opened


@pytest.mark.parametrize(
    ("text", "is_sink"),
    [
        ("file:dst?append=1", True),
        ("file:file?append=1", True),
        ("file:file?offset=5", True),
        ("dst", True),
        ("file", True),
        ("file:file?offset=5", False),
        ("file:file?direct=1", False),
        ("file:dst?direct=1", True),
    ],
)
def test_a_preview_knows_the_options(
    text: str, is_sink: bool, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan that is only shown must be the plan that would be carried out."""
    monkeypatch.chdir(file.parent)
    endpoint = parse(text, sink=is_sink)
    foretold = kind_of("file").preview(endpoint, sink=is_sink)
    assert sorted(os.listdir()) == ["file"]
    with (sink if is_sink else source)(text) as end:
        for fact in ("append", "direct", "fresh", "position", "size", "has_holes"):
            assert getattr(foretold, fact) == getattr(end.facts, fact), fact


@pytest.mark.parametrize("is_sink", [False, True])
def test_a_preview_refuses_what_is_certain_to_be_refused(is_sink: bool, tmp_path: Path) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(f"{tmp_path}/socket")
    for name in ("socket", "", "missing/file"):
        endpoint = parse(f"{tmp_path}/{name}", sink=is_sink)
        with pytest.raises(TransferError):
            kind_of("file").preview(endpoint, sink=is_sink)


def test_what_must_not_be_read_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "secret").write_bytes(b"data")
    (tmp_path / "secret").chmod(0o600)

    def check() -> None:
        with pytest.raises(TransferError, match="secret: open: Permission denied"):
            source("secret")
        with pytest.raises(TransferError, match="secret: open: Permission denied"):
            sink("secret")
        with pytest.raises(TransferError, match="new: open: Permission denied"):
            sink("new")

    as_stranger(tmp_path, check)
    assert os.listdir(tmp_path) == ["secret"]


@pytest.mark.parametrize(
    ("call", "when", "act"),
    [
        ("fsync", 1, "fsync"),
        ("rename", 1, "rename"),
        ("fchmod", 1, "chmod"),
    ],
)
def test_a_target_keeps_its_content_when_the_last_steps_fail(
    call: str, when: int, act: str, file: Path
) -> None:
    source_ = file.with_name("source")
    source_.write_bytes(content(50_000, seed=2))
    done = zpipe(
        "cp",
        "--sync",
        source_,
        file,
        before=strace(f"-etrace={call}", f"-einject={call}:error=EIO:when={when}", "-o/dev/null"),
    )
    assert done.returncode == 1
    assert done.stderr.decode() == f"zpipe: {file}: {act}: Input/output error\n"
    assert file.read_bytes() == DATA
    assert sorted(os.listdir(file.parent)) == ["file", "source"]


def test_a_close_that_reports_a_lost_write_is_an_error(tmp_path: Path) -> None:
    """Network filesystems say so late; strace says it here, for the file's own close."""
    (tmp_path / "src").write_bytes(DATA)
    (tmp_path / "dst").write_bytes(b"old")
    log = tmp_path / "log"
    words = strace("-etrace=close", "-P", str(tmp_path / "dst"), "-einject=close:error=EIO")
    done = zpipe("cp", "--inplace", tmp_path / "src", tmp_path / "dst", before=[*words, f"-o{log}"])
    assert b"(INJECTED)" in log.read_bytes()
    assert done.returncode == 1
    assert done.stderr.decode() == f"zpipe: {tmp_path}/dst: close: Input/output error\n"


def test_sync_reaches_the_disk_before_the_name_and_the_name_before_the_end(
    tmp_path: Path,
) -> None:
    (tmp_path / "src").write_bytes(DATA)
    log = tmp_path / "log"
    words = strace("-etrace=/^(fsync|rename)", f"-o{log}", "-y")
    done = zpipe("cp", "--sync", tmp_path / "src", tmp_path / "dst", before=words)
    assert done.returncode == 0
    calls = [line.split(maxsplit=1)[1].partition("(") for line in log.read_text().splitlines()]
    assert [(call, ".zpipe-" in rest) for call, _, rest in calls] == [
        ("fsync", True),
        ("rename", True),
        ("fsync", False),
    ]


def test_strangers_see_no_temporary_file_that_they_could_open(tmp_path: Path) -> None:
    """A private target stays private while it is replaced, whatever the umask."""
    private = tmp_path / "private"
    private.write_bytes(b"old")
    private.chmod(0o600)
    with sink(str(private)) as end:
        (name,) = leftovers(tmp_path)
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
        end.finish(Meeting())
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
