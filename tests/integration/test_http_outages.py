"""503 and 500: what a caller sees when a part is away or something is wrong with the service itself."""

from __future__ import annotations

import logging
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from fastapi import APIRouter
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pydantic import BaseModel
from starlette.responses import Response

from tests.fixtures.api import Api, World, make_world, open_api, problem, settings_for
from tests.fixtures.routes import ROUTES, Route
from vecmeter.errors import LedgerUnavailableError
from vecmeter.http.dependencies import CallDependency
from vecmeter.http.fields import ProjectPath
from vecmeter.http.route import BusinessRoute
from vecmeter.ledger.model import Operation, Role

USES_DATABASE = [
    route
    for route in ROUTES
    if route.role in (Role.SEARCH, Role.WRITE)
    or route.path.startswith("/admin/maintenance")
    or route.operation == "delete_project"
]


@pytest.fixture(scope="module")
def nowhere() -> Iterator[int]:
    """A port nobody answers at, and nobody else gets."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@contextmanager
def database_away(database_url: str) -> Iterator[None]:
    """The database takes no connections and has ended those there were."""
    name = str(conninfo_to_dict(database_url)["dbname"])
    administration = make_conninfo(database_url, dbname="postgres")
    allow = sql.SQL("ALTER DATABASE {} WITH ALLOW_CONNECTIONS {}")
    with psycopg.connect(administration, autocommit=True) as connection:
        connection.execute(allow.format(sql.Identifier(name), False))
        connection.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", [name])
        try:
            yield
        finally:
            connection.execute(allow.format(sql.Identifier(name), True))


@pytest.mark.parametrize("pool_size", [1, 4])
def test_without_postgresql_every_route_that_needs_it_is_503_and_is_fine_again_after(
    database_url: str, table_name: str, pool_size: int
) -> None:
    settings = settings_for(
        database_url,
        table_name,
        database_pool_size=pool_size,
        database_connect_timeout_seconds=1,
        circuit_failures=sys.maxsize,  # what comes after so many is in test_http_circuits.py
    )
    with open_api(settings) as api:
        world = make_world(api)
        contents, used = world.tenant.contents(), api.used(world.tenant.key)
        with database_away(database_url):
            for route in USES_DATABASE if pool_size == 1 else USES_DATABASE[:2]:
                answer = world.call(route, world.key_for(route))
                if route.operation in ("maintenance_stats", "run_maintenance"):
                    assert (answer.status_code, answer.json()["status"]) == (200, "error")  # the outcome of a task
                    continue
                body = problem(answer, 503, "database_unavailable")
                assert answer.headers["retry-after"].isdigit()
                assert "committed" not in body
                assert not leaked(answer.text, database_url)
            body = problem(api.call("GET", "/health/ready"), 503, "not_ready")
            assert (body["checks"]["ledger"], "postgresql" in body["detail"]) == ("ok", True)
            assert api.call("GET", "/health").json()["status"] == "ok"
            # What needs no database goes on.
            assert api.call("GET", "/admin/keys", world.admin).status_code == 200
        assert world.tenant.contents() == contents
        after = api.used(world.tenant.key)
        assert (after["tokens"], after["micro_usd"]) == (used["tokens"], used["micro_usd"])
        assert api.call("GET", "/health/ready").status_code == 200
        assert world.tenant.call("POST", "/c/search", json={"vector": [1, 2, 3]}).status_code == 200


def leaked(text: str, database_url: str) -> bool:
    """Whether an answer shows what is nobody's business."""
    host = conninfo_to_dict(database_url)["host"]
    return any(word in text for word in (str(host), "psycopg", "SELECT", "Traceback", "vecmeter.records", "boto"))


@pytest.fixture
def without_ledger(api: Api, nowhere: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Api, World]]:
    """A second instance of the API on the same database that cannot reach the ledger, and a world of the first."""
    world = make_world(api)
    monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", f"http://127.0.0.1:{nowhere}")
    with open_api(api.runtime.settings) as cut_off:
        yield cut_off, world


@pytest.mark.parametrize("route", ROUTES, ids=str)
def test_without_the_ledger_every_route_is_503_and_nothing_happens(
    without_ledger: tuple[Api, World], route: Route
) -> None:
    cut_off, world = without_ledger
    before = world.state()
    answer = cut_off.call(route.method, world.path(route), world.key_for(route), json=world.body(route))
    problem(answer, 503, "ledger_unavailable")
    assert answer.headers["retry-after"].isdigit()
    assert world.state() == before


def test_without_the_ledger_the_rest_is_said_as_ever(without_ledger: tuple[Api, World]) -> None:
    cut_off, world = without_ledger
    problem(cut_off.call("GET", "/quota/me"), 401)
    problem(cut_off.call("POST", world.tenant.base + "/c/search", world.tenant.key, content=b"{"), 400)
    problem(cut_off.call("GET", "/nothing"), 404, "route_not_found")
    assert cut_off.call("GET", "/health").status_code == 200
    body = problem(cut_off.call("GET", "/health/ready"), 503, "not_ready")
    assert body["checks"]["postgresql"] == "ok"
    assert "ledger" in body["detail"]


def test_ready_says_that_the_migrations_are_missing(
    postgres_server: object, database_url: str, table_name: str
) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("DROP EXTENSION vector CASCADE")
    with open_api(settings_for(database_url, table_name)) as api:
        body = problem(api.call("GET", "/health/ready"), 503, "not_ready")
    assert body["checks"]["pgvector"].startswith("missing: run the migrations")


def test_a_fault_of_ours_is_500_with_the_request_id_and_nothing_leaked(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    world = make_world(api)
    with psycopg.connect(api.runtime.dsn(), autocommit=True) as connection:
        connection.execute("ALTER TABLE vecmeter.collections RENAME COLUMN metric TO elsewhere")
    with caplog.at_level(logging.ERROR, "vecmeter"):
        answer = world.tenant.call("GET", "/c")
    body = problem(answer, 500, "internal")
    assert not leaked(answer.text, api.runtime.dsn())
    assert "metric" not in answer.text
    assert "committed" not in body
    assert any(record.name == "vecmeter.http" and record.exc_info for record in caplog.records)
    # It was admitted: it counts as a request that failed, and costs nothing.
    [record] = [record for record in api.records(world.tenant.key) if record.request_id == body["request_id"]]
    assert (record.status, record.micro_usd) == ("failure", 0)


class Unsendable(BaseModel):
    """An answer that cannot be written, for the reason given."""

    reason: str

    def model_dump_json(self, **options: Any) -> str:
        raise LedgerUnavailableError(self.reason) if self.reason == "away" else RuntimeError(self.reason)


@pytest.mark.parametrize(("reason", "status"), [("away", 503), ("broken", 500)])
@pytest.mark.parametrize(("role", "committed"), [(Role.WRITE, True), (Role.SEARCH, False)])
def test_a_failure_after_the_work_of_a_write_says_that_it_was_done(
    database_url: str, table_name: str, reason: str, status: int, role: Role, committed: bool
) -> None:
    router = APIRouter(route_class=BusinessRoute)

    @router.post("/projects/{project}/late")
    def late(project: ProjectPath, call: CallDependency) -> Response:
        with call.admit(Operation.UPSERT, role, project) as hold:
            return call.respond(hold, Unsendable(reason=reason))

    with open_api(settings_for(database_url, table_name), routers=[router]) as api:
        tenant = api.tenant()
        answer = api.call("POST", f"/projects/{tenant.project}/late", tenant.key)
        body = problem(answer, status)
    assert body.get("committed", False) is committed
    assert "broken" not in answer.text
