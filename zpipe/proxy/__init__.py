"""A layer-4 proxy: listeners, relays, upstreams, mirrors, captures, limits, and what they tell.

One loop per process (`loop`), one object per socket of a connection (`relay`). What is asked for
comes in as values (`settings`); what happened goes out as values (`counters`). Nothing here parses
a command line or prints.

From a process down to a byte:

    server      what serves until a signal asks for the end: here, or by a `supervisor` of several
    worker      one loop, and a service for each proxy and for each that a reload has replaced
    service     one proxy: accepts, admits, knows its connections
    opening     who a client is, and which upstreams it asks for
    connection  finds an upstream (`upstreams`) and ends with a reason
    burdens     who gets a copy (`mirror`, `capture`), and how fast it may go
    relay       what is read is written; `bulk` splices, `loop` itself carries what is plain
"""
