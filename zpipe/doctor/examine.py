"""Ask every question there is, in order, and put the answers together."""

from __future__ import annotations

import os

from zpipe.doctor import advice, calls, host, limits, moving, network, pipes, places
from zpipe.doctor.bounded import Patience
from zpipe.doctor.copying import copies_within
from zpipe.doctor.findings import LACKING, Answer, Examination, Finding
from zpipe.doctor.scratch import first_folder
from zpipe.kernel.libc import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from zpipe.doctor.findings import Probe

# where files for trying are made, after the places that are asked about
_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")


def default_paths() -> list[str]:
    """Return the places that are looked at when none is named."""
    return list(dict.fromkeys([".", os.environ.get("TMPDIR") or "/tmp"]))


def examine(paths: Sequence[str], patience: Patience | None = None) -> Examination:
    """Examine this machine and some places of it. Takes less than a second where nothing hangs.

    Without paths it is the current directory and TMPDIR; that they are there is not demanded.
    """
    patience = patience or Patience()
    named = bool(paths)
    paths = list(dict.fromkeys(paths)) or default_paths()
    libc()  # once, and not in every child
    found = _Found(patience)
    found.ask("host", host.probes())
    folders = [folder for path in paths if (folder := found.ask_place(path, named=named))]
    here, there = _two_filesystems(found, folders, patience)
    found.ask("moving", moving.probes(here, there))
    found.ask("calls", calls.probes(here))
    found.ask("pipes", pipes.probes())
    found.ask("limits", limits.probes())
    found.ask("network", network.probes())
    for path in found.writable:
        found.add("path", "copies", "cp within it", copies_within(found.findings, path), path)
    return Examination(tuple(found.findings), tuple(advice.advise(found.findings)))


class _Found:
    """What has been found so far."""

    def __init__(self, patience: Patience):
        self._patience = patience
        self.findings: list[Finding] = []
        self.writable: list[str] = []  # paths in which files could be made
        self.devices: dict[str, str] = {}  # folder: its filesystem

    def ask(self, group: str, probes: Iterable[Probe], path: str | None = None) -> None:
        """Ask some questions that belong together."""
        for probe in probes:
            answer = self._patience.ask(probe.ask)
            self.add(group, probe.name, probe.label, answer, path, probe.effect)

    def add(
        self,
        group: str,
        name: str,
        label: str,
        answer: Answer,
        path: str | None = None,
        effect: str = "",
    ) -> None:
        """Take note of an answer; of the effect only where something lacks."""
        effect = effect if answer.state in LACKING else ""
        told = (answer.state, answer.detail, answer.value, answer.errno)
        self.findings.append(Finding(group, name, label, *told, effect, path))

    def ask_place(self, path: str, *, named: bool) -> str | None:
        """Ask about a place. Returns: the folder in which files can be made; None: there is none.

        A place that was `named` and is not there cannot be examined; one that hangs is left alone.
        """
        probe = places.place(path)
        answer = self._patience.ask(probe.ask)
        if named and answer.state in ("refused", "absent"):
            answer = Answer("failed", answer.detail, answer.value, answer.errno)
        self.add("path", probe.name, probe.label, answer, path, probe.effect)
        if not isinstance(answer.value, dict):
            return None
        folder = answer.value["folder"]
        if folder is None:
            self.ask("path", places.device_probes(path), path)
            return None
        self.ask("path", places.probes(folder), path)
        if any(each.state == "unknown" for each in self.findings if each.path == path):
            return None
        self.writable.append(path)
        self.devices[folder] = answer.value["device"]
        return str(folder)


def _two_filesystems(
    found: _Found, folders: Sequence[str], patience: Patience
) -> tuple[str | None, str | None]:
    """Return a folder to try in, and one of another filesystem; None: files in memory instead."""

    def find() -> Answer:
        return Answer("fact", value=first_folder(list(_FOLDERS)))

    if not folders:
        answer = patience.ask(find)
        return (answer.value if isinstance(answer.value, str) else None), None
    here = folders[0]
    return here, next(
        (each for each in folders if found.devices[each] != found.devices[here]), None
    )
