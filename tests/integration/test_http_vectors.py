"""Collections and vectors through HTTP: every write says what it did, and is there for the next request."""

from __future__ import annotations

import base64
import struct
from datetime import datetime
from typing import Any
from urllib.parse import quote

import pytest

from tests.fixtures.api import Tenant, World, problem


def usage(answer: Any) -> dict[str, Any]:
    """The usage an answer says, apart from its price, which the ledger's tests check."""
    said: dict[str, Any] = dict(answer.json()["usage"])
    assert set(said) == {"requests", "tokens", "vectors", "cost_usd"}
    assert said.pop("cost_usd") > 0
    return said


def test_a_collection_is_created_described_listed_and_dropped(tenant: Tenant) -> None:
    created = tenant.call("POST", json={"name": "Notes-1.a_b", "dimension": 3})
    assert created.status_code == 201
    described = created.json()
    assert usage(created) == {"requests": 1, "tokens": 0, "vectors": 0}
    del described["usage"]
    assert datetime.fromisoformat(described.pop("created_at")).tzinfo is not None
    assert described == {
        "project_id": tenant.project,
        "name": "Notes-1.a_b",
        "dimension": 3,
        "metric": "cosine",
        "index": {"type": "hnsw", "m": 16, "ef_construction": 128, "storage": "half", "state": "pending"},
        "count": 0,
        "stored_bytes": 0,
        "bytes": 0,
        "index_bytes": 0,
        "target_recall": 0.95,
        "filterable": [],
        "deletion_protection": False,
        "tags": {},
        "indexes": [],
        "namespaces": [],
    }
    tenant.write("/Notes-1.a_b", {"id": "a", "vector": [1, 2, 3]}, {"id": "b", "vector": [1, 2, 4]})
    found = tenant.call("GET", "/Notes-1.a_b").json()
    assert (found["count"], found["bytes"] > 0, found["index_bytes"]) == (2, True, 0)
    assert found["stored_bytes"] == 2 * (3 * 4 + len("a") + len("{}"))
    listed = tenant.call("GET").json()
    of_all = {"project_id", "count", "stored_bytes", "bytes", "index_bytes", "indexes", "namespaces", "usage"}
    assert listed["collections"] == [{name: found[name] for name in found.keys() - of_all}]
    assert "next_page_token" not in listed
    dropped = tenant.call("DELETE", "/Notes-1.a_b")
    assert dropped.json()["status"] == "ok"
    problem(tenant.call("GET", "/Notes-1.a_b"), 404, "collection_not_found")
    assert tenant.call("GET").json()["collections"] == []


@pytest.mark.parametrize(
    ("asked", "index"),
    [
        ({"metric": "l2"}, {"type": "hnsw", "storage": "float", "state": "pending"}),
        ({"metric": "inner_product", "index": {"storage": "half"}}, {"type": "hnsw", "storage": "half"}),
        ({"index": {"type": "none"}}, {"type": "none", "state": "none"}),
        ({"index": {"m": 8, "ef_construction": 100}}, {"m": 8, "ef_construction": 100}),
        ({"dimension": 4001}, {"type": "none", "state": "none"}),
        ({"dimension": 2001, "metric": "l2"}, {"type": "none"}),
    ],
    ids=str,
)
def test_an_index_is_what_was_asked_for_or_what_can_be(
    tenant: Tenant, asked: dict[str, Any], index: dict[str, Any]
) -> None:
    answer = tenant.call("POST", json={"name": "c", "dimension": 3} | asked)
    assert answer.status_code == 201, answer.text
    assert answer.json()["index"].items() >= index.items()
    assert tenant.call("GET", "/c").json()["index"] == answer.json()["index"]


def test_a_collection_with_an_embedder_takes_documents_and_knows_its_dimension(tenant: Tenant) -> None:
    answer = tenant.call("POST", json={"name": "c", "embedder": {"provider": "built-in"}})
    assert answer.json()["embedder"]["provider"] == "built-in"
    assert answer.json()["dimension"] == 256
    written = tenant.call(
        "POST",
        "/c/vectors",
        json={
            "vectors": [{"id": "a", "document": "a cat"}, {"id": "b", "document": "an invoice", "vector": [1] * 256}]
        },
    )
    assert usage(written) == {"requests": 1, "tokens": 2 + 3, "vectors": 2}
    assert tenant.call("GET", "/c/vectors/b").json()["vector"] == [1] * 256  # given, so not embedded
    blank = tenant.call(
        "POST", "/c/vectors", json={"vectors": [{"id": "c", "document": "x"}, {"id": "d", "document": " "}]}
    )
    assert [error["path"] for error in problem(blank, 422)["errors"]] == ["vectors.1.document"]
    assert len(tenant.contents()["c"]) == 2


def test_two_collections_of_a_name_are_409_in_a_project_and_fine_in_two(tenant: Tenant) -> None:
    tenant.collection("c")
    tenant.write("/c", {"id": "a", "vector": [1, 2, 3]})
    problem(tenant.call("POST", json={"name": "c", "dimension": 5}), 409, "collection_exists")
    assert tenant.call("GET", "/c").json()["dimension"] == 3
    assert len(tenant.contents()["c"]) == 1
    tenant.api.tenant().collection("c", dimension=7)


def test_lists_page_to_their_end(tenant: Tenant) -> None:
    names = [f"c{index}" for index in range(5)]
    for name in names:
        tenant.collection(name)
    assert _pages(tenant, "", "collections", "name", 2) == [["c0", "c1"], ["c2", "c3"], ["c4"]]
    ids = ["a", "b/c", "c d", "é", "😀"]
    tenant.write("/c0", *({"id": id, "vector": [1, 2, 3]} for id in ids))
    assert _pages(tenant, "/c0/vectors", "vectors", "id", 2) == [["a", "b/c"], ["c d", "é"], ["😀"]]
    assert _pages(tenant, "/c0/vectors", "vectors", "id", 5) == [ids]
    tenant.write("/c0", *({"id": id, "vector": [1, 2, 3]} for id in ("x1", "x2", "y")), namespace="n")
    assert _pages(tenant, "/c0/vectors?namespace=n&prefix=x", "vectors", "id", 1) == [["x1"], ["x2"]]


def _pages(tenant: Tenant, path: str, field: str, name: str, limit: int) -> list[list[str]]:
    pages, token = [], ""
    while True:
        joined = f"{path}{'&' if '?' in path else '?'}limit={limit}{token}"
        body = tenant.call("GET", joined).json()
        pages.append([entry[name] for entry in body[field]])
        if "next_page_token" not in body:
            return pages
        token = f"&page_token={quote(body['next_page_token'])}"


def test_a_batch_says_of_each_vector_whether_it_was_inserted_or_updated(world: World) -> None:
    tenant = world.tenant
    vectors = [
        {"id": "a", "vector": [1, 2, 3]},
        {"id": "new", "vector": [1, 2, 3], "namespace": "other"},
        {"id": "new", "vector": [3, 2, 1], "metadata": {"n": 1}},
        {"id": "new", "vector": [3, 2, 2], "metadata": {"n": 2}},
    ]
    answer = tenant.call("POST", "/c/vectors", json={"vectors": vectors})
    body = answer.json()
    assert (body["inserted"], body["updated"]) == (2, 1)
    assert body["results"] == [
        {"id": "a", "namespace": "", "operation": "update", "version": 2},
        {"id": "new", "namespace": "other", "operation": "insert", "version": 1},
        {"id": "new", "namespace": "", "operation": "insert", "version": 1},
    ]
    assert usage(answer) == {"requests": 1, "tokens": 0, "vectors": 3}
    assert tenant.call("GET", "/c/vectors/new").json()["metadata"] == {"n": 2}  # of several with one id the last wins


def test_put_says_insert_or_update_and_replaces_the_whole_vector(world: World) -> None:
    tenant = world.tenant
    first = tenant.call("PUT", "/c/vectors/new", json={"vector": [1, 2, 3], "metadata": {"k": 1}, "document": "d"})
    body = first.json()
    assert usage(first) == {"requests": 1, "tokens": 1, "vectors": 1}
    del body["usage"]
    assert body == {"status": "ok", "operation": "insert", "vector_id": "new", "version": 1}
    second = tenant.call("PUT", "/c/vectors/new", json={"embedding": [3, 2, 1]})
    assert (second.json()["operation"], second.json()["version"]) == ("update", 2)
    found = tenant.call("GET", "/c/vectors/new").json()
    del found["usage"]
    assert found == {"id": "new", "namespace": "", "version": 2, "vector": [3, 2, 1], "metadata": {}}


def test_add_inserts_only(world: World) -> None:
    tenant = world.tenant
    added = tenant.call("POST", "/c/add", json={"id": "new", "vector": [1, 2, 3], "namespace": "n"})
    assert added.status_code == 201
    assert added.json().items() >= {"status": "ok", "operation": "insert", "vector_id": "new", "version": 1}.items()
    before = tenant.contents(), tenant.api.used(tenant.key)
    problem(
        tenant.call("POST", "/c/add", json={"id": "new", "vector": [9, 9, 9], "namespace": "n"}), 409, "vector_exists"
    )
    # Nothing is written; it counts as a request that failed, and costs nothing.
    assert tenant.contents() == before[0]
    assert tenant.api.used(tenant.key) == before[1] | {"requests": before[1]["requests"] + 1}
    assert tenant.call("POST", "/c/add", json={"id": "new", "vector": [1, 2, 3]}).status_code == 201


def test_what_is_written_comes_back_as_it_was(world: World) -> None:
    tenant = world.tenant
    metadata: dict[str, Any] = {
        "null": None,
        "nested": {"list": [1, 2.5, "x", None, True, {"deep": {}}]},
        "": "empty name",
        "ünï": '😀 " \\ \n',
        "big": 2**63,
        "number": 1e-7,
    }
    numbers = [0.1, -1.5, 3.4e38 / 1e21]
    document = "line\n\ttab é 😀 \u2028 \x7f"
    tenant.write("/c", {"id": "x", "vector": numbers, "metadata": metadata, "document": document})
    found = tenant.call("GET", "/c/vectors/x").json()
    assert (found["metadata"], found["document"]) == (metadata, document)
    assert struct.pack("<3f", *found["vector"]) == struct.pack("<3f", *numbers)
    [match] = tenant.call(
        "POST", "/c/search", json={"id": "x", "top_k": 1, "include": ["metadata", "document", "vector"]}
    ).json()["matches"]
    assert (match["metadata"], match["document"], match["vector"]) == (metadata, document, found["vector"])


def test_a_vector_may_be_given_in_base64(world: World) -> None:
    packed = base64.b64encode(struct.pack("<3f", 0.25, -1, 2)).decode()
    for name in ("vector", "embedding", "query_vector"):
        assert world.tenant.call("PUT", f"/c/vectors/{name}", json={name: packed}).status_code == 200
        assert world.tenant.call("GET", f"/c/vectors/{name}").json()["vector"] == [0.25, -1, 2]
    answer = world.tenant.call("POST", "/c/search", json={"vector": packed, "top_k": 1})
    assert answer.json()["matches"][0]["score"] == pytest.approx(1)


def test_fetch_answers_in_the_order_asked_and_leaves_out_what_is_missing(world: World) -> None:
    answer = world.tenant.call("POST", "/c/vectors/fetch", json={"ids": ["b", "missing", "a", "b"]})
    assert [vector["id"] for vector in answer.json()["vectors"]] == ["b", "a"]
    assert answer.json()["count"] == 2
    assert usage(answer) == {"requests": 1, "tokens": 0, "vectors": 2}
    elsewhere = world.tenant.call("POST", "/c/vectors/fetch", json={"ids": ["a"], "namespace": "n"})
    assert elsewhere.json()["vectors"] == []


def test_patch_sets_and_removes_fields_and_leaves_the_rest(world: World) -> None:
    tenant = world.tenant
    answer = tenant.call("PATCH", "/c/vectors/a", json={"set": {"new": [1], "k": None}, "unset": ["missing"]})
    body = answer.json()
    assert usage(answer) == {"requests": 1, "tokens": 0, "vectors": 1}
    assert (body["status"], body["vector_id"], body["version"]) == ("ok", "a", 2)
    found = tenant.call("GET", "/c/vectors/a").json()
    assert found["metadata"] == {"k": None, "new": [1]}
    assert (found["vector"], found["document"]) == ([1, 0, 0], "first")
    tenant.call("PATCH", "/c/vectors/a", json={"unset": ["new", "k"]})
    assert tenant.call("GET", "/c/vectors/a").json()["metadata"] == {}


def test_a_vector_is_deleted_once(world: World) -> None:
    tenant = world.tenant
    answer = tenant.call("DELETE", "/c/vectors/a")
    assert answer.json().items() >= {"matched": 1, "deleted": 1}.items()
    problem(tenant.call("DELETE", "/c/vectors/a"), 404, "vector_not_found")
    assert [row[1] for row in tenant.contents()["c"]] == ["b"]


@pytest.mark.parametrize(
    ("body", "gone"),
    [
        ({"ids": ["a", "missing", "a"]}, ["a"]),
        ({"filter": {"k": 2}}, ["b"]),
        ({"metadata_filter": {"k": {"$eq": 1}}}, ["a"]),
        ({"filter": {"k": "1"}}, []),
        ({"all": True}, ["a", "b"]),
        ({"all": True, "namespace": "n"}, ["c"]),
        ({"ids": ["a", "c"], "namespace": "n"}, ["c"]),
    ],
    ids=str,
)
def test_many_are_deleted_by_ids_by_filter_or_all_and_a_dry_run_only_counts(
    world: World, body: dict[str, Any], gone: list[str]
) -> None:
    tenant = world.tenant
    tenant.write("/c", {"id": "c", "vector": [1, 2, 3]}, namespace="n")
    tried = tenant.call("POST", "/c/vectors/delete", json=body | {"dry_run": True})
    assert tried.json().items() >= {"matched": len(gone), "deleted": 0}.items()
    assert len(tenant.contents()["c"]) == 3
    done = tenant.call("POST", "/c/vectors/delete", json=body)
    assert done.json().items() >= {"matched": len(gone), "deleted": len(gone)}.items()
    assert [row[1] for row in tenant.contents()["c"]] == [id for id in ("a", "b", "c") if id not in gone]


def test_namespaces_are_worlds_of_their_own(world: World) -> None:
    tenant = world.tenant
    for namespace in ("n", "é/😀", " "):
        tenant.write("/c", {"id": "a", "vector": [0, 0, 1], "metadata": {"of": namespace}}, namespace=namespace)
        query = "?namespace=" + quote(namespace, safe="")
        assert tenant.call("GET", f"/c/vectors/a{query}").json()["metadata"] == {"of": namespace}
        assert (
            tenant.call("GET", f"/c/vectors{query}").json().items()
            >= {"vectors": [{"id": "a"}], "namespace": namespace}.items()
        )
        matches = tenant.call("POST", "/c/search", json={"vector": [1, 0, 0], "namespace": namespace}).json()["matches"]
        assert [(match["id"], match["namespace"]) for match in matches] == [("a", namespace)]
    assert tenant.call("GET", "/c/vectors/a").json()["metadata"] == {"k": 1}
