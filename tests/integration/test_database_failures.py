"""A database that is killed, hangs or comes back as a reader under several clients: nothing acknowledged is lost."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.fixtures.api import Api, Tenant, open_api, problem, settings_for
from vecmeter.deadline import ACCOUNTING_SECONDS
from vecmeter.vectors.migrations.runner import migrate
from vecmeter_local.postgres import PostgresServer

CLIENTS = 4
BATCH = 20
SEARCH = {"vector": [1, 2, 3]}


@pytest.fixture
def api(own_server: PostgresServer, table_name: str) -> Iterator[Api]:
    """A server's API on a database of this test, whose circuit opens for a second."""
    name = f"own_{time.monotonic_ns()}"
    with psycopg.connect(own_server.dsn("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    migrate(own_server.dsn(name))
    settings = settings_for(
        own_server.dsn(name),
        table_name,
        database_pool_size=CLIENTS,
        database_connect_timeout_seconds=2,
        request_timeout_seconds=10,
        circuit_open_seconds=1,
        result_cache_mb=0,
    )
    with open_api(settings) as opened:
        yield opened


def kill(server: PostgresServer) -> None:
    """End the server and all its sessions without any leave-taking."""
    assert server.child is not None
    os.kill(server.child.process.pid, signal.SIGKILL)
    server.child.process.wait()


@contextmanager
def stopped(server: PostgresServer) -> Iterator[None]:
    """The server and its sessions stand still: connections are accepted, nothing is answered."""
    assert server.child is not None
    main = server.child.process.pid
    children = Path(f"/proc/{main}/task/{main}/children").read_text().split()
    everybody = [main, *map(int, children)]
    for process in everybody:
        os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in everybody:
            os.kill(process, signal.SIGCONT)


@dataclass
class Writer:
    """A client that writes one new batch after the other, and notes what it was told about each."""

    tenant: Tenant
    number: int
    told: dict[str, Any] = field(default_factory=dict)

    def write(self) -> Any:
        batch = f"{self.number}-{len(self.told)}"
        vectors = [{"id": f"{batch}-{n}", "vector": [self.number + 1, n, 1]} for n in range(BATCH)]
        answer = self.tenant.call("POST", "/c/vectors", json={"vectors": vectors})
        self.told[batch] = answer
        return answer


def until(holds: Callable[[], bool], seconds: float = 60.0) -> None:
    give_up_at = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < give_up_at
        threading.Event().wait(0.005)


@contextmanager
def writing(tenant: Tenant) -> Iterator[list[Writer]]:
    """Clients that write all the while."""
    writers, end = [Writer(tenant, number) for number in range(CLIENTS)], threading.Event()

    def go_on(writer: Writer) -> None:
        while not end.is_set():
            writer.write()

    threads = [threading.Thread(target=go_on, args=(writer,)) for writer in writers]
    for thread in threads:
        thread.start()
    try:
        yield writers
    finally:
        end.set()
        for thread in threads:
            thread.join()


def acknowledged(writers: list[Writer]) -> int:
    return sum(answer.status_code == 200 for writer in writers for answer in list(writer.told.values()))


def check_what_is_kept(tenant: Tenant, writers: list[Writer]) -> Counter[str]:
    """Each batch is there as a whole or not at all, as its client was told; returns what clients were told."""
    kept: Counter[str] = Counter()
    for _, id, version, *_ in tenant.contents()["c"]:
        assert version == 1, "it was written once"
        kept[id.rpartition("-")[0]] += 1
    told: Counter[str] = Counter()
    for batch, answer in ((batch, answer) for writer in writers for batch, answer in writer.told.items()):
        if answer.status_code == 200:
            assert answer.json()["inserted"] == kept[batch] == BATCH, "acknowledged, and kept"
            told["acknowledged"] += 1
            continue
        body = problem(answer, 503)
        assert int(answer.headers["retry-after"]) >= 1
        if "not known" in body["detail"]:
            assert kept[batch] in (0, BATCH), "the whole batch or nothing"
            told["not known"] += 1
        else:
            assert kept[batch] == 0, "an answer that says no writes nothing"
            told[body["code"]] += 1
    return told


def test_a_database_killed_amid_batches_of_several_clients_loses_nothing_it_acknowledged(
    own_server: PostgresServer, api: Api
) -> None:
    tenant = api.tenant()
    tenant.collection("c", index={"type": "none"})
    with writing(tenant) as writers:
        until(lambda: acknowledged(writers) >= 20)
        kill(own_server)
        until(lambda: any("circuit_open" in a.text for writer in writers for a in list(writer.told.values())))
        own_server.start()
        back_at, before = time.monotonic(), acknowledged(writers)
        until(lambda: acknowledged(writers) >= before + 20)
        assert time.monotonic() - back_at < 20, "it recovers by itself, within seconds"
    told = check_what_is_kept(tenant, writers)
    assert told.keys() <= {"acknowledged", "not known", "database_unavailable", "circuit_open"}
    # What the ledger says was written is what was acknowledged.
    records = [record for record in api.records(tenant.key) if record.operation == "upsert"]
    assert sum(record.vectors for record in records if record.status == "success") == told["acknowledged"] * BATCH


def test_a_failover_that_first_leads_to_a_reader_refuses_writes_serves_reads_and_then_goes_on(
    own_server: PostgresServer, api: Api
) -> None:
    tenant = api.tenant()
    tenant.collection("c", index={"type": "none"})
    writer = Writer(tenant, 0)
    assert writer.write().status_code == 200
    database = api.runtime.dsn().partition("@/")[2].partition("?")[0]

    def only_reads(setting: str) -> None:
        with psycopg.connect(own_server.dsn("postgres"), autocommit=True) as connection:
            change = f"ALTER DATABASE {database} SET default_transaction_read_only = {setting}"
            connection.execute(change.encode())

    kill(own_server)
    own_server.start()
    only_reads("on")
    until(lambda: tenant.call("POST", "/c/search", json=SEARCH).status_code == 200)
    for _ in range(6):
        problem(writer.write(), 503, "writes_refused")
    assert api.runtime.circuits.database.state == "closed", "it answers"
    assert tenant.call("POST", "/c/search", json=SEARCH).json()["count"] == 10
    only_reads("off")
    until(lambda: writer.write().status_code == 200, seconds=10)
    check_what_is_kept(tenant, [writer])


def test_readiness_says_that_a_database_hangs_in_the_time_a_connection_may_take(
    own_server: PostgresServer, api: Api
) -> None:
    assert api.call("GET", "/health/ready").status_code == 200
    with stopped(own_server):
        started = time.monotonic()
        body = problem(api.call("GET", "/health/ready"), 503, "not_ready")
        waited = time.monotonic() - started
    assert "postgresql" in body["detail"]
    assert waited < api.runtime.settings.database_connect_timeout_seconds + 3, "to be answered, to cancel, to spare"


def test_a_database_that_hangs_costs_a_request_its_time_and_the_next_ones_nothing(
    own_server: PostgresServer, api: Api
) -> None:
    tenant = api.tenant()
    tenant.collection("c", index={"type": "none"})
    writer = Writer(tenant, 0)
    assert writer.write().status_code == 200
    with stopped(own_server):
        started = time.monotonic()
        body = problem(writer.write(), 503, "database_unavailable")
        assert time.monotonic() - started < 10, "the time of the request"
        assert time.monotonic() - started >= 10 - ACCOUNTING_SECONDS
        assert "not known" in body["detail"], "it may do yet what it was sent"
        started = time.monotonic()
        problem(tenant.call("POST", "/c/search", json=SEARCH), 503, "circuit_open")
        assert time.monotonic() - started < 0.5
        started = time.monotonic()
        assert api.call("GET", "/health").status_code == 200
        assert time.monotonic() - started < 0.5
    until(lambda: writer.write().status_code == 200, seconds=20)
    check_what_is_kept(tenant, [writer])
