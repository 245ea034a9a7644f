"""Trees in trouble: what can be copied is, the rest has a line each, nothing is half-written."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.machine import (
    LONGEST,
    content,
    need,
    need_root,
    nobody,
    started,
    strace,
    until,
    zpipe,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SMALL = {f"{number:03}": content(100 + number, number) for number in range(300)}
FEW = {"a": b"first", "m": b"middle", "z": b"last"}
BIG = 130 << 20  # from here on files go in ranges of 64 MiB
CHUNK = 64 << 20
RENAMES = "?rename,?renameat,renameat2"
MKDIRS = "?mkdir,mkdirat"


class Halted:
    """A zpipe that stands still in the middle; `status` and `errors` once it has ended."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path):
        self.process = process
        self._log = log
        self._woken = 0
        self.main = 0  # the pid of zpipe itself: the child of strace
        self.status = 0
        self.errors = ""

    @property
    def stopped(self) -> list[int]:
        """The pids of those that stand still or did, in the order in which they came to it."""
        if not self._log.exists():
            return []
        found = re.findall(r"^(\d+) +--- stopped by SIGSTOP ---$", self._log.read_text(), re.M)
        return list(map(int, found))

    def signal(self, number: int) -> None:
        os.kill(self.main, number)

    def end(self) -> None:
        """Let everybody go on, those too that come to stand still later."""
        assert self.process.stderr is not None

        def ended() -> bool:
            for pid in self.stopped[self._woken :]:
                self._woken += 1
                try:
                    os.kill(pid, signal.SIGCONT)
                except ProcessLookupError:
                    continue
            return self.process.poll() is not None

        until(ended, "zpipe has ended")
        self.status = self.process.returncode
        self.errors = self.process.stderr.read().decode(errors="surrogateescape")
        assert "internal error" not in self.errors and "Traceback" not in self.errors

    def kill(self) -> None:
        """Leave none of them behind, when a test has failed in the middle."""
        if self.process.poll() is not None:
            return
        for pid in {*self.stopped, *_children(self.process.pid)}:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has waited for yet does not."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children") as children:
        return list(map(int, children.read().split()))


@contextmanager
def halted(
    call: str,
    *words: str | Path,
    log: Path,
    when: int = 1,
    processes: int = 1,
    of: Path | None = None,
    cwd: Path | None = None,
) -> Iterator[Halted]:
    """Run zpipe until each of so many processes has made a call for the n-th time, calls with the
    file `of` alone if that is given; there they stand still while the block runs, and then go on
    to their end.
    """
    log.unlink(missing_ok=True)
    # not a time to wait, but a signal to oneself: the block may take as long as it wants
    inject = f"inject={call}:signal=SIGSTOP:when={when}"
    before = [*strace("-o", str(log), "-e", f"trace={call}", "-e", inject)]
    before += ["-P", str(of)] if of is not None else []
    before += ["env", "PYTHONDONTWRITEBYTECODE=1"]
    with started("cp", *words, before=before, cwd=cwd) as process:
        run = Halted(process, log)

        def there() -> bool:
            if process.poll() is not None:
                assert process.stderr is not None
                pytest.fail(f"never made the call: {process.stderr.read().decode()}")
            return len(run.stopped) >= processes

        try:
            until(there, f"{call} was made")
            run.main = _children(process.pid)[0]
            yield run
            run.end()
        finally:
            run.kill()


def make(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def holey(path: Path, data: bytes, size: int = BIG) -> Path:
    """Make a big file: `data` at the start of each range, and holes between."""
    with open(path, "wb") as file:
        for place in range(0, size, CHUNK):
            file.seek(place)
            file.write(data)
        file.truncate(size)
    return path


def is_same(one: Path, other: Path) -> bool:
    """Compare two files; where both have holes, they are not read."""
    piece = 1 << 20
    with open(one, "rb") as left, open(other, "rb") as right:
        fds = (left.fileno(), right.fileno())
        size = os.fstat(fds[0]).st_size
        if size != os.fstat(fds[1]).st_size:
            return False
        place = 0
        while place < size:
            place = min(next_data(fd, place, size) for fd in fds)
            if os.pread(fds[0], piece, place) != os.pread(fds[1], piece, place):
                return False
            place += piece
        return True


def next_data(fd: int, place: int, size: int) -> int:
    """Return where data begins, from a place on; the size where there is no more."""
    try:
        return os.lseek(fd, place, os.SEEK_DATA)
    except OSError:
        return size


def found(folder: Path) -> dict[str, bytes]:
    """Return the regular files that are under their names."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


def temporaries(folder: Path) -> list[str]:
    return [name for _, _, names in os.walk(folder) for name in names if ".zpipe-" in name]


def lines(done: subprocess.CompletedProcess[bytes]) -> list[str]:
    text = done.stderr.decode(errors="surrogateescape")
    assert "internal error" not in text and "Traceback" not in text, text
    return [line.removeprefix("zpipe: ") for line in text.splitlines()]


# What cannot be read or written


@pytest.mark.parametrize("jobs", [1, 2])
def test_permission_denied_on_one_file_in_the_middle(jobs: int, tmp_path: Path) -> None:
    files = dict(list(SMALL.items())[:80])
    (make(tmp_path / "src", files) / "040").chmod(0)
    tmp_path.chmod(0o777)
    done = zpipe("cp", "-r", "-j", str(jobs), "src", "dst", before=nobody(), cwd=tmp_path)
    assert done.returncode == 1
    assert lines(done) == [
        "src/040: open: Permission denied",
        "1 file was not copied: src/040",
    ]
    del files["040"]
    assert found(tmp_path / "dst") == files


def test_an_unreadable_directory(tmp_path: Path) -> None:
    make(tmp_path / "src", FEW)
    make(tmp_path / "src" / "locked", FEW).chmod(0o300)
    tmp_path.chmod(0o777)
    done = zpipe("cp", "-r", "src", "dst", before=nobody(), cwd=tmp_path)
    assert done.returncode == 1
    assert lines(done) == [
        "src/locked: read: Permission denied",
        "1 file was not copied: src/locked",
    ]
    assert found(tmp_path / "dst") == FEW


def test_a_target_directory_that_takes_nothing(tmp_path: Path) -> None:
    make(tmp_path / "src" / "below", FEW)
    make(tmp_path / "src", FEW)
    (tmp_path / "dst" / "below").mkdir(parents=True)
    tmp_path.chmod(0o777)
    (tmp_path / "dst").chmod(0o777)
    done = zpipe("cp", "-rT", "src", "dst", before=nobody(), cwd=tmp_path)
    assert done.returncode == 1
    told = lines(done)
    assert len(told) == 4 and told[-1].startswith("3 files were not copied: ")
    for name in FEW:
        assert f"dst/below/{name}: open: Permission denied" in "\n".join(told)
    assert found(tmp_path / "dst") == FEW


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("small", ()),
        ("small", ("--verify",)),
        ("middle", ()),
        ("big", ("-j2",)),
        ("big", ("--verify",)),
    ],
)
def test_a_full_disk(kind: str, words: tuple[str, ...], tmp_path: Path, tiny: Path) -> None:
    """The file that has no room is lost; those that have are fine, and no temporary is left."""
    source = make(tmp_path / "src", FEW)
    if kind == "small":
        with open(tiny / "filler", "wb") as filler:
            filler.write(bytes((1 << 20) - (64 << 10)))
        (source / "fat").write_bytes(content(100 << 10))
    elif kind == "middle":
        (source / "fat").write_bytes(content(2 << 20))
    else:
        holey(source / "fat", content(1 << 19))
    done = zpipe("cp", "-r", "--reflink=never", *words, source, tiny / "dst")
    assert done.returncode == 1
    told = lines(done)
    assert len(told) == 2, told
    assert told[0].startswith(f"{tiny}/dst/fat: write: No space left on device")
    assert told[1] == f"1 file was not copied: {source}/fat"
    assert found(tiny / "dst") == FEW


def test_no_room_for_directories(tmp_path: Path, tiny: Path) -> None:
    """Every file below is lost with it; one line for the directory."""
    make(tmp_path / "src" / "below", FEW)
    # the root of the filesystem, and dst
    command = ["mount", "-o", "remount,nr_inodes=2", str(tiny)]
    subprocess.run(command, check=True, capture_output=True)
    done = zpipe("cp", "-r", "src", tiny / "dst", cwd=tmp_path)
    assert done.returncode == 1
    assert lines(done) == [
        f"{tiny}/dst/below: mkdir: No space left on device",
        "1 file was not copied: src/below",
    ]


@pytest.mark.parametrize("jobs", [1, 2])
def test_the_largest_file_that_is_allowed(jobs: int, tmp_path: Path) -> None:
    """EFBIG, and no death by SIGXFSZ, of workers neither."""
    files = dict(list(SMALL.items())[:80])
    source = make(tmp_path / "src", files)
    (source / "middle").write_bytes(content(2 << 20))
    holey(source / "sparse", b"data")
    limit = [need("sh"), "-c", 'ulimit -f 2000; exec "$@"', "sh"]
    done = zpipe("cp", "-r", "-j", str(jobs), source, tmp_path / "dst", before=limit)
    assert done.returncode == 1
    told = lines(done)
    assert len(told) == 3, told
    assert sum("File too large" in line for line in told) == 2
    assert told[-1].startswith("2 files were not copied: ")
    assert found(tmp_path / "dst") == files


# What changes underneath


def grow(path: Path) -> None:
    with open(path, "ab") as file:
        file.write(b"more")


def shrink(path: Path) -> None:
    os.truncate(path, os.path.getsize(path) - 300)


def rewrite(path: Path) -> None:
    with open(path, "r+b") as file:
        file.write(b"other")


def replace(path: Path) -> None:
    path.with_name("new").write_bytes(bytes(os.path.getsize(path) % (1 << 20)))
    path.with_name("new").rename(path)


@pytest.mark.parametrize(
    ("size", "call", "words", "change"),
    [
        (1000, "write", (), grow),
        (1000, "write", (), shrink),
        (1000, "write", (), rewrite),
        (1000, "write", (), replace),
        (1 << 20, "sendfile", (), grow),
        (1 << 20, "pwrite64", ("--verify",), shrink),
        (BIG, "sendfile", ("-j2",), shrink),  # more than one worker: in ranges
        (BIG, "sendfile", ("-j2",), rewrite),
        (BIG, "sendfile", ("-j2",), replace),
    ],
)
def test_a_source_that_changes_while_it_is_read(
    change: Callable[[Path], None], size: int, call: str, words: tuple[str, ...], tmp_path: Path
) -> None:
    source = make(tmp_path / "src", {})
    before = content(min(size, 1 << 20))
    holey(source / "f", before, size)
    with halted(
        call,
        "-r",
        "-j1",
        "--reflink=never",
        *words,
        "src",
        "dst",
        log=tmp_path / "log",
        cwd=tmp_path,
    ) as run:
        change(source / "f")
    if change is replace and size < BIG and run.status == 0:
        # nothing was lost: the file that was open is whole, and its name was another one's then
        assert found(tmp_path / "dst") == {"f": before}
        return
    assert run.status == 1
    told = run.errors.splitlines()
    assert len(told) == 2, told
    assert re.fullmatch(
        r"zpipe: src/f: read: the source (changed while it was read.*|ended at byte \d+)"
        r"(; nothing was put in place)?",
        told[0],
    ), told
    assert told[1] == "zpipe: 1 file was not copied: src/f"
    assert found(tmp_path / "dst") == {}


@pytest.mark.parametrize("kind", ["fifo", "link"])
@pytest.mark.parametrize("call", ["close", "ftruncate"])
def test_a_big_file_that_becomes_something_else(call: str, kind: str, tmp_path: Path) -> None:
    """Between the looks at it and the opening of its ranges: a FIFO must not be waited for, and
    whoever may write the source must not get at what only the copier may read.
    """
    source = make(tmp_path / "src", FEW)
    big = holey(source / "big", b"data")
    secret = holey(tmp_path / "secret", b"none of your business")
    with halted(
        call,
        *("-r", "-j2", "--reflink=never", "src", "dst"),
        log=tmp_path / "log",
        of=big if call == "close" else None,
        cwd=tmp_path,
    ) as run:
        big.unlink()
        if kind == "fifo":
            os.mkfifo(big)
        else:
            big.symlink_to(secret)
    assert run.status == 1
    told = run.errors.splitlines()
    assert len(told) == 2 and told[0].startswith("zpipe: src/big: "), told
    assert told[1] == "zpipe: 1 file was not copied: src/big"
    assert found(tmp_path / "dst") == FEW
    assert temporaries(tmp_path / "dst") == []


def test_what_vanishes_or_changes_its_kind_underneath(tmp_path: Path) -> None:
    """Between the reading of a directory and the opening of what is in it."""
    source = make(tmp_path / "src", {**FEW, "gone": b"", "fifo": b"", "link": b"", "folder": b""})
    (source / "pointer").symlink_to("a")
    make(source / "one" / "below", {"lost": b""})
    with halted(
        MKDIRS, "-r", "-j2", "src", "dst", log=tmp_path / "log", when=3, cwd=tmp_path
    ) as run:
        # dst, dst/one and dst/one/below are made, and nothing is copied yet: it is too little
        for name in ("gone", "fifo", "link", "folder", "pointer"):
            (source / name).unlink()
        os.mkfifo(source / "fifo")
        (source / "link").symlink_to("a")
        (source / "folder").mkdir()
        (source / "pointer").mkdir()
        shutil.rmtree(source / "one" / "below")
    assert run.status == 1
    told = run.errors.splitlines()
    assert sorted(told[:-1]) == [
        "zpipe: src/fifo: read: is no regular file any more",
        "zpipe: src/folder: read: is no regular file any more",
        "zpipe: src/gone: open: No such file or directory",
        "zpipe: src/link: open: Too many levels of symbolic links",
        "zpipe: src/one/below: read: No such file or directory",
        "zpipe: src/pointer: has become a directory meanwhile",
    ]
    assert told[-1].startswith("zpipe: 6 files were not copied: ")
    assert found(tmp_path / "dst") == FEW
    assert temporaries(tmp_path / "dst") == []


def test_a_directory_that_vanishes_with_its_files(tmp_path: Path) -> None:
    source = make(tmp_path / "src", FEW)
    make(source / "one", {"x": b"", "y": b""})
    (source / "one" / "below").mkdir()
    with halted(
        MKDIRS, "-a", "-j2", "src", "dst", log=tmp_path / "log", when=3, cwd=tmp_path
    ) as run:
        shutil.rmtree(source / "one")
    assert run.status == 1
    told = run.errors.splitlines()
    for name in ("x", "y", "below"):
        mine = [line for line in told[:-1] if line.startswith(f"zpipe: src/one/{name}: ")]
        assert len(mine) == 1 and "No such file or directory" in mine[0], told
    assert found(tmp_path / "dst") == FEW


# What the target cannot have


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_file_where_a_directory_must_be_and_the_reverse(jobs: int, tmp_path: Path) -> None:
    source, target = make(tmp_path / "src", FEW), make(tmp_path / "dst", {"folder": b"was here"})
    make(source / "folder", {"below": b""})
    (source / "file").write_bytes(b"")
    make(target / "file", {"mine": b"stays"})
    (source / "pointer").symlink_to("a")
    (target / "pointer").mkdir()
    done = zpipe("cp", "-rT", "-j", str(jobs), source, target)
    assert done.returncode == 1
    told = lines(done)
    assert sorted(told[:-1]) == [
        f"{target}/file: is a directory: cannot be replaced by {source}/file, which is not",
        f"{target}/folder: is not a directory: cannot be replaced by {source}/folder",
        f"{target}/pointer: is a directory: cannot be replaced by {source}/pointer, which is not",
    ]
    assert told[-1].startswith("3 files were not copied: ")
    assert found(target) == {**FEW, "folder": b"was here", "file/mine": b"stays"}


@pytest.mark.parametrize("there", [False, True])
def test_a_read_only_target(there: bool, tmp_path: Path, tiny: Path) -> None:
    source = make(tmp_path / "src", FEW)
    if there:
        make(tiny / "dst", {"a": b"old"})
    subprocess.run(["mount", "-o", "remount,ro", str(tiny)], check=True, capture_output=True)
    done = zpipe("cp", "-rT", source, tiny / "dst")
    assert done.returncode == 1
    told = lines(done)
    assert all("Read-only file system" in line for line in told[: len(FEW)]), told
    assert len(told) == (len(FEW) + 1 if there else 1)
    assert all(line.startswith(f"{tiny}/dst") for line in told[: len(FEW)]), told
    assert found(tiny) == ({"dst/a": b"old"} if there else {})


def test_names_as_long_as_they_may_be(tmp_path: Path) -> None:
    """There is room for the temporary name, and characters are not told from bytes."""
    names = ["x" * 255, "é" * 127 + "y", "é" * 127 + "z"]
    source = make(tmp_path / "src", {name: name.encode() for name in names})
    for target in ("dst", "dst"):  # new, then replaced
        done = zpipe("cp", "-rT", source, tmp_path / target)
        assert (done.returncode, done.stderr) == (0, b"")
        assert found(tmp_path / target) == found(source)
    done = zpipe("cp", "-r", source, tmp_path / ("x" * 256))
    assert done.returncode == 1
    told = lines(done)
    assert re.fullmatch(rf"{tmp_path}/x{{256}}: (mkdir|stat): File name too long", told[0]), told


def test_a_path_that_becomes_too_long(tmp_path: Path) -> None:
    source = make(tmp_path / "src", FEW)
    deep = source
    for _ in range(16):
        deep /= "d" * 200
    make(deep, FEW)
    target = tmp_path
    while len(str(target)) < 3000:
        target /= "t" * 250
    target.mkdir(parents=True)
    done = zpipe("cp", "-r", source, target)
    assert done.returncode == 1
    told = lines(done)
    assert told[0].endswith("File name too long") and told[-1].startswith("1 file was not copied")
    assert found(target / "src") == FEW


XATTR = "user.zpipe.test"


@pytest.fixture
def attributed(tmp_path: Path) -> Path:
    source = make(tmp_path / "src", FEW)
    (source / "pointer").symlink_to("a")
    try:
        os.setxattr(source / "m", XATTR, b"value")
    except OSError as error:
        pytest.skip(f"no extended attributes here: {error}")
    return source


@pytest.mark.parametrize("words", [("-a",), ("-r", "--preserve=xattr")], ids=" ".join)
def test_a_target_without_extended_attributes(
    words: tuple[str, ...], attributed: Path, tmp_path: Path
) -> None:
    """-a goes on in silence, as cp does; who names them is told of the file that lost its own."""
    need_root()
    place = tmp_path / "ramfs"
    place.mkdir()
    subprocess.run(["mount", "-t", "ramfs", "ramfs", str(place)], check=True, capture_output=True)
    try:
        done = zpipe("cp", *words, attributed, place / "dst")
        as_cp = subprocess.run(
            ["cp", *words, attributed, place / "cp"], capture_output=True, check=False
        )
        assert done.returncode == as_cp.returncode
        if words == ("-a",):
            assert (done.returncode, done.stderr) == (0, b"")
        else:
            told = lines(done)
            text = f"{place}/dst/m: setxattr {XATTR}: Operation not supported"
            assert told == [
                text,
                f"1 file was copied without all attributes: {attributed}/m",
            ]
        assert found(place / "dst") == FEW
        assert os.readlink(place / "dst" / "pointer") == "a"
    finally:
        subprocess.run(["umount", str(place)], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("calls", "number", "about"),
    [
        ("?symlink,symlinkat", "EPERM", ["pointer"]),
        ("?mknod,mknodat", "EPERM", ["fifo"]),
        ("setxattr,fsetxattr,lsetxattr", "EOPNOTSUPP", []),
        ("listxattr,flistxattr,llistxattr", "EOPNOTSUPP", []),
    ],
)
def test_a_target_that_lacks_a_kind(
    calls: str, number: str, about: list[str], attributed: Path, tmp_path: Path
) -> None:
    """What vfat, exfat or a network says; everything else is there, as with cp."""
    os.mkfifo(attributed / "fifo")
    failing = strace("-o/dev/null", f"-etrace={calls}", f"-einject={calls}:error={number}")
    done = zpipe("cp", "-a", attributed, tmp_path / "dst", before=failing)
    as_cp = subprocess.run(
        [*failing, "cp", "-a", attributed, tmp_path / "cp"], capture_output=True, check=False
    )
    assert done.returncode == as_cp.returncode, as_cp.stderr
    assert sorted(os.listdir(tmp_path / "dst")) == sorted(os.listdir(tmp_path / "cp"))
    assert {name: (tmp_path / "dst" / name).read_bytes() for name in FEW} == FEW
    told = lines(done)
    assert len(told) == (2 if about else 0), told
    for line, name in zip(told, about, strict=False):
        assert f"/dst/{name}: " in line and "Operation not permitted" in line


def test_a_target_that_takes_no_owners(attributed: Path, tmp_path: Path) -> None:
    """vfat again: cp says so and has the bytes there; to lose them for an owner would be worse."""
    need_root()
    os.chown(attributed / "m", 12345, 12345)
    calls = "?chown,fchown,?lchown,fchownat"
    failing = strace("-o/dev/null", f"-etrace={calls}", f"-einject={calls}:error=EPERM")
    done = zpipe("cp", "-a", attributed, tmp_path / "dst", before=failing)
    as_cp = subprocess.run(
        [*failing, "cp", "-a", attributed, tmp_path / "cp"], capture_output=True, check=False
    )
    assert as_cp.returncode == done.returncode == 1
    assert found(tmp_path / "cp") == FEW
    assert f"{tmp_path}/dst/m: chown: Operation not permitted" in lines(done)[0]
    assert found(tmp_path / "dst") == FEW


def test_a_filesystem_of_another_world(tmp_path: Path) -> None:
    """A real vfat: no symbolic links, no extended attributes, times of two seconds."""
    need_root()
    source = make(tmp_path / "src", FEW)
    (source / "pointer").symlink_to("a")
    image, place = tmp_path / "image", tmp_path / "vfat"
    place.mkdir()
    with open(image, "wb") as file:
        file.truncate(16 << 20)
    subprocess.run([need("mkfs.vfat"), str(image)], check=True, capture_output=True)
    command = ["mount", "-t", "vfat", "-o", "loop", str(image), str(place)]
    tried = subprocess.run(command, capture_output=True, check=False)
    if tried.returncode:
        pytest.skip(f"this kernel mounts no vfat: {tried.stderr.decode().strip()}")
    try:
        done = zpipe("cp", "-a", source, place / "dst")
        assert done.returncode == 1
        told = lines(done)
        assert told[0] == f"{place}/dst/pointer: symlink: Operation not permitted"
        assert told[1:] == [f"1 file was not copied: {source}/pointer"]
        assert found(place / "dst") == FEW
        assert temporaries(place) == []
    finally:
        subprocess.run(["umount", str(place)], check=True, capture_output=True)


# What zpipe itself cannot have


def test_few_fds(tmp_path: Path) -> None:
    """At every limit the copy is right or fails in lines that say why; workers need some more."""
    files = dict(list(SMALL.items())[:70])
    source = make(tmp_path / "src", files)
    statuses = []
    for limit in (4, 5, 6, 7, 8, 10, 12, 20):
        target = tmp_path / f"dst{limit}"
        few = [need("sh"), "-c", f'ulimit -n {limit}; exec "$@"', "sh"]
        done = zpipe("cp", "-r", "-j2", source, target, before=few)
        text = done.stderr.decode()
        assert "internal error" not in text, f"{limit}: {text}"
        statuses.append(done.returncode)
        if done.returncode == 0:
            assert found(target) == files, limit
        elif b"zpipe: " in done.stderr:  # below that Python itself does not begin
            assert done.returncode == 1, text
            assert "Too many open files" in text, f"{limit}: {text}"
            if target.exists():
                assert temporaries(target) == []
                assert found(target).items() <= files.items()
    assert statuses[0] != 0 and statuses[-1] == 0, statuses


@pytest.mark.parametrize("when", ["1+", "2+", "2"])
def test_no_process_can_be_had(when: str, tmp_path: Path) -> None:
    """Then with fewer workers, or with none."""
    source = make(tmp_path / "src", SMALL)
    calls = "?fork,?vfork,clone,clone3"
    failing = strace(
        "-o/dev/null", f"-etrace={calls}", f"-einject={calls}:error=EAGAIN:when={when}"
    )
    done = zpipe("cp", "-r", "-j3", "--json", source, tmp_path / "dst", before=failing)
    assert done.returncode == 0, done.stderr
    assert found(tmp_path / "dst") == SMALL
    if when == "1+":
        assert b"fork: Resource temporarily unavailable: going on without workers" in done.stderr


# Signals


@pytest.fixture
def interrupted(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Halted]:
    """Two workers in the middle of their files, each with a temporary one open."""
    make(tmp_path / "src", SMALL)
    with halted(
        "write",
        *("-r", "-j2", *getattr(request, "param", ()), "src", "dst"),
        log=tmp_path / "log",
        when=20,
        processes=2,
        cwd=tmp_path,
    ) as run:
        assert len(temporaries(tmp_path / "dst")) == 2
        yield run


def judge(run: Halted, target: Path) -> None:
    """Nobody is left, nothing is half-written."""
    assert not [pid for pid in {*run.stopped, run.main} if is_alive(pid)]
    assert temporaries(target) == []
    there = found(target)
    assert there.items() <= SMALL.items()
    assert len(there) >= 30, "what is complete stays"


@pytest.mark.parametrize(
    ("number", "times"),
    [(signal.SIGINT, 1), (signal.SIGINT, 2), (signal.SIGTERM, 1), (signal.SIGHUP, 1)],
)
def test_a_signal_in_the_middle(
    number: signal.Signals, times: int, interrupted: Halted, tmp_path: Path
) -> None:
    run = interrupted
    for _ in range(times):
        run.signal(number)
    run.end()
    assert run.status == -number
    judge(run, tmp_path / "dst")
    count = len(found(tmp_path / "dst"))
    assert count < len(SMALL)
    assert run.errors == f"zpipe: ended by {number.name}; {count} files were copied\n"


def test_a_signal_to_all_at_once(interrupted: Halted, tmp_path: Path) -> None:
    """As `timeout` and service managers do: the workers hear it, too."""
    run = interrupted
    for pid in {run.main, *run.stopped}:
        os.kill(pid, signal.SIGTERM)
    run.end()
    assert run.status == -signal.SIGTERM
    judge(run, tmp_path / "dst")
    last = run.errors.splitlines()[-1]
    told = re.fullmatch(r"zpipe: ended by SIGTERM; (\d+) files? (was|were) copied", last)
    assert told is not None, last
    # a worker that is ended in the middle of a batch tells of nothing that it has done of it
    assert int(told[1]) <= len(found(tmp_path / "dst"))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_that_is_killed_is_survived(
    number: signal.Signals, interrupted: Halted, tmp_path: Path
) -> None:
    run = interrupted
    victim = run.stopped[0]
    os.kill(victim, number)
    run.end()
    assert run.status == 0, run.errors
    assert f"a worker (pid {victim}) was ended " in run.errors
    assert found(tmp_path / "dst") == SMALL
    assert temporaries(tmp_path / "dst") == []


def test_a_worker_that_is_killed_while_it_replaces(tmp_path: Path) -> None:
    """The temporary file beside an existing target is known to whoever does it again."""
    make(tmp_path / "src", SMALL)
    make(tmp_path / "dst", dict.fromkeys(SMALL, b"old"))
    with halted(
        "write",
        *("-rT", "-j2", "src", "dst"),
        log=tmp_path / "log",
        when=20,
        processes=2,
        cwd=tmp_path,
    ) as run:
        os.kill(run.stopped[0], signal.SIGKILL)
    assert run.status == 0, run.errors
    assert found(tmp_path / "dst") == SMALL
    assert temporaries(tmp_path / "dst") == []


def test_workers_end_when_the_coordinator_is_killed(interrupted: Halted, tmp_path: Path) -> None:
    run = interrupted
    run.signal(signal.SIGKILL)
    run.end()
    judge(run, tmp_path / "dst")


@pytest.mark.parametrize("words", [(), ("--resume",)], ids=["", "resume"])
@pytest.mark.parametrize("when", [1, 5])
def test_a_signal_in_the_middle_of_a_big_file(
    words: tuple[str, ...], when: int, tmp_path: Path
) -> None:
    """In the first, the second and the last of its ranges, of which half is written then."""
    source = make(tmp_path / "src", {})
    holey(source / "big", content(1 << 20))
    with halted(
        "pwrite64",
        *("-r", "-j1", "--reflink=never", "--verify", *words, "src", "dst"),
        log=tmp_path / "log",
        when=when,
        cwd=tmp_path,
    ) as run:
        run.signal(signal.SIGINT)
    assert run.status == -signal.SIGINT
    assert not (tmp_path / "dst" / "big").exists()
    assert len(temporaries(tmp_path / "dst")) == len(words)
    assert (tmp_path / ".dst.zpipe-journal").exists() == bool(words)


def test_a_status_line_on_request(tmp_path: Path) -> None:
    source = make(tmp_path / "src", FEW)
    with halted(
        "write", "-r", "-j1", "src", "dst", log=tmp_path / "log", when=2, cwd=tmp_path
    ) as run:
        run.signal(signal.SIGUSR1)
    assert run.status == 0
    assert re.fullmatch(r"zpipe: src: .*files, .*\n", run.errors), run.errors
    assert found(tmp_path / "dst") == found(source)


# Two at once


def test_two_copies_into_one_target(tmp_path: Path) -> None:
    """The second runs from beginning to end while the first is in the middle; the last wins."""
    mine = make(tmp_path / "src", SMALL)
    other = make(tmp_path / "other", {name: data[::-1] for name, data in SMALL.items()})
    for folder, seed in ((mine, 1), (other, 2)):
        (folder / "middle").write_bytes(content(1 << 20, seed))
    with halted(
        RENAMES,
        "-rT",
        "-j2",
        "src",
        "dst",
        log=tmp_path / "log",
        when=20,
        processes=2,
        cwd=tmp_path,
    ) as run:
        done = zpipe("cp", "-rT", "-j2", other, tmp_path / "dst")
        assert (done.returncode, done.stderr) == (0, b"")
        assert len(os.listdir(tmp_path / "dst")) >= len(SMALL) + 1
    assert (run.status, run.errors) == (0, "")
    first, second, there = found(mine), found(other), found(tmp_path / "dst")
    assert there.keys() == first.keys()
    assert all(data in (first[name], second[name]) for name, data in there.items())
    assert there not in (first, second)


def test_two_copies_that_race(tmp_path: Path) -> None:
    files = {**SMALL, "middle": content(1 << 20)}
    make(tmp_path / "src" / "below", files)
    words = ("cp", "-aT", tmp_path / "src", tmp_path / "dst")
    with started(*words) as one, started(*words) as two:
        for each in (one, two):
            _, errors = each.communicate(timeout=LONGEST)
            assert (each.returncode, errors) == (0, b"")
    assert found(tmp_path / "dst" / "below") == files


@pytest.mark.parametrize(("act", "call"), [("fsync", "fsync"), ("rename", "renameat")])
def test_what_fails_at_the_end_of_a_file_is_named(act: str, call: str, tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src/file").write_bytes(content(1000))
    fault = strace("-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:error=EIO")
    done = zpipe("cp", "-r", "--sync", "src", "dst", cwd=tmp_path, before=fault)
    said = f"zpipe: dst/file: {act}: Input/output error; nothing was put in place"
    assert (done.returncode, done.stderr.decode().splitlines()[0]) == (1, said)
    assert os.listdir(tmp_path / "dst") == []
