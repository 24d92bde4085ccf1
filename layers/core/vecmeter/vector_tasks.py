"""Maintenance of the vectors: tables, indexes, recall. ``tasks.py`` names and schedules them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from vecmeter.ledger.reports import Selection
from vecmeter.runtime import Runtime
from vecmeter.vectors import revisions
from vecmeter.vectors.migrations.runner import migrate as apply_migrations
from vecmeter.vectors.migrations.runner import pending_migrations
from vecmeter.vectors.model import Collection
from vecmeter.vectors.turns import Orders

Figures = dict[str, Any]
Options = Mapping[str, Any]


def vacuum_analyze(runtime: Runtime, options: Options, orders: Orders) -> Figures:
    """With what is kept of writes and runs beside the collections."""
    figures = runtime.maintenance.vacuum_analyze(_collections(runtime, options), orders)
    now = runtime.clock()
    if orders.dry_run:
        return {**figures, **runtime.maintenance.forgettable(now), "old_runs": runtime.history.count_old(now)}
    return {**figures, **runtime.maintenance.forget(now, orders), "runs_deleted": runtime.history.forget(now)}


def reindex_hnsw(runtime: Runtime, options: Options, orders: Orders) -> Figures:
    return runtime.maintenance.reindex_hnsw(_collections(runtime, options), orders)


def build_indexes(runtime: Runtime, options: Options, orders: Orders) -> Figures:
    return runtime.maintenance.build_indexes(_collections(runtime, options), orders)


def probe_recall(runtime: Runtime, options: Options, orders: Orders) -> Figures:
    return runtime.maintenance.probe_recall(_collections(runtime, options), orders)


def tune_ef_search(runtime: Runtime, options: Options, orders: Orders) -> Figures:
    return runtime.maintenance.tune_ef_search(_collections(runtime, options), orders)


def purge_expired(runtime: Runtime, options: Options, orders: Orders) -> Figures:
    return runtime.maintenance.purge_expired(_collections(runtime, options), orders)


def recount_stock(runtime: Runtime, options: Options, orders: Orders) -> Figures:
    return runtime.maintenance.recount_stock(_collections(runtime, options), orders)


def clear_cache(runtime: Runtime, options: Options, orders: Orders) -> Figures:
    """Answers of searches on every instance; of all collections, the vectors of query texts as well."""
    collections = _collections(runtime, options)
    of_all = "project_id" not in options
    if orders.dry_run:
        embeddings = {"embeddings": runtime.query_embeddings.count()} if of_all else {}
        told = [{"project_id": one.project_id, "collection": one.name, "action": "planned"} for one in collections]
        return {"collections": told, **embeddings}
    cleared = runtime.database.run(lambda connection: revisions.change_all(connection, collections))
    if not of_all:
        return {"collections_cleared": cleared}
    deleted, is_done = runtime.query_embeddings.clear(orders.ends_at)
    return {"collections_cleared": cleared, "embeddings_deleted": deleted, "embeddings_left": not is_done}


def get_index_stats(runtime: Runtime, options: Options, orders: Orders) -> Figures:
    return runtime.maintenance.index_stats(_collections(runtime, options))


def export_stats(runtime: Runtime, options: Options, orders: Orders) -> Figures:
    collections = _collections(runtime, options)
    now = runtime.clock()
    whose = Selection(project_id=options.get("project_id"))
    recent = runtime.reports.summary(whose, now - timedelta(hours=24), now).total
    return {
        **runtime.maintenance.statistics(collections),
        "indexes": runtime.maintenance.index_stats(collections)["collections"],
        "circuits": runtime.circuits.states(),
        "last_24_hours": {
            "total_requests": recent.requests,
            "total_tokens": recent.tokens,
            "success_rate": recent.success_rate,
            "avg_duration_ms": recent.avg_duration_ms,
            "cost_usd": recent.micro_usd / 1_000_000,
        },
    }


def migrate(runtime: Runtime, options: Options, orders: Orders) -> Figures:
    """Not by ``vecmeter.maintenance``: there may be no table yet."""
    if orders.dry_run:
        return {"pending": pending_migrations(runtime.dsn())}
    return {"applied": apply_migrations(runtime.dsn(), orders.ends_at)}


def _collections(runtime: Runtime, options: Options) -> list[Collection]:
    return runtime.maintenance.select(options.get("project_id"), options.get("collection"))
