"""What each field of a recipe means, in a sentence: the schema shows it where recipes are edited.

The manual, zpipe-recipe(5), tells the same at length. Defaults stand in brackets.
"""

from __future__ import annotations

_EDGE = {
    "limit": "stop reading after so many bytes",
    "offset": "begin to read at this byte",
    "rate_limit": "bytes per second, at the most",
    "stall_timeout": "give up when nothing moves for so long",
    "pipe_size": "capacity of the private pipe between two ends, 4K to 2G (1M)",
    "via": "move by this mover, or fail",
    "no_via": "never move by this one, or by these",
    "stable": "clone or copy what would go by reference: later changes do not show (false)",
    "lease": "hold the source by a lease: others wait to write to it (false)",
    "inplace": "overwrite files where they are, instead of replacing them at the end (false)",
    "sync": "write files through to the disk before they count as complete (false)",
    "merge": "how a sink takes several sources: one after the other (in-order), whatever is there"
    " (as-ready), or whole lines (lines) (in-order)",
    "when_full": "when the sink takes no more: the others wait (block), it is dropped (detach), or"
    " a file takes its bytes (spill) (block)",
    "detach_after": "with detach: drop a sink that takes nothing for so long (5s)",
    "spill_max": "with spill: bytes of the file, at the most (1G)",
    "spill_dir": "with spill: the directory of the file (TMPDIR, or /var/tmp)",
    "spill_then": "with spill: what follows when the file is full, block or detach (block)",
}
_ON_ERROR = "when it fails: all ends (stop), or what does not need it goes on (detach) (stop)"

# name of a form -> field, as it is written -> meaning
MEANINGS = {
    "Recipe": {
        "zpipe": "version of this format: 1",
        "name": "name of the recipe (that of its file)",
        "description": "what the recipe is for",
        "params": "values that are given with -p NAME=VALUE, and stand for ${NAME}",
        "nodes": "where bytes begin, end, or go through a process, by names of your own",
        "edges": "what goes where: `a -> b, c`, or a mapping with from, to and options",
        "proxies": "what listens and relays connections, by names of your own",
        "defaults": "options of all edges and nodes that have none of their own",
        "service": "how the process behaves that serves the proxies",
        "metrics": "address at which /metrics and /healthz are served",
    },
    "Param": {
        "type": "what a value must be; string, path and address: any text but an empty one"
        " (string)",
        "default": "value when none is given; it may hold ${env:NAME}",
        "description": "what the parameter is for",
    },
    "Edge": {
        "from": "the node, or the nodes, that bytes are read from",
        "to": "the node, or the nodes, that bytes are written to",
        **_EDGE,
    },
    "Defaults": {**_EDGE, "on_error": _ON_ERROR},
    "Node": {"on_error": _ON_ERROR, "address": "an address, as on the command line"},
    "Upstream": {
        "address": "HOST:PORT, [V6]:PORT, unix:PATH or unix:@NAME",
        "weight": "share of the connections, beside the weights of others (1)",
    },
    "Check": {
        "interval": "time between two checks (2s)",
        "timeout": "longest wait for the connection and the answer (2s)",
        "rise": "checks in a row that bring an upstream back (2)",
        "fall": "checks in a row that fail and take it out (3)",
        "send": "bytes to send, with the escapes of C",
        "expect": "bytes that the answer must hold, with the escapes of C",
    },
    "Mirror": {
        "address": "HOST:PORT, [V6]:PORT, unix:PATH or unix:@NAME",
        "direction": "what the client sends (up), what the upstream answers (down), or both (up)",
        "queue": "bytes that a connection holds for the mirror, at the most (4M)",
        "when_full": "the mirror is given up for that connection (detach), a file takes its bytes"
        " (spill), or the connection waits (block) (detach)",
        "spill_max": "bytes of that file, at the most (1G)",
        "sample": "share of the connections that are mirrored (100%)",
    },
    "Capture": {
        "directory": "where connections are recorded",
        "total": "bytes of all records, at the most; the oldest go first (1G)",
    },
    "Limits": {
        "connections": "connections at once (what fds allow)",
        "when_full": "more than that are closed (refuse), or wait to be accepted (queue) (queue)",
        "per_source": "connections at once from one address",
        "rate": "bytes per second of each connection, at the most",
        "total_rate": "bytes per second of all together, at the most",
        "allow": "serve these networks only",
        "deny": "do not serve these networks",
    },
    "Timeouts": {
        "connect": "longest wait for an upstream (5s)",
        "half_closed": "end a connection of which one side has ended, when nothing moves for so"
        " long, or never (60s)",
        "idle": "end a connection in which nothing moves for so long",
        "lifetime": "end every connection after so long",
        "opening": "longest wait for a PROXY header or a ClientHello (5s)",
        "drain": "when asked to stop, wait so long for connections to end (30s)",
        "exit_idle": "end after so long without a connection",
    },
    "Proxy": {
        "listen": "where to listen: HOST:PORT, :PORT, unix:PATH, fd:N or fd:NAME; one or several",
        "upstreams": "where connections go, one or several; with route_sni, those without a name"
        " that has a route",
        "balance": "which upstream is next: in turn (round-robin), the least busy one"
        " (least-conn), the first that is up (first), the same one for the same client (source)"
        " (round-robin)",
        "retries": "so many others are tried when one cannot be connected to (2)",
        "check": "connect to each upstream every so often, and keep to those that answer",
        "resolve_interval": "resolve names again after so long, or never (30s)",
        "route_sni": "upstreams of TLS clients by the name that they ask for: NAME or *.NAME",
        "accept_proxy": "clients begin with a PROXY header (required), may (optional), or do not"
        " (no) (no)",
        "trust_proxy": "take such a header from these networks only (all)",
        "send_proxy": "tell upstreams of the client in a PROXY header, v1 or v2 (no)",
        "mirrors": "where copies of the bytes go, one or several",
        "capture": "record each connection in this directory, for zpipe replay",
        "limits": "what is refused or slowed down",
        "timeouts": "how long is waited",
        "splice": "pass bulk through pipes inside the kernel; false: read and write only (true)",
        "pipe_size": "capacity of those pipes, 4K to 2G (1M)",
    },
    "Service": {
        "workers": "so many processes share the connections (1)",
        "user": "go on as this user once all listen",
        "group": "and as this group (that of the user)",
        "access_log": "file that gets a line for each connection; - is standard output",
        "access_format": "form of those lines: text or json (text)",
    },
}
