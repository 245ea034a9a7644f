"""A picture in each format: complete, well-formed, and safe against whatever stands in a label."""

from __future__ import annotations

import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zpipe.graph.drawings import FORMATS, Page, draw, palette
from zpipe.graph.drawings.icons import ICONS
from zpipe.graph.drawings.letters import breadth, cells, cut, visible
from zpipe.graph.picture import Arrow, Box, Picture, add_proxy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zpipe.graph.picture import BoxKind, Style

SVG = "{http://www.w3.org/2000/svg}"
SHAPES = {"svg", "title", "desc", "g", "rect", "path", "text", "tspan", "circle", "ellipse"}
HOSTILE = (
    'a"b',
    "<script>alert(1)</script>",
    "]]>",
    "&lt;",
    "x;y",
    "#35;",
    "two\nlines",
    "tab\tand\x1b[31mescape",
    "\\G \\n",
    "|}{",
    "end",
    "-",
    "1. one",
    "style: x#1;",
    "www.example.com http://h/x",
    "fa:fa-car",
    "`code` **b**",
    "漢字 é ≤",
    "%%{init: {}}%%",
    "\udc80 \u202e",
    "--",
    "",
)


def of(*joins: str, kind: BoxKind = "file", title: str = "") -> Picture:
    """Return the picture of joins written as `a -> b` or `a -> b: words`."""
    boxes: dict[str, Box] = {}
    arrows = []
    for join in joins:
        ends, _, words = join.partition(": ")
        source, _, target = ends.partition(" -> ")
        for name in (source, target):
            boxes.setdefault(name, Box(name, name, kind))
        arrows.append(Arrow(source, target, mover=words))
    return Picture(title, tuple(boxes.values()), tuple(arrows))


FAN = of(
    "disk -> gzip: splice",
    "gzip -> host: splice",
    "disk -> copy: copy_range",
    title="nightly",
)
TOLD = Picture(
    "hostile <title> \"'&",
    tuple(Box(f"b{n}{text}", text, "file", text) for n, text in enumerate(HOSTILE)),
    tuple(
        Arrow(f"b0{HOSTILE[0]}", f"b{n}{text}", text, text, text) for n, text in enumerate(HOSTILE)
    ),
)


@st.composite
def pictures(draw_: st.DrawFn) -> Picture:
    count = draw_(st.integers(1, 9))
    box = st.integers(0, count - 1)
    joins = draw_(st.lists(st.tuples(box, box), max_size=12, unique=True))
    names = [f"{chr(65 + n)}{n * 7}" for n in range(count)]
    kinds: st.SearchStrategy[BoxKind] = st.sampled_from(["file", "process", "socket"])
    boxes = tuple(Box(name, name, draw_(kinds)) for name in names)
    words = st.sampled_from(["", "splice", "plain", "≤ 1 MiB/s"])
    styles: st.SearchStrategy[Style] = st.sampled_from(["solid", "dashed", "dotted"])
    arrows = tuple(
        Arrow(names[a], names[b], draw_(words), style=draw_(styles), both=draw_(st.booleans()))
        for a, b in joins
    )
    return Picture("", boxes, arrows)


# --- any format


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("picture", [Picture(""), Picture("a title"), of("a -> b"), TOLD])
def test_every_format_draws_every_picture(name: str, picture: Picture) -> None:
    text = draw(picture, name)
    assert not text or text.endswith("\n")
    assert not text.endswith("\n\n")
    text.encode()
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\u202e]", text)


def test_a_format_that_does_not_exist_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        draw(FAN, "png")


# --- letters


def test_a_cut_text_keeps_both_ends() -> None:
    assert cut("/very/long/path/to/file.img", 12, cells) == "/very…le.img"
    assert cut("short", 5, cells) == "short"
    assert cut("short", 4, cells) == "s…rt"


@given(st.text(max_size=60), st.integers(3, 40))
def test_a_cut_text_is_never_too_wide(text: str, most: int) -> None:
    seen = visible(text)
    assert cells(cut(seen, most, cells)) <= most
    assert breadth(cut(seen, most * 10.0, lambda t: breadth(t, 13)), 13) <= most * 10


def test_wide_and_combining_characters_take_what_a_terminal_gives_them() -> None:
    assert [cells(text) for text in ("ab", "漢字", "e\u0301", "")] == [2, 4, 1, 0]


@given(st.text())
def test_what_is_visible_is_one_printable_line(text: str) -> None:
    assert visible(text).isprintable()


# --- text


def test_a_fan_out_and_a_chain_are_drawn_for_a_terminal() -> None:
    assert draw(FAN, "text").splitlines() == [
        "nightly",
        "",
        "disk ──┬─ splice ──────▶ gzip ── splice ──▶ host",
        "       └─ copy_range ──▶ copy",
    ]


def test_a_fan_in_is_drawn_with_joins() -> None:
    picture = of("a -> all: splice", "bb -> all: sendfile", "c -> all")
    assert draw(picture, "text").splitlines() == [
        "a ─── splice ────┬──▶ all",
        "bb ── sendfile ──┤",
        "c ───────────────┘",
    ]


def test_lines_that_cross_are_seen_to_cross() -> None:
    picture = of("a -> x", "a -> y", "b -> x", "b -> y")
    assert draw(picture, "text").splitlines() == [
        "a ──┬───┬────▶ x",
        "    └───│─┬──▶ y",
        "b ──┬───┘ │",
        "    └─────┘",
    ]


def test_arrows_that_stand_alone_are_aligned() -> None:
    picture = of("a -> b: splice", "long -> short: plain", "x -> y")
    assert draw(picture, "text").splitlines() == [
        "a    ── splice ──▶ b",
        "long ── plain ───▶ short",
        "x    ────────────▶ y",
    ]


def test_there_and_back_between_sockets_is_one_line_with_two_heads() -> None:
    picture = of("a -> b: splice", "b -> a: splice", kind="socket")
    assert draw(picture, "text") == "a ◀─ splice ──▶ b\n"
    picture = of("a -> b: splice", "b -> a: plain", kind="socket")
    assert draw(picture, "text") == "a ◀─ splice ▶ ◀ plain ──▶ b\n"


def test_what_a_process_gives_back_is_a_chain_that_ends_where_it_began() -> None:
    picture = of("a -> b: splice", "b -> a: splice", kind="process")
    assert draw(picture, "text") == "a ── splice ──▶ b ── splice ──▶ a\n"


def test_a_proxy_has_heads_at_both_ends_and_copies_are_dashed() -> None:
    picture = add_proxy(Picture(""), "db", [":1"], ["up:1", "up:2"], ["shadow:1"], mover="splice")
    assert draw(picture, "text").splitlines() == [
        ":1 ◀─ splice ──▶ db ──┬◀─ splice ──▶ up:1",
        "                      ├◀─ splice ──▶ up:2",
        "                      └── mirror ╌╌▶ shadow:1",
        "",
        "db  proxy",
    ]


def test_without_arrows_the_boxes_are_listed() -> None:
    assert draw(Picture("", (Box("a", "a", "file"),)), "text") == "a\n"


def test_ascii_where_the_terminal_has_no_arrows() -> None:
    picture = Picture(
        "",
        (Box("a", "ä", "file"), Box("b", "b", "file"), Box("c", "c", "file")),
        (Arrow("a", "b", "≤ 1 B/s"), Arrow("a", "c")),
    )
    assert draw(picture, "text", Page(100, "ascii")).splitlines() == [
        "\\xe4 --+- <= 1 B/s --> b",
        "       +-------------> c",
    ]
    assert draw(picture, "text", Page(100, "latin-1")).startswith("ä --+-")


def test_labels_are_cut_to_the_width_and_told_in_full_below() -> None:
    long = "/a/directory/with/a/long/name/disk.img"
    picture = of(f"{long} -> gzip", f"{long} -> copy", "gzip -> host")
    lines = draw(picture, "text", Page(50)).splitlines()
    assert lines[0].endswith("─▶ gzip ────▶ host")
    assert max(map(len, lines[:2])) <= 50
    assert lines[-1].endswith(f"  {long}")
    assert "…" in lines[0]


def test_where_there_is_no_room_each_arrow_has_a_line() -> None:
    assert draw(FAN, "text", Page(20)).splitlines()[2:] == [
        "disk ── splice ──────▶ gzip",
        "gzip ── splice ──────▶ host",
        "disk ── copy_range ──▶ copy",
    ]


def test_notes_stand_below() -> None:
    picture = Picture(
        "",
        (Box("a", "a", "file", "/srv/a"), Box("host", "host", "socket", "tcp://h:1")),
        (Arrow("a", "host", note="the source may change"),),
    )
    assert draw(picture, "text").splitlines()[2:] == [
        "a         /srv/a",
        "host      tcp://h:1",
        "a → host  the source may change",
    ]


_RIGHT, _UP, _DOWN = "─╌┈┌└├┬┴┼◀", "│└┘├┤┴┼", "│┌┐├┤┬┼"


def followed(lines: list[str], names: list[str]) -> Counter[tuple[str, str]]:
    """Return which name leads to which, found as a reader does: along the lines, never left."""
    found: Counter[tuple[str, str]] = Counter()
    for row, line in enumerate(lines):
        for match in re.finditer(r"[A-Z]\d+ +(?=[─╌┈◀])", line):
            found.update(_ends(lines, row, match.end(), match.group().strip()))
    assert {name for pair in found for name in pair} <= set(names)
    return found


def _ends(lines: list[str], row: int, x: int, name: str) -> Counter[tuple[str, str]]:
    found: Counter[tuple[str, str]] = Counter()
    seen = set()
    ways = [(row, x, "right")]
    while ways:
        row, x, way = ways.pop()
        if (row, x, way) in seen or row < 0 or row >= len(lines) or x >= len(lines[row]):
            continue
        seen.add((row, x, way))
        here = lines[row][x]
        if here == "▶" and lines[row][x - 1] != " ":
            end = re.match(r" ([A-Z]\d+)", lines[row][x + 1 :])
            assert end, lines[row]
            found[name, end.group(1)] += 1
        elif way == "right" and (here == "│" or here not in "─╌┈◀┌┐└┘├┤┬┴┼"):
            ways.append((row, x + 1, "right"))  # behind a line that crosses, or through words
        else:
            if here in _RIGHT:
                ways.append((row, x + 1, "right"))
            if here in _UP and way != "down":
                ways.append((row - 1, x, "up"))
            if here in _DOWN and way != "up":
                ways.append((row + 1, x, "down"))
    return found


@given(pictures())
def test_every_arrow_can_be_followed_in_the_text_and_no_other(picture: Picture) -> None:
    lines = draw(picture, "text", Page(160)).splitlines()
    kind = {box.id: box.kind for box in picture.boxes}
    wanted: dict[tuple[str, str], tuple[str, bool]] = {}
    heads = 0  # that point left
    for arrow in picture.arrows:
        ends, back = (arrow.source, arrow.target), (arrow.target, arrow.source)
        words, both = wanted.get(back, ("", True))
        if arrow.source != arrow.target and not both and "process" not in map(kind.get, ends):
            wanted[back] = (words, True)  # there and back are one line with two heads
            heads += 1 + (words != arrow.words)
        else:
            wanted[ends] = (arrow.words, arrow.both)
            heads += arrow.both
    assert followed(lines, [box.label for box in picture.boxes]) == Counter(wanted.keys())
    assert "".join(lines).count("◀") == heads
    assert {name for line in lines for name in re.findall(r"[A-Z]\d+", line)} >= set(kind)
    assert max(map(len, lines)) <= 160


# --- mermaid


def test_mermaid_is_a_flowchart_with_a_colour_for_each_mover() -> None:
    assert draw(FAN, "mermaid").splitlines() == [
        "---",
        'title: "nightly"',
        "---",
        "flowchart LR",
        '    n0["disk"]',
        '    n1["gzip"]',
        '    n2["host"]',
        '    n3["copy"]',
        '    n0 -->|"splice"| n1',
        '    n1 -->|"splice"| n2',
        '    n0 -->|"copy#95;range"| n3',
        "    classDef copy_range stroke:#44aa99,stroke-width:2px",
        "    class n3 copy_range",
        "    linkStyle 2 stroke:#44aa99,stroke-width:2px",
        "    classDef splice stroke:#4b3fa8,stroke-width:2px",
        "    class n1,n2 splice",
        "    linkStyle 0,1 stroke:#4b3fa8,stroke-width:2px",
    ]


def test_mermaid_shows_groups_styles_and_both_directions() -> None:
    picture = add_proxy(Picture(""), "db", [":1"], ["up:1"], ["shadow:1"])
    text = draw(picture, "mermaid")
    assert 'subgraph g0 ["db"]' in text
    assert "    n0 <--> n1\n" in text
    assert '    n1 -.->|"mirror"| n3\n' in text


@pytest.mark.parametrize("label", HOSTILE)
def test_mermaid_labels_mean_nothing_but_themselves(label: str) -> None:
    picture = Picture("", (Box("a", label, "file"), Box("b", "b", "file")), (Arrow("a", "b"),))
    (line,) = (line for line in draw(picture, "mermaid").splitlines() if "n0[" in line)
    quoted = re.fullmatch(r'    n0\["((?:[A-Za-z0-9 /,?=.:-]|#\d+;)*)"\]', line)
    assert quoted
    inside = quoted.group(1)
    assert re.sub(r"#(\d+);", lambda match: chr(int(match.group(1))), inside) == visible(label)
    # a list, a link, an icon, a statement
    assert not re.match(r"\s*(-|\d+\.)|.*(://|www|fa:fa|style|classDef)", inside)


@pytest.mark.parametrize("title", ['say "x"', "a: b # c", "\\ \n -", "%%{init: {}}%%", "é漢😀"])
def test_a_mermaid_title_is_one_line_of_yaml(title: str) -> None:
    lines = draw(Picture(title), "mermaid").splitlines()
    assert (lines[0], lines[2]) == ("---", "---")
    quoted = re.fullmatch(r'title: "((?:[A-Za-z0-9 ,.:/_-]|\\U[0-9a-f]{8})*)"', lines[1])
    assert quoted
    inside = quoted.group(1).encode().decode("unicode_escape")
    assert inside == visible(title)


# --- dot


_STRING = r'"(?:[^"\\]|\\.)*"'
_DOT = re.compile(
    rf"""(?:\s*
      (?: digraph\s*\{{ | subgraph\s+{_STRING}\s*\{{ | \}}
        | (?:graph|node|edge)\s+\[ (?:\w+={_STRING},?\s*)* \];
        | (?:\w+={_STRING};\s*)+
        | {_STRING}(?:\s*->\s*{_STRING})?\s+\[ (?:\w+={_STRING},?\s*)* \];
      )\s*)*""",
    re.VERBOSE,
)
PROXY = add_proxy(FAN, 'd"b', [":1"], ["up:1"], ["shadow:1"], "/capture", mover="splice")


@pytest.mark.parametrize("picture", [FAN, PROXY, TOLD], ids=["fan", "proxy", "hostile"])
def test_dot_keeps_to_the_grammar(picture: Picture) -> None:
    text = draw(picture, "dot")
    assert _DOT.fullmatch(text)
    assert text.count(" -> ") >= len(picture.arrows)


@pytest.mark.skipif(not shutil.which("dot"), reason="Graphviz is not installed")
@pytest.mark.parametrize("picture", [PROXY, TOLD], ids=["proxy", "hostile"])
def test_graphviz_shows_the_labels_as_they_are(picture: Picture) -> None:
    run = subprocess.run(
        ["dot", "-Tsvg"], input=draw(picture, "dot").encode(), capture_output=True, check=True
    )
    assert not run.stderr
    root = ET.fromstring(run.stdout)
    shown = Counter(text.text for text in root.iter(f"{SVG}text"))
    for box in picture.boxes:
        assert not box.label or shown[visible(box.label)]
    assert len([e for e in root.iter(f"{SVG}g") if e.get("class") == "edge"]) == len(picture.arrows)


# --- svg


def parsed(picture: Picture) -> ET.Element:
    return ET.fromstring(draw(picture, "svg"))


def of_class(root: ET.Element, name: str) -> list[ET.Element]:
    return [each for each in root.iter(f"{SVG}g") if name in each.get("class", "").split()]


def title_of(element: ET.Element) -> str:
    return element.findtext(f"{SVG}title") or ""


@given(pictures())
def test_svg_has_every_box_and_every_arrow_and_no_boxes_overlap(picture: Picture) -> None:
    root = parsed(picture)
    boxes, arrows = of_class(root, "box"), of_class(root, "arrow")
    assert [box.get("data-id") for box in boxes] == [box.id for box in picture.boxes]
    assert sorted((a.get("data-source"), a.get("data-target")) for a in arrows) == sorted(
        (arrow.source, arrow.target) for arrow in picture.arrows
    )
    view = [float(number) for number in root.get("viewBox", "").split()]
    rects = []
    for box in boxes:
        frame = box.findall(f"{SVG}rect")[1]
        x, y, wide, high = (float(frame.get(key, "")) for key in ("x", "y", "width", "height"))
        assert x >= 0
        assert x + wide <= view[2]
        assert y + high <= view[3]
        rects.append((x, y, x + wide, y + high))
    for place, one in enumerate(rects):
        for other in rects[:place]:
            apart = one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1]
            assert apart or other[3] <= one[1]


def test_svg_is_told_to_those_who_do_not_see_it() -> None:
    root = parsed(FAN)
    assert root.get("role") == "img"
    assert title_of(root) == "nightly"
    described = root.findtext(f"{SVG}desc")
    assert described == ("disk to gzip (splice); gzip to host (splice); disk to copy (copy_range)")


def test_svg_needs_nothing_from_outside_and_runs_nothing() -> None:
    for picture in (FAN, PROXY, TOLD):
        for element in parsed(picture).iter():
            name = element.tag.removeprefix(SVG)
            assert name in SHAPES
            assert not any("href" in key or key.startswith("on") for key in element.attrib)


def test_svg_shows_hostile_labels_as_text() -> None:
    root = parsed(TOLD)
    told = [title_of(box) for box in of_class(root, "box")]
    assert told == [visible(text) + (f"\n{visible(text)}" if text else "") for text in HOSTILE]
    arrows = {title_of(arrow) for arrow in of_class(root, "arrow")}
    assert 'a"b → ]]>\n]]>, ]]>\n]]>' in arrows


def test_a_long_label_is_cut_where_it_is_shown_and_whole_where_it_is_pointed_at() -> None:
    long = "tcp://" + "x" * 200 + ".example.com:9000"
    root = parsed(of(f"{long} -> b"))
    (box, _) = of_class(root, "box")
    assert title_of(box) == long
    shown = box.findtext(f"{SVG}text") or ""
    assert shown.startswith("tcp://")
    assert "…" in shown
    assert shown.endswith(":9000")
    assert float(root.get("width", "")) < 700


def test_the_legend_has_the_movers_that_are_used() -> None:
    picture = of("a -> b: splice", "b -> c: reflink", "c -> d: made up", "d -> e")
    (legend,) = of_class(parsed(picture), "legend")
    assert [text.text for text in legend.iter(f"{SVG}text")] == ["reflink", "splice"]
    colours = [path.get("stroke") for path in legend.iter(f"{SVG}path")][1:]
    assert colours == [palette.line("reflink"), palette.line("splice")]
    assert not of_class(parsed(of("a -> b")), "legend")


def test_arrows_have_the_colour_the_width_and_the_dashes_of_what_they_tell() -> None:
    picture = Picture(
        "",
        (Box("a", "a", "file"), Box("b", "b", "file"), Box("c", "c", "file")),
        (Arrow("a", "b", mover="plain", width=1.0), Arrow("a", "c", style="dashed", both=True)),
    )
    by_target = {arrow.get("data-target"): arrow for arrow in of_class(parsed(picture), "arrow")}
    thick = by_target["b"].findall(f"{SVG}path")
    thin = by_target["c"].findall(f"{SVG}path")
    assert thick[1].get("stroke") == palette.line("plain")
    assert thin[1].get("stroke") == palette.line("")
    assert float(thick[1].get("stroke-width", "")) > float(thin[1].get("stroke-width", ""))
    assert (thick[1].get("stroke-dasharray"), thin[1].get("stroke-dasharray")) == (None, "6 5")
    assert (len(thick), len(thin)) == (2 + 1, 2 + 2)  # heads


def test_each_kind_of_box_has_its_icon_and_each_mover_its_colour() -> None:
    assert len(set(ICONS.values())) == len(ICONS)
    for kind in ICONS:
        root = parsed(Picture("", (Box("a", "a", kind),)))  # type: ignore[arg-type]
        assert of_class(root, kind)
    colours = [palette.line(mover) for mover in (*palette.MOVERS, "")]
    assert len(set(colours)) == len(colours) == 10


def test_several_proxies_are_framed_and_a_single_one_is_not() -> None:
    one = add_proxy(Picture(""), "one", [":1"], ["up:1"])
    assert draw(one, "svg").count('stroke-dasharray="2 3"') == 0
    assert draw(add_proxy(one, "two", [":2"], ["up:1"]), "svg").count('dasharray="2 3"') == 2


@pytest.mark.parametrize("name", FORMATS)
def test_a_thousand_boxes_are_drawn(name: str) -> None:
    joins = [f"n{box * 7 // 10} -> n{box + 1}" for box in range(999)]
    picture = of(*joins, *(f"n{box} -> n{box + 500}" for box in range(500)))
    text = draw(picture, name)
    assert len(picture.boxes) == 1000
    assert all(re.search(rf"\b{box.label}\b", text) for box in picture.boxes[::50])
