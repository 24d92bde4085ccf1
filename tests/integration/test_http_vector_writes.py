"""Conditions, expiry and changes of vectors through HTTP: what each write answers, and what it is refused for."""

from __future__ import annotations

import base64
from array import array
from typing import Any
from urllib.parse import quote

import pytest

from tests.fixtures.api import Tenant, World, paths, problem

LATER = "2100-01-02T03:04:05.678901Z"
PASSED = "2000-01-01T00:00:00Z"


def vectors_of(tenant: Tenant, *ids: str, collection: str = "/c") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = tenant.call("POST", f"{collection}/vectors/fetch", json={"ids": ids}).json()[
        "vectors"
    ]
    return found


def test_a_conflict_names_every_item_with_both_versions_and_writes_nothing(world: World) -> None:
    tenant = world.tenant
    tenant.call("PATCH", "/c/vectors/b", json={"set": {"k": 3}})
    before = tenant.contents()
    batch = [
        {"id": "new", "vector": [1, 2, 3], "if_version": 0},
        {"id": "a", "vector": [1, 2, 3], "if_version": 2},
        {"id": "b", "vector": [1, 2, 3], "if_version": 0},
        {"id": "missing", "vector": [1, 2, 3], "if_version": 1},
    ]
    refused = problem(tenant.call("POST", "/c/vectors", json={"vectors": batch}), 409, "version_conflict")
    assert refused["errors"] == [
        {"path": "vectors.1.if_version", "message": "is 2; the stored version is 1"},
        {"path": "vectors.2.if_version", "message": "is 0; the stored version is 2"},
        {"path": "vectors.3.if_version", "message": "is 1; there is no such vector"},
    ]
    for method, path, body in (
        ("PUT", "/c/vectors/a", {"vector": [1, 2, 3], "if_version": 7}),
        ("PATCH", "/c/vectors/a", {"set": {"k": 9}, "if_version": 7}),
        ("DELETE", "/c/vectors/a?if_version=7", None),
    ):
        refused = problem(tenant.call(method, path, json=body), 409, "version_conflict")
        assert refused["errors"] == [{"path": "if_version", "message": "is 7; the stored version is 1"}]
    assert tenant.contents() == before


def test_conditions_that_hold_are_written_under(world: World) -> None:
    tenant = world.tenant
    batch = [{"id": "new", "vector": [1, 2, 3], "if_version": 0}, {"id": "a", "vector": [1, 2, 3], "if_version": 1}]
    written = tenant.call("POST", "/c/vectors", json={"vectors": batch}).json()
    assert [(one["operation"], one["version"]) for one in written["results"]] == [("insert", 1), ("update", 2)]
    assert tenant.call("PUT", "/c/vectors/a", json={"vector": [1, 2, 3], "if_version": 2}).json()["version"] == 3
    assert tenant.call("PATCH", "/c/vectors/a", json={"unset": ["k"], "if_version": 3}).json()["version"] == 4
    assert tenant.call("POST", "/c/add", json={"id": "z", "vector": [1, 2, 3], "if_version": 0}).status_code == 201
    assert tenant.call("DELETE", "/c/vectors/a?if_version=4").json()["deleted"] == 1


def test_expiry_is_shown_and_hides_once_it_has_come(world: World) -> None:
    tenant = world.tenant
    tenant.write("/c", {"id": "x", "vector": [1, 2, 3], "expires_at": "2100-01-02T05:04:05.678901+02:00"})
    assert tenant.call("GET", "/c/vectors/x").json()["expires_at"] == LATER
    assert [one.get("expires_at") for one in vectors_of(tenant, "x", "a")] == [LATER, None]
    tenant.call("PATCH", "/c/vectors/x", json={"expires_at": None})
    assert "expires_at" not in tenant.call("GET", "/c/vectors/x").json()
    tenant.call("PATCH", "/c/vectors/x", json={"expires_at": PASSED})
    problem(tenant.call("GET", "/c/vectors/x"), 404, "vector_not_found")
    assert [one["id"] for one in tenant.call("GET", "/c/vectors").json()["vectors"]] == ["a", "b"]
    again = tenant.call("PUT", "/c/vectors/x", json={"vector": [1, 2, 3]}).json()
    assert (again["operation"], again["version"]) == ("insert", 1)
    tenant.write("/c", {"id": "y", "vector": [1, 2, 3], "expires_at": PASSED})
    assert tenant.call("POST", "/c/vectors/delete", json={"all": True, "dry_run": True}).json()["matched"] == 3
    swept = tenant.api.call(
        "POST", "/admin/maintenance/purge_expired", world.system, json={"project_id": tenant.project}
    )
    assert swept.json()["collections"][0]["deleted"] == 1


def test_a_patch_changes_numbers_document_and_metadata_and_says_the_version(world: World) -> None:
    tenant = world.tenant
    packed = base64.b64encode(array("f", [0.0, 0.0, 1.0]).tobytes()).decode()
    body = {"vector": packed, "document": "second", "set": {"n": 1}, "unset": ["k"], "expires_at": LATER}
    answer = tenant.call("PATCH", "/c/vectors/a", json=body)
    assert answer.json().items() >= {"status": "ok", "vector_id": "a", "version": 2}.items()
    assert answer.json()["usage"]["tokens"] == 2
    [found] = vectors_of(tenant, "a")
    assert found == {
        "id": "a", "namespace": "", "version": 2, "vector": [0, 0, 1], "document": "second", "metadata": {"n": 1},
        "expires_at": LATER,
    }  # fmt: skip
    tenant.call("PATCH", "/c/vectors/a", json={"document": None})
    [found] = vectors_of(tenant, "a")
    assert ("document" in found, found["vector"]) == (False, [0, 0, 1])
    problem(tenant.call("PATCH", "/c/vectors/missing", json={"document": "x"}), 404, "vector_not_found")


def test_a_document_of_a_patch_is_embedded_by_the_collections_embedder_unless_numbers_come_with_it(
    tenant: Tenant,
) -> None:
    tenant.call("POST", json={"name": "e", "embedder": {"provider": "built-in"}})
    tenant.write("/e", {"id": "a", "document": "a cat"}, {"id": "b", "document": "an invoice"})
    [cat, invoice] = vectors_of(tenant, "a", "b", collection="/e")
    tenant.call("PATCH", "/e/vectors/a", json={"document": "an invoice"})
    [changed] = vectors_of(tenant, "a", collection="/e")
    assert changed["document"] == "an invoice"
    assert changed["vector"] == invoice["vector"] != cat["vector"]
    tenant.call("PATCH", "/e/vectors/a", json={"document": "a cat", "vector": [1] * 256})
    [changed] = vectors_of(tenant, "a", collection="/e")
    assert (changed["document"], changed["vector"]) == ("a cat", [1] * 256)
    assert paths(tenant.call("PATCH", "/e/vectors/a", json={"document": " "})) == ["document"]


def test_an_update_by_filter_says_how_many_and_a_dry_run_only_counts(world: World) -> None:
    tenant = world.tenant
    body = {"filter": {"k": {"$in": [1, 2]}}, "set": {"seen": True}, "unset": ["k"]}
    tried = tenant.call("POST", "/c/vectors/update", json=body | {"dry_run": True})
    assert tried.json().items() >= {"matched": 2, "updated": 0}.items()
    assert tried.json()["usage"]["vectors"] == 0
    done = tenant.call("POST", "/c/vectors/update", json=body)
    assert done.json().items() >= {"matched": 2, "updated": 2}.items()
    assert done.json()["usage"]["vectors"] == 2
    assert [(one["version"], one["metadata"]) for one in vectors_of(tenant, "a", "b")] == [(2, {"seen": True})] * 2
    none = tenant.call("POST", "/c/vectors/update", json=body)
    assert none.json().items() >= {"matched": 0, "updated": 0}.items()


def test_an_update_beyond_the_limit_of_metadata_names_the_vector_and_changes_nothing(world: World) -> None:
    tenant = world.tenant
    tenant.call("PATCH", "/c/vectors/b", json={"set": {"long": "x" * 40_000}})
    before = tenant.contents()
    refused = tenant.call("POST", "/c/vectors/update", json={"filter": {"k": {"$gt": 0}}, "set": {"t": "x" * 2000}})
    [error] = problem(refused, 422)["errors"]
    assert error["path"] == "set"
    assert error["message"].startswith("makes the metadata of 'b' 420")
    assert tenant.contents() == before


@pytest.mark.parametrize(
    ("method", "path", "body", "expected"),
    [
        (
            "POST",
            "/c/vectors",
            {"vectors": [{"id": "x", "vector": [1, 2, 3], "if_version": -1}]},
            "vectors.0.if_version",
        ),
        (
            "POST",
            "/c/vectors",
            {"vectors": [{"id": "x", "vector": [1, 2, 3], "if_version": 2**63}]},
            "vectors.0.if_version",
        ),
        (
            "POST",
            "/c/vectors",
            {"vectors": [{"id": "x", "vector": [1, 2, 3], "if_version": "1"}]},
            "vectors.0.if_version",
        ),
        (
            "POST",
            "/c/vectors",
            {"vectors": [{"id": "x", "vector": [1, 2, 3], "if_version": 1.5}]},
            "vectors.0.if_version",
        ),
        (
            "POST",
            "/c/vectors",
            {"vectors": [{"id": "x", "vector": [1, 2, 3], "expires_at": 5}]},
            "vectors.0.expires_at",
        ),
        ("PUT", "/c/vectors/x", {"vector": [1, 2, 3], "expires_at": "2100-01-01T00:00:00"}, "expires_at"),
        ("PUT", "/c/vectors/x", {"vector": [1, 2, 3], "expires_at": "9999-12-31T23:59:59-01:00"}, "expires_at"),
        ("PUT", "/c/vectors/x", {"vector": [1, 2, 3], "expires_at": "0001-01-01T00:00:00+01:00"}, "expires_at"),
        ("PUT", "/c/vectors/x", {"vector": [1, 2, 3], "expires_at": "infinity"}, "expires_at"),
        ("POST", "/c/add", {"id": "x", "vector": [1, 2, 3], "if_version": 1}, "if_version"),
        ("PATCH", "/c/vectors/a", {"set": {"k": 1}, "if_version": 0}, "if_version"),
        ("PATCH", "/c/vectors/a", {"vector": None}, "vector"),
        ("PATCH", "/c/vectors/a", {"vector": [1, 2]}, "vector"),
        ("PATCH", "/c/vectors/a", {"vector": [0, 0, 0]}, "vector"),
        ("PATCH", "/c/vectors/a", {"document": "x" * 100_001}, "document"),
        ("PATCH", "/c/vectors/a", {"document": "\x00"}, "document"),
        ("PATCH", "/c/vectors/a", {"if_version": 1}, "set"),
        ("DELETE", "/c/vectors/a?if_version=0", None, "if_version"),
        ("DELETE", "/c/vectors/a?if_version=x", None, "if_version"),
        ("POST", "/c/vectors/update", {"set": {"k": 1}}, "filter"),
        ("POST", "/c/vectors/update", {"filter": {}, "set": {"k": 1}}, "filter"),
        ("POST", "/c/vectors/update", {"filter": {"k": {"$no": 1}}, "set": {"k": 1}}, "filter.k.$no"),
        ("POST", "/c/vectors/update", {"filter": {"k": 1}}, "set"),
        ("POST", "/c/vectors/update", {"filter": {"k": 1}, "set": {"t": "x" * 50_000}}, "set"),
        ("POST", "/c/vectors/update", {"filter": {"k": 1}, "set": {"k": 2}, "namespace": "x" * 513}, "namespace"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_what_cannot_be_is_refused_with_its_path(
    world: World, method: str, path: str, body: Any, expected: str
) -> None:
    before = world.tenant.contents()
    assert paths(world.tenant.call(method, path, json=body)) == [expected]
    assert world.tenant.contents() == before


def test_a_moment_at_the_ends_of_time_comes_back(world: World) -> None:
    tenant = world.tenant
    tenant.write("/c", {"id": "x", "vector": [1, 2, 3], "expires_at": "9999-12-31T23:59:59.999999Z"})
    assert tenant.call("GET", "/c/vectors/x").json()["expires_at"] == "9999-12-31T23:59:59.999999Z"
    tenant.write("/c", {"id": "x", "vector": [1, 2, 3], "expires_at": "0001-01-01T00:00:00Z"})
    problem(tenant.call("GET", "/c/vectors/x"), 404)


def test_a_batch_of_a_thousand_with_ids_of_any_unicode_answers_for_each(world: World) -> None:
    tenant = world.tenant
    ids = [f"{chr(0x100 + 37 * i)}/😀 {i}\n" for i in range(999)] + ["a"]
    vectors = [{"id": id, "vector": [1, 2, 3], "metadata": {"i": i}} for i, id in enumerate(ids)]
    answer = tenant.call("POST", "/c/vectors", json={"vectors": vectors}).json()
    assert (answer["inserted"], answer["updated"]) == (999, 1)
    assert [one["id"] for one in answer["results"]] == ids
    assert {one["operation"] for one in answer["results"][:-1]} == {"insert"}
    assert tenant.call("GET", f"/c/vectors/{quote(ids[5], safe='')}").json()["metadata"] == {"i": 5}
    too_many = tenant.call("POST", "/c/vectors", json={"vectors": [*vectors, {"id": "x", "vector": [1, 2, 3]}]})
    problem(too_many, 413, "payload_too_large")


def test_a_body_up_to_six_megabytes_is_taken_and_a_larger_one_refused(world: World) -> None:
    tenant = world.tenant
    wanted = {"vectors": [{"id": f"v{i}", "vector": [1, 2, 3], "metadata": {"t": "x" * 39_000}} for i in range(155)]}
    answer = tenant.call("POST", "/c/vectors", json=wanted)
    assert answer.json()["inserted"] == 155
    wanted["vectors"] += [{"id": f"w{i}", "vector": [1, 2, 3], "metadata": {"t": "x" * 39_000}} for i in range(10)]
    problem(tenant.call("POST", "/c/vectors", json=wanted), 413, "payload_too_large")
