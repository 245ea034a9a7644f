"""Draw a graph as text for a terminal: one line for each edge."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from zpipe.graph.model import Graph


def draw(graph: Graph, labels: Mapping[tuple[str, str], str] | None = None) -> str:
    """Return `SOURCE ── label ──▶ SINK` for each edge, aligned; labels go by (source, sink)."""
    labels = labels or {}
    rows = [
        (
            graph.node(edge.source).endpoint.text,
            f" {label} " if (label := labels.get((edge.source, edge.sink))) else "",
            graph.node(edge.sink).endpoint.text,
        )
        for edge in graph.edges
    ]
    wide = max((len(source) for source, _, _ in rows), default=0)
    middle = max((len(label) for _, label, _ in rows), default=0)
    return "\n".join(
        f"{source:<{wide}} ──{label:─<{middle}}──▶ {sink}" for source, label, sink in rows
    )
