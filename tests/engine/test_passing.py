"""Both sides of what is written and read: whoever comes first opens it, nobody waits in vain."""

from __future__ import annotations

import os
import resource
import signal
import threading
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.endpoints.meeting import LONG, Meeting, read_all, write_all
from tests.graph.letters import graph
from tests.machine import content, until
from zpipe.endpoints import parse
from zpipe.endpoints.contract import Opening
from zpipe.engine.passing import passages_of
from zpipe.errors import Interrupted, TransferError
from zpipe.graph.model import Edge, Graph, Node
from zpipe.graph.wiring import Wiring, wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from zpipe.endpoints.contract import End
    from zpipe.engine.passing import Passage
    from zpipe.graph.policy import OnError


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    threads = threading.active_count()
    yield
    with pytest.raises(ChildProcessError):
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    assert threading.active_count() == threads


def node(name: str, address: str, on_error: OnError = "stop") -> Node:
    return Node(name, parse(address, sink=False), on_error)


class Sides:
    """The passages of a wiring; takes their sides as two streams would."""

    def __init__(self, wiring: Wiring, stack: ExitStack):
        self.passages = passages_of(wiring)
        self.nodes = {
            node.id: node for stream in wiring.streams for node in (*stream.sources, *stream.sinks)
        }
        self._stack = stack
        for passage in self.passages.values():
            stack.callback(passage.close)

    def source(self, name: str, waiter: Meeting | None = None, offset: int = 0) -> End:
        return self._take(name, self.passages[name].source, waiter, offset)

    def sink(self, name: str, waiter: Meeting | None = None) -> End:
        return self._take(name, self.passages[name].sink, waiter, 0)

    def _take(
        self,
        name: str,
        take: Callable[..., End],
        waiter: Meeting | None,
        offset: int,
    ) -> End:
        end = take(self.nodes[name].endpoint, Opening(waiter or Meeting(), offset=offset))
        self._stack.callback(end.close)
        return end

    def passage(self, name: str) -> Passage:
        return self.passages[name]


def partition(words: str) -> tuple[str, str, str]:
    return words.partition(">")


@contextmanager
def sides(*nodes: Node, edges: str) -> Iterator[Sides]:
    pairs = [Edge(source, sink) for source, _, sink in map(partition, edges.split())]
    with ExitStack() as stack:
        yield Sides(wire(Graph(nodes, tuple(pairs)), ["exec"]), stack)


@contextmanager
def filtering(command: str) -> Iterator[Sides]:
    with sides(node("a", "a"), node("p", f"exec:{command}"), node("x", "x"), edges="a>p p>x") as of:
        yield of


@contextmanager
def joint(merge: str, on_error: OnError = "stop") -> Iterator[Sides]:
    mark = {"as-ready": "~", "lines": "=", "in-order": ""}[merge]
    made = graph(f"ax{mark}", f"bx{mark}", *(["ay"] if merge == "in-order" else []))
    nodes = tuple(
        Node(each.id, each.endpoint, on_error if each.id == "a" else "stop") for each in made.nodes
    )
    with ExitStack() as stack:
        yield Sides(wire(Graph(nodes, made.edges)), stack)


MERGED = pytest.mark.parametrize("merge", ["as-ready", "lines"])


# A process


def test_a_process_is_started_by_whoever_comes_first() -> None:
    data = content(300_000)
    for first in ("source", "sink"):
        with filtering("cat") as of:
            ends = {first: getattr(of, first)("p")}
            for other in {"source", "sink"} - {first}:
                ends[other] = getattr(of, other)("p")
            writer = threading.Thread(target=lambda end=ends["sink"]: feed(end, data))
            writer.start()
            assert read_all(ends["source"]) == data
            ends["source"].finish(Meeting())
            writer.join(LONG)


def feed(end: End, data: bytes) -> None:
    write_all(end, data)
    end.finish(Meeting())


def test_the_second_waits_until_the_first_has_opened_it() -> None:
    """Here: both at once, from two threads, many times; there is one child each time."""
    for _ in range(10):
        with filtering("cat") as of:
            ends: dict[str, End] = {}

            def note(side: str, of: Sides = of, ends: dict[str, End] = ends) -> None:
                ends[side] = getattr(of, side)("p")

            threads = [threading.Thread(target=note, args=(side,)) for side in ("source", "sink")]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(LONG)
            assert ends["source"].process is ends["sink"].process is not None
            feed(ends["sink"], b"through")
            assert read_all(ends["source"]) == b"through"
            ends["source"].finish(Meeting())


def test_what_could_not_be_opened_is_told_to_one_and_follows_for_the_other() -> None:
    with filtering("/no/such/program") as of:
        with pytest.raises(TransferError, match="start: No such file") as first:
            of.sink("p")
        with pytest.raises(TransferError, match="could not be opened") as second:
            of.source("p")
        assert (first.value.consequence, second.value.consequence) == (False, True)


def test_an_offset_into_what_comes_out_is_refused() -> None:
    with filtering("cat") as of, pytest.raises(TransferError, match="a stream has no offsets"):
        of.source("p", offset=1)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_process_whose_output_nobody_comes_for_is_not_left_writing(when: str) -> None:
    with filtering("yes") as of:
        if when == "before":
            of.passage("p").forgo(sink=False)
        end = of.sink("p")
        if when == "after":
            of.passage("p").forgo(sink=False)
        process = end.process
        assert process is not None
        end.finish(Meeting())
    assert process.status in (-signal.SIGTERM, -signal.SIGPIPE)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_process_whose_input_nobody_comes_for_comes_to_no_good_end(when: str) -> None:
    with filtering("cat") as of:
        if when == "before":
            of.passage("p").forgo(sink=True)
        end = of.source("p")
        if when == "after":
            of.passage("p").forgo(sink=True)
        assert read_all(end) == b""
        with pytest.raises(TransferError, match="its input broke off") as raised:
            end.finish(Meeting())
        assert raised.value.consequence


def test_a_side_that_was_taken_cannot_be_forgone() -> None:
    with filtering("cat") as of:
        source, sink = of.source("p"), of.sink("p")
        for is_sink in (True, False):
            of.passage("p").forgo(sink=is_sink)
        feed(sink, b"still there")
        assert read_all(source) == b"still there"
        source.finish(Meeting())


@pytest.mark.parametrize("script", ["cat", "trap '' TERM; cat", "trap 'exit 0' TERM; cat; exit 0"])
def test_a_filter_whose_input_broke_off_has_failed_whatever_it_says(script: str) -> None:
    with filtering(f'sh -c "{script}"') as of:
        source, sink = of.source("p"), of.sink("p")
        write_all(sink, b"a part")
        sink.close()
        read_all(source)
        with pytest.raises(TransferError, match="its input broke off"):
            source.finish(Meeting())


def test_a_filter_that_has_enough_is_no_failure() -> None:
    with filtering("head -c 3") as of:
        source, sink = of.source("p"), of.sink("p")
        write_all(sink, b"enough")
        assert read_all(source) == b"eno"
        sink.hang_up()
        source.finish(Meeting())


@pytest.mark.parametrize("script", ["exit 3", "cat >/dev/null; exit 3"])
def test_a_filter_that_fails_is_told_by_its_output(script: str) -> None:
    with filtering(f'sh -c "{script}"') as of:
        source, sink = of.source("p"), of.sink("p")
        sink.finish(Meeting())
        with pytest.raises(TransferError, match="exit status 3") as raised:
            source.finish(Meeting())
        assert not raised.value.consequence


def test_what_a_signal_cut_short_goes_through_and_is_no_good_end() -> None:
    with filtering("cat") as of:
        source, sink = of.source("p"), of.sink("p")
        write_all(sink, b"taken")
        of.passage("p").interrupt(signal.SIGTERM)
        sink.finish(Meeting())
        assert read_all(source) == b"taken"
        with pytest.raises(Interrupted) as raised:
            source.finish(Meeting())
        assert raised.value.signum == signal.SIGTERM


def test_what_had_gone_in_before_the_signal_comes_to_a_good_end() -> None:
    with filtering("cat") as of:
        source, sink = of.source("p"), of.sink("p")
        feed(sink, b"all of it")
        of.passage("p").interrupt(signal.SIGTERM)
        assert read_all(source) == b"all of it"
        source.finish(Meeting())


# A joint


@MERGED
def test_what_goes_into_a_joint_comes_out(merge: str) -> None:
    with joint(merge) as of:
        out = of.source("-> x")
        for name, data in (("a", b"one\n"), ("b", b"two\n")):
            feed(of.sink(f"{name} -> x"), data)
        assert sorted(read_all(out).split()) == [b"one", b"two"]
        out.finish(Meeting())


def test_each_way_in_order_is_a_pipe_of_its_own() -> None:
    with joint("in-order") as of:
        feed(of.sink("b -> x"), b"second")
        feed(of.sink("a -> x"), b"first")
        assert read_all(of.source("a -> x (joint)")) == b"first"
        assert read_all(of.source("b -> x (joint)")) == b"second"


@MERGED
@pytest.mark.parametrize("how", ["close", "cut", "forgone"])
def test_an_input_that_broke_off_spoils_what_comes_out(merge: str, how: str) -> None:
    with joint(merge) as of:
        out = of.source("-> x")
        feed(of.sink("b -> x"), b"two\n")
        if how == "forgone":
            of.passage("a -> x").forgo(sink=True)
        else:
            getattr(of.sink("a -> x"), how)()
        assert read_all(out) == b"two\n"
        with pytest.raises(TransferError, match="its input broke off") as raised:
            out.finish(Meeting())
        assert raised.value.consequence and raised.value.of_source


@MERGED
@pytest.mark.parametrize("how", ["close", "forgone"])
def test_an_input_that_may_be_missing_does_not(merge: str, how: str) -> None:
    with joint(merge, on_error="drop") as of:
        out = of.source("-> x")
        feed(of.sink("b -> x"), b"two\n")
        if how == "forgone":
            of.passage("a -> x").forgo(sink=True)
        else:
            of.sink("a -> x").close()
        assert read_all(out) == b"two\n"
        out.finish(Meeting())


def test_what_broke_off_is_nothing_to_one_who_did_not_read_to_the_end() -> None:
    with joint("as-ready") as of:
        out = of.source("-> x")
        of.sink("a -> x").close()
        out.finish(Meeting(), complete=False)


@MERGED
def test_a_joint_that_nobody_reads_takes_nothing(merge: str) -> None:
    with joint(merge) as of:
        of.passage("-> x").forgo(sink=False)
        end = of.sink("a -> x")

        def refuses() -> bool:
            try:
                os.write(end.fd, b"line\n")
            except BrokenPipeError:
                return True
            except BlockingIOError:
                return False
            return False

        until(refuses, "a way into the joint is closed")


@MERGED
def test_a_signal_while_something_is_missing_is_no_good_end(merge: str) -> None:
    with joint(merge) as of:
        out = of.source("-> x")
        feed(of.sink("a -> x"), b"one\n")
        late = of.sink("b -> x")
        write_all(late, b"two\n")
        of.passage("-> x").interrupt(signal.SIGINT)
        late.close()
        assert sorted(read_all(out).split()) == [b"one", b"two"]
        with pytest.raises(Interrupted):
            out.finish(Meeting())


@MERGED
def test_a_signal_after_everything_has_come_is_nothing(merge: str) -> None:
    with joint(merge) as of:
        out = of.source("-> x")
        for name in "ab":
            feed(of.sink(f"{name} -> x"), b"line\n")
        of.passage("-> x").interrupt(signal.SIGINT)
        assert read_all(out) == b"line\n" * 2
        out.finish(Meeting())


# What cannot be had


@pytest.mark.parametrize("edges", ["ax~ bx~ cx~", "ax= bx= cx=", "ax bx cx cy", "ap pq qx"])
def test_when_fds_run_out_nothing_is_left_of_what_was_made(edges: str) -> None:
    """The watch on fds and threads tells; somewhere on the way it is enough."""
    wiring = wire(graph(*edges.split()), ["exec"])
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    base = max(map(int, os.listdir("/proc/self/fd"))) + 1
    refused = 0
    for room in range(40):
        held = [os.dup(0)]
        while held[-1] < base:
            held.append(os.dup(0))
        os.close(held.pop())
        resource.setrlimit(resource.RLIMIT_NOFILE, (base + room, limits[1]))
        try:
            passages = passages_of(wiring)
        except OSError:
            refused += 1
            continue
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            for fd in held:
                os.close(fd)
        for passage in passages.values():
            passage.close()
        break
    assert refused
