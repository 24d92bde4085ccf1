"""Compares a key's counters with its records: the sums of a day and a month must be the same, to the micro-dollar.

Nothing is repaired here. A difference is a fault to be understood, and while requests are in flight the two may differ
rightly: a key is compared only when it had none, and the same counters, before and after its records were summed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from vecmeter.errors import ApiKeyNotFoundError
from vecmeter.ledger.keys import Keys
from vecmeter.ledger.model import Clock
from vecmeter.ledger.quotas import METERS, Window
from vecmeter.ledger.reports import Selection, UsageReports
from vecmeter.ledger.totals import KeyName, Totals

# A key that is in use is looked at so often before it is left to the next run.
LOOKS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Where a counter of a key is not the sum of the records."""

    api_key_id: str
    window: str
    amount: str
    counter: int
    records: int


@dataclass(slots=True)
class Reconciliation:
    """``compared``: keys whose counters could be looked at; ``busy``: keys that were in use all the time.

    What is billed to no key, such as storage, has no counters and is neither.
    """

    compared: int
    busy: int
    differences: list[Difference]


class Reconciler:
    """Compares counters of the present and the previous day and month."""

    def __init__(self, keys: Keys, reports: UsageReports, clock: Clock) -> None:
        self._keys = keys
        self._reports = reports
        self._clock = clock

    def reconcile(self) -> Reconciliation:
        """Compare all keys that were active since the previous month began."""
        result = Reconciliation(0, 0, [])
        now = self._clock()
        for key in self._reports.keys(Selection(), _previous(Window.MONTH, now), Window.DAY.end(now)):
            counters = self._counters(key)
            if counters is None:
                continue
            differences = self._compare(key, counters, now)
            if differences is None:
                result.busy += 1
            else:
                result.compared += 1
                result.differences += differences
        return result

    def _compare(self, key: KeyName, counters: Mapping[str, Any], now: datetime) -> list[Difference] | None:
        for _ in range(LOOKS):
            found = list(self._differences(key, counters, now))
            again = self._counters(key) or {}
            if again == counters and not _in_flight(counters):
                return found
            counters = again
        return None

    def _differences(self, key: KeyName, counters: Mapping[str, Any], now: datetime) -> Iterator[Difference]:
        for window in Window:
            for start in (window.start(now), _previous(window, now)):
                total = Totals()
                for portion in self._reports.portions(Selection(key=key), start, window.end(start), by_day=True):
                    total.merge(portion.totals)
                for meter in METERS:
                    name = meter.counter(start)
                    # A counter of a window that has passed is removed in time.
                    if meter.window is not window or (name not in counters and start < window.start(now)):
                        continue
                    counter, records = int(counters.get(name, 0)), int(getattr(total, meter.amount))
                    if counter != records:
                        yield Difference(
                            api_key_id=key.api_key_id,
                            window=name[1:],
                            amount=meter.amount,
                            counter=counter,
                            records=records,
                        )

    def _counters(self, key: KeyName) -> Mapping[str, Any] | None:
        try:
            _, item = self._keys.get_with_counters(key.api_key_id)
        except ApiKeyNotFoundError:
            return None
        return item


def _previous(window: Window, now: datetime) -> datetime:
    return window.start(window.start(now) - timedelta(days=1))


def _in_flight(counters: Mapping[str, Any]) -> bool:
    return any(name[0] == "h" and isinstance(value, str) and value[0] != "-" for name, value in counters.items())
