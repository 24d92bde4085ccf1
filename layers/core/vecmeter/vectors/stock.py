"""How much is stored, and the limits on it.

Every write appends what it changed, in its own transaction: writers without limits do not wait for each other, and the
sum of the changes is what is stored. A write under a limit first does its work, then takes its project's lock, then
adds up what is committed by now and its own change, and undoes itself if that is too much. It keeps the lock until its
end, so whoever comes next adds up what it left; and the lock is held for two short statements, not for the work.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import LiteralString

from psycopg.rows import class_row

from vecmeter.errors import CostExceedsLimitError, LimitExceededError, ViolatedPolicy
from vecmeter.vectors.connection import Connection
from vecmeter.vectors.model import Collection
from vecmeter.vectors.tables import KEEP_WRITERS_OUT, statement

# Nothing says when somebody will delete something.
RETRY_AFTER_SECONDS = 60
# A limited write reads all changes of its project, so it folds them when there are more than these.
FOLD_ABOVE = 256

# Bytes of a record, as a template: its numbers as float32, its id, document, and metadata as PostgreSQL writes JSON.
RECORD_BYTES: LiteralString = (
    "(octet_length(r.id) + coalesce(octet_length(r.document), 0) + octet_length(r.metadata::text) + 4 * {dimension})"
)
# A lock without a row, of a project; the number keeps it apart from other uses of advisory locks.
_LOCK: LiteralString = "SELECT pg_advisory_xact_lock(hashtextextended(%s, 7665))"
# What a project holds, and one of its collections; with how many changes are not folded yet.
_USED: LiteralString = """
    SELECT coalesce(sum(t.vectors), 0)::bigint AS vectors, coalesce(sum(t.bytes), 0)::bigint AS bytes,
           coalesce(sum(t.vectors) FILTER (WHERE t.collection_id = %(collection_id)s), 0)::bigint AS own_vectors,
           coalesce(sum(t.bytes) FILTER (WHERE t.collection_id = %(collection_id)s), 0)::bigint AS own_bytes,
           coalesce(sum(t.changes), 0)::bigint AS changes
    FROM (
        SELECT c.collection_id, s.vectors + coalesce(d.vectors, 0) AS vectors, s.bytes + coalesce(d.bytes, 0) AS bytes,
               d.changes
        FROM vecmeter.collections c
        JOIN vecmeter.stock s USING (collection_id)
        CROSS JOIN LATERAL (
            SELECT sum(vectors) AS vectors, sum(bytes) AS bytes, count(*) AS changes
            FROM vecmeter.stock_changes WHERE collection_id = c.collection_id
        ) d
        WHERE c.project_id = %(project_id)s
    ) t
"""
_COUNT_COLLECTIONS: LiteralString = "SELECT count(*) FROM vecmeter.collections WHERE project_id = %s"
# Under the project's lock.
_FOLD: LiteralString = """
    WITH folded AS (
        DELETE FROM vecmeter.stock_changes d USING vecmeter.collections c
        WHERE c.project_id = %s AND d.collection_id = c.collection_id
        RETURNING d.collection_id, d.vectors, d.bytes
    ), sums AS (
        SELECT collection_id, sum(vectors) AS vectors, sum(bytes) AS bytes FROM folded GROUP BY collection_id
    )
    UPDATE vecmeter.stock s SET vectors = s.vectors + sums.vectors, bytes = s.bytes + sums.bytes
    FROM sums WHERE s.collection_id = sums.collection_id
"""
_PROJECTS_WITH_CHANGES: LiteralString = """
    SELECT DISTINCT c.project_id FROM vecmeter.collections c
    WHERE EXISTS (SELECT FROM vecmeter.stock_changes d WHERE d.collection_id = c.collection_id)
"""
# A count from the rows themselves, while writers are kept out; none of them waits for a table with the project's lock.
_COUNT: LiteralString = "SELECT count(*), coalesce(sum([bytes]), 0)::bigint FROM {records} r".replace(
    "[bytes]", RECORD_BYTES
)
_BEGIN: LiteralString = "INSERT INTO vecmeter.stock (collection_id) VALUES (%s)"
_FORGET_CHANGES: LiteralString = "DELETE FROM vecmeter.stock_changes WHERE collection_id = %s"
_FORGET: LiteralString = "DELETE FROM vecmeter.stock WHERE collection_id = %s"
_SET: LiteralString = "UPDATE vecmeter.stock SET vectors = %s, bytes = %s WHERE collection_id = %s"

NO_LIMITS: Mapping[str, int] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionLimits:
    """Limits of one collection, whatever its project may hold. None: no limit."""

    max_vectors: int | None = None
    max_storage_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What a write adds to the stock, and how much of it the write alone makes up: its vectors, old and new ones."""

    vectors: int
    bytes: int
    all_vectors: int
    all_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """What a project holds, and one of its collections; ``changes`` that are not folded yet."""

    vectors: int
    bytes: int
    own_vectors: int
    own_bytes: int
    changes: int


@dataclass(frozen=True, slots=True)
class Asked:
    """What a write asks of one limit: ``added`` to what is ``used`` already, ``total`` of the write alone."""

    name: str
    scope: str
    limit: int
    added: int
    total: int
    used: int = field(default=0)

    @property
    def is_over(self) -> bool:
        return self.added > 0 and self.used + self.added > self.limit


def enforce(
    connection: Connection, collection: Collection, change: Change, limits: Mapping[str, int], own: CollectionLimits
) -> None:
    """Let a write pass that has done its work in this transaction, or raise why it may not.

    Args:
        limits: of the project, by the names of the public policy.

    Raises:
        LimitExceededError: there is no room.
        CostExceedsLimitError: it would not fit if it were alone.
    """
    if not any(one.added > 0 for one in _asked(change, limits, own, None)):
        return
    # Not pipelined: between messages of a pipeline the server does not end a transaction whose client has vanished.
    lock(connection, collection.project_id)
    used = read_used(connection, collection)
    if used.changes > FOLD_ABOVE:
        connection.execute(_FOLD, [collection.project_id])
    before = Used(
        vectors=used.vectors - change.vectors,
        bytes=used.bytes - change.bytes,
        own_vectors=used.own_vectors - change.vectors,
        own_bytes=used.own_bytes - change.bytes,
        changes=used.changes,
    )
    refuse_over(_asked(change, limits, own, before))


def foresee(
    connection: Connection, collection: Collection, change: Change, limits: Mapping[str, int], own: CollectionLimits
) -> None:
    """Refuse a write before its work, by the least it can change. Raises as ``enforce``, which has the last word."""
    refuse_over(_asked(change, limits, own, read_used(connection, collection)))


def enforce_collections(connection: Connection, project_id: str, limits: Mapping[str, int]) -> None:
    """Let a collection be created, whose definition this transaction has inserted. Raises as ``enforce``."""
    limit = limits.get("max_collections")
    if limit is None:
        return
    lock(connection, project_id)
    row = connection.execute(_COUNT_COLLECTIONS, [project_id]).fetchone()
    assert row is not None, "an aggregate always answers"
    refuse_over(iter([Asked("max_collections", "project", limit, 1, 1, row[0] - 1)]))


def refuse_over(asked: Iterator[Asked]) -> None:
    over = [one for one in asked if one.is_over]
    for one in over:
        if one.total > one.limit > 0:
            text = f"The request takes {one.total} of {one.scope} {one.name}, which is limited to {one.limit}."
            raise CostExceedsLimitError(text)
    if over:
        violated = (
            ViolatedPolicy(
                name=one.name,
                scope=one.scope,
                limit=one.limit,
                used=one.used,
                remaining=max(0, one.limit - one.used),
                resets_at=None,
                window_seconds=0,
            )
            for one in over
        )
        raise LimitExceededError(tuple(violated), RETRY_AFTER_SECONDS)


def lock(connection: Connection, project_id: str) -> None:
    """Wait until no other transaction adds up what the project holds; until the end of this one."""
    connection.execute(_LOCK, [project_id])


def read_used(connection: Connection, collection: Collection) -> Used:
    parameters = {"project_id": collection.project_id, "collection_id": collection.collection_id}
    row = connection.cursor(row_factory=class_row(Used)).execute(_USED, parameters).fetchone()
    assert row is not None, "an aggregate always answers"
    return row


def begin(connection: Connection, collection: Collection) -> None:
    """Keep count of a new collection."""
    connection.execute(_BEGIN, [collection.collection_id])


def forget(connection: Connection, collection: Collection) -> None:
    """Keep count of a collection no longer, once its tables are gone."""
    lock(connection, collection.project_id)
    connection.execute(_FORGET_CHANGES, [collection.collection_id])
    connection.execute(_FORGET, [collection.collection_id])


def fold(connection: Connection) -> int:
    """Fold all changes, project by project, each in a transaction; returns of how many projects."""
    projects = [row[0] for row in connection.execute(_PROJECTS_WITH_CHANGES)]
    for project_id in projects:
        with connection.transaction():
            lock(connection, project_id)
            connection.execute(_FOLD, [project_id])
    return len(projects)


def recount(connection: Connection, collection: Collection) -> dict[str, int]:
    """Count a collection anew from its rows; returns by how much the account was wrong. Its writers wait meanwhile."""
    with connection.transaction():
        connection.execute(statement(KEEP_WRITERS_OUT, collection))
        lock(connection, collection.project_id)
        used = read_used(connection, collection)
        row = connection.execute(statement(_COUNT, collection)).fetchone()
        assert row is not None, "an aggregate always answers"
        connection.execute(_FORGET_CHANGES, [collection.collection_id])
        connection.execute(_SET, [*row, collection.collection_id])
    return {"vectors": row[0] - used.own_vectors, "bytes": row[1] - used.own_bytes}


def _asked(change: Change, limits: Mapping[str, int], own: CollectionLimits, used: Used | None) -> Iterator[Asked]:
    """What the change asks of each limit there is."""
    found = used or Used(vectors=0, bytes=0, own_vectors=0, own_bytes=0, changes=0)
    vectors, size = (change.vectors, change.all_vectors), (change.bytes, change.all_bytes)
    asked = (
        ("max_vectors", "project", limits.get("max_vectors"), *vectors, found.vectors),
        ("max_storage_bytes", "project", limits.get("max_storage_bytes"), *size, found.bytes),
        (
            "max_vectors_per_collection",
            "collection",
            limits.get("max_vectors_per_collection"),
            *vectors,
            found.own_vectors,
        ),
        ("max_vectors", "collection", own.max_vectors, *vectors, found.own_vectors),
        ("max_storage_bytes", "collection", own.max_storage_bytes, *size, found.own_bytes),
    )
    for name, scope, limit, added, total, present in asked:
        if limit is not None:
            yield Asked(name, scope, limit, added, total, present)
