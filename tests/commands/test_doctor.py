"""`zpipe doctor`: the table, the document, the status; as root and others, with calls refused."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import pty
import re
import stat
import struct
import subprocess
import sys
import termios
from typing import TYPE_CHECKING, Any

import pytest

from tests.commands.shell import one_line, refused, went_well
from tests.machine import (
    ROOT,
    ZPIPE,
    environment,
    mounted,
    need,
    need_root,
    nobody,
    strace,
    zpipe,
)
from zpipe.commands.doctor import COMMAND
from zpipe.commands.doctor_table import document, table
from zpipe.doctor.findings import Advice, Examination, Finding

if TYPE_CHECKING:
    from pathlib import Path

KEYS = {"group", "name", "path", "state", "value", "errno", "detail", "effect"}
STATES = {"ok", "fact", "limited", "refused", "absent", "unknown", "hung", "failed"}
# what programs may rest on
NAMES = {
    "host": {
        "kernel",
        "sandbox",
        "container",
        "seccomp",
        "user",
        "user-namespace",
        "python",
        "libraries",
        "optional",
    },
    "path": {
        "filesystem",
        "reflink",
        "copy-range",
        "direct",
        "tmpfile",
        "lease",
        "holes",
        "copies",
    },
    "moving": {
        "splice-file-to-pipe",
        "splice-pipe-to-file",
        "splice-pipe-to-pipe",
        "splice-tcp",
        "splice-unix",
        "tee",
        "sendfile-to-tcp",
        "sendfile-to-file",
        "copy-range-across",
    },
    "calls": {
        "memfd-seals",
        "scm-rights",
        "mapped-write",
        "mincore",
        "eventfd",
        "pidfd",
        "msg-peek",
        "epoll-exclusive",
        "reuse-port",
    },
    "pipes": {
        "fs.pipe-max-size",
        "fs.pipe-user-pages-soft",
        "fs.pipe-user-pages-hard",
        "new-pipe",
        "grown-pipe",
        "large-pipes",
    },
    "limits": {
        "open-files",
        "file-size",
        "fs.leases-enable",
        "fs.lease-break-time",
        "dirty-memory",
    },
    "network": {
        "device",
        "congestion",
        "net.core.somaxconn",
        "net.ipv4.tcp_rmem",
        "net.ipv4.tcp_wmem",
        "net.ipv4.tcp_mem",
        "net.ipv4.ip_local_port_range",
    },
}
REFUSING_PROC_SYS = 'mount -t tmpfs none /proc/sys && exec "$@"'


def examined(done: subprocess.CompletedProcess[bytes], status: int = 0) -> dict[str, Any]:
    assert done.returncode == status, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["v"] == 1
    return found


def by_name(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in found["findings"]}


def of_path(found: dict[str, Any], path: str) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in found["findings"] if each["path"] == path}


def test_the_document_says_all_by_stable_names(tmp_path: Path) -> None:
    done = zpipe("doctor", "--json", cwd=tmp_path)
    went_well(done)
    found = examined(done)
    assert set(found) == {"v", "findings", "advice"}
    names: dict[str, set[str]] = {}
    for each in found["findings"]:
        assert set(each) == KEYS
        assert each["state"] in STATES
        assert (each["path"] is not None) == (each["group"] == "path")
        names.setdefault(each["group"], set()).add(each["name"])
    assert names == NAMES
    assert {each["path"] for each in found["findings"]} == {
        None,
        ".",
        os.environ.get("TMPDIR") or "/tmp",
    }
    for each in found["advice"]:
        assert set(each) == {"name", "why", "command"}
    assert os.listdir(tmp_path) == []


def test_a_folder_for_temporary_files_that_is_not_there_is_a_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", "/nosuch")
    done = zpipe("doctor", "--json", cwd=tmp_path)
    went_well(done)
    found = of_path(examined(done), "/nosuch")["filesystem"]
    assert (found["state"], found["errno"]) == ("refused", "ENOENT")
    assert "spilled" in found["effect"]


def test_a_name_that_is_no_text_is_told_by_its_bytes(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/\xff\xc3\xa9"
    os.mkdir(folder)
    done = zpipe("doctor", os.fsdecode(folder))
    went_well(done)
    assert b"FILES IN " + folder + b"\n" in done.stdout
    found = examined(zpipe("doctor", "--json", os.fsdecode(folder)))
    assert of_path(found, os.fsdecode(folder))["copy-range"]["state"] == "ok"


def test_the_table_says_what_the_document_says(tmp_path: Path) -> None:
    done = zpipe("doctor", ".", cwd=tmp_path)
    went_well(done)
    lines = done.stdout.decode().splitlines()
    heads = [line for line in lines if line and not line.startswith(" ")]
    assert [head for head in heads if not head.startswith("W")] == [
        "HOST",
        "MOVING BYTES",
        "OTHER CALLS",
        "FILES IN .",
        "PIPES",
        "LIMITS",
        "NETWORK",
    ]
    assert heads[-1].startswith("WORTH DOING")
    assert "\033" not in done.stdout.decode()
    assert os.listdir(tmp_path) == []


def test_a_user_without_rights_is_served_too(tmp_path: Path) -> None:
    os.chmod(tmp_path, 0o777)
    words = nobody()
    done = zpipe("doctor", "--json", ".", "/root", cwd=tmp_path, before=words)
    found = examined(done, 1)
    assert one_line(done) == "/root: examine: Permission denied"
    names = by_name(found)
    assert names["user"]["value"] == {"uid": 65534, "capabilities": []}
    assert of_path(found, "/root")["filesystem"]["errno"] == "EACCES"
    mine = of_path(found, ".")
    assert mine["lease"]["state"] == mine["copy-range"]["state"] == "ok"
    assert os.listdir(tmp_path) == []


def test_refused_calls_are_told_with_their_errors(tmp_path: Path) -> None:
    faults = [
        "splice:error=EPERM",
        "tee:error=ENOSYS",
        "copy_file_range:retval=0",
        "memfd_create:error=EACCES",
    ]
    names = ",".join(fault.partition(":")[0] for fault in faults)
    words = strace("-o/dev/null", f"-etrace={names}", *(f"-einject={fault}" for fault in faults))
    found = examined(zpipe("doctor", "--json", ".", cwd=tmp_path, before=words))
    seen = {name: (each["state"], each["errno"]) for name, each in by_name(found).items()}
    for name in ("file-to-pipe", "pipe-to-file", "pipe-to-pipe", "tcp", "unix"):
        assert seen[f"splice-{name}"] == ("refused", "EPERM")
    assert seen["tee"] == ("absent", "ENOSYS")
    assert seen["copy-range"] == ("refused", None)
    assert seen["memfd-seals"] == ("refused", "EACCES")
    assert seen["copy-range-across"] == ("unknown", None)
    assert seen["sendfile-to-tcp"] == seen["eventfd"] == ("ok", None)
    assert "moved 0 bytes of 8192" in by_name(found)["copy-range"]["detail"]
    assert by_name(found)["copies"]["value"]["small"] in ("reflink", "sendfile")
    assert "filter" in [each["name"] for each in found["advice"]]


def test_a_call_that_kills(tmp_path: Path) -> None:
    words = strace("-o/dev/null", "-etrace=tee", "-einject=tee:signal=SIGSYS")
    found = by_name(examined(zpipe("doctor", "--json", ".", cwd=tmp_path, before=words)))
    assert found["tee"]["state"] == "refused"
    assert "SIGSYS" in found["tee"]["detail"]
    assert found["sendfile-to-tcp"]["state"] == "ok"


def test_without_the_settings_of_the_kernel(tmp_path: Path) -> None:
    need_root()
    words = [need("unshare"), "--mount", "sh", "-c", REFUSING_PROC_SYS, "sh"]
    done = zpipe("doctor", "--json", ".", cwd=tmp_path, before=words)
    found = examined(done)
    for name, each in by_name(found).items():
        if name.startswith(("fs.", "net.")) or name == "dirty-memory":
            assert each["state"] == "unknown", name
            assert each["detail"].endswith("is not there")
    assert by_name(found)["grown-pipe"]["state"] == "ok"


def test_without_proc(tmp_path: Path) -> None:
    need_root()
    words = [need("unshare"), "--mount", "sh", "-c", 'mount -t tmpfs none /proc && exec "$@"', "sh"]
    found = by_name(examined(zpipe("doctor", "--json", ".", cwd=tmp_path, before=words)))
    for name in ("seccomp", "user", "user-namespace", "lease"):
        assert found[name]["state"] == "unknown", name
    assert found["filesystem"]["value"]["type"] is None
    assert found["splice-tcp"]["state"] == "ok"


def test_with_too_few_fds_the_examination_itself_goes_wrong(tmp_path: Path) -> None:
    words = [need("prlimit"), "--nofile=8:8"]
    done = zpipe("doctor", ".", cwd=tmp_path, before=words)
    assert done.returncode == 1
    lines = done.stderr.decode().splitlines()
    assert lines
    assert all(line.endswith(": examine: Too many open files") for line in lines), lines
    assert "  open files               limited  8" in done.stdout.decode()


def test_places_of_two_filesystems(sharing: Path, tmp_path: Path) -> None:
    with mounted("tmpfs", tmp_path / "memory", 1 << 20) as memory:
        found = examined(zpipe("doctor", "--json", sharing, memory))
    shared, plain = of_path(found, str(sharing)), of_path(found, str(memory))
    assert shared["reflink"]["state"] == "ok"
    assert shared["copies"]["value"] == {"small": "reflink", "big": "reflink"}
    assert (plain["reflink"]["state"], plain["reflink"]["errno"]) == ("refused", "EOPNOTSUPP")
    assert "clone" in plain["reflink"]["effect"]
    assert by_name(found)["copy-range-across"]["errno"] == "EXDEV"


def test_a_read_only_place(tmp_path: Path) -> None:
    with mounted("tmpfs", tmp_path / "mount", 1 << 20) as place:
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        done = zpipe("doctor", place)
        went_well(done)
        text = done.stdout.decode()
        assert "read-only" in text
        assert "no file can be made here: EROFS" in " ".join(text.split())


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nosuch", "No such file or directory"),
        ("file/x", "Not a directory"),
        ("fifo", "neither a directory nor a file nor a block device"),
    ],
)
def test_what_cannot_be_examined_is_status_1_and_the_rest_is_told(
    name: str, reason: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"x")
    os.mkfifo(tmp_path / "fifo")
    done = zpipe("doctor", name, ".", cwd=tmp_path)
    refused(done, 1, f"{name}: examine: {reason}")
    assert f"FILES IN {name}" in done.stdout.decode()
    assert "FILES IN .\n" in done.stdout.decode()


@pytest.mark.parametrize(
    ("words", "fragment"),
    [(["--nosuch"], "--nosuch: unknown option"), ([""], "an operand is empty")],
)
def test_usage(words: list[str], fragment: str) -> None:
    done = zpipe("doctor", *words)
    refused(done, 2, "doctor: ", fragment)
    assert done.stdout == b""


def test_a_full_output_is_told() -> None:
    with open("/dev/full", "wb") as full:
        refused(zpipe("doctor", ".", stdout=full), 1, "standard output: write: No space left")


@pytest.mark.parametrize(
    ("variables", "coloured"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)],
)
def test_words_are_coloured_on_a_terminal_unless_nobody_wants_it(
    variables: dict[str, str], coloured: bool, tmp_path: Path
) -> None:
    outer, inner = pty.openpty()
    fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    variables = {"TERM": "xterm", "NO_COLOR": "", **variables}
    text = b""
    with subprocess.Popen(
        [*ZPIPE, "doctor", "."], cwd=tmp_path, env=environment(**variables), stdout=inner
    ) as process:
        os.close(inner)
        try:
            while some := os.read(outer, 1 << 16):
                text += some
        except OSError as error:
            assert error.errno == errno.EIO  # nobody has its other side any more
        os.close(outer)
    assert process.returncode == 0
    assert (b"\033[1mHOST\033[0m" in text) is coloured
    assert (b"\033" in text) is coloured
    plain = re.sub(r"\033\[\d+m", "", text.decode())
    assert max(map(len, plain.partition("WORTH DOING")[0].splitlines())) <= 80


FOUND = Examination(
    (
        Finding("host", "kernel", "kernel", "fact", "Linux"),
        Finding(
            "moving", "tee", "tee pipe to pipe", "refused", "tee: EPERM", errno=1, effect="slow"
        ),
        Finding("moving", "a", "a", "ok"),
        Finding("moving", "b", "b", "ok"),
        Finding("path", "reflink", "reflink", "refused", "no", path="/a", effect="copies"),
        Finding("path", "reflink", "reflink", "refused", "no", path="/b\033", effect="copies"),
        Finding("path", "reflink", "reflink", "ok", path="/c"),
        Finding("limits", "x", "x", "unknown", "not there"),
        Finding("limits", "y", "y", "unknown", "not there"),
        Finding("limits", "z", "z", "hung", "cut off"),
    ),
    (Advice("x", "it is better", "do --it"),),
)
SHOWN = """\
HOST
  kernel                     Linux

MOVING BYTES
  tee pipe to pipe  no       tee: EPERM
  all others        ok       a, b

FILES IN /a AND /b\\x1b
  reflink           no       no

FILES IN /c
  reflink           ok

LIMITS
  z                 hung     cut off
  all others        unknown  not there: x, y

WHAT FOLLOWS
  tee pipe to pipe: slow
  reflink in /a and /b\\x1b: copies

WORTH DOING, as root
  it is better:
      do --it"""


def test_the_table_as_it_is_shown() -> None:
    assert table(FOUND, 80) == SHOWN
    assert table(Examination((), ()), 80) == "WORTH DOING\n  nothing"


def test_colours_change_nothing_else() -> None:
    coloured = table(FOUND, 80, colour=True)
    assert "\033[31mno\033[0m" in coloured
    assert re.sub(r"\033\[\d+m", "", coloured) == SHOWN


@pytest.mark.parametrize("width", [60, 80, 100])
def test_the_table_keeps_to_the_width(width: int, tmp_path: Path) -> None:
    from zpipe.doctor.examine import examine

    found = examine([str(tmp_path)])
    commands = {f"      {each.command}" for each in found.advice}
    paths = (str(tmp_path), sys.executable)
    for line in table(found, width).splitlines():
        assert line == line.rstrip()
        assert len(line) <= width or line in commands or any(path in line for path in paths)


def test_the_document_of_a_finding() -> None:
    found = json.loads(json.dumps(document(FOUND)))
    assert found["findings"][1] == {
        "group": "moving",
        "name": "tee",
        "path": None,
        "state": "refused",
        "value": None,
        "errno": "EPERM",
        "detail": "tee: EPERM",
        "effect": "slow",
    }
    assert found["advice"] == [{"name": "x", "why": "it is better", "command": "do --it"}]


def test_the_manual_tells_every_field_and_state() -> None:
    page = (ROOT / "man/man1/zpipe-doctor.1").read_text()
    part = page.partition("\n.Sh JSON\n")[2].partition("\n.Sh ")[0]
    told = set(
        re.findall(r"\w+", " ".join(re.findall(r"^(?:\.It )?\.?Va (.*)$", part, re.MULTILINE)))
    )
    assert told >= KEYS | {"advice", "findings", "why", "command"}
    states = " ".join(re.findall(r"^\.Cm (.*)$", part, re.MULTILINE))
    assert set(re.findall(r"\w+", states)) == STATES


def test_nothing_is_changed_below_the_places(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"bytes")
    before = os.stat(tmp_path / "file")
    went_well(zpipe("doctor", tmp_path / "file"))
    after = os.stat(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"bytes"
    assert (before.st_mtime_ns, before.st_ctime_ns) == (after.st_mtime_ns, after.st_ctime_ns)
    assert stat.S_ISREG(after.st_mode)
    assert os.listdir(tmp_path) == ["file"]


def test_help_has_an_example() -> None:
    assert COMMAND.epilog is not None
    assert "zpipe doctor" in COMMAND.epilog
