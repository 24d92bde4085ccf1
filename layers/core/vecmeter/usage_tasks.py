"""Maintenance of the ledger: roll-ups, dead requests, retention, exports. ``tasks.py`` names and schedules them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import timedelta
from typing import Any

from vecmeter.errors import ApiKeyNotFoundError, InvalidRequestError, Violation
from vecmeter.ledger.export import Export, ExportFormat, Month, object_name
from vecmeter.ledger.reconciliation import Reconciler
from vecmeter.ledger.reports import Selection
from vecmeter.ledger.totals import KeyName
from vecmeter.runtime import Runtime
from vecmeter.vectors.turns import Orders

# Missed runs are made good for so long; then DynamoDB's TTL has done it.
PURGED_AGAIN = timedelta(days=7)

Figures = dict[str, Any]
Options = Mapping[str, Any]


def roll_up_usage(runtime: Runtime, options: Options, orders: Orders) -> Figures:
    return {"hours": dict(runtime.rollups.roll_up(dry_run=orders.dry_run))}


def reap_dead_holds(runtime: Runtime, options: Options, orders: Orders) -> Figures:
    """Of keys with usage that is not rolled up: those a request may have died of lately. One read for each of them."""
    return _bury(runtime, {mark.api_key_id for mark in runtime.usage.activity.marks()}, orders)


def sweep_dead_holds(runtime: Runtime, options: Options, orders: Orders) -> Figures:
    """Of all keys: a request that died before its hour had a record left no mark of it."""
    return _bury(runtime, [key.api_key_id for key in runtime.keys.list()], orders)


def _bury(runtime: Runtime, api_key_ids: Iterable[str], orders: Orders) -> Figures:
    look_at = runtime.ledger.count_dead if orders.dry_run else runtime.ledger.bury
    keys = dead = 0
    for api_key_id in api_key_ids:
        try:
            dead += look_at(api_key_id)
            keys += 1
        except ApiKeyNotFoundError:
            continue  # deleted meanwhile
    return {"keys": keys, "dead" if orders.dry_run else "buried": dead}


def purge_usage_records(runtime: Runtime, options: Options, orders: Orders) -> Figures:
    before = runtime.clock() - runtime.usage.retention
    project_id = options.get("project_id")
    names = {KeyName(key.user_id, key.api_key_id) for key in runtime.keys.list(project_id=project_id)}
    if project_id is None:  # what was billed to no key, too: storage, say
        names |= set(runtime.reports.keys(Selection(), before - PURGED_AGAIN, before))
    records = sum(runtime.usage.purge(*name, before, dry_run=orders.dry_run) for name in names)
    return {"expired" if orders.dry_run else "deleted": records, "before": before.isoformat()}


def reconcile_counters(runtime: Runtime, options: Options, orders: Orders) -> Figures:
    result = Reconciler(runtime.keys, runtime.reports, runtime.clock).reconcile()
    return {
        "compared": result.compared,
        "busy": result.busy,
        "differences": [asdict(difference) for difference in result.differences],
    }


def export_usage(runtime: Runtime, options: Options, orders: Orders) -> Figures:
    """One object per month and format, written anew each time: the present month and the one before, unless named."""
    now = runtime.clock()
    current = Month.of(now)
    months = (
        [_month(options["month"])] if "month" in options else [Month.of(current.start - timedelta(days=1)), current]
    )
    form = _format(options.get("format", ExportFormat.FOCUS.value))
    bucket = runtime.settings.export_bucket
    if not bucket:
        return {"message": "nothing exported: EXPORT_BUCKET is not set", "objects": []}
    from vecmeter.ledger.export_store import store  # boto3, which no request needs

    objects = []
    for month in months:
        export = Export(runtime.reports, Selection(), month, form)
        export.check(now - runtime.usage.retention)
        key = object_name(month, form)
        objects.append({"key": key} if orders.dry_run else asdict(store(bucket, key, export)))
    return {"bucket": bucket, "objects": objects}


def _month(text: str) -> Month:
    try:
        return Month.parse(text)
    except ValueError as error:
        raise InvalidRequestError(f"month {error}.", (Violation("month", str(error)),)) from None


def _format(text: str) -> ExportFormat:
    try:
        return ExportFormat(text)
    except ValueError:
        message = f"must be one of {', '.join(ExportFormat)}"
        raise InvalidRequestError(f"format {message}.", (Violation("format", message),)) from None
