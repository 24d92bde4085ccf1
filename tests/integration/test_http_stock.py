"""Limits on what a project and a collection may keep, over HTTP: what is answered, recorded and billed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import httpx
import pytest

from tests.fixtures.api import Tenant, World, problem
from vecmeter.ledger.model import Scope, Status
from vecmeter.vectors.once import HEADER


def limit(tenant: Tenant, **limits: int | None) -> None:
    """Change the policy of the tenant's project."""
    policies = tenant.api.runtime.policies
    policies.change(Scope.PROJECT, tenant.project, lambda policy: replace(policy, **limits))  # type: ignore[arg-type]


def upsert(tenant: Tenant, *ids: str, **more: Any) -> httpx.Response:
    return tenant.call("POST", "/c/vectors", json={"vectors": [{"id": id, "vector": [1, 2, 3]} for id in ids]}, **more)


def violated(answer: httpx.Response) -> dict[str, Any]:
    assert answer.headers["Retry-After"] == "60"
    [policy] = problem(answer, 429, "limit_exceeded")["violated_policies"]
    found: dict[str, Any] = policy
    return found


def test_a_full_project_refuses_what_is_new_and_takes_what_replaces(world: World) -> None:
    tenant = world.tenant
    limit(tenant, max_vectors=3)
    assert upsert(tenant, "c").status_code == 200
    state, records = tenant.state(), len(tenant.api.records(tenant.key))
    expected = {"name": "max_vectors", "scope": "project", "limit": 3, "used": 3, "remaining": 0, "resets_at": None}
    answer = upsert(tenant, "d")
    assert violated(answer) == expected
    assert "r=0" in answer.headers["RateLimit"]
    assert violated(upsert(tenant, "a", "d")) == expected
    assert tenant.state() == state, "refused requests write and consume nothing"
    assert len(tenant.api.records(tenant.key)) == records + 2
    refused = [record for record in tenant.api.records(tenant.key) if record.status is Status.QUOTA_EXCEEDED]
    assert [(r.requests, r.tokens, r.vectors, r.micro_usd) for r in refused] == [(0, 0, 0, 0)] * 2
    assert upsert(tenant, "a", "b").json()["updated"] == 2
    assert tenant.call("DELETE", "/c/vectors/a").status_code == 200
    assert upsert(tenant, "d").json()["inserted"] == 1


def test_every_write_that_adds_is_measured(world: World) -> None:
    tenant = world.tenant
    limit(tenant, max_vectors=2, max_collections=1)
    vector = {"vector": [1, 2, 3]}
    assert violated(tenant.call("POST", "/c/add", json={"id": "new", **vector}))["name"] == "max_vectors"
    assert violated(tenant.call("PUT", "/c/vectors/new", json=vector))["name"] == "max_vectors"
    assert violated(tenant.call("POST", json={"name": "new", "dimension": 3})) == {
        "name": "max_collections", "scope": "project", "limit": 1, "used": 1, "remaining": 0, "resets_at": None
    }  # fmt: skip
    limit(tenant, max_vectors=None, max_storage_bytes=tenant.call("GET", "/c").json()["stored_bytes"])
    longer = {"set": {"k": 10}}
    assert violated(tenant.call("PATCH", "/c/vectors/a", json=longer))["name"] == "max_storage_bytes"
    assert tenant.call("DELETE", "/c").status_code == 200
    assert tenant.call("POST", json={"name": "new", "dimension": 3}).status_code == 201


def test_a_changed_limit_acts_on_the_next_request(world: World) -> None:
    tenant = world.tenant
    for room in (2, 3, 2, None):
        limit(tenant, max_vectors=room)
        answer = upsert(tenant, f"{room}")
        assert answer.status_code == (429 if room == 2 else 200)


def test_a_collections_own_limit_is_answered_with_its_scope(world: World) -> None:
    tenant = world.tenant
    tenant.api.runtime.collections.set_limits(tenant.project, "c", max_vectors=2)
    assert violated(upsert(tenant, "new")) == {
        "name": "max_vectors", "scope": "collection", "limit": 2, "used": 2, "remaining": 0, "resets_at": None
    }  # fmt: skip
    limit(tenant, max_vectors_per_collection=2)
    tenant.api.runtime.collections.set_limits(tenant.project, "c")
    assert violated(upsert(tenant, "new"))["name"] == "max_vectors_per_collection"


def test_a_batch_that_can_never_fit_is_422_and_consumes_nothing(world: World) -> None:
    tenant = world.tenant
    limit(tenant, max_vectors=4)
    state = tenant.state()
    detail = problem(upsert(tenant, *"uvwxyz"), 422, "cost_exceeds_limit")["detail"]
    assert "6" in detail
    assert "max_vectors" in detail
    assert tenant.state() == state


@pytest.mark.parametrize("with_keys", [False, True])
def test_of_many_requests_at_once_exactly_the_limit_is_stored_and_billed(world: World, *, with_keys: bool) -> None:
    tenant = world.tenant
    limit(tenant, max_vectors=10)
    used = tenant.api.used(tenant.key)["requests"]

    def send(number: int) -> int:
        headers = {HEADER: f"k{number}"} if with_keys else {}
        return upsert(tenant, f"new{number}", headers=headers).status_code

    with ThreadPoolExecutor(16) as threads:
        statuses = list(threads.map(send, range(40)))
    assert (statuses.count(200), statuses.count(429)) == (8, 32)
    assert len(tenant.contents()["c"]) == 10
    assert tenant.api.used(tenant.key)["requests"] == used + 8


def test_a_key_that_was_refused_for_want_of_room_writes_when_there_is_some(world: World) -> None:
    tenant = world.tenant
    limit(tenant, max_vectors=2)
    again = {"headers": {HEADER: "k"}}
    assert violated(upsert(tenant, "new", **again))["name"] == "max_vectors"
    assert tenant.call("DELETE", "/c/vectors/a").status_code == 200
    assert upsert(tenant, "new", **again).json()["inserted"] == 1
    assert upsert(tenant, "new", **again).headers["Idempotency-Replayed"] == "true"
