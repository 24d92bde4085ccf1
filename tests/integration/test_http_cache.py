"""Where an answer comes from: X-Cache, what a hit is billed, what is answered without the database, and clearing."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.fixtures.api import Api, Tenant, open_api, problem, settings_for
from vecmeter.telemetry import Metric

SEARCH = {"vector": [1, 0, 0], "include": ["metadata", "document", "vector"]}


@pytest.fixture
def points(tenant: Tenant) -> Tenant:
    """A tenant with a collection of three vectors."""
    tenant.collection("c", text_search="english")
    tenant.write(
        "/c",
        {"id": "a", "vector": [1, 0, 0], "metadata": {"k": 1, "x": 1.5, "é": [True, None]}, "document": "a cat"},
        {"id": "b", "vector": [0.5, 0.25, 0.1], "metadata": {"k": 2}, "document": "a dog"},
        {"id": "c", "vector": [0, 1, 0], "document": "cats and dogs"},
    )
    return tenant


@pytest.fixture
def elsewhere(shared_api: Api, points: Tenant) -> Iterator[Tenant]:
    """The same tenant, by way of another process."""
    with open_api(shared_api.runtime.settings) as other:
        yield dataclasses.replace(points, api=other)


def search(tenant: Tenant, path: str = "/c/search", **changes: Any) -> httpx.Response:
    answer = tenant.call("POST", path, json=SEARCH | changes)
    assert answer.status_code == 200, answer.text
    return answer


def came(answer: httpx.Response) -> str:
    return answer.headers["x-cache"]


@contextmanager
def database_away(database_url: str) -> Iterator[None]:
    """The database takes no connections and has ended those there were."""
    name = str(conninfo_to_dict(database_url)["dbname"])
    allow = sql.SQL("ALTER DATABASE {} WITH ALLOW_CONNECTIONS {}")
    with psycopg.connect(make_conninfo(database_url, dbname="postgres"), autocommit=True) as connection:
        connection.execute(allow.format(sql.Identifier(name), False))
        connection.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", [name])
        try:
            yield
        finally:
            connection.execute(allow.format(sql.Identifier(name), True))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"filter": {"k": 1}},
        {"vector": None, "id": "b", "top_k": 1, "offset": 1},
        {"vector": None, "text": "cats", "mode": "text"},
        {"text": "dog", "mode": "hybrid", "include": []},
        {"group_by": "k", "min_score": 0.1, "exact": True},
        {"namespace": "empty"},
    ],
    ids=str,
)
def test_a_hit_is_byte_for_byte_what_a_search_answers(points: Tenant, changes: dict[str, Any]) -> None:
    first, again = search(points, **changes), search(points, **changes)
    assert (came(first), came(again)) == ("miss", "hit")
    assert again.content == first.content
    assert "age" not in again.headers


def test_a_hit_is_admitted_billed_and_recorded_as_a_search_is(points: Tenant, shared_api: Api) -> None:
    before = shared_api.used(points.key)
    first, again = search(points), search(points)
    taken = {name: value - before[name] for name, value in shared_api.used(points.key).items()}
    assert first.json()["usage"] == again.json()["usage"]
    assert (taken["requests"], taken["micro_usd"]) == (2, round(2e6 * first.json()["usage"]["cost_usd"]))
    missed, hit = (
        next(record for record in shared_api.records(points.key) if record.cache == use) for use in ("miss", "hit")
    )
    assert (hit.vectors, hit.micro_usd, hit.response_bytes) == (missed.vectors, missed.micro_usd, missed.response_bytes)


def test_debug_says_where_the_matches_come_from(points: Tenant) -> None:
    debugs = [search(points, include_debug=True).json()["debug"] for _ in range(2)]
    assert [debug["cache"] for debug in debugs] == ["miss", "hit"]
    assert debugs[0]["candidates"] == debugs[1]["candidates"] == 3
    assert debugs[0]["plan"] == debugs[1]["plan"]


def test_a_write_through_another_process_is_seen_by_the_next_search(points: Tenant, elsewhere: Tenant) -> None:
    assert [came(search(points)), came(search(points))] == ["miss", "hit"]
    for method, path, body in (
        ("PATCH", "/c/vectors/a", {"set": {"k": 7}}),
        ("DELETE", "/c/vectors/b", None),
        ("PUT", "/c/vectors/b", {"vector": [1, 0, 0.5]}),
        ("POST", "/c/vectors/update", {"filter": {"k": 7}, "set": {"k": 8}}),
        ("PATCH", "/c", {"target_recall": 0.9}),
        ("DELETE", "/c/namespaces/", None),
    ):
        assert elsewhere.call(method, path, json=body).is_success, path
        answer = search(points)
        assert came(answer) == "miss", path
        assert answer.json()["matches"] == search(elsewhere).json()["matches"]
        assert came(search(points)) == "hit"


def test_a_batch_is_a_hit_if_all_of_it_is(points: Tenant, shared_api: Api) -> None:
    def batch(*searches: dict[str, Any]) -> httpx.Response:
        answer = points.call("POST", "/c/search/batch", json={"searches": [SEARCH | one for one in searches]})
        assert answer.status_code == 200, answer.text
        return answer

    alone = search(points).json()["matches"]
    mixed = batch({"include_debug": True}, {}, {"top_k": 1})
    assert came(mixed) == "miss"
    assert mixed.json()["results"][1]["matches"] == alone
    both = batch({}, {"top_k": 1})
    assert came(both) == "hit"
    assert both.json()["results"][0]["matches"] == alone
    assert both.json()["results"][1]["matches"] == alone[:1]
    assert both.json()["usage"]["requests"] == 1
    assert sorted(str(record.cache) for record in shared_api.records(points.key)) == [
        "None",
        "None",
        "hit",
        "miss",
        "miss",
    ]


def test_recall_is_measured_not_remembered(points: Tenant) -> None:
    for _ in range(2):
        answer = points.call("POST", "/c/recall", json={"queries": [[1, 0, 0]]})
        assert answer.json()["recall"] == 1.0
        assert "x-cache" not in answer.headers


def test_without_memory_for_it_nothing_is_remembered(points: Tenant, shared_api: Api) -> None:
    with open_api(dataclasses.replace(shared_api.runtime.settings, result_cache_mb=0)) as off:
        tenant = dataclasses.replace(points, api=off)
        answers = [search(tenant, include_debug=True) for _ in range(2)]
        assert [came(answer) for answer in answers] == ["off", "off"]
        assert answers[1].json()["debug"]["cache"] == "off"
        assert off.records(points.key)[0].cache is None


def test_what_the_cache_did_is_measured_by_request(
    points: Tenant, capsys: pytest.CaptureFixture[str], shared_api: Api
) -> None:
    with open_api(dataclasses.replace(shared_api.runtime.settings, metrics_enabled=True)) as measured:
        tenant = dataclasses.replace(points, api=measured)
        search(tenant)
        search(tenant)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if '"CacheBytes"' in line]
    names = (Metric.CACHE_HITS, Metric.CACHE_MISSES, Metric.CACHE_EVICTIONS, Metric.STALE_ANSWERS)
    assert [[line[name.label] for name in names] for line in lines] == [[0, 1, 0, 0], [1, 0, 0, 0]]
    assert lines[0][Metric.CACHE_BYTES.label] == lines[1][Metric.CACHE_BYTES.label] > 0


def test_while_the_database_is_away_what_is_remembered_is_answered_and_said_to_be_stale(
    database_url: str, table_name: str
) -> None:
    # No circuit opens, so that PostgreSQL is asked again at once.
    settings = settings_for(database_url, table_name, database_connect_timeout_seconds=1, circuit_failures=1000)
    with open_api(settings) as api:
        tenant = api.tenant()
        for name in ("c", "gone"):
            tenant.collection(name)
            tenant.write(f"/{name}", {"id": "a", "vector": [1, 0, 0]})
            assert came(search(tenant, f"/{name}/search")) == "miss"
        fresh = search(tenant)
        assert tenant.call("DELETE", "/gone").status_code == 200
        stranger = api.tenant()
        with database_away(database_url):
            answer = search(tenant)
            assert came(answer) == "stale"
            assert answer.content == fresh.content
            assert answer.headers["age"].isdigit()
            assert "stale" in {record.cache for record in api.records(tenant.key)}
            both = tenant.call("POST", "/c/search/batch", json={"searches": [SEARCH, SEARCH]})
            assert (both.status_code, came(both)) == (200, "stale")
            for other in (
                tenant.call("POST", "/c/search", json=SEARCH | {"top_k": 2}),
                tenant.call("POST", "/c/search/batch", json={"searches": [SEARCH, SEARCH | {"top_k": 2}]}),
                tenant.call("POST", "/gone/search", json=SEARCH),
            ):
                assert other.status_code == 503
                assert "retry-after" in other.headers
            foreign = stranger.call("POST", "", key=stranger.key)
            assert foreign.status_code != 200
            path = f"{tenant.base}/c/search"
            assert api.call("POST", path, stranger.key, json=SEARCH).status_code == 404
            with open_api(settings) as cold:
                problem(cold.call("POST", path, tenant.key, json=SEARCH), 503)
        assert came(search(tenant)) == "hit", "nothing has changed meanwhile"


def test_while_the_circuit_is_open_nothing_is_waited_for(database_url: str, table_name: str) -> None:
    settings = settings_for(database_url, table_name, database_connect_timeout_seconds=1, circuit_failures=1)
    with open_api(settings) as api:
        tenant = api.tenant()
        tenant.collection("c")
        search(tenant)
        with database_away(database_url):
            assert [came(search(tenant)), came(search(tenant))] == ["stale", "stale"]
        assert came(search(tenant)) == "stale", "for the circuit is open yet"
        problem(tenant.call("POST", "/c/search", json=SEARCH | {"top_k": 2}), 503, "circuit_open")


def test_an_answer_outlives_the_definition_it_was_found_by(database_url: str, table_name: str) -> None:
    """A definition is believed for half a minute; without the database it is the last that was seen."""
    settings = settings_for(database_url, table_name, database_connect_timeout_seconds=1)
    with open_api(settings) as api:
        tenant = api.tenant()
        tenant.collection("c")
        search(tenant)
        ahead = api.runtime.collections._monotonic
        api.runtime.collections._monotonic = lambda: ahead() + 3600
        with database_away(database_url):
            assert came(search(tenant)) == "stale"


@pytest.mark.parametrize("scope", ["collection", "project", "all"])
def test_clearing_makes_every_process_search_again(
    points: Tenant, elsewhere: Tenant, shared_api: Api, scope: str
) -> None:
    assert [came(search(points)), came(search(elsewhere))] == ["miss", "miss"]
    admin = shared_api.system_admin()
    body = {"collection": {"project_id": points.project, "collection": "c"}, "project": {"project_id": points.project}}
    answer = shared_api.call("POST", "/admin/maintenance/clear_cache", admin, json=body.get(scope, {}))
    assert answer.status_code == 200, answer.text
    assert answer.json()["status"] == "ok"
    assert [came(search(elsewhere)), came(search(points))] == ["miss", "miss"]
    assert [came(search(elsewhere)), came(search(points))] == ["hit", "hit"]
