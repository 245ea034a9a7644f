"""Graphs as values: checked whole before anything is opened, then carried out."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

import pytest

import zpipe
from tests.machine import content, leftovers
from zpipe import Edge, Graph, Node
from zpipe.endpoints import parse
from zpipe.engine.copy import fan_out, joined
from zpipe.engine.feedback import Feedback
from zpipe.errors import OutputsDropped
from zpipe.graph.model import Wishes
from zpipe.graph.policy import Policy
from zpipe.kernel.pipes import buffered
from zpipe.values import replace

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from zpipe.engine.report import HopReport, OutletReport, Report
    from zpipe.errors import ZpipeError

BIG = 100_000


def source(name: str, address: object) -> Node:
    return Node(name, parse(str(address), sink=False))


def sink(name: str, address: object) -> Node:
    return Node(name, parse(str(address), sink=True))


def two(folder: Path, second: str = "b2") -> Graph:
    """Two hops that have nothing to do with each other."""
    return Graph(
        (
            source("one", folder / "b1"),
            sink("1", folder / "x1"),
            source("two", folder / second),
            sink("2", folder / "x2"),
        ),
        (Edge("one", "1"), Edge("two", "2", Wishes(length=10))),
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed in (1, 2):
        (tmp_path / f"b{seed}").write_bytes(content(BIG, seed))
    return tmp_path


def test_two_hops_that_have_nothing_to_do_with_each_other(folder: Path) -> None:
    report = zpipe.run(two(folder))
    assert (folder / "x1").read_bytes() == content(BIG, 1)
    assert (folder / "x2").read_bytes() == content(BIG, 2)[:10]
    assert [hop.moved for hop in report.hops] == [BIG, 10]
    assert report.moved == BIG + 10


def test_the_second_that_may_fail_leaves_the_first_complete(folder: Path) -> None:
    graph = two(folder, "nosuch")
    lax = Graph(tuple(replace(node, on_error="drop") for node in graph.nodes), graph.edges)
    with pytest.raises(OutputsDropped, match="nosuch: open"):
        zpipe.run(lax)
    assert (folder / "x1").read_bytes() == content(BIG, 1)
    assert not (folder / "x2").exists()


def test_the_second_for_whose_sake_all_stop_is_what_is_told(folder: Path) -> None:
    with pytest.raises(zpipe.TransferError, match="nosuch: open") as raised:
        zpipe.run(two(folder, "nosuch"))
    assert len(raised.value.args) == 1
    assert not (folder / "x2").exists()
    assert not leftovers(folder)


def test_all_problems_are_told_and_nothing_is_opened(folder: Path) -> None:
    graph = two(folder)
    broken = Graph(graph.nodes, (*graph.edges, Edge("one", "2", Wishes(via="no")), Edge("a", "2")))
    with pytest.raises(zpipe.UsageError) as raised:
        zpipe.run(broken)
    problems = str(raised.value).splitlines()
    assert problems == list(raised.value.args)
    assert problems == [
        "a -> 2: no node is named a",
        "one: its edges want different things of one reading",
    ]
    assert not (folder / "x1").exists()


def test_a_graph_without_edges_makes_no_sense() -> None:
    with pytest.raises(zpipe.UsageError, match="no edges"):
        zpipe.run(Graph((), ()))


def test_feedback_hears_of_each_hop_and_of_the_whole(folder: Path) -> None:
    heard: list[str] = []

    class Told(Feedback):
        def began(self, hop: HopReport) -> None:
            heard.append(f"began {hop.source[-2:]}")

        def ended(self, hop: HopReport) -> None:
            assert hop.complete
            heard.append(f"ended {hop.source[-2:]}")

        def closed(self, report: Report) -> None:
            assert report.resources.seconds > 0
            heard.append("closed")

    zpipe.run(two(folder), feedback=Told())
    assert sorted(heard[:-1]) == ["began b1", "began b2", "ended b1", "ended b2"]
    assert all(heard.index(f"began {name}") < heard.index(f"ended {name}") for name in ("b1", "b2"))
    assert heard[-1] == "closed"


def test_a_listener_that_raises_leaves_nothing_behind(folder: Path) -> None:
    """Somebody else's error passes through, and what was opened is closed and discarded."""

    class Broken(Feedback):
        def began(self, hop: HopReport) -> None:
            raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        zpipe.run(two(folder), feedback=Broken())
    assert not leftovers(folder)
    assert not (folder / "x1").exists()


def test_a_target_whose_source_failed_at_the_end_is_not_put_in_place(folder: Path) -> None:
    with pytest.raises(zpipe.TransferError, match="exit status 3"):
        zpipe.copy("exec:sh -c 'echo; exit 3'", str(folder / "x"))
    assert not (folder / "x").exists()
    assert not leftovers(folder)


def test_a_sink_that_fails_at_the_end_tells_what_it_took() -> None:
    with pytest.raises(zpipe.TransferError) as raised:
        zpipe.copy("zero:?size=1000", "exec:sh -c 'cat >/dev/null; exit 3'")
    assert raised.value.delivered == 1000


# Sources that are read one after the other


def sequence(
    folder: Path,
    *names: str,
    to: Sequence[str] = ("x",),
    policy: Policy | None = None,
    **asked: Any,
) -> Graph:
    """Return the graph of sources of the folder, each by all of the sinks."""
    ends = [parse(name if ":" in name else str(folder / name), sink=False) for name in names]
    sinks = [parse(name if ":" in name else str(folder / name), sink=True) for name in to]
    default = policy or Policy()
    return joined(ends, [(end, default) for end in sinks], Wishes(**asked))


class Told(Feedback):
    """Remembers the failures and the outputs that were dropped."""

    def __init__(self) -> None:
        self.failures: list[str] = []
        self.drops: list[tuple[str, str]] = []
        self.ends: list[str] = []
        self.reports: list[Report] = []

    def failed(self, error: ZpipeError) -> None:
        self.failures.append(str(error))

    def dropped(self, outlet: OutletReport) -> None:
        self.drops.append((outlet.sink, outlet.state))

    def ended(self, hop: HopReport) -> None:
        self.ends.append(hop.source)

    def stopped(self, report: Report) -> None:
        self.reports.append(report)


FIRST, SECOND = content(BIG, 1), content(BIG, 2)
SINKS = pytest.mark.parametrize("to", [("x",), ("x", "y"), ("x", "y", "z")], ids=len)


@SINKS
@pytest.mark.parametrize("inplace", [False, True], ids=["renamed", "in place"])
def test_sources_follow_one_another(folder: Path, to: tuple[str, ...], inplace: bool) -> None:
    (folder / "empty").touch()
    names = ("b1", "empty", "b2", "exec:echo last", "b1")
    report = zpipe.run(sequence(folder, *names, to=to, inplace=inplace))
    expected = FIRST + SECOND + b"last\n" + FIRST
    for name in to:
        assert (folder / name).read_bytes() == expected
    assert [hop.moved for hop in report.hops] == [BIG, 0, BIG, 5, BIG]
    assert report.moved == len(expected)
    assert all(hop.complete for hop in report.hops)
    for outlet in report.hops[0].outlets:
        assert (outlet.state, outlet.moved) == ("done", len(expected))
    assert not leftovers(folder)


@SINKS
@pytest.mark.parametrize("length", [0, 1, BIG - 1, BIG, BIG + 1, 2 * BIG, 3 * BIG])
def test_the_total_is_that_of_all_together(folder: Path, to: tuple[str, ...], length: int) -> None:
    zpipe.run(sequence(folder, "b1", "b2", to=to, total=length))
    for name in to:
        assert (folder / name).read_bytes() == (FIRST + SECOND)[:length]


@SINKS
@pytest.mark.parametrize("length", [0, 1, BIG, BIG + 1])
def test_a_length_is_that_of_one_source(folder: Path, to: tuple[str, ...], length: int) -> None:
    both = sequence(folder, "b1", "b2", to=to)
    short = [
        replace(edge, wishes=Wishes(length=length)) if edge.source == "source 1" else edge
        for edge in both.edges
    ]
    zpipe.run(Graph(both.nodes, tuple(short)))
    for name in to:
        assert (folder / name).read_bytes() == FIRST[:length] + SECOND


@SINKS
def test_a_length_of_each_and_a_total_of_all(folder: Path, to: tuple[str, ...]) -> None:
    zpipe.run(sequence(folder, "b1", "b2", "b1", to=to, length=1000, total=2500))
    for name in to:
        assert (folder / name).read_bytes() == FIRST[:1000] + SECOND[:1000] + FIRST[:500]


def test_beyond_the_total_no_source_is_opened(folder: Path) -> None:
    zpipe.run(sequence(folder, "b1", "none", total=BIG))
    assert (folder / "x").read_bytes() == FIRST


@SINKS
def test_a_source_that_cannot_be_read_is_passed_over_if_it_may(
    folder: Path, to: tuple[str, ...]
) -> None:
    told = Told()
    (folder / "d").mkdir()
    graph = sequence(folder, "none", "b1", "d", "exec:false", "b2", "none2", to=to, skip=True)
    with pytest.raises(zpipe.TransferError) as raised:
        zpipe.run(graph, feedback=told)
    expected = [
        f"{folder}/none: open: No such file or directory",
        f"{folder}/d: open: Is a directory",
        "exec:false: exit status 1",
        f"{folder}/none2: open: No such file or directory",
    ]
    assert told.failures == str(raised.value).splitlines() == expected
    assert raised.value.told, "each was told when it happened"
    assert (raised.value.delivered, raised.value.exit_code) == (2 * BIG, 1)
    for name in to:
        assert (folder / name).read_bytes() == FIRST + SECOND


@SINKS
def test_where_no_source_can_be_read_nothing_is_touched(folder: Path, to: tuple[str, ...]) -> None:
    (folder / "x").write_bytes(b"old")
    with pytest.raises(zpipe.TransferError, match="none: open: No such file"):
        zpipe.run(sequence(folder, "none", to=to, skip=True))
    assert (folder / "x").read_bytes() == b"old"
    assert not (folder / "y").exists()


@SINKS
def test_without_leave_a_source_that_fails_is_the_end(folder: Path, to: tuple[str, ...]) -> None:
    told = Told()
    with pytest.raises(zpipe.TransferError, match="none: open: No such file") as raised:
        zpipe.run(sequence(folder, "b1", "none", "b2", to=to), feedback=told)
    assert not raised.value.told
    assert (told.failures, len(told.reports)) == ([], 1)
    for name in to:
        assert not (folder / name).exists()
    assert not leftovers(folder)


@SINKS
def test_the_output_is_not_read(folder: Path, to: tuple[str, ...]) -> None:
    """It would never end: each byte that is read is one more to read."""
    told = Told()
    (folder / "x").write_bytes(FIRST)
    graph = sequence(folder, "b1", "x", "b2", to=to, skip=True, append=True)
    with pytest.raises(zpipe.TransferError) as raised:
        zpipe.run(graph, feedback=told)
    assert told.failures == [str(raised.value)] == [f"{folder}/x: read: is the output itself"]
    assert (folder / "x").read_bytes() == FIRST + FIRST + SECOND
    for name in to[1:]:
        assert (folder / name).read_bytes() == FIRST + SECOND


# Sinks that fail


def test_an_output_that_cannot_be_had_is_dropped_and_the_others_are_complete(folder: Path) -> None:
    told = Told()
    with pytest.raises(OutputsDropped) as raised:
        zpipe.run(sequence(folder, "b1", to=("x", "none/y", "z")), feedback=told)
    why = f"{folder}/none/y: open: No such file or directory"
    assert (str(raised.value), raised.value.exit_code, raised.value.told) == (why, 5, True)
    assert told.drops == [(f"{folder}/none/y", "failed")]
    assert told.ends == [f"{folder}/b1"]
    assert (folder / "x").read_bytes() == (folder / "z").read_bytes() == FIRST
    (report,) = told.reports
    assert [outlet.state for outlet in report.hops[0].outlets] == ["done", "failed", "done"]
    assert report.hops[0].outlets[1].error == why


@pytest.mark.parametrize("via", ["tee", "plain"])
def test_an_output_that_fails_half_way_is_dropped_at_a_byte(folder: Path, via: str) -> None:
    """/dev/full takes nothing; the child takes a part and leaves."""
    told = Told()
    names = ("x", "/dev/full", "exec:head -c 1000 >/dev/null", "z")
    nodes = [parse(name if name[0] in "/e" else str(folder / name), sink=True) for name in names]
    graph = joined(
        [parse(str(folder / "b1"), sink=False)],
        [(node, Policy()) for node in nodes],
        Wishes(via=via),
    )
    with pytest.raises(OutputsDropped) as raised:
        zpipe.run(graph, feedback=told)
    assert (folder / "x").read_bytes() == (folder / "z").read_bytes() == FIRST
    lines = str(raised.value).splitlines()
    assert f"/dev/full: write: {os.strerror(errno.ENOSPC)}; dropped at byte 0" in lines[0]
    assert ("/dev/full", "failed") in told.drops
    outlets = told.reports[0].hops[0].outlets
    assert [outlet.state for outlet in outlets][:2] == ["done", "failed"]
    assert [outlet.moved for outlet in outlets][:2] == [BIG, 0]


def test_where_every_output_failed_the_transfer_has(folder: Path) -> None:
    told = Told()
    graph = sequence(folder, "b1", to=("none/x", "none/y"))
    with pytest.raises(zpipe.TransferError) as raised:
        zpipe.run(graph, feedback=told)
    assert str(raised.value).splitlines() == [
        f"{folder}/none/{name}: open: No such file or directory" for name in "xy"
    ]
    assert (raised.value.exit_code, raised.value.told) == (1, True)
    assert told.ends == []


def test_an_output_for_whose_sake_all_stop(folder: Path) -> None:
    told = Told()
    graph = sequence(folder, "b1", to=("x", "none/y"), policy=Policy(on_error="stop"))
    with pytest.raises(zpipe.TransferError, match="none/y: open: No such file") as raised:
        zpipe.run(graph, feedback=told)
    assert not isinstance(raised.value, OutputsDropped)
    assert not raised.value.told
    assert told.drops == []
    assert not (folder / "x").exists()
    assert not leftovers(folder)


def test_an_output_that_fails_at_its_end_is_dropped(folder: Path) -> None:
    told = Told()
    graph = sequence(folder, "b1", to=("x", "exec:sh -c 'cat >/dev/null; exit 3'"))
    with pytest.raises(OutputsDropped, match="exit status 3"):
        zpipe.run(graph, feedback=told)
    assert (folder / "x").read_bytes() == FIRST
    assert [state for _, state in told.drops] == ["failed"]


def test_a_reader_that_may_leave_is_no_failure(folder: Path) -> None:
    """What it has not taken is not told: it did not want it."""
    reader, writer = os.pipe()
    os.close(reader)
    told = Told()
    graph = sequence(folder, "b1", to=("x", f"fd:{writer}"), policy=Policy(may_leave=True))
    report = zpipe.run(graph, feedback=told)
    os.close(writer)
    assert (folder / "x").read_bytes() == FIRST
    assert [outlet.state for outlet in report.hops[0].outlets] == ["done", "left"]
    assert report.hops[0].outlets[1].error is None
    assert not report.hops[0].outlets[1].given_up


def test_when_all_readers_have_left_there_is_nothing_more_to_do(folder: Path) -> None:
    """No source is read without end for nobody."""
    pipes = [os.pipe() for _ in range(2)]
    for reader, _ in pipes:
        os.close(reader)
    to = tuple(f"fd:{writer}" for _, writer in pipes)
    report = zpipe.run(sequence(folder, "zero:", "b1", to=to, policy=Policy(may_leave=True)))
    for _, writer in pipes:
        os.close(writer)
    assert len(report.hops) == 1
    assert [outlet.state for outlet in report.hops[0].outlets] == ["left", "left"]


def test_one_policy_for_each_output(folder: Path) -> None:
    """The one whose reader never comes to read is dropped; the other goes on."""
    reader, writer = os.pipe()
    told = Told()
    slow = f"fd:{writer}"
    (folder / "b").write_bytes(bytes(2 << 20))
    graph = fan_out(
        str(folder / "b"),
        (str(folder / "x"), f"{slow}?when_full=detach&detach_after=50ms"),
        Wishes(),
        Policy(),
    )
    with pytest.raises(OutputsDropped) as raised:
        zpipe.run(graph, feedback=told)
    taken = buffered(reader)
    os.close(reader)
    os.close(writer)
    text = str(raised.value)
    assert text.startswith(f"{slow}: write: took no data for ")
    assert text.endswith(f"; dropped at byte {taken}, the others go on")
    assert told.drops == [(slow, "detached")]
    assert (folder / "x").read_bytes() == bytes(2 << 20)


def test_an_output_that_is_the_source_is_refused_before_anything_is_lost(folder: Path) -> None:
    with pytest.raises(zpipe.UsageError, match="b1: is the source itself"):
        zpipe.run(sequence(folder, "b1", to=("x", "b1")))
    assert (folder / "b1").read_bytes() == FIRST
    assert not (folder / "x").exists()
