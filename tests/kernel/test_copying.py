"""Memory copied by the kernel, across pages that are no longer there."""

from __future__ import annotations

import mmap
import os
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.machine import content
from zpipe.kernel.copying import copy_memory, copy_through_pipe, place_of
from zpipe.kernel.mapping import PAGE, Mapping

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Copy = Callable[[memoryview, memoryview], int]

BOTH = pytest.mark.parametrize("copy", [copy_memory, copy_through_pipe])
SIZE = 40 * PAGE


@BOTH
@given(size=st.integers(0, 200_000), start=st.integers(0, 100))
def test_all_of_it_arrives(copy: Copy, size: int, start: int) -> None:
    data = memoryview(content(200_100))[start : start + size]
    target = bytearray(size + 2)
    assert copy(memoryview(target)[1:-1], data) == size
    assert target == b"\0" + data + b"\0"


@BOTH
@pytest.mark.parametrize("kept", [0, 3 * PAGE, 20 * PAGE])
def test_it_stops_where_a_mapping_has_lost_its_file(copy: Copy, kept: int, tmp_path: Path) -> None:
    """As source and as target; what comes before is copied, and the process lives."""
    data = content(SIZE)
    (tmp_path / "file").write_bytes(data)
    fd = os.open(tmp_path / "file", os.O_RDWR)
    try:
        with closing(Mapping(fd, 0, SIZE, writable=True, private=False)) as mapping:
            os.ftruncate(fd, kept)
            target = bytearray(SIZE)
            copied = copy(memoryview(target), mapping.view)
            assert kept <= copied < SIZE
            assert target[:kept] == data[:kept]
            new = content(SIZE, 2)
            stored = copy(mapping.view, memoryview(new))
            assert kept <= stored < SIZE
            assert os.pread(fd, SIZE, 0) == new[:kept]
    finally:
        os.close(fd)


def test_a_place_is_found_of_memory_that_is_read_only_and_slices_of_it() -> None:
    data = b"0123456789"
    view = memoryview(data)
    assert place_of(view[3:]) == place_of(data) + 3
    with mmap.mmap(-1, PAGE) as memory:
        assert place_of(memory) % PAGE == 0
    with pytest.raises(BufferError):
        place_of(view[::2])
