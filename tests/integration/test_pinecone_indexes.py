"""Pinecone's control plane: indexes are made, listed, described, configured, deleted, in both shapes of their API."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from tests.fixtures.api import Tenant, open_api, problem
from tests.fixtures.pinecone_indexes import NEW, OLD, ON_DEMAND, READY, SERVERLESS, Wire, dense, told, wanted
from tests.fixtures.vectors import in_threads, raised
from vecmeter.ledger.model import Role


@pytest.fixture
def wire(tenant: Tenant) -> Wire:
    return Wire(tenant)


# --- the two shapes ---


def test_an_index_is_told_of_in_the_shape_of_the_clients_version(wire: Wire) -> None:
    made = wire.made("docs", deletion_protection="enabled", tags={"team": "search"}, metric="euclidean")
    created_at = made.pop("created_at")
    common = {
        "name": "docs",
        "host": "http://testserver/indexes/docs",
        "status": READY,
        "deletion_protection": "enabled",
        "tags": {"team": "search"},
    }
    by_spec = common | {
        "dimension": 3,
        "metric": "euclidean",
        "vector_type": "dense",
        "spec": {"serverless": {"cloud": "gcp", "region": "us-east1", "read_capacity": ON_DEMAND}},
    }
    by_schema = common | {
        "schema": {"fields": {"_values": dense(metric="euclidean")}},
        "deployment": {"deployment_type": "managed", "cloud": "gcp", "region": "us-east1"},
        "read_capacity": ON_DEMAND,
    }
    assert made == by_spec
    assert wire.describe("docs", NEW) == by_schema
    assert wire.describe("docs", "2026-01.alpha") == by_schema
    for version in ("2024-07", "2025-04", OLD, "2026-04", None):
        answer = told(wire.call("GET", "/indexes/docs", version=version))
        assert answer.pop("created_at") == created_at
        assert answer == by_spec
    assert told(wire.call("GET", "/indexes", version=NEW)) == {"indexes": [by_schema]}
    assert told(wire.call("GET", "/indexes")) == {"indexes": [by_spec | {"created_at": created_at}]}


@pytest.mark.parametrize(
    "version", ["latest", "1", "2025", "v2025-10", "202601", "2026-13", "2026-10-garbage", "2025-10x"]
)
def test_a_version_that_is_none_is_refused(wire: Wire, version: str) -> None:
    for method, path, body in (("GET", "/indexes", None), ("POST", "/indexes", wanted("x"))):
        found = problem(wire.call(method, path, body, version), 422)
        assert [one["path"] for one in found["errors"]] == ["X-Pinecone-Api-Version"]
    assert wire.names() == []


@pytest.mark.parametrize("version", [OLD, NEW])
def test_an_index_is_ready_at_once_and_an_ordinary_collection(wire: Wire, version: str) -> None:
    wire.made("docs", version)
    wire.tenant.write("/docs", {"id": "a", "vector": [1, 0, 0], "metadata": {"genre": "comedy"}})
    found = wire.tenant.call("POST", "/docs/search", json={"vector": [1, 0, 0]}).json()
    assert [match["id"] for match in found["matches"]] == ["a"]
    described = wire.tenant.call("GET", "/docs").json()
    assert (described["dimension"], described["metric"], described["count"]) == (3, "cosine", 1)
    assert "embedder" not in described


def test_an_index_has_no_embedder_even_where_the_deployment_has_one(wire: Wire) -> None:
    settings = dataclasses.replace(wire.tenant.api.runtime.settings, embedder_provider="built-in")
    with open_api(settings) as api:
        there = Tenant(api, wire.tenant.user, wire.tenant.project, wire.tenant.key)
        Wire(there).made("docs", dimension=256)
        assert "embedder" not in there.call("GET", "/docs").json()


def test_a_collection_of_the_native_api_is_an_index(wire: Wire) -> None:
    wire.tenant.collection("My.Docs", metric="inner_product", filterable=[{"field": "year", "type": "number"}])
    assert wire.names() == ["My.Docs"]
    described = wire.describe("My.Docs")
    assert (described["metric"], described["dimension"]) == ("dotproduct", 3)
    here = {"cloud": "aws", "region": "us-east-1", "read_capacity": ON_DEMAND}
    assert described["spec"] == {"serverless": here | {"schema": {"fields": {"year": {"filterable": True}}}}}
    assert wire.describe("My.Docs", NEW)["schema"]["fields"]["year"] == {"type": "float", "filterable": True}
    assert wire.configure("My.Docs", tags={"a": "b"})["tags"] == {"a": "b"}
    assert wire.call("DELETE", "/indexes/My.Docs").status_code == 202
    problem(wire.tenant.call("GET", "/My.Docs"), 404)


@pytest.mark.parametrize(
    ("theirs", "ours"), [("cosine", "cosine"), ("euclidean", "l2"), ("dotproduct", "inner_product")]
)
def test_each_metric_has_its_name_on_both_sides(wire: Wire, theirs: str, ours: str) -> None:
    assert wire.made("docs", metric=theirs)["metric"] == theirs
    assert wire.tenant.call("GET", "/docs").json()["metric"] == ours
    wire.made("new", NEW, schema={"fields": {"_values": dense(metric=theirs)}})
    assert wire.tenant.call("GET", "/new").json()["metric"] == ours


def test_where_an_index_was_asked_for_is_told_again_in_both_shapes(wire: Wire) -> None:
    wire.made("a", spec={"byoc": {"environment": "ours-1"}})
    assert wire.describe("a")["spec"] == {"byoc": {"environment": "ours-1", "read_capacity": ON_DEMAND}}
    assert wire.describe("a", NEW)["deployment"] == {"deployment_type": "byoc", "environment": "ours-1"}
    azure = {"deployment_type": "managed", "cloud": "azure", "region": "eastus2"}
    assert wire.made("b", NEW, deployment=azure)["deployment"] == azure
    assert wire.describe("b")["spec"]["serverless"]["cloud"] == "azure"
    assert wire.made("c", NEW)["deployment"] == {"deployment_type": "managed", "cloud": "aws", "region": "us-east-1"}
    assert wire.made("d", NEW, read_capacity={"mode": "OnDemand"})["read_capacity"] == ON_DEMAND


def test_an_index_without_a_name_gets_one_that_no_other_has(wire: Wire) -> None:
    body = {"schema": {"fields": {"_values": dense()}}}
    names = {told(wire.call("POST", "/indexes", body, NEW))["name"] for _ in range(3)}
    assert len(names) == 3
    assert sorted(names) == wire.names()


def test_declared_metadata_with_a_type_gets_an_index_of_its_own_and_all_is_told_again(wire: Wire) -> None:
    fields = {
        "genre": {"filterable": True},
        "year": {"filterable": True, "type": "integer"},
        "title": {"filterable": True, "type": "string"},
        "seen": {"filterable": True, "type": "boolean"},
        "cast": {"filterable": True, "type": "string_list"},
    }
    spec = {"serverless": SERVERLESS["serverless"] | {"schema": {"fields": fields}}}
    made = wire.made("films", spec=spec)
    assert made["spec"]["serverless"]["schema"] == {"fields": {name: {"filterable": True} for name in fields}}
    told_of = wire.describe("films", NEW)["schema"]["fields"]
    assert told_of.pop("_values")["dimension"] == 3
    assert told_of == {
        "genre": {"filterable": True},
        "cast": {"filterable": True},
        "year": {"type": "float", "filterable": True},
        "title": {"type": "string", "filterable": True},
        "seen": {"type": "boolean", "filterable": True},
    }
    assert wire.tenant.call("GET", "/films").json()["filterable"] == [
        {"field": "year", "type": "number"},
        {"field": "title", "type": "string"},
        {"field": "seen", "type": "boolean"},
    ]
    again = {"_values": dense(), "year": {"type": "float", "filterable": True}, "genre": {"filterable": True}}
    assert wire.made("more", NEW, schema={"fields": again})["schema"]["fields"] == again


def test_a_list_has_every_index_however_many_there_are(wire: Wire) -> None:
    """More than a page of the vector store; definitions alone, for tables take time."""
    wire.made("z")
    copied = """
        INSERT INTO vecmeter.collections (project_id, name, dimension, metric, index_type, index_m,
            index_ef_construction, index_storage)
        SELECT project_id, 'i' || lpad(n::text, 5, '0'), dimension, metric, index_type, index_m,
            index_ef_construction, index_storage
        FROM vecmeter.collections, generate_series(1, 2100) n WHERE project_id = %s
    """
    with wire.tenant.api.runtime.database.connection() as connection:
        connection.execute(copied, [wire.tenant.project])
    assert wire.names() == [*(f"i{at:05}" for at in range(1, 2101)), "z"]


# --- names, limits and what is refused ---


@pytest.mark.parametrize("version", [OLD, NEW])
def test_a_name_that_is_taken_is_409_and_the_index_stays_as_it_is(wire: Wire, version: str) -> None:
    before = wire.made("docs", tags={"a": "b"})
    answer = wire.call("POST", "/indexes", wanted("docs", version), version)
    problem(answer, 409, "collection_exists")
    assert answer.json()["error"]["code"] == "ALREADY_EXISTS"
    assert answer.json()["error"]["message"] == "Resource already exists."
    assert wire.describe("docs") == before


def test_a_full_project_is_403_which_clients_do_not_repeat(wire: Wire) -> None:
    tenant = wire.tenant
    path = f"/admin/quotas/project/{tenant.project}"
    limited = tenant.api.call("PUT", path, tenant.api.system_admin(), json={"max_collections": 1})
    assert limited.status_code == 200, limited.text
    wire.made("one")
    answer = wire.call("POST", "/indexes", wanted("two"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "QUOTA_EXCEEDED")
    assert "retry-after" not in answer.headers
    [violated] = answer.json()["error"]["details"]["violated_policies"]
    assert (violated["name"], violated["limit"], violated["used"]) == ("max_collections", 1, 1)
    assert wire.names() == ["one"]


# --- tags and protection ---


@pytest.mark.parametrize("version", [OLD, NEW])
def test_tags_are_merged_and_an_empty_value_takes_one_away(wire: Wire, version: str) -> None:
    wire.made("docs", tags={"env": "staging", "team": "search", "none": ""})
    assert wire.describe("docs")["tags"] == {"env": "staging", "team": "search"}
    assert wire.configure("docs", version, tags={"env": "prod", "team": "", "new": "x"})["tags"] == {
        "env": "prod",
        "new": "x",
    }
    assert wire.configure("docs", version, deletion_protection="enabled")["tags"] == {"env": "prod", "new": "x"}
    assert "tags" not in wire.configure("docs", version, tags={"env": "", "new": ""})
    assert wire.describe("docs")["deletion_protection"] == "enabled"


def test_the_limit_of_tags_holds_for_all_of_them_together(wire: Wire) -> None:
    wire.made("docs", tags={f"t{at}": "x" for at in range(20)})
    answer = wire.call("PATCH", "/indexes/docs", {"tags": {"one": "more"}})
    assert [one["path"] for one in problem(answer, 422)["errors"]] == ["tags"]
    assert len(wire.describe("docs")["tags"]) == 20
    assert "one" in wire.configure("docs", tags={"one": "more", "t0": ""})["tags"]


def test_of_tags_set_at_once_none_is_lost(wire: Wire) -> None:
    wire.made("docs")
    done = in_threads(*[lambda at=at: len(wire.configure("docs", tags={f"t{at}": "x"})) for at in range(8)])
    assert raised(done) == []
    assert wire.describe("docs")["tags"] == {f"t{at}": "x" for at in range(8)}


def test_a_protected_index_cannot_be_deleted_by_either_api(wire: Wire) -> None:
    wire.made("docs", deletion_protection="enabled")
    wire.tenant.write("/docs", {"id": "a", "vector": [1, 0, 0]})
    contents = wire.tenant.contents()
    answer = wire.call("DELETE", "/indexes/docs")
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "FORBIDDEN")
    message = "Deletion protection is enabled for this index. Disable deletion protection before retrying."
    assert answer.json()["error"]["message"] == message
    assert answer.json()["error"]["details"]["code"] == "deletion_protected"
    problem(wire.tenant.call("DELETE", "/docs"), 409, "deletion_protected")
    assert wire.tenant.contents() == contents
    wire.configure("docs", deletion_protection="disabled")
    assert wire.call("DELETE", "/indexes/docs").status_code == 202


@pytest.mark.parametrize("version", [OLD, NEW])
def test_a_deleted_index_is_missing_at_once_everywhere(wire: Wire, version: str) -> None:
    wire.made("docs")
    with open_api(wire.tenant.api.runtime.settings) as other:
        elsewhere = Wire(Tenant(other, wire.tenant.user, wire.tenant.project, wire.tenant.key))
        assert elsewhere.describe("docs", version)["status"] == READY
        deleted = wire.call("DELETE", "/indexes/docs", version=version)
        assert (deleted.status_code, deleted.content) == (202, b"")
        for one in (wire, elsewhere):
            answer = one.call("GET", "/indexes/docs", version=version)
            assert answer.json()["error"]["message"] == "Index docs not found."
            assert one.names() == []
    problem(wire.call("DELETE", "/indexes/docs"), 404, "collection_not_found")
    problem(wire.call("PATCH", "/indexes/docs", {"tags": {"a": "b"}}), 404, "collection_not_found")


# --- billing ---


def test_each_call_is_recorded_and_billed_as_the_native_one(wire: Wire) -> None:
    tenant = wire.tenant
    tenant.collection("n")
    for method, path, body in (("GET", "", None), ("GET", "/n", None), ("PATCH", "/n", {"target_recall": 0.9})):
        assert tenant.call(method, path, json=body).status_code == 200
    assert tenant.call("DELETE", "/n").status_code == 200
    native = tenant.api.records(tenant.key)
    used = tenant.api.used(tenant.key)
    wire.made("n")
    wire.call("GET", "/indexes")
    wire.describe("n")
    wire.configure("n", tags={"a": "b"})
    wire.call("DELETE", "/indexes/n")
    theirs = [one for one in tenant.api.records(tenant.key) if one not in native]
    assert {one.endpoint for one in theirs} == {
        "POST /indexes",
        "GET /indexes",
        "GET /indexes/{index}",
        "PATCH /indexes/{index}",
        "DELETE /indexes/{index}",
    }
    facts = ("operation", "status", "requests", "tokens", "vectors", "micro_usd", "project_id", "collection")

    def told_of(records: list[Any]) -> list[str]:
        return sorted(f"{one.endpoint.split()[0]} {[getattr(one, name) for name in facts]}" for one in records)

    assert told_of(theirs) == told_of(native)
    assert tenant.api.used(tenant.key) == {name: 2 * amount for name, amount in used.items()}


def test_an_index_made_again_with_its_idempotency_key_is_the_same_and_free(wire: Wire) -> None:
    first = wire.call("POST", "/indexes", wanted("docs"), Idempotency_Key="once")
    again = wire.call("POST", "/indexes", wanted("docs"), Idempotency_Key="once")
    assert (again.status_code, again.content) == (201, first.content)
    assert again.headers["idempotency-replayed"] == "true"
    deleted = [wire.call("DELETE", "/indexes/docs", Idempotency_Key="gone") for _ in range(2)]
    assert [(one.status_code, one.content) for one in deleted] == [(202, b"")] * 2
    assert wire.tenant.api.used(wire.tenant.key)["requests"] == 2


def test_reading_needs_the_role_search_and_changing_the_role_write(wire: Wire) -> None:
    tenant = wire.tenant
    wire.made("docs")
    reader = Wire(dataclasses.replace(tenant, key=tenant.api.create_key(tenant.user, tenant.project, Role.SEARCH)))
    assert reader.names() == ["docs"]
    for method, path, body in (
        ("POST", "/indexes", wanted("new")),
        ("PATCH", "/indexes/docs", {"tags": {"a": "b"}}),
        ("DELETE", "/indexes/docs", None),
    ):
        answer = reader.call(method, path, body)
        assert answer.json()["error"]["code"] == "FORBIDDEN"
        problem(answer, 403, "missing_role")
    assert json.dumps(wire.describe("docs")) == json.dumps(reader.describe("docs"))
