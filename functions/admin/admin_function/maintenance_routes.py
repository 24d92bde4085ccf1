"""Maintenance by hand, its history, and the state of the database. For system admins: it concerns every tenant."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.responses import Response

from admin_function.schemas import RunOut, RunsOut, TaskBody, TaskOut
from vecmeter.http.dependencies import CallDependency
from vecmeter.http.fields import PageParameters
from vecmeter.http.paging import decode_page_token, page
from vecmeter.http.route import BusinessRoute
from vecmeter.tasks import run_task
from vecmeter.vectors.maintenance import Run

router = APIRouter(tags=["maintenance"], prefix="/admin/maintenance", route_class=BusinessRoute)

_NEWEST = 2**62


@router.get("/stats", response_model=TaskOut, operation_id="maintenance_stats")
def stats(call: CallDependency) -> Response:
    """Health of the database, exact counts, sizes, indexes, and the last 24 hours."""
    with call.admit_system_admin() as hold:
        return call.respond(hold, TaskOut(**run_task(call.runtime, "export_stats", {}, by_api=True)))


@router.get("/runs", response_model=RunsOut, operation_id="maintenance_runs")
def runs(query: Annotated[PageParameters, Query()], call: CallDependency) -> Response:
    """The history of runs, newest first."""
    before = decode_page_token(query.page_token, r"[1-9]\d{0,17}")
    with call.admit_system_admin() as hold:
        found = call.runtime.maintenance.runs(before=int(before or _NEWEST), limit=query.limit + 1)
        shown, token = page(found, query.limit, lambda run: str(run.run_id))
        return call.respond(hold, RunsOut(runs=list(map(_run_out, shown)), next_page_token=token))


@router.post("/{task}", response_model=TaskOut, operation_id="run_maintenance")
def run(task: str, call: CallDependency, body: TaskBody | None = None) -> Response:
    """Run a task now and wait for it."""
    options: dict[str, Any] = body.model_dump(exclude_none=True) if body else {}
    with call.admit_system_admin() as hold:
        return call.respond(hold, TaskOut(**run_task(call.runtime, task, options, by_api=True)))


def _run_out(run: Run) -> RunOut:
    return RunOut(**{name: getattr(run, name) for name in RunOut.model_fields})
