"""Sizes, rates and durations: what people write, exactly, and what they read."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from zpipe.errors import UsageError
from zpipe.units import format_duration, format_size, parse_duration, parse_rate, parse_size

UNITS = [letter + suffix for letter in "KMGTPEkmgtpe" for suffix in ("", "B", "iB")] + ["", "B"]


def meaning(unit: str) -> int:
    """Return the factor of a unit, by the manual of coreutils."""
    if unit in ("", "B"):
        return 1
    base = 1000 if unit[1:] == "B" else 1024
    power: int = "KMGTPE".index(unit[0].upper()) + 1
    return int(base**power)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1", 1),
        ("007", 7),
        ("512B", 512),
        ("1K", 1024),
        ("1k", 1024),
        ("1KiB", 1024),
        ("1KB", 1000),
        ("1kB", 1000),
        ("1M", 1 << 20),
        ("1MB", 10**6),
        ("2G", 2 << 30),
        ("3TB", 3 * 10**12),
        ("1P", 1 << 50),
        ("7E", 7 << 60),
        ("1.5K", 1536),
        (".5K", 512),
        ("5.", 5),
        ("1.0001K", 1024),
        ("0.0001", 0),
        ("1.001KB", 1001),
        ("4.35MB", 4_350_000),
        ("9007199254740993", 2**53 + 1),
        ("8.000000000000000001E", None),
        (" 10 K ", 10240),
        ("9223372036854775807", 2**63 - 1),
        ("9223372036854775808", None),
        ("8E", None),
        ("", None),
        (" ", None),
        (".", None),
        ("..1", None),
        ("1.2.3", None),
        ("K", None),
        ("-1", None),
        ("+1", None),
        ("1e3", None),
        ("1_000", None),
        ("0x10", None),
        ("1Kb", None),
        ("1kib", None),
        ("1Ki", None),
        ("1b", None),
        ("1Z", None),
        ("1KK", None),
        ("1 0", None),
        ("١", None),
        ("²", None),
        ("9" * 5000, None),
        ("9" * 400 + ".5", None),
        ("0." + "0" * 5000 + "1E", None),
    ],
)
def test_a_size_means_what_it_means_to_coreutils(text: str, size: int | None) -> None:
    if size is None:
        with pytest.raises(UsageError, match="not a size"):
            parse_size(text)
    else:
        assert parse_size(text) == size


@given(whole=st.integers(0, 10**20), places=st.integers(0, 30), unit=st.sampled_from(UNITS))
@example(whole=1001, places=3, unit="KB")
def test_a_decimal_size_is_exact_and_rounded_down(whole: int, places: int, unit: str) -> None:
    digits = str(whole).rjust(places + 1, "0")
    text = digits[:-places] + "." + digits[-places:] if places else digits
    exact = Fraction(whole, 10**places) * meaning(unit)
    if int(exact) > 2**63 - 1:
        with pytest.raises(UsageError, match="larger than a file can be"):
            parse_size(text + unit)
    else:
        assert parse_size(text + unit) == int(exact)


@given(st.text())
def test_any_text_is_a_size_or_a_usage_error(text: str) -> None:
    for parse in (parse_size, parse_rate, parse_duration):
        try:
            assert parse(text) >= 0
        except UsageError as error:
            assert str(error).startswith(text)


@given(st.integers(0, 2**63 - 1))
def test_a_size_reads_back_what_was_written(size: int) -> None:
    """Three digits are shown: what is read back is within half a unit of the last of them."""
    shown = format_size(size)
    number, unit = shown.split(" ")
    assert len(number.replace(".", "")) == 3 or unit == "B" or 1000 <= int(number) < 1024
    factor = meaning(unit)
    assert abs(Fraction(number) * factor - size) <= Fraction(size, 200)
    if unit == "B":
        assert parse_size(number + unit) == size


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (1023, "1023 B"),
        (1023.4, "1023 B"),
        (1023.7, "1.00 KiB"),
        (1024, "1.00 KiB"),
        (1536, "1.50 KiB"),
        (10 * 1024 - 1, "10.0 KiB"),
        (100 * 1024 - 1, "100 KiB"),
        (1000 * 1024, "1000 KiB"),
        ((1 << 20) - 1, "1.00 MiB"),
        (1 << 20, "1.00 MiB"),
        (123_456_789, "118 MiB"),
        (1 << 60, "1.00 EiB"),
        (5000 << 60, "5000 EiB"),
    ],
)
def test_a_size_is_shown_with_three_digits_and_a_binary_unit(size: float, text: str) -> None:
    assert format_size(size) == text


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("500", 500),
        ("500/s", 500),
        ("500K", 512_000),
        ("20M/s", 20 << 20),
        ("20MBps", 20_000_000),
        ("1.5Kps", 1536),
        ("0", None),
        ("0.5", None),
        ("/s", None),
        ("ps", None),
        ("10/m", None),
        ("fast", None),
        ("", None),
    ],
)
def test_a_rate_is_a_size_each_second_and_never_zero(text: str, rate: int | None) -> None:
    if rate is None:
        with pytest.raises(UsageError, match="not a rate"):
            parse_rate(text)
    else:
        assert parse_rate(text) == rate


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1", 1.0),
        ("0.5", 0.5),
        ("250ms", 0.25),
        ("10s", 10.0),
        ("5m", 300.0),
        ("1h", 3600.0),
        ("2d", 172_800.0),
        ("1h30m", 5400.0),
        ("1m5s500ms", 65.5),
        ("1.5h", 5400.0),
        (" 3s ", 3.0),
        ("0h1s", 1.0),
        ("", None),
        ("0", None),
        ("0s", None),
        ("s", None),
        ("-1s", None),
        ("1x", None),
        ("1h30", None),
        ("0h30", None),
        ("30 s", None),
        ("1mss", None),
        ("1e3", None),
        ("inf", None),
        ("nan", None),
        ("9" * 400, None),
        ("9" * 299 + "d", None),
        ("40000d", None),
    ],
)
def test_a_duration_is_a_sum_of_numbers_with_units(text: str, seconds: float | None) -> None:
    if seconds is None:
        with pytest.raises(UsageError, match="not a duration"):
            parse_duration(text)
    else:
        assert parse_duration(text) == pytest.approx(seconds)


@given(
    st.tuples(*[st.integers(0, 99) for _ in range(4)]).filter(any),
)
def test_the_parts_of_a_duration_add_up(parts: tuple[int, ...]) -> None:
    text = "".join(f"{part}{unit}" for part, unit in zip(parts, "dhms", strict=True))
    days, hours, minutes, seconds = parts
    assert parse_duration(text) == ((days * 24 + hours) * 60 + minutes) * 60 + seconds


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.00 ms"),
        (0.00042, "0.42 ms"),
        (0.0999, "99.90 ms"),
        (0.099999, "0.10 s"),
        (0.1, "0.10 s"),
        (3.1, "3.10 s"),
        (59.99, "59.99 s"),
        (59.999, "1:00"),
        (60, "1:00"),
        (125, "2:05"),
        (3599.4, "59:59"),
        (3599.6, "1:00:00"),
        (3723, "1:02:03"),
        (90_000, "25:00:00"),
    ],
)
def test_a_duration_is_shown_by_its_magnitude(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
