"""What becomes of one output of several when it cannot keep up, or fails."""

from __future__ import annotations

from zpipe.errors import UsageError
from zpipe.spelling import choice
from zpipe.units import parse_duration, parse_size
from zpipe.values import Value, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, Literal, TypeAlias

    WhenFull: TypeAlias = Literal["block", "detach", "spill"]
    OnError: TypeAlias = Literal["drop", "stop"]

WHEN_FULL = ("block", "detach", "spill")
SPILL_THEN = ("block", "detach")


class Policy(Value):
    """How one output is treated beside the others.

    `when_full`: block: the slowest sets the pace; detach: dropped once it has taken nothing for
    `detach_after` seconds; spill: what it does not take goes to an unlinked file in `spill_dir`
    (None: TMPDIR, or /var/tmp), up to `spill_max` bytes, and after that it is treated by
    `spill_then`. `on_error`: the others go on without it, or all stop. `may_leave`: a pipe whose
    reader has gone is no failure; else `sigpipe`: if it is standard output, the process ends by
    SIGPIPE, without a word.
    """

    when_full: WhenFull = "block"
    detach_after: float = 5.0
    spill_max: int = 1 << 30
    spill_dir: str | None = None
    spill_then: WhenFull = "block"
    on_error: OnError = "drop"
    may_leave: bool = False
    sigpipe: bool = True


# name of the option, as it is written behind an address -> how its value is read
OPTIONS: dict[str, Callable[[str], Any]] = {
    "when_full": choice(WHEN_FULL),
    "detach_after": parse_duration,
    "spill_max": parse_size,
    "spill_dir": str,
    "spill_then": choice(SPILL_THEN),
}


def split_policy(text: str) -> tuple[str, dict[str, str]]:
    """Split the options of a policy off an output's address; all others stay where they are.

    Raises: UsageError  an option is given twice, or without a value.
    """
    address, mark, query = text.rpartition("?")
    mine: dict[str, str] = {}
    rest = []
    for part in query.split("&") if mark else ():
        name, equals, value = part.partition("=")
        if name not in OPTIONS:
            rest.append(part)
            continue
        if not equals or not value:
            raise UsageError(f"{text}: option {name}: give a value, {name}=...")
        if name in mine:
            raise UsageError(f"{text}: option {name}: given twice")
        mine[name] = value
    if not mine:
        return text, {}
    return f"{address}?{'&'.join(rest)}" if rest else address, mine


def adapted(policy: Policy, options: Mapping[str, str], name: str) -> Policy:
    """Return a policy with the options of one output. Raises: UsageError  naming the output."""
    changes = {}
    for option, text in options.items():
        try:
            changes[option] = OPTIONS[option](text)
        except UsageError as error:
            raise UsageError(f"{name}: option {option}: {error}") from None
    changed = replace(policy, **changes)
    for option in changes:
        if not has_effect(option, changed):
            raise UsageError(f"{name}: option {option}: has no effect: {NEEDS[option]}")
    return changed


# option -> what it takes to have an effect
NEEDS = {
    "detach_after": "no output is detached",
    "spill_max": "no output spills",
    "spill_dir": "no output spills",
    "spill_then": "no output spills",
}


def has_effect(option: str, policy: Policy) -> bool:
    """Tell whether an option changes anything under a policy."""
    if option == "detach_after":
        return "detach" in (policy.when_full, policy.spill_then)
    return option == "when_full" or policy.when_full == "spill"
