"""What two parts of a recipe cannot have both: a file, an fd, a folder, a place to listen at.

Judges names as they are written, lexically: that two paths are one file by a link is found when
they are open. Things are looked up by words, never compared one by one: recipes may be long.
"""

from __future__ import annotations

import os
import re

from zpipe.endpoints.split import part_name
from zpipe.endpoints.tcp import host_and_port
from zpipe.recipe.problems import Problem
from zpipe.units import parse_size
from zpipe.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from zpipe.graph.model import Endpoint, Graph, Node
    from zpipe.proxy.settings import Address, Operation, Settings
    from zpipe.recipe.document import Document
    from zpipe.recipe.problems import Path

# each opening of these is one of its own
_SHARED = frozenset({"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"})
_FDS = re.compile(r"/(?:dev|proc/self)/fd/([0-9]{1,10})", re.ASCII)
_STANDARD = {"/dev/stdin": "0", "/dev/stdout": "1", "/dev/stderr": "2"}
_NAMES = {"0": "standard input", "1": "standard output", "2": "standard error"}
_DIGITS = re.compile(r"[0-9]+", re.ASCII)
_MOST_DIGITS = 20  # of a name, in which the number of a part is looked for
_CONVERSION = re.compile(r"%%|%0?[0-9]{0,2}d")
_MARK = "\0"  # stands for the number of a part
_LOOPBACK = ("127.0.0.1", "::1")


class _Claim(Value):
    """What one part of a recipe does with a thing.

    `offset` is where it begins in a file that it does not truncate. `taken` are the words that
    stand for a place to listen at, and `refused` those that no earlier one may have taken.
    """

    kind: str
    thing: str
    act: str
    who: str
    path: Path
    offset: int | None = None
    parts: bool = False  # the name has a place for numbers
    taken: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()


def conflicts(
    graph: Graph, settings: Sequence[Settings], operation: Operation, document: Document
) -> list[Problem]:
    """Return a problem for each part of a recipe that wants what an earlier one has."""
    claims = [*_of_nodes(graph), *_of_proxies(settings), *_of_service(operation)]
    if document.name == "-":
        claims.insert(0, _Claim("fd", "0", "reads", "the recipe itself", ()))
    judge = _Judge(document)
    for claim in claims:
        judge.judge(claim)
    judge.judge_parts(claims)
    return judge.problems


class _Judge:
    """Remembers the first claim for each word, and tells of later ones that it excludes."""

    def __init__(self, document: Document):
        self._document = document
        self._claims: dict[tuple[object, ...], _Claim] = {}
        self._rules = {
            "file": self._file,
            "fifo": self._fifo,
            "fd": self._alone,
            "folder": self._alone,
            "listener": self._listener,
        }
        self.problems: list[Problem] = []

    def judge(self, claim: _Claim) -> None:
        """Compare a claim with those before it, and remember it."""
        self._rules[claim.kind](claim)

    def _first(self, claim: _Claim, *words: tuple[object, ...]) -> _Claim | None:
        """Return the claim of another part that has one of these words."""
        found = (self._claims.get((claim.thing, *word)) for word in words)
        return next((other for other in found if other and other.path != claim.path), None)

    def _keep(self, claim: _Claim, *words: tuple[object, ...]) -> None:
        for word in words:
            self._claims.setdefault((claim.thing, *word), claim)

    def _tell(self, claim: _Claim, does: str, other: _Claim, too: str, why: str = "") -> None:
        who = other.who
        if other.path:
            who += f" (line {self._document.place(other.path).line})"
        self.problems.append(Problem(f"{claim.who}: {does}, {too.format(who)}{why}", claim.path))

    def _file(self, claim: _Claim) -> None:
        """A file may be read by several, or written by one."""
        if claim.act == "reads":
            same = self._first(claim, ("fifo", "reads"))
            rival = self._first(claim, ("file", "writes"))
            self._keep(claim, ("file", "reads"))
        else:
            # at places that were given, several may write
            where: tuple[object, ...] = ("whole",) if claim.offset is None else ("at", claim.offset)
            among = ("file", "writes") if claim.offset is None else ("whole",)
            same = self._first(claim, ("fifo", "writes"), among, where)
            rival = self._first(claim, ("file", "reads"))
            self._keep(claim, ("file", "writes"), where)
        if same is not None:
            self._tell(claim, f"{claim.act} {claim.thing}", same, "and {} does, too")
        # what a terminal or a serial line is given is not what it has to say
        elif rival is not None and not claim.thing.startswith("/dev/"):
            hint = f": if it is a FIFO, write pipe:{claim.thing}"
            self._tell(claim, f"{claim.act} {claim.thing}", rival, f"which {{}} {rival.act}", hint)

    def _fifo(self, claim: _Claim) -> None:
        """A FIFO has one who writes it, and one who reads it."""
        same = self._first(claim, ("fifo", claim.act), ("file", claim.act))
        if same is not None:
            self._tell(claim, f"{claim.act} {claim.thing}", same, "and {} does, too")
        self._keep(claim, ("fifo", claim.act))

    def _alone(self, claim: _Claim) -> None:
        """Whoever has it, has it alone."""
        other = self._first(claim, (claim.kind,))
        if other is not None:
            thing = claim.thing
            if claim.kind == "fd":
                thing = _NAMES.get(thing, f"fd:{thing}")
            too = "does, too" if other.act == claim.act else f"{other.act} it"
            self._tell(claim, f"{claim.act} {thing}", other, f"and {{}} {too}")
        self._keep(claim, (claim.kind,))

    def _listener(self, claim: _Claim) -> None:
        """Two cannot listen at one address, nor one at all addresses and another at one of them."""
        found = (self._claims.get((word,)) for word in claim.refused)
        other = next(filter(None, found), None)
        if other is not None:
            where = "too" if other.thing == claim.thing else f"at {other.thing}"
            self._tell(claim, f"listens at {claim.thing}", other, f"and {{}} does, {where}")
        for word in claim.taken:
            self._claims.setdefault((word,), claim)

    def judge_parts(self, claims: Sequence[_Claim]) -> None:
        """Find files that have the name of a part of another one."""
        split: dict[str, _Claim] = {}
        for claim in claims:
            if claim.parts:
                split.setdefault(_CONVERSION.sub(_marked, claim.thing), claim)
        told: set[tuple[Path, Path]] = set()
        for claim in claims if split else ():
            if claim.kind not in ("file", "fifo"):
                continue
            name = part_name(claim.thing, 0) if claim.parts else claim.thing
            found = (split.get(pattern) for pattern in _with_mark(name))
            other = next((each for each in found if each and each.thing != claim.thing), None)
            if other is not None and (other.path, claim.path) not in told:
                told.add((claim.path, other.path))
                too = "which is a part of what {} writes"
                self._tell(claim, f"{claim.act} {name}", other, too)


def _marked(found: re.Match[str]) -> str:
    return "%" if found[0] == "%%" else _MARK


def _with_mark(name: str) -> Iterator[str]:
    """Yield the name with each number that it may hold replaced by the mark."""
    for found in _DIGITS.finditer(name):
        if found.end() - found.start() <= _MOST_DIGITS:
            for start in range(found.start(), found.end()):
                for end in range(start + 1, found.end() + 1):
                    yield f"{name[:start]}{_MARK}{name[end:]}"


def _of_nodes(graph: Graph) -> Iterator[_Claim]:
    read = {edge.source for edge in graph.edges}
    written = {edge.sink for edge in graph.edges}
    for node in graph.nodes:
        for act, among in (("reads", read), ("writes", written)):
            if node.id in among:
                yield from _of_end(node, node.endpoint, act)
        yield from _of_listener(node)


def _of_end(node: Node, end: Endpoint, act: str) -> Iterator[_Claim]:
    path: Path = ("nodes", node.id)
    if end.kind == "-":
        yield _Claim("fd", "0" if act == "reads" else "1", act, node.id, path)
    elif end.kind == "fd":
        yield _Claim("fd", _fd(end.address), act, node.id, path)
    elif end.kind == "pipe":
        yield _Claim("fifo", _normal(end.address), act, node.id, path)
    elif end.kind == "file":
        offset = end.options.get("offset")
        yield from _of_file(
            end.address,
            act,
            node.id,
            path,
            offset=None if offset is None else parse_size(offset),
            parts="split_size" in end.options,
        )
    elif end.kind == "hash" and "file" in end.options:
        yield from _of_file(end.options["file"], "writes", node.id, (*path, "file"))


def _of_listener(node: Node) -> Iterator[_Claim]:
    end = node.endpoint
    path: Path = ("nodes", node.id)
    if end.kind == "tcp-listen":
        host, port = host_and_port(end, any_host=True)
        yield from _listening(end.text, host, port, node.id, path)
    elif end.kind == "unix-listen":
        yield _unix(end.text, end.address, node.id, path)


def _of_proxies(settings: Sequence[Settings]) -> Iterator[_Claim]:
    for proxy in settings:
        who = f"proxy {proxy.name}"
        path: Path = ("proxies", proxy.name)
        for n, address in enumerate(proxy.listen):
            yield from _of_address(address, who, (*path, "listen", n))
        if proxy.capture is not None:
            folder = _normal(proxy.capture.directory)
            yield _Claim("folder", folder, "captures in", who, (*path, "capture"))


def _of_service(operation: Operation) -> Iterator[_Claim]:
    path: Path = ("service", "access_log")
    if operation.access_log == "-":
        yield _Claim("fd", "1", "writes", "access_log", path)
    elif operation.access_log is not None:
        yield from _of_file(operation.access_log, "writes", "access_log", path)
    if operation.metrics is not None:
        yield from _of_address(operation.metrics, "metrics", ("metrics",))


def _of_address(address: Address, who: str, path: Path) -> Iterator[_Claim]:
    if address.kind == "fd":
        yield _Claim("fd", _fd(address.path), "listens at", who, path)
    elif address.kind == "unix":
        yield _unix(address.text, address.path, who, path)
    else:
        six = address.v6only
        yield from _listening(address.text, address.host, address.port, who, path, six=six)


def _of_file(
    written: str,
    act: str,
    who: str,
    path: Path,
    *,
    offset: int | None = None,
    parts: bool = False,
) -> Iterator[_Claim]:
    name = _normal(written)
    found = _FDS.fullmatch(name)
    fd = _fd(found[1]) if found else _STANDARD.get(name)
    if fd is not None:
        yield _Claim("fd", fd, act, who, path)
    elif name not in _SHARED:
        yield _Claim("file", name, act, who, path, offset, parts)


def _unix(text: str, name: str, who: str, path: Path) -> _Claim:
    words = (f"unix:{name if name.startswith('@') else _normal(name)}",)
    return _Claim("listener", text, "listens at", who, path, taken=words, refused=words)


def _listening(
    text: str, host: str, port: int, who: str, path: Path, *, six: bool = False
) -> Iterator[_Claim]:
    """Yield the claim of a TCP address; any free port is never one of somebody else."""
    if not port:
        return
    own, families = _hosts(host)
    wild = not own
    if wild and six:
        families = ("6",)
    every = [f"every {family}" for family in families]
    some = [f"some {family}" for family in families]
    taken, refused = (every, [*every, *some]) if wild else ([*own, *some], [*own, *every])
    yield _Claim(
        "listener",
        text,
        "listens at",
        who,
        path,
        taken=tuple(f"{word} {port}" for word in taken),
        refused=tuple(f"{word} {port}" for word in refused),
    )


def _hosts(host: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the addresses of a host, none for every one, and the families that it is of.

    A name is of a family of its own: only who listens at all addresses is sure to be in its way.
    """
    if host in ("", "*", "::"):
        return (), ("4", "6", "?")
    if host.lower() == "localhost":
        return _LOOPBACK, ("4", "6")
    # only those who listen pay for it
    import ipaddress

    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return (host.lower(),), ("?",)
    return () if host == "0.0.0.0" else (str(address),), (str(address.version),)


def _fd(text: str) -> str:
    return str(int(text)) if text.isascii() and text.isdigit() else text


def _normal(path: str) -> str:
    """Return an absolute path without detours."""
    try:
        path = os.path.abspath(path)
    except OSError:
        path = os.path.normpath(path)  # the directory that we are in is gone
    return f"/{path.lstrip('/')}" if path.startswith("//") else path
