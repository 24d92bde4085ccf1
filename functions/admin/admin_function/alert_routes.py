"""Alerts of the limits one may see."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import islice
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from admin_function.access import listing_scope, may_see, visible_key
from admin_function.alert_schemas import AlertOut, AlertsOut, AlertsParameters
from vecmeter.http.dependencies import CallDependency
from vecmeter.http.paging import decode_page_token, page
from vecmeter.http.route import BusinessRoute
from vecmeter.ledger.alert_model import Alert, alert_fields, alert_position
from vecmeter.ledger.model import ApiKey, Operation, Role
from vecmeter.runtime import Runtime

router = APIRouter(tags=["usage"], prefix="/admin/usage", route_class=BusinessRoute)

_POSITION = r"\d{13}#alert_[0-9a-f]{24}"


@router.get("/alerts", response_model=AlertsOut, operation_id="usage_alerts")
def alerts(query: Annotated[AlertsParameters, Query()], call: CallDependency) -> Response:
    """Crossed thresholds of quotas and budgets, newest first: one alert per threshold and window."""
    before = decode_page_token(query.page_token, _POSITION)
    with call.admit(Operation.ADMIN, Role.ADMIN) as hold:
        # This very moment is among the last hours.
        end = call.runtime.clock() + timedelta(milliseconds=1)
        found = _visible(call.runtime, hold.key, query, end - timedelta(hours=query.hours), end, before)
        shown, token = page(list(islice(found, query.limit + 1)), query.limit, alert_position)
        return call.respond(hold, AlertsOut(alerts=list(map(_out, shown)), next_page_token=token))


def _visible(
    runtime: Runtime, caller: ApiKey, query: AlertsParameters, start: datetime, end: datetime, before: str
) -> Iterator[Alert]:
    """The alerts asked for that the caller may see. Raises NotFoundError."""
    scope = listing_scope(runtime.projects, caller, user_id=query.user_id, project_id=query.project_id)
    user_id = scope.user_id
    if query.api_key_id is not None:
        user_id = visible_key(runtime.keys, caller, query.api_key_id).user_id
    return (
        alert
        for alert in runtime.alerts.read(start, end, user_id=user_id, before=before)
        if may_see(caller, alert.user_id, alert.project_id)
        and query.api_key_id in (None, alert.api_key_id)
        and scope.project_id in (None, alert.project_id)
        and query.user_id in (None, alert.user_id)
    )


def _out(alert: Alert) -> AlertOut:
    return AlertOut(**alert_fields(alert))
