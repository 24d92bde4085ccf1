"""Sessions end, statements take too long, connections break: the next request is served, and no answer is wrong."""

from __future__ import annotations

import gc
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.fixtures.cut_line import Fault, cut_line
from tests.fixtures.vectors import Store, in_threads, index_of, numbers, raised, vector
from vecmeter.breaker import Circuit
from vecmeter.errors import (
    DatabaseBusyError,
    DatabaseUnavailableError,
    InvalidRequestError,
    StatementTimeoutError,
)
from vecmeter.vectors.connection import Connection
from vecmeter.vectors.model import Collection, IndexType, Query

Open = Callable[..., Store]
SIZES = pytest.mark.parametrize("size", [1, 6])
QUERY = Query(numbers=numbers(1.0, 2.0, 3.0))


def backend(store: Store) -> int:
    pid: int = store.database.run(lambda connection: connection.info.backend_pid)
    return pid


def made(store: Store) -> Collection:
    collection = store.create(index=index_of(IndexType.NONE))
    store.records.upsert(collection, [vector("a"), vector("b", 3.0, 2.0, 1.0)])
    return collection


# --- sessions end ---


@SIZES
def test_a_pool_or_connection_whose_sessions_were_ended_serves_on(open_store: Open, size: int) -> None:
    store = open_store(size=size)
    collection = made(store)
    in_threads(*[lambda: store.ids(collection, QUERY) for _ in range(size)])
    for _ in range(3):
        end_sessions(store)
        results = in_threads(*[lambda: store.ids(collection, QUERY) for _ in range(size)])
        assert raised(results) == []
        end_sessions(store)
        assert store.records.upsert(collection, [vector("a")])


def end_sessions(store: Store) -> None:
    store.rows(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )


def test_a_search_whose_session_is_ended_is_made_again(store: Store) -> None:
    collection = made(store)
    ended = []

    def work(connection: Connection) -> list[Any]:
        if not ended:
            ended.append(connection.info.backend_pid)
            store.rows("SELECT pg_terminate_backend(%s, 5000)", ended)
        return connection.execute("SELECT 1").fetchall()

    assert store.database.run(work) == [(1,)]
    assert backend(store) not in ended
    assert store.ids(collection, QUERY) == ["a", "b"]


def test_a_session_that_is_ended_twice_is_reported(store: Store) -> None:
    def work(connection: Connection) -> None:
        connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    with pytest.raises(DatabaseUnavailableError):
        store.database.run(work)
    assert store.database.run(lambda c: c.execute("SELECT 1").fetchone()) == (1,)


# --- statements that take too long or go wrong ---


@SIZES
def test_after_a_statement_that_took_too_long_the_connection_is_as_good_as_before(open_store: Open, size: int) -> None:
    store = open_store(size=size, statement_timeout_ms=50)
    collection, pids = made(store), []

    def sleep(connection: Connection) -> None:
        pids.append(connection.info.backend_pid)
        connection.execute("SELECT pg_sleep(10)")

    with pytest.raises(StatementTimeoutError):
        store.database.run(sleep)
    assert store.ids(collection, QUERY) == ["a", "b"]
    assert store.rows("SELECT state FROM pg_stat_activity WHERE pid = %s", pids) == [("idle",)]


def fail_in_a_transaction(connection: Connection) -> None:
    with connection.transaction():
        connection.execute("SET LOCAL work_mem = '1MB'")
        connection.execute("SELECT 1 / 0")


def fail_in_a_pipeline(connection: Connection) -> None:
    with connection.pipeline():
        connection.execute("SELECT set_config('work_mem', '1MB', true)")
        connection.execute("SELECT 1 / 0")
        connection.execute("SELECT 1")


def fail_in_both(connection: Connection) -> None:
    with connection.pipeline(), connection.transaction():
        connection.execute("SELECT set_config('work_mem', '1MB', true)")
        connection.execute("SELECT 1 / 0")


def fail_by_itself(connection: Connection) -> None:
    connection.execute("BEGIN")
    connection.execute("SET LOCAL work_mem = '1MB'")
    raise pg_data_error()


def leave_a_transaction_open(connection: Connection) -> None:
    connection.execute("BEGIN")
    connection.execute("SET LOCAL work_mem = '1MB'")


def leave_a_failed_transaction(connection: Connection) -> None:
    connection.execute("BEGIN")
    connection.execute("SELECT 1 / 0")


def pg_data_error() -> psycopg.Error:
    return psycopg.DataError("made up")


@SIZES
@pytest.mark.parametrize(
    ("work", "fails"),
    [
        (fail_in_a_transaction, True),
        (fail_in_a_pipeline, True),
        (fail_in_both, True),
        (fail_by_itself, True),
        (leave_a_transaction_open, False),
        (leave_a_failed_transaction, True),
    ],
)
def test_whatever_goes_wrong_the_next_request_finds_no_transaction_and_no_setting(
    open_store: Open, size: int, work: Callable[[Connection], None], fails: bool
) -> None:
    store = open_store(size=size)
    wanted = store.rows("SHOW work_mem")
    if fails:
        with pytest.raises(InvalidRequestError):
            store.database.run(work)
    else:
        store.database.run(work)

    def look(connection: Connection) -> tuple[str, list[Any]]:
        return connection.info.transaction_status.name, connection.execute("SHOW work_mem").fetchall()

    assert store.database.run(look) == ("IDLE", wanted)
    # Nothing of it is left in the server either.
    open_transactions = (
        "SELECT state FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%'"
    )
    assert store.rows(open_transactions) == []


def test_transactions_that_deadlock_are_run_again(open_store: Open) -> None:
    stores = [open_store(), open_store()]
    stores[0].rows("CREATE TABLE pairs (name text PRIMARY KEY, n int)")
    stores[0].rows("INSERT INTO pairs VALUES ('a', 0), ('b', 0)")
    both_hold_one = threading.Barrier(2)
    first = {0: True, 1: True}

    def work(number: int, connection: Connection) -> None:
        with connection.transaction():
            connection.execute("SET LOCAL deadlock_timeout = '50ms'")
            connection.execute("UPDATE pairs SET n = n + 1 WHERE name = %s", ["ab"[number]])
            if first[number]:
                first[number] = False
                both_hold_one.wait()
            connection.execute("UPDATE pairs SET n = n + 1 WHERE name = %s", ["ba"[number]])

    runs = [lambda n=number: stores[n].database.run(lambda c: work(n, c)) for number in (0, 1)]
    assert raised(in_threads(*runs)) == []
    assert stores[0].rows("SELECT n FROM pairs") == [(2,), (2,)]


# --- many at once, none to be had ---


def test_a_single_connection_serves_many_threads_one_after_the_other(store: Store) -> None:
    collection = made(store)
    pids = set()

    def work() -> None:
        for _ in range(20):
            assert store.ids(collection, QUERY) == ["a", "b"]
            pids.add(backend(store))

    assert raised(in_threads(*[work] * 8)) == []
    assert len(pids) == 1


def test_a_pool_serves_as_many_at_once_as_it_has_connections(open_store: Open) -> None:
    store = open_store(size=4)
    together = threading.Barrier(4)

    def work(connection: Connection) -> int:
        together.wait(timeout=20)
        return connection.info.backend_pid

    pids = in_threads(*[lambda: store.database.run(work) for _ in range(4)])
    assert raised(pids) == []
    assert len(set(map(str, pids))) == 4


def test_where_all_connections_of_a_pool_are_busy_a_request_is_refused_after_the_time_out(open_store: Open) -> None:
    circuit = Circuit("database", failures=1)
    store = open_store(size=2, connect_timeout_seconds=1, circuit=circuit)
    release, busy = threading.Event(), threading.Barrier(3)

    def hold(connection: Connection) -> None:
        busy.wait(timeout=20)
        release.wait(timeout=20)

    def ask() -> float:
        busy.wait(timeout=20)
        started = time.monotonic()
        with pytest.raises(DatabaseBusyError):
            store.database.run(lambda connection: connection.execute("SELECT 1"))
        waited = time.monotonic() - started
        release.set()
        return waited

    results = in_threads(lambda: store.database.run(hold), lambda: store.database.run(hold), ask)
    assert raised(results) == []
    assert 1.0 <= float(results[2] or 0) < 1.9, "the time-out, and not twice"
    assert circuit.state == "closed", "many requests are no failure of the database"
    assert store.database.run(lambda c: c.execute("SELECT 1").fetchone()) == (1,)


@SIZES
def test_where_nobody_listens_the_answer_is_unavailable(tmp_path: Path, size: int) -> None:
    store = Store(f"postgresql://postgres@/x?host={tmp_path}", size=size, connect_timeout_seconds=1)
    with pytest.raises(DatabaseUnavailableError):
        store.collections.list_all()
    with pytest.raises(DatabaseUnavailableError):
        store.create()
    store.close()


# --- connections ---


@SIZES
def test_after_close_the_next_request_opens_a_new_connection(open_store: Open, size: int) -> None:
    store = open_store(size=size)
    before = backend(store)
    for _ in range(2):
        store.close()
        assert store.rows("SELECT pid FROM pg_stat_activity WHERE pid = %s AND state = 'active'", [before]) == []
        assert backend(store) != before


def test_nothing_connects_before_it_is_used() -> None:
    Store("postgresql://nobody@/nowhere?host=/nonexistent", size=4).close()


def test_a_connection_that_is_replaced_is_closed(store: Store) -> None:
    made(store)
    for _ in range(3):
        end_sessions(store)
        backend(store)
    gc.collect()  # a connection left open would warn now, and warnings are errors
    ours = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'vecmeter' AND datname = current_database()"
    assert len(store.rows(ours)) == 1


@SIZES
def test_a_connection_to_what_became_a_reader_is_replaced(open_store: Open, size: int) -> None:
    """After a failover old connections may lead to a server that only reads."""
    owner = open_store()
    collection = made(owner)
    owner.rows(f"ALTER DATABASE {owner.dsn.split('/')[3].split('?')[0]} SET default_transaction_read_only = on")
    store = open_store(size=size)
    assert store.ids(collection, QUERY) == ["a", "b"]
    owner.database.run(lambda c: c.execute("SELECT 1"))
    name = owner.dsn.split("/")[3].split("?")[0]
    owner.database.run(lambda c: c.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only".encode()))
    assert store.records.upsert(collection, [vector("c")])[0].inserted
    assert store.records.upsert(collection, [vector("c")])[0].version == 2


def test_a_proxy_that_shares_sessions_gets_no_options_and_no_prepared_statements(open_store: Open) -> None:
    store = open_store(prepare_threshold=0)
    collection = made(store)
    for _ in range(10):
        assert store.ids(collection, QUERY) == ["a", "b"]
        store.records.upsert(collection, [vector("a")])
    show = lambda name: store.database.run(lambda c: c.execute(f"SHOW {name}".encode()).fetchone())  # noqa: E731
    assert (show("statement_timeout"), show("plan_cache_mode")) == (("0",), ("auto",))
    assert store.database.run(lambda c: c.execute("SELECT count(*) FROM pg_prepared_statements").fetchone()) == (0,)


def test_a_session_whose_client_vanished_within_a_transaction_is_ended_by_the_server(store: Store) -> None:
    show = lambda name: store.database.run(lambda c: c.execute(f"SHOW {name}".encode()).fetchone())  # noqa: E731
    assert show("idle_in_transaction_session_timeout") == ("5s",)


def test_an_idle_session_gives_its_place_back_and_nobody_notices(store: Store) -> None:
    collection = made(store)
    show = lambda name: store.database.run(lambda c: c.execute(f"SHOW {name}".encode()).fetchone())  # noqa: E731
    assert show("idle_session_timeout") == ("10min",)
    (process,) = store.database.run(
        lambda c: c.execute("SELECT set_config('idle_session_timeout', '1', false), pg_backend_pid()").fetchone()
    )[1:]
    with psycopg.connect(store.dsn, autocommit=True) as other:
        deadline = time.monotonic() + 20
        while other.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", [process]).fetchone():
            assert time.monotonic() < deadline
    assert store.ids(collection, QUERY) == ["a", "b"]


@pytest.mark.parametrize("fault", list(Fault))
def test_writes_through_a_pool_on_breaking_lines_take_place_once(database_url: str, fault: Fault) -> None:
    with tempfile.TemporaryDirectory(prefix="vecmeter-line-") as name, cut_line(Path(name), database_url) as line:
        store = Store(line.dsn, size=3)
        collection = made(store)
        for version in range(1, 4):
            line.plan(fault)
            assert store.records.upsert(collection, [vector("x")])[0].version == version
        store.close()
