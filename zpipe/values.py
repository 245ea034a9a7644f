"""Immutable records, cheap to define.

The standard library's dataclasses cost 7 ms to import and up to 2 ms for each class of a small
program (CPython 3.11), which is more than copying a small file takes altogether. A `Value` is
defined in microseconds; type checkers treat it as the frozen dataclass that it resembles.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeVar

    from typing_extensions import dataclass_transform

    V = TypeVar("V", bound="Value")
else:

    def dataclass_transform(**_: object):
        return lambda cls: cls


@dataclass_transform(frozen_default=True)
class Value:
    """A record whose fields are the annotations of its class, with class attributes as defaults.

    Fields are given by place or by name. Two records are equal when class and fields are.
    """

    _fields: tuple[str, ...] = ()

    def __init_subclass__(cls) -> None:
        cls._fields = tuple(cls.__annotations__)

    def __init__(self, *values: Any, **named: Any):
        fields = self._fields
        own = self.__dict__
        own.update(zip(fields, values, strict=False))
        own.update(named)
        surplus = len(own) != len(values) + len(named)  # too many, or one by place and by name
        missing = [name for name in fields if name not in own and not hasattr(type(self), name)]
        if missing or surplus or any(name not in fields for name in named):
            raise TypeError(f"{type(self).__name__}: its fields are {', '.join(fields)}")

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable: make another by replace()")

    def __delattr__(self, name: str) -> None:
        self.__setattr__(name, None)

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self._fields)

    def __hash__(self) -> int:
        return hash(tuple(getattr(self, name) for name in self._fields))

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={getattr(self, name)!r}" for name in self._fields)
        return f"{type(self).__name__}({fields})"


def replace(value: V, **changes: Any) -> V:
    """Return a record like `value` with some of its fields changed.

    Raises: TypeError  there is no such field.
    """
    return type(value)(**{**value.__dict__, **changes})
