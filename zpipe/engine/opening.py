"""Open the ends of a stream, in the order that loses nothing when one of them fails.

The source first: a missing source must not create or truncate a target. What the user asked of the
source's stability is settled here: a private clone, a lease, or copies.
"""

from __future__ import annotations

import os

from zpipe.endpoints import kind_of
from zpipe.endpoints.contract import End, Opening
from zpipe.endpoints.gather import identity
from zpipe.errors import TransferError, UsageError, onto_itself, open_failed
from zpipe.facts import NEVER_CLONES
from zpipe.kernel.clone import clone
from zpipe.kernel.errnos import LEASE_REFUSED
from zpipe.kernel.lease import Lease
from zpipe.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import ExitStack

    from zpipe.endpoints.contract import Waiter
    from zpipe.engine.passing import Passage
    from zpipe.graph.model import Endpoint, Node, Wishes


def open_source(
    node: Node, wishes: Wishes, waiter: Waiter, stack: ExitStack, passage: Passage | None = None
) -> End:
    """Open a source, or take it from a node that is written, too; it is closed by `stack`.

    Raises: TransferError, UsageError, StalledError, Interrupted  as the ends do.
    """
    endpoint = node.endpoint
    opening = Opening(waiter, offset=wishes.offset)
    try:
        open_one = passage.source if passage else kind_of(endpoint.kind).open_source
        source = _open(open_one, endpoint, opening)
    except TransferError as error:
        error.of_source = True
        raise
    stack.callback(source.close)
    return source


def refuse_wishes(nodes: Sequence[Node], wishes: Wishes) -> None:
    """Refuse wishes for files where the only sink is none, before anything is opened.

    Raises: UsageError.
    """
    if len(nodes) != 1 or nodes[0].endpoint.kind == "file" or wishes.lenient:
        return
    for asked, name in ((wishes.append, "--append"), (wishes.inplace, "--inplace")):
        if asked:
            raise UsageError(f"{nodes[0].endpoint.text}: {name} is for a file that a path names")


def refuse_source(nodes: Sequence[Node], source: End) -> None:
    """Refuse a sink that is the source, before any other is opened or created.

    Raises: UsageError.
    """
    facts = source.facts
    for node in nodes:
        endpoint = node.endpoint
        if endpoint.kind != "file" or not facts.on_disk:
            continue
        try:
            same = identity(os.stat(endpoint.address)) == facts.identity
        except OSError:
            continue  # there is none yet, or opening it finds the words
        if same:
            raise onto_itself(endpoint.text)


def open_sink(
    node: Node,
    wishes: Wishes,
    source: End,
    waiter: Waiter,
    stack: ExitStack,
    passage: Passage | None = None,
) -> End:
    """Open a sink for what `source` has, or take it from a node that is read, too; it is closed by
    `stack`.

    Raises: as `open_source`.
    """
    endpoint = node.endpoint
    of_file = endpoint.kind == "file"
    mode = 0o666
    if source.facts.type == "regular":
        mode = os.fstat(source.fd).st_mode & 0o777
    opening = Opening(
        waiter,
        append=wishes.append and of_file,
        inplace=wishes.inplace and of_file,
        sync=wishes.sync,
        mode=mode,
        # one of a sequence is passed over with a word instead, once the sinks are open
        refuse=source.facts.identity if source.facts.on_disk and not wishes.skip else None,
    )
    open_one = passage.sink if passage else kind_of(endpoint.kind).open_sink
    sink = _open(open_one, endpoint, opening)
    stack.callback(sink.close)
    return sink


def steady(
    source: End, sinks: Sequence[End], wishes: Wishes, stack: ExitStack
) -> tuple[Wishes, Lease | None]:
    """Settle what the user asked of the source's stability, now that all ends are open: an open
    for writing would break a lease. Return the wishes that are left, and the lease if there is one.
    """
    lease = None
    if wishes.lease:
        lease = _lease(source)
        if lease is not None:
            stack.callback(lease.release)
        else:
            wishes = replace(wishes, stable=True)
    for end in (source, *sinks):
        if end.facts.on_disk and (wishes.via == "direct" or end.facts.direct):
            from zpipe.kernel.direct import alignment

            end.facts = replace(end.facts, align=alignment(end.fd))
    references = any(sink.facts.holds_references for sink in sinks)
    if wishes.stable and source.facts.type == "regular" and references:
        _use_clone(source)
    return wishes, lease


def _open(
    open_one: Callable[[Endpoint, Opening], End], endpoint: Endpoint, opening: Opening
) -> End:
    """Open one end; what it did not foresee, such as EMFILE, is told in its name too."""
    try:
        return open_one(endpoint, opening)
    except OSError as error:
        raise open_failed(endpoint.text, "open", error) from error


def _lease(source: End) -> Lease | None:
    """Hold a read lease on the source, or note why its bytes will be copied instead."""
    try:
        lease = Lease(source.fd)
    except OSError as error:
        if error.errno not in LEASE_REFUSED:
            raise
        source.notes.append(
            f"no lease on the source ({os.strerror(error.errno or 0)}): its bytes are copied"
        )
        return None
    source.facts = replace(source.facts, stable=True)
    source.notes.append("the source is held by a lease: others wait to write to it")
    return lease


def _use_clone(source: End) -> None:
    """Read from an unlinked clone instead, where the filesystem shares blocks; else do nothing."""
    facts = source.facts
    if facts.filesystem in NEVER_CLONES or facts.stable or not facts.size or not facts.owned:
        return
    try:
        directory = os.path.dirname(os.readlink(f"/proc/self/fd/{source.fd}"))
        copy = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError:
        return  # a read-only directory, or no O_TMPFILE or /proc here: bytes will be copied
    try:
        clone(source.fd, copy)
        os.lseek(copy, os.lseek(source.fd, 0, os.SEEK_CUR), os.SEEK_SET)
        os.dup2(copy, source.fd, inheritable=False)
        source.facts = replace(facts, stable=True)
        source.notes.append("the source was cloned first: what is written to it does not show")
    except OSError:
        pass  # blocks are not shared here, or a full disk has no place for the clone: likewise
    finally:
        os.close(copy)
