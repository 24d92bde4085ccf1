"""The custom resource that migrates on deploy, and a receiver in CloudFormation's place."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
from psycopg import sql

from maintenance_function import on_deploy
from vecmeter.vectors.migrations.runner import migration_names
from vecmeter_local.postgres import PostgresServer

DONE = {"status": "ok", "message": "database migrated", "error": None}


def failed(error: str) -> dict[str, Any]:
    return {"status": "error", "message": "migrate failed", "error": error}


@dataclass
class Receiver:
    """Keeps what is PUT to its address."""

    url: str = ""
    answers: list[dict[str, Any]] = field(default_factory=list)
    content_types: list[str | None] = field(default_factory=list)

    def event(self, request: str, **more: Any) -> dict[str, Any]:
        return {
            "RequestType": request,
            "RequestId": "request-1",
            "ResponseURL": self.url,
            "StackId": "arn:aws:cloudformation:us-east-1:000000000000:stack/vecmeter/1",
            "LogicalResourceId": "Migration",
            "ResourceType": "Custom::Migration",
            "ResourceProperties": {"Layer": "arn:1"},
            **more,
        }


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    kept = Receiver()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            kept.answers.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            kept.content_types.append(self.headers["Content-Type"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        kept.url = f"http://127.0.0.1:{server.server_address[1]}/answer"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield kept
        server.shutdown()
        thread.join()


@pytest.fixture
def empty_database(postgres_server: PostgresServer) -> Iterator[str]:
    name = sql.Identifier("on_deploy")
    with psycopg.connect(postgres_server.dsn("postgres"), autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(name))
        yield postgres_server.dsn("on_deploy")
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))


FUNCTION = """
import json, sys
from types import SimpleNamespace
from maintenance_function.handler import handler
context = SimpleNamespace(aws_request_id="lambda-id", get_remaining_time_in_millis=lambda: 900_000)
for event in json.loads(sys.argv[1]):
    handler(event, context)
"""


def invoke(events: list[Mapping[str, Any]], dsn: str, table_name: str) -> str:
    """The maintenance function in a process of its own; returns what it logged."""
    environment = {name: value for name, value in os.environ.items() if name.startswith("AWS_") or name == "PATH"}
    done = subprocess.run(
        [sys.executable, "-c", FUNCTION, json.dumps(events)],
        capture_output=True,
        text=True,
        env=environment | {"DATABASE_URL": dsn, "TABLE_NAME": table_name},
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def applied(dsn: str) -> list[str]:
    with psycopg.connect(dsn) as connection:
        return [row[0] for row in connection.execute("SELECT name FROM vecmeter.migrations ORDER BY name")]


def test_a_deployment_migrates_an_update_again_and_a_removal_leaves_everything(
    receiver: Receiver, empty_database: str, table_name: str
) -> None:
    physical = {"PhysicalResourceId": "database-schema"}
    events = [receiver.event("Create"), receiver.event("Update", **physical), receiver.event("Delete", **physical)]

    logged = invoke(events, empty_database, table_name)

    assert applied(empty_database) == migration_names()
    assert [answer["Status"] for answer in receiver.answers] == ["SUCCESS"] * 3
    for answer in receiver.answers:
        assert answer["PhysicalResourceId"] == "database-schema"  # another one would be a replacement
        assert (answer["RequestId"], answer["LogicalResourceId"]) == ("request-1", "Migration")
        assert answer["StackId"] == events[0]["StackId"]
    assert set(receiver.content_types) == {""}, "S3 has signed the address for none"
    assert logged.count('"operation":"migrate"') == 2  # a line of metrics for each run, none for the removal


def test_a_migration_that_fails_is_told_with_its_reason_and_without_waiting(
    receiver: Receiver, empty_database: str, table_name: str
) -> None:
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA vecmeter")
        connection.execute("CREATE TABLE vecmeter.collections (in_the_way int)")

    logged = invoke([receiver.event("Create")], empty_database, table_name)

    (answer,) = receiver.answers
    assert answer["Status"] == "FAILED"
    assert "DuplicateTable" in answer["Reason"]
    assert '"Errors":[1' in logged or '"Errors":1' in logged, "the alarm of failed tasks sees it"
    assert applied(empty_database) == []


class Time:
    """A clock that only pauses move."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize("reason", ["OperationalError", "CannotConnectNow", "LockNotAvailable", "database_unavailable"])
def test_a_database_that_is_not_there_yet_is_waited_for(receiver: Receiver, reason: str) -> None:
    outcomes, time = [failed(reason), failed(reason), DONE], Time()
    on_deploy.answer(receiver.event("Create"), lambda: outcomes.pop(0), clock=time, pause=time.pause)
    assert (receiver.answers[0]["Status"], outcomes) == ("SUCCESS", [])


def test_a_database_that_never_comes_is_told_within_three_minutes(receiver: Receiver) -> None:
    time = Time()
    on_deploy.answer(receiver.event("Create"), lambda: failed("OperationalError"), clock=time, pause=time.pause)
    assert receiver.answers[0]["Status"] == "FAILED"
    assert "OperationalError" in receiver.answers[0]["Reason"]
    assert on_deploy.PATIENCE_SECONDS <= time.now <= 200


def test_a_fault_of_ours_is_an_answer_too(receiver: Receiver) -> None:
    def broken() -> dict[str, Any]:
        raise KeyError("x" * 10_000)

    on_deploy.answer(receiver.event("Update", PhysicalResourceId="database-schema"), broken)
    (answer,) = receiver.answers
    assert (answer["Status"], answer["PhysicalResourceId"]) == ("FAILED", "database-schema")
    assert "KeyError" in answer["Reason"]
    assert len(answer["Reason"]) <= 1000


def test_where_nobody_takes_the_answer_the_invocation_fails_and_lambda_tries_again() -> None:
    unreachable = Receiver(url="http://127.0.0.1:9/answer")
    with pytest.raises(OSError, match="refused"):
        on_deploy.answer(unreachable.event("Delete"), lambda: DONE)
