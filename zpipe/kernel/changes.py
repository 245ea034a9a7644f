"""Compare what fstat said of a file before and after it was read."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os


def changes(before: os.stat_result, after: os.stat_result) -> list[str]:
    """Return what tells that the content may have changed; empty when nothing does.

    A change of the inode alone (chmod, chown, link, unlink) explains a new ctime; a rename or a new
    attribute would too, but cannot be seen here. Stores through a mapping leave no trace on size,
    mtime or ctime: they cannot be noticed.
    """
    found = []
    if after.st_size != before.st_size:
        found.append(f"size {before.st_size} -> {after.st_size}")
    if after.st_mtime_ns != before.st_mtime_ns:
        found.append("mtime")
    if not found and after.st_ctime_ns != before.st_ctime_ns:
        own = ("st_mode", "st_uid", "st_gid", "st_nlink")
        if all(getattr(before, name) == getattr(after, name) for name in own):
            found.append("ctime")
    return found
