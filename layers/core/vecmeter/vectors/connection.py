"""Connections to PostgreSQL: one per execution environment, or a pool in a server; and psycopg's errors as ours."""

from __future__ import annotations

import math
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, LiteralString, TypeVar

import psycopg
from psycopg import errors as pg
from psycopg.pq import TransactionStatus

from vecmeter import deadline
from vecmeter.breaker import Circuit, Sign
from vecmeter.errors import (
    DatabaseBusyError,
    DatabaseUnavailableError,
    InvalidRequestError,
    StatementTimeoutError,
    UnavailableError,
    VecmeterError,
    WritesRefusedError,
)
from vecmeter.vectors.packing import configure
from vecmeter.vectors.timed_connection import NoReactionError, TimedConnection

if TYPE_CHECKING:
    from psycopg_pool import ConnectionPool

T = TypeVar("T")
Connection = psycopg.Connection[Any]

# The server rolled a transaction back for the sake of another: it may simply be run again.
_ROLLED_BACK = (pg.DeadlockDetected, pg.SerializationFailure)
_MAX_RUNS = 3
# Nothing of the statement took place: refused by what only reads, or cancelled.
_UNDONE = (pg.ReadOnlySqlTransaction, pg.QueryCanceled)
# Refused for what the request holds, though PostgreSQL files it under trouble of its own.
_TOO_COMPLEX = (pg.ProgramLimitExceeded, pg.StatementTooComplex, pg.TooManyColumns, pg.TooManyArguments)
_RECONNECT_PAUSE_SECONDS = 0.05
_REPLACE_SECONDS = 1.0
# With less than this left a connection is not begun, nor one that a pool has not got in time held against the database:
# psycopg gives one 2 seconds at least.
_LEAST_CONNECT_SECONDS = 1.0
# A peer that vanished without a word is noticed in about 15 seconds instead of TCP's quarter of an hour.
KEEPALIVE = {"keepalives_idle": 5, "keepalives_interval": 3, "keepalives_count": 3, "tcp_user_timeout": 15_000}
# A prepared statement is planned for the values at hand each time: the plan that suits a filter which lets half of a
# collection through is ten times too slow for one that lets through ten vectors.
_PLAN_EACH_TIME = "-c plan_cache_mode=force_custom_plan"
# A session whose client vanished in the middle of a transaction lets go of its locks.
_END_IDLE_TRANSACTIONS = "-c idle_in_transaction_session_timeout=5000"
# A frozen or vanished environment gives its connection back in time, and a cluster that nobody uses may pause. Whoever
# comes back to such a connection finds it ended before it uses it.
_END_IDLE_SESSIONS = "-c idle_session_timeout=600000"

# The answer of a write that took place.
_READ_RECEIPT: LiteralString = "SELECT answer FROM vecmeter.receipts WHERE receipt_id = %s"


class Database:
    """Runs work on a connection. ``size`` 1 keeps a single connection, more open a pool; both lazily.

    ``renew_dsn`` looks for another DSN after a connection failed, and says whether there is one. ``circuit`` says no
    while the database is away. No wait goes beyond the time of the request at hand (``deadline``).

    ``prepare_threshold`` 0 is for a proxy that shares sessions (RDS Proxy): nothing is prepared, and no option is set
    when connecting, which it refuses; the statement time-out is then the role's own.
    """

    def __init__(
        self,
        dsn: Callable[[], str],
        *,
        renew_dsn: Callable[[], bool] = lambda: False,
        circuit: Circuit | None = None,
        size: int = 1,
        connect_timeout_seconds: int = 5,
        statement_timeout_ms: int = 0,
        prepare_threshold: int = 5,
    ) -> None:
        self._dsn = dsn
        self._renew_dsn = renew_dsn
        self._circuit = circuit or Circuit("database")
        self._size = size
        self._timeout = connect_timeout_seconds
        self._connect_arguments: dict[str, Any] = {
            "autocommit": True,
            "prepare_threshold": prepare_threshold or None,
            "application_name": "vecmeter",
            **KEEPALIVE,
        }
        if prepare_threshold:
            options = [_PLAN_EACH_TIME, _END_IDLE_TRANSACTIONS, _END_IDLE_SESSIONS]
            if statement_timeout_ms:
                options.append(f"-c statement_timeout={statement_timeout_ms}")
            self._connect_arguments["options"] = " ".join(options)
        self._lock = threading.Lock()
        self._connection: TimedConnection | None = None
        self._pool: ConnectionPool[TimedConnection] | None = None
        self._lent = 0
        self._replaceable_at = 0.0

    def run(self, work: Callable[[Connection], T]) -> T:
        """Run ``work`` on a connection in autocommit mode, and once more where that connection breaks.

        Doing ``work`` twice must leave what doing it once leaves. That is so for reads; for writes see ``write``.

        Raises:
            CircuitOpenError: at once, while the circuit is open.
            DatabaseUnavailableError: no connection, or it broke again.
            StatementTimeoutError: a statement took longer than the time-out, or than the request may take.
            InvalidRequestError: PostgreSQL refuses a value.
        """
        with self._circuit.guard(_sign_of), _translated():
            return self._twice(work)

    def look(self, work: Callable[[Connection], T]) -> T:
        """As ``run``, but whatever the state of the circuit. An answer closes it."""
        with self._circuit.guard(_sign_of, past=True), _translated():
            return self._twice(work)

    def write(self, work: Callable[[Connection, uuid.UUID], list[int]]) -> list[int]:
        """Run a write that leaves a receipt; whatever breaks, it takes place once.

        ``work`` returns its answer, having inserted it into ``vecmeter.receipts`` under the given number in the same
        transaction. Where the connection breaks, nobody knows whether that was committed. ``work`` is then repeated
        with the same number, and the receipt's key lets only one of the two through: the other waits for it and
        fails, and the answer is read from the receipt.

        Raises:
            DatabaseUnavailableError: as for ``run``. After a break that no new connection followed in time, its text
                says that it is not known whether the write took place; in every other case it did not.
            CircuitOpenError, StatementTimeoutError, InvalidRequestError: as for ``run``; nothing is written.
        """
        receipt = uuid.UUID(bytes=time.time_ns().to_bytes(8, "big") + os.urandom(8))
        with self._circuit.guard(_sign_of), _translated():
            try:
                return self._once(lambda connection: work(connection, receipt))
            except NoReactionError as error:
                raise _fate_unknown() from error
            except psycopg.Error as error:
                if not _is_broken(error):
                    raise
                in_doubt = not isinstance(error, _UNDONE)
            return self._write_again(work, receipt, in_doubt=in_doubt)

    def _write_again(
        self, work: Callable[[Connection, uuid.UUID], list[int]], receipt: uuid.UUID, *, in_doubt: bool
    ) -> list[int]:
        """``in_doubt``: an earlier try may have been committed; it takes a connection to know, which is waited for."""
        give_up_at = time.monotonic() + deadline.for_work(self._timeout)
        while True:
            try:
                return self._repeated(work, receipt)
            except (*_UNDONE, UnavailableError, psycopg.OperationalError, psycopg.InterfaceError) as error:
                if isinstance(error, (*_UNDONE, UnavailableError)) and not in_doubt:
                    raise
                in_doubt = True
                if time.monotonic() >= give_up_at or isinstance(error, pg.QueryCanceled):
                    raise _fate_unknown() from error
            time.sleep(_RECONNECT_PAUSE_SECONDS)

    def _repeated(self, work: Callable[[Connection, uuid.UUID], list[int]], receipt: uuid.UUID) -> list[int]:
        """The answer of the work: done now, or by the try before."""
        try:
            return self._once(lambda connection: work(connection, receipt))
        except pg.UniqueViolation as error:
            if error.diag.table_name != "receipts":
                raise
        row = self._once(lambda connection: connection.execute(_READ_RECEIPT, [receipt]).fetchone())
        assert row is not None, "its key was just found taken"
        return list(row[0])

    def _twice(self, work: Callable[[Connection], T]) -> T:
        try:
            return self._once(work)
        except NoReactionError:
            raise
        except psycopg.Error as error:
            if not _is_broken(error):
                raise
        return self._once(work)

    def _once(self, work: Callable[[Connection], T]) -> T:
        """On one connection; again where the server rolled back for the sake of another transaction."""
        if deadline.for_work() <= 0:
            raise _no_time()
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
        lent = self._pooled() if self._size > 1 else self._alone()
        with lent as connection, _left_clean(connection):
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

    @contextmanager
    def _alone(self) -> Iterator[TimedConnection]:
        """The one connection, by one thread at a time."""
        wait = deadline.for_work()
        if not self._lock.acquire(timeout=-1 if wait == math.inf else wait):
            raise _busy()
        try:
            yield self._single()
        finally:
            self._lock.release()

    def _single(self) -> TimedConnection:
        if self._connection is not None:
            if not self._connection.ended_by_server():
                return self._connection
            self._connection.close()
        self._connection = self._connect()
        configure(self._connection)
        return self._connection

    def _connect(self) -> TimedConnection:
        while True:
            seconds = deadline.for_work(self._timeout)
            if seconds < _LEAST_CONNECT_SECONDS:
                raise _no_time()
            try:
                return TimedConnection.connect(self._dsn(), connect_timeout=int(seconds), **self._connect_arguments)
            except psycopg.Error as error:
                if not self._renew_dsn():
                    raise _unavailable() from error

    @contextmanager
    def _pooled(self) -> Iterator[TimedConnection]:
        pool = self._open_pool()
        connection = self._from_pool(pool)
        self._count_lent(1)
        try:
            yield connection
        except pg.ReadOnlySqlTransaction:
            self._replace_all(pool)
            raise
        finally:
            self._count_lent(-1)
            pool.putconn(connection)

    def _replace_all(self, pool: ConnectionPool[TimedConnection]) -> None:
        """After a failover all of them may lead to what is now a reader. Once in a while, should it go on reading."""
        with self._lock:
            if time.monotonic() < self._replaceable_at:
                return
            self._replaceable_at = time.monotonic() + _REPLACE_SECONDS
        pool.drain()

    def _count_lent(self, change: int) -> None:
        with self._lock:
            self._lent += change

    def _from_pool(self, pool: ConnectionPool[TimedConnection]) -> TimedConnection:
        # The pool's own check pauses for seconds after each connection that fails it; after a restart all of them do.
        seconds = deadline.for_work(self._timeout)
        give_up_at = time.monotonic() + seconds
        while True:
            try:
                connection = pool.getconn(timeout=give_up_at - time.monotonic())
            except psycopg.Error as error:
                if self._lent >= self._size:
                    raise _busy() from error
                if seconds < _LEAST_CONNECT_SECONDS:
                    raise _no_time() from None
                self._renew_dsn()  # the pool's next attempt to connect asks for it
                raise _unavailable() from error
            if not connection.ended_by_server():
                return connection
            connection.close()
            pool.putconn(connection)

    def _open_pool(self) -> ConnectionPool[TimedConnection]:
        from psycopg_pool import ConnectionPool  # only servers have it

        with self._lock:
            if self._pool is None:
                self._pool = ConnectionPool(
                    self._dsn,
                    connection_class=TimedConnection,
                    kwargs={"connect_timeout": self._timeout, **self._connect_arguments},
                    configure=configure,
                    min_size=1,
                    max_size=self._size,
                    timeout=self._timeout,
                    # Beyond this the pool would pause longer and longer; requests start a new attempt.
                    reconnect_timeout=self._timeout,
                    open=True,
                )
            return self._pool


@contextmanager
def _left_clean(connection: Connection) -> Iterator[None]:
    """Close a connection that work leaves inside a transaction, or that leads to a reader: nobody else gets it."""
    try:
        yield
    except pg.ReadOnlySqlTransaction:
        connection.close()
        raise
    finally:
        if connection.info.transaction_status is not TransactionStatus.IDLE:
            connection.close()


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
    if isinstance(error, (pg.DiskFull, pg.ReadOnlySqlTransaction)):
        return WritesRefusedError("The database takes no writes at the moment: it is out of space, or only reads.", 5)
    if isinstance(error, (pg.OperationalError, pg.InterfaceError)):
        return _unavailable()
    return None


def _sign_of(error: Exception) -> Sign:
    """What the failure of some work says of the database."""
    cause = error.__cause__
    if isinstance(cause, NoReactionError):
        return Sign.HUNG
    if isinstance(error, DatabaseBusyError) or (isinstance(error, StatementTimeoutError) and cause is None):
        return Sign.NOTHING
    if isinstance(error, WritesRefusedError) or (isinstance(cause, psycopg.Error) and not _is_broken(cause)):
        return Sign.ANSWERED  # a deadlock, a lock that is not to be had, no memory
    return Sign.FAILED if isinstance(error, DatabaseUnavailableError) else Sign.ANSWERED


def _unavailable() -> DatabaseUnavailableError:
    return DatabaseUnavailableError("The database does not answer; try again shortly.")


def _fate_unknown() -> DatabaseUnavailableError:
    return DatabaseUnavailableError("The connection broke during the write; whether it took place is not known.")


def _busy() -> DatabaseBusyError:
    return DatabaseBusyError("All connections to the database are in use; try again shortly.")


def _no_time() -> StatementTimeoutError:
    return StatementTimeoutError("The time of this request was up before the database was asked.")
