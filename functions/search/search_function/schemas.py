"""Bodies of the search routes, and their way to and from the vector store's own types."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field

from vecmeter.errors import Violation
from vecmeter.http.checks import filter_violations, length_violations, name_violations, raise_if_any
from vecmeter.http.fields import (
    Answer,
    Body,
    MeteredAnswer,
    Namespace,
    OptionalFilter,
    OptionalNumbers,
    Text,
    VectorId,
    examples,
)
from vecmeter.settings import Settings
from vecmeter.vectors.model import Match, SearchResult

Included = Literal["metadata", "document", "vector"]


class SearchBody(Body):
    """A search by exactly one of ``vector``, ``text`` and ``id``."""

    model_config = examples(
        {"text": "when must I pay?", "top_k": 3, "filter": {"kind": "invoice"}},
        {"vector": [0.1, 0.2, 0.3], "namespace": "customer-7", "include": ["metadata"]},
    )

    vector: OptionalNumbers = None
    text: Annotated[Text | None, Field(description="Embedded by the collection's embedder.")] = None
    id: Annotated[VectorId | None, Field(description="Of a stored vector to compare with.")] = None
    top_k: Annotated[int, Field(ge=1, validation_alias=AliasChoices("top_k", "limit"))] = 10
    namespace: Namespace = ""
    filter: OptionalFilter = None
    include: Annotated[list[Included], Field(max_length=3)] = ["metadata", "document"]
    exact: Annotated[bool, Field(description="Compare every vector instead of asking the index.")] = False
    include_debug: bool = False

    def check(self, settings: Settings) -> None:
        """Hold the body against the limits of this deployment. Raises InvalidRequestError naming every path."""
        raise_if_any(list(self._violations(settings)))

    def _violations(self, settings: Settings) -> Iterator[Violation]:
        given = [name for name in ("vector", "text", "id") if getattr(self, name) is not None]
        if len(given) != 1:
            message = f"exactly one of vector, text and id must be given, not {' and '.join(given) or 'none'}"
            yield Violation("vector", message)
        if self.top_k > settings.max_top_k:
            yield Violation("top_k", f"is {self.top_k}; at most {settings.max_top_k} is allowed")
        yield from length_violations("text", self.text, settings.max_query_characters)
        yield from name_violations({"id": self.id, "namespace": self.namespace}, settings)
        yield from filter_violations(self.filter)


class MatchOut(Answer):
    id: str
    score: Annotated[float, Field(description="Higher is better.")]
    distance: Annotated[float, Field(description="Lower is better.")]
    metadata: dict[str, Any] | None = None
    document: str | None = None
    vector: list[float] | None = None
    namespace: str


class Debug(Answer):
    """How the search went: its plan, how many vectors the filter let through (where counted), times in ms."""

    plan: str
    candidates: int | None = None
    timings_ms: dict[str, float]


class SearchAnswer(MeteredAnswer):
    matches: Annotated[list[MatchOut], Field(description="Best first.")]
    count: int
    namespace: str
    debug: Debug | None = None


def to_answer(result: SearchResult, namespace: str, debug: Debug | None) -> SearchAnswer:
    return SearchAnswer.model_construct(
        matches=[_to_match(match) for match in result.matches],
        count=len(result.matches),
        namespace=namespace,
        debug=debug,
    )


def _to_match(match: Match) -> MatchOut:
    # Built from our own values: nothing in it needs to be validated.
    return MatchOut.model_construct(
        id=match.id,
        score=match.score,
        distance=match.distance,
        metadata=match.metadata,
        document=match.document,
        vector=match.numbers,
        namespace=match.namespace,
    )
