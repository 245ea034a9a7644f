"""Trees: walk, batches, metadata, journal, executors.

The coordinator (copy.py) hands out what operands and the walk yield, and accounts for what comes
back; the unit of work is a `Batch` of small files of one directory, or a `Chunk` of a big one.
Whoever carries one (worker.py) knows nothing of the others, and may do it twice: a process, a
thread, another machine. Knows nothing of streams and graphs: big files borrow the engine's movers.
"""
