"""Benchmarks that are soon over, and yet have time for everything on a machine that is busy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zpipe.bench import schedule

if TYPE_CHECKING:
    import pytest


AMPLE = 600  # seconds to be asked for: the rounds are over long before


def in_short(patch: pytest.MonkeyPatch) -> None:
    """Have two rounds of short measurements, however many there is time for."""
    patch.setattr(schedule, "ROUNDS", (1, 1, 1))
    patch.setattr(schedule, "LONGEST", schedule.SHORTEST)
