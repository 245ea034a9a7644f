"""What is shipped: one version, one entry, every file that is named, every import declared."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import import_module

import zpipe
from tests.machine import ROOT
from tests.machine import zpipe as run_zpipe
from tests.test_architecture import imported

PROJECT = (ROOT / "pyproject.toml").read_text()
SCRIPTS = ("setup", "check", "run")

# distribution -> module, where the names differ
MODULES = {"PyYAML": "yaml"}


def listed(name: str) -> list[str]:
    """Return the strings of a list in pyproject.toml. (tomllib came with Python 3.11.)"""
    found = re.search(rf"^{re.escape(name)} = \[(.*?)\]$", PROJECT, re.MULTILINE | re.DOTALL)
    assert found is not None, f"pyproject.toml has no list {name}"
    return re.findall(r'"([^"]+)"', found[1])


def requirements(name: str) -> set[str]:
    return {re.split(r"[^\w-]", each)[0] for each in listed(name)}


def test_the_version_stands_in_one_place() -> None:
    assert 'dynamic = ["version"]' in PROJECT
    assert 'path = "zpipe/__init__.py"' in PROJECT
    text = (ROOT / "zpipe/__init__.py").read_text()
    assert re.findall(r'^__version__ = "(.*)"$', text, re.MULTILINE) == [zpipe.__version__]
    done = run_zpipe("--version")
    assert done.stdout.decode() == f"zpipe {zpipe.__version__}\n"


def test_the_console_script_is_there() -> None:
    found = re.search(r'^zpipe = "([\w.]+):(\w+)"$', PROJECT, re.MULTILINE)
    assert found is not None
    assert callable(getattr(import_module(found[1]), found[2]))


def test_files_that_are_named_exist() -> None:
    named = [path.lstrip("/") for path in listed("include")]
    named += re.findall(r'^(\w+) = "share/', PROJECT, re.MULTILINE)
    assert {"zpipe", "tests", "man", "recipes"} <= set(named)
    for path in [*named, "README.md", "zpipe/py.typed", "recipes/README.md"]:
        assert (ROOT / path).exists(), path


def test_imports_are_declared() -> None:
    known = {*sys.stdlib_module_names, "zpipe", "tests"}
    ours = {name for path in (ROOT / "zpipe").rglob("*.py") for name in imported(path)}
    theirs = {name for path in (ROOT / "tests").rglob("*.py") for name in imported(path)}
    run = requirements("dependencies")
    extras = requirements("dask") | requirements("mpi")
    declared = {MODULES.get(name, name.replace("-", "_")) for name in run | extras}
    assert {name.partition(".")[0] for name in ours} - known == declared
    tested = declared | {name.replace("-", "_") for name in requirements("test")}
    assert {name.partition(".")[0] for name in theirs} - known <= tested


def test_the_commands_of_the_readme_come_first() -> None:
    text = (ROOT / "README.md").read_text()
    screen = "\n".join(text.splitlines()[:24])
    block = re.search(r"^```sh\n(.*?)^```$", screen, re.MULTILINE | re.DOTALL)
    assert block is not None, "the first screen has no commands"
    first, second = block[1].splitlines()
    assert first.startswith(".ci/setup &&") and "--explain" in first
    assert second.startswith(".ci/setup test &&") and "pytest" in second


def test_ci_installs_what_the_tests_need() -> None:
    text = (ROOT / ".ci/run").read_text()
    needed = {"mkfs.btrfs", "mkfs.xfs", "mount"}
    for path in (ROOT / "tests").rglob("*.py"):
        needed |= set(re.findall(r'\bneed\("([^"]+)"\)', path.read_text()))
    for program in needed - {"sh", "bash"}:
        assert f"[{program}]=" in text, program


def test_scripts_are_sound() -> None:
    for name in SCRIPTS:
        path = ROOT / ".ci" / name
        assert os.access(path, os.X_OK), name
        done = subprocess.run(["bash", "-n", path], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
