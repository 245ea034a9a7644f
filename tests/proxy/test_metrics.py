"""Metrics over real sockets: what a scraper reads, and that no scraper holds up the next one."""

from __future__ import annotations

import http.client
import json
import os
import socket
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.parser import text_string_to_metric_families

from tests.machine import LONGEST, until
from zpipe.errors import UsageError
from zpipe.proxy import metrics
from zpipe.proxy.addresses import parse_address, resolve
from zpipe.proxy.counters import REASONS, REFUSALS
from zpipe.proxy.metric_families import families
from zpipe.proxy.metrics import MetricsServer, unhealthy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from zpipe.proxy.counters import Snapshot


def upstream(name: str, **more: Any) -> dict[str, Any]:
    usual = {"state": "up", "weight": 1, "active": 1, "connections": 10, "failures": 2}
    return {"name": name, **usual, "up": 100, "down": 1000, **more}


def snapshot(**more: Any) -> Snapshot:
    return {
        "v": 1,
        "name": "db",
        "pid": os.getpid(),
        "started": 1795282491.5,
        "state": "running",
        "workers": 2,
        "listeners": ["127.0.0.1:5432"],
        "connections": {
            "active": 3,
            "accepted": 40,
            "max": 4000,
            "closed": {"closed": 30, "idle": 7},
            "refused": {"full": 5},
        },
        "bytes": {"up": 2**60, "down": 7, "spliced": 6, "lost": 1},
        "retried": 4,
        "upstreams": [upstream("one:1"), upstream("two:2", state="down", weight=3)],
        "mirrors": [
            {
                "name": "tap:9",
                "active": 1,
                "connections": 9,
                "bytes": 90,
                "given_up": {"full": 2},
                "missed": 8,
            }
        ],
        "capture": {"connections": 6, "bytes": 66, "missed": 0},
        "pipes": {"borrowed": 1, "kept": 2},
        **more,
    }


@contextmanager
def serving(address: str = "127.0.0.1:0", **more: Any) -> Iterator[MetricsServer]:
    server = MetricsServer(parse_address(address, listen=True), lambda: snapshot(**more))
    try:
        yield server
    finally:
        server.close()


def get(
    server: MetricsServer, path: str, method: str = "GET", **headers: str
) -> tuple[int, str, bytes]:
    """Return status, content type and body."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=LONGEST)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.headers["Content-Type"], answer.read()
    finally:
        connection.close()


def values(text: str) -> dict[tuple[str, ...], float]:
    """Return the value of each name with its labels; the text must be well-formed."""
    found: dict[tuple[str, ...], float] = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation, family.name
        for sample in family.samples:
            key = (sample.name, *(sample.labels[label] for label in sorted(sample.labels)))
            assert key not in found, f"{key} comes twice"
            found[key] = sample.value
    return found


def test_every_number_of_the_snapshot_is_told() -> None:
    with serving() as server:
        status, kind, body = get(server, "/metrics")
    assert status == 200
    assert kind.startswith("text/plain; version=")
    found = values(body.decode())
    expected: dict[tuple[str, ...], float] = {
        ("zpipe_proxy_start_time_seconds",): 1795282491.5,
        ("zpipe_proxy_draining",): 0,
        ("zpipe_proxy_workers",): 2,
        ("zpipe_proxy_connections_active",): 3,
        ("zpipe_proxy_connections_max",): 4000,
        ("zpipe_proxy_connections_accepted_total",): 40,
        ("zpipe_proxy_connections_closed_total", "closed"): 30,
        ("zpipe_proxy_connections_closed_total", "idle"): 7,
        ("zpipe_proxy_connections_refused_total", "full"): 5,
        ("zpipe_proxy_connect_retries_total",): 4,
        ("zpipe_proxy_bytes_total", "up"): 2**60,
        ("zpipe_proxy_bytes_total", "down"): 7,
        ("zpipe_proxy_spliced_bytes_total",): 6,
        ("zpipe_proxy_lost_bytes_total",): 1,
        ("zpipe_proxy_upstream_up", "one:1"): 1,
        ("zpipe_proxy_upstream_up", "two:2"): 0,
        ("zpipe_proxy_upstream_weight", "two:2"): 3,
        ("zpipe_proxy_upstream_connections_active", "one:1"): 1,
        ("zpipe_proxy_upstream_connections_total", "one:1"): 10,
        ("zpipe_proxy_upstream_failures_total", "one:1"): 2,
        ("zpipe_proxy_upstream_bytes_total", "up", "one:1"): 100,
        ("zpipe_proxy_upstream_bytes_total", "down", "one:1"): 1000,
        ("zpipe_proxy_mirror_connections_active", "tap:9"): 1,
        ("zpipe_proxy_mirror_connections_total", "tap:9"): 9,
        ("zpipe_proxy_mirror_bytes_total", "tap:9"): 90,
        ("zpipe_proxy_mirror_missed_bytes_total", "tap:9"): 8,
        ("zpipe_proxy_mirror_given_up_total", "tap:9", "full"): 2,
        ("zpipe_proxy_capture_connections_total",): 6,
        ("zpipe_proxy_capture_bytes_total",): 66,
        ("zpipe_proxy_capture_missed_bytes_total",): 0,
        ("zpipe_proxy_pipes", "borrowed"): 1,
        ("zpipe_proxy_pipes", "kept"): 2,
    }
    assert expected.items() <= found.items()
    assert all(name.startswith("zpipe_proxy_") for name, *_ in found)


def test_reasons_are_those_of_the_tables_and_no_others() -> None:
    """Also those that never happened, for rates; none of a client's making."""
    odd = {"active": 0, "accepted": 0, "max": None, "closed": {"x": 1}, "refused": {"y": 1}}
    with serving(connections=odd) as server:
        found = values(get(server, "/metrics")[2].decode())
    for name, known in (("closed", REASONS), ("refused", REFUSALS)):
        labels = {why for full, *rest in found for why in rest if f"_{name}_" in full}
        assert labels == set(known)
    assert ("zpipe_proxy_connections_max",) not in found


def test_an_upstream_of_two_routes_is_one() -> None:
    twice = [upstream("a:1", state="down"), upstream("a:1"), upstream("b:1")]
    with serving(upstreams=twice) as server:
        found = values(get(server, "/metrics")[2].decode())
    assert found["zpipe_proxy_upstream_connections_total", "a:1"] == 20
    assert found["zpipe_proxy_upstream_up", "a:1"] == 1
    assert found["zpipe_proxy_upstream_bytes_total", "down", "a:1"] == 2000


def test_names_cannot_break_the_text() -> None:
    name = 'unix:/a "b"\\\n} 1'
    with serving(upstreams=[upstream(name)], name=name) as server:
        found = values(get(server, "/metrics")[2].decode())
    assert found["zpipe_proxy_upstream_up", name] == 1


def test_without_upstreams_mirrors_and_capture_it_is_well_formed() -> None:
    with serving(upstreams=[], mirrors=[], capture=None) as server:
        found = values(get(server, "/metrics")[2].decode())
    assert not [name for name, *_ in found if "_capture_" in name or "_mirror_" in name]


def test_a_scraper_may_ask_for_openmetrics() -> None:
    with serving() as server:
        accept = "application/openmetrics-text; version=1.0.0"
        status, kind, body = get(server, "/metrics", Accept=accept)
    assert status == 200
    assert kind.startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")


def test_no_metrics_of_the_process_are_mixed_in() -> None:
    assert {family.name for family in families(snapshot())} >= {"zpipe_proxy_bytes"}
    with serving() as server:
        body = get(server, "/metrics")[2].decode()
    assert "python_" not in body
    assert "process_" not in body


def test_health_is_that_of_new_clients() -> None:
    down = [upstream("a:1", state="down"), upstream("b:1", state="down")]
    for more, status, text in (
        ({}, 200, "ok\n"),
        ({"upstreams": []}, 200, "ok\n"),
        ({"state": "draining"}, 503, "draining\n"),
        ({"upstreams": down}, 503, "no upstream is up\n"),
    ):
        with serving(**more) as server:
            assert get(server, "/healthz") == (status, "text/plain; charset=utf-8", text.encode())
    assert unhealthy(snapshot()) is None


def test_the_snapshot_is_served_as_json() -> None:
    with serving() as server:
        status, kind, body = get(server, "/status?pretty")
    assert (status, kind) == (200, "application/json")
    assert json.loads(body) == snapshot()


def test_other_requests_are_refused() -> None:
    with serving() as server:
        assert get(server, "/")[0] == 404
        assert get(server, "/metrics/x")[0] == 404
        assert get(server, "/metrics", method="POST")[0] == 405
        status, _, body = get(server, "/metrics", method="HEAD")
        assert (status, body) == (200, b"")
        assert raw(server, b"nonsense\r\n\r\n").startswith(b"HTTP/1.1 400 ")
        assert raw(server, b"\r\n\r\n").startswith(b"HTTP/1.1 400 ")
        assert raw(server, b"GET /metrics\r\n\r\n").startswith(b"HTTP/1.1 400 ")
        assert raw(server, b"GET /healthz HTTP/1.1\r\nX: \xff\0\r\n\r\n").endswith(b"ok\n")
        assert raw(server, b"") == b""


def raw(server: MetricsServer, request: bytes) -> bytes:
    """Send something and no more, and return what comes back."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=LONGEST) as client:
        client.sendall(request)
        client.shutdown(socket.SHUT_WR)
        parts = []
        while part := client.recv(65536):
            parts.append(part)
        return b"".join(parts)


def test_a_request_without_end_is_cut_off() -> None:
    with (
        serving() as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=LONGEST) as client,
        pytest.raises(ConnectionError),
    ):
        client.sendall(b"GET / HTTP/1.1\r\n")
        while True:
            client.sendall(b"x: y\r\n" * 10000)


def test_a_failing_snapshot_is_told_and_survived() -> None:
    calls: list[int] = []

    def failing() -> Snapshot:
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("dictionary changed size during iteration")
        return snapshot()

    server = MetricsServer(parse_address("127.0.0.1:0", listen=True), failing)
    try:
        status, _, body = get(server, "/metrics")
        assert (status, body) == (
            500,
            b"RuntimeError: dictionary changed size during iteration\n",
        )
        assert get(server, "/metrics")[0] == 200
    finally:
        server.close()


def test_clients_that_are_slow_or_stuck_are_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three times as many as are served at once say nothing, or read nothing; the next one is
    answered all the same, and all of the others are closed.
    """
    monkeypatch.setattr(metrics, "_PATIENCE", 0.3)
    many = [upstream(f"host-{number}:1") for number in range(3000)]  # more than buffers hold
    with serving(upstreams=many) as server, ExitStack() as stack:
        stuck = []
        for number in range(12):
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.settimeout(LONGEST)
            client.connect(("127.0.0.1", server.port))
            with suppress(ConnectionError):  # cut off already
                client.sendall(b"GET /metrics HTTP/1.1\r\n" + b"\r\n" * (number % 2))
            stuck.append(client)

        def answered() -> bool:
            with suppress(ConnectionError):  # it was slow itself
                return get(server, "/healthz")[0] == 200
            return False

        until(answered, "the next one is answered")
        for client in stuck:
            try:
                while client.recv(1 << 20):
                    pass
            except ConnectionResetError:
                pass


def test_a_unix_address_is_served_and_its_path_removed(tmp_path: Path) -> None:
    path = tmp_path / "metrics"
    with serving(f"unix:{path}") as server:
        assert server.port == 0
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(LONGEST)
            client.connect(str(path))
            client.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
            answer = b"".join(iter(lambda: client.recv(4096), b""))
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert answer.endswith(b"\r\n\r\nok\n")
    assert not path.exists()


def test_every_address_of_a_name_is_served() -> None:
    with serving("localhost:0") as server:
        for _, place in resolve(parse_address(f"localhost:{server.port}")):
            with socket.create_connection(place[:2], timeout=LONGEST) as client:
                client.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
                assert client.recv(15) == b"HTTP/1.1 200 OK"


def test_an_address_in_use_is_an_error_before_anything_is_served() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(UsageError) as raised:
            MetricsServer(parse_address(address, listen=True), snapshot)
        assert str(raised.value) == f"{address}: listen: Address already in use"


def test_nothing_is_left_when_it_is_closed() -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    with serving() as server:
        get(server, "/metrics")
        port = server.port
    server.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    assert sorted(os.listdir("/proc/self/fd")) == before


class Counting:
    """Makes a family that counts how often it was asked."""

    def __init__(self) -> None:
        self.count = 0

    def collect(self) -> list[GaugeMetricFamily]:
        self.count += 1
        return [GaugeMetricFamily("zpipe_looks", "Looks.", value=self.count)]


@pytest.mark.parametrize("with_proxy", [True, False])
def test_others_may_have_metrics_beside_or_alone(with_proxy: bool) -> None:
    address = parse_address("127.0.0.1:0", listen=True)
    server = MetricsServer(address, snapshot if with_proxy else None, [Counting()])
    try:
        # once more than there were requests: the registry asks for the names when it is registered
        before = values(get(server, "/metrics")[2].decode())
        after = values(get(server, "/metrics")[2].decode())
        assert after["zpipe_looks",] == before["zpipe_looks",] + 1
        assert (("zpipe_proxy_workers",) in after) == with_proxy
        assert get(server, "/healthz")[::2] == (200, b"ok\n")
        assert get(server, "/status")[0] == (200 if with_proxy else 404)
        missing = get(server, "/nothing")
        assert missing[0] == 404
        assert (b"/status" in missing[2]) == with_proxy
    finally:
        server.close()
