"""Make the branches of a fan: pipes of one capacity, threads for files, stages that spill."""

from __future__ import annotations

from errno import EAGAIN, EPERM

from zpipe.engine.branch import IN_TURNS, Branch
from zpipe.errors import TransferError, reason
from zpipe.kernel.pipes import CAPACITY, Pipe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from zpipe.endpoints.contract import End, Waiter
    from zpipe.engine.report import OutletReport
    from zpipe.graph.model import Wishes
    from zpipe.graph.policy import Policy

_ALL = 16 << 20  # bytes of capacity for one fan: a quarter of what one user may have (pipe(7))
_LEAST = 64 << 10


def make_branches(
    sinks: Sequence[tuple[End, Policy, OutletReport]],
    wishes: Wishes,
    waiter: Waiter,
    wake: Callable[[], None],
) -> tuple[list[Branch], Pipe | None, OSError | None]:
    """Return the branches, the pipe of their trunk if they have pipes, and why not where they
    should have had.

    Raises: TransferError  there is no place to spill to.
    """
    trunk: Pipe | None = None
    trouble: OSError | None = None
    pipes: list[Pipe] = []
    if wishes.via != "plain" and not {"tee", "splice"} & wishes.without:
        try:
            count = sum(inlets_of(end, policy) for end, policy, _ in sinks)
            trunk, *pipes = make_pipes(count + 1, wishes.pipe_size)
        except OSError as error:
            trouble = error
    capacity = trunk.capacity if trunk is not None else CAPACITY
    branches: list[Branch] = []
    try:
        for end, policy, outlet in sinks:
            count = inlets_of(end, policy) if pipes else 0
            mine, pipes = pipes[:count], pipes[count:]
            branches.append(
                make_branch(end, policy, outlet, waiter, mine, capacity=capacity, wake=wake)
            )
    except BaseException:
        for pipe in (*pipes, *filter(None, (trunk,))):
            pipe.close()
        for branch in branches:
            branch.close()
        raise
    if trunk is not None and any(
        branch.inlet is None or branch.inlet.capacity < capacity for branch in branches
    ):
        # a stage got less than the others: tee would be short
        trunk.close()
        trunk, trouble = None, OSError(EPERM, "")
    return branches, trunk, trouble


def make_pipes(count: int, wanted: int | None) -> list[Pipe]:
    """Return `count` private pipes that all have the same capacity, `wanted` if that can be had.

    Raises: OSError  EMFILE, ENFILE.
    """
    share = max(_LEAST, min(CAPACITY, _ALL // count))
    made: list[Pipe] = []
    try:
        for _ in range(count):
            # rounded down to a power of two: the kernel would round up
            made.append(Pipe(wanted or 1 << share.bit_length() - 1))
        least = min(pipe.capacity for pipe in made)
        for pipe in made:
            pipe.shrink(least)
    except OSError:
        for pipe in made:
            pipe.close()
        raise
    return made


def make_branch(
    end: End,
    policy: Policy,
    outlet: OutletReport,
    waiter: Waiter,
    inlets: Sequence[Pipe],
    *,
    capacity: int,
    wake: Callable[[], None],
) -> Branch:
    """Return the branch of an end. The inlets are taken over, also where this fails.

    Raises: TransferError  there is no place to spill to.
    """
    stage = None
    if policy.when_full == "spill":
        from zpipe.engine.spill import Stage, default_folder

        for inlet in inlets:
            inlet.close()
        folder = policy.spill_dir or default_folder()
        try:
            stage = Stage(folder, policy.spill_max, capacity, wake)
        except OSError as error:
            what = "start a thread to spill" if error.errno == EAGAIN else f"spill to {folder}"
            raise TransferError(
                f"{end.name}: {what}: {reason(error)}", errno=error.errno
            ) from error
    if end.facts.on_disk:
        from zpipe.engine.threaded import WorkerBranch

        try:
            return WorkerBranch(end, policy, outlet, waiter, inlets, stage, wake=wake)
        except OSError:
            for inlet in inlets[1:]:
                inlet.close()  # no thread to be had: written by the fan itself
    return Branch(end, policy, outlet, waiter, inlets[0] if inlets else None, stage)


def inlets_of(end: End, policy: Policy) -> int:
    """Return how many inlets the branch of an end needs."""
    return IN_TURNS if end.facts.on_disk and policy.when_full != "spill" else 1


def rounds_of_copies(branches: Sequence[Branch]) -> int:
    """Return how many bytes of a buffer can be written into the inlet of every stage."""
    rooms = [branch.stage.inlet.capacity for branch in branches if branch.stage is not None]
    return min([CAPACITY, *rooms])
