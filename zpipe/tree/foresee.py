"""What a copy would do, without doing any of it."""

from __future__ import annotations

import os
import stat

from zpipe.errors import reason
from zpipe.tree.operands import look_at, refusal
from zpipe.tree.tasks import Problem, join
from zpipe.tree.walk import excluded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from zpipe.tree.naming import Pair
    from zpipe.tree.wishes import TreeWishes


def foresee(pairs: Sequence[Pair], wishes: TreeWishes) -> Iterator[tuple[str, str] | Problem]:
    """Yield source and target of all that would be made, and what would fail for certain."""
    for pair in pairs:
        info = look_at(pair, wishes)
        if info is None:
            continue
        if isinstance(info, Problem):
            yield info
            continue
        for like, made in pair.parents:
            if not os.path.isdir(made):
                yield like, made
        problem = refusal(pair, info, wishes)
        if problem is not None:
            yield problem
        elif stat.S_ISDIR(info.st_mode):
            yield from _tree(pair, info, wishes)
        elif not _stays(pair.target, info, wishes):
            yield pair.source, pair.target


def _tree(
    pair: Pair, root: os.stat_result, wishes: TreeWishes
) -> Iterator[tuple[str, str] | Problem]:
    follow = wishes.follow == "always"
    stack = [(pair.source, pair.target, "", frozenset({(root.st_dev, root.st_ino)}))]
    while stack:
        source, target, relative, above = stack.pop()
        if not os.path.isdir(target):
            yield source, target
        below = []
        try:
            with os.scandir(source) as entries:
                for entry in entries:
                    path = f"{relative}/{entry.name}"
                    if excluded(path[1:], entry.name, wishes.exclude):
                        continue
                    to = join(target, entry.name)
                    try:
                        info = entry.stat(follow_symlinks=follow)
                    except OSError as error:
                        yield Problem(entry.path, f"{entry.path}: stat: {reason(error)}")
                        continue
                    if not stat.S_ISDIR(info.st_mode):
                        if not _stays(to, info, wishes):
                            yield entry.path, to
                        continue
                    own = (info.st_dev, info.st_ino)
                    if own in above:
                        text = f"{entry.path}: a symbolic link leads round in a circle"
                        yield Problem(entry.path, text)
                    elif not (wishes.one_filesystem and info.st_dev != root.st_dev):
                        below.append((entry.path, to, path, above | {own}))
                    elif not os.path.isdir(to):
                        yield entry.path, to
        except OSError as error:
            name = error.filename or source
            yield Problem(source, f"{name}: read: {reason(error)}")
        stack += reversed(below)


def _stays(target: str, info: os.stat_result, wishes: TreeWishes) -> bool:
    """Whether a target that is there would be left as it is."""
    if wishes.existing == "skip":
        return os.path.lexists(target)
    try:
        found = os.stat(target) if stat.S_ISREG(info.st_mode) else os.lstat(target)
    except OSError:
        return False
    return wishes.update and found.st_mtime_ns >= info.st_mtime_ns
