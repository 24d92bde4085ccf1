"""Collections over HTTP: how they are made, described and changed, and their namespaces."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import quote

import pytest

from tests.fixtures.api import Tenant, open_api, paths, problem, settings_for
from vecmeter.settings import Settings
from vecmeter.vectors.texts import LANGUAGES

T = TypeVar("T")


def described(tenant: Tenant, name: str = "c") -> dict[str, Any]:
    answer = tenant.call("GET", f"/{name}")
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def changed(tenant: Tenant, body: Any, name: str = "c") -> dict[str, Any]:
    answer = tenant.call("PATCH", f"/{name}", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def write_some(tenant: Tenant, count: int, namespace: str = "") -> None:
    vectors = [{"id": f"v{at}", "vector": [1, at + 1, at % 7]} for at in range(count)]
    tenant.write("/c", *vectors, namespace=namespace)


def until(look: Callable[[], T], is_so: Callable[[T], bool]) -> T:
    """What is seen once it is so."""
    for _ in range(600):
        found = look()
        if is_so(found):
            return found
        threading.Event().wait(0.05)
    raise AssertionError(f"not in 30 s: {found}")


# --- made ---


def test_a_collection_says_how_it_was_made(tenant: Tenant) -> None:
    made = {
        "name": "papers",
        "dimension": 3,
        "index": {"storage": "binary", "m": 8, "ef_construction": 64, "ef_search": 200},
        "target_recall": 0.9,
        "text_search": "german",
        "filterable": [{"field": "year", "type": "number"}, {"field": "kind", "type": "string"}],
    }
    answer = tenant.call("POST", json=made)
    assert answer.status_code == 201, answer.text
    for body in (answer.json(), described(tenant, "papers")):
        assert body["index"] == {**made["index"], "type": "hnsw", "state": "pending"}  # type: ignore[dict-item]
        assert (body["target_recall"], body["text_search"], body["text_search_ready"]) == (0.9, "german", True)
        assert body["filterable"] == made["filterable"]
        assert (body["indexes"], body["namespaces"]) == ([], [])


@pytest.mark.parametrize(
    ("body", "path", "said"),
    [
        ({"target_recall": 0}, "target_recall", "greater than 0"),
        ({"target_recall": 1.01}, "target_recall", "less than or equal to 1"),
        ({"text_search": "klingon"}, "text_search", "simple, spanish"),
        ({"text_search": 7}, "text_search", "string"),
        ({"index": {"ef_search": 0}}, "index.ef_search", "greater than or equal to 1"),
        ({"index": {"ef_search": 1001}}, "index.ef_search", "less than or equal to 1000"),
        ({"index": {"storage": "quarter"}}, "index.storage", "binary"),
        ({"index": {"m": 32, "ef_construction": 40}}, "index.ef_construction", "at least twice m"),
        ({"filterable": [{"field": "a", "type": "text"}]}, "filterable.0.type", "number"),
        ({"filterable": [{"field": "", "type": "string"}]}, "filterable.0.field", "empty"),
        ({"filterable": [{"field": "a", "type": "string"}] * 2}, "filterable.1.field", "twice"),
        ({"filterable": [{"field": f"f{n}", "type": "date"} for n in range(17)]}, "filterable", "at most 16"),
    ],
)
@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_what_cannot_be_is_refused_and_nothing_happens(
    tenant: Tenant, method: str, body: dict[str, Any], path: str, said: str
) -> None:
    tenant.collection("c")
    before = described(tenant)
    sent = {"name": "new", "dimension": 3, **body} if method == "POST" else body
    answer = tenant.call(method, "" if method == "POST" else "/c", json=sent)
    assert paths(answer) == [path]
    assert said in answer.json()["errors"][0]["message"]
    after = described(tenant)
    assert {**after, "usage": None} == {**before, "usage": None}
    assert [one["name"] for one in tenant.call("GET").json()["collections"]] == ["c"]


def test_every_language_offered_is_one_that_postgresql_has(tenant: Tenant) -> None:
    database = tenant.api.runtime.database
    rows = database.run(lambda c: c.execute("SELECT cfgname FROM pg_ts_config").fetchall())
    assert set(LANGUAGES) <= {name for (name,) in rows}


@pytest.mark.parametrize(("storage", "limit"), [("float", 2000), ("half", 4000), ("binary", 16_000)])
def test_more_dimensions_than_an_index_takes_are_refused_with_the_way_out(
    tenant: Tenant, storage: str, limit: int
) -> None:
    def make(dimension: int) -> Any:
        return tenant.call(
            "POST", json={"name": f"c{dimension}", "dimension": dimension, "index": {"storage": storage}}
        )

    assert make(limit).status_code == 201
    if limit < 16_000:
        answer = make(limit + 1)
        assert paths(answer) == ["index.type"]
        message = answer.json()["errors"][0]["message"]
        assert re.search(rf"at most {limit} dimensions", message)
        assert "binary" in message
        assert "none" in message
    # Who asks for no index gets none where there can be none.
    answer = tenant.call("POST", json={"name": "wide", "dimension": 4001})
    assert answer.json()["index"]["state"] == "none"


# --- changed ---


def test_what_is_named_changes_and_the_rest_stays(tenant: Tenant) -> None:
    tenant.collection("c", index={"m": 8, "ef_construction": 64})
    answer = changed(tenant, {"index": {"ef_search": 300, "m": 12}, "target_recall": 0.8})
    assert answer["index"] == {
        "type": "hnsw", "m": 12, "ef_construction": 64, "storage": "half", "ef_search": 300, "state": "pending"
    }  # fmt: skip
    assert answer["target_recall"] == 0.8
    assert changed(tenant, {"index": {"ef_search": None}})["index"].get("ef_search") is None
    after = changed(tenant, {"filterable": [{"field": "k", "type": "date"}]})
    assert (after["index"]["m"], after["target_recall"]) == (12, 0.8)
    assert after["filterable"] == [{"field": "k", "type": "date"}]
    assert changed(tenant, {})["filterable"] == [{"field": "k", "type": "date"}]
    assert described(tenant)["filterable"] == [{"field": "k", "type": "date"}]
    assert changed(tenant, {"filterable": [], "index": {"type": "none"}})["index"]["state"] == "none"


@pytest.mark.parametrize(
    "body", [{"name": "d"}, {"dimension": 4}, {"metric": "l2"}, {"embedder": {"provider": "none"}}], ids=str
)
def test_what_a_collection_is_cannot_be_changed(tenant: Tenant, body: dict[str, Any]) -> None:
    tenant.collection("c")
    answer = tenant.call("PATCH", "/c", json={**body, "target_recall": 0.5})
    assert paths(answer) == list(body)
    assert "make another collection" in answer.json()["errors"][0]["message"]
    assert described(tenant)["target_recall"] == 0.95


def test_the_same_change_again_changes_nothing(tenant: Tenant) -> None:
    tenant.collection("c")
    write_some(tenant, 3)
    for _ in range(2):
        answer = changed(tenant, {"text_search": "english", "filterable": [{"field": "k", "type": "number"}]})
        assert (answer["text_search"], answer["text_search_ready"]) == ("english", True)
    assert described(tenant)["count"] == 3
    assert changed(tenant, {"text_search": None}).get("text_search") is None


def test_a_change_has_indexes_built_soon(database_url: str, table_name: str) -> None:
    settings: Settings = settings_for(database_url, table_name, index_threshold_vectors=100)
    with open_api(settings) as api:
        tenant = api.tenant()
        tenant.collection("c", index={"type": "none"})
        write_some(tenant, 150)
        changed(tenant, {"index": {"type": "hnsw"}, "filterable": [{"field": "k", "type": "number"}]})
        answer = until(lambda: described(tenant), lambda found: found["index"]["state"] == "ready")
        [index] = answer["indexes"]
        assert (index["state"], index["vectors"], index["m"]) == ("ready", 150, 16)
        assert index["bytes"] > 0
        [(fields,)] = api.runtime.database.run(
            lambda c: c.execute("SELECT count(*) FROM pg_indexes WHERE indexname LIKE 'records%field%'").fetchall()
        )
        assert fields == 1


# --- namespaces ---


def test_a_description_shows_the_plan_that_searches_of_each_namespace_take(database_url: str, table_name: str) -> None:
    settings: Settings = settings_for(
        database_url, table_name, index_threshold_vectors=1000, exact_threshold_vectors=200
    )
    with open_api(settings) as api:
        tenant = api.tenant()
        tenant.collection("c", index={"ef_construction": 64})
        for namespace, count in (("most", 600), ("some", 300), ("", 150), ("few", 10)):
            write_some(tenant, count, namespace)
        maintenance = api.runtime.maintenance
        until(lambda: maintenance.build_indexes(maintenance.select())["collections"][0]["action"], "built".__eq__)
        body = described(tenant)
        assert body["count"] == 1060
        assert [(one["namespace"], one["count"]) for one in body["namespaces"]] == [
            ("most", 600), ("some", 300), ("", 150), ("few", 10)
        ]  # fmt: skip
        assert [one.get("index") for one in body["namespaces"]] == ["namespace", "namespace", None, None]
        for one in body["namespaces"]:
            search = {"vector": [1, 2, 3], "namespace": one["namespace"], "include_debug": True}
            assert tenant.call("POST", "/c/search", json=search).json()["debug"]["plan"] == one["plan"]
        assert sorted(one.get("namespace", "(all)") for one in body["indexes"]) == ["(all)", "most", "some"]


NAMES = ["", "a", "a/b", "ä ö", "%2F", "..", "line\nbreak", "😀", "x" * 512, "{ns}", "?namespace=a", "a+b"]


def test_namespaces_are_listed_page_by_page_with_exact_counts(tenant: Tenant) -> None:
    tenant.collection("c")
    for size, name in enumerate(NAMES, 1):
        write_some(tenant, size, name)
    expected = sorted((name, size) for size, name in enumerate(NAMES, 1))
    for limit in (1, 5, 1000):
        found, token = [], ""
        while True:
            page = tenant.call("GET", f"/c/namespaces?limit={limit}" + (f"&page_token={token}" if token else "")).json()
            assert len(page["namespaces"]) <= limit
            found += [(one["namespace"], one["count"]) for one in page["namespaces"]]
            token = quote(page.get("next_page_token") or "")
            if not token:
                break
        assert found == expected


def test_what_has_expired_is_in_no_count(tenant: Tenant) -> None:
    tenant.collection("c")
    write_some(tenant, 5, "a")
    write_some(tenant, 2, "b")
    number = tenant.api.runtime.collections.get(tenant.project, "c").collection_id
    for table in ("records", "vectors"):
        expire = f"UPDATE vecmeter.{table}_{number} SET expires_at = now() - interval '1 second' WHERE "
        for condition in ("record_id <= 3", "namespace = 'b'"):
            tenant.api.runtime.database.run(lambda c, s=expire + condition: c.execute(s.encode()))  # type: ignore[misc]
    assert tenant.call("GET", "/c/namespaces").json()["namespaces"] == [{"namespace": "a", "count": 2}]
    body = described(tenant)
    assert (body["count"], [(one["namespace"], one["count"]) for one in body["namespaces"]]) == (2, [("a", 2)])
    problem(tenant.call("DELETE", "/c/namespaces/b"), 404, "namespace_not_found")


# The client of the tests would take these for something else.
@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("%2F", "..")])
def test_a_namespace_is_deleted_whatever_its_name_and_no_other(tenant: Tenant, name: str) -> None:
    tenant.collection("c")
    for each in dict.fromkeys([name, "", "a", "kept"]):
        write_some(tenant, 4, each)
    path = "/c/namespaces/" + quote(name, safe="")
    answer = tenant.call("DELETE", path)
    assert answer.status_code == 200, answer.text
    assert (answer.json()["namespace"], answer.json()["deleted"], answer.json()["usage"]["vectors"]) == (name, 4, 4)
    left = [one["namespace"] for one in tenant.call("GET", "/c/namespaces").json()["namespaces"]]
    assert left == sorted({"", "a", "kept"} - {name})
    assert described(tenant)["stored_bytes"] == len(left) * 4 * (12 + 2 + 2)
    problem(tenant.call("DELETE", path), 404, "namespace_not_found")


def test_a_namespace_beyond_the_limit_is_refused(tenant: Tenant) -> None:
    tenant.collection("c")
    assert paths(tenant.call("DELETE", "/c/namespaces/" + "x" * 513)) == ["namespace"]
    assert paths(tenant.call("DELETE", "/c/namespaces/%00")) == ["namespace"]
    assert paths(tenant.call("GET", "/c/namespaces?page_token=YQ==")) == ["page_token"]
