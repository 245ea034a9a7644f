"""Words and lines on a grid of characters, for arrows that lead from left to right.

Arrows that leave a box share a stem behind it, and those that meet at a box share one before it; a
line never runs along another's. Where two cross, one goes on behind the other: ─│─. Raises
`Unreadable` where that would happen more than a few times.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from zpipe.graph.drawings.letters import cells
from zpipe.graph.layers import layered
from zpipe.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from zpipe.graph.layers import Layered
    from zpipe.graph.picture import Style

_CROSSINGS = 3  # more cannot be followed
_MOST = 200  # items: more are no drawing, but a task
_APART = 2  # columns between two tracks
_LEFT, _RIGHT, _UP, _DOWN = 1, 2, 4, 8
_GLYPHS = {
    _LEFT: "─",
    _RIGHT: "─",
    _LEFT | _RIGHT: "─",
    _UP | _DOWN: "│",
    _RIGHT | _DOWN: "┌",
    _LEFT | _DOWN: "┐",
    _RIGHT | _UP: "└",
    _LEFT | _UP: "┘",
    _UP | _DOWN | _RIGHT: "├",
    _UP | _DOWN | _LEFT: "┤",
    _LEFT | _RIGHT | _DOWN: "┬",
    _LEFT | _RIGHT | _UP: "┴",
    _LEFT | _RIGHT | _UP | _DOWN: "┼",
}
DASHES = {"solid": "─", "dashed": "╌", "dotted": "┈"}


class Unreadable(Exception):
    """This would have to be drawn with too many crossings, or is too much."""


class Strand(Value):
    """An arrow by the numbers of its boxes, with what is written on it."""

    source: int
    target: int
    words: str = ""
    style: Style = "solid"
    both: bool = False


@dataclass(frozen=True, slots=True)
class _Net:
    """Lines that belong together between two columns: rows where they come in, and go out."""

    left: tuple[int, ...]
    right: tuple[int, ...]

    @property
    def top(self) -> int:
        return min(*self.left, *self.right)

    @property
    def bottom(self) -> int:
        return max(*self.left, *self.right)

    def covers(self, row: int) -> bool:
        return self.top <= row <= self.bottom


@dataclass(frozen=True, slots=True)
class _Gap:
    """What is between two columns: nets with their tracks, from left to right."""

    nets: tuple[_Net, ...]
    tracks: tuple[int | None, ...]  # None: straight on

    @property
    def wide(self) -> int:
        return max((track * _APART + 1 for track in self.tracks if track is not None), default=0)


def woven(strands: Sequence[Strand], labels: Sequence[str]) -> list[str]:
    """Return the drawing of boxes with these labels, which all hang together without a cycle.

    Raises: Unreadable.
    """
    if len(strands) > _MOST:
        raise Unreadable
    layers = layered(len(labels), [(strand.source, strand.target) for strand in strands])
    if layers.crossings > _CROSSINGS or len(layers.column) > 4 * _MOST:
        raise Unreadable
    rows = _rows(layers)
    gaps = [_gap(layers, rows, rank) for rank in range(len(layers.columns) - 1)]
    return _Drawing(strands, labels, layers, rows, gaps).lines()


def _rows(layers: Layered) -> list[int]:
    """Return the row of each item: that of the first before it, wherever this is possible."""
    rank = {item: place for members in layers.columns for place, item in enumerate(members)}
    head = list(range(len(layers.column)))  # of the items of one row: the first
    for members in layers.columns:
        least = -1
        for item in members:
            for other in sorted(layers.before[item], key=rank.__getitem__):
                if rank[other] > least:
                    head[item] = head[other]
                    least = rank[other]
                    break
    below: dict[int, set[int]] = {item: set() for item in head}
    above = dict.fromkeys(below, 0)
    for members in layers.columns:
        for upper, lower in pairwise(members):
            if head[lower] not in below[head[upper]]:
                below[head[upper]].add(head[lower])
                above[head[lower]] += 1
    row = dict.fromkeys(below, 0)
    ready = [item for item, count in above.items() if not count]
    for item in ready:
        for lower in below[item]:
            row[lower] = max(row[lower], row[item] + 1)
            above[lower] -= 1
            if not above[lower]:
                ready.append(lower)
    return [row[item] for item in head]


def _gap(layers: Layered, rows: list[int], rank: int) -> _Gap:
    """Return how lines run from a column to the next one."""
    members, joined = (
        (layers.columns[rank], layers.after)
        if rank % 2 == 0
        else (layers.columns[rank + 1], layers.before)
    )
    nets = []
    for item in members:
        if joined[item]:
            here, there = (rows[item],), tuple(rows[other] for other in joined[item])
            nets.append(_Net(here, there) if rank % 2 == 0 else _Net(there, here))
    order: list[_Net] = []
    for net in nets:
        if net.top == net.bottom:
            continue
        places = range(len(order) + 1)
        order.insert(min(places, key=lambda place: _harm(order, net, place)), net)
    track: dict[_Net, int] = {}
    for net in order:
        track[net] = 1 + max(
            (at for other, at in track.items() if _touch(net, other)),
            default=-1,
        )
    return _Gap(tuple(nets), tuple(track.get(net) for net in nets))


def _touch(one: _Net, other: _Net) -> bool:
    return one.top <= other.bottom and other.top <= one.bottom


def _harm(order: list[_Net], net: _Net, place: int) -> int:
    """Return how bad it is to put a net at this place among others."""
    return sum(_before(other, net) for other in order[:place]) + sum(
        _before(net, other) for other in order[place:]
    )


def _before(left: _Net, right: _Net) -> int:
    """Return how many lines cross when one net is left of another; many when they coincide."""
    crossings = sum(right.covers(row) for row in left.right)
    crossings += sum(left.covers(row) for row in right.left)
    return crossings + 1000 * len(set(left.right) & set(right.left))


class _Drawing:
    """The grid, while it is filled."""

    def __init__(
        self,
        strands: Sequence[Strand],
        labels: Sequence[str],
        layers: Layered,
        rows: list[int],
        gaps: list[_Gap],
    ):
        self.layers = layers
        self.rows = rows
        self.labels = labels
        self.words: dict[int, Strand] = {
            chain[1]: strand for chain, strand in zip(layers.chains, strands, strict=True)
        }
        self.grid: dict[tuple[int, int], tuple[int, int]] = {}  # row, x -> net, directions
        self.texts: dict[tuple[int, int], str] = {}
        self.dashes: dict[tuple[int, int], str] = {}
        self.behind: dict[int, int] = {}  # box -> x where lines leave it
        self.crossings = 0
        self.net = 0
        x = 0
        for rank in range(0, len(layers.columns), 2):
            x = self._column(rank, x, gaps)

    def _column(self, rank: int, x: int, gaps: list[_Gap]) -> int:
        """Draw a column of boxes and what is behind it; return where the next one begins."""
        members = self.layers.columns[rank]
        boxes = [item for item in members if item < self.layers.boxes]
        last = rank + 1 == len(self.layers.columns)
        wide = max((cells(self.labels[item]) for item in boxes), default=0)
        end = x + wide + 1
        for item in boxes:
            self.texts[self.rows[item], x] = self.labels[item]
            self.behind[item] = x + cells(self.labels[item]) + 1
        if last:
            return end
        stems, joins = gaps[rank], gaps[rank + 1]
        both = any(self.words[item].both for item in self._labelled(rank + 1))
        # end ── stems ─ words ── joins ──▶
        stem = end + 2
        middle = stem + stems.wide + (1 + both if stems.wide else 0)
        written = [cells(self.words[item].words) for item in self._labelled(rank + 1)]
        after = middle + (max(written) + 2 if any(written) else 0)
        join = after + (2 if joins.wide else 0)
        tip = join + joins.wide + 2
        for item in members:
            if item in boxes:
                if self.layers.after[item]:
                    self._level(self.rows[item], self.behind[item], end, self._next())
            else:
                # under way to another column: past the heads of others, too
                self._level(self.rows[item], x - 2, end, self._next())
        self._nets(stems, end, stem, middle)
        self._nets(joins, after, join, tip)
        for item in self.layers.columns[rank + 1]:
            self._label(item, middle, after, tip, stem + stems.wide if stems.wide else end)
        for item in self.layers.columns[rank + 2]:
            if item < self.layers.boxes and self.layers.before[item]:
                self.texts[self.rows[item], tip] = "▶"
        return tip + 2

    def _labelled(self, rank: int) -> list[int]:
        return [item for item in self.layers.columns[rank] if item in self.words]

    def _label(self, item: int, middle: int, after: int, tip: int, head: int) -> None:
        """Write on an arrow, and put the head of what comes back at its beginning."""
        row = self.rows[item]
        self._level(row, middle, after, self._next())
        strand = self.words.get(item)
        if strand is None:
            return
        if strand.words:
            self.texts[row, middle] = f" {strand.words} "
        if strand.both:
            box = self.layers.before[item][0]
            alone = len(self.layers.after[box]) == 1
            at = self.behind[box] if alone else head
            self.texts[self.rows[box] if alone else row, at] = "◀"
        if strand.style != "solid":
            dash = DASHES[strand.style]
            target = self.layers.after[item][0]
            straight = len(self.layers.before[target]) == 1 and self.rows[target] == row
            start = middle + (cells(strand.words) + 2 if strand.words else 0)
            for x in range(start, tip if straight else after):
                self.dashes[row, x] = dash

    def _next(self) -> int:
        self.net += 1
        return self.net

    def _nets(self, gap: _Gap, start: int, first: int, end: int) -> None:
        """Draw the lines between two columns; the first track is at `first`."""
        for net, track in zip(gap.nets, gap.tracks, strict=True):
            number = self._next()
            if track is None:
                self._level(net.top, start, end, number)
                continue
            at = first + track * _APART
            for row in net.left:
                self._level(row, start, at, number)
            for row in net.right:
                self._level(row, at + 1, end, number)
            for row in range(net.top, net.bottom + 1):
                bits = (_UP if row > net.top else 0) | (_DOWN if row < net.bottom else 0)
                bits |= (_LEFT if row in net.left else 0) | (_RIGHT if row in net.right else 0)
                self._put(row, at, bits, number)

    def _level(self, row: int, start: int, end: int, net: int) -> None:
        for x in range(start, end):
            self._put(row, x, _LEFT | _RIGHT, net)

    def _put(self, row: int, x: int, bits: int, net: int) -> None:
        there = self.grid.get((row, x))
        if there is not None and there[0] != net:
            upright = _UP | _DOWN
            if upright not in (bits, there[1]) or bits == there[1]:
                raise Unreadable
            self.crossings += 1
            bits = upright  # it is on top
        self.grid[row, x] = (net, bits)

    def lines(self) -> list[str]:
        """Return the rows of the grid. Raises: Unreadable."""
        if self.crossings > _CROSSINGS:
            raise Unreadable
        rows: dict[int, dict[int, str]] = {}
        for (row, x), (_, bits) in self.grid.items():
            glyph = self.dashes.get((row, x), "─") if bits == _LEFT | _RIGHT else _GLYPHS[bits]
            rows.setdefault(row, {})[x] = glyph
        for (row, x), text in self.texts.items():
            line, at = rows.setdefault(row, {}), x
            for each in text:
                step = cells(each)
                if step == 0:
                    line[at - 1] = line.get(at - 1, "") + each
                    continue
                line[at] = each
                if step == 2:
                    line[at + 1] = ""
                at += step
        return [_joined(rows.get(row, {})) for row in range(max(rows) + 1)]


def _joined(line: dict[int, str]) -> str:
    return "".join(line.get(x, " ") for x in range(max(line, default=-1) + 1)).rstrip()
