"""`zpipe proxy` beside itself and what it replaces: `python3 -m tests.bench.proxy [NAME...]`.

Names: bulk, beside, requests, latency, idle, many. Contenders run in turn (A B C, A B C, ...), so
that a drift of the machine hits all alike. Quoted are the medians over the rounds, and the median
of the ratio to the first contender in the same round. Clients and servers are processes of their
own, as they are in life; a proxy serves for all the rounds.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import resource
import select
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zpipe.proxy.status import ask

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Row = dict[str, float]

ROUNDS = int(os.environ.get("ROUNDS", "5"))
SIZE = int(os.environ.get("SIZE_MIB", "512")) << 20
MESSAGES = int(os.environ.get("MESSAGES", "3000"))
SECONDS = int(os.environ.get("SECONDS", "2"))
ZPIPE = shutil.which("zpipe", path=os.path.dirname(sys.executable)) or "zpipe"
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"

fork = multiprocessing.get_context("fork")
_SERVES = re.compile(r"zpipe: proxy: (.+) -> ")
_LOWEST = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
_PORTS = iter(range(_LOWEST - 1 - os.getpid() % 8192, 1024, -1))
_KEPT: list[socket.socket] = []  # what is accepted and never looked at again


class Proxy:
    """A `zpipe proxy` that serves at one port."""

    def __init__(self, process: subprocess.Popen[str]):
        assert process.stderr is not None
        self.process = process
        self.pid = process.pid
        told = ""
        for line in process.stderr:
            told += line
            if (found := _SERVES.search(line)) is not None:
                self.port = int(found[1].split(", ")[0].rpartition(":")[2])
                return
        raise SystemExit(f"the proxy does not serve: {told}")

    def snapshot(self) -> dict[str, Any]:
        """Ask it how it is."""
        return ask(f"@zpipe-proxy-{self.pid}")

    def until_idle(self, seconds: float = 30.0) -> bool:
        """Wait until it has no connection left. Returns: whether that came true."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            now = self.snapshot()
            busy = now["connections"]["active"] + sum(one["active"] for one in now["mirrors"])
            if not busy:
                return True
            time.sleep(0.05)
        return False

    def pids(self) -> list[int]:
        """Return the process and its workers."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [self.pid, *map(int, children)]

    def cpu(self) -> float:
        """Return the seconds of CPU time used so far, of all threads."""
        found = 0
        for pid in self.pids():
            for task in Path(f"/proc/{pid}/task").iterdir():
                with suppress(OSError):
                    found += int((task / "schedstat").read_text().split()[0])
        return found / 1e9

    def resident(self) -> int:
        """Return the KiB that are resident."""
        found = 0
        for pid in self.pids():
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith("VmRSS:"):
                    found += int(line.split()[1])
        return found

    def fds(self) -> list[str]:
        """Return what its fds are."""
        found = []
        for pid in self.pids():
            for fd in Path(f"/proc/{pid}/fd").iterdir():
                with suppress(OSError):
                    found.append(os.readlink(fd))
        return found


def _more_fds() -> None:
    """Have the fds of 10,000 connections, here and in what is started, as far as is allowed."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    for limit in (hard, max(hard, 32768)):
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))


@contextmanager
def proxy(*words: str | Path) -> Iterator[Proxy]:
    """Run one in front of upstreams, with options, until the end of the block."""
    command = [ZPIPE, "proxy", "--progress=never", "--listen", "127.0.0.1:0", *map(str, words)]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield Proxy(process)
    finally:
        process.kill()
        told = process.communicate()[1]
        if told:
            print(f"the proxy has said: {told[-4000:]}", flush=True)


def port() -> int:
    """Return a port that is free, below those that clients get."""
    while True:
        number = next(_PORTS)
        with socket.socket() as end, suppress(OSError):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            end.bind(("127.0.0.1", number))
            return number


@contextmanager
def process(work: Callable[..., object], *values: object) -> Iterator[Any]:
    """Run a function in a process of its own until the end of the block."""
    child = fork.Process(target=work, args=values, daemon=True)
    child.start()
    try:
        yield child
    finally:
        child.kill()
        child.join()


@contextmanager
def listening(work: Callable[[socket.socket], object]) -> Iterator[str]:
    """Run a function with a listener in a process of its own; the address as an upstream."""
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listener, process(work, listener):
        number = listener.getsockname()[1]
        listener.close()  # it is that of the process alone
        yield f"127.0.0.1:{number}"


def discard(end: socket.socket) -> None:
    """Take everything, by reference, and say so at the end."""
    null = os.open("/dev/null", os.O_WRONLY)
    reader, writer = os.pipe()
    while count := os.splice(end.fileno(), writer, 1 << 20):
        while count:
            count -= os.splice(reader, null, count)
    end.send(b".")


def serve(listener: socket.socket) -> None:
    """Take everything of one that begins with `d`; send everything else back."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    while True:
        end, _ = listener.accept()
        if os.fork():
            end.close()
            continue
        with suppress(OSError):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            data = end.recv(1 << 16)
            if data.startswith(b"d"):
                discard(end)
            while data:
                end.sendall(data)
                data = end.recv(1 << 16)
        os._exit(0)


def swallow(listener: socket.socket) -> None:
    """Be a mirror that keeps up."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        end, _ = listener.accept()
        if os.fork():
            end.close()
            continue
        with suppress(OSError):
            discard(end)
        os._exit(0)


def ignore(listener: socket.socket) -> None:
    """Be a mirror that is stuck: accept, and never read."""
    while True:
        _KEPT.append(listener.accept()[0])


def answer(listener: socket.socket) -> None:
    """Send everything back to as many clients as there are fds."""
    listener.setblocking(False)
    ends: dict[int, socket.socket] = {}
    with select.epoll() as events:
        events.register(listener, select.EPOLLIN)
        while True:
            for fd, _ in events.poll():
                if fd == listener.fileno():
                    with suppress(BlockingIOError):
                        while True:
                            end, _ = listener.accept()
                            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                            ends[end.fileno()] = end
                            events.register(end, select.EPOLLIN)
                    continue
                try:
                    data = ends[fd].recv(1 << 16)
                except OSError:
                    data = b""
                if data:
                    ends[fd].send(data)
                else:
                    ends.pop(fd).close()


def connected(where: int) -> socket.socket:
    """Connect; one that does not answer is not waited for, for ever."""
    end = socket.create_connection(("127.0.0.1", where), timeout=60)
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return end


def send(where: int, size: int) -> None:
    """Send so many bytes to `serve`, and wait until it has them."""
    data = b"d" * (128 << 10)
    with connected(where) as end:
        while size > 0:
            end.sendall(data)
            size -= len(data)
        end.shutdown(socket.SHUT_WR)
        while end.recv(1):
            pass


def send_on(where: int) -> None:
    """Send to `serve` until it is killed."""
    while True:
        send(where, 1 << 30)


def ping(where: int, messages: int) -> Row:
    """Send messages of 64 bytes there and back, one after the other."""
    found = []
    message = b"x" * 64
    with connected(where) as end:
        for _ in range(messages + 100):
            began = time.perf_counter()
            end.sendall(message)
            got = 0
            while got < len(message):
                got += len(end.recv(4096)) or sys.exit("a connection has ended")
            found.append(time.perf_counter() - began)
    late = statistics.quantiles(found[100:], n=100)
    return {"p50 us": late[49] * 1e6, "p99 us": late[98] * 1e6}


def measured(work: Callable[..., Row], *values: object) -> Row:
    """Do it in a process of its own, and return what it has found."""
    reader, writer = fork.Pipe(duplex=False)
    with reader, process(lambda: writer.send(work(*values))):
        writer.close()
        found: Row = reader.recv()
    return found


def compare(title: str, contenders: dict[str, Callable[[], Row]]) -> None:
    """Print a row for each, with the ratios to the first."""
    rows: dict[str, list[Row]] = {name: [] for name in contenders}
    for turn in range(ROUNDS + 1):
        for name, work in contenders.items():
            found = work()
            if turn:
                rows[name].append(found)
    print(f"== {title}")
    first = next(iter(rows.values()))
    for name, row in rows.items():
        cells = []
        for key in row[0]:
            median = statistics.median(one[key] for one in row)
            ratios = [
                one[key] / other[key] for one, other in zip(row, first, strict=True) if other[key]
            ]
            ratio = statistics.median(ratios) if ratios else 0.0
            cells.append(f"{key} {median:10.2f}  x{ratio:5.2f}")
        print(f"  {name:22} {'   '.join(cells)}", flush=True)


@contextmanager
def mirrored() -> Iterator[dict[str, Proxy]]:
    """Run proxies in front of `serve`: without a mirror, and with one of each kind."""
    with ExitStack() as stack:
        upstream = stack.enter_context(listening(serve))
        quick = stack.enter_context(listening(swallow))
        stuck = stack.enter_context(listening(ignore))
        found = {
            "no mirror": stack.enter_context(proxy(upstream)),
            "one that keeps up": stack.enter_context(proxy("--mirror", quick, upstream)),
            "one that is stuck": stack.enter_context(proxy("--mirror", stuck, upstream)),
        }
        yield found
        for name, one in found.items():
            for mirror in one.snapshot()["mirrors"]:
                told = mirror["given_up"] or "never"
                print(f"  ({name}: {mirror['bytes'] >> 20} MiB to it; given up: {told})")


def bulk() -> None:
    """One connection, as fast as it goes."""
    with mirrored() as proxies:

        def work(one: Proxy) -> Row:
            began, used = time.perf_counter(), one.cpu()
            with process(send, one.port, SIZE) as child:
                child.join()
            size = SIZE / (1 << 30)
            return {
                "GiB/s": size / (time.perf_counter() - began),
                "GiB per cpu-s": size / max(1e-3, one.cpu() - used),
            }

        compare(
            f"bulk, {SIZE >> 20} MiB, by mirror",
            {name: lambda one=one: work(one) for name, one in proxies.items()},  # type: ignore[misc]
        )


def beside() -> None:
    """Small messages beside a bulk connection through the same proxy."""
    with mirrored() as proxies:

        def work(one: Proxy) -> Row:
            with process(send_on, one.port):
                found = measured(ping, one.port, MESSAGES)
            one.until_idle()
            return found

        compare(
            "64 bytes there and back beside a bulk connection, by mirror",
            {name: lambda one=one: work(one) for name, one in proxies.items()},  # type: ignore[misc]
        )


@contextmanager
def nginx(folder: Path) -> Iterator[int]:
    """Run an nginx that answers with a few bytes; its port."""
    program = shutil.which("nginx", path=PATH)
    if program is None or shutil.which("wrk") is None:
        raise SystemExit("requests: nginx and wrk are needed")
    number = port()
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder}/pid; error_log /dev/null; worker_processes 1;"
        "events { worker_connections 16384; }"
        "http { access_log off; keepalive_requests 100000000; server {"
        f" listen 127.0.0.1:{number} backlog=4096; location / {{ return 200 'hello'; }} }} }}"
    )
    with subprocess.Popen([program, "-c", folder / "nginx.conf", "-e", "/dev/null"]) as server:
        try:
            wait_for(number)
            yield number
        finally:
            server.terminate()


def wait_for(number: int) -> None:
    """Wait until somebody listens."""
    for _ in range(200):
        with suppress(OSError):
            connected(number).close()
            return
        time.sleep(0.05)
    raise SystemExit(f"nothing listens at port {number}")


def requests() -> None:
    """What the access log and the metrics cost."""

    def work(one: Proxy, words: list[str]) -> Row:
        used = one.cpu()
        command = ["wrk", "-t1", "-c50", f"-d{SECONDS}s", *words]
        command.append(f"http://127.0.0.1:{one.port}/")
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        if "Socket errors" in told:
            print(f"  {told[told.index('Socket errors') :].splitlines()[0]}")
        rate = float(told.split("Requests/sec:")[1].split()[0])
        return {"req/s": rate, "per cpu-s": rate * SECONDS / max(1e-3, one.cpu() - used)}

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/dev/shm")))
        folder.chmod(0o755)
        upstream = f"127.0.0.1:{stack.enter_context(nginx(folder))}"
        off = stack.enter_context(proxy(upstream))
        log = ["--access-log", f"{folder}/log", "--access-format", "json"]
        on = stack.enter_context(proxy(*log, "--metrics", "127.0.0.1:0", upstream))
        for title, words in (
            ("requests on 50 connections", []),
            ("a connection for each request", ["-H", "Connection: close"]),
        ):
            compare(
                title,
                {
                    "no log, no metrics": lambda words=words: work(off, words),  # type: ignore[misc]
                    "log and metrics": lambda words=words: work(on, words),  # type: ignore[misc]
                },
            )


@contextmanager
def haproxy(folder: Path, upstream: str) -> Iterator[int | None]:
    """Run a HAProxy in front of an upstream; its port, or None where there is none."""
    program = shutil.which("haproxy", path=PATH)
    if program is None:
        yield None
        return
    number = port()
    (folder / "haproxy.cfg").write_text(
        "global\n nbthread 1\ndefaults\n mode tcp\n timeout connect 5s\n timeout client 60s\n"
        f" timeout server 60s\nlisten a\n bind 127.0.0.1:{number}\n server s {upstream}\n"
    )
    with subprocess.Popen(
        [program, "-f", folder / "haproxy.cfg"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as server:
        try:
            wait_for(number)
            yield number
        finally:
            server.kill()


def latency() -> None:
    """One connection that has the proxy for itself."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        upstream = stack.enter_context(listening(answer))
        other = stack.enter_context(haproxy(folder, upstream))
        ports = {
            "zpipe": stack.enter_context(proxy(upstream)).port,
            "direct": int(upstream.rpartition(":")[2]),
            **({"haproxy": other} if other is not None else {}),
        }
        compare(
            "64 bytes there and back, one connection",
            {name: lambda to=to: measured(ping, to, MESSAGES) for name, to in ports.items()},  # type: ignore[misc]
        )


def hold(where: int, count: int, told: Any) -> None:
    """Open connections, each answered once, and hold them; tells how many, and when that was."""
    ends = []
    last = 0.0
    for _ in range(count):
        try:
            end = connected(where)
            end.sendall(b"x")
            end.settimeout(10)
            if not end.recv(1):
                break
        except OSError:
            break
        ends.append(end)
        last = time.perf_counter()
    told.send((len(ends), last))
    signal.pause()


@contextmanager
def held(where: int, count: int, processes: int) -> Iterator[tuple[int, float]]:
    """Hold connections in several processes until the end of the block; how many, since when."""
    with ExitStack() as stack:
        readers = []
        for _ in range(processes):
            reader, writer = fork.Pipe(duplex=False)
            stack.enter_context(process(hold, where, count // processes, writer))
            writer.close()
            readers.append(stack.enter_context(reader))
        counts, times = zip(*(reader.recv() for reader in readers), strict=True)
        yield sum(counts), max(times)


def idle() -> None:
    """What connections cost in which nothing moves."""
    print("== idle connections")
    with listening(answer) as upstream, proxy(upstream) as one:
        with held(one.port, 1000, 1) as (opened, _):
            time.sleep(1)  # what was begun is done
            used = one.cpu()
            time.sleep(10)
            print(f"  {opened} connections, 10 s: {one.cpu() - used:.6f} s of CPU", flush=True)
        one.until_idle()
    with listening(answer) as upstream, proxy(upstream) as one:
        with held(one.port, 10, 1):
            pass
        one.until_idle()
        before, fds = one.resident(), len(one.fds())
        with held(one.port, 9000, 2) as (opened, _):
            memory, more = one.resident() - before, len(one.fds()) - fds
            pipes = sum(name.startswith("pipe:") for name in one.fds())
            print(
                f"  {opened} connections: {memory / opened:.2f} KiB resident and"
                f" {more / opened:.2f} fds each; {pipes} pipe fds in all; {before} KiB without",
                flush=True,
            )


def many() -> None:
    """10,000 connections at once, as far as the limit of fds allows (two for each)."""
    print("== 10,000 connections at once, one worker")
    with listening(answer) as upstream, proxy(upstream) as one:
        limit = resource.prlimit(one.pid, resource.RLIMIT_NOFILE)
        began = time.perf_counter()
        with held(one.port, 10_000, 2) as (opened, last):
            found = one.snapshot()["connections"]
            print(
                f"  {opened} open and answered within {last - began:.1f} s; the proxy counts"
                f" {found['active']} (most: {found['max']}), and has {len(one.fds())} fds of"
                f" {limit[0]} (hard limit {limit[1]})",
                flush=True,
            )
            found = measured(ping, one.port, 500) if opened < found["max"] else None
            if found is not None:
                print(f"  beside them one more: {found}")


NAMES = {work.__name__: work for work in (bulk, beside, requests, latency, idle, many)}


def main() -> None:
    """Run those that are named, or all."""
    _more_fds()
    for name in sys.argv[1:] or NAMES:
        NAMES[name]()


if __name__ == "__main__":
    main()
