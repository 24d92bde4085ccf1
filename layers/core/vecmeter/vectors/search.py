"""Search: one statement per request, whose plan we choose from counts instead of leaving it to the planner.

* ``exact``: every vector of the namespace that the filter lets through is compared. Taken while there is no HNSW
  index, and where few vectors are in question: there it is faster than an index and finds everything.
* ``hnsw``: the index delivers vectors by distance until enough of the namespace are found.
* ``adaptive``: there is an index and a filter. The statement looks at a sample of the collection. If enough of it
  passes the filter, it takes the index. Else it counts what passes, up to a threshold, and compares just these, or,
  beyond the threshold, takes the index. The branch that is not taken is never executed (a one-time filter above it).

An index scan ends after ``hnsw.max_scan_tuples``. Where it brings fewer rows than there must be, the exact plan runs.

The statements leave PostgreSQL's planner no other way, whatever its statistics say: a sum is not what the index is
ordered by, what stands in a CASE or a sub-select is no condition an index could answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, LiteralString

from vecmeter.errors import VectorNotFoundError
from vecmeter.vectors.connection import Connection, Database, pack_vector
from vecmeter.vectors.filters import CompiledFilter, compile_filter
from vecmeter.vectors.model import Collection, Match, Metric, Plan, Query, SearchResult, Storage
from vecmeter.vectors.records import parse_numbers
from vecmeter.vectors.tables import indexed_expression, statement

# How long an instance believes that a namespace has more vectors than the exact threshold, or not.
NAMESPACE_SECONDS = 30.0
REMEMBERED_NAMESPACES = 10_000
# The role's default of hnsw.ef_search serves half as many matches; pgvector takes up to 1,000.
DEFAULT_EF_SEARCH = 100
MAX_EF_SEARCH = 1000
# The index delivers in nearly the order of distance, and by half precision: half as many again as are wanted, and
# then some, are sorted by their true distances.
_MORE_DELIVERED = 10
# Rows the adaptive plan looks at, and how many of them must pass: the index then has to visit about
# top_k * SAMPLE / passed vectors, a few hundred.
SAMPLE = 128
_LEAST_PASSED = 8
_MOST_VISITED = 500

_GIVEN: LiteralString = "%(numbers)b::vector({dimension})"
_STORED: LiteralString = "(SELECT embedding FROM query)"
_STORED_QUERY: LiteralString = """
    query AS MATERIALIZED (
        SELECT v.embedding FROM {records} r JOIN {vectors} v USING (record_id)
        WHERE r.namespace = %(namespace)s AND r.id = %(id)s
    ),
"""

# The fields of the few matches that are left; one row without a match when there is none, for the count.
_MATCHES: LiteralString = """
    WITH [query_row] [candidates] counted AS MATERIALIZED (SELECT [count] AS n)
    SELECT r.id, hits.distance, [metadata], [document], [numbers], counted.n, [query_exists]
    FROM counted LEFT JOIN (
        {records} r RIGHT JOIN ([hits]) hits USING (record_id) LEFT JOIN {vectors} v USING (record_id)
    ) ON true
    ORDER BY hits.distance, r.id LIMIT %(top_k)s
"""
_EXACT: LiteralString = """
    SELECT v.record_id, (v.embedding {operator} [query]) + 0 AS distance
    FROM {vectors} v WHERE v.namespace = %(namespace)s
    ORDER BY distance LIMIT %(top_k)s
"""
_EXACT_OF_CANDIDATES: LiteralString = """
    SELECT v.record_id, (v.embedding {operator} [query]) + 0 AS distance
    FROM candidates JOIN {vectors} v USING (record_id) [gate]
    ORDER BY distance LIMIT %(top_k)s
"""
_INDEXED: LiteralString = """
    SELECT v.record_id, v.embedding {operator} [query] AS distance
    FROM {vectors} v WHERE CASE WHEN v.namespace = %(namespace)s THEN true ELSE false END [and_filter] [gate]
    ORDER BY [indexed_column] {operator} [indexed_query] LIMIT %(delivered)s
"""
_AND_FILTER: LiteralString = "AND (SELECT [filter] FROM {records} r WHERE r.record_id = v.record_id)"

# All that the filter lets through.
_CANDIDATES: LiteralString = """
    candidates AS MATERIALIZED (
        SELECT r.record_id FROM {records} r WHERE r.namespace = %(namespace)s AND [filter]
    ),
"""
# Up to the threshold; none where enough of the sample passes: 16 runs of 8 rows, spread evenly over the record numbers.
_SAMPLED_CANDIDATES: LiteralString = """
    sampled AS MATERIALIZED (
        SELECT count(*) FILTER (WHERE r.namespace = %(namespace)s AND [filter]) >= %(enough)s AS passes
        FROM (SELECT min(record_id) AS low, max(record_id) AS high FROM {records}) numbers
        CROSS JOIN generate_series(0, 15) part
        CROSS JOIN LATERAL (
            SELECT namespace, metadata FROM {records}
            WHERE record_id >= low + (high - low) * part / 16 ORDER BY record_id LIMIT 8
        ) r
    ), candidates AS MATERIALIZED (
        SELECT r.record_id FROM {records} r
        WHERE NOT (SELECT passes FROM sampled) AND r.namespace = %(namespace)s AND [filter]
        LIMIT %(threshold)s + 1
    ),
"""
_COUNT: LiteralString = "(SELECT count(*) FROM candidates)"
_COUNT_UNLESS_SAMPLED: LiteralString = "CASE WHEN NOT (SELECT passes FROM sampled) THEN [count] END".replace(
    "[count]", _COUNT
)
_FEW: LiteralString = "(SELECT n FROM counted) <= %(threshold)s"

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
        exact_threshold: int,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
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
        return result

    def _choose_plan(self, collection: Collection, query: Query, compiled: CompiledFilter | None) -> Plan:
        if query.exact or not collection.index_ready or query.top_k > self._threshold:
            return Plan.EXACT
        if not self._is_large(collection, query.namespace):
            return Plan.EXACT
        return Plan.HNSW if compiled is None else Plan.ADAPTIVE

    def _must_have_more(self, result: SearchResult) -> bool:
        counted_few = result.candidates is not None and result.candidates <= self._threshold
        return result.plan is not Plan.EXACT and not counted_few

    def _is_large(self, collection: Collection, namespace: str) -> bool:
        key, now = (collection.collection_id, namespace), self._monotonic()
        remembered = self._large.get(key)
        if remembered is not None and now - remembered[0] < NAMESPACE_SECONDS:
            return remembered[1]
        parameters = {"namespace": namespace, "threshold": self._threshold}
        text = statement(_NAMESPACE_IS_LARGE, collection)
        row = self._database.run(lambda c: c.execute(text, parameters).fetchone())
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
            "delivered": query.top_k + query.top_k // 2 + _MORE_DELIVERED,
            "threshold": self._threshold,
            "enough": max(_LEAST_PASSED, query.top_k * SAMPLE // _MOST_VISITED),
            **(compiled.parameters if compiled else {}),
        }
        ef_search = min(MAX_EF_SEARCH, 2 * query.top_k)

        def work(connection: Connection) -> list[Any]:
            if plan is Plan.EXACT or ef_search <= DEFAULT_EF_SEARCH:
                return connection.execute(text, parameters).fetchall()
            # One round trip still, and one transaction, with which the setting ends.
            with connection.pipeline():
                connection.execute(_SET_EF_SEARCH, [str(ef_search)])
                cursor = connection.execute(text, parameters)
            return cursor.fetchall()

        rows = self._database.run(work)
        *_, candidates, query_exists = rows[0]
        if not query_exists:
            raise VectorNotFoundError(f"There is no vector {query.id!r}.")
        matches = [_match(collection.metric, query.namespace, row) for row in rows if row[0] is not None]
        return SearchResult(matches=matches, plan=plan, candidates=candidates)


@lru_cache(maxsize=1024)
def _template(shape: _Shape) -> LiteralString:
    metadata, document, numbers = shape.include
    query = _STORED if shape.by_id else _GIVEN
    candidates, count, hits = _parts(shape)
    return (
        _MATCHES.replace("[query_row]", _STORED_QUERY if shape.by_id else "")
        .replace("[candidates]", candidates)
        .replace("[count]", count)
        .replace("[hits]", hits)
        .replace("[indexed_column]", indexed_expression(shape.metric, shape.storage, "v.embedding"))
        .replace("[indexed_query]", indexed_expression(shape.metric, shape.storage, query))
        .replace("[query]", query)
        .replace("[query_exists]", "EXISTS (SELECT FROM query)" if shape.by_id else "true")
        .replace("[filter]", shape.filter or "true")
        .replace("[metadata]", "r.metadata" if metadata else "NULL")
        .replace("[document]", "r.document" if document else "NULL")
        .replace("[numbers]", "v.embedding::text" if numbers else "NULL")
    )


def _parts(shape: _Shape) -> tuple[LiteralString, LiteralString, LiteralString]:
    """The candidates, their count and the hits of a statement."""
    if shape.plan is Plan.ADAPTIVE:
        exact = _EXACT_OF_CANDIDATES.replace("[gate]", "WHERE " + _FEW)
        indexed = _INDEXED.replace("[gate]", "AND (" + _FEW + ") IS NOT TRUE").replace("[and_filter]", _AND_FILTER)
        return _SAMPLED_CANDIDATES, _COUNT_UNLESS_SAMPLED, "(" + exact + ") UNION ALL (" + indexed + ")"
    if shape.plan is Plan.HNSW:
        return "", "NULL::bigint", _INDEXED.replace("[gate]", "").replace("[and_filter]", "")
    if shape.filter is None:
        return "", "NULL::bigint", _EXACT
    return _CANDIDATES, _COUNT, _EXACT_OF_CANDIDATES.replace("[gate]", "")


def _match(metric: Metric, namespace: str, row: tuple[Any, ...]) -> Match:
    id, distance, metadata, document, numbers, *_ = row
    return Match(
        id=id,
        namespace=namespace,
        score=metric.score(distance),
        distance=distance,
        metadata=metadata,
        document=document,
        numbers=parse_numbers(numbers) if numbers is not None else None,
    )
