"""What operations on collections take and return. Results are frozen; ``usage`` is what the request took."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, TypeAlias, TypedDict

from vecmeter_client._input import Numbers

Metric: TypeAlias = Literal["cosine", "l2", "inner_product"]
Mode: TypeAlias = Literal["vector", "text", "hybrid"]
Included: TypeAlias = Literal["metadata", "document", "vector"]


@dataclass(frozen=True, slots=True)
class Usage:
    """What a request took: requests, tokens of texts, vectors written, deleted or returned, and its price in USD."""

    requests: int = 0
    tokens: int = 0
    vectors: int = 0
    cost_usd: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.requests + other.requests,
            self.tokens + other.tokens,
            self.vectors + other.vectors,
            # Prices are whole micro-dollars: rounding to them keeps sums exact.
            round(self.cost_usd + other.cost_usd, 6),
        )


NO_USAGE = Usage()


@dataclass(frozen=True, slots=True)
class Vector:
    """A vector to be written: its numbers, or a document that the collection's embedder makes them of, or both.

    Attributes:
        namespace: None takes the one the call names.
        expires_at: from then on it is as good as deleted; needs a time zone.
        if_version: only in the place of this version; 0: only where there is none.
    """

    id: str
    vector: Numbers | None = None
    document: str | None = None
    metadata: Mapping[str, Any] | None = None
    namespace: str | None = None
    expires_at: datetime | str | None = None
    if_version: int | None = None


class SearchRequest(TypedDict, total=False):
    """One search of ``search_batch``: the arguments of ``search``."""

    vector: Numbers | None
    text: str | None
    id: str | None
    top_k: int
    namespace: str
    filter: Mapping[str, Any] | None
    mode: Mode
    include: Sequence[Included]
    exact: bool
    ef_search: int | None
    min_score: float | None
    group_by: str | None
    offset: int
    fusion: Literal["rrf", "weighted"] | None
    text_weight: float | None
    include_debug: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A vector that was written, and the version it has now."""

    id: str
    namespace: str
    operation: Literal["insert", "update"]
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Upserted:
    """How many vectors are new and how many replaced one. Of several with one id in a batch only the last counts."""

    inserted: int = 0
    updated: int = 0
    usage: Usage = NO_USAGE

    def __add__(self, other: Upserted) -> Upserted:
        return Upserted(
            inserted=self.inserted + other.inserted,
            updated=self.updated + other.updated,
            usage=self.usage + other.usage,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Partial:
    """How far a call came: ``next_index`` is of the first item given that is not known to be written."""

    upserted: Upserted
    next_index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """After each batch: items done, items there are (None: nobody knows), and what became of those of the batch."""

    done: int
    total: int | None
    written: tuple[Written, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Put:
    """Of one vector that was written."""

    vector_id: str
    version: int
    operation: Literal["insert", "update"]
    usage: Usage = NO_USAGE


@dataclass(frozen=True, slots=True, kw_only=True)
class Patched:
    """Of one vector that was changed."""

    vector_id: str
    version: int
    usage: Usage = NO_USAGE


@dataclass(frozen=True, slots=True, kw_only=True)
class Updated:
    """``updated`` is 0 of a dry run."""

    matched: int
    updated: int
    usage: Usage = NO_USAGE


@dataclass(frozen=True, slots=True, kw_only=True)
class Deleted:
    """``deleted`` is 0 of a dry run."""

    matched: int
    deleted: int
    usage: Usage = NO_USAGE


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredVector:
    id: str
    namespace: str
    version: int
    vector: list[float]
    document: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """``score``: higher is better; ``distance``: lower is better, None where no vectors were compared."""

    id: str
    score: float
    namespace: str
    distance: float | None = None
    metadata: Mapping[str, Any] | None = None
    document: str | None = None
    vector: list[float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Debug:
    """How a search went: its plan, vectors in the namespace and past the filter, where it comes from, times in ms."""

    plan: str
    cache: str
    timings_ms: Mapping[str, float]
    candidates_before: int | None = None
    candidates: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """Matches, best first; iterating goes over them.

    Attributes:
        cache: ``stale``: remembered from ``age_seconds`` ago, and the database cannot be asked; else ``hit``, ``miss``,
            ``off``. Of a batch: of all of it.
    """

    matches: tuple[Match, ...]
    count: int
    namespace: str
    usage: Usage = NO_USAGE
    debug: Debug | None = None
    cache: str | None = None
    age_seconds: int | None = None

    def __iter__(self) -> Iterator[Match]:
        return iter(self.matches)

    def __len__(self) -> int:
        return len(self.matches)

    def __getitem__(self, at: int) -> Match:
        return self.matches[at]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recall:
    """How much of what an exact search finds a search finds, 0 to 1, over ``sample`` searches; median and p95 times."""

    recall: float
    lowest: float
    sample: int
    top_k: int
    ann_ms: float
    ann_p95_ms: float
    exact_ms: float
    exact_p95_ms: float
    plans: Mapping[str, int]
    usage: Usage = NO_USAGE


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceInfo:
    namespace: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexInfo:
    """The index a collection is to have. ``state``: none: not wanted; pending; ready."""

    type: str
    m: int
    ef_construction: int
    storage: str
    state: str
    ef_search: int | None = None
    tuned_ef_search: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedderInfo:
    provider: str
    model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterableField:
    field: str
    type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltIndex:
    """An index there is; with ``namespace`` None it is one of all vectors."""

    storage: str
    m: int
    ef_construction: int
    state: str
    bytes: int
    namespace: str | None = None
    vectors: int | None = None
    recall: float | None = None
    built_at: datetime | None = None
    probed_recall: float | None = None
    probed_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespacePlan:
    """How a search of a namespace without a filter goes; ``index`` is whose index it asks, if any."""

    namespace: str
    count: int
    plan: str
    index: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionInfo:
    """A collection. Counts, sizes, indexes and namespaces (the 100 largest) are told where one is described or created;
    in a list, or after a change, they are None and empty.

    Attributes:
        count: exact.
        stored_bytes: what ``max_storage_bytes`` counts.
        bytes, index_bytes: on disk.
    """

    name: str
    dimension: int
    metric: str
    index: IndexInfo
    target_recall: float
    created_at: datetime
    filterable: tuple[FilterableField, ...] = ()
    deletion_protection: bool = False
    tags: Mapping[str, str] = field(default_factory=dict)
    embedder: EmbedderInfo | None = None
    text_search: str | None = None
    text_search_ready: bool | None = None
    project_id: str | None = None
    count: int | None = None
    stored_bytes: int | None = None
    bytes: int | None = None
    index_bytes: int | None = None
    indexes: tuple[BuiltIndex, ...] = ()
    namespaces: tuple[NamespacePlan, ...] = ()
    usage: Usage = NO_USAGE
