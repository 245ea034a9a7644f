"""Sizes, rates, durations and whole numbers as people write and read them.

Sizes follow coreutils: K = KiB = 1024, KB = 1000, and so on up to E; decimals are allowed as long
as the result is a whole number of bytes after rounding down. Durations: `250ms`, `10s`, `1h30m`;
a bare number means seconds.
"""

from __future__ import annotations

from zpipe.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_POWERS = {letter: power for power, letter in enumerate("KMGTPE", start=1)}
_DURATIONS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_LARGEST = 2**63 - 1
_SMALLEST_PIPE, _LARGEST_PIPE = 4096, 1 << 31
_LONGEST = 300  # digits: a float still holds it


def parse_size(text: str) -> int:
    """Return the number of bytes that `text` names, 0..2**63-1.

    Raises: UsageError  not a size, negative, or too large for a file offset.
    """
    number, unit = _split_number(text.strip())
    factor = _size_factor(unit.strip())
    if number is None or factor is None:
        raise UsageError(
            f"{text}: not a size: give a number with K, M, G, T, P or E (1024) or KB, MB (1000)"
        )
    # in integers: a float would turn 1.001KB into 1000
    digits, scale = number
    size = digits * factor // scale
    if size > _LARGEST:
        raise UsageError(f"{text}: not a size: larger than a file can be (8 EiB)")
    return size


def parse_pipe_size(text: str) -> int:
    """Return the capacity of a pipe in bytes, 4 KiB to 2 GiB (F_SETPIPE_SZ of fcntl(2)).

    Raises: UsageError  not a size, or out of this range.
    """
    size = parse_size(text)
    if not _SMALLEST_PIPE <= size <= _LARGEST_PIPE:
        raise UsageError(f"{text}: give 4K to 2G")
    return size


def parse_rate(text: str) -> int:
    """Return bytes per second, at least 1; a trailing `/s` or `ps` is allowed.

    Raises: UsageError  not a rate, or zero.
    """
    bare = text.removesuffix("/s").removesuffix("ps")
    try:
        rate = parse_size(bare)
    except UsageError:
        raise UsageError(f"{text}: not a rate: give a size per second, like 500K or 20M") from None
    if rate == 0:
        raise UsageError(f"{text}: not a rate: nothing would ever move")
    return rate


def parse_duration(text: str) -> float:
    """Return seconds, more than 0.

    Raises: UsageError  not a duration, or zero.
    """
    total, rest = 0.0, text.strip() if len(text) <= _LONGEST else "?"
    whole = rest
    while rest:
        number, tail = _split_number(rest)
        unit = next((u for u in ("ms", "s", "m", "h", "d") if tail.startswith(u)), None)
        if number is None or (unit is None and (tail or rest != whole)):
            raise UsageError(f"{text}: not a duration: write it like 250ms, 10s or 1h30m")
        digits, scale = number
        total += digits / scale * _DURATIONS[unit or "s"]
        rest = tail[len(unit or "") :]
    if not 0 < total < 1e9:
        raise UsageError(
            f"{text}: not a duration: it must be more than zero and less than 30 years"
        )
    return total


def whole(least: int, most: int) -> Callable[[str], int]:
    """Return a reader of whole numbers. It raises UsageError for others."""

    def read(text: str) -> int:
        number = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else -1
        if not least <= number <= most:
            raise UsageError(f"{text}: give a whole number from {least} to {most}")
        return number

    return read


def format_size(count: float) -> str:
    """Return a size for people: exact bytes below 1024, then three digits and a binary unit."""
    if count < 1023.5:
        return f"{count:.0f} B"
    value, power = float(count), 0
    # the bounds are those at which rounding would give a fourth digit
    while value >= 1023.5 and power < 6:
        value, power = value / 1024, power + 1
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{digits}f} {'KMGTPE'[power - 1]}iB"


def format_duration(seconds: float) -> str:
    """Return a duration for people: `0.42 ms`, `3.10 s`, `2:05`, `1:02:03`."""
    if seconds < 0.099995:
        return f"{seconds * 1000:.2f} ms"
    if seconds < 59.995:
        return f"{seconds:.2f} s"
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _size_factor(unit: str) -> int | None:
    if unit in ("", "B"):
        return 1
    power = _POWERS.get(unit[0].upper())
    if power is None or unit[1:] not in ("", "B", "iB"):
        return None
    return int((1000 if unit[1:] == "B" else 1024) ** power)


def _split_number(text: str) -> tuple[tuple[int, int] | None, str]:
    """Split off a decimal number, as digits and the power of ten to divide them by."""
    end = 0
    while end < len(text) and (text[end] in "0123456789" or text[end] == "."):
        end += 1
    number = text[:end]
    if not number.strip(".") or number.count(".") > 1 or len(number) > _LONGEST:
        return None, text
    whole, _, fraction = number.partition(".")
    return (int(whole + fraction), 10 ** len(fraction)), text[end:]
