"""What `zpipe proxy` refuses, before anything is served; and how it shows its options."""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, get_args

import pytest

from tests.commands.shell import refused
from tests.machine import LONGEST, ROOT, environment, need_root, nobody, zpipe
from zpipe.commands.proxy import COMMAND, EXAMPLES
from zpipe.proxy import mirror, wishes
from zpipe.proxy.counters import REASONS
from zpipe.proxy.settings import Balance

if TYPE_CHECKING:
    from pathlib import Path

PAGE = ROOT / "man/man1/zpipe-proxy.1"
# nobody is asked: the address is one for documentation (RFC 5737)
UP = "192.0.2.1:80"


def free_port() -> int:
    with socket.socket() as end:
        end.bind(("127.0.0.1", 0))
        return int(end.getsockname()[1])


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("", "proxy: no upstream: give an address like 10.0.0.1:5432"),
        ("80", "80: not an address: write HOST:PORT"),
        (":80", ":80: give a host before the port"),
        (f"{UP}?wieght=2", f"{UP}?wieght=2: unknown option wieght: did you mean weight?"),
        ("fd:3", "fd:3: is to listen at"),
        (f"--listen x {UP}", "--listen: x: not an address"),
        (f"--listen unix:/x?mode=x {UP}", "--listen: unix:/x?mode=x: option mode: x: not a"),
        (f"--balance random {UP}", "--balance: random: give one of round-robin"),
        (f"--retries -1 {UP}", "--retries: -1: give a whole number from 0 to 100"),
        (f"--check intervall=1s {UP}", "--check: intervall=1s: unknown option intervall: did"),
        (f"--resolve-interval soon {UP}", "--resolve-interval: soon: not a duration"),
        (f"--route-sni x {UP}", "--route-sni: x: not a route"),
        (f"--send-proxy v3 {UP}", "--send-proxy: v3: give one of v1, v2"),
        (f"--accept-proxy=maybe {UP}", "--accept-proxy: maybe: give one of optional"),
        (f"--accept-proxy --trust-proxy 10.0.0.1/8 {UP}", "--trust-proxy: 10.0.0.1/8: not a"),
        (f"--mirror {UP}?queue=0 {UP}", f"--mirror: {UP}?queue=0: option queue: 0: must be"),
        (f"--capture x --capture-max lots {UP}", "--capture-max: lots: not a size"),
        (f"--max-connections 0 {UP}", "--max-connections: 0: give a whole number from 1"),
        (f"--per-source x {UP}", "--per-source: x: give a whole number from 1"),
        (f"--rate-limit 0 {UP}", "--rate-limit: 0: not a rate"),
        (f"--allow localhost {UP}", "--allow: localhost: not a network"),
        (f"--deny ::1/200 {UP}", "--deny: ::1/200: not a network"),
        (f"--half-closed-timeout 0 {UP}", "--half-closed-timeout: 0: not a duration"),
        (f"--idle-timeout never {UP}", "--idle-timeout: never: not a duration"),
        (f"--workers 0 {UP}", "--workers: 0: give a whole number from 1 to 256"),
        (f"--metrics x {UP}", "--metrics: x: not an address"),
        (f"--pipe-size 100 {UP}", "proxy: --pipe-size: 100: give 4K to 2G"),
        (f"--trust-proxy ::1 {UP}", "proxy: --trust-proxy: has no effect without --accept-proxy"),
        (f"--capture-max 1G {UP}", "proxy: --capture-max: has no effect without --capture"),
        (f"--route-default {UP}", "proxy: --route-default: has no effect without --route-sni"),
        (f"--access-format json {UP}", "proxy: --access-format: has no effect without --access"),
        (
            f"--route-sni a={UP} --route-default {UP} {UP}",
            "proxy: --route-default: is what an UPSTREAM without a name is",
        ),
        (f"--user no-such-user {UP}", "proxy: --user: no user is named no-such-user"),
        (f"--group no-such-group {UP}", "proxy: --group: no group is named no-such-group"),
        ("unix:/run/x", "unix:/run/x: has no port to listen at: give --listen"),
        (f"--route-sni a.org={UP}", "proxy: no address to listen at: give --listen"),
        ("a..b:80", "a..b:80: resolve: "),
        (f"--mirror a..b:81 {UP}", "a..b:81: resolve: "),
        (f"--route-sni a.org=a..b:82 --listen 127.0.0.1:0 {UP}", "a..b:82: resolve: "),
        (f"--listen {UP} {UP}", f"{UP}: listen: Cannot assign requested address"),
        (f"--listen fd:99 {UP}", "fd 99: listen: Bad file descriptor"),
        (f"--listen fd:web {UP}", "fd:web: listen: no passed socket has this name"),
        (f"--listen unix:/no/such/s {UP}", "unix:/no/such/s: listen: No such file or directory"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(line: str, why: str) -> None:
    refused(zpipe("proxy", *shlex.split(line)), 2, why)


@pytest.mark.parametrize(
    "words",
    [
        "--listen :0",
        "--accept-proxy",
        "--workers 2",
        "--balance first",
        "--check rise=1",
        "--resolve-interval 1s",
        f"--route-sni a={UP}",
        f"--mirror {UP}",
        "--capture x",
        "--max-connections 1",
        "--when-full queue",
        "--per-source 1",
        "--total-rate-limit 1M",
        "--allow ::1",
        "--deny ::1",
        "--opening-timeout 1s",
        "--drain-timeout 1s",
        "--exit-idle-time 1s",
        "--user root",
        "--group root",
        "--access-log -",
        "--metrics :0",
        "--progress never",
    ],
)
def test_what_needs_a_listener_cannot_be_beside_stdio(words: str) -> None:
    flag = words.split(maxsplit=1)[0]
    done = zpipe("proxy", "--stdio", *words.split(), UP)
    refused(done, 2, f"proxy: {flag}: cannot be beside --stdio")


def test_all_names_that_do_not_resolve_are_told_at_once() -> None:
    done = zpipe("proxy", "--mirror", "c..d:1", "a..b:80", UP)
    assert done.returncode == 2
    first, second = done.stderr.decode().splitlines()
    assert first.startswith("zpipe: a..b:80: resolve: ")
    assert second.startswith("zpipe: c..d:1: resolve: ")


def test_a_port_in_use_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as end:
        text = f"127.0.0.1:{end.getsockname()[1]}"
        for workers in ("1", "2"):
            done = zpipe("proxy", "--listen", text, "--workers", workers, UP)
            refused(done, 2, f"{text}: listen: Address already in use")


def test_the_default_port_is_that_of_the_first_upstream() -> None:
    with socket.create_server(("127.0.0.1", 0)) as end:
        port = end.getsockname()[1]
        text = f"127.0.0.1:{port}: listen: Address already in use"
        refused(zpipe("proxy", f"192.0.2.1:{port}", UP), 2, text)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
def test_the_default_port_is_not_taken_from_an_upstream_of_this_machine(host: str) -> None:
    text = f"{host}:{free_port()}"
    refused(zpipe("proxy", text), 2, f"{text}: is on this machine, at the same port: give --listen")


def test_an_upstream_that_is_the_proxy_itself_is_refused(tmp_path: Path) -> None:
    port = free_port()
    own = f"127.0.0.1:{port}"
    for words in (
        ["--listen", own, own],
        ["--listen", f":{port}", UP, own],
        ["--listen", own, "--mirror", own, UP],
        ["--listen", own, "--route-sni", f"a.org={own}", UP],
        ["--listen", own, "--route-sni", f"a.org={UP}", "--route-default", own],
    ):
        refused(zpipe("proxy", *words), 2, f"{own}: is the proxy itself, at ")
    path = f"unix:{tmp_path}/s"
    refused(zpipe("proxy", "--listen", path, path), 2, f"{path}: is the proxy itself, at {path}")
    assert os.listdir(tmp_path) == []


def test_what_was_passed_in_must_listen() -> None:
    """A shell keeps its own number when it becomes the program, as a service manager does."""
    script = f'export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=web; exec "$@" 3</dev/null {UP}'
    words = [sys.executable, "-m", "zpipe", "proxy"]
    done = subprocess.run(
        ["sh", "-c", script, "sh", *words],
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=LONGEST,
        check=False,
    )
    refused(done, 2, "fd 3 (web): listen: is not a socket")


def test_a_folder_of_captures_must_be_one(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"")
    done = zpipe("proxy", "--listen", "127.0.0.1:0", "--capture", file, UP)
    refused(done, 2, f"{file}: capture: Not a directory")


def test_only_root_becomes_somebody_else(tmp_path: Path) -> None:
    done = zpipe(
        "proxy", "--listen", "127.0.0.1:0", "--user", "0", UP, before=nobody(), cwd=tmp_path
    )
    refused(done, 2, "proxy: --user 0: only root may become another user")


def test_a_path_that_cannot_be_given_away_is_removed_again(tmp_path: Path) -> None:
    need_root()
    tmp_path.chmod(0o777)
    done = zpipe("proxy", "--listen", "unix:s?user=0", UP, before=nobody(), cwd=tmp_path)
    refused(done, 2, "unix:s?user=0: listen: Operation not permitted")
    assert os.listdir(tmp_path) == []


# Help and manual


def example_lines() -> list[str]:
    """Return the command lines of zpipe proxy that help and manual show."""
    page = PAGE.read_text().partition("\n.Sh EXAMPLES\n")[2].partition("\n.Sh ")[0]
    text = page.replace("\\-", "-").replace("\\e", "\\") + EXAMPLES
    return re.findall(r"zpipe (proxy .*?)(?:' host)?$", text, re.MULTILINE)


@pytest.mark.parametrize("line", example_lines())
def test_examples_make_sense(line: str) -> None:
    """They are of other machines and of ports that need root: only what they say is judged."""
    name, *words = shlex.split(line.replace("%h:%p", UP))
    context = COMMAND.make_context(name, words)
    assert context.params["upstreams"]


def test_the_manual_has_examples() -> None:
    assert len(example_lines()) > 10


def told(section: str) -> set[str]:
    """Return the items of the lists in a section of the manual."""
    text = PAGE.read_text().partition(f"\n.S{section}\n")[2]
    text = re.split(r"\n\.S[hs] ", text, maxsplit=1)[0]
    items = re.findall(r"^\.It Cm (.*)$", text, re.MULTILINE)
    return {word for item in items for word in re.findall(r"[\w-]+", item)}


def test_keys_and_reasons_are_told_in_full() -> None:
    assert told("h MIRRORS") == set(wishes.MIRROR_OPTIONS)
    assert told("h UPSTREAMS") - set(get_args(Balance)) == set(wishes.CHECK_OPTIONS)
    assert told("h OBSERVATION") == set(REASONS)
    assert told("s Why a mirror is given up") == set(mirror.REASONS)


def test_help_has_headings_and_fits_a_terminal() -> None:
    done = zpipe("proxy", "--help")
    assert done.returncode == 0
    text = done.stdout.decode()
    headings = re.findall(r"^(\w.*):$", text, re.MULTILINE)
    assert headings == [
        "Listening",
        "Upstreams",
        "Mirror and capture",
        "Limits",
        "Timeouts",
        "Operation",
    ]
    body, _, examples = text.partition("Examples:")
    assert all(len(line) <= 80 for line in body.splitlines())
    assert all(len(line) <= 88 for line in examples.splitlines())
    assert "--half-closed-timeout TIME" in body
    assert "zpipe proxy --listen" in examples


def test_the_start_loads_nothing_big() -> None:
    """What only some options need is loaded by them."""
    script = """
import sys
import zpipe.cli, zpipe.commands.proxy, zpipe.commands.proxy_progress
from zpipe.proxy import listening, resolver, server, service
print(*sorted(sys.modules))
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment(),
        capture_output=True,
        timeout=LONGEST,
        check=True,
    )
    loaded = set(done.stdout.decode().split())
    big = {"rich", "ssl", "prometheus_client", "msgspec", "psutil", "asyncio"}
    assert "zpipe.proxy.service" in loaded
    assert not loaded & big
