"""The graphs of cat and tee, unopened."""

from __future__ import annotations

import pytest

from zpipe.commands.pipelines import OUTPUT_ERRORS, TEE_DEFAULT, cat_graph, tee_graph, tee_policy
from zpipe.errors import UsageError
from zpipe.graph.check import check
from zpipe.graph.model import Endpoint, Graph, Wishes
from zpipe.graph.policy import Policy
from zpipe.graph.wiring import Stream, wire

K = 1 << 10
M = 1 << 20


def stream(graph: Graph) -> Stream:
    """Return the one stream of a sound graph."""
    assert check(graph) == []
    (found,) = wire(graph).streams
    return found


def sources(graph: Graph) -> list[str]:
    return [node.endpoint.text for node in stream(graph).sources]


def sinks(graph: Graph) -> list[Endpoint]:
    return [node.endpoint for node in stream(graph).sinks]


@pytest.mark.parametrize(
    ("operands", "read"),
    [
        ([], ["-"]),
        (["-"], ["-"]),
        (["a"], ["a"]),
        (["a", "-", "b", "a", "-"], ["a", "-", "b", "a", "-"]),
        (["tcp://h:1", "exec:ls -l"], ["tcp://h:1", "exec:ls -l"]),
    ],
)
def test_cat_reads_its_operands_or_standard_input(operands: list[str], read: list[str]) -> None:
    graph = cat_graph(operands, Wishes(skip=True))
    assert sources(graph) == read
    assert [end.kind for end in sinks(graph)] == ["-"]
    assert stream(graph).wishes == (Wishes(skip=True),) * len(read)
    assert stream(graph).policies[0].on_error == "stop"
    assert stream(graph).policies[0].when_full == "block"


def test_an_address_that_is_none_is_refused() -> None:
    for operand in ("", "ftp://host/a"):
        with pytest.raises(UsageError):
            cat_graph(["a", operand], Wishes())
        with pytest.raises(UsageError):
            tee_graph(["a", operand], Wishes(), tee_policy())


@pytest.mark.parametrize(
    "buffer", [0, 1, 12 * K, 64 * K, M, 3 * M, 3 * M + 1, 4 * M, 64 * M, 1 << 30]
)
def test_a_buffer_is_shared_out_between_pipes_and_a_file(buffer: int) -> None:
    """All of it is there, whatever the pipes of it take."""
    found = stream(cat_graph(["a", "b"], Wishes(), buffer=buffer))
    (policy,) = found.policies
    assert (policy.when_full, policy.spill_then, policy.on_error) == ("spill", "block", "stop")
    pipe = found.wishes[0].pipe_size
    assert pipe is not None
    assert 4 * K <= pipe <= M
    assert pipe & (pipe - 1) == 0, "the kernel would round it up"
    # a pipe counts slots, which lines do not fill: of the bytes themselves all may be in the file
    assert buffer <= 3 * pipe + policy.spill_max
    assert policy.spill_max <= buffer
    assert 3 * pipe <= max(buffer, 12 * K)
    assert found.wishes[0] == found.wishes[1]


def test_a_pipe_size_that_was_asked_for_is_kept() -> None:
    found = stream(cat_graph(["a"], Wishes(pipe_size=8 * K), buffer=M))
    assert found.wishes[0].pipe_size == 8 * K


@pytest.mark.parametrize(
    ("operands", "length", "name"),
    [
        (["dir/a"], None, "dir/a"),
        (["file:dir/a"], None, "dir/a"),
        ([], None, "-"),
        (["a", "b"], None, "-"),
        (["exec:ls"], None, "-"),
        # a part of a file is not what its name stands for
        (["a"], 10, "-"),
        (["file:a?offset=5"], None, "-"),
    ],
)
def test_a_digest_has_the_name_of_what_it_is_of(
    operands: list[str], length: int | None, name: str
) -> None:
    graph = cat_graph(operands, Wishes(total=length), hashes=["md5", "sha256"])
    first, *digests = sinks(graph)
    assert first.kind == "-"
    assert [(end.kind, end.address) for end in digests] == [("hash", "md5"), ("hash", "sha256")]
    assert [dict(end.options) for end in digests] == [{"name": name}] * 2
    assert [policy.on_error for policy in stream(graph).policies] == ["stop"] * 3


def test_a_digest_goes_to_a_file_of_any_name() -> None:
    graph = cat_graph(["a?b&c"], Wishes(), hashes=["md5"], hash_file="sum?x=1&y")
    assert dict(sinks(graph)[1].options) == {"name": "a?b&c", "file": "sum?x=1&y"}


def test_an_unknown_digest_is_refused_by_the_name_of_its_option() -> None:
    with pytest.raises(UsageError, match="sha257: unknown algorithm sha257"):
        cat_graph(["a"], Wishes(), hashes=["sha257"])


def test_the_modes_of_output_error_are_those_of_gnu_tee() -> None:
    assert set(OUTPUT_ERRORS) == {"warn", "warn-nopipe", "exit", "exit-nopipe"}
    for mode in OUTPUT_ERRORS:
        policy = tee_policy(mode)
        assert policy.on_error == ("stop" if mode.startswith("exit") else "drop")
        assert policy.may_leave is mode.endswith("-nopipe")
    assert tee_policy() == tee_policy(TEE_DEFAULT) == tee_policy("warn-nopipe")


def test_tee_writes_to_standard_output_and_to_its_operands() -> None:
    graph = tee_graph(["a", "tcp://h:1"], Wishes(inplace=True), tee_policy())
    assert sources(graph) == ["-"]
    assert [end.text for end in sinks(graph)] == ["-", "a", "tcp://h:1"]
    assert [end.kind for end in sinks(graph)] == ["-", "file", "tcp"]
    assert stream(graph).wishes == (Wishes(inplace=True),)
    assert stream(graph).policies == (tee_policy(),) * 3


def test_an_operand_of_one_dash_is_a_file_of_that_name() -> None:
    """POSIX, tee: "-" has no special meaning."""
    graph = tee_graph(["-"], Wishes(), tee_policy())
    assert [(end.kind, end.address) for end in sinks(graph)] == [("-", ""), ("file", "-")]


def test_an_operand_may_be_given_twice() -> None:
    assert len(sinks(tee_graph(["a", "a"], Wishes(), tee_policy()))) == 3


def test_standard_output_can_be_left_alone() -> None:
    graph = tee_graph(["a"], Wishes(), tee_policy(), standard_output=False)
    assert [end.text for end in sinks(graph)] == ["a"]
    with pytest.raises(UsageError, match="tee: nothing to write to"):
        tee_graph([], Wishes(), tee_policy(), standard_output=False)


def test_a_policy_of_its_own() -> None:
    basis = Policy(when_full="spill", spill_max=M)
    graph = tee_graph(["a?when_full=detach&detach_after=1s", "b?spill_max=1K"], Wishes(), basis)
    standard, first, second = stream(graph).policies
    assert standard == basis
    assert (first.when_full, first.detach_after) == ("detach", 1.0)
    assert (second.when_full, second.spill_max) == ("spill", K)
    assert [end.text for end in sinks(graph)] == ["-", "a", "b"]


def test_names_with_a_place_for_a_number_are_split() -> None:
    graph = tee_graph(
        ["part-%d", "whole", "file:own-%d?split_size=5", "file:q-%02d", "exec:cat %d"],
        Wishes(),
        tee_policy(),
        split_size=100,
    )
    assert [end.options.get("split_size") for end in sinks(graph)] == [
        None,
        "100",
        None,
        "5",
        "100",
        None,
    ]


def test_to_split_there_must_be_a_name_for_it() -> None:
    with pytest.raises(UsageError, match="no output's name has a place for a number"):
        tee_graph(["whole"], Wishes(), tee_policy(), split_size=100)
    with pytest.raises(UsageError, match="a part must have a byte at least"):
        tee_graph(["part-%d"], Wishes(), tee_policy(), split_size=0)
