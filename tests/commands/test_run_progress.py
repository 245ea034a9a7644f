"""Where a recipe stands: what a board makes of records, and what is shown of it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.commands import reports
from tests.commands.test_progress import on_terminal
from tests.machine import ZPIPE, content, zpipe
from zpipe.commands.board import Board
from zpipe.commands.records import Records
from zpipe.commands.run_progress import Told
from zpipe.commands.run_table import head, line, table

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20


def start(source: str, *sinks: str, expected: int | None = None) -> dict[str, Any]:
    return {
        "type": "start",
        "from": source,
        "to": list(sinks),
        "mover": "splice",
        "expected": expected,
    }


def progress(source: str, *sinks: str, **facts: Any) -> dict[str, Any]:
    defaults = {"state": "flowing", "bytes": 0, "seconds": 1.0, "mover": "splice", "waited": {}}
    return {"type": "progress", "from": source, "to": list(sinks), **defaults, **facts}


def output(**facts: Any) -> dict[str, Any]:
    return {"state": "flowing", "bytes": 0, "lag": 0, "mover": "tee", "error": None, **facts}


def board(*records: dict[str, Any], edges: str = "a b") -> Board:
    made = Board(tuple(edge.split()) for edge in edges.split(", "))  # type: ignore[misc]
    for record in records:
        made.take(record)
    return made


def states(of: Board) -> dict[str, str]:
    return {row.name: row.state for row in of.rows}


def test_an_edge_waits_flows_and_is_done() -> None:
    made = board(edges="a b, b c")
    assert states(made) == {"a -> b": "waiting", "b -> c": "waiting"}
    made.take(start("a", "b", expected=100))
    made.take(progress("a", "b", bytes=40, seconds=2.0, expected=100))
    (row, _) = made.rows
    assert (row.state, row.bytes, row.share, row.average) == ("flowing", 40, 0.4, 20)
    made.take(progress("a", "b", bytes=100, seconds=4.0, expected=100) | {"type": "hop"})
    assert states(made) == {"a -> b": "done", "b -> c": "waiting"}
    assert (row.rate, row.share) == (25, 1)


def test_the_rate_is_that_of_the_last_seconds() -> None:
    made = board(start("a", "b"))
    for second in range(1, 20):
        moved = second * MIB if second < 10 else 10 * MIB + (second - 10) * 1000
        made.take(progress("a", "b", bytes=moved, seconds=float(second)))
    assert made.rows[0].rate == pytest.approx(1000)


@pytest.mark.parametrize(
    ("later", "state"),
    [
        ({"bytes": 200}, "flowing"),
        ({"bytes": 200, "waited": {"sink": 0.9}}, "blocked"),
        ({"bytes": 200, "waited": {"source": 0.9}}, "flowing"),
        ({"bytes": 100}, "idle"),
        ({"bytes": 100, "state": "failed"}, "failed"),
    ],
)
def test_what_holds_an_edge_up(later: dict[str, Any], state: str) -> None:
    made = board(start("a", "b"), progress("a", "b", bytes=100))
    made.take(progress("a", "b", seconds=2.0, **later))
    assert states(made) == {"a -> b": state}


def test_outputs_have_rows_of_their_own() -> None:
    outputs = [
        output(bytes=100),
        output(bytes=70, lag=30, state="spilling"),
        output(state="failed", error="y: no"),
    ]
    made = board(
        start("a", "b", "c", "d"), progress("a", "b", "c", "d", outputs=outputs), edges="a b, a c"
    )
    b, c, d = made.rows
    assert (b.bytes, b.state) == (100, "flowing")
    assert (c.bytes, c.state, c.behind) == (70, "spilling", 30)
    assert (d.name, d.state, d.error) == ("a -> d", "failed", "y: no")


def test_sources_in_turn_share_what_the_outputs_took() -> None:
    made = board(
        start("a", "x", "y"),
        progress("a", "x", "y", outputs=[output(bytes=10), output(bytes=10)]),
        start("b", "x", "y"),
        progress("b", "x", "y", outputs=[output(bytes=17), output(bytes=15)]),
        edges="a x, a y, b x, b y",
    )
    assert {row.name: row.bytes for row in made.rows} == {
        "a -> x": 10,
        "a -> y": 10,
        "b -> x": 7,
        "b -> y": 5,
    }
    assert states(made)["a -> x"] == "done"


def test_what_goes_into_a_joint_is_an_edge_of_the_users_and_what_comes_out_is_not() -> None:
    made = board(
        start("a", "a -> c"),
        start("b", "b -> c"),
        progress("a", "a -> c", bytes=5),
        progress("b", "b -> c", bytes=6),
        start("a -> c (joint)", "c"),
        progress("a -> c (joint)", "c", bytes=4),
        edges="a c, b c",
    )
    assert [(row.name, row.joint, row.bytes) for row in made.rows] == [
        ("a -> c", False, 5),
        ("b -> c", False, 6),
        ("a (joint) -> c", True, 4),
    ]
    assert {row.state for row in made.rows} == {"flowing"}, "they go on at the same time"
    assert len(made.edges) == 2


def test_a_joint_of_many_is_named_after_what_is_behind_it() -> None:
    made = board(start("-> c, d", "c", "d"), edges="a c, a d, b c, b d")
    assert [row.name for row in made.rows if row.joint] == ["joint -> c", "joint -> d"]


def test_an_error_stops_what_was_under_way() -> None:
    made = board(start("a", "b"), {"type": "error", "text": "x"}, edges="a b, b c")
    assert states(made) == {"a -> b": "stopped", "b -> c": "waiting"}


@pytest.mark.parametrize("record", [{"type": "start", "source": "x"}, {"type": "end"}, {}])
def test_other_records_change_nothing(record: dict[str, Any]) -> None:
    assert states(board(record)) == {"a -> b": "waiting"}


# For people

BUSY = (
    start("disk", "copy", "gzip", expected=10 * MIB),
    progress(
        "disk",
        *("copy", "gzip"),
        expected=10 * MIB,
        outputs=[output(bytes=4 * MIB), output(bytes=3 * MIB, lag=MIB, state="blocked")],
    ),
    start("gzip", "packed"),
    progress("gzip", "packed", bytes=MIB),
)
EDGES = "disk copy, disk gzip, gzip packed, gzip later"


@pytest.mark.parametrize(
    ("place", "text"),
    [
        (0, "disk -> copy: 4.00 MiB of 10.0 MiB (40 %), 4.00 MiB/s, 1.00 s, tee, flowing"),
        (
            1,
            "disk -> gzip: 3.00 MiB of 10.0 MiB (30 %), 3.00 MiB/s, 1.00 s, tee, blocked,"
            " 1.00 MiB behind",
        ),
        (2, "gzip -> packed: 1.00 MiB, 1.00 MiB/s, 1.00 s, splice, flowing"),
        (3, "gzip -> later: waiting"),
    ],
)
def test_a_line_of_an_edge(place: int, text: str) -> None:
    assert line(board(*BUSY, edges=EDGES).rows[place]) == text


def test_a_line_of_all() -> None:
    made = board(*BUSY, edges=EDGES)
    assert head(made, "try", 75.0) == (
        "try: 0 of 4 edges done, 8.00 MiB, 8.00 MiB/s, 1:15; blocked: disk -> gzip"
    )
    made.take(progress("gzip", "packed", state="failed"))
    assert head(made, "", 1.0).endswith("; failed: gzip -> packed")


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100, 120])
def test_a_table_fits_the_terminal(width: int) -> None:
    made = board(
        *BUSY,
        start("a-very-long-name-of-a-node", "another-name-that-is-long-too"),
        edges=EDGES,
    )
    shown = table(made, "try", 1.0, width, 20)
    wide = [max(map(len, column)) for column in zip(shown.columns, *shown.rows, strict=True)]
    bar = 13 if shown.bars and "DONE" in shown.columns else 0
    assert sum(wide) + bar + 2 * (len(wide) - 1) <= max(width, 50)
    assert shown.columns[:3] == ("", "STATE", "BYTES")
    assert ("MOVER" in shown.columns) == (width >= 80)
    assert len(shown.rows) == 5


def test_of_many_edges_the_ones_under_way_are_shown() -> None:
    names = [f"n{number}" for number in range(30)]
    made = board(edges=", ".join(f"{name} x{name}" for name in names))
    for name in names[:10]:
        made.take(progress(name, f"x{name}", bytes=1) | {"type": "hop"})
    for name in names[10:14]:
        made.take(start(name, f"x{name}"))
    shown = table(made, "", 1.0, 80, 8)
    assert len(shown.rows) == 7
    assert [row[0] for row in shown.rows[:4]] == [f"{name} -> x{name}" for name in names[10:14]]
    assert shown.more == "and 23 more: 10 done, 13 waiting"


def test_the_user_sees_a_table_on_a_terminal_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(content(200_000))
    (tmp_path / "r.yaml").write_text(
        "zpipe: 1\nname: nightly\nnodes: {disk: b, copy: x, pass: {exec: cat}, out: y}\n"
        "edges:\n  - {from: disk, to: [copy, pass], rate_limit: 300K}\n  - pass -> out\n"
    )
    command = [*ZPIPE, "run", "--progress", "always", "r.yaml"]
    status, screen = on_terminal(tmp_path, *command)
    assert status == 0
    assert "nightly: " in screen
    assert re.search(r"disk -> copy\s.*flowing", screen)
    assert "pass -> out" in screen
    assert re.search(r"\d+ %", screen)
    assert screen.count("\x1b[?25h") == screen.count("\x1b[?25l") == 1  # the cursor is back
    assert screen.rpartition("pass -> out")[2].count("\x1b[2K") > 1  # lines are erased


@pytest.mark.parametrize(("count", "lines"), [(2, 2), (5, 1)])
def test_lines_without_a_terminal_are_few(tmp_path: Path, count: int, lines: int) -> None:
    """A rate at which the display is due once: what exceeds the first burst takes 1.2 s."""
    (tmp_path / "b").write_bytes(content(110_000))
    names = [f"x{number}" for number in range(count)]
    (tmp_path / "r.yaml").write_text(
        f"zpipe: 1\nname: few\nnodes: {{disk: b, {', '.join(f'{n}: {n}' for n in names)}}}\n"
        f"edges:\n  - {{from: disk, to: [{', '.join(names)}], rate_limit: 80000}}\n"
    )
    done = zpipe("run", "--progress", "always", "r.yaml", cwd=tmp_path)
    assert done.returncode == 0
    told = done.stderr.decode().splitlines()
    begun = {text.partition(", ")[0].partition(":")[2].partition(":")[0] for text in told}
    assert begun == ({" disk -> x0", " disk -> x1"} if lines == 2 else {" few"})
    assert len(told) % lines == 0


# What is told of a run, for a screen


def test_what_is_read_in_turn_is_told_of_once_more_when_the_next_begins() -> None:
    told: list[dict[str, Any]] = []
    records = Told(told.append, interval=None)
    outlets = [reports.outlet("x")]
    first, second = (reports.hop(ends=(name, ("x",)), moved=5) for name in "ab")
    first.outlets = second.outlets = outlets
    records.began(first)
    records.began(second)
    assert [(one["type"], one["from"]) for one in told] == [
        ("start", "a"),
        ("progress", "a"),
        ("start", "b"),
    ]


def test_a_listener_that_wants_less_is_told_less() -> None:
    told: list[dict[str, Any]] = []
    records = Records(told.append, interval=1000.0)
    hop = reports.hop(reports.outlet("x"))
    for _ in range(3):
        records.progress(hop)
    assert len(told) == 1
