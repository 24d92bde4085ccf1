"""Records over Pinecone's wire: what is written, read, changed and deleted, and what it costs."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fixtures.api import Tenant
from tests.fixtures.pinecone import Wire, query, refused
from vecmeter.ledger.model import Role

PASSED = "2000-01-01T00:00:00Z"


@pytest.fixture
def wire(tenant: Tenant) -> Wire:
    tenant.collection("c")
    return Wire(tenant)


def test_what_was_upserted_is_fetched_as_it_was_with_float32_values(wire: Wire) -> None:
    metadata = {"genre": ["drama", "comedy"], "year": 1994, "score": 0.5, "seen": True, "title": "é"}
    answer = wire.upsert({"id": "a", "values": [0.1, 2, -3.5], "metadata": metadata}, {"id": "b", "values": [3, 2, 1]})
    assert answer["upsertedCount"] == 2
    found = wire.ok("GET", "/vectors/fetch?ids=a&ids=b&ids=missing")
    assert found["vectors"] == {
        "a": {"id": "a", "values": [0.1, 2.0, -3.5], "metadata": metadata},
        "b": {"id": "b", "values": [3.0, 2.0, 1.0]},
    }
    assert found["namespace"] == ""
    assert found["usage"]["readUnits"] == 1


def test_an_upsert_replaces_a_record_as_a_whole_and_of_one_id_the_last_wins(wire: Wire) -> None:
    wire.upsert({"id": "a", "values": [1, 2, 3], "metadata": {"old": 1}})
    twice = wire.upsert(
        {"id": "a", "values": [1, 1, 1], "metadata": {"first": 1}}, {"id": "a", "values": [2, 2, 2], "metadata": {}}
    )
    assert twice["upsertedCount"] == 2
    assert wire.fetch("a") == {"a": {"id": "a", "values": [2.0, 2.0, 2.0]}}


def test_fields_that_are_null_are_left_out_and_an_update_never_clears_one(wire: Wire) -> None:
    wire.upsert({"id": "a", "values": [1, 2, 3], "metadata": {"tag": None, "kept": 1}})
    assert wire.fetch("a")["a"]["metadata"] == {"kept": 1}
    wire.ok("POST", "/vectors/update", {"id": "a", "setMetadata": {"kept": None, "new": "x"}})
    assert wire.fetch("a")["a"]["metadata"] == {"kept": 1, "new": "x"}


def test_the_default_namespace_goes_by_its_empty_name_by_none_and_by_default(wire: Wire) -> None:
    wire.ok("POST", "/vectors/upsert", {"vectors": [{"id": "none", "values": [1, 2, 3]}]})
    wire.ok("POST", "/vectors/upsert", {"vectors": [{"id": "null", "values": [1, 2, 3]}], "namespace": None})
    wire.upsert({"id": "empty", "values": [1, 2, 3]}, namespace="")
    wire.upsert({"id": "named", "values": [1, 2, 3]}, namespace="__default__")
    every = ["empty", "named", "none", "null"]
    assert wire.ids() == wire.ids(namespace="") == wire.ids(namespace="__default__") == every
    asked = [wire.ok("GET", "/vectors/list" + query(namespace=name))["namespace"] for name in ("", "__default__", "x")]
    assert asked == ["", "__default__", "x"]
    assert sorted(wire.fetch(*every, namespace="__default__")) == every
    listed = wire.tenant.call("GET", "/c/vectors").json()["vectors"]
    assert [one["id"] for one in listed] == every


def test_namespaces_do_not_see_each_other(wire: Wire) -> None:
    for namespace in ("", "x", "y"):
        wire.upsert({"id": "a", "values": [1, 2, 3], "metadata": {"in": namespace or "-"}}, namespace=namespace)
    wire.ok("POST", "/vectors/update", {"id": "a", "setMetadata": {"in": "changed"}, "namespace": "x"})
    wire.ok("POST", "/vectors/delete", {"deleteAll": True, "namespace": "y"})
    held = [wire.fetch("a", namespace=name) for name in ("", "x", "y")]
    assert [found["a"]["metadata"]["in"] if found else None for found in held] == ["-", "changed", None]


def test_an_update_changes_values_and_merges_metadata_and_keeps_the_document(wire: Wire) -> None:
    wire.tenant.write("/c", {"id": "a", "vector": [1, 2, 3], "document": "words", "metadata": {"k": 1, "n": {"o": 1}}})
    answer = wire.ok("POST", "/vectors/update", {"id": "a", "values": [3, 2, 1], "setMetadata": {"k": 2, "l": ["x"]}})
    assert "matchedRecords" not in answer
    assert wire.fetch("a") == {
        "a": {"id": "a", "values": [3.0, 2.0, 1.0], "metadata": {"k": 2, "l": ["x"], "n": {"o": 1}}}
    }
    native = wire.tenant.call("GET", "/c/vectors/a").json()
    assert (native["document"], native["version"]) == ("words", 2)
    wire.ok("POST", "/vectors/update", {"id": "a", "values": [1, 1, 1]})
    assert wire.tenant.call("GET", "/c/vectors/a").json()["document"] == "words"


def test_an_update_of_an_id_that_does_not_exist_changes_nothing(wire: Wire) -> None:
    wire.upsert({"id": "a", "values": [1, 2, 3]})
    before = wire.tenant.contents()
    answer = wire.ok("POST", "/vectors/update", {"id": "missing", "values": [3, 2, 1], "setMetadata": {"k": 1}})
    assert answer["usage"]["vectors"] == 0
    assert wire.tenant.contents() == before


def test_an_update_by_filter_says_how_many_it_matched_and_a_dry_run_only_counts(wire: Wire) -> None:
    wire.upsert(*({"id": str(n), "values": [1, 2, 3], "metadata": {"n": n, "kept": n}} for n in range(4)))
    body = {"filter": {"n": {"$gte": 2}}, "setMetadata": {"seen": True}}
    before = wire.tenant.contents()
    dry = wire.ok("POST", "/vectors/update", {**body, "dryRun": True})
    assert (dry["matchedRecords"], dry["usage"]["vectors"]) == (2, 0)
    assert wire.tenant.contents() == before
    done = wire.ok("POST", "/vectors/update", body)
    assert (done["matchedRecords"], done["usage"]["vectors"]) == (2, 2)
    assert [one.get("metadata") for one in wire.fetch("0", "1", "2", "3").values()] == [
        {"n": 0, "kept": 0},
        {"n": 1, "kept": 1},
        {"n": 2, "kept": 2, "seen": True},
        {"n": 3, "kept": 3, "seen": True},
    ]
    assert wire.ok("POST", "/vectors/update", {**body, "filter": {"n": 99}})["matchedRecords"] == 0


def test_a_filter_finds_elements_of_lists_wherever_it_stands(wire: Wire) -> None:
    wire.upsert(
        {"id": "list", "values": [1, 2, 3], "metadata": {"genre": ["drama", "comedy"]}},
        {"id": "text", "values": [1, 2, 3], "metadata": {"genre": "comedy"}},
        {"id": "other", "values": [1, 2, 3], "metadata": {"genre": "war"}},
    )
    filter = {"genre": "comedy"}
    assert sorted(wire.ok("POST", "/vectors/fetch_by_metadata", {"filter": filter})["vectors"]) == ["list", "text"]
    update = {"filter": filter, "setMetadata": {"seen": True}}
    assert wire.ok("POST", "/vectors/update", update)["matchedRecords"] == 2
    wire.ok("POST", "/vectors/delete", {"filter": filter})
    assert wire.ids() == ["other"]


def test_deleting_is_the_same_whether_there_was_anything_or_not(wire: Wire) -> None:
    wire.upsert(*({"id": id, "values": [1, 2, 3], "metadata": {"id": id}} for id in "abcd"))
    for body in ({"ids": ["a", "missing"]}, {"filter": {"id": "b"}}, {"deleteAll": True}):
        first = wire.call("POST", "/vectors/delete", body)
        again = wire.call("POST", "/vectors/delete", body)
        assert (first.status_code, again.status_code) == (200, 200)
        assert again.json()["usage"]["vectors"] == 0
        assert first.json().keys() == {"usage"}
    assert wire.ids() == []
    for body in ({"ids": ["a"]}, {"filter": {"id": "b"}}, {"deleteAll": True}):
        wire.ok("POST", "/vectors/delete", {**body, "namespace": "never there"})


def test_false_and_null_are_as_good_as_left_out_in_a_delete(wire: Wire) -> None:
    wire.upsert({"id": "a", "values": [1, 2, 3]}, {"id": "b", "values": [1, 2, 3]})
    wire.ok("POST", "/vectors/delete", {"ids": ["a"], "deleteAll": False, "filter": None, "namespace": None})
    assert wire.ids() == ["b"]


def test_what_has_expired_is_neither_fetched_nor_listed_nor_counted(wire: Wire) -> None:
    wire.upsert({"id": "a", "values": [1, 2, 3], "metadata": {"k": 1}})
    gone = {"id": "gone", "vector": [1, 2, 3], "metadata": {"k": 1}, "expires_at": PASSED}
    wire.tenant.write("/c", gone)
    wire.tenant.write("/c", gone, namespace="only what is gone")
    assert list(wire.fetch("a", "gone")) == ["a"]
    assert wire.ids() == ["a"]
    assert list(wire.ok("POST", "/vectors/fetch_by_metadata", {"filter": {"k": 1}})["vectors"]) == ["a"]
    assert wire.ok("POST", "/describe_index_stats", {})["totalVectorCount"] == 1
    assert wire.ok("GET", "/namespaces")["total_count"] == 1
    update = {"filter": {"k": 1}, "setMetadata": {"k": 2}}
    assert wire.ok("POST", "/vectors/update", update)["matchedRecords"] == 1


def test_ids_are_listed_in_the_order_of_their_bytes_in_pages_with_a_prefix(wire: Wire) -> None:
    ids = [f"doc{n}#{part}" for n in range(3) for part in "aZ_"] + ["other"]
    wire.upsert(*({"id": id, "values": [1, 2, 3]} for id in ids))
    assert wire.ids(limit=2) == sorted(ids)
    assert wire.ids(limit=1, prefix="doc1#") == ["doc1#Z", "doc1#_", "doc1#a"]
    assert wire.ids(namespace="missing") == []
    last = wire.ok("GET", "/vectors/list?limit=10")
    assert "pagination" not in last
    assert last["usage"]["readUnits"] == 1


@pytest.mark.parametrize("read", ["list", "fetch_by_metadata"])
def test_pages_neither_skip_nor_repeat_a_record_that_is_there_all_the_time(wire: Wire, read: str) -> None:
    stay = [f"{n:02}" for n in range(0, 20, 2)]
    wire.upsert(*({"id": id, "values": [1, 2, 3], "metadata": {"k": 1}} for id in stay))
    found: list[str] = []
    page: dict[str, Any] = {"pagination": {}}
    while "pagination" in page:
        token = page["pagination"].get("next")
        if read == "list":
            page = wire.ok("GET", "/vectors/list" + query(limit=3, paginationToken=token))
            found += [one["id"] for one in page["vectors"]]
        else:
            body = {"filter": {"k": 1}, "limit": 3, "paginationToken": token}
            page = wire.ok("POST", "/vectors/fetch_by_metadata", body)
            found += page["vectors"]
        # Some come before where the page ended and some after, and one of them goes again.
        at = int(found[-1][:2])
        more = [f"{n:02}x" for n in (at - 1, at, at + 1)]
        wire.upsert(*({"id": id, "values": [1, 2, 3], "metadata": {"k": 1}} for id in more))
        wire.ok("POST", "/vectors/delete", {"ids": more[1:2]})
    assert sorted(set(found)) == found
    assert set(stay) <= set(found)


def test_matches_come_in_pages_in_the_order_of_their_ids(wire: Wire) -> None:
    wire.upsert(*({"id": f"{n:03}", "values": [n, 2, 3], "metadata": {"even": n % 2 == 0}} for n in range(30)))
    found: list[str] = []
    body: dict[str, Any] = {"filter": {"even": True}, "limit": 4}
    pages: list[int] = []
    while "paginationToken" not in body or body["paginationToken"]:
        page = wire.ok("POST", "/vectors/fetch_by_metadata", body)
        pages.append(len(page["vectors"]))
        found += page["vectors"]
        body["paginationToken"] = page.get("pagination", {}).get("next")
    assert (pages, found) == ([4, 4, 4, 3], [f"{n:03}" for n in range(0, 30, 2)])
    whole = wire.ok("POST", "/vectors/fetch_by_metadata", {"filter": {"even": True}})
    assert whole["vectors"]["004"] == {"id": "004", "values": [4.0, 2.0, 3.0], "metadata": {"even": True}}
    assert (whole["usage"]["readUnits"], whole["usage"]["vectors"]) == (2, 15)


def test_records_are_billed_recorded_and_counted_as_natively(tenant: Tenant) -> None:
    tenant.collection("c")
    wire, native = Wire(tenant), tenant.api.tenant()
    native.collection("c")
    record = {"id": "a", "values": [1, 2, 3], "metadata": {"k": 1}}
    vector = {"id": "a", "vector": [1, 2, 3], "metadata": {"k": 1}}
    change, unread = {"filter": {"k": 1}, "set": {"l": 1}}, {"filter": {"k": 1}, "setMetadata": {"l": 1}}
    theirs = [
        wire.ok("POST", "/vectors/upsert", {"vectors": [record, {**record, "id": "b"}]}),
        wire.ok("GET", "/vectors/fetch?ids=a&ids=b"),
        wire.ok("GET", "/vectors/list"),
        wire.ok("POST", "/vectors/update", {"id": "a", "setMetadata": {"k": 1}}),
        wire.ok("POST", "/vectors/update", {**unread, "dryRun": True}),
        wire.ok("POST", "/vectors/update", unread),
        wire.ok("POST", "/vectors/delete", {"ids": ["a"]}),
        wire.ok("POST", "/vectors/delete", {"filter": {"k": 1}}),
    ]
    ours = [
        native.call("POST", "/c/vectors", json={"vectors": [vector, {**vector, "id": "b"}]}).json(),
        native.call("POST", "/c/vectors/fetch", json={"ids": ["a", "b"]}).json(),
        native.call("GET", "/c/vectors").json(),
        native.call("PATCH", "/c/vectors/a", json={"set": {"k": 1}}).json(),
        native.call("POST", "/c/vectors/update", json={**change, "dry_run": True}).json(),
        native.call("POST", "/c/vectors/update", json=change).json(),
        native.call("POST", "/c/vectors/delete", json={"ids": ["a"]}).json(),
        native.call("POST", "/c/vectors/delete", json={"filter": {"k": 1}}).json(),
    ]
    billed = [{name: usage for name, usage in one["usage"].items() if name != "readUnits"} for one in theirs]
    assert billed == [one["usage"] for one in ours]
    assert tenant.api.used(tenant.key) == tenant.api.used(native.key)

    def recorded(of: Tenant) -> list[tuple[Any, ...]]:
        kept = of.api.records(of.key)
        return sorted((r.operation, r.status, r.collection, r.vectors, r.micro_usd, r.had_filter) for r in kept)

    assert recorded(tenant) == recorded(native)
    assert {r.endpoint for r in tenant.api.records(tenant.key) if "indexes" in r.endpoint} == {
        f"{method} /indexes/{{index}}/vectors/{name}"
        for method, name in (
            ("POST", "upsert"),
            ("GET", "fetch"),
            ("GET", "list"),
            ("POST", "update"),
            ("POST", "delete"),
        )
    }


def test_a_write_repeated_with_its_idempotency_key_takes_place_and_is_paid_once(wire: Wire) -> None:
    wire.upsert({"id": "a", "values": [1, 2, 3], "metadata": {"k": 1}})
    writes = (
        ("/vectors/upsert", {"vectors": [{"id": "b", "values": [1, 2, 3]}]}),
        ("/vectors/update", {"filter": {"k": 1}, "setMetadata": {"l": 1}}),
        ("/vectors/delete", {"ids": ["b"]}),
    )
    for path, body in writes:
        headers = {"Idempotency-Key": f"once {path}".replace(" ", "-")}
        first = wire.call("POST", path, body, headers=headers)
        before, used = wire.tenant.contents(), wire.tenant.api.used(wire.tenant.key)["micro_usd"]
        again = wire.call("POST", path, body, headers=headers)
        assert again.headers["Idempotency-Replayed"] == "true"
        assert again.json() == first.json()
        assert wire.tenant.contents() == before
        assert wire.tenant.api.used(wire.tenant.key)["micro_usd"] == used


def test_two_tenants_with_an_index_of_one_name_do_not_meet(wire: Wire) -> None:
    other = Wire(wire.tenant.api.tenant())
    other.tenant.collection("c")
    wire.upsert({"id": "a", "values": [1, 2, 3]})
    other.upsert({"id": "b", "values": [1, 2, 3]})
    other.ok("POST", "/vectors/delete", {"deleteAll": True})
    assert (wire.ids(), other.ids()) == (["a"], [])
    assert wire.ok("GET", "/describe_index_stats")["totalVectorCount"] == 1


def test_a_key_that_may_only_search_reads_and_one_that_may_only_write_writes(wire: Wire) -> None:
    tenant = wire.tenant
    reader = tenant.api.create_key(tenant.user, tenant.project, Role.SEARCH)
    writer = tenant.api.create_key(tenant.user, tenant.project, Role.WRITE)
    wire.ok("POST", "/vectors/upsert", {"vectors": [{"id": "a", "values": [1, 2, 3]}]}, key=writer)
    for path in ("/vectors/list", "/vectors/fetch?ids=a", "/namespaces", "/describe_index_stats"):
        wire.ok("GET", path, key=reader)
        assert wire.call("GET", path, key=writer).status_code == 403
    assert wire.call("POST", "/vectors/delete", {"ids": ["a"]}, key=reader).status_code == 403
    assert wire.call("POST", "/vectors/update", {"id": "a", "setMetadata": {"k": 1}}, key=reader).status_code == 403
    assert wire.ids() == ["a"]


@pytest.mark.parametrize("of", [{"id": "a"}, {"filter": {"k": 1}}], ids=["id", "filter"])
def test_metadata_that_an_update_makes_too_long_is_named_as_the_request_has_it(wire: Wire, of: dict[str, Any]) -> None:
    wire.upsert({"id": "a", "values": [1, 2, 3], "metadata": {"k": 1, "long": "x" * 40_000}})
    before = wire.fetch("a")
    change = {**of, "setMetadata": {"more": "x" * 1000}}
    error = refused(wire.call("POST", "/vectors/update", change), 400, "invalid_request")
    [fault] = error["details"]["errors"]
    assert (fault["path"], "at most 40960 are allowed" in fault["message"]) == ("setMetadata", True)
    assert error["message"].startswith("setMetadata: makes the metadata of 'a' ")
    assert wire.fetch("a") == before
