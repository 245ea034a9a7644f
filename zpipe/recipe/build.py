"""A document becomes a graph and the settings of proxies; whatever is wrong is found all at once.

Nothing is opened, resolved or asked of the machine. A part that cannot be read is left out, and
what would only follow from its absence is not told.
"""

from __future__ import annotations

import os
from collections import Counter

from zpipe.endpoints import ways
from zpipe.graph.check import check
from zpipe.graph.model import Edge, Endpoint, Graph, Node
from zpipe.proxy.settings import Operation
from zpipe.recipe import edges as joining
from zpipe.recipe import form, nodes, params, proxies
from zpipe.recipe.conflicts import conflicts
from zpipe.recipe.decode import decode
from zpipe.recipe.document import MOST_FINDINGS
from zpipe.recipe.problems import Finding, Problem, RecipeError
from zpipe.values import Value, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Any

    from zpipe.graph.model import Merge
    from zpipe.graph.policy import OnError
    from zpipe.proxy.settings import Settings
    from zpipe.recipe.document import Document
    from zpipe.recipe.params import Tree
    from zpipe.recipe.problems import Path

_UNREAD = "?"  # the kind of a node that could not be read: it may be anything


class Built(Value):
    """What a recipe stands for. `graph` is None where it has proxies only.

    `places` are the paths of edges, by source and sink.
    """

    name: str
    graph: Graph | None
    settings: tuple[Settings, ...]
    operation: Operation
    document: Document
    places: Mapping[tuple[str, str], Path] = {}
    description: str = ""

    def finding(
        self,
        text: str,
        *,
        node: str | None = None,
        edge: tuple[str, str] | None = None,
        proxy: str | None = None,
    ) -> Finding:
        """Return what was found later, at the place of the node, edge or proxy that it is about."""
        path: Path = ()
        if edge is not None and edge in self.places:
            path = self.places[edge]
        elif node is not None:
            path = ("nodes", node)
        elif proxy is not None:
            path = ("proxies", proxy)
        return self.document.finding(Problem(text, path))


class _Parts(Value):
    """The parts of a recipe that could be read, and those that could be read in part.

    `whole`: nothing is missing. `unread` are the first two steps of the paths of what is not
    known, or not sound: what follows from it is not told.
    """

    recipe: form.Recipe
    edges: list[tuple[int, str | form.Edge]]
    whole: bool
    unread: set[Path]


def build(document: Document, given: Mapping[str, str], environ: Mapping[str, str]) -> Built:
    """Return what a document stands for; `given` are parameters, `environ` is for ${env:NAME}.

    Raises: RecipeError  it is invalid; with all findings.
    """
    text = params.substitute(document, given, environ)
    recipe, problems = decode(text.tree, form.Recipe)
    if recipe is None or text.unknown:
        wrong = [problem.path for problem in problems]
        unread = {path[:2] for path in (*wrong, *text.unknown)}
        parts = _Parts(*_readable(text.tree, wrong), False, unread)
    else:
        parts = _Parts(recipe, list(enumerate(recipe.edges)), True, set())
    recipe = parts.recipe

    graph, places, more = _graph(parts)
    problems += more
    settings = []
    for name, proxy in recipe.proxies.items():
        sound = ("proxies", name) not in parts.unread
        made, more = proxies.settings_of(name, proxy, whole=sound)
        problems += more
        if sound and not more:
            settings.append(made)
    served = isinstance(text.tree, dict) and bool(text.tree.get("proxies"))
    operation, more = proxies.operation_of(recipe.service, recipe.metrics, proxies=served)
    problems += more
    if parts.whole and not recipe.edges and not recipe.proxies:
        problems.append(Problem("joins nothing: give edges or proxies"))
    problems += conflicts(graph, settings, operation, document)
    problems = [problem for problem in problems if problem.path not in text.unknown]
    problems += text.problems
    if problems or text.unknown:
        raise RecipeError([document.finding(problem) for problem in problems])
    return Built(
        recipe.name or _stem(document.name),
        graph if graph.nodes else None,
        tuple(settings),
        operation,
        document,
        places,
        recipe.description,
    )


def _stem(name: str) -> str:
    return "recipe" if name == "-" else os.path.splitext(os.path.basename(name))[0]


def _readable(
    tree: Tree, wrong: Iterable[Path]
) -> tuple[form.Recipe, list[tuple[int, str | form.Edge]]]:
    """Return what can be read of a recipe in which something is wrong, each part by itself."""
    below: dict[Path, set[Path]] = {}
    for path in wrong:
        for depth in (1, 2):
            below.setdefault(path[:depth], set()).add(path[depth:])

    def part(value: Tree, type_: Any, path: Path) -> Any:
        value = _without(value, below.get(path, set()))
        return None if value is None else decode(value, type_, path)[0]

    def entries(key: str, type_: Any) -> Iterator[tuple[Any, Any]]:
        found = top.get(key)
        each = enumerate(found) if isinstance(found, list) else ()
        for name, value in found.items() if isinstance(found, dict) else each:
            read = part(value, type_, (key, name))
            if read is not None:
                yield name, read

    top = tree if isinstance(tree, dict) else {}
    recipe = form.Recipe(zpipe=1)
    recipe.defaults = part(top.get("defaults"), form.Defaults, ("defaults",))
    recipe.service = part(top.get("service"), form.Service, ("service",))
    recipe.metrics = part(top.get("metrics"), str, ("metrics",))
    found = top.get("nodes")
    recipe.nodes = dict(found) if isinstance(found, dict) else {}
    recipe.proxies = dict(entries("proxies", form.Proxy))
    return recipe, list(entries("edges", str | form.Edge))


def _without(tree: Tree, wrong: set[Path]) -> Tree:
    """Return a tree without what is wrong: the values of keys, and lists with such an entry."""
    if () in wrong:
        return None
    if not isinstance(tree, dict) or not wrong:
        return tree
    cut = {path[0] for path in wrong if len(path) == 1 or isinstance(path[1], int)}
    below: dict[str | int, set[Path]] = {}
    for path in wrong:
        below.setdefault(path[0], set()).add(path[1:])
    return {
        key: _without(value, below.get(key, set())) for key, value in tree.items() if key not in cut
    }


def _graph(parts: _Parts) -> tuple[Graph, dict[tuple[str, str], Path], list[Problem]]:
    """Return the graph, as far as it can be read, and where its edges come from."""
    recipe, whole = parts.recipe, parts.whole
    defaults = recipe.defaults or form.Defaults()
    links, problems = joining.links_of(parts.edges, recipe.nodes)
    links = [link for link in links if link.path not in parts.unread]
    for number, entry in parts.edges:
        if isinstance(entry, form.Edge) and len(problems) < MOST_FINDINGS:
            problems += joining.judge_movers(entry, ("edges", number))
    if recipe.defaults is not None:
        problems += joining.judge_movers(recipe.defaults, ("defaults",))
    if whole:  # else the defaults may be what is missing
        problems += joining.judge_effects(links, defaults)

    drafts: dict[str, nodes.Draft | None] = {}
    for name, tree in recipe.nodes.items():
        drafts[name] = None
        if len(problems) < MOST_FINDINGS:
            drafts[name], more = nodes.draft(name, tree)
            problems += more
    ends, more = _ends(drafts, links)
    problems += more
    ends.update({name: _stand_in(name) for name in drafts if ("nodes", name) in parts.unread})
    whole = whole and not problems

    on_error = {
        name: _STOP_OR_DROP[(draft and draft.on_error) or defaults.on_error or "stop"]
        for name, draft in drafts.items()
    }
    graph = Graph(
        tuple(Node(name, end, on_error[name]) for name, end in ends.items()),
        _edges(links, on_error, defaults, whole=whole),
    )
    places = {(link.source, link.sink): link.path for link in links}
    if not graph.nodes and not graph.edges:
        return graph, places, problems
    if whole:
        problems += joining.judge_inplace(links, {n: end.kind for n, end in ends.items()})
    joined = {name for link in links for name in (link.source, link.sink)}
    kinds = {end.kind for end in ends.values()} - {_UNREAD}
    for flaw in check(graph, {**ways(kinds), _UNREAD: "both"}):
        if flaw.edge is None and flaw.node not in joined and not (whole and flaw.node):
            continue  # what joins it may be what could not be read; that there is none is told
        path: Path = () if flaw.node is None else ("nodes", flaw.node)
        problems.append(Problem(flaw.text, places.get(flaw.edge, path) if flaw.edge else path))
    return graph, places, problems


_STOP_OR_DROP: dict[str, OnError] = {"stop": "stop", "detach": "drop"}


def _ends(
    drafts: Mapping[str, nodes.Draft | None], links: Iterable[joining.Link]
) -> tuple[dict[str, Endpoint], list[Problem]]:
    """Return the end of each node, judged for the sides where it stands."""
    read = {link.source for link in links}
    written = {link.sink for link in links}
    ends: dict[str, Endpoint] = {}
    problems: list[Problem] = []
    for name, draft in drafts.items():
        end = None
        if draft is not None:
            end, more = _end(draft, name in read, name in written)
            problems += more
        ends[name] = end or _stand_in(name)
    return ends, problems


def _stand_in(name: str) -> Endpoint:
    return Endpoint(name, _UNREAD, "")


def _end(draft: nodes.Draft, read: bool, written: bool) -> tuple[Endpoint | None, list[Problem]]:
    """Return the end of a node, judged for each side where it stands."""
    if read != written:
        return nodes.judged(draft, sink=written)
    source, problems = nodes.judged(draft, sink=False)
    sink, more = nodes.judged(draft, sink=True)
    either = source or sink
    if either is not None and (not read or ways((either.kind,))[either.kind] == "once"):
        # where it stands is wrong, and told; what it would be there is not known
        return either, []
    return source and sink, list(dict.fromkeys((*problems, *more)))


def _edges(
    links: list[joining.Link],
    on_error: Mapping[str, OnError],
    defaults: form.Defaults,
    *,
    whole: bool,
) -> tuple[Edge, ...]:
    asked = joining.Asked(defaults)
    into = Counter(link.sink for link in links)
    # one of a sequence may fail, and the next one goes on
    skips = {
        link.source for link in links if on_error[link.source] == "drop" and into[link.sink] > 1
    }
    made = []
    for link in links:
        wishes, policy = asked.of(link.options)
        if link.source in skips:
            wishes = replace(wishes, skip=True)
        made.append(
            Edge(
                link.source,
                link.sink,
                wishes,
                replace(policy, on_error=on_error[link.sink]),
                _merge(link, defaults, alone=into[link.sink] == 1, whole=whole),
            )
        )
    return tuple(made)


def _merge(link: joining.Link, defaults: form.Defaults, *, alone: bool, whole: bool) -> Merge:
    if alone:  # a default is for those that it is of use to; another source may be unread
        return link.options.merge if whole and link.options.merge else "in-order"
    return link.options.merge or defaults.merge or "in-order"
