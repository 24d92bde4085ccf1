"""Bodies of Pinecone's queries, and their way to and from the vector store's own types."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property
from typing import Annotated, Any

from pydantic import BeforeValidator

from vecmeter.errors import Violation
from vecmeter.http.checks import filter_violations, raise_if_any
from vecmeter.http.fields import Numbers
from vecmeter.http.pinecone.fields import PineconeAnswer, PineconeBody, PineconeItem
from vecmeter.http.pinecone.filters import native_filter
from vecmeter.http.pinecone.names import PineconeName, RecordId, stored_namespace
from vecmeter.http.pinecone.values import NoSparse
from vecmeter.vectors.model import Match, Metric, Query

MAX_TOP_K = 10_000
# A count their clients expect; what a query is billed by stands beside it.
READ_UNITS = 1


def _refused(message: str) -> BeforeValidator:
    def refuse(value: Any) -> None:
        if value is not None:
            raise ValueError(message)

    return BeforeValidator(refuse)


_TUNED = "is not there: how far an index is searched is the collection's ef_search and target_recall"


class QueryBody(PineconeBody):
    """A query by exactly one of ``vector`` and the ``id`` of a record. Null is the same as left out."""

    top_k: int
    vector: Numbers | None = None
    id: RecordId | None = None
    namespace: PineconeName | None = None
    filter: dict[str, Any] | None = None
    include_values: bool | None = None
    include_metadata: bool | None = None
    sparse_vector: NoSparse = None
    # Theirs takes these two for indexes on dedicated read nodes only, and refuses them for all others.
    scan_factor: Annotated[None, _refused(_TUNED)] = None
    max_candidates: Annotated[None, _refused(_TUNED)] = None
    queries: Annotated[None, _refused("is no longer there: send one query a request, by vector or id")] = None

    @cached_property
    def native_filter(self) -> dict[str, Any] | None:
        """The filter in our language. Raises InvalidRequestError naming the path of what is no filter."""
        return native_filter(self.filter)

    def check(self) -> None:
        """Hold the body against the limits. Raises InvalidRequestError naming every path."""
        raise_if_any(list(self._violations()))

    def _violations(self) -> Iterator[Violation]:
        if not 1 <= self.top_k <= MAX_TOP_K:
            yield Violation("topK", f"is {self.top_k}; 1 to {MAX_TOP_K} are allowed")
        if (self.vector is None) == (self.id is None):
            given = "both" if self.id is not None else "neither"
            yield Violation("vector", f"exactly one of vector and id must be given, not {given}")
        yield from filter_violations(self.native_filter)


class MatchOut(PineconeItem):
    id: str
    score: float
    values: list[float]
    metadata: dict[str, Any] | None = None


class QueryAnswer(PineconeAnswer):
    matches: list[MatchOut]
    namespace: str


def to_query(body: QueryBody) -> Query:
    return Query(
        numbers=body.vector,
        id=body.id,
        top_k=body.top_k,
        namespace=stored_namespace(body.namespace or ""),
        filter=body.native_filter,
        include_metadata=bool(body.include_metadata),
        include_vector=bool(body.include_values),
    )


def to_match(match: Match, metric: Metric) -> MatchOut:
    # Built from our own values: nothing in it needs to be validated.
    return MatchOut.model_construct(
        id=match.id, score=_score(match, metric), values=match.numbers or [], metadata=match.metadata or None
    )


def _score(match: Match, metric: Metric) -> float:
    """Theirs: as ours, but under euclidean the squared distance, where lower is better."""
    if metric is Metric.L2:
        return (match.distance or 0.0) ** 2
    # Under cosine nothing is defined for a zero vector, which nothing resembles.
    return 0.0 if math.isnan(match.score) else match.score
