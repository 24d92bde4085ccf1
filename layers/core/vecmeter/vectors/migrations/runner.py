"""Applies the numbered SQL files of this folder, each once, each in a transaction of its own."""

from __future__ import annotations

from importlib.resources import files
from importlib.resources.abc import Traversable

import psycopg

# Any number will do as long as nothing else in the database uses it.
_ADVISORY_LOCK = 0x7665636D
LOCK_TIMEOUT = "5s"
STATEMENT_TIMEOUT = "60s"

_CREATE_HISTORY = """
    CREATE SCHEMA IF NOT EXISTS vecmeter;
    CREATE TABLE IF NOT EXISTS vecmeter.migrations (
        name       text PRIMARY KEY,
        applied_at timestamptz NOT NULL DEFAULT now()
    )
"""
_LIST_APPLIED = "SELECT name FROM vecmeter.migrations"
_RECORD = "INSERT INTO vecmeter.migrations (name) VALUES (%s)"


def migrate(dsn: str) -> list[str]:
    """Bring the database up to date; returns the names applied now. Safe to run twice or by two at once.

    Raises:
        psycopg.Error: a migration failed; it left nothing behind, the ones before it stay.
    """
    return apply(dsn, files(__package__))


def apply(dsn: str, folder: Traversable) -> list[str]:
    """The same with the migrations of a folder."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", [_ADVISORY_LOCK])
        connection.execute(_CREATE_HISTORY)
        applied = {row[0] for row in connection.execute(_LIST_APPLIED)}
        pending = [name for name in _names(folder) if name not in applied]
        for name in pending:
            # The files lie in this package: their text is as literal as a constant.
            statements = folder.joinpath(name).read_text()
            with connection.transaction():
                connection.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
                connection.execute(f"SET LOCAL statement_timeout = '{STATEMENT_TIMEOUT}'")
                connection.execute(statements)
                connection.execute(_RECORD, [name])
        return pending


def migration_names() -> list[str]:
    """The migrations this package carries, in order."""
    return _names(files(__package__))


def _names(folder: Traversable) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))
