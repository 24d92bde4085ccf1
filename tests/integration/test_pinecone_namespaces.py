"""Namespaces of an index over Pinecone's wire, its statistics, and the imports there are none of."""

from __future__ import annotations

from typing import Any

import pytest
from psycopg import sql

from tests.fixtures.api import Tenant
from tests.fixtures.pinecone import Wire, query, refused
from vecmeter.vectors.tables import table_names

PASSED = "2000-01-01T00:00:00Z"


@pytest.fixture
def wire(tenant: Tenant) -> Wire:
    tenant.collection("c")
    return Wire(tenant)


def fill(wire: Wire, counts: dict[str, int]) -> None:
    for namespace, count in counts.items():
        wire.upsert(*({"id": str(n), "values": [1, 2, 3]} for n in range(count)), namespace=namespace)


def listed(wire: Wire, **parameters: Any) -> tuple[list[tuple[str, int]], list[int]]:
    """Names and counts over all pages, and the total that each page says."""
    found: list[tuple[str, int]] = []
    totals, token = [], None
    while True:
        page = wire.ok("GET", "/namespaces" + query(**parameters, paginationToken=token))
        found += [(one["name"], one["record_count"]) for one in page["namespaces"]]
        totals.append(page["total_count"])
        if "pagination" not in page:
            return found, totals
        token = page["pagination"]["next"]


def test_namespaces_are_listed_with_exact_counts_in_pages_that_say_how_many_there_are(wire: Wire) -> None:
    assert listed(wire) == ([], [0])
    fill(wire, {"": 2, "b": 1, "a": 3, "a-2": 1, "A": 1})
    every = [("__default__", 2), ("A", 1), ("a", 3), ("a-2", 1), ("b", 1)]
    assert listed(wire) == (every, [5])
    assert listed(wire, limit=2) == (every, [5, 5, 5])
    assert listed(wire, limit=5) == (every, [5])
    assert listed(wire, prefix="a") == (every[2:4], [2])
    assert listed(wire, prefix="a", limit=1) == (every[2:4], [2, 2])
    assert listed(wire, prefix="z") == ([], [0])


def test_a_prefix_finds_the_default_namespace_by_the_name_it_is_shown_by(wire: Wire) -> None:
    fill(wire, {"": 1, "__a": 2, "__e": 3, "_": 1})
    assert listed(wire, prefix="__") == ([("__default__", 1), ("__a", 2), ("__e", 3)], [3])
    assert listed(wire, prefix="__", limit=1) == ([("__default__", 1), ("__a", 2), ("__e", 3)], [3, 3, 3])
    assert listed(wire, prefix="__default__") == ([("__default__", 1)], [1])
    wire.ok("POST", "/vectors/delete", {"deleteAll": True})
    assert listed(wire, prefix="__") == ([("__a", 2), ("__e", 3)], [2])


def test_a_namespace_whose_records_have_all_expired_is_not_there(wire: Wire) -> None:
    fill(wire, {"a": 1, "b": 1, "c": 1})
    wire.tenant.write("/c", {"id": "0", "vector": [1, 2, 3], "expires_at": PASSED}, namespace="b")
    assert listed(wire, limit=1) == ([("a", 1), ("c", 1)], [2, 2])
    refused(wire.call("GET", "/namespaces/b"), 404, "namespace_not_found")


def test_a_namespace_is_described_by_its_exact_count_and_the_default_one_is_always_there(wire: Wire) -> None:
    assert wire.ok("GET", "/namespaces/__default__")["record_count"] == 0
    fill(wire, {"": 2, "a/b c%": 3})
    assert wire.ok("GET", "/namespaces/__default__")["record_count"] == 2
    described = wire.ok("GET", "/namespaces/a%2Fb%20c%25")
    assert (described["name"], described["record_count"]) == ("a/b c%", 3)
    error = refused(wire.call("GET", "/namespaces/missing"), 404, "namespace_not_found")
    assert error["code"] == "NOT_FOUND"


def test_a_namespace_is_deleted_with_its_records_and_no_other(wire: Wire) -> None:
    fill(wire, {"": 2, "a": 3, "a/b": 1})
    gone = wire.ok("DELETE", "/namespaces/a")
    assert gone["usage"]["vectors"] == 3
    assert listed(wire)[0] == [("__default__", 2), ("a/b", 1)]
    refused(wire.call("DELETE", "/namespaces/a"), 404, "namespace_not_found")
    wire.ok("DELETE", "/namespaces/__default__")
    wire.ok("DELETE", "/namespaces/__default__")
    assert listed(wire)[0] == [("a/b", 1)]


def test_statistics_count_every_namespace_exactly(wire: Wire) -> None:
    empty = wire.ok("POST", "/describe_index_stats", {})
    usage = empty.pop("usage")
    assert empty == {
        "namespaces": {},
        "dimension": 3,
        "indexFullness": 0.0,
        "totalVectorCount": 0,
        "metric": "cosine",
        "vectorType": "dense",
    }
    assert (usage["requests"], usage["vectors"]) == (1, 0)
    fill(wire, {"": 2, "a": 3})
    found = wire.ok("GET", "/describe_index_stats")
    assert found["namespaces"] == {"": {"vectorCount": 2}, "a": {"vectorCount": 3}}
    assert found["totalVectorCount"] == 5
    assert wire.ok("POST", "/describe_index_stats")["totalVectorCount"] == 5
    assert wire.ok("POST", "/describe_index_stats", {"filter": {}})["totalVectorCount"] == 5


@pytest.mark.parametrize(("version", "name"), [("2025-04", ""), ("2025-10", ""), ("2026-07", "__default__")])
def test_statistics_name_the_default_namespace_as_the_clients_version_does(wire: Wire, version: str, name: str) -> None:
    fill(wire, {"": 1, "a": 1})
    found = wire.ok("POST", "/describe_index_stats", {}, headers={"X-Pinecone-Api-Version": version})
    assert sorted(found["namespaces"]) == sorted([name, "a"])


@pytest.mark.parametrize(
    ("metric", "name"), [("cosine", "cosine"), ("l2", "euclidean"), ("inner_product", "dotproduct")]
)
def test_a_metric_goes_by_their_name(tenant: Tenant, metric: str, name: str) -> None:
    tenant.collection("c", dimension=2, metric=metric)
    found = Wire(tenant).ok("POST", "/describe_index_stats", {})
    assert (found["metric"], found["dimension"]) == (name, 2)


def test_statistics_of_more_namespaces_than_they_can_name_say_so_and_none_is_left_out(wire: Wire) -> None:
    target = wire.tenant.api.runtime.collections.get(wire.tenant.project, "c")
    _, vectors = table_names(target.collection_id)
    # What is counted, without its records: they would take ten times as long to make.
    made = sql.SQL(
        "INSERT INTO {} (record_id, namespace, embedding) SELECT i, 'n' || i, '[1,2,3]' FROM generate_series(%s, %s) i"
    ).format(sql.Identifier("vecmeter", vectors))
    with wire.tenant.api.runtime.database.connection() as connection:
        connection.execute(made, [1, 100_000])
        found = wire.ok("GET", "/describe_index_stats")
        assert (len(found["namespaces"]), found["totalVectorCount"]) == (100_000, 100_000)
        connection.execute(made, [100_001, 100_001])
    error = refused(wire.call("GET", "/describe_index_stats"), 413, "payload_too_large")
    assert "100000 namespaces: list them in pages" in error["message"]


def test_there_are_no_imports(wire: Wire) -> None:
    found = wire.ok("GET", "/bulk/imports?limit=10")
    assert found["data"] == []
    for method in ("GET", "DELETE"):
        assert "'101'" in refused(wire.call(method, "/bulk/imports/101"), 404, "not_found")["message"]
