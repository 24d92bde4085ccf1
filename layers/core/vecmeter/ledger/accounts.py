"""An account: what one item has counted, held against limits. Keys have one, and so have their parents.

Conditions cannot add, so each counter is compared with its head-room, limit minus amount.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

from vecmeter.ledger.expressions import Change
from vecmeter.ledger.model import Cost, Limits, LimitState, Scope
from vecmeter.ledger.quotas import (
    BURST,
    CONCURRENT_CODE,
    COUNTED_QUOTAS,
    MAX_CONCURRENT,
    PER_MINUTE,
    QUOTAS,
    ROLLING_QUOTAS,
    Quota,
)
from vecmeter.ledger.rolling import RollingWindow

IN_FLIGHT = "n"
# A place among the requests in flight may be free at any moment.
_TRY_AGAIN = timedelta(seconds=1)

Amounts = Mapping[str, int]
"""What is to be counted, by the short names of quotas; ``cc``: places among the requests in flight."""


def amounts_of(cost: Cost) -> Amounts:
    return {quota.code: quota.of(cost) for quota in COUNTED_QUOTAS} | {CONCURRENT_CODE: 1}


@dataclass(frozen=True, slots=True)
class Shortage:
    """A limit without room. ``room_at``: when there will be, if nothing else is admitted."""

    code: str
    state: LimitState
    room_at: datetime


@dataclass(frozen=True)
class Account:
    """An item's counters at a moment. Limits that are not named do not hold; calendar counters count all the same.

    ``returned``: amounts to be taken off cells of rolling quotas, by code, together with what is counted next.
    """

    scope: Scope
    scope_id: str
    limits: Limits
    item: Mapping[str, Any]
    now: datetime
    returned: Mapping[str, list[tuple[int, int]]] = field(default_factory=dict)

    def used(self, quota: Quota) -> int:
        return int(self.item.get(quota.meter.counter(self.now), 0))

    def remaining(self, code: str) -> int:
        """What is left of a limit that holds."""
        return next(state.remaining for found, state in self.by_code if found == code)

    def states(self) -> tuple[LimitState, ...]:
        """Every limit that holds, in numbers."""
        return tuple([state for _, state in self.by_code])

    def shortages(self, amounts: Amounts) -> list[Shortage]:
        """The limits into which the amounts do not fit."""
        found = []
        for code, state in self.by_code:
            # No place more may be asked for, and yet there may be too many.
            amount, asked = amounts.get(code, 0), code == CONCURRENT_CODE and code in amounts
            if not (amount or asked) or state.used + amount <= state.limit:
                continue
            if code != PER_MINUTE.code or not self._bursts(amount):
                found.append(Shortage(code, state, self._room_at(code, state, amount)))
        return found

    def beyond(self, amounts: Amounts) -> Iterator[tuple[LimitState, int]]:
        """Limits above which an amount is by itself. A limit of 0 is a closed door and none of them."""
        burst = self.limits.get(BURST.code, 0)
        for code, state in self.by_code:
            amount, limit = amounts.get(code, 0), state.limit + (burst if code == PER_MINUTE.code else 0)
            if amount > limit > 0:
                yield state, amount

    def count(self, change: Change, amounts: Amounts) -> None:
        """Add the amounts, each if it fits. The item has shown that they do."""
        for quota in QUOTAS:
            amount, limit = amounts.get(quota.code, 0), self.limits.get(quota.code)
            if not amount:
                continue
            counter, value = quota.meter.counter(self.now), f":{quota.code}_amount"
            change.add(f"#{counter} {value}", counter)
            change.values[value] = amount
            if limit is not None:
                # room: what is used so far leaves place for this amount.
                change.require(f"(attribute_not_exists(#{counter}) OR #{counter} <= :{quota.code}_room)")
                change.values[f":{quota.code}_room"] = limit - amount
        for rolling in ROLLING_QUOTAS:
            if amounts.get(rolling.code) and rolling.code in self.limits:
                self._count_rolling(change, rolling.code, amounts[rolling.code])

    def enter(self, change: Change) -> None:
        """One request more in flight, if the limit leaves it a place."""
        change.add(f"#{IN_FLIGHT} :one", IN_FLIGHT)
        change.values[":one"] = 1
        if CONCURRENT_CODE in self.limits:
            change.require(f"(attribute_not_exists(#{IN_FLIGHT}) OR #{IN_FLIGHT} < :{CONCURRENT_CODE})")
            change.values[f":{CONCURRENT_CODE}"] = self.limits[CONCURRENT_CODE]

    def _count_rolling(self, change: Change, code: str, amount: int) -> None:
        window, limit = self._window(code), self.limits[code]
        beyond = window.used(self.now) + amount - limit
        if beyond > 0 and code == PER_MINUTE.code and BURST.code in self.limits:
            window.count(change, amount, limit + self.limits[BURST.code], self.now)
            self._burst.count(change, min(beyond, amount), self.limits[BURST.code], self.now)
        else:
            window.count(change, amount, limit, self.now)

    @property
    def _burst(self) -> RollingWindow:
        return RollingWindow.of(BURST, self.item)

    def _bursts(self, amount: int) -> bool:
        """Whether what goes beyond the requests per minute fits into the burst."""
        burst = self.limits.get(BURST.code)
        if burst is None:
            return False
        beyond = self._window(PER_MINUTE.code).used(self.now) + amount - self.limits[PER_MINUTE.code]
        return beyond <= burst and self._burst.used(self.now) + min(beyond, amount) <= burst

    def _window(self, code: str) -> RollingWindow:
        window = RollingWindow.of(next(quota for quota in ROLLING_QUOTAS if quota.code == code), self.item)
        return window.without(self.returned.get(code, ()))

    def _room_at(self, code: str, state: LimitState, amount: int) -> datetime:
        if state.resets_at is None:
            return self.now + _TRY_AGAIN
        if any(quota.code == code for quota in QUOTAS) or amount > state.limit:
            return state.resets_at
        return self._window(code).room_at(amount, state.limit, self.now)

    @cached_property
    def by_code(self) -> tuple[tuple[str, LimitState], ...]:
        """Every limit that holds, in numbers, with its short name."""
        return tuple(self._each())

    def _each(self) -> Iterator[tuple[str, LimitState]]:
        for quota in QUOTAS:
            if quota.code in self.limits:
                yield quota.code, self._calendar_state(quota)
        for rolling in ROLLING_QUOTAS:
            if rolling.code in self.limits:
                window, limit = self._window(rolling.code), self.limits[rolling.code]
                yield rolling.code, window.state(self.scope.value, self.scope_id, limit, self.now)
        if CONCURRENT_CODE in self.limits:
            yield (
                CONCURRENT_CODE,
                LimitState(
                    name=MAX_CONCURRENT,
                    scope=self.scope.value,
                    scope_id=self.scope_id,
                    limit=self.limits[CONCURRENT_CODE],
                    used=self.item.get(IN_FLIGHT, 0),
                    resets_at=None,
                    window_seconds=0,
                ),
            )

    def _calendar_state(self, quota: Quota) -> LimitState:
        window = quota.meter.window
        return LimitState(
            name=quota.name,
            scope=self.scope.value,
            scope_id=self.scope_id,
            limit=self.limits[quota.code],
            used=self.used(quota),
            resets_at=window.end(self.now),
            window_seconds=window.seconds(self.now),
        )
