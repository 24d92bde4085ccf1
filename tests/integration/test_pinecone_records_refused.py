"""What records over Pinecone's wire are refused for: before any work, in their form, with the field and the limit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.fixtures.api import Api, Tenant
from tests.fixtures.pinecone import Wire, query, refused

UPSERT, UPDATE, DELETE = "/vectors/upsert", "/vectors/update", "/vectors/delete"
MATCH = "/vectors/fetch_by_metadata"
GOOD = {"id": "x", "values": [1, 2, 3]}
KEYS = "Metadata value must be a string, number, boolean or list of strings, got "


@pytest.fixture(scope="module")
def wire(shared_api: Api) -> Wire:
    tenant = shared_api.tenant()
    tenant.collection("c")
    wire = Wire(tenant)
    wire.upsert({"id": "a", "values": [1, 2, 3], "metadata": {"k": 1}})
    return wire


@pytest.fixture(autouse=True)
def unchanged(wire: Wire) -> Iterator[None]:
    """Nothing is written, nothing consumed."""
    before = wire.tenant.state()
    yield
    assert wire.tenant.state() == before


def record(**more: Any) -> dict[str, Any]:
    return {"vectors": [GOOD, {**GOOD, **more}]}


BODIES: list[tuple[str, Any, str, str]] = [
    (UPSERT, {"vectors": []}, "vectors", "at least 1 item"),
    (UPSERT, {"vectors": [GOOD] * 1001}, "vectors", "has 1001 items; at most 1000 are allowed"),
    (UPSERT, record(id=""), "vectors.1.id", "must not be empty; 1 to 512 characters are allowed"),
    (UPSERT, record(id="i" * 513), "vectors.1.id", "is 513 characters long; at most 512 are allowed"),
    (UPSERT, record(id="é"), "vectors.1.id", "has a character that is not ASCII"),
    (UPSERT, record(id="a\x00"), "vectors.1.id", "U+0000"),
    (UPSERT, record(id=1), "vectors.1.id", "valid string"),
    (UPSERT, record(values=[]), "vectors.1.values", "must not be empty"),
    (UPSERT, record(values=[1, "2", 3]), "vectors.1.values", "must hold numbers only"),
    (UPSERT, record(values=[1, 2, float("nan")]), "vectors.1.values", "NaN"),
    (UPSERT, {"vectors": [{"id": "x"}]}, "vectors.0.values", "required"),
    (UPSERT, record(sparseValues={"indices": [1], "values": [0.5]}), "vectors.1.sparseValues", "sparse vectors"),
    (UPSERT, record(document="words"), "vectors.1.document", "not permitted"),
    (UPSERT, record(metadata={"k": {"usd": 10}}), "vectors.1.metadata", KEYS + "'{\"usd\":10}' for field 'k'"),
    (UPSERT, record(metadata={"k": [1, 2]}), "vectors.1.metadata", KEYS + "'[1,2]' for field 'k'"),
    (UPSERT, record(metadata={"k": ["a", None]}), "vectors.1.metadata", KEYS + "'[\"a\",null]' for field 'k'"),
    (UPSERT, record(metadata={"k": {"agreement": 13}}), "vectors.1.metadata", "got '{\"agreement\":13}' for"),
    (UPSERT, record(metadata={"k": {"a": "é" * 9}}), "vectors.1.metadata", 'got \'{"a":"ééééé...\' for'),
    (UPSERT, record(metadata={"$k": 1}), "vectors.1.metadata", "Metadata keys must not start with $, got $k"),
    (UPSERT, record(metadata={"k": "x" * 40_960}), "vectors.1.metadata", "is 40968 bytes long; at most 40960"),
    (UPSERT, record(metadata={"k": "\ud800"}), "vectors.1.metadata", "lone surrogate"),
    (UPSERT, record(metadata={"k": ["\ud800", 1]}), "vectors.1.metadata", "lone surrogate"),
    (UPSERT, {"vectors": [GOOD], "namespace": "é"}, "namespace", "has a character that is not ASCII"),
    (UPSERT, {"vectors": [GOOD], "namespace": "n" * 513}, "namespace", "at most 512 are allowed"),
    (UPSERT, {"vectors": [GOOD], "wait": True}, "wait", "not permitted"),
    (UPDATE, {}, "id", "exactly one of id and filter must be given, not neither"),
    (UPDATE, {"id": "a"}, "setMetadata", "there is nothing to change"),
    (UPDATE, {"id": "a", "filter": {"k": 1}, "setMetadata": {}}, "id", "exactly one of id and filter"),
    (UPDATE, {"filter": {}, "setMetadata": {"k": 2}}, "filter", "Update with empty metadata filter is not allowed"),
    (UPDATE, {"filter": {"k": 1}, "values": [1, 2, 3]}, "values", "does not support updating vector values"),
    (UPDATE, {"filter": {"k": {"$not": 1}}, "setMetadata": {"k": 2}}, "filter.k.$not", "is no operator"),
    (UPDATE, {"filter": {"k": 1}}, "setMetadata", "there is nothing to change"),
    (UPDATE, {"id": "a", "setMetadata": {"k": 2}, "dryRun": True}, "dryRun", "cannot be given with an id"),
    (UPDATE, {"id": "a", "sparseValues": {"indices": [], "values": []}}, "sparseValues", "sparse vectors"),
    (UPDATE, {"id": "a", "setMetadata": {"k": [None]}}, "setMetadata", KEYS + "'[null]' for field 'k'"),
    (UPDATE, {"id": "a", "set_metadata": {"k": 2}, "version": 1}, "version", "not permitted"),
    (DELETE, {}, "ids", "exactly one of ids, filter and deleteAll must be given"),
    (DELETE, {"deleteAll": False}, "ids", "exactly one of ids, filter and deleteAll must be given"),
    (DELETE, {"ids": []}, "ids", "at least 1 item"),
    (DELETE, {"ids": ["i"] * 1001}, "ids", "has 1001 items; at most 1000 are allowed"),
    (DELETE, {"ids": ["a"], "deleteAll": True}, "ids", "No explicit IDs allowed when delete_all=true"),
    (DELETE, {"filter": {"k": 1}, "deleteAll": True}, "filter", "No filter allowed when delete_all=true"),
    (DELETE, {"ids": ["a"], "filter": {"k": 1}}, "filter", "cannot be given with ids"),
    (DELETE, {"filter": {}}, "filter", "Delete with empty metadata filter is not allowed"),
    (MATCH, {"filter": {}}, "filter", "Empty filter provided for fetch by metadata request"),
    (MATCH, {}, "filter", "required"),
    (MATCH, {"filter": {"k": 1}, "limit": 0}, "limit", "greater than or equal to 1"),
    (MATCH, {"filter": {"k": 1}, "limit": 10_001}, "limit", "less than or equal to 10000"),
    (MATCH, {"filter": {"k": 1}, "paginationToken": "?"}, "paginationToken", "is not a token this list gave"),
    (MATCH, {"filter": {"k": {"$in": 1}}}, "filter.k.$in", "must be followed by"),
    (
        "/describe_index_stats",
        {"filter": {"k": 1}},
        "filter",
        "Serverless and Starter indexes do not support describing index stats with metadata filtering",
    ),
]


@pytest.mark.parametrize(("path", "body", "field", "message"), BODIES)
def test_a_body_is_refused_with_the_field_the_limit_and_the_value(
    wire: Wire, path: str, body: Any, field: str, message: str
) -> None:
    error = refused(wire.call("POST", path, body), 400, "invalid_request")
    assert error["code"] == "INVALID_ARGUMENT"
    faults = error["details"]["errors"]
    assert [fault for fault in faults if fault["path"] == field and message in fault["message"]], faults
    assert message in error["message"] or len(faults) > 1


@pytest.mark.parametrize(
    ("path", "field", "message"),
    [
        ("/vectors/fetch", "ids", "required"),
        ("/vectors/fetch?ids=", "ids.0", "must not be empty"),
        ("/vectors/fetch" + query(ids=["i"] * 1001), "ids", "has 1001 items; at most 1000 are allowed"),
        ("/vectors/fetch?ids=a&namespace=%C3%A9", "namespace", "not ASCII"),
        ("/vectors/fetch?ids=a&id=b", "id", "not permitted"),
        ("/vectors/list?limit=0", "limit", "greater than or equal to 1"),
        ("/vectors/list?limit=101", "limit", "less than or equal to 100"),
        ("/vectors/list?prefix=%C3%A9", "prefix", "not ASCII"),
        ("/vectors/list?paginationToken=%00", "paginationToken", "is not a token this list gave"),
        ("/namespaces?limit=101", "limit", "less than or equal to 100"),
        ("/namespaces?paginationToken=YQ==", "paginationToken", "is not a token this list gave"),
        ("/namespaces/" + "n" * 513, "namespace", "is 513 characters long; at most 512"),
        ("/namespaces/%C3%A9", "namespace", "not ASCII"),
        ("/bulk/imports?limit=101", "limit", "less than or equal to 100"),
    ],
)
def test_a_query_string_is_refused_with_the_parameter(wire: Wire, path: str, field: str, message: str) -> None:
    error = refused(wire.call("GET", path), 400, "invalid_request")
    [fault] = error["details"]["errors"]
    assert fault["path"] == field
    assert message in fault["message"]


def test_what_is_not_there_says_so_and_what_to_do_instead_to_whoever_has_a_key(wire: Wire) -> None:
    api = wire.tenant.api
    revoked = api.create_key(wire.tenant.user, wire.tenant.project, *wire.tenant.key.key.roles)
    api.runtime.keys.revoke(revoked.key.api_key_id)
    for path, instead in (
        ("/namespaces", "with its first record"),
        ("/bulk/imports", "vecmeter import"),
        ("/records/namespaces/n/upsert", "send vectors"),
        ("/records/namespaces/n/search", "send vectors"),
        ("/namespaces/n%2Fm/documents/upsert", "vectors API"),
    ):
        error = refused(wire.call("POST", path, {"name": "n"}), 501, "unsupported")
        assert error["code"] == "UNIMPLEMENTED"
        assert instead in error["message"]
        refused(wire.call("POST", path, {"name": "n"}, key=revoked), 401, "unauthorized")


def test_values_of_another_dimension_are_refused_in_words_that_clients_know(api: Api) -> None:
    wire = Wire(api.tenant())
    wire.tenant.collection("c")
    wire.upsert({"id": "a", "values": [1, 2, 3]})
    before = wire.tenant.contents()
    message = "Vector dimension 2 does not match the dimension of the index 3"
    for path, body in ((UPSERT, record(values=[1, 2])), (UPDATE, {"id": "a", "values": [1, 2]})):
        assert message in refused(wire.call("POST", path, body), 400, "invalid_request")["message"]
    assert wire.tenant.contents() == before


def test_limits_of_the_deployment_and_of_the_key_hold_over_the_wire(api: Api) -> None:
    tenant: Tenant = api.tenant()
    tenant.collection("c")
    wire = Wire(tenant)
    key = api.create_key(tenant.user, tenant.project, *tenant.key.key.roles, policy={"requests_per_minute": 2})
    wire.ok("POST", UPSERT, {"vectors": [GOOD]}, key=key)
    wire.ok("POST", DELETE, {"deleteAll": True}, key=key)
    before = tenant.contents()
    limited = wire.call("POST", UPSERT, {"vectors": [GOOD]}, key=key)
    assert refused(limited, 429, "limit_exceeded")["code"] == "RESOURCE_EXHAUSTED"
    assert int(limited.headers["Retry-After"]) > 0
    assert tenant.contents() == before
    keyless = api.create_key(tenant.user, None, *tenant.key.key.roles)
    assert refused(wire.call("GET", "/vectors/list", key=keyless), 403, "key_without_project")["code"] == "FORBIDDEN"


def test_the_records_of_an_upsert_are_counted_before_they_are_written(api: Api) -> None:
    tenant: Tenant = api.tenant()
    tenant.collection("c")
    wire = Wire(tenant)
    key = api.create_key(tenant.user, tenant.project, *tenant.key.key.roles, policy={"writes_per_day": 3})
    records = [{**GOOD, "id": str(n)} for n in range(4)]
    refused(wire.call("POST", UPSERT, {"vectors": records}, key=key), 400, "cost_exceeds_limit")
    wire.ok("POST", UPSERT, {"vectors": records[:2]}, key=key)
    refused(wire.call("POST", UPSERT, {"vectors": records[2:]}, key=key), 429, "limit_exceeded")
    assert wire.ids() == ["0", "1"]


def test_an_answer_beyond_the_limit_is_refused_and_not_billed(api: Api) -> None:
    wire = Wire(api.tenant())
    wire.tenant.collection("c")
    large = {"text": "x" * 40_000}
    for batch in range(2):
        wire.upsert(*({"id": f"{batch}-{n}", "values": [1, 2, 3], "metadata": large} for n in range(75)))
    used = api.used(wire.tenant.key)["micro_usd"]
    error = refused(
        wire.call("POST", MATCH, {"filter": {"text": {"$exists": True}}, "limit": 1000}), 413, "payload_too_large"
    )
    assert "ask for less" in error["message"]
    assert api.used(wire.tenant.key)["micro_usd"] == used
    assert len(wire.ok("POST", MATCH, {"filter": {"text": {"$exists": True}}, "limit": 100})["vectors"]) == 100


def test_an_index_that_does_not_exist_is_missing_for_every_route(api: Api) -> None:
    wire = Wire(api.tenant(), "missing")
    other = api.tenant()
    other.collection("missing")
    for method, path, body in (
        ("POST", UPSERT, {"vectors": [GOOD]}),
        ("GET", "/vectors/fetch?ids=a", None),
        ("POST", MATCH, {"filter": {"k": 1}}),
        ("GET", "/vectors/list", None),
        ("POST", UPDATE, {"id": "a", "setMetadata": {"k": 1}}),
        ("POST", DELETE, {"deleteAll": True}),
        ("POST", "/describe_index_stats", {}),
        ("GET", "/namespaces", None),
        ("GET", "/namespaces/__default__", None),
        ("DELETE", "/namespaces/n", None),
        ("GET", "/bulk/imports", None),
        ("GET", "/bulk/imports/1", None),
    ):
        error = refused(wire.call(method, path, body), 404, "collection_not_found")
        assert error["code"] == "NOT_FOUND"
