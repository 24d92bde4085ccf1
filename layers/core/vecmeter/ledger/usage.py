"""Usage records: one per request, addressed by key and time, so that writing one again changes nothing."""

from __future__ import annotations

import heapq
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from vecmeter.ledger.model import Operation, Status, UsageRecord
from vecmeter.ledger.table import Item, Table

REFUSAL_INTERVAL_SECONDS = 10.0
TOP_ENDPOINTS = 10

# Attribute names are billed; these are the record's fields under theirs.
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


class UsageLog:
    """Writes and reads usage records."""

    def __init__(self, table: Table, retention_days: int) -> None:
        self._table = table
        self._retention = timedelta(days=retention_days)
        self._refusals: dict[str, tuple[int, float]] = {}
        self._lock = threading.Lock()

    def write(self, record: UsageRecord) -> None:
        """Keep a record; the same request's record replaces itself. Raises LedgerUnavailableError."""
        self._table.put(_to_item(record, record.started_at + self._retention))

    def write_refusal(self, record: UsageRecord) -> None:
        """Keep a refusal. The first is written at once, a flood as one record per interval with their number.

        What an instance has summed when it ends is lost: refusals consumed nothing, so no sum depends on them.
        """
        with self._lock:
            count, written_at = self._refusals.get(record.api_key_id, (0, -REFUSAL_INTERVAL_SECONDS))
            count += record.requests
            now = time.monotonic()
            due = now - written_at >= REFUSAL_INTERVAL_SECONDS
            self._refusals[record.api_key_id] = (0, now) if due else (count, written_at)
        if due:
            self.write(replace(record, requests=count))

    def read(self, api_key_ids: Iterable[str], start: datetime, end: datetime) -> Iterator[UsageRecord]:
        """The records of some keys that started in [start, end), newest first."""
        between = (_moment(start), _moment(end))
        pages = (self._read_key(api_key_id, between) for api_key_id in api_key_ids)
        return heapq.merge(*pages, key=lambda record: record.started_at, reverse=True)

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
        if record.status is not Status.QUOTA_EXCEEDED:
            summary.endpoints[record.endpoint] += record.requests
    return summary


def _partition(api_key_id: str) -> str:
    return f"R#{api_key_id}"


def _moment(moment: datetime) -> str:
    return f"{int(moment.timestamp() * 1000):013d}"


def _to_item(record: UsageRecord, expires_at: datetime) -> Item:
    item: Item = {
        "pk": _partition(record.api_key_id),
        "sk": f"{_moment(record.started_at)}#{record.request_id}",
        "ttl": int(expires_at.timestamp()),
    }
    for name, short in _SHORT.items():
        value: Any = getattr(record, name)
        if value or value == 0:
            item[short] = Decimal(str(round(value, 3))) if isinstance(value, float) else value
    return item


def _from_item(item: Item) -> UsageRecord:
    started, request_id = item["sk"].split("#", 1)
    values = {name: item[short] for name, short in _SHORT.items() if short in item}
    for name in ("requests", "tokens", "vectors", "request_bytes", "response_bytes", "micro_usd"):
        values[name] = int(values.get(name, 0))
    return UsageRecord(
        request_id=request_id,
        started_at=datetime.fromtimestamp(int(started) / 1000, UTC),
        api_key_id=item["pk"].removeprefix("R#"),
        **values
        | {
            "project_id": values.get("project_id"),
            "operation": Operation(values["operation"]),
            "status": Status(values["status"]),
            "duration_ms": float(values.get("duration_ms", 0)),
        },
    )
