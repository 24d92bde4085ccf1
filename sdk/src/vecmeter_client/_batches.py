"""Vectors on their way into the service: each encoded once, and gathered into batches that it takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

from vecmeter_client._flow import to_json
from vecmeter_client._input import moment, pack, text
from vecmeter_client._models import Vector
from vecmeter_client.errors import InvalidInputError

MAX_VECTORS = 1000
# The service takes 6 MB; a function's event carries the body as text within 6 MB, where quotes and others take two.
MAX_BYTES = 4 * 1024 * 1024

VectorLike: TypeAlias = Vector | Mapping[str, Any] | tuple[Any, ...]

_FIELDS = tuple(field.name for field in fields(Vector))


@dataclass(frozen=True, slots=True)
class Batch:
    """Some vectors as the service takes them; ``first`` is the index of the first of all that were given."""

    first: int
    count: int
    content: bytes


def batches(
    vectors: Iterable[VectorLike], namespace: str, most: int = MAX_VECTORS, most_bytes: int = MAX_BYTES
) -> Iterator[Batch]:
    """Batches in the order given, of at most so many vectors and bytes; a vector longer than that goes alone.

    Takes from ``vectors`` what the next batch needs, and one more.

    Raises:
        InvalidInputError: a vector cannot be sent; those before it in its batch are not sent either.
    """
    before, after = b'{"vectors":[', b'],"namespace":' + to_json(namespace, "namespace") + b"}"
    frame = len(before) + len(after) - 1  # the first has no comma before it
    gathered: list[bytes] = []
    first, size = 0, frame
    for at, vector in enumerate(vectors):
        encoded = to_json(vector_body(vector, f"vectors.{at}."), f"vectors.{at}")
        if gathered and (len(gathered) == most or size + len(encoded) + 1 > most_bytes):
            yield Batch(first, len(gathered), before + b",".join(gathered) + after)
            gathered, first, size = [], at, frame
        gathered.append(encoded)
        size += len(encoded) + 1
    if gathered:
        yield Batch(first, len(gathered), before + b",".join(gathered) + after)


def size_of(vectors: Iterable[Any]) -> int | None:
    """How many there are, where that is known without taking them."""
    return len(vectors) if isinstance(vectors, Sized) else None


def vector_body(given: VectorLike, where: str = "") -> dict[str, Any]:
    """A vector as the service takes it. Raises InvalidInputError naming the field, ``where`` before it."""
    vector = _as_vector(given, where)
    return {
        name: value
        for name, value in (
            ("id", text(vector.id, f"{where}id")),
            ("vector", None if vector.vector is None else pack(vector.vector, f"{where}vector")),
            ("document", vector.document),
            ("metadata", vector.metadata),
            ("namespace", vector.namespace),
            ("expires_at", moment(vector.expires_at, f"{where}expires_at")),
            ("if_version", vector.if_version),
        )
        if value is not None
    }


def _as_vector(given: VectorLike, where: str) -> Vector:
    if isinstance(given, Vector):
        return given
    if isinstance(given, Mapping):
        unknown = [name for name in given if name not in _FIELDS]
        if unknown:
            raise InvalidInputError(f"{where}{unknown[0]}: is no field of a vector; there are {', '.join(_FIELDS)}")
        if "id" not in given:
            raise InvalidInputError(f"{where}id: is missing")
        return Vector(**given)
    if isinstance(given, tuple) and len(given) in (2, 3):
        id, numbers, *metadata = given
        return Vector(id, numbers, metadata=metadata[0] if metadata else None)
    shown = f"a tuple of {len(given)}" if isinstance(given, tuple) else type(given).__name__
    raise InvalidInputError(
        f"{where.rstrip('.') or 'vector'}: is {shown}; give a Vector, a mapping, or (id, vector[, metadata])"
    )
