"""Recipes under way: with parameters, in a folder, beside the test, as it wants them."""

from __future__ import annotations

import re
import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.machine import LONGEST, ROOT, started, until, zpipe
from tests.proxy.proxying import connected, received, serving

if TYPE_CHECKING:
    import socket
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from tests.proxy.proxying import Server


def words(name: str, given: dict[str, object]) -> list[str]:
    """Return the words that run a recipe of ours with these parameters."""
    recipe = str(ROOT / "recipes" / f"{name}.yaml")
    params = [word for key, value in given.items() for word in ("-p", f"{key}={value}")]
    return ["run", recipe, "--progress=never", *params]


def run(
    name: str, folder: Path, data: bytes | None = None, **given: object
) -> subprocess.CompletedProcess[bytes]:
    """Run a recipe to its end, in a folder; `data` is its standard input."""
    return zpipe(*words(name, given), data=data, cwd=folder)


class Running:
    """A recipe that runs beside the test."""

    def __init__(self, process: subprocess.Popen[bytes]):
        self.process = process
        self._lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._lines.append(line.decode())

    @property
    def told(self) -> str:
        """Return what it has told by now."""
        return "".join(self._lines)

    def place(self) -> str:
        """Wait until it tells where it listens, and return that; of several, the first."""
        pattern = re.compile(r"(?:listening on|proxy \w+:) (\S+:\S+?),?(?: |\n)")

        def found() -> re.Match[str] | None:
            ended = self.process.poll() is not None
            match = pattern.search(self.told)
            if ended and match is None:
                pytest.fail(f"it has ended by {self.process.returncode}: {self.told}")
            return match

        until(found, "it listens")
        match = found()
        assert match is not None
        return match[1]

    def connect(self) -> socket.socket:
        """Connect to where it listens."""
        return connected(self.place())

    def ends(self) -> int:
        """Wait for its end, and return its status."""
        status = self.process.wait(LONGEST)
        self._reader.join()
        return status

    def stop(self) -> None:
        """Ask it to end; it must do so without a complaint."""
        self.process.send_signal(signal.SIGTERM)
        status = self.ends()
        assert status in (0, -signal.SIGTERM), (status, self.told)


@contextmanager
def running(name: str, folder: Path, **given: object) -> Iterator[Running]:
    """Run a recipe beside the test; it is killed at the end of the block if it still runs."""
    with started(*words(name, given), cwd=folder) as process:
        recipe = Running(process)
        try:
            yield recipe
        finally:
            process.kill()
            recipe.ends()


@contextmanager
def receiving(where: str = "127.0.0.1:0") -> Iterator[tuple[Server, list[bytes]]]:
    """Serve connections by reading them to the end; yield the server, and what each had to say."""
    had: list[bytes] = []
    with serving(lambda end: had.append(received(end)), where) as server:
        yield server, had
