"""The built functions in Lambda's Runtime Interface Emulator, fed with tests/events, on real PostgreSQL and a table."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.fixtures.artifacts import PROJECT, Artifacts
from tests.fixtures.services import AWS_ENVIRONMENT
from vecmeter.ledger.keys import CreatedKey
from vecmeter.runtime import Runtime, build_runtime
from vecmeter.settings import Settings
from vecmeter_local.runtime_interface import RuntimeInterface, emulator_binary, python_path

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the Runtime Interface Emulator is a Linux program")

Event = dict[str, Any]
Start = Callable[[str], RuntimeInterface]


@pytest.fixture
def environment(database_url: str, dynamodb_endpoint: str, table_name: str) -> dict[str, str]:
    return {
        "DATABASE_URL": database_url,
        "TABLE_NAME": table_name,
        "AWS_ENDPOINT_URL_DYNAMODB": dynamodb_endpoint,
        **AWS_ENVIRONMENT,
    }


@pytest.fixture
def start(artifacts: Artifacts, environment: dict[str, str], tmp_path: Path) -> Iterator[Start]:
    """Starts a function by name, with the environment of this test."""
    started: list[RuntimeInterface] = []

    def start(name: str) -> RuntimeInterface:
        function = RuntimeInterface(
            # Not skipped where it is missing: the error says which command installs it.
            binary=emulator_binary(PROJECT),
            handler=f"{name}_function.handler.handler",
            path=python_path(artifacts.functions[name], artifacts.layer, artifacts.runtime),
            environment=environment | {"AWS_LAMBDA_FUNCTION_NAME": f"vecmeter-{name}"},
            log=tmp_path / f"{name}.log",
        )
        function.start()
        started.append(function)
        return function

    yield start
    for function in started:
        function.stop()


@pytest.fixture
def admin_key(environment: dict[str, str]) -> Iterator[CreatedKey]:
    runtime: Runtime = build_runtime(Settings.from_environment(environment))
    yield runtime.keys.create(user_id="system", project_id=None, roles=("admin", "search", "write"), name="test")
    runtime.close()


def event(name: str, key: CreatedKey | None = None) -> Event:
    content: Event = json.loads((PROJECT / "tests" / "events" / f"{name}.json").read_text())
    if key is not None:
        content["headers"]["authorization"] = f"Bearer {key.secret}"
    return content


def lines(function: RuntimeInterface) -> list[Event]:
    """The JSON lines the function wrote, without those of the emulator."""
    return [json.loads(line) for line in function.log.read_text().splitlines() if line.startswith("{")]


def log_lines(function: RuntimeInterface) -> list[Event]:
    return [line for line in lines(function) if "level" in line]


def metric_lines(function: RuntimeInterface) -> list[Event]:
    return [line for line in lines(function) if "_aws" in line]


def test_the_events_make_a_project_a_collection_vectors_and_a_match(start: Start, admin_key: CreatedKey) -> None:
    created = start("admin").invoke(event("admin", admin_key))
    assert created["statusCode"] == 201, created
    assert json.loads(created["body"])["project_id"] == "acme"

    upsert = start("upsert")
    collection = upsert.invoke(event("collection", admin_key))
    assert collection["statusCode"] == 201, collection
    written = upsert.invoke(event("upsert", admin_key))
    assert written["statusCode"] == 200, written
    assert json.loads(written["body"])["inserted"] == 2

    search = start("search")
    found = search.invoke(event("search", admin_key))
    assert found["statusCode"] == 200, found
    assert found["isBase64Encoded"] is False
    body = json.loads(found["body"])
    assert [match["id"] for match in body["matches"]] == ["a"]
    assert body["usage"]["requests"] == 1

    request_id = found["headers"]["x-request-id"]
    (logged,) = log_lines(search)
    assert logged["request_id"] == request_id
    assert logged["service"] == "vecmeter-search"
    assert (logged["level"], logged["status"], logged["project_id"]) == ("INFO", 200, "acme")
    assert logged["route"] == "/v1/projects/{project}/collections/{collection}/search"
    (measured,) = metric_lines(search)
    assert measured["request_id"] == request_id
    assert measured["_aws"]["CloudWatchMetrics"][0]["Namespace"] == "Vecmeter"
    assert (measured["service"], measured["operation"]) == ("vecmeter-search", "search")
    assert measured["Requests"] == 1
    assert {"Latency", "SearchTime", "DatabaseTime", "LedgerTime"} <= set(measured)
    assert admin_key.secret not in search.log.read_text()


def test_health_needs_neither_key_nor_database(start: Start, environment: dict[str, str]) -> None:
    environment["DATABASE_URL"] = "postgresql://nobody@127.0.0.1:1/none"
    answer = start("search").invoke(event("health"))
    assert answer["statusCode"] == 200
    assert json.loads(answer["body"])["status"] == "ok"


@pytest.mark.parametrize(("name", "function"), [("search", "search"), ("upsert", "upsert"), ("admin", "admin")])
def test_an_unknown_key_is_401(start: Start, name: str, function: str) -> None:
    running = start(function)
    answer = running.invoke(event(name))
    assert answer["statusCode"] == 401
    assert answer["headers"]["content-type"] == "application/problem+json"
    assert answer["headers"]["www-authenticate"] == "Bearer"
    assert json.loads(answer["body"])["request_id"] == answer["headers"]["x-request-id"]
    (measured,) = metric_lines(running)
    assert (measured["Requests"], measured["Refusals"]) == (1, 1)


def test_a_scheduled_task_returns_its_outcome_and_leaves_a_row_of_history(start: Start, database_url: str) -> None:
    maintenance = start("maintenance")
    outcome = maintenance.invoke(event("schedule"))
    assert (outcome["task"], outcome["status"], outcome["error"]) == ("vacuum_analyze", "ok", None)
    (measured,) = metric_lines(maintenance)
    assert (measured["operation"], measured["Requests"], measured["Errors"]) == ("vacuum_analyze", 1, 0)
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT task, status FROM vecmeter.maintenance_runs").fetchall() == [
            ("vacuum_analyze", "ok")
        ]


def test_an_event_without_a_task_fails_the_invocation(start: Start) -> None:
    assert start("maintenance").invoke({"detail": {}})["errorType"] == "InvalidRequestError"


def test_missing_settings_fail_the_start_and_are_all_named(start: Start, environment: dict[str, str]) -> None:
    del environment["TABLE_NAME"], environment["DATABASE_URL"]
    failed = start("search").invoke(event("health"))
    assert failed["errorType"] == "SettingsError"
    assert "TABLE_NAME" in failed["errorMessage"]
    assert "DATABASE_URL" in failed["errorMessage"]
