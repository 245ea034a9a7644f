"""Programs that people use, through `zpipe proxy`: each has its own way with a connection.

Every server here is a real one on loopback; where it can serve one connection on its standard
input (git, rsync, sshd), `serving` starts it so, and no port has to be found for it.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import subprocess
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.machine import LONGEST, ZPIPE, content, environment, missing, need, until
from tests.proxy.proxying import connected, proxying, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

MIB = 1 << 20
# Programs that refuse to run as root run as another user who may open every file all the same: the
# folders of the tests are closed to others.
NOT_ROOT = (
    "--reuid=65534",
    "--regid=65534",
    "--clear-groups",
    "--inh-caps=+dac_override",
    "--ambient-caps=+dac_override",
)


def run(
    command: Sequence[str | Path],
    *,
    data: bytes | None = None,
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
    code: int = 0,
) -> bytes:
    """Run a client to its end, with the exit status that is expected; return what it wrote."""
    done = subprocess.run(
        command,
        input=data,
        stdin=subprocess.DEVNULL if data is None else None,
        capture_output=True,
        cwd=cwd,
        env=environment() if env is None else env,
        timeout=LONGEST,
        check=False,
    )
    told = (done.stdout[-1000:] + done.stderr[-2000:]).decode(errors="replace")
    assert done.returncode == code, f"{command[0]} ended with {done.returncode}: {told}"
    return done.stdout


def service(program: str) -> str:
    """Return the path of a server, which may be where users do not look; or skip."""
    folders = ["/usr/sbin", "/sbin", *map(str, Path("/usr/lib/postgresql").glob("*/bin"))]
    found = shutil.which(program, path=":".join([os.environ["PATH"], *folders]))
    return found if found is not None else missing(f"{program} is not installed")


@contextmanager
def running(command: Sequence[str | Path], ready: Callable[[], object]) -> Iterator[None]:
    """Run a server until the end of the block; it is told to end then."""
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as server:
        assert server.stdout is not None

        def serves() -> object:
            if server.poll() is not None:
                assert server.stdout is not None
                pytest.fail(f"{command[0]} has ended: {server.stdout.read().decode()}")
            return ready()

        try:
            until(serves, f"{command[0]} serves")
            yield
        finally:
            server.terminate()
            try:
                server.communicate(timeout=LONGEST)
            finally:
                server.kill()


def free_port() -> int:
    """Return a port at which nobody listens, for a server that takes no other wish."""
    with socket.socket() as end:
        end.bind(("127.0.0.1", 0))
        return int(end.getsockname()[1])


def accepts(text: str) -> Callable[[], bool]:
    """Return what tells whether somebody listens there."""

    def tried() -> bool:
        with suppress(OSError):
            connected(text).close()
            return True
        return False

    return tried


def port_of(listener: str) -> str:
    return listener.rpartition(":")[2]


def answering(
    *words: str | Path, env: dict[str, str] | None = None
) -> Callable[[socket.socket], object]:
    """Return what runs a command for each connection, with it as standard input and output."""
    command = [str(word) for word in words]

    def answer(end: socket.socket) -> None:
        end.setblocking(True)  # the command has the same open socket
        with subprocess.Popen(
            command, stdin=end.fileno(), stdout=end.fileno(), stderr=subprocess.DEVNULL, env=env
        ) as child:
            try:
                child.wait(LONGEST)
            finally:
                child.kill()

    return answer


@contextmanager
def postgresql(folder: Path) -> Iterator[list[str]]:
    """Run a PostgreSQL of its own; its addresses."""
    initdb, postgres = service("initdb"), service("postgres")
    before: list[str | Path] = []
    data = folder / "data"
    data.mkdir(mode=0o700)
    if os.geteuid() == 0:
        before = [need("setpriv"), *NOT_ROOT]
        os.chown(data, 65534, 65534)
    port = free_port()
    words = ["--no-sync", "--auth=trust", "--username=postgres", "--no-locale", "--encoding=UTF8"]
    run([*before, initdb, "-D", data, *words])
    options = {
        "listen_addresses": "127.0.0.1",
        "port": port,
        "unix_socket_directories": data,
        "fsync": "off",
        "shared_buffers": "16MB",
    }
    settings = [word for key, value in options.items() for word in ("-c", f"{key}={value}")]
    command = [*before, postgres, "-D", data, *settings]
    path = data / f".s.PGSQL.{port}"
    asked = [need("pg_isready"), "-q", "-h", str(data), "-p", str(port)]
    with running(command, lambda: not subprocess.run(asked, check=False).returncode):
        yield [f"127.0.0.1:{port}", f"unix:{path}"]


def test_postgresql_works_by_tcp_and_unix_sockets_on_either_side(tmp_path: Path) -> None:
    pgbench, psql = need("pgbench"), need("psql")
    listen = ["127.0.0.1:0", f"unix:{tmp_path}/.s.PGSQL.1"]
    lines = content(3 * MIB).hex().encode()
    table = b"".join(
        b"%d\t%s\n" % (number, lines[number * 600 : number * 600 + 600])
        for number in range(len(lines) // 600)
    )
    with postgresql(tmp_path) as upstreams, proxying(*upstreams, listen=listen) as proxy:
        tcp = ["-h", "127.0.0.1", "-p", port_of(proxy.listeners[0]), "-U", "postgres"]
        unix = ["-h", str(tmp_path), "-p", "1", "-U", "postgres"]

        def ask(where: list[str], wish: str, data: bytes | None = None) -> bytes:
            return run([psql, *where, "-qAtX", "-v", "ON_ERROR_STOP=1", "-c", wish], data=data)

        run([pgbench, *tcp, "-i", "-q", "postgres"])
        for where in (tcp, unix):
            run([pgbench, *where, "-n", "-c", "4", "-t", "25", "-M", "prepared", "postgres"])
        assert ask(tcp, "SELECT count(*) FROM pgbench_history") == b"200\n"
        sums = "SELECT sum(abalance) FROM pgbench_accounts UNION SELECT sum(delta) FROM "
        assert ask(unix, f"{sums} pgbench_history").count(b"\n") == 1  # the two are equal

        ask(tcp, "CREATE TABLE big (number int, line text)")
        for into, out in ((tcp, unix), (unix, tcp)):
            ask(into, "COPY big FROM STDIN", table)
            assert ask(out, "COPY (SELECT * FROM big ORDER BY number) TO STDOUT") == table
            ask(out, "TRUNCATE big")
        found = proxy.until_idle()
        assert [one["connections"] > 5 for one in found["upstreams"]] == [True, True]
        assert set(found["connections"]["closed"]) <= {"closed", "client-left"}


@contextmanager
def redis(folder: Path) -> Iterator[int]:
    """Run a Redis that keeps nothing; its port."""
    port = free_port()
    command = [service("redis-server"), "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    folder.mkdir()
    with running([*command, "--dir", folder], accepts(f"127.0.0.1:{port}")):
        yield port


def test_redis_works_pipelined_with_big_values_and_a_second_one_as_its_mirror(
    tmp_path: Path,
) -> None:
    benchmark, client = need("redis-benchmark"), need("redis-cli")
    big = content(20 * MIB)
    with redis(tmp_path / "one") as first, redis(tmp_path / "two") as second:

        def ask(port: int | str, *words: str, data: bytes | None = None) -> bytes:
            return run([client, "-p", str(port), *words], data=data)

        mirror = f"127.0.0.1:{second}?when_full=block"
        with proxying(f"127.0.0.1:{first}", "--mirror", mirror) as proxy:
            port = port_of(proxy.listeners[0])
            words = [
                "-c",
                "20",
                "-n",
                "4000",
                "-P",
                "16",
                "-r",
                "1000000",
                "-q",
                "-t",
                "set,get,lpush",
            ]
            run([benchmark, "-h", "127.0.0.1", "-p", port, *words])
            assert ask(port, "-x", "SET", "big", data=big) == b"OK\n"
            assert ask(port, "GET", "big") == big + b"\n"
            found = proxy.until_idle()
            assert set(found["connections"]["closed"]) == {"closed"}
            assert found["mirrors"][0]["given_up"] == {}
            assert found["bytes"]["lost"] == 0
            calls = ask(first, "INFO", "commandstats").decode()
            assert "cmdstat_set:calls=4001," in calls
            assert "cmdstat_get:calls=4001," in calls
            assert "cmdstat_lpush:calls=4000," in calls
            # a mirror is not waited for at the end of a connection, and has its own pace
            state = [ask(first, "DBSIZE"), ask(first, "LLEN", "mylist")]
            until(
                lambda: [ask(second, "DBSIZE"), ask(second, "LLEN", "mylist")] == state,
                "the mirror has the same keys",
            )
            assert ask(second, "GET", "big") == big + b"\n"


@contextmanager
def nginx(folder: Path, port: int, proxied: int) -> Iterator[None]:
    """Run an nginx that serves and takes files by TLS, and tells clients their address."""
    names = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
    paths = [f"{name}_temp_path {folder}/{name};" for name in names]
    (folder / "nginx.conf").write_text(
        "daemon off; worker_processes 1;"
        + ("user root;" if os.geteuid() == 0 else "")
        + f"pid {folder}/pid; error_log {folder}/errors; events {{ worker_connections 256; }}"
        f"http {{ access_log off; client_max_body_size 1G; {' '.join(paths)}"
        f"ssl_certificate {folder}/certificate; ssl_certificate_key {folder}/key;"
        f"server {{ listen 127.0.0.1:{port} ssl http2; root {folder}/files; dav_methods PUT; }}"
        f"server {{ listen 127.0.0.1:{proxied} proxy_protocol;"
        "  return 200 '$proxy_protocol_addr:$proxy_protocol_port'; } }"
    )
    name = ["-subj", "/CN=zpipe", "-addext", "subjectAltName=DNS:zpipe.test,IP:127.0.0.1"]
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    out = ["-keyout", f"{folder}/key", "-out", f"{folder}/certificate"]
    run([need("openssl"), "req", "-x509", *kind, *name, *out])
    command = [service("nginx"), "-c", f"{folder}/nginx.conf", "-e", f"{folder}/errors"]
    with running(command, accepts(f"127.0.0.1:{port}")):
        yield


def test_curl_and_nginx_talk_http_1_and_2_over_tls_and_by_the_proxy_protocol(
    tmp_path: Path,
) -> None:
    curl = [need("curl"), "-sSf", "--cacert", f"{tmp_path}/certificate"]
    files = tmp_path / "files"
    files.mkdir()
    big = content(25 * MIB) * 2
    (files / "big").write_bytes(big)
    small = {f"{number}": content(1000 * number + 1, number) for number in range(40)}
    for name, data in small.items():
        (files / name).write_bytes(data)
    port, proxied = free_port(), free_port()
    with ExitStack() as stack:
        stack.enter_context(nginx(tmp_path, port, proxied))
        # whoever asks for another name is led astray
        routes = ["--route-sni", f"*.test=127.0.0.1:{port}", f"127.0.0.1:{proxied}"]
        by_name = stack.enter_context(proxying(*routes))
        listen = ["127.0.0.1:0", f"unix:{tmp_path}/socket"]
        plain = stack.enter_context(proxying(f"127.0.0.1:{port}", listen=listen))

        named = port_of(by_name.listeners[0])
        curl += ["--resolve", f"zpipe.test:{named}:127.0.0.1"]
        for where, options in (
            (f"zpipe.test:{named}", ["--http2"]),
            (plain.listeners[0], ["--http1.1"]),
            ("zpipe.test", ["--http2", "--unix-socket", f"{tmp_path}/socket"]),
        ):
            version = "2" if "--http2" in options else "1.1"
            url = f"https://{where}"
            told = ["-w", "%{http_version}"]
            into = tmp_path / "received"
            assert run([*curl, *options, *told, "-o", into, f"{url}/big"]).decode() == version
            assert into.read_bytes() == big
            run([*curl, *options, "-T", files / "big", f"{url}/sent"])
            assert (files / "sent").read_bytes() == big
            (files / "sent").unlink()
        many = tmp_path / "many"
        many.mkdir()
        run(
            [*curl, "-Z", "--http2", "-o", f"{many}/#1", f"https://zpipe.test:{named}/[0-39]"],
        )
        assert {path.name: path.read_bytes() for path in many.iterdir()} == small
        for proxy in (by_name, plain):
            assert proxy.until_idle()["bytes"]["lost"] == 0

        for version in ("v1", "v2"):
            words = ["--send-proxy", version, f"127.0.0.1:{proxied}"]
            with proxying(*words) as telling:
                told = ["-w", "=%{local_ip}:%{local_port}"]
                known, own = run([*curl, *told, f"http://{telling.listeners[0]}/"]).split(b"=")
                assert known == own


def test_git_clones_and_pushes_through_it(tmp_path: Path) -> None:
    git = need("git")
    person = {"NAME": "A", "EMAIL": "a@example.org"}
    env = environment(
        HOME=str(tmp_path),
        GIT_CONFIG_GLOBAL=os.devnull,
        GIT_CONFIG_NOSYSTEM="1",
        **{
            f"GIT_{who}_{key}": value
            for who in ("AUTHOR", "COMMITTER")
            for key, value in person.items()
        },
    )
    work, copy, shared = tmp_path / "work", tmp_path / "copy", tmp_path / "shared"

    def do(*words: str | Path) -> bytes:
        return run([git, *words], env=env)

    def commit(where: Path, name: str, data: bytes) -> bytes:
        (where / name).write_bytes(data)
        do("-C", where, "add", ".")
        do("-C", where, "commit", "-q", "-m", name)
        return do("-C", where, "rev-parse", "HEAD")

    do("init", "-q", "-b", "main", work)
    for number in range(40):
        (work / f"{number}").write_bytes(content(5000 * number, number))
    first = commit(work, "big", content(4 * MIB))
    do("clone", "-q", "--bare", work, shared)
    words = ["--inetd", "--export-all", "--enable=receive-pack", f"--base-path={tmp_path}"]
    daemon = answering(git, "daemon", *words, env=env)
    with serving(daemon) as server, proxying(server.text) as proxy:
        url = f"git://{proxy.listeners[0]}/shared"
        do("clone", "-q", url, copy)
        assert do("-C", copy, "rev-parse", "HEAD") == first
        second = commit(copy, "more", content(3 * MIB, 2))
        do("-C", copy, "push", "-q", "origin", "main")
        assert do("-C", shared, "rev-parse", "main") == second
        do("-C", work, "pull", "-q", "--ff-only", url, "main")
        assert (work / "more").read_bytes() == content(3 * MIB, 2)
        do("-C", shared, "fsck", "--full", "--strict")
        assert proxy.until_idle()["bytes"]["lost"] == 0


def tree(folder: Path) -> dict[str, bytes]:
    """Return the files of a tree by their paths."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_rsync_sends_and_fetches_trees_through_it(tmp_path: Path) -> None:
    rsync = need("rsync")
    source, shared, back = tmp_path / "source", tmp_path / "shared", tmp_path / "back"
    shared.mkdir()
    for number in range(60):
        below = source / f"{number % 7}" / f"{number % 3}"
        below.mkdir(parents=True, exist_ok=True)
        (below / f"{number}").write_bytes(content(number * 3000, number))
    (source / "big").write_bytes(content(16 * MIB))
    owner = f"uid = {os.geteuid()}\ngid = {os.getegid()}\n" if os.geteuid() == 0 else ""
    (tmp_path / "config").write_text(
        f"use chroot = no\nlog file = {tmp_path}/log\n{owner}"
        f"[shared]\npath = {shared}\nread only = no\n"
    )
    daemon = answering(rsync, "--daemon", "--no-detach", f"--config={tmp_path}/config")
    with serving(daemon) as server, proxying(server.text) as proxy:
        url = f"rsync://{proxy.listeners[0]}/shared/"
        run([rsync, "-a", f"{source}/", url])
        assert tree(shared) == tree(source)
        # in the middle of a file both sides know most of: many small messages each way
        changed = bytearray(content(16 * MIB))
        for place in range(0, len(changed), MIB):
            changed[place : place + 10] = b"0123456789"
        (source / "big").write_bytes(changed)
        run([rsync, "-a", "--checksum", "--delete", f"{source}/", url])
        run([rsync, "-az", url, f"{back}/"])
        assert tree(back) == tree(source)
        found = proxy.until_idle()
        assert found["connections"]["accepted"] == 3


@contextmanager
def separation() -> Iterator[None]:
    """Have the empty folder that sshd asks for when root runs it."""
    place = Path("/run/sshd")
    made = False
    if os.geteuid() == 0 and not place.exists():
        place.mkdir(mode=0o755)
        made = True
    try:
        yield
    finally:
        if made:
            with suppress(OSError):
                place.rmdir()


def test_ssh_and_sftp_go_through_its_stdio_and_then_through_it(tmp_path: Path) -> None:
    sshd, keygen = service("sshd"), need("ssh-keygen")
    ssh, sftp, scp = need("ssh"), need("sftp"), need("scp")
    for name in ("host", "user"):
        run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name])
    (tmp_path / "sshd").write_text(
        f"HostKey {tmp_path}/host\nAuthorizedKeysFile {tmp_path}/user.pub\nPidFile none\n"
        "UsePAM no\nStrictModes no\nPermitRootLogin yes\nPasswordAuthentication no\n"
        "Subsystem sftp internal-sftp\n"
    )
    (tmp_path / "known").write_text(f"there {(tmp_path / 'host.pub').read_text()}")
    data = content(6 * MIB)
    (tmp_path / "file").write_bytes(data)
    with ExitStack() as stack:
        stack.enter_context(separation())
        daemon = answering(sshd, "-i", "-f", tmp_path / "sshd")
        server = stack.enter_context(serving(daemon))
        proxy = stack.enter_context(proxying(server.text))
        through = shlex.join([*ZPIPE, "proxy", "--stdio", proxy.listeners[0]])
        (tmp_path / "config").write_text(
            f"Host there\nProxyCommand {through}\nIdentityFile {tmp_path}/user\n"
            f"IdentitiesOnly yes\nIdentityAgent none\nUserKnownHostsFile {tmp_path}/known\n"
            "GlobalKnownHostsFile none\nBatchMode yes\nStrictHostKeyChecking yes\n"
            "LogLevel ERROR\n"
        )
        config = ["-F", str(tmp_path / "config")]
        # its output, its end of input and its exit status, none before the other
        assert run([ssh, *config, "there", "cat; exit 7"], data=data, code=7) == data
        run([scp, *config, tmp_path / "file", f"there:{tmp_path}/one"])
        assert (tmp_path / "one").read_bytes() == data
        wish = f"get {tmp_path}/one {tmp_path}/two\nput {tmp_path}/two {tmp_path}/three\n"
        run([sftp, *config, "-b", "-", "there"], data=wish.encode())
        assert (tmp_path / "three").read_bytes() == data
        found = proxy.until_idle()
        assert found["connections"]["accepted"] == 3
        assert found["bytes"]["lost"] == 0


def test_iperf3_measures_through_it_forward_in_reverse_and_by_four_streams() -> None:
    iperf = need("iperf3")
    port = free_port()
    amount = 64 * MIB
    with subprocess.Popen(
        [iperf, "-s", "-B", "127.0.0.1", "-p", str(port), "--forceflush"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as server:
        assert server.stdout is not None
        try:
            with proxying(f"127.0.0.1:{port}") as proxy:
                for words in ([], ["--reverse"], ["-P", "4"], ["--bidir"]):
                    # it serves one test at a time, and says when it is ready for one
                    while "Server listening on" not in (line := server.stdout.readline()):
                        assert line, "iperf3 has ended"
                    client = [iperf, "-c", "127.0.0.1", "-p", port_of(proxy.listeners[0])]
                    told = json.loads(run([*client, "-n", str(amount), "-J", *words]))
                    assert "error" not in told
                    # with --bidir it ends as soon as one of the directions has got so far
                    ends = ["", "_bidir_reverse"] if "--bidir" in words else [""]
                    sent = [told["end"][f"sum_sent{end}"]["bytes"] for end in ends]
                    got = [told["end"][f"sum_received{end}"]["bytes"] for end in ends]
                    assert max(sent) >= amount
                    # what is under way when the last byte was sent is not read any more
                    assert all(0 < less <= more for less, more in zip(got, sent, strict=True))
                found = proxy.until_idle()
                assert found["bytes"]["up"] + found["bytes"]["down"] > 3 * amount
                assert found["bytes"]["spliced"] > 0
        finally:
            server.terminate()
            server.wait(LONGEST)
