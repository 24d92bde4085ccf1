"""Vectors and texts as parameters in PostgreSQL's binary form."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable, Sequence
from struct import pack
from typing import Any

import psycopg
from psycopg.adapt import Dumper
from psycopg.pq import Format

_TEXT_OID = 25
_NULL = pack(">i", -1)


class PackedVector(bytes):
    """One vector in pgvector's binary form."""


class PackedArray(bytes):
    """A one-dimensional array in PostgreSQL's binary form (array_recv): as text each item would be quoted."""


class _PackedDumper(Dumper):
    """Passes ready binary on. No type number: the statement's cast says the type, so no catalogue query is needed."""

    format = Format.BINARY
    oid = 0

    def dump(self, obj: Any) -> bytes:
        return bytes(obj)


def pack_vector(numbers: array[float]) -> PackedVector:
    """pgvector's binary form (vector_recv in its src/vector.c): dimension and 0 as int16, float32s, big-endian."""
    return PackedVector(pack(">HH", len(numbers), 0) + _big_endian(numbers))


def pack_vectors(vectors: Sequence[array[float]], vector_oid: int) -> PackedArray:
    joined = array("f")
    for numbers in vectors:
        joined.extend(numbers)
    data = memoryview(_big_endian(joined))
    parts: list[bytes | memoryview] = [_array_header(vector_oid, len(vectors))]
    end = 0
    for numbers in vectors:
        start, end = end, end + 4 * len(numbers)
        parts.append(pack(">iHH", end - start + 4, len(numbers), 0))
        parts.append(data[start:end])
    return PackedArray(b"".join(parts))


def pack_texts(texts: Iterable[str | None]) -> PackedArray:
    packed = [_NULL if text is None else _sized(text.encode()) for text in texts]
    return PackedArray(_array_header(_TEXT_OID, len(packed)) + b"".join(packed))


def _array_header(oid: int, count: int) -> bytes:
    """One dimension, no flags, the type of the items, how many, counted from 1."""
    return pack(">iiIii", 1, 0, oid, count, 1)


def _sized(content: bytes) -> bytes:
    return pack(">i", len(content)) + content


def _big_endian(numbers: array[float]) -> bytes:
    if sys.byteorder == "little":
        numbers = array("f", numbers)
        numbers.byteswap()
    return numbers.tobytes()


def configure(connection: psycopg.Connection[Any]) -> None:
    """What every connection needs: our binary parameters."""
    connection.adapters.register_dumper(PackedVector, _PackedDumper)
    connection.adapters.register_dumper(PackedArray, _PackedDumper)
