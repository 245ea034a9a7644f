"""`zpipe proxy [OPTIONS] UPSTREAM...`: options in, settings out; what serves them is in proxy/."""

from __future__ import annotations

import os
from typing import Any

import click

from zpipe.commands.options import DURATION, RATE, SIZE, Quantity
from zpipe.commands.speaking import tell
from zpipe.errors import UsageError
from zpipe.proxy import wishes
from zpipe.proxy.addresses import parse_address
from zpipe.proxy.settings import (
    Address,
    Capture,
    Header,
    Limits,
    Operation,
    Settings,
    Timeouts,
)
from zpipe.units import parse_duration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from zpipe.proxy.counters import Snapshot
    from zpipe.proxy.loop import Loop
    from zpipe.proxy.settings import Upstream

EXAMPLES = """\b
Examples:
  zpipe proxy db.internal:5432
  zpipe proxy --listen :80 --balance least-conn 10.0.0.1:80 '10.0.0.2:80?weight=2'
  zpipe proxy --listen :443 --route-sni '*.example.org=10.0.0.1:443' 10.0.0.9:443
  zpipe proxy --listen :6379 --mirror 'staging:6379?sample=10%' 127.0.0.1:6380
  ssh -o ProxyCommand='zpipe proxy --stdio %h:%p' host
"""

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


class Option(click.Option):
    """An option that help shows under a heading."""

    def __init__(self, *words: Any, section: str = "", **more: Any):
        self.section = section
        super().__init__(*words, **more)


class Proxy(click.Command):
    """Shows its options under headings; `--accept-proxy` takes a value only behind an `=`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Give the bare option the mode that it stands for."""
        end = args.index("--") if "--" in args else len(args)
        words = [
            "--accept-proxy=required" if word == "--accept-proxy" else word for word in args[:end]
        ]
        return super().parse_args(ctx, words + args[end:])

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a list for each heading."""
        sections: dict[str, list[tuple[str, str]]] = {}
        heading = "Options"
        for param in self.get_params(ctx):
            if not isinstance(param, click.Option):
                continue
            heading = getattr(param, "section", heading)  # --help goes with the last
            record = param.get_help_record(ctx)
            if record is not None:
                sections.setdefault(heading, []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


def _section(
    title: str, *options: tuple[tuple[str, ...], dict[str, Any]]
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that adds options under a heading."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for words, more in reversed(options):
            function = click.option(*words, cls=Option, section=title, **more)(function)
        return function

    return decorate


def _option(*words: str, **more: Any) -> tuple[tuple[str, ...], dict[str, Any]]:
    return words, more


def _wish(name: str, parse: Callable[[str], Any]) -> Quantity:
    return Quantity(name, parse)


def _listen_address(text: str) -> Address:
    return parse_address(text, listen=True)


def _networks(text: str) -> Any:
    return wishes.parse_networks((text,))


def _or_never(text: str) -> float:
    return _NEVER if text == "never" else parse_duration(text)


def _number(least: int, most: int) -> Quantity:
    return Quantity("n", wishes.whole(least, most))


_NEVER = float("inf")
_UPSTREAM = _wish("upstream", wishes.parse_upstream)
_LISTEN = _wish("addr", _listen_address)
_CIDR = _wish("cidr", _networks)
_SOME = _number(1, 1 << 30)

_LISTENING = _section(
    "Listening",
    _option(
        "--listen",
        type=_LISTEN,
        multiple=True,
        help="Listen at HOST:PORT, :PORT, unix:PATH, fd:N or fd:NAME; repeatable. Without it: at"
        " the sockets that were passed in, or at 127.0.0.1 with the port of the first UPSTREAM.",
    ),
    _option(
        "--stdio", is_flag=True, help="Join standard input and output with an UPSTREAM; no more."
    ),
    _option(
        "--accept-proxy",
        type=click.Choice(("optional", "required")),
        metavar="[=MODE]",
        help="Clients begin with a PROXY header, version 1 or 2 (required), or may (optional).",
    ),
    _option(
        "--trust-proxy",
        type=_CIDR,
        multiple=True,
        help="Take such a header from these addresses only; repeatable.",
    ),
    _option(
        "--workers",
        type=_number(1, 256),
        help="So many processes share the connections (1).",
    ),
    _option(
        "--user",
        metavar="USER",
        help="Go on as this user once it listens; logs are opened as this user.",
    ),
    _option("--group", metavar="GROUP", help="And as this group (that of the user)."),
)
_UPSTREAMS = _section(
    "Upstreams",
    _option(
        "--balance",
        type=click.Choice(("round-robin", "least-conn", "first", "source")),
        metavar="HOW",
        default="round-robin",
        help="Which UPSTREAM is next: round-robin (in turn, the default), least-conn (the least"
        " busy one), first (the first that is up), source (the same one for the same client).",
    ),
    _option(
        "--retries",
        type=_number(0, 100),
        help="Try so many others when one cannot be connected to (2).",
    ),
    _option(
        "--check",
        type=_wish("check", wishes.parse_check),
        metavar="KEY=VALUE,...",
        help="Connect to each every so often, and keep to those that answer; the keys are"
        f" {', '.join(wishes.CHECK_OPTIONS)}.",
    ),
    _option(
        "--resolve-interval",
        type=_wish("time", _or_never),
        help="Resolve names again after so long; or never (30s).",
    ),
    _option(
        "--route-sni",
        type=_wish("route", wishes.parse_route),
        metavar="NAME=UPSTREAM",
        multiple=True,
        help="TLS clients that ask for NAME, or *.NAME, go to this one; repeatable.",
    ),
    _option(
        "--route-default",
        type=_UPSTREAM,
        multiple=True,
        help="All others go to this one; repeatable. The same as an operand.",
    ),
    _option(
        "--send-proxy",
        type=click.Choice(("v1", "v2")),
        metavar="VERSION",
        help="Tell upstreams of the client in a PROXY header: v1 or v2.",
    ),
)
_COPIES = _section(
    "Mirror and capture",
    _option(
        "--mirror",
        type=_wish("mirror", wishes.parse_mirror),
        metavar="ADDR",
        multiple=True,
        help="Send a copy to ADDR, which may end in ?KEY=VALUE&...; repeatable. The keys are"
        f" {', '.join(wishes.MIRROR_OPTIONS)}.",
    ),
    _option("--capture", metavar="DIR", help="Record each connection in DIR, for zpipe replay."),
    _option("--capture-max", type=SIZE, help="Keep so much; the oldest go first (1G)."),
)
_LIMITS = _section(
    "Limits",
    _option("--max-connections", type=_SOME, help="So many at once (what fds allow)."),
    _option(
        "--when-full",
        type=click.Choice(("refuse", "queue")),
        help="More than that are closed (refuse), or wait to be accepted (queue, the default).",
    ),
    _option("--per-source", type=_SOME, help="So many at once from one address."),
    _option("--rate-limit", type=RATE, help="Bytes per second of each connection, at the most."),
    _option("--total-rate-limit", type=RATE, help="And of all together."),
    _option("--allow", type=_CIDR, multiple=True, help="Serve these addresses only; repeatable."),
    _option("--deny", type=_CIDR, multiple=True, help="Do not serve these; repeatable."),
)
_TIMEOUTS = _section(
    "Timeouts",
    _option("--connect-timeout", type=DURATION, help="Longest wait for an UPSTREAM (5s)."),
    _option("--idle-timeout", type=DURATION, help="End a connection in which nothing moves."),
    _option(
        "--half-closed-timeout",
        type=_wish("time", _or_never),
        help="End a connection of which one side has ended, when nothing moves for so long; or"
        " never (60s).",
    ),
    _option("--max-lifetime", type=DURATION, help="End every connection after so long."),
    _option(
        "--opening-timeout",
        type=DURATION,
        help="Longest wait for a PROXY header or a ClientHello (5s).",
    ),
    _option(
        "--drain-timeout",
        type=DURATION,
        help="On SIGTERM, wait so long for connections to end (30s).",
    ),
    _option("--exit-idle-time", type=DURATION, help="End after so long without a connection."),
)
_OPERATION = _section(
    "Operation",
    _option("--no-splice", is_flag=True, help="Read and write only."),
    _option("--pipe-size", type=SIZE, help="Capacity of the pipes that splice uses (1M)."),
    _option(
        "--access-log", metavar="FILE", help="A line for each connection; - is standard output."
    ),
    _option(
        "--access-format",
        type=click.Choice(("text", "json")),
        help="The form of those lines (text).",
    ),
    _option("--metrics", type=_LISTEN, help="Serve /metrics (Prometheus) and /healthz there."),
    _option(
        "--progress",
        type=click.Choice(("auto", "always", "never")),
        default="auto",
        show_default=True,
        help="On a terminal, always, or never.",
    ),
    _option("-q", "--quiet", is_flag=True, help="Errors only."),
)


@click.command(
    "proxy",
    cls=Proxy,
    epilog=EXAMPLES,
    help="""Listen, and relay each connection to an UPSTREAM.

    UPSTREAM is HOST:PORT, [V6]:PORT, unix:PATH or unix:@NAME; of several, one that ends in
    ?weight=2 gets twice as many connections. SIGTERM drains, SIGHUP reopens the log and resolves
    names again, SIGUSR1 writes a line of status.
    """,
)
@click.argument("upstreams", nargs=-1, type=_UPSTREAM, metavar="[UPSTREAM]...")
@_LISTENING
@_UPSTREAMS
@_COPIES
@_LIMITS
@_TIMEOUTS
@_OPERATION
@click.pass_context
def proxy_command(ctx: click.Context, /, **options: Any) -> None:
    """Collect the wishes, open what is listened at, and serve."""
    settings = settings_of(ctx)
    if options["stdio"]:
        from zpipe.proxy.stdio import join

        join(settings)
        return
    operation = _operation(options)

    from zpipe.commands.proxy_progress import ProxyProgress
    from zpipe.commands.serving import Opened
    from zpipe.proxy.server import serve

    with Opened([settings], operation.workers) as opened:

        def shows(loop: Loop, snapshot: Callable[[], Snapshot]) -> ProxyProgress:
            # it is called once nothing can be refused any more
            if not operation.quiet:
                for text in opened.summaries():
                    tell(text)
            return ProxyProgress(loop, snapshot, operation.progress, operation.quiet)

        serve(opened.plans, opened.listeners, operation, tell, shows)


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
                raise UsageError(f"proxy: {_flag(name)}: cannot be beside --stdio")
    for name, other in _NEED_OTHER.items():
        if name in given and other not in given:
            raise UsageError(f"proxy: {_flag(name)}: has no effect without {_flag(other)}")
    if upstreams and options["route_default"]:
        raise UsageError(
            "proxy: --route-default: is what an UPSTREAM without a name is: give one or the other"
        )
    if not upstreams and not options["route_sni"]:
        raise UsageError("proxy: no upstream: give an address like 10.0.0.1:5432")
    if options["pipe_size"] is not None and not 4096 <= options["pipe_size"] <= 1 << 31:
        raise UsageError("proxy: --pipe-size: give 4K to 2G")


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
    if timeouts.get("half_closed") == _NEVER:
        timeouts["half_closed"] = None
    if options["resolve_interval"] == _NEVER:
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


def _operation(options: dict[str, Any]) -> Operation:
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
    from zpipe.proxy.listening import number_of

    for what, name, own in (("user", user, os.geteuid()), ("group", group, os.getegid())):
        if name is None:
            continue
        number = number_of(what, name)
        if number is None:
            raise UsageError(f"proxy: --{what}: no {what} is named {name}")
        if os.geteuid() != 0 and number != own:
            raise UsageError(f"proxy: --{what} {name}: only root may become another {what}")


COMMAND: click.Command = proxy_command
