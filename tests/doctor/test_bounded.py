"""A question is asked in a child: whatever becomes of that, there is an answer in time."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.machine import as_stranger, until
from zpipe.doctor.bounded import Patience, ask
from zpipe.doctor.findings import Answer, NoPlace, Refused, Trying

if TYPE_CHECKING:
    from collections.abc import Callable

LONG = 20.0


def children() -> str:
    own = os.getpid()
    return Path(f"/proc/{own}/task/{own}/children").read_text()


def hang() -> Answer:
    reader, _ = os.pipe()
    os.read(reader, 1)
    return Answer("ok")


def die(signum: int) -> Callable[[], Answer]:
    def work() -> Answer:
        os.kill(os.getpid(), signum)
        return Answer("ok")

    return work


def fail(error: Exception) -> Callable[[], Answer]:
    def work() -> Answer:
        raise error

    return work


def trying(number: int) -> Callable[[], Answer]:
    def work() -> Answer:
        with Trying("tee"):
            raise OSError(number, os.strerror(number))
        return Answer("ok")

    return work


def test_an_answer_comes_back_whole() -> None:
    answer = Answer("limited", "a text – with a dash", {"numbers": [1, 2]}, 7)
    assert ask(lambda: answer, LONG) == answer


def test_a_long_answer_comes_back_whole() -> None:
    answer = Answer("ok", "x" * 300_000)
    assert ask(lambda: answer, LONG) == answer


@pytest.mark.parametrize(
    ("work", "state", "detail", "number"),
    [
        (die(signal.SIGSYS), "refused", "SIGSYS", 0),
        (die(signal.SIGKILL), "failed", "died of SIGKILL", 0),
        (lambda: os._exit(3), "failed", "without an answer", 0),
        (trying(errno.EPERM), "refused", "tee: EPERM, Operation not permitted", errno.EPERM),
        (trying(errno.EOPNOTSUPP), "refused", "tee: EOPNOTSUPP, ", errno.EOPNOTSUPP),
        (trying(errno.ENOSYS), "absent", "tee: ENOSYS, ", errno.ENOSYS),
        (trying(errno.EMFILE), "failed", "tee: EMFILE, ", errno.EMFILE),
        (fail(OSError(errno.EACCES, "")), "refused", "EACCES, Permission denied", errno.EACCES),
        (fail(Refused("tee", 0, "it lied")), "refused", "tee: it lied", 0),
        (fail(NoPlace("nowhere")), "unknown", "nowhere", 0),
        (fail(AttributeError("os", name="tee")), "absent", "built without it (tee)", 0),
        (fail(ZeroDivisionError("once")), "failed", "ZeroDivisionError: once", 0),
    ],
)
def test_what_becomes_of_the_child_is_an_answer(
    work: Callable[[], Answer], state: str, detail: str, number: int
) -> None:
    answer = ask(work, LONG)
    assert (answer.state, answer.errno) == (state, number)
    assert detail in answer.detail


def test_what_hangs_is_cut_off_and_nobody_is_left() -> None:
    before = children()
    answer = ask(hang, 0.05)
    assert answer.state == "hung"
    assert answer.detail.startswith("cut off after 0.05 s")
    assert children() == before


def test_no_question_is_asked_when_all_time_is_used_up() -> None:
    patience = Patience(longest=0.05, together=0.04)
    assert patience.ask(hang).state == "hung"
    answer = patience.ask(lambda: Answer("ok"))
    assert answer.state == "unknown"
    assert "not tried" in answer.detail


def test_a_child_dumps_no_core_and_outlives_nobody_for_long() -> None:
    def work() -> Answer:
        limit = resource.getrlimit(resource.RLIMIT_CORE)
        ends = signal.getsignal(signal.SIGALRM) == signal.SIG_DFL
        return Answer("ok", value=[list(limit), ends, signal.alarm(0)])

    limit, ends, left = json.loads(json.dumps(ask(work, LONG).value))
    assert limit == [0, 0]
    assert ends
    assert 0 < left <= LONG + 2


def sleeps(pid: int) -> bool:
    """Tell whether the main thread of a process waits for something."""
    with open(f"/proc/{pid}/task/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] == "S"


def test_what_stops_the_asking_ends_the_child_too() -> None:
    before = children()

    def stop(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    old = signal.signal(signal.SIGUSR1, stop)
    parent = os.getpid()

    def work() -> Answer:
        # not while it is on its way out of fork, where Python passes over what is raised
        until(lambda: sleeps(parent), "the parent waits")
        os.kill(parent, signal.SIGUSR1)
        return hang()

    try:
        with pytest.raises(KeyboardInterrupt):
            # the signal can come just before the parent waits, which is then for all the time
            ask(work, 5.0)
    finally:
        signal.signal(signal.SIGUSR1, old)
    assert children() == before


def test_no_process_to_be_had_is_a_failure(tmp_path: Path) -> None:
    os.chmod(tmp_path, 0o777)

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
        answer = ask(lambda: Answer("ok"), LONG)
        assert (answer.state, answer.errno) == ("failed", errno.EAGAIN), answer

    as_stranger(tmp_path, work)
