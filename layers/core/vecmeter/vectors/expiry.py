"""The sweep of what has expired. Reads pass over it already; it takes room until it is swept."""

from __future__ import annotations

from collections.abc import Callable
from typing import LiteralString

from vecmeter.vectors.connection import Connection
from vecmeter.vectors.model import Collection
from vecmeter.vectors.tables import statement
from vecmeter.vectors.write_statements import SWEEP

# Vectors of one transaction: writers of other vectors do not wait for it, and what it leaves behind stays small.
_AT_ONCE = 1000

_EXPIRED: LiteralString = "SELECT count(*) FROM {records} WHERE expires_at <= now()"


def count_expired(connection: Connection, collection: Collection) -> int:
    """How many vectors a sweep would delete."""
    row = connection.execute(statement(_EXPIRED, collection)).fetchone()
    return int(row[0]) if row else 0


def sweep_expired(
    connection: Connection, collection: Collection, is_time_up: Callable[[], bool] = lambda: False
) -> int:
    """Delete what has expired of a collection, some at a time; returns how many. What others write is left alone."""
    text = SWEEP.of(collection)
    deleted = 0
    while True:
        row = connection.execute(text, {"limit": _AT_ONCE}).fetchone()
        assert row is not None, "an aggregate always answers"
        count: int = row[0]
        deleted += count
        if count < _AT_ONCE or is_time_up():
            return deleted
