"""Where a batch is carried out: its two directories, open, and what is there already.

Gives entries their paths and their temporary names, and notes what became of them in the outcome.
Knows nothing of how an entry is made.
"""

from __future__ import annotations

import os

from zpipe.tree.place import judge, temporary_name
from zpipe.tree.tasks import Done, Outcome, identity_of, join

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from zpipe.tree.tasks import Batch
    from zpipe.tree.wishes import TreeWishes

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Site:
    """`ask` is asked about each target that is there."""

    def __init__(self, batch: Batch, wishes: TreeWishes, ask: Callable[[str], bool] | None):
        self.batch = batch
        self.out = Outcome(batch.number)
        self.source = self.target = -1
        self.device = -1  # of the target
        self.number = 0  # of the entry at hand, from 1
        # what goes before a name; '' is here
        self._above, self._to = join(batch.source, ""), join(batch.target, "")
        self._wishes = wishes
        self._ask = ask
        self._tells = wishes.names or wishes.resume or wishes.digest is not None

    def open(self) -> None:
        """Open both directories. Raises: OSError."""
        self.source = os.open(self.batch.source or ".", _FOLDER)
        self.target = os.open(self.batch.target or ".", _FOLDER)
        self.device = os.fstat(self.target).st_dev

    def close(self) -> None:
        """Close what is open."""
        for fd in (self.source, self.target):
            if fd >= 0:
                os.close(fd)
        self.source = self.target = -1

    # The entry at hand

    def source_of(self, name: str) -> str:
        """Return the path of an entry."""
        return self._above + name

    def target_of(self, name: str) -> str:
        """Return the path that an entry is to have."""
        return self._to + (self.batch.as_name or name)

    def temporary_of(self, name: str) -> str:
        """Return the name that an entry has until it is complete."""
        return temporary_name(self.batch.as_name or name, self.batch.token, self.number)

    def stays(self, name: str, info: os.stat_result) -> tuple[bool, os.stat_result | None]:
        """Whether the target is left as it is, which is noted then; and what is there.

        Raises: TransferError  it must not be replaced.
        """
        batch, target = self.batch, self.target_of(name)
        as_name = batch.as_name or name
        leave, found = judge(self.target, as_name, target, info, self.source_of(name), self._wishes)
        if found is not None and not leave and self._ask is not None:
            leave = not self._ask(target)
        if leave:
            self.out.skipped += 1
            if self._tells:
                self._note(name, info, "", "kept")
        return leave, found

    def made(self, name: str, info: os.stat_result, digest: str, act: str) -> None:
        """Note an entry that is in its place."""
        self.out.files += 1
        if self._tells:
            self._note(name, info, digest, act)

    def _note(self, name: str, info: os.stat_result, digest: str, act: str) -> None:
        there = (0, 0, 0, 0, 0)
        if self._wishes.resume and act == "copied":
            try:
                as_name = self.batch.as_name or name
                there = identity_of(os.lstat(as_name, dir_fd=self.target))
            except OSError:
                pass  # it is gone again: another run will see that
        source, target = self.source_of(name), self.target_of(name)
        done = Done(source, target, info.st_size, identity_of(info), there, digest, act)
        self.out.done.append(done)
