"""`zpipe plan`: the table, what stands below it, and the same as JSON."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import shlex
import socket
import struct
import subprocess
import termios
from typing import TYPE_CHECKING, Any

import click
import pytest

from tests.commands.shell import names, refused
from tests.machine import LONGEST, ROOT, ZPIPE, content, environment, zpipe
from tests.test_manual import examples
from zpipe.commands.plan import COMMAND
from zpipe.commands.plan_table import Planned, document, table
from zpipe.endpoints import parse
from zpipe.engine.forecast import Foreseen, forecast
from zpipe.errors import TransferError, UsageError
from zpipe.graph.model import Edge, Endpoint, Graph, Node, Wishes
from zpipe.movers.contract import Cost
from zpipe.plan.choice import Candidate, HopPlan, Refusal

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BIG = 300_000
HEAD = ["HOP", "MOVER", "CPU", "DMA", "CALLS/MiB"]
RECIPE = """\
zpipe: 1
params:
  FROM: {type: path, default: a}
nodes:
  disk: ${FROM}
  gzip: {exec: [gzip, -c]}
  sum: {hash: sha256, file: x.sum}
  out: x.gz
edges:
  - disk -> gzip, sum
  - gzip -> out
"""
PROXIES = """
proxies:
  db:
    listen: 127.0.0.1:5432
    upstreams: 10.0.0.1:5432
    mirrors: 10.0.0.9:5432
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(content(BIG))
    return tmp_path


@pytest.fixture
def plan(capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run the command in this process; return what it printed."""

    def run(*words: str) -> str:
        COMMAND.main(list(words), prog_name="zpipe plan", standalone_mode=False)
        shown = capfd.readouterr()
        assert shown.err == ""
        return shown.out

    return run


def cells(text: str) -> list[list[str]]:
    """Return the rows of the table, from the head to the first line that is no row."""
    lines = text.partition("\n\n")[0].splitlines()
    assert lines[0].split() == HEAD
    ends = [lines[0].index(head) + len(head) for head in HEAD[2:]]
    mover = lines[0].index("MOVER")
    rows = []
    for line in lines[1:]:
        figures = [line[end - 9 : end].split()[-1] for end in ends]
        assert len(line) == ends[-1]
        rows.append([line[:mover].strip(), line[mover:].split()[0], *figures])
    return rows


COST = Cost(1, 2, 3.0)


def hop(source: str, *sinks: str, cost: Cost = COST, caveat: str = "", **more: Any) -> Foreseen:
    """Return a hop between paths, by two movers, of which a third one was refused."""
    nodes = [Node(text, Endpoint(text, "file", text)) for text in (source, *sinks)]
    candidates = (
        Candidate("splice", "moves references", cost, caveat),
        Candidate("plain", "copies", Cost(2, 2, 8.0)),
    )
    made = HopPlan(candidates, (Refusal("reflink", "no blocks are shared"),), **more)
    return Foreseen(nodes[0], tuple(nodes[1:]), made, Wishes(), (None,) * len(sinks))


# The table


def test_a_row_for_each_hop() -> None:
    text = table(Planned([hop("a", "x", "y"), hop("long-name", "z", cost=Cost(0, 0.5, 128))]))
    assert cells(text) == [
        ["a -> x, y", "splice", "1", "2", "3"],
        ["long-name -> z", "splice", "0", "0.5", "128"],
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.01, "<0.1"), (0.25, "0.25"), (1.0, "1"), (4.5, "4.5"), (31.6, "32")],
)
def test_figures_are_short(value: float, text: str) -> None:
    assert cells(table(Planned([hop("a", "x", cost=Cost(1, 1, value))])))[0][-1] == text


@pytest.mark.parametrize("width", [60, 80, 100])
def test_no_row_is_wider_than_it_may_be(width: int) -> None:
    long = "/".join(["folder"] * 20)
    made = Planned(
        [
            hop(f"{long}/source", f"{long}/sink", caveat="mind " * 60),
            hop("short", f"{long}/sink"),
            hop(f"{long}/source", "short"),
        ]
    )
    text = table(made, width=width)
    rows = cells(text)
    for row in rows:
        source, _, sink = row[0].partition(" -> ")
        assert source.startswith(("fold", "short"))
        assert sink.endswith(("sink", "short"))
        assert "..." in row[0]
    assert len(text.splitlines()[0]) == width
    assert rows[1][0].startswith("short -> ")
    assert rows[2][0].endswith(" -> short")
    # names stand in full at least once; everything else keeps to the width
    assert f"{long}/source -> {long}/sink" in text.splitlines()
    assert all(len(line) <= width or long in line for line in text.splitlines())


def test_reasons_stand_below_once_for_all_that_share_them() -> None:
    same = [hop(f"a{number}", "x") for number in range(6)]
    text = table(Planned([*same, hop("b", "y", notes=("a note",), caveat="a caveat")]))
    blocks = text.split("\n\n")
    assert blocks[-2:] == [
        "a0 -> x\na1 -> x\na2 -> x\nand 3 more\n"
        "  plan      moves references\n"
        "  refused   reflink: no blocks are shared\n"
        "  else      plain",
        "b -> y\n"
        "  plan      moves references\n"
        "  refused   reflink: no blocks are shared\n"
        "  else      plain\n"
        "  note      a note\n"
        "  caveat    a caveat",
    ]


def test_the_hops_of_a_proxy_have_its_name() -> None:
    text = table(Planned([]), [Planned([hop("clients", "server")], "db")])
    assert cells(text)[0][0] == "db: clients -> server"


def test_a_name_cannot_break_the_table_or_steer_the_terminal() -> None:
    text = table(Planned([hop("two\nlines", "\x1b[31mred")]))
    assert cells(text)[0][0] == r"two\nlines -> \x1b[31mred"
    assert "\x1b" not in text


def test_nodes_are_called_by_their_ids_and_addresses_stand_below(folder: Path) -> None:
    nodes = {"disk": "a", "gz": "exec:gzip -c", "out": "x"}
    graph = Graph(
        tuple(Node(name, parse(text, sink=name == "out")) for name, text in nodes.items()),
        (Edge("disk", "gz"), Edge("gz", "out")),
    )
    hops = forecast(graph)
    text = table(Planned(hops, by_id=True))
    assert [row[0] for row in cells(text)] == ["disk -> gz", "gz -> out"]
    assert "NODE  ADDRESS\ndisk  a\ngz    exec:gzip -c\nout   x\n" in text
    total = next(line for line in text.splitlines() if line.startswith("total"))
    figures = [hop.plan.first.cost for hop in hops]
    assert total.split()[:5] == ["total", "per", "byte", "of", "disk"]
    assert total.split()[5] == str(sum(cost.cpu_copies for cost in figures))
    assert "What gz makes of its input counts as if it were as many bytes." in text
    text = table(Planned(hops))
    assert [row[0] for row in cells(text)] == ["a -> exec:gzip -c", "exec:gzip -c -> x"]
    assert "ADDRESS" not in text


def test_one_hop_is_its_own_total() -> None:
    assert "total" not in table(Planned([hop("a", "x"), hop("b", "x")]))


def test_joints_are_told_by_what_comes_together(folder: Path) -> None:
    nodes = tuple(Node(name, parse(name, sink=name in "xy")) for name in "abxy")
    for merge, row in (("as-ready", "joint before x -> x"), ("in-order", "a (joint) -> x")):
        edges = (
            Edge("a", "y"),
            *(Edge(name, "x", merge=merge) for name in "ab"),  # type: ignore[arg-type]
        )
        names = [each[0] for each in cells(table(Planned(forecast(Graph(nodes, edges)))))]
        assert names[:2] == ["a -> y, joint before x", "b -> joint before x"]
        assert row in names


def test_the_document_has_all_that_the_table_has(folder: Path) -> None:
    made = Planned([hop("a", "x", "y", notes=("a note",), caveat="a caveat")])
    found = document(made, [Planned([hop("clients", "server")], "db")])
    assert json.loads(json.dumps(found)) == found
    assert found["v"] == 1
    assert found["hops"] == [
        {
            "from": "a",
            "to": ["x", "y"],
            "source": "a",
            "sinks": ["x", "y"],
            "mover": "splice",
            "candidates": [
                {
                    "mover": "splice",
                    "summary": "moves references",
                    "cpu_copies": 1,
                    "dma_copies": 2,
                    "syscalls_per_mib": 3.0,
                    "switches_per_mib": 6.0,
                    "caveat": "a caveat",
                },
                {
                    "mover": "plain",
                    "summary": "copies",
                    "cpu_copies": 2,
                    "dma_copies": 2,
                    "syscalls_per_mib": 8.0,
                    "switches_per_mib": 16.0,
                    "caveat": "",
                },
            ],
            "refused": [{"mover": "reflink", "why": "no blocks are shared"}],
            "cpu_copies": 1,
            "dma_copies": 2,
            "syscalls_per_mib": 3.0,
            "switches_per_mib": 6.0,
            "caveats": ["a caveat"],
            "notes": ["a note"],
            "joint": False,
        }
    ]
    assert found["totals"] == [
        {
            "of": "a",
            "source": "a",
            "hops": 1,
            "cpu_copies": 1,
            "dma_copies": 2,
            "syscalls_per_mib": 3.0,
            "switches_per_mib": 6.0,
            "through": [],
        }
    ]
    assert [(each["name"], len(each["hops"])) for each in found["proxies"]] == [("db", 1)]


# Commands


@pytest.mark.parametrize(
    "words",
    [
        ["cp", "a", "x"],
        ["cp", "--via", "splice", "a", "x"],
        ["cp", "a", "--to", "x", "--to", "null:"],
        ["cp", "-r", "d", "x"],
        ["cat", "a", "b"],
        ["cat", "--hash", "md5", "a"],
        ["tee", "-a", "x"],
    ],
    ids=" ".join,
)
def test_a_command_is_planned_as_by_its_dry_run(folder: Path, words: list[str]) -> None:
    (folder / "d").mkdir()
    (folder / "d/a").write_bytes(b"1")
    before = names(folder)
    done = zpipe("plan", *words, cwd=folder)
    assert (done.returncode, done.stderr) == (0, b"")
    name, *rest = words
    assert done.stdout == zpipe(name, "--dry-run", *rest, cwd=folder).stdout != b""
    assert names(folder) == before


@pytest.mark.parametrize("words", [["--json", "cp", "a", "x"], ["cp", "--json", "a", "x"]])
def test_a_command_as_json(folder: Path, plan: Callable[..., str], words: list[str]) -> None:
    found = json.loads(plan(*words))
    assert [(each["source"], each["sinks"]) for each in found["hops"]] == [("a", ["x"])]


def test_a_proxy_is_planned_and_not_begun(folder: Path, plan: Callable[..., str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        peer = f"127.0.0.1:{server.getsockname()[1]}"
        words = ["--listen", "unix:listener", "--mirror", peer, "--capture", "tapes", peer]
        text = plan("proxy", *words)
        found = json.loads(plan("--json", "proxy", *words))
        with pytest.raises(BlockingIOError):
            server.accept()
    there = f"clients of unix:listener -> {peer}, mirror {peer}, capture tapes"
    back = f"{peer} -> clients of unix:listener, capture tapes"
    assert [row[1] for row in cells(text)] == ["tee", "tee"]
    assert {there, back} <= set(text.splitlines())
    (proxy,) = found["proxies"]
    assert (found["hops"], proxy["name"]) == ([], "")
    assert [each["mover"] for each in proxy["hops"]] == ["tee", "tee"]
    assert names(folder) == ["a", "b"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["cp", "a"], "cp: a: give a DST after it"),
        (["cp", "--via", "reflink", "--no-via", "reflink", "a", "x"], "both asked for"),
        (["-p", "X=1", "cp", "a", "x"], "-p: is for a recipe"),
        (["copy", "a", "x"], "plan: a: give one recipe, or cp, cat, tee or proxy before"),
        (["proxy"], "proxy: no upstream"),
        (["proxy", "--stdio", "h:1"], "--stdio: is not planned"),
        (["proxy", "--capture-max", "1G", "h:1"], "has no effect without --capture"),
    ],
)
def test_what_makes_no_sense(plan: Callable[..., str], words: list[str], message: str) -> None:
    with pytest.raises(UsageError) as raised:
        plan(*words)
    assert message in str(raised.value)


@pytest.mark.parametrize("words", [[], ["--nosuch"], ["cp", "--nosuch"], ["proxy", "no:where"]])
def test_what_cannot_be_read(plan: Callable[..., str], words: list[str]) -> None:
    with pytest.raises(click.UsageError):
        plan(*words)


def test_all_that_is_certain_to_fail_is_told(folder: Path) -> None:
    done = zpipe("plan", "cat", "a", "nosuch", "exec:nosuch-program", cwd=folder)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.decode().splitlines() == [
        "zpipe: nosuch: open: No such file or directory",
        "zpipe: exec:nosuch-program: start: nosuch-program: No such file or directory",
    ]


def test_the_terminal_gives_the_width(folder: Path) -> None:
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 70, 0, 0))
    long = "x" * 90
    child = subprocess.Popen(
        [*ZPIPE, "plan", "cp", "a", long], cwd=folder, env=environment(), stdout=follower
    )
    os.close(follower)
    shown = b""
    try:
        while some := os.read(leader, 1 << 16):
            shown += some
    except OSError:
        pass  # EIO: the other side is closed
    finally:
        os.close(leader)
    assert child.wait(LONGEST) == 0
    text = shown.decode().replace("\r\n", "\n")
    assert "..." in cells(text)[0][0]
    assert max(len(line) for line in text.splitlines() if long not in line) in range(60, 71)


# Recipes


def test_a_recipe(folder: Path, plan: Callable[..., str]) -> None:
    (folder / "recipe.yaml").write_text(RECIPE + PROXIES)
    text = plan("recipe.yaml")
    assert [row[0] for row in cells(text)] == [
        "disk -> gzip, sum",
        "gzip -> out",
        "db: clients of 127.0.0.1:5432 -> 10.0.0.1:5432, mirror 10.0.0.9:5432",
        "db: 10.0.0.1:5432 -> clients of 127.0.0.1:5432",
    ]
    assert "\ntotal per byte of disk " in text
    assert "\nout   x.gz\n" in text
    assert names(folder) == ["a", "b", "recipe.yaml"]


def test_parameters_and_options_may_follow_the_recipe(
    folder: Path, plan: Callable[..., str]
) -> None:
    (folder / "cp").write_text(RECIPE)
    found = json.loads(plan("./cp", "-p", "FROM=b", "--json"))
    assert [each["from"] for each in found["hops"]] == ["disk", "gzip"]
    assert found["hops"][0]["source"] == "b"
    assert [(each["of"], each["hops"]) for each in found["totals"]] == [("disk", 2)]
    with pytest.raises(TransferError, match=r"^nosuch: open: No such file"):
        plan("-p", "FROM=nosuch", "./cp")


def test_a_recipe_on_standard_input(folder: Path) -> None:
    done = zpipe("plan", "-", cwd=folder, data=RECIPE.encode())
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"disk -> gzip, sum" in done.stdout


def test_a_recipe_that_is_not_sound(folder: Path) -> None:
    (folder / "recipe.yaml").write_text(RECIPE.replace("gzip -> out", "gzip -> uot"))
    refused(zpipe("plan", "recipe.yaml", cwd=folder), 2, "recipe.yaml:11:", "uot")


# The manual


@pytest.mark.parametrize("text", examples(ROOT / "man/man1/zpipe-plan.1"))
def test_examples_of_the_manual(folder: Path, plan: Callable[..., str], text: str) -> None:
    (folder / "disk.img").write_bytes(content(BIG))
    (folder / "backup.yaml").write_text(RECIPE.replace("FROM", "SOURCE"))
    before = names(folder)
    _, _, *words = shlex.split(text.partition("|")[0])
    shown = plan(*words)
    assert json.loads(shown)["totals"] if "--json" in words else cells(shown)
    assert names(folder) == before
