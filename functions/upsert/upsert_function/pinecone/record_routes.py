"""Records of an index: upsert, fetch, list, update, delete; and how many there are."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Annotated

from fastapi import Query
from starlette.responses import Response

from upsert_function.pinecone.record_schemas import (
    CountOut,
    DeleteBody,
    FetchParameters,
    IdOut,
    IdsOut,
    ListParameters,
    MatchBody,
    RecordsOut,
    StatsBody,
    StatsOut,
    UpdateBody,
    UpdateOut,
    UpsertBody,
    UpsertOut,
    kept,
    next_page,
    to_record,
)
from vecmeter.errors import InvalidRequestError, PayloadTooLargeError
from vecmeter.http.checks import raise_if_any
from vecmeter.http.dependencies import Call, CallDependency
from vecmeter.http.fields import CollectionPath
from vecmeter.http.idempotency import WriteCallDependency
from vecmeter.http.paging import decode_page_token, page
from vecmeter.http.pinecone.fields import PineconeAnswer
from vecmeter.http.pinecone.filters import native_filter
from vecmeter.http.pinecone.names import shown_namespace
from vecmeter.http.pinecone.values import METRIC_NAMES, value_violation
from vecmeter.http.pinecone.versions import api_version
from vecmeter.http.route import UnversionedRouter
from vecmeter.ledger.model import Operation, Role
from vecmeter.vectors.descriptions import NamespaceCount
from vecmeter.vectors.model import Collection, Patch, StoredVector, Vector, Written
from vecmeter.vectors.terms import Terms

router = UnversionedRouter(prefix="/indexes/{index}", include_in_schema=False)

MOST_NAMESPACES = 100_000
# An id is a position in a list.
_POSITION = r"[^\x00]{1,1024}"
_TOKEN = "paginationToken"  # noqa: S105  the name of a field
_RECORDS_PER_READ_UNIT = 10
# Before this version of their API, statistics have the default namespace under its empty name.
_NAMES_THE_DEFAULT = "2026-07"


@router.post("/vectors/upsert", response_model=UpsertOut)
def upsert(index: CollectionPath, body: UpsertBody, call: WriteCallDependency) -> Response:
    """Insert or replace up to 1,000 records, all or none; of several with one id the last wins."""
    body.check(call.runtime.settings)
    count = len(body.vectors)
    with call.admit(Operation.UPSERT, Role.WRITE, vectors=count, in_own_project=True) as hold:
        project = hold.admission.own_project

        def upsert(target: Collection, on: Terms) -> list[Written]:
            return call.database(call.runtime.records.upsert, target, _prepare(target, body), on)

        return call.write(
            hold,
            lambda on: call.use(project, index, lambda target: upsert(target, on)),
            lambda _: UpsertOut(upserted_count=count),
            vectors=len,
            collection=index,
            namespace=body.stored,
        )


@router.get("/vectors/fetch", response_model=RecordsOut)
def fetch(index: CollectionPath, query: Annotated[FetchParameters, Query()], call: CallDependency) -> Response:
    """Fetch records by id; ids that do not exist are left out."""
    query.check(call.runtime.settings)
    fetch = call.runtime.records.fetch
    with call.admit(Operation.FETCH, Role.SEARCH, in_own_project=True) as hold:
        project = hold.admission.own_project
        found = call.use(project, index, lambda target: call.database(fetch, target, query.stored, query.ids))
        answer = _records(found, query.asked)
        return call.respond(hold, answer, vectors=len(found), collection=index, namespace=query.stored)


@router.post("/vectors/fetch_by_metadata", response_model=RecordsOut)
def fetch_by_metadata(index: CollectionPath, body: MatchBody, call: CallDependency) -> Response:
    """Fetch a page of the records that a filter lets through, in the order of their ids."""
    body.check(call.runtime.settings)
    after, filter = decode_page_token(body.pagination_token, _POSITION, _TOKEN), native_filter(body.filter) or {}
    fetch = call.runtime.records.fetch_matching
    with call.admit(Operation.FETCH, Role.SEARCH, in_own_project=True) as hold:

        def work(target: Collection) -> list[StoredVector]:
            return call.database(fetch, target, body.stored, filter, after=after, limit=body.limit + 1)

        found = call.use(hold.admission.own_project, index, work)
        shown, token = page(found, body.limit, lambda stored: stored.id)
        return call.respond(
            hold,
            _records(shown, body.asked, token),
            vectors=len(shown),
            collection=index,
            namespace=body.stored,
            had_filter=True,
        )


@router.get("/vectors/list", response_model=IdsOut)
def list_ids(index: CollectionPath, query: Annotated[ListParameters, Query()], call: CallDependency) -> Response:
    """List the ids of a namespace, sorted, optionally those with a prefix."""
    query.check(call.runtime.settings)
    after = decode_page_token(query.pagination_token, _POSITION, _TOKEN)
    list_ids = call.runtime.records.list_ids
    with call.admit(Operation.FETCH, Role.SEARCH, in_own_project=True) as hold:

        def work(target: Collection) -> list[str]:
            prefix, limit = query.prefix, query.limit + 1
            return call.database(list_ids, target, query.stored, prefix=prefix, after=after, limit=limit)

        shown, token = page(call.use(hold.admission.own_project, index, work), query.limit, str)
        ids = [IdOut(id=id) for id in shown]
        answer = IdsOut(vectors=ids, namespace=query.asked, pagination=next_page(token), read_units=1)
        return call.respond(hold, answer, vectors=len(shown), collection=index, namespace=query.stored)


@router.post("/vectors/update", response_model=UpdateOut)
def update(index: CollectionPath, body: UpdateBody, call: WriteCallDependency) -> Response:
    """Change a record, or the metadata of all that a filter lets through; an id that does not exist changes nothing."""
    body.check(call.runtime.settings)
    records, namespace, id = call.runtime.records, body.stored, body.id
    filter, set_metadata = native_filter(body.filter) or {}, kept(body.set_metadata)
    with call.admit(Operation.UPDATE, Role.WRITE, vectors=int(id is not None), in_own_project=True) as hold:
        project = hold.admission.own_project

        def update(target: Collection, on: Terms) -> int:
            if body.dry_run:
                return call.database(records.count_matching, target, namespace, filter)
            patch = Patch(set=set_metadata, numbers=_checked(target, body.values))
            with _named_as_sent():
                if id is not None:
                    return call.database(records.update_ids, target, namespace, [id], patch, on)
                return call.database(records.update_matching, target, namespace, filter, patch, on)

        return call.write(
            hold,
            lambda on: call.use(project, index, lambda target: update(target, on)),
            lambda matched: UpdateOut(matched_records=matched if id is None else None),
            vectors=lambda matched: 0 if body.dry_run else matched,
            collection=index,
            namespace=namespace,
            had_filter=id is None,
        )


@router.post("/vectors/delete", response_model=PineconeAnswer)
def delete(index: CollectionPath, body: DeleteBody, call: WriteCallDependency) -> Response:
    """Delete records by ids, by filter, or all of a namespace; where there are none, nothing is deleted."""
    body.check(call.runtime.settings)
    records, namespace, filter = call.runtime.records, body.stored, native_filter(body.filter)
    with call.admit(Operation.DELETE, Role.WRITE, in_own_project=True) as hold:
        project = hold.admission.own_project

        def delete(target: Collection, on: Terms) -> int:
            if body.ids is not None:
                return call.database(records.delete_ids, target, namespace, body.ids, dry_run=False, on=on)
            return call.database(records.delete_matching, target, namespace, filter, dry_run=False, on=on)

        return call.write(
            hold,
            lambda on: call.use(project, index, lambda target: delete(target, on)),
            lambda _: PineconeAnswer(),
            vectors=int,
            collection=index,
            namespace=namespace,
            had_filter=filter is not None,
        )


@router.post("/describe_index_stats", response_model=StatsOut)
def describe_stats(index: CollectionPath, call: CallDependency, body: StatsBody | None = None) -> Response:
    """How many records there are, in each namespace and in all."""
    if body is not None:
        body.check()
    return _stats(index, call)


@router.get("/describe_index_stats", response_model=StatsOut)
def get_stats(index: CollectionPath, call: CallDependency) -> Response:
    """How many records there are, in each namespace and in all."""
    return _stats(index, call)


def _stats(index: str, call: Call) -> Response:
    read = call.runtime.descriptions.namespaces
    name = shown_namespace if api_version(call) >= _NAMES_THE_DEFAULT else str
    with call.admit(Operation.FETCH, Role.SEARCH, in_own_project=True) as hold:

        def work(target: Collection) -> tuple[Collection, list[NamespaceCount]]:
            return target, call.database(read, target, after=None, limit=MOST_NAMESPACES + 1)

        target, found = call.use(hold.admission.own_project, index, work)
        if len(found) > MOST_NAMESPACES:
            most = f"The index has more than {MOST_NAMESPACES} namespaces: list them in pages."
            raise PayloadTooLargeError(most)
        # The default one comes first, and last here: no other of its name is shown in its place.
        counts = {name(one.namespace): CountOut(vectorCount=one.count) for one in reversed(found)}
        answer = StatsOut.model_construct(
            namespaces=counts,
            dimension=target.dimension,
            total_vector_count=sum(one.count for one in found),
            metric=METRIC_NAMES[target.metric],
        )
        return call.respond(hold, answer, collection=index)


def _prepare(index: Collection, body: UpsertBody) -> list[Vector]:
    """Vectors ready to be written. Raises InvalidRequestError for values that the index cannot take."""
    found = (value_violation(index, one.values, f"vectors.{at}.values") for at, one in enumerate(body.vectors))
    raise_if_any([fault for fault in found if fault])
    namespace = body.stored
    return [
        Vector(id=one.id, numbers=one.values, namespace=namespace, metadata=kept(one.metadata)) for one in body.vectors
    ]


def _checked(index: Collection, values: array[float] | None) -> array[float] | None:
    """Raises InvalidRequestError for values that the index cannot take."""
    if values is not None and (fault := value_violation(index, values, "values")):
        raise_if_any([fault])
    return values


@contextmanager
def _named_as_sent() -> Iterator[None]:
    """What a change makes too large is ``set`` in the native API."""
    try:
        yield
    except InvalidRequestError as error:
        if any(fault.path == "set" for fault in error.violations):
            raise_if_any([replace(fault, path="setMetadata") for fault in error.violations])
        raise


def _records(found: Sequence[StoredVector], namespace: str, token: str | None = None) -> RecordsOut:
    units = max(1, -(-len(found) // _RECORDS_PER_READ_UNIT))
    vectors = {stored.id: to_record(stored) for stored in found}
    return RecordsOut.model_construct(
        vectors=vectors, namespace=namespace, pagination=next_page(token), read_units=units
    )
