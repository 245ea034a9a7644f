"""How files of a place would be copied, by the plan, from what was found there. Pure."""

from __future__ import annotations

from zpipe.doctor.findings import Answer
from zpipe.facts import FdFacts
from zpipe.graph.model import Wishes
from zpipe.plan.choice import choose

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from zpipe.doctor.findings import Finding

# the movers, and all findings of which each has need
_NEEDS = {
    "reflink": ("reflink",),
    "copy_range": ("copy-range",),
    "sendfile": ("sendfile-to-file",),
    "splice": ("splice-file-to-pipe", "splice-pipe-to-file"),
}
_SIZES = (1 << 20, 1 << 30)


def copies_within(findings: Sequence[Finding], path: str) -> Answer:
    """Return the mover that carries `cp` of a file within a place, and of a big one."""
    found = {each.name: each for each in findings if each.path in (None, path)}
    without = frozenset(
        mover
        for mover, needs in _NEEDS.items()
        if any(name in found and found[name].state != "ok" for name in needs)
    )
    place = found["filesystem"].value if "filesystem" in found else None
    family = place.get("family") if isinstance(place, dict) else None
    names = [_mover(size, family, without) for size in _SIZES]
    told = names[0]
    if names[1] != names[0]:
        told += f"; {names[1]} where a file is as big as 1 GiB"
    return Answer("fact", told, {"small": names[0], "big": names[1]})


def _mover(size: int, family: str | None, without: frozenset[str]) -> str:
    source = FdFacts("regular", position=0, size=size, allocated=size, filesystem=family)
    sink = FdFacts("regular", position=0, size=0, allocated=0, filesystem=family, fresh=True)
    return choose(source, sink, Wishes(without=without)).first.name
