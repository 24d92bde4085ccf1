"""Parameters and answers of the routes about usage, costs and exports."""

from __future__ import annotations

import datetime as dt
from datetime import datetime, timedelta
from typing import Annotated, Any

from pydantic import Field

from vecmeter.http.checks import invalid
from vecmeter.http.fields import (
    MAX_HOURS,
    Answer,
    ApiKeyId,
    Moment,
    Name,
    PageParameters,
    Parameters,
    PeriodParameters,
    Text,
    examples,
)
from vecmeter.ledger.export import ExportFormat
from vecmeter.ledger.model import Operation, Status, UsageRecord
from vecmeter.ledger.totals import Totals, UsageSummary

MAX_DAYS = MAX_HOURS // 24
_Days = Annotated[int, Field(ge=1, le=MAX_DAYS, description="So many days (UTC), the present one among them.")]


class WhoseParameters(Parameters):
    """Whose usage."""

    api_key_id: ApiKeyId | None = None
    project_id: Name | None = None
    user_id: Name | None = None
    operation: Operation | None = None


class WindowParameters(PeriodParameters):
    start: Annotated[Moment | None, Field(description="From then on; ``hours`` does not count then.")] = None
    end: Annotated[Moment | None, Field(description="Up to then; now if left out.")] = None

    def window(self, now: datetime) -> tuple[datetime, datetime]:
        """[start, end) in UTC. Raises InvalidRequestError."""
        end = self.end.astimezone(dt.UTC) if self.end else now
        start = self.start.astimezone(dt.UTC) if self.start else end - timedelta(hours=self.hours)
        if start > end:
            raise invalid("start", "must not be after the end")
        if end - start > timedelta(hours=MAX_HOURS):
            raise invalid("start", f"must lie at most {MAX_HOURS} hours before the end")
        return start, end


class UsageParameters(WhoseParameters, WindowParameters):
    pass


class RecordsParameters(UsageParameters, PageParameters):
    status: Status | None = None
    collection: Text | None = None


class DaysParameters(Parameters):
    days: _Days = 30


class DailyCostsParameters(DaysParameters):
    user_id: Name | None = None
    project_id: Name | None = None
    api_key_id: ApiKeyId | None = None


class TopUsersParameters(DaysParameters):
    limit: Annotated[int, Field(ge=1, le=1000, description="Most users.")] = 10


class ExportParameters(Parameters):
    month: Annotated[str | None, Field(description="A month (UTC) like 2026-11; the present one if left out.")] = None
    format: ExportFormat = ExportFormat.CSV
    api_key_id: ApiKeyId | None = None
    project_id: Name | None = None
    user_id: Name | None = None
    limit: Annotated[int, Field(ge=1, le=10_000, description="Most lines of the page, besides the header.")] = 1000
    page_token: Annotated[str | None, Field(description="``X-Next-Page-Token`` of the page before.")] = None


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


class PeriodOut(TotalsOut):
    """An hour, or a day (UTC) where more than a week was asked for."""

    start: datetime


_TOTALS: dict[str, Any] = {
    "total_requests": 4,
    "refused_requests": 0,
    "total_tokens": 12,
    "total_vectors": 7,
    "total_bytes": 1976,
    "avg_duration_ms": 6.474,
    "success_rate": 1.0,
    "cost_usd": 2.4e-05,
}


class UsageOut(TotalsOut):
    """``start`` and ``end`` are what was counted: beyond the retention of records these are whole hours."""

    model_config = examples(
        _TOTALS
        | {
            "start": "2026-11-20T12:00:00Z",
            "end": "2026-11-21T12:00:00Z",
            "top_endpoints": [
                {"endpoint": "POST /v1/projects/{project}/collections/{collection}/search", "requests": 4}
            ],
            "by_operation": {"search": _TOTALS},
            "series": [_TOTALS | {"start": "2026-11-21T11:00:00Z"}],
        }
    )

    start: datetime
    end: datetime
    top_endpoints: list[EndpointOut]
    by_operation: dict[str, TotalsOut]
    series: list[PeriodOut]


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
    cache: str | None = None
    extra: dict[str, Any] | None = None


class RecordsOut(Answer):
    """A page may have fewer records than asked for and yet a next one, where few are left by the filters."""

    model_config = examples(
        {
            "records": [
                {
                    "request_id": "4c6e8ac0f2d15b37",
                    "started_at": "2026-11-21T11:59:00Z",
                    "api_key_id": "key_47Zpx437HfE",
                    "user_id": "alice",
                    "project_id": "acme",
                    "operation": "search",
                    "endpoint": "POST /v1/projects/{project}/collections/{collection}/search",
                    "status": "success",
                    "collection": "notes",
                    "namespace": "",
                    "requests": 1,
                    "tokens": 4,
                    "vectors": 1,
                    "request_bytes": 69,
                    "response_bytes": 247,
                    "duration_ms": 4.857,
                    "cost_usd": 6e-06,
                    "price_version": "default-1",
                    "had_filter": True,
                    "cache": "miss",
                }
            ]
        }
    )

    records: list[RecordOut]
    next_page_token: str | None = None


class CostOut(Answer):
    cost_usd: float
    requests: int


_DAY: dict[str, Any] = {
    "date": "2026-11-21",
    "cost_usd": 2.4e-05,
    "requests": 4,
    "by_operation": {"search": {"cost_usd": 2.4e-05, "requests": 4}},
}


class DayCostsOut(CostOut):
    date: dt.date
    by_operation: dict[str, CostOut]


class DailyCostsOut(Answer):
    """``projection_month_usd``: the present month's cost if it goes on as it has so far."""

    model_config = examples({"days": [_DAY], "total_usd": 2.4e-05, "projection_month_usd": 3.5e-05})

    days: list[DayCostsOut]
    total_usd: float
    projection_month_usd: float


class UserCostsOut(CostOut):
    user_id: str
    share_pct: Annotated[float, Field(description="Of the costs of all users.")]


class TopUsersOut(Answer):
    model_config = examples({"users": [{"user_id": "alice", "cost_usd": 2.4e-05, "requests": 4, "share_pct": 100.0}]})

    users: list[UserCostsOut]


class CostsOut(Answer):
    """Costs of the present day and month (UTC), requests in flight at what they reserved, and of each day."""

    model_config = examples({"today_usd": 2.4e-05, "month_usd": 2.4e-05, "price_version": "default-1", "days": [_DAY]})

    today_usd: float
    month_usd: float
    price_version: str
    days: list[DayCostsOut]


def usage_out(summary: UsageSummary, window: tuple[datetime, datetime]) -> UsageOut:
    return UsageOut(
        **_totals(summary.total),
        start=window[0],
        end=window[1],
        top_endpoints=[EndpointOut(endpoint=e, requests=n) for e, n in summary.top_endpoints],
        by_operation={op.value: TotalsOut(**_totals(t)) for op, t in sorted(summary.by_operation.items())},
        series=[PeriodOut(start=start, **_totals(totals)) for start, totals in sorted(summary.series.items())],
    )


def record_out(record: UsageRecord) -> RecordOut:
    fields = {name: getattr(record, name) for name in RecordOut.model_fields if name != "cost_usd"}
    return RecordOut(**fields | {"extra": record.extra or None}, cost_usd=record.micro_usd / 1_000_000)


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
