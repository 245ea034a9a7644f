"""What the options of `zpipe proxy` ask for, all together: the settings of a proxy, or why not.

Opens nothing, and knows nothing of how an option is written.
"""

from __future__ import annotations

import os

import click

from zpipe.commands.proxy_options import NEVER
from zpipe.errors import UsageError
from zpipe.proxy import wishes
from zpipe.proxy.settings import Capture, Header, Limits, Operation, Settings, Timeouts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from zpipe.proxy.settings import Upstream

# with --stdio there is one connection, and nobody to listen for
_NEED_LISTENER = (
    "listen",
    "accept_proxy",
    "trust_proxy",
    "workers",
    "balance",
    "check",
    "resolve_interval",
    "route_sni",
    "route_default",
    "mirror",
    "capture",
    "capture_max",
    "max_connections",
    "when_full",
    "per_source",
    "total_rate_limit",
    "allow",
    "deny",
    "opening_timeout",
    "drain_timeout",
    "exit_idle_time",
    "user",
    "group",
    "access_log",
    "access_format",
    "metrics",
    "progress",
)
# an option that does nothing without another one
_NEED_OTHER = {
    "trust_proxy": "accept_proxy",
    "capture_max": "capture",
    "route_default": "route_sni",
    "access_format": "access_log",
}


def settings_of(ctx: click.Context) -> Settings:
    """Return what a command line asks for. Raises: UsageError  it contradicts itself."""
    options = dict(ctx.params)
    upstreams = options.pop("upstreams")
    given = {
        name
        for name in options
        if ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    }
    _no_contradiction(upstreams, given, options)
    return _settings(upstreams, options)


def _no_contradiction(
    upstreams: tuple[Upstream, ...], given: set[str], options: dict[str, Any]
) -> None:
    """Raise: UsageError  options that exclude each other, or have no effect."""
    if options["stdio"]:
        for name in _NEED_LISTENER:
            if name in given:
                raise UsageError(f"{_flag(name)}: cannot be beside --stdio")
    for name, other in _NEED_OTHER.items():
        if name in given and other not in given:
            raise UsageError(f"{_flag(name)}: has no effect without {_flag(other)}")
    if upstreams and options["route_default"]:
        raise UsageError(
            "--route-default: is what an UPSTREAM without a name is: give one or the other"
        )
    if not upstreams and not options["route_sni"]:
        raise UsageError("proxy: no upstream: give an address like 10.0.0.1:5432")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _settings(upstreams: tuple[Upstream, ...], options: dict[str, Any]) -> Settings:
    routes = wishes.routes_of(options["route_sni"])
    capture = None
    if options["capture"] is not None:
        capture = Capture(options["capture"], **_given(options, total="capture_max"))
        if os.path.exists(capture.directory) and not os.path.isdir(capture.directory):
            raise UsageError(f"{capture.directory}: capture: Not a directory")
    timeouts = _given(
        options,
        connect="connect_timeout",
        half_closed="half_closed_timeout",
        idle="idle_timeout",
        lifetime="max_lifetime",
        opening="opening_timeout",
        drain="drain_timeout",
        exit_idle="exit_idle_time",
    )
    if timeouts.get("half_closed") == NEVER:
        timeouts["half_closed"] = None
    if options["resolve_interval"] == NEVER:
        options = {**options, "resolve_interval": 0.0}
    return Settings(
        options["listen"],
        upstreams,
        routes=routes,
        # without a name, or with another one
        route_default=(options["route_default"] or upstreams) if routes else (),
        header=Header(
            trust=_flat(options["trust_proxy"]),
            **_given(options, accept="accept_proxy", send="send_proxy"),
        ),
        mirrors=options["mirror"],
        capture=capture,
        limits=Limits(
            allow=_flat(options["allow"]),
            deny=_flat(options["deny"]),
            **_given(
                options,
                connections="max_connections",
                when_full="when_full",
                per_source="per_source",
                rate="rate_limit",
                total_rate="total_rate_limit",
            ),
        ),
        timeouts=Timeouts(**timeouts),
        splice=not options["no_splice"],
        **_given(
            options,
            balance="balance",
            check="check",
            retries="retries",
            resolve_every="resolve_interval",
            pipe_size="pipe_size",
        ),
    )


def operation_of(options: dict[str, Any]) -> Operation:
    """Return how the process is to run. Raises: UsageError  it may not become that user."""
    _known_names(options["user"], options["group"])
    return Operation(
        progress=options["progress"],
        quiet=options["quiet"],
        **_given(
            options,
            workers="workers",
            user="user",
            group="group",
            access_log="access_log",
            access_format="access_format",
            metrics="metrics",
        ),
    )


def _given(options: dict[str, Any], **names: str) -> dict[str, Any]:
    """Return the options that were given, by the names of fields; the others have defaults."""
    return {field: options[name] for field, name in names.items() if options[name] is not None}


def _flat(groups: Iterable[tuple[Any, ...]]) -> tuple[Any, ...]:
    return tuple(each for group in groups for each in group)


def _known_names(user: str | None, group: str | None) -> None:
    """Raise: UsageError  there is no such user or group, or we may not become them."""
    from zpipe.proxy.users import number_of

    for what, name, own in (("user", user, os.geteuid()), ("group", group, os.getegid())):
        if name is None:
            continue
        number = number_of(what, name)
        if number is None:
            raise UsageError(f"--{what}: no {what} is named {name}")
        if os.geteuid() != 0 and number != own:
            raise UsageError(f"--{what} {name}: only root may become another {what}")
