"""What `zpipe cp` does to files: options, names, modes, targets of every sort."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import socket
import stat
import struct
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.commands.shell import BIG, SMALL, names, refused, shell, went_well
from tests.machine import (
    content,
    leftovers,
    loop_device,
    missing,
    need,
    need_root,
    nobody,
    started,
    strace,
    until,
    zpipe,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZES = [0, 1, SMALL, 32768, 32769, BIG]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a").write_bytes(content(SMALL))
    (tmp_path / "b").write_bytes(content(BIG))
    return tmp_path


# Parts of a file


@pytest.mark.parametrize(
    ("options", "begin", "end"),
    [
        (["--offset", "1000"], 1000, BIG),
        (["--length", "1000"], 0, 1000),
        (["--offset", "4096", "--length", "8192"], 4096, 12288),
        (["--offset", "99999"], 99999, BIG),
        (["--offset", "100000"], BIG, BIG),
        (["--offset", "1G"], BIG, BIG),
        (["--length", "0"], 0, 0),
        (["--length", "1G"], 0, BIG),
        (["--length", "1.5K"], 0, 1536),
        (["--length", "10KB", "--offset", "1KiB"], 1024, 11024),
    ],
)
def test_offset_and_length_take_a_part(
    folder: Path, options: list[str], begin: int, end: int
) -> None:
    went_well(zpipe("cp", *options, "b", "x", cwd=folder))
    assert (folder / "x").read_bytes() == content(BIG)[begin:end]


@pytest.mark.parametrize("mover", ["copy_range", "sendfile", "splice", "mapped", "direct", "plain"])
def test_every_mover_takes_the_same_part(folder: Path, mover: str) -> None:
    options = ["--via", mover, "--offset", "4096", "--length", "50001"]
    done = zpipe("cp", *options, "b", "x", cwd=folder)
    if b"neither side is on a disk" in done.stderr:
        missing("temporary files are not on a disk")
    assert done.returncode == 0, done.stderr
    assert (folder / "x").read_bytes() == content(BIG)[4096:54097]


def test_parts_of_standard_input(folder: Path) -> None:
    """A file as standard input can be entered anywhere; of a pipe only the length can be cut."""
    with open(folder / "b", "rb") as file:
        done = zpipe("cp", "--offset", "10", "--length", "20", "-", "-", stdin=file)
    assert done.stdout == content(BIG)[10:30]
    assert zpipe("cp", "--length", "20", "-", "-", data=content(BIG)).stdout == content(BIG)[:20]
    done = zpipe("cp", "--offset", "20", "-", "-", data=content(BIG))
    refused(done, 1, "standard input: seek to 20")


def test_what_is_not_taken_of_standard_input_is_left_there(folder: Path) -> None:
    """So that a shell script can hand out one input to several commands."""
    script = '"$@"; cat'
    for source in (content(SMALL), content(BIG)):
        done = zpipe("cp", "--length", "4", "-", "-", data=source, before=shell(script))
        assert done.stdout == source
    (folder / "in").write_bytes(content(BIG))
    with open(folder / "in", "rb") as file:
        done = zpipe("cp", "--length", "50000", "-", "-", stdin=file, before=shell(script))
    assert done.stdout == content(BIG)


# How the target is written


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("old", [None, b"", b"old", bytes(200_000)])
def test_the_target_is_the_source_whatever_it_held(
    tmp_path: Path, size: int, old: bytes | None
) -> None:
    (tmp_path / "source").write_bytes(content(size))
    if old is not None:
        (tmp_path / "target").write_bytes(old)
    went_well(zpipe("cp", "source", "target", cwd=tmp_path))
    assert (tmp_path / "target").read_bytes() == content(size)
    assert names(tmp_path) == ["source", "target"]


def test_append_adds_at_the_end_in_place(folder: Path) -> None:
    target = folder / "x"
    for source in ("a", "b"):
        went_well(zpipe("cp", "--append", source, "x", cwd=folder))
    inode = target.stat().st_ino
    went_well(zpipe("cp", "--append", "a", "x", cwd=folder))
    assert target.read_bytes() == content(SMALL) + content(BIG) + content(SMALL)
    assert target.stat().st_ino == inode


def test_two_that_append_at_once_lose_nothing(folder: Path) -> None:
    """O_APPEND, not a position found out before: nobody's bytes are overwritten."""
    with (
        started("cp", "--append", "--rate-limit", "1M", "b", "x", cwd=folder) as first,
        started("cp", "--append", "--rate-limit", "1M", "b", "x", cwd=folder) as second,
    ):
        assert (first.wait(), second.wait()) == (0, 0)
    assert (folder / "x").stat().st_size == 2 * BIG


def test_the_shells_append_is_kept(folder: Path) -> None:
    (folder / "x").write_bytes(b"old")
    went_well(zpipe("cp", "b", "-", cwd=folder, before=shell('exec "$@" >>x')))
    assert (folder / "x").read_bytes() == b"old" + content(BIG)


@pytest.mark.parametrize("source", ["a", "b"])
def test_inplace_keeps_the_inode_and_the_default_replaces_it(folder: Path, source: str) -> None:
    target = folder / "x"
    target.write_bytes(bytes(2 * BIG))
    with open(target, "rb") as reader:
        inode = target.stat().st_ino
        went_well(zpipe("cp", "--inplace", source, "x", cwd=folder))
        assert target.stat().st_ino == inode
        assert reader.read() == target.read_bytes() == content((folder / source).stat().st_size)
        went_well(zpipe("cp", source, "x", cwd=folder))
        assert target.stat().st_ino != inode


def test_a_request_that_is_refused_has_not_truncated_its_target(folder: Path) -> None:
    """Which mover can serve is known before the first byte is due, so nothing need be lost."""
    (folder / "x").write_bytes(b"precious")
    done = zpipe("cp", "--inplace", "--via", "parallel", "b", "x", cwd=folder)
    refused(done, 2, "--via parallel")
    os.link(folder / "x", folder / "y")
    refused(zpipe("cp", "--via", "parallel", "b", "x", cwd=folder), 2, "--via parallel")
    assert (folder / "x").read_bytes() == b"precious"


def test_sync_makes_file_and_folder_durable(folder: Path) -> None:
    log = folder / "log"
    words = strace("-o", str(log), "-e", "trace=fsync,fdatasync,sync_file_range,rename,renameat")
    assert zpipe("cp", "--sync", "b", "x", cwd=folder, before=words).returncode == 0
    calls = [line.split()[1].partition("(")[0] for line in log.read_text().splitlines()]
    assert [call for call in calls if call in ("fsync", "rename")] == ["fsync", "rename", "fsync"]
    assert zpipe("cp", "b", "x", cwd=folder, before=words).returncode == 0
    assert "fsync" not in log.read_text()


def test_an_offset_in_the_target_changes_nothing_else_of_it(folder: Path) -> None:
    (folder / "x").write_bytes(bytes(20))
    went_well(zpipe("cp", "a", "file:x?offset=7", cwd=folder))
    assert (folder / "x").read_bytes() == bytes(7) + content(SMALL) + bytes(20 - 7 - SMALL)


@pytest.mark.parametrize("option", ["--append", "--inplace"])
@pytest.mark.parametrize("target", ["-", "exec:cat", "null:"])
def test_what_is_for_files_is_refused_for_other_targets(
    folder: Path, option: str, target: str
) -> None:
    refused(zpipe("cp", option, "a", target, cwd=folder), 2, f"{option} is for a file")


# Movers and what is asked of them


def mover_of(done: subprocess.CompletedProcess[bytes]) -> str:
    records = [json.loads(line) for line in done.stderr.splitlines()]
    return str(next(record["mover"] for record in records if record["type"] == "hop"))


@pytest.mark.parametrize("mover", ["copy_range", "sendfile", "splice", "mapped", "direct", "plain"])
def test_via_moves_by_that_mover(folder: Path, mover: str) -> None:
    done = zpipe("cp", "--json", "--via", mover, "b", "x", cwd=folder)
    if b"neither side is on a disk" in done.stderr:
        missing("temporary files are not on a disk")
    assert mover_of(done) == mover
    assert (folder / "x").read_bytes() == content(BIG)


def test_no_via_is_repeatable_and_never_moves_by_them(folder: Path) -> None:
    avoided: list[str] = []
    for _ in range(8):
        options = [f"--no-via={name}" for name in avoided]
        done = zpipe("cp", "--json", *options, "b", "x", cwd=folder)
        mover = mover_of(done)
        assert mover not in avoided
        assert (folder / "x").read_bytes() == content(BIG)
        if mover == "plain":
            break
        avoided.append(mover)
    assert mover == "plain"


def test_stable_bytes_are_those_of_the_moment_of_reading(folder: Path) -> None:
    """What is written to the source once it was read does not show in the pipe."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, 1031, 1 << 20)  # F_SETPIPE_SZ: all of it fits
    done = zpipe("cp", "--stable", "b", "-", cwd=folder, stdout=writer)
    went_well(done)
    os.close(writer)
    (folder / "b").write_bytes(bytes(BIG))
    with open(reader, "rb") as pipe:
        assert pipe.read() == content(BIG)


def test_a_lease_holds_writers_off_until_the_copy_has_ended(folder: Path) -> None:
    os.mkfifo(folder / "fifo")
    (folder / "b").write_bytes(content(4 << 20))
    with started("cp", "--lease", "b", "fifo", cwd=folder) as process:
        with open(folder / "fifo", "rb") as fifo:
            got = fifo.read(1)
            with pytest.raises(BlockingIOError):
                os.close(os.open(folder / "b", os.O_WRONLY | os.O_NONBLOCK))
            got += fifo.read()
        assert got == content(4 << 20)
        assert process.wait() == 0
    os.close(os.open(folder / "b", os.O_WRONLY | os.O_NONBLOCK))


def test_without_a_lease_to_be_had_the_bytes_are_copied(folder: Path) -> None:
    with open(folder / "b", "ab"):
        done = zpipe("cp", "--lease", "--explain", "b", "-", cwd=folder)
    assert (done.returncode, done.stdout) == (0, content(BIG))
    assert b"no lease on the source" in done.stderr
    assert b"--stable asks for copies" in done.stderr


def test_the_size_of_the_private_pipe_bounds_each_splice(folder: Path) -> None:
    log = folder / "log"
    words = strace("-o", str(log), "-e", "trace=splice")
    options = ["--pipe-size", "8K", "--via", "splice"]
    assert zpipe("cp", *options, "b", "x", cwd=folder, before=words).returncode == 0
    moved = [int(line.rpartition("= ")[2]) for line in log.read_text().splitlines() if "= " in line]
    assert (max(moved), sum(moved)) == (8192, 2 * BIG)
    assert (folder / "x").read_bytes() == content(BIG)


@pytest.mark.parametrize("size", ["4K", "5000", "12345K", "2G"])
def test_any_size_of_the_private_pipe_will_do(folder: Path, size: str) -> None:
    """The kernel rounds, and refuses what is too much; the bytes arrive in any case."""
    done = zpipe("cp", "--pipe-size", size, "--no-via", "sendfile", "b", "-", cwd=folder)
    assert (done.returncode, done.stdout) == (0, content(BIG)), done.stderr


@pytest.mark.parametrize("size", ["0", "1", "4095", "3G", "7E"])
def test_a_size_that_no_pipe_has_is_refused(folder: Path, size: str) -> None:
    done = zpipe("cp", "--pipe-size", size, "b", "x", cwd=folder)
    assert done.returncode == 2
    assert done.stderr == f"zpipe: cp: --pipe-size: {size}: give 4K to 2G\n".encode()


# Names


STRANGE = [
    b"with space",
    b"new\nline",
    b"no\xff\xfeutf8",
    b"-dash",
    b"--length",
    b"co:lon",
    b"co:lon/a",
    b"quote'\"",
    "ünï".encode(),
    b"a?length=1",
    b"x" * 255,
    "ü".encode() * 127,
]


@pytest.mark.parametrize("size", [SMALL, BIG])
@pytest.mark.parametrize("name", STRANGE, ids=repr)
def test_any_name_can_be_source_and_target(tmp_path: Path, name: bytes, size: int) -> None:
    source, folder = os.fsencode(tmp_path), os.fsencode(tmp_path) + b"/to"
    for above in (source, folder):
        os.makedirs(os.path.dirname(os.path.join(above, name)), exist_ok=True)
    with open(os.path.join(source, name), "wb") as file:
        file.write(content(size))
    words = ["cp", "--", os.fsdecode(name), os.fsdecode(b"to/" + name)]
    went_well(zpipe(*words, cwd=tmp_path))
    with open(os.path.join(folder, name), "rb") as file:
        assert file.read() == content(size)
    words = ["cp", "--", os.fsdecode(b"to/" + name), os.fsdecode(name)]
    went_well(zpipe(*words, cwd=tmp_path))


@pytest.mark.parametrize("name", ["tcp:a", "null:", "exec:a", "-"])
def test_a_name_that_looks_like_an_address_is_given_as_a_path(folder: Path, name: str) -> None:
    (folder / name).write_bytes(content(SMALL))
    went_well(zpipe("cp", f"./{name}", "x", cwd=folder))
    assert (folder / "x").read_bytes() == content(SMALL)
    went_well(zpipe("cp", "b", f"./{name}", cwd=folder))
    assert (folder / name).read_bytes() == content(BIG)


@pytest.mark.parametrize("words", [["--", "-a", "-x"], ["./-a", "./-x"]])
def test_operands_that_begin_with_a_dash(folder: Path, words: list[str]) -> None:
    (folder / "-a").write_bytes(content(SMALL))
    went_well(zpipe("cp", *words, cwd=folder))
    assert (folder / "-x").read_bytes() == content(SMALL)


def test_options_may_follow_the_operands(folder: Path) -> None:
    went_well(zpipe("cp", "b", "x", "--length", "10", cwd=folder))
    assert (folder / "x").read_bytes() == content(BIG)[:10]


@pytest.mark.parametrize("source", ["a", "b"])
@pytest.mark.parametrize("target", ["d", "d/", "./d/.", "file:d"])
def test_a_folder_gets_a_file_of_the_same_name(folder: Path, source: str, target: str) -> None:
    (folder / "d").mkdir()
    for source_name in (source, f"./{source}", f"file:{source}"):
        went_well(zpipe("cp", source_name, target, cwd=folder))
        assert (folder / "d" / source).read_bytes() == (folder / source).read_bytes()
    assert names(folder / "d") == [source]


def test_a_folder_that_holds_a_folder_of_that_name(folder: Path) -> None:
    (folder / "d" / "a").mkdir(parents=True)
    (folder / "d" / "b").mkdir()
    for source in ("a", "b"):
        refused(zpipe("cp", source, "d", cwd=folder), 1, f"d/{source}: open: Is a directory")


@pytest.mark.parametrize("source", ["-", "exec:true", "tcp://127.0.0.1:1", "zero:?size=1"])
def test_what_has_no_name_cannot_go_into_a_folder(folder: Path, source: str) -> None:
    (folder / "d").mkdir()
    refused(zpipe("cp", source, "d", cwd=folder), 2, "d: is a directory: ", "has no name")


# Modes, owners, links


@pytest.mark.parametrize("size", [SMALL, BIG])
@pytest.mark.parametrize("mask", ["022", "077", "000", "027"])
def test_a_new_target_has_the_mode_that_cp_gives_it(tmp_path: Path, size: int, mask: str) -> None:
    source = tmp_path / "source"
    source.write_bytes(content(size))
    for mode in (0o644, 0o755, 0o600, 0o444, 0o4755, 0o2777):
        source.chmod(mode)
        script = f'umask {mask}; rm -f cps ours; cp source cps; exec "$@"'
        went_well(zpipe("cp", "source", "ours", cwd=tmp_path, before=shell(script)))
        ours, theirs = (tmp_path / "ours").stat(), (tmp_path / "cps").stat()
        assert (oct(ours.st_mode), ours.st_uid) == (oct(theirs.st_mode), theirs.st_uid)


@pytest.mark.parametrize("size", [SMALL, BIG])
def test_an_existing_target_keeps_mode_owner_and_attributes(tmp_path: Path, size: int) -> None:
    need_root()
    (tmp_path / "source").write_bytes(content(size))
    target = tmp_path / "target"
    target.write_bytes(b"old")
    os.chown(target, 1234, 5678)
    target.chmod(0o6751)
    kept = True
    try:
        os.setxattr(target, "user.zpipe", b"kept")
    except OSError as error:
        assert error.errno == errno.EOPNOTSUPP
        kept = False
    went_well(zpipe("cp", "source", "target", cwd=tmp_path))
    info = target.stat()
    assert (oct(info.st_mode & 0o7777), info.st_uid, info.st_gid) == ("0o6751", 1234, 5678)
    assert target.read_bytes() == content(size)
    assert not kept or os.getxattr(target, "user.zpipe") == b"kept"


@pytest.mark.parametrize("source", ["a", "b"])
def test_a_link_stays_a_link_and_what_it_leads_to_is_replaced(folder: Path, source: str) -> None:
    (folder / "d").mkdir()
    (folder / "d" / "real").write_bytes(b"old")
    (folder / "link").symlink_to("d/second")
    (folder / "d" / "second").symlink_to("real")
    went_well(zpipe("cp", source, "link", cwd=folder))
    assert os.readlink(folder / "link") == "d/second"
    assert (folder / "d" / "real").read_bytes() == (folder / source).read_bytes()
    assert names(folder / "d") == ["real", "second"]


@pytest.mark.parametrize("source", ["a", "b"])
def test_a_circle_of_links_is_an_error(folder: Path, source: str) -> None:
    (folder / "x").symlink_to("y")
    (folder / "y").symlink_to("x")
    refused(zpipe("cp", source, "x", cwd=folder), 1, "x: open: Too many levels of symbolic links")
    refused(zpipe("cp", "x", "z", cwd=folder), 1, "x: open: Too many levels of symbolic links")


@pytest.mark.parametrize("source", ["a", "b"])
def test_all_names_of_a_target_see_the_new_bytes(folder: Path, source: str) -> None:
    (folder / "x").write_bytes(bytes(2 * BIG))
    os.link(folder / "x", folder / "y")
    went_well(zpipe("cp", source, "x", cwd=folder))
    assert (folder / "y").read_bytes() == (folder / source).read_bytes()
    assert (folder / "y").stat().st_nlink == 2


@pytest.mark.parametrize("source", ["a", "b"])
def test_a_writable_file_in_a_closed_folder_is_written_in_place(folder: Path, source: str) -> None:
    words = nobody()
    os.chmod(folder, 0o755)
    (folder / "x").write_bytes(bytes(2 * BIG))
    os.chmod(folder / "x", 0o666)
    went_well(zpipe("cp", source, "x", cwd=folder, before=words))
    assert (folder / "x").read_bytes() == (folder / source).read_bytes()
    assert names(folder) == ["a", "b", "x"]


@pytest.mark.parametrize("source", ["a", "b"])
def test_a_file_of_somebody_else_keeps_its_owner(folder: Path, source: str) -> None:
    """Nobody can give a file away; it is written in place instead of becoming nobody's own."""
    words = nobody()
    os.chmod(folder, 0o777)
    (folder / "x").write_bytes(b"old")
    os.chmod(folder / "x", 0o666)
    went_well(zpipe("cp", source, "x", cwd=folder, before=words))
    assert (folder / "x").stat().st_uid == 0
    assert (folder / "x").read_bytes() == (folder / source).read_bytes()


def test_a_file_of_proc_is_written_in_place(tmp_path: Path) -> None:
    """Nothing can be created beside it."""
    (tmp_path / "score").write_bytes(b"17")
    script = '"$@" /proc/$$/oom_score_adj && cat /proc/$$/oom_score_adj'
    done = zpipe("cp", tmp_path / "score", before=shell(script))
    assert (done.stdout, done.stderr) == (b"17\n", b"")


@pytest.mark.parametrize("source", ["a", "b"])
def test_a_fifo_stays_a_fifo(folder: Path, source: str) -> None:
    os.mkfifo(folder / "x")
    with started("cp", source, "x", cwd=folder) as process:
        assert (folder / "x").read_bytes() == (folder / source).read_bytes()
        assert process.wait() == 0
    assert stat.S_ISFIFO((folder / "x").stat().st_mode)


def test_a_fifo_as_the_source(folder: Path) -> None:
    os.mkfifo(folder / "fifo")
    with started("cp", "fifo", "x", cwd=folder) as process:
        (folder / "fifo").write_bytes(content(BIG))
        assert process.wait() == 0
    assert (folder / "x").read_bytes() == content(BIG)


@pytest.mark.parametrize("source", ["a", "b"])
def test_a_device_stays_a_device(folder: Path, source: str) -> None:
    went_well(zpipe("cp", source, "/dev/null", cwd=folder))
    info = os.stat("/dev/null")
    assert stat.S_ISCHR(info.st_mode)
    assert stat.S_IMODE(info.st_mode) == 0o666


def test_a_block_device_is_written_in_place(folder: Path) -> None:
    image = folder / "image"
    image.write_bytes(bytes(1 << 20))
    with loop_device(image) as device:
        went_well(zpipe("cp", "--sync", "b", device, cwd=folder))
        went_well(zpipe("cp", "--length", str(BIG), device, "x", cwd=folder))
        refused(zpipe("cp", device, device), 2, "is the source itself")
        assert stat.S_ISBLK(device.stat().st_mode)
    assert (folder / "x").read_bytes() == content(BIG)
    assert image.read_bytes() == content(BIG) + bytes((1 << 20) - BIG)


# The source as its own target


@pytest.mark.parametrize("source", ["a", "b"])
@pytest.mark.parametrize("options", [[], ["--append"], ["--inplace"]], ids=str)
@pytest.mark.parametrize("target", ["same", "./same", "hard", "soft", "file:same", "d"])
def test_a_file_is_not_copied_onto_itself(
    folder: Path, source: str, options: list[str], target: str
) -> None:
    data = (folder / source).read_bytes()
    (folder / source).rename(folder / "same")
    os.link(folder / "same", folder / "hard")
    (folder / "soft").symlink_to("same")
    (folder / "d").mkdir()
    os.link(folder / "same", folder / "d" / "same")
    text = refused(zpipe("cp", *options, "same", target, cwd=folder), 2, "is the source itself")
    assert text.startswith(("d/same: " if target == "d" else f"{target}: ", "same: "))
    assert (folder / "same").read_bytes() == data


@pytest.mark.parametrize("source", ["a", "b"])
@pytest.mark.parametrize(
    ("words", "shells"),
    [
        (["FILE", "-"], ">>FILE"),
        (["-", "-"], "<FILE >>FILE"),
        (["-", "FILE"], "<FILE"),
        (["-", "-"], "<>FILE >&0"),
        (["fd:3", "fd:4"], "3<FILE 4>>FILE"),
        (["fd:3", "fd:3"], "3<>FILE"),
        (["FILE", "fd:3"], "3>>FILE"),
    ],
)
def test_nor_by_way_of_the_fds_that_it_is_given(
    folder: Path, source: str, words: list[str], shells: str
) -> None:
    data = (folder / source).read_bytes()
    script = shell(f'exec "$@" {shells}'.replace("FILE", source))
    operands = [word.replace("FILE", source) for word in words]
    refused(zpipe("cp", *operands, cwd=folder, before=script), 2, "is the source itself")
    assert (folder / source).read_bytes() == data


def test_nor_by_another_node_of_a_block_device(folder: Path) -> None:
    image = folder / "image"
    image.write_bytes(content(1 << 20))
    with loop_device(image) as device:
        number = device.stat().st_rdev
        try:
            os.mknod(folder / "node", stat.S_IFBLK | 0o600, number)
            os.close(os.open(folder / "node", os.O_RDONLY))
        except PermissionError:
            missing("device nodes cannot be made here")
        done = zpipe("cp", device, folder / "node")
        refused(done, 2, "is the source itself")
    assert image.read_bytes() == content(1 << 20)


# Targets that fail on the way


@pytest.mark.parametrize("source", ["a", "b"])
def test_a_full_disk_leaves_the_old_target(folder: Path, tiny: Path, source: str) -> None:
    (tiny / "x").write_bytes(b"old")
    with open(tiny / "filler", "wb") as filler:
        filler.write(bytes((1 << 20) - 8192))
        room = 8192 - 4096  # a page is the old target's
        if source == "a":
            filler.write(bytes(room))
    done = zpipe("cp", folder / source, tiny / "x")
    refused(done, 1, f"{tiny}/x: write: No space left on device; nothing was put in place")
    assert (tiny / "x").read_bytes() == b"old"
    assert names(tiny) == ["filler", "x"]


@pytest.mark.parametrize("options", [["--append"], ["--inplace"]])
def test_a_full_disk_in_place_tells_how_much_arrived(
    folder: Path, tiny: Path, options: list[str]
) -> None:
    (tiny / "x").write_bytes(b"")
    with open(tiny / "filler", "wb") as filler:
        filler.write(bytes((1 << 20) - 65536))
    done = zpipe("cp", *options, folder / "b", tiny / "x")
    size = (tiny / "x").stat().st_size
    refused(done, 1, f"{tiny}/x: write: No space left on device; {size} bytes were delivered")
    assert (tiny / "x").read_bytes() == content(BIG)[:size]


@pytest.mark.parametrize("mover", ["copy_range", "sendfile", "splice", "mapped", "plain"])
def test_a_full_disk_by_every_mover(folder: Path, tiny: Path, mover: str) -> None:
    (tiny / "big").write_bytes(content(700_000))
    options = ["--via", mover]
    done = zpipe("cp", *options, tiny / "big", tiny / "x")
    refused(done, 1, f"{tiny}/x: ", "No space left on device; nothing was put in place")
    assert names(tiny) == ["big"]


def test_a_file_size_limit_is_an_error_and_no_signal(folder: Path) -> None:
    done = zpipe("cp", "b", "x", cwd=folder, before=shell('ulimit -f 8; exec "$@"'))
    refused(done, 1, "x: write: File too large; nothing was put in place")
    assert names(folder) == ["a", "b"]


# Consumers that go away


@pytest.fixture
def source() -> Iterator[tuple[int, int]]:
    """A pipe: standard input of zpipe, and the end that the test writes to."""
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)
    os.close(writer)


def test_a_fifo_whose_reader_leaves(folder: Path, source: tuple[int, int]) -> None:
    os.mkfifo(folder / "fifo")
    with started("cp", "-", "fifo", cwd=folder, stdin=source[0]) as process:
        with open(folder / "fifo", "rb", buffering=0) as fifo:
            os.write(source[1], bytes(1000))
            got = b""
            while len(got) < 1000:
                got += fifo.read(1000)
        _, said = process.communicate(timeout=30)
        assert process.returncode == 1
    assert said == b"zpipe: fifo: write: Broken pipe; 1000 bytes were delivered\n"


def test_a_tcp_peer_that_resets(source: tuple[int, int]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        with started("cp", "-", address, stdin=source[0]) as process:
            peer, _ = server.accept()
            with peer:
                os.write(source[1], bytes(1000))
                assert len(peer.recv(1000, socket.MSG_WAITALL)) == 1000
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            _, said = process.communicate(timeout=30)
            assert process.returncode == 1
    expected = f"zpipe: {address}: write: Connection reset by peer; 1000 bytes were delivered\n"
    assert said == expected.encode()


def test_a_child_that_has_read_enough(source: tuple[int, int]) -> None:
    with started("cp", "-", "exec:head -c 1000", stdin=source[0]) as process:
        os.write(source[1], bytes(1000))
        out, said = process.communicate(timeout=30)
        assert (process.returncode, len(out)) == (1, 1000)
    assert b"write: Broken pipe" in said
    assert b"1000 bytes were delivered" in said
    assert said.count(b"\n") == 1


@pytest.mark.parametrize("mover", ["sendfile", "splice", "mapped", "plain"])
def test_what_is_said_to_be_delivered_is_what_the_pipe_took(folder: Path, mover: str) -> None:
    """The reader takes some and leaves the rest in the pipe: both were delivered."""
    (folder / "b").write_bytes(content(1 << 20))
    reader, writer = os.pipe()
    sink = f"fd:{writer}"
    words = ["cp", "--via", mover, "b", sink]
    with started(*words, cwd=folder, pass_fds=[writer]) as process:
        os.close(writer)
        taken = len(os.read(reader, 5000))
        waiting = 0

        def full() -> bool:
            """No more comes between two looks, and zpipe sleeps: it waits for room."""
            nonlocal waiting
            before = waiting
            with open(f"/proc/{process.pid}/stat") as place:
                asleep = ") S " in place.read()
            # looked at last: from then on it sleeps
            waiting = struct.unpack("i", fcntl.ioctl(reader, 0x541B, bytes(4)))[0]  # FIONREAD
            return asleep and before == waiting > 0

        until(full, "the pipe is full")
        os.close(reader)
        _, said = process.communicate(timeout=30)
        assert process.returncode == 1
    assert said.decode() == (
        f"zpipe: {sink}: write: Broken pipe; {taken + waiting} bytes were delivered\n"
    )


# Streams


def test_between_two_sockets(folder: Path) -> None:
    """Both sides listen; the test connects to both, at the ports that it is told."""

    def send(sender: socket.socket) -> None:
        sender.sendall(content(BIG))
        sender.shutdown(socket.SHUT_WR)

    words = ["tcp-listen://127.0.0.1:0", "tcp-listen://[::1]:0"]
    with started("cp", *words) as process:
        assert process.stderr is not None
        port = int(process.stderr.readline().rpartition(b":")[2])
        with socket.create_connection(("127.0.0.1", port)) as sender:
            port = int(process.stderr.readline().rpartition(b":")[2])
            with (
                socket.create_connection(("::1", port)) as receiver,
                receiver.makefile("rb") as got,
            ):
                thread = threading.Thread(target=send, args=(sender,))
                thread.start()
                assert got.read() == content(BIG)
                thread.join()
        assert process.wait(30) == 0


@pytest.mark.parametrize("size", SIZES)
def test_from_pipe_to_pipe(size: int) -> None:
    done = zpipe("cp", "-", "-", data=content(size))
    assert (done.returncode, done.stdout, done.stderr) == (0, content(size), b"")


def test_between_two_children() -> None:
    done = zpipe("cp", f"exec:head -c {BIG} /dev/zero", "exec:wc -c")
    assert (done.returncode, done.stdout.strip()) == (0, str(BIG).encode())


def test_a_source_that_is_cut_off_by_length_may_die_of_sigpipe() -> None:
    done = zpipe("cp", "--length", "10", "exec:yes", "-")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"y\n" * 5, b"")


def test_a_child_that_fails_at_the_end_keeps_the_target_from_its_place(folder: Path) -> None:
    (folder / "x").write_bytes(b"old")
    done = zpipe("cp", "exec:sh -c 'cat b; exit 3'", "x", cwd=folder)
    refused(done, 1, "exit status 3")
    assert (folder / "x").read_bytes() == b"old"
    assert not leftovers(folder)


def test_a_terminal_as_source_ends_at_control_d() -> None:
    ours, theirs = os.openpty()
    try:
        with started("cp", "-", "-", stdin=theirs) as process:
            os.write(ours, b"hello\n\x04")
            out, said = process.communicate(timeout=30)
            assert (process.returncode, out, said) == (0, b"hello\n", b"")
    finally:
        os.close(ours)
        os.close(theirs)


def test_a_sigpipe_that_the_caller_ignores_does_not_matter(folder: Path) -> None:
    need("sh")
    reader, writer = os.pipe()
    os.close(reader)
    script = shell('trap "" PIPE; exec "$@"')
    done = zpipe("cp", "b", "-", cwd=folder, stdout=writer, before=script)
    os.close(writer)
    assert (done.returncode, done.stderr) == (-signal.SIGPIPE, b"")
