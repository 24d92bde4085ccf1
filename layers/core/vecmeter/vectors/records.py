"""Writing, fetching and deleting vectors. Each method is one statement or transaction, so each is all or nothing."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, LiteralString, TypeVar

from vecmeter.errors import InvalidRequestError, LimitExceededError, VectorExistsError, VectorNotFoundError, Violation
from vecmeter.vectors import stock, terms
from vecmeter.vectors.connection import Connection, Database, pack_vectors
from vecmeter.vectors.filters import compile_filter
from vecmeter.vectors.model import Collection, StoredVector, Vector, Written
from vecmeter.vectors.stock import Change, CollectionLimits
from vecmeter.vectors.tables import statement
from vecmeter.vectors.terms import FREE, Done, Terms
from vecmeter.vectors.write_statements import ADD, DELETE, PATCH, PRESENT, UPSERT

T = TypeVar("T")

# Writes to a project that had no room of late are measured before their work, which otherwise is undone.
TIGHT_SECONDS = 60.0
TIGHT_PROJECTS = 1000

# Vectors by id.
_FETCH: LiteralString = """
    SELECT r.id, r.namespace, r.version, r.document, r.metadata, v.embedding::text AS numbers
    FROM {records} r JOIN {vectors} v USING (record_id)
    WHERE r.namespace = %(namespace)s AND r.id = ANY(%(ids)s)
"""
# A page of a namespace, by id. Without an upper bound it would read on behind the last id with the prefix.
_LIST: LiteralString = """
    SELECT r.id FROM {records} r
    WHERE r.namespace = %(namespace)s AND r.id > %(after)s AND r.id >= %(prefix)s [below]
    ORDER BY r.id LIMIT %(limit)s
"""
_COUNT_MATCHES: LiteralString = "SELECT count(*) FROM {records} r WHERE r.namespace = %(namespace)s AND [condition]"


class Records:
    """The vectors of collections, as rows."""

    def __init__(self, database: Database, max_metadata_bytes: int) -> None:
        self._database = database
        self._max_metadata_bytes = max_metadata_bytes
        self._tight: dict[str, float] = {}

    def upsert(self, collection: Collection, vectors: Sequence[Vector], on: Terms = FREE) -> list[Written]:
        """Insert or replace a batch; of several with the same namespace and id the last wins.

        Returns what happened to each, in the order of the batch. Raises what the terms say no with (``terms.write``).
        """
        unique = list({(vector.namespace, vector.id): vector for vector in vectors}.values())
        places = sorted((v.namespace, v.id) for v in unique)

        def finish(versions: list[int]) -> list[Written]:
            # Versions come in the order of namespace and id.
            version_of = dict(zip(places, versions, strict=True))
            return [_written(vector, version_of[vector.namespace, vector.id]) for vector in unique]

        return self._insert(UPSERT, collection, unique, finish, on)

    def add(self, collection: Collection, vector: Vector, on: Terms = FREE) -> Written:
        """Insert one vector.

        Raises:
            VectorExistsError: the id is taken; nothing is written.
        """

        def finish(versions: list[int]) -> Written:
            if not versions:
                raise VectorExistsError(f"Vector {vector.id!r} exists already.")
            return _written(vector, versions[0])

        return self._insert(ADD, collection, [vector], finish, on)

    def fetch(self, collection: Collection, namespace: str, ids: Sequence[str]) -> list[StoredVector]:
        """The vectors with these ids that exist, in the order asked for."""
        parameters = {"namespace": namespace, "ids": list(ids)}
        rows = self._database.run(lambda c: c.execute(statement(_FETCH, collection), parameters).fetchall())
        found = {row[0]: _stored(*row) for row in rows}
        return [found[id] for id in dict.fromkeys(ids) if id in found]

    def list_ids(self, collection: Collection, namespace: str, *, prefix: str, after: str, limit: int) -> list[str]:
        """Up to ``limit`` ids of a namespace that start with ``prefix`` and come after ``after``, sorted."""
        below = _first_without(prefix)
        parameters = {"namespace": namespace, "prefix": prefix, "below": below, "after": after, "limit": limit}
        template = _LIST.replace("[below]", "" if below is None else "AND r.id < %(below)s")
        rows = self._database.run(lambda c: c.execute(statement(template, collection), parameters).fetchall())
        return [row[0] for row in rows]

    def patch(
        self,
        collection: Collection,
        namespace: str,
        id: str,
        *,
        set: Mapping[str, Any],
        unset: Sequence[str],
        on: Terms = FREE,
    ) -> int:
        """Set and remove fields of a vector's metadata; returns its new version.

        Raises:
            VectorNotFoundError: there is none.
            InvalidRequestError: the metadata would become too large; nothing is changed.
        """
        text = statement(PATCH, collection)
        parameters = {"namespace": namespace, "id": id, "set": _json(set), "unset": list(unset)}

        def work(connection: Connection, receipt: uuid.UUID, bound: bool) -> Done | None:
            if not bound:
                return None  # the metadata it makes may be refused
            row = connection.execute(text, {**parameters, "receipt": receipt, "bound": bound}).fetchone()
            size = metadata_bytes(row[7] or {}) if row is not None else 0
            if size > self._max_metadata_bytes:
                message = f"makes the metadata {size} bytes long; at most {self._max_metadata_bytes} are allowed"
                raise InvalidRequestError(f"set {message}.", (Violation("set", message),))
            return terms.read_done(row)

        def finish(versions: list[int]) -> int:
            if not versions:
                raise VectorNotFoundError(f"There is no vector {id!r}.")
            return versions[0]

        return terms.write(self._database, collection, work, finish, on)

    def delete_one(self, collection: Collection, namespace: str, id: str, on: Terms = FREE) -> None:
        """Delete one vector.

        Raises:
            VectorNotFoundError: there is none.
        """

        def finish(answer: list[int]) -> None:
            if not answer[0]:
                raise VectorNotFoundError(f"There is no vector {id!r}.")

        self._delete(collection, "r.id = ANY(%(ids)s)", {"namespace": namespace, "ids": [id]}, finish, on)

    def delete_ids(
        self, collection: Collection, namespace: str, ids: Sequence[str], *, dry_run: bool, on: Terms = FREE
    ) -> int:
        """Delete the vectors with these ids that exist; returns how many, or how many there are."""
        parameters = {"namespace": namespace, "ids": list(ids)}
        if dry_run:
            return self._count(collection, "r.id = ANY(%(ids)s)", parameters)
        return self._delete(collection, "r.id = ANY(%(ids)s)", parameters, _first, on)

    def delete_matching(
        self,
        collection: Collection,
        namespace: str,
        filter: Mapping[str, Any] | None,
        *,
        dry_run: bool,
        on: Terms = FREE,
    ) -> int:
        """Delete the vectors of a namespace that a filter lets through (None: all); returns how many."""
        compiled = compile_filter(filter)
        condition, values = (compiled.expression, compiled.parameters) if compiled else ("true", {})
        parameters = {"namespace": namespace, **values}
        if dry_run:
            return self._count(collection, condition, parameters)
        return self._delete(collection, condition, parameters, _first, on)

    def _count(self, collection: Collection, condition: LiteralString, parameters: Mapping[str, Any]) -> int:
        text = statement(_COUNT_MATCHES.replace("[condition]", condition), collection)
        row = self._database.run(lambda c: c.execute(text, parameters).fetchone())
        assert row is not None, "an aggregate always answers"
        return int(row[0])

    def _insert(
        self,
        template: LiteralString,
        collection: Collection,
        vectors: Sequence[Vector],
        finish: Callable[[list[int]], T],
        on: Terms,
    ) -> T:
        text, parameters = statement(template, collection), _input(collection, vectors)
        replaces = template is UPSERT

        def work(connection: Connection, receipt: uuid.UUID, bound: bool) -> Done | None:
            return terms.read_done(
                connection.execute(text, {**parameters, "receipt": receipt, "bound": bound}).fetchone()
            )

        def foresee(connection: Connection) -> None:
            _foresee(connection, collection, vectors, parameters, on, replaces)

        try:
            tight = self._tight.get(collection.project_id, -TIGHT_SECONDS) > time.monotonic() - TIGHT_SECONDS
            return terms.write(self._database, collection, work, finish, on, foresee if tight else None)
        except LimitExceededError:
            if len(self._tight) >= TIGHT_PROJECTS:
                self._tight.clear()
            self._tight[collection.project_id] = time.monotonic()
            raise

    def _delete(
        self,
        collection: Collection,
        condition: LiteralString,
        parameters: Mapping[str, Any],
        finish: Callable[[list[int]], T],
        on: Terms,
    ) -> T:
        text = statement(DELETE.replace("[condition]", condition), collection)

        def work(connection: Connection, receipt: uuid.UUID, bound: bool) -> Done | None:
            return terms.read_done(connection.execute(text, {**parameters, "receipt": receipt}).fetchone())

        # It takes no room; without a key, limits are none of its business.
        return terms.write(self._database, collection, work, finish, FREE if on.once is None else on)


def _foresee(
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


def _first(answer: list[int]) -> int:
    return answer[0]


def metadata_bytes(metadata: Mapping[str, Any]) -> int:
    """Length of metadata as the shortest JSON in UTF-8, which is what the limit on it counts."""
    return len(json.dumps(metadata, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode())


def _json(metadata: Mapping[str, Any] | None) -> str:
    return json.dumps(metadata or {}, ensure_ascii=False, allow_nan=False)


def _input(collection: Collection, vectors: Sequence[Vector]) -> dict[str, Any]:
    return {
        "namespaces": [vector.namespace for vector in vectors],
        "ids": [vector.id for vector in vectors],
        "documents": [vector.document for vector in vectors],
        "metadata": [_json(vector.metadata) for vector in vectors],
        "embeddings": pack_vectors([vector.numbers for vector in vectors], collection.vector_oid),
    }


def _first_without(prefix: str) -> str | None:
    """The first text after all those that start with ``prefix``, by code points; None when nothing comes after them."""
    kept = prefix.rstrip("\U0010ffff")
    if not kept:
        return None
    code = ord(kept[-1]) + 1
    return kept[:-1] + chr(0xE000 if code == 0xD800 else code)  # no text has the surrogates between them


def _written(vector: Vector, version: int) -> Written:
    return Written(id=vector.id, namespace=vector.namespace, version=version, inserted=version == 1)


def parse_numbers(text: str) -> list[float]:
    """A vector as pgvector writes it: a JSON list, each number in the fewest digits that give the same float32."""
    numbers: list[float] = json.loads(text, parse_int=float)  # "-0" as an integer would lose its sign
    return numbers


def _stored(
    id: str, namespace: str, version: int, document: str | None, metadata: dict[str, Any], numbers: str
) -> StoredVector:
    return StoredVector(
        id=id,
        namespace=namespace,
        version=version,
        document=document,
        metadata=metadata,
        numbers=parse_numbers(numbers),
    )
