"""Edges: the short form `a -> b, c` and the long one, and what their options ask for.

What is asked of a reading (wishes) and of the treatment of a sink (policy) is made from an edge's
own options, and from the defaults where it has none. Knows of a node its name alone.
"""

from __future__ import annotations

from itertools import pairwise

from zpipe.graph.model import Wishes
from zpipe.graph.policy import NEEDS, Policy, has_effect
from zpipe.movers import MOVERS
from zpipe.recipe.document import MOST_FINDINGS
from zpipe.recipe.form import Defaults, Edge, EdgeOptions
from zpipe.recipe.params import few
from zpipe.recipe.problems import Problem
from zpipe.spelling import suggestion
from zpipe.units import parse_duration, parse_pipe_size, parse_rate, parse_size
from zpipe.values import Value, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping
    from typing import Any

    from zpipe.recipe.problems import Path

ARROW = "->"
MOST_EDGES = 10_000
MOVERS_OF_EDGES = (*MOVERS, "tee")
# to compare every unknown name with every known one would take for ever
_MOST_SUGGESTIONS = 50
_MOST_COMPARED = 2000
_BARE = EdgeOptions()

# option of an edge -> field of the wishes, and how its text is read
_WISHES: dict[str, tuple[str, Callable[[Any], object]]] = {
    "limit": ("length", parse_size),
    "offset": ("offset", parse_size),
    "rate_limit": ("rate_limit", parse_rate),
    "stall_timeout": ("stall_timeout", parse_duration),
    "pipe_size": ("pipe_size", parse_pipe_size),
    "via": ("via", str),
    "no_via": ("without", lambda names: frozenset(each for each, _ in several(names, ()))),
    "stable": ("stable", bool),
    "lease": ("lease", bool),
    "inplace": ("inplace", bool),
    "sync": ("sync", bool),
}
# option of an edge -> how its text is read; the fields of the policy have the same names
_POLICIES: dict[str, Callable[[Any], object]] = {
    "when_full": str,
    "detach_after": parse_duration,
    "spill_max": parse_size,
    "spill_dir": str,
    "spill_then": str,
}


class Link(Value):
    """An edge from one node to one other; `path` is that of the entry that it comes from."""

    source: str
    sink: str
    options: EdgeOptions
    path: Path


def several(value: Any, path: Path) -> list[tuple[Any, Path]]:
    """Return what a field holds that takes one or several, each with its path."""
    if isinstance(value, tuple):
        return [(each, (*path, n)) for n, each in enumerate(value)]
    return [] if value is None else [(value, path)]


def links_of(
    entries: Iterable[tuple[int, str | Edge]], names: Collection[str]
) -> tuple[list[Link], list[Problem]]:
    """Return the links of edges, of which the number is the place; `names` are those of nodes."""
    links: list[Link] = []
    problems: list[Problem] = []
    for number, entry in entries:
        if len(problems) >= MOST_FINDINGS:
            break
        path: Path = ("edges", number)
        if isinstance(entry, str):
            chain = _chain(entry, path, problems)
            options = _BARE
        else:
            chain = [several(entry.from_, (*path, "from")), several(entry.to, (*path, "to"))]
            options = entry
            for key, group in zip(("from", "to"), chain, strict=True):
                if not group:
                    problems.append(Problem(f"{key}: is empty: name a node", (*path, key)))
        known = [_known(group, names, problems) for group in chain]
        pairs = list(pairwise(known))
        count = sum(len(sources) * len(sinks) for sources, sinks in pairs)
        if len(links) + count > MOST_EDGES:
            problems.append(Problem(f"these are more than {MOST_EDGES:,} edges", path))
            break
        links += [
            Link(source, sink, options, path)
            for sources, sinks in pairs
            for source in sources
            for sink in sinks
        ]
    return links, problems


def _chain(text: str, path: Path, problems: list[Problem]) -> list[list[tuple[str, Path]]]:
    """Return the groups of names of `a -> b, c -> d`."""
    groups = [[name.strip() for name in group.split(",")] for group in text.split(ARROW)]
    if len(groups) < 2:
        problems.append(Problem(f"{text or '(empty)'}: not an edge: write it as a -> b", path))
        return []
    if any(not name for group in groups for name in group):
        problems.append(Problem(f"{text}: a name is missing: write it as a -> b, c", path))
    return [[(name, path) for name in group if name] for group in groups]


def _known(
    group: list[tuple[str, Path]], names: Collection[str], problems: list[Problem]
) -> list[str]:
    """Return those of a group that are names of nodes, each once."""
    found: dict[str, None] = {}
    for name, path in group:
        if name not in names and len(problems) < MOST_FINDINGS:
            known = f"there are {few(names)}" if names else "there are none"
            near = ""
            if len(problems) < _MOST_SUGGESTIONS and len(names) <= _MOST_COMPARED:
                near = suggestion(name, names)
            problems.append(Problem(f"no node is named {name}: {known}{near}", path))
        elif name in found and name in names:
            problems.append(Problem(f"{name}: stands twice on one side of an edge", path))
        found[name] = None
    return [name for name in found if name in names]


def judge_movers(options: EdgeOptions, path: Path) -> list[Problem]:
    """Return a problem for each mover that there is not."""
    named = [
        (name, at)
        for key in ("via", "no_via")
        for name, at in several(getattr(options, key), (*path, key))
        if name not in MOVERS_OF_EDGES
    ]
    known = ", ".join(MOVERS_OF_EDGES)
    return [
        Problem(
            f"{name}: no mover has this name: there are {known}{suggestion(name, MOVERS_OF_EDGES)}",
            at,
        )
        for name, at in named[:MOST_FINDINGS]
    ]


def judge_effects(links: Iterable[Link], defaults: Defaults) -> list[Problem]:
    """Return a problem for each option of an edge that changes nothing; defaults may be idle."""
    seen: dict[Path, EdgeOptions] = {link.path: link.options for link in links}
    problems = []
    for path, options in seen.items():
        policy = policy_of(options, defaults)
        problems += [
            Problem(f"{name}: has no effect: {why}", (*path, name), of_key=True)
            for name, why in NEEDS.items()
            if getattr(options, name) is not None and not has_effect(name, policy)
        ]
    return problems


def policy_of(options: EdgeOptions, defaults: EdgeOptions) -> Policy:
    """Return how the sink of an edge is treated; what its failure means is the node's to say."""
    changes: dict[str, Any] = {}
    for name, read in _POLICIES.items():
        value = _first(getattr(options, name), getattr(defaults, name))
        if value is not None:
            changes[name] = read(value)
    return Policy(**changes)


def wishes_of(options: EdgeOptions, defaults: EdgeOptions) -> Wishes:
    """Return what is asked of the reading that an edge belongs to."""
    wishes = Wishes(lenient=True)  # of several sinks, some are files
    changes = {}
    for name, (field, read) in _WISHES.items():
        value = _first(getattr(options, name), getattr(defaults, name))
        if value is not None:
            changes[field] = read(value)
    return replace(wishes, **changes) if changes else wishes


def _first(own: Any, default: Any) -> Any:
    return default if own is None else own


class Asked:
    """The wishes and policies of edges, made once for all edges that have the same options."""

    def __init__(self, defaults: Defaults):
        self._defaults = defaults
        self._made: dict[int, tuple[Wishes, Policy]] = {}

    def of(self, options: EdgeOptions) -> tuple[Wishes, Policy]:
        """Return what the options of an edge ask for. They must stay as they are."""
        key = id(options)
        if key not in self._made:
            self._made[key] = (
                wishes_of(options, self._defaults),
                policy_of(options, self._defaults),
            )
        return self._made[key]


def judge_inplace(links: Iterable[Link], kinds: Mapping[str, str]) -> list[Problem]:
    """Return a problem for each edge that asks for files in place where no sink is a file."""
    links = list(links)
    with_files = {link.source for link in links if kinds[link.sink] == "file"}
    idle = {
        link.path: link.source
        for link in links
        if link.options.inplace and link.source not in with_files
    }
    return [
        Problem(
            f"inplace: has no effect: no sink of {source} is a file",
            (*path, "inplace"),
            of_key=True,
        )
        for path, source in idle.items()
    ]
