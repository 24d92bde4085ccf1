"""Roll-ups: what a key used in an hour and in a day, so that nobody reads its records for that.

An hour's roll-up holds the sums of its records up to a cursor. It is moved on from there as long as the hour's mark has
the token it had, and begins anew when that has changed: a late record may lie before the cursor (``activity.py``). When
the cursor reaches the end of the hour, the day is summed up anew from its hours and the mark is removed, in this order,
so that whoever dies in between leaves the mark and all is done again.

Each write names the version it read. So two runs at once, or one that was held up for long, cannot put older sums in
the place of newer ones; who comes second leaves the mark to the next run.

With an hour's roll-up, in one transaction, what is new in it goes into its key's running total (``running_totals.py``).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from vecmeter.ledger import transactions
from vecmeter.ledger.activity import HOUR, OUTLIVES, SETTLED_AFTER, Mark
from vecmeter.ledger.encoding import Item
from vecmeter.ledger.model import Clock, epoch_ms, from_epoch_ms
from vecmeter.ledger.running_totals import RunningTotals
from vecmeter.ledger.table import WRITE_ATTEMPTS, ConditionFailed, Table
from vecmeter.ledger.totals import KeyName, Usage, combined, day_of, difference, grouped, pack, unpack
from vecmeter.ledger.usage import UsageLog

# An hour that is not over is rolled up so far once it has as many records as a page of a Query or so.
WORTH_IT = 1_000
# DynamoDB takes 400 KB. That is some 10,000 projects of one key in one hour.
MOST_BYTES = 350_000
DAY = timedelta(days=1)
_LAST = "\x7f"  # sorts after every character a key's id may have
_HOUR_FORM, _DAY_FORM = "%y%m%d%H", "%y%m%d"
_logger = logging.getLogger("vecmeter.ledger")


class Step(StrEnum):
    """What became of a mark in one run."""

    CLOSED = "closed"  # rolled up for good, the mark is gone
    ADVANCED = "advanced"  # rolled up so far
    OPEN = "open"  # too early, or not worth it yet
    OVERTAKEN = "overtaken"  # something else wrote at the same time
    TOO_LATE = "too_late"  # a late record of an hour whose other records are gone: it is not in the roll-up
    TOO_LARGE = "too_large"  # stays with its records


@dataclass(frozen=True, slots=True, kw_only=True)
class HourRollup:
    """An hour's sums of the records that began before ``cursor``, believed while the mark has this ``token``.

    ``running``: the version of the key's running total that has all of them in it first; 0: none has.
    """

    hour: datetime
    usage: Usage
    cursor: datetime
    token: str
    version: int
    running: int


@dataclass(frozen=True, slots=True)
class DayRollup:
    """The sums of a day's roll-ups: of all of the day when no hour of it has a mark."""

    user_id: str
    api_key_id: str
    usage: Usage


class Rollups:
    """Rolls up usage records, and reads what was rolled up."""

    def __init__(self, table: Table, usage: UsageLog, clock: Clock, kept_days: int) -> None:
        """Roll-ups are kept for ``kept_days``, and for longer than records in any case."""
        self._table = table
        self.running = RunningTotals(table)
        self._usage = usage
        self._activity = usage.activity
        self._clock = clock
        self._retention = usage.retention
        self._kept = max(timedelta(days=kept_days), usage.retention + OUTLIVES)

    def hours(self, api_key_id: str, start: datetime, end: datetime) -> Iterator[HourRollup]:
        """A key's roll-ups of the hours that begin in [start, end), oldest first."""
        between = (f"{start:{_HOUR_FORM}}", f"{end - timedelta(microseconds=1):{_HOUR_FORM}}")
        for item in self._table.query(f"U#{api_key_id}", between=between):
            yield _hour_from_item(item)

    def days(self, day: datetime, user_id: str | None = None) -> Iterator[DayRollup]:
        """The roll-ups of a day: of all keys, or of a user's."""
        low, high = (" ", "\U0010ffff") if user_id is None else (f"{user_id}#", f"{user_id}#{_LAST}")
        for item in self._table.query(f"DAY#{day:{_DAY_FORM}}", between=(low, high)):
            owner, api_key_id = item["sk"].rsplit("#", 1)
            if user_id in (None, owner):
                yield DayRollup(owner, api_key_id, unpack(item["b"]))

    def roll_up(self, *, dry_run: bool = False) -> Counter[str]:
        """Roll up what is settled by now; returns how many marks went through each ``Step``. Only active keys cost.

        Args:
            dry_run: say which step each mark would go, and write nothing.
        """
        steps = Counter({step.value: 0 for step in Step})
        for mark in self._activity.marks():
            try:
                steps[self._advance(mark, dry_run=dry_run)] += 1
            except ConditionFailed:
                steps[Step.OVERTAKEN] += 1
        return steps

    def _advance(self, mark: Mark, *, dry_run: bool) -> Step:
        now = self._clock()
        end = mark.hour + HOUR
        until = min(end, now - SETTLED_AFTER)
        if until <= mark.hour or (mark.touched_at is not None and now < mark.touched_at + SETTLED_AFTER):
            return Step.OPEN
        before = next(self.hours(mark.api_key_id, mark.hour, end), None)
        believed = before is not None and before.token == mark.token
        if before is not None and not believed and mark.hour + self._retention - HOUR < now:
            _logger.error("usage record came too late for its roll-up", extra={"mark": mark.hour.isoformat()})
            return Step.TOO_LATE if dry_run or self._activity.remove(mark) else Step.OVERTAKEN
        start = before.cursor if before is not None and believed else mark.hour
        records = list(self._usage.read_onwards(mark.api_key_id, start, until))
        if until < end and len(records) < WORTH_IT:
            return Step.OPEN
        usage = grouped(records)
        if before is not None and believed:
            usage = combined(before.usage, usage)
        content = pack(usage)
        if len(content) > MOST_BYTES:
            _logger.error("usage of an hour is too large to be rolled up", extra={"api_key_id": mark.api_key_id})
            return Step.TOO_LARGE
        if dry_run:
            return Step.ADVANCED if until < end else Step.CLOSED
        self._write_hour(mark, usage, content, until, before)
        return Step.ADVANCED if until < end else self._close(mark)

    def _close(self, mark: Mark) -> Step:
        self._write_day(mark)
        return Step.CLOSED if self._activity.remove(mark) else Step.OVERTAKEN

    def _write_hour(
        self, mark: Mark, usage: Usage, content: bytes, cursor: datetime, before: HourRollup | None
    ) -> None:
        key = KeyName(mark.user_id, mark.api_key_id)
        running = self.running.get(key)
        counted = before.usage if before is not None and before.running else {}
        address = f"U#{mark.api_key_id}", f"{mark.hour:{_HOUR_FORM}}"
        attributes = {
            "b": content,
            "c": epoch_ms(cursor),
            "tk": mark.token,
            "rv": running.version + 1,
            "ttl": self._ttl(mark.hour),
        }
        hour = transactions.update(*address, **_change(attributes, before.version if before else 0))
        self._table.transact(hour, self.running.addition(key, running, difference(usage, counted)))

    def _write_day(self, mark: Mark) -> None:
        """Sum up the day of an hour anew. The version is read before the hours are: else older sums could win."""
        day = day_of(mark.hour)
        address = f"DAY#{day:{_DAY_FORM}}", f"{mark.user_id}#{mark.api_key_id}"
        before = self._table.get(*address)
        content = pack(combined(*(hour.usage for hour in self.hours(mark.api_key_id, day, day + DAY))))
        change = _change({"b": content, "ttl": self._ttl(day)}, before["v"] if before else 0)
        self._table.update(*address, **change, attempts=WRITE_ATTEMPTS)

    def _ttl(self, moment: datetime) -> int:
        return int((moment + self._kept).timestamp())


def _change(attributes: Mapping[str, Any], version: int) -> dict[str, Any]:
    """Write a roll-up over the version that was read (0: none), on condition that there is no other by now.

    A repetition after a lost answer may fail, and the mark that stays makes the next run do it again.
    """
    settings = ", ".join(f"#{name} = :{name}" for name in attributes)
    values = {f":{name}": value for name, value in attributes.items()}
    return {
        "update": f"SET {settings}, v = :new",
        "condition": "v = :old" if version else "attribute_not_exists(pk)",
        "names": {f"#{name}": name for name in attributes},
        "values": values | {":new": version + 1} | ({":old": version} if version else {}),
    }


def _hour_from_item(item: Item) -> HourRollup:
    return HourRollup(
        hour=datetime.strptime(item["sk"], _HOUR_FORM).replace(tzinfo=UTC),
        usage=unpack(item["b"]),
        cursor=from_epoch_ms(item["c"]),
        token=item["tk"],
        version=item["v"],
        running=item.get("rv", 0),
    )
