"""The words of documents, when a collection that has documents is given a language, another one, or none.

Writers keep the words of what they write, by the language of the definition they know; one who knows it no more does
nothing (terms.DefinitionChanged). So what was written before is read through once, and nothing is missed.
"""

from __future__ import annotations

from typing import LiteralString

from vecmeter.vectors import definitions
from vecmeter.vectors.connection import Connection
from vecmeter.vectors.model import Collection
from vecmeter.vectors.tables import CREATE_TEXTS, KEEP_WRITERS_OUT, TEXTS_OID, statement
from vecmeter.vectors.write_statements import CURRENT, FILL_TEXTS

# The text search configurations that every PostgreSQL from 14 on brings along.
LANGUAGES = (
    "arabic", "armenian", "basque", "catalan", "danish", "dutch", "english", "finnish", "french", "german", "greek",
    "hindi", "hungarian", "indonesian", "irish", "italian", "lithuanian", "nepali", "norwegian", "portuguese",
    "romanian", "russian", "serbian", "simple", "spanish", "swedish", "tamil", "turkish", "yiddish",
)  # fmt: skip
# So many records are read while the change is made, and their writers wait for it; more are left to maintenance.
READ_AT_ONCE = 5_000
_READ_AT_A_TIME = 1_000

# Writers wait until the definition has changed. Not for long behind others: all who come later wait as well.
_PATIENCE: LiteralString = "SET LOCAL lock_timeout = '5s'"
_DROP_TEXTS: LiteralString = "DROP TABLE IF EXISTS {texts}"
_COUNT_UP_TO: LiteralString = "SELECT count(*) FROM (SELECT FROM {records} LIMIT %s) found"
_TABLE: LiteralString = "SELECT " + TEXTS_OID
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


def change_language(connection: Connection, collection: Collection) -> bool:
    """Make the texts of a collection anew in the language its definition shall have; in the transaction of the change.

    Returns whether they are complete, or ``fill`` has to follow.
    """
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


def fill(connection: Connection, collection: Collection) -> None:
    """Index the words of the documents there are, some at a time, while others read and write."""
    [table] = connection.execute(statement(_TABLE, collection)).fetchone() or [None]
    after: int | None = 0
    while after is not None:
        parameters = {"table": table, "after": after, "limit": _READ_AT_A_TIME}
        row = connection.execute(statement(_FILL_SOME, collection), parameters).fetchone()
        after = row[0] if row is not None else None
    with connection.transaction():
        connection.execute(_PATIENCE)
        # The definition before the tables, as whoever changes the language: neither waits for the other's.
        definitions.texts_are_ready(connection, collection, table)
        connection.execute(statement(KEEP_WRITERS_OUT, collection))
        connection.execute(statement(_SWEEP, collection))
