"""Options that mean the same in every command, and are refused where they mean nothing."""

from __future__ import annotations

from typing import Any

import pytest

from zpipe.commands.options import heeded, no_contradiction, policy_of
from zpipe.engine.copy import fan_out
from zpipe.errors import UsageError
from zpipe.graph.model import Wishes
from zpipe.graph.policy import Policy

NONE: dict[str, Any] = {
    "when_full": "block",
    "detach_after": None,
    "spill_max": None,
    "spill_dir": None,
    "spill_then": None,
}


def test_without_options_the_policy_is_the_usual_one() -> None:
    assert policy_of(NONE) == Policy()
    assert policy_of(NONE, on_error="stop", may_leave=True) == Policy(
        on_error="stop", may_leave=True
    )


def test_every_option_is_taken() -> None:
    options = {
        "when_full": "spill",
        "detach_after": 0.5,
        "spill_max": 0,
        "spill_dir": "/tmp",
        "spill_then": "detach",
    }
    assert policy_of(options) == Policy(
        when_full="spill",
        detach_after=0.5,
        spill_max=0,
        spill_dir="/tmp",
        spill_then="detach",
    )


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"spill_max": 1}, "--spill-max: has no effect: no output spills"),
        ({"spill_max": 0}, "--spill-max: has no effect: no output spills"),
        ({"spill_dir": "/tmp"}, "--spill-dir: has no effect: no output spills"),
        ({"spill_then": "block"}, "--spill-then: has no effect: no output spills"),
        ({"detach_after": 1.0}, "--detach-after: has no effect: no output is detached"),
        ({"when_full": "detach", "spill_max": 1}, "--spill-max: has no effect: no output spills"),
        (
            {"when_full": "spill", "detach_after": 1.0},
            "--detach-after: has no effect: no output is detached",
        ),
        ({"when_full": "detach", "detach_after": 1.0}, None),
        ({"when_full": "spill", "spill_then": "detach", "detach_after": 1.0}, None),
        ({"when_full": "spill", "spill_max": 1, "spill_dir": "/tmp"}, None),
        ({}, None),
    ],
)
def test_an_option_that_means_nothing_for_any_output_is_refused(
    given: dict[str, Any], why: str | None
) -> None:
    options = {**NONE, **given}
    graph = fan_out("a", ["x", "y"], Wishes(), policy_of(options))
    if why is None:
        assert heeded(graph, options) is graph
        return
    with pytest.raises(UsageError) as raised:
        heeded(graph, options)
    assert str(raised.value) == why


def test_one_output_for_which_it_means_something_is_enough() -> None:
    options = {**NONE, "spill_max": 1}
    graph = fan_out("a", ["x", "y?when_full=spill"], Wishes(), policy_of(options))
    assert heeded(graph, options) is graph
    assert [edge.policy.spill_max for edge in graph.edges] == [1, 1]


def test_a_mover_cannot_be_asked_for_and_forbidden() -> None:
    no_contradiction({"via": None, "no_via": ("tee", "plain")})
    no_contradiction({"via": "plain", "no_via": ("tee",)})
    with pytest.raises(UsageError, match="--via and --no-via: tee is both asked for and forbidden"):
        no_contradiction({"via": "tee", "no_via": ("plain", "tee")})
