"""Hybrid search: what is near as a vector and what has the words, as one list.

The best of both lists are one pool, and each document of the pool gets both its distance and its score by words,
whichever list it came from.

* ``weighted``: both are scaled to 0..1 over the pool (its least and its greatest; all alike: 1, or 0 where none has the
  words) and summed by their weights.
* ``rrf``: by its place in each list, a document gets weight / (60 + place) (Cormack, Clarke and Buettcher, Reciprocal
  Rank Fusion, 2009); nothing for a list it is not in.
"""

from __future__ import annotations

from functools import lru_cache
from typing import LiteralString

from vecmeter.vectors.filters import CompiledFilter
from vecmeter.vectors.model import Collection, Fusion, Metric, Plan, Query
from vecmeter.vectors.plans import Choice
from vecmeter.vectors.search_statements import Hits, SearchStatement, Shape, search_template, vector_hits
from vecmeter.vectors.tables import statement
from vecmeter.vectors.text_search import LANGUAGE_HOLDS, fill_score, text_ctes, text_parameters
from vecmeter.vectors.vector_search import ef_search_of, hits_parameters, query_parameters, shape_of

# How many of each list make the pool, at least; or so many where more matches are wanted. Few steps: while a page does
# not reach beyond one, pages are cut out of one and the same list.
_LISTED = (50, 200, 1_000)
# Measured on Cranfield with the built-in embedder (docs/text-search.md).
TEXT_WEIGHT = 0.7

_POOL: LiteralString = """
    , nearest_vectors AS MATERIALIZED (
        -- An index delivers more than are listed (vector_search.py): that must not make anything of the pool's scores.
        SELECT record_id, distance, row_number() OVER (ORDER BY distance, record_id) AS place FROM ([rows]) nearest
        ORDER BY place LIMIT %(listed)s
    ), pool AS MATERIALIZED (
        SELECT record_id, nearest.place AS vector_place, texts.place AS text_place,
               coalesce(nearest.distance, (
                   SELECT v.embedding {operator} [query] FROM {vectors} v WHERE v.record_id = either.record_id
               )) AS distance,
               coalesce(texts.score, (SELECT [score] FROM {texts} t WHERE t.record_id = either.record_id), 0) AS words
        FROM nearest_vectors nearest FULL JOIN (
            SELECT record_id, score, row_number() OVER (ORDER BY score DESC, record_id) AS place FROM worded
        ) texts USING (record_id) AS either
    )
"""
_RRF: LiteralString = """
    SELECT record_id, distance,
           (coalesce([text_weight] / (60 + text_place), 0) + coalesce((1 - [text_weight]) / (60 + vector_place), 0))
           AS score
    FROM pool
"""
_WEIGHTED: LiteralString = """
    SELECT record_id, distance,
           [text_weight] * coalesce((words - least_words) / nullif(most_words - least_words, 0), sign(most_words))
           + (1 - [text_weight]) * coalesce((near - least_near) / nullif(most_near - least_near, 0), 1) AS score
    FROM (
        SELECT record_id, distance, words, min(words) OVER () AS least_words, max(words) OVER () AS most_words,
               [near] AS near, min([near]) OVER () AS least_near, max([near]) OVER () AS most_near
        FROM pool
    ) scaled
"""
_OR_LISTED: LiteralString = " OR (SELECT count(*) FROM nearest_vectors) >= %(listed)s"
# As ``Metric.score`` does.
_NEAR: dict[Metric, LiteralString] = {
    Metric.COSINE: "1 - distance",
    Metric.L2: "1 / (1 + distance)",
    Metric.INNER_PRODUCT: "-distance",
}


def hybrid_statement(
    collection: Collection,
    query: Query,
    compiled: CompiledFilter | None,
    *,
    choice: Choice,
    exact_threshold: int,
    is_small: bool,
    depth: int,
) -> SearchStatement:
    """The statement of a hybrid search: see ``vector_statement`` and ``text_statement``."""
    shape = shape_of(query, compiled)
    nearest = vector_hits(
        choice.plan,
        collection.metric,
        choice.hnsw.storage if choice.hnsw else None,
        choice.hnsw is not None and choice.hnsw.namespace is not None,
        shape,
    )
    fused = _RRF if query.fusion is Fusion.RRF else _WEIGHTED.replace("[near]", _NEAR[collection.metric])
    listed = max(query.wanted, next((step for step in _LISTED if query.wanted <= step), 0)) * depth
    weight = TEXT_WEIGHT if query.text_weight is None else query.text_weight
    # The best of each group may lie anywhere.
    every = query.group_by is not None and choice.plan is Plan.EXACT
    return SearchStatement(
        plan=Plan.HYBRID,
        text=statement(_template(nearest, fused, shape, is_small), collection),
        parameters={
            **query_parameters(query, compiled),
            **hits_parameters(collection, query, choice, exact_threshold, listed),
            **text_parameters(query, None if query.group_by is not None else listed),
            "listed": None if every else listed,
            "text_weight": weight,
        },
        ef_search=None if choice.plan is Plan.EXACT else ef_search_of(collection, query, listed),
    )


@lru_cache(maxsize=1024)
def _template(nearest: Hits, fused: LiteralString, shape: Shape, is_small: bool) -> LiteralString:
    candidates, worded = text_ctes(shape, is_small)
    pool = fill_score(_POOL).replace("[rows]", nearest.rows)
    return search_template(
        Hits(
            rows=fused.replace("[text_weight]", "%(text_weight)s::float8"),
            order="score DESC",
            ctes=nearest.ctes + candidates,
            more_ctes=nearest.more_ctes + ", " + worded + pool,
            count=nearest.count,
            # Of groups there may be more, however many are listed.
            complete=nearest.complete if shape.grouped else nearest.complete + _OR_LISTED,
            holds=LANGUAGE_HOLDS,
        ),
        shape,
    )
