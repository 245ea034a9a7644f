"""A sink that goes on in a new file: exact sizes, exact names, each part as a file of its own."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.endpoints.meeting import Meeting, sink
from tests.machine import content, leftovers
from zpipe.endpoints import parse
from zpipe.endpoints.split import has_pattern, part_name
from zpipe.errors import TransferError, UsageError

if TYPE_CHECKING:
    from zpipe.endpoints.contract import End

DATA = content(1000)


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("part-%d", ["part-0", "part-7", "part-12345"]),
        ("part-%04d.bin", ["part-0000.bin", "part-0007.bin", "part-12345.bin"]),
        ("%3d", ["  0", "  7", "12345"]),
        ("%d%%", ["0%", "7%", "12345%"]),
        ("100%%-%02d", ["100%-00", "100%-07", "100%-12345"]),
        ("%%d-%d", ["%d-0", "%d-7", "%d-12345"]),
        ("dir-%d/%%s", ["dir-0/%s", "dir-7/%s", "dir-12345/%s"]),
    ],
)
def test_the_names_of_the_parts(path: str, names: list[str]) -> None:
    assert has_pattern(path)
    assert [part_name(path, number) for number in (0, 7, 12345)] == names


@pytest.mark.parametrize(
    "path", ["", "part", "part-%s", "part-%%d", "%d-%d", "%-4d", "%+d", "%x", "%", "%100d"]
)
def test_a_name_without_one_place_for_a_number(path: str) -> None:
    assert not has_pattern(path)


@given(st.text(st.sampled_from("ab%d04/ ")), st.integers(0, 99999))
def test_a_name_is_what_printf_makes_of_it(path: str, number: int) -> None:
    """Where Python's own formatting takes it for one number, it gives the same name."""
    if has_pattern(path):
        try:
            expected = path % number
        except (TypeError, ValueError):
            return  # another % in it, which printf would choke on
        assert part_name(path, number) == expected


def fill(end: End, data: bytes, waiter: Meeting) -> None:
    """Write as whoever moves bytes does: no more than there is room, then turn to the next."""
    rest = memoryview(data)
    while rest:
        assert end.room is not None
        if end.room == 0:
            end.turn(waiter)
        moved = os.write(end.fd, rest[: end.room])
        end.room -= moved
        rest = rest[moved:]


def split(folder: Path, size: int, data: bytes, options: str = "", **asked: Any) -> End:
    """Write data in parts; return the end, finished."""
    waiter = Meeting()
    end = sink(f"file:{folder}/part-%d?split_size={size}{options}", waiter, **asked)
    with end:
        fill(end, data, waiter)
        end.finish(waiter)
    assert not leftovers(folder)
    return end


def parts(folder: Path) -> list[bytes]:
    """Return what lies in the parts, in their order; there is nothing else."""
    names = [f"part-{number}" for number in range(len(os.listdir(folder)))]
    assert sorted(os.listdir(folder)) == sorted(names)
    return [(folder / name).read_bytes() for name in names]


@pytest.mark.parametrize("inplace", [False, True], ids=["renamed", "in place"])
@pytest.mark.parametrize(
    ("size", "count"),
    [
        (1, 12),
        (400, 3),
        (1000, 1),  # used up to the last byte: a part that is never begun is never created
        (500, 2),
        (1001, 1),
    ],
)
def test_the_parts_have_exactly_that_size(
    size: int, count: int, inplace: bool, tmp_path: Path
) -> None:
    data = DATA if size > 1 else DATA[:12]
    end = split(tmp_path, size, data, inplace=inplace)
    found = parts(tmp_path)
    assert found == [data[at : at + size] for at in range(0, len(data), size)]
    assert len(found) == count
    assert end.notes[-1] == f"{count} files"


def test_of_nothing_the_first_part_is_made(tmp_path: Path) -> None:
    split(tmp_path, 10, b"")
    assert parts(tmp_path) == [b""]


def test_a_part_that_is_full_is_in_place_before_the_next_one_begins(tmp_path: Path) -> None:
    waiter = Meeting()
    with sink(f"file:{tmp_path}/part-%d?split_size=4", waiter) as end:
        assert end.provisional
        fill(end, b"abcd", waiter)
        assert os.listdir(tmp_path) == leftovers(tmp_path)
        fill(end, b"e", waiter)
        assert (tmp_path / "part-0").read_bytes() == b"abcd"
        assert not (tmp_path / "part-1").exists()
    assert parts(tmp_path) == [b"abcd"], "what was not finished is thrown away"


def test_parts_that_were_there_are_replaced_and_others_are_left(tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / f"part-{number}").write_bytes(b"old and longer")
    split(tmp_path, 4, b"abcdefg")
    assert parts(tmp_path) == [b"abcd", b"efg", b"old and longer", b"old and longer"]


def test_the_options_hold_for_every_part(tmp_path: Path) -> None:
    split(tmp_path, 4, b"abcdefg", options="&mode=0600")
    assert [stat.S_IMODE((tmp_path / f"part-{number}").stat().st_mode) for number in range(2)] == [
        0o600,
        0o600,
    ]


def test_appending_fills_each_file_by_that_much(tmp_path: Path) -> None:
    for number in range(2):
        (tmp_path / f"part-{number}").write_bytes(b"old")
    split(tmp_path, 4, b"abcdefg", options="&append=1")
    assert parts(tmp_path) == [b"oldabcd", b"oldefg"]


def test_a_part_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    """The one before is complete by then, and stays."""
    (tmp_path / "part-1").mkdir()
    waiter = Meeting()
    with (
        sink(f"file:{tmp_path}/part-%d?split_size=4", waiter) as end,
        pytest.raises(TransferError) as raised,
    ):
        fill(end, b"abcde", waiter)
    assert str(raised.value) == f"{tmp_path}/part-1: open: Is a directory"
    assert (tmp_path / "part-0").read_bytes() == b"abcd"
    assert not leftovers(tmp_path)


def test_an_end_that_failed_in_a_turn_can_be_closed_twice(tmp_path: Path) -> None:
    (tmp_path / "part-1").mkdir()
    waiter = Meeting()
    end = sink(f"file:{tmp_path}/part-%d?split_size=4", waiter)
    with pytest.raises(TransferError):
        fill(end, b"abcde", waiter)
    end.close()
    end.close()
    assert end.fd == -1


@pytest.mark.parametrize(
    ("text", "is_sink", "fragment"),
    [
        ("file:x?split_size=4", True, "the name needs one place for the number"),
        ("file:%d-%d?split_size=4", True, "the name needs one place for the number"),
        ("file:%d?split_size=0", True, "a part must have a byte at least"),
        ("file:%d?split_size=many", True, "many: not a size"),
        ("file:%d?split_size=4&offset=1", True, "offset and split_size exclude each other"),
        ("file:%d?split_size=4", False, "option split_size: is for a sink"),
    ],
)
def test_what_makes_no_sense_is_refused(text: str, is_sink: bool, fragment: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse(text, sink=is_sink)
    assert fragment in str(raised.value)


def test_a_name_with_a_percent_sign_is_a_name_unless_it_is_split(tmp_path: Path) -> None:
    sink(f"{tmp_path}/100%d", inplace=True).close()
    assert os.listdir(tmp_path) == ["100%d"]
