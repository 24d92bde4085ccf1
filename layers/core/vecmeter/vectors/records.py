"""Writing, fetching and deleting vectors. Each method is one statement or transaction, so each is all or nothing."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, LiteralString, TypeVar

from vecmeter.errors import LimitExceededError, NamespaceNotFoundError, VectorExistsError, VectorNotFoundError
from vecmeter.vectors import terms
from vecmeter.vectors.connection import Connection, Database
from vecmeter.vectors.filters import compile_filter
from vecmeter.vectors.foresight import refuse_beyond_room
from vecmeter.vectors.model import Collection, Patch, StoredVector, Vector, Written
from vecmeter.vectors.prefixes import first_without
from vecmeter.vectors.tables import LIVE_RECORD, statement
from vecmeter.vectors.terms import FREE, Done, Terms
from vecmeter.vectors.write_input import insert_input, patch_input, require_versions, too_large
from vecmeter.vectors.write_statements import ADD, DELETE, UPSERT, WriteTemplate

T = TypeVar("T")

# Writes to a project that had no room of late are measured before their work, which otherwise is undone.
TIGHT_SECONDS = 60.0
TIGHT_PROJECTS = 1000

# Vectors by id.
_FETCH: LiteralString = """
    SELECT r.id, r.namespace, r.version, r.document, r.metadata, v.embedding::text AS numbers, r.expires_at
    FROM {records} r JOIN {vectors} v USING (record_id)
    WHERE r.namespace = %(namespace)s AND r.id = ANY(%(ids)s) AND [live]
""".replace("[live]", LIVE_RECORD)
# A page of a namespace, by id. Without an upper bound it would read on behind the last id with the prefix.
_LIST: LiteralString = """
    SELECT r.id FROM {records} r
    WHERE r.namespace = %(namespace)s AND r.id > %(after)s AND r.id >= %(prefix)s [below] AND [live]
    ORDER BY r.id LIMIT %(limit)s
""".replace("[live]", LIVE_RECORD)
# A page of what a filter lets through, by id. Few are found by the index of what is asked and sorted; where there are
# more, a page is soon complete on the way along the ids. To choose by the planner's estimate would often read them all:
# so the way along the ids has metadata that no index knows.
_FETCH_MATCHES: LiteralString = """
    WITH few AS MATERIALIZED (
        SELECT r.record_id, r.id FROM {records} r WHERE [matches] LIMIT %(few)s
    ), page AS (
        (SELECT record_id FROM few WHERE (SELECT count(*) FROM few) < %(few)s ORDER BY id LIMIT %(limit)s)
        UNION ALL
        (SELECT r.record_id
         FROM (SELECT record_id, namespace, id, expires_at, metadata || '{{}}' AS metadata FROM {records}) r
         WHERE (SELECT count(*) FROM few) = %(few)s AND [matches] ORDER BY r.id LIMIT %(limit)s)
    )
    SELECT r.id, r.namespace, r.version, r.document, r.metadata, v.embedding::text AS numbers, r.expires_at
    FROM page JOIN {records} r USING (record_id) JOIN {vectors} v USING (record_id) ORDER BY r.id
""".replace("[matches]", "r.namespace = %(namespace)s AND r.id > %(after)s AND [live] AND [condition]").replace(
    "[live]", LIVE_RECORD
)
_FEW = 1000
_COUNT_MATCHES: LiteralString = """
    SELECT count(*) FROM {records} r WHERE r.namespace = %(namespace)s AND [live] AND [condition]
""".replace("[live]", LIVE_RECORD)


_OF_IDS: LiteralString = "r.id = ANY(%(ids)s)"


class Records:
    """The vectors of collections, as rows. ``wrote`` is told how many vectors a write inserted or replaced."""

    def __init__(
        self,
        database: Database,
        max_metadata_bytes: int,
        wrote: Callable[[Collection, int], None] = lambda collection, vectors: None,
    ) -> None:
        self._database = database
        self._wrote = wrote
        self._max_metadata_bytes = max_metadata_bytes
        self._tight: dict[str, float] = {}

    def upsert(self, collection: Collection, vectors: Sequence[Vector], on: Terms = FREE) -> list[Written]:
        """Insert or replace a batch; of several with the same namespace and id the last wins.

        Returns what happened to each, in the order of the batch. Raises what the terms say no with (``terms.write``).

        Raises:
            VersionConflictError: naming every vector whose ``if_version`` does not hold; nothing is written.
        """
        paths = [f"vectors.{position}." for position in range(len(vectors))]
        return self._upsert(collection, vectors, paths, lambda written: written, on)

    def put(self, collection: Collection, vector: Vector, on: Terms = FREE) -> Written:
        """Insert or replace one vector. Raises as ``upsert``."""
        return self._upsert(collection, [vector], [""], lambda written: written[0], on)

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
        found = {row[0]: _stored(row) for row in rows}
        return [found[id] for id in dict.fromkeys(ids) if id in found]

    def list_ids(self, collection: Collection, namespace: str, *, prefix: str, after: str, limit: int) -> list[str]:
        """Up to ``limit`` ids of a namespace that start with ``prefix`` and come after ``after``, sorted."""
        below = first_without(prefix)
        parameters = {"namespace": namespace, "prefix": prefix, "below": below, "after": after, "limit": limit}
        template = _LIST.replace("[below]", "" if below is None else "AND r.id < %(below)s")
        rows = self._database.run(lambda c: c.execute(statement(template, collection), parameters).fetchall())
        return [row[0] for row in rows]

    def fetch_matching(
        self, collection: Collection, namespace: str, filter: Mapping[str, Any], *, after: str, limit: int
    ) -> list[StoredVector]:
        """Up to ``limit`` vectors of a namespace that a filter lets through and that come after ``after``, by id."""
        condition, parameters = _matching(collection, namespace, filter)
        text = statement(_FETCH_MATCHES.replace("[condition]", condition), collection)
        parameters |= {"after": after, "limit": limit, "few": max(limit, _FEW)}
        return [_stored(row) for row in self._database.run(lambda c: c.execute(text, parameters).fetchall())]

    def patch(self, collection: Collection, namespace: str, id: str, patch: Patch, on: Terms = FREE) -> int:
        """Change one vector; returns its new version.

        Raises:
            VectorNotFoundError: there is none.
            VersionConflictError: it has another version than the patch is for.
            InvalidRequestError: the metadata would become too large; nothing is changed.
        """

        def finish(answer: list[int]) -> int:
            version = _version_of_one(answer, id)
            require_versions([("if_version", patch.if_version, version - 1)])
            return version

        parameters = {"namespace": namespace, "id": id}
        return self._patch(collection, "r.id = %(id)s", parameters, patch, finish, on)

    def update_ids(
        self, collection: Collection, namespace: str, ids: Sequence[str], patch: Patch, on: Terms = FREE
    ) -> int:
        """Change the vectors with these ids that exist, all or none; returns how many.

        Raises:
            InvalidRequestError: metadata would become too large; nothing is changed.
        """
        return self._patch(collection, _OF_IDS, {"namespace": namespace, "ids": list(ids)}, patch, _first, on)

    def update_matching(
        self, collection: Collection, namespace: str, filter: Mapping[str, Any], patch: Patch, on: Terms = FREE
    ) -> int:
        """Change the vectors of a namespace that a filter lets through, all or none; returns how many.

        Raises:
            InvalidRequestError: metadata would become too large; nothing is changed.
        """
        condition, parameters = _matching(collection, namespace, filter)
        return self._patch(collection, condition, parameters, patch, _first, on)

    def count_matching(self, collection: Collection, namespace: str, filter: Mapping[str, Any] | None) -> int:
        """How many vectors of a namespace a filter lets through (None: all)."""
        return self._count(collection, *_matching(collection, namespace, filter))

    def delete_one(
        self, collection: Collection, namespace: str, id: str, *, if_version: int | None = None, on: Terms = FREE
    ) -> None:
        """Delete one vector.

        Raises:
            VectorNotFoundError: there is none.
            VersionConflictError: it has another version.
        """

        def finish(answer: list[int]) -> None:
            require_versions([("if_version", if_version, _version_of_one(answer, id))])

        parameters = {"namespace": namespace, "ids": [id]}
        self._delete(collection, _OF_IDS, parameters, finish, on, conditional=if_version is not None)

    def delete_ids(
        self, collection: Collection, namespace: str, ids: Sequence[str], *, dry_run: bool, on: Terms = FREE
    ) -> int:
        """Delete the vectors with these ids that exist; returns how many, or how many there are."""
        parameters = {"namespace": namespace, "ids": list(ids)}
        if dry_run:
            return self._count(collection, _OF_IDS, parameters)
        return self._delete(collection, _OF_IDS, parameters, _first, on)

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
        if dry_run:
            return self.count_matching(collection, namespace, filter)
        condition, parameters = _matching(collection, namespace, filter)
        return self._delete(collection, condition, parameters, _first, on)

    def delete_namespace(self, collection: Collection, namespace: str, on: Terms = FREE) -> int:
        """Delete all vectors of a namespace; returns how many.

        Raises:
            NamespaceNotFoundError: it has none.
        """

        def finish(answer: list[int]) -> int:
            if not answer[0]:
                raise NamespaceNotFoundError(f"There is no vector in the namespace {namespace!r}.")
            return answer[0]

        condition, parameters = _matching(collection, namespace, None)
        return self._delete(collection, condition, parameters, finish, on)

    def _count(self, collection: Collection, condition: LiteralString, parameters: Mapping[str, Any]) -> int:
        text = statement(_COUNT_MATCHES.replace("[condition]", condition), collection)
        row = self._database.run(lambda c: c.execute(text, parameters).fetchone())
        assert row is not None, "an aggregate always answers"
        return int(row[0])

    def _upsert(
        self,
        collection: Collection,
        vectors: Sequence[Vector],
        paths: Sequence[str],
        result: Callable[[list[Written]], T],
        on: Terms,
    ) -> T:
        """``paths`` stand before the fields of each vector in a fault; ``result`` is made of what happened."""
        chosen = {(vector.namespace, vector.id): position for position, vector in enumerate(vectors)}
        unique = [vectors[position] for position in chosen.values()]
        places = sorted(chosen)
        conditional = any(vector.if_version is not None for vector in unique)

        def finish(versions: list[int]) -> T:
            # Versions come in the order of namespace and id.
            version_of = dict(zip(places, versions, strict=True))
            if conditional:
                require_versions(
                    (f"{paths[position]}if_version", vectors[position].if_version, version_of[place] - 1)
                    for place, position in chosen.items()
                )
            return result([_written(vector, version_of[vector.namespace, vector.id]) for vector in unique])

        return self._insert(UPSERT, collection, unique, finish, on, conditional=conditional)

    def _insert(
        self,
        template: WriteTemplate,
        collection: Collection,
        vectors: Sequence[Vector],
        finish: Callable[[list[int]], T],
        on: Terms,
        *,
        conditional: bool = False,
    ) -> T:
        text, parameters = template.of(collection), insert_input(collection, vectors)
        replaces = template is UPSERT

        def work(connection: Connection, receipt: uuid.UUID, bound: bool) -> Done | None:
            return terms.read_done(
                connection.execute(text, {**parameters, "receipt": receipt, "bound": bound}).fetchone()
            )

        def foresee(connection: Connection) -> None:
            refuse_beyond_room(connection, collection, vectors, parameters, on, replaces)

        tight = self._tight.get(collection.project_id, -TIGHT_SECONDS) > time.monotonic() - TIGHT_SECONDS
        try:
            written = terms.write(
                self._database,
                collection,
                work,
                finish,
                on,
                conditional=conditional,
                foresee=foresee if tight else None,
            )
        except LimitExceededError:
            if len(self._tight) >= TIGHT_PROJECTS:
                self._tight.clear()
            self._tight[collection.project_id] = time.monotonic()
            raise
        self._wrote(collection, len(vectors))
        return written

    def _patch(
        self,
        collection: Collection,
        condition: LiteralString,
        parameters: Mapping[str, Any],
        change: Patch,
        finish: Callable[[list[int]], T],
        on: Terms,
    ) -> T:
        template, values = patch_input(change)
        text, limit = template.of(collection, condition), self._max_metadata_bytes
        values |= {**parameters, "max_metadata_bytes": limit}

        def work(connection: Connection, receipt: uuid.UUID, bound: bool) -> Done | None:
            row = connection.execute(text, {**values, "receipt": receipt, "bound": bound}).fetchone()
            if row is not None and row[7]:
                raise too_large(row[7], limit)
            return terms.read_done(row)

        return terms.write(self._database, collection, work, finish, on, conditional=True)

    def _delete(
        self,
        collection: Collection,
        condition: LiteralString,
        parameters: Mapping[str, Any],
        finish: Callable[[list[int]], T],
        on: Terms,
        *,
        conditional: bool = False,
    ) -> T:
        text = DELETE.of(collection, condition)

        def work(connection: Connection, receipt: uuid.UUID, bound: bool) -> Done | None:
            return terms.read_done(connection.execute(text, {**parameters, "receipt": receipt}).fetchone())

        # It takes no room; without a key, limits are none of its business.
        free = FREE if on.once is None else on
        return terms.write(self._database, collection, work, finish, free, conditional=conditional)


def _matching(
    collection: Collection, namespace: str, filter: Mapping[str, Any] | None
) -> tuple[LiteralString, dict[str, Any]]:
    """The condition on the records of a namespace that a filter lets through, and its parameters."""
    compiled = compile_filter(filter, collection.filterable)
    condition, values = (compiled.expression, compiled.parameters) if compiled else ("true", {})
    return condition, {"namespace": namespace, **values}


def _first(answer: list[int]) -> int:
    return answer[0]


def _version_of_one(answer: list[int], id: str) -> int:
    """Of the answer of a write about one vector. Raises VectorNotFoundError where there was none."""
    count, version = answer
    if not count:
        raise VectorNotFoundError(f"There is no vector {id!r}.")
    return version


def _written(vector: Vector, version: int) -> Written:
    return Written(id=vector.id, namespace=vector.namespace, version=version, inserted=version == 1)


def parse_numbers(text: str) -> list[float]:
    """A vector as pgvector writes it: a JSON list, each number in the fewest digits that give the same float32."""
    numbers: list[float] = json.loads(text, parse_int=float)  # "-0" as an integer would lose its sign
    return numbers


def _stored(row: Sequence[Any]) -> StoredVector:
    id, namespace, version, document, metadata, numbers, expires_at = row
    return StoredVector(
        id=id,
        namespace=namespace,
        version=version,
        document=document,
        metadata=metadata,
        numbers=parse_numbers(numbers),
        expires_at=expires_at,
    )
