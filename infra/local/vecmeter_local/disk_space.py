"""Keeps the database from running its disk full.

A PostgreSQL that finds no room for its log crashes, and cannot start until there is some. So while little is left it
is made read-only: writes are refused whole, searches go on.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psycopg

from vecmeter_local.processes import LocalStackError

MIB = 2**20
# Two segments of PostgreSQL's log, what a checkpoint writes back, and room for the ledger's journal meanwhile.
RESERVE_BYTES = 128 * MIB
_LOOK_EVERY_SECONDS = 1.0


class DiskSpace:
    """Looks at the space left in a folder, and makes the database there read-only while it is less than the reserve.

    Args:
        free: bytes left on the disk of a folder.
    """

    def __init__(self, folder: Path, dsn: str, free: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free):
        self._folder = folder
        self._dsn = dsn
        self._free = free
        self._next_look = 0.0
        self._read_only = False

    def require(self) -> None:
        """Let the database take writes, which a stack that was killed may have left read-only.

        Raises:
            LocalStackError: less than the reserve is left.
        """
        free = self._free(self._folder)
        if free < RESERVE_BYTES:
            raise LocalStackError(
                f"Only {free // MIB} MB are left on the disk of {self._folder}; {RESERVE_BYTES // MIB} MB are needed."
            )
        self._switch(read_only=False)

    def look(self) -> None:
        """Compare and act, at most once a second. A database that does not answer is asked again at the next look."""
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + _LOOK_EVERY_SECONDS
        free = self._free(self._folder)
        # Back only with something to spare, lest it goes to and fro.
        short = free < (RESERVE_BYTES * 5 // 4 if self._read_only else RESERVE_BYTES)
        if short is self._read_only:
            return
        try:
            self._switch(short)
        except psycopg.Error as error:
            print(f"The database does not take 'read-only: {short}' yet: {error}", file=sys.stderr, flush=True)
            return
        outcome = "writes are refused" if short else "writes are taken again"
        print(f"{free // MIB} MB are left on the disk: {outcome}.", file=sys.stderr, flush=True)
        self._read_only = short

    def _switch(self, read_only: bool) -> None:
        with psycopg.connect(self._dsn, autocommit=True, connect_timeout=5) as connection:
            connection.execute("SET default_transaction_read_only = off")
            if read_only:
                connection.execute("ALTER SYSTEM SET default_transaction_read_only = on")
            else:
                connection.execute("ALTER SYSTEM RESET default_transaction_read_only")
            connection.execute("SELECT pg_reload_conf()")
