"""Proxies and their service: from the form of a recipe to the settings that the command makes, too.

Resolves no name and asks for no user: what only the machine can tell is found when it is opened.
"""

from __future__ import annotations

from zpipe.errors import UsageError
from zpipe.proxy import wishes
from zpipe.proxy.addresses import parse_address
from zpipe.proxy.settings import (
    Capture,
    Check,
    Header,
    Limits,
    Mirror,
    Operation,
    Route,
    Settings,
    Timeouts,
    Upstream,
)
from zpipe.recipe import form
from zpipe.recipe.document import MOST_FINDINGS
from zpipe.recipe.edges import several
from zpipe.recipe.problems import Problem
from zpipe.units import parse_duration, parse_pipe_size, parse_rate, parse_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, TypeVar

    from zpipe.proxy.settings import Address, Network
    from zpipe.recipe.problems import Path

    T = TypeVar("T")


class _Reader:
    """Reads texts, and collects what is wrong with them. `whole`: nothing else is known to be."""

    def __init__(self, *, whole: bool = True) -> None:
        self.problems: list[Problem] = []
        self._whole = whole

    def idle(self, name: str, path: Path, without: str) -> None:
        """Tell of a field that has no effect, unless what it needs may be what is not known."""
        if self._whole:
            text = f"{name}: has no effect without {without}"
            self.problems.append(Problem(text, (*path, name), of_key=True))

    def say(self, text: str, path: Path, *, of_key: bool = False) -> None:
        self.problems.append(Problem(text, path, of_key))

    def read(self, read: Callable[[str], T], text: str, path: Path) -> T | None:
        """Return what a text stands for, or None where it is a problem, as others enough are."""
        if len(self.problems) >= MOST_FINDINGS:
            return None
        try:
            return read(text)
        except UsageError as error:
            self.say(str(error), path)
            return None

    def all(self, read: Callable[[str], T], value: Any, path: Path) -> tuple[T, ...]:
        """Return what one or several texts stand for, without those that are problems."""
        found = [self.read(read, text, at) for text, at in several(value, path)]
        return tuple(each for each in found if each is not None)

    def fields(
        self, of: Any, path: Path, readers: Mapping[str, Callable[[Any], Any]]
    ) -> dict[str, Any]:
        """Return the fields that were given, read; those without a reader as they are."""
        found = {}
        for name in of.__struct_fields__ if of is not None else ():
            value = getattr(of, name)
            if value is None or name not in readers:
                continue
            try:
                found[name] = readers[name](value)
            except UsageError as error:
                self.say(str(error), (*path, name))
        return found


def settings_of(name: str, proxy: form.Proxy, *, whole: bool) -> tuple[Settings, list[Problem]]:
    """Return the settings of a proxy; they count only where there is no problem.

    `whole` is False for what is left of one of which some fields could not be read.
    """
    path: Path = ("proxies", name)
    reader = _Reader(whole=whole)
    listen = reader.all(_to_listen_at, proxy.listen, (*path, "listen"))
    if proxy.listen == ():
        reader.say("listen: is empty: give an address like 127.0.0.1:5432", (*path, "listen"))
    upstreams = _upstreams(proxy.upstreams, (*path, "upstreams"), reader)
    routes = _routes(proxy.route_sni, (*path, "route_sni"), reader)
    if whole and not several(proxy.upstreams, path) and not proxy.route_sni:
        at = (*path, "upstreams") if proxy.upstreams is not None else path
        reader.say(f"{name}: no upstream: give an address like 10.0.0.1:5432", at)
    settings = Settings(
        listen,
        upstreams,
        routes=routes,
        # without a name, or with another one
        route_default=upstreams if routes else (),
        header=_header(proxy, path, reader),
        mirrors=tuple(
            mirror
            for each, at in several(proxy.mirrors, (*path, "mirrors"))
            if (mirror := _mirror(each, at, reader)) is not None
        ),
        capture=_capture(proxy.capture, (*path, "capture"), reader),
        check=_check(proxy.check, (*path, "check"), reader),
        limits=_limits(proxy.limits, (*path, "limits"), reader),
        timeouts=Timeouts(**reader.fields(proxy.timeouts, (*path, "timeouts"), _TIMEOUTS)),
        splice=proxy.splice,
        name=name,
        **_renamed(
            reader.fields(
                proxy,
                path,
                {
                    "balance": _as_it_is,
                    "retries": _as_it_is,
                    "resolve_interval": lambda text: form.duration_or_never(text) or 0.0,
                    "pipe_size": parse_pipe_size,
                },
            ),
            resolve_interval="resolve_every",
        ),
    )
    return settings, reader.problems


def operation_of(
    service: form.Service | None, metrics: str | None, *, proxies: bool
) -> tuple[Operation, list[Problem]]:
    """Return how the process behaves that serves the proxies of a recipe."""
    reader = _Reader()
    path: Path = ("service",)
    place = None if metrics is None else reader.read(_to_listen_at, metrics, ("metrics",))
    if service is None:
        return Operation(metrics=place), reader.problems
    if not proxies:
        reader.say("service: has no effect without proxies", path, of_key=True)
    for name in ("user", "group", "access_log"):
        if getattr(service, name) == "":
            reader.say(f"{name}: is empty", (*path, name))
    if service.access_format is not None and service.access_log is None:
        reader.idle("access_format", path, "access_log")
    names = dict.fromkeys(service.__struct_fields__, _as_it_is)
    return Operation(metrics=place, **reader.fields(service, path, names)), reader.problems


def _as_it_is(value: Any) -> Any:
    return value


def _renamed(fields: dict[str, Any], **names: str) -> dict[str, Any]:
    return {names.get(name, name): value for name, value in fields.items()}


def _to_listen_at(text: str) -> Address:
    return parse_address(text, listen=True)


def _upstreams(value: Any, path: Path, reader: _Reader) -> tuple[Upstream, ...]:
    found = []
    for each, at in several(value, path):
        if isinstance(each, str):
            upstream = reader.read(wishes.parse_upstream, each, at)
        else:
            address = reader.read(parse_address, each.address, (*at, "address"))
            upstream = None if address is None else Upstream(address, each.weight)
        if upstream is not None:
            found.append(upstream)
    return tuple(found)


def _routes(value: Mapping[str, Any], path: Path, reader: _Reader) -> tuple[Route, ...]:
    found: dict[str, Route] = {}
    for written, upstreams in value.items():
        at = (*path, written)
        if written == "*":
            reader.say("*: all other names are those of upstreams", at, of_key=True)
            continue
        try:
            pattern = wishes.server_name(written, written)
        except UsageError as error:
            reader.say(str(error), at, of_key=True)
            continue
        if pattern in found:
            reader.say(f"{written}: is {pattern}, which has a route already", at, of_key=True)
        if not several(upstreams, at):
            reader.say(f"{written}: no upstream: give an address like 10.0.0.1:443", at)
        found[pattern] = Route(pattern, _upstreams(upstreams, at, reader))
    return tuple(found.values())


def _header(proxy: form.Proxy, path: Path, reader: _Reader) -> Header:
    given = reader.fields(proxy, path, {"accept_proxy": _as_it_is, "send_proxy": _as_it_is})
    if proxy.trust_proxy is not None and given.get("accept_proxy", "no") == "no":
        reader.idle("trust_proxy", path, "accept_proxy")
    return Header(
        trust=_networks(proxy.trust_proxy, (*path, "trust_proxy"), reader),
        **_renamed(given, accept_proxy="accept", send_proxy="send"),
    )


def _networks(value: Any, path: Path, reader: _Reader) -> tuple[Network, ...]:
    if value == ():
        reader.say(f"{path[-1]}: is empty: give a network like 10.0.0.0/8", path)
    return tuple(
        network
        for each in reader.all(lambda text: wishes.parse_networks((text,)), value, path)
        for network in each
    )


def _mirror(value: str | form.Mirror, path: Path, reader: _Reader) -> Mirror | None:
    if isinstance(value, str):
        return reader.read(wishes.parse_mirror, value, path)
    address = reader.read(parse_address, value.address, (*path, "address"))
    given = reader.fields(
        value,
        path,
        {
            "direction": _as_it_is,
            "queue": wishes.some_bytes,
            "when_full": _as_it_is,
            "spill_max": wishes.some_bytes,
            "sample": wishes.share,
        },
    )
    if value.spill_max is not None and value.when_full != "spill":
        reader.idle("spill_max", path, "when_full: spill")
    return None if address is None else Mirror(address, **given)


def _capture(value: str | form.Capture | None, path: Path, reader: _Reader) -> Capture | None:
    if value is None:
        return None
    capture = form.Capture(directory=value) if isinstance(value, str) else value
    if not capture.directory:
        at = path if isinstance(value, str) else (*path, "directory")
        reader.say("capture: is empty: give a directory", at)
    return Capture(capture.directory, **reader.fields(capture, path, {"total": parse_size}))


def _check(value: form.Check | None, path: Path, reader: _Reader) -> Check | None:
    if value is None:
        return None
    return Check(
        **reader.fields(
            value,
            path,
            {
                "interval": parse_duration,
                "timeout": parse_duration,
                "rise": _as_it_is,
                "fall": _as_it_is,
                "send": wishes.unescaped,
                "expect": wishes.unescaped,
            },
        )
    )


def _limits(value: form.Limits | None, path: Path, reader: _Reader) -> Limits:
    if value is None:
        return Limits()
    return Limits(
        allow=_networks(value.allow, (*path, "allow"), reader),
        deny=_networks(value.deny, (*path, "deny"), reader),
        **reader.fields(
            value,
            path,
            {
                "connections": _as_it_is,
                "when_full": _as_it_is,
                "per_source": _as_it_is,
                "rate": parse_rate,
                "total_rate": parse_rate,
            },
        ),
    )


_TIMEOUTS = {
    "connect": parse_duration,
    "half_closed": form.duration_or_never,
    "idle": parse_duration,
    "lifetime": parse_duration,
    "opening": parse_duration,
    "drain": parse_duration,
    "exit_idle": parse_duration,
}
