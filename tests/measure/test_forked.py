"""Work in a process of its own: its answer, its errors, its end."""

from __future__ import annotations

import os
import signal
import time

import pytest

from zpipe.bench.forked import Child, in_child
from zpipe.bench.schedule import Failed, Refused, TooLong
from zpipe.engine.stop import Signals, Stop
from zpipe.errors import Interrupted


def forever() -> None:
    while True:
        signal.pause()


def test_an_answer_comes_back() -> None:
    assert in_child(lambda: {"pid": os.getpid()}, 10, Stop()) != {"pid": os.getpid()}
    assert in_child(lambda: ["x" * 200_000], 10, Stop()) == ["x" * 200_000]


@pytest.mark.parametrize("error", [Refused("why"), Failed("how"), TooLong("when")])
def test_errors_come_back(error: Exception) -> None:
    def work() -> None:
        raise error

    with pytest.raises(type(error), match=str(error)):
        in_child(work, 10, Stop())


def test_an_error_of_its_own_is_told() -> None:
    with pytest.raises(Failed, match="ZeroDivisionError"):
        in_child(lambda: 1 // 0, 10, Stop())


def test_a_death_is_told() -> None:
    with pytest.raises(Failed, match="SIGKILL"):
        in_child(lambda: os.kill(os.getpid(), signal.SIGKILL), 10, Stop())


def test_it_has_only_the_fds_that_it_asks_for() -> None:
    reader, writer = os.pipe()
    try:
        found = in_child(lambda: [os.path.exists(f"/proc/self/fd/{reader}"), writer], 10, Stop())
        assert found == [False, writer]
        kept = in_child(lambda: os.path.exists(f"/proc/self/fd/{reader}"), 10, Stop(), [reader])
        assert kept
    finally:
        os.close(reader)
        os.close(writer)


def test_patience_has_an_end_and_so_has_the_child() -> None:
    with Child(forever) as child, pytest.raises(TooLong):
        child.answer(0.01)
    with pytest.raises(ProcessLookupError):
        os.kill(child.pid or 1 << 30, 0)


def test_a_signal_ends_the_wait() -> None:
    began = time.monotonic()
    with Signals() as stop, Child(forever) as child:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted):
            child.answer(60, stop)
        assert time.monotonic() - began < 60
