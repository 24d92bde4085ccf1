"""Writing, fetching and deleting vectors. Each method is one statement, so each is all or nothing."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, LiteralString

from vecmeter.errors import InvalidRequestError, VectorExistsError, VectorNotFoundError, Violation
from vecmeter.vectors.connection import Connection, Database, pack_vectors
from vecmeter.vectors.filters import compile_filter
from vecmeter.vectors.model import Collection, StoredVector, Vector, Written
from vecmeter.vectors.tables import statement

# What every write ends with: its receipt, which is also its answer (Database.write).
_RECEIPT: LiteralString = """
    receipt AS (
        INSERT INTO vecmeter.receipts (receipt_id, answer) SELECT %(receipt)s, [answer] RETURNING answer
    )
"""
# Insert a batch. The answer has the versions of what was written, in the order of namespace and id.
_INSERT: LiteralString = """
    WITH input AS (
        SELECT * FROM unnest(
            %(namespaces)s::text[], %(ids)s::text[], %(documents)s::text[], %(metadata)s::text[],
            %(embeddings)b::vector[]
        ) AS input (namespace, id, document, metadata, embedding)
    ), written AS (
        INSERT INTO {records} AS r (namespace, id, document, metadata)
        SELECT namespace, id, document, metadata::jsonb FROM input
        -- One order for all writers: two batches with the same ids wait for each other instead of deadlocking.
        ORDER BY namespace COLLATE "C", id COLLATE "C"
        ON CONFLICT (namespace, id) [on_conflict]
        RETURNING r.record_id, r.namespace, r.id, r.version
    ), embedded AS (
        INSERT INTO {vectors} AS v (record_id, namespace, embedding)
        SELECT w.record_id, w.namespace, i.embedding FROM written w JOIN input i USING (namespace, id)
        -- An unchanged vector is left alone: rewriting it would write the HNSW index again. By bits, for -0.0 = 0.0.
        ON CONFLICT (record_id) DO UPDATE SET embedding = excluded.embedding
        WHERE vector_send(v.embedding) <> vector_send(excluded.embedding)
    ), [receipt]
    SELECT answer FROM receipt
""".replace(
    "[receipt]",
    _RECEIPT.replace("[answer]", "coalesce(array_agg(version ORDER BY namespace, id), '{{}}') FROM written"),
)
_REPLACE: LiteralString = """
    DO UPDATE
    SET document = excluded.document, metadata = excluded.metadata, version = r.version + 1, updated_at = now()
"""
_UPSERT: LiteralString = _INSERT.replace("[on_conflict]", _REPLACE)
_ADD: LiteralString = _INSERT.replace("[on_conflict]", "DO NOTHING")
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
# Change some fields of one vector's metadata. The vector's own table is not touched, nor its index.
_PATCH: LiteralString = """
    WITH patched AS (
        UPDATE {records} AS r
        SET metadata = (r.metadata - %(unset)s::text[]) || %(set)s::jsonb, version = r.version + 1, updated_at = now()
        WHERE r.namespace = %(namespace)s AND r.id = %(id)s
        RETURNING r.version, r.metadata
    ), [receipt]
    SELECT receipt.answer, patched.metadata FROM receipt LEFT JOIN patched ON true
""".replace("[receipt]", _RECEIPT.replace("[answer]", "coalesce(array_agg(version), '{{}}') FROM patched"))
_COUNT_MATCHES: LiteralString = "SELECT count(*) FROM {records} r WHERE r.namespace = %(namespace)s AND [condition]"
# Delete from both tables at once; locked in the order of all writers first.
_DELETE: LiteralString = """
    WITH found AS (
        SELECT r.record_id FROM {records} r WHERE r.namespace = %(namespace)s AND [condition] ORDER BY r.id FOR UPDATE
    ), gone AS (
        DELETE FROM {records} r USING found WHERE r.record_id = found.record_id RETURNING r.record_id
    ), unembedded AS (
        DELETE FROM {vectors} v USING gone WHERE v.record_id = gone.record_id
    ), [receipt]
    SELECT answer FROM receipt
""".replace("[receipt]", _RECEIPT.replace("[answer]", "ARRAY[count(*)] FROM gone"))


class Records:
    """The vectors of collections, as rows."""

    def __init__(self, database: Database, max_metadata_bytes: int) -> None:
        self._database = database
        self._max_metadata_bytes = max_metadata_bytes

    def upsert(self, collection: Collection, vectors: Sequence[Vector]) -> list[Written]:
        """Insert or replace a batch; of several with the same namespace and id the last wins.

        Returns what happened to each, in the order of the batch.
        """
        unique = list({(vector.namespace, vector.id): vector for vector in vectors}.values())
        versions = self._write(_UPSERT, collection, _input(collection, unique))
        # A record's first version is 1, so the version tells an insert from an update.
        version_of = dict(zip(sorted((v.namespace, v.id) for v in unique), versions, strict=True))
        return [_written(vector, version_of[vector.namespace, vector.id]) for vector in unique]

    def add(self, collection: Collection, vector: Vector) -> Written:
        """Insert one vector.

        Raises:
            VectorExistsError: the id is taken; nothing is written.
        """
        versions = self._write(_ADD, collection, _input(collection, [vector]))
        if not versions:
            raise VectorExistsError(f"Vector {vector.id!r} exists already.")
        return _written(vector, versions[0])

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
    ) -> int:
        """Set and remove fields of a vector's metadata; returns its new version.

        Raises:
            VectorNotFoundError: there is none.
            InvalidRequestError: the metadata would become too large; nothing is changed.
        """
        parameters = {"namespace": namespace, "id": id, "set": _json(set), "unset": list(unset)}

        def work(connection: Connection, receipt: uuid.UUID) -> list[int]:
            with connection.transaction():
                row = connection.execute(statement(_PATCH, collection), {**parameters, "receipt": receipt}).fetchone()
                assert row is not None, "the receipt always answers"
                answer, metadata = row
                size = metadata_bytes(metadata or {})
                if size > self._max_metadata_bytes:
                    message = f"makes the metadata {size} bytes long; at most {self._max_metadata_bytes} are allowed"
                    raise InvalidRequestError(f"set {message}.", (Violation("set", message),))
            return list(answer)

        versions = self._database.write(work)
        if not versions:
            raise VectorNotFoundError(f"There is no vector {id!r}.")
        return versions[0]

    def delete_ids(self, collection: Collection, namespace: str, ids: Sequence[str], *, dry_run: bool) -> int:
        """Delete the vectors with these ids that exist; returns how many, or how many there are."""
        return self._delete(collection, "r.id = ANY(%(ids)s)", {"namespace": namespace, "ids": list(ids)}, dry_run)

    def delete_matching(
        self, collection: Collection, namespace: str, filter: Mapping[str, Any] | None, *, dry_run: bool
    ) -> int:
        """Delete the vectors of a namespace that a filter lets through (None: all); returns how many."""
        compiled = compile_filter(filter)
        condition, values = (compiled.expression, compiled.parameters) if compiled else ("true", {})
        return self._delete(collection, condition, {"namespace": namespace, **values}, dry_run)

    def _delete(
        self, collection: Collection, condition: LiteralString, parameters: Mapping[str, Any], dry_run: bool
    ) -> int:
        if not dry_run:
            return self._write(_DELETE.replace("[condition]", condition), collection, parameters)[0]
        text = statement(_COUNT_MATCHES.replace("[condition]", condition), collection)
        row = self._database.run(lambda c: c.execute(text, parameters).fetchone())
        assert row is not None, "an aggregate always answers"
        return int(row[0])

    def _write(self, template: LiteralString, collection: Collection, parameters: Mapping[str, Any]) -> list[int]:
        text = statement(template, collection)

        def work(connection: Connection, receipt: uuid.UUID) -> list[int]:
            row = connection.execute(text, {**parameters, "receipt": receipt}).fetchone()
            assert row is not None, "the receipt always answers"
            return list(row[0])

        return self._database.write(work)


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
