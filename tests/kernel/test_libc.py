"""ctypes is loaded when it is needed, and its errors are OSErrors."""

from __future__ import annotations

import errno
import subprocess
import sys

import pytest

from tests.machine import environment
from zpipe.kernel import errnos
from zpipe.kernel.libc import checked, libc

PROGRAM = """
import sys
from zpipe.kernel import (
    changes, clone, direct, errnos, holes, inspect, lease, libc, mapping, network, pipes, transfer)
assert "ctypes" not in sys.modules
libc.libc()
assert "ctypes" in sys.modules
"""


def test_importing_the_kernel_layer_does_not_load_ctypes() -> None:
    subprocess.run([sys.executable, "-c", PROGRAM], env=environment(), check=True)


def test_a_failed_call_raises_what_errno_says() -> None:
    with pytest.raises(OSError, match=f"Errno {errno.EBADF}]"):
        checked(libc().fallocate(-1, 0, 0, 1))
    assert checked(7) == 7


@pytest.mark.parametrize("name", ["SPLICE_REFUSED", "MAP_REFUSED", "DIRECT_REFUSED"])
def test_a_refusal_is_never_what_a_broken_disk_or_a_full_one_answers(name: str) -> None:
    """Falling back on these would hide that bytes were lost, or try a full disk once more."""
    refusals: frozenset[int] = getattr(errnos, name)
    assert not refusals & ({errno.EIO} | errnos.SINK_ONLY)


@pytest.mark.parametrize("name", ["COPY_RANGE_REFUSED", "CLONE_REFUSED"])
def test_no_refusal_is_what_only_a_sink_can_answer(name: str) -> None:
    refusals: frozenset[int] = getattr(errnos, name)
    assert not refusals & errnos.SINK_ONLY
