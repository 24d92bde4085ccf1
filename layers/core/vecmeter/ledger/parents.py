"""The parents' side of the allotments: handing out, taking back, and finding what other keys left unused.

How much a key takes at once follows its pace: of what it soon used up it takes twice as much, but never more than a
fair part of what is left, and near the limit no more than it needs. So a busy key asks its parents once in
many requests, and the last of a limit goes to whoever comes.

Before a request is refused, what other keys have taken and not used is taken back: a limit that says no is used up.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any

from vecmeter.errors import LedgerUnavailableError
from vecmeter.ledger.accounts import IN_FLIGHT, Account, Shortage
from vecmeter.ledger.allotments import (
    COUNTED,
    Allotment,
    Hand,
    Parent,
    Places,
    allotments_on,
    window_of,
)
from vecmeter.ledger.counting import sweep
from vecmeter.ledger.encoding import Item, base36
from vecmeter.ledger.expressions import Change
from vecmeter.ledger.holds import dead_holds
from vecmeter.ledger.key_items import key_address
from vecmeter.ledger.parent_items import REMEMBERED, TRIES, ParentItems, grant_of, taker_mark, takers
from vecmeter.ledger.quotas import CONCURRENT_CODE, Quota, RollingQuota
from vecmeter.ledger.rolling import RollingWindow
from vecmeter.ledger.table import WRITE_ATTEMPTS, ConditionFailed

# A part that was used up faster than this, or within its cell, is followed by one twice as large.
LONG_SECONDS = 60
FIRST_PART, LARGEST_PART = 8, 1000
# Keys a parent remembers as having taken something; of more, what they leave unused is good until the window ends.
REMEMBERED_TAKERS = 100
# Nothing was to be found with other keys: for so long it is not looked for again.
NOTHING_FOUND_SECONDS = 1.0
NO_PLACE_FOUND_SECONDS = 0.05

_logger = logging.getLogger("vecmeter.ledger")


class ParentExhausted(Exception):
    """A parent has no room, and no other key has anything left of it.

    ``dead``: keys with requests in flight that never settled.
    """

    def __init__(self, shortages: list[Shortage], dead: Iterable[str] = ()) -> None:
        super().__init__("a parent has no room")
        self.shortages = shortages
        self.dead = tuple(dead)


class Parents:
    """Takes from parents on behalf of keys. Remembers each key's pace."""

    def __init__(
        self, items: ParentItems, *, hold_seconds: int, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self.items = items
        self._hold_seconds = hold_seconds
        self._monotonic = monotonic
        self._pending: dict[tuple[str, str], dict[str, list[tuple[int, int]]]] = {}
        self._paces: OrderedDict[tuple[str, str, str], tuple[int, float]] = OrderedDict()
        self._nothing_found: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._lock = threading.Lock()

    def fill(self, hand: Hand, api_key_id: str, lacking: Mapping[str, int], item: Item, now: datetime) -> None:
        """Take what an admission lacks, and what suits the key's pace, into its hand.

        Args:
            item: the key's item.

        Raises:
            ParentExhausted: the parent has no room, nor has any other key something left of it.
            LedgerUnavailableError: the table does not answer.
        """
        returned = self._leftovers(hand.parent)
        done = False
        try:
            done = self._fill(hand, api_key_id, dict(lacking), item, now, returned)
        finally:
            for code, cells in returned.items():
                if not done or code not in lacking:
                    self.note_leftovers(hand.parent, code, cells)

    def _fill(
        self,
        hand: Hand,
        api_key_id: str,
        missing: dict[str, int],
        item: Item,
        now: datetime,
        returned: Mapping[str, list[tuple[int, int]]],
    ) -> bool:
        """Whether the parent was debited, and what was to be returned with it."""
        parent, fresh = hand.parent, False
        view = self.items.view(parent)
        for _ in range(TRIES):
            if view is None:
                view, fresh = self.items.read(parent), True
            account = Account(parent.scope, parent.scope_id, parent.limits, view, now, returned)
            shortages = account.shortages(missing | _places_missing(missing, view, api_key_id, item, parent))
            if shortages and not fresh:
                view = None  # a no from memory is read again before it is believed
                continue
            if shortages:
                view = self._find(hand, api_key_id, shortages, missing, now)
                if not missing:
                    self._remember_taker(parent, api_key_id, view)
                    return False
                continue
            try:
                self._take(hand, api_key_id, account, missing, item)
            except ConditionFailed as failure:
                view, fresh = failure.item or {}, True
                self.items.remember(parent, view)
                continue
            return True
        raise LedgerUnavailableError("The ledger's limits change too fast; try again shortly.")

    def give_back(self, hands: Iterable[Hand]) -> None:
        """Return what was taken for an admission that did not take place. What cannot be returned is lost capacity."""
        for hand in hands:
            for code, (window, amount) in hand.amounts.items():
                try:
                    self.items.take_back(hand.parent, code, window, amount, epoch=hand.epoch)
                except LedgerUnavailableError:
                    _logger.warning("amount not given back", extra={"scope": hand.parent.scope.value, "limit": code})
            hand.amounts.clear()

    def find(self, parent: Parent, shortages: list[Shortage], now: datetime) -> None:
        """Take back what other keys left unused. Raises ParentExhausted when there is nothing."""
        hand = Hand(parent)
        self._find(hand, "", shortages, {shortage.code: 1 for shortage in shortages}, now)
        self.give_back([hand])

    def note_leftover(self, parent: Parent, left: Allotment) -> None:
        """The same of one attribute that was removed from a key's item."""
        if isinstance(COUNTED[left.code], RollingQuota):
            self.note_leftovers(parent, left.code, [(int(left.window, 36), left.left)])

    def note_leftovers(self, parent: Parent, code: str, cells: Iterable[tuple[int, int]]) -> None:
        """Remember what a key left unused in cells that are over, to return it with the next taking."""
        with self._lock:
            self._pending.setdefault(parent.address, {}).setdefault(code, []).extend(cells)
            if len(self._pending) > REMEMBERED:
                self._pending.pop(next(iter(self._pending)))

    def _leftovers(self, parent: Parent) -> Mapping[str, list[tuple[int, int]]]:
        with self._lock:
            return self._pending.pop(parent.address, {})

    def _take(self, hand: Hand, api_key_id: str, account: Account, missing: Mapping[str, int], item: Item) -> None:
        """Debit the parent. Raises ConditionFailed when it is not as it was seen."""
        parent, view = hand.parent, account.item
        sharing = max(1, len(takers(view)))
        mark = taker_mark(api_key_id)
        change = Change()
        parts = {}
        for code, needed in missing.items():
            if code != CONCURRENT_CODE:
                fair = account.remaining(code) // (2 * sharing)
                # Until the parent knows what was used before it counted, nobody gets more than is needed.
                counted = isinstance(COUNTED[code], RollingQuota) or code in view.get("on", ())
                wanted = self._pace(parent, api_key_id, code, needed) if counted else needed
                parts[code] = max(needed, min(wanted, fair))
        account.count(change, parts)
        sweep(change, view, account.now)
        places = None
        if CONCURRENT_CODE in missing:
            places = self._place(change, account, mark, Places.on(item, parent.scope), sharing)
        elif mark not in view and sharing < REMEMBERED_TAKERS:
            change.set(f"#{mark} = if_not_exists(#{mark}, :none)", mark)
            change.values[":none"] = "0.0"
        windows = {code: _window_counted(account, code) for code in parts}
        # A repetition after a lost answer debits twice, which lets nothing through.
        updated, _ = self.items.table.update(*parent.address, **change.arguments, attempts=WRITE_ATTEMPTS)
        self.items.remember(parent, updated)
        for code, part in parts.items():
            hand.put(code, windows[code], part, updated.get("ep", 0))
        if places is not None:
            hand.places = places

    def _remember_taker(self, parent: Parent, api_key_id: str, view: Item) -> None:
        """A key that got what another left has something to be found, too."""
        mark = taker_mark(api_key_id)
        if mark not in view and len(takers(view)) < REMEMBERED_TAKERS:
            change = Change()
            change.set(f"#{mark} = :none", mark)
            change.require(f"attribute_not_exists(#{mark})")
            change.values[":none"] = "0.0"
            with suppress(ConditionFailed):
                self.items.table.update(*parent.address, **change.arguments, attempts=WRITE_ATTEMPTS)

    def _place(self, change: Change, account: Account, mark: str, has: Places, sharing: int) -> int:
        """Grant places. What was granted and never credited is granted again, and not debited again."""
        granted, changes = grant_of(account.item, mark)
        limit, used = account.limits[CONCURRENT_CODE], account.item.get(IN_FLIGHT, 0)
        more = max(0, has.in_flight + 1 - granted)
        if granted <= has.granted:
            more = max(more, min(max(1, granted), (limit - used) // (2 * sharing)), 1)
        change.set(f"#{mark} = :grant", mark)
        change.values[":grant"] = f"{granted + more}.{changes + 1}"
        if mark in account.item:
            change.require(f"#{mark} = :grant_seen")
            change.values[":grant_seen"] = account.item[mark]
        else:
            change.require(f"attribute_not_exists(#{mark})")
        change.add(f"#{IN_FLIGHT} :more", IN_FLIGHT)
        change.require(f"(attribute_not_exists(#{IN_FLIGHT}) OR #{IN_FLIGHT} <= :others)")
        change.values |= {":more": more, ":others": limit - more}
        return granted + more

    def _find(
        self,
        hand: Hand,
        api_key_id: str,
        shortages: list[Shortage],
        missing: dict[str, int],
        now: datetime,
    ) -> Item:
        """Look with the other keys for what the parent lacks; ``missing`` then lacks less.

        Raises:
            ParentExhausted: none of them has anything left.
        """
        parent, found = hand.parent, False
        codes = {shortage.code for shortage in shortages}
        amounts = codes - {CONCURRENT_CODE}
        if not all(self._may_look(parent, code) for code in codes):
            raise ParentExhausted(shortages, [api_key_id] if api_key_id else [])
        dead = [api_key_id] if api_key_id else []
        for taker in takers(self.items.read(parent)):
            # The parent first, then the key: a grant that is made in between is not undone.
            item = self.items.table.get(*key_address(taker)) or {}
            if any(dead_holds(item, now, self._hold_seconds)):
                dead.append(taker)
            found |= CONCURRENT_CODE in codes and self.items.reclaim_places(parent, taker)
            found |= self._relieve(hand, taker, item, amounts, missing, now, own=taker == api_key_id)
            if found and not amounts & set(missing):
                break
        if not found:
            self._found_nothing(parent, codes)
            raise ParentExhausted(shortages, dead)
        return self.items.read(parent)

    def _relieve(
        self,
        hand: Hand,
        api_key_id: str,
        item: Item,
        codes: set[str],
        missing: dict[str, int],
        now: datetime,
        *,
        own: bool,
    ) -> bool:
        """Take a key's unused amounts: those that are good now into the hand, those of older cells to the parent.

        Args:
            own: it is the key that asks; what it has that is good now it uses itself.
        """
        parent = hand.parent
        found = False
        for left in allotments_on(item, parent.scope):
            if left.code not in codes or left.left <= 0 or (own and left.is_good(now)):
                continue
            try:
                # The key first: what is taken from it and lost on the way is lost capacity.
                self.items.table.update(
                    *key_address(api_key_id),
                    update="SET #left = :nothing",
                    condition="#left = :seen AND #inh.#g = :g",
                    names={"#left": left.attribute, "#inh": "inh", "#g": "g"},
                    values={":seen": left.left, ":nothing": 0, ":g": left.generation},
                    attempts=1,
                )
            except ConditionFailed:
                found = True  # it is being used: look again
                continue
            found |= self._keep(hand, left, missing, now)
        return found

    def _keep(self, hand: Hand, left: Allotment, missing: dict[str, int], now: datetime) -> bool:
        if not left.is_good(now):
            return self.items.take_back(hand.parent, left.code, left.window, left.left)
        hand.put(left.code, left.window, left.left, (self.items.view(hand.parent) or {}).get("ep", 0))
        still = missing.get(left.code, 0) - left.left
        missing.pop(left.code, None)
        if still > 0:
            missing[left.code] = still
        return True

    def _pace(self, parent: Parent, api_key_id: str, code: str, needed: int) -> int:
        """How much a key takes at once: twice the last part if that was used up soon, else half of it."""
        place, now = (parent.address[0], api_key_id, code), self._monotonic()
        quota = COUNTED[code]
        # What is taken of a short cell is soon worth nothing.
        soon, least = LONG_SECONDS, FIRST_PART * needed
        if isinstance(quota, RollingQuota) and quota.cell < LONG_SECONDS:
            soon, least = quota.cell, needed
        with self._lock:
            part, taken_at = self._paces.pop(place, (0, 0.0))
            part = max(part * 2 if now - taken_at < soon else part // 2, least)
            part = min(part, LARGEST_PART * needed)
            self._paces[place] = (part, now)
            if len(self._paces) > REMEMBERED:
                self._paces.popitem(last=False)
        return part

    def _may_look(self, parent: Parent, code: str) -> bool:
        pause = NO_PLACE_FOUND_SECONDS if code == CONCURRENT_CODE else NOTHING_FOUND_SECONDS
        looked_at = self._nothing_found.get((parent.address[0], code))
        return looked_at is None or self._monotonic() - looked_at >= pause

    def _found_nothing(self, parent: Parent, codes: Iterable[str]) -> None:
        with self._lock:
            for code in codes:
                self._nothing_found.pop((parent.address[0], code), None)
                self._nothing_found[parent.address[0], code] = self._monotonic()
            while len(self._nothing_found) > REMEMBERED:
                self._nothing_found.popitem(last=False)


def _places_missing(
    missing: Mapping[str, int], view: Mapping[str, Any], api_key_id: str, item: Mapping[str, Any], parent: Parent
) -> dict[str, int]:
    """Places that must be granted anew: none, if a grant was made that never arrived."""
    if CONCURRENT_CODE not in missing:
        return {}
    granted, _ = grant_of(view, taker_mark(api_key_id))
    has = Places.on(item, parent.scope)
    difference = max(0, has.in_flight + 1 - granted)
    return {CONCURRENT_CODE: difference if granted > has.granted else max(1, difference)}


def _window_counted(account: Account, code: str) -> str:
    """The window in which the account counts: of a rolling quota the newest cell, which may lie ahead of this clock."""
    quota = COUNTED[code]
    if isinstance(quota, Quota):
        return window_of(quota, account.now)
    return base36(RollingWindow.of(quota, account.item).cell(account.now))
