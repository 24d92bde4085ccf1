"""Looking after the tables: vacuum, indexes, statistics, run history. Nothing here blocks searches or writes.

Statements that take long run on a connection of their own, without the time-out of requests. When the function that
started one dies, the statement goes on in the database and holds its advisory lock; whoever comes next finds the
lock taken and leaves the collection alone, or finds the half-built index and starts over. What fails for one
collection is told in its figures and does not keep the others from their turn.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, LiteralString

import psycopg
from psycopg import errors as pg
from psycopg.rows import class_row, dict_row
from psycopg.types.json import Jsonb

from vecmeter.errors import VecmeterError
from vecmeter.vectors import definitions, stock
from vecmeter.vectors.collections import Collections, CollectionSize
from vecmeter.vectors.connection import KEEPALIVE, Connection, translate
from vecmeter.vectors.expiry import sweep_expired
from vecmeter.vectors.index_builds import IndexBuilds, drop_invalid
from vecmeter.vectors.model import Collection
from vecmeter.vectors.tables import MAINTENANCE_LOCK, statement, table_names

_logger = logging.getLogger("vecmeter.maintenance")

# pgvector 0.8.4 mends corruption of HNSW indexes by vacuum, 0.8.2 a CVE.
MINIMUM_PGVECTOR = (0, 8, 4)
_CONNECT_ARGUMENTS: dict[str, Any] = {
    "autocommit": True,
    "application_name": "vecmeter-maintenance",
    "connect_timeout": 5,
    **KEEPALIVE,
}
# A receipt is of use while its write is being repeated, which takes seconds.
RECEIPTS_KEPT = timedelta(hours=1)
RUNS_KEPT = timedelta(days=90)

_TRY_LOCK: LiteralString = "SELECT pg_try_advisory_lock(%s, %s)"
_UNLOCK: LiteralString = "SELECT pg_advisory_unlock(%s, %s)"
_VACUUM: LiteralString = "VACUUM (ANALYZE) {records}, {vectors}"
_VACUUM_TEXTS: LiteralString = "VACUUM (ANALYZE) {texts}"
# What nobody will ask for again; a receipt's number begins with its time.
_FORGET_RECEIPTS: LiteralString = "DELETE FROM vecmeter.receipts WHERE receipt_id < %s"
_FORGET_RUNS: LiteralString = "DELETE FROM vecmeter.maintenance_runs WHERE started_at < %s"
_FORGET_ANSWERS: LiteralString = "DELETE FROM vecmeter.idempotency_keys WHERE kept_until < %s"
_VACUUM_RECEIPTS: LiteralString = (
    "VACUUM (ANALYZE) vecmeter.receipts, vecmeter.stock, vecmeter.stock_changes, vecmeter.idempotency_keys"
)
# Dead rows of all tables as the statistics system knows them.
_DEAD_TUPLES: LiteralString = """
    SELECT coalesce(sum(n_dead_tup), 0)::bigint AS dead_tuples
    FROM pg_stat_user_tables WHERE schemaname = 'vecmeter' AND relname = ANY(%(tables)s)
"""
_INDEX_STATS: LiteralString = """
    SELECT s.indexrelname AS index_name, s.relname AS table_name, pg_relation_size(s.indexrelid) AS bytes,
           pg_size_pretty(pg_relation_size(s.indexrelid)) AS size, s.idx_scan AS scans, i.indisvalid AS valid,
           am.amname AS method
    FROM pg_stat_user_indexes s
    JOIN pg_index i ON i.indexrelid = s.indexrelid
    JOIN pg_class c ON c.oid = s.indexrelid
    JOIN pg_am am ON am.oid = c.relam
    WHERE s.schemaname = 'vecmeter' AND s.relname = ANY(%(tables)s)
    ORDER BY s.indexrelname
"""
_DATABASE_STATS: LiteralString = """
    SELECT current_setting('server_version') AS postgresql,
           (SELECT extversion FROM pg_extension WHERE extname = 'vector') AS pgvector,
           pg_database_size(current_database()) AS bytes,
           pg_size_pretty(pg_database_size(current_database())) AS size,
           (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()) AS connections,
           current_setting('max_connections')::int AS max_connections
"""
_RECORD_RUN: LiteralString = """
    INSERT INTO vecmeter.maintenance_runs (task, status, message, error, figures, started_at, finished_at)
    VALUES (%(task)s, %(status)s, %(message)s, %(error)s, %(figures)s, %(started_at)s, %(finished_at)s)
"""
_RUNS: LiteralString = """
    SELECT run_id, task, status, message, error, figures, started_at, finished_at FROM vecmeter.maintenance_runs
    WHERE run_id < %(before)s ORDER BY run_id DESC LIMIT %(limit)s
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of a task, as the history keeps it."""

    run_id: int
    task: str
    status: str
    message: str
    error: str | None
    figures: dict[str, Any]
    started_at: datetime
    finished_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexStats:
    """One index: ``bytes`` on disk (``size`` for people), scans since the statistics began, whether it may be used."""

    index_name: str
    table_name: str
    bytes: int
    size: str
    scans: int
    valid: bool
    method: str


class Maintenance:
    """The tasks on PostgreSQL, each over some collections. Figures are plain values, ready for JSON."""

    def __init__(self, dsn: Callable[[], str], collections: Collections, builds: IndexBuilds) -> None:
        self._dsn = dsn
        self._collections = collections
        self._builds = builds

    def select(self, project_id: str | None = None, name: str | None = None) -> list[Collection]:
        """The collections a task is about: all, those of a project, or one. Raises CollectionNotFoundError."""
        if project_id is not None and name is not None:
            return [self._collections.get(project_id, name)]
        return [c for c in self._collections.list_all() if project_id in (None, c.project_id)]

    def vacuum_analyze(self, collections: Iterable[Collection]) -> dict[str, Any]:
        """Remove dead rows and refresh the planner's statistics."""

        def vacuum(connection: Connection, collection: Collection) -> dict[str, Any]:
            before = _dead_tuples(connection, collection)
            connection.execute(statement(_VACUUM, collection))
            if collection.text_search is not None:
                connection.execute(statement(_VACUUM_TEXTS, collection))
            return {"dead_tuples_before": before, "dead_tuples_after": _dead_tuples(connection, collection)}

        return self._each(collections, vacuum)

    def reindex_hnsw(self, collections: Iterable[Collection]) -> dict[str, Any]:
        """Rebuild the HNSW indexes there are; the old one answers until the new one is ready."""

        def reindex(connection: Connection, collection: Collection) -> dict[str, Any]:
            dropped = drop_invalid(connection, collection)
            if not collection.hnsw:
                return {"action": "none", "reason": "there is no HNSW index", "invalid_dropped": dropped}
            self._builds.reindex(connection, collection)
            return {"action": "reindexed", "invalid_dropped": dropped}

        return self._each(collections, reindex)

    def build_indexes(self, collections: Iterable[Collection], *, dry_run: bool = False) -> dict[str, Any]:
        """Give each collection the indexes it ought to have by now (index_policy.py), or say which and why."""
        work = self._builds.plan if dry_run else self._builds.run
        return self._each(collections, work, lock=not dry_run)

    def build_soon(self, collection: Collection) -> bool:
        """``build_indexes`` for one collection; whether it is done, or was put off."""
        [figure] = self.build_indexes([collection])["collections"]
        return bool(figure["action"] != "put off")

    def index_stats(self, collections: Iterable[Collection]) -> dict[str, Any]:
        """Sizes, scans and validity of every index."""

        def stats(connection: Connection, collection: Collection) -> dict[str, Any]:
            cursor = connection.cursor(row_factory=class_row(IndexStats))
            tables = _tables(collection)
            return {"indexes": [asdict(row) for row in cursor.execute(_INDEX_STATS, {"tables": tables})]}

        return self._each(collections, stats, lock=False)

    def statistics(self, collections: Iterable[Collection]) -> dict[str, Any]:
        """The database as a whole, and each collection's exact count and bytes."""
        with self._connect() as connection:
            row = connection.cursor(row_factory=dict_row).execute(_DATABASE_STATS).fetchone()
            assert row is not None, "a row of constants always answers"
            database = dict(row)
        database["pgvector_supported"] = is_supported(database["pgvector"])
        sizes = list(self._sizes(collections))
        return {
            "database": database,
            "total_vectors": sum(size.count for _, size in sizes),
            "collections": [{"project_id": c.project_id, "collection": c.name, **asdict(size)} for c, size in sizes],
        }

    def forget(self, now: datetime) -> dict[str, int]:
        """Delete receipts, kept answers and runs that are past use, and fold changes of the stock; returns how many of
        each, and of how many projects.
        """
        oldest = int((now - RECEIPTS_KEPT).timestamp() * 1e9).to_bytes(8, "big")
        with self._connect() as connection:
            receipts = connection.execute(_FORGET_RECEIPTS, [uuid.UUID(bytes=oldest + bytes(8))]).rowcount
            answers = connection.execute(_FORGET_ANSWERS, [now]).rowcount
            runs = connection.execute(_FORGET_RUNS, [now - RUNS_KEPT]).rowcount
            projects = stock.fold(connection)
            connection.execute(_VACUUM_RECEIPTS)
        return {
            "receipts_deleted": receipts,
            "answers_deleted": answers,
            "runs_deleted": runs,
            "projects_folded": projects,
        }

    def purge_expired(self, collections: Iterable[Collection]) -> dict[str, Any]:
        """Delete what has expired; says of how many vectors that was so."""

        def sweep(connection: Connection, collection: Collection) -> dict[str, Any]:
            deleted = sweep_expired(connection, collection)
            return {"deleted": deleted} if deleted else {"action": "none"}

        return self._each(collections, sweep, lock=False)

    def recount_stock(self, collections: Iterable[Collection]) -> dict[str, Any]:
        """Count vectors and bytes anew from the rows; says by how much the accounts were wrong, which is 0 and 0."""

        def recount(connection: Connection, collection: Collection) -> dict[str, Any]:
            return {"corrected": stock.recount(connection, collection)}

        return self._each(collections, recount)

    def record_run(self, task: str, outcome: Mapping[str, Any], started_at: datetime, finished_at: datetime) -> None:
        """Keep a run in the history; collections for which there was nothing to do are left out."""
        figures = {k: v for k, v in outcome.items() if k not in ("status", "message", "error")}
        if "collections" in figures:
            figures["collections"] = [c for c in figures["collections"] if c.get("action") != "none"]
        parameters = {
            "task": task,
            "status": outcome["status"],
            "message": outcome["message"],
            "error": outcome.get("error"),
            "figures": Jsonb(figures),
            "started_at": started_at,
            "finished_at": finished_at,
        }
        with self._connect() as connection:
            connection.execute(_RECORD_RUN, parameters)

    def runs(self, *, before: int, limit: int) -> list[Run]:
        """The history, newest first: up to ``limit`` runs with numbers below ``before``."""
        with self._connect() as connection:
            cursor = connection.cursor(row_factory=class_row(Run))
            return cursor.execute(_RUNS, {"before": before, "limit": limit}).fetchall()

    def _each(
        self,
        collections: Iterable[Collection],
        work: Callable[[Connection, Collection], dict[str, Any]],
        *,
        lock: bool = True,
    ) -> dict[str, Any]:
        figures = []
        with self._connect() as connection:
            for collection in collections:
                figure = {"project_id": collection.project_id, "collection": collection.name}
                try:
                    with _locked(connection, collection) if lock else nullcontext(True) as is_ours:
                        if is_ours:
                            # As it is now: another run may have changed it before the lock was free.
                            figure |= work(connection, _current(connection, collection))
                        else:
                            figure |= {"action": "none", "reason": "busy"}
                except pg.UndefinedTable:
                    figure |= {"action": "none", "reason": "dropped meanwhile"}
                except (psycopg.Error, VecmeterError) as error:
                    if connection.closed:
                        raise
                    _logger.exception("maintenance failed", extra={"collection_id": collection.collection_id})
                    figure |= {"action": "failed", "error": type(error).__name__}
                figures.append(figure)
        return {"collections": figures}

    def _sizes(self, collections: Iterable[Collection]) -> Iterator[tuple[Collection, CollectionSize]]:
        for collection in collections:
            try:
                yield collection, self._collections.size(collection)
            except pg.UndefinedTable:
                continue  # dropped meanwhile

    @contextmanager
    def _connect(self) -> Iterator[Connection]:
        try:
            with psycopg.connect(self._dsn(), **_CONNECT_ARGUMENTS) as connection:
                # A connection of its own, not through a proxy: the setting ends with it.
                connection.execute("SET statement_timeout = 0")
                yield connection
        except psycopg.Error as error:
            ours = translate(error)
            if ours is None:
                raise
            raise ours from error


def is_supported(pgvector: str | None) -> bool:
    """Whether a pgvector version is one that searches and vacuums correctly."""
    if pgvector is None:
        return False
    return tuple(int(part) for part in pgvector.split(".")[:3]) >= MINIMUM_PGVECTOR


@contextmanager
def _locked(connection: Connection, collection: Collection) -> Iterator[bool]:
    """Whether this session may work on the collection: two runs never do the same work at once."""
    key = [MAINTENANCE_LOCK, collection.collection_id]
    row = connection.execute(_TRY_LOCK, key).fetchone()
    is_ours = bool(row and row[0])
    try:
        yield is_ours
    finally:
        if is_ours and not connection.closed:
            connection.execute(_UNLOCK, key)


def _current(connection: Connection, collection: Collection) -> Collection:
    """The definition as it is now. Raises UndefinedTable where it is gone, as statements do."""
    found = definitions.read(connection, collection.collection_id)
    if found is None:
        raise pg.UndefinedTable
    return found


def _tables(collection: Collection) -> list[str]:
    """All there may be."""
    return [*table_names(collection.collection_id), f"texts_{collection.collection_id}"]


def _dead_tuples(connection: Connection, collection: Collection) -> int:
    tables = _tables(collection)
    row = connection.execute(_DEAD_TUPLES, {"tables": tables}).fetchone()
    return int(row[0]) if row else 0
