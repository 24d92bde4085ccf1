"""Maintenance by hand, its history, and the state of the database. For system admins: it concerns every tenant."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from starlette.responses import Response

from admin_function.schemas import RunOut, RunsOut, RunsParameters, TaskBody, TaskOut
from vecmeter.http.dependencies import CallDependency
from vecmeter.http.paging import decode_page_token, page
from vecmeter.http.route import BusinessRoute
from vecmeter.task_starts import start_task
from vecmeter.tasks import run_task
from vecmeter.vectors.history import Run

router = APIRouter(tags=["maintenance"], prefix="/admin/maintenance", route_class=BusinessRoute)

_NEWEST = 2**62
TaskPath = Annotated[str, Path(description="Name of the task; docs/maintenance.md.", examples=["get_index_stats"])]


@router.get("/stats", response_model=TaskOut, operation_id="maintenance_stats")
def stats(call: CallDependency) -> Response:
    """Health of the database, exact counts, sizes, indexes, and the last 24 hours."""
    with call.admit_system_admin() as hold:
        return call.respond(hold, TaskOut(**run_task(call.runtime, "export_stats", {}, by_api=True)))


@router.get("/runs", response_model=RunsOut, operation_id="maintenance_runs")
def runs(query: Annotated[RunsParameters, Query()], call: CallDependency) -> Response:
    """The history of runs, newest first."""
    query.check()
    before = decode_page_token(query.page_token, r"[1-9]\d{0,17}")
    with call.admit_system_admin() as hold:
        found = call.runtime.history.page(
            before=int(before or _NEWEST),
            limit=query.limit + 1,
            task=query.task,
            status=query.status,
            project_id=query.project_id,
            collection=query.collection,
        )
        shown, token = page(found, query.limit, lambda run: str(run.run_id))
        return call.respond(hold, RunsOut(runs=list(map(_run_out, shown)), next_page_token=token))


@router.post("/{task}", response_model=TaskOut, operation_id="run_maintenance", responses={202: {"model": TaskOut}})
def run(task: TaskPath, call: CallDependency, body: TaskBody | None = None) -> Response:
    """Run a task now: 200 with its outcome, or 202 where it takes longer than a request may, and the history has it."""
    options: dict[str, Any] = body.model_dump(exclude_none=True) if body else {}
    with call.admit_system_admin() as hold:
        outcome = start_task(call.runtime, task, options)
        return call.respond(hold, TaskOut(**outcome), status=202 if outcome["status"] == "started" else 200)


def _run_out(run: Run) -> RunOut:
    return RunOut(**{name: getattr(run, name) for name in RunOut.model_fields})
