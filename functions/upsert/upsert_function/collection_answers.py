"""Answers of the routes on collections, made of the vector store's own types."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from vecmeter.http.fields import Answer, MeteredAnswer, examples, took
from vecmeter.vectors.collections import CollectionSize
from vecmeter.vectors.descriptions import IndexState, NamespacePlan
from vecmeter.vectors.model import Collection, IndexType, Plan


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
    deletion_protection: bool
    tags: dict[str, str]
    created_at: datetime


_EXAMPLE: dict[str, Any] = {
    "name": "notes",
    "dimension": 256,
    "metric": "cosine",
    "index": {"type": "hnsw", "m": 16, "ef_construction": 128, "storage": "half", "state": "pending"},
    "embedder": {"provider": "built-in", "model": "wordllama-l2-supercat"},
    "target_recall": 0.95,
    "filterable": [{"field": "year", "type": "number"}],
    "deletion_protection": False,
    "tags": {"team": "search"},
    "created_at": "2026-11-21T12:00:00Z",
}


class ChangedOut(CollectionItem, MeteredAnswer):
    """The definition as it is now; indexes follow."""

    model_config = examples(_EXAMPLE | {"project_id": "acme", "usage": took()})

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
    model_config = examples(
        _EXAMPLE
        | {"project_id": "acme", "count": 2, "stored_bytes": 2110, "bytes": 172_032, "index_bytes": 0, "indexes": []}
        | {"namespaces": [{"namespace": "", "count": 2, "plan": "exact"}], "usage": took()}
    )

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
    model_config = examples({"collections": [_EXAMPLE], "usage": took()})

    collections: list[CollectionItem]
    next_page_token: str | None = None


class DroppedOut(MeteredAnswer):
    model_config = examples({"status": "ok", "usage": took()})

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
        deletion_protection=collection.deletion_protection,
        tags=dict(collection.tags),
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
