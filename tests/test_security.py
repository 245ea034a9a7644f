"""What zpipe-security(7) says: that the tests which it names are there, and what no other shows."""

from __future__ import annotations

import array
import ast
import functools
import json
import os
import re
import shlex
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections import Counter
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import TYPE_CHECKING

import pytest

import zpipe
from tests.commands.shell import refused, went_well
from tests.machine import (
    LONGEST,
    ROOT,
    as_stranger,
    content,
    environment,
    in_bash,
    mounted,
    need,
    need_root,
    started,
    strace,
    until,
)
from tests.machine import zpipe as run_zpipe
from tests.proxy.proxying import asked, connected, echo, exactly, proxying, serving
from tests.test_manual import examples
from zpipe.bench.scratch import Scratch
from zpipe.commands.proxy import COMMAND as PROXY
from zpipe.endpoints import parse
from zpipe.endpoints.replace import Replacement
from zpipe.engine.spill import Spill
from zpipe.errors import TransferError, UsageError
from zpipe.proxy.access_log import AccessLog
from zpipe.proxy.capture import Recorder
from zpipe.proxy.loop import Loop
from zpipe.proxy.settings import Capture
from zpipe.tree.division import Division
from zpipe.tree.place import Place
from zpipe.tree.tasks import identity_of
from zpipe.tree.wishes import TreeWishes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PAGE = ROOT / "man/man7/zpipe-security.7"
NAMED = re.compile(r'^\.\\" test: (\S+)::(\w+)$', re.MULTILINE)
NOBODY = 65534
SECRET = b"a secret of somebody"
COMMANDS = "; touch done $(touch done) `touch done` | touch done > done & touch done\n*"


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A file of somebody, to which links are planted."""
    path = tmp_path / "victim"
    path.write_bytes(SECRET)
    path.chmod(0o600)
    return path


@functools.cache
def names_in(module: str) -> frozenset[str]:
    tree = ast.parse((ROOT / module).read_text())
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


@pytest.mark.parametrize("page", ["zpipe-security", "zpipe-techniques"])
def test_the_tests_that_a_page_names_are_there(page: str) -> None:
    named = NAMED.findall((ROOT / f"man/man7/{page}.7").read_text())
    assert len(named) > 10
    assert not [f"{module}::{name}" for module, name in named if name not in names_in(module)]


# Description


@pytest.mark.parametrize(
    "words", [("cp", "source", "target"), ("check", "recipe.yaml"), ("status",)]
)
def test_no_configuration_is_read(words: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "source").write_bytes(b"data")
    (tmp_path / "recipe.yaml").write_text("zpipe: 1\nnodes: {a: b, c: d}\nedges: [a -> c]\n")
    log = tmp_path / "log"
    folders = ("HOME", "XDG_CONFIG_HOME", "XDG_CONFIG_DIRS", "XDG_DATA_HOME")
    env = environment(**dict.fromkeys(folders, str(tmp_path / "home")))
    trace = strace("-o", str(log), "-e", "trace=%file")
    run_zpipe(*words, before=trace, env=env, cwd=tmp_path)
    named = re.findall(r'"([^"]*)"', log.read_text())
    assert any(name.endswith("/zpipe/cli.py") or "/zpipe/__pycache__/" in name for name in named)
    assert not [name for name in named if name.startswith((f"{tmp_path}/home", "/etc/zpipe"))]


# Privileges


def status_of(pid: int, *fields: str) -> set[tuple[str, ...]]:
    """Return what /proc tells of each thread of a process."""
    found = set()
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/status") as file:
            lines = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
        found.add(tuple(lines[field] for field in fields))
    return found


def test_what_is_opened_before_is_of_root_and_what_comes_later_is_of_the_user(
    tmp_path: Path,
) -> None:
    """And with root the capabilities have gone, of all threads."""
    need_root()
    tmp_path.chmod(0o777)
    words = ("--user=nobody", "--capture=tapes", "--access-log=log", "--metrics=unix:asked")
    with (
        serving(echo) as server,
        proxying(server.text, *words, listen=("unix:door",), cwd=tmp_path) as proxy,
        connected(f"unix:{tmp_path}/door") as client,
    ):
        assert asked(client, b"x") == b"x"
        caps = status_of(proxy.pid, "CapPrm", "CapEff", "CapAmb")
        assert caps == {("0" * 16,) * 3}
    owners = {path.name: path.lstat().st_uid for path in tmp_path.iterdir()}
    assert owners == {"door": 0, "asked": 0, "tapes": NOBODY, "log": NOBODY}
    assert {path.stat().st_uid for path in (tmp_path / "tapes").iterdir()} == {NOBODY}


def test_a_report_is_opened_before_rights_are_given_up(tmp_path: Path) -> None:
    need_root()
    (tmp_path / "recipe.yaml").write_text(
        "zpipe: 1\nservice: {user: nobody}\nnodes: {a: {zero: true, size: 5}, b: 'null:'}\n"
        "edges: [a -> b]\nproxies: {p: {listen: '127.0.0.1:0', upstreams: '127.0.0.1:1'}}\n"
    )
    with started("run", "--report=report", "recipe.yaml", cwd=tmp_path) as process:
        assert process.stderr is not None
        assert process.stderr.readline()  # it serves
        (owner,) = status_of(process.pid, "Uid")
        assert set(owner[0].split()) == {str(NOBODY)}
        process.terminate()
        process.wait(LONGEST)
    assert (tmp_path / "report").stat().st_uid == 0
    assert (tmp_path / "report").read_bytes()


def test_with_a_group_alone_the_user_stays_root() -> None:
    need_root()
    with proxying("--group=65534", "127.0.0.1:1") as proxy:
        same = ("\t".join([str(NOBODY)] * 4), "\t".join(["0"] * 4))
        assert {(gid, uid) for gid, uid, _ in status_of(proxy.pid, "Gid", "Uid", "CapEff")} == {
            same
        }
        assert {cap for (cap,) in status_of(proxy.pid, "CapEff")} != {"0" * 16}


def test_a_path_that_the_user_may_not_remove_stays_and_is_replaced(tmp_path: Path) -> None:
    need_root()
    tmp_path.chmod(0o755)
    door = tmp_path / "door"
    for _ in range(2):
        with proxying("--user=nobody", "127.0.0.1:1", listen=(f"unix:{door}",)) as proxy:
            with connected(f"unix:{door}"):
                pass
            proxy.process.terminate()
            proxy.process.wait(LONGEST)
        assert stat.S_ISSOCK(door.lstat().st_mode)


def test_groups_of_the_user_are_not_taken_on(tmp_path: Path) -> None:
    """Nor are those kept that root had."""
    need_root()
    with_groups = ["setpriv", "--groups=1,2,3", "--"]
    with (
        serving(echo) as server,
        proxying(server.text, "--user=nobody", before=with_groups) as proxy,
    ):
        assert status_of(proxy.pid, "Groups") == {(f"{NOBODY} ",)}


# Sockets


def listening_of(pid: int) -> list[str]:
    """Return where a process listens, as the kernel tells it."""
    own = set()
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):
            own.add(os.readlink(f"/proc/{pid}/fd/{fd}"))
    found = []
    for name in ("tcp", "tcp6"):
        with suppress(FileNotFoundError), open(f"/proc/{pid}/net/{name}") as table:
            for line in table:
                fields = line.split()
                if fields[3] == "0A" and f"socket:[{fields[9]}]" in own:
                    found.append(f"{name}:{int(fields[1].rpartition(':')[2], 16)}")
    with open(f"/proc/{pid}/net/unix") as table:
        for line in table:
            fields = line.split()
            if f"socket:[{fields[6]}]" in own and int(fields[3], 16) & 1 << 16:  # SO_ACCEPTCON
                found.append(fields[7])
    return sorted(found)


def test_nothing_listens_but_what_was_asked_for_and_the_status_socket(tmp_path: Path) -> None:
    where = ("127.0.0.1:0", f"unix:{tmp_path}/door")
    with serving(echo) as server, proxying(server.text, listen=where) as proxy:
        port = proxy.listeners[0].rpartition(":")[2]
        assert listening_of(proxy.pid) == sorted(
            [f"tcp:{port}", f"{tmp_path}/door", f"@zpipe-proxy-{proxy.pid}"]
        )


def test_without_addresses_a_proxy_is_reached_from_this_machine_only() -> None:
    with socket.create_server(("127.0.0.1", 0)) as end:
        port = end.getsockname()[1]
    with proxying(f"192.0.2.1:{port}", listen=()) as proxy:
        hosts = {each.rpartition(":")[0] for each in proxy.listeners}
        assert "127.0.0.1" in hosts
        assert hosts <= {"127.0.0.1", "[::1]"}


def test_an_abstract_name_is_open_to_everybody(tmp_path: Path) -> None:
    name = f"zpipe-security-{os.getpid()}"

    def send() -> None:
        with socket.socket(socket.AF_UNIX) as end:
            end.connect(f"\0{name}")
            end.sendall(b"of a stranger")

    with started("cat", f"unix-listen:@{name}") as process:
        until(lambda: f"@{name}" in listening_of(process.pid), "it listens")
        as_stranger(tmp_path, send)
        assert process.communicate(timeout=LONGEST)[0] == b"of a stranger"


def test_metrics_and_status_name_no_client(tmp_path: Path) -> None:
    words = ("--metrics", f"unix:{tmp_path}/asked")
    with serving(echo) as server, proxying(server.text, *words) as proxy, socket.socket() as client:
        client.settimeout(LONGEST / 2)
        client.bind(("127.1.2.3", 0))
        client.connect(("127.0.0.1", int(proxy.listeners[0].rpartition(":")[2])))
        assert asked(client, b"x") == b"x"
        for path in ("/metrics", "/status"):
            with connected(f"unix:{tmp_path}/asked") as asking:
                asking.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
                text = exactly(asking, 1 << 20).decode()
            assert server.text in text
            assert "127.1.2.3" not in text
        assert "127.1.2.3" not in json.dumps(proxy.snapshot())


def test_descriptors_go_no_further_than_to_the_proxy(tmp_path: Path, victim: Path) -> None:
    """The bytes with which they were sent arrive; the proxy keeps nothing open."""
    came: list[tuple[bytes, list[object]]] = []

    def take(end: socket.socket) -> None:
        data, ancillary, _, _ = end.recvmsg(len(b"with a file"), socket.CMSG_SPACE(64))
        came.append((data, list(ancillary)))
        echo(end)

    where = f"unix:{tmp_path}/upstream"
    with (
        serving(take, where) as server,
        proxying(server.text, listen=(f"unix:{tmp_path}/door",)) as proxy,
        connected(f"unix:{tmp_path}/door") as client,
        open(victim, "rb") as file,
    ):
        fds = array.array("i", [file.fileno()])
        client.sendmsg([b"with a file"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
        assert asked(client, b"x") == b"x"
        assert came == [(b"with a file", [])]
        assert str(victim) not in proxy.fds()


@contextmanager
def halted_at(call: str, *words: str | Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run zpipe until it has made a call; there it stands still while the block runs."""
    inject = f"inject={call}:signal=SIGSTOP:when=1"
    before = strace("-o", str(log), "-e", f"trace={call}", "-e", inject)
    found: list[str] = []

    def halted() -> bool:
        text = log.read_text() if log.exists() else ""
        found[:] = re.findall(r"^(\d+) +--- stopped by SIGSTOP ---$", text, re.MULTILINE)
        return bool(found)

    with started(*words, before=before) as process:
        until(halted, f"{call} was made")
        try:
            yield process
        finally:
            os.kill(int(found[0]), signal.SIGCONT)
            try:
                process.wait(LONGEST)
            except subprocess.TimeoutExpired:
                os.kill(int(found[0]), signal.SIGKILL)
                raise


@pytest.mark.parametrize("command", ["cat", "proxy"])
def test_a_path_of_a_socket_that_becomes_a_link_gives_its_mode_to_nothing_else(
    command: str, tmp_path: Path, victim: Path
) -> None:
    """As where the folder is everybody's, and somebody is quick."""
    need_root()
    door = tmp_path / "door"
    words = {
        "cat": ("cat", f"unix-listen:{door}?mode=0666"),
        "proxy": ("proxy", "--listen", f"unix:{door}?mode=0666&user=1&group=1", "127.0.0.1:1"),
    }[command]
    with halted_at("bind", *words, log=tmp_path / "log") as process:
        (tmp_path / "link").symlink_to(victim)
        os.rename(tmp_path / "link", door)
    assert process.returncode == (1 if command == "cat" else 2)
    assert mode_of(victim) == 0o600
    assert victim.stat().st_uid == 0
    assert door.is_symlink()


def test_a_path_of_a_socket_is_given_its_mode_as_the_file_that_it_is(tmp_path: Path) -> None:
    """Of the calls that name a file none changes it: the name could mean another by then."""
    need_root()
    door, log = tmp_path / "door", tmp_path / "log"
    calls = "trace=bind,listen,openat,/chmod,/chown"
    with (
        serving(echo) as server,
        proxying(
            server.text,
            listen=(f"unix:{door}?mode=0660&user=1&group=2",),
            before=strace("-o", str(log), "-e", calls),
        ),
    ):
        assert mode_of(door) == 0o660
    text = log.read_text()
    made = [
        r"fchmod\(\d+, 0200\)",
        rf'bind\(\d+, \{{sa_family=AF_UNIX, sun_path="{door}"\}}',
        rf'openat\(AT_FDCWD, "{door}", O_RDONLY\|O_NOFOLLOW\|O_CLOEXEC\|O_PATH\)',
        r'chown\("/proc/self/fd/\d+", 1, 2\)',
        r'chmod\("/proc/self/fd/\d+", 0660\)',
        r"listen\(",
    ]
    assert re.search(".*".join(made), text, re.DOTALL), text
    assert not re.findall(rf'ch(?:mod|own)\w*\((?:AT_FDCWD, )?"{door}"', text)


# Files


def opened(log: Path, folder: Path) -> list[tuple[str, str]]:
    """Return name and flags of each file that was made in a folder, by what strace has seen."""
    found = []
    for line in log.read_text().splitlines():
        call = re.search(r'openat\(([^,]+), "([^"]*)", ([A-Z_|]*)(?:, (0\d*))?\) = \d', line)
        if call and "O_CREAT" in call[3] and (str(folder) in line or ".zpipe-" in call[2]):
            found.append((os.path.basename(call[2]), f"{call[3]} {call[4]}"))
    return found


@pytest.mark.parametrize(
    ("words", "size"),
    [
        (("cp",), 100_000),
        (("cp",), 6),
        (("cp", "-r"), 100_000),
        (("cp", "-a"), 6),
        (("cp", "-a", "-j2"), (128 << 20) + 1),
        (("tee", "--when-full=spill"), 6),
    ],
    ids=["one", "small", "tree", "attributes", "ranges", "tee"],
)
def test_temporary_names_are_made_exclusively_and_become_the_target_by_a_rename(
    words: tuple[str, ...], size: int, tmp_path: Path
) -> None:
    source, folder, log = tmp_path / "source", tmp_path / "to", tmp_path / "log"
    (folder / "source").parent.mkdir()
    with open(source, "wb") as file:
        file.write(b"x")
        file.truncate(size)
    if words[0] == "tee":
        words, target = (*words, f"hash:md5?file={folder}/source"), []
    else:
        target = [str(source), f"{folder}/source"]
    trace = strace("-o", str(log), "-y", "-e", "trace=openat,rename,renameat,renameat2")
    with open(source, "rb") as stdin:
        done = run_zpipe(*words, *target, before=trace, stdin=stdin)
    assert done.returncode == 0, done.stderr
    made = dict(opened(log, folder))
    assert made
    for name, flags in made.items():
        assert name.startswith(".source.zpipe-")
        if len(words) == 1:
            assert re.fullmatch(r"[0-9a-f]{12}", name.removeprefix(".source.zpipe-"))
        assert {"O_CREAT", "O_EXCL"} <= set(flags.split()[0].split("|"))
    (renamed,) = [line for line in log.read_text().splitlines() if " rename" in line]
    assert any(f'{name}"' in renamed for name in made)
    assert re.search(r'[/"]source"', renamed)
    assert os.listdir(folder) == ["source"]


@pytest.mark.parametrize("mask", [0, 0o022, 0o077])
@pytest.mark.parametrize("words", [("cp",), ("cp", "-r"), ("cp", "-rp")])
def test_what_replaces_a_file_is_private_until_it_has_its_mode(
    words: tuple[str, ...], mask: int, tmp_path: Path
) -> None:
    source, target, log = tmp_path / "source", tmp_path / "target", tmp_path / "log"
    source.write_bytes(content(100_000))
    target.write_bytes(b"old")
    target.chmod(0o640)
    source.chmod(0o604)
    trace = strace("-o", str(log), "-e", "trace=openat")
    with umask(mask):
        went_well(run_zpipe(*words, source, target, before=trace))
    ((_, flags),) = opened(log, tmp_path)
    assert flags.endswith(" 0600")
    assert "O_NOFOLLOW" in flags
    assert mode_of(target) == (0o604 if "-rp" in words else 0o640)


def test_a_link_under_a_temporary_name_of_a_tree_is_not_followed(
    tmp_path: Path, victim: Path
) -> None:
    (tmp_path / "to").mkdir()
    (tmp_path / "to/.x.zpipe-token-1").symlink_to(victim)
    folder = os.open(tmp_path / "to", os.O_RDONLY | os.O_DIRECTORY)
    try:
        place = Place(folder, "x", ".x.zpipe-token-1", 0o600)
        os.write(place.fd, b"data")
        place.commit()
    finally:
        os.close(folder)
    assert victim.read_bytes() == SECRET
    assert (tmp_path / "to/x").read_bytes() == b"data"
    assert not (tmp_path / "to/x").is_symlink()


def test_a_link_under_a_temporary_name_of_a_replaced_file_is_not_followed(
    tmp_path: Path, victim: Path
) -> None:
    (tmp_path / "target").write_bytes(b"old")
    (tmp_path / ".target.zpipe-mine").symlink_to(victim)
    replacement = Replacement(str(tmp_path / "target"), temporary=".target.zpipe-mine")
    os.write(replacement.fd, b"new")
    replacement.commit()
    assert victim.read_bytes() == SECRET
    assert (tmp_path / "target").read_bytes() == b"new"


def test_a_link_under_a_temporary_name_of_ranges_gets_no_attributes(
    tmp_path: Path, victim: Path
) -> None:
    source = tmp_path / "source"
    with open(source, "wb") as file:
        file.truncate(128 << 20)
    source.chmod(0o666)
    wishes = TreeWishes(reflink="never", preserve=frozenset({"mode", "timestamps"}))
    division = Division(
        *(str(source), str(tmp_path / "target"), wishes, None, None, "token", 1),
        identity_of(source.stat()),
        0o022,
    )
    os.unlink(division.temporary)
    os.symlink(victim, division.temporary)
    with suppress(TransferError):
        division.commit()
    assert mode_of(victim) == 0o600


def temporary_in(folder: Path) -> Path:
    (name,) = (name for name in os.listdir(folder) if ".zpipe-" in name)
    return folder / name


def test_a_special_file_that_becomes_a_link_gives_its_attributes_to_nothing_else(
    tmp_path: Path, victim: Path
) -> None:
    need_root()
    for name in ("from", "to"):
        (tmp_path / name).mkdir()
    os.mkfifo(tmp_path / "from/fifo")
    os.chown(tmp_path / "from/fifo", NOBODY, NOBODY)
    os.chmod(tmp_path / "from/fifo", 0o4777)
    words = ("cp", "-a", f"{tmp_path}/from/.", f"{tmp_path}/to")
    with halted_at("mknodat", *words, log=tmp_path / "log") as process:
        temporary = temporary_in(tmp_path / "to")
        temporary.unlink()
        temporary.symlink_to(victim)
    assert process.returncode == 1
    assert (mode_of(victim), victim.stat().st_uid) == (0o600, 0)


def test_a_symbolic_link_that_becomes_another_file_gives_it_no_owner(
    tmp_path: Path, victim: Path
) -> None:
    need_root()
    for name in ("from", "to"):
        (tmp_path / name).mkdir()
    (tmp_path / "from/link").symlink_to("nowhere")
    os.lchown(tmp_path / "from/link", NOBODY, NOBODY)
    words = ("cp", "-a", f"{tmp_path}/from/.", f"{tmp_path}/to")
    with halted_at("symlinkat", *words, log=tmp_path / "log") as process:
        temporary = temporary_in(tmp_path / "to")
        temporary.unlink()
        os.link(victim, temporary)
    assert process.returncode == 1
    assert victim.stat().st_uid == 0


@pytest.mark.parametrize("planted", ["link", "fifo"])
def test_what_is_verified_is_what_was_written_and_nothing_else(
    planted: str, tmp_path: Path, victim: Path
) -> None:
    """Its mode waits until it was read back; and of a FIFO nobody would ever write anything."""
    need_root()
    for name in ("from", "to"):
        (tmp_path / name).mkdir()
    (tmp_path / "from/file").write_bytes(SECRET)  # the digest of the victim is the same
    (tmp_path / "from/file").chmod(0o066)
    words = ("cp", "-a", "--verify", f"{tmp_path}/from/.", f"{tmp_path}/to")
    with halted_at("syncfs", *words, log=tmp_path / "log") as process:
        temporary = temporary_in(tmp_path / "to")
        temporary.unlink()
        if planted == "link":
            temporary.symlink_to(victim)
        else:
            os.mkfifo(temporary)
    assert process.returncode == 1
    assert mode_of(victim) == 0o600


def test_ranges_are_written_to_the_file_that_was_made_and_to_no_other(tmp_path: Path) -> None:
    need_root()
    for name in ("from", "to"):
        (tmp_path / name).mkdir()
    with open(tmp_path / "from/big", "wb") as file:
        file.truncate(1 << 30)
        file.seek(100 << 20)
        file.write(SECRET)
    mine = tmp_path / "mine"
    words = ("cp", "-r", "-j2", "--reflink=never", f"{tmp_path}/from/.", f"{tmp_path}/to")
    with halted_at("ftruncate", *words, log=tmp_path / "log") as process:
        temporary = temporary_in(tmp_path / "to")
        temporary.unlink()
        temporary.touch(0o666)
        os.link(temporary, mine)
    assert process.returncode == 1
    assert mine.stat().st_blocks == 0


def test_a_link_of_a_tree_is_not_gone_through(tmp_path: Path) -> None:
    (tmp_path / "from/sub").mkdir(parents=True)
    (tmp_path / "from/sub/file").write_bytes(b"data")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "to").mkdir()
    (tmp_path / "to/sub").symlink_to("../elsewhere")
    done = run_zpipe("cp", "-r", f"{tmp_path}/from/.", tmp_path / "to")
    assert done.returncode == 1
    assert os.listdir(tmp_path / "elsewhere") == []


@pytest.mark.parametrize("kind", ["link", "of somebody", "fifo", "huge"])
def test_a_journal_that_somebody_has_planted_is_refused(
    kind: str, tmp_path: Path, victim: Path
) -> None:
    need_root()
    (tmp_path / "from").mkdir()
    (tmp_path / "from/file").write_bytes(b"data")
    (tmp_path / "to").mkdir()
    planted = tmp_path / "to/.zpipe-journal"
    if kind == "link":
        planted.symlink_to(victim)
    elif kind == "fifo":
        os.mkfifo(planted)  # nobody would ever write to it
    else:
        planted.touch()
        os.truncate(planted, 3 << 30 if kind == "huge" else 0)
        os.chown(planted, NOBODY, NOBODY)
    little = [need("prlimit"), f"--as={1 << 30}"]
    words = ("cp", "-r", "--resume", tmp_path / "from", tmp_path / "to")
    done = run_zpipe(*words, before=little)
    assert victim.read_bytes() == SECRET
    refused(done, 1, ".zpipe-journal: open: ")


def test_a_log_and_a_report_follow_a_link_as_a_shell_does(tmp_path: Path) -> None:
    for name in ("log", "report"):
        (tmp_path / name).symlink_to(tmp_path / f"real-{name}")
    loop = Loop()
    with closing(loop), umask(0), closing(AccessLog(str(tmp_path / "log"), "text", loop)):
        assert mode_of(tmp_path / "real-log") == 0o640
    (tmp_path / "recipe.yaml").write_text("zpipe: 1\nnodes: {a: {zero: true, size: 5}, b: x}\n")
    with open(tmp_path / "recipe.yaml", "a") as file:
        file.write("edges: [a -> b]\n")
    done = run_zpipe("run", "--quiet", "--report=report", "recipe.yaml", cwd=tmp_path)
    went_well(done)
    assert (tmp_path / "real-report").read_bytes()


def test_spilled_data_has_no_name_and_is_private(tmp_path: Path) -> None:
    log, folder = tmp_path / "log", tmp_path / "spill"
    folder.mkdir()
    (tmp_path / "big").write_bytes(content(3 << 20))
    trace = strace("-o", str(log), "-e", "trace=openat")
    with umask(0):
        env = environment(TMPDIR=str(folder))
        done = run_zpipe("cat", "--buffer=8M", tmp_path / "big", before=trace, env=env)
    assert done.stdout == content(3 << 20), done.stderr
    made = [line for line in log.read_text().splitlines() if f'"{folder}' in line]
    assert made
    assert all("O_TMPFILE" in line and ", 0600)" in line for line in made)
    assert os.listdir(folder) == []


def test_where_files_need_a_name_one_is_spilled_to_that_has_lost_it(tmp_path: Path) -> None:
    """The filesystem is made to answer as those do that have no O_TMPFILE."""
    program = (
        "import os, sys\n"
        "from collections import Counter\n"
        "from zpipe.engine.spill import Spill\n"
        "spill = Spill(sys.argv[1], 100, Counter())\n"
        "info = os.fstat(spill._segments[0].fd)\n"
        "print(oct(info.st_mode & 0o777), info.st_nlink, os.listdir(sys.argv[1]))\n"
    )
    folder, log = tmp_path / "spill", tmp_path / "log"
    folder.mkdir()
    words = strace(
        *("-o", str(log), "-P", str(folder), "-e", "trace=openat"),
        *("-e", "inject=openat:error=EOPNOTSUPP:when=1"),
    )
    done = subprocess.run(
        [*words, sys.executable, "-c", program, folder],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=LONGEST,
        check=False,
    )
    assert "O_TMPFILE" in log.read_text()
    assert done.stdout == "0o600 0 []\n", done.stderr


def test_the_clone_of_a_stable_source_has_no_name_and_is_private(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with mounted("xfs", tmp_path / "shares", 512 << 20) as folder:
        (folder / "source").write_bytes(content(1 << 20))
        trace = strace("-o", str(log), "-e", "trace=openat,ioctl")
        with umask(0):
            done = run_zpipe("cp", "--stable", folder / "source", "-", before=trace)
        assert done.stdout == content(1 << 20), done.stderr
        assert os.listdir(folder) == ["source"]
    assert "FICLONE" in log.read_text()
    (made,) = [line for line in log.read_text().splitlines() if "O_TMPFILE" in line]
    assert f'"{folder}"' in made
    assert ", 0600)" in made


def test_what_is_spilled_is_gone_with_the_process(tmp_path: Path) -> None:
    """It has no name: nobody can open it later, and nothing has to be tidied up."""
    with closing(Spill(str(tmp_path), 100, Counter())):
        assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", [".state", "index.jsonl"])
def test_a_link_in_a_folder_of_captures_is_not_followed(
    name: str, tmp_path: Path, victim: Path
) -> None:
    (tmp_path / "tapes").mkdir()
    (tmp_path / "tapes" / name).symlink_to(victim)
    with pytest.raises(UsageError, match="tapes: capture: "):
        Recorder(Capture(str(tmp_path / "tapes")), lambda pipe: None)
    assert victim.read_bytes() == SECRET


@pytest.mark.parametrize("name", [".state", "index.jsonl"])
@pytest.mark.parametrize("kind", ["another name", "of somebody", "FIFO"])
def test_what_somebody_has_planted_in_a_folder_of_captures_is_refused(
    kind: str, name: str, tmp_path: Path, victim: Path
) -> None:
    folder = tmp_path / "tapes"
    folder.mkdir()
    if kind == "another name":
        os.link(victim, folder / name)
    elif kind == "FIFO":
        os.mkfifo(folder / name)
    else:
        need_root()
        (folder / name).touch()
        os.chown(folder / name, NOBODY, NOBODY)
    with pytest.raises(UsageError) as caught:
        Recorder(Capture(str(folder)), lambda pipe: None)
    why = f"{name} is a file of somebody else, or a link"
    assert str(caught.value) == f"{folder}: capture: {why}"
    assert victim.read_bytes() == SECRET


@pytest.mark.parametrize("kind", ["of somebody", "FIFO"])
def test_what_has_taken_the_place_of_a_recording_is_not_written_to(
    kind: str, tmp_path: Path
) -> None:
    """Only so many files are kept open: that of a connection is opened again for what comes."""
    need_root()
    said: list[str] = []
    recorder = Recorder(Capture(str(tmp_path / "tapes")), lambda pipe: None, said.append)
    try:
        tapes = [recorder.connection(0.0, "peer", "listener") for _ in range(100)]
        for tape in tapes:
            tape.data(True, b"x")
        until(lambda: recorder.bytes == 100, "all are written")
        taken = tmp_path / f"tapes/{tapes[0].id}.up"
        taken.unlink()
        if kind == "FIFO":
            os.mkfifo(taken)
        else:
            taken.write_bytes(b"y")
            os.chown(taken, NOBODY, NOBODY)
        tapes[0].data(True, b"a password")
        for tape in tapes:
            tape.end("there", "closed")
    finally:
        recorder.close(LONGEST)
    assert [each.partition(".up: ")[0] for each in said] == [
        f"{tmp_path}/tapes: capture: {tapes[0].id}"
    ]
    if kind != "FIFO":
        assert taken.read_bytes() == b"y"


def test_a_folder_of_captures_that_is_there_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "tapes").mkdir()
    (tmp_path / "tapes").chmod(0o755)
    recorder = Recorder(Capture(str(tmp_path / "tapes")), lambda pipe: None)
    recorder.close(1.0)
    assert mode_of(tmp_path / "tapes") == 0o755


def test_a_folder_of_benchmarks_is_private_and_goes(tmp_path: Path) -> None:
    with umask(0), Scratch(str(tmp_path), 0) as scratch:
        (folder,) = tmp_path.iterdir()
        assert str(folder) == scratch.folder
        assert mode_of(folder) == 0o700
    assert os.listdir(tmp_path) == []


# Programs


def test_a_name_with_a_folder_before_it_is_never_a_command(tmp_path: Path) -> None:
    assert parse("exec:true", sink=True).kind == "exec"
    for name in ("./exec:true", f"{tmp_path}/exec:true", "../tcp://host:1"):
        assert parse(name, sink=True).kind == "file"
    (tmp_path / "source").write_bytes(b"data")
    went_well(run_zpipe("cp", "source", "./exec:touch done", cwd=tmp_path))
    assert sorted(os.listdir(tmp_path)) == ["exec:touch done", "source"]


def carried(tmp_path: Path, node: str, value: str) -> list[bytes]:
    """Return the words that a program of a recipe gets, where `${X}` is a value."""
    (tmp_path / "recipe.yaml").write_text(
        f"zpipe: 1\nparams: {{X: {{}}}}\nnodes:\n  a: {node}\n  b: words\nedges: [a -> b]\n"
    )
    went_well(run_zpipe("run", "--quiet", "recipe.yaml", "-p", f"X={value}", cwd=tmp_path))
    assert sorted(os.listdir(tmp_path)) == ["recipe.yaml", "words"]
    return (tmp_path / "words").read_bytes().split(b"\0")[:-1]


def test_a_value_in_a_list_stays_one_word_and_runs_nothing(tmp_path: Path) -> None:
    words = carried(tmp_path, '{exec: [printf, "%s\\\\0", "${X}"]}', COMMANDS)
    assert words == [COMMANDS.encode()]


def test_a_value_in_a_text_becomes_words_and_runs_nothing(tmp_path: Path) -> None:
    words = carried(tmp_path, r"""{exec: 'printf "%s\\0" ${X}'}""", COMMANDS)
    assert words == [word.encode() for word in shlex.split(COMMANDS)]


def test_a_value_for_a_whole_address_may_be_a_command_but_not_for_a_file(tmp_path: Path) -> None:
    value = r"exec:printf '%s\0' run"
    assert carried(tmp_path, "${X}", value) == [b"run"]
    (tmp_path / "words").unlink()
    (tmp_path / "recipe.yaml").write_text(
        "zpipe: 1\nparams: {X: {}}\nnodes: {a: {file: '${X}'}, b: words}\nedges: [a -> b]\n"
    )
    done = run_zpipe("run", "--quiet", "recipe.yaml", "-p", f"X={value}", cwd=tmp_path)
    refused(done, 1, "No such file or directory")


def test_a_value_is_read_neither_as_yaml_nor_for_references(tmp_path: Path) -> None:
    value = '"}\nedges: [b -> a]\n${X} ${env:HOME} !!python/object:os.system'
    words = carried(tmp_path, '{exec: [printf, "%s\\\\0", "${X}"]}', value)
    assert words == [value.encode()]


def test_a_program_has_the_standard_descriptors_and_no_others(tmp_path: Path) -> None:
    script = f"{shlex.quote(sys.executable)} -c 'import os; print(os.listdir(\"/proc/self/fd\"))'"
    with ExitStack() as stack:
        reader, writer = os.pipe()
        stack.callback(os.close, reader)
        stack.callback(os.close, writer)
        os.set_inheritable(writer, True)
        done = run_zpipe("cat", f"exec:{script}", pass_fds=[writer])
    went = set(ast.literal_eval(done.stdout.decode()))
    assert {"0", "1", "2"} < went
    assert len(went) == 4  # and that of the folder


def test_a_program_has_rights_environment_and_folder_of_zpipe(tmp_path: Path) -> None:
    words = "printf '%s\\n' \"$PWD $(id -u) $(umask) $MORE\""
    script = tmp_path / "script"
    script.write_text(f"#!/bin/sh\ncd -P . && {words}\n")
    script.chmod(0o700)
    with umask(0o027):
        done = run_zpipe("cat", "exec:./script", cwd=tmp_path, env=environment(MORE="than usual"))
    went_well(done)
    folder = os.path.realpath(tmp_path)
    assert done.stdout.decode() == f"{folder} {os.geteuid()} 0027 than usual\n"


# Peers


def test_an_orderly_end_is_an_end_however_little_came(tmp_path: Path) -> None:
    """No sender is known from another, and none can say how much there is to come."""
    door, target = tmp_path / "door", tmp_path / "target"

    def send() -> None:
        deadline = threading.Event()
        while not deadline.wait(0.002):
            with (
                suppress(FileNotFoundError, ConnectionRefusedError),
                socket.socket(socket.AF_UNIX) as end,
            ):
                end.connect(str(door))
                end.sendall(b"half of it")
                return

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    zpipe.copy(f"unix-listen:{door}", str(target))
    sender.join(LONGEST)
    assert target.read_bytes() == b"half of it"
    assert not door.exists()


def test_a_stranger_is_taken_no_more_from_than_was_said(tmp_path: Path) -> None:
    went_well(run_zpipe("cp", "--length=10", "zero:", tmp_path / "target"))
    assert (tmp_path / "target").read_bytes() == bytes(10)


# The manual


@pytest.mark.parametrize("text", examples(PAGE))
def test_examples_of_the_manual_make_sense(text: str, tmp_path: Path) -> None:
    if "check" not in text:
        _, _, *words = shlex.split(text)
        PROXY.make_context("proxy", words)
        return
    (tmp_path / "strange.yaml").write_text(
        "zpipe: 1\nnodes: {a: 'exec:touch done', b: made}\nedges: [a -> b]\n"
    )
    in_bash(text, tmp_path)
    assert os.listdir(tmp_path) == ["strange.yaml"]
