"""Search through HTTP: by vector, text or stored vector, filtered, in a namespace, with what was asked for."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fixtures.api import Tenant, World


@pytest.fixture
def points(tenant: Tenant) -> Tenant:
    """A tenant with a collection ``c`` of points on a line away from [1, 0]."""
    tenant.collection("c", dimension=2, metric="l2")
    tenant.write(
        "/c",
        *({"id": f"p{i}", "vector": [1 + i, 0], "metadata": {"i": i, "even": i % 2 == 0}} for i in range(20)),
    )
    return tenant


def ids(answer: Any) -> list[str]:
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["count"] == len(body["matches"])
    assert body["usage"].items() >= {"requests": 1, "vectors": body["count"]}.items()
    return [match["id"] for match in body["matches"]]


def test_matches_come_best_first_with_score_and_distance(points: Tenant) -> None:
    answer = points.call("POST", "/c/search", json={"vector": [1, 0], "top_k": 3})
    body = answer.json()
    assert set(body) == {"matches", "count", "namespace", "usage"}
    assert body["matches"] == [
        {"id": "p0", "score": 1.0, "distance": 0.0, "metadata": {"i": 0, "even": True}, "namespace": ""},
        {"id": "p1", "score": 0.5, "distance": 1.0, "metadata": {"i": 1, "even": False}, "namespace": ""},
        {
            "id": "p2",
            "score": pytest.approx(1 / 3),
            "distance": 2.0,
            "metadata": {"i": 2, "even": True},
            "namespace": "",
        },
    ]
    assert body["usage"] == {"requests": 1, "tokens": 0, "vectors": 3, "cost_usd": 5e-06}


def test_top_k_is_10_unless_it_is_given_and_never_more_than_there_are(points: Tenant) -> None:
    assert ids(points.call("POST", "/c/search", json={"vector": [1, 0]})) == [f"p{i}" for i in range(10)]
    for name in ("top_k", "limit"):
        assert len(ids(points.call("POST", "/c/search", json={"vector": [1, 0], name: 1}))) == 1
        assert len(ids(points.call("POST", "/c/search", json={"vector": [1, 0], name: 1000}))) == 20


def test_a_search_may_be_by_a_stored_vector(points: Tenant) -> None:
    assert ids(points.call("POST", "/c/search", json={"id": "p5", "top_k": 3})) == ["p5", "p4", "p6"]


@pytest.mark.parametrize(
    ("filter", "found"),
    [
        ({"even": True}, ["p0", "p2", "p4"]),
        ({"even": False, "i": 3}, ["p3"]),
        ({"i": {"$eq": 19}}, ["p19"]),
        ({"$and": [{"even": True}, {"i": 18}]}, ["p18"]),
        ({"i": 1.0}, ["p1"]),
        ({"i": "1"}, []),
        ({"even": 1}, []),
        ({"missing": None}, []),
        ({}, ["p0", "p1", "p2"]),
    ],
    ids=str,
)
def test_a_filter_holds_before_the_limit_does(points: Tenant, filter: dict[str, Any], found: list[str]) -> None:
    for name in ("filter", "metadata_filter"):
        assert ids(points.call("POST", "/c/search", json={"vector": [1, 0], "top_k": 3, name: filter})) == found


@pytest.mark.parametrize(
    ("include", "fields"),
    [
        ([], set()),
        (["metadata"], {"metadata"}),
        (["vector"], {"vector"}),
        (["document", "vector"], {"document", "vector"}),
        (None, {"metadata", "document"}),
    ],
    ids=["nothing", "metadata", "vector", "document and vector", "by default"],
)
def test_what_is_included_is_what_was_asked_for(world: World, include: list[str] | None, fields: set[str]) -> None:
    body: dict[str, Any] = {"vector": [1, 0, 0], "top_k": 1}
    if include is not None:
        body["include"] = include
    [match] = world.tenant.call("POST", "/c/search", json=body).json()["matches"]
    assert set(match) == {"id", "score", "distance", "namespace"} | fields
    if "vector" in fields:
        assert match["vector"] == [1, 0, 0]


def test_every_spelling_of_the_vector_finds_the_same(points: Tenant) -> None:
    found = [
        ids(points.call("POST", "/c/search", json={n: [3, 0], "top_k": 3}))
        for n in ("vector", "embedding", "query_vector")
    ]
    assert found == [["p2", "p1", "p3"]] * 3


@pytest.mark.parametrize(
    ("metric", "distance", "score"),
    [("cosine", 0.0, 1.0), ("l2", 5.0, 1 / 6), ("inner_product", -50.0, 50.0)],
)
def test_lower_distances_and_higher_scores_are_better_whatever_the_metric(
    tenant: Tenant, metric: str, distance: float, score: float
) -> None:
    tenant.collection("c", dimension=2, metric=metric)
    tenant.write("/c", {"id": "near", "vector": [6, 8]}, {"id": "far", "vector": [-6, -8]})
    near, far = tenant.call("POST", "/c/search", json={"vector": [3, 4]}).json()["matches"]
    assert (near["id"], near["distance"], near["score"]) == ("near", pytest.approx(distance), pytest.approx(score))
    assert far["distance"] > near["distance"]
    assert far["score"] < near["score"]


def test_a_search_by_text_is_embedded_and_its_tokens_are_counted(tenant: Tenant) -> None:
    tenant.call("POST", json={"name": "c", "embedder": {"provider": "built-in"}})
    tenant.write(
        "/c", {"id": "cat", "document": "The cat sleeps on the sofa."}, {"id": "pay", "document": "Pay the invoice."}
    )
    answer = tenant.call("POST", "/c/search", json={"text": "when must I pay the bill?", "top_k": 1})
    assert ids(answer) == ["pay"]
    assert answer.json()["matches"][0]["document"] == "Pay the invoice."
    assert answer.json()["usage"] == {"requests": 1, "tokens": 7, "vectors": 1, "cost_usd": 6e-06}


def test_debug_says_how_the_search_went(points: Tenant) -> None:
    answer = points.call("POST", "/c/search", json={"vector": [1, 0], "include_debug": True, "exact": True})
    debug = answer.json()["debug"]
    timings = debug.pop("timings_ms")
    assert debug == {"plan": "exact", "candidates_before": 20, "candidates": 20, "cache": "miss"}
    assert set(timings) == {"ledger", "database", "total"}
    assert timings["total"] >= timings["database"] > 0


def test_an_empty_collection_and_an_empty_namespace_have_no_matches(points: Tenant) -> None:
    points.collection("empty")
    assert ids(points.call("POST", "/empty/search", json={"vector": [1, 0, 0]})) == []
    assert ids(points.call("POST", "/c/search", json={"vector": [1, 0], "namespace": "empty"})) == []


def test_what_was_acknowledged_is_seen_by_the_next_search(points: Tenant) -> None:
    search = {"json": {"vector": [100, 0], "top_k": 1}}
    for i in range(5):
        points.write("/c", {"id": f"new{i}", "vector": [99 - i, 0]})
        points.write("/c", {"id": "best", "vector": [100, i / 10]})
        assert ids(points.call("POST", "/c/search", **search)) == ["best"]
        points.call("DELETE", "/c/vectors/best")
        assert ids(points.call("POST", "/c/search", **search)) == ["new0"]
