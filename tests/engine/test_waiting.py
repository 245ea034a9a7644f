"""The engine's sleep, over real pipes."""

from __future__ import annotations

import os
import select
import time
from typing import TYPE_CHECKING

import pytest

from tests.endpoints.meeting import LONG
from zpipe.engine.feedback import Feedback
from zpipe.engine.stop import Stop
from zpipe.engine.waiting import EngineWaiter
from zpipe.errors import Interrupted, StalledError

if TYPE_CHECKING:
    from collections.abc import Iterator


class Asked(Stop):
    """Somebody asks for the end at the n-th look."""

    def __init__(self, looks: int = 0):
        self.looks = looks

    def check(self) -> None:
        self.looks -= 1
        if self.looks < 0:
            raise Interrupted(15)


class Heard(Feedback):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def said(self, text: str) -> None:
        self.texts.append(text)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)
    os.close(writer)


def waiter(stall: float | None = None, stop: Stop | None = None) -> EngineWaiter:
    return EngineWaiter(stop or Stop(), Feedback(), stall)


def test_an_fd_that_is_ready_is_not_slept_for(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    assert waiter().wait(writer, "it", "act", write=True)
    os.write(writer, b"x")
    assert waiter().wait(reader, "it", "act")
    assert waiter().sleep({reader: select.POLLIN}) == {reader: select.POLLIN}


def test_a_hang_up_counts_as_ready() -> None:
    reader, writer = os.pipe()
    os.close(writer)
    fired = waiter(1.0).sleep({reader: 0})
    os.close(reader)
    assert fired == {reader: select.POLLHUP}


def test_a_timeout_of_the_callers_is_an_answer(pipe: tuple[int, int]) -> None:
    began = time.monotonic()
    assert waiter().wait(pipe[0], "it", "act", timeout=0.03) is False
    assert time.monotonic() - began >= 0.03
    assert waiter(5.0).wait(pipe[0], "it", "act", timeout=0.01) is False


@pytest.mark.parametrize("timeout", [None, 5.0])
def test_the_stall_timeout_is_an_error_that_names_end_and_act(
    pipe: tuple[int, int], timeout: float | None
) -> None:
    began = time.monotonic()
    with pytest.raises(StalledError) as raised:
        waiter(0.03).wait(pipe[0], "it", "wait for a word", timeout=timeout)
    assert time.monotonic() - began >= 0.03
    assert str(raised.value) == "it: wait for a word: stalled for 0.03 s"
    assert raised.value.exit_code == 4


def test_a_sleep_without_fds_is_a_pause() -> None:
    began = time.monotonic()
    assert waiter().sleep({}, 0.02) is None
    waiter().pause(0.02, "it", "act")
    assert time.monotonic() - began >= 0.04


def test_who_was_asked_to_end_does_not_sleep(pipe: tuple[int, int]) -> None:
    with pytest.raises(Interrupted):
        waiter(stop=Asked()).wait(pipe[0], "it", "act")


def test_the_wakeup_fd_ends_a_sleep_and_is_emptied(pipe: tuple[int, int]) -> None:
    reader, writer = os.pipe2(os.O_NONBLOCK)
    stop = Asked(looks=1)
    stop.wakeup = reader
    os.write(writer, b"xxx")
    with pytest.raises(Interrupted):
        waiter(stop=stop).wait(pipe[0], "it", "act")
    with pytest.raises(BlockingIOError):
        os.read(reader, 1)
    os.close(reader)
    os.close(writer)


def test_a_wakeup_without_a_reason_is_slept_on(pipe: tuple[int, int]) -> None:
    reader, writer = os.pipe2(os.O_NONBLOCK)
    stop = Stop()
    stop.wakeup = reader
    os.write(writer, b"x")
    began = time.monotonic()
    assert waiter(stop=stop).wait(pipe[0], "it", "act", timeout=0.03) is False
    assert time.monotonic() - began >= 0.03
    os.close(reader)
    os.close(writer)


def test_ticks_come_at_the_interval(pipe: tuple[int, int]) -> None:
    feedback = Feedback()
    feedback.interval = 0.01
    own = EngineWaiter(Stop(), feedback, None)
    ticks: list[float] = []

    def tick() -> None:
        ticks.append(time.monotonic())
        if len(ticks) == 4:
            os.write(pipe[1], b"x")

    own.tick = tick
    assert own.wait(pipe[0], "it", "act", timeout=LONG)
    assert own.polls == len(ticks) == 4
    assert ticks[-1] - ticks[0] >= 3 * feedback.interval


def test_who_asks_is_told_what_is_waited_for(pipe: tuple[int, int]) -> None:
    heard, stop = Heard(), Stop()
    stop.status_wanted = True
    own = EngineWaiter(stop, heard, None)
    assert own.wait(pipe[0], "it", "wait for a word", timeout=0.01) is False
    assert heard.texts == ["it: wait for a word"]
    assert not stop.status_wanted


def test_what_an_end_says_is_passed_on() -> None:
    heard = Heard()
    EngineWaiter(Stop(), heard, None).say("listening on 1")
    assert heard.texts == ["listening on 1"]
