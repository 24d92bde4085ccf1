"""Usage and quotas: of any key one may see, and one's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.responses import Response

from admin_function.access import actor_of, visible_key
from admin_function.policy_schemas import PolicyBody, QuotaReportOut, quota_report
from admin_function.usage_access import visible_usage
from admin_function.usage_schemas import (
    RecordsOut,
    RecordsParameters,
    UsageOut,
    UsageParameters,
    WhoseParameters,
    WindowParameters,
    record_out,
    usage_out,
)
from vecmeter.http.dependencies import CallDependency, render
from vecmeter.http.fields import ApiKeyPath
from vecmeter.http.paging import decode_page_token, encode_page_token
from vecmeter.http.route import BusinessRoute
from vecmeter.ledger.model import Operation, Role, UsageRecord
from vecmeter.ledger.reports import Selection, UsageReports
from vecmeter.ledger.totals import Group, KeyName
from vecmeter.ledger.usage import record_position
from vecmeter.runtime import Runtime

admin = APIRouter(tags=["usage"], prefix="/admin/usage", route_class=BusinessRoute)
own = APIRouter(tags=["own usage"], route_class=BusinessRoute)

# Records that one page looks at to find those asked for; then it ends, and the next one goes on from there.
MOST_EXAMINED = 20_000
_RECORD_POSITION = r"\d{13}#[0-9a-f]{1,64}"


@admin.get("/detailed", response_model=UsageOut, operation_id="usage_detailed")
def detailed(query: Annotated[UsageParameters, Query()], call: CallDependency) -> Response:
    """Totals: as a whole, per operation, per endpoint, and per hour, or per day where it is more than a week."""
    with call.admit(Operation.ADMIN, Role.ADMIN) as hold:
        window = query.window(call.runtime.clock())
        selection = visible_usage(call.runtime, hold.key, **_whose(query))
        return call.respond(hold, _summary(call.runtime.reports, selection, window))


@admin.get("/records", response_model=RecordsOut, operation_id="usage_records")
def records(query: Annotated[RecordsParameters, Query()], call: CallDependency) -> Response:
    """Usage records, newest first."""
    before = decode_page_token(query.page_token, _RECORD_POSITION)
    with call.admit(Operation.ADMIN, Role.ADMIN) as hold:
        window = query.window(call.runtime.clock())
        selection = visible_usage(call.runtime, hold.key, **_whose(query))
        found = call.runtime.reports.records(selection, *window, before=before)
        shown, following = _page(found, lambda record: _wanted(record, query, selection), query.limit)
        token = encode_page_token(following) if following else None
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
        call.runtime.keys.change_policy(api_key_id, body.applied_to, actor_of(hold))
        return call.respond(hold, _report(call.runtime, api_key_id))


@own.get("/usage/me", response_model=UsageOut, operation_id="own_usage")
def own_usage(query: Annotated[WindowParameters, Query()], call: CallDependency) -> Response:
    """The calling key's own usage. Looking is free."""
    key = call.authorize().key
    selection = Selection(key=KeyName(key.user_id, key.api_key_id))
    return render(_summary(call.runtime.reports, selection, query.window(call.runtime.clock())))


@own.get("/quota/me", response_model=QuotaReportOut, operation_id="own_quota")
def own_quota(call: CallDependency) -> Response:
    """The calling key's own limits and what is left of them. Looking is free."""
    return render(_report(call.runtime, call.authorize().key.api_key_id))


def _summary(reports: UsageReports, selection: Selection, window: tuple[datetime, datetime]) -> UsageOut:
    return usage_out(reports.summary(selection, *window), reports.window(*window))


def _whose(query: WhoseParameters) -> dict[str, Any]:
    return {name: getattr(query, name) for name in WhoseParameters.model_fields}


def _wanted(record: UsageRecord, query: RecordsParameters, selection: Selection) -> bool:
    return (
        selection.covers(Group(record.project_id, record.operation, record.endpoint))
        and query.status in (None, record.status)
        and query.collection in (None, record.collection)
    )


def _page(
    found: Iterator[UsageRecord], wanted: Callable[[UsageRecord], bool], limit: int
) -> tuple[list[UsageRecord], str | None]:
    """The first wanted ones, and the position to go on after if there may be more."""
    shown: list[UsageRecord] = []
    last = ""
    for examined, record in enumerate(found):
        if examined == MOST_EXAMINED:
            return shown, last
        if wanted(record):
            if len(shown) == limit:
                return shown, record_position(shown[-1])
            shown.append(record)
        last = record_position(record)
    return shown, None


def _report(runtime: Runtime, api_key_id: str) -> QuotaReportOut:
    report = runtime.policies.of_key(api_key_id)
    return quota_report(report)
