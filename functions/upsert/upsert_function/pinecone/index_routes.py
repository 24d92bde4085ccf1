"""Indexes: collections as Pinecone's control plane knows them."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Body
from pydantic import ConfigDict
from starlette.responses import Response

from upsert_function.creation import create_collection
from upsert_function.pinecone.index_definitions import configured, described, of_schema, of_spec
from upsert_function.pinecone.index_schemas import ConfigureBody, SchemaIndexBody, SpecIndexBody, parsed
from vecmeter.http.dependencies import Call, CallDependency
from vecmeter.http.fields import MAX_PAGE, CollectionPath, MeteredAnswer
from vecmeter.http.idempotency import WriteCallDependency
from vecmeter.http.pinecone.hosts import HostsDependency
from vecmeter.http.pinecone.versions import describes_by_schema
from vecmeter.http.route import UnversionedRouter
from vecmeter.ledger.model import Operation, Role
from vecmeter.vectors.model import Collection
from vecmeter.vectors.terms import Terms

router = UnversionedRouter(prefix="/indexes", include_in_schema=False)


class IndexAnswer(MeteredAnswer):
    """An index, in the shape of the client's version."""

    model_config = ConfigDict(extra="allow")


class IndexesAnswer(MeteredAnswer):
    indexes: list[dict[str, Any]]


@router.get("")
def list_indexes(call: CallDependency, hosts: HostsDependency) -> Response:
    """Every index of the key's project, by name: theirs has no pages."""
    by_schema = describes_by_schema(call)
    with call.admit(Operation.COLLECTION, Role.SEARCH, in_own_project=True) as hold:
        found = _all_of(hold.admission.own_project, call)
        return call.respond(hold, IndexesAnswer(indexes=[described(one, hosts, by_schema=by_schema) for one in found]))


@router.post("")
def create_index(
    body: Annotated[dict[str, Any], Body()], call: WriteCallDependency, hosts: HostsDependency
) -> Response:
    """Make an index, which is ready at once."""
    settings, by_schema = call.runtime.settings, describes_by_schema(call)
    if by_schema:
        wanted = of_schema(parsed(SchemaIndexBody, body), settings)
    else:
        wanted = of_spec(parsed(SpecIndexBody, body), settings)
    with call.admit(Operation.COLLECTION, Role.WRITE, in_own_project=True) as hold:

        def create(on: Terms) -> Collection:
            return create_collection(hold.admission.own_project, wanted, call, on)

        def answer(created: Collection) -> IndexAnswer:
            return IndexAnswer(**described(created, hosts, by_schema=by_schema))

        return call.write(hold, create, answer, status=201, collection=wanted.name)


@router.get("/{index}")
def describe_index(index: CollectionPath, call: CallDependency, hosts: HostsDependency) -> Response:
    """What an index is, and its host."""
    by_schema = describes_by_schema(call)
    with call.admit(Operation.COLLECTION, Role.SEARCH, in_own_project=True) as hold:
        found = call.use(hold.admission.own_project, index, lambda collection: collection, fresh=True)
        return call.respond(hold, IndexAnswer(**described(found, hosts, by_schema=by_schema)), collection=index)


@router.patch("/{index}")
def configure_index(
    index: CollectionPath, body: ConfigureBody, call: WriteCallDependency, hosts: HostsDependency
) -> Response:
    """Protect an index from deletion, or no longer, and change its tags."""
    by_schema = describes_by_schema(call)
    with call.admit(Operation.COLLECTION, Role.WRITE, in_own_project=True) as hold:

        def change(on: Terms) -> Collection:
            project, collections = hold.admission.own_project, call.runtime.collections
            return call.database(collections.change, project, index, lambda before: configured(before, body), on)

        def answer(changed: Collection) -> IndexAnswer:
            return IndexAnswer(**described(changed, hosts, by_schema=by_schema))

        return call.write(hold, change, answer, status=200 if by_schema else 202, collection=index)


@router.delete("/{index}")
def delete_index(index: CollectionPath, call: WriteCallDependency) -> Response:
    """Delete an index with all its vectors; it is gone when the answer comes."""
    with call.admit(Operation.COLLECTION, Role.WRITE, in_own_project=True) as hold:

        def drop(on: Terms) -> None:
            call.database(call.runtime.collections.drop, hold.admission.own_project, index, on)

        return call.write(hold, drop, lambda _: None, status=202, collection=index)


def _all_of(project: str, call: Call) -> list[Collection]:
    found: list[Collection] = []
    while True:
        after = found[-1].name if found else ""
        some = call.database(call.runtime.collections.page, project, after=after, limit=MAX_PAGE)
        found += some
        if len(some) < MAX_PAGE:
            return found
