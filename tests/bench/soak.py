"""Minutes of churn through `zpipe proxy`: `python3 -m tests.bench.soak [--seconds N] [WORD...]`.

Clients send and receive streams of random sizes, in bits or at once, slowly, half-closed, and cut
off with RST by either side. One upstream is killed and comes back, and so is a mirror; another
mirror never reads, and a third one is slow. WORDs are further options of the proxy.

Each stream is verified: the server compares what it gets with what the client must send, and the
client the answer; and unless one of the two wanted to break off, or their server was killed, each
stream must be complete, by its SHA-256. The same holds for what the mirror gets, as far as it gets
it. Memory and fds are measured while nothing is connected, after the first fifth and at the end.

Exits with 1 when a byte is wrong, a stream does not end, or memory or fds have grown.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import select
import signal
import socket
import statistics
import struct
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from tests.bench.proxy import Proxy, fork, port, process, proxy
from zpipe.errors import ZpipeError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Work = Callable[[socket.socket, "Shared"], None]

PROCESSES = 2
THREADS = 16  # in each of them
LONGEST = 60  # seconds without a byte: it hangs
SAMPLE = 10.0  # seconds from one line to the next
BLOCK = 4 << 20
DATA = memoryview(random.Random(5).randbytes(BLOCK) * 2)
HEADER = struct.Struct("!BIIIII")  # kind, offset of either stream in DATA, sizes, where it is cut
RESET = struct.pack("ii", 1, 0)
WHOLE, TALK, BOTH, SLOW, LEFT, CUT = range(6)
NAMES = ("whole", "talk", "both", "slow", "left by the client", "cut by the server")
WEIGHTS = (30, 25, 15, 5, 15, 10)  # how often each of them
SLOTS = PROCESSES + 4
STEADY, RESTARTED, MIRROR, SLOW_MIRROR = range(PROCESSES, SLOTS)
POOLED = 64  # pipes that the proxy may keep for the next one who needs them


class Wrong(Exception):
    """A byte is not what it must be, or one is missing."""


class Shared:
    """What the processes know of each other.

    Servers are killed at any moment: there is no lock, and each process has numbers of its own.
    """

    def __init__(self) -> None:
        self._numbers = {
            name: fork.RawArray("q", SLOTS)
            for name in ("done", "bytes", "cut", "wrong", "mirrored", *NAMES)
        }
        self._slot = 0
        self._lock = threading.Lock()
        self.pause = fork.RawValue("b", 0)
        self.epoch = fork.RawValue("q", 0)  # odd while a server is being killed

    def take_slot(self, slot: int) -> None:
        """Count in these numbers from now on."""
        self._slot = slot

    def count(self, name: str, amount: int = 1) -> None:
        """Add to a number."""
        with self._lock:
            self._numbers[name][self._slot] += amount

    def sum(self, name: str) -> int:
        """Return a number, of all processes."""
        return sum(self._numbers[name])

    def blame(self, text: str) -> None:
        """Tell of what must not be."""
        self.count("wrong")
        print(f"WRONG: {text}", flush=True)


def compare(data: bytes, expected: memoryview, done: int, what: str) -> int:
    """Compare a piece with its place in the stream. Returns: the end of the piece."""
    if data != expected[done : done + len(data)]:
        raise Wrong(f"{what}: other bytes between {done} and {done + len(data)}")
    return done + len(data)


def reset(end: socket.socket) -> None:
    """Close with RST (a UNIX socket knows none)."""
    with suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    end.close()


# Servers


def exactly(end: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count and (more := end.recv(count - len(data))):
        data += more
    return data


def take(end: socket.socket, expected: memoryview, what: str, *, pause: float = 0.0) -> bytes:
    """Receive until the end of input, and compare. Returns: the digest."""
    digest, done = hashlib.sha256(), 0
    while data := end.recv(1 << 15 if pause else 1 << 18):
        done = compare(data, expected, done, what)
        digest.update(data)
        if pause:
            time.sleep(pause)
    return digest.digest()


def answer(end: socket.socket, shared: Shared) -> None:
    """Serve one connection as its first bytes ask for."""
    head = exactly(end, HEADER.size)
    if len(head) < HEADER.size:
        return
    kind, offset, other, size, back, cut = HEADER.unpack(head)
    up, down = DATA[offset : offset + size], DATA[other : other + back]
    what = f"{NAMES[kind]}, at the server"
    if kind == TALK:
        done = 0
        while data := end.recv(1 << 16):
            done = compare(data, up, done, what)
            end.sendall(data)
        return
    sender = None
    if kind in (BOTH, LEFT, CUT):
        part = down[:cut] if kind == CUT else down

        def send() -> None:
            with suppress(OSError):
                end.sendall(part)

        sender = threading.Thread(target=send)
        sender.start()
    if kind == CUT:
        assert sender is not None
        done = 0
        while done < cut and (data := end.recv(1 << 16)):
            done = compare(data, up, done, what)
        if offset % 2:
            end.shutdown(socket.SHUT_RDWR)
        sender.join()
        reset(end)
        return
    try:
        digest = take(end, up, what, pause=0.001 if kind == SLOW and offset % 2 else 0.0)
    finally:
        if sender is not None:
            sender.join()
    if sender is None:
        end.sendall(down)
    end.sendall(digest)


def mirror(end: socket.socket, shared: Shared) -> None:
    """Take what a client has sent, and compare, as far as it comes."""
    head = exactly(end, HEADER.size)
    if len(head) < HEADER.size:
        return
    kind, offset, _, size, _, _ = HEADER.unpack(head)
    done = 0
    while data := end.recv(1 << 18):
        done = compare(data, DATA[offset : offset + size], done, f"{NAMES[kind]}, at the mirror")
    shared.count("mirrored", done)


def sip(end: socket.socket, shared: Shared) -> None:
    """Take what comes, slowly."""
    while end.recv(1 << 16):
        time.sleep(0.002)


def serve(address: str | int, work: Work, slot: int, shared: Shared) -> None:
    """Accept until killed, and work on each connection in a thread."""
    shared.take_slot(slot)
    if isinstance(address, int):
        listener = socket.create_server(("127.0.0.1", address), backlog=1024)
    else:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(address)
        listener.listen(1024)

    def run(end: socket.socket) -> None:
        with end:
            end.settimeout(LONGEST)
            try:
                work(end, shared)
            except Wrong as error:
                shared.blame(str(error))
            except TimeoutError:
                shared.blame("a server waits for a client for ever")
            except OSError:
                pass  # the client has broken off

    while True:
        end, _ = listener.accept()
        threading.Thread(target=run, args=(end,), daemon=True).start()


def stuck(number: int) -> None:
    """Accept, never read, and close what the other side has ended."""
    listener = socket.create_server(("127.0.0.1", number), backlog=1024)
    # inherited by what is accepted: otherwise the kernel takes most streams for it
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    ends: dict[int, socket.socket] = {}
    with select.epoll() as events:
        events.register(listener, select.EPOLLIN)
        while True:
            for fd, _ in events.poll():
                if fd == listener.fileno():
                    end, _ = listener.accept()
                    ends[end.fileno()] = end
                    events.register(end, select.EPOLLRDHUP)
                else:
                    ends.pop(fd).close()


# Clients


def send(end: socket.socket, data: memoryview, rng: random.Random) -> None:
    """Send, sometimes in bits, and end the output."""
    with suppress(OSError):  # whether all has arrived is judged by the answer
        at_once = rng.choice((997, 16 << 10, 256 << 10)) if len(data) < 1 << 20 else 1 << 20
        for place in range(0, len(data), at_once):
            end.sendall(data[place : place + at_once])
        end.shutdown(socket.SHUT_WR)


def talk(end: socket.socket, up: memoryview, rng: random.Random) -> int:
    """Have small messages echoed, one after the other."""
    done = 0
    while done < len(up):
        count = min(rng.randint(1, 6000), len(up) - done)
        end.sendall(up[done : done + count])
        if compare(exactly(end, count), up, done, "talk, at the client") < done + count:
            raise ConnectionAbortedError(f"it ended after {done} of {len(up)} bytes")
        done += count
    end.shutdown(socket.SHUT_WR)
    if end.recv(1):
        raise Wrong("talk: bytes behind the end")
    return 2 * done


def receive(end: socket.socket, expected: memoryview, what: str, pause: float) -> int:
    """Receive until the end of input, which must be the end of the stream."""
    done = 0
    while data := end.recv(1 << 15 if pause else 1 << 18):
        done = compare(data, expected, done, what)
        if pause:
            time.sleep(pause)
    if done < len(expected):
        raise ConnectionAbortedError(f"it ended after {done} of {len(expected)} bytes")
    return done


def one(end: socket.socket, kind: int, rng: random.Random) -> int:
    """Run one connection. Returns: the bytes of both streams."""
    sizes = (rng.randint(0, 4000), rng.randint(0, 200_000), rng.randint(0, BLOCK))
    size, back = (rng.choices(sizes, (6, 3, 1))[0] for _ in range(2))
    if kind == TALK:
        size = min(size, 50_000)
    elif kind == SLOW:
        size, back = size % (1 << 20), back % (1 << 20)
    offset, other = rng.randrange(BLOCK), rng.randrange(BLOCK)
    cut = rng.randint(0, min(size, back))
    up = DATA[offset : offset + size]
    expected = DATA[other : other + back]
    if kind not in (TALK, CUT):  # the server ends with what it has got
        expected = memoryview(bytes(expected) + hashlib.sha256(up).digest())
    end.sendall(HEADER.pack(kind, offset, other, size, back, cut))
    if kind == TALK:
        return talk(end, up, rng)
    sender = threading.Thread(target=send, args=(end, up, rng))
    if kind == LEFT:
        if rng.random() < 0.5:  # what is received is never read
            with suppress(OSError):
                end.sendall(up[:cut])
        else:
            sender.start()
            done = 0
            with suppress(OSError):
                while done < cut and (data := end.recv(1 << 16)):
                    done = compare(data, expected, done, NAMES[kind])
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)  # wakes the sender
            sender.join()
        reset(end)
        return size
    if kind == CUT:
        sender.start()
        try:
            with suppress(OSError):
                done = 0
                while data := end.recv(1 << 18):
                    done = compare(data, expected[:cut], done, NAMES[kind])
        finally:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            sender.join()
        return size
    pause = 0.001 if kind == SLOW and not offset % 2 else 0.0
    sender.start()
    try:
        return len(up) + receive(end, expected, f"{NAMES[kind]}, at the client", pause)
    finally:
        sender.join()


def client(addresses: Sequence[str | int], seed: int, shared: Shared) -> None:
    """Open one connection after the other, and verify each, until killed."""
    rng = random.Random(seed)
    while True:
        while shared.pause.value:
            time.sleep(0.02)
        kind = rng.choices(range(len(NAMES)), WEIGHTS)[0]
        address = rng.choice(addresses)
        before = shared.epoch.value
        end = socket.socket(socket.AF_INET if isinstance(address, int) else socket.AF_UNIX)
        with end:
            end.settimeout(LONGEST)
            if kind == SLOW:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 << 10)
            try:
                end.connect(("127.0.0.1", address) if isinstance(address, int) else address)
                shared.count("bytes", one(end, kind, rng))
            except Wrong as error:
                shared.blame(str(error))
            except TimeoutError:
                shared.blame(f"{NAMES[kind]}: it hangs")
            except OSError as error:
                if isinstance(error, ConnectionRefusedError):
                    shared.blame(f"the proxy has refused: {error}")
                    time.sleep(1)
                elif kind in (LEFT, CUT):
                    pass
                elif before % 2 or before != shared.epoch.value:
                    shared.count("cut")
                else:
                    shared.blame(f"{NAMES[kind]}: {error}")
        shared.count(NAMES[kind])
        shared.count("done")


def clients(addresses: Sequence[str | int], slot: int, shared: Shared) -> None:
    """Run the threads of one process."""
    shared.take_slot(slot)
    for number in range(THREADS):
        words = (addresses, slot * 1000 + number, shared)
        threading.Thread(target=client, args=words, daemon=True).start()
    signal.pause()


# The run


class Restarted:
    """A server that is killed now and then, and comes back at the same port."""

    def __init__(self, work: Work, slot: int, shared: Shared, *, told: bool):
        self.port = port()
        self._words = (self.port, work, slot, shared)
        self._epoch = shared.epoch if told else fork.RawValue("q", 0)
        self._rng = random.Random(slot)
        self._running = True
        self._start()

    def _start(self) -> None:
        self._child = fork.Process(target=serve, args=self._words, daemon=True)
        self._child.start()
        self._next = time.monotonic() + self._rng.uniform(2, 8)

    def turn(self) -> None:
        """Kill it, or bring it back, when it is time to."""
        if time.monotonic() < self._next:
            return
        if not self._running:
            self._start()
        else:
            self._epoch.value += 1
            self.end()
            self._epoch.value += 1
            self._next = time.monotonic() + self._rng.uniform(0.1, 1.5)
        self._running = not self._running

    def end(self) -> None:
        """Kill it."""
        self._child.kill()
        self._child.join()


class Watch:
    """Samples of the proxy's memory and fds."""

    def __init__(self, one: Proxy, shared: Shared):
        self._proxy = one
        self._shared = shared
        self._began = time.monotonic()
        self.resident: list[tuple[float, int]] = []

    def sample(self) -> None:
        """Take one under load."""
        self.resident.append((time.monotonic() - self._began, self._proxy.resident()))

    def line(self, note: str = "") -> tuple[int, int, int]:
        """Print one. Returns: KiB, fds but pipes, pipe fds."""
        names = self._proxy.fds()
        pipes = sum(name.startswith("pipe:") for name in names)
        memory = self._proxy.resident()
        now = self._proxy.snapshot()
        print(
            f"  {time.monotonic() - self._began:5.0f} s  {self._shared.sum('done'):8} connections"
            f"  {self._shared.sum('bytes') >> 20:7} MiB  {now['connections']['active']:4} open"
            f"  {memory:7} KiB  {len(names):4} fds ({pipes} of pipes)"
            f"  wrong {self._shared.sum('wrong')}  {note}",
            flush=True,
        )
        return memory, len(names) - pipes, pipes

    def quiet(self, note: str) -> tuple[int, int, int]:
        """Print one while nothing is connected."""
        self._shared.pause.value = 1
        if not self._proxy.until_idle(LONGEST + 10):
            self._shared.blame("connections are left though all clients have ended theirs")
        time.sleep(0.2)  # whoever has asked has closed, too
        found = self.line(note)
        self._shared.pause.value = 0
        return found


def judge(before: tuple[int, int, int], after: tuple[int, int, int], watch: Watch) -> list[str]:
    """Return what has grown."""
    found = []
    if after[0] > before[0] * 1.05 + 2048:
        found.append(f"memory has grown from {before[0]} to {after[0]} KiB")
    if after[1] > before[1]:
        found.append(f"fds have grown from {before[1]} to {after[1]}")
    if after[2] > before[2] + 2 * POOLED:
        found.append(f"pipe fds have grown from {before[2]} to {after[2]}")
    last = watch.resident[-1][0]
    early = [memory for when, memory in watch.resident if last / 5 <= when < last * 2 / 5]
    late = [memory for when, memory in watch.resident if when >= last * 4 / 5]
    if early and late:
        first, second = statistics.median(early), statistics.median(late)
        if second > first * 1.1 + 4096:
            found.append(f"memory under load has grown from {first:.0f} to {second:.0f} KiB")
    return found


def soak(seconds: float, words: list[str]) -> int:
    """Run. Returns: the exit code."""
    shared = Shared()
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        steady, socket_path, slow = f"{folder}/steady", f"{folder}/proxy", f"{folder}/slow"
        restarted = Restarted(answer, RESTARTED, shared, told=True)
        stack.callback(restarted.end)
        mirrors = Restarted(mirror, MIRROR, shared, told=False)
        stack.callback(mirrors.end)
        stack.enter_context(process(serve, steady, answer, STEADY, shared))
        stack.enter_context(process(serve, slow, sip, SLOW_MIRROR, shared))
        never = port()
        stack.enter_context(process(stuck, never))
        for path in (steady, slow):
            while not os.path.exists(path):
                time.sleep(0.01)
        one = stack.enter_context(
            proxy(
                *("--listen", f"unix:{socket_path}"),
                *("--mirror", f"127.0.0.1:{mirrors.port}"),
                *("--mirror", f"127.0.0.1:{never}?queue=256K&sample=30%"),
                *("--mirror", f"unix:{slow}?direction=both&when_full=spill&queue=128K&sample=10%"),
                *("--access-log", f"{folder}/log"),
                *words,
                *(f"127.0.0.1:{restarted.port}", f"unix:{steady}"),
            )
        )
        for slot in range(PROCESSES):
            stack.enter_context(process(clients, [one.port, socket_path], slot, shared))
        watch = Watch(one, shared)
        began = time.monotonic()
        before = None
        next_line, next_sample = began + SAMPLE, began
        while (now := time.monotonic()) < began + seconds:
            if before is None and now > began + seconds / 5:
                before = watch.quiet("quiet, warmed up")
            restarted.turn()
            mirrors.turn()
            if now >= next_sample:
                watch.sample()
                next_sample += 1
            if now >= next_line:
                watch.line()
                next_line += SAMPLE
            time.sleep(0.02)
        assert before is not None
        after = watch.quiet("quiet, at the end")
        found = one.snapshot()
        grown = judge(before, after, watch)
    kinds = ", ".join(f"{name} {shared.sum(name)}" for name in NAMES)
    print(f"  {kinds}; ended by a killed server {shared.sum('cut')}")
    print(f"  a mirror has verified {shared.sum('mirrored') >> 20} MiB")
    for each in found["mirrors"]:
        print(f"  {each['name']}: {each['connections']} connections, given up {each['given_up']}")
    print(f"  ended: {found['connections']['closed']}")
    for line in grown:
        print(f"FAILED: {line}")
    return 1 if grown or shared.sum("wrong") else 0


def main() -> None:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=300.0)
    options, words = parser.parse_known_args()
    try:
        code = soak(options.seconds, words)
    except ZpipeError as error:
        code = 1
        print(f"FAILED: the proxy does not answer: {error}")
    sys.exit(code)


if __name__ == "__main__":
    main()
