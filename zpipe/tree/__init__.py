"""Trees: walk, batches, metadata, journal, executors.

The coordinator (copy.py) walks and makes directories; the unit of work is a `Batch` of small files
of one directory, or a `Chunk` of a big one. Whoever carries one (worker.py) knows nothing of the
others, and may do it twice: a process, a thread, another machine.
"""
