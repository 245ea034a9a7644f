"""How the tests of commands look at a finished run: its status, its one line, its folder."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

from tests.machine import leftovers

if TYPE_CHECKING:
    from pathlib import Path

SMALL = 6  # bytes: goes the short way
BIG = 100_000  # goes the long way


def shell(script: str) -> list[str]:
    """Return the words that run zpipe from a shell script, as "$@"."""
    return ["sh", "-c", script, "sh"]


def one_line(done: subprocess.CompletedProcess[bytes]) -> str:
    """Return the one line that a failed run has said, without the program's name."""
    text = done.stderr.decode("utf-8", "surrogateescape")
    assert text.startswith("zpipe: "), text
    assert text.endswith("\n"), text
    assert text.count("\n") == 1, text
    assert "Traceback" not in text
    assert "internal error" not in text
    return text[len("zpipe: ") : -1]


def refused(done: subprocess.CompletedProcess[bytes], status: int, *fragments: str) -> str:
    """Check status and message of a run that failed; return the message."""
    assert done.returncode == status, (done.returncode, done.stderr)
    text = one_line(done)
    for fragment in fragments:
        assert fragment in text, text
    return text


def went_well(done: subprocess.CompletedProcess[bytes]) -> None:
    """Check that a run ended well and had nothing to say."""
    assert (done.returncode, done.stderr) == (0, b"")


def names(folder: Path) -> list[str]:
    """Return what lies in a folder, sorted; a temporary name among it is a failure."""
    assert not leftovers(folder)
    return sorted(os.listdir(folder))
