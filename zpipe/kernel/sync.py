"""syncfs(2): write back everything of one filesystem."""

from __future__ import annotations

from zpipe.kernel.libc import checked, libc


def syncfs(fd: int) -> None:
    """Make all that was written to the filesystem of an open file durable.

    Raises: OSError  EIO, ENOSPC: something could not be written since the last call (Linux 5.8).
    Source: syncfs(2).
    """
    checked(libc().syncfs(fd))
