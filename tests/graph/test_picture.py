"""From a graph, or from what is said of a proxy, to boxes and arrows."""

from __future__ import annotations

import pytest

from zpipe.graph.model import Edge, Endpoint, Graph, Node, Wishes
from zpipe.graph.picture import Arrow, Box, Flow, Picture, add_proxy, picture_of


def graph(*edges: Edge, **ends: tuple[str, str]) -> Graph:
    """Return a graph of nodes by name: kind and address."""
    nodes = [Node(name, Endpoint(address, kind, address)) for name, (kind, address) in ends.items()]
    return Graph(tuple(nodes), edges)


DISK = graph(
    Edge("disk", "gzip"),
    Edge("gzip", "host", Wishes(rate_limit=20 << 20)),
    disk=("file", "/dev/sda"),
    gzip=("exec", "gzip -c"),
    host=("tcp", "backup:9000"),
)


def test_nodes_are_boxes_called_by_name_and_edges_are_arrows() -> None:
    assert picture_of(DISK, {("disk", "gzip"): "splice"}, title="nightly") == Picture(
        "nightly",
        (
            Box("disk", "disk", "device", "/dev/sda"),
            Box("gzip", "gzip", "process", "gzip -c"),
            Box("host", "host", "socket", "backup:9000"),
        ),
        (Arrow("disk", "gzip", mover="splice"), Arrow("gzip", "host", "≤ 20 MiB/s")),
    )


def test_on_a_command_line_boxes_are_called_by_address() -> None:
    boxes = picture_of(DISK, addresses=True).boxes
    assert [(box.label, box.note) for box in boxes] == [
        ("/dev/sda", ""),
        ("gzip -c", ""),
        ("backup:9000", ""),
    ]


@pytest.mark.parametrize(
    ("kind", "address", "expected"),
    [
        ("file", "disk.img", "file"),
        ("file", "/dev/vda1", "device"),
        ("file", "/device", "file"),
        ("-", "", "standard"),
        ("fd", "3", "standard"),
        ("pipe", "/run/fifo", "pipe"),
        ("tcp", "h:1", "socket"),
        ("unix", "/run/s", "socket"),
        ("tcp-listen", ":1", "listener"),
        ("unix-listen", "/run/s", "listener"),
        ("exec", "cat", "process"),
        ("null", "", "null"),
        ("zero", "", "null"),
        ("pattern", "7", "pattern"),
        ("hash", "sha256", "digest"),
        ("joint", "", "joint"),
        ("what is yet to come", "x", "file"),
    ],
)
def test_each_kind_of_end_has_its_kind_of_box(kind: str, address: str, expected: str) -> None:
    assert picture_of(graph(end=(kind, address))).boxes[0].kind == expected


def test_a_dash_is_told_by_its_side() -> None:
    both = graph(Edge("in", "out"), **{"in": ("-", "-"), "out": ("-", "-")})
    assert [box.note for box in picture_of(both).boxes] == ["standard input", "standard output"]


@pytest.mark.parametrize(
    ("limit", "text"),
    [
        (1, "≤ 1 B/s"),
        (100, "≤ 100 B/s"),
        (500 * 1024, "≤ 500 KiB/s"),
        (1536, "≤ 1.5 KiB/s"),
        (20 << 20, "≤ 20 MiB/s"),
        (1 << 30, "≤ 1 GiB/s"),
    ],
)
def test_a_planned_limit_is_written_without_needless_zeros(limit: int, text: str) -> None:
    picture = picture_of(
        graph(Edge("a", "b", Wishes(rate_limit=limit)), a=("file", "a"), b=("file", "b"))
    )
    assert picture.arrows[0].label == text


def test_what_was_seen_replaces_what_was_planned_and_makes_arrows_thick() -> None:
    flows = {("disk", "gzip"): Flow(2.0**30, 3 << 30), ("gzip", "host"): Flow(2.0**29)}
    arrows = picture_of(DISK, flows=flows).arrows
    assert [arrow.label for arrow in arrows] == ["1.00 GiB/s, 3.00 GiB", "512 MiB/s"]
    assert [arrow.width for arrow in arrows] == [1.0, 0.5]


def test_where_nothing_moved_no_arrow_is_thick() -> None:
    flows = {("disk", "gzip"): Flow(0.0, 0), ("gzip", "host"): Flow()}
    arrows = picture_of(DISK, flows=flows).arrows
    assert [(arrow.label, arrow.width) for arrow in arrows] == [("0 B/s, 0 B", 0.0), ("", 0.0)]


def test_notes_stay_with_their_arrows() -> None:
    picture = picture_of(DISK, notes={("disk", "gzip"): "the source may change"})
    assert [arrow.note for arrow in picture.arrows] == ["the source may change", ""]


def test_a_proxy_stands_between_listeners_and_upstreams_and_copies_are_dashed() -> None:
    picture = add_proxy(
        picture_of(DISK),
        "db",
        [":5432", "unix:/run/db"],
        ["a:1", "b:1"],
        ["shadow:1"],
        "/var/capture",
        mover="splice",
        mirror_mover="tee",
        labels={"b:1": "weight 2"},
    )
    label = {box.id: box.label for box in picture.boxes}
    assert len(label) == len(picture.boxes) == 3 + 7
    assert {box.group for box in picture.boxes[3:]} == {"db"}
    assert [
        (label[a.source], label[a.target], a.words, a.style, a.both) for a in picture.arrows[2:]
    ] == [
        (":5432", "db", "splice", "solid", True),
        ("unix:/run/db", "db", "splice", "solid", True),
        ("db", "a:1", "splice", "solid", True),
        ("db", "b:1", "splice, weight 2", "solid", True),
        ("db", "shadow:1", "tee, mirror", "dashed", False),
        ("db", "/var/capture", "capture", "dashed", False),
    ]


def test_two_proxies_with_the_same_upstream_have_a_box_each() -> None:
    picture = Picture("")
    for name in ("one", "two"):
        picture = add_proxy(picture, name, [":1"], ["db:1", "db:1"], ["db:1"])
    assert len({box.id for box in picture.boxes}) == len(picture.boxes) == 2 * 4
