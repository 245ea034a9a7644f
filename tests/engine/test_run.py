"""Graphs as values: checked whole before anything is opened, then carried out hop by hop."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import zpipe
from tests.machine import content, leftovers
from zpipe import Edge, Graph, Node
from zpipe.endpoints import parse
from zpipe.engine.feedback import Feedback
from zpipe.graph.model import Wishes

if TYPE_CHECKING:
    from pathlib import Path

    from zpipe.engine.report import HopReport, Report

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


def test_one_hop_after_the_other(folder: Path) -> None:
    report = zpipe.run(two(folder))
    assert (folder / "x1").read_bytes() == content(BIG, 1)
    assert (folder / "x2").read_bytes() == content(BIG, 2)[:10]
    assert [hop.moved for hop in report.hops] == [BIG, 10]
    assert report.moved == BIG + 10


def test_the_second_that_fails_leaves_the_first_complete(folder: Path) -> None:
    with pytest.raises(zpipe.TransferError, match="nosuch: open"):
        zpipe.run(two(folder, "nosuch"))
    assert (folder / "x1").read_bytes() == content(BIG, 1)
    assert not (folder / "x2").exists()


def test_all_problems_are_told_and_nothing_is_opened(folder: Path) -> None:
    graph = two(folder)
    broken = Graph(graph.nodes, (*graph.edges, Edge("one", "2"), Edge("nobody", "2")))
    with pytest.raises(zpipe.UsageError) as raised:
        zpipe.run(broken)
    problems = str(raised.value).splitlines()
    assert len(problems) == len(raised.value.args) >= 2
    assert any("no node is named nobody" in problem for problem in problems)
    assert any("2: is written by two and one" in problem for problem in problems)
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
    assert heard == ["began b1", "ended b1", "began b2", "ended b2", "closed"]


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
