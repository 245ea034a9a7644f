"""Send a file to anything that can be spliced to: sendfile."""

from __future__ import annotations

import os

from zpipe.kernel.errnos import SPLICE_REFUSED
from zpipe.kernel.transfer import CHUNK, sendfile
from zpipe.movers.contract import (
    ENDED,
    WAIT_SINK,
    Cost,
    FallBack,
    Fit,
    Moved,
    Mover,
    Transfer,
    Tuning,
    refuse,
)
from zpipe.movers.cost import MIB, dma, few, into_pipe, out_of_pipe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zpipe.facts import FdFacts, OpenFd
    from zpipe.movers.contract import Step

# what a call moves to a sink that fills up, before the caller has to wait: about a socket's buffer
_TYPICAL_TO_STREAM = 2 << 20


class SendfileTransfer(Transfer):
    """The kernel keeps both positions; a sink that is full ends the call early."""

    def step(self, allowance: int) -> Step:
        count = self.left(min(allowance, CHUNK))
        if count <= 0:
            return ENDED
        try:
            self.calls["sendfile"] += 1
            moved = sendfile(self.source.fd, self.sink.fd, count)
        except BlockingIOError:
            return WAIT_SINK
        except OSError as error:
            return self.refused("sendfile", error, SPLICE_REFUSED, None)
        if moved:
            self.delivered += moved
            return Moved(moved)
        # 0 is the end of the file, and what some virtual files answer whatever they hold
        self.calls["pread"] += 1
        if os.pread(self.source.fd, 1, os.lseek(self.source.fd, 0, os.SEEK_CUR)):
            return FallBack("sendfile", 0)
        return ENDED


class Sendfile(Mover):
    """File to socket or pipe without a copy, file to file with one."""

    name = "sendfile"
    summary = "sendfile: file pages go to a socket or pipe by reference, to a file by one copy"
    syscalls = frozenset({"sendfile"})

    def fits(self, source: FdFacts, sink: FdFacts) -> Fit:
        if not source.on_disk:
            return refuse("the source is not a file")
        if source.size == 0:
            return refuse("the size is 0: empty or virtual")
        if why := refused_by_splice(sink):
            return refuse(why)
        if sink.may_block:
            # one call would sleep until the reader has taken all of it, deaf to signals
            return refuse("the sink blocks, and its flags are not ours to change")
        return by_reference(source, sink)

    def cost(self, source: FdFacts, sink: FdFacts) -> Cost:
        typical = CHUNK if sink.on_disk else _TYPICAL_TO_STREAM
        calls = MIB / typical if sink.on_disk or sink.generated else 2 * MIB / typical
        return Cost(into_pipe(source) + out_of_pipe(sink), dma(source, sink), calls)

    def begin(self, source: OpenFd, sink: OpenFd, limit: int | None, tuning: Tuning) -> Transfer:
        return SendfileTransfer(source, sink, limit)


def refused_by_splice(sink: FdFacts) -> str:
    """Return why the kernel would not splice to a sink, or ''. Shared with the splice mover."""
    if sink.append:
        return "the sink appends (O_APPEND), which splice refuses"
    if sink.device == (1, 7):
        return "/dev/full answers splice with EINVAL instead of ENOSPC"
    if sink.keeps_boundaries:
        return "the sink keeps message boundaries, which splice invents"
    if sink.type == "other":
        return "the kind of sink has no splice"
    if sink.may_block and sink.is_socket:
        return "the socket is shared and blocks; its flags are not ours to change"
    if sink.on_disk and sink.direct:
        return "the sink wants aligned writes (O_DIRECT)"
    return ""


def by_reference(source: FdFacts, sink: FdFacts) -> Fit:
    """Return the answer of a mover that fits, with the caveat of pages passed by reference."""
    if not (source.on_disk and sink.holds_references) or source.stable or source.direct:
        return Fit(True, slower=few(source))
    caveat = (
        "pages go by reference: what is written to the source before the reader has"
        " consumed them shows through (--stable copies)"
    )
    return Fit(True, caveat=caveat, by_reference=True, slower=few(source))


MOVER: Mover = Sendfile()
