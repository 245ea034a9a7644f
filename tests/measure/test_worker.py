"""One measurement: every technique on every route, what it counts, and what the model says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from tests.machine import LONGEST, environment, strace
from zpipe.bench.carry import cost_of
from zpipe.bench.cells import GIB, KIB, LOG, MIB, ROUTES, TECHNIQUES, Cell
from zpipe.bench.ends import Ends
from zpipe.bench.schedule import Refused, TooLong
from zpipe.bench.scratch import Scratch
from zpipe.bench.worker import measure, measure_log
from zpipe.endpoints.gather import preview_path
from zpipe.graph.model import Wishes
from zpipe.movers import mover_of
from zpipe.movers.drain import BUFFER
from zpipe.movers.pump import piece_into
from zpipe.plan.fan import choose_fan
from zpipe.values import replace

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SIZE = 96 * KIB
OUTPUTS = 3
FOREVER = float("inf")

# what a technique cannot do, by a word of the reason; all else is measured
REFUSED = {
    "file-file": {"tee": "several"},
    "file-tcp": {"copy_file_range": "regular", "reflink": "regular", "tee": "several"},
    "file-pipe": {"copy_file_range": "regular", "reflink": "regular", "tee": "several"},
    "tcp-tcp": {
        "mmap+write": "mapped",
        "sendfile": "not a file",
        "copy_file_range": "regular",
        "reflink": "regular",
        "O_DIRECT": "disk",
        "tee": "several",
    },
    "pipe-pipes": dict.fromkeys(
        ("mmap+write", "sendfile", "splice", "copy_file_range", "reflink", "O_DIRECT"), "one sink"
    ),
}
CELLS = [Cell(name, route, SIZE) for route in ROUTES.values() for name in TECHNIQUES]


def names(cells: list[Cell]) -> list[str]:
    return [f"{cell.route.name}-{cell.technique}" for cell in cells]


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Scratch]:
    with Scratch(str(tmp_path), SIZE) as made:
        yield made


def source_of(cell: Cell, scratch: Scratch) -> str:
    return scratch.source(cell.size, lambda: None) if cell.route.source == "file" else ""


@pytest.mark.parametrize("cell", CELLS, ids=names(CELLS))
def test_every_cell_is_measured_or_refused(cell: Cell, scratch: Scratch) -> None:
    source = source_of(cell, scratch)
    word = REFUSED[cell.route.name].get(cell.technique)
    try:
        sample, cost = measure(cell, source, scratch, OUTPUTS, 0.001, FOREVER)
    except Refused as refused:
        # the filesystem of the tests may not share blocks, or know no direct I/O
        of_filesystem = cell.technique in ("reflink", "O_DIRECT")
        assert of_filesystem if word is None else word in str(refused)
        return
    assert word is None
    assert sample.bytes == sample.transfers * cell.size > 0
    assert sample.seconds > 0 and sample.cpu >= 0
    assert sample.calls and sum(sample.calls.values()) >= sample.transfers
    assert cost.syscalls_per_mib > 0


COUNTED: dict[tuple[str, str, int], dict[str, float]] = {
    ("read+write", "file-file", MIB): {"readv": MIB / BUFFER, "write": MIB / BUFFER},
    ("read+write", "file-file", 512): {"readv": 1, "write": 1},
    ("mmap+write", "file-file", MIB): {"mmap": 1, "write": 1, "fstat": 2},
    ("sendfile", "file-file", MIB): {"sendfile": 1},
    ("splice", "file-file", MIB): {"splice": 2},  # in and out
    ("splice", "file-file", 4 * MIB): {"splice": 8},
    ("copy_file_range", "file-file", MIB): {"copy_file_range": 1},
}


# where the sink is written in pieces of 128 KiB
PIECES: dict[tuple[str, str, int], dict[str, float]] = {
    ("read+write", "file-file", MIB): {"readv": 8, "write": 8},
    ("splice", "file-file", MIB): {"splice": 9},
    ("splice", "file-file", 4 * MIB): {"splice": 36},
}


def in_pieces(scratch: Scratch) -> bool:
    facts = preview_path(scratch.source(1, lambda: None))
    assert facts is not None
    return piece_into(facts) < BUFFER


@pytest.mark.parametrize("key", COUNTED, ids=lambda key: f"{key[0]}-{key[2]}")
def test_calls_of_a_transfer_are_counted(key: tuple[str, str, int], scratch: Scratch) -> None:
    cell = Cell(key[0], ROUTES[key[1]], key[2])
    sample, _ = measure(cell, source_of(cell, scratch), scratch, OUTPUTS, 0, FOREVER)
    assert sample.calls is not None
    each = {name: count / sample.transfers for name, count in sample.calls.items()}
    assert each == (COUNTED[key] if not in_pieces(scratch) else COUNTED[key] | PIECES.get(key, {}))


SCRIPT = """
import json, sys
from zpipe.bench.cells import ROUTES, Cell
from zpipe.bench.scratch import Scratch
from zpipe.bench.worker import measure
size = int(sys.argv[2])
with Scratch(sys.argv[1], size) as scratch:
    source = scratch.source(size, lambda: None)
    sink = scratch.sink()
    open(sys.argv[3], "w").write(json.dumps([source, sink]))
    cell = Cell("read+write", ROUTES["file-file"], size)
    sample, _ = measure(cell, source, scratch, 1, 0, float("inf"))
    print(json.dumps([sample.transfers, sample.calls]))
"""


def test_counts_are_those_that_strace_sees(tmp_path: Path) -> None:
    size = 8 * MIB  # a batch of one file, after a first transfer of 1 MiB
    trace = tmp_path / "trace"
    tracer = strace("-y", "-e", "trace=readv,write", "-o", str(trace))
    done = subprocess.run(
        [*tracer, sys.executable, "-c", SCRIPT, tmp_path, str(size), tmp_path / "names"],
        env=environment(),
        capture_output=True,
        timeout=LONGEST,
        check=True,
    )
    transfers, calls = json.loads(done.stdout)
    source, sink = json.loads((tmp_path / "names").read_text())
    seen = trace.read_text().splitlines()
    facts = preview_path(str(tmp_path / "trace"))
    assert facts is not None
    once = min(BUFFER, piece_into(facts))
    before = MIB // once
    reads = sum("readv(" in line and f"<{source}>" in line for line in seen)
    writes = sum("write(" in line and f"<{sink}" in line for line in seen)
    assert transfers == 1
    assert (reads - before, writes - before) == (calls["readv"], calls["write"])
    assert (calls["readv"] + calls["write"]) * MIB / size == 2 * MIB / once


@pytest.mark.parametrize("cell", CELLS, ids=names(CELLS))
def test_the_model_is_that_of_the_movers(cell: Cell, scratch: Scratch) -> None:
    if cell.technique in REFUSED[cell.route.name]:
        return
    with Ends(cell.route, source_of(cell, scratch), [scratch.sink()], OUTPUTS) as ends:
        source, sinks = ends.source.facts, [sink.facts for sink in ends.sinks]
        try:
            cost = cost_of(cell.technique, cell.route, source, sinks)
        except Refused:
            assert cell.technique in ("reflink", "O_DIRECT")
            return
        known = TECHNIQUES[cell.technique]
        if cell.route.several:
            assert cost == choose_fan(source, sinks, Wishes(via=known.way)).first.cost
        else:
            assert cost == mover_of(known.mover).cost(source, sinks[0])


def test_a_small_file_is_not_refused_for_being_small(scratch: Scratch) -> None:
    cell = Cell("splice", ROUTES["file-pipe"], 512)
    sample, _ = measure(cell, source_of(cell, scratch), scratch, OUTPUTS, 0, FOREVER)
    assert sample.calls is not None and sample.calls["splice"] == 2 * sample.transfers


def test_reflink_where_blocks_are_shared(sharing: Path) -> None:
    with Scratch(str(sharing), SIZE) as scratch:
        cell = Cell("reflink", ROUTES["file-file"], SIZE)
        sample, cost = measure(cell, source_of(cell, scratch), scratch, OUTPUTS, 0, FOREVER)
    assert sample.calls == {"ioctl(FICLONE)": sample.transfers}
    assert (cost.cpu_copies, cost.dma_copies) == (0, 0)


@pytest.mark.parametrize("technique", ["mmap+write", "sendfile"])
@pytest.mark.parametrize("size", [512, 100_000])
def test_records_of_a_log(technique: str, size: int, scratch: Scratch) -> None:
    log = scratch.source(MIB, lambda: None)
    sample, cost = measure_log(Cell(technique, LOG, size), log, 0.02, FOREVER)
    assert sample.bytes == sample.transfers * size
    assert sample.calls is not None
    assert sample.calls[technique.rpartition("+")[2]] >= sample.transfers
    assert cost.syscalls_per_mib == MIB / size


@pytest.mark.parametrize("route", list(ROUTES))
def test_a_measurement_gives_up_in_time(route: str, scratch: Scratch) -> None:
    cell = Cell("read+write", ROUTES[route], GIB)
    source = scratch.source(SIZE, lambda: None) if cell.route.source == "file" else ""
    with Ends(cell.route, source, [scratch.sink()], OUTPUTS) as ends, pytest.raises(TooLong):
        from zpipe.bench.carry import Carrier

        carrier = Carrier("read+write", ends.source, ends.sinks, several=cell.route.several)
        carrier.until(time.monotonic())
        carrier.carry(ends.sinks[0], GIB)


def test_readers_get_what_was_sent(scratch: Scratch) -> None:
    with Ends(ROUTES["pipe-pipes"], "", (), OUTPUTS) as ends:
        for sink in ends.sinks:
            os.set_blocking(sink.fd, True)
            os.write(sink.fd, b"x" * 1000)
        assert ends.arrived() == OUTPUTS * 1000


def test_facts_of_ends_are_those_that_movers_meet_in_a_run(scratch: Scratch) -> None:
    source = scratch.source(SIZE, lambda: None)
    with Ends(ROUTES["file-tcp"], source, (), 1) as ends:
        (sink,) = ends.sinks
        assert (sink.facts.type, sink.facts.route, sink.facts.nonblocking) == ("tcp", "lo", True)
        assert ends.source.facts.size == SIZE
        assert replace(sink.facts, type="tcp") == sink.facts
