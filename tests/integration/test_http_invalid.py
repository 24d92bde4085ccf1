"""422: what does not validate is refused with every offending path, before anything is written or consumed."""

from __future__ import annotations

import base64
import struct
from typing import Any

import pytest

from tests.fixtures.api import World, paths, refuse
from tests.fixtures.routes import BY_NAME

NAN, INFINITY = float("nan"), float("inf")
LONE = "\ud800"
LONG = "x" * 513
WIDE = "é" * 257  # 514 bytes in 257 characters


def packed(*numbers: float) -> str:
    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()


def nested(depth: int) -> dict[str, Any]:
    filter: dict[str, Any] = {"k": 1}
    for _ in range(depth):
        filter = {"$and": [filter]}
    return filter


# Values no place for numbers takes, whatever the collection.
NO_VECTORS = {
    "NaN": [NAN, 1, 2],
    "infinity": [1, -INFINITY, 2],
    "beyond a double": [1, 2, 10**400],
    "beyond float32": [1, 2, 3.5e38],
    "NaN in base64": packed(NAN, 1, 2),
    "infinity in base64": packed(1, 2, INFINITY),
    "strings": ["1", "2", "3"],
    "booleans": [True, False, True],
    "null in it": [1, None, 2],
    "nested": [[1, 2, 3]],
    "empty": [],
    "empty base64": "",
    "no base64": "a,b,c",
    "URL-safe base64": "__-_AAAA",
    "base64 of a wrong length": base64.b64encode(b"12345").decode(),
    "base64 without padding": "AACAPw",
    "lone surrogate": LONE,
    "object": {"0": 1},
    "number": 1,
    "boolean": True,
}
# What only a collection can tell: 3 dimensions, cosine.
UNFIT_VECTORS = {
    "too short": [1, 2],
    "too long": [1, 2, 3, 4],
    "zero": [0, 0, 0],
    "zero by underflow": [1e-300, 0, -0.0],
    "zero in base64": packed(0, 0, 0),
    "too long in base64": packed(1, 2, 3, 4),
    "too large to compare": [1e30, 1e30, 1e30],
}
NO_STRINGS = {"number": 1, "boolean": True, "list": ["a"], "object": {}, "NUL": "a\x00b", "lone surrogate": "a" + LONE}
NO_INTEGERS = {"fraction": 1.5, "string": "10", "boolean": True, "null": None, "list": [1], "NaN": NAN}
NO_OBJECTS = {"list": [], "string": "{}", "number": 1, "boolean": True}
NO_METADATA = {
    "too large": {"k": "x" * 40_960},
    "too large in bytes": {"k": "é" * 20_480},
    "NaN": {"k": NAN},
    "deep NaN": {"k": [{"l": [INFINITY]}]},
    "NUL": {"k": "\x00"},
    "NUL in a deep name": {"k": [{"a\x00": 1}]},
    "lone surrogate": {"k": LONE},
    "lone surrogate in a name": {LONE: 1},
}
NO_FILTERS = {
    "unknown operator": {"k": {"$near": 1}},
    "unknown operator at the top": {"$nor": []},
    "empty $and": {"$and": []},
    "no list": {"$and": {"k": 1}},
    "NUL": {"k": "\x00"},
    "lone surrogate": {"k": LONE},
    "lone surrogate in a name": {LONE: 1},
    "NaN": {"k": NAN},
    "too deep": nested(17),
    "too many": {f"k{index}": index for index in range(257)},
}


@pytest.mark.parametrize("value", NO_VECTORS.values(), ids=NO_VECTORS)
@pytest.mark.usefixtures("unchanged")
def test_what_is_no_vector_is_refused_wherever_it_stands(shared_world: World, value: Any) -> None:
    batch = [{"id": str(index), "vector": [1, 2, 3]} for index in range(5)]
    batch[3]["vector"] = value
    refuse(shared_world, "upsert_vectors", {"vectors": batch}, "vectors.3.vector")
    refuse(shared_world, "add_vector", {"id": "x", "vector": value}, "vector")
    refuse(shared_world, "put_vector", {"vector": value}, "vector")
    refuse(shared_world, "search", {"vector": value}, "vector")
    for alias in ("embedding", "query_vector"):
        refuse(shared_world, "search", {alias: value}, alias)


@pytest.mark.parametrize("value", UNFIT_VECTORS.values(), ids=UNFIT_VECTORS)
def test_a_vector_that_does_not_fit_the_collection_is_named_and_nothing_is_written(world: World, value: Any) -> None:
    tenant = world.tenant
    batch = [{"id": str(index), "vector": [1, 2, 3]} for index in range(5)]
    batch[3]["vector"] = batch[4]["vector"] = value
    before = tenant.contents(), tenant.api.used(tenant.key)
    for operation, body, expected in (
        ("upsert_vectors", {"vectors": batch}, ["vectors.3.vector", "vectors.4.vector"]),
        ("add_vector", {"id": "x", "vector": value}, ["vector"]),
        ("put_vector", {"vector": value}, ["vector"]),
        ("search", {"vector": value}, ["vector"]),
    ):
        assert paths(world.call(BY_NAME[operation], tenant.key, json=body)) == expected
    # It takes the collection to know: each counts as a request that failed, and costs nothing.
    contents, used = tenant.contents(), tenant.api.used(tenant.key)
    assert contents == before[0]
    assert used == before[1] | {"requests": before[1]["requests"] + 4}


def test_a_zero_vector_is_fine_where_no_direction_is_asked_for(world: World) -> None:
    for metric in ("l2", "inner_product"):
        world.tenant.collection(metric, metric=metric)
        world.tenant.write(f"/{metric}", {"id": "zero", "vector": [0, 0, 0]})


@pytest.mark.parametrize("value", NO_STRINGS.values(), ids=NO_STRINGS)
@pytest.mark.usefixtures("unchanged")
def test_what_is_no_text_is_refused_wherever_it_stands(shared_world: World, value: Any) -> None:
    vector = [1, 2, 3]
    good = {"id": "good", "vector": vector}
    refuse(shared_world, "upsert_vectors", {"vectors": [good, {"id": value, "vector": vector}]}, "vectors.1.id")
    refuse(shared_world, "upsert_vectors", {"vectors": [good | {"document": value}]}, "vectors.0.document")
    refuse(shared_world, "upsert_vectors", {"vectors": [good | {"namespace": value}]}, "vectors.0.namespace")
    refuse(shared_world, "upsert_vectors", {"vectors": [good], "namespace": value}, "namespace")
    refuse(shared_world, "put_vector", {"vector": vector, "namespace": value}, "namespace")
    refuse(shared_world, "fetch_vectors", {"ids": ["a", value]}, "ids.1")
    refuse(shared_world, "fetch_vectors", {"ids": ["a"], "namespace": value}, "namespace")
    refuse(shared_world, "delete_vectors", {"ids": [value]}, "ids.0")
    refuse(shared_world, "patch_vector", {"unset": ["k", value]}, "unset.1")
    refuse(shared_world, "search", {"text": value}, "text")
    refuse(shared_world, "search", {"id": value}, "id")
    refuse(shared_world, "search", {"vector": vector, "namespace": value}, "namespace")
    refuse(shared_world, "create_collection", {"name": value, "dimension": 3}, "name")
    refuse(shared_world, "create_project", {"project_id": value, "user_id": "u"}, "project_id")
    refuse(shared_world, "create_key", {"user_id": value, "roles": ["search"]}, "user_id")
    refuse(shared_world, "create_key", {"user_id": "u", "roles": ["search"], "name": value}, "name")
    refuse(shared_world, "set_quota", {"notes": value}, "notes")


@pytest.mark.parametrize("value", NO_INTEGERS.values(), ids=NO_INTEGERS)
@pytest.mark.usefixtures("unchanged")
def test_what_is_no_whole_number_is_refused_wherever_it_stands(shared_world: World, value: Any) -> None:
    for name in ("top_k", "limit"):
        refuse(shared_world, "search", {"vector": [1, 2, 3], name: value}, name)
    refuse(shared_world, "create_collection", {"name": "n", "dimension": 3, "index": {"m": value}}, "index.m")
    if value is not None:  # null goes back to the default
        refuse(shared_world, "create_collection", {"name": "n", "dimension": value}, "dimension")
        refuse(shared_world, "set_quota", {"daily_requests": value}, "daily_requests")
        body = {"user_id": shared_world.tenant.user, "roles": ["search"], "quota": {"daily_tokens": value}}
        refuse(shared_world, "create_key", body, "quota.daily_tokens")


@pytest.mark.parametrize(
    "top_k",
    [0, -1, 1001, 10**9, 10**18, -(10**4000), 10**4000],
    ids=lambda n: f"{n:.3e}" if abs(n) < 10**300 else "huge",
)
@pytest.mark.usefixtures("unchanged")
def test_a_top_k_out_of_range_is_refused(shared_world: World, top_k: int) -> None:
    refuse(shared_world, "search", {"vector": [1, 2, 3], "top_k": top_k}, "top_k")


@pytest.mark.parametrize("value", NO_OBJECTS.values(), ids=NO_OBJECTS)
@pytest.mark.usefixtures("unchanged")
def test_what_is_no_object_is_refused_wherever_it_stands(shared_world: World, value: Any) -> None:
    good = {"id": "good", "vector": [1, 2, 3]}
    refuse(shared_world, "upsert_vectors", {"vectors": [good | {"metadata": value}]}, "vectors.0.metadata")
    refuse(shared_world, "upsert_vectors", {"vectors": [good, value]}, "vectors.1")
    refuse(shared_world, "patch_vector", {"set": value}, "set")
    for name in ("filter", "metadata_filter"):
        refuse(shared_world, "search", {"vector": [1, 2, 3], name: value}, name)
        refuse(shared_world, "delete_vectors", {name: value}, name)
    refuse(shared_world, "create_collection", {"name": "n", "dimension": 3, "index": value}, "index")


@pytest.mark.parametrize("value", NO_METADATA.values(), ids=NO_METADATA)
@pytest.mark.usefixtures("unchanged")
def test_metadata_that_cannot_be_kept_is_refused(shared_world: World, value: Any) -> None:
    good = {"id": "good", "vector": [1, 2, 3]}
    refuse(shared_world, "upsert_vectors", {"vectors": [good, good | {"metadata": value}]}, "vectors.1.metadata")
    refuse(shared_world, "add_vector", good | {"metadata": value}, "metadata")
    refuse(shared_world, "put_vector", {"vector": [1, 2, 3], "metadata": value}, "metadata")
    refuse(shared_world, "patch_vector", {"set": value}, "set")


def test_metadata_as_large_as_the_limit_is_kept(world: World) -> None:
    metadata = {"k": "é" * ((40_960 - len('{"k":""}')) // 2)}
    world.tenant.write("/c", {"id": "large", "vector": [1, 2, 3], "metadata": metadata})
    answer = world.tenant.call("GET", "/c/vectors/large")
    assert answer.json()["metadata"] == metadata
    # A little more, set by a change, is refused, and the vector stays as it was.
    assert paths(world.tenant.call("PATCH", "/c/vectors/large", json={"set": {"more": 1}})) == ["set"]
    assert world.tenant.call("GET", "/c/vectors/large").json()["version"] == 1


@pytest.mark.parametrize("value", NO_FILTERS.values(), ids=NO_FILTERS)
@pytest.mark.usefixtures("unchanged")
def test_a_filter_that_means_nothing_is_refused_with_its_path(shared_world: World, value: Any) -> None:
    refuse(shared_world, "search", {"vector": [1, 2, 3], "filter": value}, starts="filter")
    refuse(shared_world, "delete_vectors", {"filter": value}, starts="filter")


@pytest.mark.parametrize("name", [LONG, WIDE], ids=["characters", "bytes"])
@pytest.mark.usefixtures("unchanged")
def test_ids_and_namespaces_over_512_bytes_are_refused_wherever_they_stand(shared_world: World, name: str) -> None:
    vector = {"vector": [1, 2, 3]}
    refuse(shared_world, "upsert_vectors", {"vectors": [{"id": "x", **vector}, {"id": name, **vector}]}, "vectors.1.id")
    refuse(
        shared_world, "upsert_vectors", {"vectors": [{"id": "x", **vector, "namespace": name}]}, "vectors.0.namespace"
    )
    refuse(shared_world, "upsert_vectors", {"vectors": [{"id": "x", **vector}], "namespace": name}, "namespace")
    refuse(shared_world, "add_vector", {"id": name, **vector}, "id")
    refuse(shared_world, "put_vector", vector | {"namespace": name}, "namespace")
    refuse(shared_world, "patch_vector", {"set": {"k": 1}, "namespace": name}, "namespace")
    refuse(shared_world, "fetch_vectors", {"ids": [name], "namespace": name}, "ids.0", "namespace")
    refuse(shared_world, "delete_vectors", {"ids": [name], "namespace": name}, "ids.0", "namespace")
    refuse(shared_world, "search", {"id": name, "namespace": name}, "id", "namespace")


@pytest.mark.usefixtures("unchanged")
def test_an_empty_id_is_refused_wherever_it_stands(shared_world: World) -> None:
    vector = {"vector": [1, 2, 3]}
    refuse(shared_world, "upsert_vectors", {"vectors": [{"id": "", **vector}]}, "vectors.0.id")
    refuse(shared_world, "add_vector", {"id": "", **vector}, "id")
    refuse(shared_world, "fetch_vectors", {"ids": ["a", ""]}, "ids.1")
    refuse(shared_world, "delete_vectors", {"ids": [""]}, "ids.0")
    refuse(shared_world, "search", {"id": ""}, "id")
    for method, body in (("PUT", vector), ("PATCH", {"set": {"k": 1}}), ("GET", None), ("DELETE", None)):
        assert paths(shared_world.tenant.call(method, "/c/vectors/", json=body)) == ["id"]
