"""A round for several branches: each gets the same bytes, or nobody has any of them."""

from __future__ import annotations

import errno
import os
from collections import Counter
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.engine.branching import CAPACITY, branch_of, end_of, finish, settle
from tests.machine import content
from zpipe.engine.trunk import BufferTrunk, PipeTrunk
from zpipe.kernel.pipes import Pipe, buffered
from zpipe.movers.contract import ENDED, WAIT_SOURCE, FallBack

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.movers.conftest import Bench
    from tests.movers.ends import Sink, Source
    from zpipe.engine.branch import Branch
    from zpipe.engine.trunk import Trunk

DATA = content(5 * CAPACITY + 123)


class Tree:
    """A source, a trunk, and a branch for each sink."""

    def __init__(self, bench: Bench, stack: ExitStack, source: Source, *kinds: str):
        self.source = source
        self.pipe = Pipe(CAPACITY)
        stack.callback(self.pipe.close)
        self.calls: Counter[str] = Counter()
        self.sinks: list[Sink] = [bench.sink(kind) for kind in kinds]
        self.branches: list[Branch] = [
            stack.enter_context(branch_of(end_of(sink)))[0] for sink in self.sinks
        ]

    def by_tee(self) -> PipeTrunk:
        return PipeTrunk(self.source.port(), self.pipe, self.calls, "tee")

    def by_buffer(self, rescued: bytes = b"") -> BufferTrunk:
        return BufferTrunk(self.source.port(), self.calls, CAPACITY, rescued)

    def settle(self) -> None:
        for branch, sink in zip(self.branches, self.sinks, strict=True):
            settle(branch, sink)

    def round(self, trunk: Trunk) -> None:
        """Give what is loaded, and see it through."""
        assert trunk.give(self.branches) is None
        for branch in self.branches:
            branch.work()
        self.settle()

    def all(self, trunk: Trunk) -> None:
        """Carry everything to every sink."""
        while True:
            while trunk.loaded:
                self.round(trunk)
            taken = trunk.take(1 << 62)
            if taken == ENDED:
                break
            if taken == WAIT_SOURCE:
                self.source.feed()
            else:
                assert taken == trunk.loaded > 0
        for branch, sink in zip(self.branches, self.sinks, strict=True):
            finish(branch, sink)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


@pytest.mark.parametrize("kinds", [("pipe",), ("pipe", "tcp"), ("file", "pipe", "unix", "append")])
@pytest.mark.parametrize("tee", [True, False], ids=["tee", "buffer"])
@pytest.mark.parametrize("source", ["file", "pipe", "tcp"])
def test_each_branch_gets_every_round(
    source: str, tee: bool, kinds: tuple[str, ...], bench: Bench, stack: ExitStack
) -> None:
    tree = Tree(bench, stack, bench.source(source, DATA), *kinds)
    tree.all(tree.by_tee() if tee else tree.by_buffer())
    for sink in tree.sinks:
        assert sink.content(len(DATA)) == DATA
    if tee:
        assert (tree.calls["tee"] > 0) is (len(kinds) > 1)
        assert tree.calls["readv"] == 0
    else:
        assert not tree.calls["tee"] + tree.calls["splice"]


def test_a_round_is_doubled_for_all_but_the_last(bench: Bench, stack: ExitStack) -> None:
    tree = Tree(bench, stack, bench.source("file", DATA), "pipe", "pipe", "pipe")
    trunk = tree.by_tee()
    assert trunk.take(1 << 62) == CAPACITY == trunk.loaded
    tree.calls.clear()
    assert trunk.give(tree.branches) is None
    assert tree.calls == {"tee": 2, "splice": 1}
    assert trunk.loaded == buffered(tree.pipe.reader) == 0
    for branch in tree.branches:
        assert branch.inlet is not None
        assert branch.handed == branch.pump.held == buffered(branch.inlet.reader) == CAPACITY


@pytest.mark.parametrize("count", [1, 4096, 5000, CAPACITY])
def test_no_more_is_taken_than_may_be(count: int, bench: Bench, stack: ExitStack) -> None:
    for trunk in ("by_tee", "by_buffer"):
        tree = Tree(bench, stack, bench.source("file", DATA), "pipe", "pipe")
        made: Trunk = getattr(tree, trunk)()
        assert made.take(count) == made.loaded == count
        tree.round(made)
        for sink in tree.sinks:
            assert sink.content(count) == DATA[:count]


def test_where_tee_is_refused_nobody_has_any_and_the_round_is_rescued(
    bench: Bench, stack: ExitStack
) -> None:
    """What stands in the place of the first inlet is no pipe, which tee refuses."""
    tree = Tree(bench, stack, bench.source("file", DATA), "pipe", "pipe")
    first = tree.branches[0].inlet
    assert first is not None
    kept = os.dup(first.writer)
    with open("/dev/null", "wb") as null:
        os.dup2(null.fileno(), first.writer, inheritable=False)
    trunk = tree.by_tee()
    trunk.take(1 << 62)
    assert trunk.give(tree.branches) == FallBack("tee", errno.EINVAL)
    assert [branch.handed for branch in tree.branches] == [0, 0]
    rescued = trunk.empty()
    assert rescued == DATA[:CAPACITY]
    assert trunk.loaded == buffered(tree.pipe.reader) == 0
    os.dup2(kept, first.writer, inheritable=False)
    os.close(kept)
    tree.all(tree.by_buffer(rescued))
    for sink in tree.sinks:
        assert sink.content(len(DATA)) == DATA


def test_what_was_rescued_goes_in_pieces_that_fit_every_inlet(
    bench: Bench, stack: ExitStack
) -> None:
    tree = Tree(bench, stack, bench.source("pipe", b"after"), "pipe", "file")
    before = DATA[: 2 * CAPACITY + 1]
    trunk = tree.by_buffer(before)
    assert trunk.loaded == len(before)
    tree.round(trunk)
    assert trunk.loaded == CAPACITY + 1
    tree.all(trunk)
    for sink in tree.sinks:
        assert sink.content(len(before) + 5) == before + b"after"


def test_a_source_that_has_no_splice_is_told_before_anything_is_taken(
    bench: Bench, stack: ExitStack
) -> None:
    tree = Tree(bench, stack, bench.source("pipe", b""), "pipe", "pipe")
    counter = os.eventfd(1, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    stack.callback(os.close, counter)
    os.dup2(counter, tree.source.fd, inheritable=False)
    trunk = tree.by_tee()
    assert trunk.take(100) == FallBack("splice", errno.EINVAL)
    assert trunk.loaded == 0
