"""Sealed files in memory, aligned mappings, and what an fd is."""

from __future__ import annotations

import errno
import mmap
import os
from typing import TYPE_CHECKING

import pytest

from zpipe.kernel import memory
from zpipe.kernel.copying import place_of

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def fd() -> Iterator[int]:
    made = memory.memfd("test")
    yield made
    os.close(made)


def test_a_memfd_is_empty_and_is_not_inherited(fd: int) -> None:
    assert os.fstat(fd).st_size == 0
    assert not os.get_inheritable(fd)


def test_a_seal_holds_for_everybody_and_for_ever(fd: int) -> None:
    os.ftruncate(fd, 4096)
    before = memory.get_seals(fd)
    seals = memory.F_SEAL_SHRINK | memory.F_SEAL_GROW | memory.F_SEAL_SEAL
    memory.add_seals(fd, seals)
    assert memory.get_seals(fd) == before | seals
    for size in (0, 4095, 4097):
        with pytest.raises(PermissionError):
            os.ftruncate(fd, size)
    with pytest.raises(PermissionError):
        memory.add_seals(fd, memory.F_SEAL_WRITE)
    assert os.pwrite(fd, b"still", 0) == 5


def test_a_mapping_for_writing_keeps_the_write_seal_away(fd: int) -> None:
    os.ftruncate(fd, 4096)
    with mmap.mmap(fd, 4096), pytest.raises(OSError, match=f"Errno {errno.EBUSY}]"):
        memory.add_seals(fd, memory.F_SEAL_WRITE)


def test_what_takes_no_seals_says_einval() -> None:
    reader, writer = os.pipe()
    try:
        with pytest.raises(OSError, match=f"Errno {errno.EINVAL}]"):
            memory.get_seals(reader)
        assert not memory.is_eventfd(reader)
    finally:
        os.close(reader)
        os.close(writer)


def test_an_eventfd_is_known(fd: int) -> None:
    event = os.eventfd(0)
    try:
        assert memory.is_eventfd(event)
        assert not memory.is_eventfd(fd)
    finally:
        os.close(event)
    assert not memory.is_eventfd(event)


@pytest.mark.parametrize("alignment", [1, 512, 4096, 8192, 65536, 2 << 20])
def test_memory_is_aligned_and_as_big_as_asked_for(alignment: int) -> None:
    found, start = memory.aligned(10_000, alignment)
    with found:
        assert (place_of(found) + start) % alignment == 0
        assert len(found) - start >= 10_000
        assert found[start : start + 10_000] == bytes(10_000)
