"""Bodies of the routes on collections and vectors, and their way to and from the vector store's own types."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, ConfigDict, Field

from vecmeter.embedding.model import estimate_tokens
from vecmeter.errors import InvalidRequestError, PayloadTooLargeError, Violation
from vecmeter.http.fields import (
    Answer,
    Body,
    Filter,
    Metadata,
    MeteredAnswer,
    Name,
    Namespace,
    Numbers,
    Text,
    VectorId,
)
from vecmeter.settings import Settings
from vecmeter.vectors.collections import CollectionSize
from vecmeter.vectors.model import Collection, IndexType, Metric, Storage, StoredVector, Written
from vecmeter.vectors.records import metadata_bytes

MAX_HNSW_DIMENSION = {Storage.FLOAT: 2000, Storage.HALF: 4000}
MAX_PAGE = 1000


class IndexBody(Body):
    type: Literal["hnsw", "none"] = "hnsw"
    m: Annotated[int, Field(ge=2, le=100, description="Links per node and layer.")] = 16
    ef_construction: Annotated[int, Field(ge=4, le=1000, description="Candidates while building.")] = 64
    storage: Annotated[
        Literal["float", "half"] | None,
        Field(description="What the index holds; the table keeps float32. Default: half under cosine, else float."),
    ] = None


class EmbedderBody(Body):
    provider: Literal["none", "built-in", "bedrock"]
    model: str | None = None


class CollectionBody(Body):
    name: Name
    dimension: Annotated[int | None, Field(ge=1, description="May be left out where the embedder knows it.")] = None
    metric: Literal["cosine", "l2", "inner_product"] = "cosine"
    index: IndexBody | None = None
    embedder: EmbedderBody | None = None


class VectorBody(Body):
    """A vector to be written: its numbers, or a document for the collection's embedder, or both."""

    id: VectorId
    vector: Annotated[Numbers | None, Field(validation_alias=AliasChoices("vector", "embedding"))] = None
    document: Text | None = None
    metadata: Metadata | None = None
    namespace: Namespace | None = None

    def violations(self, path: str, settings: Settings) -> Iterator[Violation]:
        """What is beyond the limits of this deployment; ``path`` stands before each field."""
        yield from name_violations([self.id], [f"{path}id"], settings)
        yield from name_violations([self.namespace or ""], [f"{path}namespace"], settings)
        if self.vector is None and self.document is None:
            yield Violation(f"{path}vector", "vector or document must be given")
        if self.document is not None and len(self.document) > settings.max_document_characters:
            message = f"has {len(self.document)} characters; at most {settings.max_document_characters} are allowed"
            yield Violation(f"{path}document", message)
        if self.metadata is not None:
            yield from metadata_violations(self.metadata, f"{path}metadata", settings.max_metadata_bytes)


class PutBody(Body):
    """A vector whose id stands in the path."""

    vector: Annotated[Numbers | None, Field(validation_alias=AliasChoices("vector", "embedding"))] = None
    document: Text | None = None
    metadata: Metadata | None = None
    namespace: Namespace | None = None

    def with_id(self, id: str) -> VectorBody:
        return VectorBody.model_construct(
            id=id,
            vector=self.vector,
            document=self.document,
            metadata=self.metadata,
            namespace=self.namespace,
        )


class BatchBody(Body):
    vectors: Annotated[list[VectorBody], Field(min_length=1)]
    namespace: Annotated[Namespace, Field(description="For vectors that name none.")] = ""

    def check(self, settings: Settings) -> None:
        """Raises PayloadTooLargeError for too many vectors, InvalidRequestError naming every offending path."""
        check_count("vectors", len(self.vectors), settings)
        check_each(self.vectors, [f"vectors.{index}." for index in range(len(self.vectors))], settings)


class FetchBody(Body):
    ids: Annotated[list[VectorId], Field(min_length=1)]
    namespace: Namespace = ""

    def check(self, settings: Settings) -> None:
        check_count("ids", len(self.ids), settings)


class DeleteBody(Body):
    """Exactly one of ``ids``, ``filter`` and ``all``."""

    ids: Annotated[list[VectorId], Field(min_length=1)] | None = None
    filter: Annotated[Filter | None, Field(validation_alias=AliasChoices("filter", "metadata_filter"))] = None
    all: Literal[True] | None = None
    namespace: Namespace = ""
    dry_run: bool = False

    def check(self, settings: Settings) -> None:
        given = [name for name in ("ids", "filter", "all") if getattr(self, name) is not None]
        if len(given) != 1:
            message = f"exactly one of ids, filter and all must be given, not {' and '.join(given) or 'none'}"
            raise InvalidRequestError(f"ids: {message}.", (Violation("ids", message),))
        if self.filter is not None and not self.filter:
            message = "is empty, which would match everything: say all instead"
            raise InvalidRequestError(f"filter {message}.", (Violation("filter", message),))
        check_count("ids", len(self.ids or ()), settings)


class PatchBody(Body):
    """Fields of the metadata to set and to remove."""

    set: Metadata | None = None
    unset: list[Text] | None = None
    namespace: Namespace | None = None

    def check(self, settings: Settings) -> None:
        violations = list(metadata_violations(self.set or {}, "set", settings.max_metadata_bytes))
        if not self.set and not self.unset:
            violations.append(Violation("set", "set or unset must name a field"))
        raise_if_any(violations)


class ListQuery(Answer):
    """Query parameters of the list of vectors."""

    model_config = ConfigDict(extra="forbid")

    namespace: Namespace = ""
    prefix: Text = ""
    limit: Annotated[int, Field(ge=1, le=MAX_PAGE)] = 100
    page_token: Text | None = None


class PageQuery(Answer):
    model_config = ConfigDict(extra="forbid")

    limit: Annotated[int, Field(ge=1, le=MAX_PAGE)] = 100
    page_token: Text | None = None


class NamespaceQuery(Answer):
    model_config = ConfigDict(extra="forbid")

    namespace: Namespace | None = None


class IndexOut(Answer):
    type: str
    m: int
    ef_construction: int
    storage: str
    state: Annotated[str, Field(description="none: not wanted; pending: below its threshold or not built yet; ready")]


class EmbedderOut(Answer):
    provider: str
    model: str


class CollectionOut(MeteredAnswer):
    project_id: str
    name: str
    dimension: int
    metric: str
    index: IndexOut
    embedder: EmbedderOut | None = None
    created_at: datetime
    count: int | None = None
    bytes: int | None = None
    index_bytes: int | None = None


class CollectionItem(Answer):
    name: str
    dimension: int
    metric: str
    index: IndexOut
    embedder: EmbedderOut | None = None
    created_at: datetime


class CollectionsOut(MeteredAnswer):
    collections: list[CollectionItem]
    next_page_token: str | None = None


class WrittenOut(Answer):
    id: str
    namespace: str
    operation: Literal["insert", "update"]
    version: int


class BatchOut(MeteredAnswer):
    inserted: int
    updated: int
    results: list[WrittenOut]


class PutOut(MeteredAnswer):
    status: Literal["ok"] = "ok"
    operation: Literal["insert", "update"]
    vector_id: str
    version: int


class PatchOut(MeteredAnswer):
    status: Literal["ok"] = "ok"
    vector_id: str
    version: int


class VectorOut(MeteredAnswer):
    id: str
    namespace: str
    version: int
    vector: list[float]
    document: str | None = None
    metadata: dict[str, Any]


class VectorItem(Answer):
    id: str
    namespace: str
    version: int
    vector: list[float]
    document: str | None = None
    metadata: dict[str, Any]


class VectorsOut(MeteredAnswer):
    vectors: list[VectorItem]
    count: int


class IdOut(Answer):
    id: str


class IdsOut(MeteredAnswer):
    vectors: list[IdOut]
    namespace: str
    next_page_token: str | None = None


class DeletedOut(MeteredAnswer):
    matched: int
    deleted: int


class DroppedOut(MeteredAnswer):
    status: Literal["ok"] = "ok"


def describe_index(collection: Collection) -> IndexOut:
    index = collection.index
    built = "ready" if collection.index_ready else "pending"
    return IndexOut(
        type=index.type.value,
        m=index.m,
        ef_construction=index.ef_construction,
        storage=index.storage.value,
        state="none" if index.type is IndexType.NONE else built,
    )


def describe_item(collection: Collection) -> dict[str, Any]:
    embedder = collection.embedder
    return {
        "name": collection.name,
        "dimension": collection.dimension,
        "metric": collection.metric.value,
        "index": describe_index(collection),
        "embedder": EmbedderOut(provider=embedder.provider, model=embedder.model) if embedder else None,
        "created_at": collection.created_at,
    }


def describe(collection: Collection, size: CollectionSize) -> CollectionOut:
    return CollectionOut(
        project_id=collection.project_id,
        **describe_item(collection),
        count=size.count,
        bytes=size.bytes,
        index_bytes=size.index_bytes,
    )


def written_out(written: Written) -> WrittenOut:
    return WrittenOut.model_construct(
        id=written.id,
        namespace=written.namespace,
        operation="insert" if written.inserted else "update",
        version=written.version,
    )


def stored_fields(stored: StoredVector) -> dict[str, Any]:
    return {
        "id": stored.id,
        "namespace": stored.namespace,
        "version": stored.version,
        "vector": stored.numbers,
        "document": stored.document,
        "metadata": stored.metadata,
    }


def default_storage(metric: Metric) -> Storage:
    """Half precision where only direction counts; lengths and products may be beyond its range."""
    return Storage.HALF if metric is Metric.COSINE else Storage.FLOAT


def estimate_document_tokens(vectors: Iterable[VectorBody]) -> int:
    return sum(estimate_tokens(vector.document) for vector in vectors if vector.document)


def check_each(vectors: Sequence[VectorBody], paths: Sequence[str], settings: Settings) -> None:
    raise_if_any([v for vector, path in zip(vectors, paths, strict=True) for v in vector.violations(path, settings)])


def check_count(field: str, count: int, settings: Settings) -> None:
    if count > settings.max_batch_vectors:
        raise PayloadTooLargeError(f"{field} has {count} items; at most {settings.max_batch_vectors} are allowed.")


def name_violations(names: Iterable[str], paths: Iterable[str], settings: Settings) -> Iterator[Violation]:
    """Ids and namespaces over their limit."""
    for name, path in zip(names, paths, strict=True):
        size = len(name.encode(errors="surrogatepass"))
        if size > settings.max_id_bytes:
            yield Violation(path, f"is {size} bytes long; at most {settings.max_id_bytes} are allowed")


def metadata_violations(metadata: dict[str, Any], path: str, limit: int) -> Iterator[Violation]:
    """Metadata over its limit, or with what JSON or PostgreSQL cannot hold."""
    try:
        size = metadata_bytes(metadata)
    except UnicodeEncodeError:
        yield Violation(path, "contains a lone surrogate, which is not Unicode text")
        return
    except (ValueError, RecursionError):
        yield Violation(path, "holds NaN or infinity, or is nested too deep")
        return
    if size > limit:
        yield Violation(path, f"is {size} bytes long; at most {limit} are allowed")
    elif _has_nul(metadata):
        yield Violation(path, "has a character U+0000, which PostgreSQL cannot keep")


def raise_if_any(violations: Sequence[Violation]) -> None:
    if violations:
        first = violations[0]
        raise InvalidRequestError(f"{first.path}: {first.message}.", tuple(violations))


def _has_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\x00" in value
    if isinstance(value, dict):
        return any(_has_nul(key) or _has_nul(part) for key, part in value.items())
    return isinstance(value, list) and any(map(_has_nul, value))
