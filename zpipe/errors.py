"""The errors that zpipe raises on purpose, and the exit status that each of them stands for.

None derives from OSError: the command-line library would turn a stray EPIPE into a silent exit.
The text of each is complete: it names the thing, the act and the reason, in that order.
"""

from __future__ import annotations

import os


class ZpipeError(Exception):
    """Something went wrong that the user is told of, in one line for each argument."""

    exit_code = 1
    told = False  # the user has seen it already, in another form
    of_source = False  # it is the source that failed: the sink may go on with another
    spared = False  # what does not need the one that failed goes on
    consequence = False  # something else has failed before, which is told
    died_of: int | None = None  # the signal that a child has died of
    delivered: int | None = None  # bytes that the sink took before, where one had begun

    def __str__(self) -> str:
        return "\n".join(map(str, self.args))


class UsageError(ZpipeError):
    """The request makes no sense, or names something unknown; nothing was opened for it."""

    exit_code = 2


class TransferError(ZpipeError):
    """An end could not be opened, or failed while bytes were moved.

    `delivered` is the number of bytes that the sink took before the failure, where one had begun;
    `errno` is the kernel's answer, where there was one.
    """

    def __init__(self, text: str, *, delivered: int | None = None, errno: int | None = None):
        super().__init__(text)
        self.delivered = delivered
        self.errno = errno


class SourceChanged(TransferError):
    """The source was written to, cut or replaced while it was read."""

    of_source = True


class SourceTruncated(TransferError):
    """A file was cut while it was mapped: what was asked for is no longer there."""

    of_source = True


class OutputsDropped(ZpipeError):
    """Some outputs of several were given up; the others are complete."""

    exit_code = 5


class ConsumerGone(TransferError):
    """Nobody reads standard output any more (EPIPE); ends quietly by SIGPIPE, as cat does."""

    exit_code = 141


class VerifyError(ZpipeError):
    """The bytes that arrived are not those that were expected."""

    exit_code = 3


class StalledError(ZpipeError):
    """Nothing moved for longer than the stall timeout, or an end could not be reached in time."""

    exit_code = 4


class Interrupted(ZpipeError):
    """A signal asked for the end; the process dies by that same signal once it has tidied up."""

    def __init__(self, signum: int):
        super().__init__(f"ended by {signal_name(signum)}")
        self.signum = signum
        self.exit_code = 128 + signum


def signal_name(signum: int) -> str:
    """Return `SIGINT` for 2, and so on; `signal 40` for one that has no name."""
    import signal

    try:
        return signal.Signals(signum).name
    except ValueError:
        return f"signal {signum}"  # a real-time signal


def onto_itself(name: str) -> UsageError:
    """Return the error for a sink that is the source, by another name or the same."""
    return UsageError(f"{name}: is the source itself: a file cannot be copied onto itself")


def reason(error: OSError) -> str:
    """Return the text of an OSError without number and file name."""
    if error.errno is None:
        return str(error)
    return os.strerror(error.errno) if error.errno > 0 else (error.strerror or str(error))


def open_failed(name: str, act: str, error: OSError) -> TransferError:
    """Return the error for an end that could not be opened: `NAME: ACT: REASON`."""
    return TransferError(f"{name}: {act}: {reason(error)}", errno=error.errno)
