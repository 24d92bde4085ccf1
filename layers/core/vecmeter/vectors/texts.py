"""The words of documents, when a collection that has documents is given a language, another one, or none.

Writers keep the words of what they write, by the language of the definition they know; one who knows it no more does
nothing (terms.DefinitionChanged). So what was written before is read through once, and nothing is missed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import LiteralString, TypeVar

from vecmeter.errors import DatabaseUnavailableError
from vecmeter.vectors import definitions
from vecmeter.vectors.connection import Connection
from vecmeter.vectors.model import Collection
from vecmeter.vectors.tables import CREATE_TEXTS, KEEP_WRITERS_OUT, RECORDS_LOCK, TEXTS_OID, statement
from vecmeter.vectors.write_statements import CURRENT, FILL_TEXTS

T = TypeVar("T")

# The text search configurations that every PostgreSQL from 14 on brings along.
LANGUAGES = (
    "arabic", "armenian", "basque", "catalan", "danish", "dutch", "english", "finnish", "french", "german", "greek",
    "hindi", "hungarian", "indonesian", "irish", "italian", "lithuanian", "nepali", "norwegian", "portuguese",
    "romanian", "russian", "serbian", "simple", "spanish", "swedish", "tamil", "turkish", "yiddish",
)  # fmt: skip
# So many records are read while the change is made, and their writers wait for it; more are left to maintenance.
READ_AT_ONCE = 5_000
_READ_AT_A_TIME = 1_000
# How long a change waits for an index of the records to be built, and how often it looks. It must not wait in a
# transaction: building waits for those to end.
_WAIT_SECONDS = 5.0
_LOOK_EVERY_SECONDS = 0.05

_TRY_LOCK: LiteralString = "SELECT pg_try_advisory_xact_lock(%s, %s)"
# Writers wait until the definition has changed. Not for long behind others: all who come later wait as well.
_PATIENCE: LiteralString = "SET LOCAL lock_timeout = '5s'"
_DROP_TEXTS: LiteralString = "DROP TABLE IF EXISTS {texts}"
_COUNT_UP_TO: LiteralString = "SELECT count(*) FROM (SELECT FROM {records} LIMIT %s) found"
# The table of texts, and up to which record it was filled by now.
_HOW_FAR: LiteralString = """
    SELECT [table], CASE WHEN texts_table = [table] THEN texts_read ELSE 0 END
    FROM vecmeter.collections WHERE collection_id = {collection_id}
""".replace("[table]", TEXTS_OID)
_KEEP_HOW_FAR: LiteralString = """
    UPDATE vecmeter.collections SET texts_table = %(table)s, texts_read = %(after)s
    WHERE collection_id = {collection_id}
"""
# The words of some records more. Locked, so that what is read is what a writer left last. None once the table was made
# anew, for another language or the same again: it has to be filled by that one, and from the beginning.
_FILL_SOME: LiteralString = (
    """
    WITH batch AS MATERIALIZED (
        SELECT * FROM {records}
        WHERE EXISTS ([current]) AND [table] = %(table)s AND record_id > %(after)s
        ORDER BY record_id LIMIT %(limit)s FOR SHARE
    ), filled AS (
        [fill] ON CONFLICT (record_id) DO NOTHING
    )
    SELECT max(record_id) FROM batch
""".replace("[fill]", FILL_TEXTS.replace("{records} r", "batch r"))
    .replace("[current]", CURRENT)
    .replace("[columns]", "")
    .replace("[table]", TEXTS_OID)
)
# A delete that waited for such a lock has not seen what was inserted meanwhile.
_SWEEP: LiteralString = """
    DELETE FROM {texts} t WHERE NOT EXISTS (SELECT FROM {records} r WHERE r.record_id = t.record_id)
"""


class IndexBeingBuilt(Exception):
    """The texts cannot be changed while an index of the records is being built."""


def when_indexes_are_built(change: Callable[[], T]) -> T:
    """Do ``change``, a whole transaction, and again for some seconds while it raises IndexBeingBuilt.

    Raises DatabaseUnavailableError where that takes longer.
    """
    give_up_at = time.monotonic() + _WAIT_SECONDS
    while True:
        try:
            return change()
        except IndexBeingBuilt:
            if time.monotonic() >= give_up_at:
                message = "An index of the metadata is being built; change the texts when it is ready."
                raise DatabaseUnavailableError(message, retry_after=30) from None
        time.sleep(_LOOK_EVERY_SECONDS)


def change_language(connection: Connection, collection: Collection) -> bool:
    """Make the texts of a collection anew in the language its definition shall have; in the transaction of the change.

    Returns whether they are complete, or ``fill`` has to follow. Raises IndexBeingBuilt, see there.
    """
    if connection.execute(_TRY_LOCK, [RECORDS_LOCK, collection.collection_id]).fetchone() != (True,):
        raise IndexBeingBuilt
    connection.execute(_PATIENCE)
    connection.execute(statement(KEEP_WRITERS_OUT, collection))
    connection.execute(statement(_DROP_TEXTS, collection))
    if collection.text_search is None:
        return True
    connection.execute(statement(CREATE_TEXTS, collection))
    row = connection.execute(statement(_COUNT_UP_TO, collection), [READ_AT_ONCE + 1]).fetchone()
    if row is None or row[0] > READ_AT_ONCE:
        return False
    connection.execute(statement(FILL_TEXTS, collection))
    return True


def fill(connection: Connection, collection: Collection, is_time_up: Callable[[], bool] = lambda: False) -> bool:
    """Index the words of the documents there are, some at a time, while others read and write; from where an earlier
    call got to whose time was up. Returns whether all are indexed.
    """
    table, after = connection.execute(statement(_HOW_FAR, collection)).fetchone() or (None, 0)
    while True:
        parameters = {"table": table, "after": after, "limit": _READ_AT_A_TIME}
        row = connection.execute(statement(_FILL_SOME, collection), parameters).fetchone()
        if row is None or row[0] is None:
            break
        after = row[0]
        connection.execute(statement(_KEEP_HOW_FAR, collection), parameters | {"after": after})
        if is_time_up():
            return False
    with connection.transaction():
        connection.execute(_PATIENCE)
        # The definition before the tables, as whoever changes the language: neither waits for the other's.
        definitions.texts_are_ready(connection, collection, table)
        connection.execute(statement(KEEP_WRITERS_OUT, collection))
        connection.execute(statement(_SWEEP, collection))
    return True
