"""Bodies of the routes on vectors, and their way to and from the vector store's own types."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AliasChoices, Field
from typing_extensions import TypedDict

from vecmeter.embedding.model import estimate_tokens
from vecmeter.errors import Violation
from vecmeter.http.checks import (
    check_count,
    filter_violations,
    id_violations,
    length_violations,
    metadata_violations,
    name_violations,
    raise_if_any,
)
from vecmeter.http.fields import (
    Answer,
    Body,
    Filter,
    Metadata,
    MeteredAnswer,
    Moment,
    Namespace,
    OptionalFilter,
    OptionalNumbers,
    PageParameters,
    Parameters,
    Text,
    VectorId,
    WithinMeasure,
    changes,
    examples,
    took,
)
from vecmeter.settings import Settings
from vecmeter.vectors.model import StoredVector, Written

# Versions are counted in 64 bits.
_MAX_VERSION = 2**63 - 1


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("is beyond the years 1 to 9999 in UTC") from None


Ids = Annotated[list[VectorId], WithinMeasure, Field(min_length=1)]
Fields = Annotated[list[Text], WithinMeasure]
Expiry = Annotated[Moment, AfterValidator(_in_utc)]
IfVersion = Annotated[
    int, Field(ge=0, le=_MAX_VERSION, description="Only in the place of this version; 0: only where there is none.")
]
IfStoredVersion = Annotated[int, Field(ge=1, le=_MAX_VERSION, description="Only if the vector has this version.")]


class VectorFields(Body):
    """What is written of a vector: its numbers, or a document for the collection's embedder, or both."""

    vector: OptionalNumbers = None
    document: Text | None = None
    metadata: Metadata | None = None
    namespace: Namespace | None = None
    expires_at: Annotated[Expiry | None, Field(description="From then on it is as good as deleted.")] = None
    if_version: IfVersion | None = None


class PutBody(VectorFields):
    """A vector whose id stands in the path."""

    model_config = examples({"document": "The invoice is due in March.", "metadata": {"kind": "invoice"}})

    def with_id(self, id: str) -> VectorBody:
        return VectorBody.model_construct(id=id, **dict(self))


class VectorBody(VectorFields):
    """A vector to be written."""

    model_config = examples({"id": "a", "vector": [0.1, 0.2, 0.3], "metadata": {"kind": "invoice"}})

    id: VectorId

    def violations(self, path: str, settings: Settings) -> Iterator[Violation]:
        """What is beyond the limits of this deployment; ``path`` stands before each field."""
        yield from name_violations({f"{path}id": self.id, f"{path}namespace": self.namespace}, settings)
        if self.vector is None and self.document is None:
            yield Violation(f"{path}vector", "vector or document must be given")
        yield from length_violations(f"{path}document", self.document, settings.max_document_characters)
        if self.metadata:
            yield from metadata_violations(self.metadata, f"{path}metadata", settings.max_metadata_bytes)


class BatchBody(Body):
    model_config = examples(
        {
            "vectors": [
                {"id": "a", "document": "The invoice is due in March.", "metadata": {"kind": "invoice"}},
                {"id": "b", "document": "The cat sleeps on the sofa."},
            ]
        },
        {"vectors": [{"id": "a", "vector": [0.1, 0.2, 0.3]}, {"id": "b", "vector": "zczMPc3MTD6amZk+"}]},
    )

    vectors: Annotated[list[VectorBody], WithinMeasure, Field(min_length=1)]
    namespace: Annotated[Namespace, Field(description="For vectors that name none.")] = ""

    def check(self, settings: Settings) -> None:
        """Raises PayloadTooLargeError for too many vectors, InvalidRequestError naming every offending path."""
        check_count("vectors", len(self.vectors), settings)
        paths = vector_paths(self.vectors)
        violations = [v for one, path in zip(self.vectors, paths, strict=True) for v in one.violations(path, settings)]
        raise_if_any([*name_violations({"namespace": self.namespace}, settings), *violations])


class FetchBody(Body):
    model_config = examples({"ids": ["a", "b"]})

    ids: Ids
    namespace: Namespace = ""

    def check(self, settings: Settings) -> None:
        check_count("ids", len(self.ids), settings)
        raise_if_any([*id_violations(self.ids, "ids", settings), *_namespace(self.namespace, settings)])


class DeleteBody(Body):
    """Exactly one of ``ids``, ``filter`` and ``all``."""

    model_config = examples({"ids": ["a", "b"]}, {"filter": {"kind": "invoice"}, "dry_run": True})

    ids: Ids | None = None
    filter: OptionalFilter = None
    all: Annotated[bool | None, Field(description="true: every vector of the namespace.")] = None
    namespace: Namespace = ""
    dry_run: Annotated[bool, Field(description="Only count.")] = False

    def check(self, settings: Settings) -> None:
        check_count("ids", len(self.ids or ()), settings)
        raise_if_any(list(self._violations(settings)))

    def _violations(self, settings: Settings) -> Iterator[Violation]:
        given = [name for name in ("ids", "filter", "all") if getattr(self, name) is not None]
        if len(given) != 1:
            message = f"exactly one of ids, filter and all must be given, not {' and '.join(given) or 'none'}"
            yield Violation("ids", message)
        if self.all is False:
            yield Violation("all", "must be true where it is given")
        if self.filter is not None and not self.filter:
            yield Violation("filter", "is empty, which would match everything: say all instead")
        yield from filter_violations(self.filter)
        yield from id_violations(self.ids or (), "ids", settings)
        yield from _namespace(self.namespace, settings)


class PatchBody(Body):
    """What to change of a vector; the rest stays. A document for the collection's embedder changes the numbers, too."""

    model_config = changes(
        {"set": {"paid": True}, "unset": ["due"]},
        {"expires_at": "2099-01-01T00:00:00Z"},
        {"document": "It was paid.", "if_version": 3},
    )

    set: Metadata | None = None
    unset: Fields | None = None
    vector: OptionalNumbers = None
    document: Annotated[Text | None, Field(description="null: none from now on.")] = None
    expires_at: Annotated[Expiry | None, Field(description="null: never.")] = None
    namespace: Namespace | None = None
    if_version: IfStoredVersion | None = None

    def check(self, settings: Settings) -> None:
        violations = list(metadata_violations(self.set or {}, "set", settings.max_metadata_bytes))
        violations += length_violations("document", self.document, settings.max_document_characters)
        if "vector" in self.model_fields_set and self.vector is None:
            violations.append(Violation("vector", "must be given where it is named: a vector always has numbers"))
        elif not (self.set or self.unset or self.model_fields_set & {"vector", "document", "expires_at"}):
            violations.append(Violation("set", "set or unset must name a field, or something else must be given"))
        raise_if_any(violations)


class UpdateBody(Body):
    """Fields of the metadata to set and to remove of every vector that a filter lets through."""

    model_config = examples({"filter": {"kind": "invoice"}, "set": {"paid": True}, "unset": ["due"]})

    filter: Annotated[Filter, Field(validation_alias=AliasChoices("filter", "metadata_filter"))]
    set: Metadata | None = None
    unset: Fields | None = None
    namespace: Namespace = ""
    dry_run: Annotated[bool, Field(description="Only count.")] = False

    def check(self, settings: Settings) -> None:
        violations = [
            *filter_violations(self.filter),
            *metadata_violations(self.set or {}, "set", settings.max_metadata_bytes),
            *_namespace(self.namespace, settings),
        ]
        if not self.filter:
            violations.append(Violation("filter", "is empty, which would match everything"))
        if not self.set and not self.unset:
            violations.append(Violation("set", "set or unset must name a field"))
        raise_if_any(violations)


class NamespaceParameters(Parameters):
    namespace: Namespace | None = None


class DeleteParameters(NamespaceParameters):
    if_version: IfStoredVersion | None = None


class ListParameters(PageParameters):
    namespace: Namespace = ""
    prefix: Text = ""

    def check(self, settings: Settings) -> None:
        raise_if_any(list(name_violations({"namespace": self.namespace, "prefix": self.prefix}, settings)))


class WrittenOut(TypedDict):
    """A dictionary, for there may be a thousand."""

    id: str
    namespace: str
    operation: Literal["insert", "update"]
    version: int


class BatchOut(MeteredAnswer):
    model_config = examples(
        {
            "inserted": 1,
            "updated": 1,
            "results": [
                {"id": "a", "namespace": "", "operation": "insert", "version": 1},
                {"id": "b", "namespace": "", "operation": "update", "version": 2},
            ],
            "usage": took(6e-06, tokens=7, vectors=2),
        }
    )

    inserted: int
    updated: int
    results: list[WrittenOut]


class PatchOut(MeteredAnswer):
    model_config = examples({"status": "ok", "vector_id": "a", "version": 3, "usage": took(3e-06, vectors=1)})

    status: Literal["ok"] = "ok"
    vector_id: str
    version: int


class PutOut(PatchOut):
    model_config = examples(
        {
            "status": "ok",
            "operation": "insert",
            "vector_id": "a",
            "version": 1,
            "usage": took(4e-06, tokens=7, vectors=1),
        }
    )

    operation: Literal["insert", "update"]


class VectorItem(Answer):
    id: str
    namespace: str
    version: int
    vector: list[float]
    document: str | None = None
    metadata: dict[str, Any]
    expires_at: datetime | None = None


_STORED = {
    "id": "a",
    "namespace": "",
    "version": 1,
    "vector": [0.1, 0.2, 0.3],
    "document": "The invoice is due in March.",
    "metadata": {"kind": "invoice"},
}


class VectorOut(VectorItem, MeteredAnswer):
    model_config = examples(_STORED | {"usage": took(vectors=1)})


class VectorsOut(MeteredAnswer):
    model_config = examples({"vectors": [_STORED], "count": 1, "usage": took(vectors=1)})

    vectors: list[VectorItem]
    count: int


class IdOut(Answer):
    id: str


class IdsOut(MeteredAnswer):
    model_config = examples({"vectors": [{"id": "a"}, {"id": "b"}], "namespace": "", "usage": took(vectors=2)})

    vectors: list[IdOut]
    namespace: str
    next_page_token: str | None = None


class UpdatedOut(MeteredAnswer):
    model_config = examples({"matched": 1, "updated": 1, "usage": took(3e-06, vectors=1)})

    matched: int
    updated: int


class DeletedOut(MeteredAnswer):
    model_config = examples({"matched": 1, "deleted": 1, "usage": took(vectors=1)})

    matched: int
    deleted: int


def vector_paths(vectors: Sequence[VectorBody]) -> list[str]:
    """What stands before the fields of each vector in the path of a fault."""
    return [f"vectors.{index}." for index in range(len(vectors))]


def estimate_document_tokens(vectors: Iterable[VectorBody | PatchBody]) -> int:
    return sum(estimate_tokens(vector.document) for vector in vectors if vector.document)


def to_batch_answer(written: Sequence[Written]) -> BatchOut:
    inserted = sum(one.inserted for one in written)
    results = [
        WrittenOut(id=one.id, namespace=one.namespace, operation=_operation(one), version=one.version)
        for one in written
    ]
    return BatchOut.model_construct(inserted=inserted, updated=len(written) - inserted, results=results)


def to_put_answer(written: Written) -> PutOut:
    return PutOut(operation=_operation(written), vector_id=written.id, version=written.version)


def stored_fields(stored: StoredVector) -> dict[str, Any]:
    return {
        "id": stored.id,
        "namespace": stored.namespace,
        "version": stored.version,
        "vector": stored.numbers,
        "document": stored.document,
        "metadata": stored.metadata,
        "expires_at": stored.expires_at,
    }


def _operation(written: Written) -> Literal["insert", "update"]:
    return "insert" if written.inserted else "update"


def _namespace(namespace: str, settings: Settings) -> Iterator[Violation]:
    return name_violations({"namespace": namespace}, settings)
