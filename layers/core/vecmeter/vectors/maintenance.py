"""Looking after the tables: what each task does for one collection after the other (turns.py), and for all together.

Nothing here blocks searches or writes. Figures are plain values, ready for JSON.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, LiteralString

from psycopg import errors as pg
from psycopg.rows import class_row, dict_row

from vecmeter.vectors import stock
from vecmeter.vectors.collections import Collections, CollectionSize
from vecmeter.vectors.connection import Connection
from vecmeter.vectors.expiry import count_expired, sweep_expired
from vecmeter.vectors.index_builds import IndexBuilds
from vecmeter.vectors.model import Collection
from vecmeter.vectors.probing import Prober
from vecmeter.vectors.reindex import ReindexThresholds, reindex
from vecmeter.vectors.tuning import Tuner
from vecmeter.vectors.turns import DEFAULT_ORDERS, Orders, Turns
from vecmeter.vectors.vacuum import VacuumThresholds, tables_of, vacuum_tables

# pgvector 0.8.4 mends corruption of HNSW indexes by vacuum, 0.8.2 a CVE.
MINIMUM_PGVECTOR = (0, 8, 4)
# A receipt is of use while its write is being repeated, which takes seconds.
RECEIPTS_KEPT = timedelta(hours=1)
# Tables of every write, from which ``forget`` deletes.
_OF_WRITES = ("receipts", "stock", "stock_changes", "idempotency_keys")

# What nobody will ask for again; a receipt's number begins with its time.
_FORGET_RECEIPTS: LiteralString = "DELETE FROM vecmeter.receipts WHERE receipt_id < %s"
_FORGET_ANSWERS: LiteralString = "DELETE FROM vecmeter.idempotency_keys WHERE kept_until < %s"
_FORGETTABLE: LiteralString = """
    SELECT (SELECT count(*) FROM vecmeter.receipts WHERE receipt_id < %(oldest)s) AS old_receipts,
           (SELECT count(*) FROM vecmeter.idempotency_keys WHERE kept_until < %(now)s) AS old_answers,
           (SELECT count(*) FROM vecmeter.stock_changes) AS changes_to_fold
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
    """The tasks on PostgreSQL, each over some collections."""

    def __init__(
        self,
        turns: Turns,
        collections: Collections,
        builds: IndexBuilds,
        prober: Prober,
        *,
        to_vacuum: VacuumThresholds,
        to_reindex: ReindexThresholds,
    ) -> None:
        self._turns = turns
        self._collections = collections
        self._builds = builds
        self._prober = prober
        self._to_vacuum = to_vacuum
        self._to_reindex = to_reindex

    def select(self, project_id: str | None = None, name: str | None = None) -> list[Collection]:
        """The collections a task is about: all, those of a project, or one. Raises CollectionNotFoundError."""
        if project_id is not None and name is not None:
            return [self._collections.get(project_id, name)]
        return [c for c in self._collections.list_all() if project_id in (None, c.project_id)]

    def vacuum_analyze(self, collections: Iterable[Collection], orders: Orders = DEFAULT_ORDERS) -> dict[str, Any]:
        """Remove dead rows, and refresh the planner's statistics, of tables with enough of them (vacuum.py)."""

        def vacuum(connection: Connection, collection: Collection) -> dict[str, Any]:
            return vacuum_tables(connection, tables_of(collection), self._to_vacuum, orders)

        return self._turns.each(collections, vacuum, orders)

    def reindex_hnsw(self, collections: Iterable[Collection], orders: Orders = DEFAULT_ORDERS) -> dict[str, Any]:
        """Build HNSW indexes anew that have grown, or swollen, or find too little (reindex.py)."""

        def rebuild(connection: Connection, collection: Collection) -> dict[str, Any]:
            return reindex(self._builds, connection, collection, self._to_reindex, orders)

        return self._turns.each(collections, rebuild, orders)

    def build_indexes(self, collections: Iterable[Collection], orders: Orders = DEFAULT_ORDERS) -> dict[str, Any]:
        """Give each collection the indexes it ought to have by now (index_policy.py), or say which and why."""

        def build(connection: Connection, collection: Collection) -> dict[str, Any]:
            if orders.dry_run:
                return self._builds.plan(connection, collection)
            return self._builds.run(connection, collection, orders)

        return self._turns.each(collections, build, orders)

    def build_soon(self, collection: Collection) -> bool:
        """``build_indexes`` for one collection; whether it is done, or was put off."""
        [figure] = self.build_indexes([collection])["collections"]
        return bool(figure["action"] != "put off")

    def probe_recall(self, collections: Iterable[Collection], orders: Orders = DEFAULT_ORDERS) -> dict[str, Any]:
        """Measure what the searches by each index find (probing.py); the lowest recall, and how many are too low."""
        told = self._turns.each(collections, lambda c, one: self._prober.probe(c, one, orders), orders)
        known = [figure for figure in told["collections"] if "recall" in figure]
        below = sum(figure["below_target"] for figure in known)
        return told | {"below_target": below, "recall": min((figure["recall"] for figure in known), default=None)}

    def tune_ef_search(self, collections: Iterable[Collection], orders: Orders = DEFAULT_ORDERS) -> dict[str, Any]:
        """Find the least ``ef_search`` that reaches each collection's target recall (tuning.py)."""
        tuner = Tuner(self._prober)
        return self._turns.each(collections, lambda c, one: tuner.tune(c, one, orders), orders)

    def index_stats(self, collections: Iterable[Collection]) -> dict[str, Any]:
        """Sizes, scans and validity of every index."""

        def stats(connection: Connection, collection: Collection) -> dict[str, Any]:
            cursor = connection.cursor(row_factory=class_row(IndexStats))
            tables = tables_of(collection)
            return {"indexes": [asdict(row) for row in cursor.execute(_INDEX_STATS, {"tables": tables})]}

        return self._turns.each(collections, stats, lock=False)

    def statistics(self, collections: Iterable[Collection]) -> dict[str, Any]:
        """The database as a whole, and each collection's exact count and bytes."""
        with self._turns.connect() as connection:
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

    def forget(self, now: datetime, orders: Orders = DEFAULT_ORDERS) -> dict[str, int]:
        """Delete receipts and kept answers that are past use, and fold changes of the stock; returns how many of each,
        and of how many projects.
        """
        with self._turns.connect() as connection:
            receipts = connection.execute(_FORGET_RECEIPTS, [_oldest_receipt(now)]).rowcount
            answers = connection.execute(_FORGET_ANSWERS, [now]).rowcount
            projects = stock.fold(connection)
            vacuum_tables(connection, _OF_WRITES, self._to_vacuum, orders)
        return {"receipts_deleted": receipts, "answers_deleted": answers, "projects_folded": projects}

    def forgettable(self, now: datetime) -> dict[str, int]:
        """What there is for ``forget``."""
        with self._turns.connect() as connection:
            parameters = {"oldest": _oldest_receipt(now), "now": now}
            row = connection.cursor(row_factory=dict_row).execute(_FORGETTABLE, parameters).fetchone()
        assert row is not None, "aggregates always answer"
        return row

    def purge_expired(self, collections: Iterable[Collection], orders: Orders = DEFAULT_ORDERS) -> dict[str, Any]:
        """Delete what has expired; says of how many vectors that was so."""

        def sweep(connection: Connection, collection: Collection) -> dict[str, Any]:
            if orders.dry_run:
                expired = count_expired(connection, collection)
                return {"action": "planned", "expired": expired} if expired else {"action": "none"}
            deleted = sweep_expired(connection, collection, orders.is_time_up)
            return {"deleted": deleted} if deleted else {"action": "none"}

        return self._turns.each(collections, sweep, orders, lock=False)

    def recount_stock(self, collections: Iterable[Collection], orders: Orders = DEFAULT_ORDERS) -> dict[str, Any]:
        """Count vectors and bytes anew from the rows; says by how much the accounts were wrong, which is 0 and 0."""

        def recount(connection: Connection, collection: Collection) -> dict[str, Any]:
            with connection.transaction(force_rollback=orders.dry_run):
                return {"corrected": stock.recount(connection, collection)}

        return self._turns.each(collections, recount, orders)

    def _sizes(self, collections: Iterable[Collection]) -> Iterator[tuple[Collection, CollectionSize]]:
        for collection in collections:
            try:
                yield collection, self._collections.size(collection)
            except pg.UndefinedTable:
                continue  # dropped meanwhile


def _oldest_receipt(now: datetime) -> uuid.UUID:
    """The least number of a receipt that is of use."""
    return uuid.UUID(bytes=int((now - RECEIPTS_KEPT).timestamp() * 1e9).to_bytes(8, "big") + bytes(8))


def is_supported(pgvector: str | None) -> bool:
    """Whether a pgvector version is one that searches and vacuums correctly."""
    if pgvector is None:
        return False
    return tuple(int(part) for part in pgvector.split(".")[:3]) >= MINIMUM_PGVECTOR
