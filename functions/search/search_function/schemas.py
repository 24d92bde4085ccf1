"""Bodies of the search routes, and their way to and from the vector store's own types."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field

from vecmeter.errors import InvalidRequestError, Violation
from vecmeter.http.fields import Answer, Body, Filter, MeteredAnswer, Namespace, Numbers, Text, VectorId
from vecmeter.settings import Settings
from vecmeter.vectors.model import Match, SearchResult

Included = Literal["metadata", "document", "vector"]


class SearchBody(Body):
    """A search by exactly one of ``vector``, ``text`` and ``id``."""

    vector: Annotated[Numbers | None, Field(validation_alias=AliasChoices("vector", "embedding", "query_vector"))] = (
        None
    )
    text: Text | None = None
    id: VectorId | None = None
    top_k: Annotated[int, Field(ge=1, validation_alias=AliasChoices("top_k", "limit"))] = 10
    namespace: Namespace = ""
    filter: Annotated[Filter | None, Field(validation_alias=AliasChoices("filter", "metadata_filter"))] = None
    include: list[Included] = ["metadata", "document"]
    exact: bool = False
    include_debug: bool = False

    def check(self, settings: Settings) -> None:
        """Hold the body against the limits of this deployment. Raises InvalidRequestError naming every path."""
        violations = []
        given = [name for name in ("vector", "text", "id") if getattr(self, name) is not None]
        if len(given) != 1:
            message = f"exactly one of vector, text and id must be given, not {' and '.join(given) or 'none'}"
            violations.append(Violation("vector", message))
        if self.top_k > settings.max_top_k:
            violations.append(Violation("top_k", f"is {self.top_k}; at most {settings.max_top_k} is allowed"))
        if self.text is not None and len(self.text) > settings.max_query_characters:
            message = f"has {len(self.text)} characters; at most {settings.max_query_characters} are allowed"
            violations.append(Violation("text", message))
        if violations:
            raise InvalidRequestError(f"{violations[0].path}: {violations[0].message}.", tuple(violations))


class MatchOut(Answer):
    id: str
    score: float
    distance: float
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
    matches: list[MatchOut]
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
