"""Fixtures for all tests, and the watch that nothing is left behind."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from tests.machine import IN_CI, mounted, own_network, warmed_up

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


# the same examples each time where a failure must be one of the change; no bound on slow machines
settings.register_profile("zpipe", deadline=None, derandomize=IN_CI)
settings.load_profile("zpipe")

# nearly every test starts zpipe, and a start without bytecode compiles all that it imports
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def pytest_configure(config: pytest.Config) -> None:
    """Tests that run side by side do not meet at a port."""
    if hasattr(config, "workerinput"):
        own_network()


@pytest.fixture(scope="session", autouse=True)
def warm() -> Iterator[None]:
    """Starts of Python are most of what the tests cost."""
    with warmed_up():
        yield


@pytest.fixture(autouse=True)
def no_leaked_fds() -> Iterator[None]:
    """A test ends with the fds that it began with."""
    before = set(os.listdir("/proc/self/fd"))
    yield
    left = {
        f"{fd} -> {os.readlink(f'/proc/self/fd/{fd}')}"
        for fd in set(os.listdir("/proc/self/fd")) - before
        if os.path.islink(f"/proc/self/fd/{fd}")
    }
    assert not left, f"fds left open: {left}"


@pytest.fixture(scope="session", params=["btrfs", "xfs"])
def sharing(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A filesystem that shares blocks: btrfs, then xfs."""
    base = tmp_path_factory.mktemp(request.param)
    with mounted(request.param, base / "mount", 512 << 20) as place:
        yield place


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 1 MiB, to be filled up."""
    with mounted("tmpfs", tmp_path / "tiny", 1 << 20) as place:
        yield place
