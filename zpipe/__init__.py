"""Move bytes between files, sockets, pipes and processes inside the Linux kernel.

The library on one screen:

    >>> import zpipe
    >>> report = zpipe.copy("/etc/hostname", "null:")
    >>> report.moved > 0
    True

`copy` moves one source to one sink; `run` carries out a `Graph`; both return a `Report` that
says what really happened. `copy_tree` copies files and trees with their attributes. Errors derive
from `ZpipeError` and carry the exit status that the command line would end with. Names load on
first use, so that `import zpipe` stays cheap.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zpipe.engine.copy import copy as copy
    from zpipe.engine.report import Report as Report
    from zpipe.engine.run import run as run
    from zpipe.errors import StalledError as StalledError
    from zpipe.errors import TransferError as TransferError
    from zpipe.errors import UsageError as UsageError
    from zpipe.errors import VerifyError as VerifyError
    from zpipe.errors import ZpipeError as ZpipeError
    from zpipe.graph.model import Edge as Edge
    from zpipe.graph.model import Graph as Graph
    from zpipe.graph.model import Node as Node
    from zpipe.tree.copy import TreeFailed as TreeFailed
    from zpipe.tree.report import TreeReport as TreeReport
    from zpipe.tree.run import copy_tree as copy_tree

__version__ = "0.1.0"

_HOMES = {
    "copy": "zpipe.engine.copy",
    "run": "zpipe.engine.run",
    "copy_tree": "zpipe.tree.run",
    "TreeReport": "zpipe.tree.report",
    "TreeFailed": "zpipe.tree.copy",
    "Report": "zpipe.engine.report",
    "Graph": "zpipe.graph.model",
    "Node": "zpipe.graph.model",
    "Edge": "zpipe.graph.model",
    "ZpipeError": "zpipe.errors",
    "UsageError": "zpipe.errors",
    "TransferError": "zpipe.errors",
    "VerifyError": "zpipe.errors",
    "StalledError": "zpipe.errors",
}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        from importlib import import_module

        value: object = getattr(import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'zpipe' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
