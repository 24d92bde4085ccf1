"""One collection after another: the connection, the lock and the time of a maintenance run.

Statements that take long run on a connection of their own, without the time-out of requests, under an advisory lock on
their collection. When the function that began one ends, the statement goes on in the database and its session holds
the lock; whoever comes next finds it taken and leaves the collection alone, or finds what is left and carries on. What
fails for one collection is told in its figures and does not keep the others from their turn.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
from psycopg import errors as pg
from psycopg.rows import dict_row

from vecmeter.errors import VecmeterError
from vecmeter.vectors import definitions
from vecmeter.vectors.connection import KEEPALIVE, Connection, translate
from vecmeter.vectors.long_statements import LeftRunning
from vecmeter.vectors.model import Collection
from vecmeter.vectors.tables import MAINTENANCE_LOCK

_logger = logging.getLogger("vecmeter.maintenance")

_CONNECT_ARGUMENTS: dict[str, Any] = {
    "autocommit": True,
    "application_name": "vecmeter-maintenance",
    "connect_timeout": 5,
    **KEEPALIVE,
}
TIME_IS_UP = "time is up"
# A collection's turn begins with at least so much time left.
_LEAST_SECONDS = 2.0

# No end to statements, whose client may vanish meanwhile; between them the server notices that within two minutes, and
# lets go of the locks. Not through a proxy: the settings end with the connection.
_SET_UP: LiteralString = """
    SELECT set_config('statement_timeout', '0', false), set_config('client_connection_check_interval', '0', false),
           set_config('tcp_keepalives_idle', '60', false), set_config('tcp_keepalives_interval', '15', false),
           set_config('tcp_keepalives_count', '4', false)
"""
_TRY_LOCK: LiteralString = "SELECT pg_try_advisory_lock(%s, %s)"
_UNLOCK: LiteralString = "SELECT pg_advisory_unlock(%s, %s)"
# What the session does that holds a collection's lock.
_WHO_WORKS: LiteralString = """
    SELECT extract(epoch FROM now() - a.query_start)::int AS for_seconds, p.command, p.phase,
           round(100.0 * p.blocks_done / nullif(p.blocks_total, 0))::int AS percent
    FROM pg_locks l
    JOIN pg_stat_activity a ON a.pid = l.pid
    LEFT JOIN pg_stat_progress_create_index p ON p.pid = l.pid
    WHERE a.datname = current_database() AND l.locktype = 'advisory' AND l.granted
      AND l.classid = %s AND l.objid = %s AND l.objsubid = 2
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """How a run goes about it: whether it only says what it would do; whether it does so though no figure asks for it;
    and by when (``time.monotonic``) it must have ended.
    """

    dry_run: bool = False
    force: bool = False
    ends_at: float = math.inf

    def is_time_up(self) -> bool:
        return time.monotonic() + _LEAST_SECONDS > self.ends_at


DEFAULT_ORDERS = Orders()

Work = Callable[[Connection, Collection], dict[str, Any]]


class Turns:
    """``renew``: reads the DSN again after a connection failed, and says whether it is another one."""

    def __init__(self, dsn: Callable[[], str], renew: Callable[[], bool] = lambda: False) -> None:
        self._dsn = dsn
        self._renew = renew

    def each(
        self, collections: Iterable[Collection], work: Work, orders: Orders = DEFAULT_ORDERS, *, lock: bool = True
    ) -> dict[str, Any]:
        """Figures of each collection's ``work``, and how many were put off because time is up."""
        figures: list[dict[str, Any]] = []
        with self.connect() as connection:
            for collection in collections:
                figure = {"project_id": collection.project_id, "collection": collection.name}
                if orders.is_time_up():
                    figure |= {"action": "put off", "reason": TIME_IS_UP}
                else:
                    figure |= _turn(connection, collection, work, lock=lock and not orders.dry_run)
                figures.append(figure)
        put_off = sum(figure.get("reason") == TIME_IS_UP for figure in figures)
        return {"collections": figures} | ({"put_off": put_off} if put_off else {})

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        """A connection for statements of any length. Raises DatabaseUnavailableError."""
        try:
            with self._open() as connection:
                connection.execute(_SET_UP)
                yield connection
        except psycopg.Error as error:
            ours = translate(error)
            if ours is None:
                raise
            raise ours from error

    def _open(self) -> Connection:
        try:
            return psycopg.connect(self._dsn(), **_CONNECT_ARGUMENTS)
        except psycopg.OperationalError:
            if not self._renew():
                raise
        return psycopg.connect(self._dsn(), **_CONNECT_ARGUMENTS)


def _turn(connection: Connection, collection: Collection, work: Work, *, lock: bool) -> dict[str, Any]:
    try:
        with _locked(connection, collection) if lock else nullcontext(True) as is_ours:
            if not is_ours:
                return {"action": "none", "reason": "busy", "working": _who_works(connection, collection)}
            # As it is now: another run may have changed it before the lock was free.
            return work(connection, _current(connection, collection))
    except LeftRunning:
        return {"action": "goes on", "reason": TIME_IS_UP}
    except pg.UndefinedTable:
        return {"action": "none", "reason": "dropped meanwhile"}
    except (psycopg.Error, VecmeterError) as error:
        if connection.closed:
            raise
        _logger.exception("maintenance failed", extra={"collection_id": collection.collection_id})
        return {"action": "failed", "error": type(error).__name__}


@contextmanager
def _locked(connection: Connection, collection: Collection) -> Iterator[bool]:
    """Whether this session may work on the collection: two runs never do the same work at once."""
    key = [MAINTENANCE_LOCK, collection.collection_id]
    row = connection.execute(_TRY_LOCK, key).fetchone()
    is_ours = bool(row and row[0])
    try:
        yield is_ours
    finally:
        if is_ours and not connection.closed:
            connection.execute(_UNLOCK, key)


def _who_works(connection: Connection, collection: Collection) -> dict[str, Any]:
    key = [MAINTENANCE_LOCK, collection.collection_id]
    row = connection.cursor(row_factory=dict_row).execute(_WHO_WORKS, key).fetchone()
    return {name: value for name, value in (row or {}).items() if value is not None}


def _current(connection: Connection, collection: Collection) -> Collection:
    """The definition as it is now. Raises UndefinedTable where it is gone, as statements do."""
    found = definitions.read(connection, collection.collection_id)
    if found is None:
        raise pg.UndefinedTable
    return found
