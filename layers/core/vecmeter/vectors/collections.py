"""Collections: definitions, and the tables behind them."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, LiteralString, TypeVar

from psycopg import errors as pg
from psycopg.rows import RowMaker, class_row

from vecmeter.errors import CollectionExistsError, CollectionNotFoundError, InvalidRequestError
from vecmeter.vectors import stock
from vecmeter.vectors.checks import check_index
from vecmeter.vectors.connection import Connection, Database
from vecmeter.vectors.model import (
    Collection,
    EmbedderDefinition,
    IndexDefinition,
    IndexType,
    Metric,
    Storage,
)
from vecmeter.vectors.stock import CollectionLimits
from vecmeter.vectors.tables import CREATE_TABLES, DROP_TABLES, MAINTENANCE_LOCK, SCHEMA, hnsw_name, statement
from vecmeter.vectors.terms import FREE, Terms

T = TypeVar("T")

# How long an instance may believe a definition. A collection that was dropped shows itself at once, because its
# tables are gone; what may be late for so long is only that an index became ready.
DEFINITION_SECONDS = 30.0

_COLUMNS: LiteralString = """
    c.collection_id, c.project_id, c.name, c.dimension, c.metric, c.index_type, c.index_m, c.index_ef_construction,
    c.index_storage, c.embedder_provider, c.embedder_model, c.created_at,
    coalesce(i.indisvalid, false) AS index_ready, 'vector'::regtype::oid::bigint AS vector_oid
    FROM vecmeter.collections c
    LEFT JOIN pg_index i
        ON i.indexrelid = to_regclass('vecmeter.vectors_' || c.collection_id || '_hnsw')
"""
# One definition, with whether its index may be used.
_GET: LiteralString = "SELECT " + _COLUMNS + " WHERE c.project_id = %(project_id)s AND c.name = %(name)s"
# A page of a project's definitions, by name.
_LIST: LiteralString = (
    "SELECT " + _COLUMNS + " WHERE c.project_id = %(project_id)s AND c.name > %(after)s ORDER BY c.name LIMIT %(limit)s"
)
# Every definition there is, for maintenance.
_LIST_ALL: LiteralString = "SELECT " + _COLUMNS + " ORDER BY c.collection_id"
_INSERT: LiteralString = """
    INSERT INTO vecmeter.collections (
        project_id, name, dimension, metric, index_type, index_m, index_ef_construction, index_storage,
        embedder_provider, embedder_model
    ) VALUES (
        %(project_id)s, %(name)s, %(dimension)s, %(metric)s, %(index_type)s, %(m)s, %(ef_construction)s, %(storage)s,
        %(provider)s, %(model)s
    )
"""
_DELETE: LiteralString = "DELETE FROM vecmeter.collections WHERE collection_id = %(collection_id)s"
# The receipt of a change of definitions; first in its transaction, so that a repetition fails before it does a thing.
_RECEIPT: LiteralString = "INSERT INTO vecmeter.receipts (receipt_id, answer) VALUES (%s, '{}')"
# Whoever maintains the collection holds its tables, possibly for hours: dropping makes the work needless.
_STOP_MAINTENANCE: LiteralString = """
    SELECT pg_cancel_backend(l.pid) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
    WHERE d.datname = current_database() AND l.locktype = 'advisory' AND l.granted
      AND l.classid = %s AND l.objid = %s AND l.objsubid = 2
"""
# Limits of one collection, whatever its project may hold.
_GET_LIMITS: LiteralString = """
    SELECT max_vectors, max_storage_bytes FROM vecmeter.collections
    WHERE project_id = %(project_id)s AND name = %(name)s
"""
_SET_LIMITS: LiteralString = """
    UPDATE vecmeter.collections SET max_vectors = %(max_vectors)s, max_storage_bytes = %(max_storage_bytes)s
    WHERE project_id = %(project_id)s AND name = %(name)s
    RETURNING max_vectors, max_storage_bytes
"""
# The exact number of vectors, their bytes as limits count them, and those of both tables with their indexes.
_SIZE: LiteralString = """
    SELECT (SELECT count(*) FROM {records}) AS count,
           (SELECT bytes FROM vecmeter.stock WHERE collection_id = {collection_id})
           + (SELECT coalesce(sum(bytes), 0)::bigint FROM vecmeter.stock_changes WHERE collection_id = {collection_id})
           AS stored_bytes,
           pg_total_relation_size(%(records)s::regclass) + pg_total_relation_size(%(vectors)s::regclass) AS bytes,
           coalesce((SELECT pg_relation_size(to_regclass(%(hnsw)s))), 0) AS index_bytes
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionSize:
    """Exact number of vectors; their bytes as limits count them (``stock.RECORD_BYTES``); bytes on disk, indexes
    included; bytes of the HNSW index alone.
    """

    count: int
    stored_bytes: int
    bytes: int
    index_bytes: int


class Collections:
    """Finds, creates and drops collections; remembers definitions for a while."""

    def __init__(self, database: Database, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._monotonic = monotonic
        self._remembered: dict[tuple[str, str], tuple[float, Collection]] = {}

    def use(self, project_id: str, name: str, work: Callable[[Collection], T], *, fresh: bool = False) -> T:
        """Do ``work`` with the collection's definition, remembered or ``fresh``.

        A remembered definition may be of a collection that was dropped since, and made again under its name: then its
        tables are gone, or a request is refused that the new one takes. The definition is then read again, and the
        work repeated if it is another one.

        Raises:
            CollectionNotFoundError: there is none.
        """
        if fresh:
            self._remembered.pop((project_id, name), None)
        believed = self.get(project_id, name)
        try:
            return work(believed)
        except (pg.UndefinedTable, InvalidRequestError) as error:
            self._remembered.pop((project_id, name), None)
            current = self.get(project_id, name)
            if current.collection_id == believed.collection_id and isinstance(error, InvalidRequestError):
                raise
        try:
            return work(current)
        except pg.UndefinedTable:
            raise _missing(name) from None

    def get(self, project_id: str, name: str) -> Collection:
        """The definition, at most ``DEFINITION_SECONDS`` old."""
        remembered = self._remembered.get((project_id, name))
        now = self._monotonic()
        if remembered is not None and now - remembered[0] < DEFINITION_SECONDS:
            return remembered[1]
        collection = self._database.run(lambda connection: _one(connection, project_id, name))
        if collection is None:
            self._remembered.pop((project_id, name), None)
            raise _missing(name)
        self._remembered[project_id, name] = (now, collection)
        return collection

    def page(self, project_id: str, *, after: str, limit: int) -> list[Collection]:
        """Up to ``limit`` definitions of a project whose names come after ``after``."""
        parameters = {"project_id": project_id, "after": after, "limit": limit}
        return self._database.run(lambda c: c.cursor(row_factory=_collection_row).execute(_LIST, parameters).fetchall())

    def list_all(self) -> list[Collection]:
        return self._database.run(lambda c: c.cursor(row_factory=_collection_row).execute(_LIST_ALL).fetchall())

    def create(
        self,
        project_id: str,
        name: str,
        *,
        dimension: int,
        metric: Metric,
        index: IndexDefinition,
        embedder: EmbedderDefinition | None,
        on: Terms = FREE,
    ) -> Collection:
        """Create a collection with its tables, in one transaction.

        Raises:
            CollectionExistsError: the project has one of that name.
            AnsweredBefore, LimitExceededError: the terms say no.
        """
        parameters = {
            "project_id": project_id,
            "name": name,
            "dimension": dimension,
            "metric": metric.value,
            "index_type": index.type.value,
            "m": index.m,
            "ef_construction": index.ef_construction,
            "storage": index.storage.value,
            "provider": embedder.provider if embedder else None,
            "model": embedder.model if embedder else None,
        }

        def work(connection: Connection, receipt: uuid.UUID) -> list[int]:
            with _once(connection, receipt, on) as answers:
                connection.execute(_RECEIPT, [receipt])
                try:
                    connection.execute(_INSERT, parameters)
                except pg.UniqueViolation:
                    raise CollectionExistsError(f"Collection {name!r} exists already.") from None
                stock.enforce_collections(connection, project_id, on.limits)
                collection = _one(connection, project_id, name)
                assert collection is not None, "inserted in this transaction"
                connection.execute(statement(CREATE_TABLES, collection))
                stock.begin(connection, collection)
                answers.append(collection)
            return []

        if violation := check_index(dimension, index):
            raise InvalidRequestError(f"{violation.path} {violation.message}.", (violation,))
        self._database.write(work)
        self._remembered.pop((project_id, name), None)
        return self.get(project_id, name)

    def drop(self, project_id: str, name: str, on: Terms = FREE) -> None:
        """Drop a collection: its tables and its definition go in one transaction.

        Raises:
            CollectionNotFoundError: there is none.
            AnsweredBefore: the terms say no.
        """

        def work(connection: Connection, receipt: uuid.UUID) -> list[int]:
            with _once(connection, receipt, on) as answers:
                connection.execute(_RECEIPT, [receipt])
                collection = _one(connection, project_id, name)
                if collection is None:
                    raise _missing(name)
                connection.execute(_DELETE, {"collection_id": collection.collection_id})
                connection.execute(_STOP_MAINTENANCE, [MAINTENANCE_LOCK, collection.collection_id])
                connection.execute(statement(DROP_TABLES, collection))
                stock.forget(connection, collection)
                answers.append(None)
            return []

        self._remembered.pop((project_id, name), None)
        self._database.write(work)

    def set_limits(
        self, project_id: str, name: str, *, max_vectors: int | None = None, max_storage_bytes: int | None = None
    ) -> CollectionLimits:
        """Limit one collection, or with None no longer. The next write keeps to it, on every instance.

        Raises:
            CollectionNotFoundError: there is none.
        """
        limits = {"max_vectors": max_vectors, "max_storage_bytes": max_storage_bytes}
        return self._limits(_SET_LIMITS, project_id, name, limits)

    def get_limits(self, project_id: str, name: str) -> CollectionLimits:
        """The limits of one collection. Raises CollectionNotFoundError."""
        return self._limits(_GET_LIMITS, project_id, name, {})

    def _limits(
        self, text: LiteralString, project_id: str, name: str, limits: dict[str, int | None]
    ) -> CollectionLimits:
        parameters = {"project_id": project_id, "name": name, **limits}

        def work(connection: Connection) -> CollectionLimits | None:
            return connection.cursor(row_factory=class_row(CollectionLimits)).execute(text, parameters).fetchone()

        found = self._database.run(work)
        if found is None:
            raise _missing(name)
        return found

    def size(self, collection: Collection) -> CollectionSize:
        number = collection.collection_id
        parameters = {
            "records": f"{SCHEMA}.records_{number}",
            "vectors": f"{SCHEMA}.vectors_{number}",
            "hnsw": f"{SCHEMA}.{hnsw_name(number)}",
        }

        def work(connection: Connection) -> CollectionSize:
            cursor = connection.cursor(row_factory=class_row(CollectionSize))
            row = cursor.execute(statement(_SIZE, collection), parameters).fetchone()
            assert row is not None, "an aggregate always answers"
            return row

        return self._database.run(work)


@contextmanager
def _once(connection: Connection, receipt: uuid.UUID, on: Terms) -> Iterator[list[Any]]:
    """A transaction in which the request's key is claimed first, and the answer, put into the list, kept last."""
    answers: list[Any] = []
    with connection.transaction():
        if on.once is not None:
            on.once.claim(connection, receipt)
        yield answers
        if on.once is not None:
            on.once.keep(connection, answers[0])


def _one(connection: Connection, project_id: str, name: str) -> Collection | None:
    cursor = connection.cursor(row_factory=_collection_row)
    return cursor.execute(_GET, {"project_id": project_id, "name": name}).fetchone()


def _collection_row(cursor: Any) -> RowMaker[Collection]:
    names = [column.name for column in cursor.description or ()]

    def make(values: Any) -> Collection:
        row = dict(zip(names, values, strict=True))
        provider, model = row.pop("embedder_provider"), row.pop("embedder_model")
        index = IndexDefinition(
            type=IndexType(row.pop("index_type")),
            m=row.pop("index_m"),
            ef_construction=row.pop("index_ef_construction"),
            storage=Storage(row.pop("index_storage")),
        )
        row["metric"] = Metric(row["metric"])
        embedder = EmbedderDefinition(provider=provider, model=model) if provider else None
        return Collection(**row, index=index, embedder=embedder)

    return make


def _missing(name: str) -> CollectionNotFoundError:
    return CollectionNotFoundError(f"There is no collection {name!r}.")
