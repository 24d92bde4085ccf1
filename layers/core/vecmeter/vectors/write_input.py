"""What statements that write are given, and what their answers must say."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vecmeter.errors import InvalidRequestError, VersionConflictError, Violation
from vecmeter.vectors.model import KEPT, Collection, Patch, Vector
from vecmeter.vectors.packing import pack_texts, pack_vector, pack_vectors
from vecmeter.vectors.write_statements import WriteTemplate, patch

_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def insert_input(collection: Collection, vectors: Sequence[Vector]) -> dict[str, Any]:
    return {
        "namespaces": pack_texts(vector.namespace for vector in vectors),
        "ids": pack_texts(vector.id for vector in vectors),
        "documents": pack_texts(vector.document for vector in vectors),
        "metadata": pack_texts(compact_json(vector.metadata or {}) for vector in vectors),
        "expires_at": pack_texts(v.expires_at.isoformat() if v.expires_at else None for v in vectors),
        "embeddings": pack_vectors([vector.numbers for vector in vectors], collection.vector_oid),
    }


def patch_input(change: Patch) -> tuple[WriteTemplate, dict[str, Any]]:
    """The statement that changes what a patch names, and its parameters."""
    values = {"set": compact_json(change.set), "unset": list(change.unset)}
    others: dict[str, Any] = {}
    if change.document is not KEPT:
        others["document"] = change.document
    if change.expires_at is not KEPT:
        others["expires_at"] = change.expires_at
    if change.numbers is not None:
        others["embedding"] = pack_vector(change.numbers)
    return patch(**{name: name in others for name in ("document", "expires_at", "embedding")}), values | others


def require_versions(conditions: Iterable[tuple[str, int | None, int]]) -> None:
    """Raises VersionConflictError for every path whose version is not the stored one (0: there is none)."""
    conflicts = tuple(
        Violation(path, f"is {wanted}; {f'the stored version is {stored}' if stored else 'there is no such vector'}")
        for path, wanted, stored in conditions
        if wanted is not None and wanted != stored
    )
    if conflicts:
        raise VersionConflictError(conflicts)


def too_large(large: Sequence[tuple[str, int]], limit: int) -> InvalidRequestError:
    """The error for a change that makes the metadata of these vectors longer than is allowed."""
    violations = tuple(
        Violation("set", f"makes the metadata of {id!r} {size} bytes long; at most {limit} are allowed")
        for id, size in large
    )
    return InvalidRequestError(f"set {violations[0].message}.", violations)


def compact_json(metadata: Mapping[str, Any]) -> str:
    """The shortest JSON, whose length in UTF-8 is what the limit on metadata counts. Raises ValueError for NaN."""
    return _ENCODER.encode(metadata)
