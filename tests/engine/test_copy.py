"""The library's main call: any bytes, any part of them, from any thread."""

from __future__ import annotations

import doctest
import os
import threading
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import zpipe
from tests.machine import ROOT, content
from zpipe.engine.copy import pair
from zpipe.graph.model import Wishes

if TYPE_CHECKING:
    from pathlib import Path

MOST = 200_000
# bytes are drawn by length and seed: what they are does not matter, that they differ does
SIZES = st.integers(0, MOST) | st.sampled_from([0, 1, 4095, 4096, 32768, 32769, 65536, 131072])
PARTS = st.none() | st.integers(0, MOST + 10) | st.sampled_from([0, 1, 4096, 32768])

ONE_FOLDER = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def part(data: bytes, offset: int, length: int | None) -> bytes:
    return data[offset:] if length is None else data[offset : offset + length]


@ONE_FOLDER
@given(size=SIZES, seed=st.integers(0, 9), offset=PARTS, length=PARTS)
def test_any_part_of_any_file(
    tmp_path: Path, size: int, seed: int, offset: int | None, length: int | None
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    data = content(size, seed)
    source.write_bytes(data)
    report = zpipe.copy(str(source), str(target), offset=offset or 0, length=length)
    wanted = part(data, offset or 0, length)
    assert target.read_bytes() == wanted
    assert report.moved == len(wanted)
    assert sorted(os.listdir(tmp_path)) == ["source", "target"]


@ONE_FOLDER
@given(
    size=SIZES,
    offset=PARTS,
    length=PARTS,
    via=st.sampled_from(["copy_range", "sendfile", "splice", "mapped", "plain"]),
    rest=st.booleans(),
)
def test_any_part_by_any_mover(
    tmp_path: Path, size: int, offset: int | None, length: int | None, via: str, rest: bool
) -> None:
    """A mover that cannot serve says so before a byte moves; one that can gives the same bytes."""
    source, target = tmp_path / "source", tmp_path / "target"
    data = content(size)
    source.write_bytes(data)
    target.write_bytes(b"old")
    others = frozenset({"reflink", "parallel", "copy_range", "sendfile", "splice"}) - {via}
    wishes: dict[str, Any] = {"without": others} if rest else {"via": via}
    try:
        zpipe.copy(str(source), str(target), offset=offset or 0, length=length, **wishes)
    except zpipe.UsageError:
        assert not rest
        assert target.read_bytes() == b"old"
    else:
        assert target.read_bytes() == part(data, offset or 0, length)


@ONE_FOLDER
@given(size=SIZES, length=PARTS, pipe=st.sampled_from([None, 4096, 65536, 1 << 20]))
def test_any_length_of_a_stream(
    tmp_path: Path, size: int, length: int | None, pipe: int | None
) -> None:
    target = tmp_path / "target"
    pattern = f"pattern:seed?size={size}"
    zpipe.copy(pattern, str(target), length=length, pipe_size=pipe)
    taken = size if length is None else min(size, length)
    assert target.stat().st_size == taken
    zpipe.copy(str(target), f"pattern:seed?size={taken}", pipe_size=pipe)


@ONE_FOLDER
@given(sizes=st.lists(SIZES, min_size=1, max_size=4))
def test_appending_piece_by_piece_is_joining(tmp_path: Path, sizes: list[int]) -> None:
    target = tmp_path / "target"
    target.unlink(missing_ok=True)
    pieces = []
    for seed, size in enumerate(sizes):
        pieces.append(content(size, seed))
        (tmp_path / "source").write_bytes(pieces[-1])
        zpipe.copy(str(tmp_path / "source"), str(target), append=True)
    assert target.read_bytes() == b"".join(pieces)


def test_two_threads_each_with_a_copy_of_its_own(tmp_path: Path) -> None:
    """Neither is the main thread; no signal handling is tried."""
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            source = tmp_path / f"source{seed}"
            source.write_bytes(content(MOST, seed))
            for _ in range(5):
                zpipe.copy(str(source), str(tmp_path / f"target{seed}"))
                zpipe.copy("pattern:x?size=100000", "pattern:x?size=100000")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    for seed in range(2):
        assert (tmp_path / f"target{seed}").read_bytes() == content(MOST, seed)


@pytest.mark.parametrize(
    ("src", "dst", "error", "status"),
    [
        ("nosuch", "null:", zpipe.TransferError, 1),
        ("ftp://x", "null:", zpipe.UsageError, 2),
        ("pattern:x?size=9", "pattern:y", zpipe.VerifyError, 3),
        ("exec:sleep 60", "null:", zpipe.StalledError, 4),
    ],
)
def test_errors_carry_the_status_that_the_command_line_ends_with(
    src: str, dst: str, error: type[zpipe.ZpipeError], status: int
) -> None:
    with pytest.raises(error) as raised:
        zpipe.copy(src, dst, stall_timeout=0.05)
    assert raised.value.exit_code == status
    assert isinstance(raised.value, zpipe.ZpipeError)
    assert not isinstance(raised.value, OSError)


def test_a_wish_that_nobody_knows_is_a_type_error() -> None:
    with pytest.raises(TypeError):
        zpipe.copy("null:", "null:", speed="fast")


def test_the_examples_in_the_manual_of_the_package() -> None:
    assert doctest.testmod(zpipe).failed == 0
    assert doctest.testmod(zpipe).attempted > 0


def test_everything_that_is_offered_is_there() -> None:
    for name in dir(zpipe):
        assert getattr(zpipe, name) is not None
    with pytest.raises(AttributeError):
        _ = zpipe.nosuch
    assert (ROOT / "zpipe" / "__init__.py").exists()


def test_a_pair_is_a_graph_of_two_nodes(tmp_path: Path) -> None:
    graph = pair("a/b", str(tmp_path), Wishes(length=3))
    assert graph.node("source").endpoint.address == "a/b"
    assert graph.node("sink").endpoint.address == str(tmp_path / "b")
    assert [edge.wishes.length for edge in graph.edges] == [3]
