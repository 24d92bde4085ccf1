"""What the vector store speaks of. A vector's numbers are an ``array('f')``: float32, one per dimension."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum, StrEnum
from typing import Any

Numbers = array  # array('f')


class Metric(StrEnum):
    """How two vectors are compared; ``operator`` is pgvector's, ``opclass`` the end of its index operator classes."""

    COSINE = "cosine"
    L2 = "l2"
    INNER_PRODUCT = "inner_product"

    @property
    def operator(self) -> str:
        return {Metric.COSINE: "<=>", Metric.L2: "<->", Metric.INNER_PRODUCT: "<#>"}[self]

    @property
    def opclass(self) -> str:
        return {Metric.COSINE: "cosine_ops", Metric.L2: "l2_ops", Metric.INNER_PRODUCT: "ip_ops"}[self]

    def score(self, distance: float) -> float:
        """Higher is better: cosine similarity, 1 / (1 + Euclidean distance), or the inner product.

        ``<#>`` is the negated inner product, so that lower is better for every distance.
        """
        if self is Metric.COSINE:
            return 1.0 - distance
        if self is Metric.L2:
            return 1.0 / (1.0 + distance)
        return -distance


class IndexType(StrEnum):
    HNSW = "hnsw"
    NONE = "none"


class Storage(StrEnum):
    """What the index holds; the table always keeps float32."""

    FLOAT = "float"
    HALF = "half"
    BINARY = "binary"

    @property
    def max_indexed_dimension(self) -> int:
        return {Storage.FLOAT: 2000, Storage.HALF: 4000, Storage.BINARY: 16_000}[self]


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexDefinition:
    """``m`` links per node and layer, ``ef_construction`` candidates while building (pgvector's names).

    pgvector's own default of 64 candidates leaves vectors behind that no search comes upon (docs/vectors.md).
    """

    type: IndexType = IndexType.HNSW
    m: int = 16
    ef_construction: int = 128
    storage: Storage = Storage.HALF


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedderDefinition:
    provider: str
    model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Hnsw:
    """An HNSW index that may be used, with what it was made with: of one namespace, or (None) of all vectors.

    ``vectors``: how many it held when it was built, where that was counted; ``recall``: where it was measured then.
    """

    index_id: int
    namespace: str | None
    storage: Storage
    m: int
    ef_construction: int
    vectors: int | None = None
    recall: float | None = None


class FieldType(StrEnum):
    """The type of a metadata field with an index of its own; dates are text in one form of ISO 8601."""

    STRING = "string"
    NUMBER = "number"
    BOOLEAN = "boolean"
    DATE = "date"


@dataclass(frozen=True, slots=True)
class FilterableField:
    field: str
    type: FieldType


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """A named set of vectors with one dimension and metric. ``collection_id`` is our own and names its tables.

    ``ef_search`` is that of searches which name none; where it is None, ``tuned_ef_search``, which maintenance found
    (None: the role's default); ``text_search`` the text search configuration of its documents (None: their words are
    not indexed; not ``texts_ready``: those of some are not indexed yet); ``hnsw`` the indexes ready for use;
    ``vector_oid`` the type's number in this database, which binary arrays of vectors must carry.

    While it has ``deletion_protection`` it cannot be deleted. ``tags`` are its owner's; ``requested`` is what a client
    of another service asked for when it made the collection and is to be told again (None: nothing).
    """

    collection_id: int
    project_id: str
    name: str
    dimension: int
    metric: Metric
    index: IndexDefinition
    embedder: EmbedderDefinition | None
    created_at: datetime
    vector_oid: int
    ef_search: int | None = None
    tuned_ef_search: int | None = None
    target_recall: float = 0.95
    text_search: str | None = None
    texts_ready: bool = True
    filterable: tuple[FilterableField, ...] = ()
    deletion_protection: bool = False
    # What no search depends on is neither part of its key in the caches nor of statements'.
    tags: Mapping[str, str] = field(default_factory=dict, hash=False, repr=False)
    requested: Mapping[str, Any] | None = field(default=None, hash=False, repr=False)
    # Of no statement's text, and long: left out of the key under which statements are kept.
    hnsw: tuple[Hnsw, ...] = field(default=(), hash=False)

    @property
    def index_ready(self) -> bool:
        return bool(self.hnsw)

    def hnsw_of(self, namespace: str | None) -> Hnsw | None:
        """The newest index of just this namespace, or (None) of all vectors."""
        found = [one for one in self.hnsw if one.namespace == namespace]
        return max(found, key=lambda one: one.index_id, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Vector:
    """A vector to be written; with ``if_version`` only in the place of that version, 0 being none."""

    id: str
    numbers: Numbers[float]
    namespace: str = ""
    document: str | None = None
    metadata: Mapping[str, Any] | None = None
    expires_at: datetime | None = None
    if_version: int | None = None


class Kept(Enum):
    """Stands for what a patch leaves as it is, where None is a value."""

    KEPT = "kept"


KEPT = Kept.KEPT


@dataclass(frozen=True, slots=True, kw_only=True)
class Patch:
    """What to change of a vector: fields of the metadata to ``set`` and ``unset``, and what is given of the rest."""

    set: Mapping[str, Any] = field(default_factory=dict)
    unset: Sequence[str] = ()
    numbers: Numbers[float] | None = None
    document: str | Kept | None = KEPT
    expires_at: datetime | Kept | None = KEPT
    if_version: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredVector:
    id: str
    namespace: str
    version: int
    document: str | None
    metadata: dict[str, Any]
    numbers: list[float]
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What a write did to one vector: ``inserted``, else updated to ``version``."""

    id: str
    namespace: str
    version: int
    inserted: bool


class Mode(StrEnum):
    """What a search compares: vectors, words, or both."""

    VECTOR = "vector"
    TEXT = "text"
    HYBRID = "hybrid"


class Fusion(StrEnum):
    """How the two lists of a hybrid search become one: by ranks (reciprocal rank fusion), or by scaled scores."""

    RRF = "rrf"
    WEIGHTED = "weighted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A search for the matches ``offset`` to ``offset + top_k`` of all, best first.

    Exactly one of ``numbers`` and ``id`` (of a stored vector in the namespace) says what to compare vectors with,
    ``text`` what words to look for; a mode takes what it compares. ``group_by``: a field of the metadata, of each
    value of which only the best match counts. ``counted``: say how many vectors were in question, too;
    ``stamped``: as of when it is.
    """

    mode: Mode = Mode.VECTOR
    numbers: Numbers[float] | None = None
    id: str | None = None
    text: str | None = None
    fusion: Fusion = Fusion.WEIGHTED
    text_weight: float | None = None
    top_k: int = 10
    offset: int = 0
    namespace: str = ""
    filter: Mapping[str, Any] | None = None
    group_by: str | None = None
    min_score: float | None = None
    exact: bool = False
    ef_search: int | None = None
    include_metadata: bool = True
    include_document: bool = False
    include_vector: bool = False
    counted: bool = False
    stamped: bool = False

    @property
    def wanted(self) -> int:
        """Matches the search must find, those it passes over included."""
        return self.offset + self.top_k


class Plan(StrEnum):
    """How a search found its matches."""

    EXACT = "exact"
    HNSW = "hnsw"
    PARTIAL = "partial"
    ADAPTIVE = "adaptive"
    TEXT = "text"
    HYBRID = "hybrid"


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """``distance`` is None where no vectors were compared."""

    id: str
    namespace: str
    score: float
    distance: float | None
    metadata: dict[str, Any] | None = None
    document: str | None = None
    numbers: list[float] | None = None


@dataclass(frozen=True, slots=True)
class Stamp:
    """As of which revision of its collection something was read, and when the next of its vectors expires."""

    revision: int
    next_expiry: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """Matches, best first. ``candidates``: how many vectors the filter let through, where they were counted;
    ``candidates_before``: how many the namespace has, where the query asked for it; so with ``stamp``, unless the
    collection is gone.
    """

    matches: list[Match]
    plan: Plan
    candidates: int | None
    candidates_before: int | None = None
    stamp: Stamp | None = None
