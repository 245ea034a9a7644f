"""Which upstream is chosen, and when one counts as down: all with times made up by the test."""

from __future__ import annotations

import socket
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as some

from zpipe.proxy.settings import Address, Balance, Check, Upstream
from zpipe.proxy.upstreams import Balancer, Target

if TYPE_CHECKING:
    from collections.abc import Sequence

BALANCES: tuple[Balance, ...] = ("round-robin", "least-conn", "first", "source")
CLIENTS = [f"192.0.{high}.{low}" for high in range(40) for low in range(1, 251)]
weights_of_some = some.lists(some.integers(1, 20), min_size=2, max_size=6)


def upstream(name: str, weight: int = 1) -> Upstream:
    return Upstream(Address("tcp", name, host="127.0.0.1", port=1), weight)


def balancer(
    balance: Balance, weights: Sequence[int] = (1, 1, 1), check: Check | None = None
) -> Balancer:
    """Return one with the targets a, b, c, ..."""
    named = tuple(upstream(chr(ord("a") + i), weight) for i, weight in enumerate(weights))
    made = Balancer(named, balance, check)
    for target in made.targets:
        target.addresses = [(socket.AF_INET, ("127.0.0.1", 1))]
    return made


def take(from_whom: Balancer, source: str = "", now: float = 0.0) -> Target:
    chosen = from_whom.choose(source, now)
    assert chosen is not None
    return chosen


def knock_down(target: Target, now: float = 0.0) -> None:
    while target.up:
        target.failed(now)


# round-robin


@given(weights_of_some, some.integers(1, 3))
def test_round_robin_is_exact_after_as_many_turns_as_the_weights_add_up_to(
    weights: list[int], rounds: int
) -> None:
    turns = balancer("round-robin", weights)
    counts = Counter(take(turns).name for _ in range(rounds * sum(weights)))
    assert [counts[target.name] for target in turns.targets] == [w * rounds for w in weights]


def test_round_robin_interleaves_instead_of_sending_bursts() -> None:
    turns = balancer("round-robin", (5, 1, 1))
    assert "".join(take(turns).name for _ in range(14)) == "aabacaa" * 2


def test_round_robin_goes_on_in_proportion_among_those_that_are_left() -> None:
    turns = balancer("round-robin", (3, 2, 1))
    take(turns)
    knock_down(turns.targets[0])
    counts = Counter(take(turns).name for _ in range(300))
    assert counts["a"] == 0
    assert abs(counts["b"] - 200) <= 2


# least-conn


@given(some.lists(some.tuples(some.integers(1, 9), some.integers(0, 50)), min_size=2, max_size=6))
def test_least_conn_takes_the_fewest_connections_for_the_weight(
    of_each: list[tuple[int, int]],
) -> None:
    least = balancer("least-conn", [weight for weight, _ in of_each])
    for target, (_, active) in zip(least.targets, of_each, strict=True):
        target.active = active
    loads = [Fraction(active, weight) for weight, active in of_each]
    for _ in range(2 * len(loads)):
        chosen = take(least)
        assert Fraction(chosen.active, chosen.weight) == min(loads)


@given(some.integers(2, 7), some.integers(0, 3))
def test_least_conn_takes_turns_among_equals(count: int, active: int) -> None:
    least = balancer("least-conn", [1] * count)
    for target in least.targets:
        target.active = active
    chosen = [take(least) for _ in range(3 * count)]
    assert chosen == least.targets * 3


def test_least_conn_spreads_connections_that_never_end_by_weight() -> None:
    least = balancer("least-conn", (1, 2, 3))
    for _ in range(600):
        take(least).active += 1
    assert [target.active for target in least.targets] == [100, 200, 300]


# first


def test_first_takes_the_next_only_while_the_first_is_down_or_tried() -> None:
    order = balancer("first")
    a, b, c = order.targets
    assert take(order) is a
    assert order.choose("", 0.0, (a,)) is b
    knock_down(a)
    assert take(order) is b
    knock_down(b)
    assert take(order) is c


def test_first_gives_a_backup_no_trial_while_the_first_is_up() -> None:
    order = balancer("first")
    a, b, _ = order.targets
    knock_down(b)
    assert {take(order, now=100.0 + i) for i in range(5)} == {a}


# source


def test_a_client_has_the_same_upstream_in_every_process_and_release() -> None:
    by_source = balancer("source", (1, 2, 3))
    chosen = "".join(take(by_source, client).name for client in CLIENTS[:12])
    assert chosen == "cbcccabacacc"


def test_clients_are_spread_by_weight() -> None:
    for weights in ((1, 1, 1), (1, 2, 3)):
        by_source = balancer("source", weights)
        counts = Counter(take(by_source, client).name for client in CLIENTS)
        for target in by_source.targets:
            share = len(CLIENTS) * target.weight / sum(weights)
            assert abs(counts[target.name] - share) < share / 10


@given(weights_of_some, some.data())
def test_an_upstream_that_is_removed_takes_only_its_own_clients_with_it(
    weights: list[int], data: some.DataObject
) -> None:
    gone = data.draw(some.integers(0, len(weights) - 1))
    before = balancer("source", weights)
    kept = [target.upstream for target in before.targets if target is not before.targets[gone]]
    after = Balancer(tuple(kept), "source")
    down = balancer("source", weights)
    knock_down(down.targets[gone])
    for client in CLIENTS[::97]:
        was = take(before, client)
        if was is not before.targets[gone]:
            assert take(after, client).name == was.name
            assert take(down, client).name == was.name
        else:
            assert take(after, client).name == take(down, client).name


def test_an_upstream_named_twice_has_two_shares() -> None:
    by_source = Balancer((upstream("a"), upstream("a"), upstream("b")), "source")
    counts = Counter(id(take(by_source, client)) for client in CLIENTS)
    assert len(counts) == 3
    assert min(counts.values()) > len(CLIENTS) / 4


# choosing


@given(
    some.sampled_from(BALANCES),
    some.booleans(),
    some.lists(some.integers(1, 5), min_size=1, max_size=4),
    some.lists(
        some.tuples(
            some.sampled_from(("failed", "succeeded", "good", "bad", "choose", "active")),
            some.integers(0, 3),
            some.floats(0, 40),
            some.sets(some.integers(0, 3)),
        ),
        max_size=60,
    ),
)
def test_whatever_happens_one_is_chosen_that_was_not_tried_and_is_up_if_one_is(
    balance: Balance,
    checks: bool,
    weights: list[int],
    events: list[tuple[str, int, float, set[int]]],
) -> None:
    chooser = balancer(balance, weights, Check() if checks else None)
    targets = chooser.targets
    now = 0.0
    for event, which, passes, numbers in events:
        now += passes
        target = targets[which % len(targets)]
        if event == "failed":
            target.failed(now)
        elif event == "succeeded":
            target.succeeded()
        elif event in {"good", "bad"}:
            was = target.up
            assert target.checked(event == "good", now) == (target.up != was)
        elif event == "active":
            target.active = which
        tried = tuple(target for i, target in enumerate(targets) if i in numbers)
        up = [target for target in targets if target.up and target not in tried]
        chosen = chooser.choose("192.0.2.1", now, tried)
        assert chosen not in tried
        assert (chosen is None) == (len(tried) == len(targets))
        if chosen is not None and up and checks:
            assert chosen.up  # without checks, it may be a trial


@pytest.mark.parametrize("balance", BALANCES)
def test_the_only_upstream_is_tried_even_when_it_is_down(balance: Balance) -> None:
    alone = balancer(balance, (1,))
    (only,) = alone.targets
    knock_down(only)
    assert take(alone) is only
    assert alone.choose("", 0.0, (only,)) is None
    only.succeeded()
    assert only.up


@pytest.mark.parametrize("balance", BALANCES)
@pytest.mark.parametrize("check", [None, Check()], ids=["passive", "checks"])
def test_when_all_are_down_they_are_tried_in_turn(balance: Balance, check: Check | None) -> None:
    chooser = balancer(balance, (1, 1, 1), check)
    for late, target in enumerate(chooser.targets):
        knock_down(target, now=late / 10)
    chosen = [take(chooser, now=0.5 + i / 100) for i in range(6)]
    assert chosen == chooser.targets * 2


# passive marking


def test_three_failures_in_a_row_mark_a_target_down_and_a_success_between_does_not() -> None:
    target = Target(upstream("a"))
    for outcome in (target.failed, target.failed, None, target.failed, target.failed):
        if outcome is None:
            target.succeeded()
        else:
            outcome(0.0)
    assert target.up
    target.failed(0.0)
    assert not target.up
    assert target.failures == 5


def test_each_of_many_addresses_has_a_chance_before_the_target_is_down() -> None:
    target = Target(upstream("a"))
    target.addresses = [(socket.AF_INET, (f"10.0.0.{i}", 1)) for i in range(5)]
    asked = []
    while target.up:
        asked.append(target.address())
        target.failed(0.0)
    assert asked == target.addresses


def trials(chooser: Balancer, target: Target, start: float, end: float) -> list[float]:
    """Return when, in steps of 10 ms, a target that refuses everything is let through."""
    times = []
    for step in range(round(start * 100), round(end * 100)):
        now = step / 100
        if take(chooser, now=now) is target:
            times.append(now)
            target.failed(now)
    return times


def test_a_hold_doubles_from_one_second_to_thirty_with_each_trial_that_fails() -> None:
    chooser = balancer("first", (1, 1))
    target = chooser.targets[0]
    knock_down(target, now=0.0)
    times = trials(chooser, target, 0.0, 130.0)
    pauses = [round(later - earlier) for earlier, later in zip([0.0, *times], times, strict=False)]
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30]


def test_a_success_of_the_trial_brings_the_target_back_with_the_shortest_hold_again() -> None:
    chooser = balancer("first", (1, 1))
    target = chooser.targets[0]
    knock_down(target)
    assert len(trials(chooser, target, 0.0, 10.0)) == 3
    assert take(chooser, now=20.0) is target
    target.succeeded()
    assert target.up
    assert take(chooser, now=20.0) is target
    knock_down(target, now=20.0)
    assert trials(chooser, target, 20.0, 24.0) == [21.0, 23.0]


def test_only_one_connection_is_let_through_as_a_trial() -> None:
    chooser = balancer("first", (1, 1))
    target, other = chooser.targets
    knock_down(target)
    assert take(chooser, now=1.0) is target
    assert {take(chooser, now=1.0 + i / 10) for i in range(30)} == {other}


def test_a_trial_that_ends_without_a_word_is_followed_by_another() -> None:
    chooser = balancer("first", (1, 1))
    target, _ = chooser.targets
    knock_down(target)
    assert take(chooser, now=1.0) is target
    assert take(chooser, now=60.0) is target


def test_a_crowd_of_connects_that_fail_together_is_no_reason_for_a_longer_hold() -> None:
    chooser = balancer("first", (1, 1))
    target, _ = chooser.targets
    for _ in range(100):
        target.failed(0.0)
    assert trials(chooser, target, 0.0, 1.5) == [1.0]
    for _ in range(100):  # late ones, that began before the trial
        target.failed(1.5)
    assert trials(chooser, target, 1.5, 4.0) == [3.0]
    assert target.failures == 202


# active checks


def test_checks_need_fall_failures_and_rise_successes_in_a_row() -> None:
    target = Target(upstream("a"), Check(rise=2, fall=3))
    outcomes = "--+---+-++-++"
    changes = [target.checked(sign == "+", 0.0) for sign in outcomes]
    assert [i for i, changed in enumerate(changes) if changed] == [5, 9]
    assert target.up


def test_with_checks_failed_connects_count_until_the_next_good_check() -> None:
    chooser = balancer("first", (1, 1), Check(rise=2, fall=3))
    target, other = chooser.targets
    knock_down(target)
    assert {take(chooser, now=float(now)) for now in range(100)} == {other}
    target.succeeded()  # of a connect that began before
    assert not target.up
    assert target.checked(True, 100.0)
    assert take(chooser, now=100.0) is target


def test_a_target_that_failed_checks_after_connects_needs_to_rise() -> None:
    target = Target(upstream("a"), Check(rise=2, fall=3))
    knock_down(target)
    assert not any(target.checked(False, 0.0) for _ in range(3))
    assert not target.checked(True, 0.0)
    assert target.checked(True, 0.0)


def test_a_target_that_checks_have_brought_back_forgets_the_failures_before() -> None:
    target = Target(upstream("a"), Check(rise=1, fall=1))
    target.failed(0.0)
    target.failed(0.0)
    assert target.checked(False, 0.0)
    assert target.checked(True, 0.0)
    target.failed(0.0)
    assert target.up


# addresses

V4 = [(int(socket.AF_INET), (f"10.0.0.{i}", 80)) for i in range(4)]


def test_the_next_address_is_used_after_a_failure_and_kept_while_it_works() -> None:
    target = Target(upstream("a"))
    target.addresses = V4[:2]
    assert target.address() == V4[0]
    target.failed(0.0)
    for _ in range(3):
        assert target.address() == V4[1]
        target.succeeded()
    target.failed(0.0)
    assert target.address() == V4[0]


def test_a_check_that_fails_tries_the_next_address_as_well() -> None:
    target = Target(upstream("a"), Check())
    target.addresses = V4[:2]
    target.checked(False, 0.0)
    assert target.address() == V4[1]


def test_an_address_that_works_is_kept_when_the_list_comes_in_another_order() -> None:
    target = Target(upstream("a"))
    target.addresses = V4[:3]
    target.failed(0.0)
    target.addresses = [V4[3], V4[2], V4[1]]
    assert target.address() == V4[1]
    target.addresses = [V4[0], V4[3]]
    assert target.address() == V4[0]


def test_a_target_that_is_down_is_tried_at_once_where_its_name_has_moved() -> None:
    chooser = balancer("first", (1, 1))
    target, other = chooser.targets
    knock_down(target)
    assert take(chooser, now=0.5) is other
    target.addresses = V4[:1]
    assert take(chooser, now=0.5) is target


@pytest.mark.parametrize(
    ("family", "place", "loopback"),
    [
        (socket.AF_INET, ("127.0.0.1", 80), True),
        (socket.AF_INET, ("127.9.9.9", 80), True),
        (socket.AF_INET6, ("::1", 80, 0, 0), True),
        (socket.AF_INET6, ("::ffff:127.0.0.1", 80, 0, 0), True),
        (socket.AF_INET, ("10.127.0.1", 80), False),
        (socket.AF_INET6, ("2001:db8::1", 80, 0, 0), False),
        (socket.AF_UNIX, "127.0.0.1", False),
        (socket.AF_UNIX, b"\0127.", False),
    ],
)
def test_pacing_is_worth_switching_off_on_loopback_under_bbr(
    family: int, place: object, loopback: bool
) -> None:
    control = Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text()
    target = Target(upstream("a"))
    target.addresses = [(family, place)]
    assert target.no_pacing == (loopback and control.startswith("bbr"))
