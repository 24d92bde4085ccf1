"""Routes on collections: create, list, describe, delete."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from upsert_function.collection_schemas import (
    CollectionBody,
    CollectionOut,
    CollectionsOut,
    DroppedOut,
    to_answer,
    to_item,
)
from vecmeter.http.dependencies import CallDependency
from vecmeter.http.fields import NAME, CollectionPath, PageParameters, ProjectPath
from vecmeter.http.paging import decode_page_token, page
from vecmeter.http.route import BusinessRoute
from vecmeter.ledger.model import Operation, Role
from vecmeter.vectors.collections import CollectionSize
from vecmeter.vectors.model import Metric

router = APIRouter(tags=["collections"], prefix="/projects/{project}/collections", route_class=BusinessRoute)


@router.post("", status_code=201, response_model=CollectionOut, operation_id="create_collection", responses={409: {}})
def create(project: ProjectPath, body: CollectionBody, call: CallDependency) -> Response:
    """Create a collection: a named set of vectors with one dimension and metric."""
    dimension, index, embedder = body.resolve(call.runtime.settings)
    with call.admit(Operation.COLLECTION, Role.WRITE, project) as hold:
        create = call.runtime.collections.create
        collection = call.database(
            create, project, body.name, dimension=dimension, metric=Metric(body.metric), index=index, embedder=embedder
        )
        answer = to_answer(collection, CollectionSize(count=0, bytes=0, index_bytes=0))
        return call.respond(hold, answer, status=201, collection=body.name)


@router.get("", response_model=CollectionsOut, operation_id="list_collections")
def list_all(project: ProjectPath, query: Annotated[PageParameters, Query()], call: CallDependency) -> Response:
    """List a project's collections by name."""
    after = decode_page_token(query.page_token, NAME)
    with call.admit(Operation.COLLECTION, Role.SEARCH, project) as hold:
        found = call.database(call.runtime.collections.page, project, after=after, limit=query.limit + 1)
        shown, token = page(found, query.limit, lambda collection: collection.name)
        answer = CollectionsOut(collections=list(map(to_item, shown)), next_page_token=token)
        return call.respond(hold, answer)


@router.get("/{collection}", response_model=CollectionOut, operation_id="get_collection")
def get(project: ProjectPath, collection: CollectionPath, call: CallDependency) -> Response:
    """Describe a collection, with its exact count and bytes."""
    size = call.runtime.collections.size
    with call.admit(Operation.COLLECTION, Role.SEARCH, project) as hold:
        answer = call.use(project, collection, lambda c: to_answer(c, call.database(size, c)), fresh=True)
        return call.respond(hold, answer, collection=collection)


@router.delete("/{collection}", response_model=DroppedOut, operation_id="delete_collection")
def delete(project: ProjectPath, collection: CollectionPath, call: CallDependency) -> Response:
    """Delete a collection with all its vectors."""
    with call.admit(Operation.COLLECTION, Role.WRITE, project) as hold:
        call.database(call.runtime.collections.drop, project, collection)
        return call.respond(hold, DroppedOut(), collection=collection)
