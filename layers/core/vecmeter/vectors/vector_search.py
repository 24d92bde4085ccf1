"""A search by vector, from the query to its statement."""

from __future__ import annotations

from typing import Any

from vecmeter.vectors.filters import CompiledFilter
from vecmeter.vectors.model import Collection, Plan, Query, Storage
from vecmeter.vectors.packing import pack_vector
from vecmeter.vectors.plans import Choice
from vecmeter.vectors.search_statements import SearchStatement, Shape, vector_template
from vecmeter.vectors.tables import statement

# The role's default of hnsw.ef_search serves half as many matches; pgvector takes up to 1,000.
DEFAULT_EF_SEARCH = 100
MAX_EF_SEARCH = 1000
# The index delivers in nearly the order of distance, and by half precision: half as many again as are wanted, and
# then some, are sorted by their true distances. By the signs alone it is only a first choice.
_MORE_DELIVERED = 10
_LEAST_BY_SIGNS = 200
_TIMES_BY_SIGNS = 10
# The adaptive plan: how many of the sample must pass for the index to be taken, at least and as a part of what then
# has to be visited; what visiting a vector costs of comparing one that is known to pass; and how many thresholds of
# them are compared at most.
_LEAST_PASSED = 8
_MOST_VISITED = 1000
_VISIT_COST = 3.5
_MOST_COMPARED = 20


def vector_statement(
    collection: Collection,
    query: Query,
    compiled: CompiledFilter | None,
    choice: Choice,
    exact_threshold: int,
    depth: int = 1,
) -> SearchStatement:
    """The statement of a search by vector; ``depth``: how many times more than usual the index delivers."""
    template = vector_template(
        choice.plan,
        collection.metric,
        choice.hnsw.storage if choice.hnsw else None,
        choice.hnsw is not None and choice.hnsw.namespace is not None,
        shape_of(query, compiled),
    )
    return SearchStatement(
        plan=choice.plan,
        text=statement(template, collection),
        parameters={
            **query_parameters(query, compiled),
            **hits_parameters(collection, query, choice, exact_threshold, query.wanted * depth),
            "listed": None if query.group_by is not None else query.wanted,
        },
        ef_search=None if choice.plan is Plan.EXACT else ef_search_of(collection, query, query.wanted * depth),
    )


def shape_of(query: Query, compiled: CompiledFilter | None) -> Shape:
    return Shape(
        filter=compiled.expression if compiled else None,
        by_id=query.id is not None,
        grouped=query.group_by is not None,
        metadata=query.include_metadata,
        document=query.include_document,
        numbers=query.include_vector,
        counted=query.counted,
        stamped=query.stamped,
    )


def query_parameters(query: Query, compiled: CompiledFilter | None) -> dict[str, Any]:
    """What every statement of a search refers to, whichever its hits are."""
    return {
        "namespace": query.namespace,
        "id": query.id,
        "numbers": pack_vector(query.numbers) if query.numbers is not None else None,
        "group_by": query.group_by,
        "top_k": query.top_k,
        "offset": query.offset,
        **(compiled.parameters if compiled else {}),
    }


def hits_parameters(
    collection: Collection, query: Query, choice: Choice, exact_threshold: int, wanted: int
) -> dict[str, Any]:
    """What the hits of a search by vector refer to, where ``wanted`` of them are needed."""
    delivered = wanted + wanted // 2 + _MORE_DELIVERED
    if choice.hnsw is not None and choice.hnsw.storage is Storage.BINARY:
        delivered = max(_LEAST_BY_SIGNS, wanted * _TIMES_BY_SIGNS)
    nearest = max(DEFAULT_EF_SEARCH, ef_search_of(collection, query, wanted))
    return {
        "listed": wanted,
        "delivered": delivered,
        "nearest": nearest,
        "threshold": exact_threshold,
        "most": exact_threshold * _MOST_COMPARED,
        "visits": delivered * nearest * _VISIT_COST,
        "enough": min(delivered, max(_LEAST_PASSED, delivered * nearest // _MOST_VISITED)),
    }


def ef_search_of(collection: Collection, query: Query, wanted: int) -> int:
    """As the request says; else the collection's, set or tuned, or more where many matches are wanted."""
    if query.ef_search is not None:
        return query.ef_search
    usual = collection.ef_search or collection.tuned_ef_search or DEFAULT_EF_SEARCH
    return min(MAX_EF_SEARCH, max(usual, 2 * wanted))
