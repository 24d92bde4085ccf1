"""Maintenance tasks: what the schedule, ``make task`` and the admin API run, by name."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import psycopg

from vecmeter import usage_tasks
from vecmeter.errors import InvalidRequestError, TaskNotFoundError, VecmeterError, Violation
from vecmeter.ledger.model import SYSTEM_USER, Role
from vecmeter.ledger.reports import Selection
from vecmeter.runtime import Runtime
from vecmeter.vectors.migrations.runner import migrate
from vecmeter.vectors.model import Collection
from vecmeter.vectors.storage import bytes_by_project

_logger = logging.getLogger("vecmeter.tasks")

Figures = dict[str, Any]
Options = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Task:
    """``open_to_api`` False: only who may invoke the function may run it. Such a run leaves no row of history."""

    run: Callable[[Runtime, Options], Figures]
    message: str
    open_to_api: bool = True
    options: tuple[str, ...] = ("project_id", "collection")


def run_task(runtime: Runtime, name: str, options: Options, *, by_api: bool = False) -> Figures:
    """Run a task: all collections, or those that ``options`` (``project_id``, ``collection``) name, or with its own.

    Returns ``{status, message, error, ...figures}``; a task that fails says so there, and in its row of history.

    Raises:
        TaskNotFoundError: there is no such task.
        InvalidRequestError: an option is unknown or wrong.
    """
    task = TASKS.get(name)
    if task is None or (by_api and not task.open_to_api):
        raise TaskNotFoundError(f"There is no task {name!r}; there are: {', '.join(task_names(by_api=by_api))}.")
    _check_options(task, options)
    started_at = runtime.clock()
    outcome: Figures = {"task": name, "status": "ok", "message": task.message, "error": None}
    try:
        outcome |= task.run(runtime, options)
    except InvalidRequestError:
        raise
    except (VecmeterError, psycopg.Error) as error:
        _logger.exception("task failed", extra={"task": name})
        code = error.code if isinstance(error, VecmeterError) else type(error).__name__
        outcome |= {"status": "error", "message": f"{name} failed", "error": code}
    failed = [figure for figure in outcome.get("collections", ()) if figure.get("error")]
    if failed:
        message = f"{name} failed for {len(failed)} of {len(outcome['collections'])} collections"
        outcome |= {"status": "error", "message": message, "error": failed[0]["error"]}
    if task.open_to_api:
        _record(runtime, outcome, started_at)
    return outcome


def task_names(*, by_api: bool = False) -> list[str]:
    return [name for name, task in TASKS.items() if task.open_to_api or not by_api]


def _check_options(task: Task, options: Options) -> None:
    for name, value in options.items():
        if name not in task.options:
            raise InvalidRequestError(f"{name} is no option.", (Violation(name, "is no option of a task"),))
        if not isinstance(value, str):
            raise InvalidRequestError(f"{name} must be a string.", (Violation(name, "must be a string"),))
    if "collection" in options and "project_id" not in options:
        message = "must be given with collection"
        raise InvalidRequestError(f"project_id {message}.", (Violation("project_id", message),))


def _record(runtime: Runtime, outcome: Figures, started_at: Any) -> None:
    try:
        runtime.maintenance.record_run(outcome["task"], outcome, started_at, runtime.clock())
    except (VecmeterError, psycopg.Error):
        _logger.exception("run not recorded", extra={"task": outcome["task"]})


def _collections(runtime: Runtime, options: Options) -> list[Collection]:
    return runtime.maintenance.select(options.get("project_id"), options.get("collection"))


def _vacuum_analyze(runtime: Runtime, options: Options) -> Figures:
    return {
        **runtime.maintenance.vacuum_analyze(_collections(runtime, options)),
        **runtime.maintenance.forget(runtime.clock()),
    }


def _reindex_hnsw(runtime: Runtime, options: Options) -> Figures:
    return runtime.maintenance.reindex_hnsw(_collections(runtime, options))


def _build_indexes(runtime: Runtime, options: Options) -> Figures:
    """With ``dry_run`` it only says what is to be done, and why."""
    dry_run = options.get("dry_run", "false")
    if dry_run not in ("true", "false"):
        raise InvalidRequestError("dry_run must be true or false.", (Violation("dry_run", "must be true or false"),))
    return runtime.maintenance.build_indexes(_collections(runtime, options), dry_run=dry_run == "true")


def _purge_expired(runtime: Runtime, options: Options) -> Figures:
    return runtime.maintenance.purge_expired(_collections(runtime, options))


def _recount_stock(runtime: Runtime, options: Options) -> Figures:
    return runtime.maintenance.recount_stock(_collections(runtime, options))


def _get_index_stats(runtime: Runtime, options: Options) -> Figures:
    return runtime.maintenance.index_stats(_collections(runtime, options))


def _export_stats(runtime: Runtime, options: Options) -> Figures:
    collections = _collections(runtime, options)
    now = runtime.clock()
    whose = Selection(project_id=options.get("project_id"))
    recent = runtime.reports.summary(whose, now - timedelta(hours=24), now).total
    return {
        **runtime.maintenance.statistics(collections),
        "indexes": runtime.maintenance.index_stats(collections)["collections"],
        "last_24_hours": {
            "total_requests": recent.requests,
            "total_tokens": recent.tokens,
            "success_rate": recent.success_rate,
            "avg_duration_ms": recent.avg_duration_ms,
            "cost_usd": recent.micro_usd / 1_000_000,
        },
    }


def _bill_storage(runtime: Runtime, options: Options) -> Figures:
    """For nothing nobody asks the database."""
    bills = runtime.storage_bills
    return {"projects": bills.bill(bytes_by_project(runtime.database)) if bills.wanted else 0}


def _sweep_alerts(runtime: Runtime, options: Options) -> Figures:
    return {**runtime.crossings.run(), **runtime.alerts.publish_pending()}


def _finish_policies(runtime: Runtime, options: Options) -> Figures:
    """Changes that began longer ago than a request may live."""
    return {"policies": runtime.policies.finish_pending(runtime.clock() - timedelta(minutes=1))}


def _migrate(runtime: Runtime, options: Options) -> Figures:
    return {"applied": migrate(runtime.dsn())}


def _create_admin_key(runtime: Runtime, options: Options) -> Figures:
    created = runtime.policies.create_key(
        user_id=SYSTEM_USER, project_id=None, roles=(Role.ADMIN, Role.SEARCH, Role.WRITE), name="system admin"
    )
    return {"api_key_id": created.key.api_key_id, "key": created.secret}


TASKS: Mapping[str, Task] = {
    "vacuum_analyze": Task(_vacuum_analyze, "dead rows removed, statistics refreshed"),
    "reindex_hnsw": Task(_reindex_hnsw, "HNSW indexes rebuilt"),
    "build_indexes": Task(
        _build_indexes, "indexes as they ought to be", options=("project_id", "collection", "dry_run")
    ),
    "purge_expired": Task(_purge_expired, "expired vectors deleted"),
    "recount_stock": Task(_recount_stock, "stored vectors and bytes counted anew"),
    "get_index_stats": Task(_get_index_stats, "index statistics"),
    "export_stats": Task(_export_stats, "statistics"),
    "roll_up_usage": Task(usage_tasks.roll_up_usage, "usage rolled up"),
    "reap_dead_holds": Task(usage_tasks.reap_dead_holds, "dead requests of active keys accounted for"),
    "sweep_dead_holds": Task(usage_tasks.sweep_dead_holds, "dead requests of all keys accounted for"),
    "purge_usage_records": Task(usage_tasks.purge_usage_records, "old usage records deleted"),
    "reconcile_counters": Task(usage_tasks.reconcile_counters, "counters compared with usage records"),
    "export_usage": Task(usage_tasks.export_usage, "usage exported", options=("month", "format")),
    "finish_policies": Task(_finish_policies, "changes of policies that were cut off brought to every key"),
    "bill_storage": Task(_bill_storage, "stored bytes of this hour billed"),
    "sweep_alerts": Task(_sweep_alerts, "crossed limits found, pending alerts put on EventBridge"),
    "migrate": Task(_migrate, "database migrated", open_to_api=False),
    "create_admin_key": Task(_create_admin_key, "system admin key created; it is shown only now", open_to_api=False),
}

# Seconds between two runs; infra/ has the same as EventBridge schedules (a test compares them).
SCHEDULE: Mapping[str, int] = {
    "build_indexes": 300,
    "purge_expired": 300,
    "sweep_alerts": 300,
    "finish_policies": 300,
    "bill_storage": 1800,
    "vacuum_analyze": 3600,
    "reindex_hnsw": 7 * 86400,
    "roll_up_usage": 300,
    "reap_dead_holds": 300,
    "sweep_dead_holds": 86400,
    "purge_usage_records": 86400,
    "reconcile_counters": 86400,
    "export_usage": 86400,
}
