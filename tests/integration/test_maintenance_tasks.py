"""Maintenance tasks do what their names say, tell it in figures, and leave a row of history, success or not."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from tests.fixtures.api import Api, Tenant
from tests.fixtures.vectors import FORCED, Store, as_numbers, clustered, hnsw_index, index_of, vector, write_all
from vecmeter.errors import DatabaseUnavailableError, InvalidRequestError, TaskNotFoundError
from vecmeter.tasks import SCHEDULE, TASKS, run_task, task_names
from vecmeter.vectors.maintenance import RECEIPTS_KEPT, is_supported
from vecmeter.vectors.model import Collection, IndexType, Vector
from vecmeter.vectors.tables import table_names
from vecmeter.vectors.turns import Turns


def dead_rows(store: Store, collection: Collection) -> int:
    """Counted in the pages themselves: statistics are late."""
    store.rows("CREATE EXTENSION IF NOT EXISTS pgstattuple")
    counts = [
        store.rows("SELECT dead_tuple_count FROM pgstattuple(%s::regclass)", [f"vecmeter.{table}"])[0][0]
        for table in table_names(collection.collection_id)
    ]
    return sum(counts)


def rows(api: Api, statement: str, parameters: Any = None) -> list[Any]:
    with psycopg.connect(api.runtime.dsn(), autocommit=True) as connection:
        return connection.execute(statement.encode(), parameters).fetchall()


# --- on the database alone ---


def test_vacuum_removes_dead_rows_of_both_tables_and_refreshes_statistics(store: Store) -> None:
    collection = store.create(index=index_of(IndexType.NONE))
    batch = [vector(f"v{i}", float(i + 1), 1.0, 0.0) for i in range(500)]
    store.records.upsert(collection, batch)
    with psycopg.connect(store.dsn) as reader:
        # A snapshot that could still see them: else later statements and autovacuum prune some before they are counted.
        reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        reader.execute("SELECT 1")
        store.records.upsert(collection, [vector(v.id, *reversed(v.numbers)) for v in batch])
        store.records.delete_ids(collection, "", [v.id for v in batch[:100]], dry_run=False)
        assert dead_rows(store, collection) == 2 * 600
    [figure] = store.maintenance.vacuum_analyze([collection], FORCED)["collections"]
    assert figure["action"] == "vacuumed"
    assert dead_rows(store, collection) == 0
    names = list(table_names(collection.collection_id))
    estimates = store.rows("SELECT reltuples::int FROM pg_class WHERE relname = ANY(%s)", [names])
    assert estimates == [(400,), (400,)]


def test_statistics_of_indexes_name_sizes_for_programs_and_for_people(store: Store) -> None:
    collection = store.create(dimension=16)
    row_vectors = [Vector(id=f"v{i}", numbers=as_numbers(row)) for i, row in enumerate(clustered(1000, 16))]
    write_all(store, collection, row_vectors)
    collection = store.build(collection)
    [figure] = store.maintenance.index_stats([collection])["collections"]
    assert (figure["project_id"], figure["collection"]) == ("acme", "things")
    found = {index["index_name"]: index for index in figure["indexes"]}
    records, vectors = table_names(collection.collection_id)
    hnsw = found[hnsw_index(store, collection)]
    assert (hnsw["table_name"], hnsw["method"], hnsw["valid"]) == (vectors, "hnsw", True)
    assert hnsw["bytes"] > 100_000
    assert hnsw["size"].endswith("kB")
    assert isinstance(hnsw["scans"], int)
    assert {index["method"] for index in found.values()} == {"hnsw", "btree", "gin"}
    assert {index["table_name"] for index in found.values()} == {records, vectors}
    json.dumps(figure)


def test_statistics_count_exactly_and_leave_out_what_is_dropped_meanwhile(store: Store) -> None:
    first, second = store.create("first"), store.create("second")
    store.records.upsert(first, [vector(f"v{i}") for i in range(7)])
    store.records.upsert(second, [vector("a")])
    listed = store.collections.list_all()
    figures = store.maintenance.statistics(listed)
    assert figures["total_vectors"] == 8
    assert [(c["collection"], c["count"]) for c in figures["collections"]] == [("first", 7), ("second", 1)]
    assert all(c["bytes"] > 0 and c["index_bytes"] == 0 for c in figures["collections"])
    database = figures["database"]
    assert set(database) == {
        "postgresql", "pgvector", "pgvector_supported", "bytes", "size", "connections", "max_connections"
    }  # fmt: skip
    assert database["pgvector_supported"] is True
    assert database["size"].split()[1] in ("kB", "MB", "GB")
    assert 0 < database["connections"] <= database["max_connections"]
    store.collections.drop("acme", "second")
    assert store.maintenance.statistics(listed)["total_vectors"] == 7
    json.dumps(figures)


@pytest.mark.parametrize(
    ("version", "supported"),
    [
        (None, False),
        ("0.5.1", False),
        ("0.8.3", False),
        ("0.8.4", True),
        ("0.8.10", True),
        ("0.9", True),
        ("1.0.0", True),
    ],
)
def test_versions_of_pgvector_that_corrupt_indexes_are_not_supported(version: str | None, supported: bool) -> None:
    assert is_supported(version) is supported


def test_receipts_are_forgotten_when_they_are_past_use(store: Store) -> None:
    now = datetime.now(UTC)

    def receipt_of(moment: datetime) -> uuid.UUID:
        return uuid.UUID(bytes=int(moment.timestamp() * 1e9).to_bytes(8, "big") + os.urandom(8))

    old, kept = now - RECEIPTS_KEPT - timedelta(minutes=1), now - RECEIPTS_KEPT + timedelta(minutes=1)
    for moment in (old, old, kept):
        receipt = receipt_of(moment)
        store.database.write(lambda c, _, receipt=receipt: keep(c, receipt))
    nothing = {"receipts_deleted": 0, "answers_deleted": 0, "projects_folded": 0}
    assert store.maintenance.forget(now) == {**nothing, "receipts_deleted": 2}
    assert store.maintenance.forget(now) == nothing
    assert store.rows("SELECT count(*) FROM vecmeter.receipts") == [(1,)]


def keep(connection: Any, receipt: uuid.UUID) -> list[int]:
    connection.execute("INSERT INTO vecmeter.receipts (receipt_id, answer) VALUES (%s, '{}')", [receipt])
    return []


def test_receipts_of_writes_sort_by_the_time_they_were_made(store: Store) -> None:
    collection = store.create()
    for number in range(5):
        store.records.upsert(collection, [vector("a"), *[vector(f"v{i}") for i in range(number)]])
    lengths = [len(answer) for (answer,) in store.rows("SELECT answer FROM vecmeter.receipts ORDER BY receipt_id")]
    assert lengths == [0, 1, 2, 3, 4, 5], "the creation of the collection, then the writes"
    [(newest,)] = store.rows("SELECT receipt_id FROM vecmeter.receipts ORDER BY receipt_id DESC LIMIT 1")
    assert abs(int.from_bytes(newest.bytes[:8], "big") / 1e9 - time.time()) < 60


def test_a_password_that_was_changed_is_read_again_once(store: Store) -> None:
    addresses = ["postgresql://postgres@/no_such_database?host=/nowhere", store.dsn]
    turns = Turns(lambda: addresses[0], lambda: bool(len(addresses) > 1 and addresses.pop(0)))
    with turns.connect() as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    addresses[0] = "postgresql://postgres@/no_such_database?host=/nowhere"
    with pytest.raises(DatabaseUnavailableError), turns.connect():
        pass


# --- by name, with the ledger beside it ---


@pytest.fixture
def tenant(api: Api) -> Tenant:
    """A tenant with a collection ``c`` of three vectors."""
    tenant = api.tenant()
    tenant.collection("c")
    tenant.write("/c", *[{"id": f"v{i}", "vector": [1.0, i, 2.0]} for i in range(3)])
    return tenant


def history(api: Api) -> list[Any]:
    return api.runtime.history.page(limit=100)


@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if task.open_to_api])
def test_each_task_tells_its_outcome_and_leaves_a_row_of_history(api: Api, tenant: Tenant, name: str) -> None:
    outcome = run_task(api.runtime, name, {})
    assert (outcome["task"], outcome["status"], outcome["error"]) == (name, "ok", None)
    assert outcome["message"]
    json.dumps(outcome)
    [run] = history(api)
    assert (run.task, run.status, run.message, run.error) == (name, "ok", outcome["message"], None)
    assert run.started_at == run.finished_at == api.clock()


def test_tasks_that_concern_the_deployment_are_closed_to_the_api_and_leave_no_row(api: Api) -> None:
    assert set(TASKS) - set(task_names(by_api=True)) == {"migrate", "create_admin_key"}
    for name in ("migrate", "create_admin_key"):
        with pytest.raises(TaskNotFoundError):
            run_task(api.runtime, name, {}, by_api=True)
    assert run_task(api.runtime, "migrate", {})["applied"] == []
    key = run_task(api.runtime, "create_admin_key", {})["key"]
    assert api.call("GET", "/admin/maintenance/runs", key).status_code == 200
    assert history(api) == []
    stored = [str(run) for run in history(api)]
    assert key not in "".join(stored)


@pytest.mark.parametrize("name", ["", "vacuum", "VACUUM_ANALYZE", "__init__"])
def test_an_unknown_task_is_refused_with_those_there_are(api: Api, name: str) -> None:
    with pytest.raises(TaskNotFoundError, match="vacuum_analyze"):
        run_task(api.runtime, name, {})
    assert history(api) == []


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({"projekt": "p"}, "projekt"),
        ({"project_id": 7}, "project_id"),
        ({"collection": "c"}, "project_id"),
        ({"dry_run": "yes"}, "dry_run"),
        ({"dry_run": 1}, "dry_run"),
        ({"force": None}, "force"),
        ({"month": "2026-11"}, "month"),
    ],
)
def test_a_wrong_option_is_refused_by_its_name_and_nothing_runs(api: Api, options: dict[str, Any], path: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        run_task(api.runtime, "vacuum_analyze", options)
    assert [violation.path for violation in refused.value.violations] == [path]
    assert history(api) == []


def test_a_task_can_be_limited_to_a_project_or_a_collection(api: Api, tenant: Tenant) -> None:
    tenant.collection("d")
    other = api.tenant()
    other.collection("c")

    def concerned(**options: str) -> set[tuple[str, str]]:
        figures = run_task(api.runtime, "vacuum_analyze", options)["collections"]
        return {(figure["project_id"], figure["collection"]) for figure in figures}

    mine = {(tenant.project, "c"), (tenant.project, "d")}
    assert concerned() == mine | {(other.project, "c")}
    assert concerned(project_id=tenant.project) == mine
    assert concerned(project_id=tenant.project, collection="d") == {(tenant.project, "d")}


def test_a_task_that_fails_says_so_and_its_row_does_too(api: Api, tenant: Tenant) -> None:
    outcome = run_task(api.runtime, "reindex_hnsw", {"project_id": "nobody"})
    assert (outcome["status"], outcome["error"]) == ("error", "project_not_found")
    api.runtime.history.forget(api.clock() + timedelta(days=91))
    outcome = run_task(api.runtime, "reindex_hnsw", {"project_id": tenant.project, "collection": "missing"})
    assert (outcome["status"], outcome["error"]) == ("error", "collection_not_found")
    [run] = history(api)
    assert (run.task, run.status, run.error) == ("reindex_hnsw", "error", "collection_not_found")


def test_a_task_that_fails_for_some_collections_is_an_error_that_names_how_many(api: Api, tenant: Tenant) -> None:
    tenant.collection("bad")
    [(number,)] = rows(api, "SELECT collection_id FROM vecmeter.collections WHERE name = 'bad'")
    with psycopg.connect(api.runtime.dsn(), autocommit=True) as connection:
        # A table of that name that cannot be vacuumed.
        connection.execute(f"DROP TABLE vecmeter.records_{number}".encode())
        connection.execute(f"CREATE SEQUENCE vecmeter.records_{number}".encode())
    outcome = run_task(api.runtime, "vacuum_analyze", {"force": True})
    by_name = {figure["collection"]: figure for figure in outcome["collections"]}
    if "error" in by_name["bad"]:
        assert (outcome["status"], outcome["error"]) == ("error", by_name["bad"]["error"])
        assert "1 of 2" in outcome["message"]
    assert "error" not in by_name["c"]


def test_history_is_read_newest_first_page_by_page(api: Api, tenant: Tenant) -> None:
    names = ["vacuum_analyze", "build_indexes", "get_index_stats", "vacuum_analyze"]
    for name in names:
        api.clock.advance(seconds=1)
        run_task(api.runtime, name, {})
    runs = api.runtime.history.page
    first = runs(limit=3)
    rest = runs(before=first[-1].run_id, limit=3)
    assert [run.task for run in first + rest] == names[::-1]
    assert [run.started_at for run in first] == sorted((run.started_at for run in first), reverse=True)


def test_history_tells_of_collections_only_where_something_was_done(api: Api, tenant: Tenant) -> None:
    run_task(api.runtime, "build_indexes", {})
    run_task(api.runtime, "vacuum_analyze", {"force": True})
    vacuum, build = history(api)
    assert build.figures["collections"] == []
    assert [figure["collection"] for figure in vacuum.figures["collections"]] == ["c"]


def test_a_database_that_is_away_makes_an_error_and_not_an_exception(api: Api, tenant: Tenant) -> None:
    with psycopg.connect(api.runtime.dsn(), autocommit=True) as connection:
        connection.execute("ALTER TABLE vecmeter.collections RENAME TO hidden")
        outcome = run_task(api.runtime, "build_indexes", {})
        assert (outcome["status"], outcome["error"]) == ("error", "UndefinedTable")
        connection.execute("ALTER TABLE vecmeter.maintenance_runs RENAME TO hidden_too")
        assert run_task(api.runtime, "build_indexes", {})["status"] == "error"


def test_old_usage_records_are_purged_and_recent_ones_kept(api: Api, tenant: Tenant) -> None:
    stays = api.tenant()
    search: Callable[[Tenant], Any] = lambda of: of.call("GET")  # noqa: E731
    assert search(tenant).status_code == 200
    before = len(api.records(tenant.key))
    assert before >= 2
    api.clock.advance(days=api.runtime.settings.usage_retention_days, hours=1)
    assert run_task(api.runtime, "purge_usage_records", {})["deleted"] == 0, "nothing is rolled up"
    run_task(api.runtime, "roll_up_usage", {})
    assert search(stays).status_code == 200
    assert run_task(api.runtime, "purge_usage_records", {"project_id": stays.project})["deleted"] == 0
    outcome = run_task(api.runtime, "purge_usage_records", {})
    assert outcome["deleted"] == before
    assert datetime.fromisoformat(outcome["before"]) < api.clock()
    assert len(api.records(stays.key)) == 1
    assert run_task(api.runtime, "purge_usage_records", {})["deleted"] == 0


def test_exported_statistics_put_vectors_indexes_and_the_last_day_side_by_side(api: Api, tenant: Tenant) -> None:
    api.clock.advance(hours=25)
    assert tenant.call("GET").status_code == 200
    api.clock.advance(seconds=1)  # the day ends before the present moment
    outcome = run_task(api.runtime, "export_stats", {})
    assert outcome["total_vectors"] == 3
    assert [c["collection"] for c in outcome["collections"]] == ["c"]
    assert {index["method"] for index in outcome["indexes"][0]["indexes"]} == {"btree", "gin"}
    day = outcome["last_24_hours"]
    assert (day["total_requests"], day["success_rate"]) == (1, 1.0)
    assert set(day) == {"total_requests", "total_tokens", "success_rate", "avg_duration_ms", "cost_usd"}
    json.dumps(outcome)


def test_only_tasks_there_are_are_scheduled() -> None:
    assert set(SCHEDULE) <= set(TASKS)
    assert all(seconds > 0 for seconds in SCHEDULE.values())
