"""Usage, quotas and costs: of any key one may see, and one's own."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from admin_function.access import visible_key, visible_keys
from admin_function.schemas import (
    CostsOut,
    OwnUsageQuery,
    PolicyBody,
    QuotaReportOut,
    RecordsOut,
    RecordsQuery,
    UsageOut,
    UsageQuery,
    quota_report,
    record_out,
    usage_out,
)
from vecmeter.errors import InvalidRequestError, Violation
from vecmeter.http.dependencies import CallDependency, blocking, render
from vecmeter.http.paging import decode_page_token, page
from vecmeter.ledger.model import Operation, Role, UsageRecord
from vecmeter.ledger.quotas import COST_METERS, effective_limits, effective_policy, limit_state
from vecmeter.ledger.usage import summarize
from vecmeter.runtime import Runtime

admin = APIRouter(tags=["usage"], prefix="/admin/usage")
own = APIRouter(tags=["own usage"])


@admin.get("/detailed", response_model=UsageOut, operation_id="usage_detailed")
@blocking
def detailed(query: Annotated[UsageQuery, Query()], call: CallDependency) -> Response:
    """Totals over the last hours: as a whole, per operation, per endpoint and per hour."""
    with call.admit(Operation.ADMIN, Role.ADMIN) as hold:
        end = call.runtime.clock()
        start = end - timedelta(hours=query.hours)
        keys = visible_keys(
            call.runtime.keys,
            hold.key,
            api_key_id=query.api_key_id,
            project_id=query.project_id,
            user_id=query.user_id,
        )
        records = call.runtime.usage.read([key.api_key_id for key in keys], start, end)
        wanted = (r for r in records if query.operation in (None, r.operation))
        return call.respond(hold, usage_out(summarize(wanted), start, end))


@admin.get("/records", response_model=RecordsOut, operation_id="usage_records")
@blocking
def records(query: Annotated[RecordsQuery, Query()], call: CallDependency) -> Response:
    """Usage records, newest first."""
    before = decode_page_token(query.page_token)
    with call.admit(Operation.ADMIN, Role.ADMIN) as hold:
        now = call.runtime.clock()
        end = _moment(before) + timedelta(milliseconds=1) if before else now
        keys = visible_keys(
            call.runtime.keys,
            hold.key,
            api_key_id=query.api_key_id,
            project_id=query.project_id,
            user_id=query.user_id,
        )
        found = call.runtime.usage.read([key.api_key_id for key in keys], now - timedelta(hours=query.hours), end)
        wanted = (
            record
            for record in found
            if query.operation in (None, record.operation) and (not before or _position(record) < before)
        )
        shown, token = page(list(islice(wanted, query.limit + 1)), query.limit, _position)
        return call.respond(hold, RecordsOut(records=list(map(record_out, shown)), next_page_token=token))


@admin.get("/quota/{api_key_id}", response_model=QuotaReportOut, operation_id="get_quota")
@blocking
def get_quota(api_key_id: str, call: CallDependency) -> Response:
    """The limits of a key, what it used of them, and whether they are exceeded."""
    with call.admit(Operation.ADMIN, Role.ADMIN) as hold:
        visible_key(call.runtime.keys, hold.key, api_key_id)
        return call.respond(hold, _report(call.runtime, api_key_id))


@admin.post("/quota/{api_key_id}", response_model=QuotaReportOut, operation_id="set_quota")
@blocking
def set_quota(api_key_id: str, body: PolicyBody, call: CallDependency) -> Response:
    """Change the limits of a key; its next request is measured by them, on every instance."""
    with call.admit(Operation.ADMIN, Role.ADMIN) as hold:
        visible_key(call.runtime.keys, hold.key, api_key_id)
        call.runtime.keys.change_policy(api_key_id, body.applied_to)
        return call.respond(hold, _report(call.runtime, api_key_id))


@own.get("/usage/me", response_model=UsageOut, operation_id="own_usage")
@blocking
def own_usage(query: Annotated[OwnUsageQuery, Query()], call: CallDependency) -> Response:
    """The calling key's own usage. Looking is free."""
    key = call.authorize().key
    end = call.runtime.clock()
    start = end - timedelta(hours=query.hours)
    found = call.runtime.usage.read([key.api_key_id], start, end)
    return render(usage_out(summarize(found), start, end))


@own.get("/quota/me", response_model=QuotaReportOut, operation_id="own_quota")
@blocking
def own_quota(call: CallDependency) -> Response:
    """The calling key's own limits and what is left of them. Looking is free."""
    return render(_report(call.runtime, call.authorize().key.api_key_id))


@own.get("/costs/me", response_model=CostsOut, operation_id="own_costs")
@blocking
def own_costs(call: CallDependency) -> Response:
    """What the calling key cost today and this month (UTC). Looking is free."""
    _, counters = call.runtime.keys.get_with_counters(call.authorize().key.api_key_id)
    now = call.runtime.clock()
    day, month = (int(counters.get(meter.counter(now), 0)) / 1_000_000 for meter in COST_METERS)
    return render(CostsOut(today_usd=day, month_usd=month, price_version=call.runtime.settings.price_version))


def _report(runtime: Runtime, api_key_id: str) -> QuotaReportOut:
    key, counters = runtime.keys.get_with_counters(api_key_id)
    now, settings = runtime.clock(), runtime.settings
    states = [limit_state(quota, limit, counters, now) for quota, limit in effective_limits(key, settings)]
    return quota_report(key, effective_policy(key, settings), states)


def _position(record: UsageRecord) -> str:
    return f"{int(record.started_at.timestamp() * 1000):013d}#{record.request_id}"


def _moment(position: str) -> datetime:
    milliseconds, _, _ = position.partition("#")
    if not milliseconds.isdigit():
        message = "is not a token this API gave"
        raise InvalidRequestError(f"page_token {message}.", (Violation("page_token", message),))
    return datetime.fromtimestamp(int(milliseconds) / 1000, UTC)
