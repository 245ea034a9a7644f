"""The other process of the tests of SharedBuffer: `python -m tests.channel.ring_peer ACT FD ...`.

FD is a UNIX socket, over which it gets its side, and tells what it has to tell.
"""

from __future__ import annotations

import hashlib
import random
import signal
import socket
import sys
from typing import TYPE_CHECKING

from zpipe.channel.shared import SharedBuffer

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK = random.Random(7).randbytes(1 << 20)


def blocks(total: int) -> Iterator[bytes]:
    """Return `total` bytes, in which every MiB can be told from every other one."""
    for number in range(total >> 20):
        yield number.to_bytes(8, "big") + BLOCK[8:]
    yield BLOCK[: total & 0xFFFFF]


def checksum(total: int) -> str:
    """Return the checksum of those bytes."""
    digest = hashlib.sha256()
    for block in blocks(total):
        digest.update(block)
    return digest.hexdigest()


def produce(buffer: SharedBuffer, total: int, seed: int, largest: int) -> None:
    """Write them in pieces of random sizes, by copy or in place."""
    chance = random.Random(seed)
    for block in blocks(total):
        rest = memoryview(block)
        while rest:
            size = min(chance.randint(1, largest), len(rest))
            if chance.random() < 0.5:
                buffer.write(rest[:size])
            else:
                with buffer.reserve(size) as view:
                    size = len(view)
                    view[:] = rest[:size]
                buffer.commit(size)
            rest = rest[size:]


def consume(buffer: SharedBuffer, seed: int, largest: int) -> tuple[int, str]:
    """Read to the end in pieces of random sizes, by copy or in place; return count and checksum."""
    chance = random.Random(seed)
    digest = hashlib.sha256()
    target = bytearray(largest)
    while True:
        size = chance.randint(1, largest)
        way = chance.randrange(3)
        if way == 0:
            data = buffer.read(size)
            digest.update(data)
            size = len(data)
        elif way == 1:
            with memoryview(target)[:size] as view:
                size = buffer.read_into(view)
                digest.update(view[:size])
        else:
            with buffer.peek(size) as view:
                size = len(view)
                digest.update(view)
            buffer.consume(size)
        if not size:
            return buffer.moved, digest.hexdigest()


def main() -> None:
    """Do what the first argument says."""
    act, numbers = sys.argv[1], list(map(int, sys.argv[2:]))
    with socket.socket(fileno=numbers[0]) as sock, SharedBuffer.receive(sock) as buffer:
        if act == "produce":
            produce(buffer, *numbers[1:])
        elif act == "consume":
            count, found = consume(buffer, *numbers[1:])
            sock.sendall(f"{count} {found} {buffer.finished}".encode())
        elif act == "produce-for-ever":
            sock.sendall(b"ready")
            while True:
                produce(buffer, *numbers[1:])
        elif act == "consume-some":
            count = numbers[1]
            while count:
                count -= len(buffer.read(count))
            sock.sendall(b"ready")
            signal.pause()
        elif act == "echo":
            with SharedBuffer.receive(sock) as answers:
                while data := buffer.read(1 << 16):
                    answers.write(data)


if __name__ == "__main__":
    main()
