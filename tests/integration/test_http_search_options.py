"""Search through HTTP, all it may be asked for: pages, groups, a least score, batches, recall; what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from search_function.schemas import MAX_SAMPLE, MAX_SEARCHES
from tests.fixtures.api import Tenant, World, paths, problem, refuse


@pytest.fixture
def points(tenant: Tenant) -> Tenant:
    """A tenant with a collection ``c`` of points on a line away from [1, 0]."""
    tenant.collection("c", dimension=2, metric="l2")
    tenant.write(
        "/c",
        *({"id": f"p{i}", "vector": [1 + i, 0], "metadata": {"i": i, "third": i % 3}} for i in range(20)),
    )
    return tenant


def ids(found: Any) -> list[str]:
    return [match["id"] for match in found["matches"]]


def search(tenant: Tenant, **body: Any) -> Any:
    answer = tenant.call("POST", "/c/search", json={"vector": [1, 0], **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"offset": 3, "top_k": 2}, ["p3", "p4"]),
        ({"offset": 19}, ["p19"]),
        ({"offset": 20}, []),
        ({"min_score": 0.3}, ["p0", "p1", "p2"]),
        ({"min_score": 2}, []),
        ({"group_by": "third"}, ["p0", "p1", "p2"]),
        ({"group_by": "third", "offset": 1, "top_k": 1}, ["p1"]),
        ({"group_by": "third", "filter": {"third": {"$ne": 1}}}, ["p0", "p2"]),
        ({"group_by": "missing", "top_k": 4}, ["p0", "p1", "p2", "p3"]),
        ({"ef_search": 1000, "top_k": 2}, ["p0", "p1"]),
        ({"mode": "vector", "top_k": 1}, ["p0"]),
        ({"filter": None, "group_by": None, "min_score": None, "text_weight": None, "top_k": 1}, ["p0"]),
    ],
    ids=str,
)
def test_a_search_does_as_its_options_say(points: Tenant, options: dict[str, Any], found: list[str]) -> None:
    assert ids(search(points, **options)) == found


def test_debug_tells_the_candidates_before_and_after_the_filter(points: Tenant) -> None:
    debug = search(points, include_debug=True, filter={"third": 0}, top_k=2)["debug"]
    assert (debug["plan"], debug["candidates_before"], debug["candidates"]) == ("exact", 20, 7)


REFUSED: list[tuple[dict[str, Any], list[str]]] = [
    ({}, ["vector"]),
    ({"vector": [1, 0, 0], "text": "x"}, ["vector"]),
    ({"vector": [1, 0, 0], "offset": -1}, ["offset"]),
    ({"vector": [1, 0, 0], "offset": 991}, ["offset"]),
    ({"vector": [1, 0, 0], "top_k": 1001}, ["top_k"]),
    ({"vector": [1, 0, 0], "ef_search": 0}, ["ef_search"]),
    ({"vector": [1, 0, 0], "ef_search": 1001}, ["ef_search"]),
    ({"vector": [1, 0, 0], "min_score": "0.5"}, ["min_score"]),
    ({"vector": [1, 0, 0], "min_score": float("nan")}, ["min_score"]),
    ({"vector": [1, 0, 0], "group_by": ""}, ["group_by"]),
    ({"vector": [1, 0, 0], "group_by": "a\x00"}, ["group_by"]),
    ({"vector": [1, 0, 0], "mode": "words"}, ["mode"]),
    ({"vector": [1, 0, 0], "fusion": "rrf"}, ["fusion"]),
    ({"vector": [1, 0, 0], "text_weight": 0.5}, ["text_weight"]),
    ({"mode": "text"}, ["text"]),
    ({"mode": "text", "text": "x", "vector": [1, 0, 0]}, ["vector"]),
    ({"mode": "text", "text": "x", "id": "a"}, ["id"]),
    ({"mode": "hybrid", "vector": [1, 0, 0]}, ["text"]),
    ({"mode": "hybrid", "text": "x", "vector": [1, 0, 0], "id": "a"}, ["vector"]),
    ({"mode": "hybrid", "text": "x", "text_weight": 1.5}, ["text_weight"]),
]


@pytest.mark.parametrize(("body", "expected"), REFUSED, ids=str)
@pytest.mark.usefixtures("unchanged")
def test_what_does_not_go_together_is_refused_by_its_path(
    shared_world: World, body: dict[str, Any], expected: list[str]
) -> None:
    refuse(shared_world, "search", body, *expected)
    in_batch = {"searches": [{"vector": [1, 0, 0]}, body]}
    refuse(shared_world, "search_batch", in_batch, *(f"searches.1.{path}" for path in expected))


@pytest.mark.parametrize("mode", ["text", "hybrid"])
def test_a_mode_that_needs_words_says_how_to_get_them(points: Tenant, mode: str) -> None:
    body = {"mode": mode, "text": "x"}
    for path, sent in (("/c/search", body), ("/c/search/batch", {"searches": [body]})):
        [error] = problem(points.call("POST", path, json=sent), 422)["errors"]
        assert error["path"].endswith("mode")
        assert "text_search" in error["message"]


# --- batches ---


def test_a_batch_answers_as_its_searches_alone(points: Tenant) -> None:
    searches: list[dict[str, Any]] = [
        {"vector": [1, 0], "top_k": 3},
        {"id": "p5", "top_k": 3, "include": []},
        {"vector": [4, 0], "filter": {"third": 1}, "top_k": 1},
        {"vector": [4, 0], "namespace": "empty", "include_debug": True},
    ]
    answer = points.call("POST", "/c/search/batch", json={"searches": searches})
    assert answer.status_code == 200, answer.text
    results = answer.json()["results"]
    assert results[3].pop("debug")["plan"] == "exact"
    for body, result in zip(searches, results, strict=True):
        alone = points.call("POST", "/c/search", json={**body, "include_debug": False}).json()
        assert alone.pop("usage")
        assert result == alone


def test_a_batch_is_one_request_and_as_many_searches(points: Tenant) -> None:
    before = points.api.used(points.key)
    answer = points.call("POST", "/c/search/batch", json={"searches": [{"vector": [1, 0], "top_k": 2}] * 7})
    assert answer.json()["usage"] == {"requests": 1, "tokens": 0, "vectors": 14, "cost_usd": 35e-06}
    after = points.api.used(points.key)
    assert (after["requests"] - before["requests"], after["micro_usd"] - before["micro_usd"]) == (1, 35)
    [record] = [one for one in points.api.records(points.key) if one.operation == "search"]
    assert record.micro_usd == 35


def test_a_batch_with_one_search_at_fault_is_refused_as_a_whole(points: Tenant) -> None:
    bodies = [{"vector": [1, 0]}, {"vector": [1, 0, 0]}, {"text": "x"}]
    assert paths(points.call("POST", "/c/search/batch", json={"searches": bodies})) == ["searches.1.vector"]
    assert paths(points.call("POST", "/c/search/batch", json={"searches": [bodies[0], bodies[2]]})) == [
        "searches.1.text"
    ]
    missing = points.call("POST", "/c/search/batch", json={"searches": [{"id": "p1"}, {"id": "gone"}]})
    assert "'gone'" in problem(missing, 404, "vector_not_found")["detail"]
    many = points.call("POST", "/c/search/batch", json={"searches": [bodies[0]] * (MAX_SEARCHES + 1)})
    assert str(MAX_SEARCHES) in problem(many, 413, "payload_too_large")["detail"]
    assert paths(points.call("POST", "/c/search/batch", json={"searches": []})) == ["searches"]


def test_the_texts_of_a_batch_are_embedded_and_their_tokens_counted(tenant: Tenant) -> None:
    tenant.call("POST", json={"name": "c", "embedder": {"provider": "built-in"}})
    tenant.write(
        "/c", {"id": "cat", "document": "The cat sleeps on the sofa."}, {"id": "pay", "document": "Pay the invoice."}
    )
    texts = ["when must I pay the bill?", "where is the cat?"]
    searches = [{"text": text, "top_k": 1, "include": []} for text in texts]
    answer = tenant.call("POST", "/c/search/batch", json={"searches": searches}).json()
    assert [ids(result) for result in answer["results"]] == [["pay"], ["cat"]]
    assert answer["usage"]["tokens"] == 7 + 5
    blank = tenant.call("POST", "/c/search/batch", json={"searches": [searches[0], {"text": " "}]})
    assert paths(blank) == ["searches.1.text"]


# --- recall ---


def test_recall_is_measured_and_billed_as_the_searches_it_takes(points: Tenant) -> None:
    answer = points.call("POST", "/c/recall", json={"sample": 5, "top_k": 3})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body.pop("usage") == {"requests": 1, "tokens": 0, "vectors": 0, "cost_usd": 50e-06}
    times = [body.pop(name) for name in ("ann_ms", "ann_p95_ms", "exact_ms", "exact_p95_ms")]
    assert all(time > 0 for time in times)
    assert body == {"recall": 1.0, "lowest": 1.0, "sample": 5, "top_k": 3, "plans": {"exact": 5}}


def test_recall_of_given_queries_in_a_namespace_under_a_filter(points: Tenant) -> None:
    body = {"queries": [[1, 0], [7, 0]], "namespace": "", "filter": {"third": 1}, "ef_search": 20}
    assert points.call("POST", "/c/recall", json=body).json()["sample"] == 2
    nowhere = points.call("POST", "/c/recall", json={"namespace": "empty"}).json()
    assert (nowhere["sample"], nowhere["recall"]) == (0, 1.0)


def test_recall_by_vectors_of_another_dimension_is_refused(points: Tenant) -> None:
    assert paths(points.call("POST", "/c/recall", json={"queries": [[1, 0], [1, 0, 0]]})) == ["queries.1"]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"sample": 0}, ["sample"]),
        ({"sample": MAX_SAMPLE + 1}, ["sample"]),
        ({"queries": []}, ["queries"]),
        ({"queries": [[1, 0, 0]] * (MAX_SAMPLE + 1)}, ["queries"]),
        ({"queries": [[1, 0, 0]], "sample": 3}, ["sample"]),
        ({"top_k": 1000}, ["top_k"]),
        ({"ef_search": 0}, ["ef_search"]),
        ({"filter": {"$nor": []}}, ["filter.$nor"]),
        ({"namespace": "n" * 513}, ["namespace"]),
    ],
    ids=str,
)
@pytest.mark.usefixtures("unchanged")
def test_a_recall_that_cannot_be_measured_is_refused(shared_world: World, body: Any, expected: list[str]) -> None:
    refuse(shared_world, "measure_recall", body, *expected)
