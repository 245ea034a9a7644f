"""What can be done with the files of one place: a directory, the one of a file, or a device."""

from __future__ import annotations

import os
import re
import stat
from functools import partial

from zpipe.doctor.findings import Answer, Probe, Refused, Trying
from zpipe.doctor.moving import copied_by_range
from zpipe.doctor.scratch import DATA, NO_TMPFILE, Scratch, no_place, same
from zpipe.kernel.clone import clone
from zpipe.kernel.direct import (
    ASSUMED_ALIGNMENT,
    aligned_buffer,
    set_direct,
    told_alignment,
)
from zpipe.kernel.holes import next_data, next_hole
from zpipe.kernel.inspect import filesystem as known
from zpipe.kernel.lease import Lease
from zpipe.units import format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

OK = Answer("ok")
_MOUNTS = "/proc/self/mountinfo"
_IN_MEMORY = frozenset({"tmpfs", "ramfs"})
_TRIED = (1, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)  # alignments
_HOLE = 1 << 20
_OCTAL = re.compile(r"\\([0-7]{3})")  # blanks and backslashes in the table of mounts


def place(path: str) -> Probe:
    """Return the question what a path is; without its answer there is no use in the others."""
    return Probe(
        "filesystem",
        "filesystem",
        partial(filesystem, path),
        "there is no place there for temporary files, or for bytes to be spilled",
    )


def probes(folder: str) -> list[Probe]:
    """Return the questions about a directory."""
    return [
        Probe(
            "reflink",
            "reflink (FICLONE)",
            partial(reflink, folder),
            "cp copies the bytes, and so does --stable, which reads from a clone elsewhere",
        ),
        Probe(
            "copy-range",
            "copy_file_range",
            partial(copy_range, folder),
            "cp falls back to sendfile",
        ),
        Probe(
            "direct",
            "O_DIRECT",
            partial(direct, folder),
            "direct=1 and --via direct go through the page cache",
        ),
        Probe(
            "tmpfile",
            "O_TMPFILE",
            partial(tmpfile, folder),
            "files for spilling have a name for a moment, and --stable does not clone",
        ),
        Probe(
            "lease",
            "file leases",
            partial(lease, folder),
            "nobody can be held off a source while it is read: --lease copies its bytes instead,"
            " and the library notices only afterwards that a mapped file was cut",
        ),
        Probe(
            "holes",
            "SEEK_DATA, SEEK_HOLE",
            partial(holes, folder),
            "cp cannot find holes: sparse files are copied in full",
        ),
    ]


def device_probes(path: str) -> list[Probe]:
    """Return the questions about a block device, which is only read."""
    return [
        Probe(
            "direct",
            "O_DIRECT",
            partial(direct_device, path),
            "direct=1 and --via direct go through the page cache",
        )
    ]


def filesystem(path: str) -> Answer:
    """Find out what lies at a path. The value's `folder` is where files are to be made.

    Raises: OSError  nothing is there, or it may not be looked at.
    """
    info = os.stat(path)
    if stat.S_ISBLK(info.st_mode):
        return Answer("fact", "a block device", {"kind": "device", "folder": None})
    if stat.S_ISREG(info.st_mode):
        folder = os.path.dirname(os.path.realpath(path))
    elif stat.S_ISDIR(info.st_mode):
        folder = path
    else:
        return Answer("failed", "neither a directory nor a file nor a block device")
    info = os.stat(folder)
    space = os.statvfs(folder)
    free = space.f_bavail * space.f_frsize
    try:
        with open(_MOUNTS, encoding="utf-8", errors="surrogateescape") as table:
            name, place, read_only = mount_of(table, info.st_dev, os.path.realpath(folder))
    except OSError:
        name, place, read_only = "", "", False
    words = [name or "unknown"]
    words += [f"mounted at {place}"] if place else []
    words += ["read-only"] if read_only else []
    words += [f"{format_size(free)} free"] if space.f_blocks else []
    value = {
        "kind": "file" if folder != path else "directory",
        "folder": folder,
        "type": name or None,
        "family": _family(folder),
        "mount": place or None,
        "device": f"{os.major(info.st_dev)}:{os.minor(info.st_dev)}",
        "free": free,
    }
    return Answer("fact", ", ".join(words), value)


def _family(folder: str) -> str | None:
    """Return the filesystem's name as plans know it; None: they do not know it."""
    with Scratch() as scratch:
        return known(scratch.keep(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)))


def mount_of(table: Iterable[str], device: int, path: str) -> tuple[str, str, bool]:
    """Return the type of the filesystem at `path`, where it is mounted, and if it is read-only.

    Empty where the table does not tell. The device number decides where there are several; btrfs
    gives each subvolume one of its own, which the table does not have: the path decides.
    """
    number = f"{os.major(device)}:{os.minor(device)}"
    best: tuple[tuple[bool, int], str, str, bool] | None = None
    for line in table:
        words = line.split()
        mount = _OCTAL.sub(lambda found: chr(int(found[1], 8)), words[4])
        inside = mount in ("/", path) or path.startswith(mount + "/")
        if not inside:
            continue
        kind = words[words.index("-") + 1]
        rank = (words[2] == number or kind == "btrfs", len(mount))
        # of those at one place, the last one hides the others
        if best is None or rank >= best[0]:
            best = rank, kind, mount, "ro" in words[5].split(",")
    return best[1:] if best is not None else ("", "", False)


def reflink(folder: str) -> Answer:
    with Scratch() as scratch:
        source, sink = scratch.file(folder), scratch.file(folder, b"")
        with Trying("ioctl(FICLONE)"):
            clone(source, sink)
        same("ioctl(FICLONE)", os.pread(sink, len(DATA) + 1, 0))
    return OK


def copy_range(folder: str) -> Answer:
    with Scratch() as scratch:
        return copied_by_range(scratch.file(folder), scratch.file(folder, b""))


def direct(folder: str) -> Answer:
    """Find the smallest alignment that reads are served with, and compare with what is told."""
    with Scratch() as scratch:
        fd = scratch.file(folder, DATA * 32)
        in_memory = _is_in_memory(folder)
        os.fsync(fd)
        with Trying("fcntl(O_DIRECT)"):
            set_direct(fd, True)
        told, works = told_alignment(fd), _least(fd, DATA * 32)
        used = told or ASSUMED_ALIGNMENT
        if works is None:
            raise Refused("pread", 0, f"no alignment up to {format_size(_TRIED[-1])} is served")
        _check_write(fd, max(used, works))
    return _alignment(told, works, used, in_memory)


def direct_device(path: str) -> Answer:
    with Scratch() as scratch:
        with Trying("open(O_DIRECT)"):
            fd = scratch.keep(os.open(path, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC))
        told, works = told_alignment(fd), _least(fd, None)
        if works is None:
            raise Refused("pread", 0, f"no alignment up to {format_size(_TRIED[-1])} is served")
    return _alignment(told, works, told or ASSUMED_ALIGNMENT, False)


def _least(fd: int, data: bytes | None) -> int | None:
    """Return the smallest alignment with which a read succeeds; None: there is none."""
    buffer = memoryview(aligned_buffer(_TRIED[-1]))
    for size in _TRIED:
        try:
            count = os.preadv(fd, [buffer[:size]], size)
        except OSError:
            continue
        if count and (data is None or buffer[:count] == data[size : size + count]):
            return size
    return None


def _check_write(fd: int, size: int) -> None:
    buffer = memoryview(aligned_buffer(size))
    buffer[: len(DATA)] = DATA[:size]
    with Trying("pwrite"):
        count = os.pwritev(fd, [buffer], 0)
    if count != size:
        raise Refused("pwrite", 0, f"it wrote {count} bytes of {size}")


def _alignment(told: int | None, works: int, used: int, in_memory: bool) -> Answer:
    value = {"alignment": used, "told": told, "least": works}
    said = f"alignment {used} bytes" + (" (statx)" if told else ", assumed: statx does not tell")
    if in_memory:
        return Answer("limited", "accepted, but there is nothing but the page cache", value)
    if works > used:
        return Answer("limited", f"{said}, but only {works} are served", value)
    if works == 1:
        said += "; what is not aligned goes through the page cache"
    elif works < used:
        said += f"; {works} are served"
    return Answer("ok", said, value)


def _is_in_memory(folder: str) -> bool:
    try:
        with open(_MOUNTS, encoding="utf-8", errors="surrogateescape") as table:
            info = os.stat(folder)
            return mount_of(table, info.st_dev, os.path.realpath(folder))[0] in _IN_MEMORY
    except OSError:
        return False


def tmpfile(folder: str) -> Answer:
    with Scratch() as scratch:
        try:
            scratch.keep(os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600))
        except OSError as error:
            if error.errno not in NO_TMPFILE:
                raise no_place(error) from error
            raise Refused("open(O_TMPFILE)", error.errno, "") from error
    return OK


def lease(folder: str) -> Answer:
    """Take a read lease on a file of our own, see that it is held, and give it back."""
    with Scratch() as scratch:
        with Scratch() as inner:
            reader = scratch.again(inner.file(folder), os.O_RDONLY)
        with Trying("fcntl(F_SETLEASE)"):
            taken = Lease(reader)
        try:
            if not taken.held():
                raise Refused("fcntl(F_GETLEASE)", 0, "it was granted, and is not held")
        finally:
            taken.release()
    return OK


def holes(folder: str) -> Answer:
    """Make a file with a hole before its data, and look for both."""
    with Scratch() as scratch:
        fd = scratch.file(folder, b"")
        with Trying("pwrite"):
            os.pwrite(fd, DATA, _HOLE)
        with Trying("lseek(SEEK_DATA)"):
            data = next_data(fd, 0)
        with Trying("lseek(SEEK_HOLE)"):
            hole = next_hole(fd, 0)
    if data == 0:
        return Answer("limited", "all of a file counts as data: holes cannot be told from it")
    if data is None or data > _HOLE or hole != 0:
        raise Refused("lseek(SEEK_DATA)", 0, "data counts as a hole, or a hole as data")
    return OK
