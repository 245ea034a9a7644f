"""The plan of a pair: a table of facts, the movers in their order, and why not a better one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from tests.machine import missing
from zpipe.errors import UsageError
from zpipe.facts import FdFacts
from zpipe.graph.model import Wishes
from zpipe.kernel.transfer import SMALL
from zpipe.movers import MOVERS, ON_REQUEST
from zpipe.movers.parallel import WORTH
from zpipe.plan.choice import HopPlan, choose
from zpipe.values import replace

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1 << 20
DISK, OTHER_DISK = (8 << 8, 1), (9 << 8, 2)


def file(size: int = MIB, filesystem: str = "ext4", **facts: Any) -> FdFacts:
    """Return a source on disk, as it was opened."""
    usual = FdFacts(
        "regular",
        writable=False,
        position=0,
        size=size,
        identity=DISK,
        allocated=size,
        filesystem=filesystem,
    )
    return replace(usual, **facts)


def target(filesystem: str = "ext4", **facts: Any) -> FdFacts:
    """Return a new file on disk, on that of `file`."""
    usual = FdFacts(
        "regular",
        readable=False,
        position=0,
        size=0,
        identity=(DISK[0], 9),
        fresh=True,
        filesystem=filesystem,
    )
    return replace(usual, **facts)


SMALL_FILE = file(SMALL)
EMPTY_FILE = file(0)
PROC_FILE = file(0, "proc")
SPARSE = file(allocated=4096)
BIG = file(WORTH)
BTRFS, XFS, NFS = file(filesystem="btrfs"), file(filesystem="xfs"), file(filesystem="nfs")
TMPFS = file(filesystem="tmpfs", identity=OTHER_DISK)
BLOCK = FdFacts("block", position=0, size=MIB, identity=(-1, 1))
PIPE = FdFacts("pipe", capacity=65536, nonblocking=True)
INHERITED_PIPE = replace(PIPE, nonblocking=False, owned=False)
TCP = FdFacts("tcp", nonblocking=True, route="eth0", scatter_gather=True)
INHERITED_TCP = replace(TCP, nonblocking=False, owned=False)
UNIX = FdFacts("unix", nonblocking=True)
DATAGRAM = FdFacts("datagram", nonblocking=True)
TTY = FdFacts("tty", nonblocking=True)
NULL = FdFacts("character", device=(1, 3), generated=True)
ZERO = FdFacts("character", device=(1, 5), generated=True)
FULL = FdFacts("character", device=(1, 7), generated=True)
EVENT = FdFacts("other", nonblocking=True)
LOG = target(append=True, fresh=False)
OLD = target(fresh=False)

REFERENCE = ("sendfile", "splice", "plain")
STREAM = ("splice", "plain")
COPY = ("plain",)
FILE = ("copy_range", *REFERENCE)


@pytest.mark.parametrize(
    ("source", "sink", "order"),
    [
        # between files
        (file(), target(), FILE),
        (file(), OLD, FILE),
        (SPARSE, target(), FILE),
        (BTRFS, target("btrfs"), ("reflink", *FILE)),
        (XFS, target("xfs"), ("reflink", *FILE)),
        (NFS, target("nfs"), ("reflink", *FILE)),
        (replace(BTRFS, position=4096), target("btrfs"), ("reflink", *FILE)),
        (replace(BTRFS, position=100), target("btrfs"), FILE),
        (BTRFS, target("btrfs", fresh=False), FILE),
        (TMPFS, target(), REFERENCE),
        (BTRFS, target("btrfs", identity=OTHER_DISK), ("reflink", *REFERENCE)),
        (BLOCK, target(), REFERENCE),
        (file(), BLOCK, REFERENCE),
        # too little to set anything up for; or so it seems, as with virtual files
        (SMALL_FILE, target(), COPY),
        (SMALL_FILE, PIPE, COPY),
        (SMALL_FILE, TCP, COPY),
        (file(SMALL + 1), target(), FILE),
        (file(SMALL + 1), TCP, REFERENCE),
        (file(SMALL, "btrfs"), target("btrfs"), ("reflink", *COPY)),
        (replace(SMALL_FILE, allocated=0), target(), ("copy_range", *COPY)),
        (EMPTY_FILE, target(), COPY),
        (PROC_FILE, target(), COPY),
        (PROC_FILE, TCP, COPY),
        (replace(PROC_FILE, size=None), PIPE, REFERENCE),
        # a sink that appends refuses everything but write
        (file(), LOG, COPY),
        (BTRFS, replace(LOG, filesystem="btrfs"), COPY),
        (PIPE, LOG, COPY),
        (TCP, LOG, COPY),
        # from files to streams and back
        (file(), PIPE, REFERENCE),
        (file(), TCP, REFERENCE),
        (file(), UNIX, REFERENCE),
        (file(), TTY, REFERENCE),
        (file(), NULL, REFERENCE),
        (BLOCK, TCP, REFERENCE),
        (PIPE, target(), STREAM),
        (TCP, target(), STREAM),
        (UNIX, OLD, STREAM),
        (TTY, target(), STREAM),
        # between streams
        (TCP, TCP, STREAM),
        (TCP, UNIX, STREAM),
        (UNIX, PIPE, STREAM),
        (PIPE, PIPE, STREAM),
        (INHERITED_PIPE, INHERITED_PIPE, STREAM),
        (INHERITED_TCP, PIPE, STREAM),
        # a socket whose flags are not ours would block in splice and sendfile
        (file(), INHERITED_TCP, COPY),
        (PIPE, INHERITED_TCP, COPY),
        # messages
        (DATAGRAM, target(), COPY),
        (file(), DATAGRAM, COPY),
        (DATAGRAM, DATAGRAM, COPY),
        (FdFacts("seqpacket", nonblocking=True), TCP, COPY),
        # devices of memory, and what has no splice
        (ZERO, target(), STREAM),
        (ZERO, TCP, STREAM),
        (NULL, target(), COPY),
        (file(), FULL, COPY),
        (PIPE, FULL, COPY),
        (EVENT, PIPE, COPY),
        (PIPE, EVENT, COPY),
    ],
)
def test_the_movers_are_tried_in_this_order(
    source: FdFacts, sink: FdFacts, order: tuple[str, ...]
) -> None:
    assert names(choose(source, sink, Wishes())) == order


def names(plan: HopPlan) -> tuple[str, ...]:
    return tuple(candidate.name for candidate in plan.candidates)


@pytest.fixture
def one_processor() -> Iterator[None]:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    yield
    os.sched_setaffinity(0, allowed)


def two_processors() -> None:
    if len(os.sched_getaffinity(0)) < 2:
        missing("one processor only")


def test_big_files_are_copied_by_two_threads() -> None:
    two_processors()
    assert names(choose(BIG, target(), Wishes())) == ("parallel", *FILE)
    # the blocks of a clone cost less than the best of copies
    big = replace(BIG, filesystem="btrfs")
    assert names(choose(big, target("btrfs"), Wishes()))[:2] == ("reflink", "parallel")


@pytest.mark.parametrize(
    ("source", "sink"),
    [
        (replace(BIG, size=WORTH - 1), target()),
        (replace(BIG, allocated=4096), target()),
        (replace(BIG, filesystem="nfs"), target("nfs")),
        (BIG, target("fuse")),
        (BIG, OLD),
        (BIG, LOG),
        (BIG, TCP),
    ],
    ids=["smaller", "sparse", "a server copies", "unknown", "holds data", "appends", "a socket"],
)
def test_two_threads_are_not_for_these(source: FdFacts, sink: FdFacts) -> None:
    assert "parallel" not in names(choose(source, sink, Wishes()))


@pytest.mark.usefixtures("one_processor")
def test_two_threads_are_not_for_one_processor() -> None:
    plan = choose(BIG, target(), Wishes())
    assert names(plan) == FILE
    assert dict(refused(plan))["parallel"] == "only one processor may be used"


def refused(plan: HopPlan) -> list[tuple[str, str]]:
    return [(refusal.name, refusal.why) for refusal in plan.refusals]


def test_refusals_tell_of_all_that_would_have_been_preferred_and_of_no_other() -> None:
    assert refused(choose(PIPE, target(), Wishes())) == [
        ("reflink", "only between regular files"),
        ("parallel", "only between regular files"),
        ("copy_range", "only between regular files"),
        ("sendfile", "the source is not a file"),
    ]
    assert refused(choose(BTRFS, target("btrfs"), Wishes())) == []


@pytest.mark.parametrize(
    ("source", "sink", "mover", "why"),
    [
        (file(), target(), "reflink", "ext4 shares no blocks"),
        (file(), target("btrfs"), "reflink", "ext4 shares no blocks"),
        (BTRFS, target("xfs"), "reflink", "source and sink are on different filesystems"),
        (replace(BTRFS, position=5), target("btrfs"), "reflink", "not a multiple of 4096"),
        (BTRFS, target("btrfs", fresh=False), "reflink", "the sink holds data already"),
        (TMPFS, target(), "copy_range", "different filesystems"),
        (SMALL_FILE, target(), "copy_range", f"{SMALL} bytes are few"),
        (file(), LOG, "sendfile", "O_APPEND"),
        (file(), FULL, "splice", "ENOSPC"),
        (DATAGRAM, target(), "splice", "message boundaries"),
        (NULL, target(), "splice", "EINVAL"),
        (EMPTY_FILE, TCP, "sendfile", "the size is 0: empty or virtual"),
        (file(), INHERITED_TCP, "sendfile", "not ours to change"),
    ],
)
def test_a_refusal_says_why(source: FdFacts, sink: FdFacts, mover: str, why: str) -> None:
    assert why in dict(refused(choose(source, sink, Wishes())))[mover]


def test_a_mover_asked_for_stands_alone() -> None:
    for mover in ("copy_range", "sendfile", "splice", "mapped", "direct", "plain"):
        plan = choose(file(), target(), Wishes(via=mover))
        assert (names(plan), plan.refusals) == ((mover,), ())


def test_a_mover_asked_for_that_cannot_serve_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="--via reflink: ext4 shares no blocks"):
        choose(file(), target(), Wishes(via="reflink"))
    with pytest.raises(UsageError, match="--via splice: forbidden by --no-via splice"):
        choose(file(), target(), Wishes(via="splice", without=frozenset({"splice"})))


@pytest.mark.parametrize("mover", FILE)
def test_a_mover_forbidden_is_left_out_and_told(mover: str) -> None:
    plan = choose(file(), target(), Wishes(without=frozenset({mover})))
    assert names(plan) == tuple(name for name in FILE if name != mover)
    if mover == FILE[0]:
        assert dict(refused(plan))[mover] == f"forbidden by --no-via {mover}"


def test_with_every_mover_forbidden_nothing_is_left() -> None:
    with pytest.raises(UsageError, match="no mover is left: reflink: forbidden"):
        choose(file(), target(), Wishes(without=frozenset(MOVERS)))


@pytest.mark.parametrize("sink", [PIPE, TCP, UNIX])
def test_what_goes_by_reference_is_a_caveat_and_refused_where_it_must_be_stable(
    sink: FdFacts,
) -> None:
    plan = choose(file(), sink, Wishes())
    assert "shows through" in plan.first.caveat
    stable = choose(file(), sink, Wishes(stable=True))
    assert names(stable) == COPY
    assert not stable.first.caveat
    assert "--stable asks for copies" in dict(refused(stable))["sendfile"]


@pytest.mark.parametrize(
    ("source", "sink"),
    [
        (replace(file(), stable=True), TCP),
        (file(), target()),
        (file(), NULL),
        (PIPE, TCP),
        (ZERO, PIPE),
    ],
    ids=["stable already", "copied", "discarded", "no file", "no file, generated"],
)
def test_where_nothing_can_show_through_stability_costs_nothing(
    source: FdFacts, sink: FdFacts
) -> None:
    plan = choose(source, sink, Wishes(stable=True))
    assert names(plan) == names(choose(source, sink, Wishes()))
    assert not plan.first.caveat


def test_those_on_request_are_not_tried_by_themselves() -> None:
    plan = choose(file(), PIPE, Wishes(without=frozenset({"sendfile", "splice"})))
    assert names(plan) == COPY
    assert dict(refused(plan))["mapped"] == "only on request (--via mapped)"
    assert {"mapped", "direct"} == ON_REQUEST


@pytest.mark.parametrize(
    ("source", "sink", "order"),
    [
        (file(direct=True), target(), ("direct", "copy_range", "sendfile", "plain")),
        (file(), target(direct=True), ("direct", "copy_range", "plain")),
        (file(direct=True), TCP, ("direct", "sendfile", "plain")),
        (PIPE, target(direct=True), ("direct", "plain")),
        (file(0, direct=True), target(), COPY),
    ],
)
def test_an_end_with_o_direct_asks_for_its_mover(
    source: FdFacts, sink: FdFacts, order: tuple[str, ...]
) -> None:
    assert names(choose(source, sink, Wishes())) == order


NO_GATHER = replace(TCP, scatter_gather=False)
LOOPBACK = replace(TCP, route="lo")


@pytest.mark.parametrize(
    ("mover", "source", "sink", "cpu", "dma"),
    [
        # a file's pages go into a pipe by reference, and out of it to a file by one copy
        ("reflink", BTRFS, target("btrfs"), 0, 0),
        ("copy_range", file(), target(), 1, 2),
        ("sendfile", file(), target(), 1, 2),
        ("splice", file(), target(), 1, 2),
        ("mapped", file(), target(), 1, 2),
        ("plain", file(), target(), 2, 2),
        ("direct", file(), target(), 0, 2),
        # to a socket by reference, where the device gathers
        ("sendfile", file(), TCP, 0, 2),
        ("splice", file(), TCP, 0, 2),
        ("sendfile", file(), NO_GATHER, 1, 2),
        ("splice", file(), NO_GATHER, 1, 2),
        ("sendfile", file(), LOOPBACK, 0, 1),
        ("plain", file(), TCP, 2, 2),
        ("mapped", file(), TCP, 1, 2),
        ("direct", file(), TCP, 1, 2),
        ("sendfile", file(), UNIX, 0, 1),
        ("sendfile", file(), PIPE, 0, 1),
        ("sendfile", TMPFS, PIPE, 0, 0),
        ("sendfile", file(), NULL, 0, 1),
        ("plain", file(), NULL, 1, 1),
        # out of streams
        ("splice", TCP, target(), 1, 2),
        ("splice", PIPE, target(), 1, 1),
        ("splice", PIPE, target("tmpfs"), 1, 0),
        ("splice", PIPE, PIPE, 0, 0),
        ("splice", TCP, TCP, 0, 2),
        ("splice", TCP, NO_GATHER, 1, 2),
        ("splice", UNIX, PIPE, 0, 0),
        ("plain", TCP, TCP, 2, 2),
        # a terminal and a device of memory copy on the way into a pipe, a terminal on the way out
        ("splice", TTY, target(), 2, 1),
        ("splice", PIPE, TTY, 1, 0),
        ("splice", ZERO, PIPE, 1, 0),
        ("splice", ZERO, target(), 2, 1),
        ("splice", PIPE, NULL, 0, 0),
        ("plain", NULL, PIPE, 1, 0),
    ],
)
def test_the_cost_is_what_is_known_of_the_kernel(
    mover: str, source: FdFacts, sink: FdFacts, cpu: float, dma: float
) -> None:
    cost = choose(source, sink, Wishes(via=mover)).first.cost
    assert (cost.cpu_copies, cost.dma_copies) == (cpu, dma)


def test_each_candidate_has_the_cost_of_its_own_way() -> None:
    plan = choose(file(), target(), Wishes())
    assert [candidate.cost.cpu_copies for candidate in plan.candidates] == [1, 1, 1, 2]


@pytest.mark.parametrize(
    ("mover", "source", "sink", "calls"),
    [
        # a round of splice is two calls, bounded by the smallest pipe on the way
        ("splice", TCP, TCP, 2),
        ("splice", PIPE, TCP, 32),
        ("splice", TCP, PIPE, 32),
        ("splice", replace(PIPE, capacity=8192), PIPE, 256),
        # one call for 64 MiB between files
        ("copy_range", file(), target(), 1 / 64),
        ("sendfile", file(), target(), 1 / 64),
        # a read and a write of 256 KiB
        ("plain", file(), target(), 16),  # ext4 is written by 128 KiB
        ("plain", file(), target("tmpfs"), 8),
        ("splice", PIPE, target(), 32),
        ("splice", replace(PIPE, capacity=MIB), target(), 9),
        ("splice", replace(PIPE, capacity=MIB), target("tmpfs"), 2),
        ("reflink", BTRFS, target("btrfs"), 1),
        ("reflink", file(64 * MIB, "btrfs"), target("btrfs"), 1 / 64),
    ],
)
def test_the_number_of_system_calls_is_what_the_mover_makes(
    mover: str, source: FdFacts, sink: FdFacts, calls: float
) -> None:
    cost = choose(source, sink, Wishes(via=mover)).first.cost
    assert cost.syscalls_per_mib == pytest.approx(calls)
    assert cost.switches_per_mib == pytest.approx(2 * calls)


@pytest.mark.parametrize(
    ("sink", "notes"),
    [
        (TCP, ["eth0 gathers from scattered pages: the last CPU copy is avoided"]),
        (NO_GATHER, ["eth0 does not gather from scattered pages: one CPU copy more"]),
        (
            replace(TCP, scatter_gather=None),
            ["eth0 does not say whether it gathers from scattered pages"],
        ),
        (
            LOOPBACK,
            [
                "lo gathers from scattered pages: the last CPU copy is avoided",
                "loopback: the reader's copy out of the socket is paid on this machine",
            ],
        ),
        (UNIX, []),
        (target(), []),
    ],
)
def test_the_plan_says_what_the_network_does_to_the_last_copy(
    sink: FdFacts, notes: list[str]
) -> None:
    assert list(choose(file(), sink, Wishes()).notes) == notes
    assert list(choose(PIPE, sink, Wishes(via="splice")).notes) == notes
    assert choose(file(), sink, Wishes(via="plain")).notes == ()
