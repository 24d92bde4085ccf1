"""What the vector store speaks of. A vector's numbers are an ``array('f')``: float32, one per dimension."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
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

    @property
    def max_indexed_dimension(self) -> int:
        return {Storage.FLOAT: 2000, Storage.HALF: 4000}[self]


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
class Collection:
    """A named set of vectors with one dimension and metric. ``collection_id`` is our own and names its tables.

    ``vector_oid`` is the type's number in this database, which binary arrays of vectors must carry.
    """

    collection_id: int
    project_id: str
    name: str
    dimension: int
    metric: Metric
    index: IndexDefinition
    embedder: EmbedderDefinition | None
    created_at: datetime
    index_ready: bool
    vector_oid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Vector:
    """A vector to be written."""

    id: str
    numbers: Numbers[float]
    namespace: str = ""
    document: str | None = None
    metadata: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredVector:
    id: str
    namespace: str
    version: int
    document: str | None
    metadata: dict[str, Any]
    numbers: list[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What a write did to one vector: ``inserted``, else updated to ``version``."""

    id: str
    namespace: str
    version: int
    inserted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A search. Exactly one of ``numbers`` and ``id`` (of a stored vector in the namespace) is given."""

    numbers: Numbers[float] | None = None
    id: str | None = None
    top_k: int = 10
    namespace: str = ""
    filter: Mapping[str, Any] | None = None
    exact: bool = False
    include_metadata: bool = True
    include_document: bool = False
    include_vector: bool = False


class Plan(StrEnum):
    """How a search found its matches."""

    EXACT = "exact"
    HNSW = "hnsw"
    ADAPTIVE = "adaptive"


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    id: str
    namespace: str
    score: float
    distance: float
    metadata: dict[str, Any] | None = None
    document: str | None = None
    numbers: list[float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """Matches, best first. ``candidates``: how many vectors the filter let through, where the plan counted them."""

    matches: list[Match]
    plan: Plan
    candidates: int | None
