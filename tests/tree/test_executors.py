"""Trees copied by whatever runs tasks: threads, pools, Dask, MPI; workers that die or are blind."""

from __future__ import annotations

import filecmp
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest

from tests.commands.shell import refused, went_well
from tests.machine import (
    LONGEST,
    ROOT,
    ZPIPE,
    content,
    environment,
    missing,
    need,
    need_root,
    started,
    until,
    until_listening_to_signals,
    zpipe,
)
from tests.tree.factories import GATE, HIDDEN
from zpipe.errors import UsageError
from zpipe.tree.run import copy_tree

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FACTORIES = "tests.tree.factories"
BIG = 300 << 20  # bytes, most of them holes: is divided
BLOCK = 4096
FEW = 40  # files in each directory
FOLDERS = 8


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree `s` in a folder; the target is to be `d`."""
    plant(tmp_path / "s")
    return tmp_path


def plant(root: Path) -> None:
    """Make small files in some directories, and a big one of holes and some data."""
    for place in range(FOLDERS):
        folder = root / f"{place}" / "below"
        folder.mkdir(parents=True)
        for number in range(FEW):
            (folder / f"{number}").write_bytes(content(number * 100, seed=number))
    (root / os.fsdecode(b"od\xffd\n")).write_bytes(b"odd")
    with open(root / "big", "wb") as file:
        for place in (0, 64 << 20, 150 << 20):
            file.seek(place)
            file.write(content(70_000, seed=place))
        file.truncate(BIG)


def same(first: Path, second: Path) -> bool:
    """Whether two trees hold the same names and bytes; temporary names are names, too."""
    names, others = listed(first), listed(second)
    if names != others:
        return False
    paths = [name for name in names if (first / name).is_file() and name != "big"]
    _, different, lost = filecmp.cmpfiles(first, second, paths, shallow=False)
    if different or lost:
        return False
    if "big" not in names:
        return True
    sizes = (first / "big").stat().st_size, (second / "big").stat().st_size
    return sizes[0] == sizes[1] and blocks(first / "big") == blocks(second / "big")


def blocks(path: Path) -> dict[int, bytes]:
    """Return the blocks of a file that are not zeros: hundreds of MiB of holes are not read."""
    found = {}
    with open(path, "rb", buffering=0) as file:
        place, end = 0, path.stat().st_size
        while place < end:
            try:
                place = os.lseek(file.fileno(), place, os.SEEK_DATA)
            except OSError:  # ENXIO: only a hole is left
                break
            hole = os.lseek(file.fileno(), place, os.SEEK_HOLE)
            while place < hole:
                data = os.pread(file.fileno(), BLOCK - place % BLOCK, place)
                if data.strip(b"\0"):
                    found[place] = data
                place += len(data)
    return found


def listed(root: Path) -> list[str]:
    return sorted(os.path.relpath(os.path.join(at, name), root) for at, name in below(root))


def below(root: Path) -> Iterator[tuple[str, str]]:
    for at, folders, files in os.walk(root):
        for name in (*folders, *files):
            yield at, name


def files_in(root: Path) -> list[str]:
    """Return the files in a folder and below: regular ones, with whatever names."""
    return [name for at, name in below(root) if os.path.isfile(os.path.join(at, name))]


def ended(done: subprocess.CompletedProcess[bytes]) -> dict[str, Any]:
    """Return the `end` record of a run with --json."""
    found = [json.loads(line) for line in done.stderr.splitlines()]
    records = [record for record in found if record["type"] == "end"]
    assert len(records) == 1, done.stderr
    return dict(records[0])


def cp(*words: str | Path, executor: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    return zpipe("cp", "-r", "--executor", executor, *words, **options)


# Executors that do what they are asked


@pytest.mark.parametrize(
    "executor",
    [
        "threads",
        "processes",
        *(f"{FACTORIES}:{name}" for name in ("threads", "forked", "spawned", "Home.threads")),
    ],
)
def test_each_executor_copies_small_files_and_big_ones_in_ranges(tree: Path, executor: str) -> None:
    done = cp("--json", "s", "d", executor=executor, cwd=tree)
    assert (done.returncode, done.stdout) == (0, b"")
    assert same(tree / "s", tree / "d")
    assert (tree / "d/big").stat().st_blocks * 512 < 10 << 20  # its holes are holes
    end = ended(done)
    assert (end["files"], end["directories"]) == (FOLDERS * FEW + 2, 2 * FOLDERS + 1)
    assert end["executor"] == executor
    assert sorted(os.listdir(tree)) == ["d", "s"]


def test_explain_tells_who_did_the_work(tree: Path) -> None:
    done = cp("-j", "3", "--explain", "s", "d", executor="threads", cwd=tree)
    assert done.returncode == 0
    assert b"workers   by 3 threads\n" in done.stderr


def test_many_operands_are_proven_to_workers_elsewhere(tree: Path) -> None:
    """Workers of a user's own are shown paths that hold in any directory."""
    (tree / "d").mkdir()
    executor = f"{FACTORIES}:spawned"
    went_well(cp("s/0", "./s/1", tree / "s/big", "d", executor=executor, cwd=tree))
    assert sorted(os.listdir(tree / "d")) == ["0", "1", "big"]
    assert same(tree / "s/0", tree / "d/0")


# Names that are none


@pytest.mark.parametrize(
    "name",
    [
        *("", ":", "nosuch", "threads:", ":x", "MPI", "dask", "dask:", f"{FACTORIES}:"),
        *("nosuch:x", "x:y:z", ".x:y", "tests..x:y", f"{FACTORIES}:nosuch", f"{FACTORIES}:a b"),
        *(f"{FACTORIES}:something", f"{FACTORIES}:nothing"),
        *("broken_at_import:x", "no_python:x", "n\nl:x"),
    ],
)
def test_what_is_no_executor_is_refused(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "broken_at_import.py").write_text("raise RuntimeError('two\\nlines')\n")
    (tmp_path / "no_python.py").write_text("def x(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match=r"^--executor "):
        copy_tree(str(tmp_path / "s"), str(tmp_path / "d"), executor=name)
    assert sorted(set(os.listdir(tmp_path)) - {"__pycache__"}) == [
        "broken_at_import.py",
        "no_python.py",
        "s",
    ]


@pytest.mark.parametrize("name", ["nosuch", ".x:y", "n\nl:x"])
def test_what_is_no_executor_is_a_usage_error_of_the_command(tmp_path: Path, name: str) -> None:
    (tmp_path / "s").mkdir()
    refused(cp("s", "d", executor=name, cwd=tmp_path), 2, "--executor ")
    assert os.listdir(tmp_path) == ["s"]


def test_a_factory_that_fails_is_told_in_one_line(tree: Path) -> None:
    done = cp("s", "d", executor=f"{FACTORIES}:unlucky", cwd=tree)
    refused(done, 1, "--executor ", "RuntimeError: no luck")
    assert os.listdir(tree) == ["s"]


@pytest.mark.parametrize(
    ("module", "name", "extra"),
    [("distributed", "dask:tcp://127.0.0.1:1", "dask"), ("mpi4py", "mpi", "mpi")],
)
def test_what_is_not_installed_says_how_it_is_got(
    tmp_path: Path, module: str, name: str, extra: str
) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / f"{module}.py").write_text("raise ImportError('is not here')\n")
    env = environment(PYTHONPATH=f"{tmp_path}:{ROOT}")
    done = cp("s", "d", executor=name, cwd=tmp_path, env=env)
    refused(done, 2, f"--executor {name}: is not installed: pip install 'zpipe[{extra}]'")


# Workers that fail


def test_a_range_that_raises_fails_its_file_alone(tree: Path) -> None:
    done = cp("s", "d", executor=f"{FACTORIES}:throwing", cwd=tree)
    assert done.returncode == 1
    first, *others = done.stderr.decode().splitlines()
    assert first.endswith(f"s/big: copy: --executor {FACTORIES}:throwing: RuntimeError: thrown")
    assert len(others) == 1 and "1 file was not copied" in others[0]
    (tree / "s/big").unlink()
    assert same(tree / "s", tree / "d")


def test_a_killed_worker_of_a_pool_fails_the_file_in_clear_lines(tree: Path) -> None:
    """The pool of the standard library is of no use any more; what was not copied is told."""
    done = cp("s", "d", executor=f"{FACTORIES}:mortal", cwd=tree)
    assert done.returncode == 1
    lines = done.stderr.decode().splitlines()
    assert all(line.startswith("zpipe: ") for line in lines), lines
    assert any("s/big: copy: " in line and "BrokenProcessPool" in line for line in lines), lines
    assert not (tree / "d/big").exists()
    there = listed(tree / "d")
    assert not [name for name in there if ".zpipe-" in name]
    files = [name for name in there if (tree / "d" / name).is_file()]
    _, different, lost = filecmp.cmpfiles(tree / "s", tree / "d", files, shallow=False)
    assert not different and not lost


def test_a_worker_killed_within_a_file_leaves_nothing_of_it(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s/long").write_bytes(content(3 << 20))
    done = cp("s", "d", executor=f"{FACTORIES}:short_lived", cwd=tmp_path)
    assert done.returncode == 1
    assert b"s/long: copy: " in done.stderr
    assert b"Traceback" not in done.stderr
    assert files_in(tmp_path / "d") == []


@pytest.mark.parametrize("hidden", ["s", "d"])
def test_workers_who_do_not_see_a_root_copy_nothing(tree: Path, hidden: str) -> None:
    """They have another filesystem mounted there: without a proof they would fill that one."""
    need_root()
    (tree / "d").mkdir()
    env = environment(**{HIDDEN: str(tree / hidden)})
    executor = f"{FACTORIES}:elsewhere"
    refused(cp("s", "d", executor=executor, cwd=tree, env=env), 1, "the worker on ", f"/{hidden}: ")
    assert files_in(tree / "d") == []
    assert sorted(os.listdir(tree)) == ["d", "s"]


def test_workers_who_find_another_proof_copy_nothing(tree: Path) -> None:
    done = cp("s", "d", executor=f"{FACTORIES}:misled", cwd=tree)
    refused(done, 1, "the worker on ", "is another directory there")
    assert not (tree / "d").exists() or files_in(tree / "d") == []
    assert set(os.listdir(tree)) <= {"d", "s"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_an_executor_too(tree: Path, number: int) -> None:
    os.mkfifo(tree / "gate")
    words = ["cp", "-r", "--executor", f"{FACTORIES}:gated", "s", "d"]
    before = ["env", f"{GATE}={tree / 'gate'}"]
    with started(*words, cwd=tree, before=before) as process:
        until_listening_to_signals(process)
        # open for writing: the first task has begun
        gate = os.open(tree / "gate", os.O_WRONLY)
        process.send_signal(number)
        os.close(gate)

        def ended_or_released() -> bool:
            """A task that had been begun before the signal must not wait for ever."""
            try:
                os.close(os.open(tree / "gate", os.O_WRONLY | os.O_NONBLOCK))
            except OSError:
                pass  # nobody waits
            return process.poll() is not None

        until(ended_or_released, "it has ended")
        _, said = process.communicate(timeout=LONGEST)
    assert process.returncode == -number
    assert said.startswith(b"zpipe: ended by ") and said.count(b"\n") == 1
    assert not [name for name in files_in(tree) if ".zpipe-" in name]
    (tree / "gate").unlink()


# Dask


CLUSTER = """
import json, sys
from distributed import LocalCluster

if __name__ == "__main__":
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, host="127.0.0.1", dashboard_address=None
    ) as cluster:
        pids = [nanny.pid for nanny in cluster.workers.values()]
        print(json.dumps([cluster.scheduler_address, pids]), flush=True)
        sys.stdin.read()
"""


def need_distributed() -> None:
    if importlib.util.find_spec("distributed") is None:
        missing("distributed is not installed")


@pytest.fixture(scope="module")
def dask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, list[int]]]:
    """A scheduler and two worker processes: the address, and the pids of the workers."""
    need_distributed()
    folder = tmp_path_factory.mktemp("dask")
    (folder / "cluster.py").write_text(CLUSTER)
    process = subprocess.Popen(
        [sys.executable, "cluster.py"],
        cwd=folder,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        address, pids = json.loads(process.stdout.readline())
        yield address, pids
    finally:
        process.stdin.close()
        process.wait(LONGEST)
        process.stdout.close()


def test_two_workers_of_dask_one_of_them_killed_in_the_middle(
    tree: Path, dask: tuple[str, list[int]]
) -> None:
    """One is stopped, so that the run cannot end without it, and killed when the other one has done
    a part: what it had is done by others.
    """
    address, (first, _) = dask
    os.kill(first, signal.SIGSTOP)
    with started("cp", "-r", "--json", "--executor", f"dask:{address}", "s", "d", cwd=tree) as run:
        until((tree / "d").exists, "it has begun")  # Dask alone takes seconds to load
        until(lambda: len(files_in(tree / "d")) > FEW, "a part is there")
        assert run.poll() is None
        os.kill(first, signal.SIGKILL)
        _, said = run.communicate(timeout=LONGEST)
    assert run.returncode == 0, said
    assert same(tree / "s", tree / "d")
    end = json.loads(said.splitlines()[-1])
    assert (end["type"], end["failed"], end["workers"]) == ("end", 0, 2)
    assert sorted(os.listdir(tree)) == ["d", "s"]


@pytest.mark.parametrize("address", ["nonsense", "nosuch://127.0.0.1:1"])
def test_an_address_of_dask_that_is_none_is_a_usage_error(tmp_path: Path, address: str) -> None:
    need_distributed()
    (tmp_path / "s").mkdir()
    refused(cp("s", "d", executor=f"dask:{address}", cwd=tmp_path), 2, f"dask:{address}: ")
    assert os.listdir(tmp_path) == ["s"]


# MPI


@cache
def python_of_mpi() -> str:
    """Return a Python that has mpi4py: the one that runs the tests, or the system's."""
    for python in (sys.executable, "/usr/bin/python3"):
        words = [python, "-c", "import mpi4py.futures"]
        if os.path.exists(python):
            tried = subprocess.run(words, capture_output=True, check=False)
            if tried.returncode == 0:
                return python
    return missing("mpi4py is not installed")


@contextmanager
def libraries(folder: Path) -> Iterator[dict[str, str]]:
    """Yield an environment in which the system's Python finds this checkout, and click."""
    import click

    place = folder / "libraries"
    place.mkdir()
    (place / "click").symlink_to(os.path.dirname(click.__file__))
    yield environment(PYTHONPATH=f"{ROOT}:{place}", OMPI_MCA_rmaps_base_oversubscribe="1")
    shutil.rmtree(place)


def under_mpiexec(folder: Path, *words: str) -> subprocess.CompletedProcess[bytes]:
    """Run a script or module by three processes, one of which coordinates."""
    command = [need("mpiexec"), "-n", "3"]
    if os.geteuid() == 0:
        command.append("--allow-run-as-root")
    with libraries(folder) as env:
        return subprocess.run(
            [*command, "--oversubscribe", python_of_mpi(), "-m", "mpi4py.futures", *words],
            cwd=folder,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=LONGEST,
            check=False,
        )


def test_mpi_copies_by_the_processes_of_mpiexec(tree: Path) -> None:
    words = ["-m", "zpipe", "cp", "-r", "--executor", "mpi", "--explain", "s", "d"]
    done = under_mpiexec(tree, *words)
    assert done.returncode == 0, done.stderr
    assert b"workers   by 2 mpi\n" in done.stderr
    assert same(tree / "s", tree / "d")
    assert sorted(os.listdir(tree)) == ["d", "s"]


def test_mpi_by_the_library(tree: Path) -> None:
    (tree / "script.py").write_text(
        "from zpipe.tree.run import copy_tree\n"
        "if __name__ == '__main__':\n"
        "    report = copy_tree('s', 'd', executor='mpi')\n"
        "    print(report.files, report.executor, report.workers)\n"
    )
    done = under_mpiexec(tree, "script.py")
    assert (done.returncode, done.stdout.split()) == (
        0,
        [b"%d" % (FOLDERS * FEW + 2), b"mpi", b"2"],
    ), done.stderr
    assert same(tree / "s", tree / "d")


def test_mpi_where_nobody_would_work_is_a_usage_error(tmp_path: Path) -> None:
    python = python_of_mpi()
    (tmp_path / "s").mkdir()
    with libraries(tmp_path) as env:
        command = [python, *ZPIPE[1:], "cp", "-r", "--executor", "mpi", "s", "d"]
        process = subprocess.Popen(
            command, cwd=tmp_path, env=env, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        try:
            _, said = process.communicate(timeout=LONGEST)
        finally:
            process.kill()
            process.communicate()
    assert process.returncode == 2
    assert said.startswith(b"zpipe: cp: --executor mpi: ") and b"mpiexec" in said
    assert os.listdir(tmp_path) == ["s"]
