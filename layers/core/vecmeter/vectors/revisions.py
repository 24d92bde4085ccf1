"""The revision of a collection: a number that every write raises. Whoever remembers an answer asks for it again.

Every write raises it in its own transaction, so one snapshot sees a write and its revision or neither. It only grows,
and snapshots follow each other: two that see the same revision see the same vectors, but for those that expire. A
write raises it by chance: a database that was restored to what it was before does not come upon the same number again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString

from vecmeter.vectors.connection import Connection
from vecmeter.vectors.model import Collection, Stamp
from vecmeter.vectors.tables import statement

_STEP: LiteralString = "1 + (random() * 1000000)::bigint"
# The last CTEs of a write; ``[wrote]`` says whether it wrote anything. A row that another writer has in hand is
# passed over, and where all are, one is added: nobody waits.
RAISE: LiteralString = """
    slot AS (
        SELECT slot FROM vecmeter.revisions WHERE collection_id = {collection_id} AND [wrote]
        LIMIT 1 FOR UPDATE SKIP LOCKED
    ), raised AS (
        UPDATE vecmeter.revisions r SET revision = r.revision + [step]
        FROM slot WHERE r.collection_id = {collection_id} AND r.slot = slot.slot
    ), begun AS (
        INSERT INTO vecmeter.revisions (collection_id, revision)
        SELECT {collection_id}, [step] WHERE [wrote] AND NOT EXISTS (SELECT FROM slot)
    )
""".replace("[step]", _STEP)
# Of a statement's own snapshot: the revision, and when the next of the collection's vectors expires.
REVISION: LiteralString = "(SELECT sum(revision)::bigint FROM vecmeter.revisions WHERE collection_id = {collection_id})"
NEXT_EXPIRY: LiteralString = """
    (SELECT r.expires_at FROM {records} r WHERE r.expires_at > now() ORDER BY r.expires_at LIMIT 1)
"""

# Whether anything has changed, and the time it is: no row, no collection.
_CHECK: LiteralString = "SELECT sum(revision)::bigint, now() FROM vecmeter.revisions WHERE collection_id = %s"
_RAISE_ONE: LiteralString = "WITH " + RAISE.replace("[wrote]", "true") + "SELECT"
# Waits for whoever has the row in hand; one row of each, for they need not become more.
_RAISE_EACH: LiteralString = """
    UPDATE vecmeter.revisions r SET revision = revision + [step] FROM (
        SELECT collection_id, min(slot) AS slot FROM vecmeter.revisions WHERE collection_id = ANY(%s)
        GROUP BY collection_id
    ) one WHERE r.collection_id = one.collection_id AND r.slot = one.slot
""".replace("[step]", _STEP)
_FORGET: LiteralString = "DELETE FROM vecmeter.revisions WHERE collection_id = %s"


@dataclass(frozen=True, slots=True)
class Now:
    """The revision of a collection (None: it is gone), and PostgreSQL's clock."""

    revision: int | None
    time: datetime

    def confirms(self, stamp: Stamp) -> bool:
        """Whether a search would find the same again."""
        return stamp.revision == self.revision and (stamp.next_expiry is None or stamp.next_expiry > self.time)


def check(connection: Connection, collection: Collection) -> Now:
    row = connection.execute(_CHECK, [collection.collection_id]).fetchone()
    assert row is not None, "an aggregate always answers"
    return Now(*row)


def change(connection: Connection, collection: Collection) -> None:
    """Say in a transaction that it changes the collection, or makes it."""
    connection.execute(statement(_RAISE_ONE, collection))


def change_all(connection: Connection, collections: Iterable[Collection]) -> int:
    """Let every instance find anew what it remembers of these collections; returns how many there are."""
    return connection.execute(_RAISE_EACH, [[one.collection_id for one in collections]]).rowcount


def forget(connection: Connection, collection: Collection) -> None:
    connection.execute(_FORGET, [collection.collection_id])
