"""Routes on collections: create, list, describe, change, delete."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from upsert_function.collection_answers import (
    ChangedOut,
    CollectionOut,
    CollectionsOut,
    DroppedOut,
    to_answer,
    to_changed,
    to_item,
)
from upsert_function.collection_schemas import ChangeBody, CollectionBody
from upsert_function.creation import create_collection
from vecmeter.http.dependencies import CallDependency
from vecmeter.http.fields import NAME, CollectionPath, PageParameters, ProjectPath
from vecmeter.http.idempotency import WriteCallDependency
from vecmeter.http.paging import decode_page_token, page
from vecmeter.http.route import BusinessRoute
from vecmeter.ledger.model import Operation, Role
from vecmeter.vectors.collections import CollectionSize
from vecmeter.vectors.model import Collection
from vecmeter.vectors.terms import Terms

router = APIRouter(tags=["collections"], prefix="/projects/{project}/collections", route_class=BusinessRoute)


@router.post("", status_code=201, response_model=CollectionOut, operation_id="create_collection", responses={409: {}})
def create(project: ProjectPath, body: CollectionBody, call: WriteCallDependency) -> Response:
    """Create a collection: a named set of vectors with one dimension and metric."""
    wanted = body.resolve(call.runtime.settings)
    with call.admit(Operation.COLLECTION, Role.WRITE, project) as hold:

        def create(on: Terms) -> Collection:
            return create_collection(project, wanted, call, on)

        empty = CollectionSize(count=0, stored_bytes=0, bytes=0, index_bytes=0)
        return call.write(hold, create, lambda created: to_answer(created, empty), status=201, collection=body.name)


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
    """Describe a collection: exact count, bytes, indexes, and the plan of each of its largest namespaces."""
    size, descriptions = call.runtime.collections.size, call.runtime.descriptions
    with call.admit(Operation.COLLECTION, Role.SEARCH, project) as hold:

        def describe(target: Collection) -> CollectionOut:
            measured = call.database(size, target)
            indexes, plans = call.database(descriptions.indexes, target), call.database(descriptions.plans, target)
            return to_answer(target, measured, indexes, plans)

        return call.respond(hold, call.use(project, collection, describe, fresh=True), collection=collection)


@router.patch("/{collection}", response_model=ChangedOut, operation_id="change_collection")
def change(project: ProjectPath, collection: CollectionPath, body: ChangeBody, call: WriteCallDependency) -> Response:
    """Change what may be changed of a collection; searches and writes go on, and its indexes follow."""
    body.check()
    with call.admit(Operation.COLLECTION, Role.WRITE, project) as hold:

        def change(on: Terms) -> Collection:
            changed = call.database(call.runtime.collections.change, project, collection, body.alter, on)
            call.runtime.bulk_writes.look_at(changed)
            return changed

        return call.write(hold, change, to_changed, collection=collection)


@router.delete("/{collection}", response_model=DroppedOut, operation_id="delete_collection")
def delete(project: ProjectPath, collection: CollectionPath, call: WriteCallDependency) -> Response:
    """Delete a collection with all its vectors."""
    with call.admit(Operation.COLLECTION, Role.WRITE, project) as hold:

        def drop(on: Terms) -> None:
            call.database(call.runtime.collections.drop, project, collection, on)

        return call.write(hold, drop, lambda _: DroppedOut(), collection=collection)
