"""Counting a request on an item, and releasing it: the two writes every admitted request makes.

An item counts in its account (``accounts.py``) and marks the request with a hold (``holds.py``). Both writes may be
repeated: the first fails on its own mark, the second on the mark's absence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from itertools import chain, islice
from typing import Any

from vecmeter.ledger.accounts import IN_FLIGHT, Account, Amounts
from vecmeter.ledger.expressions import Change
from vecmeter.ledger.holds import SEAL_LIFE, HoldMark, old_seals, seal
from vecmeter.ledger.model import Cost, Limits
from vecmeter.ledger.quotas import METERS, QUOTAS, ROLLING_QUOTAS, Meter
from vecmeter.ledger.rolling import RollingWindow

SWEPT_AT_ONCE = 20


def count(change: Change, account: Account, amounts: Amounts, mark: HoldMark) -> None:
    """Count the amounts, with a hold, if they fit and this request was not counted before."""
    change.require(f"attribute_not_exists(#{mark.attribute})")
    change.set(f"#{mark.attribute} = :hold", mark.attribute)
    change.values[":hold"] = mark.text
    account.count(change, amounts)
    account.enter(change)


def release(
    change: Change,
    item: Mapping[str, Any],
    limits: Limits,
    mark: HoldMark,
    actual: Cost,
    *,
    sealed: bool,
    counts_all: bool = True,
) -> None:
    """Release a hold and correct the counters, in the windows in which the request was counted.

    Args:
        item: as seen last; cells of rolling quotas are corrected as it shows them.
        limits: those that held when the request was counted.
        sealed: a copy of the admission may still be on its way; a seal stands in the hold's place.
        counts_all: calendar counters count whether they are limited or not.
    """
    # Not released yet, by an earlier try or by who took the request for dead; nor sealed.
    change.require(f"#{mark.attribute} = :mark", mark.attribute)
    change.values[":mark"] = mark.text
    if sealed:
        change.set(f"#{mark.attribute} = :seal")
        change.values[":seal"] = seal(mark.started_at)
    else:
        change.remove(mark.attribute)
    change.add(f"#{IN_FLIGHT} :minus", IN_FLIGHT)
    change.values[":minus"] = -1
    for quota in QUOTAS:
        difference = quota.of(actual) - quota.of(mark.reserved)
        if difference and (counts_all or quota.code in limits):
            counter = quota.meter.counter(mark.started_at)
            change.add(f"#{counter} :{quota.code}", counter)
            change.values[f":{quota.code}"] = difference
    for rolling in ROLLING_QUOTAS:
        difference = rolling.of(actual) - rolling.of(mark.reserved)
        if difference and rolling.code in limits:
            RollingWindow.of(rolling, item).correct(change, difference, mark.started_at)


def old_counters(item: Mapping[str, Any], now: datetime) -> Iterator[str]:
    """Counters of windows that have passed. The window before the present one stays: a request that began in it
    may yet settle there, and an instance whose clock runs behind may still count in it."""
    for meter in METERS:
        current = meter.counter(now)
        previous = _previous_counter(meter, now)
        for name in item:
            if name[0] == meter.letter and name[1:].isdigit() and name not in (current, previous) and name < current:
                yield name


def sweep(change: Change, item: Mapping[str, Any], now: datetime) -> None:
    """Remove what has done its work, some of it with each write: an expression has a size."""
    for name in islice(chain(old_counters(item, now), old_seals(item, now)), SWEPT_AT_ONCE):
        change.remove(name)


def late_copy_possible(mark: HoldMark, now: datetime) -> bool:
    return mark.started_at + SEAL_LIFE > now


def _previous_counter(meter: Meter, now: datetime) -> str:
    return meter.counter(meter.window.start(now) - timedelta(days=1))
