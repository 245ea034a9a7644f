"""Graphs written in letters, and graphs drawn at random.

An edge is written `ab`. Behind it may stand `~` (merge as-ready), `=` (merge lines), `+` (spill).
Nodes are files, save for p, q, r, which are processes, and s, t, which are sockets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import strategies as st

from zpipe.graph.model import Edge, Endpoint, Graph, Node, Wishes
from zpipe.graph.policy import Policy

if TYPE_CHECKING:
    from collections.abc import Callable

    from zpipe.graph.check import Way
    from zpipe.graph.model import Merge

WAYS: dict[str, Way] = {"exec": "through", "tcp": "both"}
SPILL = Policy(when_full="spill")
_KINDS = {**dict.fromkeys("pqr", "exec"), **dict.fromkeys("st", "tcp")}
_MERGES: dict[str, Merge] = {"~": "as-ready", "=": "lines"}


def kind(name: str) -> str:
    return _KINDS.get(name, "file")


def edge(text: str, wishes: Wishes = Wishes()) -> Edge:  # noqa: B008 - immutable
    """Return the edge that is written so."""
    source, sink, marks = text[0], text[1], text[2:]
    merges = [_MERGES[mark] for mark in marks if mark in _MERGES]
    merge: Merge = merges[0] if merges else "in-order"
    return Edge(source, sink, wishes, SPILL if "+" in marks else Policy(), merge)


def graph(*edges: str | Edge, nodes: str | None = None, kind: Callable[[str], str] = kind) -> Graph:
    """Return a graph of edges; its nodes are those that they name, or `nodes`."""
    made = [each if isinstance(each, Edge) else edge(each) for each in edges]
    named = [name for each in made for name in (each.source, each.sink)]
    names = dict.fromkeys(named) if nodes is None else nodes
    return Graph(tuple(Node(name, Endpoint(name, kind(name), name)) for name in names), tuple(made))


@st.composite
def drawn(draw: st.DrawFn, most: int = 6, merges: str = " ~=", spills: bool = True) -> Graph:
    """Draw a graph without circles, of processes: all that may be wrong with it is a deadlock.

    Whoever is only read or only written can be taken for a file.
    """
    names = "ABCDEF"[: draw(st.integers(2, most))]
    pairs = [(a, b) for place, a in enumerate(names) for b in names[place + 1 :]]
    chosen = draw(st.lists(st.sampled_from(pairs), unique=True, min_size=1, max_size=9))
    into = {sink: [a for a, b in chosen if b == sink] for _, sink in chosen}
    marks = {sink: draw(st.sampled_from(merges)) if len(into[sink]) > 1 else " " for sink in into}
    spilled = {sink: spills and draw(st.integers(0, 3)) == 0 for sink in into}
    edges = [edge(f"{a}{b}{marks[b]}{'+' if spilled[b] else ''}") for a, b in chosen]
    return graph(*edges, kind=lambda _: "exec")
