"""Columns, orders and coordinates: nothing overlaps, nothing is missing, arrows lead right."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zpipe.graph.layers import closing, components, layered
from zpipe.graph.layout import Layout, Rect, Spacing, arrange

Pair = tuple[int, int]
Drawn = tuple[list[tuple[float, float]], list[Pair], list[tuple[float, float]]]


@st.composite
def drawings(draw: st.DrawFn) -> Drawn:
    """Return sizes of boxes, arrows (any: there and back, cycles, loops) and sizes of labels."""
    count = draw(st.integers(1, 14))
    box = st.integers(0, count - 1)
    arrows = draw(st.lists(st.tuples(box, box), max_size=22))
    size = st.tuples(st.floats(20, 200), st.floats(20, 90))
    sizes = draw(st.lists(size, min_size=count, max_size=count))
    label = st.tuples(st.floats(0, 120), st.floats(0, 30))
    labels = draw(st.lists(label, min_size=len(arrows), max_size=len(arrows)))
    return sizes, arrows, labels


def of_size(count: int, arrows: list[Pair]) -> Layout:
    return arrange([(100.0, 40.0)] * count, arrows, [(50.0, 12.0)] * len(arrows))


def overlap(one: Rect, other: Rect) -> bool:
    near = 1e-6
    return (
        one.x < other.right - near
        and other.x < one.right - near
        and one.y < other.bottom - near
        and other.y < one.bottom - near
    )


@given(drawings())
def test_boxes_never_overlap_and_all_is_inside(drawn: Drawn) -> None:
    sizes, arrows, labels = drawn
    laid = arrange(sizes, arrows, labels)
    assert len(laid.boxes) == len(sizes)
    for one, other in combinations(laid.boxes, 2):
        assert not overlap(one, other)
    for rect, (width, height) in zip(laid.boxes, sizes, strict=True):
        assert rect.width >= width - 1e-6
        assert rect.height == height
    for rect in (*laid.boxes, *(route.label for route in laid.routes)):
        assert rect.x >= -1e-6
        assert rect.right <= laid.width + 1e-6
        assert rect.y >= -1e-6
        assert rect.bottom <= laid.height + 1e-6


@given(drawings())
def test_labels_overlap_neither_boxes_nor_one_another(drawn: Drawn) -> None:
    laid = arrange(*drawn)
    labels = [route.label for route in laid.routes]
    for label in labels:
        assert not any(overlap(label, box) for box in laid.boxes)
    for one, other in combinations(labels, 2):
        assert not overlap(one, other)


@given(drawings())
def test_each_arrow_begins_and_ends_at_its_boxes_and_runs_through_no_other(drawn: Drawn) -> None:
    sizes, arrows, labels = drawn
    laid = arrange(sizes, arrows, labels)
    assert len(laid.routes) == len(arrows)
    for (source, target), route in zip(arrows, laid.routes, strict=True):
        start, end = laid.boxes[source], laid.boxes[target]
        (x, y), (to_x, to_y) = route.points[0], route.points[-1]
        assert route.loop == (source == target)
        if route.loop:
            assert y == to_y == start.bottom
            assert start.x < to_x < x < start.right
            continue
        assert start.y <= y <= start.bottom
        assert end.y <= to_y <= end.bottom
        assert (x, to_x) == ((start.x, end.right) if route.turned else (start.right, end.x))
        forward = -1 if route.turned else 1
        steps = list(zip(route.points, route.points[1:], strict=False))
        assert all(forward * (after[0] - before[0]) >= 0 for before, after in steps)
        assert all(before[1] == after[1] for before, after in steps[1::2])  # level in columns
        for before, after in steps:
            x, wide = min(before[0], after[0]), abs(after[0] - before[0])
            y, high = min(before[1], after[1]), abs(after[1] - before[1])
            for box in laid.boxes:
                assert not overlap(Rect(x, y - 1e-3, wide, high + 2e-3), box)


@given(drawings())
def test_only_arrows_that_close_a_cycle_lead_back(drawn: Drawn) -> None:
    sizes, arrows, _ = drawn
    turned = closing(len(sizes), arrows)
    assert not any(arrows[place][0] == arrows[place][1] for place in turned)
    if turned:
        rest = [pair for place, pair in enumerate(arrows) if place not in turned]
        assert not closing(len(sizes), rest)
    upward = [(min(pair), max(pair)) for pair in arrows]
    assert not closing(len(sizes), upward)  # nothing is turned without need


@given(drawings())
def test_the_same_input_has_the_same_layout(drawn: Drawn) -> None:
    assert arrange(*drawn) == arrange(*drawn)


def test_what_hangs_together_is_found_in_the_order_of_the_boxes() -> None:
    assert components(6, [(4, 0), (1, 2)]) == [[0, 4], [1, 2], [3], [5]]


def test_a_box_is_right_of_all_that_lead_to_it_and_sources_stay_near() -> None:
    layers = layered(5, [(0, 1), (1, 2), (0, 2), (3, 2), (4, 3)])
    assert layers.column[:5] == [0, 2, 4, 2, 0]


def test_a_tree_has_no_crossings() -> None:
    pairs = [((child - 1) // 3, child) for child in range(1, 40)]
    assert layered(40, pairs).crossings == 0


def test_crossings_that_the_order_of_the_input_would_have_are_undone() -> None:
    pairs = [(box, 15 - box) for box in range(8)] + [(box, 14 - box) for box in range(7)]
    assert layered(16, pairs).crossings == 0


def test_a_crossing_that_must_be_is_counted() -> None:
    pairs = [(source, target) for source in range(3) for target in range(3, 6)]
    assert layered(6, pairs).crossings == 9  # of K(3,3) with straight lines


def test_parents_stand_in_the_middle_of_their_children() -> None:
    laid = of_size(4, [(0, 1), (0, 2), (0, 3)])
    middles = [box.middle[1] for box in laid.boxes]
    assert middles[0] == pytest.approx(middles[2])
    assert middles[2] - middles[1] == pytest.approx(middles[3] - middles[2])


def test_what_has_no_other_way_to_go_is_straight() -> None:
    laid = of_size(6, [(0, 1), (0, 2), (0, 3), (3, 4), (4, 5)])
    for route in laid.routes[3:]:
        assert len({y for _, y in route.points}) == 1
    for route in laid.routes[:3]:
        # a curve behind the source only: level from the label on
        assert len({round(y, 6) for _, y in route.points[1:]}) == 1


def test_a_wide_fan_out_is_bent_behind_its_source_only() -> None:
    for route in of_size(60, [(0, box) for box in range(1, 60)]).routes:
        assert len({round(y, 6) for _, y in route.points[1:]}) == 1


def test_there_and_back_are_two_parallel_lines() -> None:
    there, back = of_size(2, [(0, 1), (1, 0)]).routes
    assert (there.turned, back.turned) == (False, True)
    assert len({round(y, 6) for _, y in there.points}) == 1
    assert len({round(y, 6) for _, y in back.points}) == 1
    assert there.points[0][1] < back.points[0][1]


def test_what_does_not_hang_together_is_stacked() -> None:
    spacing = Spacing(parts=50.0)
    laid = arrange([(100, 40)] * 4, [(0, 2), (1, 3)], [(0, 0)] * 2, spacing)
    (upper, first), (lower, second) = laid.parts
    assert (first, second) == ((0, 2), (1, 3))
    assert lower.y - upper.bottom == 50
    assert laid.height == lower.bottom


def test_nothing_is_laid_out_as_nothing() -> None:
    assert arrange([], [], []) == Layout(0.0, 0.0, (), (), ())


def test_a_chain_longer_than_the_stack_of_calls_is_laid_out() -> None:
    laid = of_size(3000, [(box, box + 1) for box in range(2999)])
    assert len({box.y for box in laid.boxes}) == 1
