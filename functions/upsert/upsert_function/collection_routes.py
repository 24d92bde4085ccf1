"""Routes on collections: create, list, describe, delete."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from upsert_function.schemas import (
    MAX_HNSW_DIMENSION,
    CollectionBody,
    CollectionItem,
    CollectionOut,
    CollectionsOut,
    DroppedOut,
    PageQuery,
    default_storage,
    describe,
    describe_item,
    raise_if_any,
)
from vecmeter.embedding.registry import NONE, choose_embedder
from vecmeter.errors import InvalidRequestError, Violation
from vecmeter.http.dependencies import CallDependency, blocking
from vecmeter.http.fields import CollectionPath, ProjectPath
from vecmeter.http.paging import decode_page_token, page
from vecmeter.ledger.model import Operation, Role
from vecmeter.settings import Settings
from vecmeter.vectors.collections import CollectionSize
from vecmeter.vectors.model import EmbedderDefinition, IndexDefinition, IndexType, Metric, Storage

router = APIRouter(tags=["collections"])


@router.post(
    "/projects/{project}/collections", status_code=201, response_model=CollectionOut, operation_id="create_collection"
)
@blocking
def create(project: ProjectPath, body: CollectionBody, call: CallDependency) -> Response:
    """Create a collection: a named set of vectors with one dimension and metric."""
    settings = call.runtime.settings
    embedder, dimension = _embedder_and_dimension(body, settings)
    index = _index(body, dimension)
    with call.admit(Operation.COLLECTION, Role.WRITE, project) as hold:
        collection = call.runtime.collections.create(
            project, body.name, dimension=dimension, metric=Metric(body.metric), index=index, embedder=embedder
        )
        answer = describe(collection, CollectionSize(count=0, bytes=0, index_bytes=0))
        return call.respond(hold, answer, status=201, collection=body.name)


@router.get("/projects/{project}/collections", response_model=CollectionsOut, operation_id="list_collections")
@blocking
def list_all(project: ProjectPath, query: Annotated[PageQuery, Query()], call: CallDependency) -> Response:
    """List a project's collections by name."""
    after = decode_page_token(query.page_token)
    with call.admit(Operation.COLLECTION, Role.SEARCH, project) as hold:
        found = call.runtime.collections.page(project, after=after, limit=query.limit + 1)
        shown, token = page(found, query.limit, lambda collection: collection.name)
        items = [CollectionItem(**describe_item(collection)) for collection in shown]
        return call.respond(hold, CollectionsOut(collections=items, next_page_token=token))


@router.get("/projects/{project}/collections/{collection}", response_model=CollectionOut, operation_id="get_collection")
@blocking
def get(project: ProjectPath, collection: CollectionPath, call: CallDependency) -> Response:
    """Describe a collection, with its exact count and bytes."""
    with call.admit(Operation.COLLECTION, Role.SEARCH, project) as hold:
        collections = call.runtime.collections
        answer = collections.use(project, collection, lambda c: describe(c, collections.size(c)), fresh=True)
        return call.respond(hold, answer, collection=collection)


@router.delete(
    "/projects/{project}/collections/{collection}", response_model=DroppedOut, operation_id="delete_collection"
)
@blocking
def delete(project: ProjectPath, collection: CollectionPath, call: CallDependency) -> Response:
    """Delete a collection with all its vectors."""
    with call.admit(Operation.COLLECTION, Role.WRITE, project) as hold:
        call.runtime.collections.drop(project, collection)
        return call.respond(hold, DroppedOut(), collection=collection)


def _embedder_and_dimension(body: CollectionBody, settings: Settings) -> tuple[EmbedderDefinition | None, int]:
    """The embedder asked for, or the deployment's default where it can make vectors of the dimension."""
    if body.embedder is not None and body.embedder.provider != NONE:
        choice = choose_embedder(body.embedder.provider, body.embedder.model, body.dimension)
        return EmbedderDefinition(provider=choice.provider, model=choice.model), choice.dimension
    if body.embedder is None and settings.embedder_provider != NONE:
        try:
            choice = choose_embedder(settings.embedder_provider, settings.embedder_model, body.dimension)
        except InvalidRequestError:
            pass  # nobody asked for it: the collection takes vectors only
        else:
            return EmbedderDefinition(provider=choice.provider, model=choice.model), choice.dimension
    if body.dimension is None:
        raise_if_any([Violation("dimension", "must be given, for no embedder says it")])
    dimension = body.dimension or 0
    if dimension > settings.max_dimension:
        raise_if_any([Violation("dimension", f"is {dimension}; at most {settings.max_dimension} is allowed")])
    return None, dimension


def _index(body: CollectionBody, dimension: int) -> IndexDefinition:
    wanted = body.index
    storage = Storage(wanted.storage) if wanted and wanted.storage else default_storage(Metric(body.metric))
    limit = MAX_HNSW_DIMENSION[storage]
    if wanted is None:
        index_type = IndexType.HNSW if dimension <= limit else IndexType.NONE
        return IndexDefinition(type=index_type, storage=storage)
    if wanted.type == "hnsw" and dimension > limit:
        message = f"hnsw with storage {storage.value} takes at most {limit} dimensions, not {dimension}; use none"
        raise_if_any([Violation("index.type", message)])
    return IndexDefinition(
        type=IndexType(wanted.type), m=wanted.m, ef_construction=wanted.ef_construction, storage=storage
    )
