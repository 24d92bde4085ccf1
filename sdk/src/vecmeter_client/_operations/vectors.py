"""Operations on the vectors of a collection."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from typing import Any, TypeVar

from vecmeter_client._batches import MAX_VECTORS, VectorLike, batches, size_of, vector_body
from vecmeter_client._flow import Flow, Page, Pages, Repeat, Request, Route, to_json
from vecmeter_client._input import Numbers, moment, pack, refuse_single_text
from vecmeter_client._models import (
    Deleted,
    Partial,
    Patched,
    Progress,
    Put,
    StoredVector,
    Updated,
    Upserted,
    Usage,
    Written,
)
from vecmeter_client._operations.definitions import COLLECTION, UNSET, Unset, usage_of
from vecmeter_client._places import CollectionAt
from vecmeter_client._reading import answered, content_of, items_of, read
from vecmeter_client.errors import ApiError, InvalidInputError, PayloadTooLargeError, VecmeterError, Violation

T = TypeVar("T")

VECTORS = COLLECTION + "/vectors"
VECTOR = VECTORS + "/{id}"

UPSERT = Route("POST", VECTORS, Repeat.BY_KEY)
ADD = Route("POST", COLLECTION + "/add", Repeat.BY_KEY)
PUT = Route("PUT", VECTOR, Repeat.BY_KEY)
GET = Route("GET", VECTOR)
LIST = Route("GET", VECTORS)
FETCH = Route("POST", VECTORS + "/fetch")
PATCH = Route("PATCH", VECTOR, Repeat.BY_KEY)
UPDATE = Route("POST", VECTORS + "/update", Repeat.BY_KEY)
DELETE_ONE = Route("DELETE", VECTOR, Repeat.BY_KEY)
DELETE = Route("POST", VECTORS + "/delete", Repeat.BY_KEY)

_PLACE = re.compile(r"\bvectors\.(\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Id:
    id: str


def upsert(
    at: CollectionAt,
    vectors: Iterable[VectorLike],
    *,
    namespace: str = "",
    batch_size: int | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    idempotency_key: str | None = None,
) -> Flow[Upserted]:
    """Insert vectors, or replace those whose ids are there, in batches one after the other; each is all or nothing.

    Takes from ``vectors`` no more than the next batch needs, so it may be a generator of any length.

    Args:
        vectors: each a ``Vector``, a mapping with its fields, or ``(id, vector[, metadata])``.
        namespace: of those that name none.
        batch_size: most vectors of a batch, 1 to 1,000; it also ends at 4 MiB.
        on_progress: called after each batch.
        idempotency_key: batch n (from 0) gets ``<key>-<n>``, so that a program that was ended can send the same batches
            again and write and pay for none twice; else each gets one of its own.

    Raises:
        VecmeterError: of any kind; ``partial`` says what was written before and where to go on. Indexes in
            ``violations`` are those of ``vectors``.
    """
    most = MAX_VECTORS if batch_size is None else batch_size
    if not 1 <= most <= MAX_VECTORS:
        raise InvalidInputError(f"batch_size: is {most}; 1 to {MAX_VECTORS} are allowed")
    total, so_far, done = size_of(vectors), Upserted(), 0
    try:
        for number, batch in enumerate(batches(vectors, namespace, most)):
            request = UPSERT.to(at.project, at.name, body=batch.content)
            if idempotency_key is not None:
                request = _keyed(request, f"{idempotency_key}-{number}")
            content = content_of((yield request))
            so_far += read(Upserted, content)
            done = batch.first + batch.count
            if on_progress is not None:
                written = tuple(read(Written, each) for each in items_of(content, "results"))
                on_progress(Progress(done=done, total=total, written=written))
    except VecmeterError as error:
        error.partial = Partial(upserted=so_far, next_index=done)
        name_own_indexes(error, done)
        raise
    return so_far


def add(at: CollectionAt, vector: VectorLike, *, namespace: str = "") -> Flow[Put]:
    """Insert one vector. Raises VectorExistsError where its id is there already."""
    answer = yield ADD.to(at.project, at.name, body={"namespace": namespace, **vector_body(vector)})
    return answered(Put, answer)


def put(at: CollectionAt, vector: VectorLike, *, namespace: str = "") -> Flow[Put]:
    """Insert or replace one vector, and say which it was. Raises VersionConflictError."""
    body = {"namespace": namespace, **vector_body(vector)}
    answer = yield PUT.to(at.project, at.name, body.pop("id"), body=body)
    return answered(Put, answer)


def get(at: CollectionAt, id: str, *, namespace: str = "") -> Flow[StoredVector]:
    """One vector. Raises VectorNotFoundError."""
    answer = yield GET.to(at.project, at.name, id, query={"namespace": namespace})
    return answered(StoredVector, answer)


def fetch(at: CollectionAt, ids: Iterable[str], *, namespace: str = "") -> Flow[list[StoredVector]]:
    """Vectors by id, in as many requests as that takes; ids that are not there are left out."""
    refuse_single_text(ids, "ids")
    found: list[StoredVector] = []
    size = MAX_VECTORS
    for chunk in _chunks(ids, MAX_VECTORS):
        waiting = [chunk]
        while waiting:
            wanted = waiting.pop()
            if len(wanted) > size:
                waiting += [wanted[size:], wanted[:size]]
                continue
            try:
                answer = yield FETCH.to(at.project, at.name, body={"ids": wanted, "namespace": namespace})
            except PayloadTooLargeError:
                if len(wanted) == 1:
                    raise
                # Answers end at 5 MB, and only the service knows how long its vectors are.
                size = len(wanted) // 2
                waiting.append(wanted)
                continue
            found += [read(StoredVector, one) for one in items_of(content_of(answer), "vectors")]
    return found


def list_ids(at: CollectionAt, *, prefix: str = "", namespace: str = "", page_size: int = 100) -> Pages[str]:
    """The ids of a namespace that begin with ``prefix``, sorted, ``page_size`` (1 to 1,000) an answer."""

    def page(token: str | None) -> Flow[Page[str]]:
        query = {"namespace": namespace, "prefix": prefix, "limit": page_size, "page_token": token}
        content = content_of((yield LIST.to(at.project, at.name, query=query)))
        found = [read(_Id, one).id for one in items_of(content, "vectors")]
        return Page(found, content.get("next_page_token"))

    return page


def export(at: CollectionAt, *, prefix: str = "", namespace: str = "", page_size: int = 100) -> Pages[StoredVector]:
    """The vectors of a namespace whose ids begin with ``prefix``, by id; those of ``page_size`` ids are held at a time.

    What is written or deleted meanwhile may be among them or not; each other one is, once.
    """
    ids = list_ids(at, prefix=prefix, namespace=namespace, page_size=page_size)

    def page(token: str | None) -> Flow[Page[StoredVector]]:
        listed = yield from ids(token)
        vectors = yield from fetch(at, listed.items, namespace=namespace)
        return Page(sorted(vectors, key=lambda one: one.id), listed.next_token)

    return page


def patch(  # noqa: PLR0913 - what a patch can say
    at: CollectionAt,
    id: str,
    *,
    set: Mapping[str, Any] | None = None,
    unset: Sequence[str] | None = None,
    vector: Numbers | None = None,
    document: str | Unset | None = UNSET,
    expires_at: datetime | str | Unset | None = UNSET,
    namespace: str = "",
    if_version: int | None = None,
) -> Flow[Patched]:
    """Change some of a vector; the rest stays. None for ``document`` or ``expires_at`` takes it away.

    Args:
        set, unset: fields of the metadata to set and to remove.
        if_version: only if the vector has this version.

    Raises:
        VectorNotFoundError, VersionConflictError.
    """
    refuse_single_text(unset, "unset")
    body: dict[str, Any] = {
        "set": set,
        "unset": unset if unset is None else list(unset),
        "vector": None if vector is None else pack(vector),
        "if_version": if_version,
    }
    body = {name: value for name, value in body.items() if value is not None}
    if not isinstance(document, Unset):
        body["document"] = document
    if not isinstance(expires_at, Unset):
        body["expires_at"] = moment(expires_at, "expires_at")
    answer = yield PATCH.to(at.project, at.name, id, query={"namespace": namespace}, body=to_json(body))
    return answered(Patched, answer)


def update(
    at: CollectionAt,
    filter: Mapping[str, Any],
    *,
    set: Mapping[str, Any] | None = None,
    unset: Sequence[str] | None = None,
    namespace: str = "",
    dry_run: bool = False,
) -> Flow[Updated]:
    """Set and remove fields of the metadata of every vector of a namespace that a filter lets through, all or none."""
    refuse_single_text(unset, "unset")
    body = {
        "filter": filter,
        "set": set,
        "unset": unset if unset is None else list(unset),
        "namespace": namespace,
        "dry_run": dry_run,
    }
    answer = yield UPDATE.to(at.project, at.name, body=body)
    return answered(Updated, answer)


def delete(
    at: CollectionAt,
    *,
    ids: Iterable[str] | None = None,
    filter: Mapping[str, Any] | None = None,
    all: bool = False,
    namespace: str = "",
    dry_run: bool = False,
) -> Flow[Deleted]:
    """Delete vectors of a namespace by ids (any number, 1,000 a request), by filter, or all; exactly one of these."""
    body: dict[str, Any] = {"filter": filter, "all": all or None, "namespace": namespace, "dry_run": dry_run}
    if ids is None:
        answer = yield DELETE.to(at.project, at.name, body=body)
        return answered(Deleted, answer)
    refuse_single_text(ids, "ids")
    matched = deleted = 0
    usage = Usage()
    for chunk in _chunks(ids, MAX_VECTORS):
        answer = yield DELETE.to(at.project, at.name, body={**body, "ids": chunk})
        one = answered(Deleted, answer)
        matched, deleted, usage = matched + one.matched, deleted + one.deleted, usage + one.usage
    return Deleted(matched=matched, deleted=deleted, usage=usage)


def delete_one(at: CollectionAt, id: str, *, namespace: str = "", if_version: int | None = None) -> Flow[Usage]:
    """Delete one vector. Raises VectorNotFoundError, VersionConflictError."""
    answer = yield DELETE_ONE.to(at.project, at.name, id, query={"namespace": namespace, "if_version": if_version})
    return usage_of(answer)


def _chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    left = iter(items)
    while chunk := list(islice(left, size)):
        yield chunk


def _keyed(request: Request, key: str) -> Request:
    return replace(request, headers={**request.headers, "Idempotency-Key": key})


def name_own_indexes(error: VecmeterError, first: int) -> None:
    """Make of the places in a batch those in what was given."""
    if isinstance(error, ApiError) and first:
        error.violations = tuple(Violation(_moved(one.path, first), one.message) for one in error.violations)
        error.detail = _moved(error.detail, first)
        error.args = (_moved(str(error), first),)


def _moved(text: str, by: int) -> str:
    return _PLACE.sub(lambda found: f"vectors.{int(found[1]) + by}", text)
