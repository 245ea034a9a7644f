"""Tasks and outcomes travel: pickled to executors, packed to forked workers."""

from __future__ import annotations

import os
import pickle
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zpipe.tree.crew import given_up
from zpipe.tree.parcels import (
    HEAD,
    parcel_of_outcome,
    parcel_of_task,
    receive_task,
    take_outcomes,
)
from zpipe.tree.tasks import Batch, Big, Chunk, Done, Outcome, Problem, identity_of

if TYPE_CHECKING:
    from pathlib import Path

    from zpipe.tree.tasks import Task

# names as os.fsdecode makes them of any bytes
NAMES = st.binary(min_size=1, max_size=40).map(os.fsdecode)
NUMBERS = st.integers(0, 1 << 63)
IDENTITIES = st.tuples(NUMBERS, NUMBERS, NUMBERS, st.integers(-(1 << 63), 1 << 63), NUMBERS)
BATCHES = st.builds(
    Batch,
    number=NUMBERS,
    source=NAMES,
    target=NAMES,
    files=st.lists(NAMES, max_size=5).map(tuple),
    others=st.lists(NAMES, max_size=5).map(tuple),
    fresh=st.booleans(),
    follow=st.booleans(),
    as_name=st.none() | NAMES,
    token=NAMES,
)
CHUNKS = st.builds(
    Chunk,
    number=NUMBERS,
    source=NAMES,
    temporary=NAMES,
    target=NAMES,
    offset=NUMBERS,
    length=NUMBERS,
    identity=IDENTITIES,
    inode=NUMBERS,
)
PROBLEMS = st.builds(Problem, NAMES, NAMES, st.sampled_from(["failed", "mismatch", "noted"]))
BIGS = st.builds(Big, NAMES, IDENTITIES)
DONES = st.builds(Done, NAMES, NAMES, NUMBERS, IDENTITIES, IDENTITIES, NAMES, NAMES)
KEYS = st.tuples(NAMES, NAMES, st.integers(0, 133))


@st.composite
def outcomes(draw: st.DrawFn) -> Outcome:
    outcome = Outcome(draw(NUMBERS))
    outcome.files, outcome.skipped, outcome.moved = draw(st.tuples(NUMBERS, NUMBERS, NUMBERS))
    outcome.by_mover = draw(st.dictionaries(NAMES, NUMBERS, max_size=3))
    outcome.fallbacks = draw(st.dictionaries(KEYS, NUMBERS, max_size=3))
    outcome.problems = draw(st.lists(PROBLEMS, max_size=3))
    outcome.big = draw(st.lists(BIGS, max_size=3))
    outcome.done = draw(st.lists(DONES, max_size=3))
    for name, value in vars(outcome).items():
        if isinstance(value, bool):
            setattr(outcome, name, draw(st.booleans()))
    return outcome


@given(task=BATCHES | CHUNKS)
def test_a_task_is_the_same_on_the_other_side(task: Task) -> None:
    assert pickle.loads(pickle.dumps(task)) == task
    reader, writer = os.pipe()
    try:
        os.write(writer, parcel_of_task(task))
        os.close(writer)
        assert receive_task(reader) == task
        assert receive_task(reader) is None
    finally:
        os.close(reader)


@given(outcome=outcomes())
def test_an_outcome_is_the_same_on_the_other_side(outcome: Outcome) -> None:
    """Whatever an outcome gets to say in addition must travel, too."""
    for other in (
        pickle.loads(pickle.dumps(outcome)),
        *take_outcomes(bytearray(parcel_of_outcome(outcome))),
    ):
        assert vars(other) == vars(outcome)


@pytest.mark.parametrize("cut", [1, HEAD - 1, HEAD, HEAD + 1, -1])
def test_a_task_that_was_not_sent_to_its_end_is_none(cut: int) -> None:
    data = parcel_of_task(Batch(1, "source", "target", ("file",)))
    reader, writer = os.pipe()
    try:
        os.write(writer, data[:cut])
        os.close(writer)
        assert receive_task(reader) is None
    finally:
        os.close(reader)


def test_what_is_counted_adds_up() -> None:
    outcome = Outcome(1)
    outcome.count("splice", 5)
    outcome.count("plain", 7)
    outcome.count("splice", 1)
    assert (outcome.moved, outcome.by_mover) == (13, {"splice": 6, "plain": 7})
    for number in (1, 1, 2):
        outcome.fell_back("splice", "splice", number)
    assert outcome.fallbacks == {("splice", "splice", 1): 2, ("splice", "splice", 2): 1}


def test_an_identity_tells_another_file_of_the_same_size_and_time(tmp_path: Path) -> None:
    path, other = tmp_path / "file", tmp_path / "other"
    for each in (path, other):
        each.write_bytes(b"same")
        os.utime(each, ns=(5, 5))
    before = identity_of(path.stat())
    assert before != identity_of(other.stat())
    assert before == identity_of(path.stat())
    path.write_bytes(b"SAME")
    os.utime(path, ns=(5, 5))
    after = identity_of(path.stat())
    assert before[:4] == after[:4]
    assert before != after


@pytest.mark.parametrize(
    ("task", "paths"),
    [
        (Batch(7, "from", "to", ("a", "b"), ("c",)), ["from/a", "from/b", "from/c"]),
        (Batch(7, "", "to", ("a",)), ["a"]),
        (Batch(7, "/", "to", ("a",)), ["/a"]),
        (Chunk(7, "from/a", "to/.a", "to/a", 0, 1, (0, 0, 0, 0, 0), 0), ["from/a"]),
    ],
)
def test_a_task_that_is_given_up_names_all_of_its_files(task: Task, paths: list[Any]) -> None:
    outcome = given_up(task, "why")
    assert (outcome.number, outcome.failed) == (7, True)
    assert [problem.path for problem in outcome.problems] == paths
    assert [problem.text for problem in outcome.problems] == [
        f"{path}: copy: why" for path in paths
    ]
