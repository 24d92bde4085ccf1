"""Marks that say which hours of which keys have usage that is not rolled up.

A mark is there before the hour's first record is, and goes when the hour is rolled up for good. So who wants to know
which keys were active looks at the marks and the roll-ups, never at all keys; and an hour without a mark is one whose
roll-up, or its absence, tells all.

Three rules make that exact:

* A record written soon after its request began (``LATE_AFTER``) needs the hour's mark and no more. An instance makes
  sure of it once and remembers: one more write per instance, key and hour.
* A later record (a dead request's, one replayed from the log) gives the mark a new token, before it is written. What
  was rolled up under another token is not believed, and is done again.
* Nothing is rolled up before no copy of a call can be on its way any more (``SETTLED_AFTER``): neither of a record
  that needed the mark alone, nor of one that was announced by a new token.
"""

from __future__ import annotations

import threading
import uuid
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from vecmeter.ledger.encoding import Item
from vecmeter.ledger.holds import SEAL_LIFE
from vecmeter.ledger.model import Clock, UsageRecord, epoch_ms, from_epoch_ms
from vecmeter.ledger.table import ConditionFailed, Table
from vecmeter.ledger.totals import hour_of

LATE_AFTER = timedelta(minutes=3)
# The last copy of a record that was not late arrives a seal's life after it was sent; clocks differ by a minute.
SETTLED_AFTER = LATE_AFTER + SEAL_LIFE + timedelta(minutes=1)
HOUR = timedelta(hours=1)
# A mark outlives its hour's records, or they would seem to be rolled up.
OUTLIVES = timedelta(days=7)
# Users are spread over so many partitions, for one of them takes 1,000 writes a second.
SHARDS = 16
REMEMBERED_MARKS = 10_000
_LAST = "\x7f"  # sorts after every character a key's id may have
_HOUR_FORM = "%y%m%d%H"


@dataclass(frozen=True, slots=True)
class Mark:
    """An hour of a key that is not rolled up for good. ``touched_at``: when a late record was announced."""

    user_id: str
    api_key_id: str
    hour: datetime
    token: str
    touched_at: datetime | None


class Activity:
    """Writes and reads marks."""

    def __init__(self, table: Table, clock: Clock, retention: timedelta) -> None:
        self._table = table
        self._clock = clock
        self._retention = retention
        self._ensured: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._lock = threading.Lock()

    @contextmanager
    def announced(self, record: UsageRecord) -> Iterator[None]:
        """Around the write of a record: the hour is marked before. Raises LedgerUnavailableError: it is not."""
        late = self._is_late(record)
        if late:
            self._touch(record)
        else:
            self._ensure(record)
        yield
        if not late and self._is_late(record):  # the process stood still in between
            self._touch(record)

    def marks(self, user_id: str | None = None, api_key_id: str | None = None) -> Iterator[Mark]:
        """The marks of all keys, of a user's, or of one key of a user."""
        prefix = "" if user_id is None else f"{user_id}#" if api_key_id is None else f"{user_id}#{api_key_id}#"
        for shard in range(SHARDS) if user_id is None else [_shard(user_id)]:
            for item in self._table.query(_partition(shard), between=(prefix or " ", (prefix or "\U0010ffff") + _LAST)):
                mark = _from_item(item)
                if user_id in (None, mark.user_id):
                    yield mark

    def remove(self, mark: Mark) -> bool:
        """Remove a mark unless it got a new token. Repeating it finds the mark gone, or one that is not this one."""
        address = _address(mark.user_id, mark.api_key_id, mark.hour)
        try:
            self._table.delete_if(*address, condition="tk = :token", values={":token": mark.token})
        except ConditionFailed as failure:
            return failure.item is None
        return True

    def _is_late(self, record: UsageRecord) -> bool:
        return self._clock() - record.started_at > LATE_AFTER

    def _ensure(self, record: UsageRecord) -> None:
        hour = (record.api_key_id, record.started_at.strftime(_HOUR_FORM))
        with self._lock:
            if hour in self._ensured:
                self._ensured.move_to_end(hour)
                return
        with suppress(ConditionFailed):  # another instance was first, or an earlier try
            self._table.put_new(self._item(record))
        with self._lock:
            self._ensured[hour] = None
            if len(self._ensured) > REMEMBERED_MARKS:
                self._ensured.popitem(last=False)

    def _touch(self, record: UsageRecord) -> None:
        """Repeating it leaves the same token; a copy that arrives late leaves one that nothing is rolled up under."""
        self._table.put(self._item(record) | {"at": epoch_ms(self._clock())})

    def _item(self, record: UsageRecord) -> Item:
        pk, sk = _address(record.user_id, record.api_key_id, record.started_at)
        ttl = int((record.started_at + self._retention + OUTLIVES).timestamp())
        return {"pk": pk, "sk": sk, "tk": uuid.uuid4().hex[:12], "ttl": ttl}


def _shard(user_id: str) -> int:
    return zlib.crc32(user_id.encode()) % SHARDS


def _partition(shard: int) -> str:
    return f"MARK#{shard}"


def _address(user_id: str, api_key_id: str, moment: datetime) -> tuple[str, str]:
    return _partition(_shard(user_id)), f"{user_id}#{api_key_id}#{hour_of(moment):{_HOUR_FORM}}"


def _from_item(item: Item) -> Mark:
    user_id, api_key_id, hour = item["sk"].rsplit("#", 2)
    touched = item.get("at")
    return Mark(
        user_id=user_id,
        api_key_id=api_key_id,
        hour=datetime.strptime(hour, _HOUR_FORM).replace(tzinfo=UTC),
        token=item["tk"],
        touched_at=None if touched is None else from_epoch_ms(touched),
    )
