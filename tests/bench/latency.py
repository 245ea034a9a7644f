"""How long a line is under way: `python3 -m tests.bench.latency`.

One line of 64 bytes every 10 ms goes into a tool and comes out again; quoted are the median and
the 99th percentile of the time between the write and the moment when the reader has it. Contenders
take turns, round after round. The ratio is of the medians: above 1 means that zpipe takes longer.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

LINES = int(os.environ.get("LINES_PER_ROUND", "200"))
ROUNDS = int(os.environ.get("ROUNDS", "5"))
PAUSE = 0.01
ZPIPE = shutil.which("zpipe", path=os.path.dirname(sys.executable)) or "zpipe"


def delays(command: list[str]) -> list[float]:
    """Return the seconds that each line was under way."""
    found = []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as tool:
        assert tool.stdin is not None
        assert tool.stdout is not None
        into, out = tool.stdin.fileno(), tool.stdout.fileno()
        line = b"x" * 63 + b"\n"
        for _ in range(LINES + 20):
            time.sleep(PAUSE)
            began = time.perf_counter()
            os.write(into, line)
            got = 0
            while got < len(line):
                got += len(os.read(out, 4096))
            found.append(time.perf_counter() - began)
        tool.stdin.close()
    return found[20:]


def compare(title: str, contenders: dict[str, list[str]]) -> None:
    """Print a row for each contender, and how zpipe's median stands to the peer's."""
    rows: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(ROUNDS):
        for name, command in contenders.items():
            rows[name] += delays(command)
    print(f"== {title}")
    medians = {name: statistics.median(row) for name, row in rows.items()}
    for name, row in rows.items():
        late = statistics.quantiles(row, n=100)[98]
        ratio = medians["zpipe"] / medians[name]
        print(
            f"  {name:8} median {medians[name] * 1e6:7.1f} us   99 % {late * 1e6:7.1f} us"
            f"   zpipe / {name} {ratio:.2f}",
            flush=True,
        )


def main() -> None:
    """Compare cat with cat, and tee with tee."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        one, two = os.path.join(folder, "one"), os.path.join(folder, "two")
        compare("cat, pipe to pipe", {"zpipe": [ZPIPE, "cat"], "cat": ["cat"]})
        compare("tee to a file", {"zpipe": [ZPIPE, "tee", one], "tee": ["tee", two]})
        files = [os.path.join(folder, f"more{number}") for number in range(4)]
        compare("tee to four files", {"zpipe": [ZPIPE, "tee", *files], "tee": ["tee", *files]})


if __name__ == "__main__":
    main()
