"""Several streams at the same time: what goes through, what comes together, and how it ends."""

from __future__ import annotations

import gzip
import os
import shlex
import threading
from collections import Counter
from functools import lru_cache
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import zpipe
from tests.engine.carrying import Told, built, carry, failing, nothing_left, wishing
from tests.graph.letters import WAYS, drawn, graph
from tests.machine import content, until
from zpipe.engine import lines
from zpipe.engine.stop import Relayed
from zpipe.errors import Interrupted, OutputsDropped, TransferError
from zpipe.graph.check import check
from zpipe.graph.model import Endpoint, Graph, Wishes
from zpipe.values import replace

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from zpipe.engine.report import HopReport

BIG = 3_000_001  # more than a pipe holds
FIRST, SECOND = content(BIG, 1), content(BIG, 2)
MIB = 1 << 20


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "a").write_bytes(FIRST)
    (tmp_path / "b").write_bytes(SECOND)
    monkeypatch.chdir(tmp_path)
    with nothing_left(tmp_path):
        yield tmp_path


def shell(script: str) -> str:
    return f"exec:sh -c {shlex.quote(script)}"


# What arrives


def test_a_chain_of_processes(folder: Path) -> None:
    whole = built("ap pq qx", a="a", p="exec:gzip -1", q="exec:gzip -d", x="x")
    report = carry(whole)
    assert (folder / "x").read_bytes() == FIRST
    assert [(each.node, each.status) for each in report.processes] in (
        [("p", 0), ("q", 0)],
        [("q", 0), ("p", 0)],
    )
    assert [hop.ends for hop in report.hops] == [("a", ("p",)), ("p", ("q",)), ("q", ("x",))]
    assert report.hops[0].moved == report.hops[2].moved == BIG


def test_what_is_compressed_goes_to_a_file_and_what_is_not_to_another(folder: Path) -> None:
    carry(built("ap ay px", a="a", p="exec:gzip -1", x="x", y="y"))
    assert gzip.decompress((folder / "x").read_bytes()) == FIRST
    assert (folder / "y").read_bytes() == FIRST


def test_sources_of_sinks_that_are_shared_in_part(folder: Path) -> None:
    carry(built("ax ay bx", a="a", b="b", x="x", y="y"))
    assert (folder / "x").read_bytes() == FIRST + SECOND
    assert (folder / "y").read_bytes() == FIRST


def test_no_sink_is_opened_by_two_streams(folder: Path) -> None:
    (folder / "c").write_bytes(b"third")
    carry(built("ax ay bx by cx", a="a", b="b", c="c", x="x", y="y"))
    assert (folder / "x").read_bytes() == FIRST + SECOND + b"third"
    assert (folder / "y").read_bytes() == FIRST + SECOND


def test_as_ready_each_source_keeps_its_order(folder: Path) -> None:
    """Each source has bytes of its own, which count up."""
    for place, name in enumerate("ab"):
        (folder / name).write_bytes(bytes(place * 100 + n % 100 for n in range(BIG)))
    carry(built("ax~ bx~", a="a", b="b", x="x"))
    got = (folder / "x").read_bytes()
    assert len(got) == 2 * BIG
    for place, name in enumerate("ab"):
        others = bytes(range(100 - place * 100, 200 - place * 100))
        assert got.translate(None, others) == (folder / name).read_bytes()


def test_as_ready_nobody_waits_for_his_turn(folder: Path) -> None:
    """The first says nothing until the other's bytes have arrived."""
    os.mkfifo("fifo")
    reader, writer = os.pipe()
    with open(writer, "wb", buffering=0):
        late = shell("read line <fifo; echo late")

        def see() -> None:
            assert os.read(reader, 100) == b"early\n"
            with open("fifo", "w") as fifo:
                fifo.write("go\n")

        thread = threading.Thread(target=see)
        thread.start()
        carry(built("ax~ bx~", a=late, b="exec:echo early", x=f"fd:{writer}"))
        thread.join()
    with open(reader, "rb") as rest:
        assert rest.read() == b"late\n"


def test_lines_are_whole(folder: Path) -> None:
    for name in "ab":
        text = "".join(f"{name}{n}:{'.' * (n % 3000)}\n" for n in range(2000))
        (folder / name).write_text(text)
    carry(built("ax= bx=", a="a", b="b", x="x"))
    got = (folder / "x").read_text().splitlines()
    for name in "ab":
        assert [line for line in got if line[0] == name] == (folder / name).read_text().split()


def test_lines_that_are_long_come_together_again(folder: Path) -> None:
    """Each of two processes waits until the other has taken what there is."""
    line = b"x" * (8 * MIB) + b"\n"
    (folder / "a").write_bytes(line)
    carry(built("ap aq px= qx=", a="a", p="exec:cat", q="exec:cat", x="x"))
    assert (folder / "x").read_bytes() == line * 2


def test_what_would_be_a_deadlock_comes_to_its_end_where_it_is_spilled(folder: Path) -> None:
    (folder / "a").write_bytes(FIRST * 4)
    carry(built("ax+ ap px+", a="a", p="exec:cat", x="x"))
    assert (folder / "x").read_bytes() == FIRST * 8


def test_a_process_that_is_only_read_and_one_that_is_only_written(folder: Path) -> None:
    carry(built("pq qr", p="exec:cat a", q="exec:cat", r=shell("cat >x")))
    assert (folder / "x").read_bytes() == FIRST


def test_a_digest_of_what_comes_through(folder: Path) -> None:
    import hashlib

    told = Told()
    carry(built("ap px ph", a="a", p="exec:cat", x="x", h="hash:sha256"), told)
    assert [line.split()[0] for line in told.answers] == [hashlib.sha256(FIRST).hexdigest()]


def test_a_length_is_that_of_each_source(folder: Path) -> None:
    carry(wishing(built("ax~ bx~", a="a", b="b", x="x"), length=10))
    assert Counter((folder / "x").read_bytes()) == Counter(FIRST[:10] + SECOND[:10])


# Random graphs, for real


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=drawn(most=4), small=st.booleans())
@example(graph("AB", "BC+", "AC+", kind=lambda _: "exec"), False)
@example(graph("AC+", "AB", "BC+", kind=lambda _: "exec"), False)
def test_what_is_sound_comes_to_its_end_and_every_byte_arrives(
    folder: Path, drawn: Graph, small: bool
) -> None:
    """Each source has more than the pipes on its way hold."""
    if check(drawn, WAYS):
        return
    of = real(drawn, Wishes(pipe_size=4096) if small else Wishes())
    carry(of)
    for node in of.nodes:
        if not any(edge.source == node.id for edge in of.edges):
            arrived(of, node.id, (folder / node.endpoint.address).read_bytes())


LINES = 350_000


def real(drawn: Graph, wishes: Wishes) -> Graph:
    """Return a graph with real ends: files outside, `cat` inside."""
    nodes = []
    for node in drawn.nodes:
        read = any(edge.source == node.id for edge in drawn.edges)
        written = any(edge.sink == node.id for edge in drawn.edges)
        if read and written:
            end = Endpoint("exec:cat", "exec", "cat")
        else:
            end = Endpoint(f"{node.id}.bin", "file", f"{node.id}.bin")
            if read:
                with open(end.address, "wb") as file:
                    file.write(made(node.id))
        nodes.append(replace(node, endpoint=end))
    return Graph(tuple(nodes), tuple(replace(edge, wishes=wishes) for edge in drawn.edges))


@lru_cache
def made(name: str) -> bytes:
    """Return what a source has: lines that tell whose they are."""
    return b"".join(b"%s%d\n" % (name.encode(), n) for n in range(LINES))


def arrived(graph: Graph, name: str, got: bytes) -> None:
    """Check what has arrived at a node as far as the order of it is told by the graph."""
    wanted, kinds = model(graph, name)
    assert len(got) == len(wanted)
    if "as-ready" in kinds:
        assert [got.count(byte) for byte in range(256)] == [wanted.count(b) for b in range(256)]
    elif "lines" in kinds:
        # in any order: a sum tells as much as counting each, in a fraction of the time
        assert sum(map(hash, got.split(b"\n"))) == sum(map(hash, wanted.split(b"\n")))
    else:
        assert got == wanted


def model(graph: Graph, name: str) -> tuple[bytes, set[str]]:
    """Return what comes together at a node, and in which ways it was merged before."""
    edges = [edge for edge in graph.edges if edge.sink == name]
    if not edges:
        return made(name), set()
    parts = [model(graph, edge.source) for edge in edges]
    kinds = {edges[0].merge, *(kind for _, kinds in parts for kind in kinds)}
    return b"".join(data for data, _ in parts), kinds


# Who has enough


def test_a_filter_that_has_enough(folder: Path) -> None:
    report = carry(built("ap px", a="exec:yes", p="exec:head -n 2", x="x"))
    assert (folder / "x").read_bytes() == b"y\ny\n"
    assert {each.node: each.status for each in report.processes} == {"a": -13, "p": 0}


def test_a_filter_that_has_enough_of_a_chain(folder: Path) -> None:
    chain = built("ap pq qx", a="exec:yes", p="exec:cat", q="exec:head -n 2", x="x")
    carry(chain)
    assert (folder / "x").read_bytes() == b"y\ny\n"


@pytest.mark.parametrize("mark", ["~", "="])
def test_a_filter_that_has_enough_behind_a_joint(folder: Path, mark: str) -> None:
    ends = {"a": "exec:yes", "b": "exec:yes", "p": "exec:head -n 2", "x": "x"}
    carry(built(f"ap{mark} bp{mark} px", **ends))
    assert (folder / "x").read_bytes() == b"y\ny\n"


@pytest.mark.parametrize("mark", ["~", "="])
def test_a_filter_that_has_enough_of_those_who_say_nothing_more(folder: Path, mark: str) -> None:
    """Nobody waits for the next byte to learn that there is nobody to read it."""
    pipes = [os.pipe() for _ in range(2)]
    os.write(pipes[0][1], b"line\n")
    ends = {"p": "exec:head -n 1", "x": "x"}
    ends |= {name: f"fd:{reader}" for name, (reader, _) in zip("ab", pipes, strict=True)}
    report = carry(built(f"ap{mark} bp{mark} px", **ends))
    for fd in (*pipes[0], *pipes[1]):
        os.close(fd)
    assert (folder / "x").read_bytes() == b"line\n"
    assert [(each.node, each.status) for each in report.processes] == [("p", 0)]


def test_a_filter_that_reads_nothing(folder: Path) -> None:
    carry(built("ap px", a="a", p="exec:echo instead", x="x"))
    assert (folder / "x").read_bytes() == b"instead\n"


def test_one_of_two_filters_has_enough(folder: Path) -> None:
    carry(built("ap aq px qy", a="a", p="exec:head -c 10", q="exec:cat", x="x", y="y"))
    assert (folder / "x").read_bytes() == FIRST[:10]
    assert (folder / "y").read_bytes() == FIRST


def test_a_length_of_what_comes_out(folder: Path) -> None:
    carry(wishing(built("ap px", a="exec:yes", p="exec:cat", x="x"), "p", length=10))
    assert (folder / "x").read_bytes() == b"y\n" * 5


# What fails


def test_what_fails_first_is_told_and_what_follows_is_not(folder: Path) -> None:
    told = Told()
    whole = built("ap pq qx by", a="a", p=shell("exit 3"), q="exec:gzip", x="x", b="b", y="null:")
    error = failing(whole, told)
    assert str(error) == f"{shell('exit 3')}: exit status 3"
    assert error.exit_code == 1
    assert told.everything == []
    assert not (folder / "x").exists()
    assert {each.node: each.status for each in told.reports[0].processes}["p"] == 3


@pytest.mark.parametrize("lax", ["", "a"], ids=["all stop", "the others go on"])
def test_a_filter_whose_input_broke_off_leaves_nothing_that_looks_complete(
    folder: Path, lax: str
) -> None:
    told = Told()
    broken = shell("head -c 500000 a; exit 3")
    error = failing(built("ap px", lax, a=broken, p="exec:gzip", x="x"), told)
    assert (str(error), error.exit_code) == (f"{broken}: exit status 3", 1)
    assert error.told == bool(lax)
    assert told.failures == ([str(error)] if lax else [])
    assert not (folder / "x").exists()


@pytest.mark.parametrize("script", ["trap '' TERM; cat", "trap 'exit 0' TERM; cat"])
def test_not_even_where_the_filter_says_that_all_is_well(folder: Path, script: str) -> None:
    failing(built("ap px", "a", a=shell("cat a; exit 3"), p=shell(script), x="x"))
    assert not (folder / "x").exists()


def test_a_filter_that_dies_of_a_signal(folder: Path) -> None:
    told = Told()
    error = failing(built("ap px", a="zero:", p=shell("head -c 9; kill -KILL $$"), x="x"), told)
    assert str(error) == f"{shell('head -c 9; kill -KILL $$')}: died of SIGKILL"
    assert [each.status for each in told.reports[0].processes] == [-9]
    assert not (folder / "x").exists()


@pytest.mark.parametrize("lax", ["", "p"], ids=["all stop", "the others go on"])
def test_a_program_that_is_missing(folder: Path, lax: str) -> None:
    told = Told()
    error = failing(built("ap px", lax, a="a", p="exec:/no/program", x="x"), told)
    assert str(error) == "exec:/no/program: start: No such file or directory"
    assert error.exit_code == 1
    assert told.failures == ([str(error)] if lax else [])
    assert not (folder / "x").exists()


def test_a_source_that_may_fail_is_missing_and_that_is_told(folder: Path) -> None:
    """Exit 1: the output is there, and lacks what one of its sources should have had."""
    told = Told()
    error = failing(built("ax~ bx~", "a", a="none", b="b", x="x"), told)
    assert type(error) is TransferError
    assert error.told
    assert told.failures == ["none: open: No such file or directory"]
    assert (folder / "x").read_bytes() == SECOND


@pytest.mark.parametrize("mark", ["", "~", "="])
def test_a_source_that_must_not_fail_leaves_nothing(folder: Path, mark: str) -> None:
    error = failing(built(f"ax{mark} bx{mark} by", a="none", b="b", x="x", y="null:"))
    assert str(error) == "none: open: No such file or directory"
    assert not (folder / "x").exists()


def test_an_output_that_may_fail_is_dropped_and_the_others_are_complete(folder: Path) -> None:
    """Exit 5; the stream to it is a stream of its own."""
    told = Told()
    error = failing(built("ap px by", "x", a="a", p="exec:cat", x="/dev/full", b="b", y="y"), told)
    assert isinstance(error, OutputsDropped)
    assert error.exit_code == 5
    (line,) = told.failures
    assert line.startswith("/dev/full: ")
    assert (folder / "y").read_bytes() == SECOND


def test_an_output_that_must_not_fail_ends_all(folder: Path) -> None:
    error = failing(built("ap px by", a="a", p="exec:cat", x="/dev/full", b="zero:", y="y"))
    assert str(error).startswith("/dev/full: ")
    assert error.exit_code == 1
    assert not (folder / "y").exists()


def test_a_process_that_may_fail_beside_a_file(folder: Path) -> None:
    told = Told()
    ends = {"a": "a", "p": shell("exit 4"), "x": "x", "y": "y"}
    error = failing(built("ap ay px", "p", **ends), told)
    assert (type(error), error.exit_code) == (OutputsDropped, 5)
    assert told.failures == [f"{shell('exit 4')}: exit status 4"]
    assert (folder / "y").read_bytes() == FIRST
    assert not (folder / "x").exists()


def test_where_nothing_is_left_the_transfer_has_failed(folder: Path) -> None:
    told = Told()
    error = failing(built("ax by", "ab", a="none", x="x", b="none2", y="y"), told)
    assert (type(error), error.exit_code, error.told) == (TransferError, 1, True)
    assert sorted(told.failures) == sorted(
        f"{name}: open: No such file or directory" for name in ("none", "none2")
    )


def test_when_one_fails_those_who_wait_do_not_go_on(folder: Path) -> None:
    """A FIFO that nobody opens, a child that never ends, a sink that takes nothing, a turn."""
    os.mkfifo("fifo")
    reader, writer = os.pipe()
    whole = built(
        "ax by cz dw ew dv",
        a="fifo",
        x="x",
        b="b",
        y=shell("cat >/dev/null; exec sleep 60"),
        c="zero:",
        z=f"fd:{writer}",
        d="exec:sleep 60",
        e="zero:",
        w="w",
        v="none/v",
    )
    told = Told()
    error = failing(whole, told)
    os.close(reader)
    os.close(writer)
    assert str(error) == "none/v: open: No such file or directory"
    assert told.everything == []
    for name in "xw":
        assert not (folder / name).exists()


def test_a_listener_that_raises_ends_all_and_is_raised(folder: Path) -> None:
    def raising(hop: HopReport) -> None:
        if hop.ends[0] == "p":
            raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        carry(built("ap px", a="zero:", p="exec:cat", x="x"), Told(raising))
    assert not (folder / "x").exists()


# Being asked to stop


def interrupted() -> Interrupted:
    return Interrupted(15)


def asking(stop: Relayed, after: int) -> Told:
    """Return who asks for the end once so many hops have begun."""
    begun: list[str] = []

    def began(hop: HopReport) -> None:
        begun.append(hop.ends[0])
        if len(begun) == after:
            stop.ask(interrupted)

    return Told(began)


@pytest.fixture
def stop() -> Iterator[Relayed]:
    relayed = Relayed()
    yield relayed
    relayed.close()


def test_whoever_asks_for_the_end_gets_it(folder: Path, stop: Relayed) -> None:
    told = asking(stop, 2)
    error = failing(built("ap px", a="zero:", p="exec:cat", x="x"), told, stop)
    assert isinstance(error, Interrupted)
    assert "ended by SIGTERM" in str(error)
    assert told.everything == []
    assert not (folder / "x").exists(), "it is not complete"


@pytest.mark.parametrize("edges", ["ax~ bx~", "ax= bx=", "ap~ bp~ px", "ap pq qx bx"])
def test_what_was_taken_from_a_pipe_is_delivered(folder: Path, stop: Relayed, edges: str) -> None:
    """The writer's bytes are in the output, or still in his pipe."""
    pipes = [os.pipe() for _ in range(2)]
    (ours, feed), _ = pipes
    out, sink = os.pipe()
    got: list[bytes] = []
    reading = threading.Event()

    def read() -> None:
        reading.wait()
        with open(out, "rb") as file:
            got.append(file.read())

    reader = threading.Thread(target=read)
    reader.start()
    ends = {"p": "exec:cat", "q": "exec:cat"}
    ends = {name: end for name, end in ends.items() if name in edges}
    whole = built(edges, a=f"fd:{ours}", b=f"fd:{pipes[1][0]}", x=f"fd:{sink}", **ends)
    running = threading.Thread(target=lambda: errors.append(failing(whole, None, stop)))
    errors: list[object] = []
    running.start()
    os.set_blocking(feed, False)
    sent = refused = 0

    def is_full() -> bool:
        """At any time it must hold; this is when much is under way."""
        nonlocal sent, refused
        try:
            sent += os.write(feed, b"a line\n" * 9000)
            refused = 0
        except BlockingIOError:
            refused += 1
        return refused > 20

    until(is_full, "all pipes are full")
    stop.ask(interrupted)
    reading.set()
    running.join()
    os.close(sink)
    reader.join()
    for _, writer in pipes:
        os.close(writer)
    left = 0
    for fd, _ in pipes:
        with open(fd, "rb") as file:
            left += len(file.read())
    assert len(got[0]) - sent + left in (0, 1), "a last line may have been given its end"
    assert isinstance(errors[0], Interrupted)


def test_a_second_time_does_not_wait(folder: Path, stop: Relayed) -> None:
    """The sink takes nothing; what it should have had is given up."""
    reader, writer = os.pipe()
    whole = built("ax~ bx~", a="zero:", b="zero:", x=f"fd:{writer}")
    begun = threading.Semaphore(0)
    told = Told(lambda hop: begun.release())
    errors: list[object] = []
    running = threading.Thread(target=lambda: errors.append(failing(whole, told, stop)))
    running.start()
    for _ in range(3):
        begun.acquire()
    stop.ask(interrupted)
    until(lambda: stop._asked is None, "the first time is heard")
    stop.ask(interrupted)
    running.join(20)
    os.close(reader)
    os.close(writer)
    assert isinstance(errors[0], Interrupted)


def test_a_word_about_each_hop(folder: Path, stop: Relayed) -> None:
    os.mkfifo("fifo")
    ends = {"a": "exec:sleep 60", "p": "exec:cat", "b": "exec:sleep 60", "f": "fifo"}
    whole = built("ap px by fz", x="x", y="y", z="z", **ends)
    begun = threading.Semaphore(0)
    told = Told(lambda hop: begun.release())
    running = threading.Thread(target=failing, args=(whole, told, stop))
    running.start()
    for _ in range(3):
        begun.acquire()
    stop.ask_status()
    until(lambda: len(told.statuses) == 3 and told.said_, "each has told")
    assert sorted(told.statuses) == ["a", "b", "p"]
    assert told.said_ == ["fifo: wait for a writer"]
    stop.ask(interrupted)
    running.join(20)
    assert not running.is_alive()


def test_the_library_needs_nobody_who_stops(folder: Path) -> None:
    report = zpipe.run(built("ap px", a="a", p="exec:cat", x="x"))
    assert report.moved == 2 * BIG


def test_a_line_that_never_ends_is_a_failure_of_its_own(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "LONGEST", MIB)
    told = Told()
    error = failing(built("ax= bx=", a="zero:", b="exec:yes", x="x"), told)
    assert str(error) == "joint before x: merge: a line has more than 1 MiB"
    assert error.exit_code == 1
    assert told.everything == []
    assert not (folder / "x").exists()


@pytest.mark.parametrize("mark", ["~", "="])
def test_many_sources_come_together(folder: Path, mark: str) -> None:
    names = "abcdefghij"
    for name in names:
        (folder / name).write_bytes(b"".join(b"%s%d\n" % (name.encode(), n) for n in range(20000)))
    carry(built(" ".join(f"{name}x{mark}" for name in names), x="x", **{n: n for n in names}))
    got = (folder / "x").read_bytes()
    whole = b"".join((folder / name).read_bytes() for name in names)
    assert len(got) == len(whole)
    if mark == "=":
        assert Counter(got.split(b"\n")) == Counter(whole.split(b"\n"))
    else:
        assert Counter(got) == Counter(whole)


def test_a_rate_is_that_of_each_source_and_lengths_end_before_a_joint(folder: Path) -> None:
    whole = built("ax~ bx~", a="zero:", b="zero:", x="x")
    report = carry(wishing(whole, length=100_000, rate_limit=10_000_000))
    assert (folder / "x").read_bytes() == bytes(200_000)
    assert [hop.moved for hop in report.hops] == [100_000, 100_000, 200_000]


def test_an_output_may_be_appended_to_or_overwritten_behind_a_joint(folder: Path) -> None:
    (folder / "x").write_bytes(b"old\n" * 3)
    whole = built("ax~ bx~", a="exec:echo new", b="exec:echo new", x="x")
    carry(wishing(whole, append=True))
    assert (folder / "x").read_bytes() == b"old\n" * 3 + b"new\n" * 2
    carry(wishing(whole, inplace=True))
    assert (folder / "x").read_bytes() == b"new\n" * 2


def test_spilled_before_a_joint_and_read_in_its_turn(folder: Path) -> None:
    """The first one waits until the other has been read whole, into its file."""
    os.mkfifo("fifo")
    first = shell("cat fifo; echo first")
    ends = {"a": first, "b": "b", "x": "x", "p": shell("cat; echo >fifo"), "y": "y"}
    carry(built("ax+ bx+ bp py", **ends))
    assert (folder / "x").read_bytes() == b"\nfirst\n" + SECOND
    assert (folder / "y").read_bytes() == SECOND


@pytest.mark.parametrize("edges", ["ax~ bx~", "ax= bx=", "ax bx by"])
def test_nobody_reads_what_comes_out(folder: Path, edges: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    ends = {"y": "null:"} if "y" in edges else {}
    error = failing(built(edges, a="exec:yes", b="exec:yes", x=f"fd:{writer}", **ends))
    os.close(writer)
    assert error.exit_code == 1
    assert str(error).startswith(f"fd:{writer}: write: Broken pipe")
