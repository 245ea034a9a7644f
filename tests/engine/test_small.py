"""The short way keeps the promises of the long way: same bytes, same modes, same words, same ends.

`zpipe cp SRC DST` takes the short way where it can, `zpipe cp --quiet SRC DST` never does.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from typing import TYPE_CHECKING

import pytest

from tests.commands.shell import shell
from tests.machine import content, leftovers, nobody, zpipe
from zpipe.engine.small import copy_small
from zpipe.errors import SourceChanged, TransferError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

SIZES = [0, 1, 32768, 32769]
SHORT = [1, 32768]  # those that take the short way


def plainly(folder: Path) -> None:
    """Nothing but the source."""


def over_a_file(folder: Path) -> None:
    (folder / "x").write_bytes(bytes(50_000))
    (folder / "x").chmod(0o640)


def over_an_empty_file(folder: Path) -> None:
    (folder / "x").write_bytes(b"")


def over_several_links(folder: Path) -> None:
    over_a_file(folder)
    os.link(folder / "x", folder / "y")


def through_a_link(folder: Path) -> None:
    (folder / "d").mkdir()
    (folder / "d" / "real").write_bytes(b"old")
    (folder / "x").symlink_to("d/real")


def through_a_link_to_nothing(folder: Path) -> None:
    (folder / "d").mkdir()
    (folder / "x").symlink_to("d/new")


def through_a_circle(folder: Path) -> None:
    (folder / "x").symlink_to("x")


def into_a_folder(folder: Path) -> None:
    (folder / "x").mkdir()


def into_a_linked_folder(folder: Path) -> None:
    (folder / "d").mkdir()
    (folder / "x").symlink_to("d")


def into_a_folder_that_has_one(folder: Path) -> None:
    (folder / "x").mkdir()
    (folder / "x" / "a").write_bytes(b"old")


def into_a_folder_where_it_is_a_folder(folder: Path) -> None:
    (folder / "x" / "a").mkdir(parents=True)


def onto_itself(folder: Path) -> None:
    os.link(folder / "a", folder / "x")


def onto_itself_in_a_folder(folder: Path) -> None:
    (folder / "x").mkdir()
    os.link(folder / "a", folder / "x" / "a")


def without_a_source(folder: Path) -> None:
    (folder / "a").unlink()


def a_folder_as_source(folder: Path) -> None:
    (folder / "a").unlink()
    (folder / "a").mkdir()


def a_link_as_source(folder: Path) -> None:
    (folder / "a").rename(folder / "b")
    (folder / "a").symlink_to("b")


def a_broken_link_as_source(folder: Path) -> None:
    (folder / "a").unlink()
    (folder / "a").symlink_to("b")


def odd_modes(folder: Path) -> None:
    (folder / "a").chmod(0o4711)


SETUPS = [
    plainly,
    over_a_file,
    over_an_empty_file,
    over_several_links,
    through_a_link,
    through_a_link_to_nothing,
    through_a_circle,
    into_a_folder,
    into_a_linked_folder,
    into_a_folder_that_has_one,
    into_a_folder_where_it_is_a_folder,
    onto_itself,
    onto_itself_in_a_folder,
    without_a_source,
    a_folder_as_source,
    a_link_as_source,
    a_broken_link_as_source,
    odd_modes,
]


def tree(folder: Path) -> dict[str, tuple[str, int, bytes]]:
    """Return mode, links and content of everything below a folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        info = path.lstat()
        data = path.read_bytes() if path.is_file() else b""
        found[str(path.relative_to(folder))] = (oct(info.st_mode), info.st_nlink, data)
    return found


def both_ways(
    base: Path,
    size: int,
    setup: Callable[[Path], None],
    words: Sequence[str] = ("a", "x"),
    before: Sequence[str] = (),
) -> subprocess.CompletedProcess[bytes]:
    """Do the same in two like folders, the short and the long way; return how it went."""
    seen = []
    for way in ([], ["--quiet"]):
        folder = base / "work"
        folder.mkdir()
        folder.chmod(0o777)
        (folder / "a").write_bytes(content(size))
        setup(folder)
        done = zpipe("cp", *way, *words, cwd=folder, before=before)
        seen.append((done.returncode, done.stdout, done.stderr, tree(folder)))
        assert not leftovers(folder)
        for path in folder.rglob("*"):
            if not path.is_symlink():
                path.chmod(0o777)
        shutil.rmtree(folder)
    assert seen[0] == seen[1]
    return done


@pytest.mark.parametrize("setup", SETUPS, ids=lambda setup: str(setup.__name__))
def test_like_the_long_way(tmp_path: Path, setup: Callable[[Path], None]) -> None:
    both_ways(tmp_path, 1, setup)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "setup",
    [plainly, over_a_file, over_several_links, into_a_folder, onto_itself],
    ids=lambda setup: str(setup.__name__),
)
def test_any_size_like_the_long_way(
    tmp_path: Path, size: int, setup: Callable[[Path], None]
) -> None:
    both_ways(tmp_path, size, setup)


@pytest.mark.parametrize(
    "words",
    [
        ["a/", "x"],
        ["./a", "./x"],
        ["a", "x/"],
        ["a", "a/x"],
        ["a", "nosuch/x"],
        ["a", "y" * 255],
        ["a", "y" * 256],
        ["a", "."],
        ["a", "./"],
        ["a", ".."],
        ["a", "/dev/null"],
        ["a", "/dev/full"],
        ["a", "-"],
        ["a", "/nosuch/nosuch/x"],
        ["a", "/proc/nosuch"],
        ["a", "/proc/version"],
    ],
    ids=lambda words: " ".join(words)[:20],
)
def test_names_like_the_long_way(tmp_path: Path, words: list[str]) -> None:
    both_ways(tmp_path, 1, plainly, words)


@pytest.mark.parametrize("size", SHORT)
@pytest.mark.parametrize("mask", ["000", "077"])
def test_the_umask_like_the_long_way(tmp_path: Path, size: int, mask: str) -> None:
    both_ways(tmp_path, size, odd_modes, before=shell(f'umask {mask}; exec "$@"'))


def unreadable(folder: Path) -> None:
    (folder / "a").chmod(0o600)


def unwritable(folder: Path) -> None:
    over_a_file(folder)


def closed(folder: Path) -> None:
    folder.chmod(0o755)


def writable_in_a_closed_folder(folder: Path) -> None:
    over_a_file(folder)
    (folder / "x").chmod(0o666)
    folder.chmod(0o755)


def of_somebody_else(folder: Path) -> None:
    over_a_file(folder)
    (folder / "x").chmod(0o666)


@pytest.mark.parametrize("size", SHORT)
@pytest.mark.parametrize(
    "setup",
    [plainly, unreadable, unwritable, closed, writable_in_a_closed_folder, of_somebody_else],
    ids=lambda setup: str(setup.__name__),
)
def test_without_privileges_like_the_long_way(
    tmp_path: Path, size: int, setup: Callable[[Path], None]
) -> None:
    both_ways(tmp_path, size, setup, before=nobody())


@pytest.mark.parametrize("size", SHORT)
@pytest.mark.parametrize(
    "setup", [plainly, over_a_file, over_several_links], ids=lambda setup: str(setup.__name__)
)
def test_a_full_disk_like_the_long_way(
    tmp_path: Path, tiny: Path, size: int, setup: Callable[[Path], None]
) -> None:
    """A few pages are free. In place, what was taken is there; else nothing is."""

    def fill(folder: Path) -> None:
        for name in ("x", "y", "filler"):
            (tiny / name).unlink(missing_ok=True)
        if setup is not plainly:
            (tiny / "x").write_bytes(b"old")
        if setup is over_several_links:
            os.link(tiny / "x", tiny / "y")
        room = 0 if size == 1 and setup is plainly else 8192
        with open(tiny / "filler", "wb") as file:
            try:
                file.write(bytes(2 << 20))
            except OSError:
                pass
            else:
                pytest.fail("the disk cannot be filled")
        os.truncate(tiny / "filler", os.stat(tiny / "filler").st_size - room)

    done = both_ways(tmp_path, size, fill, ["a", str(tiny / "x")])
    if size > 1:
        assert done.returncode == 1
        assert b"No space left on device" in done.stderr
    assert not leftovers(tiny)
    assert setup is plainly or (tiny / "x").exists()


@pytest.mark.parametrize("size", SHORT)
def test_a_file_size_limit_like_the_long_way(tmp_path: Path, size: int) -> None:
    script = shell('ulimit -f 1; exec "$@"')
    done = both_ways(tmp_path, size, over_a_file, before=script)
    assert (done.returncode == 1) == (size > 1)
    both_ways(tmp_path, size, over_several_links, before=script)


# The function itself


@pytest.mark.parametrize(
    ("src", "dst"),
    [("-", "x"), ("a", "-"), ("null:", "x"), ("a", "tcp://h:1"), ("a", ""), ("", "x")],
)
def test_what_may_be_an_address_is_left_to_the_long_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, src: str, dst: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").write_bytes(b"x")
    assert copy_small(src, dst) is None
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("size", SIZES)
def test_only_small_files_that_are_not_empty(tmp_path: Path, size: int) -> None:
    (tmp_path / "a").write_bytes(content(size))
    moved = copy_small(str(tmp_path / "a"), str(tmp_path / "x"))
    if 0 < size <= 32768:
        assert moved == size
        assert (tmp_path / "x").read_bytes() == content(size)
    else:
        assert moved is None
        assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("kind", ["fifo", "device", "folder"])
def test_only_regular_files(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a").write_bytes(b"x")
    other = tmp_path / "other"
    if kind == "fifo":
        os.mkfifo(other)
    elif kind == "device":
        other.symlink_to("/dev/null")
    else:
        other.mkdir()
        (other / "a").symlink_to("/dev/null")
    assert copy_small(str(tmp_path / "a"), str(other)) is None
    assert kind == "folder" or copy_small(str(other), str(tmp_path / "x")) is None


def test_blocks_are_shared_where_they_can_be(sharing: Path) -> None:
    """One FICLONE; it keeps the file as it is, holes and all."""
    (sharing / "a").write_bytes(content(20_000))
    assert copy_small(str(sharing / "a"), str(sharing / "x")) == 20_000
    assert (sharing / "x").read_bytes() == content(20_000)
    (sharing / "x").write_bytes(bytes(30_000))
    os.link(sharing / "x", sharing / "y")
    assert copy_small(str(sharing / "a"), str(sharing / "x")) == 20_000
    assert (sharing / "y").read_bytes() == content(20_000)
    for name in "axy":
        (sharing / name).unlink()


def test_errors_are_those_of_the_library(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    with pytest.raises(UsageError):
        copy_small(str(tmp_path / "a"), str(tmp_path / "a"))
    with pytest.raises(TransferError) as raised:
        copy_small(str(tmp_path / "a"), str(tmp_path / "nosuch" / "x"))
    assert raised.value.errno == 2


def test_a_source_that_grows_meanwhile_is_copied_whole_or_refused(tmp_path: Path) -> None:
    """Whichever way the race goes: the target is what the source was at one moment, or absent."""
    source, target = tmp_path / "a", tmp_path / "x"
    source.write_bytes(b"")
    stop = threading.Event()

    def grow() -> None:
        with open(source, "ab", buffering=0) as file:
            while not stop.is_set() and file.tell() < 30_000:
                file.write(b"line\n")

    thread = threading.Thread(target=grow)
    thread.start()
    try:
        for _ in range(200):
            try:
                moved = copy_small(str(source), str(target))
            except SourceChanged as error:
                assert "nothing was put in place" in str(error)
            else:
                if moved is not None:
                    assert target.read_bytes() == b"line\n" * (moved // 5)
                    target.unlink()
            assert not leftovers(tmp_path)
    finally:
        stop.set()
        thread.join()


def test_signals_are_let_through_again_afterwards(tmp_path: Path) -> None:
    import signal

    (tmp_path / "a").write_bytes(b"x")
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    copy_small(str(tmp_path / "a"), str(tmp_path / "x"))
    with pytest.raises(TransferError):
        copy_small(str(tmp_path / "a"), str(tmp_path / "nosuch" / "x"))
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


def test_a_dash_is_no_file_even_where_there_is_one(tmp_path: Path) -> None:
    (tmp_path / "-").write_bytes(b"no")
    assert zpipe("cp", "-", "x", cwd=tmp_path).returncode == 0
    assert (tmp_path / "x").read_bytes() == b""
