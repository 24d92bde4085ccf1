"""The server restarts, is away or is killed: the next request is served, and no write is lost or made twice."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from tests.fixtures.vectors import Store, index_of, numbers, vector
from vecmeter.breaker import Circuit
from vecmeter.errors import DatabaseUnavailableError
from vecmeter.vectors.migrations.runner import migrate
from vecmeter.vectors.model import Collection, IndexType, Query
from vecmeter_local.postgres import PostgresServer

Open = Callable[..., Store]
SIZES = pytest.mark.parametrize("size", [1, 6])
QUERY = Query(numbers=numbers(1.0, 2.0, 3.0))


@pytest.fixture
def on_own_server(own_server: PostgresServer) -> Iterator[Open]:
    """Opens stores on a database of this test on the module's server."""
    name, opened = f"own_{time.monotonic_ns()}", []
    with psycopg.connect(own_server.dsn("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    migrate(own_server.dsn(name))

    def open_one(**options: Any) -> Store:
        opened.append(Store(own_server.dsn(name), **options))
        return opened[-1]

    yield open_one
    for store in opened:
        store.close()


def restart(server: PostgresServer) -> None:
    server.stop()
    server.start()


def kill(server: PostgresServer) -> None:
    """End the server and all its sessions without any leave-taking."""
    assert server.child is not None
    os.kill(server.child.process.pid, signal.SIGKILL)
    server.child.process.wait()


def made(store: Store) -> Collection:
    collection = store.create(index=index_of(IndexType.NONE))
    store.records.upsert(collection, [vector("a"), vector("b", 3.0, 2.0, 1.0)])
    return collection


# --- the server ends between requests ---


@SIZES
@pytest.mark.parametrize("killed", [False, True])
def test_after_a_restart_of_the_server_the_next_read_and_the_next_write_succeed(
    own_server: PostgresServer, on_own_server: Open, size: int, killed: bool
) -> None:
    reader, writer = on_own_server(size=size), on_own_server(size=size)
    collection = made(writer)
    assert reader.ids(collection, QUERY) == ["a", "b"]
    if killed:
        kill(own_server)
    restart(own_server)
    assert reader.ids(collection, QUERY) == ["a", "b"]
    assert [(w.inserted, w.version) for w in writer.records.upsert(collection, [vector("a"), vector("c")])] == [
        (False, 2),
        (True, 1),
    ]


@SIZES
def test_while_the_server_is_away_requests_say_so_and_soon_after_it_is_back_they_succeed(
    own_server: PostgresServer, on_own_server: Open, size: int
) -> None:
    store = on_own_server(size=size, connect_timeout_seconds=2)
    collection = made(store)
    own_server.stop()
    try:
        started = time.monotonic()
        for work in (
            lambda: store.search(collection, QUERY),
            lambda: store.records.upsert(collection, [vector("a")]),
        ):
            with pytest.raises(DatabaseUnavailableError) as refused:
                work()
            assert "not known" not in refused.value.detail
        assert time.monotonic() - started < 2 * 2 + 2
    finally:
        own_server.start()

    def is_served() -> bool:
        try:
            return store.ids(collection, QUERY) == ["a", "b"]
        except DatabaseUnavailableError:
            return False

    until(is_served, seconds=10.0)
    assert store.records.fetch(collection, "", ["a"])[0].version == 1


# --- the server ends during requests ---


@SIZES
def test_writes_during_which_the_server_is_killed_are_done_once_or_reported_unknown(
    own_server: PostgresServer, on_own_server: Open, size: int
) -> None:
    always_asked = Circuit("database", failures=sys.maxsize)
    store = on_own_server(size=size, connect_timeout_seconds=10, circuit=always_asked)
    collection = store.create(dimension=1)
    stop, acknowledged, unknown = threading.Event(), [], []

    def write() -> None:
        while not stop.is_set():
            try:
                [written] = store.records.upsert(collection, [vector("counted", float(len(acknowledged) + 1))])
                acknowledged.append(written.version)
            except DatabaseUnavailableError as error:
                unknown.append(error.detail)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(2):
            wanted = len(acknowledged) + 20
            until(lambda wanted=wanted: len(acknowledged) >= wanted)
            kill(own_server)
            own_server.start()
    finally:
        stop.set()
        writer.join()
    [found] = store.records.fetch(collection, "", ["counted"])
    in_doubt = sum("not known" in detail for detail in unknown)
    assert len(acknowledged) <= found.version <= len(acknowledged) + in_doubt
    assert acknowledged == sorted(set(acknowledged)), "a version was given twice"


def until(holds: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        threading.Event().wait(0.002)
