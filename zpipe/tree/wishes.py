"""What the user asks of the copying of trees, as one value that any worker can be sent."""

from __future__ import annotations

from zpipe.values import Value

ATTRIBUTES = ("mode", "ownership", "timestamps", "links", "xattr", "context")
PLAIN = frozenset({"mode", "ownership", "timestamps"})  # what -p keeps
CHUNK = 64 << 20  # bytes: what a big file is divided into, and what is done again after a kill
BIG = 2 * CHUNK  # bytes: files from here on are divided


class TreeWishes(Value):
    """`preserve`: names of `ATTRIBUTES`; `demanded`: those whose loss fails a file.

    `follow`: symbolic links are followed never, as operands, or always. `existing`: what becomes of
    a target that is there: replace, skip, update, ask. `make`: copy, link, symlink. `sparse` and
    `reflink`: auto, always, never. `digest`: the algorithm of a checksum file. `rate_limit` in
    bytes per second.
    """

    recursive: bool = False
    follow: str = "never"
    preserve: frozenset[str] = frozenset()
    demanded: frozenset[str] = frozenset()
    existing: str = "replace"
    force: bool = False
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

    @property
    def divides(self) -> bool:
        """Big files may go in ranges: nothing asks for their bytes in order."""
        return self.digest is None and self.sparse != "always" and not self.inplace
