"""Executors for `--executor MODULE:FACTORY`, well-behaved ones and others.

What a factory needs to know it finds in the environment: it is called without arguments.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

from zpipe.tree.tasks import Chunk
from zpipe.values import replace

if TYPE_CHECKING:
    from collections.abc import Callable

    from zpipe.tree.executors import Proof

_CLONE_NEWNS = 0x20000
_FILE_LIMIT = 1 << 20  # bytes: the first write beyond is the end of a mortal worker

HIDDEN = "HIDDEN_FROM_WORKERS"  # in the environment: a directory
GATE = "GATE_OF_TASKS"  # in the environment: a FIFO

something = 3


def threads() -> Executor:
    return ThreadPoolExecutor(2)


def forked() -> Executor:
    return ProcessPoolExecutor(2, mp_context=get_context("fork"))


def spawned() -> Executor:
    """Its workers load everything anew: tasks must be values that can be pickled."""
    return ProcessPoolExecutor(2, mp_context=get_context("spawn"))


class Home:
    """A factory may be an attribute of something."""

    @staticmethod
    def threads() -> Executor:
        return ThreadPoolExecutor(1)


def nothing() -> None:
    """No executor comes of this."""


def unlucky() -> Executor:
    raise RuntimeError("no luck\nat all")


class Throwing(ThreadPoolExecutor):
    """Fails at the second range of a big file."""

    def submit(self, call: Callable[..., Any], /, *words: Any, **named: Any) -> Future[Any]:
        def throw() -> None:
            raise RuntimeError("thrown\nfor the test")

        if _is_second_chunk(words):
            return super().submit(throw)
        return super().submit(call, *words, **named)


def throwing() -> Executor:
    return Throwing(2)


class Mortal(ProcessPoolExecutor):
    """Whoever gets the second range of a big file is killed."""

    def submit(self, call: Callable[..., Any], /, *words: Any, **named: Any) -> Future[Any]:
        if _is_second_chunk(words):
            return super().submit(_die)
        return super().submit(call, *words, **named)


def mortal() -> Executor:
    return Mortal(2, mp_context=get_context("fork"))


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _is_second_chunk(words: tuple[Any, ...]) -> bool:
    return any(isinstance(word, Chunk) and word.offset > 0 for word in words)


def short_lived() -> Executor:
    """A worker is killed by the kernel in the middle of a file that is longer than the limit."""
    return ProcessPoolExecutor(2, mp_context=get_context("fork"), initializer=_limit)


def _limit() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_FILE_LIMIT, _FILE_LIMIT))


def elsewhere() -> Executor:
    """Workers in a mount namespace of their own, where something else is mounted on a directory."""
    return ProcessPoolExecutor(1, mp_context=get_context("fork"), initializer=_leave)


def _leave() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), "unshare")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", os.environ[HIDDEN]], check=True)


class Misled(ThreadPoolExecutor):
    """Its workers look for another secret than was put there, as in another directory."""

    def submit(self, call: Callable[..., Any], /, *words: Any, **named: Any) -> Future[Any]:
        wishes, task, proof = words
        return super().submit(call, wishes, task, changed(proof), **named)


def changed(proof: Proof) -> Proof:
    return replace(proof, secret="0" * 32)


def misled() -> Executor:
    return Misled(1)


class Gated(ThreadPoolExecutor):
    """A task begins when somebody has opened the FIFO for writing."""

    def submit(self, call: Callable[..., Any], /, *words: Any, **named: Any) -> Future[Any]:
        def wait() -> Any:
            with open(os.environ[GATE], "rb"):
                return call(*words, **named)

        return super().submit(wait)


def gated() -> Executor:
    return Gated(1)
