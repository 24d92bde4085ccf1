"""Texts on their way into a collection: checked before anything is sent, written in parts."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from vecmeter_client._input import refuse_single_text, refuse_what_is_no_json
from vecmeter_client._models import Partial, Upserted
from vecmeter_client._operations.vectors import name_own_indexes
from vecmeter_client.errors import InvalidInputError, VecmeterError

Record = dict[str, Any]


def to_records(
    texts: Iterable[str],
    metadatas: Sequence[Mapping[str, Any]] | None,
    ids: Sequence[str | None] | None,
) -> list[Record]:
    """What is to be written of each text; an id is made up where there is none.

    Raises:
        InvalidInputError: there are not as many texts, metadatas and ids; something is no text, or no JSON.
    """
    refuse_single_text(texts, "texts")
    refuse_single_text(ids, "ids")
    documents = list(texts)
    for name, given in (("metadatas", metadatas), ("ids", ids)):
        if given is not None and len(given) != len(documents):
            raise InvalidInputError(f"{name}: there are {len(given)}, and {len(documents)} texts")
    for at, document in enumerate(documents):
        if not isinstance(document, str):
            raise InvalidInputError(f"texts.{at}: is {type(document).__name__}, not text")
    for at, metadata in enumerate(metadatas or ()):
        refuse_what_is_no_json(metadata, f"metadatas.{at}")
    return [
        {
            "id": str(uuid.uuid4()) if ids is None or ids[at] is None else ids[at],
            "document": document,
            "metadata": metadatas[at] if metadatas else {},
        }
        for at, document in enumerate(documents)
    ]


def documents_of(records: Sequence[Record]) -> list[str]:
    """Their texts."""
    return [record["document"] for record in records]


def with_vectors(records: Sequence[Record], vectors: Sequence[Sequence[float]] | None) -> Sequence[Record]:
    """New records, so that vectors are held no longer than it takes to write them; without vectors, the same.

    Raises:
        InvalidInputError: there are not as many.
    """
    if vectors is None:
        return records
    if len(vectors) != len(records):
        raise InvalidInputError(f"embedding: made {len(vectors)} vectors of {len(records)} texts")
    return [record | {"vector": vector} for record, vector in zip(records, vectors, strict=True)]


def chosen(ids: Sequence[str] | None, filter: Mapping[str, Any] | None, delete_all: bool) -> dict[str, Any]:
    """What to delete, as ``Collection.delete`` takes it. Raises InvalidInputError unless it is exactly one of these."""
    refuse_single_text(ids, "ids")
    given: dict[str, Any] = {}
    if ids is not None:
        given["ids"] = list(ids)
    if filter is not None:
        given["filter"] = filter
    if delete_all:
        given["all"] = True
    if len(given) != 1:
        message = f"exactly one of ids, filter and delete_all must be given, not {' and '.join(given) or 'none'}"
        raise InvalidInputError(message)
    return given


@dataclass
class Batches:
    """Records in parts, and how far their writing came."""

    records: Sequence[Record]
    size: int
    done: int = 0
    upserted: Upserted = field(default_factory=Upserted)

    def __post_init__(self) -> None:
        if self.size < 1:
            raise InvalidInputError(f"batch_size: is {self.size}; it must be at least 1")

    def __iter__(self) -> Iterator[Sequence[Record]]:
        for start in range(0, len(self.records), self.size):
            yield self.records[start : start + self.size]

    def written(self, upserted: Upserted, count: int) -> None:
        self.done += count
        self.upserted = _sum(self.upserted, upserted)

    @contextmanager
    def told(self) -> Iterator[None]:
        """An error from within says what is written: in its ``partial``, or in a note if it is not one of ours."""
        try:
            yield
        except VecmeterError as error:
            here = error.partial or Partial(upserted=Upserted(), next_index=0)
            error.partial = Partial(upserted=_sum(self.upserted, here.upserted), next_index=self.done + here.next_index)
            name_own_indexes(error, self.done)
            raise
        except Exception as error:
            error.add_note(f"{self.done} of {len(self.records)} texts are written; texts[{self.done}] is the next one.")
            raise


def _sum(one: Upserted, other: Upserted) -> Upserted:
    return Upserted(
        inserted=one.inserted + other.inserted, updated=one.updated + other.updated, usage=one.usage + other.usage
    )
