"""Fixtures for the tests of the proxy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.proxy.proxying import echo, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.proxy.proxying import Server


@pytest.fixture
def upstream() -> Iterator[Server]:
    """A server that sends back what it gets."""
    with serving(echo) as server:
        yield server
