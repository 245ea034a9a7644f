"""Which source goes to which target, by the rules of cp."""

from __future__ import annotations

import os
import stat

from zpipe.errors import TransferError, UsageError, reason
from zpipe.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


class Pair(Value):
    """A source operand, and the path that it is to have. `parents`: directories to be made before,
    each with the source directory that it is like (`--parents`). `through`: the target may be a
    symbolic link to a directory, which is then copied into.
    """

    source: str
    target: str
    parents: tuple[tuple[str, str], ...] = ()
    through: bool = False


def pairs(
    sources: Sequence[str],
    target: str,
    *,
    into: bool | None,
    parents: bool,
) -> list[Pair]:
    """Return the pairs; `into`: the target is a directory to copy into (-t), it is not (-T), or
    that is seen by what is there.

    Raises: UsageError     the target is to be a directory and is none.
            TransferError  it cannot be looked at.
    """
    is_directory = False
    try:
        is_directory = stat.S_ISDIR(os.stat(target or ".").st_mode)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise TransferError(f"{target}: stat: {reason(error)}", errno=error.errno) from error
    several = len(sources) > 1
    if (into or several or parents) and not is_directory:
        why = "must be a directory"
        if several:
            why += ", for several sources (several sinks: --to DST)"
        raise UsageError(f"{target}: {why}")
    if into is False and several:
        raise UsageError(f"{sources[1]}: -T takes one source")
    if into is None:
        into = is_directory
    if into is False:
        return [Pair(sources[0], target, through=target.endswith("/"))]
    return [_into(source, target, parents=parents) for source in sources]


def _into(source: str, target: str, *, parents: bool) -> Pair:
    if parents:
        path = os.path.join(target, source.lstrip("/").rstrip("/"))
        made = []
        above = os.path.dirname(source.rstrip("/"))
        while above.strip("/"):
            made.append((above, os.path.join(target, above.lstrip("/"))))
            above = os.path.dirname(above)
        return Pair(source, path, tuple(reversed(made)))
    name = os.path.basename(source.rstrip("/"))
    if name in ("", ".", ".."):
        # what is in it goes into the target: `cp -r src/. dst`
        return Pair(source, target if name != ".." else os.path.join(target, ""), through=True)
    return Pair(source, os.path.join(target, name))


def is_inside(target: str, source: os.stat_result) -> bool:
    """Whether a path, which need not exist, is in the directory `source`, or is it."""
    try:
        path = os.path.realpath(target)
    except OSError:
        return False  # the directory that we are in is gone: nothing is made in it
    while True:
        try:
            found = os.stat(path)
        except OSError:
            found = None
        if found is not None and (found.st_dev, found.st_ino) == (source.st_dev, source.st_ino):
            return True
        above = os.path.dirname(path)
        if above == path:
            return False
        path = above
