"""Bodies of the routes on collections, and their way to and from the vector store's own types."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from vecmeter.embedding.registry import NONE, EmbedderChoice, choose_embedder
from vecmeter.errors import InvalidRequestError
from vecmeter.http.checks import invalid, raise_if_any
from vecmeter.http.fields import Answer, Body, MeteredAnswer, Name, Text, examples
from vecmeter.settings import Settings
from vecmeter.vectors.checks import check_index
from vecmeter.vectors.collections import CollectionSize
from vecmeter.vectors.model import Collection, EmbedderDefinition, IndexDefinition, IndexType, Metric, Storage


class IndexBody(Body):
    type: Literal["hnsw", "none"] = "hnsw"
    m: Annotated[int, Field(ge=2, le=100, description="Links per node and layer.")] = 16
    ef_construction: Annotated[int, Field(ge=4, le=1000, description="Candidates while building.")] = 128
    storage: Annotated[
        Literal["float", "half"] | None,
        Field(description="What the index holds; the table keeps float32. Default: half under cosine, else float."),
    ] = None


class EmbedderBody(Body):
    provider: Literal["none", "built-in", "bedrock"]
    model: Text | None = None


class CollectionBody(Body):
    """A collection: a named set of vectors with one dimension and metric."""

    model_config = examples(
        {"name": "notes", "embedder": {"provider": "built-in"}},
        {"name": "images", "dimension": 768, "metric": "l2", "index": {"type": "hnsw", "m": 32}},
    )

    name: Name
    dimension: Annotated[int | None, Field(ge=1, description="May be left out where the embedder knows it.")] = None
    metric: Literal["cosine", "l2", "inner_product"] = "cosine"
    index: IndexBody | None = None
    embedder: EmbedderBody | None = None

    def resolve(self, settings: Settings) -> tuple[int, IndexDefinition, EmbedderDefinition | None]:
        """Dimension, index and embedder, defaults filled in. Raises InvalidRequestError."""
        choice = self._choose_embedder(settings)
        if choice is not None:
            embedder = EmbedderDefinition(provider=choice.provider, model=choice.model)
            return choice.dimension, self._index(choice.dimension), embedder
        if self.dimension is None:
            raise invalid("dimension", "must be given, for no embedder says it")
        if self.dimension > settings.max_dimension:
            raise invalid("dimension", f"is {self.dimension}; at most {settings.max_dimension} is allowed")
        return self.dimension, self._index(self.dimension), None

    def _choose_embedder(self, settings: Settings) -> EmbedderChoice | None:
        """The embedder asked for, or the deployment's default where it can make vectors of the dimension."""
        if self.embedder is not None:
            if self.embedder.provider == NONE:
                return None
            return choose_embedder(self.embedder.provider, self.embedder.model, self.dimension)
        if settings.embedder_provider == NONE:
            return None
        try:
            return choose_embedder(settings.embedder_provider, settings.embedder_model, self.dimension)
        except InvalidRequestError:
            return None  # nobody asked for it: the collection takes vectors only

    def _index(self, dimension: int) -> IndexDefinition:
        wanted = self.index or IndexBody()
        storage = Storage(wanted.storage) if wanted.storage else _default_storage(Metric(self.metric))
        # Nobody asked for an index that this dimension cannot have: the collection goes without.
        fits = dimension <= storage.max_indexed_dimension
        index_type = IndexType(wanted.type) if self.index is not None or fits else IndexType.NONE
        index = IndexDefinition(type=index_type, m=wanted.m, ef_construction=wanted.ef_construction, storage=storage)
        if violation := check_index(dimension, index):
            raise_if_any([violation])
        return index


class IndexOut(Answer):
    type: str
    m: int
    ef_construction: int
    storage: str
    state: Annotated[str, Field(description="none: not wanted; pending: below its threshold or not built yet; ready")]


class EmbedderOut(Answer):
    provider: str
    model: str


class CollectionItem(Answer):
    name: str
    dimension: int
    metric: str
    index: IndexOut
    embedder: EmbedderOut | None = None
    created_at: datetime


class CollectionOut(CollectionItem, MeteredAnswer):
    project_id: str
    count: Annotated[int, Field(description="Exact.")]
    stored_bytes: Annotated[
        int,
        Field(description="What max_storage_bytes counts: 4 per dimension, and ids, documents and metadata as JSON."),
    ]
    bytes: Annotated[int, Field(description="On disk, indexes included.")]
    index_bytes: int


class CollectionsOut(MeteredAnswer):
    collections: list[CollectionItem]
    next_page_token: str | None = None


class DroppedOut(MeteredAnswer):
    status: Literal["ok"] = "ok"


def to_item(collection: Collection) -> CollectionItem:
    index, embedder = collection.index, collection.embedder
    built = "ready" if collection.index_ready else "pending"
    return CollectionItem(
        name=collection.name,
        dimension=collection.dimension,
        metric=collection.metric.value,
        index=IndexOut(
            type=index.type.value,
            m=index.m,
            ef_construction=index.ef_construction,
            storage=index.storage.value,
            state="none" if index.type is IndexType.NONE else built,
        ),
        embedder=EmbedderOut(provider=embedder.provider, model=embedder.model) if embedder else None,
        created_at=collection.created_at,
    )


def to_answer(collection: Collection, size: CollectionSize) -> CollectionOut:
    return CollectionOut(
        **dict(to_item(collection)),
        project_id=collection.project_id,
        count=size.count,
        stored_bytes=size.stored_bytes,
        bytes=size.bytes,
        index_bytes=size.index_bytes,
    )


def _default_storage(metric: Metric) -> Storage:
    """Half precision where only direction counts; lengths and products may be beyond its range."""
    return Storage.HALF if metric is Metric.COSINE else Storage.FLOAT
