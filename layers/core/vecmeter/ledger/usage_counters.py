"""Counters of usage that never fall: running totals, and the records that are in none yet.

They are the sum of all records since a key's first roll-up was made by this version, up to the present moment. Roll-ups
go on while a counter is read, so the order counts: marks first (an hour closed afterwards is in the total), then the
total, then the marked hours; and an hour that says it went into a later total has the total read again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial

from vecmeter.errors import LedgerUnavailableError
from vecmeter.ledger.activity import HOUR, Mark
from vecmeter.ledger.model import Clock
from vecmeter.ledger.rollups import HourRollup, Rollups
from vecmeter.ledger.running_totals import RunningTotal
from vecmeter.ledger.totals import Group, KeyName, Totals, Usage, combined, difference, grouped
from vecmeter.ledger.usage import UsageLog

# Keys read at a time: each takes two or three calls of some milliseconds, nearly all of it waiting.
AT_ONCE = 8
# Roll-ups of a key are minutes apart: a second look is nearly always enough.
LOOKS = 4

_Marks = Mapping[datetime, Mark]


class UsageCounters:
    """What each key has used, from its running total and what came since."""

    def __init__(self, rollups: Rollups, usage: UsageLog, clock: Clock) -> None:
        self._rollups = rollups
        self._running = rollups.running
        self._usage = usage
        self._clock = clock

    def read(self, marks: Mapping[KeyName, _Marks]) -> dict[KeyName, Usage]:
        """Of every key there ever was, by project and operation.

        Args:
            marks: what ``active`` has just said.

        Raises:
            LedgerUnavailableError: the table does not answer.
        """
        totals = self._running.all()
        counters: dict[KeyName, Usage] = {key: total.usage for key, total in totals.items()}
        with ThreadPoolExecutor(AT_ONCE) as threads:
            now = partial(self._present, marks, totals)
            counters.update(zip(marks, threads.map(now, marks), strict=True))
        return counters

    def active(self) -> dict[KeyName, dict[datetime, Mark]]:
        """The keys with hours that are not rolled up for good: all that were used in the last hour, and few others."""
        marks: defaultdict[KeyName, dict[datetime, Mark]] = defaultdict(dict)
        for mark in self._usage.activity.marks():
            marks[KeyName(mark.user_id, mark.api_key_id)][mark.hour] = mark
        return dict(marks)

    def _present(self, marks: Mapping[KeyName, _Marks], totals: Mapping[KeyName, RunningTotal], key: KeyName) -> Usage:
        hours, total = marks[key], totals.get(key, RunningTotal())
        for _ in range(LOOKS):
            found = self._rollups.hours(key.api_key_id, min(hours), max(hours) + HOUR)
            rolled_up = {hour.hour: hour for hour in found}
            if all(hour.running <= total.version for hour in rolled_up.values()):
                return self._with_news(key, hours, rolled_up, total)
            total = self._running.get(key)
        raise LedgerUnavailableError("Usage is being rolled up; try again shortly.")

    def _with_news(
        self, key: KeyName, hours: _Marks, rolled_up: Mapping[datetime, HourRollup], total: RunningTotal
    ) -> dict[Group, Totals]:
        news = (self._news(key, mark, rolled_up.get(hour)) for hour, mark in hours.items())
        return total.with_more(combined(*(part for parts in news for part in parts)))

    def _news(self, key: KeyName, mark: Mark, rollup: HourRollup | None) -> Iterator[Usage]:
        """What of a marked hour is in no running total."""
        end = mark.hour + HOUR
        counted = rollup.usage if rollup is not None and rollup.running else {}
        if rollup is not None and (rollup.token == mark.token or self._records_may_be_gone(mark)):
            yield difference(rollup.usage, counted)
            if rollup.token == mark.token and rollup.cursor < end:
                yield grouped(self._usage.read_onwards(key.api_key_id, rollup.cursor, end))
        else:
            yield difference(grouped(self._usage.read_onwards(key.api_key_id, mark.hour, end)), counted)

    def _records_may_be_gone(self, mark: Mark) -> bool:
        return mark.hour + self._usage.retention - HOUR < self._clock()
