"""429: a limit says no, before any work, and says which, how far it is used and when it resets."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.fixtures.api import Api, Tenant, World, problem
from tests.fixtures.routes import BY_NAME, EVERY_ROUTE, ROUTES, Route
from vecmeter.http.pinecone.errors import is_pinecone
from vecmeter.ledger.model import Role

LIMITED = [route for route in EVERY_ROUTE if route.role in (Role.SEARCH, Role.WRITE)]
UNLIMITED = [route for route in ROUTES if route not in LIMITED]
ITEM = re.compile(r'"([a-z_]+)";([a-z])=(\d{1,15});([a-z])=(\d{1,15})(;qu="[a-z-]+")?')


def parse(header: str) -> dict[str, dict[str, int]]:
    """A structured list (RFC 9651) of strings with two integer parameters each, and perhaps a unit."""
    members = header.split(", ")
    matches = [ITEM.fullmatch(member) for member in members]
    assert all(matches), header
    return {m[1]: {m[2]: int(m[3]), m[4]: int(m[5])} for m in matches if m}


@pytest.mark.parametrize("route", LIMITED, ids=str)
def test_a_key_at_its_limit_is_refused_on_every_metered_route_and_nothing_happens(world: World, route: Route) -> None:
    tenant, api = world.tenant, world.tenant.api
    policy = {"daily_requests": 1, "monthly_requests": 5}
    key = api.create_key(tenant.user, tenant.project, Role.SEARCH, Role.WRITE, policy=policy)
    assert tenant.call("GET", "/c/vectors", key=key).status_code == 200
    contents, used = tenant.contents(), api.used(key)
    for _ in range(3):
        answer = world.call(route, key)
        body = problem(answer, 429, "limit_exceeded")
        tomorrow = (api.clock() + timedelta(days=1)).replace(hour=0)
        assert body["violated_policies"] == [
            {
                "name": "daily_requests",
                "scope": "key",
                "limit": 1,
                "used": 1,
                "remaining": 0,
                "resets_at": tomorrow.isoformat().replace("+00:00", "Z"),
            }
        ]
        if is_pinecone(route.path):
            assert "retry-after" not in answer.headers  # their clients would wait for it
        else:
            assert int(answer.headers["retry-after"]) == (tomorrow - api.clock()).total_seconds()
        assert parse(answer.headers["ratelimit"]) == {"daily_requests": {"r": 0, "t": 12 * 3600}}
        assert parse(answer.headers["ratelimit-policy"]) == {"daily_requests": {"q": 1, "w": 86_400}}
    assert (tenant.contents(), api.used(key)) == (contents, used)


@pytest.mark.parametrize("route", UNLIMITED, ids=str)
def test_who_is_at_the_limit_can_still_look_and_an_operator_can_still_raise_it(world: World, route: Route) -> None:
    api, tenant = world.tenant.api, world.tenant
    user = "system" if route.system_only else tenant.user
    key = api.create_key(user, None, *Role, policy={"daily_requests": 0, "daily_tokens": 0})
    answer = world.call(route, key)
    if route.operation == "delete_project":
        problem(answer, 409, "project_not_empty")
    else:
        assert answer.status_code in (200, 201), answer.text


def test_headers_of_every_metered_answer_say_what_is_left(world: World) -> None:
    tenant, api = world.tenant, world.tenant.api
    policy = {"daily_requests": 10, "monthly_requests": 20, "daily_tokens": 30, "monthly_tokens": 10**15}
    key = api.create_key(tenant.user, tenant.project, Role.SEARCH, policy=policy)
    month_end = (api.clock().replace(day=1, hour=0) + timedelta(days=32)).replace(day=1)
    for used in (1, 2):
        answer = tenant.call("POST", "/c/search", key=key, json={"vector": [1, 2, 3]})
        assert parse(answer.headers["ratelimit-policy"]) == {
            "daily_requests": {"q": 10, "w": 86_400},
            "monthly_requests": {"q": 20, "w": _month_seconds(api.clock())},
            "daily_tokens": {"q": 30, "w": 86_400},
            # What is beyond the largest integer a structured field can have is said as that.
            "monthly_tokens": {"q": 10**15 - 1, "w": _month_seconds(api.clock())},
        }
        left = parse(answer.headers["ratelimit"])
        assert {name: value["r"] for name, value in left.items()} == {
            "daily_requests": 10 - used,
            "monthly_requests": 20 - used,
            "daily_tokens": 30,
            "monthly_tokens": 10**15 - 1,
        }
        assert left["daily_requests"]["t"] == 12 * 3600
        assert left["monthly_requests"]["t"] == (month_end - api.clock()).total_seconds()
    # A request that failed after it was admitted was counted, and says so.
    answer = tenant.call("GET", "/missing", key=key)
    assert parse(answer.headers["ratelimit"])["daily_requests"]["r"] == 7


def _month_seconds(now: datetime) -> int:
    start = now.replace(day=1)
    return int(((start + timedelta(days=32)).replace(day=1) - start).total_seconds())


def test_every_limit_that_says_no_is_named(world: World) -> None:
    tenant = world.tenant
    policy = {"daily_requests": 1, "monthly_requests": 1}
    key = tenant.api.create_key(tenant.user, tenant.project, Role.SEARCH, policy=policy)
    search: dict[str, Any] = {"key": key, "json": {"vector": [1, 2, 3]}}
    assert tenant.call("POST", "/c/search", **search).status_code == 200
    answer = tenant.call("POST", "/c/search", **search)
    violated = problem(answer, 429)["violated_policies"]
    assert [policy["name"] for policy in violated] == ["daily_requests", "monthly_requests"]
    # Both must have room again: the month is the longer wait.
    assert int(answer.headers["retry-after"]) > 24 * 3600 or tenant.api.clock().day >= 30


def test_tokens_are_limited_by_what_the_text_takes(world: World) -> None:
    tenant = world.tenant
    key = tenant.api.create_key(tenant.user, tenant.project, Role.SEARCH, policy={"daily_tokens": 10})
    before = tenant.api.used(key)
    # 41 characters are 11 tokens, more than there will ever be: waiting would not help.
    answer = tenant.call("POST", "/c/search", key=key, json={"text": "x" * 41})
    problem(answer, 422, "cost_exceeds_limit")
    assert tenant.api.used(key) == before
    # 40 are 10: admitted, though the collection then has no embedder.
    assert tenant.call("POST", "/c/search", key=key, json={"text": "x" * 40}).status_code == 422
    assert tenant.api.used(key) == before | {"requests": 1}


def test_never_more_are_admitted_than_the_limit_allows(tenant: Tenant) -> None:
    tenant.collection("c")
    key = tenant.api.create_key(tenant.user, tenant.project, Role.SEARCH, policy={"daily_requests": 25})

    def call(_: int) -> int:
        return tenant.call("GET", "/c/vectors", key=key).status_code

    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(call, range(60)))
    assert sorted(statuses) == [200] * 25 + [429] * 35


def test_a_new_day_starts_by_itself(api: Api) -> None:
    tenant, clock = api.tenant(), api.clock
    tenant.collection("c")
    key = tenant.api.create_key(tenant.user, tenant.project, Role.SEARCH, policy={"daily_requests": 1})
    search: dict[str, Any] = {"key": key, "json": {"vector": [1, 2, 3]}}
    assert tenant.call("POST", "/c/search", **search).status_code == 200
    refused = tenant.call("POST", "/c/search", **search)
    clock.advance(seconds=int(refused.headers["retry-after"]) - 1)
    assert tenant.call("POST", "/c/search", **search).status_code == 429
    clock.advance(seconds=1)
    assert tenant.call("POST", "/c/search", **search).status_code == 200


def test_a_limit_that_is_raised_counts_at_once(world: World) -> None:
    tenant = world.tenant
    key = tenant.api.create_key(tenant.user, tenant.project, Role.SEARCH, policy={"daily_requests": 0})
    search: dict[str, Any] = {"key": key, "json": {"vector": [1, 2, 3]}}
    problem(tenant.call("POST", "/c/search", **search), 429)
    quota = f"/admin/usage/quota/{key.key.api_key_id}"
    assert tenant.api.call("POST", quota, world.admin, json={"daily_requests": 1}).status_code == 200
    assert tenant.call("POST", "/c/search", **search).status_code == 200
    problem(tenant.call("POST", "/c/search", **search), 429)
    assert tenant.api.call("POST", quota, world.admin, json={"active": False}).status_code == 200
    answer = tenant.call("POST", "/c/search", **search)
    assert answer.status_code == 200
    assert "ratelimit" not in answer.headers


def test_admission_comes_before_the_work(world: World) -> None:
    """A refused request for what does not exist is 429 and not 404: nothing was looked up."""
    tenant = world.tenant
    key = tenant.api.create_key(tenant.user, tenant.project, *Role, policy={"daily_requests": 0})
    for operation in ("search", "get_collection", "get_vector", "upsert_vectors"):
        route = BY_NAME[operation]
        path = route.path.format(project=tenant.project, collection="missing", vector="missing")
        problem(tenant.api.call(route.method, path, key, json=route.body), 429)


def test_refusals_are_recorded_without_being_billed(world: World) -> None:
    tenant = world.tenant
    key = tenant.api.create_key(tenant.user, tenant.project, Role.SEARCH, policy={"daily_requests": 0})
    problem(tenant.call("POST", "/c/search", key=key, json={"vector": [1, 2, 3]}), 429)
    [record] = tenant.api.records(key)
    assert (record.status, record.micro_usd, record.tokens) == ("quota_exceeded", 0, 0)
