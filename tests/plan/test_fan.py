"""The plan for one source and several sinks: tee or a buffer, and why."""

from __future__ import annotations

from typing import Any

import pytest

from zpipe.errors import UsageError
from zpipe.facts import FdFacts
from zpipe.graph.model import Wishes
from zpipe.graph.policy import Policy
from zpipe.movers import MOVERS
from zpipe.movers.drain import BUFFER
from zpipe.plan.fan import WAYS, choose_fan, copies_to, judge, needs_fan
from zpipe.values import replace

MIB = 1 << 20


def file(size: int | None = MIB, **facts: Any) -> FdFacts:
    usual = FdFacts(
        "regular", position=0, size=size, identity=(8, 1), allocated=size, filesystem="ext4"
    )
    return replace(usual, **facts)


TARGET = file(0, fresh=True, identity=(8, 9))
PIPE = FdFacts("pipe", capacity=65536, nonblocking=True)
TCP = FdFacts("tcp", nonblocking=True, route="eth0", scatter_gather=True)
LOOPBACK = replace(TCP, route="lo")
UNIX = FdFacts("unix", nonblocking=True)
TTY = FdFacts("tty", nonblocking=True)
DATAGRAM = FdFacts("datagram", nonblocking=True)
SEQPACKET = FdFacts("seqpacket", nonblocking=True)
NULL = FdFacts("character", device=(1, 3), generated=True)
ZERO = FdFacts("character", device=(1, 5), generated=True)
EVENT = FdFacts("other", nonblocking=True)
BLOCK = FdFacts("block", position=0, size=MIB, identity=(-1, 1))


@pytest.mark.parametrize(
    "source", [PIPE, TCP, UNIX, TTY, ZERO, file(), file(None), BLOCK, file(32 * 1024 + 1)]
)
@pytest.mark.parametrize("sinks", [(TARGET, TARGET), (PIPE, TARGET, TCP), (NULL, PIPE)])
def test_rounds_are_doubled_by_tee_and_by_a_buffer_where_that_is_refused(
    source: FdFacts, sinks: tuple[FdFacts, ...]
) -> None:
    plan = choose_fan(source, sinks, Wishes())
    assert [candidate.name for candidate in plan.candidates] == ["tee", "plain"]
    assert [candidate.summary for candidate in plan.candidates] == list(WAYS.values())
    assert plan.refusals == ()


@pytest.mark.parametrize(
    ("source", "why"),
    [
        (DATAGRAM, "the source keeps message boundaries, which splice loses"),
        (SEQPACKET, "the source keeps message boundaries, which splice loses"),
        (EVENT, "the kind of source has no splice"),
        (NULL, "/dev/null answers splice with EINVAL; a read of it ends at once"),
        (file(direct=True), "the source wants aligned reads (O_DIRECT)"),
        (replace(BLOCK, direct=True), "the source wants aligned reads (O_DIRECT)"),
        (file(0), "the size is 0: empty or virtual"),
    ],
)
def test_what_tee_is_not_for_goes_through_a_buffer_and_the_plan_says_why(
    source: FdFacts, why: str
) -> None:
    plan = choose_fan(source, [TARGET, PIPE], Wishes())
    assert [candidate.name for candidate in plan.candidates] == ["plain"]
    assert [(refusal.name, refusal.why) for refusal in plan.refusals] == [("tee", why)]
    with pytest.raises(UsageError) as raised:
        choose_fan(source, [TARGET, PIPE], Wishes(via="tee"))
    assert str(raised.value) == f"--via tee: {why}"


def test_a_small_file_is_read_and_written_unless_tee_is_asked_for_or_alone_is_left() -> None:
    source, sinks = file(32 * 1024), [TARGET, PIPE]
    plan = choose_fan(source, sinks, Wishes())
    assert [candidate.name for candidate in plan.candidates] == ["plain"]
    why = "32768 bytes are few: read and write are quicker"
    assert [(refusal.name, refusal.why) for refusal in plan.refusals] == [("tee", why)]
    for wishes in (Wishes(via="tee"), Wishes(without=frozenset({"plain"}))):
        assert [each.name for each in choose_fan(source, sinks, wishes).candidates] == ["tee"]


@pytest.mark.parametrize("holder", [PIPE, TCP, UNIX])
def test_pages_of_a_file_that_a_reader_holds_are_a_caveat_or_are_copied(holder: FdFacts) -> None:
    plan = choose_fan(file(), [TARGET, holder], Wishes())
    assert plan.first.name == "tee"
    assert plan.first.caveat.startswith("pages go by reference")
    assert plan.candidates[1].caveat == ""
    plan = choose_fan(file(), [TARGET, holder], Wishes(stable=True))
    assert plan.first.name == "plain"
    assert plan.refusals[0].why.endswith("--stable asks for copies")


@pytest.mark.parametrize(
    ("source", "sinks"),
    [
        (file(stable=True), [PIPE, TCP]),
        (file(), [TARGET, TARGET]),
        (PIPE, [PIPE, TCP]),
    ],
    ids=["it cannot change", "files are written", "the source is no file"],
)
def test_without_references_there_is_no_caveat(source: FdFacts, sinks: list[FdFacts]) -> None:
    for wishes in (Wishes(), Wishes(stable=True)):
        plan = choose_fan(source, sinks, wishes)
        assert (plan.first.name, plan.first.caveat) == ("tee", "")


@pytest.mark.parametrize("via", WAYS)
def test_the_way_asked_for_stands_alone(via: str) -> None:
    plan = choose_fan(PIPE, [TARGET, PIPE], Wishes(via=via))
    assert [candidate.name for candidate in plan.candidates] == [via]
    assert plan.refusals == ()


BLOCKS, SPILLS = Policy(), Policy(when_full="spill")


@pytest.mark.parametrize(
    ("policies", "parts", "fan"),
    [
        ([BLOCKS], False, False),
        ([BLOCKS], True, True),
        ([SPILLS], False, True),
        ([Policy(when_full="detach")], False, True),
        ([BLOCKS, BLOCKS], False, True),
    ],
    ids=["one", "one in parts", "one that spills", "one that is detached", "two"],
)
def test_what_more_than_a_hop_is_for(policies: list[Policy], parts: bool, fan: bool) -> None:
    assert needs_fan(policies, parts=parts) is fan


@pytest.mark.parametrize(
    ("policies", "parts", "via", "why"),
    [
        ([BLOCKS] * 2, False, "sendfile", "cannot serve: several sinks go by tee or plain"),
        ([BLOCKS] * 2, False, "splice", "cannot serve: several sinks go by tee or plain"),
        (
            [SPILLS],
            False,
            "tee",
            "cannot serve: with a buffer, or in parts, bytes go by splice or plain",
        ),
        (
            [BLOCKS],
            True,
            "reflink",
            "cannot serve: with a buffer, or in parts, bytes go by splice or plain",
        ),
        ([BLOCKS], False, "tee", "serves several sinks, and there is one"),
    ],
)
def test_a_way_that_can_never_serve_is_refused_before_anything_is_opened(
    policies: list[Policy], parts: bool, via: str, why: str
) -> None:
    with pytest.raises(UsageError) as raised:
        judge(Wishes(via=via), policies, parts=parts)
    assert str(raised.value) == f"--via {via}: {why}"


@pytest.mark.parametrize(
    ("policies", "ways"), [([BLOCKS] * 3, ("tee", "plain")), ([SPILLS], ("splice", "plain"))]
)
def test_where_all_ways_are_forbidden_nothing_is_opened(
    policies: list[Policy], ways: tuple[str, ...]
) -> None:
    with pytest.raises(UsageError, match=f"go by {' or '.join(ways)}, and --no-via forbids both"):
        judge(Wishes(without=frozenset(ways)), policies, parts=False)
    for way in ways:
        judge(Wishes(without=frozenset({way})), policies, parts=False)
        judge(Wishes(via=way), policies, parts=False)


def test_every_mover_may_be_asked_for_or_forbidden_with_one_sink() -> None:
    for mover in MOVERS:
        judge(Wishes(via=mover), [BLOCKS], parts=False)
    judge(Wishes(without=frozenset(MOVERS)), [BLOCKS], parts=False)


def test_to_one_sink_with_a_buffer_there_is_nothing_to_double() -> None:
    plan = choose_fan(PIPE, [PIPE], Wishes())
    assert [candidate.name for candidate in plan.candidates] == ["splice", "plain"]


def test_what_is_forbidden_is_not_taken() -> None:
    plan = choose_fan(PIPE, [TARGET, PIPE], Wishes(without=frozenset({"tee"})))
    assert [candidate.name for candidate in plan.candidates] == ["plain"]
    assert plan.refusals[0].why == "forbidden by --no-via tee"
    plan = choose_fan(PIPE, [TARGET, PIPE], Wishes(without=frozenset({"plain", "splice"})))
    assert [candidate.name for candidate in plan.candidates] == ["tee"]
    with pytest.raises(UsageError) as raised:
        choose_fan(PIPE, [TARGET, PIPE], Wishes(without=frozenset(WAYS)))
    assert str(raised.value) == (
        "no way to several sinks is left: tee: forbidden by --no-via tee;"
        " plain: forbidden by --no-via plain"
    )
    with pytest.raises(UsageError, match="--via tee: forbidden by --no-via tee"):
        choose_fan(PIPE, [TARGET], Wishes(via="tee", without=frozenset({"tee"})))


@pytest.mark.parametrize(
    ("source", "sinks", "tee", "plain"),
    [
        # CPU copies of each byte: out of the source, and to each sink
        (PIPE, [PIPE, PIPE], 0, 3),
        (PIPE, [TARGET, TARGET, PIPE], 2, 4),
        (TTY, [PIPE, TARGET], 2, 3),
        (file(), [NULL, NULL], 0, 1),
    ],
)
def test_doubling_costs_no_copies_and_a_buffer_one_for_each_sink(
    source: FdFacts, sinks: list[FdFacts], tee: int, plain: int
) -> None:
    first, second = choose_fan(source, sinks, Wishes()).candidates
    assert (first.cost.cpu_copies, second.cost.cpu_copies) == (tee, plain)
    # into ext4 by 128 KiB
    pumps = sum(8 if sink.filesystem == "ext4" else 1 for sink in sinks)
    assert first.cost.syscalls_per_mib == len(sinks) + 1 + pumps
    assert second.cost.syscalls_per_mib == (len(sinks) + 1) * MIB / BUFFER


@pytest.mark.parametrize(
    ("source", "sinks", "devices"),
    [
        (PIPE, [PIPE, PIPE], 0),
        (file(), [PIPE, PIPE], 1),
        (PIPE, [TARGET, TARGET, TARGET], 3),
        (file(), [TARGET, TCP, LOOPBACK], 3),
    ],
)
def test_each_device_on_the_way_moves_the_bytes_once(
    source: FdFacts, sinks: list[FdFacts], devices: int
) -> None:
    for candidate in choose_fan(source, sinks, Wishes()).candidates:
        assert candidate.cost.dma_copies == devices


def test_the_copies_to_one_sink() -> None:
    assert [copies_to(PIPE, way) for way in WAYS] == [0, 1]
    assert [copies_to(TARGET, way) for way in WAYS] == [1, 1]
    assert [copies_to(NULL, way) for way in WAYS] == [0, 0]
