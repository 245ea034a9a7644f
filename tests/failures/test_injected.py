"""Each errno of each mover's set, at each of its first calls, given by strace, not by the kernel.

The copy is complete, or it says how much has arrived, and that is true. A refusal of the first
call, where no mover was asked for by name, ends in a complete copy by another one.
"""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.failures.denied import allowed, denying
from tests.failures.judging import judge
from tests.machine import content, leftovers
from tests.paths.tracing import run, strace
from zpipe.kernel.errnos import CLONE_REFUSED, COPY_RANGE_REFUSED, DIRECT_REFUSED, SPLICE_REFUSED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import Any

    from tests.paths.tracing import Call, Run

# one errno of each sort: "not here", an error, nothing
SORTS = ("EINVAL", "EIO", "EINTR")


def names(refusals: frozenset[int]) -> list[str]:
    """Return the symbols of a set of errnos, and of some that are in no such set."""
    symbols = {errno.errorcode[each].replace("ENOTSUP", "EOPNOTSUPP") for each in refusals}
    return sorted(symbols | {"EIO", "ENOSPC", "EINTR"})


def number(name: str) -> int:
    value: int = getattr(errno, name)
    return value


class Case(NamedTuple):
    """A mover, its call, and a pair for which that is made four times at least."""

    mover: str
    call: str
    refusals: frozenset[int]
    source: str = "source"
    sink: str = "file"
    words: tuple[str, ...] = ()


CASES = {
    "splice to a file": Case("splice", "splice", SPLICE_REFUSED, words=("--pipe-size", "64K")),
    "splice to a pipe": Case("splice", "splice", SPLICE_REFUSED, "stream", "-"),
    "sendfile to a pipe": Case("sendfile", "sendfile", SPLICE_REFUSED, "source", "-"),
    "copy_range": Case("copy_range", "copy_file_range", COPY_RANGE_REFUSED, "sparse"),
}
IN_PLACE = Case("copy_range", "copy_file_range", COPY_RANGE_REFUSED, "sparse", words=("--inplace",))


def matrix() -> Iterator[Any]:
    """Yield case, errno, at which calls, and whether the mover is asked for by name.

    Whether an errno is a refusal matters to the first call of each kind alone: splice has one into
    the private pipe and one out of it. Those of each sort are given to later calls too, and to a
    mover that was asked for: what it does then does not depend on who chose it.
    """
    for title, case in CASES.items():
        first, every = ((1, 2), (1, 2, 3, 4)) if case.mover == "splice" else ((1,), (1, 2, 4))
        # the sink makes no difference to which errnos are refusals
        known = names(case.refusals) if title != "splice to a file" else [*SORTS, "ENOSPC"]
        for name in known:
            calls = every if name in SORTS else first
            yield pytest.param(case, name, calls, False, id=f"{title}-{name}-chosen")
        for name in SORTS:
            calls = (1, 3) if name == "EINVAL" else (1,)
            yield pytest.param(case, name, calls, True, id=f"{title}-{name}-asked")
    yield pytest.param(IN_PLACE, "EXDEV", (1, 3), False, id="in place-EXDEV-chosen")
    yield pytest.param(IN_PLACE, "ENOSPC", (1, 3), False, id="in place-ENOSPC-chosen")
    yield pytest.param(IN_PLACE, "EXDEV", (1,), True, id="in place-EXDEV-asked")


def before(calls: list[Call], *, found: Callable[[Call], bool]) -> int:
    """Return how many calls come before the first one that a mover makes: Python's own, records."""
    return next(place for place, call in enumerate(calls) if found(call))


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of eight times what a pipe takes and a bit; another one with holes."""
    folder = tmp_path_factory.mktemp("sources")
    (folder / "source").write_bytes(content((4 << 20) + 77))
    with open(folder / "sparse", "wb") as file:
        for place in range(6):
            file.seek((2 * place + 1) << 16)
            file.write(content(50_000, place))
    return folder


def inject(case: Case, name: str, when: int, via: bool, sources: Path, folder: Path) -> Run:
    """Run the case with one fault, in a folder of its own, and judge it."""
    folder.mkdir()
    source = sources / ("sparse" if case.source == "sparse" else "source")
    data = source.read_bytes()
    sink = folder / "sink"
    words = ["--via", case.mover] if via else []
    # who would be preferred to the one whose call is to fail
    words += [] if via or case.mover != "splice" else ["--no-via", "sendfile"]
    words += [] if via or case.mover == "copy_range" else ["--no-via", "copy_range"]
    for _ in range(5):
        done = run(
            *words,
            *case.words,
            f"exec:cat {source}" if case.source == "stream" else source,
            sink if case.sink == "file" else "-",
            log=folder.with_suffix(".log"),
            trace=[case.call],
            inject=[f"{case.call}:error={name}:when={when}"],
        )
        hit = [call for call in done.calls if call.name == case.call]
        if len(hit) >= when:
            break  # else a quick reader has made few calls of it
    assert len(hit) >= when, f"only {len(hit)} calls: the fault was never met"
    if case.sink == "-":
        judge(done, data)
    else:
        judge(done, data, file=sink, provisional="--inplace" not in case.words)
    return done


@pytest.mark.parametrize(("case", "name", "calls", "via"), [*matrix()])
def test_an_errno_at_each_of_the_first_calls(
    case: Case, name: str, calls: tuple[int, ...], via: bool, sources: Path, tmp_path: Path
) -> None:
    strace()
    with ThreadPoolExecutor(2) as pool:
        runs = list(
            pool.map(
                lambda when: inject(case, name, when, via, sources, tmp_path / str(when)),
                calls,
            )
        )
    first, *later = runs
    if name == "EINTR":
        assert all(done.status == 0 for done in runs), "an interrupted call is made again"
    elif number(name) not in case.refusals:
        assert all(done.status == 1 for done in runs), "an error, whoever would come next"
        assert first.record("error")["errno"] == number(name)
    elif via:
        assert first.status == 1, "the one that was asked for stands alone"
        assert f"--via {case.mover}: {case.call}:" in first.errors and name in first.errors
    else:
        assert first.status == 0, first.errors
        fallback = first.record("fallback")
        assert (fallback["mover"], fallback["errno"]) == (case.mover, number(name))
        assert first.record("hop")["mover"] != case.mover
    if case.mover != "splice" and name != "EINTR":
        assert all(done.status == 1 for done in later), "bytes were on their way"


@pytest.mark.parametrize(
    ("sharing", "name"),
    [
        *(("btrfs", name) for name in sorted({*names(CLONE_REFUSED)} - {"EINTR"})),
        *(("xfs", name) for name in ("EXDEV", "ENOSPC")),
    ],
    indirect=["sharing"],
    scope="session",
)
def test_clones_that_are_refused(name: str, sharing: Path, tmp_path: Path) -> None:
    """By a filter on that one ioctl: Python makes many others."""
    allowed()
    source, sink = sharing / f"{tmp_path.name}-source", sharing / f"{tmp_path.name}-sink"
    data = content(400_000)
    source.write_bytes(data)
    refused = number(name) in CLONE_REFUSED
    every: list[tuple[str, ...]] = [(), ("--via", "reflink"), ("--rate-limit", "9M")]
    # one that is a refusal and one that is none go each way
    for words in every if name in ("EXDEV", "ENOSPC") else every[:1]:
        denied = denying(name, "ioctl:1=0x40049409", "ioctl:1=0x4020940D")
        done = run(*words, source, sink, before=denied)
        judge(done, data, file=sink, provisional=True)
        assert done.status == (0 if refused and "--via" not in words else 1), done.errors
        if done.status == 0:
            assert done.record("fallback")["mover"] == "reflink"
            assert done.record("fallback")["errno"] == number(name)
            sink.unlink()
        else:
            assert os.strerror(number(name)) in done.errors


@pytest.mark.parametrize(
    ("sharing", "name"),
    [("btrfs", "EINVAL"), ("xfs", "ENOSPC")],
    indirect=["sharing"],
    scope="session",
)
def test_ranges_after_the_first(name: str, sharing: Path, tmp_path: Path) -> None:
    """At a rate that makes six of them; what was shared by then is not put in place."""
    strace()
    source = sharing / f"{tmp_path.name}-source"
    data = content(400_000)
    source.write_bytes(data)
    words = ("--rate-limit", "1500K", source)

    def attempt(when: int) -> Run:
        """Python's own calls come first; how many changes with what it has to compile."""
        folder = sharing / f"{tmp_path.name}-{when}"
        folder.mkdir()
        log = tmp_path / f"log-{when}"
        for _ in range(5):
            done = run("--length", "4096", *words, folder / "one", log=log, trace=["ioctl"])
            others = before(done.calls, found=lambda call: "FICLONERANGE" in call.arguments)
            fault = f"ioctl:error={name}:when={others + when}"
            done = run(*words, folder / "sink", log=log, trace=["ioctl"], inject=[fault])
            ours = [call for call in done.calls if "FICLONERANGE" in call.arguments]
            if [call.error for call in ours].index(name) == when - 1:
                break
        judge(done, data, file=folder / "sink", provisional=True)
        return done

    with ThreadPoolExecutor(2) as pool:
        runs = list(pool.map(attempt, (2, 5)))
    assert [done.status for done in runs] == [1] * len(runs)


@pytest.mark.parametrize("name", names(DIRECT_REFUSED))
@pytest.mark.parametrize("call", ["preadv2", "pwrite64"])
def test_past_the_page_cache(call: str, name: str, tmp_path: Path) -> None:
    """Five buffers of 2 MiB; the reads are those of another thread."""
    strace()
    source = tmp_path / "source"
    data = content((8 << 20) + 4096 + 5)
    source.write_bytes(data)

    def attempt(when: int) -> Run:
        folder = tmp_path / str(when)
        folder.mkdir()
        done = run(
            *("--via", "direct", "--inplace"),
            source,
            folder / "sink",
            log=tmp_path / f"log-{when}",
            trace=[call],
            inject=[f"{call}:error={name}:when={when}"],
        )
        if "O_DIRECT" in done.errors and "INJECTED" not in (tmp_path / f"log-{when}").read_text():
            pytest.skip("the temporary folder takes no O_DIRECT")
        judge(done, data, file=folder / "sink")
        return done

    with ThreadPoolExecutor(2) as pool:
        runs = list(pool.map(attempt, (1, 2, 4) if name in SORTS else (1,)))
    if name == "EINTR" or (call, name) == ("preadv2", "ENOSYS"):
        # the C library has preadv as well
        assert all(done.status == 0 for done in runs)
    elif number(name) not in DIRECT_REFUSED:
        assert all(done.status == 1 for done in runs)
        assert runs[0].record("error")["errno"] == number(name)
    else:
        assert runs[0].status == 1 and "--via direct" in runs[0].errors


@pytest.mark.parametrize("call", ["readv", "write", "sendto"])
def test_read_and_write(call: str, tmp_path: Path) -> None:
    """The last resort has nobody to fall back to: every errno but an interruption is an error."""
    strace()
    source = tmp_path / "source"
    data = content((1 << 20) + 5)
    source.write_bytes(data)

    words = ("--via", "plain", "--inplace")
    done = run(*words, source, tmp_path / "sink", log=tmp_path / "log", trace=[call])
    others = 0 if call == "sendto" else before(done.calls, found=lambda call: call.result > 1 << 16)

    def attempt(name: str, when: int) -> Run:
        log = tmp_path / f"log-{name}-{when}"
        fault = f"{call}:error={name}:when={when}"
        if call == "sendto":
            return to_a_socket(source, data, log, fault)
        folder = tmp_path / f"{name}-{when}"
        folder.mkdir()
        fault = f"{call}:error={name}:when={others + when}"
        done = run(*words, source, folder / "sink", log=log, trace=[call], inject=[fault])
        judge(done, data, file=folder / "sink")
        return done

    for when in (1, 2, 4):
        assert attempt("EIO", when).status == 1
        assert attempt("EINTR", when).status == 0
    assert attempt("EINVAL", 1).status == 1
    assert attempt("ENOSPC", 1).status == 1


def to_a_socket(source: Path, data: bytes, log: Path, fault: str) -> Run:
    """Copy to an inherited socket, which is sent to without changing its flags."""
    import socket
    import threading

    left, right = socket.socketpair()
    got = bytearray()

    def take() -> None:
        with left:
            while piece := left.recv(1 << 16):
                got.extend(piece)

    taker = threading.Thread(target=take)
    taker.start()
    sink = right.detach()
    done = run(
        *("--via", "plain"),
        source,
        "-",
        stdout=sink,
        give_away=[sink],
        log=log,
        trace=["sendto"],
        inject=[fault],
    )
    taker.join()
    judge(done._replace(output=bytes(got)), data)
    return done


def test_write_from_a_mapping(tmp_path: Path) -> None:
    strace()
    source, sink = tmp_path / "source", tmp_path / "sink"
    data = content(9 << 20)
    source.write_bytes(data)
    words = ("--via", "mapped", "--inplace")
    done = run(*words, source, sink, log=tmp_path / "log", trace=["write"])
    others = before(done.calls, found=lambda call: call.result > 1 << 16)
    for name, when in (("EIO", 1), ("ENOSPC", 2), ("EFAULT", 3)):
        log = tmp_path / f"log-{when}"
        fault = f"write:error={name}:when={others + when}"
        done = run(*words, source, sink, log=log, trace=["write"], inject=[fault])
        assert done.status == 1
        judge(done, data, file=sink)


@pytest.mark.parametrize(("call", "name"), [("preadv2", "EIO"), ("pwrite64", "ENOSPC")])
def test_two_threads(call: str, name: str, tmp_path: Path) -> None:
    """Either thread meets the fault at its third call; what is left is a prefix."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("only one processor may be used")
    strace()
    source, sink = tmp_path / "source", tmp_path / "sink"
    data = content(1 << 20) * 64
    source.write_bytes(data)
    fault = f"{call}:error={name}:when=3"
    for words in (("--inplace",), ()):
        sink.unlink(missing_ok=True)
        done = run(
            *("--via", "parallel"),
            *words,
            source,
            sink,
            log=tmp_path / "log",
            trace=[call],
            inject=[fault],
        )
        if done.status == 2:
            pytest.skip(done.errors)
        assert (done.status, done.record("error")["errno"]) == (1, number(name))
        judge(done, data, file=sink, provisional=not words)


def test_nothing_is_left_where_everything_fails(tmp_path: Path) -> None:
    strace()
    source, sink = tmp_path / "source", tmp_path / "sink"
    source.write_bytes(content(100_000))
    sink.write_bytes(b"as it was")
    faults = [f"{call}:error=EIO" for call in ("copy_file_range", "sendfile", "splice", "readv")]
    calls = ("copy_file_range", "sendfile", "splice", "readv")
    done = run(source, sink, log=tmp_path / "log", trace=calls, inject=faults)
    assert done.status == 1
    assert sink.read_bytes() == b"as it was"
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("sharing", ["btrfs"], indirect=True, scope="session")
@pytest.mark.parametrize("name", ["EOPNOTSUPP", "ENOSPC", "EDQUOT"])
def test_a_stable_source_that_cannot_be_cloned_is_copied(
    name: str, sharing: Path, tmp_path: Path
) -> None:
    """A full disk has no place for a clone, and none is needed to read."""
    allowed()
    source = sharing / f"{tmp_path.name}-source"
    source.write_bytes(content(400_000))
    done = run("--stable", source, "-", before=denying(name, "ioctl:1=0x40049409"))
    assert (done.status, done.output) == (0, content(400_000)), done.errors
    assert done.record("hop")["mover"] == "plain"


@pytest.mark.parametrize("words", [("sink",), ("--append", "sink"), ("--inplace", "sink"), ("-",)])
def test_a_sync_that_fails_is_told(words: tuple[str, ...], tmp_path: Path) -> None:
    """It is the last thing that is done for a file, and the only word of a disk about it."""
    strace()
    source, sink = tmp_path / "source", tmp_path / "sink"
    source.write_bytes(content(100_000))
    words = tuple(word.replace("sink", str(sink)) for word in words)
    with open(tmp_path / "output", "wb") as output:
        done = run(
            *("--sync", source),
            *words,
            stdout=output.fileno(),
            log=tmp_path / "log",
            trace=["fsync"],
            inject=["fsync:error=EIO"],
        )
    name = "standard output" if words == ("-",) else str(sink)
    assert done.status == 1
    assert done.errors == f"zpipe: {name}: fsync: Input/output error\n"
    assert leftovers(tmp_path) == []
    assert sink.exists() == (len(words) > 1)
