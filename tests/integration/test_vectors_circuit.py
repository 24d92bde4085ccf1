"""What opens the circuit of the database and what does not, and how new credentials are found."""

from __future__ import annotations

import time
from collections.abc import Callable

import psycopg
import pytest

from tests.fixtures.vectors import Store
from vecmeter.breaker import Circuit
from vecmeter.database_address import RENEW_SECONDS, DatabaseAddress
from vecmeter.errors import CircuitOpenError, DatabaseUnavailableError, VecmeterError
from vecmeter.vectors.connection import Connection, Database

Open = Callable[..., Store]


def fail_with(sqlstate: str) -> Callable[[Connection], object]:
    statement = f"DO $$ BEGIN RAISE EXCEPTION 'made up' USING ERRCODE = '{sqlstate}'; END $$"
    return lambda connection: connection.execute(statement.encode())


@pytest.mark.parametrize(
    ("sqlstate", "opens"),
    [
        ("57P01", True),  # the server is shutting down
        ("57P03", True),  # it is starting up
        ("08006", True),
        ("40P01", False),  # a deadlock, three times
        ("55P03", False),  # a lock that is not to be had
        ("53200", False),  # no memory for this statement
        ("53100", False),  # no space: it reads on
        ("25006", False),  # it only reads
        ("57014", False),  # took too long: cancelled, so it answers
        ("22012", False),  # a value that is refused
        ("23505", False),
        ("42601", False),
    ],
)
def test_the_circuit_opens_for_a_database_that_is_away_and_for_nothing_it_answers(
    open_store: Open, sqlstate: str, opens: bool
) -> None:
    circuit = Circuit("database", failures=1)
    store = open_store(circuit=circuit)
    with pytest.raises((VecmeterError, psycopg.Error)):
        store.database.run(fail_with(sqlstate))
    assert (circuit.state == "open") == opens
    if opens:
        with pytest.raises(CircuitOpenError):
            store.database.run(lambda c: c.execute("SELECT 1"))
        store.database.look(lambda c: c.execute("SELECT 1"))
    assert store.database.run(lambda c: c.execute("SELECT 1").fetchone()) == (1,)


@pytest.mark.parametrize("size", [1, 6])
def test_credentials_that_were_rotated_are_found_by_the_request_that_needs_them(open_store: Open, size: int) -> None:
    owner = open_store()
    names = [f"app_{time.monotonic_ns()}" for _ in range(2)]
    secret = [names[0]]
    for name in names:
        owner.rows(f"CREATE ROLE {name} LOGIN SUPERUSER")
    address = DatabaseAddress(lambda: owner.dsn.replace("postgres@", f"{secret[0]}@"), time.monotonic)
    database = Database(address.dsn, renew_dsn=address.renew, size=size, connect_timeout_seconds=2)
    try:
        assert database.run(lambda c: c.execute("SELECT current_user").fetchone()) == (names[0],)
        secret[0] = names[1]
        address._read_at -= RENEW_SECONDS  # a minute later
        owner.rows(f"ALTER ROLE {names[0]} NOLOGIN")
        owner.rows("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = %s", names[:1])
        for _ in range(2 if size > 1 else 1):  # a pool connects beside the request, which may give up first
            try:
                found = database.run(lambda c: c.execute("SELECT current_user").fetchone())
            except DatabaseUnavailableError:
                found = None
        assert found == (names[1],)
    finally:
        database.close()
        for name in names:
            owner.rows(f"DROP ROLE {name}")
