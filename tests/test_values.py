"""Records: given by place or name, equal by class and fields, never changed."""

from __future__ import annotations

from typing import Any

import pytest

from zpipe.values import Value, replace


class Point(Value):
    x: int
    y: int = 7


class Other(Value):
    x: int
    y: int = 7


class Empty(Value):
    pass


def test_fields_are_given_by_place_or_by_name_and_have_defaults() -> None:
    assert (Point(1).x, Point(1).y) == (1, 7)
    assert Point(1, 2) == Point(1, y=2) == Point(y=2, x=1)
    assert repr(Point(1)) == "Point(x=1, y=7)"
    assert repr(Empty()) == "Empty()"


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ((), {}),
        ((), {"y": 1}),
        ((1, 2, 3), {}),
        ((1,), {"z": 1}),
        ((1,), {"x": 2}),
        ((1, 2), {"y": 3}),
    ],
    ids=["none", "one missing", "too many", "unknown", "twice", "default twice"],
)
def test_what_does_not_fit_the_fields_is_a_type_error(
    values: tuple[int, ...], named: dict[str, Any]
) -> None:
    with pytest.raises(TypeError, match="Point: its fields are x, y"):
        Point(*values, **named)


def test_records_are_equal_by_class_and_fields() -> None:
    assert Point(1) == Point(1, 7)
    assert hash(Point(1)) == hash(Point(1, 7))
    assert Point(1) != Point(2)
    assert Point(1) != Other(1)
    assert Point(1) != (1, 7)
    assert Empty() == Empty()
    assert {Point(1), Point(1, 7), Point(2)} == {Point(1), Point(2)}


def test_a_record_cannot_be_changed() -> None:
    point = Point(1)
    with pytest.raises(AttributeError, match="immutable"):
        point.x = 2  # type: ignore[misc]
    with pytest.raises(AttributeError, match="immutable"):
        point.z = 2
    with pytest.raises(AttributeError, match="immutable"):
        del point.x
    assert point == Point(1)


def test_replace_makes_another() -> None:
    point = Point(1, 2)
    assert replace(point, y=9) == Point(1, 9)
    assert point == Point(1, 2)
    with pytest.raises(TypeError, match="its fields are"):
        replace(point, z=9)
