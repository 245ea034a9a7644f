"""What this machine lets zpipe do, found out by doing it. [add here]

Every technique is tried for real, on a few bytes, in a child process that may hang, be killed or
be refused without harm to the examination. A probe is an entry of a table in `moving`, `calls`,
`places`, `pipes`, `limits`, `network` or `host`; its answer becomes a `Finding`; `advice` says
from findings alone what is worth changing. Nothing is printed here and no file is left behind.
"""
