"""Statements that may take longer than the function lives that begins them.

Left alone, such a statement goes on in the database to its end, and its session keeps the locks it holds: whoever comes
next finds them taken.
"""

from __future__ import annotations

import math
import select
import time

import psycopg
from psycopg.pq import ExecStatus

from vecmeter.vectors.connection import Connection

_LONGEST_LOOK_SECONDS = 3600.0


class LeftRunning(Exception):
    """Time is up: the statement goes on without us."""


def execute_long(connection: Connection, statement: bytes, ends_at: float = math.inf) -> None:
    """Run one statement, without parameters, to its end; or until ``ends_at`` by ``time.monotonic``.

    Raises:
        LeftRunning: it goes on; the connection is closed.
        psycopg.Error: it failed.
    """
    libpq = connection.pgconn
    libpq.send_query(statement)
    while libpq.flush():
        _wait(libpq.socket, select.POLLOUT, ends_at)
    while libpq.is_busy():
        if time.monotonic() >= ends_at:
            # The server reads that we are gone only when the statement has ended.
            connection.close()
            raise LeftRunning
        _wait(libpq.socket, select.POLLIN, ends_at)
        libpq.consume_input()
    failures = []
    while result := libpq.get_result():
        if result.status != ExecStatus.COMMAND_OK:
            failures.append(psycopg.errors.error_from_result(result))
    if failures:
        raise failures[0]


def _wait(socket: int, event: int, ends_at: float) -> None:
    poll = select.poll()
    poll.register(socket, event)
    poll.poll(max(0.0, min(ends_at - time.monotonic(), _LONGEST_LOOK_SECONDS)) * 1000)
