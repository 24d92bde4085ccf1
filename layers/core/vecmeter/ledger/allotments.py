"""Allotments: what a key may use of its parents' limits without asking them again.

A project, a user and the system share one limit among many keys. Each has an item of its own (``L#<scope>#<id>``) that
counts what it has handed out; a key takes an amount from there, and its admissions use it up on the key's own item, in
the same conditional write as everything else. On the key's item:

    a<scope><code><generation>_<window>   number   left of what was taken, good only in the window it was taken in
    b<scope>                              number   places among the requests in flight that the key may fill
    f<scope>                              number   fence: rises when places are taken back

and on the parent's, beside its counters:

    k<key>   text   "<places granted>.<changes>": which keys have taken something; each change of the places counts one

The parent is debited first and the key credited after; what goes back takes the other way round. A process that dies in
between loses capacity until the window ends, and never lets more through than the limit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from vecmeter.ledger.accounts import IN_FLIGHT, Amounts
from vecmeter.ledger.encoding import base36
from vecmeter.ledger.expressions import Change
from vecmeter.ledger.holds import HoldMark
from vecmeter.ledger.model import PARENTS, SYSTEM_USER, ApiKey, Cost, Limits, Scope, epoch_ms
from vecmeter.ledger.quotas import CONCURRENT_CODE, COUNTED_QUOTAS, Quota, RollingQuota

COUNTED = {quota.code: quota for quota in COUNTED_QUOTAS}


@dataclass(frozen=True, slots=True)
class Parent:
    """One of the scopes above a key, with the limits that hold for it."""

    scope: Scope
    scope_id: str
    limits: Limits

    @property
    def address(self) -> tuple[str, str]:
        return parent_address(self.scope, self.scope_id)


def parent_address(scope: Scope, scope_id: str) -> tuple[str, str]:
    """Partition and sort key of the item that carries a scope's policy and counters."""
    return f"L#{scope.letter}#{scope_id}", "L"


def parents_of(key: ApiKey) -> tuple[Parent, ...]:
    """The parents whose limits hold for a key, wherever its requests go."""
    ids = {Scope.PROJECT: key.project_id, Scope.USER: key.user_id, Scope.SYSTEM: SYSTEM_USER}
    return tuple(Parent(scope, ids[scope] or "", key.parents[scope]) for scope in PARENTS if key.parents.get(scope))


def window_of(quota: Quota | RollingQuota, moment: datetime) -> str:
    """What names the window, or the cell, in which an amount taken at this moment is good."""
    if isinstance(quota, Quota):
        return quota.meter.window.tag(moment)
    return base36(epoch_ms(moment) // (quota.cell * 1000))


@dataclass(frozen=True, slots=True)
class Allotment:
    """An attribute of a key's item: so much is left of a parent's limit, in a window."""

    attribute: str
    code: str
    window: str
    left: int

    @property
    def generation(self) -> int:
        return int(self.attribute.partition("_")[0][4:], 36)

    def is_good(self, now: datetime) -> bool:
        quota = COUNTED[self.code]
        if isinstance(quota, Quota):
            return self.window == window_of(quota, now)
        # Not after its cell: what is used later would leave the parent's window too early.
        return int(self.window, 36) >= int(window_of(quota, now), 36)


def allotment_name(scope: Scope, code: str, generation: int, window: str) -> str:
    return f"a{scope.letter}{code}{base36(generation)}_{window}"


def allotments_on(item: Mapping[str, Any], scope: Scope, generation: int | None = None) -> Iterator[Allotment]:
    """What a key has left of one parent, good or not. Of its present generation, if no other is named: those of an
    earlier one have been returned."""
    wanted = item.get("inh", {}).get("g", 0) if generation is None else generation
    return (found for found in _allotments(item, f"a{scope.letter}") if found.generation == wanted)


def stale_allotments(item: Mapping[str, Any], key: ApiKey, now: datetime) -> Iterator[Allotment]:
    """Those of a passed window or an earlier generation."""
    for allotment in _allotments(item, "a"):
        quota = COUNTED[allotment.code]
        past = allotment.window < window_of(quota, now) if isinstance(quota, Quota) else not allotment.is_good(now)
        if allotment.generation != key.generation or past:
            yield allotment


def _allotments(item: Mapping[str, Any], start: str) -> Iterator[Allotment]:
    for name, left in item.items():
        if name.startswith(start) and "_" in name:
            head, _, window = name.partition("_")
            yield Allotment(name, head[2:4], window, left)


@dataclass(frozen=True, slots=True)
class Places:
    """A key's places under a parent's limit on requests in flight, as the key's item shows them."""

    granted: int
    fence: int
    in_flight: int

    @classmethod
    def on(cls, item: Mapping[str, Any], scope: Scope) -> Places:
        return cls(item.get(f"b{scope.letter}", 0), item.get(f"f{scope.letter}", 0), item.get(IN_FLIGHT, 0))


@dataclass(slots=True)
class Hand:
    """What an admission has taken from one parent and not yet brought to its key.

    ``amounts``: by code, with the window each is good in; ``places``: how many the key shall have, if more than it has.
    ``epoch``: the parent's counters as they were taken from; they may begin anew when its limits change.
    """

    parent: Parent
    amounts: dict[str, tuple[str, int]] = field(default_factory=dict)
    places: int | None = None
    epoch: int = 0

    def put(self, code: str, window: str, amount: int, epoch: int) -> None:
        if epoch != self.epoch:
            self.amounts, self.epoch = {}, epoch
        known, had = self.amounts.get(code, (window, 0))
        # Of two windows the later counts: what is good in it was taken for it.
        self.amounts[code] = (window, amount + (had if known == window else 0))

    def lacking(self, item: Mapping[str, Any], generation: int, amounts: Amounts, now: datetime) -> dict[str, int]:
        """What is missing to admit the amounts: from the key's item, and from what is in this hand."""
        missing = {}
        for code in self.parent.limits:
            if code in COUNTED and amounts.get(code):
                shortfall = amounts[code] - self._here(code, now) - self._there(item, generation, code, now)
                if shortfall > 0:
                    missing[code] = shortfall
        if CONCURRENT_CODE in self.parent.limits and amounts.get(CONCURRENT_CODE):
            places = Places.on(item, self.parent.scope)
            if places.in_flight >= max(places.granted, self.places or 0):
                missing[CONCURRENT_CODE] = 1
        return missing

    def use(self, change: Change, item: Mapping[str, Any], generation: int, amounts: Amounts, now: datetime) -> None:
        """Use the amounts up on the key's item, and leave there what is over."""
        scope = self.parent.scope
        for code in self.parent.limits:
            amount = amounts.get(code, 0)
            if code not in COUNTED or not amount:
                continue
            window, here = self.amounts.get(code, (self._window(item, generation, code, now), 0))
            name, value = allotment_name(scope, code, generation, window), f":{scope.letter}_{code}"
            change.add(f"#{name} {value}", name)
            change.values[value] = here - amount
            if here < amount:
                change.require(f"#{name} >= {value}_left")
                change.values[f"{value}_left"] = amount - here
        if CONCURRENT_CODE in self.parent.limits and amounts.get(CONCURRENT_CODE):
            self._use_place(change, Places.on(item, scope))

    def refund(self, change: Change, item: Mapping[str, Any], mark: HoldMark, actual: Cost) -> None:
        """What a request reserved and did not take is left to its key, if the window it was taken in still is.

        Of the present generation: the parent has counted it, whatever has changed since.
        """
        inherited = item.get("inh", {})
        generation, held = inherited.get("g", 0), inherited.get(self.parent.scope.letter, {})
        for code in self.parent.limits.keys() & COUNTED.keys():
            quota = COUNTED[code]
            over = quota.of(mark.reserved) - quota.of(actual)
            window = window_of(quota, mark.started_at)
            name = allotment_name(self.parent.scope, code, generation, window)
            if over > 0 and code in held and (isinstance(quota, Quota) or name in item):
                change.require("#inh.#g = :generation", "inh", "g")
                change.values[":generation"] = generation
                change.add(f"#{name} :{self.parent.scope.letter}_{code}", name)
                change.values[f":{self.parent.scope.letter}_{code}"] = over

    def _use_place(self, change: Change, places: Places) -> None:
        granted, fence = f"b{self.parent.scope.letter}", f"f{self.parent.scope.letter}"
        if self.places is None or self.places <= places.granted:
            # Of two attributes of the item: what is in flight, and what may be.
            change.require(f"(attribute_not_exists(#{IN_FLIGHT}) OR #{IN_FLIGHT} < #{granted})", IN_FLIGHT, granted)
            change.require(f"#{granted} > :zero")
            change.values[":zero"] = 0
            return
        change.set(f"#{granted} = :{granted}", granted)
        change.values[f":{granted}"] = self.places
        if places.granted:
            change.require(f"#{granted} = :{granted}_seen")
            change.values[f":{granted}_seen"] = places.granted
        else:
            change.require(f"(attribute_not_exists(#{granted}) OR #{granted} = :{granted}_seen)")
            change.values[f":{granted}_seen"] = 0
        if places.fence:
            change.require(f"#{fence} = :{fence}", fence)
            change.values[f":{fence}"] = places.fence
        else:
            change.require(f"attribute_not_exists(#{fence})", fence)
        change.require(f"(attribute_not_exists(#{IN_FLIGHT}) OR #{IN_FLIGHT} < :{granted})", IN_FLIGHT)

    def _here(self, code: str, now: datetime) -> int:
        window, amount = self.amounts.get(code, ("", 0))
        return amount if window and Allotment("", code, window, amount).is_good(now) else 0

    def _there(self, item: Mapping[str, Any], generation: int, code: str, now: datetime) -> int:
        window = self.amounts[code][0] if code in self.amounts else self._window(item, generation, code, now)
        return int(item.get(allotment_name(self.parent.scope, code, generation, window), 0))

    def _window(self, item: Mapping[str, Any], generation: int, code: str, now: datetime) -> str:
        """The newest window in which the key has something, else the present one."""
        present = window_of(COUNTED[code], now)
        if isinstance(COUNTED[code], Quota) or allotment_name(self.parent.scope, code, generation, present) in item:
            return present
        # A parent whose newest cell lies ahead of this clock.
        good = [
            allotment.window
            for allotment in allotments_on(item, self.parent.scope, generation)
            if allotment.code == code and allotment.is_good(now)
        ]
        return max(good, default=present, key=lambda window: int(window, 36))
