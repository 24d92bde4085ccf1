"""Bodies of the search routes, and their way to and from the vector store's own types."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field

from vecmeter.errors import PayloadTooLargeError, Violation
from vecmeter.http.checks import filter_violations, length_violations, name_violations, raise_if_any
from vecmeter.http.fields import (
    Answer,
    Body,
    MeteredAnswer,
    Namespace,
    Numbers,
    OptionalFilter,
    OptionalNumbers,
    Text,
    VectorId,
    WithinMeasure,
    examples,
    took,
)
from vecmeter.settings import Settings
from vecmeter.vectors import model
from vecmeter.vectors.model import Match, Query, SearchResult

# Searches of one call; vectors that one call measures recall by.
MAX_SEARCHES = 100
MAX_SAMPLE = 200

Included = Literal["metadata", "document", "vector"]
Mode = Literal["vector", "text", "hybrid"]
Fusion = Literal["rrf", "weighted"]
EfSearch = Annotated[int, Field(ge=1, le=1000, description="Vectors an index scan keeps in view: more find more.")]
TopK = Annotated[int, Field(ge=1, validation_alias=AliasChoices("top_k", "limit"))]


class SearchBody(Body):
    """A search by exactly one of ``vector``, ``text`` and ``id``; in hybrid mode by ``text`` and at will another."""

    model_config = examples(
        {"text": "when must I pay?", "top_k": 3, "filter": {"kind": "invoice"}},
        {"vector": [0.1, 0.2, 0.3], "namespace": "customer-7", "include": ["metadata"]},
        {"text": "overdue invoice", "mode": "hybrid", "group_by": "customer"},
    )

    mode: Annotated[Mode, Field(description="Compare vectors, words, or both; docs/search.md.")] = "vector"
    vector: OptionalNumbers = None
    text: Annotated[Text | None, Field(description="Embedded by the collection's embedder, or looked for.")] = None
    id: Annotated[VectorId | None, Field(description="Of a stored vector to compare with.")] = None
    fusion: Annotated[
        Fusion | None, Field(description="How the lists of a hybrid search become one; weighted if left out.")
    ] = None
    text_weight: Annotated[
        float | None, Field(ge=0, le=1, description="Weight of the words in a hybrid search; the rest is the vector's.")
    ] = None
    top_k: TopK = 10
    offset: Annotated[int, Field(ge=0, description="Matches to pass over.")] = 0
    namespace: Namespace = ""
    filter: OptionalFilter = None
    group_by: Annotated[
        Text | None, Field(min_length=1, description="A field of the metadata: the best match of each of its values.")
    ] = None
    min_score: Annotated[float | None, Field(allow_inf_nan=False, description="Leave out what scores less.")] = None
    include: Annotated[list[Included], Field(max_length=3)] = ["metadata", "document"]
    exact: Annotated[bool, Field(description="Compare every vector instead of asking the index.")] = False
    ef_search: EfSearch | None = None
    include_debug: bool = False

    def check(self, settings: Settings) -> None:
        """Hold the body against the limits of this deployment. Raises InvalidRequestError naming every path."""
        raise_if_any(list(self.violations("", settings)))

    def violations(self, path: str, settings: Settings) -> Iterator[Violation]:
        """What is wrong with the body at ``path``."""
        for violation in self._violations(settings):
            yield Violation(path + violation.path, violation.message)

    def _violations(self, settings: Settings) -> Iterator[Violation]:
        yield from self._mode_violations()
        if self.offset + self.top_k > settings.max_top_k:
            field = "offset" if self.offset else "top_k"
            sum = f"offset + top_k is {self.offset + self.top_k}" if self.offset else f"is {self.top_k}"
            yield Violation(field, f"{sum}; at most {settings.max_top_k} is allowed")
        yield from length_violations("text", self.text, settings.max_query_characters)
        yield from name_violations({"id": self.id, "namespace": self.namespace}, settings)
        yield from filter_violations(self.filter)

    def _mode_violations(self) -> Iterator[Violation]:
        given = [name for name in ("vector", "text", "id") if getattr(self, name) is not None]
        if self.mode == "vector" and len(given) != 1:
            message = f"exactly one of vector, text and id must be given, not {' and '.join(given) or 'none'}"
            yield Violation("vector", message)
        if self.mode != "vector" and self.text is None:
            yield Violation("text", f"must be given in mode {self.mode}")
        if self.mode == "text":
            for name in ("vector", "id"):
                if name in given:
                    yield Violation(name, "is not compared in mode text; mode hybrid takes both")
        if self.mode == "hybrid" and self.vector is not None and self.id is not None:
            yield Violation("vector", "at most one of vector and id may be given")
        if self.mode != "hybrid":
            for name in ("fusion", "text_weight"):
                if getattr(self, name) is not None:
                    yield Violation(name, "is for mode hybrid only")


class SearchBatchBody(Body):
    """Searches of one collection, each as it would be alone."""

    model_config = examples({"searches": [{"text": "when must I pay?"}, {"id": "a", "top_k": 3}]})

    searches: Annotated[
        list[SearchBody], Field(min_length=1, json_schema_extra={"maxItems": MAX_SEARCHES}), WithinMeasure
    ]

    def check(self, settings: Settings) -> None:
        """As of one search.

        Raises:
            PayloadTooLargeError: more searches than one call may have.
            InvalidRequestError: naming every path.
        """
        if len(self.searches) > MAX_SEARCHES:
            raise PayloadTooLargeError(f"searches has {len(self.searches)} items; at most {MAX_SEARCHES} are allowed.")
        raise_if_any([v for at, one in enumerate(self.searches) for v in one.violations(f"searches.{at}.", settings)])


class RecallBody(Body):
    """How recall is to be measured: by ``sample`` stored vectors, or by ``queries``."""

    model_config = examples({"sample": 50, "top_k": 10}, {"namespace": "customer-7", "filter": {"kind": "invoice"}})

    sample: Annotated[int | None, Field(ge=1, le=MAX_SAMPLE, description="Stored vectors to search by; 50.")] = None
    queries: Annotated[
        list[Numbers] | None,
        Field(min_length=1, description="Vectors to search by instead."),
        WithinMeasure,
    ] = None
    top_k: TopK = 10
    namespace: Annotated[Namespace | None, Field(description="Where to search; without it, each in its own.")] = None
    filter: OptionalFilter = None
    ef_search: EfSearch | None = None

    @property
    def count(self) -> int:
        """How many vectors the recall is measured by."""
        return len(self.queries) if self.queries is not None else self.sample or 50

    def check(self, settings: Settings) -> None:
        """Hold the body against the limits. Raises InvalidRequestError naming every path."""
        raise_if_any(list(self._violations(settings)))

    def _violations(self, settings: Settings) -> Iterator[Violation]:
        if self.queries is not None and self.sample is not None:
            yield Violation("sample", "may not be given along with queries")
        if self.count > MAX_SAMPLE:
            yield Violation("queries", f"has {self.count} vectors; at most {MAX_SAMPLE} are allowed")
        if self.top_k >= settings.max_top_k:
            yield Violation("top_k", f"is {self.top_k}; at most {settings.max_top_k - 1} is allowed")
        yield from name_violations({"namespace": self.namespace}, settings)
        yield from filter_violations(self.filter)


class MatchOut(Answer):
    id: str
    score: Annotated[float, Field(description="Higher is better.")]
    distance: Annotated[float | None, Field(description="Lower is better; absent where no vectors were compared.")] = (
        None
    )
    metadata: dict[str, Any] | None = None
    document: str | None = None
    vector: list[float] | None = None
    namespace: str


class Debug(Answer):
    """How the search went: its plan, how many vectors the namespace has and the filter lets through, times in ms."""

    plan: str
    candidates_before: int | None = None
    candidates: int | None = None
    cache: Annotated[Literal["hit", "miss", "stale", "off"], Field(description="Where the matches come from.")]
    timings_ms: Annotated[dict[str, float], Field(description="In a batch, of all its searches together.")]


class Found(Answer):
    matches: Annotated[list[MatchOut], Field(description="Best first.")]
    count: int
    namespace: str
    debug: Debug | None = None


_MATCH = {
    "id": "a",
    "score": 0.158147,
    "distance": 0.841853,
    "metadata": {"kind": "invoice"},
    "document": "The invoice is due in March.",
    "namespace": "",
}


class SearchAnswer(Found, MeteredAnswer):
    model_config = examples(
        {"matches": [_MATCH], "count": 1, "namespace": "", "usage": took(6e-06, tokens=4, vectors=1)}
    )


class SearchBatchAnswer(MeteredAnswer):
    model_config = examples(
        {
            "results": [
                {"matches": [_MATCH], "count": 1, "namespace": ""},
                {"matches": [_MATCH | {"score": 1.0, "distance": 0.0}], "count": 1, "namespace": ""},
            ],
            "usage": took(1.1e-05, tokens=4, vectors=2),
        }
    )

    results: Annotated[list[Found], Field(description="In the order of the searches.")]


class RecallAnswer(MeteredAnswer):
    """How much of what an exact search finds a search finds, and how long both take."""

    model_config = examples(
        {
            "recall": 0.992,
            "lowest": 0.9,
            "sample": 50,
            "top_k": 10,
            "ann_ms": 0.833,
            "ann_p95_ms": 1.258,
            "exact_ms": 4.754,
            "exact_p95_ms": 5.853,
            "plans": {"index": 50},
            "usage": took(0.0005),
        }
    )

    recall: Annotated[float, Field(description="Found of what there is to be found, 0 to 1.")]
    lowest: Annotated[float, Field(description="The recall of the worst search.")]
    sample: Annotated[int, Field(description="Searches measured: fewer where there are fewer, or time ran out.")]
    top_k: int
    ann_ms: Annotated[float, Field(description="Median time of a search.")]
    ann_p95_ms: float
    exact_ms: Annotated[float, Field(description="Median time of an exact search.")]
    exact_p95_ms: float
    plans: Annotated[dict[str, int], Field(description="Searches by the plan they took.")]


def to_query(body: SearchBody) -> Query:
    return Query(
        mode=model.Mode(body.mode),
        numbers=body.vector,
        id=body.id,
        text=body.text,
        fusion=model.Fusion(body.fusion or model.Fusion.WEIGHTED),
        text_weight=body.text_weight,
        top_k=body.top_k,
        offset=body.offset,
        namespace=body.namespace,
        filter=body.filter,
        group_by=body.group_by,
        min_score=body.min_score,
        exact=body.exact,
        ef_search=body.ef_search,
        include_metadata="metadata" in body.include,
        include_document="document" in body.include,
        include_vector="vector" in body.include,
        counted=body.include_debug,
    )


def to_found(result: SearchResult, namespace: str, debug: Debug | None) -> Found:
    return Found.model_construct(**_found(result, namespace, debug))


def to_answer(result: SearchResult, namespace: str, debug: Debug | None) -> SearchAnswer:
    return SearchAnswer.model_construct(**_found(result, namespace, debug))


def _found(result: SearchResult, namespace: str, debug: Debug | None) -> dict[str, Any]:
    return {
        "matches": [_to_match(match) for match in result.matches],
        "count": len(result.matches),
        "namespace": namespace,
        "debug": debug,
    }


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
