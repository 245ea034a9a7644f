"""The options of `zpipe proxy`: tables of them under headings, and how help shows those.

Knows what each word may be, and nothing of what they ask for together: proxy_settings.py does.
"""

from __future__ import annotations

from typing import Any

import click

from zpipe.commands.option_types import DURATION, PIPE_SIZE, RATE, SIZE, OneOf, Quantity, number
from zpipe.proxy import wishes
from zpipe.proxy.addresses import parse_address
from zpipe.units import parse_duration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from zpipe.proxy.settings import Address

NEVER = float("inf")  # a time that was given as that word


class Option(click.Option):
    """An option that help shows under a heading."""

    def __init__(self, *words: Any, section: str = "", **more: Any):
        self.section = section
        super().__init__(*words, **more)


class Sectioned(click.Command):
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
    return NEVER if text == "never" else parse_duration(text)


UPSTREAM = _wish("upstream", wishes.parse_upstream)
_LISTEN = _wish("addr", _listen_address)
_CIDR = _wish("cidr", _networks)
_SOME = number(1, 1 << 30)

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
        type=OneOf(("optional", "required")),
        metavar="[=MODE]",
        help="Clients begin with a PROXY header, version 1 or 2 (required), or may (optional);"
        " alone: required.",
    ),
    _option(
        "--trust-proxy",
        type=_CIDR,
        multiple=True,
        help="Take such a header from these addresses only, such as 10.0.0.0/8; repeatable (all).",
    ),
    _option(
        "--workers",
        type=number(1, 256),
        help="So many processes share the connections, 1 to 256 (1).",
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
        type=OneOf(("round-robin", "least-conn", "first", "source")),
        metavar="HOW",
        default="round-robin",
        help="Which UPSTREAM is next: round-robin (in turn, the default), least-conn (the least"
        " busy one), first (the first that is up), source (the same one for the same client).",
    ),
    _option(
        "--retries",
        type=number(0, 100),
        help="Try so many others when one cannot be connected to, 0 to 100 (2).",
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
        type=UPSTREAM,
        multiple=True,
        help="All others go to this one; repeatable. The same as an operand.",
    ),
    _option(
        "--send-proxy",
        type=OneOf(("v1", "v2")),
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
        type=OneOf(("refuse", "queue")),
        help="More than that are closed (refuse), or wait to be accepted (queue, the default).",
    ),
    _option("--per-source", type=_SOME, help="So many at once from one address (no limit)."),
    _option(
        "--rate-limit",
        type=RATE,
        help="Bytes per second of each connection, at the most (no limit).",
    ),
    _option("--total-rate-limit", type=RATE, help="And of all together (no limit)."),
    _option(
        "--allow",
        type=_CIDR,
        multiple=True,
        help="Serve these addresses only, such as 10.0.0.0/8 or ::1; repeatable (all).",
    ),
    _option("--deny", type=_CIDR, multiple=True, help="Do not serve these; repeatable (none)."),
)
_TIMEOUTS = _section(
    "Timeouts",
    _option("--connect-timeout", type=DURATION, help="Longest wait for an UPSTREAM (5s)."),
    _option(
        "--idle-timeout",
        type=DURATION,
        help="End a connection in which nothing moves for so long (never).",
    ),
    _option(
        "--half-closed-timeout",
        type=_wish("time", _or_never),
        help="End a connection of which one side has ended, when nothing moves for so long; or"
        " never (60s).",
    ),
    _option("--max-lifetime", type=DURATION, help="End every connection after so long (never)."),
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
    _option(
        "--exit-idle-time", type=DURATION, help="End after so long without a connection (never)."
    ),
)
_OPERATION = _section(
    "Operation",
    _option("--no-splice", is_flag=True, help="Read and write only."),
    _option(
        "--pipe-size", type=PIPE_SIZE, help="Capacity of the pipes that splice uses, 4K to 2G (1M)."
    ),
    _option(
        "--access-log",
        metavar="FILE",
        help="A line for each connection; - is standard output (none).",
    ),
    _option(
        "--access-format",
        type=OneOf(("text", "json")),
        help="The form of those lines (text).",
    ),
    _option("--metrics", type=_LISTEN, help="Serve /metrics (Prometheus) and /healthz there."),
    _option(
        "--progress",
        type=OneOf(("auto", "always", "never")),
        default="auto",
        show_default=True,
        help="On a terminal, always, or never.",
    ),
    _option("-q", "--quiet", is_flag=True, help="Errors only."),
)


def options_of(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command all the options, under their headings."""
    for section in (_OPERATION, _TIMEOUTS, _LIMITS, _COPIES, _UPSTREAMS, _LISTENING):
        command = section(command)
    return command
