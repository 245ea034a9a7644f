"""From a document to a graph, to settings of proxies, and to findings, all at once."""

from __future__ import annotations

import re

import pytest

from tests.recipe.writing import built, findings
from zpipe.graph.model import Edge, Graph, Wishes
from zpipe.graph.policy import Policy
from zpipe.proxy import wishes
from zpipe.proxy.addresses import parse_address
from zpipe.proxy.settings import (
    Capture,
    Check,
    Header,
    Limits,
    Operation,
    Route,
    Settings,
    Timeouts,
    Upstream,
)


def graph(text: str) -> Graph:
    made = built(text).graph
    assert made is not None
    return made


def edges(text: str) -> dict[tuple[str, str], Edge]:
    return {(edge.source, edge.sink): edge for edge in graph(text).edges}


def used(lines: str) -> str:
    """Return a recipe with those of the nodes that stand in its edges."""
    nodes = {"a": "one", "b": "two", "c": "three", "d": "four", "e": "{exec: cat}"}
    names = set(re.findall(r"\b[a-e]\b", lines))
    text = "".join(f"  {name}: {node}\n" for name, node in nodes.items() if name in names)
    return f"nodes:\n{text}edges: [{lines}]\n"


# edges


@pytest.mark.parametrize(
    ("written", "wanted"),
    [
        ("a -> b", ["ab"]),
        ("a->b", ["ab"]),
        ("'  a  ->  b  '", ["ab"]),
        ("'a -> b, c'", ["ab", "ac"]),
        ("'a, b -> c'", ["ac", "bc"]),
        ("'a, b -> c, d'", ["ac", "ad", "bc", "bd"]),
        ("a -> e -> b", ["ae", "eb"]),
        ("'a, b -> e -> c, d'", ["ae", "be", "ec", "ed"]),
        ("{from: a, to: b}", ["ab"]),
        ("{from: [a, b], to: [c, d]}", ["ac", "ad", "bc", "bd"]),
    ],
)
def test_forms_of_edges(written: str, wanted: list[str]) -> None:
    assert [edge.source + edge.sink for edge in graph(used(written)).edges] == wanted


def test_names_may_have_hyphens_and_dots() -> None:
    text = "nodes: {a-b.c: x, d_e: y}\nedges: [a-b.c->d_e]\n"
    assert list(edges(text)) == [("a-b.c", "d_e")]


def test_options_become_wishes_and_a_policy() -> None:
    edge = edges(
        used("""{
            from: a, to: b, limit: 1K, offset: 2, rate_limit: 3M, stall_timeout: 4s,
            pipe_size: 64K, via: splice, no_via: [plain, tee], stable: true, lease: true,
            inplace: true, sync: true, when_full: spill, spill_max: 5, spill_dir: /x,
            spill_then: detach, detach_after: 6}""")
    )["a", "b"]
    assert edge.wishes == Wishes(
        offset=2,
        length=1024,
        inplace=True,
        sync=True,
        stable=True,
        lease=True,
        via="splice",
        without=frozenset({"plain", "tee"}),
        rate_limit=3 << 20,
        stall_timeout=4.0,
        pipe_size=64 << 10,
        lenient=True,
    )
    assert edge.policy == Policy(
        when_full="spill",
        detach_after=6.0,
        spill_max=5,
        spill_dir="/x",
        spill_then="detach",
        on_error="stop",
    )


def test_without_options_all_is_as_the_graph_has_it() -> None:
    edge = edges(used("a -> b"))["a", "b"]
    assert edge == Edge("a", "b", Wishes(lenient=True), Policy(on_error="stop"))


def test_an_edge_has_its_own_options_and_those_of_the_defaults() -> None:
    text = used("a -> b, {from: a, to: c, when_full: spill, limit: 7}")
    text += "defaults: {when_full: detach, detach_after: 1m, limit: 7, spill_max: 9}\n"
    made = edges(text)
    assert made["a", "b"].wishes.length == made["a", "c"].wishes.length == 7
    assert made["a", "b"].policy.when_full == "detach"
    assert made["a", "c"].policy.when_full == "spill"
    assert made["a", "c"].policy.spill_max == 9
    assert made["a", "c"].policy.detach_after == 60


def test_defaults_may_be_idle() -> None:
    text = used("a -> b")
    text += "defaults: {spill_max: 1G, detach_after: 5s, merge: lines, inplace: true}\n"
    assert edges(text)["a", "b"].merge == "in-order"


def test_merge() -> None:
    made = edges(used("{from: [a, b], to: c, merge: as-ready}, c -> d").replace("three", "exec:x"))
    assert [made[pair].merge for pair in (("a", "c"), ("b", "c"), ("c", "d"))] == [
        "as-ready",
        "as-ready",
        "in-order",
    ]
    made = edges(used("'a, b -> c'") + "defaults: {merge: lines}\n")
    assert made["a", "c"].merge == made["b", "c"].merge == "lines"


# failure


@pytest.mark.parametrize(
    ("own", "default", "wanted"),
    [
        ("", "", "stop"),
        ("", "detach", "drop"),
        ("", "stop", "stop"),
        ("stop", "detach", "stop"),
        ("detach", "", "drop"),
        ("detach", "stop", "drop"),
    ],
)
def test_what_the_failure_of_a_sink_means(own: str, default: str, wanted: str) -> None:
    node = f"{{file: y, on_error: {own}}}" if own else "y"
    text = f"nodes: {{a: x, b: {node}}}\nedges: [a -> b]\n"
    text += f"defaults: {{on_error: {default}}}\n" if default else ""
    made = graph(text)
    assert made.node("b").on_error == wanted
    assert made.edges[0].policy.on_error == wanted


def test_a_source_of_a_sequence_may_be_passed_over() -> None:
    nodes = "nodes: {a: {file: x, on_error: detach}, b: y, c: z, d: zz}\n"
    made = edges(nodes + "edges: ['a, b -> c', b -> d]\n")
    assert made["a", "c"].wishes.skip
    assert not made["b", "c"].wishes.skip
    # alone it is what the run is about
    made = edges(nodes.replace(", d: zz", "").replace("b: y, ", "") + "edges: [a -> c]\n")
    assert not made["a", "c"].wishes.skip


# findings about edges


@pytest.mark.parametrize(
    ("written", "place", "text"),
    [
        ("a", "4:10", "a: not an edge: write it as a -> b"),
        ("''", "4:10", "(empty): not an edge"),
        ("a > b", "4:10", "a > b: not an edge"),
        ("a ->", "4:10", "a name is missing"),
        ("'a -> b,'", "4:10", "a name is missing"),
        ("a -> -> b", "4:10", "a name is missing"),
        ("a -> bb", "4:10", "no node is named bb: there are a, b; did you mean b?"),
        ("'a -> b, b'", "4:10", "b: stands twice on one side"),
        ("{from: a, to: [b, x]}", "4:28", "no node is named x"),
        ("{from: a, to: []}", "4:24", "to: is empty: name a node"),
        ("{from: a}", "4:10", "to is missing"),
        ("{from: a, too: b}", "4:20", "too: unknown key: did you mean to?"),
        ("{from: a, to: b, via: slice}", "4:32", "slice: no mover has this name: there are"),
        ("{from: a, to: b, via: slice}", "4:32", "did you mean splice?"),
        ("{from: a, to: b, no_via: [plain, tea]}", "4:43", "did you mean tee?"),
        ("{from: a, to: b, via: tee, no_via: tee}", "4:10", "both asked for and forbidden"),
        ("{from: a, to: b, detach_after: 5s}", "4:27", "has no effect: no output is detached"),
        ("{from: a, to: b, spill_max: 5}", "4:27", "spill_max: has no effect: no output spills"),
        ("{from: a, to: b, merge: lines}", "4:10", "there is only one source, a"),
        ("{from: a, to: b, limit: 5x}", "4:34", "5x: not a size"),
        ("{from: a, to: b, sync: on}", "4:33", "YAML 1.1 would read true here"),
        ("a -> b, b -> b", "4:18", "b: is source and sink of one edge"),
    ],
)
def test_what_is_wrong_with_an_edge(written: str, place: str, text: str) -> None:
    recipe = f"nodes: {{a: x, b: y}}\n# edges\nedges: [ {written} ]\n"
    found = findings(recipe)
    assert len(found) == 1, found
    assert found[0].startswith(f"{place}: ")
    assert text in found[0]


def test_in_place_is_for_files() -> None:
    recipe = (
        "nodes: {{a: x, b: 'tcp://h:1', c: {other}}}\nedges:\n- {{from: a, to: b, inplace: true}}\n"
    )
    recipe += "- {{from: a, to: c, inplace: true}}\n"
    assert findings(recipe.format(other="y")) == []
    found = findings(recipe.format(other="exec:cat"))
    assert found == [
        "4:20: inplace: has no effect: no sink of a is a file",
        "5:20: inplace: has no effect: no sink of a is a file",
    ]


@pytest.mark.parametrize(
    ("recipe", "wanted"),
    [
        ("nodes: {a: x, b: y, c: z}\nedges: [a -> b]\n", ["2:24: c: no edge reads or writes it"]),
        (
            "nodes: {a: x, b: y}\nedges: [a -> b, a -> b]\n",
            ["3:17: a -> b: joined 2 times"],
        ),
        (
            "nodes: {a: x, b: {exec: y}, c: {exec: z}}\nedges: [a -> b, b -> c, c -> b]\n",
            ["3:17: b -> c -> b: bytes would go round in a circle"],
        ),
        ("name: x\n", ["1:1: joins nothing: give edges or proxies"]),
        ("edges: []\n", ["1:1: joins nothing: give edges or proxies"]),
        (
            "nodes: {a: x}\nproxies: {p: {listen: ':1', upstreams: 'h:1'}}\n",
            ["2:12: a: no edge reads or writes it"],
        ),
        ("edges: [a -> b]\n", ["2:9: no node is named a: there are none"] * 1),
        ("nodes: [a]\n", ["2:8: nodes: found a list: give a mapping"]),
        ("edges: {a: b}\n", ["2:8: edges: found a mapping: give a list"]),
        ("nodes:\n", ["2:7: nodes has no value: give a mapping"]),
    ],
)
def test_flaws_of_the_graph_have_a_place(recipe: str, wanted: list[str]) -> None:
    assert findings(recipe)[: len(wanted)] == wanted


def test_everything_is_found_at_once() -> None:
    found = findings("""\
        nam: x
        params: {P: {type: sise}}
        nodes:
          a: tcp://h
          b: {file: y, mod: 1}
          c: z
          ok: fine
        edges:
          - a -> bb
          - {from: c, to: b, limit: x}
          - {from: ok, to: c, via: y}
        defaults: {when_full: wait}
        proxies:
          p: {listen: x, upstreams: 'h:1', retries: many, limits: {deny: 10.0.0.1/8}}
          q: {listen: ':1'}
        service: {workers: 0}
        metrics: y
    """)
    lines = [found_one.split(":")[0] for found_one in found]
    assert lines == [*"2356", "10", "11", "12", "13", *["15"] * 3, "16", "17", "18"]


def test_what_only_follows_from_a_mistake_is_not_told() -> None:
    found = findings("""\
        nodes:
          a: {file: x, mod: 1}
          b: {exec: cat}
          c: {exec: cat, nice: 1}
          d: z
          f: zz
        edges:
          - a -> b
          - {from: b, to: c, limt: 1}
          - b -> c -> d
          - {from: [a, bb], to: f, merge: lines}
        defaults: {when_full: splil, spill_max: 1}
    """)
    assert [each.partition(": ")[0] for each in found] == [
        "3:16",
        "5:18",
        "10:22",
        "12:16",
        "13:23",
    ]


# proxies


def settings(proxy: str) -> Settings:
    (found,) = built(f"proxies: {{p: {{listen: ':5432', {proxy}}}}}\n").settings
    return found


LISTEN = parse_address(":5432", listen=True)
UP = Upstream(parse_address("h:1"))


def test_a_proxy_is_what_the_command_makes() -> None:
    assert settings("upstreams: 'h:1'") == Settings((LISTEN,), (UP,), name="p")


def test_everything_that_a_proxy_can_have() -> None:
    found = settings("""
        upstreams: ['a:1?weight=3', {address: 'unix:/b?x', weight: 2}], balance: first, retries: 0,
        check: {interval: 1s, timeout: 2s, rise: 3, fall: 4, send: 'PING\\r\\n', expect: '\\x2b'},
        resolve_interval: never, accept_proxy: optional, trust_proxy: [10.0.0.0/8, '::1'],
        send_proxy: v2, capture: {directory: /c, total: 5G}, splice: false, pipe_size: 64K,
        limits: {connections: 1, when_full: refuse, per_source: 2, rate: 3, total_rate: 4K,
                 allow: 10.0.0.0/8, deny: [10.1.0.0/16]},
        timeouts: {connect: 1, half_closed: never, idle: 3, lifetime: 4, opening: 5, drain: 6,
                   exit_idle: 7}
    """)
    assert (
        found
        == Settings(
            (LISTEN,),
            (
                wishes.parse_upstream("a:1?weight=3"),
                Upstream(parse_address("unix:/b?x"), 2),
            ),
            balance="first",
            check=Check(1.0, 2.0, 3, 4, b"PING\r\n", b"+"),
            retries=0,
            resolve_every=0.0,
            header=Header("optional", wishes.parse_networks(["10.0.0.0/8", "::1"]), "v2"),
            capture=Capture("/c", 5 << 30),
            limits=Limits(
                1,
                "refuse",
                2,
                3,
                4096,
                wishes.parse_networks(["10.0.0.0/8"]),
                wishes.parse_networks(["10.1.0.0/16"]),
            ),
            timeouts=Timeouts(1.0, None, 3.0, 4.0, 5.0, 6.0, 7.0),
            splice=False,
            pipe_size=64 << 10,
            name="p",
        )
        or found.upstreams[0].address.text != "a:1"
    )


@pytest.mark.parametrize(
    ("mirrors", "texts"),
    [
        ("'m:1'", ["m:1"]),
        ("['m:1?sample=10%', 'n:1']", ["m:1?sample=10%", "n:1"]),
        (
            "{address: 'm:1', direction: both, queue: 1M, when_full: spill, spill_max: 2M,"
            " sample: 0.5%}",
            ["m:1?direction=both&queue=1M&when_full=spill&spill_max=2M&sample=0.5%"],
        ),
    ],
)
def test_mirrors(mirrors: str, texts: list[str]) -> None:
    found = settings(f"upstreams: 'h:1', mirrors: {mirrors}").mirrors
    wanted = [wishes.parse_mirror(text) for text in texts]
    for mine, other in zip(found, wanted, strict=True):
        assert (mine.address.host, mine.address.port) == (other.address.host, other.address.port)
        for field in ("direction", "queue", "when_full", "spill_max", "sample"):
            assert getattr(mine, field) == getattr(other, field)


def test_routes() -> None:
    found = settings("upstreams: 'h:1', route_sni: {WWW.example.org.: 'a:1', '*.x.org': ['b:1']}")
    assert found.routes == (
        Route("www.example.org", (Upstream(parse_address("a:1")),)),
        Route("*.x.org", (Upstream(parse_address("b:1")),)),
    )
    assert found.route_default == found.upstreams == (UP,)
    found = settings("route_sni: {www.example.org: 'a:1'}")
    assert found.route_default == found.upstreams == ()


def test_capture_in_short() -> None:
    assert settings("upstreams: 'h:1', capture: /c").capture == Capture("/c")


@pytest.mark.parametrize(
    ("proxy", "column", "text"),
    [
        ("listen: ':1'", 5, "p: no upstream: give an address"),
        ("listen: ':1', upstreams: []", 30, "p: no upstream"),
        ("listen: [], upstreams: 'h:1'", 13, "listen: is empty"),
        ("upstreams: 'h:1'", 5, "listen is missing"),
        ("listen: x, upstreams: 'h:1'", 13, "x: not an address"),
        ("listen: [':1', x], upstreams: 'h:1'", 20, "x: not an address"),
        ("listen: ':1', upstreams: h", 30, "h: not an address"),
        ("listen: ':1', upstreams: 'h:1?wieght=2'", 30, "did you mean weight?"),
        ("listen: ':1', upstreams: [{address: h}]", 41, "h: not an address"),
        ("listen: ':1', upstreams: [{address: 'h:1', weight: 0}]", 56, "0: give 1 to 1000"),
        ("listen: ':1', upstreams: 'h:1', pipe_size: 1", 48, "1: give 4K to 2G"),
        ("listen: ':1', upstreams: 'h:1', trust_proxy: 10.0.0.1", 37, "without accept_proxy"),
        ("listen: ':1', upstreams: 'h:1', check: {send: '\\q'}", 51, "not an escape"),
        ("listen: ':1', upstreams: 'h:1', limits: {allow: x}", 53, "x: not a network"),
        ("listen: ':1', upstreams: 'h:1', limits: {allow: []}", 53, "allow: is empty"),
        ("listen: ':1', upstreams: 'h:1', capture: ''", 46, "capture: is empty"),
        ("listen: ':1', upstreams: 'h:1', mirrors: 'h:1?q=1'", 46, "unknown option q"),
        ("listen: ':1', upstreams: 'h:1', mirrors: {address: h}", 56, "h: not an address"),
        (
            "listen: ':1', upstreams: 'h:1', mirrors: {address: 'h:1', sample: 2}",
            71,
            "2: give a share",
        ),
        (
            "listen: ':1', upstreams: 'h:1', mirrors: {address: 'h:1', queue: 0}",
            70,
            "more than zero",
        ),
        (
            "listen: ':1', upstreams: 'h:1', mirrors: {address: 'h:1', spill_max: 5}",
            63,
            "has no effect without when_full: spill",
        ),
        ("listen: ':1', route_sni: {'*': 'h:1'}", 31, "*: all other names are those of upstreams"),
        ("listen: ':1', route_sni: {a b: 'h:1'}", 31, "not a pattern"),
        ("listen: ':1', route_sni: {a.b: 'h:1', A.b: 'h:2'}", 43, "a.b, which has a route already"),
        ("listen: ':1', route_sni: {a.b: []}", 36, "a.b: no upstream"),
        ("listen: ':1', upstreams: 'h:1', timeouts: {idle: never}", 54, "never: not a duration"),
    ],
)
def test_what_is_wrong_with_a_proxy(proxy: str, column: int, text: str) -> None:
    found = findings(f"proxies:\n  p: {{{proxy}}}\n".replace("p: {", "p: {", 1))
    assert len(found) == 1, found
    line, at, told = found[0].split(":", 2)
    assert (line, int(at)) == ("3", column + 2 if column > 5 else 6)
    assert text in told


def test_the_service() -> None:
    proxy = "proxies: {p: {listen: ':1', upstreams: 'h:1'}}\n"
    found = built(
        proxy + "service: {workers: 3, user: u, group: g, access_log: '-', access_format: json}\n"
        "metrics: ':9100'\n"
    ).operation
    metrics = parse_address(":9100", listen=True)
    assert found == Operation(3, "u", "g", "-", "json", metrics)
    assert built(proxy).operation == Operation()
    # streams can be measured, too
    assert built(used("a -> b") + "metrics: ':9100'\n").operation.metrics == metrics


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("service: {access_format: json}", "2:11: access_format: has no effect without access_log"),
        ("service: {access_log: ''}", "2:23: access_log: is empty"),
        ("service: {user: ''}", "2:17: user: is empty"),
        ("metrics: x", "2:10: x: not an address"),
    ],
)
def test_what_is_wrong_with_the_service(text: str, wanted: str) -> None:
    (found,) = findings(f"{text}\nproxies: {{p: {{listen: ':1', upstreams: 'h:1'}}}}\n")
    assert found.startswith(wanted)


def test_a_service_needs_proxies() -> None:
    found = findings(used("a -> b") + "service: {workers: 2}\n")
    assert found == ["6:1: service: has no effect without proxies"]


# what is built


def test_a_recipe_with_proxies_alone_has_no_graph() -> None:
    made = built("proxies: {p: {listen: ':1', upstreams: 'h:1'}}\n")
    assert made.graph is None
    assert [each.name for each in made.settings] == ["p"]


@pytest.mark.parametrize(
    ("name", "written", "wanted"),
    [
        ("dir/nightly.yaml", "", "nightly"),
        ("-", "", "recipe"),
        ("x.yaml", "name: my recipe\n", "my recipe"),
    ],
)
def test_a_recipe_has_a_name(name: str, written: str, wanted: str) -> None:
    assert built(written + used("a -> b"), name=name).name == wanted


def test_later_errors_have_a_place() -> None:
    made = built(
        "nodes: {a: x, b: y}\nedges:\n  - a -> b\nproxies: {p: {listen: ':1', upstreams: 'h:1'}}\n"
    )
    assert str(made.finding("is gone", node="b")) == "r.yaml:2:18: is gone"
    assert str(made.finding("is slow", edge=("a", "b"))) == "r.yaml:4:5: is slow"
    assert str(made.finding("is used", proxy="p")) == "r.yaml:5:14: is used"
    assert str(made.finding("is odd", node="nobody")) == "r.yaml:2:8: is odd"
    assert str(made.finding("is odd")) == "r.yaml:1:1: is odd"
