"""Bodies of the admin routes, and their way to and from the ledger's own types."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from vecmeter.http.fields import (
    Answer,
    ApiKeyId,
    Body,
    Name,
    PageParameters,
    PeriodParameters,
    Text,
    examples,
)
from vecmeter.ledger.model import ApiKey, LimitState, Operation, Policy, Project, Role, UsageRecord
from vecmeter.ledger.usage import Totals, UsageSummary

Allowance = Annotated[int, Field(ge=0, le=10**15)]
Label = Annotated[Text, Field(max_length=200)]


class PolicyBody(Body):
    """What a key may use. What is left out stays as it is; null goes back to the default."""

    model_config = examples({"daily_requests": 1000, "monthly_tokens": 5_000_000, "alert_threshold_pct": 90})

    active: bool | None = None
    notes: Annotated[Text, Field(max_length=200)] | None = None
    daily_requests: Allowance | None = None
    monthly_requests: Allowance | None = None
    daily_tokens: Allowance | None = None
    monthly_tokens: Allowance | None = None
    alert_threshold_pct: Annotated[int, Field(ge=1, le=100)] | None = None

    def applied_to(self, policy: Policy) -> Policy:
        """The policy with what this body names replaced."""
        values = {name: getattr(policy, name) for name in type(self).model_fields}
        values |= {name: getattr(self, name) for name in self.model_fields_set}
        if values["active"] is None:
            values["active"] = True
        return Policy(**values)


class ProjectBody(Body):
    """A project: a tenant's space for collections and keys."""

    model_config = examples({"project_id": "acme", "user_id": "alice", "name": "Acme's documents"})

    project_id: Name
    user_id: Name
    name: Label | None = None


class KeyBody(Body):
    """``project_id`` left out: the key reaches every project of its user."""

    model_config = examples(
        {
            "user_id": "alice",
            "project_id": "acme",
            "roles": ["search", "write"],
            "quota": {"daily_requests": 1000},
        }
    )

    user_id: Name
    project_id: Name | None = None
    roles: Annotated[list[Literal["search", "write", "admin"]], Field(min_length=1, max_length=3)]
    name: Label | None = None
    expires_at: Annotated[AwareDatetime, Field(strict=False)] | None = None
    quota: PolicyBody | None = None


class TaskBody(Body):
    """The collections a task is about: all, a project's, or one."""

    model_config = examples({}, {"project_id": "acme", "collection": "notes"})

    project_id: Name | None = None
    collection: Name | None = None


class ProjectsParameters(PageParameters):
    user_id: Name | None = None


class KeysParameters(PageParameters):
    user_id: Name | None = None
    project_id: Name | None = None


class UsageParameters(PeriodParameters):
    api_key_id: ApiKeyId | None = None
    project_id: Name | None = None
    user_id: Name | None = None
    operation: Operation | None = None


class RecordsParameters(UsageParameters, PageParameters):
    pass


class StatusOut(Answer):
    status: Literal["ok"] = "ok"


class ProjectOut(Answer):
    project_id: str
    user_id: str
    name: str | None = None
    created_at: datetime


class ProjectsOut(Answer):
    projects: list[ProjectOut]
    next_page_token: str | None = None


class KeyOut(Answer):
    api_key_id: str
    prefix: str
    last4: str
    name: str | None = None
    user_id: str
    project_id: str | None = None
    roles: list[Role]
    status: Literal["active", "revoked", "expired"]
    expires_at: datetime | None = None
    created_at: datetime | None = None


class CreatedKeyOut(KeyOut):
    key: Annotated[str, Field(description="The secret. It is shown only now.")]


class KeysOut(Answer):
    keys: list[KeyOut]
    next_page_token: str | None = None


class QuotaOut(Answer):
    scope: str
    limit: int
    used: int
    remaining: int
    percentage: float
    exceeded: bool
    resets_at: datetime


class QuotaReportOut(Answer):
    """The policy that holds for a key, defaults filled in, and where each of its quotas stands."""

    api_key_id: str
    user_id: str
    project_id: str | None = None
    active: bool
    notes: str | None = None
    daily_requests: int
    monthly_requests: int
    daily_tokens: int
    monthly_tokens: int
    alert_threshold_pct: int
    quotas: dict[str, QuotaOut]


class TotalsOut(Answer):
    total_requests: int
    refused_requests: int
    total_tokens: int
    total_vectors: int
    total_bytes: int
    avg_duration_ms: float
    success_rate: float
    cost_usd: float


class EndpointOut(Answer):
    endpoint: str
    requests: int


class HourOut(TotalsOut):
    start: datetime


class UsageOut(TotalsOut):
    start: datetime
    end: datetime
    top_endpoints: list[EndpointOut]
    by_operation: dict[str, TotalsOut]
    series: list[HourOut]


class CostsOut(Answer):
    """Costs of the present day and month (UTC)."""

    today_usd: float
    month_usd: float
    price_version: str


class RecordOut(Answer):
    request_id: str
    started_at: datetime
    api_key_id: str
    user_id: str
    project_id: str | None = None
    operation: str
    endpoint: str
    status: str
    collection: str | None = None
    namespace: str | None = None
    requests: int
    tokens: int
    vectors: int
    request_bytes: int
    response_bytes: int
    duration_ms: float
    cost_usd: float
    price_version: str
    had_filter: bool


class RecordsOut(Answer):
    records: list[RecordOut]
    next_page_token: str | None = None


class RunOut(Answer):
    run_id: int
    task: str
    status: str
    message: str
    error: str | None = None
    figures: dict[str, Any]
    started_at: datetime
    finished_at: datetime


class RunsOut(Answer):
    runs: list[RunOut]
    next_page_token: str | None = None


class TaskOut(BaseModel):
    """The outcome of a task, with figures of its own."""

    model_config = ConfigDict(extra="allow")

    task: str
    status: Literal["ok", "error"]
    message: str
    error: str | None = None


def project_out(project: Project) -> ProjectOut:
    return ProjectOut(
        project_id=project.project_id,
        user_id=project.user_id,
        name=project.name,
        created_at=project.created_at,
    )


def key_fields(key: ApiKey, now: datetime) -> dict[str, Any]:
    expired = key.expires_at is not None and key.expires_at <= now
    return {
        "api_key_id": key.api_key_id,
        "prefix": key.prefix,
        "last4": key.last4,
        "name": key.name,
        "user_id": key.user_id,
        "project_id": key.project_id,
        "roles": sorted(key.roles),
        "status": "revoked" if key.revoked else "expired" if expired else "active",
        "expires_at": key.expires_at,
        "created_at": key.created_at,
    }


def quota_report(key: ApiKey, policy: Mapping[str, Any], states: list[LimitState]) -> QuotaReportOut:
    return QuotaReportOut(
        api_key_id=key.api_key_id,
        user_id=key.user_id,
        project_id=key.project_id,
        **policy,
        quotas={state.name: _quota_out(state) for state in states},
    )


def usage_out(summary: UsageSummary, start: datetime, end: datetime) -> UsageOut:
    return UsageOut(
        **_totals(summary.total),
        start=start,
        end=end,
        top_endpoints=[EndpointOut(endpoint=e, requests=n) for e, n in summary.top_endpoints],
        by_operation={op.value: TotalsOut(**_totals(t)) for op, t in sorted(summary.by_operation.items())},
        series=[HourOut(start=hour, **_totals(totals)) for hour, totals in sorted(summary.by_hour.items())],
    )


def record_out(record: UsageRecord) -> RecordOut:
    fields = {name: getattr(record, name) for name in RecordOut.model_fields if name != "cost_usd"}
    return RecordOut(**fields, cost_usd=record.micro_usd / 1_000_000)


def _totals(totals: Totals) -> dict[str, Any]:
    return {
        "total_requests": totals.requests,
        "refused_requests": totals.refused,
        "total_tokens": totals.tokens,
        "total_vectors": totals.vectors,
        "total_bytes": totals.bytes,
        "avg_duration_ms": totals.avg_duration_ms,
        "success_rate": totals.success_rate,
        "cost_usd": totals.micro_usd / 1_000_000,
    }


def _quota_out(state: LimitState) -> QuotaOut:
    return QuotaOut(
        scope=state.scope,
        limit=state.limit,
        used=state.used,
        remaining=state.remaining,
        percentage=round(100 * state.used / state.limit, 2) if state.limit else 100.0,
        exceeded=state.used >= state.limit,
        resets_at=state.resets_at,
    )
