"""Errors: their exit status, their words, and what none of them may be."""

from __future__ import annotations

import errno
import os
import signal

import pytest

from zpipe import errors
from zpipe.errors import (
    ConsumerGone,
    Interrupted,
    SourceChanged,
    StalledError,
    TransferError,
    UsageError,
    VerifyError,
    ZpipeError,
    open_failed,
    reason,
    signal_name,
)

RAISED = [
    each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, Exception)
]


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (ZpipeError, 1),
        (TransferError, 1),
        (SourceChanged, 1),
        (ConsumerGone, 141),
        (UsageError, 2),
        (VerifyError, 3),
        (StalledError, 4),
    ],
)
def test_each_error_has_the_status_of_the_manual(kind: type[ZpipeError], status: int) -> None:
    assert kind("text").exit_code == status
    assert str(kind("text")) == "text"


@pytest.mark.parametrize("kind", RAISED)
def test_no_error_is_an_oserror(kind: type[Exception]) -> None:
    """A stray EPIPE would become a silent exit 1 in the command line library."""
    assert issubclass(kind, ZpipeError)
    assert not issubclass(kind, OSError)


def test_death_by_signal_has_the_status_that_a_shell_shows() -> None:
    error = Interrupted(signal.SIGTERM)
    assert (error.exit_code, error.signum, str(error)) == (143, 15, "ended by SIGTERM")


def test_a_transfer_error_knows_how_far_it_came() -> None:
    error = TransferError("text", delivered=5, errno=errno.EIO)
    assert (error.delivered, error.errno) == (5, errno.EIO)
    assert (TransferError("text").delivered, TransferError("text").errno) == (None, None)


@pytest.mark.parametrize(
    ("number", "name"), [(2, "SIGINT"), (9, "SIGKILL"), (40, "signal 40"), (64, "SIGRTMAX")]
)
def test_a_signal_has_a_name_or_at_least_a_number(number: int, name: str) -> None:
    assert signal_name(number) == name


def test_a_reason_is_the_kernels_text_without_number_and_file() -> None:
    with pytest.raises(OSError) as caught:
        os.open("/no/such/file", os.O_RDONLY)
    assert reason(caught.value) == "No such file or directory"
    assert reason(OSError(errno.EISDIR, "")) == "Is a directory"
    assert reason(OSError("of its own")) == "of its own"
    assert reason(OSError(-2, "Name or service not known")) == "Name or service not known"


def test_an_end_that_cannot_be_opened_is_named_with_act_and_reason() -> None:
    error = open_failed("tcp://h:1", "connect", OSError(errno.ECONNREFUSED, ""))
    assert str(error) == "tcp://h:1: connect: Connection refused"
    assert error.errno == errno.ECONNREFUSED
