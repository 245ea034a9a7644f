"""The unit of work, and what comes of it: plain values that can be pickled and done twice.

Paths are those of the machine that carries a task; what is in them has been walked already.
"""

from __future__ import annotations

from zpipe.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from typing import TypeAlias

# device, inode, size, mtime and ctime in nanoseconds
Identity = tuple[int, int, int, int, int]


class Batch(Value):
    """Entries of one directory. `files` are regular as far as the directory tells, `others` are
    symbolic links and special files. `fresh`: the target directory was made for this, and holds
    nothing else. `follow`: symbolic links are followed. `as_name`: the single entry is named
    so in the target. `token` makes temporary names that no other task has.
    """

    number: int
    source: str
    target: str
    files: tuple[str, ...]
    others: tuple[str, ...] = ()
    fresh: bool = False
    follow: bool = False
    as_name: str | None = None
    token: str = ""


class Chunk(Value):
    """A range of a big file. `identity` is what the source must still be, and `inode` the number of
    the temporary file: devices differ between machines.
    """

    number: int
    source: str
    temporary: str
    target: str
    offset: int
    length: int
    identity: Identity
    inode: int


if TYPE_CHECKING:
    Task: TypeAlias = Batch | Chunk


class Problem(Value):
    """What has gone wrong with one file, in one line. `kind`: failed, mismatch, attribute."""

    path: str
    text: str
    kind: str = "failed"


class Big(Value):
    """A file that is to be divided: its name and what fstat said."""

    name: str
    identity: Identity


class Done(Value):
    """One file that is in its place. `target`: what lstat says of it, for the journal."""

    source: str
    path: str
    size: int
    identity: Identity
    target: Identity
    digest: str = ""
    act: str = "copied"


class Outcome:
    """What became of a task. Counts files and bytes; small, since it travels."""

    def __init__(self, number: int):
        self.number = number
        self.files = 0
        self.skipped = 0
        self.moved = 0
        self.by_mover: dict[str, int] = {}
        self.fallbacks: dict[tuple[str, str, int], int] = {}
        self.problems: list[Problem] = []
        self.big: list[Big] = []
        self.done: list[Done] = []
        self.failed = False  # of a chunk: its file is lost
        self.partial = False  # a signal has ended it: the rest of the task is not done

    def count(self, mover: str, size: int) -> None:
        """Note bytes that a mover carried."""
        self.moved += size
        self.by_mover[mover] = self.by_mover.get(mover, 0) + size

    def fell_back(self, mover: str, call: str, errno: int) -> None:
        """Note that a mover was refused."""
        key = (mover, call, errno)
        self.fallbacks[key] = self.fallbacks.get(key, 0) + 1


def identity_of(info: os.stat_result) -> Identity:
    """Return the identity that a stat result tells."""
    return (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)


def join(folder: str, name: str) -> str:
    """Return the path of a name in a folder; '' is here."""
    if not folder:
        return name
    return folder + name if folder.endswith("/") else f"{folder}/{name}"
