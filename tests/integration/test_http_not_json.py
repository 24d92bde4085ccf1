"""400 and 413: what is no JSON, and what is too much of it, is refused before anything is written or consumed."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator

import pytest

from tests.fixtures.api import World, problem
from tests.fixtures.routes import WITH_BODY, Route

each_route = pytest.mark.parametrize("route", WITH_BODY, ids=str)

MAY_BE_LEFT_OUT = ("run_maintenance", "rotate_key", "describe_index_stats")

GOOD = b'{"vector": [1, 2, 3], "id": "x"}'
NOT_JSON = {
    "empty": b"",
    "blank": b" \n\t ",
    "broken off": b'{"vectors": [',
    "two values": b"{} {}",
    "single quotes": b"{'vector': [1, 2, 3]}",
    "trailing comma": b'{"vector": [1, 2, 3],}',
    "comment": b'{"vector": [1, 2, 3]} // no',
    "form": b"vector=1&vector=2",
    "text": b"vector",
    "byte order mark": b"\xef\xbb\xbf" + GOOD,
    "UTF-16": GOOD.decode().encode("utf-16"),
    "Latin-1": '{"id": "é"}'.encode("latin-1"),
    "broken UTF-8": b'{"id": "\xf0\x9f"}',
    "surrogate in bytes": b'{"id": "\xed\xa0\x80"}',
    "half an escape": b'{"id": "\\ud8"}',
    "surrogates and more": b'{"id": "\\ud800", oops}',
    "gzip": gzip.compress(GOOD),
    "5,000 digits": b'{"vector": [' + b"1" * 5000 + b"]}",
    "100,000 deep": b'{"vector": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "100,000 objects deep": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "deep, with a surrogate": b'{"a": "\\ud800", "b": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep and not closed": b"[" * 100_000,
}


@each_route
def test_what_is_not_json_is_400_and_nothing_happens(world: World, route: Route) -> None:
    before = world.state()
    for name, content in NOT_JSON.items():
        if name == "empty" and route.operation in MAY_BE_LEFT_OUT:
            continue
        body = problem(world.call(route, world.key_for(route), content=content), 400, "not_json")
        assert "errors" not in body, name
    assert world.state() == before


@each_route
def test_json_that_is_no_object_is_422(world: World, route: Route) -> None:
    before = world.state()
    # A body that may be left out may also be null.
    contents = [b"[]", b"1", b'"{}"', b"true", b"NaN"] + ([b"null"] if route.operation not in MAY_BE_LEFT_OUT else [])
    for content in contents:
        body = problem(world.call(route, world.key_for(route), content=content), 422, "invalid_request")
        assert [error["path"] for error in body["errors"]] == ["body"]
    assert world.state() == before


@pytest.mark.parametrize(
    "label",
    ["application/x-www-form-urlencoded", "text/plain", "multipart/form-data; boundary=x", "application/xml", "", None],
)
def test_a_body_is_read_as_json_whatever_its_label(world: World, label: str | None) -> None:
    headers = {} if label is None else {"Content-Type": label}
    tenant = world.tenant
    for method, path in (("POST", "/c/vectors/fetch"), ("PUT", "/c/vectors/x"), ("PATCH", "/c/vectors/a")):
        body = {"POST": {"ids": ["a"]}, "PUT": {"vector": [1, 2, 3]}, "PATCH": {"set": {"k": 5}}}[method]
        answer = tenant.call(method, path, content=json.dumps(body).encode(), headers=headers)
        assert answer.status_code == 200, answer.text


def test_unicode_is_read_as_it_was_meant(world: World) -> None:
    """Escaped, paired, raw: the same id."""
    for content in (b'{"ids": ["\\ud83d\\ude00"]}', '{"ids": ["😀"]}'.encode()):
        world.tenant.write("/c", {"id": "😀", "vector": [1, 2, 3]})
        answer = world.tenant.call("POST", "/c/vectors/fetch", content=content)
        assert [vector["id"] for vector in answer.json()["vectors"]] == ["😀"]


@each_route
def test_a_body_over_the_limit_is_413_whether_it_is_announced_or_not(world: World, route: Route) -> None:
    before = world.state()
    limit = world.tenant.api.runtime.settings.max_body_bytes

    def chunks() -> Iterator[bytes]:
        for _ in range(limit // 65_536 + 1):
            yield b" " * 65_536

    for content in (b" " * (limit + 1), chunks()):
        body = problem(world.call(route, world.key_for(route), content=content), 413, "payload_too_large")
        assert str(limit) in body["detail"]
    assert world.state() == before


def test_a_body_as_long_as_the_limit_is_read(world: World) -> None:
    limit = world.tenant.api.runtime.settings.max_body_bytes
    content = b'{"ids": ["a"]}'.ljust(limit)
    assert world.tenant.call("POST", "/c/vectors/fetch", content=content).status_code == 200


@pytest.mark.parametrize("announced", [b"\xb2", b"-1", b"9" * 30, b"1e9", b"0x10", b""])
def test_an_announced_length_that_is_none_decides_nothing(world: World, announced: bytes) -> None:
    headers = {"Content-Length": announced, "Authorization": b"Bearer " + world.tenant.key.secret.encode()}
    content = b'{"ids": ["a"]}'
    api = world.tenant.api
    answer = api.call("POST", world.tenant.base + "/c/vectors/fetch", content=content, headers=headers)  # type: ignore[arg-type]
    assert answer.status_code == 200, answer.text


TOO_MANY = [
    ("upsert_vectors", "vectors", [{"id": str(index), "vector": [1, 2, 3]} for index in range(1001)]),
    ("upsert_vectors", "vectors", [1] * 10_001),
    ("fetch_vectors", "ids", [str(index) for index in range(1001)]),
    ("fetch_vectors", "ids", [None] * 1_000_000),
    ("delete_vectors", "ids", ["a"] * 1001),
    ("delete_vectors", "ids", [{}] * 10_001),
    ("patch_vector", "unset", [{}] * 1_000_000),
]


@pytest.mark.parametrize(("operation", "field", "items"), TOO_MANY, ids=lambda value: str(value)[:12])
def test_too_many_items_are_413_that_names_the_field_and_the_limit(
    world: World, operation: str, field: str, items: list[object]
) -> None:
    [route] = [route for route in WITH_BODY if route.operation == operation]
    before = world.state()
    body = problem(world.call(route, world.tenant.key, json={field: items}), 413, "payload_too_large")
    assert body["detail"].startswith(f"{field} has {len(items)} items; at most ")
    assert world.state() == before


def test_a_batch_as_large_as_the_limit_is_taken(world: World) -> None:
    vectors = [{"id": str(index), "vector": [1, 2, index]} for index in range(1000)]
    answer = world.tenant.call("POST", "/c/vectors", json={"vectors": vectors}).json()
    assert (answer["inserted"], answer["updated"]) == (1000, 0)
    assert len(answer["results"]) == 1000


def test_an_answer_over_the_limit_is_413_and_is_not_billed(world: World) -> None:
    """Lambda would break it off, having done the work and billed it."""
    tenant = world.tenant
    tenant.collection("wide", dimension=16_000, metric="l2", index={"type": "none"})
    vectors = [{"id": str(index), "vector": [0.123456789] * 16_000} for index in range(40)]
    for start in range(0, 40, 10):
        tenant.write("/wide", *vectors[start : start + 10])
    before = tenant.api.used(tenant.key)
    ids = [vector["id"] for vector in vectors]
    for path, body in (
        ("/wide/vectors/fetch", {"ids": ids}),
        ("/wide/search", {"id": "0", "top_k": 40, "include": ["vector"]}),
    ):
        answer = problem(tenant.call("POST", path, json=body), 413, "payload_too_large")
        assert "answer would be" in answer["detail"]
        assert "committed" not in answer
    after = tenant.api.used(tenant.key)
    assert after["micro_usd"] == before["micro_usd"]
    assert after["requests"] == before["requests"] + 2
