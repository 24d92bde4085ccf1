"""Operations of admins on usage, costs, prices and maintenance."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from vecmeter_client._flow import Flow, Page, Pages, Repeat, Request, Route
from vecmeter_client._input import moment
from vecmeter_client._operations.definitions import listed
from vecmeter_client._places import ServiceAt
from vecmeter_client._reading import answered, content_of, spread
from vecmeter_client._reports import (
    Alert,
    AuditRecord,
    DailyCosts,
    PriceList,
    Prices,
    TaskOutcome,
    TaskRun,
    TopUsers,
    UsageRecord,
    UsageReport,
    UserCosts,
)

USAGE = Route("GET", "/admin/usage/detailed")
RECORDS = Route("GET", "/admin/usage/records")
ALERTS = Route("GET", "/admin/usage/alerts")
EXPORT = Route("GET", "/admin/usage/export")
AUDIT = Route("GET", "/admin/audit")
COSTS_DAILY = Route("GET", "/admin/costs/daily")
COSTS_TOP_USERS = Route("GET", "/admin/costs/users/top")
PRICES = Route("GET", "/admin/prices")
SET_PRICES = Route("PUT", "/admin/prices")
STATS = Route("GET", "/admin/maintenance/stats")
RUNS = Route("GET", "/admin/maintenance/runs")
START = Route("POST", "/admin/maintenance/{task}", Repeat.NEVER)
METRICS = Route("GET", "/admin/metrics")


def usage(
    at: ServiceAt,
    hours: int = 24,
    *,
    start: datetime | str | None = None,
    end: datetime | str | None = None,
    api_key_id: str | None = None,
    project_id: str | None = None,
    user_id: str | None = None,
    operation: str | None = None,
) -> Flow[UsageReport]:
    """Usage of all one may see, or of a key, project, user or operation, in the last ``hours`` or from start to end."""
    query = _window(hours, start, end) | _whose(api_key_id, project_id, user_id) | {"operation": operation}
    answer = yield USAGE.to(query=query)
    return answered(UsageReport, answer)


def records(  # noqa: PLR0913 - what records can be chosen by
    at: ServiceAt,
    hours: int = 24,
    *,
    start: datetime | str | None = None,
    end: datetime | str | None = None,
    api_key_id: str | None = None,
    project_id: str | None = None,
    user_id: str | None = None,
    operation: str | None = None,
    status: str | None = None,
    collection: str | None = None,
    page_size: int = 100,
) -> Pages[UsageRecord]:
    """Usage records, newest first."""
    query = _window(hours, start, end) | _whose(api_key_id, project_id, user_id)
    query |= {"operation": operation, "status": status, "collection": collection, "limit": page_size}
    return listed(_asking(RECORDS, query), "records", UsageRecord)


def alerts(
    at: ServiceAt,
    hours: int = 24,
    *,
    api_key_id: str | None = None,
    project_id: str | None = None,
    user_id: str | None = None,
    page_size: int = 100,
) -> Pages[Alert]:
    """Limits that were seen at or above a threshold in the last ``hours``."""
    query = {"hours": hours, "limit": page_size} | _whose(api_key_id, project_id, user_id)
    return listed(_asking(ALERTS, query), "alerts", Alert)


def export_usage(
    at: ServiceAt,
    month: str | None = None,
    *,
    format: str = "csv",
    api_key_id: str | None = None,
    project_id: str | None = None,
    user_id: str | None = None,
) -> Pages[str]:
    """A month's usage as text, piece by piece: joined they are the file.

    Args:
        month: like 2026-11, in UTC; None: the present one.
        format: csv, jsonl, or focus (FOCUS 1.2).
    """
    query = {"month": month, "format": format} | _whose(api_key_id, project_id, user_id)

    def page(token: str | None) -> Flow[Page[str]]:
        answer = yield EXPORT.to(query=query | {"page_token": token})
        return Page([answer.content.decode()], answer.headers.get("x-next-page-token"))

    return page


def audit(
    at: ServiceAt, *, target: str | None = None, user_id: str | None = None, page_size: int = 100
) -> Pages[AuditRecord]:
    """What admins changed, newest first; ``target``: of one thing, ``key:<id>``, say."""
    return listed(_asking(AUDIT, {"target": target, "user_id": user_id, "limit": page_size}), "records", AuditRecord)


def costs_daily(
    at: ServiceAt,
    days: int = 30,
    *,
    user_id: str | None = None,
    project_id: str | None = None,
    api_key_id: str | None = None,
) -> Flow[DailyCosts]:
    """What each of the last ``days`` cost, and what the month will if it goes on so."""
    answer = yield COSTS_DAILY.to(query={"days": days} | _whose(api_key_id, project_id, user_id))
    return answered(DailyCosts, answer)


def costs_top_users(at: ServiceAt, days: int = 30, *, limit: int = 10) -> Flow[tuple[UserCosts, ...]]:
    """The users who cost most in the last ``days``."""
    answer = yield COSTS_TOP_USERS.to(query={"days": days, "limit": limit})
    return answered(TopUsers, answer).users


def prices(at: ServiceAt) -> Flow[Prices]:
    """The price list that holds."""
    answer = yield PRICES.to(query={"limit": 1})
    return answered(Prices, answer)


def price_history(at: ServiceAt, *, page_size: int = 100) -> Pages[PriceList]:
    """Every switch to a price list, newest first."""
    return listed(_asking(PRICES, {"limit": page_size}), "history", PriceList)


def set_prices(
    at: ServiceAt,
    *,
    search: int,
    request: int,
    vector_written: int,
    token: int,
    storage_gb_hour: int = 0,
    version: str | None = None,
    note: str | None = None,
) -> Flow[PriceList]:
    """Switch to a price list, in micro-USD per million units. For system admins.

    Raises PriceVersionExistsError where the version has other prices.
    """
    body = {
        "version": version,
        "search": search,
        "request": request,
        "vector_written": vector_written,
        "token": token,
        "storage_gb_hour": storage_gb_hour,
        "note": note,
    }
    answer = yield SET_PRICES.to(body=body)
    return answered(PriceList, answer)


def maintenance_stats(at: ServiceAt) -> Flow[TaskOutcome]:
    """Health of the database, exact counts, sizes, indexes, and the last 24 hours. For system admins."""
    answer = yield STATS.to()
    return spread(TaskOutcome, answer, "figures")


def maintenance_runs(
    at: ServiceAt,
    *,
    task: str | None = None,
    status: str | None = None,
    project_id: str | None = None,
    collection: str | None = None,
    page_size: int = 100,
) -> Pages[TaskRun]:
    """The history of runs, newest first. For system admins."""
    query = {"task": task, "status": status, "project_id": project_id, "collection": collection, "limit": page_size}
    return listed(_asking(RUNS, query), "runs", TaskRun)


def start_task(
    at: ServiceAt,
    task: str,
    *,
    project_id: str | None = None,
    collection: str | None = None,
    dry_run: bool | None = None,
    force: bool | None = None,
    month: str | None = None,
    format: str | None = None,
) -> Flow[TaskOutcome]:
    """Run a maintenance task now; ``status`` is ``started`` where it takes longer than a request may.

    It is not sent again when its answer was lost. Raises TaskNotFoundError.
    """
    body = {
        "project_id": project_id,
        "collection": collection,
        "dry_run": dry_run,
        "force": force,
        "month": month,
        "format": format,
    }
    answer = yield START.to(task, body=body)
    return spread(TaskOutcome, answer, "figures")


def metrics(at: ServiceAt, *, top: int = 100) -> Flow[dict[str, Any]]:
    """Counters since metering began and the present state, as ``GET /v1/admin/metrics`` has them. For system admins."""
    return content_of((yield METRICS.to(query={"top": top})))


def _asking(route: Route, query: dict[str, Any]) -> Callable[[str | None], Request]:
    def ask(token: str | None) -> Request:
        return route.to(query=query | {"page_token": token})

    return ask


def _window(hours: int, start: datetime | str | None, end: datetime | str | None) -> dict[str, Any]:
    return {"hours": hours, "start": moment(start, "start"), "end": moment(end, "end")}


def _whose(api_key_id: str | None, project_id: str | None, user_id: str | None) -> dict[str, Any]:
    return {"api_key_id": api_key_id, "project_id": project_id, "user_id": user_id}
