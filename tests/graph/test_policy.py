"""The policy of an output: how it is written behind an address, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zpipe.errors import UsageError
from zpipe.graph.policy import OPTIONS, Policy, adapted, split_policy


def test_an_output_waits_for_the_others_and_is_dropped_when_it_fails_unless_it_is_told() -> None:
    policy = Policy()
    assert (policy.when_full, policy.spill_then, policy.on_error) == ("block", "block", "drop")
    assert (policy.detach_after, policy.spill_max, policy.spill_dir) == (5.0, 1 << 30, None)
    assert not policy.may_leave


@pytest.mark.parametrize(
    ("text", "address", "options"),
    [
        ("x", "x", {}),
        ("", "", {}),
        ("x?when_full=spill", "x", {"when_full": "spill"}),
        ("x?when_full=", None, {}),
        (
            "tcp://h:1?detach_after=1s&when_full=detach",
            "tcp://h:1",
            {"detach_after": "1s", "when_full": "detach"},
        ),
        # what is the address's own stays with it, in its order
        ("file:x?append=1&when_full=spill&mode=0600", "file:x?append=1&mode=0600", None),
        ("file:x?append=1", "file:x?append=1", {}),
        ("exec:curl h/?a=1&b=2", "exec:curl h/?a=1&b=2", {}),
        ("exec:curl h/?a=1&when_full=detach", "exec:curl h/?a=1", {"when_full": "detach"}),
        # the last mark counts: one before it belongs to a name
        ("what?.log?when_full=block", "what?.log", {"when_full": "block"}),
        ("what?", "what?", {}),
        # words that only look like an option
        ("x?when-full=spill", "x?when-full=spill", {}),
        ("x?WHEN_FULL=spill", "x?WHEN_FULL=spill", {}),
        ("when_full=spill", "when_full=spill", {}),
        # a value is taken as it is, and judged later
        ("x?spill_dir=/a=b", "x", {"spill_dir": "/a=b"}),
        ("x?when_full=never", "x", {"when_full": "never"}),
    ],
)
def test_options_are_split_off_an_address(
    text: str, address: str | None, options: dict[str, str] | None
) -> None:
    if address is None:
        with pytest.raises(UsageError):
            split_policy(text)
        return
    rest, found = split_policy(text)
    assert rest == address
    if options is not None:
        assert found == options


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_needs_one_value(name: str) -> None:
    for text in (f"x?{name}", f"x?{name}="):
        with pytest.raises(UsageError) as raised:
            split_policy(text)
        assert str(raised.value) == f"{text}: option {name}: give a value, {name}=..."
    text = f"x?{name}=1&{name}=1"
    with pytest.raises(UsageError) as raised:
        split_policy(text)
    assert str(raised.value) == f"{text}: option {name}: given twice"


PLAIN = st.text(st.characters(exclude_characters="?&", exclude_categories=["Cs"]), min_size=1)


@given(PLAIN, st.dictionaries(st.sampled_from(sorted(OPTIONS)), PLAIN, min_size=1))
def test_what_is_joined_is_split_again(address: str, options: dict[str, str]) -> None:
    query = "&".join(f"{name}={value}" for name, value in options.items())
    assert split_policy(f"{address}?{query}") == (address, options)


@given(st.text(st.sampled_from("x?&=") | st.characters(exclude_categories=["Cs"])))
def test_an_address_without_such_options_stays_as_it_is(text: str) -> None:
    if not any(name in text for name in OPTIONS):
        assert split_policy(text) == (text, {})


def test_a_policy_takes_on_the_options_and_keeps_the_rest() -> None:
    basis = Policy(on_error="stop", may_leave=True)
    options = {
        "when_full": "spill",
        "detach_after": "250ms",
        "spill_max": "2K",
        "spill_dir": "/tmp",
        "spill_then": "detach",
    }
    assert set(options) == set(OPTIONS)
    assert adapted(basis, options, "x") == Policy(
        when_full="spill",
        detach_after=0.25,
        spill_max=2048,
        spill_dir="/tmp",
        spill_then="detach",
        on_error="stop",
        may_leave=True,
    )
    assert adapted(basis, {}, "x") == basis
    assert basis.when_full == "block"


@pytest.mark.parametrize(
    ("basis", "options", "why"),
    [
        ({}, {"detach_after": "1s"}, "option detach_after: has no effect: no output is detached"),
        ({}, {"spill_max": "1K"}, "option spill_max: has no effect: no output spills"),
        ({}, {"spill_dir": "/tmp"}, "option spill_dir: has no effect: no output spills"),
        ({}, {"spill_then": "block"}, "option spill_then: has no effect: no output spills"),
        (
            {"when_full": "spill"},
            {"when_full": "detach", "spill_max": "1K"},
            "option spill_max: has no effect: no output spills",
        ),
        ({"when_full": "detach"}, {"detach_after": "1s"}, None),
        ({"when_full": "spill", "spill_then": "detach"}, {"detach_after": "1s"}, None),
        ({"when_full": "spill"}, {"spill_max": "0", "spill_dir": "/tmp"}, None),
        ({}, {"when_full": "block"}, None),
    ],
)
def test_an_option_that_changes_nothing_is_refused(
    basis: dict[str, Any], options: dict[str, str], why: str | None
) -> None:
    if why is None:
        adapted(Policy(**basis), options, "x")
        return
    with pytest.raises(UsageError) as raised:
        adapted(Policy(**basis), options, "x")
    assert str(raised.value) == f"x: {why}"


@pytest.mark.parametrize(
    ("option", "value", "why"),
    [
        ("when_full", "drop", "drop: give one of block, detach, spill"),
        ("when_full", "Block", "Block: give one of block, detach, spill; did you mean block?"),
        ("spill_then", "spill", "spill: give one of block, detach"),
        ("detach_after", "soon", "soon: not a duration"),
        ("detach_after", "0", "more than zero"),
        ("spill_max", "-1", "-1: not a size"),
        ("spill_max", "lots", "lots: not a size"),
    ],
)
def test_a_value_that_is_none_is_refused_in_the_name_of_the_output(
    option: str, value: str, why: str
) -> None:
    with pytest.raises(UsageError) as raised:
        adapted(Policy(), {option: value}, "unix:tap")
    text = str(raised.value)
    assert text.startswith(f"unix:tap: option {option}: ")
    assert why in text
    assert "\n" not in text
