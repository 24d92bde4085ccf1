"""Operations on the collections of a project."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias, TypeVar

from vecmeter_client._flow import Answer, Flow, Page, Pages, Repeat, Request, Route, to_json
from vecmeter_client._models import CollectionInfo, Metric, NamespaceInfo, Usage
from vecmeter_client._places import CollectionAt, ProjectAt
from vecmeter_client._reading import answered, content_of, items_of, read

T = TypeVar("T")

COLLECTIONS = "/projects/{project}/collections"
COLLECTION = COLLECTIONS + "/{collection}"

CREATE = Route("POST", COLLECTIONS, Repeat.BY_KEY)
LIST = Route("GET", COLLECTIONS)
DESCRIBE = Route("GET", COLLECTION)
CHANGE = Route("PATCH", COLLECTION, Repeat.BY_KEY)
DELETE = Route("DELETE", COLLECTION, Repeat.BY_KEY)
NAMESPACES = Route("GET", COLLECTION + "/namespaces")
DELETE_NAMESPACE = Route("DELETE", COLLECTION + "/namespaces/{namespace}", Repeat.BY_KEY)


@dataclass(frozen=True, slots=True, kw_only=True)
class _DeletedNamespace:
    deleted: int


class Unset(Enum):
    """What was not given, where None means something."""

    UNSET = "unset"

    def __repr__(self) -> str:
        return "UNSET"


UNSET = Unset.UNSET

Embedder: TypeAlias = str | Mapping[str, Any]
Filterable: TypeAlias = Mapping[str, str] | Iterable[Mapping[str, str]]


def create_collection(  # noqa: PLR0913 - what a collection can be made of
    at: ProjectAt,
    name: str,
    *,
    dimension: int | None = None,
    metric: Metric = "cosine",
    index: Mapping[str, Any] | None = None,
    embedder: Embedder | None = None,
    text_search: str | None = None,
    filterable: Filterable = (),
    target_recall: float | None = None,
    deletion_protection: bool = False,
    tags: Mapping[str, str] | None = None,
) -> Flow[CollectionInfo]:
    """Make a collection: a named set of vectors with one dimension and metric.

    Args:
        dimension: may be left out where the embedder knows it.
        index: ``type`` (hnsw, none), ``m``, ``ef_construction``, ``storage`` (float, half, binary), ``ef_search``.
        embedder: a provider ("built-in", "bedrock", "none"), or ``{"provider": ..., "model": ...}``; None: the
            deployment's default.
        text_search: language of the documents, to search them by words.
        filterable: fields of the metadata that get an index, ``{"year": "number"}``: string, number, boolean, date.
        target_recall: a binary index that finds less is replaced.
        deletion_protection: it cannot be deleted.
        tags: its owner's own names and values.

    Raises:
        CollectionExistsError, InvalidRequestError, LimitExceededError.
    """
    body = {
        "name": name,
        "dimension": dimension,
        "metric": metric,
        "index": index,
        "embedder": {"provider": embedder} if isinstance(embedder, str) else embedder,
        "text_search": text_search,
        "filterable": _filterable(filterable) or None,
        "target_recall": target_recall,
        "deletion_protection": deletion_protection or None,
        "tags": tags,
    }
    answer = yield CREATE.to(at.project, body=body)
    return answered(CollectionInfo, answer)


def list_collections(at: ProjectAt, *, page_size: int = 100) -> Pages[CollectionInfo]:
    """All collections of the project, by name, ``page_size`` (1 to 1,000) an answer."""

    def ask(token: str | None) -> Request:
        return LIST.to(at.project, query={"limit": page_size, "page_token": token})

    return listed(ask, "collections", CollectionInfo)


def delete_collection(at: ProjectAt, name: str) -> Flow[Usage]:
    """Delete a collection with all its vectors. Raises CollectionNotFoundError, DeletionProtectedError."""
    return delete(CollectionAt(at.project, name))


def describe(at: CollectionAt) -> Flow[CollectionInfo]:
    """The definition, the exact count, sizes and indexes. Raises CollectionNotFoundError."""
    answer = yield DESCRIBE.to(at.project, at.name)
    return answered(CollectionInfo, answer)


def change(
    at: CollectionAt,
    *,
    index: Mapping[str, Any] | Unset = UNSET,
    target_recall: float | Unset = UNSET,
    text_search: str | Unset | None = UNSET,
    filterable: Filterable | Unset = UNSET,
    deletion_protection: bool | Unset = UNSET,
    tags: Mapping[str, str] | Unset = UNSET,
) -> Flow[CollectionInfo]:
    """Change what can be changed; what is not given stays. ``text_search=None`` gives up searching by words;
    ``filterable`` and ``tags`` are replaced as a whole.

    Indexes follow in the background. Raises CollectionNotFoundError, InvalidRequestError.
    """
    body: dict[str, Any] = {
        "index": index,
        "target_recall": target_recall,
        "text_search": text_search,
        "filterable": filterable if isinstance(filterable, Unset) else _filterable(filterable),
        "deletion_protection": deletion_protection,
        "tags": tags,
    }
    given = {name: value for name, value in body.items() if value is not UNSET}
    answer = yield CHANGE.to(at.project, at.name, body=to_json(given))
    return answered(CollectionInfo, answer)


def delete(at: CollectionAt) -> Flow[Usage]:
    """Delete the collection with all its vectors. Raises CollectionNotFoundError, DeletionProtectedError."""
    answer = yield DELETE.to(at.project, at.name)
    return usage_of(answer)


def namespaces(at: CollectionAt, *, page_size: int = 100) -> Pages[NamespaceInfo]:
    """All namespaces that have vectors, with exact counts."""

    def ask(token: str | None) -> Request:
        return NAMESPACES.to(at.project, at.name, query={"limit": page_size, "page_token": token})

    return listed(ask, "namespaces", NamespaceInfo)


def delete_namespace(at: CollectionAt, name: str) -> Flow[int]:
    """Delete a namespace with all its vectors, and say how many there were. Raises NamespaceNotFoundError."""
    answer = yield DELETE_NAMESPACE.to(at.project, at.name, name)
    return answered(_DeletedNamespace, answer).deleted


def listed(ask: Callable[[str | None], Request], name: str, kind: type[T]) -> Pages[T]:
    """The pages of a list whose items stand under ``name``; ``ask`` makes the request of a token."""

    def page(token: str | None) -> Flow[Page[T]]:
        content = content_of((yield ask(token)))
        return Page([read(kind, item) for item in items_of(content, name)], content.get("next_page_token"))

    return page


def usage_of(answer: Answer) -> Usage:
    """What the request took."""
    return read(Usage, content_of(answer).get("usage", {}))


def _filterable(given: Filterable) -> list[Mapping[str, str]]:
    if isinstance(given, Mapping):
        return [{"field": field, "type": type} for field, type in given.items()]
    return list(given)
