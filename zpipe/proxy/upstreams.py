"""Which server a connection goes to, and which servers are thought to be up.

Waits for nothing and opens no socket: who connects tells the outcome to the target, with the time.

A target goes down by failures in a row. Without active checks it is then held for a time that
doubles with each trial that fails, and one connection is let through as a trial when the hold has
ended; with checks it stays down until they say otherwise. Down is a preference, not a verdict: when
nobody is up, those that are down are tried all the same, since a proxy that refuses although its
server is back is worse than one that tries in vain.
"""

from __future__ import annotations

import socket
from math import log
from zlib import crc32

from zpipe.proxy.settings import Check

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from zpipe.proxy.settings import Balance, Upstream

    Addresses = list[tuple[int, Any]]  # family and what socket.connect takes

_IN_A_ROW = 3  # failures: one or two are a restart or a lost packet
_SHORTEST, _LONGEST = 1.0, 30.0  # seconds of a hold
# A trial may end without a word (the client goes away): after so many seconds there is another one.
_TRIAL = 5.0
_NEVER = float("inf")
_PRIME = (1 << 31) - 1


class Target:
    """One upstream and what is known of it.

    `active`, `connections`, `sent` and `received` are the relay's to count; it should count a
    connection as active from when it begins to connect, or least-conn sends a burst to one.
    `failures` counts the calls of `failed`.
    """

    __slots__ = (
        "_addresses",
        "_bad",
        "_checks",
        "_credit",
        "_factor",
        "_fall",
        "_good",
        "_hold",
        "_passive",
        "_place",
        "_rise",
        "_streak",
        "_summand",
        "_trial",
        "_until",
        "active",
        "connections",
        "failures",
        "name",
        "no_pacing",
        "received",
        "sent",
        "up",
        "upstream",
        "weight",
    )

    def __init__(self, upstream: Upstream, check: Check | None = None):
        self.upstream = upstream
        self.name = upstream.address.text
        self.weight = upstream.weight
        self.up = True
        self.active = 0
        self.connections = 0
        self.failures = 0
        self.sent = 0
        self.received = 0
        self.no_pacing = False
        self._addresses: Addresses = []
        self._place = 0  # of the address that is in use
        self._streak = 0  # failed connects since the last one that worked
        self._hold = _SHORTEST
        self._until = 0.0  # when down: the end of the hold
        self._trial = False  # when down: a trial is on its way
        self._check_by(check)
        self._good = 0  # checks in a row
        self._bad = 0
        self._passive = False  # it is down by failed connects, not by checks
        self._credit = 0  # the balancer's: turns it is owed
        self._factor = 1  # the balancer's: its own hash function
        self._summand = 0

    def _check_by(self, check: Check | None) -> None:
        self._checks = check is not None
        self._rise = check.rise if check else 1
        self._fall = check.fall if check else 1

    def become(self, upstream: Upstream, check: Check | None, addresses: Addresses) -> None:
        """Go on with other settings: what is counted stays, and so does what is known of it."""
        self.upstream = upstream
        self.weight = upstream.weight
        self._check_by(check)
        self._good = self._bad = 0
        if addresses != self._addresses:
            self.addresses = addresses

    def forget(self) -> None:
        """Think well of it again: nobody has asked for a while how it is."""
        self._streak = 0
        self._recover()

    def fall(self, now: float) -> None:
        """Go down because others found it so."""
        self._passive = True
        self._down(now)

    @property
    def addresses(self) -> Addresses:
        """Where it is; never changed in place, replaced as a whole when a name moves."""
        return self._addresses

    @addresses.setter
    def addresses(self, found: Addresses) -> None:
        current = self.address() if self._addresses else None
        self._addresses = found
        self.no_pacing = bool(found) and _on_loopback(*found[0]) and _system_paces()
        if current in found:
            self._place = found.index(current)  # a name server that shuffles changes nothing
        else:
            self._place = 0
            self._until = 0.0  # what the old address did says nothing about the new one

    def address(self) -> tuple[int, Any]:
        """Return family and address to connect to; the next of several after each failure."""
        addresses = self._addresses
        return addresses[self._place % len(addresses)]

    @property
    def is_doubtful(self) -> bool:
        """Tell whether the last connect failed, or there was none."""
        return self._streak > 0 or not self.connections

    def failed(self, now: float) -> None:
        """Note that a connect failed or timed out, by no fault of this process such as EMFILE."""
        self.failures += 1
        self._streak += 1
        self._place += 1
        if self.up:
            # each of its addresses has a chance first
            if self._streak >= max(_IN_A_ROW, len(self._addresses)):
                self._passive = True
                self._down(now)
        elif self._trial:
            # only a trial counts: a crowd that began before it went down may all fail at once
            self._trial = False
            self._hold = min(_LONGEST, self._hold * 2)
            self._until = now + self._hold

    def succeeded(self) -> None:
        """Note that a connect worked."""
        if self._streak:
            self._streak = 0
            if not self._checks:
                self._recover()

    def checked(self, ok: bool, now: float) -> bool:
        """Note the outcome of an active check; tell whether `up` has changed by it."""
        if ok:
            self._bad = 0
            self._good += 1
            if self.up or not (self._passive or self._good >= self._rise):
                return False
            self._streak = 0
            self._recover()
            return True
        self._good = 0
        self._bad += 1
        self._place += 1
        if self._bad < self._fall:
            return False
        self._passive = False  # from here on the checks are against it, too
        if not self.up:
            return False
        self._down(now)
        return True

    def _down(self, now: float) -> None:
        self.up = False
        self._good = 0
        self._hold = _SHORTEST
        self._until = now + _SHORTEST

    def _recover(self) -> None:
        self.up = True
        self._passive = False
        self._trial = False

    def _attempt(self, now: float) -> None:
        """Let a connection through although it is down, and hold back the next ones."""
        if self._until <= now:
            self._trial = True
            self._until = now + max(self._hold, _TRIAL)
        else:
            # Everybody is down: take turns. Clients come as they please, so that this is not a
            # trial that would make the hold longer.
            self._until = max(self._until, now + self._hold)


class Balancer:
    """Choose among several targets.

    round-robin interleaves by weight, exactly and smoothly (5, 1, 1 is a a b a c a a); least-conn
    takes the fewest active connections for its weight, in turn where equal; first the first one
    that is up; source the same one for the same client as long as it is up.
    """

    def __init__(
        self, upstreams: tuple[Upstream, ...], balance: Balance, check: Check | None = None
    ):
        self.targets = [Target(upstream, check) for upstream in upstreams]
        self._only = self.targets[0] if len(self.targets) == 1 else None
        self._trials = check is None  # with checks, only they bring a target back
        self._turn = 0
        self.shares = [(target.name, target.weight) for target in self.targets]
        self._equal = len({target.weight for target in self.targets}) == 1
        self._pick = {
            "round-robin": self._in_turn,
            "least-conn": self._least,
            "first": self._first,
            "source": self._by_source,
        }[balance]
        if balance == "source":
            _give_numbers(self.targets)

    def take(self, targets: list[Target], before: Balancer | None) -> None:
        """Choose among targets that are known already, from the place where another one was.

        The turns that they are owed are those of the other one's weights: with others they begin
        anew.
        """
        self.targets = targets
        self._only = targets[0] if len(targets) == 1 else None
        if before is not None and before.shares == self.shares:
            self._turn = before._turn
        else:
            for target in targets:
                target._credit = 0
        if self._pick == self._by_source:
            _give_numbers(targets)

    def choose(self, source: str, now: float, tried: tuple[Target, ...] = ()) -> Target | None:
        """Return the target to try next, None when all were tried; source is an address only."""
        only = self._only
        if only is not None:
            return None if only in tried else only
        targets = self.targets
        if not tried:
            for target in targets:
                if not target.up:
                    break
            else:
                return self._pick(targets, source)
        return self._choose_some(source, now, tried)

    def _choose_some(self, source: str, now: float, tried: tuple[Target, ...]) -> Target | None:
        """Choose where some were tried or are down."""
        left = [target for target in self.targets if target not in tried]
        trials = self._trials
        fit = [target for target in left if target.up or (trials and target._until <= now)]
        if fit:
            chosen = self._pick(fit, source)
        elif left:
            chosen = min(left, key=_hold_end)
        else:
            return None
        if not chosen.up:
            chosen._attempt(now)
        return chosen

    def _in_turn(self, targets: list[Target], source: str) -> Target:
        # Everybody is credited its weight, and the richest pays for all of them: after as many
        # turns as the weights add up to, the credits are what they were.
        total = 0
        richest = targets[0]
        most = -_NEVER
        for target in targets:
            weight = target.weight
            total += weight
            credit = target._credit = target._credit + weight
            if credit > most:
                most = credit
                richest = target
        richest._credit -= total
        return richest

    def _least(self, targets: list[Target], source: str) -> Target:
        turn = self._turn % len(targets)
        best, place = targets[turn], turn
        for number in range(turn + 1 - len(targets), turn):  # negative ones count from the end
            target = targets[number]
            if target.active * best.weight < best.active * target.weight:
                best, place = target, number
        self._turn = place + 1
        return best

    def _first(self, targets: list[Target], source: str) -> Target:
        return targets[0]

    def _by_source(self, targets: list[Target], source: str) -> Target:
        """Take the highest of numbers drawn for each pair of client and target.

        Of the numbers, none depends on who else is there: whoever leaves takes only its own
        clients with it. ln(u)/weight is highest with a probability in proportion to the weight.
        """
        key = crc32(source.encode())
        best = targets[0]
        highest = -_NEVER
        equal = self._equal
        for target in targets:
            score: float = (key * target._factor + target._summand) % _PRIME
            if not equal:
                score = log((score + 1) / (_PRIME + 1)) / target.weight
            if score > highest:
                highest = score
                best = target
        return best


def _give_numbers(targets: list[Target]) -> None:
    """Give each target the two numbers of a hash function of its own, from its name.

    (factor * key + summand) modulo a prime is universal hashing (Carter and Wegman, 1979).
    """
    from hashlib import blake2b

    seen: dict[str, int] = {}
    for target in targets:
        # an upstream that is named twice has two shares
        count = seen[target.name] = seen.get(target.name, 0) + 1
        name = f"{count} {target.name}".encode(errors="surrogateescape")
        digest = blake2b(name, digest_size=16).digest()
        target._factor = int.from_bytes(digest[:8], "big") % (_PRIME - 1) + 1
        target._summand = int.from_bytes(digest[8:], "big") % _PRIME


def _hold_end(target: Target) -> float:
    return target._until


def _on_loopback(family: int, address: Any) -> bool:
    if family not in {socket.AF_INET, socket.AF_INET6}:
        return False
    host: str = address[0]
    return host.removeprefix("::ffff:").startswith("127.") or host == "::1"


def _system_paces() -> bool:
    """Tell whether new connections spread their packets over time (bbr)."""
    try:
        with open("/proc/sys/net/ipv4/tcp_congestion_control") as control:
            return control.read().startswith("bbr")
    except OSError:
        return False
