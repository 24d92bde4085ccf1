"""Namespaces of an index: list, describe, delete. They come into being with their first record."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query
from starlette.responses import Response

from upsert_function.pinecone.namespace_schemas import NamespaceItem, NamespaceOut, NamespacePath, NamespacesOut
from upsert_function.pinecone.record_schemas import PageOfNames, next_page
from vecmeter.errors import NamespaceNotFoundError
from vecmeter.http.checks import name_violations, raise_if_any
from vecmeter.http.dependencies import CallDependency
from vecmeter.http.fields import CollectionPath
from vecmeter.http.idempotency import WriteCallDependency
from vecmeter.http.paging import decode_page_token, page
from vecmeter.http.pinecone.fields import PineconeAnswer
from vecmeter.http.pinecone.names import DEFAULT_NAMESPACE, shown_namespace, stored_namespace
from vecmeter.http.route import UnversionedRouter
from vecmeter.ledger.model import Operation, Role
from vecmeter.settings import Settings
from vecmeter.vectors.descriptions import Descriptions, NamespaceCount
from vecmeter.vectors.model import Collection
from vecmeter.vectors.terms import Terms

router = UnversionedRouter(prefix="/indexes/{index}/namespaces", include_in_schema=False)
# A position is how many there are, as counted for the first page, and a namespace, which is empty for the default one.
_POSITION = r"\d{1,18}=[^\x00]{0,1024}"


@router.get("", response_model=NamespacesOut)
def list_all(index: CollectionPath, query: Annotated[PageOfNames, Query()], call: CallDependency) -> Response:
    """List the namespaces that have records, sorted, each with its exact count."""
    position = decode_page_token(query.pagination_token, _POSITION, "paginationToken")
    counted, _, last = position.partition("=")
    after = last if position else None
    with call.admit(Operation.FETCH, Role.SEARCH, in_own_project=True) as hold:

        def work(target: Collection) -> tuple[list[NamespaceCount], int]:
            descriptions = call.runtime.descriptions
            found = call.database(_found, descriptions, target, query, after)
            if position:
                return found, int(counted)
            if len(found) <= query.limit:
                return found, len(found)
            return found, call.database(_total, descriptions, target, query.prefix)

        found, total = call.use(hold.admission.own_project, index, work)
        shown, token = page(found, query.limit, lambda one: f"{total}={one.namespace}")
        items = [NamespaceItem(name=shown_namespace(one.namespace), record_count=one.count) for one in shown]
        answer = NamespacesOut(namespaces=items, pagination=next_page(token), total_count=total)
        return call.respond(hold, answer, collection=index)


@router.get("/{namespace:vector_id}", response_model=NamespaceOut)
def describe(index: CollectionPath, namespace: NamespacePath, call: CallDependency) -> Response:
    """Describe a namespace: its exact count; 404 when it has none. The default one is always there."""
    stored = _stored(namespace, call.runtime.settings)
    with call.admit(Operation.FETCH, Role.SEARCH, in_own_project=True) as hold:
        count_matching = call.runtime.records.count_matching

        def work(target: Collection) -> int:
            return call.database(count_matching, target, stored, None)

        count = call.use(hold.admission.own_project, index, work)
        if not count and stored:
            raise NamespaceNotFoundError(f"There is no record in the namespace {namespace!r}.")
        answer = NamespaceOut(name=namespace, record_count=count)
        return call.respond(hold, answer, collection=index, namespace=stored)


@router.delete("/{namespace:vector_id}", response_model=PineconeAnswer)
def delete(index: CollectionPath, namespace: NamespacePath, call: WriteCallDependency) -> Response:
    """Delete the records of a namespace; 404 when it has none, unless it is the default one."""
    stored = _stored(namespace, call.runtime.settings)
    records = call.runtime.records
    with call.admit(Operation.DELETE, Role.WRITE, in_own_project=True) as hold:
        project = hold.admission.own_project

        def delete(target: Collection, on: Terms) -> int:
            if stored:
                return call.database(records.delete_namespace, target, stored, on)
            return call.database(records.delete_matching, target, stored, None, dry_run=False, on=on)

        return call.write(
            hold,
            lambda on: call.use(project, index, lambda target: delete(target, on)),
            lambda _: PineconeAnswer(),
            vectors=int,
            collection=index,
            namespace=stored,
        )


def _stored(namespace: str, settings: Settings) -> str:
    """A namespace of a path as the vector store has it. Raises InvalidRequestError: it is too long."""
    stored = stored_namespace(namespace)
    raise_if_any(list(name_violations({"namespace": stored}, settings)))
    return stored


def _found(
    descriptions: Descriptions, index: Collection, query: PageOfNames, after: str | None
) -> list[NamespaceCount]:
    """A page and one more. The default namespace comes first, and is looked for by the name it is shown by."""
    limit, prefix = query.limit + 1, query.prefix
    found = descriptions.namespaces(index, after=after, limit=limit, prefix=prefix)
    if prefix and after is None and _is_default(prefix):
        found = [*_default_of(descriptions, index), *found][:limit]
    return found


def _total(descriptions: Descriptions, index: Collection, prefix: str) -> int:
    total = descriptions.count_namespaces(index, prefix=prefix)
    return total + len(_default_of(descriptions, index)) if prefix and _is_default(prefix) else total


def _is_default(prefix: str) -> bool:
    return DEFAULT_NAMESPACE.startswith(prefix)


def _default_of(descriptions: Descriptions, index: Collection) -> list[NamespaceCount]:
    """The default namespace, if it has records: its empty name comes before all others."""
    return [one for one in descriptions.namespaces(index, after=None, limit=1) if not one.namespace]
