"""Whether a file that is met is to be copied now: an earlier run may have finished it, or it is
another name of one that is copied already. Counts the bytes that are to come, on the way.

Loaded only where somebody counts, or goes on, or keeps hard links. Knows nothing of directories.
"""

from __future__ import annotations

import os
import stat

from zpipe.tree.tasks import Done, identity_of, join

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zpipe.tree.accounts import Accounts
    from zpipe.tree.hard_links import HardLinks
    from zpipe.tree.walk import Folder
    from zpipe.tree.wishes import TreeWishes


class Admission:
    """`links` is None where names of one file need not stay so."""

    def __init__(self, wishes: TreeWishes, accounts: Accounts, links: HardLinks | None):
        self._wishes = wishes
        self._accounts = accounts
        self._links = links

    def admits(self, folder: Folder, entry: os.DirEntry[str]) -> bool:
        """Whether an entry of a directory is to be copied now."""
        try:
            info = entry.stat(follow_symlinks=self._wishes.follow == "always")
        except OSError:
            return True  # whoever opens it finds the words
        return self.takes(entry.path, join(folder.target, entry.name), info, folder)

    def takes(self, source: str, target: str, info: os.stat_result, folder: Folder | None) -> bool:
        """Whether a file, not in a directory or in that one, is to be copied now."""
        links = self._links
        if links is not None and links.joins(source, target, info, folder):
            return False
        regular = stat.S_ISREG(info.st_mode)
        digest = self._finished(source, target, info) if regular else None
        if links is not None:
            links.begins(source, target, info, digest)
        if digest is not None:
            return False
        if regular and self._accounts.feedback.sizes:
            self._accounts.report.expected += self._size(info)
        return True

    def _size(self, info: os.stat_result) -> int:
        """Return the bytes that a file will probably move: holes move none."""
        if self._wishes.sparse == "never":
            return info.st_size
        return min(info.st_size, info.st_blocks * 512)

    def _finished(self, source: str, target: str, info: os.stat_result) -> str | None:
        """Return the digest of a file that an earlier run has finished, '' where it was not wanted;
        None: there is none, or a side has changed since.
        """
        accounts = self._accounts
        if accounts.journal is None:
            return None
        record = accounts.journal.finished_of(target)
        if record is None:
            return None
        before, put, digest = record
        if before != identity_of(info):
            accounts.feedback.said(f"{source}: has changed since it was copied: is copied again")
            return None
        try:
            if identity_of(os.lstat(target))[:4] != put[:4]:
                accounts.feedback.said(f"{target}: has changed since: is copied again")
                return None
        except OSError:
            return None
        accounts.report.kept += 1
        if digest:
            accounts.sum_up(Done(source, target, info.st_size, before, put, digest, "kept"))
        return digest
