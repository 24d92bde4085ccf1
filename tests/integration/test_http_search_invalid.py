"""What means nothing in a search, a batch of them, a measurement of recall or a write by filter is refused with its
path; what only looks dangerous is taken for what it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from tests.fixtures.api import World, paths, problem, refuse
from tests.fixtures.routes import BY_NAME

NAN, INFINITY = float("nan"), float("inf")
LONE = "\ud800"
QUERY = {"vector": [1, 2, 3]}


def nested(operator: str, depth: int) -> dict[str, Any]:
    filter: dict[str, Any] = {"k": 1}
    for _ in range(depth):
        filter = {operator: filter} if operator == "$not" else {operator: [filter]}
    return filter


NO_FILTERS: Mapping[str, tuple[dict[str, Any], str]] = {
    "unknown operator on a field": ({"k": {"$regex": "(a+)+$"}}, "k.$regex"),
    "code": ({"$where": "this.k == 1"}, "$where"),
    "comparison without a field": ({"$gt": 1}, "$gt"),
    "field among operators": ({"k": {"$gt": 1, "x": 2}}, "k.x"),
    "empty $or": ({"$or": []}, "$or"),
    "empty filter inside": ({"$and": [{"k": 1}, {}]}, "$and.1"),
    "empty negation": ({"$not": {}}, "$not"),
    "negation of a value": ({"k": {"$not": 1}}, "k.$not"),
    "no filter in $or": ({"$or": [{"k": 1}, "k"]}, "$or.1"),
    "order of booleans": ({"k": {"$gt": True}}, "k.$gt"),
    "order of null": ({"k": {"$lte": None}}, "k.$lte"),
    "order of lists": ({"k": {"$lt": [1]}}, "k.$lt"),
    "no list": ({"k": {"$in": "ab"}}, "k.$in"),
    "lists in a list": ({"k": {"$nin": [[1]]}}, "k.$nin"),
    "part that is a list": ({"k": {"$contains": [1]}}, "k.$contains"),
    "no boolean": ({"k": {"$exists": 1}}, "k.$exists"),
    "NaN": ({"k": {"$gt": NAN}}, "k.$gt"),
    "infinity in a list": ({"k": {"$in": [1, -INFINITY]}}, "k.$in"),
    "NUL in a list": ({"k": {"$in": ["a\x00"]}}, "k.$in"),
    "NUL in a name": ({"k\x00": {"$exists": True}}, "k\x00.$exists"),
    "lone surrogate": ({"k": {"$contains": LONE}}, "k.$contains"),
    "too long a list": ({"k": {"$in": list(range(10_001))}}, "k.$in"),
    "too many conditions": ({"$or": [{"k": index} for index in range(257)]}, ""),
    "too deep by $or": (nested("$or", 17), ".".join(["$or.0"] * 16)),
    "too deep by $not": (nested("$not", 17), ".".join(["$not"] * 16)),
    "much too deep": (nested("$not", 80), ".".join(["$not"] * 16)),
}
BY_FILTER: Mapping[str, tuple[str, dict[str, Any]]] = {
    "search": ("filter", QUERY),
    "measure_recall": ("filter", {"sample": 1}),
    "delete_vectors": ("filter", {"dry_run": True}),
    "update_vectors": ("filter", {"set": {"k": 1}}),
}


@pytest.mark.parametrize("name", NO_FILTERS)
@pytest.mark.usefixtures("unchanged")
def test_a_filter_that_means_nothing_is_refused_wherever_it_stands(shared_world: World, name: str) -> None:
    filter, path = NO_FILTERS[name]
    for operation, (field, rest) in BY_FILTER.items():
        refuse(shared_world, operation, rest | {field: filter}, f"{field}.{path}".rstrip("."))
    body = {"searches": [QUERY, QUERY | {"filter": filter}]}
    refuse(shared_world, "search_batch", body, f"searches.1.filter.{path}".rstrip("."))


@pytest.mark.parametrize("depth", [100, 5_000, 100_000])
@pytest.mark.usefixtures("unchanged")
def test_json_of_any_depth_is_refused_before_anything_is_done(shared_world: World, depth: int) -> None:
    value = "[" * depth + "1" + "]" * depth
    for operation, body in (
        ("search", '{"vector": [1, 2, 3], "filter": {"k": {"$in": %s}}}'),
        ("search_batch", '{"searches": [{"vector": %s}]}'),
        ("delete_vectors", '{"filter": {"$and": %s}}'),
        ("update_vectors", '{"filter": {"k": 1}, "set": {"k": 1}, "unset": %s}'),
        ("change_collection", '{"filterable": %s}'),
    ):
        route = BY_NAME[operation]
        answer = shared_world.call(route, shared_world.key_for(route), content=(body % value).encode())
        problem(answer, 422 if depth == 100 else 400)


@pytest.mark.usefixtures("unchanged")
def test_a_number_beyond_a_float_is_refused_and_a_whole_number_of_any_size_compared(shared_world: World) -> None:
    tenant = shared_world.tenant
    body = b'{"vector": [1, 2, 3], "filter": {"k": {"$lt": 1e400}}}'
    assert paths(tenant.call("POST", "/c/search", content=body)) == ["filter.k.$lt"]


def test_a_whole_number_of_any_size_is_compared_exactly(world: World) -> None:
    huge = 10**400
    world.tenant.write("/c", {"id": "huge", "vector": [1, 2, 3], "metadata": {"k": huge}})
    for filter, found in (
        ({"k": huge}, ["huge"]),
        ({"k": huge + 1}, []),
        ({"k": {"$gt": huge - 1}}, ["huge"]),
        ({"k": {"$gt": huge}}, []),
        ({"k": {"$in": [huge, 1]}}, ["a", "huge"]),
    ):
        answer = world.tenant.call("POST", "/c/search", json=QUERY | {"filter": filter})
        assert sorted(match["id"] for match in answer.json()["matches"]) == found, filter


# What it would do in another place: SQL, patterns, placeholders, templates, paths, scripts.
HOSTILE = [
    "' OR true --",
    "'; DROP SCHEMA vecmeter CASCADE; --",
    '"',
    "\\",
    "\\'",
    "%",
    "_",
    "%s",
    "%(filter_0)s",
    "$1",
]
HOSTILE += ["{records}", "{0}", "[filter]", "[value]", "[query]", "(a+)+$", ".*", "a|b", "../../etc/passwd", "${x}"]
HOSTILE += ["<script>alert(1)</script>", "\r\nX-Header: 1", "\x7f", "\u202e", "\ufeff", "𝄞" * 10, "null", "true", "1"]


def test_what_looks_dangerous_is_taken_for_what_it_is(world: World) -> None:
    tenant = world.tenant
    tenant.collection("hostile")
    stored = [
        {"id": text, "vector": [1, 2, 3], "metadata": {text: text, "tags": [text], "text": f"a {text} b"}}
        for text in HOSTILE
    ]
    tenant.write("/hostile", *stored, namespace="'; --")

    def found(filter: dict[str, Any]) -> list[str]:
        body = QUERY | {"filter": filter, "namespace": "'; --", "top_k": 100}
        answer = tenant.call("POST", "/hostile/search", json=body)
        assert answer.status_code == 200, answer.text
        return [match["id"] for match in answer.json()["matches"]]

    for text in HOSTILE:
        assert found({"tags": {"$contains": text}}) == [text]
        parts = [other for other in HOSTILE if text in f"a {other} b"]
        assert sorted(found({"text": {"$contains": text}})) == sorted(parts)
        if not text.startswith("$"):  # such a name cannot be asked for: it would be an operator
            for comparison in (text, {"$in": [text]}, {"$gte": text, "$lte": text}, {"$exists": True}):
                assert found({text: comparison}) == [text]
        answer = tenant.call("POST", "/hostile/search", json={"id": text, "namespace": "'; --", "top_k": 100})
        assert len(answer.json()["matches"]) == len(HOSTILE)
    body = {"filter": {"tags": {"$contains": HOSTILE[0]}}, "namespace": "'; --"}
    assert tenant.call("POST", "/hostile/vectors/delete", json=body).json()["deleted"] == 1
    assert len(tenant.contents()["hostile"]) == len(HOSTILE) - 1


NO_SEARCHES: list[tuple[str, Any, list[str]]] = [
    ("search_batch", {}, ["searches"]),
    ("search_batch", {"searches": []}, ["searches"]),
    ("search_batch", {"searches": QUERY}, ["searches"]),
    ("search_batch", {"searches": [QUERY, 1]}, ["searches.1"]),
    ("search_batch", {"searches": [QUERY, {"vector": [1, NAN, 2]}]}, ["searches.1.vector"]),
    ("search_batch", {"searches": [QUERY, {"embedding": ["1", "2"]}]}, ["searches.1.embedding"]),
    ("search_batch", {"searches": [QUERY, {"vector": []}, {"id": ""}]}, ["searches.1.vector", "searches.2.id"]),
    ("search_batch", {"searches": [QUERY | {"top_k": 0}, QUERY | {"x": 1}]}, ["searches.0.top_k", "searches.1.x"]),
    ("search_batch", {"searches": [QUERY | {"namespace": "x" * 513}]}, ["searches.0.namespace"]),
    ("search_batch", {"searches": [QUERY | {"namespace": "a\x00"}]}, ["searches.0.namespace"]),
    ("search_batch", {"searches": [QUERY], "namespace": ""}, ["namespace"]),
    ("measure_recall", {"queries": [[1, 2, 3], [NAN, 1, 2]]}, ["queries.1"]),
    ("measure_recall", {"queries": [[1, 2, INFINITY]]}, ["queries.0"]),
    ("measure_recall", {"queries": [1, 2, 3]}, ["queries.0", "queries.1", "queries.2"]),
    ("measure_recall", {"queries": []}, ["queries"]),
    ("measure_recall", {"sample": 0}, ["sample"]),
    ("measure_recall", {"sample": 1.5}, ["sample"]),
    ("measure_recall", {"sample": 10**9}, ["sample"]),
    ("measure_recall", {"namespace": "a\x00"}, ["namespace"]),
    ("search", QUERY | {"offset": -1}, ["offset"]),
    ("search", QUERY | {"offset": 10**18}, ["offset"]),
    ("search", QUERY | {"ef_search": 0}, ["ef_search"]),
    ("search", QUERY | {"ef_search": 1001}, ["ef_search"]),
    ("search", QUERY | {"ef_search": True}, ["ef_search"]),
    ("search", QUERY | {"min_score": NAN}, ["min_score"]),
    ("search", QUERY | {"min_score": "0.5"}, ["min_score"]),
    ("search", QUERY | {"group_by": ""}, ["group_by"]),
    ("search", QUERY | {"group_by": "a\x00"}, ["group_by"]),
    ("search", QUERY | {"group_by": LONE}, ["group_by"]),
    ("search", QUERY | {"group_by": ["k"]}, ["group_by"]),
    ("search", QUERY | {"mode": "fuzzy"}, ["mode"]),
    ("search", {"text": "x", "mode": "hybrid", "text_weight": 1.5}, ["text_weight"]),
    ("search", {"text": "x", "mode": "hybrid", "text_weight": NAN}, ["text_weight"]),
    ("search", {"text": "x", "mode": "hybrid", "fusion": "sum"}, ["fusion"]),
    ("search", {"text": "a\x00", "mode": "text"}, ["text"]),
]


@pytest.mark.parametrize(("operation", "body", "expected"), NO_SEARCHES)
@pytest.mark.usefixtures("unchanged")
def test_a_search_that_cannot_be_is_refused(
    shared_world: World, operation: str, body: Any, expected: list[str]
) -> None:
    refuse(shared_world, operation, body, *expected)


NO_WRITES: list[tuple[str, Any, list[str]]] = [
    ("update_vectors", {"set": {"k": 1}}, ["filter"]),
    ("update_vectors", {"filter": {}, "set": {"k": 1}}, ["filter"]),
    ("update_vectors", {"filter": {"k": 1}}, ["set"]),
    ("update_vectors", {"filter": {"k": 1}, "set": {"k": NAN}}, ["set"]),
    ("update_vectors", {"filter": {"k": 1}, "set": {"k": "x" * 40_960}}, ["set"]),
    ("update_vectors", {"filter": {"k": 1}, "unset": ["a\x00"]}, ["unset.0"]),
    ("update_vectors", {"filter": {"k": 1}, "set": {"k": 1}, "dry_run": 1}, ["dry_run"]),
    ("upsert_vectors", {"vectors": [{"id": "x", **QUERY, "if_version": -1}]}, ["vectors.0.if_version"]),
    ("upsert_vectors", {"vectors": [{"id": "x", **QUERY, "if_version": 2**63}]}, ["vectors.0.if_version"]),
    ("upsert_vectors", {"vectors": [{"id": "x", **QUERY, "if_version": "1"}]}, ["vectors.0.if_version"]),
    ("upsert_vectors", {"vectors": [{"id": "x", **QUERY, "expires_at": 1}]}, ["vectors.0.expires_at"]),
    ("upsert_vectors", {"vectors": [{"id": "x", **QUERY, "expires_at": "tomorrow"}]}, ["vectors.0.expires_at"]),
    ("upsert_vectors", {"vectors": [{"id": "x", **QUERY, "expires_at": "2999-01-01"}]}, ["vectors.0.expires_at"]),
    ("put_vector", QUERY | {"expires_at": "9999-12-31T23:59:59-14:00"}, ["expires_at"]),
    ("patch_vector", {"if_version": 0, "set": {"k": 1}}, ["if_version"]),
    ("patch_vector", {"vector": None}, ["vector"]),
    ("patch_vector", {"vector": [1, NAN, 3]}, ["vector"]),
    ("change_collection", {"dimension": 4}, ["dimension"]),
    ("change_collection", {"metric": "l2"}, ["metric"]),
    ("change_collection", {"name": "other"}, ["name"]),
    ("change_collection", {"index": {"m": 1}}, ["index.m"]),
    ("change_collection", {"index": {"ef_search": 1001}}, ["index.ef_search"]),
    ("change_collection", {"target_recall": 0}, ["target_recall"]),
    ("change_collection", {"target_recall": 1.01}, ["target_recall"]),
    ("change_collection", {"target_recall": NAN}, ["target_recall"]),
    ("change_collection", {"text_search": "klingon"}, ["text_search"]),
    ("change_collection", {"text_search": "english'; --"}, ["text_search"]),
    ("change_collection", {"filterable": [{"field": "", "type": "number"}]}, ["filterable.0.field"]),
    ("change_collection", {"filterable": [{"field": "$or", "type": "number"}]}, ["filterable.0.field"]),
    ("change_collection", {"filterable": [{"field": "x" * 256, "type": "number"}]}, ["filterable.0.field"]),
    ("change_collection", {"filterable": [{"field": "a\x00", "type": "number"}]}, ["filterable.0.field"]),
    ("change_collection", {"filterable": [{"field": "a", "type": "list"}]}, ["filterable.0.type"]),
    ("change_collection", {"filterable": [{"field": "a", "type": "string"}] * 2}, ["filterable.1.field"]),
    ("change_collection", {"filterable": [{"field": str(n), "type": "string"} for n in range(17)]}, ["filterable"]),
    ("change_collection", {"filterable": {"a": "string"}}, ["filterable"]),
]  # fmt: skip


@pytest.mark.parametrize(("operation", "body", "expected"), NO_WRITES)
@pytest.mark.usefixtures("unchanged")
def test_a_change_that_cannot_be_is_refused(
    shared_world: World, operation: str, body: Any, expected: list[str]
) -> None:
    refuse(shared_world, operation, body, *expected)
    if operation == "change_collection" and not body.keys() & {"dimension", "metric", "name"}:
        refuse(shared_world, "create_collection", {"name": "n", "dimension": 3, **body}, *expected)


def test_a_range_of_a_declared_date_that_is_none_is_refused_and_nothing_is_done(world: World) -> None:
    tenant = world.tenant
    tenant.collection("dated", filterable=[{"field": "day", "type": "date"}])
    tenant.write("/dated", {"id": "a", "vector": [1, 2, 3], "metadata": {"day": "2026-11-21"}})
    wrong, right = ({"day": {"$gte": day}} for day in ("21.11.2026", "2026-11-01"))
    for path, body in (
        ("/search", QUERY),
        ("/recall", {"sample": 1}),
        ("/vectors/delete", {}),
        ("/vectors/update", {"set": {"k": 1}}),
    ):
        before = tenant.contents()
        assert paths(tenant.call("POST", f"/dated{path}", json=body | {"filter": wrong})) == ["filter.day.$gte"]
        assert tenant.contents() == before
    batch = {"searches": [QUERY | {"filter": filter} for filter in (right, wrong, wrong)]}
    refused = paths(tenant.call("POST", "/dated/search/batch", json=batch))
    assert refused == ["searches.1.filter.day.$gte", "searches.2.filter.day.$gte"]
    answer = tenant.call("POST", "/dated/search", json=QUERY | {"filter": right})
    assert [match["id"] for match in answer.json()["matches"]] == ["a"]
