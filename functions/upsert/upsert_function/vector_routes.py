"""Routes on vectors: write, fetch, list, change, delete."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from upsert_function.schemas import (
    BatchBody,
    BatchOut,
    DeleteBody,
    DeletedOut,
    FetchBody,
    IdOut,
    IdsOut,
    ListQuery,
    NamespaceQuery,
    PatchBody,
    PatchOut,
    PutBody,
    PutOut,
    VectorBody,
    VectorItem,
    VectorOut,
    VectorsOut,
    check_each,
    estimate_document_tokens,
    name_violations,
    raise_if_any,
    stored_fields,
    written_out,
)
from vecmeter.errors import InvalidRequestError, VectorNotFoundError, Violation
from vecmeter.http.dependencies import Call, CallDependency, blocking
from vecmeter.http.embedding import embed_documents
from vecmeter.http.fields import CollectionPath, ProjectPath
from vecmeter.http.paging import decode_page_token, page
from vecmeter.ledger.model import Operation, Role
from vecmeter.telemetry import Metric
from vecmeter.vectors.checks import check_numbers
from vecmeter.vectors.model import Collection, Vector

router = APIRouter(tags=["vectors"], prefix="/projects/{project}/collections/{collection}")


@router.post("/vectors", response_model=BatchOut, operation_id="upsert_vectors")
@blocking
def upsert_batch(project: ProjectPath, collection: CollectionPath, body: BatchBody, call: CallDependency) -> Response:
    """Insert or replace up to 1,000 vectors, all or none; of several with one id the last wins."""
    body.check(call.runtime.settings)
    paths = [f"vectors.{index}." for index in range(len(body.vectors))]
    tokens = estimate_document_tokens(body.vectors)
    with call.admit(Operation.UPSERT, Role.WRITE, project, tokens=tokens, vectors=len(body.vectors)) as hold:

        def work(target: Collection) -> BatchOut:
            vectors = _prepare(target, body.vectors, paths, body.namespace, call)
            with call.metrics.timed(Metric.DATABASE_TIME):
                written = call.runtime.records.upsert(target, vectors)
            inserted = sum(one.inserted for one in written)
            results = [written_out(one) for one in written]
            return BatchOut(inserted=inserted, updated=len(written) - inserted, results=results)

        answer = call.runtime.collections.use(project, collection, work)
        return call.respond(hold, answer, vectors=len(answer.results), collection=collection, namespace=body.namespace)


@router.post("/add", status_code=201, response_model=PutOut, operation_id="add_vector")
@blocking
def add(project: ProjectPath, collection: CollectionPath, body: VectorBody, call: CallDependency) -> Response:
    """Insert one vector; 409 when its id exists."""
    check_each([body], [""], call.runtime.settings)
    tokens = estimate_document_tokens([body])
    with call.admit(Operation.ADD, Role.WRITE, project, tokens=tokens, vectors=1) as hold:

        def work(target: Collection) -> PutOut:
            [vector] = _prepare(target, [body], [""], "", call)
            with call.metrics.timed(Metric.DATABASE_TIME):
                written = call.runtime.records.add(target, vector)
            return PutOut(operation="insert", vector_id=written.id, version=written.version)

        answer = call.runtime.collections.use(project, collection, work)
        namespace = body.namespace or ""
        return call.respond(hold, answer, status=201, vectors=1, collection=collection, namespace=namespace)


@router.put("/vectors/{id:path}", response_model=PutOut, operation_id="put_vector")
@blocking
def put(
    project: ProjectPath,
    collection: CollectionPath,
    id: str,
    query: Annotated[NamespaceQuery, Query()],
    body: PutBody,
    call: CallDependency,
) -> Response:
    """Insert or replace one vector and say which it was."""
    namespace = _one_namespace(query.namespace, body.namespace)
    wanted = body.with_id(id)
    _check_id(id, namespace, call)
    check_each([wanted], [""], call.runtime.settings)
    tokens = estimate_document_tokens([wanted])
    with call.admit(Operation.UPSERT, Role.WRITE, project, tokens=tokens, vectors=1) as hold:

        def work(target: Collection) -> PutOut:
            vectors = _prepare(target, [wanted], [""], namespace, call)
            with call.metrics.timed(Metric.DATABASE_TIME):
                [written] = call.runtime.records.upsert(target, vectors)
            return PutOut(operation=written_out(written).operation, vector_id=written.id, version=written.version)

        answer = call.runtime.collections.use(project, collection, work)
        return call.respond(hold, answer, vectors=1, collection=collection, namespace=namespace)


@router.get("/vectors", response_model=IdsOut, operation_id="list_vectors")
@blocking
def list_ids(
    project: ProjectPath,
    collection: CollectionPath,
    query: Annotated[ListQuery, Query()],
    call: CallDependency,
) -> Response:
    """List the ids of a namespace, sorted, optionally those with a prefix."""
    after = decode_page_token(query.page_token)
    with call.admit(Operation.FETCH, Role.SEARCH, project) as hold:
        ids = call.runtime.collections.use(
            project,
            collection,
            lambda c: call.runtime.records.list_ids(
                c, query.namespace, prefix=query.prefix, after=after, limit=query.limit + 1
            ),
        )
        shown, token = page(ids, query.limit, lambda id: id)
        answer = IdsOut(vectors=[IdOut(id=id) for id in shown], namespace=query.namespace, next_page_token=token)
        return call.respond(hold, answer, vectors=len(shown), collection=collection, namespace=query.namespace)


@router.get("/vectors/{id:path}", response_model=VectorOut, operation_id="get_vector")
@blocking
def get(
    project: ProjectPath,
    collection: CollectionPath,
    id: str,
    query: Annotated[NamespaceQuery, Query()],
    call: CallDependency,
) -> Response:
    """Fetch one vector."""
    namespace = query.namespace or ""
    _check_id(id, namespace, call)
    with call.admit(Operation.FETCH, Role.SEARCH, project) as hold:
        found = call.runtime.collections.use(
            project, collection, lambda c: call.runtime.records.fetch(c, namespace, [id])
        )
        if not found:
            raise VectorNotFoundError(f"There is no vector {id!r}.")
        answer = VectorOut(**stored_fields(found[0]))
        return call.respond(hold, answer, vectors=1, collection=collection, namespace=namespace)


@router.post("/vectors/fetch", response_model=VectorsOut, operation_id="fetch_vectors")
@blocking
def fetch(project: ProjectPath, collection: CollectionPath, body: FetchBody, call: CallDependency) -> Response:
    """Fetch vectors by id; ids that do not exist are left out."""
    body.check(call.runtime.settings)
    with call.admit(Operation.FETCH, Role.SEARCH, project) as hold:
        found = call.runtime.collections.use(
            project, collection, lambda c: call.runtime.records.fetch(c, body.namespace, body.ids)
        )
        items = [VectorItem.model_construct(**stored_fields(stored)) for stored in found]
        answer = VectorsOut(vectors=items, count=len(items))
        return call.respond(hold, answer, vectors=len(items), collection=collection, namespace=body.namespace)


@router.patch("/vectors/{id:path}", response_model=PatchOut, operation_id="patch_vector")
@blocking
def patch(
    project: ProjectPath,
    collection: CollectionPath,
    id: str,
    query: Annotated[NamespaceQuery, Query()],
    body: PatchBody,
    call: CallDependency,
) -> Response:
    """Set and remove fields of a vector's metadata; the rest stays."""
    body.check(call.runtime.settings)
    namespace = _one_namespace(query.namespace, body.namespace)
    _check_id(id, namespace, call)
    with call.admit(Operation.UPDATE, Role.WRITE, project, vectors=1) as hold:
        version = call.runtime.collections.use(
            project,
            collection,
            lambda c: call.runtime.records.patch(c, namespace, id, set=body.set or {}, unset=body.unset or []),
        )
        answer = PatchOut(vector_id=id, version=version)
        return call.respond(hold, answer, vectors=1, collection=collection, namespace=namespace)


@router.delete("/vectors/{id:path}", response_model=DeletedOut, operation_id="delete_vector")
@blocking
def delete_one(
    project: ProjectPath,
    collection: CollectionPath,
    id: str,
    query: Annotated[NamespaceQuery, Query()],
    call: CallDependency,
) -> Response:
    """Delete one vector; 404 when there is none."""
    namespace = query.namespace or ""
    _check_id(id, namespace, call)
    with call.admit(Operation.DELETE, Role.WRITE, project) as hold:
        deleted = call.runtime.collections.use(
            project,
            collection,
            lambda c: call.runtime.records.delete_ids(c, namespace, [id], dry_run=False),
        )
        if not deleted:
            raise VectorNotFoundError(f"There is no vector {id!r}.")
        answer = DeletedOut(matched=1, deleted=1)
        return call.respond(hold, answer, vectors=1, collection=collection, namespace=namespace)


@router.post("/vectors/delete", response_model=DeletedOut, operation_id="delete_vectors")
@blocking
def delete_many(project: ProjectPath, collection: CollectionPath, body: DeleteBody, call: CallDependency) -> Response:
    """Delete the vectors of a namespace by ids, by filter, or all; with dry_run only count them."""
    body.check(call.runtime.settings)
    records = call.runtime.records
    with call.admit(Operation.DELETE, Role.WRITE, project) as hold:

        def work(target: Collection) -> int:
            if body.ids is not None:
                return records.delete_ids(target, body.namespace, body.ids, dry_run=body.dry_run)
            return records.delete_matching(target, body.namespace, body.filter, dry_run=body.dry_run)

        matched = call.runtime.collections.use(project, collection, work)
        answer = DeletedOut(matched=matched, deleted=0 if body.dry_run else matched)
        return call.respond(
            hold,
            answer,
            vectors=answer.deleted,
            collection=collection,
            namespace=body.namespace,
            had_filter=body.filter is not None,
        )


def _prepare(
    collection: Collection, wanted: Sequence[VectorBody], paths: Sequence[str], namespace: str, call: Call
) -> list[Vector]:
    """Vectors ready to be written: checked against the collection, documents without numbers embedded."""
    raise_if_any(
        [
            violation
            for body, path in zip(wanted, paths, strict=True)
            if body.vector is not None and (violation := check_numbers(collection, body.vector, f"{path}vector"))
        ]
    )
    missing = [index for index, body in enumerate(wanted) if body.vector is None]
    numbers = [body.vector for body in wanted]
    if missing:
        documents = [wanted[index].document or "" for index in missing]
        embedded = embed_documents(
            collection, documents, [f"{paths[index]}document" for index in missing], call.metrics
        )
        for index, vector in zip(missing, embedded, strict=True):
            numbers[index] = vector
    return [
        Vector(
            id=body.id,
            numbers=vector,
            namespace=namespace if body.namespace is None else body.namespace,
            document=body.document,
            metadata=body.metadata,
        )
        for body, vector in zip(wanted, numbers, strict=True)
        if vector is not None
    ]


def _one_namespace(in_query: str | None, in_body: str | None) -> str:
    if in_query is not None and in_body is not None and in_query != in_body:
        message = "differs from the namespace of the query string"
        raise InvalidRequestError(f"namespace {message}.", (Violation("namespace", message),))
    return in_query or in_body or ""


def _check_id(id: str, namespace: str, call: Call) -> None:
    """Ids in a path have not passed a body's types."""
    violations = list(name_violations([id, namespace], ["id", "namespace"], call.runtime.settings))
    if not id:
        violations.append(Violation("id", "must not be empty"))
    if "\x00" in id:
        violations.append(Violation("id", "has a character U+0000, which PostgreSQL cannot keep"))
    raise_if_any(violations)
