"""A query over Pinecone's wire is admitted, metered, remembered and refused as the search it is."""

from __future__ import annotations

import dataclasses
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fixtures.api import Api, Tenant, open_api, problem, settings_for
from tests.integration.test_http_cache import came, database_away
from vecmeter.ledger.model import Role

# Of a usage record, all but who, when, which route, how long and how many bytes.
SAME = [
    "operation", "status", "requests", "tokens", "vectors", "micro_usd", "collection", "namespace", "had_filter",
    "price_version", "cache", "user_id", "project_id", "api_key_id",
]  # fmt: skip


@pytest.fixture
def points(tenant: Tenant) -> Tenant:
    """A tenant with an index of three records."""
    return with_points(tenant)


def with_points(tenant: Tenant) -> Tenant:
    tenant.collection("c")
    tenant.write(
        "/c",
        {"id": "a", "vector": [1, 0, 0], "metadata": {"k": 1}},
        {"id": "b", "vector": [0, 1, 0], "metadata": {"k": 2}},
        {"id": "c", "vector": [0, 0, 1]},
    )
    return tenant


def query(tenant: Tenant, key: Any = None, **body: Any) -> httpx.Response:
    given = {"topK": 2} | ({"vector": [1, 0, 0]} if not body.keys() & {"vector", "id"} else {}) | body
    return tenant.api.call("POST", "/indexes/c/query", key or tenant.key, json=given)


def test_a_query_is_recorded_counted_and_billed_as_the_same_search_is(points: Tenant, shared_api: Api) -> None:
    def taken(ask: Any) -> tuple[dict[str, int], Any, dict[str, Any]]:
        before = shared_api.used(points.key)
        answer = ask()
        assert answer.status_code == 200, answer.text
        after = shared_api.used(points.key)
        [record] = [one for one in shared_api.records(points.key) if one.request_id == answer.headers["x-request-id"]]
        return {name: after[name] - before[name] for name in after}, record, answer.json()["usage"]

    for filter in (None, {"k": 1}):
        body = {"vector": [1, 0, 0], "top_k": 2, "filter": filter, "namespace": ""}
        counted, native, usage = taken(lambda body=body: points.call("POST", "/c/search", json=body))
        wired_counted, wired, wired_usage = taken(lambda filter=filter: query(points, filter=filter))
        assert wired_counted == counted
        assert wired_usage == usage | {"readUnits": 1}
        assert [getattr(wired, name) for name in SAME] == [getattr(native, name) for name in SAME]
        assert wired.endpoint == "POST /indexes/{index}/query"
        assert wired.response_bytes > 0


def test_a_query_that_finds_nothing_to_start_from_is_billed_as_one_that_finds_nothing(
    points: Tenant, shared_api: Api
) -> None:
    before = shared_api.used(points.key)
    assert query(points, id="missing").json()["usage"] == {
        "requests": 1, "tokens": 0, "vectors": 0, "cost_usd": 5e-06, "readUnits": 1
    }  # fmt: skip
    after = shared_api.used(points.key)
    assert (after["requests"] - before["requests"], after["micro_usd"] - before["micro_usd"]) == (1, 5)


def test_what_one_wire_remembers_the_other_answers_until_something_is_written(points: Tenant) -> None:
    first, again = query(points, includeMetadata=True), query(points, includeMetadata=True)
    assert (came(first), came(again)) == ("miss", "hit")
    assert again.content == first.content
    native = points.call("POST", "/c/search", json={"vector": [1, 0, 0], "top_k": 2, "include": ["metadata"]})
    assert came(native) == "hit", "it is the same search"
    points.write("/c", {"id": "a", "vector": [1, 0, 0], "metadata": {"k": 7}})
    after = query(points, includeMetadata=True)
    assert came(after) == "miss"
    assert after.json()["matches"][0]["metadata"] == {"k": 7}


def test_while_the_database_is_away_what_is_remembered_is_answered_and_said_to_be_stale(
    database_url: str, table_name: str
) -> None:
    settings = settings_for(database_url, table_name, database_connect_timeout_seconds=1, circuit_failures=1000)
    with open_api(settings) as api:
        tenant = with_points(api.tenant())
        fresh = query(tenant)
        with database_away(database_url):
            stale, unknown = query(tenant), query(tenant, topK=3)
        assert (came(stale), stale.content) == ("stale", fresh.content)
        assert stale.headers["age"].isdigit()
        problem(unknown, 503)
        assert unknown.json()["error"]["code"] == "UNAVAILABLE"
        assert "retry-after" in unknown.headers


def test_an_index_is_one_of_the_keys_project(points: Tenant, shared_api: Api) -> None:
    stranger = shared_api.tenant()
    problem(query(points, stranger.key), 404, "collection_not_found")
    stranger.collection("c")
    stranger.write("/c", {"id": "z", "vector": [1, 0, 0]})
    assert [match["id"] for match in query(points, stranger.key).json()["matches"]] == ["z"]
    assert [match["id"] for match in query(points).json()["matches"]] == ["a", "b"]
    without = shared_api.create_key(points.user, None, Role.SEARCH)
    problem(query(points, without), 403, "key_without_project")
    writer = shared_api.create_key(points.user, points.project, Role.WRITE)
    problem(query(points, writer), 403, "missing_role")


def test_a_limit_refuses_a_query_before_it_searches_and_says_which(points: Tenant, shared_api: Api) -> None:
    key = shared_api.create_key(points.user, points.project, Role.SEARCH, policy={"searches_per_day": 1})
    assert query(points, key).status_code == 200
    refused = query(points, key)
    details = problem(refused, 429, "limit_exceeded")
    assert refused.json()["error"]["code"] == "RESOURCE_EXHAUSTED"
    [violated] = details["violated_policies"]
    assert (violated["name"], violated["limit"], violated["used"]) == ("searches_per_day", 1, 1)


@pytest.mark.parametrize(("limit", "waits"), [("requests_per_minute", True), ("daily_requests", False)])
def test_clients_are_told_to_wait_for_what_comes_soon_and_not_until_tomorrow(
    points: Tenant, shared_api: Api, limit: str, waits: bool
) -> None:
    key = shared_api.create_key(points.user, points.project, Role.SEARCH, policy={limit: 1})
    assert query(points, key).status_code == 200
    refused = query(points, key)
    assert refused.status_code == 429
    assert ("retry-after" in refused.headers) is waits
    assert refused.json()["error"]["details"]["violated_policies"][0]["resets_at"]


def test_an_answer_beyond_the_limit_is_refused_with_its_size_and_not_billed(points: Tenant, shared_api: Api) -> None:
    with open_api(dataclasses.replace(shared_api.runtime.settings, max_response_bytes=1024)) as api:
        tenant = dataclasses.replace(points, api=api)
        tenant.write("/c", *({"id": "x" * 100 + str(i), "vector": [1, 0, 0]} for i in range(10)))
        before = api.used(points.key)["micro_usd"]
        answer = query(tenant, topK=10)
        assert "at most 1024 are sent" in problem(answer, 413, "payload_too_large")["detail"]
        assert answer.json()["error"]["code"] == "PAYLOAD_TOO_LARGE"
        assert api.used(points.key)["micro_usd"] == before


@pytest.mark.parametrize(
    ("body", "paths"),
    [
        ({"topK": 0}, ["topK"]),
        ({"topK": 10_001}, ["topK"]),
        ({"topK": "5"}, ["topK"]),
        ({"topK": None}, ["topK"]),
        ({"vector": None}, ["vector"]),
        ({"vector": [1, 0, 0], "id": "a"}, ["vector"]),
        ({"vector": []}, ["vector"]),
        ({"vector": [1, "0", 0]}, ["vector"]),
        ({"vector": [1, float("nan"), 0]}, ["vector"]),
        ({"vector": [1, 1e39, 0]}, ["vector"]),
        ({"vector": [1, 1e30, 0]}, ["vector"]),
        ({"vector": [1, 0]}, ["vector"]),
        ({"vector": [0, 0]}, ["vector"]),
        ({"id": ""}, ["id"]),
        ({"id": "é"}, ["id"]),
        ({"id": "x" * 513}, ["id"]),
        ({"id": 5}, ["id"]),
        ({"namespace": "n" * 513}, ["namespace"]),
        ({"namespace": "ä"}, ["namespace"]),
        ({"filter": []}, ["filter"]),
        ({"filter": {"k": None}}, ["filter.k"]),
        ({"filter": {"$or": [{"k": {"$gt": "1"}}]}}, ["filter.$or.0.k.$gt"]),
        ({"filter": {f"k{i}": i for i in range(257)}}, ["filter"]),
        ({"includeValues": "yes"}, ["includeValues"]),
        ({"sparseVector": {"indices": [1], "values": [1]}}, ["sparseVector"]),
        ({"scanFactor": 2.0, "maxCandidates": 100}, ["scanFactor", "maxCandidates"]),
        ({"queries": [{"values": [1, 0, 0]}]}, ["queries"]),
        ({"mode": "text"}, ["mode"]),
    ],
    ids=str,
)
def test_a_query_that_does_not_validate_is_refused_with_its_paths_and_takes_nothing(
    points: Tenant, shared_api: Api, body: dict[str, Any], paths: list[str]
) -> None:
    before = shared_api.used(points.key)
    refused = query(points, **body)
    assert [fault["path"] for fault in problem(refused, 422)["errors"]] == paths
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "INVALID_ARGUMENT")
    assert shared_api.used(points.key)["micro_usd"] == before["micro_usd"]


def test_refusals_name_what_is_allowed_and_what_was_given(points: Tenant) -> None:
    for body, said in (
        ({"topK": 10_001}, "topK: is 10001; 1 to 10000 are allowed."),
        ({"vector": [1, 0]}, "vector: Vector dimension 2 does not match the dimension of the index 3."),
        ({"id": "a", "vector": [1, 0, 0]}, "vector: exactly one of vector and id must be given, not both."),
    ):
        assert query(points, **body).json()["error"]["message"] == said


FIELDS = ["topK", "vector", "id", "namespace", "filter", "includeValues", "includeMetadata", "sparseVector", "queries"]
OPERATORS = ["$and", "$or", "$not", "$eq", "$ne", "$gt", "$in", "$nin", "$exists", "$has", "$contains", "k"]
names = st.sampled_from([*FIELDS, *OPERATORS]) | st.text(st.characters(exclude_categories=()), max_size=5)
scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=()), max_size=5)
)
anything = st.recursive(
    scalars | st.sampled_from([1, 3, 10_000, 1e39, "a", ""]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
    max_leaves=10,
)
bodies = anything | st.builds(
    lambda base, changes: {**base, **changes},
    st.sampled_from([{"topK": 3, "vector": [1, 0, 0]}, {"topK": 1, "id": "a", "namespace": "n"}]),
    st.dictionaries(st.sampled_from(FIELDS), anything, max_size=2)
    | st.fixed_dictionaries({"filter": st.dictionaries(names, anything, min_size=1, max_size=2)}),
)


@given(body=bodies)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_sent_is_answered_or_refused_in_their_envelope(points: Tenant, body: Any) -> None:
    answer = points.api.call("POST", "/indexes/c/query", points.key, json=body)
    assert answer.headers["content-type"] == "application/json"
    found = answer.json()
    if answer.status_code == 200:
        assert found.keys() == {"matches", "namespace", "usage"}
    else:
        assert 400 <= answer.status_code < 500, answer.text
        assert (found["status"], found.keys()) == (answer.status_code, {"error", "status"})
