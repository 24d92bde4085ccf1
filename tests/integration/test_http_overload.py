"""A server with more requests than it keeps waiting: it refuses the rest at once, and they cost nothing."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPMessage
from typing import Any

import psycopg
import pytest
from psycopg import sql

from tests.fixtures.api import make_world, open_api, serving, settings_for
from tests.fixtures.local_stack import until
from vecmeter.http import lanes

PLACES = 6


def test_beyond_its_places_a_server_refuses_at_once_and_uncounted(
    database_url: str, table_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "PLACES", PLACES)
    settings = settings_for(database_url, table_name, database_pool_size=PLACES, statement_timeout_ms=20_000)
    with open_api(settings) as api, serving(api) as port:
        tenant = make_world(api).tenant
        path = f"/v1{tenant.base}/c/search"
        before = used(port, tenant.key.secret)
        [(number,)] = api.runtime.database.run(
            lambda c: c.execute("SELECT collection_id FROM vecmeter.collections").fetchall()
        )
        with psycopg.connect(database_url) as lock, ThreadPoolExecutor(PLACES) as pool:
            lock.execute(sql.SQL("LOCK TABLE {}").format(sql.Identifier("vecmeter", f"vectors_{number}")))
            admitted = [pool.submit(ask, port, path, tenant.key.secret) for _ in range(PLACES)]
            until(lambda: waiting(database_url) == PLACES)
            for _ in range(3):
                status, headers, problem = ask(port, path, tenant.key.secret)
                assert (status, problem["code"], headers["Retry-After"]) == (503, "overloaded", "1")
            assert ask(port, "/health", tenant.key.secret, "GET")[0] == 200
            assert not any(search.done() for search in admitted)
            lock.rollback()
            assert [search.result()[0] for search in admitted] == [200] * PLACES
        assert used(port, tenant.key.secret) == before + PLACES


def ask(port: int, path: str, secret: str, method: str = "POST") -> tuple[int, HTTPMessage, Any]:
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        body = json.dumps({"vector": [1, 0, 0]}) if method == "POST" else None
        connection.request(method, path, body, {"Authorization": f"Bearer {secret}"})
        answer = connection.getresponse()
        return answer.status, answer.headers, json.loads(answer.read())
    finally:
        connection.close()


def used(port: int, secret: str) -> int:
    _, _, report = ask(port, "/v1/quota/me", secret, "GET")
    return int(report["quotas"]["daily_requests"]["used"])


def waiting(dsn: str) -> int:
    """Connections of this database that wait for a lock."""
    asked = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute(asked).fetchone()
    assert row is not None
    return int(row[0])
