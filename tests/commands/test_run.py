"""`zpipe run`: streams and proxies of a recipe, in one process tree, with one exit status."""

from __future__ import annotations

import gzip
import json
import os
import re
import select
import shlex
import signal
import socket
import urllib.request
from contextlib import contextmanager
from importlib import import_module
from typing import IO, TYPE_CHECKING, Any

import pytest

from tests.commands.shell import BIG, names, refused, went_well
from tests.machine import (
    LONGEST,
    ROOT,
    content,
    need_root,
    started,
    until,
    until_listening_to_signals,
    zpipe,
)
from zpipe.commands.board import STATES

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    import click

HEAD = "zpipe: 1\n"
# until the test lets it go on, and with a process on the way
HELD = """
nodes:
  held: pipe:fifo
  pass: {exec: cat}
  out: out
edges:
  - held -> pass -> out
"""
PROXY = """
proxies:
  web: {listen: 127.0.0.1:0, upstreams: "127.0.0.1:UPSTREAM"}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "b").write_bytes(content(BIG))
    return tmp_path


def recipe(folder: Path, text: str, name: str = "r.yaml") -> str:
    (folder / name).write_text(HEAD + text)
    return name


def edges(**nodes: str) -> str:
    """Return nodes, and an edge from the first one to all others."""
    first, *others = nodes
    lines = [f"  {name}: {address}" for name, address in nodes.items()]
    return "\n".join(["nodes:", *lines, f"edges: ['{first} -> {', '.join(others)}']", ""])


def records(text: bytes) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in text.splitlines()]
    assert all(record["v"] == 1 for record in found)
    return found


def of_type(found: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [record for record in found if record["type"] == kind]


# Streams


def test_a_graph_is_carried_to_all_its_ends(folder: Path) -> None:
    text = """
nodes:
  disk: b
  copy: copy
  pack: {exec: [gzip, -c]}
  packed: b.gz
edges:
  - disk -> copy, pack
  - pack -> packed
"""
    went_well(zpipe("run", recipe(folder, text), cwd=folder))
    assert (folder / "copy").read_bytes() == content(BIG)
    assert gzip.decompress((folder / "b.gz").read_bytes()) == content(BIG)
    assert names(folder) == ["b", "b.gz", "copy", "r.yaml"]


def test_parameters_and_standard_output(folder: Path) -> None:
    text = "params: {FROM: b, N: {type: size}}\nnodes: {in: '${FROM}', out: '-'}\nedges:\n"
    name = recipe(folder, text + "  - {from: in, to: out, limit: '${N}'}\n")
    done = zpipe("run", name, "-p", "N=10", cwd=folder)
    assert (done.returncode, done.stdout, done.stderr) == (0, content(BIG)[:10], b"")
    assert "N" in refused(zpipe("run", name, cwd=folder), 2)


def test_a_recipe_from_standard_input(folder: Path) -> None:
    went_well(zpipe("run", "-", data=(HEAD + edges(b="b", x="x")).encode(), cwd=folder))
    assert (folder / "x").read_bytes() == content(BIG)


@pytest.mark.parametrize(
    ("nodes", "status", "why"),
    [
        ({"a": "nosuch", "x": "x"}, 1, "nosuch: open: No such file or directory"),
        ({"a": "b", "x": "/dev/full"}, 1, "/dev/full: write: No space left on device"),
        ({"a": "{exec: [sh, -c, exit 3]}", "x": "x"}, 1, "exit 3': exit status 3"),
        ({"a": "pattern:x?size=10", "x": "pattern:y"}, 3, "pattern:y"),
        ({"a": "b", "x": "{file: none/x, on_error: detach}", "y": "y"}, 5, "none/x: open"),
    ],
)
def test_exit_status_and_message(
    folder: Path, nodes: dict[str, str], status: int, why: str
) -> None:
    refused(zpipe("run", recipe(folder, edges(**nodes)), cwd=folder), status, why)
    assert "x" not in names(folder)


def test_nothing_is_opened_while_something_is_certain_to_be_refused(folder: Path) -> None:
    (folder / "x").write_bytes(b"as before")
    text = """
nodes: {a: b, x: {file: x}, c: nosuch, y: y}
edges:
  - {from: a, to: x, inplace: true}
  - c -> y
"""
    refused(zpipe("run", recipe(folder, text), cwd=folder), 1, "nosuch: open")
    assert (folder / "x").read_bytes() == b"as before"
    assert "y" not in names(folder)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ([], "run: give FILE"),
        (["."], ".: open: Is a directory"),
        (["nosuch.yaml"], "nosuch.yaml: open: No such file or directory"),
        (["b"], "b:1:"),
        (["r.yaml", "-p", "X"], "-p X: not a parameter"),
        (["r.yaml", "-p", "X=1"], "the recipe has no such parameter"),
        (["r.yaml", "--json-fd", "99"], "--json-fd 99: write: Bad file descriptor"),
    ],
)
def test_what_is_no_recipe_is_refused_in_a_line(folder: Path, words: list[str], why: str) -> None:
    recipe(folder, edges(b="b", x="x"))
    assert why in zpipe("run", *words, cwd=folder).stderr.decode("utf-8", "replace")
    assert zpipe("run", *words, cwd=folder).returncode == 2
    assert "x" not in names(folder)


def test_all_that_is_wrong_is_told_with_its_place(folder: Path) -> None:
    done = zpipe("run", recipe(folder, "nodes: {a: b}\nedges: [a -> c]\ncolour: red\n"), cwd=folder)
    assert done.returncode == 2
    lines = done.stderr.decode().splitlines()
    assert len(lines) >= 2
    assert all(re.match(r"zpipe: r\.yaml:\d+:\d+: ", line) for line in lines)


def test_the_plan_is_printed_and_nothing_done(folder: Path) -> None:
    name = recipe(folder, edges(disk="b", x="x"))
    done = zpipe("run", "--dry-run", name, cwd=folder)
    assert (done.returncode, done.stderr) == (0, b"")
    assert "disk -> x" in done.stdout.decode()
    assert "x" not in names(folder)


# What is told


def test_records_name_the_nodes_and_the_processes(folder: Path) -> None:
    text = "nodes: {disk: b, pass: {exec: cat}, out: x}\nedges: [disk -> pass -> out]\n"
    done = zpipe("run", "--json", recipe(folder, text), cwd=folder)
    found = records(done.stderr)
    assert done.returncode == 0
    ends = {("disk", ("pass",)), ("pass", ("out",))}
    for kind in ("start", "hop"):
        assert {(one["from"], tuple(one["to"])) for one in of_type(found, kind)} == ends
    assert all(one["state"] == "done" for one in of_type(found, "hop"))
    (process,) = found[-1]["processes"]
    assert (process["node"], process["status"]) == ("pass", 0)
    assert process["pid"] > 0
    assert "cat" in process["name"]


def test_of_what_was_not_completed_the_last_state_is_told(folder: Path) -> None:
    text = "nodes: {disk: b, out: {exec: [sh, -c, head -c 10 >y; exit 7]}}\nedges: [disk -> out]\n"
    done = zpipe("run", "--json", recipe(folder, text), cwd=folder)
    found = records(done.stderr)
    assert done.returncode == found[-1]["exit"] == 1
    *_, last = of_type(found, "progress")
    assert (last["from"], last["to"], last["state"]) == ("disk", ["out"], "failed")


def test_an_invalid_recipe_is_a_record_too(folder: Path) -> None:
    done = zpipe("run", "--json", recipe(folder, "nodes: 3\n"), cwd=folder)
    (record,) = records(done.stderr)
    assert done.returncode == record["exit"] == 2
    assert "r.yaml:" in record["text"]


def test_a_report_is_written_beside(folder: Path) -> None:
    name = recipe(folder, edges(b="b", x="x"))
    went_well(zpipe("run", name, "--report", "report", cwd=folder))
    kinds = [record["type"] for record in records((folder / "report").read_bytes())]
    assert kinds == ["start", "hop", "end"]
    done = zpipe("run", name, "--report", "none/report", cwd=folder)
    refused(done, 1, "none/report: open: No such file or directory")


def test_explain_tells_how_processes_ended(folder: Path) -> None:
    text = "nodes: {disk: b, out: {exec: [sh, -c, cat >x; exit 7]}}\nedges: [disk -> out]\n"
    done = zpipe("run", "--explain", recipe(folder, text), cwd=folder)
    said = done.stderr.decode()
    assert done.returncode == 1
    assert "disk ── " in said
    assert re.search(r"process +out: .*\(\d+\): exit status 7\n", said)


def lines_until(stream: IO[bytes], fragment: str) -> list[str]:
    """Read lines to the first one that has the fragment; fail if none comes."""
    lines: list[str] = []
    while not lines or fragment not in lines[-1]:
        ready, _, _ = select.select([stream], [], [], LONGEST / 2)
        assert ready, f"{fragment}: in vain waited after {lines}"
        # of an unbuffered stream no line is left behind that select would not see
        line = b""
        while not line.endswith(b"\n"):
            one = os.read(stream.fileno(), 1)
            assert one, f"{fragment}: it has ended after {lines}, {line!r}"
            line += one
        lines.append(line.decode())
    return lines


@contextmanager
def carrying(folder: Path, *words: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run a recipe that waits for what the test writes to the fd that comes with it."""
    os.mkfifo(folder / "fifo")
    fd = os.open(folder / "fifo", os.O_RDWR)
    try:
        with started("run", "--progress=never", *words, cwd=folder) as process:
            yield process, fd
    finally:
        os.close(fd)


def stderr_of(process: subprocess.Popen[bytes]) -> IO[bytes]:
    assert process.stderr is not None
    return process.stderr


def test_a_line_for_each_hop_is_told_to_whoever_asks(folder: Path) -> None:
    with carrying(folder, recipe(folder, HELD), "--explain") as (process, fd):
        os.write(fd, b"some")
        stream = stderr_of(process)
        lines_until(stream, "held ── ")
        until_listening_to_signals(process)
        process.send_signal(signal.SIGUSR1)
        asked = lines_until(stream, "zpipe: ") + lines_until(stream, "zpipe: ")
        told = sorted(line for line in asked if line.startswith("zpipe: "))
        assert [line.partition(": ")[2].partition(": ")[0] for line in told] == [
            "held -> pass",
            "pass -> out",
        ]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_and_leaves_nothing(folder: Path, number: signal.Signals) -> None:
    with carrying(folder, recipe(folder, HELD)) as (process, fd):
        os.write(fd, b"some")
        until_listening_to_signals(process)
        process.send_signal(number)
        _, said = process.communicate(timeout=LONGEST)
        assert process.returncode == -number
        assert re.fullmatch(rf"zpipe: .*ended by {number.name}\b.*\n", said.decode())
    assert names(folder) == ["b", "fifo", "r.yaml"]


# Proxies


@contextmanager
def upstream() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(LONGEST / 2)
        yield server


def with_proxy(text: str, server: socket.socket) -> str:
    return PROXY.replace("UPSTREAM", str(server.getsockname()[1])) + text


def port_of(process: subprocess.Popen[bytes], name: str = "web") -> int:
    """Wait until it serves; return the port."""
    line = lines_until(stderr_of(process), f"proxy {name}: ")[-1]
    found = re.search(r"127\.0\.0\.1:(\d+) -> ", line)
    assert found, line
    return int(found[1])


def serves(port: int, server: socket.socket) -> None:
    """Check that what is sent to the proxy comes to the server, and the answer back."""
    with socket.create_connection(("127.0.0.1", port), LONGEST / 2) as client:
        client.sendall(b"question")
        peer, _ = server.accept()
        with peer:
            peer.settimeout(LONGEST / 2)
            assert peer.recv(100) == b"question"
            peer.sendall(b"answer")
        assert client.recv(100) == b"answer"


def ended(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    _, said = process.communicate(timeout=LONGEST)
    return process.returncode, said.decode()


def children_of(process: subprocess.Popen[bytes]) -> list[int]:
    """Return those that it has not waited for."""
    with open(f"/proc/{process.pid}/task/{process.pid}/children") as file:
        return [int(child) for child in file.read().split()]


def is_gone(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_proxies_are_served_until_they_are_stopped(folder: Path) -> None:
    with upstream() as server:
        name = recipe(folder, with_proxy("", server))
        with started("run", "--progress=never", name, cwd=folder) as process:
            serves(port_of(process), server)
            process.send_signal(signal.SIGTERM)
            assert ended(process) == (0, "")


def test_records_of_proxies(folder: Path) -> None:
    with upstream() as server:
        name = recipe(folder, with_proxy("", server))
        with started("run", "--json", name, cwd=folder) as process:
            serves(port_of(process), server)
            process.send_signal(signal.SIGTERM)
            status, said = ended(process)
            assert status == 0
            last = records(said.encode())[-1]
            assert (last["type"], last["v"]) == ("proxy", 1)
            assert last["connections"]["accepted"] == 1


def test_a_proxy_goes_on_when_the_streams_have_ended(folder: Path) -> None:
    with upstream() as server:
        name = recipe(folder, with_proxy(edges(b="b", x="x"), server))
        with started("run", "--progress=never", name, cwd=folder) as process:
            port = port_of(process)
            until(lambda: not children_of(process), "what carries streams has ended")
            assert (folder / "x").exists()
            serves(port, server)
            process.send_signal(signal.SIGTERM)
            assert ended(process) == (0, "")
    assert (folder / "x").read_bytes() == content(BIG)


def test_streams_that_fail_end_all_with_their_status(folder: Path) -> None:
    nodes = {"a": "pattern:x?size=10", "x": "pattern:y"}
    with upstream() as server:
        name = recipe(folder, with_proxy(edges(**nodes), server))
        with started("run", "--progress=never", name, cwd=folder) as process:
            port_of(process)
            status, said = ended(process)
            assert status == 3
            assert re.fullmatch(r"zpipe: pattern:y: .*\n", said)


def test_streams_that_are_cut_off_make_it_die_by_the_signal(folder: Path) -> None:
    with upstream() as server:
        name = recipe(folder, with_proxy(HELD, server))
        with carrying(folder, name, "--explain") as (process, fd):
            port = port_of(process)
            os.write(fd, b"some")
            lines_until(stderr_of(process), "held ── ")
            serves(port, server)
            process.send_signal(signal.SIGINT)
            status, said = ended(process)
            assert status == -signal.SIGINT
            assert re.search(r"^zpipe: .*ended by SIGINT\b.*\n\Z", said, re.MULTILINE)
    assert names(folder) == ["b", "fifo", "r.yaml"]


def test_both_are_told_in_one_stream_of_records(folder: Path) -> None:
    with upstream() as server:
        name = recipe(folder, with_proxy(edges(b="b", x="x"), server))
        with started("run", "--json", name, cwd=folder) as process:
            lines = lines_until(stderr_of(process), '"type": "end"')
            process.send_signal(signal.SIGTERM)
            status, said = ended(process)
            assert status == 0
    found = records("".join([*lines, said]).encode())
    kinds = [record["type"] for record in found if record["type"] != "progress"]
    assert kinds[0] == "said"
    assert [kind for kind in kinds if kind not in ("said", "proxy")] == ["start", "hop", "end"]
    assert kinds[-1] == "proxy"
    assert not set(kinds) & {"line", "text"}, "those are for people"


def test_streams_end_when_the_process_that_serves_is_gone(folder: Path) -> None:
    with upstream() as server:
        name = recipe(folder, with_proxy(HELD, server))
        with carrying(folder, name, "--explain") as (process, fd):
            os.write(fd, b"some")
            lines_until(stderr_of(process), "held ── ")
            (child,) = children_of(process)  # it carries the streams
            process.kill()
            process.wait()
            until(lambda: is_gone(child), "the streams have ended")
    assert names(folder) == ["b", "fifo", "r.yaml"]


def test_a_process_of_streams_that_is_killed_is_told(folder: Path) -> None:
    with upstream() as server:
        name = recipe(folder, with_proxy(HELD, server))
        with carrying(folder, name, "--explain") as (process, fd):
            os.write(fd, b"some")
            lines_until(stderr_of(process), "held ── ")
            (child,) = children_of(process)  # it carries the streams
            os.kill(child, signal.SIGKILL)
            status, said = ended(process)
            assert status == 1
            assert said.endswith(f"zpipe: streams: process {child}: ended by SIGKILL\n")


def test_no_stream_begins_where_a_proxy_cannot_be_served(folder: Path) -> None:
    with upstream() as server:
        port = server.getsockname()[1]
        taken = with_proxy(edges(b="b", x="x"), server).replace("127.0.0.1:0", f"127.0.0.1:{port}")
        text = f"127.0.0.1:{port}: listen: Address already in use"
        refused(zpipe("run", recipe(folder, taken), cwd=folder), 2, text)
        metrics = f"metrics: 127.0.0.1:{port}\n"
        name = recipe(folder, with_proxy(edges(b="b", x="x"), server) + metrics)
        refused(zpipe("run", name, cwd=folder), 2, text)
    assert names(folder) == ["b", "r.yaml"]


# Reloading


def test_what_changes_in_the_recipe_is_served_after_a_reload(folder: Path) -> None:
    with upstream() as old, upstream() as new:
        name = recipe(folder, with_proxy("", old))
        with started("run", "--progress=never", name, cwd=folder) as process:
            port = port_of(process)
            serves(port, old)
            recipe(folder, with_proxy("service: {workers: 2}\n", new))
            process.send_signal(signal.SIGHUP)
            lines = lines_until(stderr_of(process), "reload: changed web")
            assert any("service and metrics: changes take a restart" in line for line in lines)
            serves(port, new)
            process.send_signal(signal.SIGTERM)
            assert ended(process) == (0, "")


def test_a_recipe_that_has_become_invalid_changes_nothing(folder: Path) -> None:
    with upstream() as server:
        name = recipe(folder, with_proxy("", server))
        with started("run", "--progress=never", name, cwd=folder) as process:
            port = port_of(process)
            recipe(folder, "proxies: {web: {listen: x, colour: red}}\n")
            process.send_signal(signal.SIGHUP)
            lines = lines_until(stderr_of(process), "the old settings stay")
            assert "zpipe: reload: r.yaml:2:" in lines[-1]
            serves(port, server)


def test_a_recipe_from_standard_input_cannot_be_read_again(folder: Path) -> None:
    with upstream() as server:
        name = recipe(folder, with_proxy("", server))
        with (
            open(folder / name, "rb") as text,
            started("run", "--progress=never", "-", stdin=text, cwd=folder) as process,
        ):
            port = port_of(process)
            process.send_signal(signal.SIGHUP)
            (line,) = lines_until(stderr_of(process), "reload: ")
            assert "standard input cannot be read again" in line
            serves(port, server)


# Metrics


def free_port() -> int:
    with socket.socket() as end:
        end.bind(("127.0.0.1", 0))
        return int(end.getsockname()[1])


def page(port: int, path: str = "metrics") -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=LONGEST) as answer:
        text: str = answer.read().decode()
        return text


def test_metrics_of_streams_alone(folder: Path) -> None:
    port = free_port()
    name = recipe(folder, HELD + f"metrics: 127.0.0.1:{port}\n")
    with carrying(folder, name, "--explain") as (process, fd):
        os.write(fd, b"some")
        lines_until(stderr_of(process), "held ── ")
        flowing = 'zpipe_hop_state{from="held",state="flowing",to="pass"} 1.0'
        until(lambda: flowing in page(port), "the hop is flowing")  # explained before it begins
        text = page(port)
        assert 'zpipe_hop_state{from="pass",state="done",to="out"} 0.0' in text
        assert 'zpipe_recipe_info{name="r"' in text
        assert "zpipe_proxy_" not in text
        assert page(port, "healthz") == "ok\n"


def test_metrics_of_both_are_on_one_page(folder: Path) -> None:
    port = free_port()
    with upstream() as server:
        text = with_proxy(edges(b="b", x="x"), server) + f"metrics: 127.0.0.1:{port}\n"
        with started("run", "--json", recipe(folder, text), cwd=folder) as process:
            lines_until(stderr_of(process), '"type": "end"')
            told = page(port)
            moved = rf'zpipe_hop_bytes_total{{from="b",mover="\w+",to="x"}} {float(BIG)!r}'
            assert re.search(moved, told)
            assert "zpipe_proxy_connections_active 0.0" in told


# Rights, help and manual


def test_streams_have_no_more_rights_than_the_service(folder: Path) -> None:
    need_root()
    folder.chmod(0o777)
    with upstream() as server:
        text = (
            with_proxy(edges(b="b", x="x"), server) + "service: {user: '65534', group: '65534'}\n"
        )
        with started("run", "--json", recipe(folder, text), cwd=folder) as process:
            lines_until(stderr_of(process), '"type": "end"')
    assert (folder / "x").stat().st_uid == 65534


PAGES = {name: ROOT / f"man/man1/zpipe-{name}.1" for name in ("run", "check", "graph")}


def command_of(name: str) -> click.Command:
    found: click.Command = import_module(f"zpipe.commands.{name}").COMMAND
    return found


def example_lines() -> list[str]:
    """Return the command lines that help and manual of the three commands show."""
    texts = [page.read_text().partition("\n.Sh EXAMPLES\n")[2] for page in PAGES.values()]
    texts += [command_of(name).epilog or "" for name in PAGES]
    text = "\n".join(texts).replace("\\-", "-")
    return re.findall(
        r"(?:^|\s)zpipe ((?:run|check|graph) .*?)(?: (?:[|&>]|\d>)|$)", text, re.MULTILINE
    )


@pytest.mark.parametrize("text", dict.fromkeys(example_lines()))
def test_examples_make_sense(text: str) -> None:
    name, *words = shlex.split(text)
    context = command_of(name).make_context(name, words)
    assert context.params.get("file") or context.params["files"] or context.params["schema"]


def test_there_are_examples() -> None:
    assert len(example_lines()) > 15


def test_the_manual_has_all_states() -> None:
    text = PAGES["run"].read_text().partition(".Ss The display")[2].partition("\n.Sh ")[0]
    items = " ".join(re.findall(r"^\.It Cm (.*)$", text, re.MULTILINE))
    assert set(re.findall(r"\w+", items)) == set(STATES)
