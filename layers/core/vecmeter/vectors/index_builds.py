"""Brings the indexes of a collection to what the policy says (index_policy.py), one at a time, always CONCURRENTLY.

A new index is ready before the old one is retired, and that is dropped when no instance can know it any more. What a
run leaves that dies is found by the next one: an index that is valid is taken over, an invalid one is dropped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, LiteralString

from psycopg import errors as pg
from psycopg import sql

from vecmeter.vectors import definitions, field_indexes, index_rows, texts
from vecmeter.vectors.connection import Connection
from vecmeter.vectors.definitions import DEFINITION_SECONDS
from vecmeter.vectors.index_policy import Action, Step, Thresholds, decide, memory_to_build, why_none
from vecmeter.vectors.long_statements import execute_long
from vecmeter.vectors.model import Collection, FilterableField, Hnsw, Storage
from vecmeter.vectors.tables import RECORDS_LOCK, SCHEMA, create_hnsw, hnsw_name, statement, table_names
from vecmeter.vectors.turns import DEFAULT_ORDERS, TIME_IS_UP, Orders

# As long as an instance believes a definition, and as long again for the requests it serves by it.
RETIRED_SECONDS = 2 * DEFINITION_SECONDS
_MOST_ROUNDS = 2
# A collection that is written to so fast is being loaded: an index would slow that down many times, and be built anew
# when the set has doubled, so it is waited with, for so long at most.
LOADING_PER_SECOND = 50
WAITING_SECONDS = 600

# By the index on it alone.
_COUNTS: LiteralString = "SELECT namespace, count(*) FROM {vectors} GROUP BY namespace"
_REINDEX: LiteralString = "REINDEX INDEX CONCURRENTLY {}"
# Records are numbered when they are written.
_WRITTEN: LiteralString = """
    SELECT coalesce(pg_sequence_last_value(pg_get_serial_sequence(%s, 'record_id')::regclass), 0)
"""
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
_LOCK_RECORDS: LiteralString = "SELECT pg_advisory_lock(%s, %s)"
_UNLOCK_RECORDS: LiteralString = "SELECT pg_advisory_unlock(%s, %s)"
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
        planned = [
            {"action": "drop", "index": name, "reason": "it is invalid"} for name in _invalid(connection, collection)
        ]
        if collection.text_search is not None and not collection.texts_ready:
            planned.append({"action": "fill", "text_search": collection.text_search})
        missing, needless = _fields(connection, collection)
        planned += [{"action": "build", "field": one.field, "index": name} for name, one in missing.items()]
        planned += [{"action": "drop", "index": name, "reason": "its field is not declared"} for name in needless]
        counts = count_namespaces(connection, collection)
        steps = decide(collection, counts, index_rows.refused(connection, collection), self.thresholds)
        planned += [self._tell(collection, step) for step in steps]
        return {"action": "planned" if planned else "none", "indexes": planned}

    def run(self, connection: Connection, collection: Collection, orders: Orders = DEFAULT_ORDERS) -> dict[str, Any]:
        """Do what is to be done by now, for the indexes of vectors, of declared fields and of texts."""
        run = _Run(self, connection, collection, orders)
        run.clear()
        run.take_over()
        # What some searches cannot do without comes before what makes them fast, takes long, and may fail.
        run.keep_texts()
        run.keep_fields()
        # An index that is refused asks for another one, and that asks for nothing any more.
        for _ in range(_MOST_ROUNDS):
            steps = run.decide()
            if run.puts_off(steps):
                break
            for step in steps:
                if run.is_time_up():
                    break
                run.take(step, self._tell(run.collection, step))
        return run.tell()

    def rebuild(self, connection: Connection, collection: Collection, hnsw: Hnsw, vectors: int, orders: Orders) -> None:
        """Build an index anew, of the ``vectors`` there are by now; the old one answers until the new one is ready."""
        self.take_memory(connection, collection, hnsw.storage, vectors)
        index_rows.begin_rebuild(connection, hnsw.index_id, vectors)
        name = sql.Identifier(SCHEMA, hnsw_name(collection.collection_id, hnsw.index_id))
        _build(connection, collection, sql.SQL(_REINDEX).format(name).as_bytes(None), orders)
        index_rows.end_rebuilds(connection, collection)

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
    orders: Orders
    counts: Mapping[str, int] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    done: list[dict[str, Any]] = field(default_factory=list)
    why_put_off: str | None = None

    def clear(self) -> None:
        """Drop what interrupted builds left, and what was retired long enough ago."""
        index_rows.end_rebuilds(self.connection, self.collection)
        self.dropped += drop_invalid(self.connection, self.collection)
        for index_id in index_rows.long_retired(self.connection, self.collection, RETIRED_SECONDS):
            name = hnsw_name(self.collection.collection_id, index_id)
            _drop(self.connection, name)
            self.done.append({"action": "drop", "index": name})
        index_rows.forget_gone(self.connection, self.collection)
        self._read_again()

    def decide(self) -> list[Step]:
        self.counts = count_namespaces(self.connection, self.collection)
        refused = index_rows.refused(self.connection, self.collection)
        return decide(self.collection, self.counts, refused, self.builds.thresholds)

    def take_over(self) -> None:
        """Finish what a function began that ended meanwhile."""
        for hnsw in index_rows.built(self.connection, self.collection):
            old = [one.index_id for one in self.collection.hnsw if one.namespace == hnsw.namespace]
            told = {"namespace": hnsw.namespace, "action": "take over", "storage": hnsw.storage.value}
            self._finish(hnsw, old, told | {"vectors": hnsw.vectors})

    def puts_off(self, steps: Sequence[Step]) -> bool:
        """Whether a collection is being loaded whose vectors are to be indexed, and that has not waited too long."""
        builds = any(step.action is Action.BUILD for step in steps)
        if builds and self._is_being_loaded() and index_rows.wait(self.connection, self.collection) <= WAITING_SECONDS:
            self.why_put_off = "it is being loaded"
        else:
            index_rows.end_wait(self.connection, self.collection)
        return self.why_put_off is not None

    def is_time_up(self) -> bool:
        if self.orders.is_time_up():
            self.why_put_off = TIME_IS_UP
        return self.why_put_off is not None

    def _is_being_loaded(self) -> bool:
        seconds = self.builds.look_seconds
        if not seconds:
            return False
        before = self._written()
        self.builds.sleep(seconds)
        return self._written() - before > LOADING_PER_SECOND * seconds

    def _written(self) -> int:
        row = self.connection.execute(_WRITTEN, [_qualified(self.collection)[0]]).fetchone()
        return int(row[0]) if row else 0

    def take(self, step: Step, told: dict[str, Any]) -> None:
        if step.action is Action.RETIRE:
            index_rows.retire(self.connection, step.old)
            self.done.append(told)
        elif (hnsw := self._begin(step, told)) is not None:
            self._finish(hnsw, step.old, told)
        self._read_again()

    def keep_fields(self) -> None:
        """An index for each field that is declared filterable and has a type that needs one, and no others."""
        missing, needless = _fields(self.connection, self.collection)
        for name, one in missing.items():
            text = field_indexes.create_index_concurrently(self.collection, one)
            with _texts_kept(self.connection, self.collection):
                _build(self.connection, self.collection, text, self.orders)
            self.done.append({"field": one.field, "action": "build", "index": name})
        for name in needless:
            _drop(self.connection, name)
            self.done.append({"action": "drop", "index": name})
        if missing:
            self.connection.execute(statement(_ANALYZE_RECORDS, self.collection))
            self._read_again()

    def keep_texts(self) -> None:
        if self.collection.text_search is not None and not self.collection.texts_ready:
            if texts.fill(self.connection, self.collection, self.orders.is_time_up):
                self.done.append({"action": "fill", "text_search": self.collection.text_search})
            self._read_again()

    def tell(self) -> dict[str, Any]:
        told: dict[str, Any] = {"invalid_dropped": self.dropped, "indexes": self.done}
        if self.why_put_off is not None:
            return {"action": "put off", "reason": self.why_put_off, **told}
        if any(one["action"] in ("build", "take over") and not one.get("refused") for one in self.done):
            return {"action": "built", **told}
        if self.done:
            return {"action": "changed", **told}
        if not self.collection.hnsw:
            told["reason"] = why_none(self.collection, self.counts, self.builds.thresholds)
        return {"action": "none", **told}

    def _begin(self, step: Step, told: dict[str, Any]) -> Hnsw | None:
        """Build an index; None where it cannot hold the numbers there are."""
        index = self.collection.index
        hnsw = Hnsw(
            index_id=0,
            namespace=step.namespace,
            storage=step.storage,
            m=index.m,
            ef_construction=index.ef_construction,
            vectors=step.vectors,
        )
        hnsw = replace(hnsw, index_id=index_rows.begin(self.connection, self.collection, hnsw))
        self.builds.take_memory(self.connection, self.collection, step.storage, step.vectors)
        try:
            _build(self.connection, self.collection, create_hnsw(self.collection, hnsw), self.orders)
        except pg.NumericValueOutOfRange:
            told["refused"] = f"{step.storage.value} does not hold a number there is"
            index_rows.refuse(self.connection, self.collection, hnsw, None)
            _drop(self.connection, hnsw_name(self.collection.collection_id, hnsw.index_id))
            self.done.append(told)
            return None
        self.connection.execute(statement(_ANALYZE_VECTORS, self.collection))
        return hnsw

    def _finish(self, hnsw: Hnsw, old: Sequence[int], told: dict[str, Any]) -> None:
        """Let searches use a new index; a binary one only if it finds what the collection wants found."""
        recall = None
        if hnsw.storage is Storage.BINARY:
            recall = told["recall"] = self.builds.measure(replace(self.collection, hnsw=(hnsw,)), hnsw.namespace)
        if recall is not None and recall < self.collection.target_recall:
            told["refused"] = f"its recall is below {self.collection.target_recall}"
            index_rows.refuse(self.connection, self.collection, hnsw, recall)
            _drop(self.connection, hnsw_name(self.collection.collection_id, hnsw.index_id))
        else:
            index_rows.ready(self.connection, hnsw, recall, old)
        self.done.append(told)
        self._read_again()

    def _read_again(self) -> None:
        found = definitions.read(self.connection, self.collection.collection_id)
        if found is None:
            raise pg.UndefinedTable
        self.collection = found


def count_namespaces(connection: Connection, collection: Collection) -> Mapping[str, int]:
    """How many vectors each namespace has."""
    return dict(connection.execute(statement(_COUNTS, collection)).fetchall())


def drop_invalid(connection: Connection, collection: Collection) -> list[str]:
    """Drop what interrupted builds left; no build of ours runs now. Returns their names."""
    names = _invalid(connection, collection)
    for name in names:
        _drop(connection, name)
    return names


def _invalid(connection: Connection, collection: Collection) -> list[str]:
    return [name for (name,) in connection.execute(_INVALID, _qualified(collection)).fetchall()]


def _fields(connection: Connection, collection: Collection) -> tuple[dict[str, FilterableField], set[str]]:
    """Indexes of declared fields that are missing, by name, and the names of those there are for no field."""
    number = collection.collection_id
    wanted = {field_indexes.index_name(number, one): one for one in field_indexes.indexed_fields(collection)}
    there = {name for (name,) in connection.execute(_FIELD_INDEXES, [_qualified(collection)[0]])}
    return {name: one for name, one in wanted.items() if name not in there}, there - wanted.keys()


def _build(connection: Connection, collection: Collection, text: bytes, orders: Orders) -> None:
    try:
        execute_long(connection, text, orders.ends_at)
    except (pg.DiskFull, pg.OutOfMemory):
        # Workers share the graph in memory of a kind that containers have little of; one process has its own.
        drop_invalid(connection, collection)
        connection.execute(_ALONE)
        try:
            execute_long(connection, text, orders.ends_at)
        finally:
            if not connection.closed:
                connection.execute(_NOT_ALONE)


@contextmanager
def _texts_kept(connection: Connection, collection: Collection) -> Iterator[None]:
    """Nobody makes the texts anew meanwhile."""
    key = [RECORDS_LOCK, collection.collection_id]
    connection.execute(_LOCK_RECORDS, key)
    try:
        yield
    finally:
        if not connection.closed:
            connection.execute(_UNLOCK_RECORDS, key)


def _drop(connection: Connection, name: str) -> None:
    connection.execute(sql.SQL(_DROP).format(sql.Identifier(SCHEMA, name)))


def _qualified(collection: Collection) -> list[str]:
    return [f"{SCHEMA}.{name}" for name in table_names(collection.collection_id)]
