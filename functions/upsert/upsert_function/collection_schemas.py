"""Bodies of the routes on collections, and their way to and from the vector store's own types."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from vecmeter.embedding.registry import NONE, EmbedderChoice, choose_embedder
from vecmeter.errors import InvalidRequestError
from vecmeter.http.checks import invalid, raise_if_any
from vecmeter.http.fields import Answer, Body, MeteredAnswer, Name, Text, examples
from vecmeter.settings import Settings
from vecmeter.vectors.checks import check_filterable, check_index
from vecmeter.vectors.collections import CollectionSize
from vecmeter.vectors.definitions import Options
from vecmeter.vectors.descriptions import IndexState, NamespacePlan
from vecmeter.vectors.model import (
    Collection,
    EmbedderDefinition,
    FieldType,
    FilterableField,
    IndexDefinition,
    IndexType,
    Metric,
    Plan,
    Storage,
)
from vecmeter.vectors.texts import LANGUAGES


def _known(language: str) -> str:
    if language not in LANGUAGES:
        raise ValueError(f"is no text search configuration; there are {', '.join(LANGUAGES)}")
    return language


def _unchangeable(value: Any) -> Any:
    raise ValueError("cannot be changed: make another collection")


Links = Annotated[int, Field(ge=2, le=100, description="Links per node and layer.")]
Candidates = Annotated[int, Field(ge=4, le=1000, description="Candidates while building.")]
EfSearch = Annotated[
    int | None,
    Field(ge=1, le=1000, description="Candidates of a search that names none; null: what its top_k asks for."),
]
TargetRecall = Annotated[
    float, Field(gt=0, le=1, description="A binary index that finds less is replaced by one of half precision.")
]
Language = Annotated[
    str,
    AfterValidator(_known),
    Field(description="Text search configuration of the documents.", json_schema_extra={"enum": list(LANGUAGES)}),
]
Unchangeable = Annotated[None, BeforeValidator(_unchangeable), WithJsonSchema({"not": {}})]


class IndexBody(Body):
    type: Literal["hnsw", "none"] = "hnsw"
    m: Links = 16
    ef_construction: Candidates = 128
    storage: Annotated[
        Literal["float", "half", "binary"] | None,
        Field(description="What the index holds; the table keeps float32. Default: half under cosine, else float."),
    ] = None
    ef_search: EfSearch = None


class FilterableBody(Body):
    """A field of the metadata that gets an index of its own."""

    field: Text
    type: Literal["string", "number", "boolean", "date"]


class EmbedderBody(Body):
    provider: Literal["none", "built-in", "bedrock"]
    model: Text | None = None


class CollectionBody(Body):
    """A collection: a named set of vectors with one dimension and metric."""

    model_config = examples(
        {"name": "notes", "embedder": {"provider": "built-in"}},
        {"name": "images", "dimension": 768, "metric": "l2", "index": {"type": "hnsw", "m": 32}},
        {
            "name": "papers",
            "dimension": 384,
            "text_search": "english",
            "filterable": [{"field": "year", "type": "number"}],
        },
    )

    name: Name
    dimension: Annotated[int | None, Field(ge=1, description="May be left out where the embedder knows it.")] = None
    metric: Literal["cosine", "l2", "inner_product"] = "cosine"
    index: IndexBody | None = None
    embedder: EmbedderBody | None = None
    target_recall: TargetRecall = 0.95
    text_search: Language | None = None
    filterable: list[FilterableBody] = []

    def options(self) -> Options:
        """What may be changed later on. Raises InvalidRequestError."""
        return Options(
            ef_search=self.index.ef_search if self.index else None,
            target_recall=self.target_recall,
            text_search=self.text_search,
            filterable=_filterable(self.filterable),
        )

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


class ChangeIndexBody(Body):
    type: Literal["hnsw", "none"] = "hnsw"
    m: Links = 16
    ef_construction: Candidates = 128
    storage: Literal["float", "half", "binary"] = "half"
    ef_search: EfSearch = None

    def alter(self, before: IndexDefinition) -> IndexDefinition:
        named: dict[str, Any] = {name: getattr(self, name) for name in self.model_fields_set - {"ef_search"}}
        if "type" in named:
            named["type"] = IndexType(self.type)
        if "storage" in named:
            named["storage"] = Storage(self.storage)
        return replace(before, **named)


class ChangeBody(Body):
    """What is to be changed of a collection; what is not named stays. ``text_search`` null gives up full text."""

    model_config = examples(
        {"index": {"m": 32, "ef_search": 200}}, {"text_search": "english", "filterable": []}, {"target_recall": 0.9}
    )

    index: ChangeIndexBody | None = None
    target_recall: TargetRecall = 0.95
    text_search: Language | None = None
    filterable: list[FilterableBody] = []
    name: Unchangeable = None
    dimension: Unchangeable = None
    metric: Unchangeable = None
    embedder: Unchangeable = None

    def check(self) -> None:
        """What can be told without the collection. Raises InvalidRequestError naming every path."""
        _filterable(self.filterable)

    def alter(self, before: Collection) -> Collection:
        """The definition after the change. Raises InvalidRequestError."""
        named: dict[str, Any] = {}
        if self.index is not None:
            named["index"] = self.index.alter(before.index)
            if "ef_search" in self.index.model_fields_set:
                named["ef_search"] = self.index.ef_search
        if "filterable" in self.model_fields_set:
            named["filterable"] = _filterable(self.filterable)
        for name in self.model_fields_set & {"target_recall", "text_search"}:
            named[name] = getattr(self, name)
        return replace(before, **named)


class IndexOut(Answer):
    type: str
    m: int
    ef_construction: int
    storage: str
    ef_search: int | None = None
    tuned_ef_search: Annotated[
        int | None, Field(description="Of searches that name none, while ef_search is not set: found by measuring.")
    ] = None
    state: Annotated[str, Field(description="none: not wanted; pending: below its threshold or not built yet; ready")]


class EmbedderOut(Answer):
    provider: str
    model: str


class FilterableOut(Answer):
    field: str
    type: str


class CollectionItem(Answer):
    name: str
    dimension: int
    metric: str
    index: IndexOut
    embedder: EmbedderOut | None = None
    target_recall: float
    text_search: str | None = None
    text_search_ready: Annotated[
        bool | None, Field(description="false: the words of documents written before are still being indexed.")
    ] = None
    filterable: list[FilterableOut]
    created_at: datetime


class ChangedOut(CollectionItem, MeteredAnswer):
    """The definition as it is now; indexes follow."""

    project_id: str


class IndexStateOut(Answer):
    """An index there is; without a namespace it is one of all vectors."""

    namespace: str | None = None
    storage: str
    m: int
    ef_construction: int
    state: Annotated[
        str,
        Field(
            description="waiting: while the collection is being loaded; building; ready; "
            "retired: no longer searched, soon dropped; refused: its recall was below the target, so it was dropped"
        ),
    ]
    bytes: int
    vectors: Annotated[int | None, Field(description="How many it held when it was built.")] = None
    recall: Annotated[float | None, Field(description="As measured when it was built; of binary indexes.")] = None
    built_at: datetime | None = None
    probed_recall: Annotated[float | None, Field(description="As measured last, by real searches.")] = None
    probed_at: datetime | None = None


class NamespacePlanOut(Answer):
    namespace: str
    count: int
    plan: Annotated[str, Field(description="Of a search without a filter.")]
    index: Annotated[
        Literal["namespace", "collection"] | None, Field(description="Whose index the plan asks, if any.")
    ] = None


class CollectionOut(CollectionItem, MeteredAnswer):
    project_id: str
    count: Annotated[int, Field(description="Exact.")]
    stored_bytes: Annotated[
        int,
        Field(description="What max_storage_bytes counts: 4 per dimension, and ids, documents and metadata as JSON."),
    ]
    bytes: Annotated[int, Field(description="On disk, indexes included.")]
    index_bytes: int
    indexes: list[IndexStateOut]
    namespaces: Annotated[list[NamespacePlanOut], Field(description="The 100 largest ones.")]


class CollectionsOut(MeteredAnswer):
    collections: list[CollectionItem]
    next_page_token: str | None = None


class DroppedOut(MeteredAnswer):
    status: Literal["ok"] = "ok"


def to_item(collection: Collection) -> CollectionItem:
    index, embedder = collection.index, collection.embedder
    built = "ready" if collection.hnsw else "pending"
    return CollectionItem(
        name=collection.name,
        dimension=collection.dimension,
        metric=collection.metric.value,
        index=IndexOut(
            type=index.type.value,
            m=index.m,
            ef_construction=index.ef_construction,
            storage=index.storage.value,
            ef_search=collection.ef_search,
            tuned_ef_search=collection.tuned_ef_search,
            state="none" if index.type is IndexType.NONE else built,
        ),
        embedder=EmbedderOut(provider=embedder.provider, model=embedder.model) if embedder else None,
        target_recall=collection.target_recall,
        text_search=collection.text_search,
        text_search_ready=None if collection.text_search is None else collection.texts_ready,
        filterable=[FilterableOut(field=one.field, type=one.type.value) for one in collection.filterable],
        created_at=collection.created_at,
    )


def to_changed(collection: Collection) -> ChangedOut:
    return ChangedOut(**dict(to_item(collection)), project_id=collection.project_id)


def to_answer(
    collection: Collection,
    size: CollectionSize,
    indexes: Sequence[IndexState] = (),
    plans: Sequence[NamespacePlan] = (),
) -> CollectionOut:
    return CollectionOut(
        **dict(to_item(collection)),
        project_id=collection.project_id,
        count=size.count,
        stored_bytes=size.stored_bytes,
        bytes=size.bytes,
        index_bytes=size.index_bytes,
        indexes=[IndexStateOut(**asdict(one)) for one in indexes],
        namespaces=list(map(_plan_out, plans)),
    )


def _plan_out(one: NamespacePlan) -> NamespacePlanOut:
    asked: Literal["namespace", "collection"] = "namespace" if one.has_own_index else "collection"
    return NamespacePlanOut(
        namespace=one.namespace,
        count=one.count,
        plan=one.plan.value,
        index=None if one.plan is Plan.EXACT else asked,
    )


def _filterable(fields: Sequence[FilterableBody]) -> tuple[FilterableField, ...]:
    wanted = tuple(FilterableField(one.field, FieldType(one.type)) for one in fields)
    raise_if_any(check_filterable(wanted))
    return wanted


def _default_storage(metric: Metric) -> Storage:
    """Half precision where only direction counts; lengths and products may be beyond its range."""
    return Storage.HALF if metric is Metric.COSINE else Storage.FLOAT
