"""Whether there is room for a batch at all, by the least that it can take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vecmeter.vectors import stock
from vecmeter.vectors.connection import Connection
from vecmeter.vectors.model import Collection, Vector
from vecmeter.vectors.stock import Change, CollectionLimits
from vecmeter.vectors.tables import statement
from vecmeter.vectors.terms import Terms
from vecmeter.vectors.write_statements import PRESENT


def refuse_beyond_room(
    connection: Connection,
    collection: Collection,
    vectors: Sequence[Vector],
    parameters: Mapping[str, Any],
    on: Terms,
    replaces: bool,
) -> None:
    """Refuse a batch for which there is no room whatever its metadata, before any of it is written."""
    row = connection.execute(statement(PRESENT, collection), parameters).fetchone()
    if row is None or (row[2] and not replaces):
        return  # dropped, or the id is taken
    max_vectors, max_bytes, there, bytes_there = row
    least = sum(_least_bytes(collection, vector) for vector in vectors)
    change = Change(vectors=len(vectors) - there, bytes=least - bytes_there, all_vectors=len(vectors), all_bytes=least)
    own = CollectionLimits(max_vectors=max_vectors, max_storage_bytes=max_bytes)
    stock.foresee(connection, collection, change, on.limits, own)


def _least_bytes(collection: Collection, vector: Vector) -> int:
    """What a vector takes of the storage at least (``stock.RECORD_BYTES``): metadata is no shorter than ``{}``."""
    return 4 * collection.dimension + len(vector.id.encode()) + len((vector.document or "").encode()) + len("{}")
