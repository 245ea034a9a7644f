"""Where each box of a picture stands, and along which points each arrow runs.

Takes sizes and gives coordinates, both in whatever unit the drawing has; x grows to the right, y
downwards. Boxes never overlap one another or a label, and no arrow runs through a box: it passes a
column where there is room for it, and goes up and down between columns only. Boxes stand in the
middle of what they are joined to as far as there is room. Knows nothing of fonts or formats.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from zpipe.graph.heights import heights
from zpipe.graph.layers import components, layered

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from zpipe.graph.layers import Layered

    Size = tuple[float, float]
    Point = tuple[float, float]

_LOOP = 0.35  # of a box's width: between the two ends of an arrow that leads back to its box


@dataclass(frozen=True, slots=True)
class Rect:
    """A rectangle by its upper left corner."""

    x: float
    y: float
    width: float
    height: float

    @property
    def right(self) -> float:
        """x of the right side."""
        return self.x + self.width

    @property
    def bottom(self) -> float:
        """y of the lower side."""
        return self.y + self.height

    @property
    def middle(self) -> Point:
        """The centre."""
        return self.x + self.width / 2, self.y + self.height / 2


@dataclass(frozen=True, slots=True)
class Route:
    """How an arrow runs from its source to its target.

    Between `points` 0 and 1, 2 and 3, ... it may change its height, leaving and arriving level;
    between 1 and 2, 3 and 4, ... it is level. `label` is the room for what is written on it, empty
    if nothing is. `turned`: from right to left. `loop`: back to the same box, below it.
    """

    points: tuple[Point, ...]
    label: Rect
    turned: bool = False
    loop: bool = False


@dataclass(frozen=True, slots=True)
class Layout:
    """Where boxes are and how arrows run, in the order in which they were given.

    `parts` are the rectangles around what hangs together, and the numbers of the boxes in each.
    """

    width: float
    height: float
    boxes: tuple[Rect, ...]
    routes: tuple[Route, ...]
    parts: tuple[tuple[Rect, tuple[int, ...]], ...]


@dataclass(frozen=True, slots=True)
class Spacing:
    """Room that is left between things.

    `columns`: beside a column; `boxes`: between boxes above each other; `lines`: between arrows,
    or between an arrow and a box, in one column; `ports`: between two arrows at one side of a box,
    at the most, and `corner`: from there to its corner; `parts`: between what does not hang
    together; `loop`: below a box, for an arrow that leads back to it.
    """

    columns: float = 26.0
    boxes: float = 22.0
    lines: float = 6.0
    ports: float = 26.0
    corner: float = 11.0
    parts: float = 34.0
    loop: float = 18.0


def arrange(
    boxes: Sequence[Size],
    arrows: Sequence[tuple[int, int]],
    labels: Sequence[Size],
    spacing: Spacing = Spacing(),
) -> Layout:
    """Lay out boxes of these sizes, and arrows between them by number with labels of these sizes.

    What does not hang together is put below each other.
    """
    rects: dict[int, Rect] = {}
    routes: dict[int, Route] = {}
    parts: list[tuple[Rect, tuple[int, ...]]] = []
    inside: dict[int, list[int]] = {}
    groups = components(len(boxes), arrows)
    part_of = {box: part for part, group in enumerate(groups) for box in group}
    for number, (source, _) in enumerate(arrows):
        inside.setdefault(part_of[source], []).append(number)
    top = 0.0
    for part, group in enumerate(groups):
        own = {box: rank for rank, box in enumerate(group)}
        mine = inside.get(part, [])
        laid = _Part(
            [boxes[box] for box in group],
            [(own[arrows[number][0]], own[arrows[number][1]]) for number in mine],
            [labels[number] for number in mine],
            spacing,
        )
        width, height = laid.place(top)
        rects.update(zip(group, laid.rects, strict=True))
        routes.update(zip(mine, laid.routes(), strict=True))
        parts.append((Rect(0.0, top, width, height), tuple(group)))
        top += height + spacing.parts
    return Layout(
        max((rect.width for rect, _ in parts), default=0.0),
        max(0.0, top - spacing.parts),
        tuple(rects[box] for box in range(len(boxes))),
        tuple(routes[number] for number in range(len(arrows))),
        tuple(parts),
    )


class _Part:
    """What hangs together, while it is laid out."""

    def __init__(
        self,
        sizes: Sequence[Size],
        arrows: Sequence[tuple[int, int]],
        labels: Sequence[Size],
        spacing: Spacing,
    ):
        self.spacing = spacing
        self.layered = layered(len(sizes), arrows)
        self.sizes = sizes
        items = len(self.layered.column)
        self.width = [size[0] for size in sizes] + [0.0] * (items - len(sizes))
        # how far each item reaches above its y, and below
        self.above = [size[1] / 2 for size in sizes] + [0.0] * (items - len(sizes))
        self.labels = labels
        self.label_of: dict[int, int] = {}  # arrow -> the item that has its label
        self.loops: dict[int, list[int]] = {}  # box -> arrows that lead back to it
        for number, chain in enumerate(self.layered.chains):
            if len(chain) == 1:
                self.loops.setdefault(chain[0], []).append(number)
                continue
            item = chain[len(chain) // 4 * 2 + 1]  # near the middle, and in a column for labels
            self.label_of[number] = item
            self.width[item], self.above[item] = labels[number][0], labels[number][1] / 2
        self.below = list(self.above)
        for box, numbers in self.loops.items():
            self.below[box] += sum(self._loop_height(number) for number in numbers)
            self.width[box] = max(self.width[box], *(labels[number][0] for number in numbers))
        self.ports = _ports(self.layered, sizes, spacing)
        self.y = heights(self.layered, self._apart(), self.ports)
        self.rects: list[Rect] = []
        self.sides: list[tuple[float, float]] = []  # of each column

    def _loop_height(self, number: int) -> float:
        return self.spacing.loop + self.labels[number][1]

    def _apart(self) -> list[list[float]]:
        """Return for each column how far its neighbours must be apart, from middle to middle."""
        boxes = self.layered.boxes
        return [
            [
                self.below[upper]
                + self.above[lower]
                + (self.spacing.boxes if upper < boxes and lower < boxes else self.spacing.lines)
                for upper, lower in pairwise(members)
            ]
            for members in self.layered.columns
        ]

    def place(self, top: float) -> Size:
        """Decide on all coordinates, and return the size of the whole."""
        lowest = min(y - reach for y, reach in zip(self.y, self.above, strict=True))
        self.y = [y - lowest + top for y in self.y]
        left = 0.0
        columns = self.layered.columns
        for rank, members in enumerate(columns):
            wide = max(self.width[item] for item in members)
            self.sides.append((left, left + wide))
            left += wide
            if rank + 1 < len(columns):
                # steep curves need room
                rise = max(
                    (
                        abs(self.y[other] - self.y[item])
                        for item in members
                        for other in self.layered.after[item]
                    ),
                    default=0.0,
                )
                left += self.spacing.columns + min(2 * self.spacing.columns, 0.14 * rise)
        for box, (_, height) in enumerate(self.sizes):
            start, end = self.sides[self.layered.column[box]]
            self.rects.append(Rect(start, self.y[box] - height / 2, end - start, height))
        bottom = max(y + reach for y, reach in zip(self.y, self.below, strict=True))
        return left, bottom - top

    def routes(self) -> list[Route]:
        """Return how the arrows run."""
        found = []
        below: dict[int, float] = {}
        for number, chain in enumerate(self.layered.chains):
            if len(chain) == 1:
                below[chain[0]] = below.get(chain[0], 0.0) + self._loop_height(number)
                found.append(self._loop(number, self.rects[chain[0]], below[chain[0]]))
                continue
            points = []
            first, last = chain[0], chain[-1]
            points.append((self.rects[first].right, self.y[first] + self.ports[first, chain[1]]))
            for item in chain[1:-1]:
                start, end = self.sides[self.layered.column[item]]
                points += [(start, self.y[item]), (end, self.y[item])]
            points.append((self.rects[last].x, self.y[last] + self.ports[last, chain[-2]]))
            item = self.label_of[number]
            width, height = self.labels[number]
            start, end = self.sides[self.layered.column[item]]
            label = Rect((start + end - width) / 2, self.y[item] - height / 2, width, height)
            turned = number in self.layered.turned
            found.append(Route(tuple(reversed(points) if turned else points), label, turned))
        return found

    def _loop(self, number: int, box: Rect, below: float) -> Route:
        width, height = self.labels[number]
        middle = box.middle[0]
        apart = box.width * _LOOP / 2
        y = box.bottom + below - height / 2
        points = ((middle + apart, box.bottom), (middle, y), (middle - apart, box.bottom))
        return Route(points, Rect(middle - width / 2, y - height / 2, width, height), loop=True)


def _ports(
    layers: Layered, sizes: Sequence[Size], spacing: Spacing
) -> dict[tuple[int, int], float]:
    """Return where an arrow meets a box, above or below its middle, by (box, next item)."""
    rank = {item: place for members in layers.columns for place, item in enumerate(members)}
    ports = {}
    for box, (_, height) in enumerate(sizes):
        for joined in (layers.after[box], layers.before[box]):
            step = max(0.0, height - 2 * spacing.corner) / max(1, len(joined) - 1)
            step = min(spacing.ports, step)
            for place, item in enumerate(sorted(joined, key=rank.__getitem__)):
                ports[box, item] = (place - (len(joined) - 1) / 2) * step
    return ports
