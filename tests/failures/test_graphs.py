"""Graphs in a real process: signals, too few fds, no threads, and what their children leave."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.failures.denied import allowed, denying
from tests.machine import (
    ZPIPE,
    content,
    environment,
    leftovers,
    missing,
    nobody,
    started,
    strace,
    until,
    until_listening_to_signals,
    zpipe,
)
from zpipe.kernel.pipes import buffered, get_capacity

if TYPE_CHECKING:
    from pathlib import Path

BIG = 3_000_001
DATA = content(BIG)
ENDING = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a").write_bytes(DATA)
    return tmp_path


def shell(script: str) -> str:
    return f"exec:sh -c {shlex.quote(script)}"


def recipe(folder: Path, *edges: str | dict[str, object], **nodes: object) -> Path:
    """Write a recipe; JSON is YAML, too."""
    path = folder / "recipe.yaml"
    path.write_text(json.dumps({"zpipe": "1", "nodes": nodes, "edges": edges}))
    return path


def merged(source: str, sink: str, merge: str) -> dict[str, object]:
    return {"from": source, "to": [sink], "merge": merge}


def children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        own = file.read()
    found = [int(word) for word in own.split()]
    for thread in os.listdir(f"/proc/{pid}/task"):
        if int(thread) != pid:
            with open(f"/proc/{pid}/task/{thread}/children") as file:
                found += [int(word) for word in file.read().split()]
    return found


def gone(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def names(folder: Path) -> set[str]:
    assert not leftovers(folder)
    return set(os.listdir(folder))


def said(done: subprocess.CompletedProcess[bytes]) -> list[str]:
    """Return the lines of a run that failed, each without the program's name."""
    text = done.stderr.decode()
    assert "Traceback" not in text and "internal error" not in text, text
    lines = text.splitlines()
    assert all(line.startswith("zpipe: ") for line in lines), text
    return [line.removeprefix("zpipe: ") for line in lines]


# How it ends


def test_everything_is_done(folder: Path) -> None:
    path = recipe(folder, "a -> p -> x", a="a", p="exec:gzip -1", x="x")
    done = zpipe("run", "-q", path, cwd=folder)
    assert (done.returncode, done.stderr) == (0, b"")
    back = subprocess.run(["gzip", "-dc", folder / "x"], capture_output=True, check=True)
    assert back.stdout == DATA


@pytest.mark.parametrize(
    ("status", "lax"),
    [
        (1, []),
        (5, ["p"]),
    ],
    ids=["all stop", "the others go on"],
)
def test_a_program_that_is_missing(folder: Path, status: int, lax: list[str]) -> None:
    node: object = "exec:/no/program"
    if lax:
        node = {"address": node, "on_error": "detach"}
    path = recipe(folder, "a -> p -> x", "b -> y", a="a", p=node, x="x", b="a", y="y")
    before = names(folder)
    done = zpipe("run", "-q", path, cwd=folder)
    assert done.returncode == status
    (line,) = said(done)
    assert re.fullmatch("exec:/no/program: start: .*No such file or directory", line)
    assert names(folder) - before <= {"y"}
    if lax:
        assert (folder / "y").read_bytes() == DATA


def test_an_output_that_lacks_one_of_its_sources(folder: Path) -> None:
    lost = {"file": "none", "on_error": "detach"}
    edges = [merged(name, "x", "as-ready") for name in ("none", "a")]
    path = recipe(folder, *edges, none=lost, a="a", x="x")
    done = zpipe("run", "-q", path, cwd=folder)
    assert (done.returncode, said(done)) == (1, ["none: open: No such file or directory"])
    assert (folder / "x").read_bytes() == DATA


def test_a_filter_whose_input_breaks_off(folder: Path) -> None:
    broken = shell("head -c 1000000 a; exit 3")
    before = {*names(folder), "recipe.yaml"}
    path = recipe(folder, "a -> p -> x", a=broken, p="exec:gzip -1", x="x")
    done = zpipe("run", "-q", path, cwd=folder)
    assert (done.returncode, said(done)) == (1, [f"{broken}: exit status 3"])
    assert names(folder) == before


def test_the_reader_of_what_comes_out_goes_away(folder: Path) -> None:
    """As in `zpipe run ... | head`: without a word, by SIGPIPE."""
    path = recipe(folder, "a -> p -> out", a="exec:yes", p="exec:cat", out="-")
    with started("run", "-q", path, cwd=folder) as process:
        assert process.stdout is not None and process.stderr is not None
        assert os.read(process.stdout.fileno(), 2) == b"y\n"
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(30) == -signal.SIGPIPE


# Signals


WAITING: dict[str, tuple[list[str | dict[str, object]], dict[str, object]]] = {
    "children that say nothing": (
        ["a -> p -> x", "b -> q -> y"],
        {"a": "exec:sleep 60", "p": "exec:cat", "b": "exec:sleep 60", "q": "exec:gzip"},
    ),
    "a joint of what says nothing": (
        [merged(name, "x", "as-ready") for name in "ab"],
        {"a": "exec:sleep 60", "b": "exec:sleep 60"},
    ),
    "lines of what says nothing": (
        [merged(name, "x", "lines") for name in "ab"],
        {"a": "exec:sleep 60", "b": "exec:sleep 60"},
    ),
    "a child that takes nothing": (["a -> p -> x"], {"a": "zero:", "p": "exec:sleep 60"}),
    "a child that does not end": (
        ["a -> p -> x"],
        {"a": "a", "p": shell("cat >/dev/null; exec sleep 60")},
    ),
    "bytes without end": (["a -> p -> x"], {"a": "zero:", "p": "exec:cat"}),
    "a listener": (["s -> t", "t -> s"], {"s": "unix-listen:s", "t": "unix-listen:t"}),
    "a fan-out and a turn": (
        ["a -> x, y", "b -> x"],
        {"a": "exec:sleep 60", "b": "zero:"},
    ),
}


@pytest.mark.parametrize("number", ENDING, ids=lambda number: str(number.name))
@pytest.mark.parametrize("case", WAITING)
def test_a_signal_ends_it(folder: Path, case: str, number: signal.Signals) -> None:
    edges, nodes = WAITING[case]
    text = json.dumps(edges)
    files = {name: name for name in "xy" if f'"{name}"' in text or f"> {name}" in text}
    if "x, y" in text:
        files = {"x": "x", "y": "y"}
    path = recipe(folder, *edges, **nodes, **files)
    before = names(folder)
    with started("run", "-q", path, cwd=folder) as process:
        until_listening_to_signals(process)
        begun = sum(str(end).startswith("exec:") for end in nodes.values())
        until(lambda: len(children(process.pid)) >= begun, "all children are there")
        ours = children(process.pid)
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == -number, errors
    assert re.fullmatch(rb"zpipe: .*ended by %s.*\n" % number.name.encode(), errors), errors
    assert names(folder) == before
    assert all(gone(pid) for pid in ours)


@pytest.mark.parametrize("merge", ["as-ready", "lines"])
@pytest.mark.parametrize("filtered", [False, True])
def test_what_was_taken_from_standard_input_is_delivered(
    folder: Path, merge: str, filtered: bool
) -> None:
    """What the writer has written is in the output, or still in his pipe."""
    ours, feed = os.pipe()
    quiet, other = os.pipe()
    to = "p" if filtered else "out"
    edges: list[str | dict[str, object]] = [merged(name, to, merge) for name in ("in", "b")]
    nodes: dict[str, object] = {"in": "-", "b": f"fd:{quiet}", "out": "-"}
    if filtered:
        edges.append("p -> out")
        nodes["p"] = "exec:cat"
    path = recipe(folder, *edges, **nodes)
    with started("run", "-q", path, cwd=folder, stdin=ours, pass_fds=[quiet]) as process:
        until_listening_to_signals(process)
        sent = feed_until_full(feed)
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGTERM, errors
    os.close(feed)
    with open(ours, "rb") as file:
        left = len(file.read())
    os.close(quiet)
    os.close(other)
    assert sent - left - len(output) in (0, -1), "a last line may have been given its end"
    stated = re.search(rb"(\d+) bytes were delivered", errors)
    assert stated is not None, errors
    assert int(stated[1]) == len(output)


def feed_until_full(fd: int) -> int:
    """Write until nothing more is taken for a while; return the bytes."""
    os.set_blocking(fd, False)
    sent = refused = 0

    def is_full() -> bool:
        nonlocal sent, refused
        try:
            sent += os.write(fd, b"a line\n" * 9000)
            refused = 0
        except BlockingIOError:
            refused += 1
        return refused > 20

    until(is_full, "all pipes are full")
    return sent


def tells_of(process: subprocess.Popen[bytes], hop: bytes) -> bool:
    """Ask for status lines, and read as far as that of a hop; False at the end of it all."""
    assert process.stderr is not None
    process.send_signal(signal.SIGUSR1)
    while line := process.stderr.readline():
        if hop in line:
            return True
    return False


@pytest.mark.parametrize("number", ENDING[:2], ids=lambda number: str(number.name))
def test_a_second_signal_does_not_wait_for_who_takes_nothing(
    folder: Path, number: signal.Signals
) -> None:
    edges = [merged(name, "p", "as-ready") for name in "ab"]
    path = recipe(folder, *edges, "p -> out", a="zero:", b="zero:", p="exec:cat", out="-")
    with started("run", "-q", path, cwd=folder) as process:
        until_listening_to_signals(process)
        until(lambda: len(children(process.pid)) == 1, "the child is there")
        ours = children(process.pid)
        assert process.stdout is not None
        out = process.stdout.fileno()
        # what comes is taken by nobody, and more is on its way
        until(lambda: buffered(out) == get_capacity(out), "the pipe is full")
        process.send_signal(number)
        # it goes on for the reader of what was taken; of two signals that are there at a time any
        # may be heard first
        for _ in range(2):
            assert tells_of(process, b"p -> out: ")
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == -number, errors
    assert b"Traceback" not in errors
    assert all(gone(pid) for pid in ours)


def test_children_that_heed_no_signal_are_gone_when_it_has_ended(folder: Path) -> None:
    """Two of them, one after the other, and two signals."""
    deaf = shell("trap '' TERM INT; echo; while :; do sleep 1; done")
    path = recipe(folder, "a -> p -> q -> x", a=deaf, p=deaf, q=deaf, x="x")
    with started("run", "-q", path, cwd=folder) as process:
        until_listening_to_signals(process)
        until(lambda: len(children(process.pid)) == 3, "all children are there")
        ours = children(process.pid)
        process.send_signal(signal.SIGTERM)
        until(lambda: any(gone(pid) for pid in ours), "the first signal is heard")
        process.send_signal(signal.SIGINT)
        process.wait(30)
        assert process.stderr is not None
        os.set_blocking(process.stderr.fileno(), False)
        errors = process.stderr.read()
    left = [pid for pid in ours if not gone(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert process.returncode in (-signal.SIGTERM, -signal.SIGINT), errors
    assert not left, "children that outlive us"


def test_an_interrupt_from_the_terminal_reaches_the_children_too(folder: Path) -> None:
    """They die of it, each at its own time; that is no failure of theirs."""
    path = recipe(folder, "a -> p -> q -> x", a="exec:sleep 60", p="exec:cat", q="exec:cat", x="x")
    for _ in range(5):
        process = subprocess.Popen(
            [*ZPIPE, "run", "-q", str(path)],
            cwd=folder,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            until_listening_to_signals(process)
            until(lambda: len(children(process.pid)) == 3, "all children are there")  # noqa: B023
            os.killpg(process.pid, signal.SIGINT)
            _, errors = process.communicate(timeout=30)
        finally:
            process.kill()
            process.wait()
        assert process.returncode == -signal.SIGINT, errors
        assert re.fullmatch(rb"zpipe: .*ended by SIGINT.*\n", errors), errors
        assert names(folder) == {"a", "recipe.yaml"}


def test_a_word_about_each_hop(folder: Path) -> None:
    path = recipe(
        folder,
        "a -> p -> x",
        "b -> y",
        a="exec:sleep 60",
        p="exec:cat",
        x="x",
        b="exec:sleep 60",
        y="y",
    )
    with started("run", path, cwd=folder) as process:
        until_listening_to_signals(process)
        until(lambda: len(children(process.pid)) == 3, "all children are there")
        assert process.stderr is not None
        process.send_signal(signal.SIGUSR1)
        lines = {process.stderr.readline().decode() for _ in range(3)}
        process.send_signal(signal.SIGTERM)
        rest = process.communicate(timeout=30)[1].decode()
    assert len(lines) == 3, lines
    assert rest.count("\n") == 1 and "SIGTERM" in rest


# What cannot be had


GRAPHS: dict[str, list[str | dict[str, object]]] = {
    "a filter": ["a -> p -> x"],
    "two filters": ["a -> p -> q -> x"],
    "in order": ["a -> x, y", "b -> x"],
    "as ready": [merged(name, "x", "as-ready") for name in "ab"],
    "lines": [merged(name, "x", "lines") for name in "ab"],
    "a fan-out": ["a -> p, y", "p -> x"],
}


def graph_recipe(folder: Path, case: str) -> tuple[Path, set[str]]:
    """Write the recipe of a case; return it, and the names of its outputs."""
    text = json.dumps(GRAPHS[case])
    used = {name for name in ("a", "b", "p", "q", "x", "y") if re.search(rf"\b{name}\b", text)}
    ends = {"b": "a", "p": "exec:cat", "q": "exec:cat"}
    nodes = {name: ends.get(name, name) for name in used}
    return recipe(folder, *GRAPHS[case], **nodes), used & {"x", "y"}


@pytest.mark.parametrize("case", ["two filters", "in order", "lines"])
def test_few_fds(folder: Path, case: str) -> None:
    """At every limit it is right, or fails in words and leaves nothing."""
    (folder / "a").write_bytes(b"line\n" * 1000)
    path, outputs = graph_recipe(folder, case)
    before = names(folder)
    refused = 0
    for limit in range(8, 80, 2):
        few = ["sh", "-c", f'ulimit -n {limit}; exec "$@"', "sh"]
        done = zpipe("run", "-q", path, cwd=folder, before=few)
        begun = done.returncode in (0, 1) and b"internal error" not in done.stderr
        if not begun and not refused and limit < 20:
            continue  # Python itself, or the recipe, could not be loaded
        if done.returncode == 0:
            break
        refused += 1
        assert done.returncode == 1, done
        assert any("Too many open files" in line for line in said(done)), done.stderr
        assert names(folder) == before, limit
    else:
        pytest.fail("it never had enough")
    assert refused
    assert names(folder) == before | outputs


@pytest.mark.parametrize("case", GRAPHS)
def test_no_thread_can_be_had(folder: Path, case: str) -> None:
    allowed()
    path, _ = graph_recipe(folder, case)
    before = names(folder)
    denied = denying("EAGAIN", "clone:0&0x10000", "clone3")
    done = zpipe("run", "-q", path, cwd=folder, before=denied)
    assert done.returncode == 1, done
    assert all("Resource temporarily unavailable" in line for line in said(done))
    assert names(folder) == before


@pytest.mark.parametrize("case", ["in order", "lines", "a fan-out"])
def test_not_all_threads_can_be_had(folder: Path, case: str) -> None:
    """Those that run already are stopped; nobody is left waiting for who never came."""
    path, outputs = graph_recipe(folder, case)
    before = names(folder)
    refused = 0
    for when in range(1, 12):
        fault = f"inject=clone3:error=EAGAIN:when={when}+"
        tracing = strace("-e", "trace=clone3", "-e", fault, "-o", "/dev/null")
        done = zpipe("run", "-q", path, cwd=folder, before=tracing)
        if done.returncode == 0:
            break
        refused += 1
        assert done.returncode == 1, done
        said(done)
        assert names(folder) - before <= outputs
        for name in outputs:
            (folder / name).unlink(missing_ok=True)
    else:
        pytest.fail("it never had enough")
    if not refused:
        missing("this libc makes threads by another call than clone3")


LIMITED = """
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
sys.argv = ["zpipe", "run", "-q", "-"]
runpy.run_module("zpipe", run_name="__main__")
"""


def test_no_process_can_be_had(folder: Path) -> None:
    """A user without any to spare; root has no such limit."""
    his = nobody()
    path = recipe(folder, "a -> p -> n", a="zero:?size=10", p="exec:cat", n="null:")
    done = subprocess.run(
        [*his, sys.executable, "-c", LIMITED],
        input=path.read_bytes(),
        cwd="/",
        env=environment(),
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1, done
    assert any("Resource temporarily unavailable" in line for line in said(done)), done


# No room


def test_an_output_without_room_beside_a_filter(folder: Path, tiny: Path) -> None:
    """The failure is known before its filter is ended: nothing comes to a good end for that."""
    path = recipe(folder, "a -> p, y", "p -> x", a="zero:", p="exec:cat", x=f"{tiny}/x", y="y")
    before = names(folder)
    done = zpipe("run", "-q", path, cwd=folder)
    assert done.returncode == 1
    (line,) = said(done)
    assert line.startswith(f"{tiny}/x: ") and "No space left on device" in line
    assert names(folder) == before
    assert os.listdir(tiny) == []


def test_a_filter_that_is_killed_from_outside(folder: Path) -> None:
    path = recipe(folder, "a -> p -> x", a="zero:", p="exec:cat", x="x")
    before = names(folder)
    with started("run", "-q", path, cwd=folder) as process:
        until_listening_to_signals(process)
        until(lambda: len(children(process.pid)) == 1, "the child is there")
        os.kill(children(process.pid)[0], signal.SIGKILL)
        _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (1, b"zpipe: exec:cat: died of SIGKILL\n")
    assert names(folder) == before


def test_many_at_once(folder: Path) -> None:
    """Thirty chains, one of which fails: one line, and nobody is left."""
    nodes: dict[str, object] = {}
    edges: list[str | dict[str, object]] = []
    for number in range(30):
        nodes |= {f"a{number}": "zero:", f"p{number}": "exec:cat", f"n{number}": "null:"}
        edges.append(f"a{number} -> p{number} -> n{number}")
    nodes["p7"] = shell("head -c 1000000 >/dev/null; exit 9")
    path = recipe(folder, *edges, **nodes)
    done = zpipe("run", "-q", path, cwd=folder)
    assert done.returncode == 1
    assert said(done) == [f"{nodes['p7']}: exit status 9"]
