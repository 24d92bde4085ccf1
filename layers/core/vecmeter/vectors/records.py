"""Writing, fetching and deleting vectors. Each method is one statement, so each is all or nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, LiteralString

from vecmeter.errors import InvalidRequestError, VectorExistsError, VectorNotFoundError, Violation
from vecmeter.vectors.collections import Collections
from vecmeter.vectors.connection import Connection, Database, pack_vectors
from vecmeter.vectors.filters import compile_filter
from vecmeter.vectors.model import Collection, StoredVector, Vector, Written
from vecmeter.vectors.tables import statement

_INPUT: LiteralString = """
    WITH input AS (
        SELECT * FROM unnest(
            %(namespaces)s::text[], %(ids)s::text[], %(documents)s::text[], %(metadata)s::text[],
            %(embeddings)b::vector[]
        ) AS input (namespace, id, document, metadata, embedding)
    ), written AS (
        INSERT INTO {records} AS r (namespace, id, document, metadata)
        SELECT namespace, id, document, metadata::jsonb FROM input
        -- One order for all writers: two batches with the same ids wait for each other instead of deadlocking.
        ORDER BY namespace, id
"""
_EMBED: LiteralString = """
        RETURNING r.record_id, r.namespace, r.id, r.version
    ), embedded AS (
        INSERT INTO {vectors} AS v (record_id, namespace, embedding)
        SELECT w.record_id, w.namespace, i.embedding FROM written w JOIN input i USING (namespace, id)
        -- An unchanged vector is left alone: rewriting it would write the HNSW index again.
        ON CONFLICT (record_id) DO UPDATE SET embedding = excluded.embedding
        WHERE v.embedding <> excluded.embedding
    )
    SELECT id, namespace, version, version = 1 AS inserted FROM written
"""
# Insert or replace a batch; a record's first version is 1, so the version tells an insert from an update.
_UPSERT: LiteralString = (
    _INPUT
    + """
        ON CONFLICT (namespace, id) DO UPDATE
        SET document = excluded.document, metadata = excluded.metadata, version = r.version + 1, updated_at = now()
"""
    + _EMBED
)
# Insert a batch; ids that exist are left out of the answer.
_ADD: LiteralString = _INPUT + " ON CONFLICT (namespace, id) DO NOTHING " + _EMBED
_STORED: LiteralString = """
    SELECT r.id, r.namespace, r.version, r.document, r.metadata, v.embedding::text AS numbers
    FROM {records} r JOIN {vectors} v USING (record_id)
"""
# Vectors by id.
_FETCH: LiteralString = _STORED + " WHERE r.namespace = %(namespace)s AND r.id = ANY(%(ids)s)"
# A page of a namespace, by id.
_LIST: LiteralString = """
    SELECT r.id FROM {records} r
    WHERE r.namespace = %(namespace)s AND r.id > %(after)s AND r.id >= %(prefix)s AND starts_with(r.id, %(prefix)s)
    ORDER BY r.id LIMIT %(limit)s
"""
# Change some fields of one vector's metadata. The vector's own table is not touched, nor its index.
_PATCH: LiteralString = """
    UPDATE {records} AS r
    SET metadata = (r.metadata - %(unset)s::text[]) || %(set)s::jsonb, version = r.version + 1, updated_at = now()
    WHERE r.namespace = %(namespace)s AND r.id = %(id)s
    RETURNING r.version, r.metadata
"""
_COUNT_MATCHES: LiteralString = "SELECT count(*) FROM {records} r WHERE r.namespace = %(namespace)s AND "
# Delete from both tables at once.
_DELETE: LiteralString = """
    WITH gone AS (DELETE FROM {records} r WHERE r.namespace = %(namespace)s AND """
_DELETE_END: LiteralString = """ RETURNING r.record_id),
    unembedded AS (DELETE FROM {vectors} v USING gone WHERE v.record_id = gone.record_id)
    SELECT count(*) FROM gone
"""


class Records:
    """The vectors of collections, as rows."""

    def __init__(self, database: Database, collections: Collections, max_metadata_bytes: int) -> None:
        self._database = database
        self._collections = collections
        self._max_metadata_bytes = max_metadata_bytes

    def upsert(self, collection: Collection, vectors: Sequence[Vector]) -> list[Written]:
        """Insert or replace a batch; of several with the same namespace and id the last wins.

        Returns what happened to each, in the order of the batch.
        """
        return self._write(_UPSERT, collection, vectors, repeatable=True)

    def add(self, collection: Collection, vector: Vector) -> Written:
        """Insert one vector.

        Raises:
            VectorExistsError: the id is taken; nothing is written.
        """
        written = self._write(_ADD, collection, [vector], repeatable=False)
        if not written:
            raise VectorExistsError(f"Vector {vector.id!r} exists already.")
        return written[0]

    def fetch(self, collection: Collection, namespace: str, ids: Sequence[str]) -> list[StoredVector]:
        """The vectors with these ids that exist, in the order asked for."""
        parameters = {"namespace": namespace, "ids": list(ids)}
        rows = self._database.run(
            lambda c: c.execute(statement(_FETCH, collection), parameters).fetchall(), repeatable=True
        )
        found = {row[0]: _stored(*row) for row in rows}
        return [found[id] for id in dict.fromkeys(ids) if id in found]

    def list_ids(self, collection: Collection, namespace: str, *, prefix: str, after: str, limit: int) -> list[str]:
        """Up to ``limit`` ids of a namespace that start with ``prefix`` and come after ``after``, sorted."""
        parameters = {"namespace": namespace, "prefix": prefix, "after": after, "limit": limit}
        rows = self._database.run(
            lambda c: c.execute(statement(_LIST, collection), parameters).fetchall(), repeatable=True
        )
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
        parameters = {
            "namespace": namespace,
            "id": id,
            "set": json.dumps(set, ensure_ascii=False, allow_nan=False),
            "unset": list(unset),
        }

        def work(connection: Connection) -> int:
            with connection.transaction():
                row = connection.execute(statement(_PATCH, collection), parameters).fetchone()
                if row is None:
                    raise VectorNotFoundError(f"There is no vector {id!r}.")
                version, metadata = row
                size = metadata_bytes(metadata)
                if size > self._max_metadata_bytes:
                    message = f"makes the metadata {size} bytes long; at most {self._max_metadata_bytes} are allowed"
                    raise InvalidRequestError(f"set {message}.", (Violation("set", message),))
            return int(version)

        return self._database.run(work, repeatable=False)

    def delete_ids(self, collection: Collection, namespace: str, ids: Sequence[str], *, dry_run: bool) -> int:
        """Delete the vectors with these ids that exist; returns how many, or how many there are."""
        return self._delete(collection, "r.id = ANY(%(ids)s)", {"namespace": namespace, "ids": list(ids)}, dry_run)

    def delete_matching(
        self, collection: Collection, namespace: str, filter: Mapping[str, Any] | None, *, dry_run: bool
    ) -> int:
        """Delete the vectors of a namespace that a filter lets through (None: all); returns how many."""
        compiled = compile_filter(filter)
        expression, values = (compiled.expression, compiled.parameters) if compiled else ("true", {})
        return self._delete(collection, expression, {"namespace": namespace, **values}, dry_run)

    def _delete(
        self, collection: Collection, expression: LiteralString, parameters: Mapping[str, Any], dry_run: bool
    ) -> int:
        template = _COUNT_MATCHES + expression if dry_run else _DELETE + expression + _DELETE_END

        def work(connection: Connection) -> int:
            row = connection.execute(statement(template, collection), parameters).fetchone()
            assert row is not None, "an aggregate always answers"
            return int(row[0])

        return self._database.run(work, repeatable=dry_run)

    def _write(
        self, template: LiteralString, collection: Collection, vectors: Sequence[Vector], *, repeatable: bool
    ) -> list[Written]:
        unique = list({(vector.namespace, vector.id): vector for vector in vectors}.values())
        parameters = {
            "namespaces": [vector.namespace for vector in unique],
            "ids": [vector.id for vector in unique],
            "documents": [vector.document for vector in unique],
            "metadata": [json.dumps(vector.metadata or {}, ensure_ascii=False, allow_nan=False) for vector in unique],
            "embeddings": pack_vectors([vector.numbers for vector in unique], collection.vector_oid),
        }
        rows = self._database.run(
            lambda c: c.execute(statement(template, collection), parameters).fetchall(), repeatable=repeatable
        )
        written = {
            (namespace, id): Written(id=id, namespace=namespace, version=version, inserted=inserted)
            for id, namespace, version, inserted in rows
        }
        return [written[v.namespace, v.id] for v in unique if (v.namespace, v.id) in written]


def metadata_bytes(metadata: Mapping[str, Any]) -> int:
    """Length of metadata as the shortest JSON in UTF-8, which is what the limit on it counts."""
    return len(json.dumps(metadata, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode())


def _stored(
    id: str, namespace: str, version: int, document: str | None, metadata: dict[str, Any], numbers: str
) -> StoredVector:
    # pgvector writes a vector as a JSON list, each number in the fewest digits that give the same float32.
    return StoredVector(
        id=id,
        namespace=namespace,
        version=version,
        document=document,
        metadata=metadata,
        numbers=json.loads(numbers),
    )
