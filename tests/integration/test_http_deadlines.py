"""No request outlives its time: what it waits for is cut short, undone, and accounted for while it can still answer."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from psycopg import sql

from tests.fixtures.api import Api, World, make_world, open_api, problem, settings_for
from tests.fixtures.vectors import Store, in_threads, index_of, numbers, raised, vector
from tests.integration.test_http_lambda import event
from vecmeter import deadline
from vecmeter.breaker import Circuit
from vecmeter.deadline import ACCOUNTING_SECONDS
from vecmeter.errors import DatabaseBusyError, DatabaseUnavailableError, LedgerUnavailableError, StatementTimeoutError
from vecmeter.http.lambda_adapter import adapt
from vecmeter.vectors.connection import Connection
from vecmeter.vectors.model import IndexType, Query

SECONDS = 5  # what a request may take here; the least there is
BLOCKED = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'vecmeter' AND state = 'active'"


@contextmanager
def locked_collection(api: Api) -> Iterator[psycopg.Connection]:
    """The tables of the one collection there is are locked against everybody."""
    with psycopg.connect(api.runtime.dsn()) as holder:
        row = holder.execute("SELECT collection_id FROM vecmeter.collections").fetchone()
        assert row is not None
        holder.execute(sql.SQL("LOCK TABLE {}").format(sql.Identifier("vecmeter", f"records_{row[0]}")))
        yield holder


def still_running(holder: psycopg.Connection) -> int:
    row = holder.execute(BLOCKED).fetchone()
    assert row is not None
    return int(row[0])


@pytest.fixture(params=[1, 4])
def hurried(request: pytest.FixtureRequest, database_url: str, table_name: str) -> Iterator[tuple[Api, World]]:
    settings = settings_for(
        database_url,
        table_name,
        database_pool_size=request.param,
        request_timeout_seconds=SECONDS,
        result_cache_mb=0,
    )
    with open_api(settings) as api:
        yield api, make_world(api)


def test_a_statement_that_outlasts_its_request_is_cancelled_in_the_database_and_nothing_of_it_stays(
    hurried: tuple[Api, World],
) -> None:
    api, world = hurried
    contents = world.tenant.contents()
    with locked_collection(api) as holder:
        for call in (
            lambda: world.tenant.call("POST", "/c/vectors", json={"vectors": [{"id": "late", "vector": [1, 2, 3]}]}),
            lambda: world.tenant.call("POST", "/c/search", json={"vector": [1, 2, 3]}),
        ):
            started = time.monotonic()
            answer = call()
            took = time.monotonic() - started
            problem(answer, 503, "statement_timeout")
            assert SECONDS - ACCOUNTING_SECONDS <= took < SECONDS
            assert int(answer.headers["retry-after"]) >= 1
            assert still_running(holder) == 0, "it is not merely abandoned"
    assert world.tenant.contents() == contents
    assert world.tenant.call("GET", "/c/vectors/late").status_code == 404
    failed = {r.operation: r.micro_usd for r in api.records(world.tenant.key) if r.status == "failure"}
    assert failed.items() >= {"upsert": 0, "search": 0}.items(), "there was time left to account for them"
    assert api.runtime.circuits.database.state == "closed", "a database that cancels is not away"


@pytest.fixture
def function(database_url: str, table_name: str) -> Iterator[tuple[Api, World, Callable[..., Any]]]:
    """An API as Lambda runs it, and how to invoke it: with so many milliseconds left, and a request's parts."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    with open_api(settings_for(database_url, table_name, database_pool_size=1), runs_alone=True) as api:
        world, handler = make_world(api), adapt(api.app)

        def invoke(left_ms: int, method: str, path: str, body: Any) -> Any:
            context = SimpleNamespace(aws_request_id="lambda-id", get_remaining_time_in_millis=lambda: left_ms)
            return handler(event(method, f"/v1{world.tenant.base}{path}", world.tenant.key, body), context)

        yield api, world, invoke
    asyncio.set_event_loop(None)
    loop.close()


def test_in_a_function_what_lambda_leaves_it_is_the_limit(function: tuple[Api, World, Callable[..., Any]]) -> None:
    api, _, invoke = function
    with locked_collection(api) as holder:
        started = time.monotonic()
        answer = invoke(4500, "POST", "/c/vectors", {"vectors": [{"id": "late", "vector": [1, 2, 3]}]})
        assert 1.0 <= time.monotonic() - started < 4.5
        assert (answer["statusCode"], json.loads(answer["body"])["code"]) == (503, "statement_timeout")
        assert still_running(holder) == 0


@pytest.mark.parametrize("left_ms", [400, 3400])
def test_a_request_that_comes_too_late_for_its_work_is_no_sign_of_the_ledger_and_is_not_let_through_uncounted(
    function: tuple[Api, World, Callable[..., Any]], left_ms: int
) -> None:
    api, world, invoke = function
    search = "POST", "/c/search", {"vector": [1, 2, 3]}
    assert invoke(30_000, *search)["statusCode"] == 200, "the key is one seen lately, and its answer is remembered"
    records = api.records(world.tenant.key)
    answer = invoke(left_ms, *search)
    assert (answer["statusCode"], json.loads(answer["body"])["code"]) == (503, "statement_timeout")
    assert answer["headers"]["retry-after"] == "1"
    assert api.records(world.tenant.key) == records
    assert api.runtime.circuits.states() == {"database": "closed", "embedder": "closed", "ledger": "closed"}


def test_accounting_that_has_no_time_left_is_no_sign_of_the_ledger(api: Api) -> None:
    table = api.runtime.table
    with deadline.within(0.0), pytest.raises(LedgerUnavailableError):
        table.get("K#1", "K")
    assert api.runtime.circuits.ledger.state == "closed", "it was not asked"


# --- the database's side, without HTTP ---


QUERY = Query(numbers=numbers(1.0, 2.0, 3.0))


@contextmanager
def work_seconds(seconds: float) -> Iterator[None]:
    """A request that has so much time for its work."""
    with deadline.within(seconds + ACCOUNTING_SECONDS):
        yield


@pytest.mark.parametrize("size", [1, 3])
def test_after_a_statement_was_cut_short_the_same_connection_serves_on(open_store: Any, size: int) -> None:
    store = open_store(size=size)
    collection = store.create(index=index_of(IndexType.NONE))
    store.records.upsert(collection, [vector("a")])
    used = set()

    def sleep(connection: Connection) -> None:
        used.add(connection.info.backend_pid)
        connection.execute("SELECT pg_sleep(20)")

    for _ in range(5):
        with work_seconds(0.1), pytest.raises(StatementTimeoutError):
            store.database.run(sleep)
        assert store.ids(collection, QUERY) == ["a"]
    alive = store.rows("SELECT pid, state FROM pg_stat_activity WHERE pid = ANY(%s)", [list(used)])
    assert sorted(alive) == [(pid, "idle") for pid in sorted(used)]


def test_of_several_statements_none_is_begun_when_the_time_is_up_and_the_transaction_is_undone(store: Store) -> None:
    store.rows("CREATE TABLE steps (n int)")
    store.database.run(lambda connection: connection.execute("SELECT 1"))  # it is connected

    def work(connection: Any) -> None:
        with connection.transaction():
            for n in range(100):
                connection.execute("INSERT INTO steps SELECT %s FROM pg_sleep(0.05)", [n])

    with work_seconds(0.4), pytest.raises(StatementTimeoutError):
        store.database.run(work)
    assert store.rows("SELECT count(*) FROM steps") == [(0,)]


def test_a_request_whose_time_is_up_does_not_ask_the_database(store: Store) -> None:
    asked: list[Connection] = []
    with work_seconds(0.0), pytest.raises(StatementTimeoutError):
        store.database.run(asked.append)
    assert asked == []


def test_who_waits_for_the_one_connection_waits_no_longer_than_its_time(store: Store) -> None:
    held, release = threading.Event(), threading.Event()

    def hold(_: Any) -> None:
        held.set()
        release.wait(timeout=20)

    def wait() -> None:
        held.wait(timeout=20)
        with work_seconds(0.2), pytest.raises(DatabaseBusyError):
            store.database.run(lambda c: c.execute("SELECT 1"))
        release.set()

    assert raised(in_threads(lambda: store.database.run(hold), wait)) == []


@pytest.mark.parametrize("size", [1, 3])
def test_a_server_that_accepts_and_never_answers_costs_no_more_than_the_request_has(tmp_path: Path, size: int) -> None:
    circuit = Circuit("database", failures=2)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / ".s.PGSQL.5432"))
        listener.listen()
        dsn = f"postgresql://postgres@/x?host={tmp_path}"
        store = Store(dsn, size=size, connect_timeout_seconds=10, circuit=circuit)
        for _ in range(2):
            started = time.monotonic()
            with work_seconds(1.2), pytest.raises(DatabaseUnavailableError):
                store.collections.list_all()
            assert time.monotonic() - started < 2.5, "psycopg waits 2 s at least"
        assert circuit.state == "open"
        store.close()


@pytest.mark.parametrize("size", [1, 3])
def test_with_too_little_time_left_to_connect_a_request_is_no_sign_of_the_database(tmp_path: Path, size: int) -> None:
    circuit = Circuit("database", failures=1)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / ".s.PGSQL.5432"))
        listener.listen()
        store = Store(f"postgresql://postgres@/x?host={tmp_path}", size=size, circuit=circuit)
        with work_seconds(0.5), pytest.raises(StatementTimeoutError):
            store.collections.list_all()
        assert circuit.state == "closed"
        store.close()
