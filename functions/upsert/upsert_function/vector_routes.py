"""Routes on vectors: write, fetch, list, change, delete."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from upsert_function.vector_schemas import (
    BatchBody,
    BatchOut,
    DeleteBody,
    DeletedOut,
    DeleteParameters,
    FetchBody,
    IdOut,
    IdsOut,
    ListParameters,
    NamespaceParameters,
    PatchBody,
    PatchOut,
    PutBody,
    PutOut,
    UpdateBody,
    UpdatedOut,
    VectorBody,
    VectorItem,
    VectorOut,
    VectorsOut,
    estimate_document_tokens,
    stored_fields,
    to_batch_answer,
    to_put_answer,
    vector_paths,
)
from vecmeter.errors import VectorNotFoundError, Violation
from vecmeter.http.checks import invalid, name_violations, raise_if_any
from vecmeter.http.dependencies import Call, CallDependency
from vecmeter.http.embedding import embed_documents
from vecmeter.http.fields import CollectionPath, ProjectPath, VectorPath
from vecmeter.http.idempotency import WriteCallDependency
from vecmeter.http.paging import decode_page_token, page
from vecmeter.http.route import BusinessRoute
from vecmeter.ledger.model import Operation, Role
from vecmeter.settings import Settings
from vecmeter.vectors.checks import check_numbers
from vecmeter.vectors.model import KEPT, Collection, Patch, Vector, Written
from vecmeter.vectors.terms import Terms

router = APIRouter(tags=["vectors"], prefix="/projects/{project}/collections/{collection}", route_class=BusinessRoute)
NamespaceQuery = Annotated[NamespaceParameters, Query()]


@router.post("/vectors", response_model=BatchOut, operation_id="upsert_vectors", responses={409: {}})
def upsert_batch(
    project: ProjectPath, collection: CollectionPath, body: BatchBody, call: WriteCallDependency
) -> Response:
    """Insert or replace up to 1,000 vectors, all or none; of several with one id the last wins."""
    body.check(call.runtime.settings)
    tokens = estimate_document_tokens(body.vectors)
    with call.admit(Operation.UPSERT, Role.WRITE, project, tokens=tokens, vectors=len(body.vectors)) as hold:

        def upsert(target: Collection, on: Terms) -> list[Written]:
            vectors = _prepare(target, body.vectors, vector_paths(body.vectors), body.namespace, call)
            return call.database(call.runtime.records.upsert, target, vectors, on)

        return call.write(
            hold,
            lambda on: call.use(project, collection, lambda target: upsert(target, on)),
            to_batch_answer,
            vectors=len,
            collection=collection,
            namespace=body.namespace,
        )


@router.post("/add", status_code=201, response_model=PutOut, operation_id="add_vector", responses={409: {}})
def add(project: ProjectPath, collection: CollectionPath, body: VectorBody, call: WriteCallDependency) -> Response:
    """Insert one vector; 409 when its id exists."""
    violations = list(body.violations("", call.runtime.settings))
    if body.if_version:
        violations.append(Violation("if_version", "can only be 0 here: nothing that exists is replaced"))
    raise_if_any(violations)
    namespace = body.namespace or ""
    with call.admit(Operation.ADD, Role.WRITE, project, tokens=estimate_document_tokens([body]), vectors=1) as hold:

        def insert(target: Collection, on: Terms) -> Written:
            [vector] = _prepare(target, [body], [""], namespace, call)
            return call.database(call.runtime.records.add, target, vector, on)

        return call.write(
            hold,
            lambda on: call.use(project, collection, lambda target: insert(target, on)),
            to_put_answer,
            status=201,
            vectors=_one,
            collection=collection,
            namespace=namespace,
        )


@router.put("/vectors/{id:vector_id}", response_model=PutOut, operation_id="put_vector", responses={409: {}})
def put(
    project: ProjectPath,
    collection: CollectionPath,
    id: VectorPath,
    query: NamespaceQuery,
    body: PutBody,
    call: WriteCallDependency,
) -> Response:
    """Insert or replace one vector and say which it was."""
    vector_body = body.with_id(id)
    namespace = _one_namespace(query.namespace, body.namespace)
    _check_target(id, namespace, call.runtime.settings, *vector_body.violations("", call.runtime.settings))
    tokens = estimate_document_tokens([vector_body])
    with call.admit(Operation.UPSERT, Role.WRITE, project, tokens=tokens, vectors=1) as hold:

        def put(target: Collection, on: Terms) -> Written:
            [vector] = _prepare(target, [vector_body], [""], namespace, call)
            return call.database(call.runtime.records.put, target, vector, on)

        return call.write(
            hold,
            lambda on: call.use(project, collection, lambda target: put(target, on)),
            to_put_answer,
            vectors=_one,
            collection=collection,
            namespace=namespace,
        )


@router.get("/vectors", response_model=IdsOut, operation_id="list_vectors")
def list_ids(
    project: ProjectPath,
    collection: CollectionPath,
    query: Annotated[ListParameters, Query()],
    call: CallDependency,
) -> Response:
    """List the ids of a namespace, sorted, optionally those with a prefix."""
    query.check(call.runtime.settings)
    after = decode_page_token(query.page_token, r"[^\x00]{1,1024}")
    with call.admit(Operation.FETCH, Role.SEARCH, project) as hold:

        def work(target: Collection) -> list[str]:
            list_ids = call.runtime.records.list_ids
            namespace, prefix = query.namespace, query.prefix
            return call.database(list_ids, target, namespace, prefix=prefix, after=after, limit=query.limit + 1)

        shown, token = page(call.use(project, collection, work), query.limit, str)
        answer = IdsOut(vectors=[IdOut(id=id) for id in shown], namespace=query.namespace, next_page_token=token)
        return call.respond(hold, answer, vectors=len(shown), collection=collection, namespace=query.namespace)


@router.get("/vectors/{id:vector_id}", response_model=VectorOut, operation_id="get_vector")
def get(
    project: ProjectPath, collection: CollectionPath, id: VectorPath, query: NamespaceQuery, call: CallDependency
) -> Response:
    """Fetch one vector."""
    namespace = query.namespace or ""
    _check_target(id, namespace, call.runtime.settings)
    fetch = call.runtime.records.fetch
    with call.admit(Operation.FETCH, Role.SEARCH, project) as hold:
        found = call.use(project, collection, lambda target: call.database(fetch, target, namespace, [id]))
        if not found:
            raise VectorNotFoundError(f"There is no vector {id!r}.")
        answer = VectorOut.model_construct(**stored_fields(found[0]))
        return call.respond(hold, answer, vectors=1, collection=collection, namespace=namespace)


@router.post("/vectors/fetch", response_model=VectorsOut, operation_id="fetch_vectors")
def fetch(project: ProjectPath, collection: CollectionPath, body: FetchBody, call: CallDependency) -> Response:
    """Fetch vectors by id; ids that do not exist are left out."""
    body.check(call.runtime.settings)
    fetch = call.runtime.records.fetch
    with call.admit(Operation.FETCH, Role.SEARCH, project) as hold:
        found = call.use(project, collection, lambda target: call.database(fetch, target, body.namespace, body.ids))
        items = [VectorItem.model_construct(**stored_fields(stored)) for stored in found]
        answer = VectorsOut.model_construct(vectors=items, count=len(items))
        return call.respond(hold, answer, vectors=len(items), collection=collection, namespace=body.namespace)


@router.patch("/vectors/{id:vector_id}", response_model=PatchOut, operation_id="patch_vector", responses={409: {}})
def patch(
    project: ProjectPath,
    collection: CollectionPath,
    id: VectorPath,
    query: NamespaceQuery,
    body: PatchBody,
    call: WriteCallDependency,
) -> Response:
    """Change some of a vector: fields of its metadata, its numbers, its document, its expiry; the rest stays."""
    body.check(call.runtime.settings)
    namespace = _one_namespace(query.namespace, body.namespace)
    _check_target(id, namespace, call.runtime.settings)
    tokens = estimate_document_tokens([body])
    with call.admit(Operation.UPDATE, Role.WRITE, project, tokens=tokens, vectors=1) as hold:

        def change(target: Collection, on: Terms) -> int:
            return call.database(call.runtime.records.patch, target, namespace, id, _patch(target, body, call), on)

        return call.write(
            hold,
            lambda on: call.use(project, collection, lambda target: change(target, on)),
            lambda version: PatchOut(vector_id=id, version=version),
            vectors=_one,
            collection=collection,
            namespace=namespace,
        )


@router.post("/vectors/update", response_model=UpdatedOut, operation_id="update_vectors")
def update_many(
    project: ProjectPath, collection: CollectionPath, body: UpdateBody, call: WriteCallDependency
) -> Response:
    """Set and remove fields of the metadata of all vectors a filter lets through; with dry_run only count them."""
    body.check(call.runtime.settings)
    records, namespace, dry_run = call.runtime.records, body.namespace, body.dry_run
    patch = Patch(set=body.set or {}, unset=body.unset or [])
    with call.admit(Operation.UPDATE, Role.WRITE, project) as hold:

        def update(target: Collection, on: Terms) -> int:
            if dry_run:
                return call.database(records.count_matching, target, namespace, body.filter)
            return call.database(records.update_matching, target, namespace, body.filter, patch, on)

        return call.write(
            hold,
            lambda on: call.use(project, collection, lambda target: update(target, on)),
            lambda matched: UpdatedOut(matched=matched, updated=0 if dry_run else matched),
            vectors=lambda matched: 0 if dry_run else matched,
            collection=collection,
            namespace=namespace,
            had_filter=True,
        )


@router.delete("/vectors/{id:vector_id}", response_model=DeletedOut, operation_id="delete_vector", responses={409: {}})
def delete_one(
    project: ProjectPath,
    collection: CollectionPath,
    id: VectorPath,
    query: Annotated[DeleteParameters, Query()],
    call: WriteCallDependency,
) -> Response:
    """Delete one vector; 404 when there is none."""
    namespace = query.namespace or ""
    _check_target(id, namespace, call.runtime.settings)
    with call.admit(Operation.DELETE, Role.WRITE, project) as hold:

        def delete(target: Collection, on: Terms) -> None:
            delete = call.runtime.records.delete_one
            call.database(delete, target, namespace, id, if_version=query.if_version, on=on)

        return call.write(
            hold,
            lambda on: call.use(project, collection, lambda target: delete(target, on)),
            lambda _: DeletedOut(matched=1, deleted=1),
            vectors=_one,
            collection=collection,
            namespace=namespace,
        )


@router.post("/vectors/delete", response_model=DeletedOut, operation_id="delete_vectors")
def delete_many(
    project: ProjectPath, collection: CollectionPath, body: DeleteBody, call: WriteCallDependency
) -> Response:
    """Delete the vectors of a namespace by ids, by filter, or all; with dry_run only count them."""
    body.check(call.runtime.settings)
    records, namespace, dry_run = call.runtime.records, body.namespace, body.dry_run
    with call.admit(Operation.DELETE, Role.WRITE, project) as hold:

        def delete(target: Collection, on: Terms) -> int:
            if body.ids is not None:
                return call.database(records.delete_ids, target, namespace, body.ids, dry_run=dry_run, on=on)
            return call.database(records.delete_matching, target, namespace, body.filter, dry_run=dry_run, on=on)

        return call.write(
            hold,
            lambda on: call.use(project, collection, lambda target: delete(target, on)),
            lambda matched: DeletedOut(matched=matched, deleted=0 if dry_run else matched),
            vectors=lambda matched: 0 if dry_run else matched,
            collection=collection,
            namespace=namespace,
            had_filter=body.filter is not None,
        )


def _prepare(
    collection: Collection, wanted: Sequence[VectorBody], paths: Sequence[str], namespace: str, call: Call
) -> list[Vector]:
    """Vectors ready to be written: checked against the collection, documents without numbers embedded."""
    numbers = [body.vector for body in wanted]
    faults = [
        violation
        for vector, path in zip(numbers, paths, strict=True)
        if vector is not None and (violation := check_numbers(collection, vector, f"{path}vector"))
    ]
    raise_if_any(faults)
    missing = [index for index, vector in enumerate(numbers) if vector is None]
    if missing:
        documents = [wanted[index].document or "" for index in missing]
        embedded = embed_documents(collection, documents, [f"{paths[index]}document" for index in missing], call)
        for index, vector in zip(missing, embedded, strict=True):
            numbers[index] = vector
    return [
        Vector(
            id=body.id,
            numbers=vector,
            namespace=namespace if body.namespace is None else body.namespace,
            document=body.document,
            metadata=body.metadata,
            expires_at=body.expires_at,
            if_version=body.if_version,
        )
        for body, vector in zip(wanted, numbers, strict=True)
        if vector is not None
    ]


def _patch(collection: Collection, body: PatchBody, call: Call) -> Patch:
    """A patch ready to be made. A document is embedded, too, where the collection has an embedder."""
    given, numbers = body.model_fields_set, body.vector
    if numbers is not None:
        raise_if_any([violation] if (violation := check_numbers(collection, numbers, "vector")) else [])
    elif body.document is not None and collection.embedder is not None:
        [numbers] = embed_documents(collection, [body.document], ["document"], call)
    return Patch(
        set=body.set or {},
        unset=body.unset or [],
        numbers=numbers,
        document=body.document if "document" in given else KEPT,
        expires_at=body.expires_at if "expires_at" in given else KEPT,
        if_version=body.if_version,
    )


def _one(_: object) -> int:
    """The write concerns one vector."""
    return 1


def _one_namespace(in_query: str | None, in_body: str | None) -> str:
    if in_query is not None and in_body is not None and in_query != in_body:
        raise invalid("namespace", "differs from the namespace of the query string")
    return in_query or in_body or ""


def _check_target(id: str, namespace: str, settings: Settings, *more: Violation) -> None:
    """Raises InvalidRequestError for the id of a path or the namespace, with whatever else is wrong."""
    violations = [*name_violations({"id": id, "namespace": namespace}, settings), *more]
    raise_if_any(list(dict.fromkeys(violations)))
