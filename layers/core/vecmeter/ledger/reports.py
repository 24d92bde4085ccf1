"""What was used in a stretch of time: roll-ups where there are any, and records for the rest.

The rest is the hours at the two ends that lie only partly in it, and what is too fresh to be rolled up. The answer is
what the records alone would give, for all of them that are there; beyond their retention whole hours are counted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

from vecmeter.ledger.activity import HOUR, Mark
from vecmeter.ledger.model import Clock, Operation, UsageRecord
from vecmeter.ledger.rollups import DAY, HourRollup, Rollups
from vecmeter.ledger.totals import Group, KeyName, Totals, Usage, UsageSummary, day_of, grouped, hour_of
from vecmeter.ledger.usage import UsageLog, record_position

# Up to here a series goes by the hour, beyond it by the day.
HOURLY_UP_TO = timedelta(days=7)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Whose usage: of one key, of some users' keys, or of all (None); then of one project and operation, or all."""

    key: KeyName | None = None
    user_ids: tuple[str, ...] | None = None
    project_id: str | None = None
    operation: Operation | None = None

    def covers(self, group: Group) -> bool:
        return self.project_id in (None, group.project_id) and self.operation in (None, group.operation)


class Portion(NamedTuple):
    """What a key used of a group in the hour or day that begins at ``start``, as far as it was asked for."""

    start: datetime
    key: KeyName
    group: Group
    totals: Totals


_Marks = Mapping[KeyName, Mapping[datetime, Mark]]


class UsageReports:
    """Sums over usage, whoever's and whenever."""

    def __init__(self, rollups: Rollups, usage: UsageLog, clock: Clock) -> None:
        self._rollups = rollups
        self._usage = usage
        self._activity = usage.activity
        self._clock = clock
        self._retention = usage.retention

    def window(self, start: datetime, end: datetime) -> tuple[datetime, datetime]:
        """The stretch of time as it is counted: where records are gone, in whole hours."""
        horizon = self._clock() - self._retention + HOUR
        whole_end = hour_of(end) if hour_of(end) == end else hour_of(end) + HOUR
        return hour_of(start) if start < horizon else start, whole_end if end < horizon else end

    def summary(self, selection: Selection, start: datetime, end: datetime) -> UsageSummary:
        """Totals over [start, end), with a series by the hour, or by the day where it is longer than a week."""
        summary = UsageSummary(hour_of if end - start <= HOURLY_UP_TO else day_of)
        for portion in self.portions(selection, start, end):
            summary.add(portion.start, portion.group, portion.totals)
        return summary

    def portions(
        self, selection: Selection, start: datetime, end: datetime, *, by_day: bool = False
    ) -> Iterator[Portion]:
        """All that was used in [start, end), per key, group, and hour or day.

        ``by_day``: nobody asks for the hours. Beyond ``HOURLY_UP_TO`` nobody does anyway.
        """
        start, end = self.window(start, end)
        marks = self._marks(selection)
        for portion in self._portions(selection, marks, start, end, by_day=by_day or end - start > HOURLY_UP_TO):
            if selection.covers(portion.group):
                yield portion

    def days(self, selection: Selection, first: datetime, end: datetime) -> Iterator[tuple[datetime, list[Portion]]]:
        """All that was used on each day from ``first`` up to before ``end``, both of them midnights."""
        marks = self._marks(selection)
        for day in _days(first, end):
            found = self._portions(selection, marks, day, day + DAY, by_day=True)
            yield day, [portion for portion in found if selection.covers(portion.group)]

    def keys(self, selection: Selection, start: datetime, end: datetime) -> list[KeyName]:
        """The keys that were active on the days of [start, end), in order."""
        if selection.key is not None:
            return [selection.key]
        return sorted(self._active(selection, self._marks(selection), start, end))

    def records(
        self, selection: Selection, start: datetime, end: datetime, *, before: str = ""
    ) -> Iterator[UsageRecord]:
        """The records themselves, newest first, of the keys selected; not narrowed by project or operation."""
        keys = self.keys(selection, start, end)
        return self._usage.read([key.api_key_id for key in keys], start, end, before=before)

    def records_onwards(
        self, selection: Selection, start: datetime, end: datetime, *, after: str = ""
    ) -> Iterator[UsageRecord]:
        """The records key by key, and oldest first. ``after``: the ``export_position`` of the last one seen."""
        user_id, last_key, position = after.split("|") if after else ("", "", "")
        last = KeyName(user_id, last_key)
        for key in self.keys(selection, start, end):
            if key < last:
                continue
            going_on = position if key == last else ""
            yield from self._usage.read_onwards(key.api_key_id, start, end, after=going_on)

    def _portions(
        self, selection: Selection, marks: _Marks, start: datetime, end: datetime, *, by_day: bool
    ) -> Iterator[Portion]:
        if selection.key is not None:
            yield from self._by_hour([selection.key], marks, start, end)
            return
        first_day, last_day = _next(day_of(start), start), day_of(end)
        if not by_day or first_day >= last_day:
            yield from self._by_hour(self._active(selection, marks, start, end), marks, start, end)
            return
        for edge in ((start, first_day), (last_day, end)):
            if edge[0] < edge[1]:
                yield from self._by_hour(self._active(selection, marks, *edge), marks, *edge)
        for day in _days(first_day, last_day):
            yield from self._whole_day(selection, marks, day)

    def _whole_day(self, selection: Selection, marks: _Marks, day: datetime) -> Iterator[Portion]:
        """The day's roll-up is right for keys without a mark in it; the others' day is put together from hours."""
        marked = {key for key, hours in marks.items() if any(day <= hour < day + DAY for hour in hours)}
        for user_id in _each(selection.user_ids):
            for rolled_up in self._rollups.days(day, user_id):
                key = KeyName(rolled_up.user_id, rolled_up.api_key_id)
                if key not in marked:
                    yield from _portions_of(day, key, rolled_up.usage)
        yield from self._by_hour(marked, marks, day, day + DAY)

    def _by_hour(self, keys: Iterable[KeyName], marks: _Marks, start: datetime, end: datetime) -> Iterator[Portion]:
        for key in keys:
            for hour, usage in self._hours_of(key.api_key_id, marks.get(key, {}), start, end):
                yield from _portions_of(hour, key, usage)

    def _hours_of(
        self, api_key_id: str, marks: Mapping[datetime, Mark], start: datetime, end: datetime
    ) -> Iterator[tuple[datetime, Usage]]:
        rolled_up = {hour.hour: hour for hour in self._rollups.hours(api_key_id, hour_of(start), end)}
        for hour in sorted(rolled_up.keys() | {hour for hour in marks if hour_of(start) <= hour < end}):
            low, high = max(start, hour), min(end, hour + HOUR)
            rollup = rolled_up.get(hour)
            if rollup is not None and low == hour and _is_right(rollup, marks.get(hour), high, self._horizon):
                yield hour, rollup.usage
                low = rollup.cursor
            if low < high:
                yield hour, grouped(self._usage.read_onwards(api_key_id, low, high))

    @property
    def _horizon(self) -> datetime:
        """Before this, records may be gone."""
        return self._clock() - self._retention

    def _active(self, selection: Selection, marks: _Marks, start: datetime, end: datetime) -> set[KeyName]:
        """Whoever has usage has a mark, or a roll-up of the day."""
        found = {key for key, hours in marks.items() if any(hour_of(start) <= hour < end for hour in hours)}
        for day in _days(day_of(start), end):
            for user_id in _each(selection.user_ids):
                found |= {KeyName(one.user_id, one.api_key_id) for one in self._rollups.days(day, user_id)}
        return found

    def _marks(self, selection: Selection) -> _Marks:
        """Read before the roll-ups are: a mark that is gone by then tells of one that is there."""
        marks: defaultdict[KeyName, dict[datetime, Mark]] = defaultdict(dict)
        wanted = [selection.key] if selection.key else [(user_id, None) for user_id in _each(selection.user_ids)]
        for user_id, api_key_id in wanted:
            for mark in self._activity.marks(user_id, api_key_id):
                marks[KeyName(mark.user_id, mark.api_key_id)][mark.hour] = mark
        return marks


def export_position(record: UsageRecord) -> str:
    """Where a record stands in an export."""
    return f"{record.user_id}|{record.api_key_id}|{record_position(record)}"


def _is_right(rollup: HourRollup, mark: Mark | None, until: datetime, horizon: datetime) -> bool:
    """Whether a roll-up tells of all records before its cursor, and of none after ``until``."""
    if rollup.cursor > until:
        return False
    return mark is None or mark.token == rollup.token or rollup.hour < horizon


def _portions_of(start: datetime, key: KeyName, usage: Usage) -> Iterator[Portion]:
    for group, totals in usage.items():
        yield Portion(start, key, group, totals)


def _each(user_ids: Sequence[str] | None) -> Sequence[str | None]:
    return [None] if user_ids is None else user_ids


def _next(day: datetime, moment: datetime) -> datetime:
    return day if day == moment else day + DAY


def _days(start: datetime, end: datetime) -> Iterator[datetime]:
    while start < end:
        yield start
        start += DAY
