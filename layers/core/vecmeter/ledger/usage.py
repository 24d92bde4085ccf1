"""Usage records: one per request, addressed by key, time and request, so that keeping one again changes nothing."""

from __future__ import annotations

import dataclasses
import heapq
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from vecmeter.ledger.activity import Activity
from vecmeter.ledger.encoding import Item
from vecmeter.ledger.model import Clock, Operation, Status, UsageRecord, epoch_ms, from_epoch_ms
from vecmeter.ledger.table import ConditionFailed, Table
from vecmeter.ledger.totals import hour_of
from vecmeter.ledger.transactions import Write, insert

REFUSAL_INTERVAL = timedelta(seconds=10)
REFUSED_KEYS = 10_000

# Attribute names are billed; these are the record's fields under theirs. What equals a field's default is left out.
_SHORT = {
    "user_id": "u",
    "project_id": "p",
    "operation": "op",
    "endpoint": "e",
    "status": "st",
    "collection": "c",
    "namespace": "ns",
    "requests": "n",
    "tokens": "t",
    "vectors": "ve",
    "request_bytes": "bi",
    "response_bytes": "bo",
    "duration_ms": "ms",
    "micro_usd": "us",
    "price_version": "pv",
    "had_filter": "f",
    "cache": "ca",
    "extra": "x",
}
_DEFAULTS: dict[str, Any] = {f.name: {} if f.name == "extra" else f.default for f in dataclasses.fields(UsageRecord)}
_DUMPED: dict[str, Callable[[Any], Any]] = {
    "duration_ms": lambda value: Decimal(str(round(value, 3))),
    "extra": lambda value: json.dumps(value, separators=(",", ":")),
}
_LOADED: dict[str, Callable[[Any], Any]] = {
    "operation": Operation,
    "status": Status,
    "duration_ms": float,
    "extra": json.loads,
}


class UsageLog:
    """Writes and reads usage records. Marks the hours of those it writes, so that they are rolled up."""

    def __init__(self, table: Table, retention_days: int, clock: Clock) -> None:
        self._table = table
        self.retention = timedelta(days=retention_days)
        self.activity = Activity(table, clock, self.retention)
        self._refusals: OrderedDict[str, tuple[int, datetime]] = OrderedDict()
        self._lock = threading.Lock()

    def keep(self, record: UsageRecord) -> UsageRecord:
        """Keep the record of an admitted request, unless it has one; returns the one that stands.

        The amounts of the first record stand, since the counters follow them. A request that was taken for dead and
        was only slow replaces ``unknown`` by what became of it, at the amounts it was given up with.
        Raises LedgerUnavailableError.
        """
        with self.activity.announced(record):
            return self._keep(record)

    def _keep(self, record: UsageRecord) -> UsageRecord:
        try:
            self._table.put_new(self._to_item(record))
        except ConditionFailed as kept:
            first = _from_item(kept.item or {})
        else:
            return record
        if first.status is not Status.UNKNOWN or record.status is Status.UNKNOWN:
            return first
        late = replace(
            record,
            requests=first.requests,
            tokens=first.tokens,
            micro_usd=first.micro_usd,
            price_version=first.price_version,
        )
        self._table.put(self._to_item(late))
        return late

    def has(self, record: UsageRecord) -> bool:
        """Whether the request has a record."""
        return self._table.get(_partition(record.api_key_id), record_position(record)) is not None

    def insertion(self, record: UsageRecord) -> Write:
        """The same as a part of a transaction, on condition that there is no record."""
        return insert(self._to_item(record))

    def write_refusal(self, record: UsageRecord) -> None:
        """Keep a refusal. The first is written at once, a flood as one record per interval with their number.

        What an instance has summed when it ends is lost: refusals consumed nothing, so no sum depends on them.
        Raises LedgerUnavailableError.
        """
        now = record.started_at
        with self._lock:
            count, written_at = self._refusals.pop(record.api_key_id, (0, None))
            count += record.requests
            # A clock that was set back must not silence the record until it catches up.
            due = written_at is None or not timedelta(0) <= now - written_at < REFUSAL_INTERVAL
            self._refusals[record.api_key_id] = (0, now) if due else (count, written_at or now)
            if len(self._refusals) > REFUSED_KEYS:
                self._refusals.popitem(last=False)
        if due:
            with self.activity.announced(record):
                self._table.put(self._to_item(replace(record, requests=count)))

    def read(
        self, api_key_ids: Iterable[str], start: datetime, end: datetime, *, before: str = ""
    ) -> Iterator[UsageRecord]:
        """The records of some keys that started in [start, end), newest first.

        Args:
            before: the ``record_position`` of the last record seen, to go on after it.
        """
        high = min(_moment(end), before) if before else _moment(end)
        pages = (self._read_key(api_key_id, (_moment(start), high)) for api_key_id in api_key_ids)
        merged = heapq.merge(*pages, key=record_position, reverse=True)
        return (record for record in merged if not before or record_position(record) < before)

    def read_onwards(
        self, api_key_id: str, start: datetime, end: datetime, *, after: str = ""
    ) -> Iterator[UsageRecord]:
        """The records of a key that started in [start, end), oldest first.

        Args:
            after: the ``record_position`` of the last record seen, to go on after it.
        """
        low = max(_moment(start), after + "\x00") if after else _moment(start)
        for item in self._table.query(_partition(api_key_id), between=(low, _moment(end))):
            yield _from_item(item)

    def purge(self, user_id: str, api_key_id: str, before: datetime, *, dry_run: bool = False) -> int:
        """Delete the records of a key in the whole hours before a moment; returns how many. TTL deletes late.

        Records of an hour that is not rolled up for good stay, and so do those after it. A dry run only counts.
        """
        hours = [mark.hour for mark in self.activity.marks(user_id, api_key_id)]
        end = min([hour_of(before), *hours])
        old = self._table.query(_partition(api_key_id), between=("0", _moment(end)))
        if dry_run:
            return sum(1 for _ in old)
        return self._table.delete_many((item["pk"], item["sk"]) for item in old)

    def _read_key(self, api_key_id: str, between: tuple[str, str]) -> Iterator[UsageRecord]:
        for item in self._table.query(_partition(api_key_id), between=between, newest_first=True):
            yield _from_item(item)

    def _to_item(self, record: UsageRecord) -> Item:
        item: Item = {
            "pk": _partition(record.api_key_id),
            "sk": record_position(record),
            "ttl": int((record.started_at + self.retention).timestamp()),
        }
        for name, short in _SHORT.items():
            value: Any = getattr(record, name)
            if value != _DEFAULTS[name]:
                item[short] = _DUMPED[name](value) if name in _DUMPED else value
        return item


def record_position(record: UsageRecord) -> str:
    """Where a record stands among those of its key, and in a list of several keys' records."""
    return f"{_moment(record.started_at)}#{record.request_id}"


def _partition(api_key_id: str) -> str:
    return f"R#{api_key_id}"


def _moment(moment: datetime) -> str:
    return f"{epoch_ms(moment):013d}"


def _from_item(item: Item) -> UsageRecord:
    started, request_id = item["sk"].split("#", 1)
    values: dict[str, Any] = {"project_id": None}
    values |= {name: item[short] for name, short in _SHORT.items() if short in item}
    return UsageRecord(
        request_id=request_id,
        started_at=from_epoch_ms(int(started)),
        api_key_id=item["pk"].removeprefix("R#"),
        **values | {name: load(values[name]) for name, load in _LOADED.items() if name in values},
    )
