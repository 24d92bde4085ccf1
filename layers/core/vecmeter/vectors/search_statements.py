"""The statements of searches. They leave PostgreSQL's planner no way but the plan that was chosen, whatever its
statistics say: a sum is not what an index is ordered by, what stands in a CASE or a sub-select is no condition that
another index could answer, and a one-time filter keeps the branches that are not taken from being executed.

A template has ``{records}`` and the like for the collection (tables.py) and ``[query]`` and the like, filled in here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, LiteralString

from vecmeter.vectors.model import Metric, Plan, Storage
from vecmeter.vectors.revisions import NEXT_EXPIRY, REVISION
from vecmeter.vectors.tables import LIVE_RECORD, LIVE_VECTOR, embedding_of, indexed_expression

_GIVEN: LiteralString = "%(numbers)b::vector({dimension})"
_STORED: LiteralString = "(SELECT embedding FROM query)"
_STORED_QUERY: LiteralString = """
    query AS MATERIALIZED (
        SELECT v.embedding FROM {records} r JOIN {vectors} v USING (record_id)
        WHERE r.namespace = %(namespace)s AND r.id = %(id)s AND [live_record]
    ),
"""

# The fields of the few matches that are left; one row without a match when there is none, for what else there is to
# say. Matches that are equally good come in the order of their numbers in every plan, so that pages fit together.
_SEARCH: LiteralString = """
    WITH [query_row] [ctes] counted AS MATERIALIZED (SELECT [count] AS n) [more_ctes]
    SELECT found.*, [complete], [candidates], [candidates_before], [query_exists], [holds], [revision], [next_expiry]
    FROM counted LEFT JOIN (
        SELECT record_id, r.id, hits.distance, hits.score, [metadata], [document], [numbers]
        FROM {records} r RIGHT JOIN ([hits]) hits USING (record_id) LEFT JOIN {vectors} v USING (record_id)
        ORDER BY [order], record_id LIMIT %(top_k)s OFFSET %(offset)s
    ) found ON true
    ORDER BY [order], record_id
"""
# The best hit of each value of a field; hits without the field stand for themselves.
_BEST_OF_GROUPS: LiteralString = """
    SELECT DISTINCT ON (r.metadata -> %(group_by)s::text, [itself]) record_id, hits.distance, hits.score
    FROM {records} r RIGHT JOIN ([hits]) hits USING (record_id)
    ORDER BY r.metadata -> %(group_by)s::text, [itself], [order], record_id
""".replace("[itself]", "CASE WHEN r.metadata ? %(group_by)s::text THEN NULL ELSE record_id END")

_EXACT: LiteralString = """
    SELECT v.record_id, (v.embedding {operator} [query]) + 0 AS distance, NULL::float8 AS score
    FROM {vectors} v WHERE v.namespace = %(namespace)s AND [live_vector]
    ORDER BY distance, v.record_id LIMIT %(listed)s
"""
_EXACT_OF_CANDIDATES: LiteralString = """
    SELECT v.record_id, (v.embedding {operator} [query]) + 0 AS distance, NULL::float8 AS score
    FROM candidates JOIN {vectors} v USING (record_id) [gate]
    ORDER BY distance, v.record_id LIMIT %(listed)s
"""
_INDEXED: LiteralString = """
    SELECT v.record_id, v.embedding {operator} [query] AS distance, NULL::float8 AS score
    FROM {vectors} v WHERE [of_namespace] AND [live_vector] [and_filter] [gate]
    ORDER BY [indexed_column] [indexed_operator] [indexed_query] LIMIT %(delivered)s
"""
# Word by word what an index of one namespace is made with (tables.py), and what it holds.
_OF_NAMESPACE: LiteralString = "CASE WHEN v.namespace = %(namespace)s THEN true ELSE false END"
_OWN: LiteralString = embedding_of("v.embedding", "v.namespace", "%(namespace)s")
_AND_FILTER: LiteralString = "AND (SELECT [filter] FROM {records} r WHERE r.record_id = v.record_id)"

# All that the filter lets through.
_CANDIDATES: LiteralString = """
    candidates AS MATERIALIZED (
        SELECT r.record_id FROM {records} r WHERE r.namespace = %(namespace)s AND [live_record] AND [filter]
    ),
"""
# Where of 64 records from all over the collection one passes at most, what passes is counted up to the threshold: the
# filter's indexes find few. If there is more, as many as the index finds in one go are the sample. If next to nothing
# of it passes, what passes is counted up to as many as it pays to compare: the fewer, the further an index would go.
_ADAPTIVE: LiteralString = """
    spread AS MATERIALIZED (
        SELECT [is_rare] AS is_rare
    ), rare AS MATERIALIZED (
        SELECT r.record_id FROM {records} r
        WHERE (SELECT is_rare FROM spread) AND r.namespace = %(namespace)s AND [live_record] AND [filter]
        LIMIT %(threshold)s + 1
    ), few AS MATERIALIZED (
        SELECT is_rare AND (SELECT count(*) FROM rare) <= %(threshold)s AS are_all FROM spread
    ), nearest AS MATERIALIZED (
        SELECT v.record_id, v.embedding {operator} [query] AS distance
        FROM {vectors} v WHERE [of_index] AND NOT (SELECT are_all FROM few)
        ORDER BY [indexed_column] [indexed_operator] [indexed_query] LIMIT %(nearest)s
    ), passing AS MATERIALIZED (
        SELECT record_id, distance FROM nearest WHERE (
            SELECT r.namespace = %(namespace)s AND [live_record] AND [filter]
            FROM {records} r WHERE r.record_id = nearest.record_id
        )
    ), sampled AS MATERIALIZED (
        SELECT count(*) AS passed, least(
            greatest(%(threshold)s, %(visits)s / (count(*) + 0.5)), %(most)s
        )::bigint AS affordable FROM passing
    ), counted_again AS MATERIALIZED (
        SELECT r.record_id FROM {records} r
        WHERE NOT (SELECT are_all FROM few) AND (SELECT passed < %(enough)s FROM sampled)
          AND r.namespace = %(namespace)s AND [live_record] AND [filter]
        LIMIT (SELECT affordable + 1 FROM sampled)
    ), candidates AS MATERIALIZED (
        SELECT record_id FROM rare WHERE (SELECT are_all FROM few) UNION ALL SELECT record_id FROM counted_again
    ),
"""
_HARDLY_ANY: LiteralString = """
    (
        SELECT count(*) <= 1 FROM (SELECT min(record_id) AS low, max(record_id) AS high FROM {records}) numbers
        CROSS JOIN generate_series(0, 15) part
        CROSS JOIN LATERAL (
            SELECT metadata FROM {records} WHERE record_id >= low + (high - low) * part / 16 ORDER BY record_id LIMIT 4
        ) r
        WHERE [filter]
    )
"""
_PASSING: LiteralString = """
    SELECT record_id, distance, NULL::float8 AS score FROM passing WHERE (SELECT passed >= %(delivered)s FROM sampled)
"""
_COUNT: LiteralString = "(SELECT count(*) FROM candidates)"
_COUNT_WHERE_FEW: LiteralString = """
    (
        SELECT CASE WHEN are_all OR (passed < %(enough)s AND found.n <= affordable) THEN found.n END
        FROM few CROSS JOIN sampled CROSS JOIN (SELECT count(*) AS n FROM candidates) found
    )
"""
_FEW: LiteralString = "(SELECT n FROM counted) IS NOT NULL"
_TO_BE_INDEXED: LiteralString = "(SELECT n FROM counted) IS NULL AND (SELECT passed < %(delivered)s FROM sampled)"

# How many vectors a namespace has, and how many of them a filter lets through, where it is asked for.
_COUNT_BEFORE: LiteralString = """
    (SELECT count(*) FROM {records} r WHERE r.namespace = %(namespace)s AND [live_record])
"""
_COUNT_AFTER: LiteralString = """
    (SELECT count(*) FROM {records} r WHERE r.namespace = %(namespace)s AND [live_record] AND [filter])
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchStatement:
    """A search ready to be executed: several may share a round trip. None as ``ef_search``: it does not matter."""

    plan: Plan
    text: bytes
    parameters: Mapping[str, Any]
    ef_search: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What of a search decides its statement's text, whichever its hits are.

    ``by_id``: [query] is a stored vector. ``counted``: the candidates are counted, whatever the plan. ``stamped``: the
    rows say as of which revision they are.
    """

    filter: LiteralString | None = None
    by_id: bool = False
    grouped: bool = False
    metadata: bool = False
    document: bool = False
    numbers: bool = False
    counted: bool = False
    stamped: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Hits:
    """How a search comes by what it found.

    ``rows`` is a SELECT of record_id, distance and score (NULL: made of the distance), at least all that are wanted;
    ``order`` is the best first, in these names. ``ctes`` are what it needs before, each with a comma behind it;
    ``more_ctes``, each with a comma before it, may refer to ``counted``, as the rows of a search by vector do.
    ``count`` is the number of candidates (NULL: not counted), and ``complete`` whether there is no more to be found.
    ``holds``: whether the definition the statement was made by is still that of the collection, as far as it matters.
    """

    rows: LiteralString
    order: LiteralString = "distance"
    ctes: LiteralString = ""
    more_ctes: LiteralString = ""
    count: LiteralString = "NULL::bigint"
    complete: LiteralString = "true"
    holds: LiteralString = "true"


def search_template(hits: Hits, shape: Shape) -> LiteralString:
    """The whole statement. Rows: see ``_SEARCH``; [query], [filter] and [live_...] in the hits are filled in."""
    rows = _BEST_OF_GROUPS.replace("[hits]", hits.rows) if shape.grouped else hits.rows
    return (
        _SEARCH.replace("[query_row]", _STORED_QUERY if shape.by_id else "")
        .replace("[ctes]", hits.ctes)
        .replace("[more_ctes]", hits.more_ctes)
        .replace("[count]", hits.count)
        .replace("[complete]", hits.complete)
        .replace("[holds]", hits.holds)
        .replace("[revision]", REVISION if shape.stamped else "NULL::bigint")
        .replace("[next_expiry]", NEXT_EXPIRY if shape.stamped else "NULL::timestamptz")
        .replace("[candidates]", _COUNT_AFTER if shape.counted else "(SELECT n FROM counted)")
        .replace("[candidates_before]", _COUNT_BEFORE if shape.counted else "NULL::bigint")
        .replace("[hits]", rows)
        .replace("[order]", hits.order)
        .replace("[query]", _STORED if shape.by_id else _GIVEN)
        .replace("[query_exists]", "EXISTS (SELECT FROM query)" if shape.by_id else "true")
        .replace("[live_record]", LIVE_RECORD)
        .replace("[live_vector]", LIVE_VECTOR)
        .replace("[metadata]", "r.metadata" if shape.metadata else "NULL AS metadata")
        .replace("[document]", "r.document" if shape.document else "NULL AS document")
        .replace("[numbers]", "v.embedding::text AS numbers" if shape.numbers else "NULL AS numbers")
        .replace("[filter]", "(" + shape.filter + ")" if shape.filter else "true")
    )


@lru_cache(maxsize=1024)
def vector_template(plan: Plan, metric: Metric, storage: Storage | None, partial: bool, shape: Shape) -> LiteralString:
    """The statement of a search by vector; ``storage`` is that of the index it asks, ``partial`` one of a namespace."""
    return search_template(vector_hits(plan, metric, storage, partial, shape), shape)


def vector_hits(plan: Plan, metric: Metric, storage: Storage | None, partial: bool, shape: Shape) -> Hits:
    """How a search by vector comes by its hits; parameters: ``vector_search.hits_parameters``."""
    if storage is None or plan is Plan.EXACT:
        if shape.filter is None:
            return Hits(rows=_EXACT)
        return Hits(rows=_EXACT_OF_CANDIDATES.replace("[gate]", ""), ctes=_CANDIDATES, count=_COUNT)
    if plan is not Plan.ADAPTIVE:
        rows = _of_index(_INDEXED.replace("[gate]", "").replace("[and_filter]", ""), metric, storage, partial, shape)
        return Hits(rows=rows, complete="false")
    exact = _EXACT_OF_CANDIDATES.replace("[gate]", "WHERE " + _FEW)
    indexed = _INDEXED.replace("[gate]", "AND " + _TO_BE_INDEXED)
    indexed = indexed.replace("[and_filter]", _AND_FILTER if shape.filter else "")
    return Hits(
        rows=_of_index(
            "(" + _PASSING + ") UNION ALL (" + exact + ") UNION ALL (" + indexed + ")", metric, storage, partial, shape
        ),
        ctes=_of_index(_ADAPTIVE, metric, storage, partial, shape).replace(
            "[is_rare]", _HARDLY_ANY if shape.filter else "false"
        ),
        count=_COUNT_WHERE_FEW,
        complete=_FEW,
    )


def _of_index(template: LiteralString, metric: Metric, storage: Storage, partial: bool, shape: Shape) -> LiteralString:
    """A template with what the index holds in it."""
    query = _STORED if shape.by_id else _GIVEN
    return (
        template.replace("[indexed_column]", indexed_expression(metric, storage, _OWN if partial else "v.embedding"))
        .replace("[indexed_query]", indexed_expression(metric, storage, query))
        .replace("[indexed_operator]", "<~>" if storage is Storage.BINARY else "{operator}")
        .replace("[of_index]", _OF_NAMESPACE if partial else "true")
        .replace("[of_namespace]", _OF_NAMESPACE)
    )
