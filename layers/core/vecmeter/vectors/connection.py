"""Connections to PostgreSQL: one per execution environment, or a pool in a server; and psycopg's errors as ours."""

from __future__ import annotations

import os
import select
import sys
import threading
import time
import uuid
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from struct import pack
from typing import TYPE_CHECKING, Any, LiteralString, TypeVar

import psycopg
from psycopg import errors as pg
from psycopg.adapt import Dumper
from psycopg.pq import Format, TransactionStatus

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

# The server rolled a transaction back for the sake of another: it may simply be run again.
_ROLLED_BACK = (pg.DeadlockDetected, pg.SerializationFailure)
_MAX_RUNS = 3
# Refused for what the request holds, though PostgreSQL files it under trouble of its own.
_TOO_COMPLEX = (pg.ProgramLimitExceeded, pg.StatementTooComplex, pg.TooManyColumns, pg.TooManyArguments)
_RECONNECT_PAUSE_SECONDS = 0.05
# A peer that vanished without a word is noticed in about 15 seconds instead of TCP's quarter of an hour.
KEEPALIVE = {"keepalives_idle": 5, "keepalives_interval": 3, "keepalives_count": 3, "tcp_user_timeout": 15_000}
# A prepared statement is planned for the values at hand each time: the plan that suits a filter which lets half of a
# collection through is ten times too slow for one that lets through ten vectors.
_PLAN_EACH_TIME = "-c plan_cache_mode=force_custom_plan"
# A session whose client vanished in the middle of a transaction lets go of its locks.
_END_IDLE_TRANSACTIONS = "-c idle_in_transaction_session_timeout=5000"

# The answer of a write that took place.
_READ_RECEIPT: LiteralString = "SELECT answer FROM vecmeter.receipts WHERE receipt_id = %s"


_TEXT_OID = 25
_NULL = pack(">i", -1)


class PackedVector(bytes):
    """One vector in pgvector's binary form."""


class PackedArray(bytes):
    """A one-dimensional array in PostgreSQL's binary form (array_recv): as text each item would be quoted."""


class _PackedDumper(Dumper):
    """Passes ready binary on. No type number: the statement's cast says the type, so no catalogue query is needed."""

    format = Format.BINARY
    oid = 0

    def dump(self, obj: Any) -> bytes:
        return bytes(obj)


def pack_vector(numbers: array[float]) -> PackedVector:
    """pgvector's binary form (vector_recv in its src/vector.c): dimension and 0 as int16, float32s, big-endian."""
    return PackedVector(pack(">HH", len(numbers), 0) + _big_endian(numbers))


def pack_vectors(vectors: Sequence[array[float]], vector_oid: int) -> PackedArray:
    joined = array("f")
    for numbers in vectors:
        joined.extend(numbers)
    data = memoryview(_big_endian(joined))
    parts: list[bytes | memoryview] = [_array_header(vector_oid, len(vectors))]
    end = 0
    for numbers in vectors:
        start, end = end, end + 4 * len(numbers)
        parts.append(pack(">iHH", end - start + 4, len(numbers), 0))
        parts.append(data[start:end])
    return PackedArray(b"".join(parts))


def pack_texts(texts: Iterable[str | None]) -> PackedArray:
    packed = [_NULL if text is None else _sized(text.encode()) for text in texts]
    return PackedArray(_array_header(_TEXT_OID, len(packed)) + b"".join(packed))


def _array_header(oid: int, count: int) -> bytes:
    """One dimension, no flags, the type of the items, how many, counted from 1."""
    return pack(">iiIii", 1, 0, oid, count, 1)


def _sized(content: bytes) -> bytes:
    return pack(">i", len(content)) + content


def _big_endian(numbers: array[float]) -> bytes:
    if sys.byteorder == "little":
        numbers = array("f", numbers)
        numbers.byteswap()
    return numbers.tobytes()


class Database:
    """Runs work on a connection. ``size`` 1 keeps a single connection, more open a pool; both lazily.

    ``prepare_threshold`` 0 is for a proxy that shares sessions (RDS Proxy): nothing is prepared, and no option is set
    when connecting, which it refuses; the statement time-out is then the role's own.
    """

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
            **KEEPALIVE,
        }
        if prepare_threshold:
            options = [_PLAN_EACH_TIME, _END_IDLE_TRANSACTIONS]
            if statement_timeout_ms:
                options.append(f"-c statement_timeout={statement_timeout_ms}")
            self._connect_arguments["options"] = " ".join(options)
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._pool: ConnectionPool[Connection] | None = None

    def run(self, work: Callable[[Connection], T]) -> T:
        """Run ``work`` on a connection in autocommit mode, and once more where that connection breaks.

        Doing ``work`` twice must leave what doing it once leaves. That is so for reads; for writes see ``write``.

        Raises:
            DatabaseUnavailableError: no connection, or it broke again.
            StatementTimeoutError: a statement took longer than the time-out.
            InvalidRequestError: PostgreSQL refuses a value.
        """
        with _translated():
            try:
                return self._once(work)
            except psycopg.Error as error:
                if not _is_broken(error):
                    raise
            return self._once(work)

    def write(self, work: Callable[[Connection, uuid.UUID], list[int]]) -> list[int]:
        """Run a write that leaves a receipt; whatever breaks, it takes place once.

        ``work`` returns its answer, having inserted it into ``vecmeter.receipts`` under the given number in the same
        transaction. Where the connection breaks, nobody knows whether that was committed. ``work`` is then repeated
        with the same number, and the receipt's key lets only one of the two through: the other waits for it and
        fails, and the answer is read from the receipt.

        Raises:
            DatabaseUnavailableError: as for ``run``. After a break that no new connection followed in time, its text
                says that it is not known whether the write took place; in every other case it did not.
            StatementTimeoutError, InvalidRequestError: as for ``run``; nothing is written.
        """
        receipt = uuid.UUID(bytes=time.time_ns().to_bytes(8, "big") + os.urandom(8))
        with _translated():
            try:
                return self._once(lambda connection: work(connection, receipt))
            except psycopg.Error as error:
                if not _is_broken(error):
                    raise
            return self._write_again(work, receipt)

    def _write_again(self, work: Callable[[Connection, uuid.UUID], list[int]], receipt: uuid.UUID) -> list[int]:
        give_up_at = time.monotonic() + self._timeout
        while True:
            try:
                return self._once(lambda connection: work(connection, receipt))
            except pg.UniqueViolation as error:
                if error.diag.table_name != "receipts":
                    raise
                row = self.run(lambda connection: connection.execute(_READ_RECEIPT, [receipt]).fetchone())
                assert row is not None, "its key was just found taken"
                return list(row[0])
            except (DatabaseUnavailableError, psycopg.OperationalError, psycopg.InterfaceError) as error:
                if time.monotonic() >= give_up_at or isinstance(error, pg.QueryCanceled):
                    message = "The connection broke during the write; whether it took place is not known."
                    raise DatabaseUnavailableError(message) from error
            time.sleep(_RECONNECT_PAUSE_SECONDS)

    def _once(self, work: Callable[[Connection], T]) -> T:
        """On one connection; again where the server rolled back for the sake of another transaction."""
        with self.connection() as connection:
            for _ in range(_MAX_RUNS - 1):
                try:
                    return work(connection)
                except _ROLLED_BACK:
                    continue
            return work(connection)

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """A connection for the duration of the block; psycopg's errors in the block pass through.

        Raises:
            DatabaseUnavailableError: there is none to be had within the time-out.
        """
        if self._size > 1:
            with self._pooled() as connection, _left_clean(connection):
                yield connection
        else:
            with self._lock, _left_clean(self._single()) as connection:
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

    def _single(self) -> Connection:
        if self._connection is not None:
            if not _ended_by_server(self._connection):
                return self._connection
            self._connection.close()
        try:
            self._connection = psycopg.connect(self._dsn(), **self._connect_arguments)
        except psycopg.Error as error:
            raise _unavailable() from error
        configure(self._connection)
        return self._connection

    @contextmanager
    def _pooled(self) -> Iterator[Connection]:
        pool = self._open_pool()
        connection = self._from_pool(pool)
        try:
            yield connection
        except pg.ReadOnlySqlTransaction:
            pool.drain()  # after a failover all of them may lead to what is now a reader
            raise
        finally:
            pool.putconn(connection)

    def _from_pool(self, pool: ConnectionPool[Connection]) -> Connection:
        # The pool's own check pauses for seconds after each connection that fails it; after a restart all of them do.
        give_up_at = time.monotonic() + self._timeout
        while True:
            try:
                connection = pool.getconn(timeout=give_up_at - time.monotonic())
            except psycopg.Error as error:
                raise _unavailable() from error
            if not _ended_by_server(connection):
                return connection
            connection.close()
            pool.putconn(connection)

    def _open_pool(self) -> ConnectionPool[Connection]:
        from psycopg_pool import ConnectionPool  # only servers have it

        with self._lock:
            if self._pool is None:
                self._pool = ConnectionPool(
                    self._dsn(),
                    kwargs=self._connect_arguments,
                    configure=configure,
                    min_size=1,
                    max_size=self._size,
                    timeout=self._timeout,
                    # Beyond this the pool would pause longer and longer; requests start a new attempt.
                    reconnect_timeout=self._timeout,
                    open=True,
                )
            return self._pool


def configure(connection: Connection) -> None:
    """What every connection needs: our binary parameters."""
    connection.adapters.register_dumper(PackedVector, _PackedDumper)
    connection.adapters.register_dumper(PackedArray, _PackedDumper)


@contextmanager
def _left_clean(connection: Connection) -> Iterator[Connection]:
    """Close a connection that work leaves inside a transaction, or that leads to a reader: nobody else gets it."""
    try:
        yield connection
    except pg.ReadOnlySqlTransaction:
        connection.close()
        raise
    finally:
        if connection.info.transaction_status is not TransactionStatus.IDLE:
            connection.close()


def _ended_by_server(connection: Connection) -> bool:
    """Whether an idle connection has something to read, which for one at rest is its end. No round trip."""
    if connection.closed:
        return True
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def _is_broken(error: psycopg.Error) -> bool:
    """Whether the connection is lost, or leads to a server that is shutting down or only reads."""
    state = error.sqlstate
    if state is None:
        return isinstance(error, (pg.OperationalError, pg.InterfaceError))
    return state.startswith(("08", "57P")) or isinstance(
        error, (pg.ReadOnlySqlTransaction, pg.IdleInTransactionSessionTimeout)
    )


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except psycopg.Error as error:
        ours = translate(error)
        if ours is None:
            raise
        raise ours from error


def translate(error: psycopg.Error) -> VecmeterError | None:
    """Our error for a psycopg error; None for one that is a fault of ours.

    Never carries PostgreSQL's message, which may quote values.
    """
    if isinstance(error, pg.QueryCanceled):
        return StatementTimeoutError("The statement took longer than the time allowed.", retry_after=1)
    if isinstance(error, (pg.DataError, *_TOO_COMPLEX)):
        return InvalidRequestError(f"PostgreSQL refuses a value of this request ({type(error).__name__}).")
    if isinstance(error, (pg.OperationalError, pg.InterfaceError, pg.ReadOnlySqlTransaction)):
        return _unavailable()
    return None


def _unavailable() -> DatabaseUnavailableError:
    return DatabaseUnavailableError("The database does not answer; try again shortly.")
