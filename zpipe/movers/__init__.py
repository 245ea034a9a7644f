"""One way of carrying bytes per module. [add here]

A mover is a module that ends in `MOVER: Mover = ...`, and its name in `MOVERS`. It looks at facts,
never at kinds of endpoints; it moves bytes and never waits, retries or reports. Modules load by
name on first use.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zpipe.movers.contract import Mover

# In the order in which a plan prefers them; those of ON_REQUEST only when they are asked for.
MOVERS = ("reflink", "parallel", "copy_range", "sendfile", "splice", "mapped", "direct", "plain")
ON_REQUEST = frozenset({"mapped", "direct"})


def mover_of(name: str) -> Mover:
    """Return the mover of that name. Raises: KeyError  there is none."""
    if name not in MOVERS:
        raise KeyError(name)
    mover: Mover = import_module(f"zpipe.movers.{name}").MOVER
    return mover
