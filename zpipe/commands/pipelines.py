"""The graphs of `zpipe cat` and `zpipe tee`. Loads no command line library."""

from __future__ import annotations

from zpipe.commands.carrying import Shown, carry
from zpipe.endpoints import parse
from zpipe.engine.copy import joined
from zpipe.errors import UsageError
from zpipe.graph.model import Endpoint, Wishes
from zpipe.graph.policy import Policy, adapted, split_policy
from zpipe.values import Value, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from zpipe.graph.model import Graph

_STANDARD = Endpoint("-", "-", "")
_LARGEST_PIPE = 1 << 20
_SMALLEST_PIPE = 4096


class OutputErrors(Value):
    """What an output that fails means, as `tee --output-error` has it."""

    exits: bool
    pipes_count: bool


OUTPUT_ERRORS = {
    "warn": OutputErrors(exits=False, pipes_count=True),
    "warn-nopipe": OutputErrors(exits=False, pipes_count=False),
    "exit": OutputErrors(exits=True, pipes_count=True),
    "exit-nopipe": OutputErrors(exits=True, pipes_count=False),
}
TEE_DEFAULT = "warn-nopipe"


def in_short(command: str, operands: Sequence[str]) -> None:
    """Run `cat` or `tee` without options. Raises: ZpipeError."""
    if command == "cat":
        carry(lambda: cat_graph(operands, Wishes(skip=True)), Shown())
    else:
        wishes = Wishes(inplace=True, lenient=True)
        carry(lambda: tee_graph(operands, wishes, tee_policy()), Shown())


def cat_graph(
    sources: Sequence[str],
    wishes: Wishes,
    *,
    buffer: int | None = None,
    hashes: Sequence[str] = (),
    hash_file: str | None = None,
) -> Graph:
    """Return the graph of sources one after the other to standard output, and to digests.

    Raises: UsageError  an address is none, or a digest is unknown.
    """
    ends = [parse(text, sink=False) for text in sources] or [_STANDARD]
    policy = Policy(on_error="stop")
    if buffer is not None:
        # all of it may have to lie in the file: what is in the three pipes, a round, the inlet and
        # the outlet of the stage, comes in pieces of any size
        third = max(_SMALLEST_PIPE, min(_LARGEST_PIPE, buffer // 3))
        pipe = 1 << third.bit_length() - 1
        wishes = replace(wishes, pipe_size=wishes.pipe_size or pipe)
        policy = replace(policy, when_full="spill", spill_max=buffer)
    sinks = [(_STANDARD, policy)]
    whole = len(ends) == 1 and ends[0].kind == "file" and wishes.total is None
    for algorithm in hashes:
        # a part of a file is not what its name stands for
        options = {"name": ends[0].address if whole and not ends[0].options else "-"}
        if hash_file is not None:
            options["file"] = hash_file
        sinks.append((_digest(algorithm, options), Policy(on_error="stop")))
    return joined(ends, sinks, wishes)


def _digest(algorithm: str, options: dict[str, str]) -> Endpoint:
    from zpipe.endpoints import kind_of

    end = Endpoint(f"--hash {algorithm}", "hash", algorithm, options)
    kind_of("hash").check(end, sink=True)
    return end


def tee_policy(mode: str = TEE_DEFAULT) -> Policy:
    """Return the policy that `--output-error=MODE` stands for."""
    errors = OUTPUT_ERRORS[mode]
    return Policy(
        on_error="stop" if errors.exits else "drop",
        may_leave=not errors.pipes_count,
        sigpipe=False,
    )


def tee_graph(
    outs: Sequence[str],
    wishes: Wishes,
    policy: Policy,
    *,
    standard_output: bool = True,
    split_size: int | None = None,
) -> Graph:
    """Return the graph of standard input to standard output and to each of `outs`.

    Raises: UsageError  an address is none, or there is nothing to write to.
    """
    sinks = [(_STANDARD, policy)] if standard_output else []
    split = 0
    for out in outs:
        text, options = split_policy(out)
        # an operand - of tee is a file of that name (POSIX)
        end = Endpoint("-", "file", "-") if text == "-" else parse(text, sink=True)
        if split_size is not None and _is_split(end):
            end = replace(end, options={**end.options, "split_size": str(split_size)})
            split += 1
        sinks.append((end, adapted(policy, options, text)))
    if not sinks:
        raise UsageError("tee: nothing to write to: give an output, or leave out --no-stdout")
    if split_size is not None:
        if not split_size:
            raise UsageError("--split-size 0: a part must have a byte at least")
        if not split:
            raise UsageError(
                "--split-size: no output's name has a place for a number, like part-%04d.bin"
            )
    return joined([_STANDARD], sinks, wishes)


def _is_split(end: Endpoint) -> bool:
    from zpipe.endpoints.split import has_pattern

    return end.kind == "file" and "split_size" not in end.options and has_pattern(end.address)
