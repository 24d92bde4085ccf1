"""Long tasks asked for by the API do not hold it up: the maintenance function has them, or a thread of the server."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.fixtures.api import Api, open_api, problem, settings_for
from tests.integration.test_index_starts import FakeLambda
from tests.integration.test_maintenance_indexes import until
from vecmeter import task_starts, vector_tasks
from vecmeter.build_starts import MaintenanceFunction
from vecmeter.errors import InvalidRequestError, Violation
from vecmeter.tasks import TASKS

RUN = "/admin/maintenance/"


class NoWay(FakeLambda):
    def invoke(self, **call: Any) -> None:
        raise OSError("connect timed out")


def with_function(api: Api, client: FakeLambda) -> None:
    object.__setattr__(api.runtime, "maintenance_function", MaintenanceFunction("the-function", lambda: client))


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """vacuum_analyze does not end before the event, and the API waits for a moment only."""
    go_on = threading.Event()

    def wait(*_: Any) -> dict[str, Any]:
        assert go_on.wait(30)
        return {"waited": True}

    monkeypatch.setitem(TASKS, "vacuum_analyze", dataclasses.replace(TASKS["vacuum_analyze"], run=wait))  # type: ignore[arg-type]
    monkeypatch.setattr(task_starts, "_SPARE_SECONDS", 10**6)
    yield go_on
    go_on.set()


def test_a_long_task_is_handed_to_the_maintenance_function_and_a_short_one_or_a_dry_run_answered(api: Api) -> None:
    client = FakeLambda()
    with_function(api, client)
    system = api.system_admin()
    tenant = api.tenant()
    tenant.collection("c")
    body = {"project_id": tenant.project, "force": True}
    answer = api.call("POST", RUN + "reindex_hnsw", system, json=body)
    assert answer.status_code == 202
    assert answer.json().items() >= {"task": "reindex_hnsw", "status": "started"}.items()
    [call] = client.calls
    assert (call["FunctionName"], call["InvocationType"]) == ("the-function", "Event")
    assert json.loads(call["Payload"]) == {"task": "reindex_hnsw", "options": body}
    answered: tuple[tuple[str, dict[str, Any]], ...] = (
        ("get_index_stats", {}),
        ("reindex_hnsw", {"dry_run": True}),
        ("build_indexes", {"dry_run": "true"}),
    )
    for task, options in answered:
        answer = api.call("POST", RUN + task, system, json=options)
        assert (answer.status_code, answer.json()["status"]) == (200, "ok")
    assert len(client.calls) == 1


def test_nothing_is_handed_over_that_would_be_refused(api: Api) -> None:
    client = FakeLambda()
    with_function(api, client)
    system = api.system_admin()
    problem(api.call("POST", RUN + "fly", system), 404, "task_not_found")
    problem(api.call("POST", RUN + "reindex_hnsw", system, json={"month": "2026-11"}), 422)
    problem(api.call("POST", RUN + "reindex_hnsw", system, json={"project_id": "nobody"}), 404, "project_not_found")
    missing = {"project_id": api.tenant().project, "collection": "missing"}
    problem(api.call("POST", RUN + "reindex_hnsw", system, json=missing), 404, "collection_not_found")
    problem(api.call("POST", RUN + "roll_up_usage", system, json={"project_id": missing["project_id"]}), 422)
    assert client.calls == []


@pytest.mark.parametrize("value", [1, "yes", "True", [], 0.0])
def test_a_switch_that_is_none_is_named_by_its_name_alone(api: Api, value: Any) -> None:
    answer = api.call("POST", RUN + "vacuum_analyze", api.system_admin(), json={"dry_run": value})
    assert [error["path"] for error in problem(answer, 422)["errors"]] == ["dry_run"]


def test_a_function_that_cannot_be_invoked_is_said_at_once(api: Api) -> None:
    with_function(api, NoWay())
    answer = api.call("POST", RUN + "vacuum_analyze", api.system_admin())
    problem(answer, 503, "unavailable")
    assert answer.headers["retry-after"] == "10"


def test_a_server_answers_before_a_long_task_has_ended_and_the_history_has_the_rest(
    api: Api, slow: threading.Event
) -> None:
    system = api.system_admin()
    answer = api.call("POST", RUN + "vacuum_analyze", system)
    assert (answer.status_code, answer.json()["status"]) == (202, "started")
    [running] = api.runtime.history.page(limit=9)
    assert (running.task, running.status) == ("vacuum_analyze", "running")
    slow.set()
    until(lambda: api.runtime.history.page(limit=9)[0].status == "ok")
    assert api.runtime.history.page(limit=9)[0].figures["waited"] is True


def test_what_goes_wrong_in_the_thread_of_a_server_is_the_answer(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    system = api.system_admin()
    problem(api.call("POST", RUN + "export_usage", system, json={"month": "November"}), 422)
    unreadable = InvalidRequestError("it is forced.", (Violation("force", "is wrong"),))

    def refuse(*_: Any) -> dict[str, Any]:
        raise unreadable

    monkeypatch.setitem(TASKS, "vacuum_analyze", dataclasses.replace(TASKS["vacuum_analyze"], run=refuse))  # type: ignore[arg-type]
    body = problem(api.call("POST", RUN + "vacuum_analyze", system), 422)
    assert [error["path"] for error in body["errors"]] == ["force"]


def test_a_function_without_another_one_ends_in_time_and_says_what_is_left(
    database_url: str, table_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_starts, "_SPARE_SECONDS", 10**6)
    with open_api(settings_for(database_url, table_name, database_pool_size=1), runs_alone=True) as api:
        api.tenant().collection("c")
        answer = api.call("POST", RUN + "vacuum_analyze", api.system_admin(), json={"force": True})
        body = answer.json()
        assert (answer.status_code, body["status"], body["put_off"]) == (200, "ok", 1)
        assert body["message"].endswith("1 of 1 collections are left for the next run")


def test_every_task_that_changes_vectors_can_be_asked_what_it_would_do(api: Api) -> None:
    tenant, system = api.tenant(), api.system_admin()
    tenant.collection("c")
    names = [name for name, task in TASKS.items() if task.run.__module__ == vector_tasks.__name__ and task.is_long]
    assert {"vacuum_analyze", "reindex_hnsw", "build_indexes", "tune_ef_search", "probe_recall"} <= set(names)
    for name in names:
        for dry_run in (True, "true"):
            answer = api.call("POST", RUN + name, system, json={"dry_run": dry_run})
            assert answer.status_code == 200, (name, answer.text)
            body = answer.json()
            assert (body["status"], body["message"].startswith("dry run: ")) == ("ok", True), body
            assert len(body["collections"]) == 1
