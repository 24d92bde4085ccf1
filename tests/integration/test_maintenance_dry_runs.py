"""Every task can be asked what it would do, and then changes nothing: no row, no index, no item of the ledger."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from mypy_boto3_dynamodb import DynamoDBClient
from psycopg import sql

from tests.fixtures.api import Api, Tenant, open_api, settings_for
from tests.fixtures.vectors import fresh_database
from tests.integration.test_maintenance_indexes import until
from vecmeter import runtime as runtime_module
from vecmeter.ledger.demands import Demand
from vecmeter.ledger.embeddings import EmbeddingStore
from vecmeter.ledger.keys import CreatedKey, parse_secret
from vecmeter.ledger.model import Cost, Operation, Role, Scope, Status, UsageRecord
from vecmeter.tasks import TASKS, run_task
from vecmeter.vectors.migrations.runner import migration_names
from vecmeter.vectors.tables import hnsw_name
from vecmeter_local.postgres import PostgresServer

# They read; or there is no bucket, nothing to migrate, and no index large enough to tune.
WITHOUT_WORK = {
    "get_index_stats",
    "export_stats",
    "reconcile_counters",
    "export_usage",
    "migrate",
    "tune_ef_search",
}
_TABLES = "SELECT tablename FROM pg_tables WHERE schemaname = 'vecmeter' AND tablename <> 'maintenance_runs' ORDER BY 1"
# Files of tables and indexes: whatever is built anew has another.
_FILES = """
    SELECT relname, relfilenode FROM pg_class WHERE relnamespace = 'vecmeter'::regnamespace
    AND relname NOT LIKE 'maintenance_runs%' AND relkind IN ('r', 'i') ORDER BY 1
"""


@dataclass(frozen=True)
class Scene:
    """A service in which nearly every task has something to do."""

    api: Api
    tenant: Tenant
    dynamodb: DynamoDBClient
    table_name: str

    def state(self) -> dict[str, Any]:
        """All that is stored, but for the history of runs."""
        found: dict[str, Any] = {}
        with psycopg.connect(self.api.runtime.dsn(), autocommit=True) as connection:
            found["files"] = connection.execute(_FILES).fetchall()
            for (table,) in connection.execute(_TABLES).fetchall():
                rows = sql.SQL("SELECT t::text FROM vecmeter.{} t ORDER BY 1").format(sql.Identifier(table))
                found[table] = connection.execute(rows).fetchall()
            vacuumed = "SELECT relname, vacuum_count, analyze_count FROM pg_stat_user_tables ORDER BY 1"
            found["vacuumed"] = [row for row in connection.execute(vacuumed) if row[0] != "maintenance_runs"]
        pages = self.dynamodb.get_paginator("scan").paginate(TableName=self.table_name)
        items = [item for page in pages for item in page["Items"]]
        found["ledger"] = sorted(json.dumps(item, sort_keys=True, default=str) for item in items)
        return found


def orders(name: str, **options: Any) -> dict[str, Any]:
    return options | ({"force": True} if "force" in TASKS[name].options else {})


@pytest.fixture
def scene(
    database_url: str, table_name: str, dynamodb_client: DynamoDBClient, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Scene]:
    monkeypatch.setattr(runtime_module, "LOOK_SECONDS", 0)
    with open_api(settings_for(database_url, table_name, index_threshold_vectors=2)) as api:
        tenant = api.tenant()
        tenant.collection("indexed")
        tenant.write("/indexed", *[{"id": f"v{i}", "vector": [1.0, i, 2.0]} for i in range(3)])
        tenant.collection("half")
        tenant.write("/half", *[{"id": id, "vector": [1, 2, ord(id)]} for id in "abc"])
        until(lambda: _actions(run_task(api.runtime, "build_indexes", {})) == ["none", "none"])
        _age_the_database(api)
        _age_the_ledger(api, tenant)
        yield Scene(api, tenant, dynamodb_client, table_name)


def _actions(outcome: dict[str, Any]) -> list[str]:
    """Of each collection; a write that brings it over the threshold has its index built as well."""
    return [one.get("reason") or one["action"] for one in outcome["collections"]]


def _age_the_database(api: Api) -> None:
    """Vectors have expired, an account is wrong, and an index is what a build left that died."""
    with psycopg.connect(api.runtime.dsn(), autocommit=True) as connection:
        for (number,) in connection.execute("SELECT collection_id FROM vecmeter.collections").fetchall():
            table = sql.Identifier("vecmeter", f"records_{number}")
            expire = sql.SQL("UPDATE {} SET expires_at = now() - interval '1 hour' WHERE id IN ('a', 'v0')")
            connection.execute(expire.format(table))
        connection.execute("UPDATE vecmeter.stock SET vectors = 99")
        leftover = "UPDATE pg_index SET indisvalid = false WHERE indexrelid = to_regclass('vecmeter.' || %s)"
        [(number, index_id), *_] = connection.execute("SELECT collection_id, index_id FROM vecmeter.hnsw_indexes")
        connection.execute(leftover, [hnsw_name(number, index_id)])


def _age_the_ledger(api: Api, tenant: Tenant) -> None:
    """Records past their time and rolled up, others that are to be; a request that died; a change that was cut off; a
    limit that was crossed unseen; stored bytes that are to be billed; vectors of texts that are remembered.
    """
    runtime, clock = api.runtime, api.clock
    api.clock.advance(days=runtime.settings.usage_retention_days + 1)
    run_task(runtime, "roll_up_usage", {})
    system = api.system_admin()
    prices = {"version": "stored", "storage_gb_hour": 10**9, "search": 1, "request": 1, "vector_written": 1, "token": 1}
    assert api.call("PUT", "/admin/prices", system, json=prices).status_code == 200
    spent = api.create_key(tenant.user, tenant.project, Role.SEARCH)
    assert api.call("GET", tenant.base, spent).status_code == 200
    runtime.ledger.admit(_search(tenant.key, tenant.project))
    clock.advance(hours=2)
    assert api.call("GET", tenant.base, spent).status_code == 200
    runtime.usage.keep(_search_record(tenant, clock()))
    _cross(api, spent)
    # As a change leaves it that is cut off right after its transaction.
    api.runtime.policies.propagate = lambda *_: 0  # type: ignore[method-assign]
    api.runtime.policies.change(Scope.USER, tenant.user, lambda policy: policy.__class__(daily_requests=10**6))
    del api.runtime.policies.propagate
    clock.advance(seconds=runtime.settings.hold_seconds + 120)
    store = EmbeddingStore(runtime.keys._table, 7, clock)
    store.put_many({bytes(32): b"1234"})


def _search(key: CreatedKey, project: str) -> Demand:
    return Demand(
        request_id="dead",
        credential=parse_secret(key.secret),
        role=Role.SEARCH,
        operation=Operation.SEARCH,
        endpoint="POST /search",
        project_id=project,
        request_bytes=1,
        cost=Cost(tokens=4, micro_usd=9),
    )


def _search_record(tenant: Tenant, now: datetime) -> UsageRecord:
    return UsageRecord(
        request_id="once",
        started_at=now,
        api_key_id=tenant.key.key.api_key_id,
        user_id=tenant.user,
        project_id=tenant.project,
        operation=Operation.SEARCH,
        endpoint="POST /search",
        status=Status.SUCCESS,
    )


def _cross(api: Api, spent: CreatedKey) -> None:
    """One request is all of the day's, and nobody has seen it."""
    api.runtime.keys.change_policy(spent.key.api_key_id, lambda policy: policy.__class__(daily_requests=1))


@pytest.mark.parametrize("name", TASKS)
def test_a_dry_run_changes_nothing_where_a_run_does(scene: Scene, name: str) -> None:
    runtime = scene.api.runtime
    before = scene.state()
    outcome = run_task(runtime, name, orders(name, dry_run=True))
    assert (outcome["status"], outcome["error"]) == ("ok", None)
    assert outcome["message"].startswith("dry run: ") or "EXPORT_BUCKET" in outcome["message"]
    json.dumps(outcome)
    after = scene.state()
    changed = {part for part in before if part != "vacuumed" and before[part] != after.get(part)}
    assert not changed
    assert before.keys() == after.keys()
    outcome = run_task(runtime, name, orders(name))
    assert outcome["status"] == "ok"
    assert (scene.state() != before) is (name not in WITHOUT_WORK), "the scene has work for it"


@pytest.mark.parametrize(
    ("name", "planned", "done"),
    [
        ("reap_dead_holds", ("dead", 1), ("buried", 1)),
        ("sweep_dead_holds", ("dead", 1), ("buried", 1)),
        ("sweep_alerts", ("crossed", 1), ("alerts", 1)),
        ("bill_storage", ("unbilled", 1), ("projects", 1)),
        ("finish_policies", ("unfinished", 1), ("policies", 1)),
    ],
)
def test_a_dry_run_tells_what_the_run_then_does_and_afterwards_nothing_is_left(
    scene: Scene, name: str, planned: tuple[str, int], done: tuple[str, int]
) -> None:
    def amount(value: Any) -> int:
        return value if isinstance(value, int) else len(value)

    runtime = scene.api.runtime
    foreseen = run_task(runtime, name, {"dry_run": True})
    assert amount(foreseen[planned[0]]) >= planned[1]
    outcome = run_task(runtime, name, {})
    if name != "sweep_alerts":
        assert outcome[done[0]] == amount(foreseen[planned[0]])
    else:
        written = runtime.alerts.read(datetime(2020, 1, 1, tzinfo=UTC), runtime.clock() + timedelta(days=1))
        assert len(list(written)) == amount(foreseen["crossed"])
    assert amount(run_task(runtime, name, {"dry_run": True})[planned[0]]) == 0


def test_a_dry_run_of_roll_ups_says_which_step_each_hour_would_go(scene: Scene) -> None:
    runtime = scene.api.runtime
    foreseen = run_task(runtime, "roll_up_usage", {"dry_run": True})["hours"]
    assert foreseen["closed"] >= 1
    assert run_task(runtime, "roll_up_usage", {})["hours"] == foreseen


def test_a_dry_run_of_the_cache_counts_what_would_go_and_false_means_a_run(scene: Scene) -> None:
    runtime = scene.api.runtime
    foreseen = run_task(runtime, "clear_cache", {"dry_run": True})
    assert (len(foreseen["collections"]), foreseen["embeddings"]) == (2, 1)
    outcome = run_task(runtime, "clear_cache", {"dry_run": False})
    assert (outcome["collections_cleared"], outcome["embeddings_deleted"]) == (2, 1)
    assert run_task(runtime, "clear_cache", {"dry_run": True})["embeddings"] == 0


def test_a_dry_run_of_migrations_names_them_and_makes_no_schema(
    postgres_server: PostgresServer, table_name: str
) -> None:
    with fresh_database(postgres_server, None) as dsn, open_api(settings_for(dsn, table_name)) as api:
        outcome = run_task(api.runtime, "migrate", {"dry_run": True})
        assert outcome["pending"] == migration_names()
        with psycopg.connect(dsn) as connection:
            assert connection.execute("SELECT to_regnamespace('vecmeter')").fetchone() == (None,)
