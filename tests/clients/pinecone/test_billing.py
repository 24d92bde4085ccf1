"""What the official client does is admitted, counted and billed as any other call is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stack import Account


def test_every_call_is_one_request_of_its_operation_on_the_keys_bill(
    account: Account, new_key: Callable[..., str], native: Callable[..., Any]
) -> None:
    key = new_key()
    pc = account.client(key)
    index = account.new_index(pc)  # creates, waits until it is ready, and asks for its host
    index.upsert(vectors=[("a", [1, 2, 3], {"n": 1}), ("b", [3, 2, 1], {"n": 2})])
    for _ in range(3):
        index.query(vector=[1, 2, 3], top_k=2)
    index.fetch(ids=["a"])
    index.update(id="a", set_metadata={"n": 3})
    index.delete(ids=["b"])
    usage = native("GET", "/v1/usage/me", key=key)
    counted = {name: totals["total_requests"] for name, totals in usage["by_operation"].items()}
    assert counted.pop("collection") in (2, 3)
    assert counted == {"upsert": 1, "search": 3, "fetch": 1, "update": 1, "delete": 1}
    assert usage["cost_usd"] > 0
    assert "POST /indexes/{index}/query" in [one["endpoint"] for one in usage["top_endpoints"]]


def test_a_pinecone_query_costs_what_the_same_search_costs(
    account: Account, new_key: Callable[..., str], native: Callable[..., Any]
) -> None:
    key = new_key()
    index = account.new_index(account.client(key))
    index.upsert(vectors=[("a", [1, 2, 3]), ("b", [3, 2, 1])])
    before = native("GET", "/v1/usage/me", key=key)["by_operation"]
    index.query(vector=[1, 2, 3], top_k=2)
    between = native("GET", "/v1/usage/me", key=key)["by_operation"]
    project = native("GET", "/v1/quota/me", key=key)["project_id"]
    name = index.host.rsplit("/", 1)[1]
    body = {"vector": [1, 2, 3], "top_k": 2}
    native("POST", f"/v1/projects/{project}/collections/{name}/search", body, key=key)
    after = native("GET", "/v1/usage/me", key=key)["by_operation"]
    costs = [round(usage.get("search", {"cost_usd": 0})["cost_usd"] * 1_000_000) for usage in (before, between, after)]
    assert 0 < costs[1] - costs[0] == costs[2] - costs[1]


def test_an_upsert_sent_again_with_its_idempotency_key_is_not_paid_again(
    account: Account, new_key: Callable[..., str], native: Callable[..., Any]
) -> None:
    key = new_key()
    plain = account.new_index(account.client(key))
    sure = account.client(key, headers={"Idempotency-Key": f"{account.kind}-upsert"}).index(host=plain.host)
    for _ in range(3):
        assert sure.upsert(vectors=[("a", [1, 2, 3])]).upserted_count == 1
    usage = native("GET", "/v1/usage/me", key=key)["by_operation"]["upsert"]
    assert (usage["total_requests"], usage["total_vectors"]) == (1, 1)
