"""Usage records: one per request, addressed by key, time and request, so that keeping one again changes nothing."""

from __future__ import annotations

import dataclasses
import heapq
import json
import threading
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from vecmeter.ledger.encoding import Item
from vecmeter.ledger.model import Operation, Status, UsageRecord, epoch_ms, from_epoch_ms
from vecmeter.ledger.table import ConditionFailed, Table

REFUSAL_INTERVAL = timedelta(seconds=10)
REFUSED_KEYS = 10_000
TOP_ENDPOINTS = 10

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
    """Writes and reads usage records."""

    def __init__(self, table: Table, retention_days: int) -> None:
        self._table = table
        self._retention = timedelta(days=retention_days)
        self._refusals: OrderedDict[str, tuple[int, datetime]] = OrderedDict()
        self._lock = threading.Lock()

    def keep(self, record: UsageRecord) -> UsageRecord:
        """Keep the record of an admitted request, unless it has one; returns the one that stands.

        The amounts of the first record stand, since the counters follow them. A request that was taken for dead and
        was only slow replaces ``unknown`` by what became of it, at the amounts it was given up with.
        Raises LedgerUnavailableError.
        """
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

    def purge(self, api_key_ids: Iterable[str], before: datetime) -> int:
        """Delete the records of some keys that started before a moment; returns how many. TTL deletes late."""
        return sum(
            self._table.delete_many(
                (item["pk"], item["sk"])
                for item in self._table.query(_partition(api_key_id), between=("0", _moment(before)))
            )
            for api_key_id in api_key_ids
        )

    def _read_key(self, api_key_id: str, between: tuple[str, str]) -> Iterator[UsageRecord]:
        for item in self._table.query(_partition(api_key_id), between=between, newest_first=True):
            yield _from_item(item)

    def _to_item(self, record: UsageRecord) -> Item:
        item: Item = {
            "pk": _partition(record.api_key_id),
            "sk": record_position(record),
            "ttl": int((record.started_at + self._retention).timestamp()),
        }
        for name, short in _SHORT.items():
            value: Any = getattr(record, name)
            if value != _DEFAULTS[name]:
                item[short] = _DUMPED[name](value) if name in _DUMPED else value
        return item


def record_position(record: UsageRecord) -> str:
    """Where a record stands among those of its key, and in a list of several keys' records."""
    return f"{_moment(record.started_at)}#{record.request_id}"


@dataclass(slots=True)
class Totals:
    """Sums over records. Durations in ms; refused requests are counted apart, for they consumed nothing."""

    requests: int = 0
    succeeded: int = 0
    refused: int = 0
    tokens: int = 0
    vectors: int = 0
    bytes: int = 0
    duration_ms: float = 0.0
    micro_usd: int = 0

    def add(self, record: UsageRecord) -> None:
        if record.status is Status.QUOTA_EXCEEDED:
            self.refused += record.requests
            return
        self.requests += record.requests
        self.succeeded += record.requests if record.status is Status.SUCCESS else 0
        self.tokens += record.tokens
        self.vectors += record.vectors
        self.bytes += record.request_bytes + record.response_bytes
        self.duration_ms += record.duration_ms
        self.micro_usd += record.micro_usd

    @property
    def avg_duration_ms(self) -> float:
        return round(self.duration_ms / self.requests, 3) if self.requests else 0.0

    @property
    def success_rate(self) -> float:
        return round(self.succeeded / self.requests, 6) if self.requests else 1.0


@dataclass(slots=True)
class UsageSummary:
    """Totals of a time range, as a whole, per operation, per endpoint and per hour (UTC)."""

    total: Totals = field(default_factory=Totals)
    by_operation: defaultdict[Operation, Totals] = field(default_factory=lambda: defaultdict(Totals))
    endpoints: Counter[str] = field(default_factory=Counter)
    by_hour: defaultdict[datetime, Totals] = field(default_factory=lambda: defaultdict(Totals))

    @property
    def top_endpoints(self) -> list[tuple[str, int]]:
        return self.endpoints.most_common(TOP_ENDPOINTS)


def summarize(records: Iterable[UsageRecord]) -> UsageSummary:
    """Sum records in one pass."""
    summary = UsageSummary()
    for record in records:
        summary.total.add(record)
        summary.by_operation[record.operation].add(record)
        summary.by_hour[record.started_at.replace(minute=0, second=0, microsecond=0)].add(record)
        if record.status is not Status.QUOTA_EXCEEDED and record.endpoint:  # a dead request's is unknown
            summary.endpoints[record.endpoint] += record.requests
    return summary


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
