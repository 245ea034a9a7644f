"""How many workers a copy is worth, by processors and disks."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def default_workers(paths: Sequence[str]) -> int:
    """Return how many processes are worth while: the processors, but few for a disk that turns."""
    processors = len(os.sched_getaffinity(0))
    if any(_turns(path) for path in paths):
        return min(2, processors)
    return min(8, processors)


def _turns(path: str) -> bool:
    """Whether a path is on a disk that says it turns."""
    while path and not os.path.exists(path):
        path = os.path.dirname(path)
    try:
        device = os.stat(path or ".").st_dev
        name = f"/sys/dev/block/{os.major(device)}:{os.minor(device)}"
        for queue in (f"{name}/queue/rotational", f"{name}/../queue/rotational"):
            if os.path.exists(queue):
                with open(queue, encoding="ascii") as file:
                    return file.read(1) == "1"
    except OSError:
        pass
    return False
