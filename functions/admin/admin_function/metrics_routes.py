"""The whole service in numbers, as JSON and for Prometheus. For system admins: it concerns every tenant."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.responses import Response

from admin_function.metrics_schemas import MetricsOut, MetricsParameters, metrics_out
from vecmeter.http.dependencies import CallDependency
from vecmeter.http.route import BusinessRoute, UnversionedRouter
from vecmeter.overview import take_overview

router = APIRouter(tags=["metrics"], prefix="/admin", route_class=BusinessRoute)
exposition = UnversionedRouter(tags=["metrics"])

_TEXT: dict[str, Any] = {
    "schema": {"type": "string"},
    "example": "# HELP vecmeter_requests_total Requests admitted\n# TYPE vecmeter_requests_total counter\n"
    'vecmeter_requests_total{operation="search"} 4.0\n',
}
_OK: dict[str, Any] = {"content": {"text/plain": _TEXT, "application/openmetrics-text": _TEXT}}


@router.get("/metrics", response_model=MetricsOut, operation_id="metrics")
def metrics(query: Annotated[MetricsParameters, Query()], call: CallDependency) -> Response:
    """Counters since metering began and the present state, the same whichever instance answers."""
    with call.admit_system_admin() as hold:
        return call.respond(hold, metrics_out(take_overview(call.runtime, query.top)))


@exposition.get("/prometheus", response_class=Response, operation_id="prometheus", responses={200: _OK, 403: {}})
def prometheus(query: Annotated[MetricsParameters, Query()], call: CallDependency) -> Response:
    """The same for Prometheus, as text or, where ``Accept`` takes it, OpenMetrics. Looking is free."""
    from vecmeter.exposition import render  # the Prometheus client, which nothing else here needs

    call.authorize_system_admin()
    text, media_type = render(take_overview(call.runtime, query.top), call.header("accept"))
    return Response(text, headers={"Content-Type": media_type})
