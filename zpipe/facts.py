"""What is known of a file descriptor, and the few words that every layer shares.

An fd is what it can do: movers decide on these facts and never ask which kind of address an fd
came from. Facts are hints taken when the end was opened; the system call has the last word.
"""

from __future__ import annotations

from zpipe.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    FdType = Literal[
        "regular",
        "block",
        "character",
        "tty",
        "pipe",
        "tcp",
        "unix",
        "datagram",
        "seqpacket",
        "directory",
        "other",
    ]

# Filesystems whose FICLONE is known to answer EOPNOTSUPP (fs/*/file.c has no remap_file_range).
NEVER_CLONES = frozenset(
    {"ext4", "tmpfs", "ramfs", "proc", "sysfs", "vfat", "devtmpfs", "squashfs"}
)

# Local filesystems where copy_file_range is the same CPU copy as splice, never a server's or
# disk's own copy, so that other ways of copying in this machine may be preferred to it.
COPIES_LOCALLY = frozenset({"ext4", "tmpfs", "xfs", "btrfs"})


class FdFacts(Value):
    """What an fd is and can do. Sizes in bytes; None is "not known" or "has none"."""

    type: FdType
    readable: bool = True
    writable: bool = True
    position: int | None = None  # file position where moving begins; None: a stream
    size: int | None = None  # bytes from the position to the end; None: only the end tells
    identity: tuple[int, int] | None = None  # device, inode
    device: tuple[int, int] | None = None  # major, minor of a device node
    allocated: int | None = None  # bytes on disk of the whole file
    append: bool = False
    direct: bool = False  # O_DIRECT is set
    align: int | None = None  # O_DIRECT alignment of offset, length and memory, where it was asked
    capacity: int | None = None  # of a pipe
    nonblocking: bool = False  # never blocks in the kernel
    owned: bool = True  # opened by us: its flags may be changed
    fresh: bool = False  # a sink that holds nothing yet: new, or truncated
    stable: bool = False  # its bytes cannot change while they are read (private clone, lease)
    filesystem: str | None = None
    scatter_gather: bool | None = None  # of the network device on the route
    route: str | None = None  # name of that device
    generated: bool = False  # /dev/zero and its kin: bytes from nowhere

    @property
    def on_disk(self) -> bool:
        """A regular file or block device: seekable, and never "not ready"."""
        return self.type in ("regular", "block")

    @property
    def is_socket(self) -> bool:
        return self.type in ("tcp", "unix", "datagram", "seqpacket")

    @property
    def keeps_boundaries(self) -> bool:
        return self.type in ("datagram", "seqpacket")

    @property
    def may_block(self) -> bool:
        """A call on it can sleep in the kernel for as long as the other side likes."""
        return not self.nonblocking and not self.on_disk and not self.generated

    @property
    def holds_references(self) -> bool:
        """As a sink it keeps references to spliced file pages instead of copying them."""
        return self.type in ("pipe", "tcp", "unix", "datagram")

    @property
    def has_holes(self) -> bool:
        return (
            self.type == "regular"
            and self.allocated is not None
            and self.size is not None
            and self.position is not None
            and self.allocated < self.position + self.size
        )


class OpenFd(Value):
    """What a mover sees of an end: the number, its facts, and the name for messages.

    Bytes move at the fd's own file position, so that an inherited fd is left where its other
    users expect it, and the next mover of a fallback goes on where the last one stopped.
    """

    fd: int
    facts: FdFacts
    name: str
