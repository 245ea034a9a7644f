"""`zpipe completion`: what the shells offer for a line, and what they make of it."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from importlib import import_module
from typing import TYPE_CHECKING

import click
import pytest

from tests.commands.keyboard import Bash, Fish, Shell, Zsh
from tests.commands.shell import refused, went_well
from tests.machine import LONGEST, ROOT, environment, zpipe
from zpipe.commands import COMMANDS
from zpipe.commands.completion import SCRIPTS
from zpipe.endpoints import KINDS
from zpipe.movers import MOVERS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FOLDER = ROOT / "zpipe/completion"
GENERATOR = ".ci/completion.py"
SHELLS = tuple(SCRIPTS)

FILES = {
    "a:b",
    "film.mov",
    "my file.bin",
    "nightly.yaml",
    "plain.yml",
    "s.sock",
    "sub",
    "with space",
}
RECIPES = {"nightly.yaml", "plain.yml", "sub", "with space"}
SCHEMES = {f"{name}{'://' if name.startswith('tcp') else ':'}" for name in KINDS if name != "-"}
VIA = {*MOVERS, "tee"}
ROUTES = ("file-file", "file-pipe", "tcp-tcp", "pipe-pipes")

# line -> what the shell offers; of options, only where the word begins with a hyphen
OFFERED: dict[str, set[str]] = {
    "zpipe ": set(COMMANDS),
    "zpipe c": {"cp", "cat", "check", "completion"},
    "zpipe --": {"--debug", "--version", "--help"},
    "zpipe --debug c": {"cp", "cat", "check", "completion"},
    "zpipe nonsense ": set(),
    # options and their values
    "zpipe cp --vi": {"--via"},
    "zpipe cp --via ": VIA,
    "zpipe cp --via=": {f"--via={name}" for name in VIA},
    "zpipe cp --via=re": {"--via=reflink"},
    "zpipe tee --no-via sp": {"splice"},
    "zpipe --debug cp --when-full d": {"detach"},
    "zpipe proxy --balance l": {"least-conn"},
    "zpipe cp --reflink=a": {"--reflink=auto", "--reflink=always"},
    "zpipe cp --reflink fi": {"file:", "film.mov"},
    "zpipe tee --output-error fi": {"file:", "film.mov"},
    "zpipe cp --preserve=mode,o": {"--preserve=mode,ownership"},
    "zpipe cp --no-preserve x": {"xattr"},
    "zpipe bench --routes file-tcp,": {f"file-tcp,{name}" for name in ROUTES},
    "zpipe bench --techniques O": {"O_DIRECT"},
    "zpipe cp --executor d": {"dask:"},
    "zpipe proxy --user roo": {"root"},
    "zpipe proxy --group roo": {"root"},
    "zpipe cp --offset ": set(),
    "zpipe cp --offset=": set(),
    "zpipe cat --size f": set(),
    "zpipe run -p ": set(),
    "zpipe run -p f": set(),
    "zpipe cp --no-such=": set(),
    # paths
    "zpipe cp my": {"my file.bin"},
    r"zpipe cp my\ f": {"my file.bin"},
    'zpipe cp "my f': {"my file.bin"},
    "zpipe cp 'my": {"my file.bin"},
    "zpipe cp --checksum-file ": FILES,
    "zpipe cp --checksum-file=my": {"--checksum-file=my file.bin"},
    "zpipe cp --spill-dir ": {"sub", "with space"},
    "zpipe cp --to=my": {"--to=my file.bin"},
    "zpipe cp -t my": {"my file.bin"},
    "zpipe cp -rt my": {"my file.bin"},
    "zpipe cp -q my": {"my file.bin"},
    "zpipe cp a": {"a:b"},
    "zpipe cp a:": {"a:b"},
    r"zpipe cp a\:": {"a:b"},
    "zpipe doctor sub/": {"sub/inner", "sub/deep.yaml"},
    "zpipe doctor ~/in": {"~/inner"},
    "zpipe replay s": {"sub"},
    # addresses
    "zpipe cp ": FILES | SCHEMES - {"hash:"},
    "zpipe cp film.mov ": FILES | SCHEMES,
    "zpipe tee ": FILES | SCHEMES - {"zero:"},
    "zpipe cp t": {"tcp://", "tcp-listen://"},
    "zpipe cp tcp:": {"tcp://"},
    "zpipe cp tcp://s": set(),
    "zpipe cp --to un": {"unix:", "unix-listen:"},
    "zpipe cp unix:s": {"unix:s.sock", "unix:sub"},
    'zpipe cp "unix:s': {"unix:s.sock", "unix:sub"},
    "zpipe cp unix-listen:su": {"unix-listen:sub"},
    "zpipe cp pipe:my": {"pipe:my file.bin"},
    r"zpipe cp file:my\ f": {"file:my file.bin"},
    "zpipe cp film.mov --to=unix:s": {"--to=unix:s.sock", "--to=unix:sub"},
    "zpipe cp film.mov --to unix:su": {"unix:sub"},
    "zpipe tee hash:sha5": {"hash:sha512"},
    "zpipe tee exec:here": {"exec:herefore"},
    "zpipe tee exec:sub/i": {"exec:sub/inner"},
    "zpipe cp fd:3": set(),
    "zpipe proxy ": {"unix:"},
    "zpipe proxy f": set(),
    "zpipe proxy unix:s": {"unix:s.sock", "unix:sub"},
    "zpipe proxy --listen ": {"unix:", "fd:"},
    "zpipe replay sub ": {"unix:"},
    "zpipe status unix:s.": {"unix:s.sock"},
    # recipes
    "zpipe run ": RECIPES,
    "zpipe check nightly.yaml ": RECIPES,
    "zpipe graph sub/": {"sub/inner", "sub/deep.yaml"},
    "zpipe run -p X=1 n": {"nightly.yaml"},
    "zpipe run nightly.yaml ": set(),
    "zpipe run -p X=1 nightly.yaml n": set(),
    "zpipe plan ": {*RECIPES, "cp", "cat", "tee", "proxy"},
    # the command of a plan
    "zpipe plan c": {"cp", "cat"},
    "zpipe plan cp --vi": {"--via"},
    "zpipe plan --json cp my": {"my file.bin"},
    "zpipe plan --json -p cp n": {"nightly.yaml"},
    "zpipe plan proxy --bal": {"--balance"},
    "zpipe plan --js": {"--json"},
    "zpipe plan nightly.yaml --js": {"--json"},
    "zpipe plan nightly.yaml c": set(),
    # behind --
    "zpipe cp -- --": set(),
    "zpipe cp -- fil": {"film.mov"} | {"file:"},
    "zpipe completion ": set(SHELLS),
    "zpipe completion bash ": set(),
}

# line -> what Tab makes of it, with the quoting of the shell
BECOMES = {
    "zpipe cp my": r"zpipe cp my\ file.bin ",
    r"zpipe cp my\ f": r"zpipe cp my\ file.bin ",
    'zpipe cp "my': 'zpipe cp "my file.bin" ',
    "zpipe cp 'my": "zpipe cp 'my file.bin' ",
    "zpipe cp --to=my": r"zpipe cp --to=my\ file.bin ",
    "zpipe cp wi": r"zpipe cp with\ space/",
    "zpipe cp file:wi": r"zpipe cp file:with\ space/",
    "zpipe cp unix:su": "zpipe cp unix:sub/",
    "zpipe cp a:": "zpipe cp a:b ",
    "zpipe cp tcp:": "zpipe cp tcp://",
    "zpipe cp film.mov h": "zpipe cp film.mov hash:",
    "zpipe cp --via=re": "zpipe cp --via=reflink ",
    "zpipe tee exec:here": "zpipe tee exec:herefore ",
    "zpipe cp ~/in": "zpipe cp ~/inner/",
    "zpipe run ~/d": "zpipe run ~/deep.yaml ",
    "zpipe cp --executor d": "zpipe cp --executor dask:",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder full of names, beside one with programs; those that are run leave a trace."""
    top = tmp_path_factory.mktemp("completion")
    for folder in ("work/sub/inner", "work/with space", "bin", "share/zpipe/recipes"):
        (top / folder).mkdir(parents=True)
    for name in ("a:b", "film.mov", "my file.bin", "nightly.yaml", "plain.yml", "sub/deep.yaml"):
        (top / "work" / name).touch()
    (top / "share/zpipe/recipes/tap.yaml").touch()
    for name in ("zpipe", "python", "python3", "herefore"):
        program = top / "bin" / name
        program.write_text(f'#!/bin/sh\necho "$0 $*" >>{top}/ran\n')
        program.chmod(0o755)
    here = os.getcwd()
    os.chdir(top / "work")  # addresses of sockets are short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("s.sock")
    os.chdir(here)
    return top


def around(place: Path) -> dict[str, str]:
    return {
        "PATH": f"{place}/bin:{os.environ['PATH']}",
        "HOME": str(place / "work/sub"),
        "LC_ALL": "C.UTF-8",
    }


def begun(name: str, place: Path) -> Bash | Zsh | Fish:
    script = FOLDER / SCRIPTS[name]
    if name == "bash":
        return Bash(script, place / "work", around(place))
    if name == "zsh":
        return Zsh(script, place / "work", around(place), sourced=False)
    return Fish(script, place / "work", around(place))


@pytest.fixture(scope="module", params=SHELLS)
def shell(request: pytest.FixtureRequest, place: Path) -> Iterator[Shell]:
    """Start a shell of each kind, and see in the end that it was quiet and ran nothing of zpipe."""
    started = begun(request.param, place)
    yield started
    started.close()
    ran = place / "ran"
    assert not ran.exists(), ran.read_text()


def of_interest(offered: set[str], line: str) -> set[str]:
    """Leave out the options that zsh offers where nothing else is to be had."""
    if line.rpartition(" ")[2].startswith("-"):
        return offered
    return {word for word in offered if not word.startswith("-")}


@pytest.mark.parametrize("line", OFFERED)
def test_what_is_offered(shell: Shell, line: str) -> None:
    assert of_interest(shell.offered(line), line) == OFFERED[line]


@pytest.mark.parametrize("line", BECOMES)
def test_what_a_line_becomes(shell: Shell, line: str) -> None:
    if isinstance(shell, Bash | Zsh):
        assert shell.complete(line)[1] == BECOMES[line]
    else:  # fish inserts what it offers, if that is one
        assert len(shell.offered(line)) == 1


def test_a_shipped_recipe_is_found_by_its_name(shell: Shell, place: Path) -> None:
    assert shell.offered("zpipe run ta") == {str(place / "share/zpipe/recipes/tap.yaml")}


def shown_options(command: str) -> list[click.Option]:
    """Return the options of a command that help shows."""
    found: click.Command = import_module(f"zpipe.commands.{command}").COMMAND
    return [
        param
        for param in found.get_params(click.Context(found))
        if isinstance(param, click.Option) and not param.hidden
    ]


@pytest.mark.parametrize("command", COMMANDS)
def test_all_options_are_offered_and_no_hidden_ones(shell: Shell, command: str) -> None:
    names = {name for option in shown_options(command) for name in option.opts}
    assert shell.offered(f"zpipe {command} --") == {each for each in names if each[:2] == "--"}
    short = {each for each in shell.offered(f"zpipe {command} -") if each[:2] != "--"}
    assert short == {each for each in names if each[:2] != "--"}


@pytest.mark.parametrize("command", COMMANDS)
def test_all_choices_are_offered(shell: Shell, command: str) -> None:
    for option in shown_options(command):
        if isinstance(option.type, click.Choice):
            name = next(each for each in option.opts if each.startswith("--"))
            wanted = {f"{name}={choice}" for choice in option.type.choices}
            assert shell.offered(f"zpipe {command} {name}=") == wanted


HABITS = {
    "strict": "set -u; shopt -s failglob nullglob",
    "noglob": "set -f",
    "colons": "COMP_WORDBREAKS=${COMP_WORDBREAKS//:}",
    "equals": "COMP_WORDBREAKS=${COMP_WORDBREAKS//[:=]}",
}


@pytest.mark.parametrize("habit", HABITS)
def test_bash_as_its_user_has_set_it(habit: str, place: Path, tmp_path: Path) -> None:
    (tmp_path / "work").symlink_to(place / "work")
    bash = Bash(FOLDER / "zpipe.bash", tmp_path / "work", around(place), HABITS[habit])
    lines = {
        "zpipe cp my": r"zpipe cp my\ file.bin ",
        "zpipe cp --via=re": "zpipe cp --via=reflink ",
        "zpipe cp nothing-here": "zpipe cp nothing-here",
        "zpipe run --report=my": r"zpipe run --report=my\ file.bin ",
        "zpipe cp unix:su": "zpipe cp unix:sub/",
        "true; X=1 zpipe cp --vi": "true; X=1 zpipe cp --via ",
        "zpipe cp $HOME/in": "zpipe cp $HOME/inner/",
        "zpipe nonsense ": "zpipe nonsense ",
    }
    try:
        for line, wanted in lines.items():
            assert bash.complete(line)[1] == wanted
        bash.type('shopt -q failglob; f=$?; printf \'%s%s\\0\\0\\0\' "$f" "$-" >&3\n')
        state = "".join(bash.answer())
    finally:
        bash.close()
    assert state.startswith("0" if habit == "strict" else "1")
    assert ("f" in state) == (habit == "noglob")
    assert ("u" in state) == (habit == "strict")


def test_zsh_that_sources_the_script(place: Path) -> None:
    zsh = Zsh(FOLDER / "zpipe.zsh", place / "work", around(place), sourced=True)
    try:
        assert zsh.complete("zpipe cp --vi")[1] == "zpipe cp --via="
        assert zsh.offered("zpipe pl") == {"plan"}
    finally:
        zsh.close()


@pytest.mark.parametrize("name", SHELLS)
def test_scripts_are_printed_as_they_are_shipped(name: str) -> None:
    done = zpipe("completion", name)
    went_well(done)
    assert done.stdout == (FOLDER / SCRIPTS[name]).read_bytes()


def test_other_shells_are_refused() -> None:
    refused(zpipe("completion", "tcsh"), 2, "tcsh: give one of bash, zsh, fish")
    refused(zpipe("completion"), 2, "completion: ", "SHELL")


def generator(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, folder / GENERATOR, *words],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=LONGEST,
        check=False,
    )


def test_tables_are_those_of_the_program() -> None:
    done = generator(ROOT, "--check")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_stale_script_is_named_and_renewed(tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "zpipe/completion")
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / GENERATOR, tmp_path / GENERATOR)
    script = tmp_path / "zpipe/completion/zpipe.fish"
    script.write_text(script.read_text().replace(" -l offset ", " -l onset "))
    stale = generator(tmp_path, "--check")
    assert stale.returncode == 1
    assert stale.stdout.startswith("zpipe/completion/zpipe.fish: ")
    assert len(stale.stdout.splitlines()) == 1
    assert generator(tmp_path).returncode == 0
    assert script.read_text() == (FOLDER / "zpipe.fish").read_text()


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("bash", "share/bash-completion/completions/zpipe"),
        ("zsh", "share/zsh/site-functions/_zpipe"),
        ("fish", "share/fish/vendor_completions.d/zpipe.fish"),
    ],
)
def test_the_wheel_has_them_where_the_shells_look(name: str, target: str) -> None:
    project = (ROOT / "pyproject.toml").read_text()
    source = re.escape(f"zpipe/completion/{SCRIPTS[name]}")
    assert re.search(rf'^"{source}" = "{re.escape(target)}"$', project, re.MULTILINE)
    page = (ROOT / "man/man1/zpipe-completion.1").read_text()
    assert target in page
