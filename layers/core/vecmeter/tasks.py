"""Maintenance tasks: what the schedule, ``make task`` and the admin API run, by name."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import psycopg

from vecmeter import usage_tasks, vector_tasks
from vecmeter.errors import InvalidRequestError, TaskNotFoundError, VecmeterError, Violation
from vecmeter.ledger.model import SYSTEM_USER, Role
from vecmeter.runtime import Runtime
from vecmeter.vectors.storage import bytes_by_project
from vecmeter.vectors.turns import Orders

_logger = logging.getLogger("vecmeter.tasks")

Figures = dict[str, Any]
Options = Mapping[str, Any]

_WHICH = ("project_id", "collection")
# What every task takes.
_DRY_RUN = "dry_run"
# Options that are true or false, as JSON has them or as words.
_SWITCHES = (_DRY_RUN, "force")
# What of a run's figures goes into its log line is as much as this.
_MOST_LOGGED = 20


@dataclass(frozen=True, slots=True)
class Task:
    """``options``: what it takes beside ``dry_run``, with which it changes nothing and tells what it would do.
    ``is_long``: it may take longer than a request. ``open_to_api`` False: only who may invoke the function may run it;
    such a run leaves no row of history.
    """

    run: Callable[[Runtime, Options, Orders], Figures]
    message: str
    options: tuple[str, ...] = ()
    is_long: bool = False
    open_to_api: bool = True


def run_task(
    runtime: Runtime, name: str, options: Options, *, by_api: bool = False, ends_at: float = math.inf
) -> Figures:
    """Run a task with its ``options``: for all collections, or those that ``project_id`` and ``collection`` name.

    Returns ``{task, status, message, error, ...figures}``; a task that fails says so there, and in its row of history.

    Args:
        ends_at: when, by ``time.monotonic``, it must have ended: in time it begins nothing more, and leaves the
            statement in hand to the database. The next run carries on.

    Raises:
        TaskNotFoundError: there is no such task.
        InvalidRequestError: an option is unknown or wrong.
    """
    task = check_task(name, options, by_api=by_api)
    orders = Orders(dry_run=is_on(options, _DRY_RUN), force=is_on(options, "force"), ends_at=ends_at)
    if not task.open_to_api:
        return _outcome(runtime, name, task, options, orders)
    started = time.monotonic()
    run = runtime.history.begin(name, runtime.clock(), options)
    try:
        outcome = _outcome(runtime, name, task, options, orders)
        run.finish(outcome, runtime.clock())
    except InvalidRequestError:
        run.withdraw()
        raise
    finally:
        run.leave()
    _log(name, outcome, time.monotonic() - started)
    return outcome


def check_task(name: str, options: Options, *, by_api: bool = False) -> Task:
    """The task of that name, if these are options of it. Raises as ``run_task`` does."""
    task = TASKS.get(name)
    if task is None or (by_api and not task.open_to_api):
        raise TaskNotFoundError(f"There is no task {name!r}; there are: {', '.join(task_names(by_api=by_api))}.")
    for option, value in options.items():
        if option not in (_DRY_RUN, *task.options):
            raise _invalid(option, "is no option of this task")
        if option in _SWITCHES:
            if not isinstance(value, bool) and value not in ("true", "false"):
                raise _invalid(option, "must be true or false")
        elif not isinstance(value, str):
            raise _invalid(option, "must be a string")
    if "collection" in options and "project_id" not in options:
        raise _invalid("project_id", "must be given with collection")
    return task


def check_place(runtime: Runtime, options: Options) -> None:
    """What the options name is there. Raises ProjectNotFoundError, CollectionNotFoundError."""
    if "project_id" in options:
        runtime.projects.get(options["project_id"])
    if "collection" in options:
        runtime.maintenance.select(options["project_id"], options["collection"])


def task_names(*, by_api: bool = False) -> list[str]:
    return [name for name, task in TASKS.items() if task.open_to_api or not by_api]


def is_on(options: Options, name: str) -> bool:
    """Whether an option that is true or false was given as true."""
    return options.get(name) in (True, "true")


def _invalid(path: str, message: str) -> InvalidRequestError:
    return InvalidRequestError(f"{path} {message}.", (Violation(path, message),))


def _outcome(runtime: Runtime, name: str, task: Task, options: Options, orders: Orders) -> Figures:
    message = f"dry run: {task.message}" if orders.dry_run else task.message
    outcome: Figures = {"task": name, "status": "ok", "message": message, "error": None}
    try:
        check_place(runtime, options)
        outcome |= task.run(runtime, options, orders)
    except InvalidRequestError:
        raise
    except (VecmeterError, psycopg.Error) as error:
        _logger.exception("task failed", extra={"task": name})
        code = error.code if isinstance(error, VecmeterError) else type(error).__name__
        outcome |= {"status": "error", "message": f"{name} failed", "error": code}
    collections = outcome.get("collections", ())
    failed = [figure for figure in collections if figure.get("error")]
    if failed:
        message = f"{name} failed for {len(failed)} of {len(collections)} collections"
        outcome |= {"status": "error", "message": message, "error": failed[0]["error"]}
    elif outcome.get("put_off"):
        outcome["message"] += f"; {outcome['put_off']} of {len(collections)} collections are left for the next run"
    return outcome


def _log(name: str, outcome: Figures, seconds: float) -> None:
    """One line for each run. Of collections only what was done."""
    figures = {key: value for key, value in outcome.items() if key not in ("task", "status", "message", "error")}
    if "collections" in figures:
        done = [one for one in figures["collections"] if one.get("action") != "none"]
        figures |= {"collections": done[:_MOST_LOGGED], "collections_looked_at": len(figures["collections"])}
    _logger.info(
        "%s: %s",
        name,
        outcome["message"],
        extra={
            "task": name,
            "status": outcome["status"],
            "error": outcome["error"],
            "duration_ms": round(seconds * 1000, 1),
            "figures": figures,
        },
    )


def _bill_storage(runtime: Runtime, options: Options, orders: Orders) -> Figures:
    """For nothing nobody asks the database."""
    bills = runtime.storage_bills
    stored = bytes_by_project(runtime.database) if bills.wanted else {}
    if orders.dry_run:
        unbilled = bills.unbilled(stored)
        return {"unbilled": len(unbilled), "cost_usd": sum(record.micro_usd for record in unbilled) / 1_000_000}
    return {"projects": bills.bill(stored)}


def _sweep_alerts(runtime: Runtime, options: Options, orders: Orders) -> Figures:
    if orders.dry_run:
        return {"crossed": runtime.crossings.unalerted(), "unpublished": runtime.alerts.count_pending()}
    return {**runtime.crossings.run(), **runtime.alerts.publish_pending()}


def _finish_policies(runtime: Runtime, options: Options, orders: Orders) -> Figures:
    """Changes that began longer ago than a request may live."""
    before = runtime.clock() - timedelta(minutes=1)
    if orders.dry_run:
        return {"unfinished": [f"{scope.value} {scope_id}" for scope, scope_id in runtime.policies.pending(before)]}
    return {"policies": runtime.policies.finish_pending(before)}


def _create_admin_key(runtime: Runtime, options: Options, orders: Orders) -> Figures:
    if orders.dry_run:
        return {}
    created = runtime.policies.create_key(
        user_id=SYSTEM_USER, project_id=None, roles=(Role.ADMIN, Role.SEARCH, Role.WRITE), name="system admin"
    )
    return {"api_key_id": created.key.api_key_id, "key": created.secret}


_DECIDED = (*_WHICH, "force")

TASKS: Mapping[str, Task] = {
    "vacuum_analyze": Task(vector_tasks.vacuum_analyze, "tables vacuumed and analyzed", _DECIDED, is_long=True),
    "reindex_hnsw": Task(vector_tasks.reindex_hnsw, "HNSW indexes rebuilt", _DECIDED, is_long=True),
    "build_indexes": Task(vector_tasks.build_indexes, "indexes as they ought to be", _WHICH, is_long=True),
    "probe_recall": Task(vector_tasks.probe_recall, "recall measured", _DECIDED, is_long=True),
    "tune_ef_search": Task(vector_tasks.tune_ef_search, "ef_search as the target asks", _DECIDED, is_long=True),
    "purge_expired": Task(vector_tasks.purge_expired, "expired vectors deleted", _WHICH, is_long=True),
    "recount_stock": Task(vector_tasks.recount_stock, "vectors and bytes counted anew", _WHICH, is_long=True),
    "clear_cache": Task(vector_tasks.clear_cache, "what was remembered of searches is found anew", _WHICH),
    "get_index_stats": Task(vector_tasks.get_index_stats, "index statistics", _WHICH),
    "export_stats": Task(vector_tasks.export_stats, "statistics", _WHICH),
    "roll_up_usage": Task(usage_tasks.roll_up_usage, "usage rolled up", is_long=True),
    "reap_dead_holds": Task(usage_tasks.reap_dead_holds, "dead requests of active keys accounted for"),
    "sweep_dead_holds": Task(usage_tasks.sweep_dead_holds, "dead requests of all keys accounted for", is_long=True),
    "purge_usage_records": Task(
        usage_tasks.purge_usage_records, "old usage records deleted", ("project_id",), is_long=True
    ),
    "reconcile_counters": Task(usage_tasks.reconcile_counters, "counters compared with usage records", is_long=True),
    "export_usage": Task(usage_tasks.export_usage, "usage exported", ("month", "format"), is_long=True),
    "finish_policies": Task(_finish_policies, "changes of policies that were cut off brought to every key"),
    "bill_storage": Task(_bill_storage, "stored bytes of this hour billed"),
    "sweep_alerts": Task(_sweep_alerts, "crossed limits found, pending alerts put on EventBridge"),
    "migrate": Task(vector_tasks.migrate, "database migrated", open_to_api=False),
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
    "probe_recall": 6 * 3600,
    "tune_ef_search": 86400,
    "reindex_hnsw": 86400,
    "roll_up_usage": 300,
    "reap_dead_holds": 300,
    "sweep_dead_holds": 86400,
    "purge_usage_records": 86400,
    "reconcile_counters": 86400,
    "export_usage": 86400,
}
