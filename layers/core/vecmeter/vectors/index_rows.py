"""The rows of ``vecmeter.hnsw_indexes``: what there is of HNSW indexes, what is being made, and what was refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

from psycopg.rows import class_row, dict_row

from vecmeter.vectors.connection import Connection
from vecmeter.vectors.index_policy import Refused
from vecmeter.vectors.model import Collection, Hnsw, Storage
from vecmeter.vectors.tables import statement

# The relation of a row ``h``.
_RELATION: LiteralString = "to_regclass('vecmeter.vectors_' || h.collection_id || '_hnsw_' || h.index_id)"
# Rows inserted, updated and deleted in the table of an index ``i`` since statistics began.
_CHANGES: LiteralString = """
    pg_stat_get_tuples_inserted(i.indrelid) + pg_stat_get_tuples_updated(i.indrelid)
    + pg_stat_get_tuples_deleted(i.indrelid)
"""

_BEGIN: LiteralString = """
    INSERT INTO vecmeter.hnsw_indexes (collection_id, namespace, storage, m, ef_construction, vectors)
    VALUES ({collection_id}, %(namespace)s, %(storage)s, %(m)s, %(ef_construction)s, %(vectors)s) RETURNING index_id
"""
# One is ready, those it replaces are retired; and it is known now that its storage will do.
_READY: LiteralString = """
    WITH ready AS (
        UPDATE vecmeter.hnsw_indexes h SET state = 'ready', recall = %(recall)s, changed_at = now(), built_at = now(),
            built_bytes = pg_relation_size(i.indexrelid), built_changes = [changes]
        FROM pg_index i WHERE h.index_id = %(index_id)s AND i.indexrelid = [relation]
        RETURNING h.collection_id, h.namespace, h.storage
    ), forgotten AS (
        DELETE FROM vecmeter.hnsw_indexes h USING ready
        WHERE h.collection_id = ready.collection_id AND h.namespace IS NOT DISTINCT FROM ready.namespace
          AND h.storage = ready.storage AND h.state = 'refused'
    )
    UPDATE vecmeter.hnsw_indexes SET state = 'retired', changed_at = now() WHERE index_id = ANY(%(old)s)
""".replace("[changes]", _CHANGES).replace("[relation]", _RELATION)
_REFUSE: LiteralString = """
    WITH forgotten AS (
        DELETE FROM vecmeter.hnsw_indexes
        WHERE collection_id = {collection_id} AND namespace IS NOT DISTINCT FROM %(namespace)s AND state = 'refused'
          AND storage = %(storage)s
    )
    UPDATE vecmeter.hnsw_indexes SET state = 'refused', recall = %(recall)s, changed_at = now()
    WHERE index_id = %(index_id)s
"""
_RETIRE: LiteralString = (
    "UPDATE vecmeter.hnsw_indexes SET state = 'retired', changed_at = now() WHERE index_id = ANY(%s)"
)
_BEGIN_REBUILD: LiteralString = """
    UPDATE vecmeter.hnsw_indexes h SET rebuilding = [relation]::oid, rebuilding_vectors = %s WHERE index_id = %s
""".replace("[relation]", _RELATION)
# A rebuilt index is another relation of the old name; where the old one is there yet, nothing became of it.
_END_REBUILDS: LiteralString = """
    WITH ended AS (
        UPDATE vecmeter.hnsw_indexes h SET rebuilding = NULL, rebuilding_vectors = NULL
        FROM vecmeter.hnsw_indexes before
        WHERE h.collection_id = {collection_id} AND before.index_id = h.index_id AND before.rebuilding IS NOT NULL
        RETURNING h.index_id, before.rebuilding, before.rebuilding_vectors
    )
    SELECT index_id, rebuilding_vectors FROM ended
    WHERE to_regclass('vecmeter.vectors_{collection_id}_hnsw_' || index_id)::oid <> rebuilding
"""
_REBUILT: LiteralString = """
    UPDATE vecmeter.hnsw_indexes h SET vectors = %s, built_at = now(), built_bytes = pg_relation_size(i.indexrelid),
        built_changes = [changes], probed_recall = NULL, probed_sample = NULL, probed_changes = NULL, probed_at = NULL
    FROM pg_index i WHERE h.index_id = %s AND i.indexrelid = [relation]
""".replace("[changes]", _CHANGES).replace("[relation]", _RELATION)
_REFUSED: LiteralString = """
    SELECT namespace, storage, m, ef_construction, vectors, recall FROM vecmeter.hnsw_indexes
    WHERE collection_id = {collection_id} AND state = 'refused'
"""
# Valid, yet nobody said so: the function that built it died.
_BUILT: LiteralString = """
    SELECT h.index_id, h.namespace, h.storage, h.m, h.ef_construction, h.vectors
    FROM vecmeter.hnsw_indexes h JOIN pg_index i ON i.indexrelid = [relation]
    WHERE h.collection_id = {collection_id} AND h.state = 'building' AND i.indisvalid
""".replace("[relation]", _RELATION)
_LONG_RETIRED: LiteralString = """
    SELECT index_id FROM vecmeter.hnsw_indexes
    WHERE collection_id = {collection_id} AND state = 'retired' AND changed_at < now() - %s * interval '1 second'
"""
# Of what is gone, by whomever.
_FORGET_GONE: LiteralString = """
    DELETE FROM vecmeter.hnsw_indexes h
    WHERE h.collection_id = {collection_id} AND h.state IN ('building', 'ready', 'retired') AND [relation] IS NULL
""".replace("[relation]", _RELATION)
# For how many seconds the collection's builds have been waited with.
_WAIT: LiteralString = """
    WITH begun AS (
        INSERT INTO vecmeter.hnsw_indexes (collection_id, storage, m, ef_construction, state)
        SELECT c.collection_id, c.index_storage, c.index_m, c.index_ef_construction, 'waiting'
        FROM vecmeter.collections c WHERE c.collection_id = {collection_id} AND NOT EXISTS (
            SELECT FROM vecmeter.hnsw_indexes h WHERE h.collection_id = c.collection_id AND h.state = 'waiting'
        )
    )
    SELECT coalesce(extract(epoch FROM now() - min(changed_at)), 0)::float8 FROM vecmeter.hnsw_indexes
    WHERE collection_id = {collection_id} AND state = 'waiting'
"""
_WAITED: LiteralString = "DELETE FROM vecmeter.hnsw_indexes WHERE collection_id = {collection_id} AND state = 'waiting'"
# What decides on rebuilding and on measuring those that serve.
_SERVING: LiteralString = """
    SELECT h.index_id, h.namespace, h.vectors AS built_vectors, h.built_at, h.built_bytes, h.built_changes,
           h.probed_recall, h.probed_at, h.probed_changes, pg_relation_size(i.indexrelid) AS bytes, [changes] AS changes
    FROM vecmeter.hnsw_indexes h JOIN pg_index i ON i.indexrelid = [relation]
    WHERE h.collection_id = {collection_id} AND h.state = 'ready' AND i.indisvalid
    ORDER BY h.index_id
""".replace("[changes]", _CHANGES).replace("[relation]", _RELATION)
_PROBED: LiteralString = """
    UPDATE vecmeter.hnsw_indexes SET probed_recall = %(recall)s, probed_sample = %(sample)s,
        probed_changes = %(changes)s, probed_at = now()
    WHERE index_id = %(index_id)s
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """An index that searches take: what it was when it was built (None: nobody counted), what it takes by now, and the
    recall measured last. ``changes``: rows that were ever inserted, updated or deleted in its table.
    """

    index_id: int
    namespace: str | None
    built_vectors: int | None
    built_at: Any
    built_bytes: int | None
    built_changes: int | None
    probed_recall: float | None
    probed_at: Any
    probed_changes: int | None
    bytes: int
    changes: int


def begin(connection: Connection, collection: Collection, hnsw: Hnsw) -> int:
    """Write down that an index is being built; its number."""
    parameters = {
        "namespace": hnsw.namespace,
        "storage": hnsw.storage.value,
        "m": hnsw.m,
        "ef_construction": hnsw.ef_construction,
        "vectors": hnsw.vectors,
    }
    row = connection.execute(statement(_BEGIN, collection), parameters).fetchone()
    assert row is not None, "RETURNING a row that was inserted"
    return int(row[0])


def ready(connection: Connection, hnsw: Hnsw, recall: float | None, old: Sequence[int]) -> None:
    """Let searches take an index, and those it replaces no longer."""
    connection.execute(_READY, {"index_id": hnsw.index_id, "recall": recall, "old": list(old)})


def refuse(connection: Connection, collection: Collection, hnsw: Hnsw, recall: float | None) -> None:
    """Write down that an index is of no use: for its recall, or (None) for not holding the numbers there are."""
    parameters = {
        "index_id": hnsw.index_id,
        "namespace": hnsw.namespace,
        "storage": hnsw.storage.value,
        "recall": recall,
    }
    connection.execute(statement(_REFUSE, collection), parameters)


def retire(connection: Connection, numbers: Sequence[int]) -> None:
    connection.execute(_RETIRE, [list(numbers)])


def begin_rebuild(connection: Connection, index_id: int, vectors: int) -> None:
    connection.execute(_BEGIN_REBUILD, [vectors, index_id])


def end_rebuilds(connection: Connection, collection: Collection) -> list[int]:
    """Write down what became of rebuilds, whoever began them; nobody works on one now. Returns those that were done."""
    rows = connection.execute(statement(_END_REBUILDS, collection)).fetchall()
    for index_id, vectors in rows:
        connection.execute(_REBUILT, [vectors, index_id])
    return [index_id for index_id, _ in rows]


def built(connection: Connection, collection: Collection) -> list[Hnsw]:
    """Indexes that are valid, and of which their builder did not live to say so."""
    rows = connection.cursor(row_factory=dict_row).execute(statement(_BUILT, collection)).fetchall()
    return [Hnsw(**{**row, "storage": Storage(row["storage"])}) for row in rows]


def refused(connection: Connection, collection: Collection) -> list[Refused]:
    rows = connection.cursor(row_factory=dict_row).execute(statement(_REFUSED, collection)).fetchall()
    return [Refused(**{**row, "storage": Storage(row["storage"])}) for row in rows]


def long_retired(connection: Connection, collection: Collection, seconds: float) -> list[int]:
    rows = connection.execute(statement(_LONG_RETIRED, collection), [seconds]).fetchall()
    return [index_id for (index_id,) in rows]


def forget_gone(connection: Connection, collection: Collection) -> None:
    connection.execute(statement(_FORGET_GONE, collection))


def wait(connection: Connection, collection: Collection) -> float:
    """For how many seconds a collection's builds have been waited with, from now on if they were not."""
    row = connection.execute(statement(_WAIT, collection)).fetchone()
    return float(row[0]) if row else 0.0


def end_wait(connection: Connection, collection: Collection) -> None:
    connection.execute(statement(_WAITED, collection))


def serving(connection: Connection, collection: Collection) -> list[Serving]:
    return connection.cursor(row_factory=class_row(Serving)).execute(statement(_SERVING, collection)).fetchall()


def probed(connection: Connection, one: Serving, recall: float | None, sample: int) -> None:
    """Keep what was measured of an index; None: nothing could be."""
    parameters = {"index_id": one.index_id, "recall": recall, "sample": sample, "changes": one.changes}
    connection.execute(_PROBED, parameters)
