"""What the tests ask of the machine: programs, mounts, processes. Nothing here mocks the kernel.

A test that needs what the machine does not have is skipped with a reason; in CI (`CI=true`) a
missing program or privilege fails instead, since CI installs what it needs.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import traceback
from contextlib import contextmanager
from functools import cache, lru_cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, NoReturn

import pytest

from tests.warm import Warm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

ZPIPE = [sys.executable, "-m", "zpipe"]
ROOT = Path(__file__).resolve().parent.parent
IN_CI = os.environ.get("CI") == "true"
LONGEST = 60  # seconds that any one command of a test may take

_CLONE_NEWNET = 0x40000000  # unshare(2)
_SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8913, 0x8914  # netdevice(7)
_IFF_UP = 0x1
_IFREQ = "16sH14x"


def missing(reason: str) -> NoReturn:
    """Skip with a spoken reason, or fail where everything must be there."""
    if IN_CI:
        pytest.fail(f"CI lacks what this test needs: {reason}")
    pytest.skip(reason)


def need(program: str) -> str:
    """Return the path of a program, or skip."""
    found = shutil.which(program)
    return found if found is not None else missing(f"{program} is not installed")


def need_root() -> None:
    """Skip unless the tests run as root."""
    if os.geteuid() != 0:
        missing("only root can do this")


def own_network() -> None:
    """Give this process, and all that it starts, a network with nothing but a loopback.

    Ports are given out by chance: what one test has just left, or has for IPv6 only, another one
    that runs beside it may be given before the first takes it. Without the right to do so they
    go on sharing the network of the host.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET):
        if ctypes.get_errno() not in (errno.EPERM, errno.EINVAL, errno.ENOSYS):
            raise OSError(ctypes.get_errno(), "unshare")
        return
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
        asked = fcntl.ioctl(end, _SIOCGIFFLAGS, struct.pack(_IFREQ, b"lo", 0))
        name, flags = struct.unpack(_IFREQ, asked)
        fcntl.ioctl(end, _SIOCSIFFLAGS, struct.pack(_IFREQ, name, flags | _IFF_UP))


def only_port(number: int) -> list[str]:
    """Return what runs a command in a network of its own, where clients get this port or none."""
    need_root()
    prepare = (
        f"{need('ip')} link set lo up"
        f" && echo {number} {number} >/proc/sys/net/ipv4/ip_local_port_range"
        ' && exec "$@"'
    )
    words = [need("unshare"), "--net", "sh", "-c", prepare, "-"]
    tried = subprocess.run([*words, "true"], capture_output=True, check=False)
    if tried.returncode:
        missing(f"no network of our own: {tried.stderr.decode().strip()}")
    return words


def environment(**more: str) -> dict[str, str]:
    """Return an environment in which `python -m zpipe` finds this checkout, from any folder."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8", **more}


def zpipe(
    *words: str | Path,
    stdin: int | IO[bytes] | None = subprocess.DEVNULL,
    data: bytes | None = None,
    stdout: int | IO[bytes] = subprocess.PIPE,
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
    before: Sequence[str] = (),
    pass_fds: Sequence[int] = (),
) -> subprocess.CompletedProcess[bytes]:
    """Run zpipe to its end; `before` is a command that runs it, such as strace."""
    if not before and env is None and (data is not None or stdin is not None):
        command = [str(word) for word in words]
        done = _run_warm(command, stdin, data, stdout, cwd, pass_fds)
        if done is not None:
            return done
    return subprocess.run(
        [*before, *ZPIPE, *map(str, words)],
        stdin=None if data is not None else stdin,
        input=data,
        stdout=stdout,
        stderr=subprocess.PIPE,
        cwd=cwd,
        env=environment() if env is None else env,
        timeout=LONGEST,
        pass_fds=pass_fds,
        check=False,
    )


_warm: list[Warm] = []


@contextmanager
def warmed_up() -> Iterator[None]:
    """Have a process ready from which runs of zpipe fork, unless they are all to be cold ones."""
    if os.environ.get("ZPIPE_TESTS_COLD"):
        yield
        return
    _warm.append(Warm(environment()))
    try:
        yield
    finally:
        _warm.pop().close()


def _run_warm(
    words: Sequence[str],
    stdin: int | IO[bytes] | None,
    data: bytes | None,
    stdout: int | IO[bytes],
    cwd: Path | None,
    pass_fds: Sequence[int],
) -> subprocess.CompletedProcess[bytes] | None:
    """Run zpipe from what is ready; None where that would not be the same."""
    around = environment()
    if not _warm or not _warm[0].serves(words, around):
        return None
    with open(os.devnull, "r+b", buffering=0) as null:

        def number(of: int | IO[bytes] | None) -> int:
            if of is None or of == subprocess.DEVNULL:
                return null.fileno()
            return of if isinstance(of, int) else of.fileno()

        return _warm[0].run(
            words,
            stdin=number(stdin),
            stdout=None if stdout == subprocess.PIPE else number(stdout),
            data=data,
            cwd=cwd,
            environment=around,
            pass_fds=pass_fds,
            timeout=LONGEST,
        )


@contextmanager
def started(
    *words: str | Path,
    stdin: int | IO[bytes] | None = subprocess.DEVNULL,
    stdout: int | IO[bytes] = subprocess.PIPE,
    before: Sequence[str] = (),
    pass_fds: Sequence[int] = (),
    cwd: Path | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run zpipe beside the test; it is killed at the end if it still runs."""
    process = subprocess.Popen(
        [*before, *ZPIPE, *map(str, words)],
        stdin=stdin,
        stdout=stdout,
        stderr=subprocess.PIPE,
        env=environment(),
        pass_fds=pass_fds,
        cwd=cwd,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()


@lru_cache(maxsize=16)
def content(size: int, seed: int = 1) -> bytes:
    """Return `size` bytes without a short period, the same for the same seed."""
    import random

    return random.Random(seed).randbytes(size)


def leftovers(folder: Path) -> list[str]:
    """Return the temporary names that a failed copy has left in a folder."""
    return [name for name in os.listdir(folder) if ".zpipe-" in name]


@contextmanager
def mounted(kind: str, place: Path, size: int) -> Iterator[Path]:
    """Mount a fresh tmpfs, or a btrfs, xfs or ext4 in a file, of `size` bytes."""
    need_root()
    place.mkdir(parents=True, exist_ok=True)
    if kind == "tmpfs":
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    else:
        image = place.parent / f"{place.name}.img"
        with open(image, "wb") as file:
            file.truncate(size)
        subprocess.run([need(f"mkfs.{kind}"), "-q", str(image)], check=True, capture_output=True)
        command = ["mount", "-o", "loop", str(image), str(place)]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        missing(f"mount {kind}: {done.stderr.decode().strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True, capture_output=True)


def as_stranger(folder: Path, work: Callable[[], None]) -> None:
    """Do `work` in a forked child, in `folder`, as a user without privileges; fail as it fails.

    The user has a number of its own, so that no quota is shared with others. The folders above
    may be closed to it: `work` uses names relative to `folder`, and what it needs is imported
    before.
    """
    need_root()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.chdir(folder)
            number = 1_000_000 + os.getpid()
            os.setgroups([])
            os.setgid(number)
            os.setuid(number)
            work()
        except BaseException:
            os.write(writer, traceback.format_exc()[-60000:].encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader) as told:
        failure = told.read()
    _, status = os.waitpid(child, 0)
    assert not failure, failure
    assert status == 0, f"the child ended with status {status}"


def strace(*options: str) -> list[str]:
    """Return the words that run a command under strace, quietly, or skip where it cannot trace.

    With a `trace=` among the options, calls that it does not name cost next to nothing; but a
    signal cannot be sent from where the kernel stops a process for that.
    """
    quickly = [] if any(":signal=" in option for option in options) else ["--seccomp-bpf"]
    return [_strace(), "-f", *quickly, "-qq", *options]


@cache
def _strace() -> str:
    program = need("strace")
    tried = subprocess.run(
        [program, "-f", "--seccomp-bpf", "-e", "trace=none", "-o", "/dev/null", "true"],
        capture_output=True,
        check=False,
    )
    if tried.returncode:
        missing(f"strace cannot trace: {tried.stderr.decode().strip()}")
    return program


@contextmanager
def loop_device(image: Path) -> Iterator[Path]:
    """Make a block device of a file."""
    need_root()
    command = [need("losetup"), "--find", "--show", str(image)]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        missing(f"losetup: {done.stderr.decode().strip()}")
    device = Path(done.stdout.decode().strip())
    try:
        yield device
    finally:
        subprocess.run(["losetup", "--detach", str(device)], check=True)


def in_bash(commands: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run what a page of the manual shows, with this zpipe under its name; it goes well."""
    script = f'set -eo pipefail\nzpipe() {{ "{ZPIPE[0]}" {" ".join(ZPIPE[1:])} "$@"; }}\n{commands}'
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=cwd,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LONGEST,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


def until(condition: Callable[[], object], what: str) -> None:
    """Ask again and again until something holds; fail when it does not come true."""
    end = time.monotonic() + LONGEST / 2
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"in vain waited until {what}")
        select.select([], [], [], 0.002)


def until_listening_to_signals(process: subprocess.Popen[bytes]) -> None:
    """Wait until a zpipe has its handlers in place (SIGUSR1 is the last of them)."""

    def caught() -> bool:
        assert process.poll() is None, f"ended already, by {process.returncode}"
        with open(f"/proc/{process.pid}/status") as status:
            masks = [line.split()[1] for line in status if line.startswith("SigCgt:")]
        return bool(int(masks[0], 16) >> (signal.SIGUSR1 - 1) & 1)

    until(caught, "zpipe listens to signals")


def nobody() -> list[str]:
    """Return the words that run a command as a user without privileges, or skip.

    The folder to work in is given as cwd: the folders above it may be closed to that user.
    """
    need_root()
    words = (need("setpriv"), "--reuid=65534", "--regid=65534", "--clear-groups")
    if not _runs_zpipe(words):
        missing("a user without privileges cannot read this checkout or its Python")
    return list(words)


@cache
def _runs_zpipe(words: tuple[str, ...]) -> bool:
    tried = subprocess.run(
        [*words, sys.executable, "-c", "import zpipe.cli, click"],
        cwd="/",
        env=environment(),
        capture_output=True,
        check=False,
    )
    return tried.returncode == 0
