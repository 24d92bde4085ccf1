"""Applies the numbered SQL files of this folder, each once. There are two kinds:

* ``0007_name.sql``: statements, all in one transaction with short time-outs. What they take away or rename must be out
  of use since the release before, for its functions go on while this one's are put in place.
* ``0008_name.steps.sql``: one query for the statements that are still to be done, which are then done one by one
  outside of transactions, without a time-out, until it returns none: building indexes ``CONCURRENTLY``, work on one
  collection after the other. Whatever interrupts it, the query says again what is left.
"""

from __future__ import annotations

import math
import time
from importlib.resources import files
from importlib.resources.abc import Traversable

import psycopg

from vecmeter.errors import DatabaseUnavailableError
from vecmeter.vectors.connection import Connection
from vecmeter.vectors.long_statements import LeftRunning, execute_long

# Any number will do as long as nothing else in the database uses it.
_ADVISORY_LOCK = 0x7665636D
_LOOK_EVERY_SECONDS = 0.1
LOCK_TIMEOUT = "5s"
STATEMENT_TIMEOUT = "60s"
_STEPS = ".steps.sql"
# A step that is done and still asked for would be asked for for ever; new collections may ask for a few more.
_MOST_ROUNDS = 10

_CREATE_HISTORY = """
    CREATE SCHEMA IF NOT EXISTS vecmeter;
    CREATE TABLE IF NOT EXISTS vecmeter.migrations (
        name       text PRIMARY KEY,
        applied_at timestamptz NOT NULL DEFAULT now()
    )
"""
_HAS_HISTORY = "SELECT to_regclass('vecmeter.migrations') IS NOT NULL"
_LIST_APPLIED = "SELECT name FROM vecmeter.migrations"
_RECORD = "INSERT INTO vecmeter.migrations (name) VALUES (%s)"


def migrate(dsn: str, ends_at: float = math.inf) -> list[str]:
    """Bring the database up to date; returns the names applied now. Safe to run twice or by two at once.

    Args:
        ends_at: by ``time.monotonic``; a step that takes longer goes on in the database, and the next call carries on.

    Raises:
        DatabaseUnavailableError: time is up before all is done.
        psycopg.Error: a migration failed; of a transaction nothing stays, the migrations before it do.
    """
    return apply(dsn, files(__package__), ends_at)


def apply(dsn: str, folder: Traversable, ends_at: float = math.inf) -> list[str]:
    """The same with the migrations of a folder."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        _lock(connection, ends_at)
        connection.execute(_CREATE_HISTORY)
        pending = _pending(connection, folder)
        for name in pending:
            # The files lie in this package: their text is as literal as a constant.
            text = folder.joinpath(name).read_text()
            if name.endswith(_STEPS):
                _take_steps(connection, name, text, ends_at)
            else:
                _run_at_once(connection, name, text)
        return pending


def migration_names() -> list[str]:
    """The migrations this package carries, in order."""
    return _names(files(__package__))


def pending_migrations(dsn: str) -> list[str]:
    """What ``migrate`` would apply."""
    folder = files(__package__)
    with psycopg.connect(dsn, autocommit=True) as connection:
        has_history = connection.execute(_HAS_HISTORY).fetchone() == (True,)
        return _pending(connection, folder) if has_history else _names(folder)


def _pending(connection: Connection, folder: Traversable) -> list[str]:
    applied = {row[0] for row in connection.execute(_LIST_APPLIED)}
    return [name for name in _names(folder) if name not in applied]


def _lock(connection: Connection, ends_at: float) -> None:
    """Wait for others that migrate, a step of whom may go on though they are gone. Not in a statement, whose snapshot
    such a step would wait for.
    """
    while connection.execute("SELECT pg_try_advisory_lock(%s)", [_ADVISORY_LOCK]).fetchone() != (True,):
        if time.monotonic() >= ends_at:
            raise DatabaseUnavailableError("Another migration is under way; run this one again later.")
        time.sleep(_LOOK_EVERY_SECONDS)


def _run_at_once(connection: Connection, name: str, statements: str) -> None:
    with connection.transaction():
        connection.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
        connection.execute(f"SET LOCAL statement_timeout = '{STATEMENT_TIMEOUT}'")
        connection.execute(statements)
        connection.execute(_RECORD, [name])


def _take_steps(connection: Connection, name: str, query: str, ends_at: float) -> None:
    connection.execute("SET statement_timeout = 0")
    for _ in range(_MOST_ROUNDS):
        steps = [step for (step,) in connection.execute(query).fetchall()]
        if not steps:
            connection.execute(_RECORD, [name])
            return
        for step in steps:
            try:
                execute_long(connection, step.encode(), ends_at)
            except LeftRunning:
                message = f"Time is up in {name}; its step goes on, run the migration again later."
                raise DatabaseUnavailableError(message) from None
    raise RuntimeError(f"{name} asks for the same steps again and again")


def _names(folder: Traversable) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))
