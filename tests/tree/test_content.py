"""Holes, shared blocks and bytes of files, on every filesystem that has a say in them."""

from __future__ import annotations

import hashlib
import os
import random
import re
import subprocess
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.machine import LONGEST, ZPIPE, content, environment, leftovers, missing, mounted, strace
from tests.movers.extents import blocks, extents
from tests.tree import batch, carry, carry_whole, data_map, texts
from zpipe.tree.content import segments
from zpipe.tree.regular import SMALL
from zpipe.tree.tasks import Chunk, identity_of
from zpipe.tree.wishes import TreeWishes

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK = 64 * 1024  # no filesystem has larger ones by default
TEBI = 1 << 40
LAYOUTS = {
    # blocks of data (d), of zeros (z) and holes (h)
    "dense": "dd",
    "hole first": "hd",
    "hole last": "dh",
    "hole": "hhh",
    "small": "dhd",
    "large": "dhhdddhdhhhddh",
    "zeros": "dzdz",
    "large zeros": "zzddzhzdzzzdhz",
}


def lay(path: Path, layout: str, tail: int = 0) -> bytes:
    """Make a file of that layout; return what is in it. A tail of a few bytes is data."""
    data = content(BLOCK, 5)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        for place, kind in enumerate(layout):
            if kind != "h":
                os.pwrite(fd, data if kind == "d" else bytes(BLOCK), place * BLOCK)
        os.ftruncate(fd, len(layout) * BLOCK)
        os.pwrite(fd, data[:tail], len(layout) * BLOCK)
        os.fsync(fd)
    finally:
        os.close(fd)
    whole = b"".join(data if kind == "d" else bytes(BLOCK) for kind in layout)
    return whole + data[:tail]


@pytest.fixture(scope="module", params=["ext4", "tmpfs", "xfs", "btrfs"])
def filesystem(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    base = tmp_path_factory.mktemp(request.param)
    with mounted(request.param, base / request.param, 512 << 20) as place:
        (place / "source").mkdir()
        (place / "target").mkdir()
        yield place


@pytest.fixture
def ends(filesystem: Path) -> Iterator[tuple[Path, Path]]:
    """A directory to copy from and one to copy to, empty, in the same filesystem."""
    yield filesystem / "source", filesystem / "target"
    for folder in ("source", "target"):
        for name in os.listdir(filesystem / folder):
            os.unlink(filesystem / folder / name)


def test_segments_are_the_data_within_bounds(filesystem: Path) -> None:
    path = filesystem / "segments"
    lay(path, "hdhdh")
    with open(path, "rb") as file:
        fd = file.fileno()
        assert list(segments(fd, 0, 5 * BLOCK)) == [
            (BLOCK, 2 * BLOCK),
            (3 * BLOCK, 4 * BLOCK),
        ]
        assert list(segments(fd, BLOCK + 5, 3 * BLOCK + 7)) == [
            (BLOCK + 5, 2 * BLOCK),
            (3 * BLOCK, 3 * BLOCK + 7),
        ]
        assert list(segments(fd, 2 * BLOCK, 3 * BLOCK)) == []
        assert list(segments(fd, 4 * BLOCK, 9 * BLOCK)) == []
        assert list(segments(fd, 7, 7)) == []
    path.unlink()


def test_where_nobody_can_tell_of_holes_all_is_data() -> None:
    reader, writer = os.pipe()
    assert list(segments(reader, 3, 99)) == [(3, 99)]
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("tail", [0, 77])
@pytest.mark.parametrize("reflink", ["auto", "never"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_auto_keeps_the_holes_that_there_are(
    layout: str, reflink: str, tail: int, ends: tuple[Path, Path]
) -> None:
    source, target = ends
    expected = lay(source / "file", LAYOUTS[layout], tail)
    outcome = carry(batch(source, target, "file"), TreeWishes(reflink=reflink))
    assert texts(outcome) == ""
    assert (target / "file").read_bytes() == expected
    assert data_map(target / "file") == data_map(source / "file")
    # a block more or less for what tells where the others are
    allocated = [(folder / "file").stat().st_blocks * 512 for folder in (source, target)]
    assert allocated[1] <= allocated[0] + BLOCK // 2


@pytest.mark.parametrize("tail", [0, 77])
@pytest.mark.parametrize("more", [{}, {"verify": True}, {"digest": "sha256"}], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_always_makes_holes_where_zeros_are(
    layout: str, more: dict[str, bool], tail: int, ends: tuple[Path, Path]
) -> None:
    source, target = ends
    expected = lay(source / "file", LAYOUTS[layout], tail)
    outcome = carry(batch(source, target, "file"), TreeWishes(sparse="always", **more))  # type: ignore[arg-type]
    assert texts(outcome) == ""
    assert (target / "file").read_bytes() == expected
    kept = [
        (place * BLOCK, (place + 1) * BLOCK)
        for place, kind in enumerate(LAYOUTS[layout])
        if kind == "d"
    ]
    data = data_map(target / "file")
    for begin, end in data:
        # a tail fills a block of the filesystem only in part
        assert any(first <= begin < last for first, last in kept) or begin == len(expected) - tail
        assert all(kind == "d" for kind in LAYOUTS[layout][begin // BLOCK : end // BLOCK])
    assert sum(end - begin for begin, end in data) == sum(e - b for b, e in kept) + tail
    assert outcome.done == [] or outcome.done[0].digest == hashlib.sha256(expected).hexdigest()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_never_fills_the_holes(layout: str, ends: tuple[Path, Path]) -> None:
    source, target = ends
    expected = lay(source / "file", LAYOUTS[layout])
    assert texts(carry(batch(source, target, "file"), TreeWishes(sparse="never"))) == ""
    assert (target / "file").read_bytes() == expected
    assert data_map(target / "file") == [(0, len(expected))]
    assert (target / "file").stat().st_blocks * 512 >= len(expected)


@pytest.mark.parametrize("verify", [False, True], ids=["plain", "verify"])
@pytest.mark.parametrize("reflink", ["auto", "never"])
def test_a_huge_hole_costs_nothing(reflink: str, verify: bool, ends: tuple[Path, Path]) -> None:
    """Bytes beside the data are neither read nor written: of a TiB it would be noticed."""
    source, target = ends
    data = content(1 << 20)
    with open(source / "file", "wb") as file:
        file.seek(TEBI // 2 + BLOCK)
        file.write(data)
        file.truncate(TEBI)
    outcome = carry_whole(batch(source, target, "file"), TreeWishes(reflink=reflink, verify=verify))
    assert texts(outcome) == ""
    if "reflink" not in outcome.by_mover:
        assert outcome.moved == len(data)
    assert (target / "file").stat().st_size == TEBI
    assert data_map(target / "file") == [(TEBI // 2 + BLOCK, TEBI // 2 + BLOCK + len(data))]
    with open(target / "file", "rb") as file:
        file.seek(TEBI // 2 + BLOCK)
        assert file.read(len(data)) == data
    assert leftovers(target) == []


# shared blocks


@pytest.mark.parametrize("size", [4096, SMALL, SMALL + 5, 3 << 20])
@pytest.mark.parametrize("reflink", ["auto", "always", "never"])
def test_blocks_are_shared_as_asked_for(reflink: str, size: int, sharing: Path) -> None:
    source, target = sharing / "from", sharing / "to"
    for folder in (source, target):
        folder.mkdir(exist_ok=True)
    (source / "file").write_bytes(content(size))
    os.sync()
    outcome = carry(batch(source, target, "file"), TreeWishes(reflink=reflink))
    assert texts(outcome) == ""
    assert (target / "file").read_bytes() == content(size)
    shares = reflink != "never"
    assert all(extent.shared == shares for extent in extents(target / "file"))
    common = blocks(source / "file") & blocks(target / "file")
    assert len(common) == (-(-size // 4096) if shares else 0)
    assert ("reflink" in outcome.by_mover) == shares
    assert outcome.moved == size


@pytest.mark.parametrize("sparse", ["always", "never"])
def test_what_is_not_a_copy_as_is_is_not_shared(sparse: str, sharing: Path) -> None:
    for folder in ("from", "to"):
        (sharing / folder).mkdir(exist_ok=True)
    lay(sharing / "from/file", "dhdd")
    task = batch(sharing / "from", sharing / "to", "file")
    assert texts(carry(task, TreeWishes(sparse=sparse))) == ""
    assert not blocks(sharing / "from/file") & blocks(sharing / "to/file")


@pytest.mark.parametrize("size", [100, SMALL, SMALL + 1])
def test_where_nothing_can_be_shared_it_is_said(size: int, tmp_path: Path) -> None:
    with mounted("ext4", tmp_path / "ext4", 16 << 20) as place:
        for folder in ("from", "to"):
            (place / folder).mkdir()
        (place / "from/file").write_bytes(content(size))
        task = batch(place / "from", place / "to", "file")
        always = carry(task, TreeWishes(reflink="always"))
        assert "reflink" in texts(always) and texts(always).count("\n") == 0
        assert (always.files, always.moved) == (0, 0)
        assert os.listdir(place / "to") == []
        auto = carry(task, TreeWishes(reflink="auto"))
        assert (texts(auto), auto.files, auto.moved) == ("", 1, size)
        assert [key[0] for key in auto.fallbacks] == ["reflink"]


@pytest.mark.parametrize(
    ("words", "more"),
    [
        ("--reflink=auto", ()),
        ("--reflink=never", ()),
        ("--reflink=never", ("-j2", "--verify")),
        ("--sparse=never", ()),
    ],
    ids=["auto", "never", "never, several", "filled"],
)
def test_never_asks_the_kernel_for_sharing_or_offload(
    words: str, more: tuple[str, ...], sharing: Path, tmp_path: Path
) -> None:
    source = sharing / "tree"
    (source / "below").mkdir(parents=True, exist_ok=True)
    for number in range(70):
        (source / f"below/{number}").write_bytes(content(4096, number))
    (source / "large").write_bytes(content(3 << 20))
    log = tmp_path / "log"
    subprocess.run(
        [
            *strace("-o", str(log), "-e", "trace=ioctl,copy_file_range"),
            *ZPIPE,
            *("cp", "-r", words, *more, str(source), str(sharing / f"copy{words}{len(more)}")),
        ],
        check=True,
        env=environment(),
        timeout=LONGEST,
    )
    offloads = re.findall(r"FICLONE\w*|copy_file_range\(", log.read_text())
    if words == "--reflink=auto":
        assert offloads.count("FICLONE") >= 71
    else:
        assert offloads == []


# any layout at all

KINDS = st.tuples(st.sampled_from("ddzh"), st.integers(1, 9000) | st.integers(1, 200_000))
QUICK = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def memory() -> Iterator[Path]:
    """A directory in a tmpfs, whose holes are told to the page."""
    if not os.path.ismount("/dev/shm"):
        missing("/dev/shm is not a tmpfs")
    with TemporaryDirectory(dir="/dev/shm") as place:
        yield Path(place)


def made(path: Path, layout: list[tuple[str, int]], seed: int) -> bytes:
    """Make a file of runs of data, zeros and holes of any length."""
    whole = bytearray()
    with open(path, "wb") as file:
        for kind, size in layout:
            run = random.Random(seed).randbytes(size) if kind == "d" else bytes(size)
            if kind == "h":
                file.seek(size, os.SEEK_CUR)
            else:
                file.write(run)
            whole += run
        file.truncate(len(whole))
    return bytes(whole)


@QUICK
@given(
    layout=st.lists(KINDS, max_size=8),
    sparse=st.sampled_from(["auto", "always", "never"]),
    verify=st.booleans(),
    digest=st.sampled_from([None, "sha256"]),
    seed=st.integers(0, 99),
)
def test_a_copy_is_what_its_source_is(
    memory: Path,
    layout: list[tuple[str, int]],
    sparse: str,
    verify: bool,
    digest: str | None,
    seed: int,
) -> None:
    with TemporaryDirectory(dir=memory) as name:
        folder = Path(name)
        (folder / "to").mkdir()
        whole = made(folder / "file", layout, seed)
        wishes = TreeWishes(sparse=sparse, verify=verify, digest=digest)
        outcome = carry(batch(folder, folder / "to", "file"), wishes)
        assert (texts(outcome), outcome.files) == ("", 1)
        copy = folder / "to/file"
        assert copy.read_bytes() == whole
        assert [done.digest for done in outcome.done] == [hashlib.sha256(whole).hexdigest()] * (
            digest is not None
        )
        has, had = (
            {
                page
                for begin, end in data_map(path)
                for page in range(begin // 4096, -(-end // 4096))
            }
            for path in (copy, folder / "file")
        )
        pages = range(-(-len(whole) // 4096))
        if sparse == "never":
            assert has == set(pages)
        elif sparse == "always":
            assert has == {page for page in pages if any(whole[page * 4096 : page * 4096 + 4096])}
        else:
            # the last page may reach beyond the end: what is allocated looks dense
            assert has <= had or len(whole) <= SMALL


@QUICK
@given(
    layout=st.lists(KINDS, min_size=1, max_size=8),
    cuts=st.lists(st.floats(0, 1), max_size=5),
    sparse=st.sampled_from(["auto", "never"]),
    verify=st.booleans(),
    order=st.randoms(use_true_random=False),
)
def test_ranges_at_any_cut_and_in_any_order_are_the_file(
    memory: Path,
    layout: list[tuple[str, int]],
    cuts: list[float],
    sparse: str,
    verify: bool,
    order: random.Random,
) -> None:
    with TemporaryDirectory(dir=memory) as name:
        source, temporary = Path(name) / "file", Path(name) / "temporary"
        whole = made(source, layout, 3)
        temporary.touch()
        os.truncate(temporary, len(whole))
        places = sorted({0, len(whole), *(int(cut * len(whole)) for cut in cuts)})
        tasks = [
            Chunk(
                number,
                str(source),
                str(temporary),
                str(temporary),
                begin,
                end - begin,
                identity_of(source.stat()),
                temporary.stat().st_ino,
            )
            for number, (begin, end) in enumerate(pairwise(places))
        ]
        tasks += order.sample(tasks, len(tasks) // 2)  # some are done twice
        order.shuffle(tasks)
        for task in tasks:
            assert texts(carry(task, TreeWishes(sparse=sparse, verify=verify))) == ""
        assert temporary.read_bytes() == whole
