"""The library's call for files and trees, which the command line makes, too."""

from __future__ import annotations

import os

from zpipe.errors import TransferError, VerifyError, reason
from zpipe.tree.copy import TreeCopy, TreeFailed
from zpipe.tree.devices import default_workers
from zpipe.tree.naming import pairs
from zpipe.tree.wishes import PLAIN, TreeWishes
from zpipe.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Executor
    from typing import Any

    from zpipe.engine.stop import Stop
    from zpipe.tree.crew import Crew
    from zpipe.tree.journal import Journal
    from zpipe.tree.report import TreeFeedback, TreeReport
    from zpipe.tree.tasks import Done


def copy_tree(
    source: str,
    target: str,
    *more: str,
    executor: str | Executor | None = None,
    workers: int | None = None,
    checksum_file: str | None = None,
    into: bool | None = None,
    feedback: TreeFeedback | None = None,
    stop: Stop | None = None,
    **wishes: Any,
) -> TreeReport:
    """Copy a file or a tree, with all that is in it, as `zpipe cp -rp` does; with `more`, the last
    name is a directory that takes all the others. `wishes` are the fields of `TreeWishes`.

    Raises: TreeFailed, VerifyError, TransferError, UsageError, Interrupted.
    """
    asked = TreeWishes(**{"recursive": True, "preserve": PLAIN, **wishes})
    sources, target = ([source, target, *more[:-1]], more[-1]) if more else ([source], target)
    return carry_out(
        sources,
        target,
        asked,
        into=into,
        executor=executor,
        workers=workers,
        checksum_file=checksum_file,
        feedback=feedback,
        stop=stop,
    )


def carry_out(
    sources: Sequence[str],
    target: str,
    wishes: TreeWishes,
    *,
    into: bool | None = None,
    parents: bool = False,
    executor: str | Executor | None = None,
    workers: int | None = None,
    checksum_file: str | None = None,
    ask: Callable[[str], bool] | None = None,
    feedback: TreeFeedback | None = None,
    stop: Stop | None = None,
) -> TreeReport:
    """Carry out a copy of files and trees, all wishes given. Raises: as `copy_tree`."""
    journal: Journal | None = None
    if executor not in (None, "processes", "threads"):
        # workers elsewhere have another working directory
        here = _here()
        sources = [os.path.join(here, source) for source in sources]
        target = os.path.join(here, target)
    if wishes.resume:
        from zpipe.tree.journal import Journal

        if not all(map(os.path.isabs, (*sources, target))):
            _here()
        path = journal_path(target, into)
    if wishes.resume and into is None:
        # by now the target may be there, where it was not when the copy began
        into = Journal.says_into(path)
    found = pairs(sources, target, into=into, parents=parents)
    if checksum_file is not None:
        wishes = replace(wishes, digest="sha256")
    if wishes.resume:
        entered = found[0].target != target
        journal = Journal(path, sources, target, wishes, into=entered)
        if journal.resumed and feedback is not None:
            feedback.said(f"{path}: goes on with what was copied before")
    # On one machine copying is bound by its memory: two ranges of a file side by side were no
    # quicker than one (300 MiB, ext4: 0.11 s against 0.09 s). Digests, slow streams and machines
    # that share the work are another matter.
    divides = wishes.verify or wishes.resume or (workers or 1) > 1
    divides = divides or executor not in (None, "processes")
    if workers is None:
        # where operands meet in one target, the later one wins, as with cp
        met = len({pair.target for pair in found}) < len(found)
        one = wishes.rate_limit is not None or ask is not None or met
        workers = 1 if one else default_workers([*sources, target])
    crew = _crew(executor, wishes, workers, sources, target)
    sums = None
    try:
        if checksum_file is not None:
            sums = _Sums(checksum_file)
        copy = TreeCopy(
            found,
            wishes,
            workers=1 if ask is not None else workers,
            divides=divides,
            crew=crew,
            journal=journal,
            checksums=sums.take if sums is not None else None,
            ask=ask,
            feedback=feedback,
            stop=stop,
        )
        try:
            report = copy.run()
        except (TreeFailed, VerifyError):
            if sums is not None:
                sums.finish()  # of the files that were copied
            raise
        if sums is not None:
            sums.finish()
        return report
    finally:
        if sums is not None:
            sums.discard()
        if journal is not None:
            journal.close()


def _crew(
    executor: str | Executor | None,
    wishes: TreeWishes,
    workers: int,
    sources: Sequence[str],
    target: str,
) -> Callable[[], Crew] | None:
    """Return what makes the workers; None: processes, as they are needed."""
    if executor is None or executor == "processes":
        return None
    # where the workers put their proof
    folder = target if os.path.isdir(target) else os.path.dirname(target) or "."

    def make() -> Crew:
        from zpipe.tree.executors import hire, hire_own

        if isinstance(executor, str):
            return hire(executor, wishes, workers, sources, folder)
        assert executor is not None
        return hire_own(executor, wishes, workers, sources, folder)

    return make


def _here() -> str:
    """Return the directory that we are in. Raises: TransferError  it is gone."""
    try:
        return os.getcwd()
    except OSError as error:
        raise TransferError(f".: open: {reason(error)}", errno=error.errno) from error


def journal_path(target: str, into: bool | None) -> str:
    """Return where the journal is: beside a target that is made, in a directory that is there.

    The directory may be the root of a filesystem whose parent is another's, and somebody else's.
    """
    above, name = os.path.split(os.path.abspath(target))
    beside = os.path.join(above, f".{name}.zpipe-journal")
    if into is False or not os.path.isdir(target) or os.path.lexists(beside):
        return beside
    return os.path.join(os.path.abspath(target), ".zpipe-journal")


class _Sums:
    """A file in the format of sha256sum, put in place when it is complete."""

    def __init__(self, path: str):
        from zpipe.endpoints.replace import Replacement

        self._replacement = Replacement(path)
        self._replacement.prepare()
        self._path = path

    def take(self, done: Done) -> None:
        """Note a file. Raises: TransferError."""
        name = done.path
        mark = ""
        if "\\" in name or "\n" in name or "\r" in name:
            name = name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
            mark = "\\"
        line = memoryview(os.fsencode(f"{mark}{done.digest}  {name}\n"))
        try:
            while line:
                line = line[os.write(self._replacement.fd, line) :]
        except OSError as error:
            text = f"{self._path}: write: {reason(error)}"
            raise TransferError(text, errno=error.errno) from error

    def finish(self) -> None:
        """Put it in place. Raises: TransferError."""
        self._replacement.commit()

    def discard(self) -> None:
        """Leave no part of it; nothing, once it is in place."""
        self._replacement.discard()
