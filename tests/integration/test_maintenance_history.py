"""Runs are written down when they begin and when they end; one that died is told from one that goes on."""

from __future__ import annotations

import logging
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from tests.fixtures.api import Api, problem
from tests.fixtures.vectors import Store, in_threads, raised
from vecmeter.errors import InvalidRequestError
from vecmeter.tasks import run_task
from vecmeter.vectors.history import RUNS_KEPT, Run

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
OK = {"task": "t", "status": "ok", "message": "m", "error": None}

# Begins a run, says so, and lives until it is killed.
DYING = """
import sys
from datetime import UTC, datetime
from vecmeter.vectors.history import History
from vecmeter.vectors.turns import Turns
run = History(Turns(lambda: sys.argv[1])).begin("build_indexes", datetime.now(UTC), {})
print("begun", flush=True)
sys.stdin.read()
"""


def page(store: Store, **of: Any) -> list[Run]:
    return store.history.page(limit=100, **of)


def test_a_run_is_in_the_history_from_its_beginning_and_has_an_end_when_it_has_ended(store: Store) -> None:
    run = store.history.begin("build_indexes", NOW, {"project_id": "acme", "collection": "c"})
    [found] = page(store)
    assert (found.status, found.started_at, found.finished_at) == ("running", NOW, None)
    assert (found.project_id, found.collection, found.figures) == ("acme", "c", {})
    run.finish(OK | {"collections": [{"collection": "a", "action": "none"}, {"collection": "b"}]}, NOW)
    [found] = page(store)
    assert (found.status, found.message, found.finished_at) == ("ok", "m", NOW)
    assert found.figures == {"task": "t", "collections": [{"collection": "b"}]}
    assert store.rows("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == [(0,)]


def test_a_run_whose_process_was_killed_is_interrupted_and_one_that_lives_is_not(store: Store) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", DYING, store.dsn], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    store.history.begin("vacuum_analyze", NOW, {}).finish(OK, NOW)
    assert [run.status for run in page(store)] == ["ok", "running"]
    process.kill()
    process.communicate()
    # The server may take a moment to notice; whoever begins next looks again.
    for _ in range(200):
        store.history.begin("vacuum_analyze", NOW + timedelta(hours=1), {}).finish(OK, NOW)
        if not page(store, status="running"):
            break
    [died] = page(store, status="interrupted")
    assert (died.task, died.finished_at) == ("build_indexes", NOW + timedelta(hours=1))


def test_many_that_begin_at_once_call_none_of_them_interrupted(store: Store) -> None:
    def run() -> None:
        for _ in range(5):
            under_way = store.history.begin("t", NOW, {})
            under_way.finish(OK, NOW)

    assert raised(in_threads(*[run] * 6)) == []
    assert {found.status for found in page(store)} == {"ok"}
    assert len(page(store)) == 30


def test_a_run_that_could_not_be_written_down_at_first_is_when_it_has_ended(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    store.rows("ALTER TABLE vecmeter.maintenance_runs RENAME TO hidden")
    run = store.history.begin("t", NOW, {})
    assert "run not recorded" in caplog.text
    store.rows("ALTER TABLE vecmeter.hidden RENAME TO maintenance_runs")
    run.finish(OK, NOW)
    assert [(found.status, found.finished_at) for found in page(store)] == [("ok", NOW)]


def test_an_outcome_reaches_the_history_though_the_session_of_the_run_was_lost(store: Store) -> None:
    run = store.history.begin("t", NOW, {})
    store.rows(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE application_name = 'vecmeter-maintenance' AND datname = current_database()"
    )
    run.finish(OK, NOW)
    assert [found.status for found in page(store)] == ["ok"]


def test_runs_are_found_by_task_status_and_what_they_did_something_for(store: Store) -> None:
    def keep(task: str, status: str = "ok", of: dict[str, str] | None = None, *done: tuple[str, str]) -> None:
        figures = [{"project_id": project, "collection": name, "action": "built"} for project, name in done]
        outcome = {**OK, "status": status, "collections": figures}
        store.history.begin(task, NOW, of or {}).finish(outcome, NOW)

    keep("a", "ok", None, ("p", "c"), ("q", "d"))
    keep("b", "error", {"project_id": "p"})
    keep("a", "ok", {"project_id": "p", "collection": "e"})
    keep("a")

    def found(**of: str) -> list[int]:
        return [run.run_id for run in page(store, **of)]

    assert found() == [4, 3, 2, 1]
    assert found(task="a") == [4, 3, 1]
    assert found(status="error") == [2]
    assert found(project_id="p") == [3, 2, 1]
    assert found(project_id="p", collection="c") == [1]
    assert found(project_id="p", collection="e", task="a") == [3]
    assert found(project_id="q", collection="c") == []
    assert [run.run_id for run in store.history.page(limit=2, before=3, task="a")] == [1]


def test_runs_past_use_are_forgotten(store: Store) -> None:
    for age in (RUNS_KEPT + timedelta(days=1), RUNS_KEPT - timedelta(days=1)):
        store.history.begin("t", NOW - age, {}).finish(OK, NOW - age)
    assert store.history.forget(NOW) == 1
    assert [run.started_at for run in page(store)] == [NOW - RUNS_KEPT + timedelta(days=1)]
    assert store.history.forget(NOW) == 0


def test_a_task_that_refuses_its_options_leaves_no_row(api: Api) -> None:
    settings = api.runtime.settings
    assert settings.export_bucket == ""
    object.__setattr__(settings, "export_bucket", "somewhere")
    with pytest.raises(InvalidRequestError):
        run_task(api.runtime, "export_usage", {"month": "November"})
    assert api.runtime.history.page(limit=9) == []


def test_each_run_is_one_line_of_the_log_with_what_it_did(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    tenant = api.tenant()
    tenant.collection("c")
    with caplog.at_level(logging.INFO, "vecmeter.tasks"):
        run_task(api.runtime, "vacuum_analyze", {"force": True})
    [line] = [record for record in caplog.records if record.name == "vecmeter.tasks"]
    assert (line.task, line.status, line.error) == ("vacuum_analyze", "ok", None)  # type: ignore[attr-defined]
    figures = line.figures  # type: ignore[attr-defined]
    assert [one["action"] for one in figures["collections"]] == ["vacuumed"]
    assert figures["collections_looked_at"] == 1
    caplog.clear()
    with caplog.at_level(logging.INFO, "vecmeter.tasks"):
        key = run_task(api.runtime, "create_admin_key", {})["key"]
    assert key not in caplog.text


def test_the_history_is_narrowed_by_the_api(api: Api) -> None:
    system, tenant = api.system_admin(), api.tenant()
    tenant.collection("c")
    run_task(api.runtime, "vacuum_analyze", {"force": True})
    run_task(api.runtime, "get_index_stats", {"project_id": tenant.project, "collection": "c"})
    run_task(api.runtime, "reindex_hnsw", {"project_id": tenant.project, "collection": "missing"})

    def tasks(query: str) -> list[str]:
        answer = api.call("GET", f"/admin/maintenance/runs?{query}", system)
        assert answer.status_code == 200, answer.text
        return [run["task"] for run in answer.json()["runs"]]

    of = f"project_id={tenant.project}"
    assert tasks("task=vacuum_analyze") == ["vacuum_analyze"]
    assert tasks("status=error") == ["reindex_hnsw"]
    assert tasks(of) == ["reindex_hnsw", "get_index_stats", "vacuum_analyze"]
    assert tasks(f"{of}&collection=c") == ["get_index_stats", "vacuum_analyze"]
    under_way = api.runtime.history.begin("build_indexes", api.clock(), {})
    [running] = api.call("GET", "/admin/maintenance/runs?status=running", system).json()["runs"]
    assert (running["task"], "finished_at" in running) == ("build_indexes", False)
    under_way.leave()
    for query, path in (("status=done", "status"), ("collection=c", "project_id"), ("kind=x", "kind")):
        [error] = problem(api.call("GET", f"/admin/maintenance/runs?{query}", system), 422)["errors"]
        assert error["path"] == path


def test_the_release_before_reads_every_row(store: Store) -> None:
    """It expects a time of the end."""
    store.history.begin("t", NOW, {})
    assert store.rows("SELECT finished_at FROM vecmeter.maintenance_runs") == [(NOW,)]
    with psycopg.connect(store.dsn) as connection:
        connection.execute(
            "INSERT INTO vecmeter.maintenance_runs (task, status, message, error, figures, started_at, finished_at) "
            "VALUES ('old', 'ok', 'm', NULL, '{}', %s, %s)",
            [NOW, NOW],
        )
    assert [run.task for run in page(store)] == ["old", "t"]
