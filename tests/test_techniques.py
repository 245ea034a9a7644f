"""What zpipe-techniques(7) says: its tables, its commands, its names, and some of its claims."""

from __future__ import annotations

import importlib.util
import json
import mmap
import os
import re
import resource
import shlex
import socket
from contextlib import ExitStack
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest

import zpipe
from tests.machine import LONGEST, ROOT, content, in_bash, missing
from tests.machine import zpipe as run_zpipe
from tests.test_manual import examples
from zpipe.bench.cells import ROUTES, TECHNIQUES
from zpipe.commands import COMMANDS
from zpipe.movers import MOVERS, mover_of
from zpipe.plan.fan import WAYS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import ModuleType

    from zpipe.facts import FdFacts

PAGE = ROOT / "man/man7/zpipe-techniques.7"
TEXT = PAGE.read_text()
BIG = 1 << 20
BEFORE, LATER = b"before", b"later."


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("man", ROOT / ".ci/man.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MAN = generator()


def commands() -> list[str]:
    """Return the command lines that the page names or shows."""
    named = re.findall(r"^\.Ql (zpipe \w+.*?)(?: \.\.\.)?(?: [|,.;:].*)?$", TEXT, re.MULTILINE)
    shown = [line for text in examples(PAGE) for line in text.splitlines()]
    return [line.replace("\\-", "-").partition(" |")[0] for line in named + shown]


# The page


def test_every_mover_and_way_has_its_costs() -> None:
    assert {*MOVERS, *WAYS} == set(MAN.COSTS)
    assert {*re.findall(r'^\.\\" begin: costs of (\w+)$', TEXT, re.MULTILINE)} == set(MAN.COSTS)


def told() -> list[tuple[str, str]]:
    return [(name, route) for name, routes in MAN.COSTS.items() for route in routes]


@pytest.mark.parametrize(("name", "route"), told())
def test_costs_are_those_of_what_it_serves(name: str, route: str) -> None:
    source: FdFacts
    sinks: tuple[FdFacts, ...]
    source, sinks = MAN.ROUTES[route]
    if len(sinks) > 1:
        assert name in WAYS
        return
    if name == "parallel" and len(os.sched_getaffinity(0)) < 2:
        missing("a second processor")
    fit = mover_of(name).fits(source, sinks[0])
    assert fit.ok, fit.why


@pytest.mark.parametrize("line", commands())
def test_its_commands_can_be_given(line: str) -> None:
    _, name, *words = shlex.split(line)
    assert name in COMMANDS
    context = import_module(f"zpipe.commands.{name}").COMMAND.make_context(name, words)
    assert not context.args


def test_every_measurement_is_pointed_to() -> None:
    text = " ".join(line for line in commands() if line.startswith("zpipe bench"))
    assert {*TECHNIQUES} <= {*re.findall(r"[\w+]+", text)}
    assert {*ROUTES} - {"pipe-pipes"} <= {*re.findall(r"[\w-]+", text)}


def test_what_it_names_of_the_library_is_there() -> None:
    named = {*re.findall(r"\bzpipe\.([A-Za-z]\w+)", TEXT)}
    assert {"FileChannel", "CompositeBuffer", "SharedBuffer"} <= named
    assert not [name for name in named if not hasattr(zpipe, name)]
    methods = {*re.findall(r"^\.Fn (?:FileChannel\.)?(\w+)(?: ,)?$", TEXT, re.MULTILINE)}
    assert methods == {"transfer_to", "transfer_from", "map"}
    assert all(hasattr(zpipe.FileChannel, name) for name in methods)


@pytest.mark.parametrize("text", [text for text in examples(PAGE) if "zpipe bench" not in text])
def test_its_examples_run(text: str, tmp_path: Path) -> None:
    (tmp_path / "disk.img").write_bytes(content(BIG))
    done = in_bash(text.replace("\\-", "-"), tmp_path)
    if "plan" in text:
        assert "  plan " in done.stdout
        assert os.listdir(tmp_path) == ["disk.img"]
        return
    assert "  plan " in done.stderr
    if "cat" in text:
        assert done.stdout.split() == 2 * [str(BIG)]
        first, second = done.stderr.split("── ", 2)[1:]
        assert (first.split()[0], second.split()[0]) == ("sendfile", "plain")
    else:
        assert (tmp_path / "copy.img").read_bytes() == content(BIG)


# What it says of the kernel


def pipe(stack: ExitStack) -> tuple[int, Callable[[int], bytes]]:
    reader, writer = os.pipe()
    stack.callback(os.close, reader)
    stack.callback(os.close, writer)
    return writer, lambda count: os.read(reader, count)


def unix(stack: ExitStack) -> tuple[int, Callable[[int], bytes]]:
    one, other = map(stack.enter_context, socket.socketpair())
    return one.fileno(), other.recv


def tcp(stack: ExitStack) -> tuple[int, Callable[[int], bytes]]:
    listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    one = stack.enter_context(socket.create_connection(listener.getsockname()))
    other = stack.enter_context(listener.accept()[0])
    other.settimeout(LONGEST / 2)
    return one.fileno(), other.recv


@pytest.mark.parametrize("end", [pipe, unix, tcp])
def test_what_goes_by_reference_shows_what_is_written_later(
    end: Callable[[ExitStack], tuple[int, Callable[[int], bytes]]], tmp_path: Path
) -> None:
    """And what was copied does not."""
    for send, seen in ((os.sendfile, LATER), (_by_copy, BEFORE)):
        (tmp_path / "file").write_bytes(BEFORE)
        with ExitStack() as stack, open(tmp_path / "file", "r+b", buffering=0) as file:
            sink, read = end(stack)
            assert send(sink, file.fileno(), 0, len(BEFORE)) == len(BEFORE)
            os.pwrite(file.fileno(), LATER, 0)
            assert read(100) == seen


def _by_copy(sink: int, source: int, offset: int, count: int) -> int:
    return os.write(sink, os.pread(source, count, offset))


@pytest.mark.parametrize("act", ["unlink", "cut", "replace"])
def test_what_only_loses_its_name_stays_as_it_was(act: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(BEFORE)
    with ExitStack() as stack, open(path, "rb") as file:
        sink, read = pipe(stack)
        assert os.sendfile(sink, file.fileno(), 0, len(BEFORE)) == len(BEFORE)
        if act == "unlink":
            path.unlink()
        elif act == "cut":
            os.truncate(path, 0)
        else:
            (tmp_path / "other").write_bytes(LATER)
            os.replace(tmp_path / "other", path)
        assert read(100) == BEFORE


def test_a_mapping_that_is_written_from_takes_faults(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content(8 * BIG))

    def faults(carry: Callable[[int, int], object]) -> int:
        with open(tmp_path / "file", "rb") as source, open(tmp_path / "sink", "wb") as sink:
            before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
            carry(source.fileno(), sink.fileno())
            return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before

    def mapped(source: int, sink: int) -> None:
        with mmap.mmap(source, 0, prot=mmap.PROT_READ) as view:
            assert os.write(sink, view) == 8 * BIG

    def ranged(source: int, sink: int) -> None:
        assert os.copy_file_range(source, sink, 8 * BIG) == 8 * BIG

    assert faults(mapped) > faults(ranged) + 2


def test_merging_lines_costs_two_copies_and_another_joint_none(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).write_bytes(content(BIG))

    def planned(merge: str) -> dict[str, Any]:
        text = "zpipe: 1\nnodes: {a: a, b: b, t: 'exec:cat', o: o}\nedges:\n"
        text += f"  - {{from: [a, b], to: t, merge: {merge}}}\n  - t -> o\n"
        (tmp_path / "recipe.yaml").write_text(text)
        done = run_zpipe("plan", "--json", "recipe.yaml", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        hops = json.loads(done.stdout)["hops"]
        (found,) = [hop for hop in hops if hop["joint"] and hop["to"] == ["t"]]
        return dict(found)

    lines, ready = planned("lines"), planned("as-ready")
    assert (lines["cpu_copies"], ready["cpu_copies"]) == (2, 0)
    assert any("two CPU copies" in note for note in lines["notes"])
