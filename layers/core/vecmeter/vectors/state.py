"""The database in numbers, for metrics: one connection, three statements, whatever the number of collections."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString

from psycopg.rows import class_row

from vecmeter.vectors.connection import Connection, Database

# As limits count it: see ``stock.RECORD_BYTES``.
_TOTALS: LiteralString = """
    SELECT pg_database_size(current_database()) AS bytes,
           (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()) AS connections,
           current_setting('max_connections')::int AS max_connections,
           (SELECT coalesce(sum(n_dead_tup), 0)::bigint FROM pg_stat_user_tables WHERE schemaname = 'vecmeter')
               AS dead_rows,
           (SELECT count(*) FROM vecmeter.collections) AS collections,
           (SELECT count(DISTINCT project_id) FROM vecmeter.collections) AS projects,
           (SELECT coalesce(sum(vectors), 0)::bigint FROM vecmeter.stock)
               + (SELECT coalesce(sum(vectors), 0)::bigint FROM vecmeter.stock_changes) AS vectors,
           (SELECT coalesce(sum(bytes), 0)::bigint FROM vecmeter.stock)
               + (SELECT coalesce(sum(bytes), 0)::bigint FROM vecmeter.stock_changes) AS stored_bytes
"""
# The largest collections; with the lowest recall that was measured of searches in their indexes.
_COLLECTIONS: LiteralString = """
    SELECT c.project_id, c.name AS collection, s.vectors + coalesce(d.vectors, 0) AS vectors,
           s.bytes + coalesce(d.bytes, 0) AS bytes, i.recall, c.target_recall
    FROM vecmeter.collections c
    JOIN vecmeter.stock s USING (collection_id)
    LEFT JOIN (
        SELECT collection_id, sum(vectors)::bigint AS vectors, sum(bytes)::bigint AS bytes
        FROM vecmeter.stock_changes GROUP BY collection_id
    ) d USING (collection_id)
    LEFT JOIN (
        SELECT collection_id, min(probed_recall) AS recall
        FROM vecmeter.hnsw_indexes WHERE state = 'ready' GROUP BY collection_id
    ) i USING (collection_id)
    ORDER BY bytes DESC, c.collection_id
    LIMIT %(most)s
"""
# The last run of each task that came to an end.
_TASKS: LiteralString = """
    SELECT r.task, r.status, r.started_at, r.finished_at
    FROM unnest(%(tasks)s::text[]) AS asked (task)
    CROSS JOIN LATERAL (
        SELECT task, status, started_at, finished_at FROM vecmeter.maintenance_runs
        WHERE task = asked.task AND status <> 'running'
        ORDER BY run_id DESC LIMIT 1
    ) r
    ORDER BY r.task
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseTotals:
    """``bytes`` on disk; ``stored_bytes`` as limits and bills count them; ``projects`` that have collections."""

    bytes: int
    connections: int
    max_connections: int
    dead_rows: int
    collections: int
    projects: int
    vectors: int
    stored_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionState:
    """``recall``: the lowest of its indexes, when it was measured last; None: never."""

    project_id: str
    collection: str
    vectors: int
    bytes: int
    recall: float | None
    target_recall: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LastRun:
    """How a task ended when it last did."""

    task: str
    status: str
    started_at: datetime
    finished_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseState:
    totals: DatabaseTotals
    collections: list[CollectionState]
    runs: list[LastRun]


def read_state(database: Database, *, most_collections: int, tasks: Iterable[str]) -> DatabaseState:
    """The database's state, its largest collections, and the last runs of tasks. Raises DatabaseUnavailableError."""
    named = list(tasks)

    def read(connection: Connection) -> DatabaseState:
        totals = connection.cursor(row_factory=class_row(DatabaseTotals)).execute(_TOTALS).fetchone()
        assert totals is not None, "a row of subqueries always answers"
        collections = connection.cursor(row_factory=class_row(CollectionState))
        runs = connection.cursor(row_factory=class_row(LastRun))
        return DatabaseState(
            totals=totals,
            collections=collections.execute(_COLLECTIONS, {"most": most_collections}).fetchall(),
            runs=runs.execute(_TASKS, {"tasks": named}).fetchall(),
        )

    return database.run(read)
