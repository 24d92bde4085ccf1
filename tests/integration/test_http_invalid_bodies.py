"""422: bodies out of bounds, with unknown fields, with many faults at once."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fixtures.api import World, paths, problem, refuse
from tests.fixtures.routes import BY_NAME, WITH_BODY, Route

LONG = "x" * 513
WIDE = "é" * 257  # 514 bytes in 257 characters

EMPTY_OR_MUCH = [
    ("upsert_vectors", {}, ["vectors"]),
    ("upsert_vectors", {"vectors": []}, ["vectors"]),
    ("upsert_vectors", {"vectors": {}}, ["vectors"]),
    ("upsert_vectors", {"vectors": [{}]}, ["vectors.0.id"]),
    (
        "upsert_vectors",
        {"vectors": [{"id": "x"}, {"id": "y", "metadata": {}}]},
        ["vectors.0.vector", "vectors.1.vector"],
    ),
    ("upsert_vectors", {"vectors": [{"id": "x", "document": "x" * 100_001}]}, ["vectors.0.document"]),
    ("add_vector", {"vector": [1, 2, 3]}, ["id"]),
    ("put_vector", {}, ["vector"]),
    ("put_vector", {"vector": None, "document": None}, ["vector"]),
    ("put_vector", {"id": "a", "vector": [1, 2, 3]}, ["id"]),
    ("fetch_vectors", {}, ["ids"]),
    ("fetch_vectors", {"ids": []}, ["ids"]),
    ("fetch_vectors", {"ids": "a"}, ["ids"]),
    ("patch_vector", {}, ["set"]),
    ("patch_vector", {"set": {}, "unset": []}, ["set"]),
    ("patch_vector", {"unset": "k"}, ["unset"]),
    ("delete_vectors", {}, ["ids"]),
    ("delete_vectors", {"ids": []}, ["ids"]),
    ("delete_vectors", {"ids": ["a"], "all": True}, ["ids"]),
    ("delete_vectors", {"filter": {"k": 1}, "all": True}, ["ids"]),
    ("delete_vectors", {"filter": {}}, ["filter"]),
    ("delete_vectors", {"all": False}, ["all"]),
    ("delete_vectors", {"all": 1}, ["all"]),
    ("delete_vectors", {"all": True, "dry_run": "yes"}, ["dry_run"]),
    ("search", {}, ["vector"]),
    ("search", {"vector": [1, 2, 3], "text": "x"}, ["vector"]),
    ("search", {"vector": [1, 2, 3], "id": "a"}, ["vector"]),
    ("search", {"vector": None, "text": None, "id": None}, ["vector"]),
    ("search", {"vector": [1, 2, 3], "embedding": [1, 2, 3]}, ["embedding"]),
    ("search", {"vector": [1, 2, 3], "top_k": 1, "limit": 1}, ["limit"]),
    ("search", {"text": "x" * 8193}, ["text"]),
    ("search", {"vector": [1, 2, 3], "include": ["everything"]}, ["include.0"]),
    ("search", {"vector": [1, 2, 3], "include": "vector"}, ["include"]),
    ("search", {"vector": [1, 2, 3], "include": ["vector"] * 4}, ["include"]),
    ("search", {"vector": [1, 2, 3], "exact": 1}, ["exact"]),
    ("create_collection", {}, ["name"]),
    ("create_collection", {"name": "n"}, ["dimension"]),
    ("create_collection", {"name": "n", "dimension": 0}, ["dimension"]),
    ("create_collection", {"name": "n", "dimension": 16_001}, ["dimension"]),
    ("create_collection", {"name": "n", "dimension": 10**4000}, ["dimension"]),
    ("create_collection", {"name": "n", "dimension": 3, "metric": "dot"}, ["metric"]),
    ("create_collection", {"name": "n", "dimension": 4001, "index": {"type": "hnsw"}}, ["index.type"]),
    ("create_collection", {"name": "n", "dimension": 3, "index": {"type": "ivf"}}, ["index.type"]),
    (
        "create_collection",
        {"name": "n", "dimension": 3, "index": {"m": 1, "ef_construction": 3}},
        ["index.m", "index.ef_construction"],
    ),
    (
        "create_collection",
        {"name": "n", "dimension": 3, "index": {"m": 16, "ef_construction": 31}},
        ["index.ef_construction"],
    ),
    ("create_collection", {"name": "n", "dimension": 3, "embedder": {"provider": "magic"}}, ["embedder.provider"]),
    ("create_collection", {"name": "n", "dimension": 3, "embedder": {"provider": "built-in"}}, ["dimension"]),
    ("create_collection", {"name": "n", "embedder": {"provider": "built-in", "model": "large"}}, ["embedder.model"]),
    ("create_collection", {"name": "n", "embedder": {"provider": "none"}}, ["dimension"]),
    ("create_project", {}, ["project_id", "user_id"]),
    ("create_project", {"project_id": "-", "user_id": "x" * 64}, ["project_id", "user_id"]),
    ("create_project", {"project_id": "p", "user_id": "u", "name": "x" * 201}, ["name"]),
    ("create_key", {}, ["user_id", "roles"]),
    ("create_key", {"user_id": "u", "roles": []}, ["roles"]),
    ("create_key", {"user_id": "u", "roles": ["root"]}, ["roles.0"]),
    ("create_key", {"user_id": "u", "roles": ["search"] * 4}, ["roles"]),
    ("create_key", {"user_id": "u", "roles": ["search"], "expires_at": "soon"}, ["expires_at"]),
    ("create_key", {"user_id": "u", "roles": ["search"], "expires_at": "2030-01-01T00:00:00"}, ["expires_at"]),
    ("create_key", {"user_id": "u", "roles": ["search"], "expires_at": True}, ["expires_at"]),
    ("create_key", {"user_id": "u", "roles": ["search"], "quota": {"daily": 1}}, ["quota.daily"]),
    ("change_project", {"name": "x" * 201}, ["name"]),
    ("change_project", {"user_id": "u"}, ["user_id"]),
    ("change_key", {"name": 1}, ["name"]),
    ("change_key", {"roles": []}, ["roles"]),
    ("change_key", {"roles": None}, ["roles"]),
    ("change_key", {"roles": ["root"]}, ["roles.0"]),
    ("change_key", {"expires_at": "soon"}, ["expires_at"]),
    ("change_key", {"expires_at": "2030-01-01T00:00:00"}, ["expires_at"]),
    ("change_key", {"expires_at": "2020-01-01T00:00:00Z"}, ["expires_at"]),
    ("change_key", {"user_id": "u", "project_id": "p"}, ["user_id", "project_id"]),
    ("rotate_key", {"grace_seconds": -1}, ["grace_seconds"]),
    ("rotate_key", {"grace_seconds": 604_801}, ["grace_seconds"]),
    ("rotate_key", {"grace_seconds": 10**400}, ["grace_seconds"]),
    ("rotate_key", {"grace_seconds": 1.5}, ["grace_seconds"]),
    ("rotate_key", {"grace_seconds": "1"}, ["grace_seconds"]),
    ("rotate_key", {"grace_seconds": True}, ["grace_seconds"]),
    ("rotate_key", {"key": "x"}, ["key"]),
    ("set_quota", {"daily_requests": -1}, ["daily_requests"]),
    ("set_quota", {"monthly_tokens": 10**16}, ["monthly_tokens"]),
    ("set_quota", {"alert_threshold_pct": 0}, ["alert_threshold_pct"]),
    ("set_quota", {"alert_threshold_pct": 101}, ["alert_threshold_pct"]),
    ("set_quota", {"active": "yes"}, ["active"]),
    ("run_maintenance", {"collection": "c/d"}, ["collection"]),
    ("run_maintenance", {"project_id": 1}, ["project_id"]),
]


@pytest.mark.parametrize(("operation", "body", "expected"), EMPTY_OR_MUCH, ids=lambda value: str(value)[:60])
@pytest.mark.usefixtures("unchanged")
def test_a_body_out_of_bounds_is_refused(shared_world: World, operation: str, body: Any, expected: list[str]) -> None:
    refuse(shared_world, operation, body, *expected)


@pytest.mark.parametrize("route", WITH_BODY, ids=str)
@pytest.mark.usefixtures("unchanged")
def test_an_unknown_field_is_refused_wherever_it_stands(shared_world: World, route: Route) -> None:
    body = shared_world.body(route) | {"unknown": 1, "Unknown": {}}
    refuse(shared_world, route.operation, body, "unknown", "Unknown")


@pytest.mark.usefixtures("unchanged")
def test_an_unknown_field_in_a_part_is_refused_with_its_path(shared_world: World) -> None:
    vector = {"id": "x", "vector": [1, 2, 3]}
    refuse(shared_world, "upsert_vectors", {"vectors": [vector, vector | {"values": []}]}, "vectors.1.values")
    body = {"name": "n", "dimension": 3, "index": {"lists": 1}, "embedder": {"provider": "none", "key": ""}}
    refuse(shared_world, "create_collection", body, "index.lists", "embedder.key")
    # Ours for the owner's names, but not for each other's.
    refuse(shared_world, "fetch_vectors", {"ids": ["a"], "limit": 1}, "limit")


@pytest.mark.usefixtures("unchanged")
def test_every_fault_of_a_body_is_named_at_once(shared_world: World) -> None:
    vectors: list[Any] = [
        {"id": "", "vector": []},
        {"id": LONG, "vector": [1, 2, 3]},
        {"vector": "?", "document": "\x00", "extra": 1},
        {"id": "good", "vector": [1, 2, 3]},
    ]
    body = {"vectors": vectors, "namespace": 1}
    answer = shared_world.call(BY_NAME["upsert_vectors"], shared_world.tenant.key, json=body)
    assert sorted(paths(answer)) == [
        "namespace",
        "vectors.0.id",
        "vectors.0.vector",
        "vectors.2.document",
        "vectors.2.extra",
        "vectors.2.id",
        "vectors.2.vector",
    ]
    assert "the first of 7 faults" in answer.json()["detail"]
    # What is wrong by this deployment's limits is all named, too.
    vectors = [{"id": LONG, "namespace": WIDE}, {"id": "x", "document": "x" * 100_001, "metadata": {"k": float("nan")}}]
    answer = shared_world.call(BY_NAME["upsert_vectors"], shared_world.tenant.key, json={"vectors": vectors})
    assert sorted(paths(answer)) == [
        "vectors.0.id",
        "vectors.0.namespace",
        "vectors.0.vector",
        "vectors.1.document",
        "vectors.1.metadata",
    ]


@pytest.mark.usefixtures("unchanged")
def test_an_answer_about_many_faults_has_an_end(shared_world: World) -> None:
    for body in (
        {"vectors": [1] * 10_000},
        {f"k{index}" + "x" * 300: 1 for index in range(5000)},
        {"y" * 3_000_000: 1},
    ):
        answer = shared_world.call(BY_NAME["upsert_vectors"], shared_world.tenant.key, json=body)
        assert len(problem(answer, 422)["errors"]) <= 1000
        assert len(answer.content) < 1_000_000


def test_documents_and_texts_without_an_embedder_are_refused_with_their_paths(world: World) -> None:
    tenant = world.tenant
    before = tenant.contents()
    batch = [{"id": "x", "vector": [1, 2, 3]}, {"id": "y", "document": "text"}, {"id": "z", "document": "more"}]
    answer = tenant.call("POST", "/c/vectors", json={"vectors": batch})
    assert paths(answer) == ["vectors.1.document", "vectors.2.document"]
    assert "no embedder" in answer.json()["detail"]
    assert paths(tenant.call("POST", "/c/search", json={"text": "text"})) == ["text"]
    assert paths(tenant.call("PUT", "/c/vectors/y", json={"document": "text"})) == ["document"]
    assert paths(tenant.call("POST", "/c/add", json={"id": "y", "document": "text"})) == ["document"]
    assert tenant.contents() == before
