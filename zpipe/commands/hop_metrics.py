"""What the hops of a recipe do, as families of metrics for Prometheus.

Made of a board at each request; the sets of labels are bounded by the graph.
"""

from __future__ import annotations

from zpipe import __version__
from zpipe.commands.board import STATES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

    from zpipe.commands.board import Board


class HopCollector:
    """Makes the families of a board, which others go on writing to."""

    def __init__(self, board: Board, name: str):
        self._board = board
        self._name = name

    def collect(self) -> Iterable[Metric]:
        """Return the families of this moment."""
        rows = self._board.rows
        info = _gauge("recipe_info", "Always 1; version and name of the recipe.", "version", "name")
        info.add_metric((__version__, self._name), 1)
        moved = _counter("hop_bytes", "Bytes that the sink took, by mover.", "mover")
        seconds = _counter("hop_seconds", "Seconds since the hop began.")
        waited = _counter("hop_waited_seconds", "Seconds of waiting, by what for.", "what")
        expected = _gauge("hop_expected_bytes", "Bytes that there will be, if known.", *_ENDS)
        behind = _gauge("hop_behind_bytes", "Bytes that were read and not taken.", *_ENDS)
        state = _gauge("hop_state", "1 for the state that it is in.", *_ENDS, "state")
        for row in rows:
            ends = (row.source, row.sink)
            for mover, count in row.movers.items():
                moved.add_metric((*ends, mover), count)
            seconds.add_metric(ends, row.seconds)
            for what, span in row.waited.items():
                waited.add_metric((*ends, what), span)
            if row.expected is not None:
                expected.add_metric(ends, row.expected)
            behind.add_metric(ends, row.behind)
            for each in STATES:
                state.add_metric((*ends, each), row.state == each)
        return [info, moved, seconds, waited, expected, behind, state]


_ENDS = ("from", "to")


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    from prometheus_client.core import GaugeMetricFamily

    return GaugeMetricFamily(f"zpipe_{name}", text, labels=labels)


def _counter(name: str, text: str, *labels: str) -> CounterMetricFamily:
    from prometheus_client.core import CounterMetricFamily  # which adds `_total`

    return CounterMetricFamily(f"zpipe_{name}", text, labels=(*_ENDS, *labels))
