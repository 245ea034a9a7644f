"""Move bytes between files, sockets, pipes and processes inside the Linux kernel.

The library on one screen:

    >>> import zpipe
    >>> report = zpipe.copy("/etc/hostname", "null:")
    >>> report.moved > 0
    True

`copy` moves one source to one sink or to several; `run` carries out a `Graph`, such as that of a
recipe (`load_recipe`); both return a `Report` that says what really happened. `copy_tree` copies
files and trees with their attributes.

The mechanisms themselves: `FileChannel` and its `MappedBuffer`; `DirectBuffer` and `BufferPool` for
O_DIRECT; `CompositeBuffer`, `wrap` and `FileRegion`, views without copying; `SharedBuffer`, a ring
between two processes.

Errors derive from `ZpipeError` and carry the exit status that the command line would end with.
Names load on first use, so that `import zpipe` stays cheap.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zpipe.channel.composite import CompositeBuffer as CompositeBuffer
    from zpipe.channel.composite import debug_leaks as debug_leaks
    from zpipe.channel.composite import wrap as wrap
    from zpipe.channel.direct import BufferPool as BufferPool
    from zpipe.channel.direct import DirectBuffer as DirectBuffer
    from zpipe.channel.file import FileChannel as FileChannel
    from zpipe.channel.lock import FileLock as FileLock
    from zpipe.channel.mapped import MapMode as MapMode
    from zpipe.channel.mapped import MappedBuffer as MappedBuffer
    from zpipe.channel.parts import FileRegion as FileRegion
    from zpipe.channel.shared import SharedBuffer as SharedBuffer
    from zpipe.channel.shared import SharedBufferPool as SharedBufferPool
    from zpipe.channel.transfer import Transferred as Transferred
    from zpipe.engine.copy import copy as copy
    from zpipe.engine.report import Report as Report
    from zpipe.engine.run import run as run
    from zpipe.errors import OutputsDropped as OutputsDropped
    from zpipe.errors import SourceTruncated as SourceTruncated
    from zpipe.errors import StalledError as StalledError
    from zpipe.errors import TransferError as TransferError
    from zpipe.errors import UsageError as UsageError
    from zpipe.errors import VerifyError as VerifyError
    from zpipe.errors import ZpipeError as ZpipeError
    from zpipe.graph.model import Edge as Edge
    from zpipe.graph.model import Graph as Graph
    from zpipe.graph.model import Node as Node
    from zpipe.recipe.load import load_recipe as load_recipe
    from zpipe.recipe.problems import RecipeError as RecipeError
    from zpipe.tree.copy import TreeFailed as TreeFailed
    from zpipe.tree.report import TreeReport as TreeReport
    from zpipe.tree.run import copy_tree as copy_tree

__version__ = "0.1.0"

_HOMES = {
    "CompositeBuffer": "zpipe.channel.composite",
    "debug_leaks": "zpipe.channel.composite",
    "wrap": "zpipe.channel.composite",
    "BufferPool": "zpipe.channel.direct",
    "DirectBuffer": "zpipe.channel.direct",
    "FileChannel": "zpipe.channel.file",
    "FileLock": "zpipe.channel.lock",
    "MapMode": "zpipe.channel.mapped",
    "MappedBuffer": "zpipe.channel.mapped",
    "FileRegion": "zpipe.channel.parts",
    "SharedBuffer": "zpipe.channel.shared",
    "SharedBufferPool": "zpipe.channel.shared",
    "Transferred": "zpipe.channel.transfer",
    "copy": "zpipe.engine.copy",
    "Report": "zpipe.engine.report",
    "run": "zpipe.engine.run",
    "OutputsDropped": "zpipe.errors",
    "SourceTruncated": "zpipe.errors",
    "StalledError": "zpipe.errors",
    "TransferError": "zpipe.errors",
    "UsageError": "zpipe.errors",
    "VerifyError": "zpipe.errors",
    "ZpipeError": "zpipe.errors",
    "Edge": "zpipe.graph.model",
    "Graph": "zpipe.graph.model",
    "Node": "zpipe.graph.model",
    "RecipeError": "zpipe.recipe.problems",
    "TreeFailed": "zpipe.tree.copy",
    "TreeReport": "zpipe.tree.report",
    "copy_tree": "zpipe.tree.run",
    "load_recipe": "zpipe.recipe.load",
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
