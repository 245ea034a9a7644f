"""How high each item of a layout stands: where its arrows are least bent.

Knows columns, their orders and how far neighbours must be apart; nothing of what is drawn there.
"""

from __future__ import annotations

from itertools import accumulate, pairwise
from math import inf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from zpipe.graph.layers import Layered

_ROUNDS = 14  # of moving items up and down
_WORK = 120_000  # items to be moved at the most: a large picture gets fewer rounds


def heights(
    layers: Layered, apart: list[list[float]], ports: dict[tuple[int, int], float]
) -> list[float]:
    """Return the y of the middle of each item.

    Each column in turn is moved to where its arrows are least bent, as far as the order and the
    room between its items allow. At last, what can be straight is made straight.
    """
    offsets = [list(accumulate(gaps, initial=0.0)) for gaps in apart]
    y = [0.0] * len(layers.column)
    for members, sums in zip(layers.columns, offsets, strict=True):
        for item, at in zip(members, sums, strict=True):
            y[item] = at - sums[-1] / 2
    pulls: list[tuple[list[tuple[int, float, float]], list[tuple[int, float, float]]]] = []
    for item in range(len(layers.column)):
        sides = []
        for joined, theirs in ((layers.before, layers.after), (layers.after, layers.before)):
            side = []
            for other in joined[item]:
                # where this end should be, from where the other end is
                shift = ports.get((other, item), 0.0) - ports.get((item, other), 0.0)
                # an arrow should be straight where nothing else is joined, and in its long middle
                alone = len(joined[item]) == len(theirs[other]) == 1
                side.append((other, shift, 8.0 if alone else 1.0))
            sides.append(side)
        pulls.append((sides[0], sides[1]))
    rounds = min(_ROUNDS, max(2, _WORK // max(1, len(y))))
    for turn in range(2 * rounds):
        right = turn % 2 == 0
        late = turn >= rounds  # at first each side in turn, so that what is far away is soon heard
        order = range(len(layers.columns))
        for rank in order if right else reversed(order):
            members, sums = layers.columns[rank], offsets[rank]
            wanted, weights = [], []
            for item, at in zip(members, sums, strict=True):
                before, after = pulls[item]
                side = [*before, *after] if late else before if right else after
                weight = total = 0.0
                for other, shift, pull in side:
                    weight += pull
                    total += pull * (y[other] + shift)
                wanted.append((total / weight if weight else y[item]) - at)
                weights.append(weight or 0.01)
            for item, at, value in zip(members, sums, _rising(wanted, weights), strict=True):
                y[item] = value + at
    _straighten(layers, apart, ports, y)
    return y


def _straighten(
    layers: Layered, apart: list[list[float]], ports: dict[tuple[int, int], float], y: list[float]
) -> None:
    """Move items that follow one another, with no other way to go, onto one line.

    Only where there is room for it: the order and the least distances are kept.
    """
    limits: dict[int, tuple[int, int, float, float]] = {}  # item -> its neighbours, how near
    for members, gaps in zip(layers.columns, apart, strict=True):
        for rank, item in enumerate(members):
            upper = members[rank - 1] if rank else -1
            lower = members[rank + 1] if rank + 1 < len(members) else -1
            to_upper = gaps[rank - 1] if rank else 0.0
            to_lower = gaps[rank] if rank < len(gaps) else 0.0
            limits[item] = (upper, lower, to_upper, to_lower)
    runs = []
    for start in range(len(y)):
        if len(layers.before[start]) == 1 and len(layers.after[layers.before[start][0]]) == 1:
            continue  # inside a run
        run, shift = [(start, 0.0)], 0.0
        item = start
        while len(layers.after[item]) == 1:
            other = layers.after[item][0]
            if len(layers.before[other]) > 1:
                break
            shift += ports.get((item, other), 0.0) - ports.get((other, item), 0.0)
            run.append((other, shift))
            item = other
        if len(run) > 1:
            runs.append(run)
    for turn in range(4):
        # downwards, and then upwards: one that has moved makes room for its neighbour
        for run in runs if turn % 2 == 0 else reversed(runs):
            if not _level(run, limits, y, layers.boxes):
                # then each arrow by itself, level with one of its boxes
                ends = [at for at, (item, _) in enumerate(run) if item < layers.boxes]
                for first, last in pairwise([-1, *ends, len(run)]):
                    inner = run[first + 1 : last]
                    anchors = [run[at] for at in (last, first) if 0 <= at < len(run)]
                    for item, shift in anchors if inner else ():
                        if _level(inner, limits, y, layers.boxes, y[item] - shift):
                            break


def _level(
    run: Sequence[tuple[int, float]],
    limits: Mapping[int, tuple[int, int, float, float]],
    y: list[float],
    boxes: int,
    wanted: float | None = None,
) -> bool:
    """Move a run onto one line if its neighbours leave room; near where its boxes are, or there."""
    least, most = -inf, inf
    for item, shift in run:
        upper, lower, to_upper, to_lower = limits[item]
        if upper >= 0:
            least = max(least, y[upper] + to_upper - shift)
        if lower >= 0:
            most = min(most, y[lower] - to_lower - shift)
    if least > most or (wanted is not None and not least <= wanted <= most):
        return False
    if wanted is None:
        fixed = [y[item] - shift for item, shift in run if item < boxes]
        lines = fixed or [y[item] - shift for item, shift in run]
        wanted = min(max(sum(lines) / len(lines), least), most)
    for item, shift in run:
        y[item] = wanted + shift
    return True


def _rising(wanted: Sequence[float], weights: Sequence[float]) -> list[float]:
    """Return the numbers that never fall and are nearest to those wanted (least squares).

    By pooling adjacent violators: neighbours in the wrong order share their mean.
    """
    pools: list[tuple[float, float, int]] = []  # mean, weight, how many
    for value, weight in zip(wanted, weights, strict=True):
        mean, sum_, count = value, weight, 1
        while pools and pools[-1][0] > mean:
            other, other_sum, other_count = pools.pop()
            mean = (mean * sum_ + other * other_sum) / (sum_ + other_sum)
            sum_ += other_sum
            count += other_count
        pools.append((mean, sum_, count))
    return [mean for mean, _, count in pools for _ in range(count)]
