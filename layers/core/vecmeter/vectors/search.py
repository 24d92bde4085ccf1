"""Search: one statement per request, whose plan we choose from counts instead of leaving it to the planner.

* ``exact``: every vector of the namespace that the filter lets through is compared. Taken while there is no HNSW
  index, and where few vectors are in question: there it is faster than an index and finds everything.
* ``hnsw``: the index delivers vectors in order of distance until ``top_k`` of the namespace are found.
* ``adaptive``: there is an index and a filter. The statement counts what the filter lets through, up to a
  threshold, and runs the exact branch up to it, else the index; the other branch is never executed (a one-time
  filter above it in the plan).

An index scan ends after ``hnsw.max_scan_tuples``. Where it brings fewer rows than there must be, the exact plan runs.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, LiteralString

from vecmeter.errors import VectorNotFoundError
from vecmeter.vectors.collections import Collections
from vecmeter.vectors.connection import Connection, Database, pack_vector
from vecmeter.vectors.filters import CompiledFilter, compile_filter
from vecmeter.vectors.model import Collection, Match, Metric, Plan, Query, SearchResult, Storage
from vecmeter.vectors.tables import indexed_expression, statement

# How long an instance believes that a namespace has more vectors than the exact threshold.
NAMESPACE_SECONDS = 30.0
REMEMBERED_NAMESPACES = 10_000
# The role's default of hnsw.ef_search serves half as many matches; pgvector takes up to 1,000.
DEFAULT_EF_SEARCH = 100
MAX_EF_SEARCH = 1000

_GIVEN: LiteralString = "%(numbers)b::vector({dimension})"
_STORED: LiteralString = """(
    SELECT sv.embedding FROM {vectors} sv JOIN {records} sr USING (record_id)
    WHERE sr.namespace = %(namespace)s AND sr.id = %(id)s
)"""

# The fields of the few matches that are left; one row without a match when there is none, for the count.
_MATCHES: LiteralString = """
    WITH [counts]
    SELECT r.id, hits.distance, [metadata], [document], [numbers], counted.n
    FROM counted LEFT JOIN ([hits]) hits ON true
    LEFT JOIN {records} r ON r.record_id = hits.record_id
    LEFT JOIN {vectors} v ON v.record_id = hits.record_id
    ORDER BY hits.distance, r.id
"""
_NOT_COUNTED: LiteralString = "counted AS (SELECT NULL::bigint AS n)"
_COUNTED: LiteralString = """
    candidates AS MATERIALIZED (
        SELECT r.record_id FROM {records} r WHERE r.namespace = %(namespace)s AND [filter] LIMIT %(threshold)s + 1
    ), counted AS MATERIALIZED (SELECT count(*) AS n FROM candidates)
"""
# "+ 0" keeps the planner from the index: it decides by its own estimates, we by counts.
_EXACT: LiteralString = """
    SELECT v.record_id, v.embedding {operator} [query] AS distance
    FROM {vectors} v WHERE v.namespace = %(namespace)s
    ORDER BY (v.embedding {operator} [query]) + 0 LIMIT %(top_k)s
"""
_EXACT_FILTERED: LiteralString = """
    SELECT v.record_id, v.embedding {operator} [query] AS distance
    FROM {vectors} v JOIN {records} r USING (record_id)
    WHERE r.namespace = %(namespace)s AND [filter]
    ORDER BY (v.embedding {operator} [query]) + 0 LIMIT %(top_k)s
"""
_INDEXED: LiteralString = """
    SELECT v.record_id, v.embedding {operator} [query] AS distance
    FROM {vectors} v WHERE v.namespace = %(namespace)s
    ORDER BY [indexed_column] {operator} [indexed_query] LIMIT %(top_k)s
"""
_ADAPTIVE: LiteralString = """
    (
        SELECT v.record_id, v.embedding {operator} [query] AS distance
        FROM candidates JOIN {vectors} v USING (record_id)
        WHERE (SELECT n FROM counted) <= %(threshold)s
        ORDER BY (v.embedding {operator} [query]) + 0 LIMIT %(top_k)s
    ) UNION ALL (
        SELECT v.record_id, v.embedding {operator} [query] AS distance
        FROM {vectors} v JOIN {records} r USING (record_id)
        WHERE (SELECT n FROM counted) > %(threshold)s AND v.namespace = %(namespace)s AND [filter]
        ORDER BY [indexed_column] {operator} [indexed_query] LIMIT %(top_k)s
    )
"""
# Whether a namespace has more vectors than the exact threshold, without counting them all.
_NAMESPACE_IS_LARGE: LiteralString = """
    SELECT count(*) > %(threshold)s
    FROM (SELECT FROM {vectors} v WHERE v.namespace = %(namespace)s LIMIT %(threshold)s + 1) found
"""
_SET_EF_SEARCH: LiteralString = "SELECT set_config('hnsw.ef_search', %s, true)"


@dataclass(frozen=True, slots=True)
class _Shape:
    """All that decides a search statement's text, apart from the collection's tables."""

    plan: Plan
    filter: LiteralString | None
    by_id: bool
    metric: Metric
    storage: Storage
    include: tuple[bool, bool, bool]


class Searcher:
    """Answers searches. ``exact_threshold``: candidates up to which comparing them all beats the index."""

    def __init__(
        self,
        database: Database,
        collections: Collections,
        exact_threshold: int,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._collections = collections
        self._threshold = exact_threshold
        self._monotonic = monotonic
        self._large: dict[tuple[int, str], tuple[float, bool]] = {}

    def search(self, collection: Collection, query: Query) -> SearchResult:
        """The ``top_k`` nearest vectors of the query's namespace that its filter lets through, best first.

        Raises:
            VectorNotFoundError: the query is by id, and there is no such vector.
            InvalidRequestError: the filter is wrong.
        """
        compiled = compile_filter(query.filter)
        plan = self._choose_plan(collection, query, compiled)
        result = self._run(plan, collection, query, compiled)
        if len(result.matches) < query.top_k and self._must_have_more(result):
            result = self._run(Plan.EXACT, collection, query, compiled)
        if query.id is not None and not result.matches:
            self._require_stored(collection, query.namespace, query.id)
        return result

    def _choose_plan(self, collection: Collection, query: Query, compiled: CompiledFilter | None) -> Plan:
        if query.exact or not collection.index_ready or query.top_k > self._threshold:
            return Plan.EXACT
        if compiled is not None:
            return Plan.ADAPTIVE
        return Plan.HNSW if self._is_large(collection, query.namespace) else Plan.EXACT

    def _must_have_more(self, result: SearchResult) -> bool:
        if result.plan is Plan.ADAPTIVE:
            return result.candidates is not None and result.candidates > self._threshold
        return result.plan is Plan.HNSW

    def _is_large(self, collection: Collection, namespace: str) -> bool:
        key, now = (collection.collection_id, namespace), self._monotonic()
        remembered = self._large.get(key)
        if remembered is not None and now - remembered[0] < NAMESPACE_SECONDS:
            return remembered[1]
        parameters = {"namespace": namespace, "threshold": self._threshold}
        row = self._database.run(
            lambda c: c.execute(statement(_NAMESPACE_IS_LARGE, collection), parameters).fetchone(),
            repeatable=True,
        )
        large = bool(row and row[0])
        if len(self._large) >= REMEMBERED_NAMESPACES:
            self._large.clear()
        self._large[key] = (now, large)
        return large

    def _run(self, plan: Plan, collection: Collection, query: Query, compiled: CompiledFilter | None) -> SearchResult:
        shape = _Shape(
            plan=plan,
            filter=compiled.expression if compiled else None,
            by_id=query.id is not None,
            metric=collection.metric,
            storage=collection.index.storage,
            include=(query.include_metadata, query.include_document, query.include_vector),
        )
        text = statement(_template(shape), collection)
        parameters: dict[str, Any] = {
            "namespace": query.namespace,
            "id": query.id,
            "numbers": pack_vector(query.numbers) if query.numbers is not None else None,
            "top_k": query.top_k,
            "threshold": self._threshold,
            **(compiled.parameters if compiled else {}),
        }
        ef_search = min(MAX_EF_SEARCH, 2 * query.top_k)

        def work(connection: Connection) -> list[Any]:
            if plan is Plan.EXACT or ef_search <= DEFAULT_EF_SEARCH:
                return connection.execute(text, parameters).fetchall()
            # One round trip still: the setting and the statement go out together.
            with connection.pipeline(), connection.transaction():
                connection.execute(_SET_EF_SEARCH, [str(ef_search)])
                cursor = connection.execute(text, parameters)
            return cursor.fetchall()

        rows = self._database.run(work, repeatable=True)
        # Without a stored vector to compare with there are rows, but no distances.
        matches = [_match(collection.metric, query.namespace, row) for row in rows if row[1] is not None]
        return SearchResult(matches=matches, plan=plan, candidates=rows[0][5])

    def _require_stored(self, collection: Collection, namespace: str, id: str) -> None:
        exists: LiteralString = "SELECT 1 FROM {records} WHERE namespace = %s AND id = %s"
        if not self._database.run(
            lambda c: c.execute(statement(exists, collection), [namespace, id]).fetchone(), repeatable=True
        ):
            raise VectorNotFoundError(f"There is no vector {id!r}.")


@lru_cache(maxsize=1024)
def _template(shape: _Shape) -> LiteralString:
    query = _STORED if shape.by_id else _GIVEN
    exact = _EXACT if shape.filter is None else _EXACT_FILTERED
    hits = {Plan.EXACT: exact, Plan.HNSW: _INDEXED, Plan.ADAPTIVE: _ADAPTIVE}[shape.plan]
    metadata, document, numbers = shape.include
    return (
        _MATCHES.replace("[counts]", _COUNTED if shape.plan is Plan.ADAPTIVE else _NOT_COUNTED)
        .replace("[hits]", hits)
        .replace("[indexed_column]", indexed_expression(shape.metric, shape.storage, "v.embedding"))
        .replace("[indexed_query]", indexed_expression(shape.metric, shape.storage, query))
        .replace("[query]", query)
        .replace("[filter]", shape.filter or "true")
        .replace("[metadata]", "r.metadata" if metadata else "NULL")
        .replace("[document]", "r.document" if document else "NULL")
        .replace("[numbers]", "v.embedding::text" if numbers else "NULL")
    )


def _match(metric: Metric, namespace: str, row: tuple[Any, ...]) -> Match:
    id, distance, metadata, document, numbers, _ = row
    return Match(
        id=id,
        namespace=namespace,
        score=metric.score(distance),
        distance=distance,
        metadata=metadata,
        document=document,
        numbers=json.loads(numbers) if numbers is not None else None,
    )
