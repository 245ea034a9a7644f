"""`zpipe proxy [OPTIONS] UPSTREAM...`: options in, a proxy out; what serves it is in proxy/."""

from __future__ import annotations

from typing import Any

import click

from zpipe.commands.proxy_options import UPSTREAM, Sectioned, options_of
from zpipe.commands.proxy_settings import operation_of, settings_of
from zpipe.commands.speaking import tell

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from zpipe.proxy.counters import Snapshot
    from zpipe.proxy.loop import Loop

EXAMPLES = """\b
Examples:
  zpipe proxy db.internal:5432
  zpipe proxy --listen :80 --balance first 10.0.0.1:80 10.0.0.2:80
  zpipe proxy --listen :443 --route-sni 'a.org=10.0.0.1:443' 10.0.0.9:443
  zpipe proxy --listen :6379 --mirror 'staging:6379?sample=10%' 127.0.0.1:6380
  ssh -o ProxyCommand='zpipe proxy --stdio %h:%p' host
"""


@click.command(
    "proxy",
    cls=Sectioned,
    epilog=EXAMPLES,
    help="""Listen, and relay each connection to an UPSTREAM.

    UPSTREAM is HOST:PORT, [V6]:PORT, unix:PATH or unix:@NAME; of several, one that ends in
    ?weight=2 gets twice as many connections. SIGTERM drains, SIGHUP reopens the log and resolves
    names again, SIGUSR1 writes a line of status.

    SIZE is like 64K, 1.5M or 1G, RATE a SIZE per second, TIME like 250ms, 10s or 1h30m.
    """,
)
@click.argument("upstreams", nargs=-1, type=UPSTREAM, metavar="[UPSTREAM]...")
@options_of
@click.pass_context
def proxy_command(ctx: click.Context, /, **options: Any) -> None:
    """Collect the wishes, open what is listened at, and serve."""
    settings = settings_of(ctx)
    if options["stdio"]:
        from zpipe.proxy.stdio import join

        join(settings)
        return
    operation = operation_of(options)

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


COMMAND: click.Command = proxy_command
