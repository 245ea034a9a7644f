"""The settings in force and what is open for them; and how others would be taken up.

All that new settings ask for is there before anything is changed: a change is prepared as a whole,
and taken up or given up as a whole. Knows of listeners and plans; what serves them is another's.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from zpipe.errors import UsageError
from zpipe.proxy.activation import fds_of
from zpipe.proxy.listening import Listener, close_all, no_loop, open_listeners
from zpipe.proxy.plan import Plan
from zpipe.proxy.resolver import resolve_first

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from zpipe.proxy.settings import Address, Settings

    Load = Callable[[], Sequence[Settings]]


class Place:
    """What is open for one address: for each worker the same number of listeners."""

    def __init__(self, asked: Address | None, listeners: list[list[Listener]]):
        self.asked = asked
        self.listeners = listeners

    @property
    def owned(self) -> bool:
        """Tell whether it was opened here, and is closed when it is not needed any more."""
        return all(listener.owned for listener in self.listeners[0])

    @property
    def fds(self) -> list[int]:
        """Return the fds of the first worker, and of all where they share them."""
        return [listener.socket.fileno() for listener in self.listeners[0]]


@dataclass
class Change:
    """What a reload makes of the proxies; nothing of it is in use yet."""

    settings: list[Settings]  # of all proxies, in their order
    plans: list[Plan]  # of those that are begun, resolved
    places: dict[str, list[Place]]  # of all proxies
    opened: list[Place] = field(default_factory=list)
    added: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)

    def kept(self) -> set[Listener]:
        """Return the listeners that stay open, whoever has them next."""
        return set(_listeners(place for own in self.places.values() for place in own))

    def of(self, name: str) -> list[list[Listener]]:
        """Return the listeners of a proxy, for each worker."""
        return [
            [listener for part in parts for listener in part]
            for parts in zip(*(place.listeners for place in self.places[name]), strict=True)
        ]

    def give_up(self) -> None:
        """Close what was opened for it."""
        for place in self.opened:
            close_all(place.listeners)

    def summary(self) -> str:
        """Return `changed db; added api; removed web`."""
        parts = {"changed": self.changed, "added": self.added, "removed": self.removed}
        return "; ".join(f"{what} {', '.join(names)}" for what, names in parts.items() if names)


class Book:
    """The settings in force, and what is open for them.

    `whole`: a change begins all proxies anew, as where new processes serve it.
    """

    def __init__(
        self,
        settings: list[Settings],
        listeners: list[list[list[Listener]]],
        load: Load,
        *,
        whole: bool,
    ):
        self.settings = settings
        self.places = {one.name: _places(own) for one, own in zip(settings, listeners, strict=True)}
        self._load = load
        self._whole = whole
        self._spare: list[Place] = []  # passed in, and not used at the moment
        self._workers = len(listeners[0])

    def change(self) -> Change | None:
        """Prepare what new settings ask for; None: nothing has changed. May take long.

        Raises: UsageError  something of it cannot be had; nothing stays open for it.
        """
        settings = list(self._load())
        if not settings:
            raise UsageError("no proxy is left")
        before = {one.name: one for one in self.settings}
        names = {one.name: one for one in settings}
        if names == before:
            return None
        begun = [one for one in settings if self._whole or before.get(one.name) != one]
        plans = [Plan(one) for one in begun]
        resolve_first([target for plan in plans for target in plan.targets])
        change = Change(
            settings,
            plans,
            {},
            added=[one.name for one in settings if one.name not in before],
            changed=[one.name for one in settings if before.get(one.name, one) != one],
            removed=[name for name in before if name not in names],
        )
        try:
            self._place(change, {one.name for one in begun})
            for plan in plans:
                no_loop(plan.targets, change.of(plan.settings.name)[0])
            for name, own in change.places.items():
                _hand_over(own, next(one for one in settings if one.name == name))
        except BaseException:
            change.give_up()
            raise
        return change

    def _place(self, change: Change, begun: set[str]) -> None:
        """Find the listeners of each proxy among those that are open, or open them.

        A proxy keeps its own before others have what is left: of port 0 there are several.
        """
        left = {name: list(own) for name, own in self.places.items()}
        found: dict[tuple[str, int], Place] = {}
        for one in change.settings:
            own = left.get(one.name, [])
            if one.name not in begun:
                change.places[one.name] = own
                left[one.name] = []
                continue
            for number, address in enumerate(one.listen):
                if (place := _take(own, address)) is not None:
                    found[one.name, number] = place
        rest = [place for own in left.values() for place in own] + self._spare
        for one in change.settings:
            if one.name in begun:
                change.places[one.name] = [
                    found.get((one.name, number))
                    or _take(rest, address)
                    or self._open(change, address)
                    for number, address in enumerate(one.listen)
                ] or self._passed(one.name, rest)

    def _open(self, change: Change, address: Address) -> Place:
        if address.kind == "fd":
            fds = set(fds_of(address))
            if any(fds & set(place.fds) for place in self._open_places):
                raise UsageError(f"{address.text}: listen: is in use")
        place = Place(address, open_listeners((address,), workers=self._workers))
        change.opened.append(place)
        return place

    def _passed(self, name: str, rest: list[Place]) -> list[Place]:
        """Return what was passed in and not asked for by address, if it was this proxy's."""
        own = [place for place in self.places.get(name, ()) if place.asked is None]
        if not own:
            raise UsageError(f"{name}: listen: no address was given")
        for place in own:
            rest.remove(place)
        return own

    @property
    def spare(self) -> list[list[list[Listener]]]:
        """Return what was passed in and serves no proxy at the moment, as `listeners` are."""
        return [place.listeners for place in self._spare]

    @property
    def _open_places(self) -> list[Place]:
        """Return what is open, whether or not a proxy is served there."""
        return [*(place for own in self.places.values() for place in own), *self._spare]

    def turn(self, change: Change) -> list[Listener]:
        """Let a change be in force. Returns: the listeners that nobody needs any more."""
        kept = change.kept()
        unused = [place for place in self._open_places if not kept & set(_listeners([place]))]
        # what was passed in is never closed: it could not be had again
        self._spare = [place for place in unused if not place.owned]
        self.settings, self.places = change.settings, change.places
        for one in change.settings:
            for place, address in zip(change.places[one.name], one.listen, strict=False):
                place.asked = address
        return list(_listeners(place for place in unused if place.owned))

    def close(self) -> None:
        """Close all there is."""
        for place in self._open_places:
            close_all(place.listeners)


def _listeners(places: Iterable[Place]) -> Iterable[Listener]:
    return [listener for place in places for own in place.listeners for listener in own]


def _places(listeners: list[list[Listener]]) -> list[Place]:
    """Group the listeners of a proxy by what they were opened for."""
    places: list[Place] = []
    for row in zip(*listeners, strict=True):
        asked = row[0].asked
        if not places or places[-1].asked is not asked:
            places.append(Place(asked, [[] for _ in listeners]))
        for own, listener in zip(places[-1].listeners, row, strict=True):
            own.append(listener)
    return places


def _take(places: list[Place], address: Address) -> Place | None:
    """Take what listens at an address out of a list; None: nothing does."""
    for place in places:
        if place.asked is not None and _same(place, address):
            places.remove(place)
            return place
    return None


def _same(place: Place, address: Address) -> bool:
    """Tell whether a place is what an address would open; its path may have another mode."""
    asked = place.asked
    assert asked is not None
    if asked.kind != address.kind:
        return False
    if asked.kind == "tcp":
        return (asked.host, asked.port, asked.v6only) == (
            address.host,
            address.port,
            address.v6only,
        )
    if asked.kind == "fd" and asked.path != address.path:
        return sorted(place.fds) == sorted(fds_of(address))  # by number, by name
    return asked.path == address.path


def _hand_over(places: list[Place], settings: Settings) -> None:
    for place, address in zip(places, settings.listen, strict=False):
        asked = place.asked
        if asked is None or asked.kind != "unix":
            continue
        if (asked.mode, asked.user, asked.group) != (address.mode, address.user, address.group):
            for listener in place.listeners[0]:
                listener.hand_over(address)
