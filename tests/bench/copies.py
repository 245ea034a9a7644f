"""`zpipe cp` beside what it replaces: `python3 -m tests.bench.copies [FOLDER]`.

Contenders run in turn (A B C, A B C, ...), so that a drift of the machine hits all alike. Quoted
are the medians over the rounds, and the median of the ratio to zpipe in the same round: above 1
means that the other one is slower.
"""

from __future__ import annotations

import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ROUNDS = int(os.environ.get("ROUNDS", "7"))
SIZE = int(os.environ.get("SIZE_MIB", "1024")) << 20
ZPIPE = shutil.which("zpipe", path=os.path.dirname(sys.executable)) or "zpipe"


def run(*command: str | Path) -> tuple[float, float]:
    """Run to the end; return wall seconds and CPU seconds."""
    began = time.perf_counter()
    words = [str(word) for word in command]
    pid = os.posix_spawnp(words[0], words, os.environ)
    _, status, used = os.wait4(pid, 0)
    wall = time.perf_counter() - began
    if status:
        raise SystemExit(f"{' '.join(words)}: status {status}")
    return wall, used.ru_utime + used.ru_stime


def compare(title: str, contenders: dict[str, list[str | Path]], clean: Callable[[], None]) -> None:
    """Print a row for each contender, zpipe first."""
    rows: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for turn in range(ROUNDS + 1):
        for name, command in contenders.items():
            clean()
            measured = run(*command)
            if turn:
                rows[name].append(measured)
    print(f"== {title}")
    for name, row in rows.items():
        wall, cpu = (statistics.median(values) for values in zip(*row, strict=True))
        ratios = [other[0] / own[0] for other, own in zip(row, rows["zpipe"], strict=True)]
        print(
            f"  {name:12} {wall * 1000:8.1f} ms  cpu {cpu * 1000:8.1f} ms"
            f"  x{statistics.median(ratios):5.2f}",
            flush=True,
        )


def fill(path: Path, size: int) -> Path:
    """Write incompressible bytes."""
    block = os.urandom(1 << 20)
    with open(path, "wb") as file:
        for number in range(max(1, size >> 20)):
            file.write(number.to_bytes(8, "big") + block[8 : min(size, 1 << 20)])
    return path


def discard(listener: socket.socket) -> None:
    """Take connections one after the other, and splice what comes to /dev/null."""
    null = os.open("/dev/null", os.O_WRONLY)
    while True:
        end, _ = listener.accept()
        reader, writer = os.pipe()
        with end:
            while count := os.splice(end.fileno(), writer, 1 << 20):
                while count:
                    count -= os.splice(reader, null, count)
        os.close(reader)
        os.close(writer)


def files(title: str, folder: Path) -> None:
    """One big cached file to a new name."""
    source, target = fill(folder / "source", SIZE), folder / "target"
    contenders: dict[str, list[str | Path]] = {
        "zpipe": [ZPIPE, "cp", source, target],
        "cp": ["cp", source, target],
        "dd 256K": ["dd", f"if={source}", f"of={target}", "bs=256K", "status=none"],
    }

    def clean() -> None:
        target.unlink(missing_ok=True)
        if not str(folder).startswith("/dev/shm"):
            os.sync()

    compare(title, contenders, clean)
    target.unlink(missing_ok=True)


def main() -> None:
    """Run every comparison in a folder of its own, which is removed at the end."""
    place = sys.argv[1] if len(sys.argv) > 1 else None
    with (
        tempfile.TemporaryDirectory(dir=place) as disk,
        tempfile.TemporaryDirectory(dir="/dev/shm") as memory,
        socket.create_server(("127.0.0.1", 0)) as listener,
    ):
        tiny, target = fill(Path(disk, "tiny"), 100), Path(disk, "copy")
        compare(
            "one tiny file, whole process",
            {
                "zpipe": [ZPIPE, "cp", tiny, target],
                "python pass": [sys.executable, "-c", "pass"],
                "cp": ["cp", tiny, target],
            },
            lambda: None,
        )
        files(f"{SIZE >> 20} MiB, tmpfs", Path(memory))
        files(f"{SIZE >> 20} MiB, {place or tempfile.gettempdir()}", Path(disk))
        threading.Thread(target=discard, args=(listener,), daemon=True).start()
        port = listener.getsockname()[1]
        source = Path(memory, "source")
        contenders: dict[str, list[str | Path]] = {
            "zpipe": [ZPIPE, "cp", source, f"tcp://127.0.0.1:{port}"]
        }
        if shutil.which("socat"):
            contenders["socat"] = [
                "socat",
                "-u",
                "-b262144",
                f"FILE:{source}",
                f"TCP:127.0.0.1:{port}",
            ]
        control = Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()
        compare(f"{SIZE >> 20} MiB to TCP on loopback ({control})", contenders, lambda: None)
        pipelines(source)


def pipelines(source: Path) -> None:
    """Compare what stands in pipelines; on both sides is `pv`, which splices and starts at once."""
    size, ours = f"{SIZE >> 20} MiB", f"'{ZPIPE}'"
    tees = {"zpipe": f"{ours} tee", "tee": "tee"}
    if shutil.which("pv"):
        into, out_of = "pv -q >/dev/null", 'pv -q "$0"'
        filters = {"zpipe": f"{ours} cat", "cat": "cat", "pv": "pv -q"}
        shell(f"{size} from a file to a pipe", filters, f'{{}} "$0" | {into}', source)
        shell(f"{size} from pipe to pipe", filters, f"{out_of} | {{}} | {into}", source)
        outputs = " ".join(4 * [f">({into})"])
        shell(f"{size} to 5 pipes", tees, f"{out_of} | {{}} {outputs} | {into}", source)
    files = [source.with_name(f"output {number}") for number in range(4)]
    shell(f"{size} to 4 files, tmpfs", tees, '{} "$1" "$2" "$3" >"$4" <"$0"', source, *files)
    remove(files)


def shell(title: str, programs: dict[str, str], line: str, source: Path, *outputs: Path) -> None:
    """Compare programs in the place of `{}` in a line of bash; `outputs` are new each time."""
    contenders: dict[str, list[str | Path]] = {
        name: ["bash", "-c", line.format(words), source, *outputs]
        for name, words in programs.items()
    }
    compare(title, contenders, lambda: remove(outputs))


def remove(paths: Sequence[Path]) -> None:
    """Remove what there is of some files."""
    for path in paths:
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    if shutil.which(ZPIPE) is None:
        raise SystemExit("zpipe is not installed beside this interpreter")
    subprocess.run([ZPIPE, "--version"], check=True)
    main()
