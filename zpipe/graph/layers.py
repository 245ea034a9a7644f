"""Which column each box of a picture stands in, and in which order: the layout without its sizes.

After Sugiyama, Tagawa and Toda: arrows that would close a cycle are turned round, each box comes
right of all those that lead to it, and the columns are sorted again and again after what they are
joined to, until few arrows cross. Between two columns of boxes there is always one for the labels
of arrows. All is by number: boxes are 0..count-1, in the order given, and the same input always has
the same result. Knows nothing of names, widths or heights.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from dataclasses import dataclass
from itertools import pairwise

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_SWEEPS = 16
_WORK = 160_000  # items to be sorted at the most: a large picture gets fewer sweeps


@dataclass(frozen=True, slots=True)
class Layered:
    """Columns from left to right, each with its items from top to bottom.

    Items below `boxes` are boxes, and stand in columns of even number; all others are where an
    arrow passes through a column. `chains`: for each arrow, in the order given, its items from left
    to right, the boxes among them; a single box if it leads to itself. `turned`: the arrows whose
    heads are on the left. `after` and `before`: what an item is joined to in the next column and in
    the one before. `crossings`: how often arrows cross.
    """

    boxes: int
    columns: list[list[int]]
    column: list[int]
    chains: list[tuple[int, ...]]
    turned: frozenset[int]
    after: list[list[int]]
    before: list[list[int]]
    crossings: int


def components(count: int, pairs: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Return what hangs together, in the order of its first items."""
    root = list(range(count))

    def find(item: int) -> int:
        while root[item] != item:
            root[item] = root[root[item]]
            item = root[item]
        return item

    for one, other in pairs:
        first, second = sorted((find(one), find(other)))
        root[second] = first
    groups: dict[int, list[int]] = {}
    for item in range(count):
        groups.setdefault(find(item), []).append(item)
    return list(groups.values())


def layered(count: int, pairs: Sequence[tuple[int, int]]) -> Layered:
    """Put boxes into columns, and sort these. The boxes should hang together."""
    turned = closing(count, pairs)
    forward = [
        (target, source) if place in turned else (source, target)
        for place, (source, target) in enumerate(pairs)
    ]
    column = [2 * level for level in _levels(count, forward)]
    chains: list[tuple[int, ...]] = []
    after: list[list[int]] = [[] for _ in range(count)]
    before: list[list[int]] = [[] for _ in range(count)]
    for left, right in forward:
        if left == right:
            chains.append((left,))
            continue
        bends = range(column[left] + 1, column[right])
        inner = range(len(column), len(column) + len(bends))
        column.extend(bends)
        chain = (left, *inner, right)
        after += [[] for _ in inner]
        before += [[] for _ in inner]
        for one, next_one in pairwise(chain):
            after[one].append(next_one)
            before[next_one].append(one)
        chains.append(chain)
    columns = _first_order(count, column, after, before)
    crossings = _sort(columns, after, before)
    return Layered(count, columns, column, chains, turned, after, before, crossings)


def closing(count: int, pairs: Sequence[tuple[int, int]]) -> frozenset[int]:
    """Return the arrows that lead back to a box from which one came, going as deep as one can.

    Boxes that nothing leads to come first: there, bytes begin. Of two arrows there and back, it is
    the latter that is turned.
    """
    leaving: list[list[tuple[int, int]]] = [[] for _ in range(count)]
    entered = [False] * count
    for place, (source, target) in enumerate(pairs):
        if source != target:
            leaving[source].append((place, target))
            entered[target] = True
    closing = set()
    unseen, open_, done = 0, 1, 2
    state = [unseen] * count
    for start in sorted(range(count), key=entered.__getitem__):
        if state[start] != unseen:
            continue
        state[start] = open_
        path = [(start, iter(leaving[start]))]
        while path:
            box, rest = path[-1]
            for place, target in rest:
                if state[target] == open_:
                    closing.add(place)
                elif state[target] == unseen:
                    state[target] = open_
                    path.append((target, iter(leaving[target])))
                    break
            else:
                state[box] = done
                path.pop()
    return frozenset(closing)


def _levels(count: int, forward: Sequence[tuple[int, int]]) -> list[int]:
    """Return how many boxes there are at least before each, with those that only lead on moved
    as near as they can be to what they lead to.
    """
    leaving: list[list[int]] = [[] for _ in range(count)]
    entering = [0] * count
    for left, right in forward:
        if left != right:
            leaving[left].append(right)
            entering[right] += 1
    missing = list(entering)
    ready = [box for box in range(count) if not missing[box]]
    level = [0] * count
    for box in ready:  # grows while it is read: a topological order
        for target in leaving[box]:
            level[target] = max(level[target], level[box] + 1)
            missing[target] -= 1
            if not missing[target]:
                ready.append(target)
    for box in reversed(ready):
        if leaving[box] and len(leaving[box]) > entering[box]:
            level[box] = max(level[box], min(level[target] for target in leaving[box]) - 1)
    lowest = min(level, default=0)
    return [each - lowest for each in level]


def _first_order(
    count: int, column: list[int], after: list[list[int]], before: list[list[int]]
) -> list[list[int]]:
    """Return columns in the order in which a walk meets their items: a tree has no crossings."""
    columns: list[list[int]] = [[] for _ in range(max(column, default=-1) + 1)]
    seen = [False] * len(column)
    starts = [box for box in range(count) if not before[box]]
    for start in starts:
        path = [start]
        while path:
            item = path.pop()
            if seen[item]:
                continue
            seen[item] = True
            columns[column[item]].append(item)
            path += [other for other in reversed(after[item]) if not seen[other]]
    return columns


def _sort(columns: list[list[int]], after: list[list[int]], before: list[list[int]]) -> int:
    """Sort the columns so that few arrows cross; return how many still do."""
    items = sum(map(len, columns))
    place = [0] * items
    for members in columns:
        for rank, item in enumerate(members):
            place[item] = rank
    fewest = _crossings(columns, after, place)
    best = [list(members) for members in columns]
    for sweep in range(min(_SWEEPS, max(1, _WORK // max(1, items)))):
        if not fewest:
            break
        down = sweep % 2 == 0
        joined = before if down else after
        # in the second half, equals change their places: what is stuck may come loose
        flip = sweep % 4 >= 2
        for members in columns if down else reversed(columns):
            _by_middle(members, joined, place, flip=flip)
        if items < 400:
            _swap_neighbours(columns, after, before, place)
        now = _crossings(columns, after, place)
        if now < fewest:
            fewest = now
            best = [list(members) for members in columns]
    columns[:] = best
    return fewest


def _by_middle(
    members: list[int], joined: list[list[int]], place: list[int], *, flip: bool
) -> None:
    """Sort a column by the mean place of what its items are joined to; others stay in place."""
    middle = {
        item: sum([place[other] for other in joined[item]]) / len(joined[item])
        for item in members
        if joined[item]
    }
    movable = [item for item in members if item in middle]
    if flip:
        movable.reverse()
    in_order = iter(sorted(movable, key=middle.__getitem__))
    members[:] = [next(in_order) if item in middle else item for item in members]
    for rank, item in enumerate(members):
        place[item] = rank


def _swap_neighbours(
    columns: list[list[int]], after: list[list[int]], before: list[list[int]], place: list[int]
) -> None:
    """Swap each two neighbours whose arrows cross less the other way round."""
    better = True
    rounds = 4
    while better and rounds:
        better, rounds = False, rounds - 1
        for members in columns:
            for rank in range(len(members) - 1):
                upper, lower = members[rank : rank + 2]
                now = there = 0
                for joined in (after, before):
                    above = [place[other] for other in joined[upper]]
                    below = [place[other] for other in joined[lower]]
                    now += sum(one > two for one in above for two in below)
                    there += sum(two > one for one in above for two in below)
                if there < now:
                    members[rank : rank + 2] = lower, upper
                    place[upper], place[lower] = rank + 1, rank
                    better = True


def _crossings(columns: list[list[int]], after: list[list[int]], place: list[int]) -> int:
    """Return how often arrows cross."""
    total = 0
    for members in columns:
        reached: list[int] = []
        for item in members:
            ends = sorted([place[other] for other in after[item]])
            for end in ends:
                total += len(reached) - bisect_right(reached, end)
            for end in ends:
                insort(reached, end)
    return total
