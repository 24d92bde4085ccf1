"""What the ledger speaks of: keys, policies, costs, holds, usage records. Money is integer micro-USD, time is UTC."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

Clock = Callable[[], datetime]
"""Returns the present moment, aware, in UTC."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)

SYSTEM_USER = "system"
"""The account of the operator. An ``admin`` key of this user is a system admin: it sees and changes everything."""


def epoch_ms(moment: datetime) -> int:
    """Whole milliseconds since 1970, exactly: by way of a float of seconds it would sometimes come out one short."""
    return (moment - _EPOCH) // _MILLISECOND


def from_epoch_ms(milliseconds: int) -> datetime:
    return _EPOCH + milliseconds * _MILLISECOND


class Role(StrEnum):
    SEARCH = "search"
    WRITE = "write"
    ADMIN = "admin"


class Operation(StrEnum):
    SEARCH = "search"
    ADD = "add"
    UPSERT = "upsert"
    FETCH = "fetch"
    UPDATE = "update"
    DELETE = "delete"
    COLLECTION = "collection"
    ADMIN = "admin"


class Status(StrEnum):
    SUCCESS = "success"
    FAILURE = "failure"
    QUOTA_EXCEEDED = "quota_exceeded"
    UNKNOWN = "unknown"


class Scope(StrEnum):
    """Whose limits: a key's, or those of its parents. The short name stands on the items."""

    KEY = "key"
    PROJECT = "project"
    USER = "user"
    SYSTEM = "system"

    @property
    def letter(self) -> str:
        return self.value[0]


PARENTS = (Scope.PROJECT, Scope.USER, Scope.SYSTEM)

Limits = Mapping[str, int]
"""Limits by their short names (``quotas.py``). Money in micro-USD. What is not named is not limited."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What a scope may use. A limit of None means: not set here, what is inherited counts. Money in micro-USD.

    ``active`` False switches the limits of this scope off; ``alert_threshold_pct`` is in percent of a limit;
    ``defaults``: policies of the scopes below that set nothing themselves.
    """

    active: bool = True
    notes: str | None = None
    profile: str | None = None
    daily_requests: int | None = None
    monthly_requests: int | None = None
    daily_tokens: int | None = None
    monthly_tokens: int | None = None
    searches_per_day: int | None = None
    writes_per_day: int | None = None
    requests_per_minute: int | None = None
    requests_per_hour: int | None = None
    requests_per_day: int | None = None
    burst_requests: int | None = None
    max_concurrent: int | None = None
    daily_cost_usd: int | None = None
    monthly_cost_usd: int | None = None
    max_vectors: int | None = None
    max_storage_bytes: int | None = None
    max_collections: int | None = None
    max_vectors_per_collection: int | None = None
    alert_threshold_pct: int | None = None
    alert_repeat_hourly: bool | None = None
    defaults: Mapping[Scope, Policy] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """A key as its item shows it; the secret itself is never kept.

    ``project_id`` None: the key reaches every project of its user. ``version`` rises with each change of the
    configuration, so that an admission against an outdated view fails instead of passing. ``defaults``: the limits it
    inherits; ``parents``: those of its project, its user and the system, which it shares with other keys;
    ``generation`` rises when one of those two changes. ``previous_hash``: of the secret before the last rotation, good
    until ``previous_expires_at``.
    """

    api_key_id: str
    secret_hash: bytes
    revoked: bool
    version: int
    expires_at: datetime | None
    user_id: str
    project_id: str | None
    roles: frozenset[Role]
    policy: Policy
    previous_hash: bytes | None = None
    previous_expires_at: datetime | None = None
    defaults: Limits = field(default_factory=dict)
    parents: Mapping[Scope, Limits] = field(default_factory=dict)
    generation: int = 0
    name: str | None = None
    prefix: str = ""
    last4: str = ""
    created_at: datetime | None = None

    @property
    def is_system_admin(self) -> bool:
        return self.user_id == SYSTEM_USER and Role.ADMIN in self.roles


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    project_id: str
    user_id: str
    name: str | None
    created_at: datetime
    limits: Limits = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a request takes from the limits, or turned out to have taken. Tokens are text tokens.

    ``searches`` and ``writes`` weigh it by operation: a batch of 500 vectors is one request and 500 writes.
    """

    requests: int = 1
    tokens: int = 0
    vectors: int = 0
    micro_usd: int = 0
    searches: int = 0
    writes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitState:
    """One limit in numbers. ``window_seconds``: the length of its window; ``resets_at``: the end of the present one,
    or for a rolling window the moment at which the first of what is used leaves it; None, 0: it has no window.
    """

    name: str
    scope: str
    limit: int
    used: int
    resets_at: datetime | None
    window_seconds: int
    scope_id: str = ""

    @property
    def remaining(self) -> int:
        return max(0, self.limit - self.used)


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRecord:
    """One request's facts. ``requests`` is above 1 only for refusals summed into one record."""

    request_id: str
    started_at: datetime
    api_key_id: str
    user_id: str
    project_id: str | None
    operation: Operation
    endpoint: str
    status: Status
    collection: str | None = None
    namespace: str | None = None
    requests: int = 1
    tokens: int = 0
    vectors: int = 0
    request_bytes: int = 0
    response_bytes: int = 0
    duration_ms: float = 0.0
    micro_usd: int = 0
    price_version: str = ""
    had_filter: bool = False
    cache: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)
