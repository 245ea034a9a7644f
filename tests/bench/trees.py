"""`zpipe cp` of trees beside what it replaces: `python3 -m tests.bench.trees [FOLDER] [NAME...]`.

Names: small, verify, four, memory. Contenders run in turn, as in `tests.bench.copies`. `memory` has
no contender: it prints the largest resident set of the processes that copy a tree of FILES entries.
"""

from __future__ import annotations

import os
import resource
import shlex
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.copies import ZPIPE, compare, run

if TYPE_CHECKING:
    from collections.abc import Callable

FILES = int(os.environ.get("FILES", "1000000"))
BIG = int(os.environ.get("BIG_MIB", "4096")) << 20


def clean(*targets: Path) -> Callable[[], None]:
    """Return what takes the targets away, and waits until the disk is idle."""

    def away() -> None:
        for target in targets:
            shutil.rmtree(target, ignore_errors=True)
            target.unlink(missing_ok=True)
        os.sync()

    return away


def shell(*commands: list[str | Path]) -> list[str | Path]:
    """Return a command that runs others, one after the other."""
    return ["sh", "-ec", "; ".join(shlex.join(map(str, command)) for command in commands)]


def big(path: Path) -> Path:
    """Make a file of bytes that compress badly, in the page cache."""
    if not path.exists():
        block = os.urandom(1 << 20)
        with path.open("wb") as file:
            for number in range(BIG >> 20):
                file.write(number.to_bytes(8, "big") + block[8:])
    return path


def small(folder: Path) -> None:
    """20,000 files of up to 9 KB in 200 directories."""
    source, target = folder / "tree", folder / "tree copy"
    for number in range(200):
        below = source / f"{number % 20}" / f"{number}"
        below.mkdir(parents=True)
        for each in range(100):
            (below / f"{each}").write_bytes(os.urandom(each * 37 % 9000))
    for letters in ("-r", "-a"):
        compare(
            f"cp {letters}, 20,000 small files",
            {
                "zpipe": [ZPIPE, "cp", letters, source, target],
                "cp": ["cp", letters, source, target],
            },
            clean(target),
        )


def verify(folder: Path) -> None:
    """One big file, copied and compared. zpipe compares what is on the disk, cmp what is cached."""
    source, target = big(folder / "big"), folder / "big copy"
    compare(
        "one big file, verified",
        {
            "zpipe": [ZPIPE, "cp", "--verify", source, target],
            "cp; cmp": shell(["cp", source, target], ["cmp", source, target]),
            "cp; sync; cmp": shell(
                ["cp", source, target], ["sync", target], ["cmp", source, target]
            ),
        },
        clean(target),
    )


def four(folder: Path) -> None:
    """One source to four targets."""
    source = big(folder / "big")
    targets = [folder / f"copy {number}" for number in range(4)]
    copies: list[list[str | Path]] = [["cp", source, to] for to in targets]
    compare(
        "one source to four targets",
        {
            "zpipe": [ZPIPE, "cp", source, *(word for to in targets for word in ("--to", to))],
            "four cp": shell(*copies),
        },
        clean(*targets),
    )


def memory(folder: Path) -> None:
    """A tree of a million empty files."""
    source, target = folder / "many", folder / "many copy"
    for number in range(FILES):
        if number % 1000 == 0:
            below = source / str(number // 1000)
            below.mkdir(parents=True)
        os.close(os.open(below / str(number), os.O_CREAT | os.O_WRONLY))
    wall, cpu = run(ZPIPE, "cp", "-r", source, target)
    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"== {FILES} entries: {wall:.1f} s, cpu {cpu:.1f} s, at most {largest:.0f} MiB resident")


def main() -> None:
    """Run what is asked for in a folder that is removed afterwards."""
    words = sys.argv[1:]
    known = {"small": small, "verify": verify, "four": four, "memory": memory}
    names = [word for word in words if word in known] or list(known)
    above = next((word for word in words if word not in known), None)
    folder = Path(tempfile.mkdtemp(dir=above))
    try:
        for name in names:
            known[name](folder)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
