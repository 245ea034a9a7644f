"""What the user asks of the copying of trees, as one value that any worker can be sent."""

from __future__ import annotations

import stat

from zpipe.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os

ATTRIBUTES = ("mode", "ownership", "timestamps", "links", "xattr", "context")
PLAIN = frozenset({"mode", "ownership", "timestamps"})  # what -p keeps
CHUNK = 64 << 20  # bytes: what a big file is divided into, and what is done again after a kill
BIG = 2 * CHUNK  # bytes: files from here on are divided


class TreeWishes(Value):
    """`preserve`: names of `ATTRIBUTES`; `demanded`: those whose loss is an error.
    `default_mode`: new files have the mode of any new file, whatever that of the source is.

    `follow`: symbolic links are followed never, as operands, or always. `existing`: what becomes of
    a target that is there: replace, skip, ask; `update`: it is left where it is not older;
    `remove`: it goes, with links that it may be, instead of being written or replaced. `make`:
    copy, link, symlink. `sparse` and `reflink`: auto, always, never. `digest`: the algorithm of a
    checksum file. `rate_limit` in bytes per second.
    """

    recursive: bool = False
    follow: str = "never"
    preserve: frozenset[str] = frozenset()
    default_mode: bool = False
    demanded: frozenset[str] = frozenset()
    existing: str = "replace"
    update: bool = False
    force: bool = False
    remove: bool = False
    inplace: bool = False
    sync: bool = False
    one_filesystem: bool = False
    make: str = "copy"
    sparse: str = "auto"
    reflink: str = "auto"
    verify: bool = False
    digest: str | None = None
    resume: bool = False
    exclude: tuple[str, ...] = ()
    via: str | None = None
    without: frozenset[str] = frozenset()
    rate_limit: int | None = None
    pipe_size: int | None = None
    names: bool = False  # tell of each file, not only of how many

    def mode(self, info: os.stat_result) -> int:
        """Return the permission bits with which a new file or directory is made; the umask, or the
        default ACL of its directory, takes its part of them.
        """
        if self.default_mode:
            if stat.S_ISDIR(info.st_mode):
                return 0o777 | (info.st_mode & stat.S_ISVTX)
            return 0o777 if stat.S_ISSOCK(info.st_mode) else 0o666
        bits = info.st_mode & (0o1777 if stat.S_ISDIR(info.st_mode) else 0o777)
        if "mode" in self.preserve:
            bits &= 0o700  # not for others before it is theirs
        return bits

    @property
    def withholds(self) -> bool:
        """New files are for nobody else until they have their owner; `mode` does so by itself."""
        return "ownership" in self.preserve and "mode" not in self.preserve

    @property
    def divides(self) -> bool:
        """Big files may go in ranges: nothing asks for their bytes in order."""
        return self.digest is None and self.sparse != "always" and not self.inplace
