"""Usage, quotas, costs and maintenance through HTTP, in the shapes the contract promises."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.fixtures.api import Api, World, make_world, open_api, problem, settings_for
from vecmeter.ledger.model import Role

TOTALS = {
    "total_requests",
    "refused_requests",
    "total_tokens",
    "total_vectors",
    "total_bytes",
    "avg_duration_ms",
    "success_rate",
    "cost_usd",
}


@pytest.fixture
def used(api: Api) -> World:
    """A world whose key has made two searches, one failure and one refused request besides what set it up."""
    world = make_world(api)
    tenant = world.tenant
    for _ in range(2):
        assert tenant.call("POST", "/c/search", json={"vector": [1, 0, 0]}).status_code == 200
    assert tenant.call("GET", "/missing").status_code == 404
    limit = {"daily_requests": 0}
    refused = api.create_key(tenant.user, tenant.project, Role.SEARCH, policy=limit)
    problem(tenant.call("GET", "/c", key=refused), 429)
    api.clock.advance(seconds=1)  # what is asked for ends before the present moment
    return world


def test_detailed_usage_has_the_shape_of_the_contract_and_adds_up(used: World) -> None:
    api, tenant = used.tenant.api, used.tenant
    body = api.call("GET", f"/admin/usage/detailed?project_id={tenant.project}", used.admin).json()
    assert set(body) == TOTALS | {"start", "end", "top_endpoints", "by_operation", "series"}
    assert (body["total_requests"], body["refused_requests"]) == (5, 1)
    assert body["success_rate"] == pytest.approx(4 / 5)
    assert body["avg_duration_ms"] > 0
    operations = {name: totals["total_requests"] for name, totals in body["by_operation"].items()}
    assert operations == {"collection": 2, "search": 2, "upsert": 1}
    assert all(set(totals) == TOTALS for totals in body["by_operation"].values())
    prefix = "/v1/projects/{project}/collections"
    assert {entry["endpoint"]: entry["requests"] for entry in body["top_endpoints"]} == {
        f"POST {prefix}/{{collection}}/search": 2,
        f"POST {prefix}": 1,
        f"POST {prefix}/{{collection}}/vectors": 1,
        f"GET {prefix}/{{collection}}": 1,
    }
    [hour] = body["series"]
    assert hour["start"] == api.clock().replace(minute=0, second=0).isoformat().replace("+00:00", "Z")
    assert hour["total_requests"] == 5
    for name in ("total_bytes", "total_vectors", "cost_usd"):
        assert body[name] == pytest.approx(sum(totals[name] for totals in body["by_operation"].values()))
    assert datetime.fromisoformat(body["end"]) - datetime.fromisoformat(body["start"]) == timedelta(hours=24)


def test_usage_is_narrowed_by_key_project_user_operation_and_time(used: World) -> None:
    api, tenant = used.tenant.api, used.tenant
    search = tenant.call("POST", "/c/search", key=used.admin, json={"vector": [1, 0, 0]})
    assert search.status_code == 200
    api.clock.advance(hours=2)

    def total(query: str, key: Any = used.admin) -> int:
        body = api.call("GET", f"/admin/usage/detailed?{query}", key).json()
        return int(body["total_requests"])

    key = tenant.key.key.api_key_id
    assert total(f"api_key_id={key}") == 5
    assert total(f"api_key_id={key}&operation=search") == 2
    # A key of the whole user worked in the project, too.
    assert total(f"project_id={tenant.project}") == 6
    assert total(f"project_id={tenant.project}", used.system) == 6
    assert total(f"project_id={tenant.project}&api_key_id={used.admin.key.api_key_id}") == 1
    assert total(f"user_id={tenant.user}&operation=search", used.system) == 3
    assert total(f"project_id={tenant.project}&hours=1") == 0
    tenant.call("POST", "/c/search", key=used.system, json={"vector": [1, 0, 0]})
    api.clock.advance(seconds=1)
    # What the operator did in the project is its usage, and none of the user's.
    assert total(f"project_id={tenant.project}", used.system) == 7
    assert total(f"user_id={tenant.user}&operation=search", used.system) == 3


def test_records_are_listed_newest_first_page_by_page_and_none_is_missed(api: Api) -> None:
    """Also where several keys have records of the same millisecond."""
    world = make_world(api)
    tenant = world.tenant
    keys = [tenant.key, world.other, world.admin]
    ids = []
    for turn in range(9):
        answer = tenant.call("GET", "/c", key=keys[turn % 3])
        ids.append(answer.headers["x-request-id"])
        if turn == 4:
            api.clock.advance(milliseconds=7)
    api.clock.advance(seconds=1)
    base = f"/admin/usage/records?project_id={tenant.project}&operation=collection"
    whole = api.call("GET", base, world.admin).json()["records"]
    assert set(ids) < {record["request_id"] for record in whole}
    moments = [datetime.fromisoformat(record["started_at"]) for record in whole]
    assert moments == sorted(moments, reverse=True)
    for limit in (1, 2, 4):
        found, token = [], ""
        while True:
            body = api.call("GET", f"{base}&limit={limit}{token}", world.admin).json()
            found += body["records"]
            if "next_page_token" not in body:
                break
            token = f"&page_token={body['next_page_token']}"
        assert found == whole


def test_the_request_id_of_an_answer_finds_its_usage_record(used: World) -> None:
    api, tenant = used.tenant.api, used.tenant
    body = {"vector": [1, 0, 0], "top_k": 1, "namespace": "n", "filter": {"k": 1}}
    answer = tenant.call("POST", "/c/search", json=body)
    api.clock.advance(seconds=1)
    listed = api.call("GET", f"/admin/usage/records?api_key_id={tenant.key.key.api_key_id}", used.admin).json()
    [record] = [r for r in listed["records"] if r["request_id"] == answer.headers["x-request-id"]]
    assert record.pop("duration_ms") > 0
    assert record == {
        "request_id": answer.headers["x-request-id"],
        "started_at": (api.clock() - timedelta(seconds=1)).isoformat().replace("+00:00", "Z"),
        "api_key_id": tenant.key.key.api_key_id,
        "user_id": tenant.user,
        "project_id": tenant.project,
        "operation": "search",
        "endpoint": "POST /v1/projects/{project}/collections/{collection}/search",
        "status": "success",
        "collection": "c",
        "namespace": "n",
        "requests": 1,
        "tokens": 0,
        "vectors": 0,
        "request_bytes": len(json.dumps(body)),
        "response_bytes": len(answer.content),
        "cost_usd": 5e-06,
        "price_version": "default-1",
        "had_filter": True,
        "cache": "miss",
    }


def test_quotas_are_reported_with_percentages_and_what_is_exceeded(used: World) -> None:
    api, tenant = used.tenant.api, used.tenant
    path = f"/admin/usage/quota/{tenant.key.key.api_key_id}"
    asked = {"daily_requests": 4, "monthly_tokens": 100, "alert_threshold_pct": 90, "notes": "careful"}
    changed = api.call("POST", path, used.admin, json=asked)
    assert changed.status_code == 200
    body = changed.json()
    assert body == api.call("GET", path, used.admin).json()
    quotas = body.pop("quotas")
    assert body == {
        "api_key_id": tenant.key.key.api_key_id,
        "user_id": tenant.user,
        "project_id": tenant.project,
        "active": True,
        "notes": "careful",
        "daily_requests": 4,
        "monthly_requests": 300_000,
        "daily_tokens": 1_000_000,
        "monthly_tokens": 100,
        "alert_threshold_pct": 90,
        "alert_repeat_hourly": False,
    }
    assert set(quotas) == {"daily_requests", "monthly_requests", "daily_tokens", "monthly_tokens"}
    midnight = (api.clock() + timedelta(days=1)).replace(hour=0, minute=0, second=0)
    assert quotas["daily_requests"] == {
        "scope": "key",
        "limit": 4,
        "used": 5,
        "remaining": 0,
        "percentage": 125.0,
        "exceeded": True,
        "resets_at": midnight.isoformat().replace("+00:00", "Z"),
    }
    assert quotas["monthly_requests"].items() >= {"used": 5, "remaining": 299_995, "exceeded": False}.items()
    problem(tenant.call("GET", "/c"), 429)
    # What is left out stays; null goes back to the default.
    body = api.call("POST", path, used.admin, json={"daily_requests": None}).json()
    assert (body["daily_requests"], body["monthly_tokens"], body["notes"]) == (10_000, 100, "careful")
    assert tenant.call("GET", "/c").status_code == 200


def test_defaults_are_those_of_the_owner(used: World) -> None:
    body = used.tenant.api.call("GET", "/quota/me", used.tenant.key).json()
    limits = {name: body[name] for name in ("daily_requests", "monthly_requests", "daily_tokens", "monthly_tokens")}
    assert limits == {
        "daily_requests": 10_000,
        "monthly_requests": 300_000,
        "daily_tokens": 1_000_000,
        "monthly_tokens": 30_000_000,
    }
    assert body["alert_threshold_pct"] == 80


def test_any_key_sees_its_own_usage_quota_and_costs_for_free(used: World) -> None:
    api, tenant = used.tenant.api, used.tenant
    before = api.used(tenant.key)
    usage = api.call("GET", "/usage/me", tenant.key)
    assert usage.json()["total_requests"] == 5
    assert (
        usage.json()
        == api.call("GET", f"/admin/usage/detailed?api_key_id={tenant.key.key.api_key_id}", used.admin).json()
    )
    assert api.call("GET", "/usage/me?hours=1", used.other).json()["total_requests"] == 0
    quota = api.call("GET", "/quota/me", tenant.key).json()
    assert quota == api.call("GET", f"/admin/usage/quota/{tenant.key.key.api_key_id}", used.admin).json()
    costs = api.call("GET", "/costs/me", tenant.key).json()
    spent = before["micro_usd"] / 1_000_000
    *earlier, today = costs.pop("days")
    assert costs == {"today_usd": spent, "month_usd": spent, "price_version": "default-1"}
    assert (today["date"], today["cost_usd"], today["requests"]) == (str(api.clock().date()), spent, 5)
    assert [(day["cost_usd"], day["requests"], day["by_operation"]) for day in earlier] == [(0.0, 0, {})] * 29
    assert spent == pytest.approx(usage.json()["cost_usd"]) != 0
    assert api.used(tenant.key) == before


def test_the_bill_is_the_sum_of_what_the_answers_said(api: Api) -> None:
    tenant = api.tenant()
    said = []
    for method, path, body in (
        ("POST", "", {"name": "c", "dimension": 3}),
        ("POST", "/c/vectors", {"vectors": [{"id": str(i), "vector": [1, 2, i]} for i in range(7)]}),
        ("POST", "/c/add", {"id": "x", "vector": [1, 2, 3], "document": "twelve chars"}),
        ("PUT", "/c/vectors/x", {"vector": [1, 2, 3]}),
        ("PATCH", "/c/vectors/x", {"set": {"k": 1}}),
        ("POST", "/c/search", {"vector": [1, 2, 3]}),
        ("POST", "/c/vectors/fetch", {"ids": ["x"]}),
        ("GET", "/c/vectors", None),
        ("GET", "/c", None),
        ("DELETE", "/c/vectors/x", None),
    ):
        answer = tenant.call(method, path, json=body)
        said.append(answer.json()["usage"])
    assert tenant.call("GET", "/missing").status_code == 404
    micro_usd = sum(round(usage["cost_usd"] * 1_000_000) for usage in said)
    used = api.used(tenant.key)
    assert used == {"requests": len(said) + 1, "tokens": 3, "micro_usd": micro_usd}
    records = api.records(tenant.key)
    assert sum(record.micro_usd for record in records) == micro_usd
    assert sum(record.requests for record in records) == used["requests"]
    assert sum(record.vectors for record in records) == sum(usage["vectors"] for usage in said)


def test_with_tracking_off_keys_still_count_and_nothing_is_limited_or_recorded(
    database_url: str, table_name: str
) -> None:
    with open_api(settings_for(database_url, table_name, usage_tracking_enabled=False)) as api:
        tenant = api.tenant()
        key = api.create_key(tenant.user, tenant.project, Role.WRITE, Role.SEARCH, policy={"daily_requests": 0})
        assert tenant.call("POST", key=key, json={"name": "c", "dimension": 3}).status_code == 201
        answer = tenant.call("POST", "/c/search", key=key, json={"vector": [1, 2, 3]})
        assert answer.status_code == 200
        assert "ratelimit" not in answer.headers
        problem(tenant.call("GET", "/c", key=api.create_key(tenant.user, tenant.project, Role.WRITE)), 403)
        problem(tenant.call("GET", "/c", key=None, headers={}), 401)
        assert api.used(key) == {"requests": 0, "tokens": 0, "micro_usd": 0}
        assert api.records(key) == []


def test_maintenance_is_run_and_its_history_kept(api: Api) -> None:
    world = make_world(api)
    tenant, system = world.tenant, world.system
    for task in ("vacuum_analyze", "reindex_hnsw", "build_indexes", "get_index_stats"):
        answer = api.call("POST", f"/admin/maintenance/{task}", system)
        assert answer.status_code == 200
        body = answer.json()
        assert (body["task"], body["status"], body.get("error")) == (task, "ok", None), body
        [entry] = [c for c in body["collections"] if c["project_id"] == tenant.project]
        assert entry["collection"] == "c"
    chosen = {"project_id": tenant.project, "collection": "c"}
    assert len(api.call("POST", "/admin/maintenance/vacuum_analyze", system, json=chosen).json()["collections"]) == 1
    assert api.call("POST", "/admin/maintenance/purge_usage_records", system).json()["deleted"] == 0
    first = api.call("GET", "/admin/maintenance/runs?limit=4", system).json()
    assert [run["task"] for run in first["runs"]][:2] == ["purge_usage_records", "vacuum_analyze"]
    run = first["runs"][0]
    assert set(run) == {"run_id", "task", "status", "message", "figures", "started_at", "finished_at"}
    rest = api.call("GET", f"/admin/maintenance/runs?page_token={first['next_page_token']}", system).json()
    numbers = [run["run_id"] for run in first["runs"] + rest["runs"]]
    assert numbers == sorted(numbers, reverse=True)
    assert len(numbers) == 6
    problem(api.call("POST", "/admin/maintenance/fly", system), 404, "task_not_found")
    # What hands out keys or changes the schema is not for the network.
    for task in ("migrate", "create_admin_key"):
        problem(api.call("POST", f"/admin/maintenance/{task}", system), 404, "task_not_found")
    assert [
        e["path"]
        for e in problem(api.call("POST", "/admin/maintenance/vacuum_analyze", system, json={"collection": "c"}), 422)[
            "errors"
        ]
    ] == ["project_id"]


def test_statistics_show_the_database_and_the_last_day(api: Api) -> None:
    world = make_world(api)
    api.clock.advance(seconds=1)
    body = api.call("GET", "/admin/maintenance/stats", world.system).json()
    assert (body["status"], body["total_vectors"]) == ("ok", 2)
    assert body["database"].items() >= {"pgvector_supported": True}.items()
    assert body["last_24_hours"]["total_requests"] >= 2
    assert [entry["collection"] for entry in body["indexes"]] == ["c"]
