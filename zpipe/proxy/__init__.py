"""A layer-4 proxy: listeners, relays, upstreams, mirrors, captures, limits, and what they tell.

One loop per process (`loop`), one object per socket of a connection (`relay`). What is asked for
comes in as values (`settings`); what happened goes out as values (`counters`). Nothing here parses
a command line or prints.
"""
