"""Routes on namespaces: list with exact counts, delete."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from upsert_function.namespace_schemas import (
    DeletedNamespaceOut,
    NamespaceOut,
    NamespacePath,
    NamespacesOut,
)
from vecmeter.http.checks import name_violations, raise_if_any
from vecmeter.http.dependencies import CallDependency
from vecmeter.http.fields import CollectionPath, PageParameters, ProjectPath
from vecmeter.http.idempotency import WriteCallDependency
from vecmeter.http.paging import decode_page_token, page
from vecmeter.http.route import BusinessRoute
from vecmeter.ledger.model import Operation, Role
from vecmeter.vectors.descriptions import NamespaceCount
from vecmeter.vectors.model import Collection
from vecmeter.vectors.terms import Terms

router = APIRouter(
    tags=["namespaces"],
    prefix="/projects/{project}/collections/{collection}/namespaces",
    route_class=BusinessRoute,
)
# A position is a namespace behind a sign, for the default one is empty.
_POSITION = r"=[^\x00]{0,1024}"


@router.get("", response_model=NamespacesOut, operation_id="list_namespaces")
def list_all(
    project: ProjectPath,
    collection: CollectionPath,
    query: Annotated[PageParameters, Query()],
    call: CallDependency,
) -> Response:
    """List the namespaces that have vectors, sorted, each with its exact count."""
    position = decode_page_token(query.page_token, _POSITION)
    after = position[1:] if position else None
    with call.admit(Operation.FETCH, Role.SEARCH, project) as hold:

        def work(target: Collection) -> list[NamespaceCount]:
            return call.database(call.runtime.descriptions.namespaces, target, after=after, limit=query.limit + 1)

        shown, token = page(call.use(project, collection, work), query.limit, lambda one: f"={one.namespace}")
        found = [NamespaceOut(namespace=one.namespace, count=one.count) for one in shown]
        return call.respond(hold, NamespacesOut(namespaces=found, next_page_token=token), collection=collection)


@router.delete("/{namespace:vector_id}", response_model=DeletedNamespaceOut, operation_id="delete_namespace")
def delete(
    project: ProjectPath, collection: CollectionPath, namespace: NamespacePath, call: WriteCallDependency
) -> Response:
    """Delete the vectors of a namespace; 404 when it has none. The path of the default one ends in the slash."""
    raise_if_any(list(name_violations({"namespace": namespace}, call.runtime.settings)))
    with call.admit(Operation.DELETE, Role.WRITE, project) as hold:

        def delete(on: Terms) -> int:
            remove = call.runtime.records.delete_namespace
            return call.use(project, collection, lambda target: call.database(remove, target, namespace, on))

        return call.write(
            hold,
            delete,
            lambda deleted: DeletedNamespaceOut(namespace=namespace, deleted=deleted),
            vectors=int,
            collection=collection,
            namespace=namespace,
        )
