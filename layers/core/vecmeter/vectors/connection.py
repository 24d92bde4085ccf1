"""Connections to PostgreSQL: one per execution environment, or a pool in a server; and psycopg's errors as ours."""

from __future__ import annotations

import select
import sys
import threading
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from struct import pack
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from psycopg import errors as pg
from psycopg.adapt import Dumper
from psycopg.pq import Format

from vecmeter.errors import (
    DatabaseUnavailableError,
    InvalidRequestError,
    StatementTimeoutError,
    VecmeterError,
)

if TYPE_CHECKING:
    from psycopg_pool import ConnectionPool

T = TypeVar("T")
Connection = psycopg.Connection[Any]

# The server ends a connection, or one of its transactions, for reasons that have nothing to do with the request.
_TEMPORARY = (
    pg.DeadlockDetected,
    pg.SerializationFailure,
    pg.LockNotAvailable,
    pg.DiskFull,
    pg.OutOfMemory,
    pg.TooManyConnections,
    pg.ReadOnlySqlTransaction,
    pg.OperationalError,
    pg.InterfaceError,
)


class PackedVector(bytes):
    """One vector in pgvector's binary form."""


class PackedVectors(bytes):
    """An array of vectors in PostgreSQL's binary form."""


class _PackedDumper(Dumper):
    """Passes ready binary on. No type number: the statement's cast says the type, so no catalogue query is needed."""

    format = Format.BINARY
    oid = 0

    def dump(self, obj: Any) -> bytes:
        return bytes(obj)


def pack_vector(numbers: array[float]) -> PackedVector:
    """pgvector's binary form (vector_recv in its src/vector.c): dimension and 0 as int16, float32s, big-endian."""
    return PackedVector(pack(">HH", len(numbers), 0) + _big_endian(numbers))


def pack_vectors(vectors: Sequence[array[float]], vector_oid: int) -> PackedVectors:
    """A one-dimensional array of vectors (PostgreSQL's array_recv); its header names the element's type."""
    parts = [pack(">iiIii", 1, 0, vector_oid, len(vectors), 1)]
    for numbers in vectors:
        packed = pack_vector(numbers)
        parts.append(pack(">i", len(packed)))
        parts.append(packed)
    return PackedVectors(b"".join(parts))


def _big_endian(numbers: array[float]) -> bytes:
    if sys.byteorder == "little":
        numbers = array("f", numbers)
        numbers.byteswap()
    return numbers.tobytes()


class Database:
    """Runs work on a connection. ``size`` 1 keeps a single connection, more open a pool; both lazily."""

    def __init__(
        self,
        dsn: Callable[[], str],
        *,
        size: int = 1,
        connect_timeout_seconds: int = 5,
        statement_timeout_ms: int = 0,
        prepare_threshold: int = 5,
    ) -> None:
        self._dsn = dsn
        self._size = size
        self._timeout = connect_timeout_seconds
        self._connect_arguments: dict[str, Any] = {
            "autocommit": True,
            "connect_timeout": connect_timeout_seconds,
            "prepare_threshold": prepare_threshold or None,
            "application_name": "vecmeter",
        }
        if statement_timeout_ms:
            self._connect_arguments["options"] = f"-c statement_timeout={statement_timeout_ms}"
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._pool: ConnectionPool[Connection] | None = None

    def run(self, work: Callable[[Connection], T], *, repeatable: bool) -> T:
        """Run ``work`` on a connection in autocommit mode.

        A connection that turns out broken is replaced once, and the work repeated if it is ``repeatable``: that is,
        if doing it twice leaves what doing it once leaves. Work on a connection that broke while connecting has
        done nothing and is repeated in any case.

        Raises:
            DatabaseUnavailableError: no connection, or it broke again.
            StatementTimeoutError: a statement took longer than the time-out.
            InvalidRequestError: PostgreSQL refuses a value.
        """
        for attempt in (1, 2):
            started = False
            try:
                with self.connection() as connection:
                    started = True
                    return work(connection)
            except psycopg.Error as error:
                broken = isinstance(error, (pg.OperationalError, pg.InterfaceError, pg.ReadOnlySqlTransaction))
                broken = broken and not isinstance(error, (pg.QueryCanceled, pg.LockNotAvailable))
                if broken:
                    self._discard()
                if attempt == 1 and broken and (repeatable or not started):
                    continue
                ours = translate(error)
                if ours is None:
                    raise
                raise ours from error
        raise AssertionError("unreachable")  # pragma: no cover

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """A connection for the duration of the block; psycopg's own errors pass through."""
        if self._size == 1:
            with self._lock:
                if self._connection is None or self._connection.closed or _ended_by_server(self._connection):
                    self._connection = self._connect()
                yield self._connection
        else:
            with self._open_pool().connection() as connection:
                yield connection

    def close(self) -> None:
        """Close every connection; the next use opens new ones (as after a snapshot is restored)."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            if self._pool is not None:
                self._pool.close()
                self._pool = None

    def _connect(self) -> Connection:
        connection = psycopg.connect(self._dsn(), **self._connect_arguments)
        configure(connection)
        return connection

    def _open_pool(self) -> ConnectionPool[Connection]:
        from psycopg_pool import ConnectionPool  # only servers have it

        with self._lock:
            if self._pool is None:
                self._pool = ConnectionPool(
                    self._dsn(),
                    kwargs=self._connect_arguments,
                    configure=configure,
                    check=_check,
                    min_size=1,
                    max_size=self._size,
                    timeout=self._timeout,
                    open=True,
                )
            return self._pool

    def _discard(self) -> None:
        """Drop broken connections: after a restart of the server all idle ones are."""
        if self._pool is not None:
            self._pool.check()
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None


def configure(connection: Connection) -> None:
    """What every connection needs: our binary parameters."""
    connection.adapters.register_dumper(PackedVector, _PackedDumper)
    connection.adapters.register_dumper(PackedVectors, _PackedDumper)


def _ended_by_server(connection: Connection) -> bool:
    """Whether an idle connection has something to read, which for one at rest is its end. No round trip."""
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def _check(connection: Connection) -> None:
    if _ended_by_server(connection):
        connection.close()
        raise pg.OperationalError("the server ended the connection")


def translate(error: psycopg.Error) -> VecmeterError | None:
    """Our error for a psycopg error; None for one that is a fault of ours. Never carries PostgreSQL's message, which
    may quote values."""
    if isinstance(error, pg.QueryCanceled):
        return StatementTimeoutError("The statement took longer than the time allowed.", retry_after=1)
    if isinstance(error, _TEMPORARY) or _is_pool_timeout(error):
        return DatabaseUnavailableError("The database does not answer; try again shortly.")
    if isinstance(error, pg.DataError):
        return InvalidRequestError(f"PostgreSQL refuses a value of this request ({type(error).__name__}).")
    return None


def _is_pool_timeout(error: psycopg.Error) -> bool:
    return type(error).__name__ in ("PoolTimeout", "PoolClosed", "TooManyRequests")
