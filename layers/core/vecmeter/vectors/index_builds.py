"""Brings the indexes of a collection to what the policy says (index_policy.py), one at a time, always CONCURRENTLY.

A new index is ready before the old one is retired, and that is dropped when no instance can know it any more. What a
run leaves that dies is found by the next one: an index that is valid is taken over, an invalid one is dropped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, LiteralString

from psycopg import errors as pg
from psycopg import sql
from psycopg.rows import class_row

from vecmeter.vectors import definitions, field_indexes, texts
from vecmeter.vectors.connection import Connection
from vecmeter.vectors.definitions import DEFINITION_SECONDS
from vecmeter.vectors.index_policy import Action, Refused, Step, Thresholds, decide, memory_to_build, why_none
from vecmeter.vectors.model import Collection, Hnsw, Storage
from vecmeter.vectors.tables import SCHEMA, create_hnsw, hnsw_name, statement, table_names

# As long as an instance believes a definition, and as long again for the requests it serves by it.
RETIRED_SECONDS = 2 * DEFINITION_SECONDS
_MOST_ROUNDS = 2
# A collection that is written to so fast is being loaded: an index would slow that down many times, and be built anew
# when the set has doubled, so it is waited with, for so long at most.
LOADING_PER_SECOND = 50
WAITING_SECONDS = 600

# By the index on it alone.
_COUNTS: LiteralString = "SELECT namespace, count(*) FROM {vectors} GROUP BY namespace"
_BEGIN: LiteralString = """
    INSERT INTO vecmeter.hnsw_indexes (collection_id, namespace, storage, m, ef_construction, vectors)
    VALUES ({collection_id}, %(namespace)s, %(storage)s, %(m)s, %(ef_construction)s, %(vectors)s) RETURNING index_id
"""
# One is ready, those it replaces are retired; and it is known now that its storage will do.
_READY: LiteralString = """
    WITH ready AS (
        UPDATE vecmeter.hnsw_indexes SET state = 'ready', recall = %(recall)s, changed_at = now()
        WHERE index_id = %(index_id)s RETURNING collection_id, namespace, storage
    ), forgotten AS (
        DELETE FROM vecmeter.hnsw_indexes h USING ready
        WHERE h.collection_id = ready.collection_id AND h.namespace IS NOT DISTINCT FROM ready.namespace
          AND h.storage = ready.storage AND h.state = 'refused'
    )
    UPDATE vecmeter.hnsw_indexes SET state = 'retired', changed_at = now() WHERE index_id = ANY(%(old)s)
"""
_REFUSE: LiteralString = """
    WITH forgotten AS (
        DELETE FROM vecmeter.hnsw_indexes
        WHERE collection_id = {collection_id} AND namespace IS NOT DISTINCT FROM %(namespace)s AND state = 'refused'
    )
    UPDATE vecmeter.hnsw_indexes SET state = 'refused', recall = %(recall)s, changed_at = now()
    WHERE index_id = %(index_id)s
"""
_RETIRE: LiteralString = (
    "UPDATE vecmeter.hnsw_indexes SET state = 'retired', changed_at = now() WHERE index_id = ANY(%s)"
)
_REINDEXED: LiteralString = "UPDATE vecmeter.hnsw_indexes SET vectors = %s WHERE index_id = %s"
_REINDEX: LiteralString = "REINDEX INDEX CONCURRENTLY {}"
_REFUSED: LiteralString = """
    SELECT namespace, m, ef_construction, vectors, recall FROM vecmeter.hnsw_indexes
    WHERE collection_id = {collection_id} AND state = 'refused'
"""
# Valid, yet nobody said so: the function that built it died.
_BUILT: LiteralString = """
    SELECT h.index_id, h.namespace, h.storage, h.m, h.ef_construction, h.vectors
    FROM vecmeter.hnsw_indexes h
    JOIN pg_index i ON i.indexrelid = to_regclass('vecmeter.vectors_' || h.collection_id || '_hnsw_' || h.index_id)
    WHERE h.collection_id = {collection_id} AND h.state = 'building' AND i.indisvalid
"""
_LONG_RETIRED: LiteralString = """
    SELECT index_id FROM vecmeter.hnsw_indexes
    WHERE collection_id = {collection_id} AND state = 'retired' AND changed_at < now() - %s * interval '1 second'
"""
# Of what is gone, by whomever.
_FORGET_GONE: LiteralString = """
    DELETE FROM vecmeter.hnsw_indexes h
    WHERE h.collection_id = {collection_id} AND h.state IN ('building', 'ready', 'retired')
      AND to_regclass('vecmeter.vectors_' || h.collection_id || '_hnsw_' || h.index_id) IS NULL
"""
# Records are numbered when they are written.
_WRITTEN: LiteralString = """
    SELECT coalesce(pg_sequence_last_value(pg_get_serial_sequence(%s, 'record_id')::regclass), 0)
"""
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
_DROP: LiteralString = "DROP INDEX CONCURRENTLY IF EXISTS {}"
# Leftovers of interrupted builds: invalid indexes on the collection's tables, ``_ccnew`` and ``_ccold`` included.
_INVALID: LiteralString = """
    SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
    WHERE i.indrelid IN (to_regclass(%s), to_regclass(%s)) AND NOT i.indisvalid
"""
_FIELD_INDEXES: LiteralString = """
    SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
    WHERE i.indrelid = to_regclass(%s) AND c.relname LIKE 'records\\_%%\\_field\\_%%'
"""
_ANALYZE_VECTORS: LiteralString = "ANALYZE {vectors}"
_ANALYZE_RECORDS: LiteralString = "ANALYZE {records}"
_SET_MEMORY: LiteralString = "SELECT set_config('maintenance_work_mem', %s, false)"
_ALONE: LiteralString = "SET max_parallel_maintenance_workers = 0"
_NOT_ALONE: LiteralString = "RESET max_parallel_maintenance_workers"

Measure = Callable[[Collection, str | None], float]
"""The recall that searches of a namespace (None: of all) get by a definition."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexBuilds:
    """``most_memory``: bytes one build may take; ``measure``: see ``Measure``; ``look_seconds``: how long is looked
    whether a collection is being loaded before it gets an index, 0 for not at all.
    """

    thresholds: Thresholds
    most_memory: int
    measure: Measure
    look_seconds: float
    sleep: Callable[[float], None] = time.sleep

    def plan(self, connection: Connection, collection: Collection) -> dict[str, Any]:
        """What ``run`` would do, and why."""
        steps = decide(collection, *_state(connection, collection), self.thresholds)
        return {"action": "planned" if steps else "none", "indexes": [self._tell(collection, step) for step in steps]}

    def run(self, connection: Connection, collection: Collection) -> dict[str, Any]:
        """Do what is to be done by now, for the indexes of vectors, of declared fields and of texts."""
        run = _Run(self, connection, collection)
        run.clear()
        run.take_over()
        # What some searches cannot do without comes before what makes them fast, takes long, and may fail.
        run.keep_texts()
        run.keep_fields()
        # A binary index that is refused asks for another one, and that asks for nothing any more.
        for _ in range(_MOST_ROUNDS):
            steps = run.decide()
            if run.puts_off(steps):
                break
            for step in steps:
                run.take(step, self._tell(run.collection, step))
        return run.tell()

    def reindex(self, connection: Connection, collection: Collection) -> None:
        """Build every index anew, of what there is by now; the old one answers until the new one is ready."""
        counts, _ = _state(connection, collection)
        for hnsw in collection.hnsw:
            vectors = sum(counts.values()) if hnsw.namespace is None else counts.get(hnsw.namespace, 0)
            self.take_memory(connection, collection, hnsw.storage, vectors)
            name = sql.Identifier(SCHEMA, hnsw_name(collection.collection_id, hnsw.index_id))
            connection.execute(sql.SQL(_REINDEX).format(name))
            connection.execute(_REINDEXED, [vectors, hnsw.index_id])

    def take_memory(self, connection: Connection, collection: Collection, storage: Storage, vectors: int) -> None:
        """Let this session hold so many vectors of an index that is being built. A parallel build takes all it may."""
        memory = min(self.most_memory, memory_to_build(collection, storage, vectors))
        connection.execute(_SET_MEMORY, [f"{memory // 1024}kB"])

    def _tell(self, collection: Collection, step: Step) -> dict[str, Any]:
        told: dict[str, Any] = {
            "namespace": step.namespace,
            "action": step.action.value,
            "reason": step.reason,
            "storage": step.storage.value,
            "vectors": step.vectors,
        }
        if step.action is Action.BUILD:
            needed = memory_to_build(collection, step.storage, step.vectors)
            told["memory_bytes"] = needed
            if needed > self.most_memory:
                told["note"] = f"needs more than the {self.most_memory} bytes it may take, so it takes much longer"
        return told


@dataclass(slots=True)
class _Run:
    """One run over one collection, whose lock this session holds."""

    builds: IndexBuilds
    connection: Connection
    collection: Collection
    counts: Mapping[str, int] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    done: list[dict[str, Any]] = field(default_factory=list)
    has_put_off: bool = False

    def clear(self) -> None:
        """Drop what interrupted builds left, and what was retired long enough ago."""
        invalid = drop_invalid(self.connection, self.collection)
        self.dropped += invalid
        number = self.collection.collection_id
        for (index_id,) in self._rows(_LONG_RETIRED, [RETIRED_SECONDS]):
            _drop(self.connection, hnsw_name(number, index_id))
            self.done.append({"action": "drop", "index": hnsw_name(number, index_id)})
        self.connection.execute(statement(_FORGET_GONE, self.collection))
        self._read_again()

    def decide(self) -> list[Step]:
        self.counts, refused = _state(self.connection, self.collection)
        return decide(self.collection, self.counts, refused, self.builds.thresholds)

    def take_over(self) -> None:
        """Finish what a function began that died meanwhile."""
        self.counts, _ = _state(self.connection, self.collection)
        for row in self.connection.execute(statement(_BUILT, self.collection)).fetchall():
            index_id, namespace, storage, m, ef_construction, vectors = row
            hnsw = Hnsw(
                index_id=index_id,
                namespace=namespace,
                storage=Storage(storage),
                m=m,
                ef_construction=ef_construction,
                vectors=vectors,
            )
            old = [one.index_id for one in self.collection.hnsw if one.namespace == namespace]
            told = {"namespace": namespace, "action": "take over", "storage": storage, "vectors": vectors}
            self._finish(hnsw, old, told)

    def puts_off(self, steps: Sequence[Step]) -> bool:
        """Whether a collection is being loaded whose vectors are to be indexed, and that has not waited too long."""
        builds = any(step.action is Action.BUILD for step in steps)
        self.has_put_off = builds and self._is_being_loaded() and self._waited() <= WAITING_SECONDS
        if not self.has_put_off:
            self.connection.execute(statement(_WAITED, self.collection))
        return self.has_put_off

    def _is_being_loaded(self) -> bool:
        seconds = self.builds.look_seconds
        if not seconds:
            return False
        before = self._written()
        self.builds.sleep(seconds)
        return self._written() - before > LOADING_PER_SECOND * seconds

    def _written(self) -> int:
        row = self.connection.execute(_WRITTEN, [self._tables()[0]]).fetchone()
        return int(row[0]) if row else 0

    def _waited(self) -> float:
        row = self.connection.execute(statement(_WAIT, self.collection)).fetchone()
        return float(row[0]) if row else 0.0

    def take(self, step: Step, told: dict[str, Any]) -> None:
        if step.action is Action.RETIRE:
            self.connection.execute(_RETIRE, [list(step.old)])
            self.done.append(told)
        else:
            self._finish(self._build(step), step.old, told)
        self._read_again()

    def keep_fields(self) -> None:
        """An index for each field that is declared filterable and has a type that needs one, and no others."""
        number = self.collection.collection_id
        wanted = {field_indexes.index_name(number, f): f for f in field_indexes.indexed_fields(self.collection)}
        there = {name for (name,) in self.connection.execute(_FIELD_INDEXES, [self._tables()[0]])}
        for name in wanted.keys() - there:
            self.connection.execute(field_indexes.create_index_concurrently(self.collection, wanted[name]))
            self.done.append({"field": wanted[name].field, "action": "build", "index": name})
        for name in there - wanted.keys():
            _drop(self.connection, name)
            self.done.append({"action": "drop", "index": name})
        if wanted.keys() - there:
            self.connection.execute(statement(_ANALYZE_RECORDS, self.collection))
            self._read_again()

    def keep_texts(self) -> None:
        if self.collection.text_search is not None and not self.collection.texts_ready:
            texts.fill(self.connection, self.collection)
            self.done.append({"action": "fill", "text_search": self.collection.text_search})
            self._read_again()

    def tell(self) -> dict[str, Any]:
        told: dict[str, Any] = {"invalid_dropped": self.dropped, "indexes": self.done}
        if self.has_put_off:
            return {"action": "put off", "reason": "it is being loaded", **told}
        if any(one["action"] in ("build", "take over") and not one.get("refused") for one in self.done):
            return {"action": "built", **told}
        if self.done:
            return {"action": "changed", **told}
        if not self.collection.hnsw:
            told["reason"] = why_none(self.collection, self.counts, self.builds.thresholds)
        return {"action": "none", **told}

    def _build(self, step: Step) -> Hnsw:
        index = self.collection.index
        made = {
            "namespace": step.namespace,
            "storage": step.storage.value,
            "m": index.m,
            "ef_construction": index.ef_construction,
            "vectors": step.vectors,
        }
        row = self.connection.execute(statement(_BEGIN, self.collection), made).fetchone()
        assert row is not None, "RETURNING a row that was inserted"
        hnsw = Hnsw(
            index_id=row[0],
            namespace=step.namespace,
            storage=step.storage,
            m=index.m,
            ef_construction=index.ef_construction,
            vectors=step.vectors,
        )
        self.builds.take_memory(self.connection, self.collection, step.storage, step.vectors)
        try:
            self.connection.execute(create_hnsw(self.collection, hnsw))
        except (pg.DiskFull, pg.OutOfMemory):
            # Workers share the graph in memory of a kind that containers have little of; one process has its own.
            self.dropped += drop_invalid(self.connection, self.collection)
            self.connection.execute(_ALONE)
            try:
                self.connection.execute(create_hnsw(self.collection, hnsw))
            finally:
                self.connection.execute(_NOT_ALONE)
        self.connection.execute(statement(_ANALYZE_VECTORS, self.collection))
        return hnsw

    def _finish(self, hnsw: Hnsw, old: Any, told: dict[str, Any]) -> None:
        """Let searches use a new index; a binary one only if it finds what the collection wants found."""
        recall = None
        if hnsw.storage is Storage.BINARY:
            recall = told["recall"] = self.builds.measure(replace(self.collection, hnsw=(hnsw,)), hnsw.namespace)
        answer = {"index_id": hnsw.index_id, "namespace": hnsw.namespace, "recall": recall, "old": list(old)}
        if recall is not None and recall < self.collection.target_recall:
            told["refused"] = f"its recall is below {self.collection.target_recall}"
            self.connection.execute(statement(_REFUSE, self.collection), answer)
            _drop(self.connection, hnsw_name(self.collection.collection_id, hnsw.index_id))
        else:
            self.connection.execute(_READY, answer)
        self.done.append(told)
        self._read_again()

    def _read_again(self) -> None:
        found = definitions.read(self.connection, self.collection.collection_id)
        if found is None:
            raise pg.UndefinedTable
        self.collection = found

    def _rows(self, template: LiteralString, parameters: list[Any]) -> list[Any]:
        return self.connection.execute(statement(template, self.collection), parameters).fetchall()

    def _tables(self) -> list[str]:
        return [f"{SCHEMA}.{name}" for name in table_names(self.collection.collection_id)]


def drop_invalid(connection: Connection, collection: Collection) -> list[str]:
    """Drop what interrupted builds left; no build of ours runs now. Returns their names."""
    tables = [f"{SCHEMA}.{name}" for name in table_names(collection.collection_id)]
    names = [name for (name,) in connection.execute(_INVALID, tables).fetchall()]
    for name in names:
        _drop(connection, name)
    return names


def _drop(connection: Connection, name: str) -> None:
    connection.execute(sql.SQL(_DROP).format(sql.Identifier(SCHEMA, name)))


def _state(connection: Connection, collection: Collection) -> tuple[Mapping[str, int], list[Refused]]:
    """How many vectors each namespace has, and which indexes were refused."""
    counts = dict(connection.execute(statement(_COUNTS, collection)).fetchall())
    cursor = connection.cursor(row_factory=class_row(Refused))
    return counts, cursor.execute(statement(_REFUSED, collection)).fetchall()
