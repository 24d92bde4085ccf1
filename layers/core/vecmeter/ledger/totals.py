"""Sums over usage records. All of them are whole numbers, so that sums of sums are the sums of the records, exactly."""

from __future__ import annotations

import dataclasses
import json
import zlib
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from vecmeter.ledger.model import Operation, Status, UsageRecord

TOP_ENDPOINTS = 10
# A request is counted with the first of these that it did not take longer than, or after the last.
DURATION_BOUNDS_MS = (10, 25, 50, 100, 250, 500, 1000, 2500, 5000)


class KeyName(NamedTuple):
    user_id: str
    api_key_id: str


class Group(NamedTuple):
    """What a key's usage is told apart by. ``project_id`` varies for a key of no project."""

    project_id: str | None
    operation: Operation
    endpoint: str


@dataclass(slots=True)
class Totals:
    """Sums over records; durations in microseconds. Refused requests are counted apart, for they consumed nothing.

    ``durations`` counts requests by how long they took (``DURATION_BOUNDS_MS``), those excepted that are ``unknown``.

    A record of no requests is a repetition that was answered from memory: its bytes are counted, and nothing else of
    it. A refusal of no requests had been admitted before it was refused, and is one.
    """

    requests: int = 0
    succeeded: int = 0
    refused: int = 0
    tokens: int = 0
    vectors: int = 0
    bytes: int = 0
    duration_us: int = 0
    micro_usd: int = 0
    request_bytes: int = 0
    cache_hits: int = 0
    cache_misses: int = 0
    stale_answers: int = 0
    durations: list[int] = field(default_factory=lambda: [0] * (len(DURATION_BOUNDS_MS) + 1))

    def add(self, record: UsageRecord) -> None:
        if record.status is Status.QUOTA_EXCEEDED:
            self.refused += max(1, record.requests)
            return
        self.requests += record.requests
        self.succeeded += record.requests if record.status is Status.SUCCESS else 0
        self.tokens += record.tokens
        self.vectors += record.vectors
        self.bytes += record.request_bytes + record.response_bytes
        self.request_bytes += record.request_bytes
        self.duration_us += round(record.duration_ms * 1000) if record.requests else 0
        self.micro_usd += record.micro_usd
        if (name := _CACHE_SUMS.get(record.cache or "")) is not None:
            setattr(self, name, getattr(self, name) + record.requests)
        if record.status is not Status.UNKNOWN:
            self.durations[bisect_left(DURATION_BOUNDS_MS, record.duration_ms)] += record.requests

    def merge(self, other: Totals, sign: int = 1) -> None:
        """Add other sums, or take them away again with ``sign`` -1."""
        for name in SUMS:
            setattr(self, name, getattr(self, name) + sign * getattr(other, name))
        self.durations = [own + sign * more for own, more in zip(self.durations, other.durations, strict=True)]

    @property
    def avg_duration_ms(self) -> float:
        return round(self.duration_us / self.requests / 1000, 3) if self.requests else 0.0

    @property
    def success_rate(self) -> float:
        return round(self.succeeded / self.requests, 6) if self.requests else 1.0


SUMS = tuple(sum_.name for sum_ in dataclasses.fields(Totals) if sum_.name != "durations")
_CACHE_SUMS = {"hit": "cache_hits", "miss": "cache_misses", "stale": "stale_answers"}

Usage = Mapping[Group, Totals]
"""What a key used, told apart."""


def grouped(records: Iterable[UsageRecord]) -> dict[Group, Totals]:
    """The usage of records of one key."""
    usage: defaultdict[Group, Totals] = defaultdict(Totals)
    for record in records:
        usage[Group(record.project_id, record.operation, record.endpoint)].add(record)
    return dict(usage)


def combined(*usages: Usage) -> dict[Group, Totals]:
    """The usage of several periods as one."""
    whole: defaultdict[Group, Totals] = defaultdict(Totals)
    for usage in usages:
        for group, totals in usage.items():
            whole[group].merge(totals)
    return dict(whole)


def difference(usage: Usage, before: Usage) -> dict[Group, Totals]:
    """What of a usage was not there before."""
    more = combined(usage)
    for group, totals in before.items():
        more.setdefault(group, Totals()).merge(totals, -1)
    return more


def pack(usage: Usage) -> bytes:
    """As an item keeps it."""
    rows = [
        [*group, *(getattr(totals, name) for name in SUMS), totals.durations]
        for group, totals in sorted(usage.items(), key=str)
    ]
    return zlib.compress(json.dumps(rows, separators=(",", ":")).encode())


def unpack(content: bytes) -> dict[Group, Totals]:
    rows = json.loads(zlib.decompress(content))
    return {Group(project, Operation(name), endpoint): Totals(*sums) for project, name, endpoint, *sums in rows}


def by_operation(usage: Usage) -> dict[Group, Totals]:
    """The same usage, whatever the endpoints."""
    return combined(*({group._replace(endpoint=""): totals} for group, totals in usage.items()))


def hour_of(moment: datetime) -> datetime:
    """The hour (UTC) that a moment lies in."""
    return moment.replace(minute=0, second=0, microsecond=0)


def day_of(moment: datetime) -> datetime:
    """The day (UTC) that a moment lies in."""
    return moment.replace(hour=0, minute=0, second=0, microsecond=0)


@dataclass(slots=True)
class UsageSummary:
    """Totals of a time range: as a whole, per operation, per endpoint and per period, an hour or a day (UTC)."""

    period: Callable[[datetime], datetime] = hour_of
    total: Totals = field(default_factory=Totals)
    by_operation: defaultdict[Operation, Totals] = field(default_factory=lambda: defaultdict(Totals))
    endpoints: Counter[str] = field(default_factory=Counter)
    series: defaultdict[datetime, Totals] = field(default_factory=lambda: defaultdict(Totals))

    def add(self, moment: datetime, group: Group, totals: Totals) -> None:
        """Add what a group of requests used at a moment, or in an hour or a day that begins then."""
        self.total.merge(totals)
        self.by_operation[group.operation].merge(totals)
        self.series[self.period(moment)].merge(totals)
        if totals.requests and group.endpoint:  # a dead request's is unknown
            self.endpoints[group.endpoint] += totals.requests

    @property
    def top_endpoints(self) -> list[tuple[str, int]]:
        """The busiest endpoints and their requests; of equals the first by name, so that all sums say the same."""
        return sorted(self.endpoints.items(), key=lambda entry: (-entry[1], entry[0]))[:TOP_ENDPOINTS]


def summarize(records: Iterable[UsageRecord], period: Callable[[datetime], datetime] = hour_of) -> UsageSummary:
    """Sum records in one pass."""
    summary = UsageSummary(period)
    for record in records:
        one = Totals()
        one.add(record)
        summary.add(record.started_at, Group(record.project_id, record.operation, record.endpoint), one)
    return summary
