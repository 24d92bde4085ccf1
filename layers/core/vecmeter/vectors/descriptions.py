"""What there is of a collection: its namespaces, the plans their searches take, and its indexes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString

from psycopg.rows import class_row

from vecmeter.vectors.connection import Connection, Database
from vecmeter.vectors.model import Collection, Plan
from vecmeter.vectors.plans import NamespaceSize, choose_plan
from vecmeter.vectors.prefixes import first_without
from vecmeter.vectors.tables import LIVE_VECTOR, statement

# A description shows so many namespaces, the largest ones.
MOST_NAMESPACES = 100

# Vectors of each namespace, by the small index of the vectors, without those that have expired.
_LIVE: LiteralString = """
    expired AS MATERIALIZED (
        SELECT namespace, count(*) AS n FROM {records} WHERE expires_at <= now() GROUP BY namespace
    ), live AS (
        SELECT v.namespace, v.n - coalesce(e.n, 0) AS count
        FROM (
            SELECT namespace, count(*) AS n FROM {vectors} WHERE (namespace > %(after)s OR %(from_start)s) [within]
            GROUP BY namespace ORDER BY namespace
        ) v LEFT JOIN expired e USING (namespace)
        WHERE v.n > coalesce(e.n, 0)
    )
"""
_PAGE: LiteralString = """
    WITH [live] SELECT namespace, count FROM live ORDER BY namespace LIMIT %(limit)s
""".replace("[live]", _LIVE)
# How many namespaces have vectors: from each to the next, for counting the vectors would read them all.
_COUNT_NAMESPACES: LiteralString = """
    WITH RECURSIVE names (namespace) AS (
        SELECT min(namespace) FROM {vectors} WHERE true [within]
        UNION ALL
        SELECT (SELECT min(namespace) FROM {vectors} WHERE namespace > names.namespace [within])
        FROM names WHERE namespace IS NOT NULL
    )
    SELECT count(*) FROM names WHERE EXISTS (
        SELECT FROM {vectors} v WHERE v.namespace = names.namespace AND [live]
    )
""".replace("[live]", LIVE_VECTOR)
# The largest ones, each beside the number of all vectors.
_LARGEST: LiteralString = """
    WITH [live] SELECT namespace, count, (sum(count) OVER ())::bigint AS total FROM live
    ORDER BY count DESC, namespace LIMIT %(limit)s
""".replace("[live]", _LIVE.replace("[within]", ""))
_INDEXES: LiteralString = """
    SELECT h.namespace, h.storage, h.m, h.ef_construction, h.state, h.vectors, h.recall, h.built_at,
           h.probed_recall, h.probed_at, coalesce(pg_relation_size(i.indexrelid), 0) AS bytes
    FROM vecmeter.hnsw_indexes h
    LEFT JOIN pg_index i
        ON i.indexrelid = to_regclass('vecmeter.vectors_' || h.collection_id || '_hnsw_' || h.index_id)
    WHERE h.collection_id = {collection_id}
    ORDER BY h.namespace NULLS FIRST, h.index_id
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceCount:
    """A namespace, and exactly how many vectors it has."""

    namespace: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespacePlan:
    """The plan that a search of a namespace takes, and whether the index it asks is of this namespace alone."""

    namespace: str
    count: int
    plan: Plan
    has_own_index: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexState:
    """An HNSW index: of a namespace, or (None) of all vectors; ``state`` as vecmeter.hnsw_indexes has it; ``recall``
    when it was built, and ``probed_recall`` as measured last, where they were.
    """

    namespace: str | None
    storage: str
    m: int
    ef_construction: int
    state: str
    vectors: int | None
    recall: float | None
    built_at: datetime | None
    probed_recall: float | None
    probed_at: datetime | None
    bytes: int


class Descriptions:
    """Reads what there is. ``exact_threshold`` as searches have it."""

    def __init__(self, database: Database, exact_threshold: int) -> None:
        self._database = database
        self._threshold = exact_threshold

    def namespaces(
        self, collection: Collection, *, after: str | None, limit: int, prefix: str = ""
    ) -> list[NamespaceCount]:
        """Up to ``limit`` namespaces with vectors that come after ``after`` and start with ``prefix``, sorted."""
        within, bounds = _within(prefix)
        text = statement(_PAGE.replace("[within]", within), collection)
        parameters = {"after": after or "", "from_start": after is None, "limit": limit, **bounds}

        def work(connection: Connection) -> list[NamespaceCount]:
            cursor = connection.cursor(row_factory=class_row(NamespaceCount))
            return cursor.execute(text, parameters).fetchall()

        return self._database.run(work)

    def count_namespaces(self, collection: Collection, *, prefix: str = "") -> int:
        """How many namespaces with vectors start with ``prefix``."""
        within, bounds = _within(prefix)
        text = statement(_COUNT_NAMESPACES.replace("[within]", within), collection)
        row = self._database.run(lambda c: c.execute(text, bounds).fetchone())
        assert row is not None, "an aggregate always answers"
        return int(row[0])

    def plans(self, collection: Collection) -> list[NamespacePlan]:
        """The plans of searches without a filter, of the largest namespaces."""
        parameters = {"after": "", "from_start": True, "limit": MOST_NAMESPACES}
        rows = self._database.run(lambda c: c.execute(statement(_LARGEST, collection), parameters).fetchall())
        return [self._plan(collection, *row) for row in rows]

    def indexes(self, collection: Collection) -> list[IndexState]:
        def work(connection: Connection) -> list[IndexState]:
            cursor = connection.cursor(row_factory=class_row(IndexState))
            return cursor.execute(statement(_INDEXES, collection)).fetchall()

        return self._database.run(work)

    def _plan(self, collection: Collection, namespace: str, count: int, total: int) -> NamespacePlan:
        size = NamespaceSize(count, count / total)
        choice = choose_plan(collection, namespace, lambda: size, self._threshold)
        own = choice.hnsw is not None and choice.hnsw.namespace is not None
        return NamespacePlan(namespace=namespace, count=count, plan=choice.plan, has_own_index=own)


def _within(prefix: str) -> tuple[LiteralString, dict[str, str]]:
    """The condition on namespaces that start with a prefix, and its parameters."""
    if not prefix:
        return "", {}
    below = first_without(prefix)
    if below is None:
        return "AND namespace >= %(prefix)s", {"prefix": prefix}
    return "AND namespace >= %(prefix)s AND namespace < %(below)s", {"prefix": prefix, "below": below}
