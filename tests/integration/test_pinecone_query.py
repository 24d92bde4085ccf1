"""Queries over Pinecone's wire: what they find and answer, and that they are the searches of our own API."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.fixtures.api import Api, Tenant, open_api, problem
from tests.fixtures.vectors import clustered

FILMS: list[dict[str, Any]] = [
    {"id": "both", "vector": [1, 0, 0], "metadata": {"genre": ["comedy", "drama"], "year": 2019, "new": True}},
    {"id": "one", "vector": [0.9, 0.1, 0], "metadata": {"genre": "comedy", "year": 2020.5}},
    {"id": "other", "vector": [0.1, 1, 0], "metadata": {"genre": "drama", "year": 2021, "new": False}},
    {"id": "bare", "vector": [0, 0, 2]},
]


@pytest.fixture
def films(tenant: Tenant) -> Tenant:
    """A tenant with an index of four records."""
    tenant.collection("films")
    tenant.write("/films", *FILMS)
    return tenant


def query(tenant: Tenant, index: str = "films", **body: Any) -> httpx.Response:
    given = {"topK": 10} | ({"vector": [1, 0, 0]} if not body.keys() & {"vector", "id"} else {}) | body
    return tenant.api.call("POST", f"/indexes/{index}/query", tenant.key, json=given)


def answer_of(tenant: Tenant, index: str = "films", **body: Any) -> dict[str, Any]:
    answer = query(tenant, index, **body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def ids(tenant: Tenant, index: str = "films", **body: Any) -> list[str]:
    return [match["id"] for match in answer_of(tenant, index, **body)["matches"]]


@pytest.mark.parametrize(
    ("metric", "vector", "expected"),
    [
        ("cosine", [4, 3, 0], [("one", 0.8614), ("both", 0.8), ("other", 0.6766), ("bare", 0.0)]),
        ("l2", [1, 0, 0], [("both", 0.0), ("one", 0.02), ("other", 1.81), ("bare", 5.0)]),
        ("inner_product", [1, 2, 3], [("bare", 6.0), ("other", 2.1), ("one", 1.1), ("both", 1.0)]),
    ],
)
def test_scores_are_theirs_and_the_best_match_is_the_first(
    tenant: Tenant, metric: str, vector: list[float], expected: list[tuple[str, float]]
) -> None:
    tenant.collection("films", metric=metric)
    tenant.write("/films", *FILMS)
    found = [(match["id"], match["score"]) for match in answer_of(tenant, vector=vector)["matches"]]
    scores = [score for _, score in found]
    assert scores == sorted(scores, reverse=metric != "l2")
    assert [id for id, _ in found] == [id for id, _ in expected]
    assert dict(found) == pytest.approx(dict(expected), abs=1e-3)


def test_a_match_has_the_values_and_the_metadata_only_where_they_are_asked_for(films: Tenant) -> None:
    plain, full = answer_of(films, topK=1), answer_of(films, includeValues=True, includeMetadata=True)
    assert plain["matches"] == [{"id": "both", "score": 1.0, "values": []}]
    assert full["matches"][0] == {"id": "both", "score": 1.0, "values": [1, 0, 0], "metadata": FILMS[0]["metadata"]}
    assert full["matches"][-1].keys() == {"id", "score", "values"}, "a record without metadata shows none"
    assert answer_of(films, topK=1, includeValues=None, includeMetadata=None)["matches"] == plain["matches"]


def test_a_query_may_be_by_a_record(films: Tenant) -> None:
    assert ids(films, id="both", topK=2) == ["both", "one"]
    assert ids(films, id="other", filter={"genre": "comedy"}) == ["one", "both"]


def test_what_is_not_there_matches_nothing(films: Tenant) -> None:
    assert answer_of(films, id="missing")["matches"] == []
    assert answer_of(films, id="both", namespace="missing")["matches"] == []
    assert answer_of(films, vector=[1, 0, 0], namespace="missing")["matches"] == []
    problem(query(films, "missing"), 404, "collection_not_found")


def test_a_query_is_within_its_namespace_and_the_default_one_has_three_names(films: Tenant) -> None:
    films.write("/films", {"id": "elsewhere", "vector": [1, 0, 0]}, namespace="ns")
    assert ids(films, namespace="ns") == ["elsewhere"]
    for name in ("", "__default__", None):
        answer = answer_of(films, namespace=name)
        assert answer["namespace"] == (name or "")
        assert len(answer["matches"]) == len(FILMS)


@pytest.mark.parametrize(
    ("filter", "found"),
    [
        ({"genre": "comedy"}, ["both", "one"]),
        ({"genre": {"$eq": "drama"}}, ["both", "other"]),
        ({"genre": {"$in": ["drama", "horror"]}}, ["both", "other"]),
        ({"genre": {"$ne": "comedy"}}, ["other", "bare"]),
        ({"genre": {"$nin": ["comedy", "drama"]}}, ["bare"]),
        ({"$and": [{"genre": "comedy"}, {"genre": "drama"}]}, ["both"]),
        ({"year": {"$gt": 2019, "$lte": 2021}}, ["one", "other"]),
        ({"$or": [{"year": {"$lt": 2020}}, {"new": False}]}, ["both", "other"]),
        ({"new": {"$exists": False}}, ["one", "bare"]),
        ({"genre": {"$in": []}}, []),
        ({}, ["both", "one", "other", "bare"]),
        (None, ["both", "one", "other", "bare"]),
    ],
    ids=str,
)
@pytest.mark.parametrize("declared", [False, True])
def test_a_filter_means_what_it_means_there(
    tenant: Tenant, filter: dict[str, Any] | None, found: list[str], declared: bool
) -> None:
    fields = [{"field": "genre", "type": "string"}, {"field": "year", "type": "number"}]
    tenant.collection("films", filterable=fields if declared else [])
    tenant.write("/films", *FILMS)
    assert ids(tenant, filter=filter) == found
    assert ids(tenant, filter=filter, topK=1) == found[:1], "it holds before the limit does"


def test_a_zero_vector_asks_for_any_records_that_pass(films: Tenant) -> None:
    answer = answer_of(films, vector=[0, 0, 0], filter={"genre": "comedy"}, includeMetadata=True)
    assert {match["id"] for match in answer["matches"]} == {"both", "one"}
    assert [match["score"] for match in answer["matches"]] == [0, 0]
    assert len(ids(films, vector=[0, 0, 0], topK=3)) == 3
    problem(films.call("POST", "/films/search", json={"vector": [0, 0, 0]}), 422)


COUNT = 1500
PASSING: list[tuple[dict[str, Any] | None, Callable[[int], bool]]] = [
    (None, lambda i: True),
    ({"i": {"$lt": 700}}, lambda i: i < 700),
    ({"tag": "t10"}, lambda i: i % 50 == 10),
    ({"i": {"$lt": 0}}, lambda i: False),
]


@pytest.fixture(scope="module")
def indexed(shared_api: Api) -> Iterator[Tenant]:
    """A tenant with an index of 1,500 records, and a tenth of them again in a namespace: HNSW finds them."""
    tenant = shared_api.tenant()
    tenant.collection("many", dimension=8)
    records = [
        {"id": str(i), "vector": vector, "metadata": {"i": i, "tag": ["all", f"t{i % 50}"]}}
        for i, vector in enumerate(clustered(COUNT, 8).tolist())
    ]
    for start in range(0, COUNT, 1000):
        tenant.write("/many", *records[start : start + 1000])
    tenant.write("/many", *records[::10], namespace="tenth")
    settings = dataclasses.replace(shared_api.runtime.settings, exact_threshold_vectors=40, index_threshold_vectors=100)
    with open_api(settings) as api:
        collection = api.runtime.collections.use(tenant.project, "many", lambda c: c)
        [done] = api.runtime.maintenance.build_indexes([collection])["collections"]
        assert done["action"] == "built"
        indexes = api.runtime.collections.use(tenant.project, "many", lambda c: c.hnsw, fresh=True)
        assert {index.namespace for index in indexes} == {None, "tenth"}
        yield dataclasses.replace(tenant, api=api)


@pytest.mark.parametrize("vector", [[0] * 8, [1] * 8], ids=["zero", "ones"])
@pytest.mark.parametrize("namespace", ["", "tenth"])
@pytest.mark.parametrize(("filter", "passes"), PASSING, ids=lambda value: str(value)[:20])
def test_as_many_matches_come_as_there_are_up_to_10000_whatever_the_plan(
    indexed: Tenant,
    vector: list[float],
    namespace: str,
    filter: dict[str, Any] | None,
    passes: Callable[[int], bool],
) -> None:
    passing = {str(i) for i in range(0, COUNT, 10 if namespace else 1) if passes(i)}
    for top_k in (1, 30, 10_000):
        answer = answer_of(indexed, "many", vector=vector, topK=top_k, namespace=namespace, filter=filter)
        found, scores = ([match[name] for match in answer["matches"]] for name in ("id", "score"))
        assert len(set(found)) == len(found) == min(top_k, len(passing))
        assert set(found) <= passing
        assert scores == sorted(scores, reverse=True)
        assert any(vector) or set(scores) <= {0.0}


def test_our_own_limit_on_matches_is_not_that_of_the_wire(indexed: Tenant) -> None:
    assert len(ids(indexed, "many", vector=[1] * 8, topK=1400)) == 1400
    problem(indexed.call("POST", "/many/search", json={"vector": [1] * 8, "top_k": 1400}), 422)
