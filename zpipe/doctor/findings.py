"""What is found out, as values: the answer of one probe, a finding, and what is worth doing.

Refuses to know how something is found out, and how it is shown.
"""

from __future__ import annotations

import errno
import os

from zpipe.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Literal, TypeAlias

    # fact: neither good nor bad; refused: the kernel knows it, and says no here; absent: the
    # kernel, Python or the file is not there; unknown: could not be tried; hung: cut off;
    # failed: the examination itself went wrong.
    State: TypeAlias = Literal[
        "ok", "fact", "limited", "refused", "absent", "unknown", "hung", "failed"
    ]

# something is less than it could be, for certain
LACKING = frozenset({"limited", "refused", "absent", "hung"})
# the probe had no chance: this says nothing about what it was to find out
_NO_CHANCE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})


class Answer(Value):
    """What a probe has found. `value` is of what JSON has words for."""

    state: State
    detail: str = ""
    value: object = None
    errno: int = 0


class Probe(Value):
    """One question. `name` is for programs and stays; `effect`: what zpipe does without it."""

    name: str
    label: str
    ask: Callable[[], Answer]
    effect: str = ""


class Finding(Value):
    """The answer to one question; `path` is that of a place that was asked about."""

    group: str
    name: str
    label: str
    state: State
    detail: str = ""
    value: object = None
    errno: int = 0
    effect: str = ""
    path: str | None = None

    @property
    def lacks(self) -> bool:
        """Something is less than it could be, for certain."""
        return self.state in LACKING


class Advice(Value):
    """A change that is worth it: what it is about, why, and the command that root gives."""

    name: str
    why: str
    command: str


class Examination(Value):
    """All that was found, and what to do about it."""

    findings: tuple[Finding, ...]
    advice: tuple[Advice, ...]

    @property
    def failures(self) -> list[Finding]:
        """Return those where the examination itself went wrong."""
        return [finding for finding in self.findings if finding.state == "failed"]


class Refused(Exception):
    """The kernel refused a call; or it claimed to have done what it has not (errno 0)."""

    def __init__(self, call: str, number: int, text: str = ""):
        super().__init__(call, number, text)
        self.call = call
        self.errno = number
        self.text = text


class NoPlace(Exception):
    """There is nothing to try it on: no file can be made here."""


class Trying:
    """A block in which an OSError is the kernel's answer to `call`: it becomes `Refused`."""

    def __init__(self, call: str):
        self._call = call

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            raise Refused(self._call, error.errno or 0, str(error)) from error


def answered(ask: Callable[[], Answer]) -> Answer:
    """Ask, and make an answer of whatever is raised."""
    try:
        return ask()
    except NoPlace as error:
        return Answer("unknown", str(error))
    except AttributeError as error:
        return Answer("absent", f"this Python was built without it ({error.name or error})")
    except Refused as error:
        return _refused(error.call, error.errno, error.text)
    except OSError as error:
        return _refused("", error.errno or 0, str(error))
    except Exception as error:
        return Answer("failed", f"{type(error).__name__}: {error}")


def _refused(call: str, number: int, text: str) -> Answer:
    told = f"{errno_name(number)}, {os.strerror(number)}" if number else text
    detail = f"{call}: {told}" if call else told
    if number in _NO_CHANCE:
        return Answer("failed", detail, errno=number)
    return Answer("absent" if number == errno.ENOSYS else "refused", detail, errno=number)


def errno_name(number: int) -> str:
    """Return `EPERM` for 1, and so on; EOPNOTSUPP by the name that manuals use."""
    if number == errno.EOPNOTSUPP:
        return "EOPNOTSUPP"
    return errno.errorcode.get(number, f"errno {number}")
