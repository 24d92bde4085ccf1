"""Limits over HTTP: policies of every scope, what a refusal says, and that a change acts at once."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.fixtures.api import Api, Tenant, World, problem

SEARCH = {"vector": [1, 2, 3], "top_k": 1}


@pytest.fixture
def tenant(world: World) -> Tenant:
    return world.tenant


def put(world: World, scope: str, scope_id: str, **policy: Any) -> Any:
    answer = world.tenant.api.call("PUT", f"/admin/quotas/{scope}/{scope_id}", world.system, json=policy)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.fixture
def system_policy(world: World) -> Any:
    """Set the system's policy, which all tests on this table share, for the length of a test."""
    yield lambda **policy: put(world, "system", "system", **policy)
    world.tenant.api.call("DELETE", "/admin/quotas/system/system", world.system)


def search(tenant: Tenant, key: Any = None) -> Any:
    return tenant.call("POST", "/c/search", json=SEARCH, key=key or tenant.key)


def ids(world: World) -> dict[str, str]:
    tenant = world.tenant
    return {"key": tenant.key.key.api_key_id, "project": tenant.project, "user": tenant.user}


@pytest.mark.parametrize("scope", ["key", "project", "user"])
@pytest.mark.parametrize(
    "limit", ["daily_requests", "requests_per_minute", "requests_per_hour", "requests_per_day", "searches_per_day"]
)
def test_a_limit_of_any_scope_admits_so_many_and_says_why_not_more(world: World, scope: str, limit: str) -> None:
    tenant, scope_id = world.tenant, ids(world)[scope]
    policy = put(world, scope, scope_id, **{limit: 3})
    before = policy["quotas"][limit]["used"]
    answers = [search(tenant) for _ in range(5)]
    statuses = [answer.status_code for answer in answers]
    assert statuses == [200] * (3 - before) + [429] * (2 + before)
    body = problem(answers[-1], 429, "limit_exceeded")
    [violated] = body["violated_policies"]
    assert (violated["name"], violated["scope"], violated["limit"], violated["used"]) == (limit, scope, 3, 3)
    assert violated["remaining"] == 0
    wait = int(answers[-1].headers["Retry-After"])
    assert wait >= 1
    assert datetime.fromisoformat(violated["resets_at"]) > tenant.api.clock()
    tenant.api.clock.advance(seconds=wait)
    assert search(tenant).status_code == 200


def test_put_replaces_get_shows_and_delete_removes(world: World) -> None:
    api, path = world.tenant.api, f"/admin/quotas/project/{world.tenant.project}"
    put(world, "project", world.tenant.project, daily_requests=5, notes="trial", daily_cost_usd=1.5)
    shown = put(world, "project", world.tenant.project, daily_tokens=50, alert_threshold_pct=70)
    assert shown == api.call("GET", path, world.admin).json()
    assert shown | {"usage": None} == {
        "scope": "project",
        "id": world.tenant.project,
        "active": True,
        "daily_tokens": 50,
        "alert_threshold_pct": 70,
        "defaults": {},
        "effective": {"daily_tokens": 50, "alert_threshold_pct": 70, "alert_repeat_hourly": False},
        "quotas": shown["quotas"],
        "usage": None,
    }
    assert shown["quotas"]["daily_tokens"]["limit"] == 50
    assert api.call("DELETE", path, world.admin).status_code == 200
    assert api.call("GET", path, world.admin).json()["quotas"] == {}


def test_money_is_in_dollars(world: World) -> None:
    tenant = world.tenant
    before = tenant.api.used(tenant.key)["micro_usd"]
    limit = (before + 12) / 1_000_000  # a search costs 5
    put(world, "key", ids(world)["key"], daily_cost_usd=limit)
    statuses = [search(tenant).status_code for _ in range(4)]
    assert statuses == [200, 200, 429, 429]
    report = tenant.api.call("GET", "/quota/me", tenant.key).json()
    assert report["daily_cost_usd"] == limit
    assert report["quotas"]["daily_cost_usd"]["used"] == (before + 10) / 1_000_000
    body = problem(search(tenant), 429, "limit_exceeded")
    assert body["violated_policies"][0]["limit"] == limit


def test_the_assistant_profile_holds_for_every_key(world: World, system_policy: Any) -> None:
    shown = system_policy(profile="assistant")
    assert (shown["max_concurrent"], shown["requests_per_hour"], shown["daily_cost_usd"]) == (100, 1000, 100)
    assert shown["defaults"]["key"] == {"requests_per_minute": 10, "requests_per_hour": 100, "requests_per_day": 500}
    assert shown["defaults"]["user"] == {"daily_cost_usd": 5}
    statuses = [search(world.tenant).status_code for _ in range(12)]
    assert statuses == [200] * 10 + [429] * 2


def test_of_many_at_once_exactly_the_limit_of_the_project_is_admitted(world: World) -> None:
    tenant, api = world.tenant, world.tenant.api
    keys = [world.other, tenant.key, api.create_key(tenant.user, tenant.project, *tenant.key.key.roles)]
    put(world, "project", tenant.project, requests_per_hour=25)
    statuses: list[int] = []

    def ask(number: int) -> None:
        for _ in range(10):
            statuses.append(search(tenant, keys[number % 3]).status_code)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses.count(200) == 25
    assert statuses.count(429) == 65


def test_headers_name_every_limit_that_holds(world: World) -> None:
    put(world, "project", world.tenant.project, requests_per_minute=50, daily_tokens=1000, max_concurrent=5)
    put(world, "key", ids(world)["key"], requests_per_minute=20)
    headers = search(world.tenant).headers
    policies, states = headers["RateLimit-Policy"], headers["RateLimit"]
    for name in (
        '"daily_requests";q=10000;w=86400',
        '"requests_per_minute";q=20;w=60',
        '"project_requests_per_minute";q=50;w=60',
    ):
        assert name in policies
    assert '"project_daily_tokens";q=1000;w=86400;qu="tokens"' in policies
    assert '"project_max_concurrent";q=5;qu="concurrent-requests"' in policies
    assert '"requests_per_minute";r=19;t=' in states
    assert '"project_requests_per_minute";r=49;t=' in states


@pytest.mark.parametrize(
    ("scope", "body", "path"),
    [
        ("key", {"daily_requests": -1}, "daily_requests"),
        ("key", {"daily_requests": 1.5}, "daily_requests"),
        ("key", {"daily_cost_usd": 0.0000001}, "daily_cost_usd"),
        ("key", {"requests_per_second": 1}, "requests_per_second"),
        ("key", {"profile": "tyrant"}, "profile"),
        ("key", {"max_vectors": 5}, "max_vectors"),
        ("key", {"defaults": {"key": {}}}, "defaults.key"),
        ("project", {"defaults": {"user": {}}}, "defaults.user"),
        ("project", {"defaults": {"key": {"daily_requests": "x"}}}, "defaults.key.daily_requests"),
        ("user", {"alert_threshold_pct": 0}, "alert_threshold_pct"),
    ],
)
def test_a_wrong_policy_is_422_with_its_path_and_changes_nothing(
    world: World, scope: str, body: Any, path: str
) -> None:
    api, url = world.tenant.api, f"/admin/quotas/{scope}/{ids(world)[scope]}"
    before = api.call("GET", url, world.system).json()
    found = problem(api.call("PUT", url, world.system, json=body), 422, "invalid_request")
    assert any(error["path"].startswith(path) for error in found["errors"]), found
    after = api.call("GET", url, world.system).json()
    assert before["quotas"] == after["quotas"]


def test_a_user_does_not_change_its_own_limits_nor_the_systems(world: World) -> None:
    api = world.tenant.api
    for path in (f"/admin/quotas/user/{world.tenant.user}", "/admin/quotas/system/system"):
        for method, body in (("PUT", {"daily_requests": 5}), ("DELETE", None)):
            problem(api.call(method, path, world.admin, json=body), 403, "missing_role")
    assert api.call("GET", f"/admin/quotas/user/{world.tenant.user}", world.admin).status_code == 200
    problem(api.call("GET", "/admin/quotas/system/system", world.admin), 403, "missing_role")
    problem(api.call("GET", "/admin/quotas/user/somebody", world.admin), 404, "not_found")


def test_a_collection_has_limits_of_its_own(world: World) -> None:
    api, tenant = world.tenant.api, world.tenant
    path = f"/admin/quotas/collection/{tenant.project}:c"
    size = tenant.call("GET", "/c").json()["count"]
    assert api.call("PUT", path, world.admin, json={"max_vectors": size + 1}).json()["max_vectors"] == size + 1
    vectors = [{"id": f"new{n}", "vector": [1, 2, 3]} for n in range(2)]
    body = problem(tenant.call("POST", "/c/vectors", json={"vectors": vectors}), 429, "limit_exceeded")
    [violated] = body["violated_policies"]
    assert (violated["name"], violated["scope"], violated["used"]) == ("max_vectors", "collection", size)
    assert tenant.call("POST", "/c/vectors", json={"vectors": vectors[:1]}).status_code == 200
    assert api.call("DELETE", path, world.admin).status_code == 200
    assert tenant.call("POST", "/c/vectors", json={"vectors": vectors}).status_code == 200
    problem(
        api.call("GET", f"/admin/quotas/collection/{tenant.project}:none", world.admin), 404, "collection_not_found"
    )
    problem(api.call("GET", "/admin/quotas/collection/nobody:c", world.admin), 404, "collection_not_found")


def test_a_batch_weighs_what_it_holds(world: World) -> None:
    tenant = world.tenant
    put(world, "project", tenant.project, writes_per_day=5)
    batch = [{"id": f"b{n}", "vector": [1, 2, 3]} for n in range(6)]
    body = problem(tenant.call("POST", "/c/vectors", json={"vectors": batch}), 422, "cost_exceeds_limit")
    assert "writes_per_day" in body["detail"]
    assert tenant.call("POST", "/c/vectors", json={"vectors": batch[:4]}).status_code == 200
    problem(tenant.call("POST", "/c/vectors", json={"vectors": batch[:2]}), 429, "limit_exceeded")
    wrong = [{"id": "w", "vector": [1, 2]}]
    assert tenant.call("POST", "/c/vectors", json={"vectors": wrong}).status_code == 422, "and costs no write"
    assert tenant.call("POST", "/c/vectors", json={"vectors": batch[:1]}).status_code == 200


def test_admin_routes_are_never_limited(world: World) -> None:
    put(world, "user", world.tenant.user, daily_requests=0, max_concurrent=0)
    problem(search(world.tenant), 429, "limit_exceeded")
    assert world.tenant.api.call("GET", "/admin/keys", world.admin).status_code == 200


def test_a_day_later_the_limit_is_open(shared_api: Api, world: World) -> None:
    put(world, "project", world.tenant.project, daily_requests=1)
    search(world.tenant)
    assert search(world.tenant).status_code == 429
    shared_api.clock.now += timedelta(days=1)
    assert search(world.tenant).status_code == 200
