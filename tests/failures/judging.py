"""What must hold after any failure: everything arrived, or exactly what is stated, or nothing."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tests.machine import leftovers

if TYPE_CHECKING:
    from pathlib import Path

    from tests.paths.tracing import Run

NOTHING = "nothing was put in place"


def judge(done: Run, data: bytes, *, file: Path | None = None, provisional: bool = False) -> None:
    """Hold a run to its word: `file` is where the bytes went, None: to standard output.

    A provisional file is there when all went well, and else not at all.
    """
    assert "internal error" not in done.errors and "Traceback" not in done.errors, done.errors
    if file is not None:
        assert leftovers(file.parent) == []
    there = file is None or file.exists()
    got = done.output if file is None else file.read_bytes() if there else b""
    if done.status == 0:
        assert got == data, f"status 0, and {len(got)} of {len(data)} bytes are there"
        assert done.record("end")["bytes"] == len(data)
        return
    assert done.status == 1, f"status {done.status}: {done.errors}"
    assert re.fullmatch("zpipe: .+\n", done.errors), f"one line: {done.errors!r}"
    if provisional:
        assert not there, "something is under the final name"
        assert NOTHING in done.errors
        return
    stated = re.search(r"; (\d+) bytes were delivered", done.errors)
    assert stated, done.errors
    delivered = int(stated[1])
    assert done.record("error")["bytes"] == delivered
    assert got == data[:delivered], f"{delivered} are stated, {len(got)} are there"
