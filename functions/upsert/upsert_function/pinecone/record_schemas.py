"""Bodies, parameters and answers of the routes on records, in camelCase."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, NotRequired

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.alias_generators import to_camel
from typing_extensions import TypedDict

from vecmeter.errors import InvalidRequestError, Violation
from vecmeter.http.checks import (
    check_count,
    filter_violations,
    id_violations,
    metadata_violations,
    name_violations,
    raise_if_any,
)
from vecmeter.http.fields import Numbers, Parameters
from vecmeter.http.pinecone.fields import PineconeAnswer, PineconeBody, PineconeItem
from vecmeter.http.pinecone.filters import native_filter
from vecmeter.http.pinecone.names import PineconeName, RecordId, stored_namespace
from vecmeter.http.pinecone.values import NoSparse
from vecmeter.settings import Settings
from vecmeter.vectors.model import StoredVector

MOST_RECORDS = 1000
MOST_OF_A_PAGE = 100
MOST_MATCHES = 10_000
# Bytes of a value in the message that refuses it, as their clients know it.
_SHOWN_BYTES = 16

_EMPTY_FILTERS = {
    "delete": "Delete with empty metadata filter is not allowed",
    "update": "Update with empty metadata filter is not allowed",
    "fetch": "Empty filter provided for fetch by metadata request",
}


def _few(value: Any) -> Any:
    if isinstance(value, list) and len(value) > MOST_RECORDS:
        raise ValueError(f"has {len(value)} items; at most {MOST_RECORDS} are allowed")
    return value


Ids = Annotated[list[RecordId], BeforeValidator(_few), Field(min_length=1)]
Token = Annotated[str | None, Field(description="``pagination.next`` of the page before.")]


class InNamespace(BaseModel):
    """What concerns one namespace; left out, null and empty are the default one."""

    namespace: PineconeName | None = None

    @property
    def asked(self) -> str:
        """As the request has it, for its answer."""
        return self.namespace or ""

    @property
    def stored(self) -> str:
        return stored_namespace(self.asked)


class RecordBody(PineconeBody):
    id: RecordId
    sparse_values: NoSparse = None
    values: Numbers
    metadata: dict[str, Any] | None = None

    def violations(self, path: str, settings: Settings) -> Iterator[Violation]:
        """What is beyond the limits of this deployment, or no metadata of theirs."""
        yield from name_violations({f"{path}id": self.id}, settings)
        yield from _metadata_violations(self.metadata, f"{path}metadata", settings)


class UpsertBody(InNamespace, PineconeBody):
    vectors: Annotated[list[RecordBody], BeforeValidator(_few), Field(min_length=1)]

    def check(self, settings: Settings) -> None:
        """Raises InvalidRequestError naming every offending path, PayloadTooLargeError for too many vectors."""
        check_count("vectors", len(self.vectors), settings)
        found = name_violations({"namespace": self.stored}, settings)
        paths = (f"vectors.{index}." for index in range(len(self.vectors)))
        faults = [v for one, path in zip(self.vectors, paths, strict=True) for v in one.violations(path, settings)]
        raise_if_any([*found, *faults])


class MatchBody(InNamespace, PineconeBody):
    """The records of a namespace that a filter lets through."""

    filter: dict[str, Any]
    limit: Annotated[int, Field(ge=1, le=MOST_MATCHES)] = MOST_OF_A_PAGE
    pagination_token: Token = None

    def check(self, settings: Settings) -> None:
        faults = [*name_violations({"namespace": self.stored}, settings), *_filter_violations(self.filter, "fetch")]
        raise_if_any(faults)


class UpdateBody(InNamespace, PineconeBody):
    """A record by its id: its values, fields of its metadata; or fields of the metadata of all that a filter lets
    through, which with ``dryRun`` are only counted.
    """

    id: RecordId | None = None
    filter: dict[str, Any] | None = None
    sparse_values: NoSparse = None
    values: Numbers | None = None
    set_metadata: dict[str, Any] | None = None
    dry_run: bool = False

    def check(self, settings: Settings) -> None:
        names = name_violations({"id": self.id, "namespace": self.stored}, settings)
        metadata = _metadata_violations(self.set_metadata, "setMetadata", settings)
        raise_if_any([*self._mode_violations(), *names, *_filter_violations(self.filter, "update"), *metadata])

    def _mode_violations(self) -> Iterator[Violation]:
        by_id, by_filter = self.id is not None, self.filter is not None
        if by_id == by_filter:
            given = "both" if by_id else "neither"
            yield Violation("id", f"exactly one of id and filter must be given, not {given}")
        if by_filter and self.values is not None:
            yield Violation("values", "Update by metadata request does not support updating vector values")
        if by_id and self.dry_run:
            yield Violation("dryRun", "counts what a filter lets through; it cannot be given with an id")
        if self.values is None and self.set_metadata is None and not (by_filter and self.dry_run):
            yield Violation("setMetadata", "must be given, or values with an id: there is nothing to change")


class DeleteBody(InNamespace, PineconeBody):
    """Exactly one of ``ids``, ``filter`` and ``deleteAll``."""

    ids: Ids | None = None
    filter: dict[str, Any] | None = None
    delete_all: bool = False

    def check(self, settings: Settings) -> None:
        check_count("ids", len(self.ids or ()), settings)
        names = [
            *name_violations({"namespace": self.stored}, settings),
            *id_violations(self.ids or (), "ids", settings),
        ]
        raise_if_any([*self._mode_violations(), *names, *_filter_violations(self.filter, "delete")])

    def _mode_violations(self) -> Iterator[Violation]:
        if self.delete_all and self.ids is not None:
            yield Violation("ids", "No explicit IDs allowed when delete_all=true")
        if self.delete_all and self.filter is not None:
            yield Violation("filter", "No filter allowed when delete_all=true")
        if self.ids is not None and self.filter is not None:
            yield Violation("filter", "cannot be given with ids: exactly one of ids, filter and deleteAll is allowed")
        if not self.delete_all and self.ids is None and self.filter is None:
            yield Violation("ids", "exactly one of ids, filter and deleteAll must be given, not none")


class StatsBody(PineconeBody):
    filter: dict[str, Any] | None = None

    def check(self) -> None:
        if self.filter:
            message = "Serverless and Starter indexes do not support describing index stats with metadata filtering"
            raise_if_any([Violation("filter", message)])


class CamelParameters(Parameters):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)


class FetchParameters(InNamespace, CamelParameters):
    ids: Ids

    def check(self, settings: Settings) -> None:
        check_count("ids", len(self.ids), settings)
        raise_if_any(
            [*name_violations({"namespace": self.stored}, settings), *id_violations(self.ids, "ids", settings)]
        )


class PageOfNames(CamelParameters):
    prefix: PineconeName = ""
    limit: Annotated[int, Field(ge=1, le=MOST_OF_A_PAGE)] = MOST_OF_A_PAGE
    pagination_token: Token = None


class ListParameters(InNamespace, PageOfNames):
    def check(self, settings: Settings) -> None:
        raise_if_any(list(name_violations({"namespace": self.stored}, settings)))


class NextPage(PineconeItem):
    next: str


class UpsertOut(PineconeAnswer):
    upserted_count: int


class RecordOut(TypedDict):
    """A dictionary, for there may be ten thousand. Without ``metadata`` where there is none, as theirs."""

    id: str
    values: list[float]
    metadata: NotRequired[dict[str, Any]]


class RecordsOut(PineconeAnswer):
    vectors: dict[str, RecordOut]
    namespace: str
    pagination: NextPage | None = None


class IdOut(PineconeItem):
    id: str


class IdsOut(PineconeAnswer):
    vectors: list[IdOut]
    namespace: str
    pagination: NextPage | None = None


class UpdateOut(PineconeAnswer):
    """``matchedRecords``: of an update by filter."""

    matched_records: int | None = None


class CountOut(TypedDict):
    """A dictionary, for there may be a hundred thousand."""

    vectorCount: int


class StatsOut(PineconeAnswer):
    namespaces: dict[str, CountOut]
    dimension: int
    index_fullness: float = 0.0
    total_vector_count: int
    metric: str
    vector_type: str = "dense"


def kept(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """Metadata as it is written: a field that is null is left out, as theirs."""
    return {field: value for field, value in (metadata or {}).items() if value is not None}


def to_record(stored: StoredVector) -> RecordOut:
    record = RecordOut(id=stored.id, values=stored.numbers)
    if stored.metadata:
        record["metadata"] = stored.metadata
    return record


def next_page(token: str | None) -> NextPage | None:
    return None if token is None else NextPage(next=token)


def _metadata_violations(metadata: Mapping[str, Any] | None, path: str, settings: Settings) -> Iterator[Violation]:
    written = kept(metadata)
    for field, value in written.items():
        if field.startswith("$"):
            yield Violation(path, f"Metadata keys must not start with $, got {field:.100}")
        if not _is_allowed(value):
            wanted = "Metadata value must be a string, number, boolean or list of strings"
            yield Violation(path, f"{wanted}, got '{_shown(value)}' for field '{field:.100}'")
    yield from metadata_violations(written, path, settings.max_metadata_bytes)


def _is_allowed(value: Any) -> bool:
    return isinstance(value, str | int | float) or (
        isinstance(value, list) and all(isinstance(item, str) for item in value)
    )


def _shown(value: Any) -> str:
    # What cannot be encoded is refused for that; here it is only to be shown.
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode(errors="replace")
    if len(text) <= _SHOWN_BYTES:
        return text.decode()
    return text[:_SHOWN_BYTES].decode(errors="ignore") + "..."


def _filter_violations(filter: Mapping[str, Any] | None, of: str) -> Iterator[Violation]:
    if filter is None:
        return
    if not filter:
        yield Violation("filter", _EMPTY_FILTERS[of])
        return
    try:
        yield from filter_violations(native_filter(filter))
    except InvalidRequestError as error:
        yield from error.violations
