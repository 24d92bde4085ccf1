"""The items of parents: their counters, the places they have granted, and who has taken something.

Remembered as they were seen last. Whatever is written to them is pinned to what it was decided on.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from vecmeter.errors import LedgerUnavailableError
from vecmeter.ledger.accounts import IN_FLIGHT, Account
from vecmeter.ledger.allotments import COUNTED, Allotment, Parent, Places, allotments_on
from vecmeter.ledger.encoding import Item
from vecmeter.ledger.expressions import Change
from vecmeter.ledger.key_items import key_address
from vecmeter.ledger.model import LimitState
from vecmeter.ledger.quotas import CONCURRENT_CODE, QUOTAS, Quota
from vecmeter.ledger.rolling import RollingWindow
from vecmeter.ledger.table import ConditionFailed, Table

# A parent's item changes under one's hands; each try sees it as it is then.
TRIES = 20
REMEMBERED = 10_000


class ParentItems:
    """Reads and writes the items of parents. Threads may share it."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self._views: OrderedDict[tuple[str, str], Item] = OrderedDict()
        self._lock = threading.Lock()

    def view(self, parent: Parent) -> Item | None:
        """The item as this instance saw it last."""
        return self._views.get(parent.address)

    def states(self, parent: Parent, key_item: Item, generation: int, now: datetime) -> tuple[LimitState, ...]:
        """The parent's limits as this instance knows them: what the key itself has left of them is not used."""
        left: dict[str, int] = {}
        for allotment in allotments_on(key_item, parent.scope, generation):
            if allotment.is_good(now):
                left[allotment.code] = left.get(allotment.code, 0) + max(0, allotment.left)
        account = Account(parent.scope, parent.scope_id, parent.limits, self._views.get(parent.address, {}), now)
        return tuple(
            replace(state, used=max(0, state.used - left[code])) if left.get(code) else state
            for code, state in account.by_code
        )

    def account(self, parent: Parent, now: datetime) -> Account:
        """A parent's counters, read now."""
        return Account(parent.scope, parent.scope_id, parent.limits, self.read(parent), now)

    def used(self, parent: Parent, now: datetime) -> tuple[LimitState, ...]:
        """The parent's limits as used, read now. First what is handed out, then what is left of it: what is handed out
        in between must not pass for used.
        """
        account = self.account(parent, now)
        left = self.unused(parent, now)
        return tuple(replace(state, used=max(0, state.used - left.get(code, 0))) for code, state in account.by_code)

    def unused(self, parent: Parent, now: datetime) -> dict[str, int]:
        """What keys have taken and not used, by code: read from each key the parent remembers."""
        total: dict[str, int] = {}
        for api_key_id in takers(self.read(parent)):
            item = self.table.get(*key_address(api_key_id)) or {}
            for left in allotments_on(item, parent.scope):
                if left.is_good(now):
                    total[left.code] = total.get(left.code, 0) + left.left
            places = Places.on(item, parent.scope)
            total[CONCURRENT_CODE] = total.get(CONCURRENT_CODE, 0) + max(0, places.granted - places.in_flight)
        return total

    def begin_counting(self, parent: Parent, version: int, used: Mapping[str, int], now: datetime) -> None:
        """Let a parent count the calendar quotas it has limits for, and forget the others.

        Args:
            parent: with the limits of this ``version`` of its policy; of another nothing is done.
            used: what its keys have used in the present windows, for quotas it did not count so far.
        """
        for _ in range(TRIES):
            item = self.read(parent)
            counted = set(item.get("on", ()))
            limited = {quota.code for quota in QUOTAS if quota.code in parent.limits}
            if counted == limited or item.get("v", 0) != version:
                return
            change = Change()
            change.require("v = :version" if version else "attribute_not_exists(v)")
            if version:
                change.values[":version"] = version
            change.set("#on = :on", "on")
            change.add("#ep :next", "ep")
            change.values[":next"] = 1
            change.values[":on"] = sorted(limited)
            change.require("#on = :seen" if "on" in item else "attribute_not_exists(#on)")
            if "on" in item:
                change.values[":seen"] = item["on"]
            for quota in QUOTAS:
                counter = quota.meter.counter(now)
                if quota.code in limited - counted:
                    change.add(f"#{counter} :{quota.code}", counter)
                    change.values[f":{quota.code}"] = used.get(quota.code, 0)
                elif quota.code in counted - limited and counter in item:
                    change.remove(counter)
            try:
                updated, _ = self.table.update(*parent.address, **change.arguments, attempts=1)
            except ConditionFailed:
                continue
            self.remember(parent, updated)
            return

    def give_back_leftovers(self, parent: Parent, leftovers: Iterable[Allotment]) -> None:
        """Return what a key's item was relieved of. Raises LedgerUnavailableError."""
        for left in leftovers:
            if left.left > 0:
                self.take_back(parent, left.code, left.window, left.left)

    def take_back(self, parent: Parent, code: str, window: str, amount: int, *, epoch: int | None = None) -> bool:
        """Take an amount off a parent's counter, in the window it was counted in; whether that still matters.

        Args:
            epoch: of the counters it was counted on; on others it never was.
        """
        quota = COUNTED[code]
        for _ in range(TRIES):
            change = Change()
            if isinstance(quota, Quota):
                if epoch is not None:
                    change.require("ep = :ep" if epoch else "attribute_not_exists(ep)")
                    change.values |= {":ep": epoch} if epoch else {}
                counter = quota.meter.letter + window
                change.add(f"#{counter} :less", counter)
                change.require(f"#{counter} >= :amount")
                change.values |= {":less": -amount, ":amount": amount}
            else:
                cell = int(window, 36)
                RollingWindow.of(quota, self._views.get(parent.address, {})).correct_cell(change, -amount, cell)
                if not change.update:
                    return False
            try:
                updated, _ = self.table.update(*parent.address, **change.arguments, attempts=1)
            except ConditionFailed as failure:
                self.remember(parent, failure.item or {})
                if isinstance(quota, Quota):
                    return False
                continue
            self.remember(parent, updated)
            return True
        return False

    def reclaim_places(self, parent: Parent, api_key_id: str) -> bool:
        """Take the places a key does not fill away from it; whether there were any.

        First the key, then the parent: the key's fence keeps a grant that is on its way from being credited after all,
        and the parent's count of changes keeps this one from undoing a later grant.
        """
        view = self.read(parent)
        mark = taker_mark(api_key_id)
        granted, changes = grant_of(view, mark)
        item = self.table.get(*key_address(api_key_id))
        if item is None:
            return False
        places = Places.on(item, parent.scope)
        if granted <= places.in_flight and places.granted <= places.in_flight:
            return False
        change = _fenced(parent, places, places.in_flight)
        change.require(
            f"attribute_exists(pk) AND (attribute_not_exists(#{IN_FLIGHT}) OR #{IN_FLIGHT} <= :kept)", IN_FLIGHT
        )
        try:
            self.table.update(*key_address(api_key_id), **change.arguments, attempts=1)
            self._regrant(parent, mark, (granted, changes), places.in_flight)
        except ConditionFailed:
            return False
        return True

    def recount_places(self, parent: Parent, api_key_id: str) -> None:
        """Void a key's places; the parent counts what the key has in flight."""
        mark = taker_mark(api_key_id)
        for _ in range(TRIES):
            seen = grant_of(self.read(parent), mark)
            item = self.table.get(*key_address(api_key_id))
            if item is None:
                return
            change = _fenced(parent, Places.on(item, parent.scope), 0)
            try:
                updated, _ = self.table.update(*key_address(api_key_id), **change.arguments, attempts=1)
                self._regrant(parent, mark, seen, updated.get(IN_FLIGHT, 0))
            except ConditionFailed:
                continue
            return
        raise LedgerUnavailableError("The ledger's limits change too fast; try again shortly.")

    def _regrant(self, parent: Parent, mark: str, seen: tuple[int, int], kept: int) -> None:
        granted, changes = seen
        change = Change()
        change.set(f"#{mark} = :grant", mark)
        change.add(f"#{IN_FLIGHT} :fewer", IN_FLIGHT)
        change.values |= {":grant": f"{kept}.{changes + 1}", ":fewer": kept - granted}
        if granted or changes:
            change.require(f"#{mark} = :seen")
            change.values[":seen"] = f"{granted}.{changes}"
        else:
            change.require(f"(attribute_not_exists(#{mark}) OR #{mark} = :seen)")
            change.values[":seen"] = "0.0"
        updated, _ = self.table.update(*parent.address, **change.arguments, attempts=1)
        self.remember(parent, updated)

    def read(self, parent: Parent) -> Item:
        item = self.table.get(*parent.address) or {}
        self.remember(parent, item)
        return item

    def remember(self, parent: Parent, item: Item) -> None:
        with self._lock:
            self._views.pop(parent.address, None)
            self._views[parent.address] = item
            if len(self._views) > REMEMBERED:
                self._views.popitem(last=False)


def _fenced(parent: Parent, places: Places, kept: int) -> Change:
    """Leave a key so many places, and void the grants that are on their way to it."""
    letter = parent.scope.letter
    change = Change()
    change.set(f"#b{letter} = :kept", f"b{letter}")
    change.add(f"#f{letter} :one", f"f{letter}")
    change.values |= {":kept": kept, ":one": 1}
    if places.fence:
        change.require(f"#f{letter} = :fence")
        change.values[":fence"] = places.fence
    else:
        change.require(f"attribute_not_exists(#f{letter})")
    return change


def taker_mark(api_key_id: str) -> str:
    """The attribute under which a parent remembers a key that has taken something."""
    return f"k{api_key_id.removeprefix('key_')}"


def takers(view: Mapping[str, Any]) -> list[str]:
    """The keys that have taken something of a parent."""
    return [f"key_{name[1:]}" for name, value in view.items() if name[0] == "k" and isinstance(value, str)]


def grant_of(view: Mapping[str, Any], mark: str) -> tuple[int, int]:
    """Places granted to a key, and how often that has changed."""
    granted, changes = view.get(mark, "0.0").split(".")
    return int(granted), int(changes)
