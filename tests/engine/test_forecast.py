"""Plans of what nobody has opened: they are those of the run, and nothing is touched for them."""

from __future__ import annotations

import os
import re
import socket
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from tests.machine import content
from zpipe.endpoints import parse
from zpipe.engine.copy import fan_out, joined, pair
from zpipe.engine.forecast import forecast, totals
from zpipe.engine.run import run
from zpipe.errors import TransferError, UsageError
from zpipe.graph.model import Edge, Graph, Node, Wishes
from zpipe.graph.policy import Policy

if TYPE_CHECKING:
    from pathlib import Path

    from zpipe.engine.forecast import Foreseen, Total
    from zpipe.graph.model import Merge
    from zpipe.graph.policy import WhenFull

BIG = 300_000


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "c"):
        (tmp_path / name).write_bytes(content(BIG))
    return tmp_path


def graph(
    nodes: dict[str, str], *edges: str, merge: Merge = "in-order", wishes: Wishes | None = None
) -> Graph:
    """Return a graph of edges like `a -> b, c`; `merge` is for sinks that have several sources."""
    pairs = [
        (source, sink)
        for source, sinks in (edge.split(" -> ") for edge in edges)
        for sink in sinks.split(", ")
    ]
    sinks = [sink for _, sink in pairs]
    return Graph(
        tuple(Node(name, parse(text, sink=name in sinks)) for name, text in nodes.items()),
        tuple(
            Edge(
                source,
                sink,
                wishes or Wishes(),
                merge=merge if sinks.count(sink) > 1 else "in-order",
            )
            for source, sink in pairs
        ),
    )


def by_source(hops: list[Foreseen]) -> dict[str, Foreseen]:
    found = {hop.source.id: hop for hop in hops}
    assert len(found) == len(hops)
    return found


def names(hop: Foreseen) -> list[str]:
    return [node.id for node in hop.sinks]


def figures(total: Total) -> tuple[float, float, float]:
    return total.cost.cpu_copies, total.cost.dma_copies, total.cost.syscalls_per_mib


def added(*hops: Foreseen) -> tuple[float, float, float]:
    costs = [hop.plan.first.cost for hop in hops]
    return (
        sum(cost.cpu_copies for cost in costs),
        sum(cost.dma_copies for cost in costs),
        sum(cost.syscalls_per_mib for cost in costs),
    )


# The plan of the run


WISHES = {
    "none": Wishes(),
    "append": Wishes(append=True),
    "inplace": Wishes(inplace=True),
    "offset": Wishes(offset=4096),
    "the last bytes": Wishes(offset=BIG - 10),
    "stable": Wishes(stable=True),
    "via": Wishes(via="splice"),
    "without": Wishes(without=frozenset({"copy_range", "sendfile"})),
}


@pytest.mark.parametrize("wishes", WISHES.values(), ids=WISHES)
@pytest.mark.parametrize("dst", ["x", "old", "/dev/null"])
def test_a_pair_is_planned_as_it_is_carried(folder: Path, dst: str, wishes: Wishes) -> None:
    (folder / "old").write_bytes(bytes(10))
    (seen,) = forecast(pair("a", dst, wishes))
    (done,) = run(pair("a", dst, wishes)).hops
    assert seen.plan == done.plan
    assert seen.wishes == wishes


@pytest.mark.parametrize("when_full", ["block", "spill"])
@pytest.mark.parametrize("dsts", [["x"], ["x", "null:"], ["x", "null:", "y"]], ids=len)
def test_a_fan_is_planned_as_it_is_carried(
    folder: Path, dsts: list[str], when_full: WhenFull
) -> None:
    made = fan_out("a", dsts, Wishes(), Policy(when_full=when_full))
    (seen,) = forecast(made)
    assert len(seen.sinks) == len(dsts)
    (done,) = run(made).hops
    assert seen.plan == done.plan


def test_sources_one_after_the_other_have_a_plan_each(folder: Path) -> None:
    (folder / "c").write_bytes(b"few")
    ends = [parse(name, sink=False) for name in "abc"]
    hops = forecast(joined(ends, [(parse("null:", sink=True), Policy())], Wishes()))
    assert [hop.source.endpoint.text for hop in hops] == ["a", "b", "c"]
    assert hops[0].plan == hops[1].plan != hops[2].plan
    assert [total.hops for total in totals(hops)] == [1, 1, 1]


def test_a_sink_in_parts_goes_by_the_ways_of_a_fan(folder: Path) -> None:
    (hop,) = forecast(pair("a", "file:part-%04d?split_size=64K", Wishes()))
    assert {one.name for one in hop.plan.candidates} <= {"splice", "plain"}
    assert sorted(os.listdir(folder)) == ["a", "b", "c"]


# Nothing is touched


@pytest.mark.parametrize(
    ("source", "sink"),
    [
        ("a", "x"),
        ("a", "d/x"),
        ("fifo", "x"),
        ("pipe:fifo", "x"),
        ("a", "pipe:fifo"),
        ("exec:touch y", "x"),
        ("a", "exec:touch y"),
        ("a", "unix:socket"),
        ("unix-listen:socket", "x"),
        ("tcp-listen://127.0.0.1:0", "x"),
        ("tcp://127.0.0.1:1", "x"),
        ("a", "hash:md5?file=sum"),
        ("pattern:x?size=1M", "null:"),
    ],
)
def test_nothing_is_created_connected_or_started(folder: Path, source: str, sink: str) -> None:
    os.mkfifo(folder / "fifo")
    (folder / "d").mkdir()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    (hop,) = forecast(graph({"in": source, "out": sink}, "in -> out"))
    assert hop.plan.candidates
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_listener_sees_nobody(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        peer = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        hops = forecast(graph({"a": "a", "peer": peer, "x": "x"}, "a -> peer", "peer -> x"))
        assert len(hops) == 2
        with pytest.raises(BlockingIOError):
            server.accept()


# What is certain to be refused


def test_every_flaw_of_the_graph_is_told(folder: Path) -> None:
    made = graph({"a": "a", "b": "b", "x": "x"}, "a -> x", "a -> y")
    with pytest.raises(UsageError) as raised:
        forecast(made)
    assert list(raised.value.args) == [
        "a -> y: no node is named y",
        "b: no edge reads or writes it",
    ]


def test_all_ends_that_cannot_be_had_are_told_at_once(folder: Path) -> None:
    nodes = {"a": "nosuch", "b": "exec:nosuch-program", "c": "c", "x": "nowhere/x", "y": "y"}
    made = graph(nodes, "a -> x, y", "c -> b")
    with pytest.raises(TransferError) as raised:
        forecast(made)
    text = "\n".join(raised.value.args)
    assert str(raised.value) == text
    assert text.splitlines() == [
        "nosuch: open: No such file or directory",
        "nowhere/x: open: No such file or directory",
        "exec:nosuch-program: start: nosuch-program: No such file or directory",
    ]
    assert len(raised.value.args) == 3


def test_one_end_that_cannot_be_had_is_told_as_the_end_tells_it(folder: Path) -> None:
    with pytest.raises(TransferError, match=r"^nosuch: open: No such file or directory$") as raised:
        forecast(pair("nosuch", "x", Wishes()))
    assert raised.value.errno == 2


def test_what_makes_no_sense_is_told_first_and_the_rest_with_it(folder: Path) -> None:
    nodes = {"a": "a", "self": "./a", "b": "nosuch", "x": "x"}
    with pytest.raises(UsageError) as raised:
        forecast(graph(nodes, "b -> x", "a -> self"))
    assert list(raised.value.args) == [
        "./a: is the source itself: a file cannot be copied onto itself",
        "nosuch: open: No such file or directory",
    ]


def test_a_mover_that_cannot_serve_is_told_with_its_hop_where_there_are_others(
    folder: Path,
) -> None:
    wishes = Wishes(via="sendfile")
    with pytest.raises(UsageError, match=r"^--via sendfile: "):
        forecast(pair("exec:true", "x", wishes))
    made = graph({"a": "a", "gz": "exec:cat", "x": "x"}, "a -> gz", "gz -> x", wishes=wishes)
    with pytest.raises(UsageError, match=r"^exec:cat -> x: --via sendfile: ") as raised:
        forecast(made)
    assert len(raised.value.args) == 1


@pytest.mark.parametrize(
    ("source", "sinks", "wishes", "message"),
    [
        ("a", ["x", "y"], Wishes(via="sendfile"), "--via sendfile: cannot serve: several sinks"),
        ("a", ["x"], Wishes(via="tee"), "--via tee: serves several sinks"),
        ("a", ["null:"], Wishes(append=True), "null:: --append is for a file that a path names"),
        ("a", ["exec:true"], Wishes(inplace=True), "exec:true: --inplace is for a file"),
    ],
)
def test_wishes_that_can_never_be(
    folder: Path, source: str, sinks: list[str], wishes: Wishes, message: str
) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        forecast(fan_out(source, sinks, wishes, Policy()))


@pytest.mark.parametrize("source", ["exec:true", "pipe:fifo", "fifo", "unix:peer", "pattern:x"])
def test_an_offset_into_a_stream(folder: Path, source: str) -> None:
    os.mkfifo(folder / "fifo")
    with pytest.raises(
        TransferError, match=re.escape(f"{source}: seek to 10: a stream has no offsets")
    ):
        forecast(pair(source, "x", Wishes(offset=10)))


# Through processes and joints


def test_bytes_are_followed_through_processes(folder: Path) -> None:
    nodes = {"a": "a", "gzip": "exec:gzip -c", "sort": "exec:sort", "x": "x", "y": "y"}
    hops = forecast(graph(nodes, "a -> gzip", "gzip -> sort, y", "sort -> x"))
    found = by_source(hops)
    assert names(found["gzip"]) == ["sort", "y"]
    assert found["gzip"].plan.first.name == "tee"
    assert found["a"].onward == ("gzip",)
    assert found["gzip"].onward == ("sort", None)
    assert not any(hop.via_joint for hop in hops)
    (total,) = totals(hops)
    assert total.source.id == "a"
    assert total.hops == 3
    assert [node.id for node in total.through] == ["gzip", "sort"]
    assert figures(total) == added(*hops)


@pytest.mark.parametrize("merge", ["in-order", "as-ready", "lines"])
def test_a_graph_is_planned_as_it_is_carried(folder: Path, merge: Merge) -> None:
    nodes = {"a": "a", "b": "b", "cat": "exec:cat", "x": "x", "y": "y"}
    made = graph(nodes, "a -> cat, y", "b -> x", "cat -> x", merge=merge)
    seen = sorted(hop.plan.first.name for hop in forecast(made))
    assert seen == sorted(hop.plan.first.name for hop in run(made).hops)


def test_merging_lines_costs_copies(folder: Path) -> None:
    def cost(merge: Merge) -> tuple[float, ...]:
        nodes = {"a": "a", "b": "b", "x": "x"}
        total, _ = totals(forecast(graph(nodes, "a -> x", "b -> x", merge=merge)))
        return figures(total)

    (cpu, dma, calls), (cpu_of_lines, dma_of_lines, calls_of_lines) = (
        cost("as-ready"),
        cost("lines"),
    )
    assert (cpu_of_lines, dma_of_lines) == (cpu + 2, dma)
    assert calls_of_lines > calls


def test_a_socket_that_goes_both_ways_is_a_source_of_its_own(folder: Path) -> None:
    nodes = {"a": "a", "peer": "tcp://127.0.0.1:9", "x": "x"}
    hops = forecast(graph(nodes, "a -> peer", "peer -> x"))
    assert [hop.onward for hop in hops] == [(None,), (None,)]
    assert [(total.source.id, total.hops) for total in totals(hops)] == [("a", 1), ("peer", 1)]


@pytest.mark.parametrize("merge", ["in-order", "as-ready"])
def test_bytes_are_followed_through_joints(folder: Path, merge: Merge) -> None:
    nodes = {"a": "a", "b": "b", "x": "x", "y": "y"}
    hops = forecast(graph(nodes, "a -> x, y", "b -> x", merge=merge))
    found = by_source(hops)
    assert all(hop.via_joint for hop in hops)
    assert names(found["a"])[1] == "y"
    behind = {name: found[str(found[name].onward[0])] for name in "ab"}
    assert [names(hop) for hop in behind.values()] == [["x"], ["x"]]
    assert (behind["a"] is behind["b"]) == (merge == "as-ready")
    both = {total.source.id: total for total in totals(hops)}
    assert both.keys() == {"a", "b"}
    for name, total in both.items():
        assert total.hops == 2
        assert figures(total) == added(found[name], behind[name])
        assert total.through == ()


def test_what_goes_two_ways_to_one_sink_is_counted_twice(folder: Path) -> None:
    nodes = {"a": "a", "p": "exec:cat", "q": "exec:cat", "x": "x"}
    hops = forecast(graph(nodes, "a -> p, q", "p -> x", "q -> x", merge="as-ready"))
    found = by_source(hops)
    behind = found[str(found["p"].onward[0])]
    (total,) = totals(hops)
    assert figures(total) == added(found["a"], found["p"], found["q"], behind, behind)
    assert total.hops == len(hops)


def test_a_long_chain(folder: Path) -> None:
    steps = [f"step{number}" for number in range(1200)]
    nodes = {"a": "a", **dict.fromkeys(steps, "exec:cat"), "x": "x"}
    places = list(nodes)
    edges = [f"{place} -> {after}" for place, after in pairwise(places)]
    hops = forecast(graph(nodes, *edges))
    (total,) = totals(hops)
    assert total.hops == len(hops) == 1201
    assert figures(total) == pytest.approx(added(*hops))
