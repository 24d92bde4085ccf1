"""Collections: definitions, and the tables behind them."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, LiteralString, TypeVar

from cachetools import LRUCache
from psycopg import errors as pg
from psycopg.rows import class_row

from vecmeter.errors import (
    CollectionExistsError,
    CollectionNotFoundError,
    DatabaseUnavailableError,
    DeletionProtectedError,
    InvalidRequestError,
)
from vecmeter.vectors import definitions, field_indexes, revisions, stock, texts
from vecmeter.vectors.checks import check_index
from vecmeter.vectors.connection import Connection, Database
from vecmeter.vectors.definitions import DEFAULTS, DEFINITION_SECONDS, Options
from vecmeter.vectors.model import Collection, EmbedderDefinition, IndexDefinition, Metric
from vecmeter.vectors.stock import CollectionLimits
from vecmeter.vectors.tables import CREATE_TABLES, CREATE_TEXTS, DROP_TABLES, MAINTENANCE_LOCK, SCHEMA, statement
from vecmeter.vectors.terms import FREE, DefinitionChanged, Terms

T = TypeVar("T")

# The receipt of a change of definitions; first in its transaction, so that a repetition fails before it does a thing.
_RECEIPT: LiteralString = "INSERT INTO vecmeter.receipts (receipt_id, answer) VALUES (%s, '{}')"
# Definitions an instance keeps, those used last.
REMEMBERED_COLLECTIONS = 4096
# Each try follows a definition that was changed since it was read.
_MOST_TRIES = 5
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
# The exact number of vectors, their bytes as limits count them, and those of all tables with their indexes.
_SIZE: LiteralString = """
    SELECT (SELECT count(*) FROM {records}) - (SELECT count(*) FROM {records} WHERE expires_at <= now()) AS count,
           (SELECT bytes FROM vecmeter.stock WHERE collection_id = {collection_id})
           + (SELECT coalesce(sum(bytes), 0)::bigint FROM vecmeter.stock_changes WHERE collection_id = {collection_id})
           AS stored_bytes,
           pg_total_relation_size(%(records)s::regclass) + pg_total_relation_size(%(vectors)s::regclass)
           + coalesce(pg_total_relation_size(to_regclass(%(texts)s)), 0) AS bytes,
           (SELECT coalesce(sum(pg_relation_size(to_regclass(
                'vecmeter.vectors_' || h.collection_id || '_hnsw_' || h.index_id
            ))), 0)::bigint FROM vecmeter.hnsw_indexes h WHERE h.collection_id = {collection_id}) AS index_bytes
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionSize:
    """Exact number of vectors; their bytes as limits count them (``stock.RECORD_BYTES``); bytes on disk, indexes
    included; bytes of the HNSW indexes alone.
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
        self._remembered: LRUCache[tuple[str, str], tuple[float, Collection]] = LRUCache(REMEMBERED_COLLECTIONS)
        self._lock = threading.Lock()

    def use(self, project_id: str, name: str, work: Callable[[Collection], T], *, fresh: bool = False) -> T:
        """Do ``work`` with the collection's definition, remembered or ``fresh``.

        A remembered definition may be of a collection that was changed since, or dropped and made again under its
        name: then tables are gone, or a request is refused that the new one takes. The definition is then read again,
        and the work repeated if it is another one.

        Raises:
            CollectionNotFoundError: there is none.
            DatabaseUnavailableError: it is changed again and again.
        """
        if fresh:
            self._forget(project_id, name)
        for _ in range(_MOST_TRIES):
            believed = self.get(project_id, name)
            try:
                return work(believed)
            except (pg.UndefinedTable, DefinitionChanged):
                self._forget(project_id, name)
            except InvalidRequestError:
                self._forget(project_id, name)
                if self.get(project_id, name) == believed:
                    raise
        raise DatabaseUnavailableError(f"Collection {name!r} is being changed; try again shortly.")

    def get(self, project_id: str, name: str) -> Collection:
        """The definition, at most ``DEFINITION_SECONDS`` old."""
        with self._lock:
            remembered = self._remembered.get((project_id, name))
        now = self._monotonic()
        if remembered is not None and now - remembered[0] < DEFINITION_SECONDS:
            return remembered[1]
        collection = self._database.run(lambda connection: definitions.find(connection, project_id, name))
        if collection is None:
            self._forget(project_id, name)
            raise _missing(name)
        with self._lock:
            self._remembered[project_id, name] = (now, collection)
        return collection

    def remembered(self, project_id: str, name: str) -> Collection | None:
        """The definition as it was seen last, however long ago: for when PostgreSQL cannot be asked."""
        with self._lock:
            found = self._remembered.get((project_id, name))
        return found[1] if found is not None else None

    def _forget(self, project_id: str, name: str) -> None:
        with self._lock:
            self._remembered.pop((project_id, name), None)

    def page(self, project_id: str, *, after: str, limit: int) -> list[Collection]:
        """Up to ``limit`` definitions of a project whose names come after ``after``."""
        return self._database.run(lambda c: definitions.read_page(c, project_id, after=after, limit=limit))

    def list_all(self) -> list[Collection]:
        return self._database.run(definitions.read_all)

    def create(
        self,
        project_id: str,
        name: str,
        *,
        dimension: int,
        metric: Metric,
        index: IndexDefinition,
        embedder: EmbedderDefinition | None,
        options: Options = DEFAULTS,
        on: Terms = FREE,
    ) -> Collection:
        """Create a collection with its tables, in one transaction.

        Raises:
            CollectionExistsError: the project has one of that name.
            AnsweredBefore, LimitExceededError: the terms say no.
        """

        def work(connection: Connection, receipt: uuid.UUID) -> list[int]:
            with _once(connection, receipt, on) as answers:
                connection.execute(_RECEIPT, [receipt])
                try:
                    definitions.insert(
                        connection,
                        project_id,
                        name,
                        dimension=dimension,
                        metric=metric,
                        index=index,
                        embedder=embedder,
                        options=options,
                    )
                except pg.UniqueViolation:
                    raise CollectionExistsError(f"Collection {name!r} exists already.") from None
                stock.enforce_collections(connection, project_id, on.limits)
                collection = definitions.find(connection, project_id, name)
                assert collection is not None, "inserted in this transaction"
                _create_tables(connection, collection)
                stock.begin(connection, collection)
                revisions.change(connection, collection)
                answers.append(collection)
            return []

        _check_index(dimension, index)
        self._database.write(work)
        self._forget(project_id, name)
        return self.get(project_id, name)

    def change(
        self, project_id: str, name: str, alter: Callable[[Collection], Collection], on: Terms = FREE
    ) -> Collection:
        """Change a definition; ``alter`` makes the new one of the old one. Indexes follow by maintenance.

        Raises:
            CollectionNotFoundError: there is none.
            InvalidRequestError: there can be no such collection.
            AnsweredBefore: the terms say no.
        """

        def work(connection: Connection, receipt: uuid.UUID) -> list[int]:
            with _once(connection, receipt, on) as answers:
                connection.execute(_RECEIPT, [receipt])
                before = definitions.lock(connection, project_id, name)
                if before is None:
                    raise _missing(name)
                after = alter(before)
                _check_index(after.dimension, after.index)
                if after.text_search != before.text_search:
                    after = replace(after, texts_ready=texts.change_language(connection, after))
                definitions.update(connection, after)
                revisions.change(connection, after)
                answers.append(after)
            return []

        texts.when_indexes_are_built(lambda: self._database.write(work))
        self._forget(project_id, name)
        return self.get(project_id, name)

    def drop(self, project_id: str, name: str, on: Terms = FREE, *, even_protected: bool = False) -> None:
        """Drop a collection: its tables and its definition go in one transaction.

        Raises:
            CollectionNotFoundError: there is none.
            DeletionProtectedError: it has ``deletion_protection``; with ``even_protected`` that does not matter.
            AnsweredBefore: the terms say no.
        """

        def work(connection: Connection, receipt: uuid.UUID) -> list[int]:
            with _once(connection, receipt, on) as answers:
                connection.execute(_RECEIPT, [receipt])
                collection = definitions.lock(connection, project_id, name)
                if collection is None:
                    raise _missing(name)
                if collection.deletion_protection and not even_protected:
                    raise DeletionProtectedError(f"Collection {name!r} has deletion_protection: switch it off first.")
                definitions.delete(connection, collection)
                connection.execute(_STOP_MAINTENANCE, [MAINTENANCE_LOCK, collection.collection_id])
                connection.execute(statement(DROP_TABLES, collection))
                stock.forget(connection, collection)
                revisions.forget(connection, collection)
                answers.append(None)
            return []

        try:
            self._database.write(work)
        finally:
            self._forget(project_id, name)

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
            "texts": f"{SCHEMA}.texts_{number}",
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


def _create_tables(connection: Connection, collection: Collection) -> None:
    connection.execute(statement(CREATE_TABLES, collection))
    if collection.text_search is not None:
        connection.execute(statement(CREATE_TEXTS, collection))
    for field in field_indexes.indexed_fields(collection):
        connection.execute(field_indexes.create_index(collection, field))


def _check_index(dimension: int, index: IndexDefinition) -> None:
    if violation := check_index(dimension, index):
        raise InvalidRequestError(f"{violation.path} {violation.message}.", (violation,))


def _missing(name: str) -> CollectionNotFoundError:
    return CollectionNotFoundError(f"There is no collection {name!r}.")
