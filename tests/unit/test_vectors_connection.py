"""How psycopg's errors become ours, and how vectors are packed for the wire."""

from __future__ import annotations

import struct
from array import array

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg import errors as pg
from psycopg_pool import PoolClosed, PoolTimeout, TooManyRequests

from vecmeter.errors import (
    DatabaseUnavailableError,
    InvalidRequestError,
    StatementTimeoutError,
    VecmeterError,
    WritesRefusedError,
)
from vecmeter.vectors.connection import translate
from vecmeter.vectors.packing import pack_vector, pack_vectors

UNAVAILABLE: list[type[psycopg.Error]] = [
    psycopg.OperationalError,
    psycopg.InterfaceError,
    pg.ConnectionException,
    pg.ConnectionFailure,
    pg.SqlclientUnableToEstablishSqlconnection,
    pg.AdminShutdown,
    pg.CrashShutdown,
    pg.CannotConnectNow,
    pg.DatabaseDropped,
    pg.IdleSessionTimeout,
    pg.TooManyConnections,
    pg.InvalidPassword,
    pg.InsufficientResources,
    pg.OutOfMemory,
    pg.ConfigurationLimitExceeded,
    pg.LockNotAvailable,
    pg.ObjectInUse,
    pg.DeadlockDetected,
    pg.SerializationFailure,
    pg.SystemError,
    pg.IoError,
    PoolTimeout,
    PoolClosed,
    TooManyRequests,
]
WRITES_REFUSED: list[type[psycopg.Error]] = [pg.DiskFull, pg.ReadOnlySqlTransaction]
INVALID: list[type[psycopg.Error]] = [
    psycopg.DataError,
    pg.NumericValueOutOfRange,
    pg.InvalidTextRepresentation,
    pg.InvalidBinaryRepresentation,
    pg.StringDataRightTruncation,
    pg.UntranslatableCharacter,
    pg.CharacterNotInRepertoire,
    pg.InvalidParameterValue,
    pg.ArraySubscriptError,
    pg.DatetimeFieldOverflow,
    pg.ProgramLimitExceeded,
    pg.StatementTooComplex,
    pg.TooManyColumns,
    pg.TooManyArguments,
]
FAULTS_OF_OURS: list[type[psycopg.Error]] = [
    pg.SyntaxError,
    pg.UndefinedTable,
    pg.UndefinedColumn,
    pg.UndefinedFunction,
    pg.DatatypeMismatch,
    pg.InsufficientPrivilege,
    pg.UniqueViolation,
    pg.NotNullViolation,
    pg.InFailedSqlTransaction,
    pg.InternalError_,
    pg.DataCorrupted,
    pg.FeatureNotSupported,
    psycopg.ProgrammingError,
    psycopg.NotSupportedError,
]
TABLE: list[tuple[type[psycopg.Error], type[VecmeterError] | None]] = [
    (pg.QueryCanceled, StatementTimeoutError),
    *[(error, DatabaseUnavailableError) for error in UNAVAILABLE],
    *[(error, WritesRefusedError) for error in WRITES_REFUSED],
    *[(error, InvalidRequestError) for error in INVALID],
    *[(error, None) for error in FAULTS_OF_OURS],
]


@pytest.mark.parametrize(("error", "ours"), TABLE, ids=lambda value: getattr(value, "__name__", "fault of ours"))
def test_errors_of_psycopg_become_ours_without_their_text(
    error: type[psycopg.Error], ours: type[VecmeterError] | None
) -> None:
    translated = translate(error("the value 'a secret' is wrong"))
    assert type(translated) is (ours or type(None))
    assert "secret" not in str(translated)


def test_every_error_class_of_postgresql_is_sorted_with_its_kin() -> None:
    """What we did not name follows the class of its SQLSTATE: nothing that PostgreSQL may report is forgotten."""
    by_class: dict[str, set[object]] = {}
    for name in dir(pg):
        error = getattr(pg, name)
        if isinstance(error, type) and issubclass(error, psycopg.Error) and error.sqlstate:
            translated = translate(error("text"))
            by_class.setdefault(error.sqlstate[:2], set()).add(type(translated))
    for trouble_of_the_server in ("08", "53", "55", "57", "58"):
        assert by_class[trouble_of_the_server] <= {
            DatabaseUnavailableError,
            WritesRefusedError,
            StatementTimeoutError,
            type(None),
        }
        assert DatabaseUnavailableError in by_class[trouble_of_the_server]
    for fault_of_the_request in ("22", "54"):
        assert by_class[fault_of_the_request] == {InvalidRequestError}
    for fault_of_ours in ("23", "42", "XX"):
        assert by_class[fault_of_ours] == {type(None)}


float32s = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(st.lists(st.lists(float32s, min_size=2, max_size=2), min_size=1, max_size=5))
def test_vectors_are_packed_as_pgvector_reads_them(rows: list[list[float]]) -> None:
    vectors = [array("f", row) for row in rows]
    one = b"".join(struct.pack(">hh2f", 2, 0, *vector) for vector in vectors[:1])
    assert bytes(pack_vector(vectors[0])) == one
    items = b"".join(struct.pack(">ihh2f", 12, 2, 0, *vector) for vector in vectors)
    assert bytes(pack_vectors(vectors, 4711)) == struct.pack(">iiIii", 1, 0, 4711, len(rows), 1) + items


def test_packing_leaves_the_numbers_as_they_are() -> None:
    numbers = array("f", [1.0, 2.0])
    pack_vector(numbers)
    assert list(numbers) == [1.0, 2.0]
