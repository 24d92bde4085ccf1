"""Usage, quotas and costs: of any key one may see, and one's own."""

from __future__ import annotations

from datetime import timedelta
from itertools import islice
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from admin_function.access import usage_records, visible_key
from admin_function.schemas import (
    CostsOut,
    PolicyBody,
    QuotaReportOut,
    RecordsOut,
    RecordsParameters,
    UsageOut,
    UsageParameters,
    quota_report,
    record_out,
    usage_out,
)
from vecmeter.http.dependencies import CallDependency, render
from vecmeter.http.fields import ApiKeyPath, PeriodParameters
from vecmeter.http.paging import decode_page_token, page
from vecmeter.http.route import BusinessRoute
from vecmeter.ledger.model import Operation, Role
from vecmeter.ledger.quotas import COST_METERS, effective_limits, effective_policy, limit_state
from vecmeter.ledger.usage import record_position, summarize
from vecmeter.runtime import Runtime

admin = APIRouter(tags=["usage"], prefix="/admin/usage", route_class=BusinessRoute)
own = APIRouter(tags=["own usage"], route_class=BusinessRoute)

_RECORD_POSITION = r"\d{13}#[0-9a-f]{1,64}"


@admin.get("/detailed", response_model=UsageOut, operation_id="usage_detailed")
def detailed(query: Annotated[UsageParameters, Query()], call: CallDependency) -> Response:
    """Totals over the last hours: as a whole, per operation, per endpoint and per hour."""
    with call.admit(Operation.ADMIN, Role.ADMIN) as hold:
        end = call.runtime.clock()
        start = end - timedelta(hours=query.hours)
        found = usage_records(call.runtime, hold.key, query, start, end)
        return call.respond(hold, usage_out(summarize(found), start, end))


@admin.get("/records", response_model=RecordsOut, operation_id="usage_records")
def records(query: Annotated[RecordsParameters, Query()], call: CallDependency) -> Response:
    """Usage records, newest first."""
    before = decode_page_token(query.page_token, _RECORD_POSITION)
    with call.admit(Operation.ADMIN, Role.ADMIN) as hold:
        end = call.runtime.clock()
        found = usage_records(call.runtime, hold.key, query, end - timedelta(hours=query.hours), end, before=before)
        shown, token = page(list(islice(found, query.limit + 1)), query.limit, record_position)
        return call.respond(hold, RecordsOut(records=list(map(record_out, shown)), next_page_token=token))


@admin.get("/quota/{api_key_id}", response_model=QuotaReportOut, operation_id="get_quota")
def get_quota(api_key_id: ApiKeyPath, call: CallDependency) -> Response:
    """The limits of a key, what it used of them, and whether they are exceeded."""
    with call.admit(Operation.ADMIN, Role.ADMIN) as hold:
        visible_key(call.runtime.keys, hold.key, api_key_id)
        return call.respond(hold, _report(call.runtime, api_key_id))


@admin.post("/quota/{api_key_id}", response_model=QuotaReportOut, operation_id="set_quota")
def set_quota(api_key_id: ApiKeyPath, body: PolicyBody, call: CallDependency) -> Response:
    """Change the limits of a key; its next request is measured by them, on every instance."""
    with call.admit(Operation.ADMIN, Role.ADMIN) as hold:
        visible_key(call.runtime.keys, hold.key, api_key_id)
        call.runtime.keys.change_policy(api_key_id, body.applied_to)
        return call.respond(hold, _report(call.runtime, api_key_id))


@own.get("/usage/me", response_model=UsageOut, operation_id="own_usage")
def own_usage(query: Annotated[PeriodParameters, Query()], call: CallDependency) -> Response:
    """The calling key's own usage. Looking is free."""
    key = call.authorize().key
    end = call.runtime.clock()
    start = end - timedelta(hours=query.hours)
    found = call.runtime.usage.read([key.api_key_id], start, end)
    return render(usage_out(summarize(found), start, end))


@own.get("/quota/me", response_model=QuotaReportOut, operation_id="own_quota")
def own_quota(call: CallDependency) -> Response:
    """The calling key's own limits and what is left of them. Looking is free."""
    return render(_report(call.runtime, call.authorize().key.api_key_id))


@own.get("/costs/me", response_model=CostsOut, operation_id="own_costs")
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
