"""What usage, costs, limits and the admin routes answer. Money in US dollars, times in UTC."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, Literal, TypeAlias, TypedDict

from vecmeter_client._models import NO_USAGE, Usage

Role: TypeAlias = Literal["search", "write", "admin"]
Scope: TypeAlias = Literal["system", "user", "project", "key", "collection"]


class Limits(TypedDict, total=False):
    """What a scope may use, all optional; docs/limits.md. None goes back to what is inherited."""

    daily_requests: int | None
    monthly_requests: int | None
    daily_tokens: int | None
    monthly_tokens: int | None
    searches_per_day: int | None
    writes_per_day: int | None
    requests_per_minute: int | None
    requests_per_hour: int | None
    requests_per_day: int | None
    burst_requests: int | None
    max_concurrent: int | None
    daily_cost_usd: float | None
    monthly_cost_usd: float | None
    max_vectors: int | None
    max_storage_bytes: int | None
    max_collections: int | None
    max_vectors_per_collection: int | None
    alert_threshold_pct: int | None
    alert_repeat_hourly: bool | None
    profile: Literal["assistant"] | None


class Policy(Limits, total=False):
    """Limits of a scope, whether it may do anything at all, and the limits of scopes below that set none themselves."""

    active: bool | None
    notes: str | None
    defaults: Mapping[Literal["user", "project", "key"], Limits]


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    status: str
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """``checks``: the parts the service needs, and how each is."""

    status: str
    version: str
    checks: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """Where a limit stands."""

    scope: str
    limit: float
    used: float
    remaining: float
    percentage: float
    exceeded: bool
    resets_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaReport:
    """The limits that hold for a key, and where each of them stands, those of its parents included.

    ``limits``: by name, as in ``Limits``; one that is missing is not limited.
    """

    api_key_id: str
    user_id: str
    active: bool
    quotas: Mapping[str, Quota]
    project_id: str | None = None
    notes: str | None = None
    limits: Mapping[str, Any] = field(default_factory=dict, metadata={"spread": True})


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyReport:
    """A scope's own limits, what holds for it with all it inherits, and where each limit stands.

    Of a collection there are ``limits`` only.
    """

    scope: str
    id: str
    active: bool = True
    notes: str | None = None
    defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    effective: Mapping[str, Any] = field(default_factory=dict)
    quotas: Mapping[str, Quota] = field(default_factory=dict)
    limits: Mapping[str, Any] = field(default_factory=dict, metadata={"spread": True})


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    total_requests: int
    refused_requests: int
    total_tokens: int
    total_vectors: int
    total_bytes: int
    avg_duration_ms: float
    success_rate: float
    cost_usd: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Period(Totals):
    """An hour, or a day where more than a week was asked for."""

    start: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    endpoint: str
    requests: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageReport(Totals):
    """Usage from ``start`` to ``end``, as a whole and in parts."""

    start: datetime
    end: datetime
    top_endpoints: tuple[Endpoint, ...]
    by_operation: Mapping[str, Totals]
    series: tuple[Period, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRecord:
    """One request as it was metered."""

    request_id: str
    started_at: datetime
    api_key_id: str
    user_id: str
    operation: str
    endpoint: str
    status: str
    requests: int
    tokens: int
    vectors: int
    request_bytes: int
    response_bytes: int
    duration_ms: float
    cost_usd: float
    price_version: str
    had_filter: bool
    project_id: str | None = None
    collection: str | None = None
    namespace: str | None = None
    cache: str | None = None
    extra: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    cost_usd: float
    requests: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DayCosts(Cost):
    date: date
    by_operation: Mapping[str, Cost]


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnCosts:
    """Costs of the present day and month, requests in flight at what they reserved, and of each day."""

    today_usd: float
    month_usd: float
    price_version: str
    days: tuple[DayCosts, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DailyCosts:
    """``projection_month_usd``: the present month's cost if it goes on as it has so far."""

    days: tuple[DayCosts, ...]
    total_usd: float
    projection_month_usd: float


@dataclass(frozen=True, slots=True, kw_only=True)
class UserCosts(Cost):
    user_id: str
    share_pct: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TopUsers:
    users: tuple[UserCosts, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """A limit that was seen at or above a threshold."""

    alert_id: str
    scope: str
    scope_id: str
    limit_name: str
    limit: float
    used: float
    percentage: float
    threshold_pct: int
    window_start: datetime
    resets_at: datetime
    created_at: datetime
    repeat: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectInfo:
    project_id: str
    user_id: str
    created_at: datetime
    name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyInfo:
    """A key without its secret. ``previous_expires_at``: until then the secret before the last rotation works, too."""

    api_key_id: str
    prefix: str
    last4: str
    user_id: str
    roles: tuple[Role, ...]
    status: str
    project_id: str | None = None
    name: str | None = None
    expires_at: datetime | None = None
    previous_expires_at: datetime | None = None
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CreatedKey(KeyInfo):
    """A new key, or a new secret of one. ``key`` is the secret: it is nowhere else, and not in the ``repr``."""

    key: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    user_id: str
    api_key_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRecord:
    """A change by an admin: ``before`` and ``after`` hold what differs."""

    audit_id: str
    at: datetime
    actor: Actor
    action: str
    target: str
    user_id: str
    project_id: str | None = None
    before: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None
    request_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceList:
    """Micro-USD per million units."""

    version: str
    search: int
    request: int
    vector_written: int
    token: int
    storage_gb_hour: int = 0
    switched_at: datetime | None = None
    switched_by: str | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """The list that holds; a switch acts on every instance after ``acts_within_seconds``."""

    current: PriceList
    acts_within_seconds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOutcome:
    """``status``: ok, error, or started: then the history of runs will tell. ``figures`` are the task's own."""

    task: str
    status: str
    message: str
    error: str | None = None
    usage: Usage = NO_USAGE
    figures: Mapping[str, Any] = field(default_factory=dict, metadata={"spread": True})


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRun:
    """One run of a maintenance task. ``status``: running, ok, error, interrupted."""

    run_id: int
    task: str
    status: str
    message: str
    started_at: datetime
    figures: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None
    finished_at: datetime | None = None
    project_id: str | None = None
    collection: str | None = None
