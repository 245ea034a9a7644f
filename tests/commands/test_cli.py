"""The command line as a shell sees it: statuses, one line for each failure, the standard fds."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands.shell import BIG, SMALL, names, one_line, refused, shell, went_well
from tests.machine import ZPIPE, content, environment, nobody, zpipe

MOVERS = "reflink, parallel, copy_range, sendfile, splice, mapped, direct, plain"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a").write_bytes(content(SMALL))
    (tmp_path / "b").write_bytes(content(BIG))
    (tmp_path / "d").mkdir()
    os.mkfifo(tmp_path / "fifo")
    return tmp_path


USAGE = [
    (["nosuch"], "nosuch: unknown command: known are cp, "),
    (["cp"], "cp: give a source"),
    (["cp", "a"], "cp: a: give a DST after it"),
    (
        ["cp", "a", "x", "y"],
        "y: must be a directory, for several sources (several sinks: --to DST)",
    ),
    (["cp", "a", "b", "--to", "x"], "x: must be a directory, for several sources"),
    (["cp", "--to", "x"], "cp: give a source"),
    (["cp", "--nosuch", "a", "x"], "cp: --nosuch: unknown option (zpipe cp --help)"),
    (["cp", "-Z", "a", "x"], "cp: -Z: sets no security contexts"),
    (["cp", "a", "-z"], "cp: -z: unknown option (zpipe cp --help)"),
    (["--nosuch"], "--nosuch: unknown option (zpipe --help)"),
    (["cp", "--lenght=1", "a", "x"], "cp: --lenght: unknown option; did you mean --length?"),
    (["cp", "a", "x", "--stable=yes"], "cp: --stable: takes no value (zpipe cp --help)"),
    (["cp", "a", "x", "--length"], "cp: --length: give a value (zpipe cp --help)"),
    (["run"], "run: give FILE (zpipe run --help)"),
    (["run", "a", "b"], "run: b: more than it takes (zpipe run --help)"),
    (["cpp", "a", "x"], "cpp: unknown command: did you mean cp? known are cp, cat"),
    (["completion", "tcsh"], "tcsh: give one of bash, zsh, fish"),
    (["cp", "--length", "many", "a", "x"], "many: not a size"),
    (["cp", "--length", "-1", "a", "x"], "-1: not a size"),
    (["cp", "--offset", "", "a", "x"], "not a size"),
    (["cp", "--offset", "9E", "a", "x"], "larger than a file can be"),
    (["cp", "--rate-limit", "0", "a", "x"], "nothing would ever move"),
    (["cp", "--rate-limit", "fast", "a", "x"], "fast: not a rate"),
    (["cp", "--stall-timeout", "0", "a", "x"], "more than zero"),
    (["cp", "--stall-timeout", "soon", "a", "x"], "soon: not a duration"),
    (["cp", "--pipe-size", "1Q", "a", "x"], "1Q: not a size"),
    (["cp", "--json-fd", "-1", "a", "x"], "cp: --json-fd: -1: not an fd: give a number"),
    (["cp", "--json-fd", "77", "a", "x"], "cp: --json-fd 77: write: Bad file descriptor"),
    (["cp", "--progress", "maybe", "a", "x"], "--progress: maybe: give one of auto, "),
    (["cp", "--via", "magic", "a", "x"], "cp: --via: magic: give one of reflink, "),
    (["cp", "--append", "--inplace", "a", "x"], "cp: --append and --inplace exclude each other"),
    (
        ["cp", "--via", "plain", "--no-via", "plain", "a", "x"],
        "cp: --via and --no-via: plain is both asked for",
    ),
    (["cp", *(f"--no-via={name}" for name in MOVERS.split(", ")), "b", "x"], "no mover is left"),
    (["cp", "--via", "parallel", "b", "x"], "cp: --via parallel: below 64 MiB"),
    (["cp", "ftp://host/a", "x"], "unknown scheme ftp"),
    (["cp", "a", "http://host/"], "unknown scheme http"),
    (["cp", "tcp:host:1", "x"], "write it as tcp://HOST:PORT"),
    (["cp", "tcp://host", "x"], "give a port"),
    (["cp", "tcp://host:99999", "x"], "give a port"),
    (["cp", "a", "zero:"], "cannot be a sink"),
    (["cp", "", "x"], "an operand is empty"),
    (["cp", "a", ""], "an operand is empty"),
    (["cp", "zero:?size=big", "x"], "big: not a size"),
    (["cp", "file:a?colour=red", "x"], "unknown option colour"),
    (["cp", "file:a?append=1", "x"], "is for a sink"),
    (["cp", "exec:", "x"], "give a command"),
    (["cp", "exec:'", "x"], "split into words"),
    (["cp", "null:", "d"], "has no name to give to a file in it"),
    (["cp", "a", "a"], "is the source itself"),
    (["cp", "b", "b"], "is the source itself"),
]


@pytest.mark.parametrize(("words", "fragment"), USAGE, ids=[" ".join(words) for words, _ in USAGE])
def test_a_request_that_makes_no_sense_is_status_2_and_one_line(
    folder: Path, words: list[str], fragment: str
) -> None:
    before = names(folder)
    refused(zpipe(*words, cwd=folder), 2, fragment)
    assert names(folder) == before
    assert (folder / "a").read_bytes() == content(SMALL)
    assert (folder / "b").read_bytes() == content(BIG)


FAILURES = [
    (["cp", "nosuch", "x"], "nosuch: open: No such file or directory"),
    (["cp", "nosuch/a", "x"], "nosuch/a: open: No such file or directory"),
    (["cp", "a/", "x"], "a/: open: Not a directory"),
    (["cp", "a/b", "x"], "a/b: open: Not a directory"),
    (["cp", "d", "x"], "d: is a directory: -r copies it"),
    (["cp", ".", "x"], ".: is a directory: -r copies it"),
    (["cp", "a", "nosuch/x"], "nosuch/x: open: No such file or directory"),
    (["cp", "a", "x/"], "x/: open: Not a directory"),
    (["cp", "a", "a/x"], "a/x: open: Not a directory"),
    (["cp", "a", "x" * 256], "open: File name too long"),
    (["cp", "a", "/dev/full"], "/dev/full: write: No space left on device; 0 bytes were delivered"),
    (["cp", "b", "/dev/full"], "/dev/full: write: No space left on device; 0 bytes were delivered"),
    (["cp", "tcp://127.0.0.1:1", "x"], "tcp://127.0.0.1:1: connect: Connection refused"),
    (["cp", "a", "unix:nosuch"], "unix:nosuch: connect: No such file or directory"),
    (["cp", "a", "unix:a"], "unix:a: connect: Connection refused"),
    (["cp", "a", "pipe:a"], "pipe:a: open: is not a FIFO"),
    (["cp", "a", "pipe:nosuch"], "pipe:nosuch: open: No such file or directory"),
    (["cp", "tcp://nosuch.invalid:80", "x"], "tcp://nosuch.invalid:80: resolve nosuch.invalid: "),
    (["cp", "exec:./nosuch", "x"], "exec:./nosuch: start: No such file or directory"),
    (["cp", "exec:false", "x"], "exec:false: exit status 1"),
    (["cp", "b", "exec:sh -c 'cat >/dev/null; exit 7'"], "exit status 7"),
    (["cp", "exec:sh -c 'kill -9 $$'", "x"], "died of SIGKILL"),
    (["cp", "fd:77", "x"], "fd:77: read: Bad file descriptor"),
    (["cp", "a", "fd:77"], "fd:77: write: Bad file descriptor"),
    (["cp", "fd:nosuch", "x"], "fd:nosuch: no fds were passed"),
    (["cp", "--offset", "1", "exec:true", "x"], "seek to 1: a stream has no offsets"),
    (["cp", "--offset", "1", "fifo", "x"], "seek to 1: a FIFO has no offsets"),
]


@pytest.mark.parametrize(
    ("words", "message"), FAILURES, ids=[" ".join(words)[:60] for words, _ in FAILURES]
)
def test_an_end_that_fails_is_status_1_and_one_line(
    folder: Path, words: list[str], message: str
) -> None:
    before = names(folder)
    refused(zpipe(*words, cwd=folder), 1, message)
    assert names(folder) == before


@pytest.mark.parametrize(
    ("words", "fragment"),
    [
        (["cp", "pattern:x?size=100", "pattern:y?size=100"], "differs from the pattern at byte 8"),
        (["cp", "pattern:x?size=100", "pattern:x?size=200"], "got 100 bytes instead of 200"),
        (["cp", "zero:?size=10", "pattern:x"], "differs from the pattern"),
    ],
)
def test_a_verification_that_fails_is_status_3(words: list[str], fragment: str) -> None:
    refused(zpipe(*words), 3, fragment)


@pytest.mark.parametrize("before", ["a", "b", "target"])
def test_what_may_not_be_read_or_written_is_named(folder: Path, before: str) -> None:
    """The same for a small and a big source, and for a target that keeps what it held."""
    os.chmod(folder, 0o777)
    words = nobody()
    (folder / "target").write_bytes(b"old")
    if before == "target":
        os.chmod(folder / "target", 0o444)
        for source in ("a", "b"):
            done = zpipe("cp", source, "target", cwd=folder, before=words)
            refused(done, 1, "target: open: Permission denied")
        assert (folder / "target").read_bytes() == b"old"
    else:
        os.chmod(folder / before, 0o600)
        done = zpipe("cp", before, "x", cwd=folder, before=words)
        refused(done, 1, f"{before}: open: Permission denied")
    assert "x" not in names(folder)


def test_a_folder_that_is_closed_to_the_user(folder: Path) -> None:
    words = nobody()
    os.chmod(folder, 0o755)
    for source in ("a", "b"):
        refused(zpipe("cp", source, "x", cwd=folder, before=words), 1, "x: open: Permission denied")
    assert "x" not in names(folder)


@pytest.mark.parametrize("word", ["no\nsuch", "no\tsuch", "no\x1b[31msuch", "no\rsuch", "no\x7f"])
def test_a_name_cannot_break_the_line_or_steer_the_terminal(folder: Path, word: str) -> None:
    for source, target in ((word, "x"), ("a", f"{word}/x")):
        text = one_line(zpipe("cp", source, target, cwd=folder))
        assert not any(ord(letter) < 32 or ord(letter) == 127 for letter in text)
        assert "\\" in text


def test_a_name_that_is_no_utf8_is_shown_as_it_is(folder: Path) -> None:
    done = zpipe("cp", os.fsdecode(b"no\xffsuch"), "x", cwd=folder)
    assert done.stderr == b"zpipe: no\xffsuch: open: No such file or directory\n"


def test_no_arguments_show_the_help_on_stderr() -> None:
    done = zpipe()
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"Usage: zpipe ")


@pytest.mark.parametrize("words", [[], ["cp"], ["doctor"]])
def test_help_is_a_word_as_well(words: list[str]) -> None:
    assert zpipe("help", *words).stdout == zpipe(*words, "--help").stdout != b""
    refused(zpipe("help", "nosuch"), 2, "nosuch: unknown command")


@pytest.mark.parametrize("words", [["--help"], ["cp", "--help"], ["--version"]])
def test_what_was_asked_for_goes_to_stdout(words: list[str]) -> None:
    done = zpipe(*words)
    went_well(done)
    assert done.stdout


def test_help_lists_the_commands() -> None:
    assert b"cp  " in zpipe("--help").stdout


def test_debug_shows_no_traceback_of_an_error_made_on_purpose(folder: Path) -> None:
    refused(zpipe("--debug", "cp", "nosuch", "x", cwd=folder), 1, "nosuch: open")


@pytest.mark.parametrize("source", ["a", "b"])
@pytest.mark.parametrize("options", [[], ["-q"]], ids=["plainly", "by options"])
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&-", "<&- >&- 2>&-"])
def test_closed_standard_fds_do_not_mix_with_the_data(
    folder: Path, closed: str, options: list[str], source: str
) -> None:
    done = zpipe("cp", *options, source, "x", cwd=folder, before=shell(f'exec "$@" {closed}'))
    went_well(done)
    assert done.stdout == b""
    assert (folder / "x").read_bytes() == (folder / source).read_bytes()


def test_what_is_explained_never_goes_to_the_data(folder: Path) -> None:
    """Without stderr there is nowhere to explain to; standard output is no place for it."""
    command = shell('exec "$@" 2>&-')
    done = zpipe("cp", "--explain", "b", "-", cwd=folder, before=command)
    assert (done.returncode, done.stdout) == (0, content(BIG))


def test_no_file_of_ours_becomes_a_standard_fd_of_a_child(folder: Path) -> None:
    links = "exec:sh -c 'readlink /proc/self/fd/1 /proc/self/fd/2 >seen; cat >/dev/null'"
    done = zpipe("cp", "b", links, cwd=folder, before=shell('exec "$@" <&- >&- 2>&-'))
    assert done.returncode == 0
    assert str(folder / "b") not in (folder / "seen").read_text()


@pytest.mark.parametrize(
    ("closed", "words", "message"),
    [
        ("<&-", ["-", "x"], "standard input: read: "),
        (">&-", ["a", "-"], "standard output: write: "),
        (">&-", ["b", "-"], "standard output: write: "),
        ("</dev/null >/dev/null", ["fd:1", "x"], "fd:1: read: is not open for reading"),
        ("</dev/null", ["a", "fd:0"], "fd:0: write: is not open for writing"),
    ],
)
def test_a_standard_fd_that_is_closed_or_of_the_other_direction_is_an_error(
    folder: Path, closed: str, words: list[str], message: str
) -> None:
    done = zpipe("cp", *words, cwd=folder, before=shell(f'exec "$@" {closed}'))
    refused(done, 1, message)
    assert "x" not in names(folder)


def test_a_closed_stderr_leaves_the_status_to_tell(folder: Path) -> None:
    done = zpipe("cp", "nosuch", "x", cwd=folder, before=shell('exec "$@" 2>&-'))
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"")


@pytest.mark.parametrize("words", [["-q", "big", "-"], ["big", "-"]])
def test_a_reader_that_leaves_ends_us_by_sigpipe_quietly(folder: Path, words: list[str]) -> None:
    (folder / "big").write_bytes(bytes(4 << 20))
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [*ZPIPE, "cp", *words],
        cwd=folder,
        env=environment(),
        stdout=writer,
        stderr=subprocess.PIPE,
    )
    os.close(writer)
    assert os.read(reader, 1)
    os.close(reader)
    _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (-signal.SIGPIPE, b"")


def test_sigpipe_also_where_nothing_could_be_read_yet(folder: Path) -> None:
    """The source is silent; that nobody reads any more is noticed all the same."""
    reader, writer = os.pipe()
    hold, source = os.pipe()
    process = subprocess.Popen(
        [*ZPIPE, "cp", "-", "-"],
        env=environment(),
        stdin=hold,
        stdout=writer,
        stderr=subprocess.PIPE,
    )
    os.close(writer)
    os.write(source, b"x")
    assert os.read(reader, 10) == b"x"
    os.close(reader)
    _, said = process.communicate(timeout=30)
    os.close(hold)
    os.close(source)
    assert (process.returncode, said) == (-signal.SIGPIPE, b"")


HEAVY = {
    *("click", "rich", "socket", "dataclasses", "typing", "subprocess", "threading"),
    *("ctypes", "json", "importlib.metadata", "logging", "re"),
}


def imported(folder: Path, *words: str) -> set[str]:
    """Return the modules that a run imports, by Python's own account."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "from zpipe.cli import main; main()", *words],
        cwd=folder,
        env=environment(),
        capture_output=True,
        check=True,
    )
    lines = done.stderr.decode().splitlines()
    return {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}


def test_a_small_copy_loads_little(folder: Path) -> None:
    """What the interpreter itself loads on this machine (site, .pth files) is not counted."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", ""],
        env=environment(),
        capture_output=True,
        check=True,
    )
    lines = done.stderr.decode().splitlines()
    bare = {line.rpartition("|")[2].strip() for line in lines}
    loaded = imported(folder, "cp", "a", "x")
    assert (folder / "x").read_bytes() == content(SMALL)
    assert "zpipe.engine.small" in loaded
    assert not (loaded - bare) & HEAVY
    assert not {name for name in loaded if name.startswith(("zpipe.movers", "zpipe.graph"))}


def test_a_big_copy_without_options_does_not_load_the_command_line_library(folder: Path) -> None:
    loaded = imported(folder, "cp", "b", "x")
    assert (folder / "x").read_bytes() == content(BIG)
    assert "zpipe.engine.hop" in loaded
    assert not loaded & {"click", "rich", "json", "socket", "subprocess"}


def test_a_refused_connection_is_not_a_stray_broken_pipe() -> None:
    """The command line library would turn an OSError of that kind into a silent status."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # and not listened to
        port = bound.getsockname()[1]
        refused(zpipe("cp", "-q", "null:", f"tcp://127.0.0.1:{port}"), 1, "Connection refused")
