"""``Idempotency-Key``: a client that sends a write again gets its answer again, and neither writes nor pays twice."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psycopg
import pytest

from tests.fixtures.api import Api, Tenant, World, make_world, open_api, paths, problem, serving
from tests.fixtures.faults import FaultyClient
from tests.fixtures.routes import BY_NAME
from vecmeter.ledger.model import Role, Status
from vecmeter.settings import Settings
from vecmeter.vectors.once import HEADER

REPLAYED = "Idempotency-Replayed"
WRITES = (
    "create_collection", "change_collection", "delete_collection", "delete_namespace", "upsert_vectors", "add_vector",
    "put_vector", "patch_vector", "update_vectors", "delete_vector", "delete_vectors",
)  # fmt: skip


NEW = {"vectors": [{"id": "new", "vector": [1, 2, 3]}]}


def upsert(tenant: Tenant, name: str, *ids: str, **more: Any) -> httpx.Response:
    body = {"vectors": [{"id": id, "vector": [1, 2, 3]} for id in ids or ("new",)]}
    return tenant.call("POST", "/c/vectors", json=body, headers={HEADER: name}, **more)


def versions(tenant: Tenant) -> dict[str, int]:
    return {row[1]: row[2] for row in tenant.contents()["c"]}


def request_ids(tenant: Tenant) -> set[str]:
    return {record.request_id for record in tenant.api.records(tenant.key)}


def settled(tenant: Tenant, known: set[str]) -> list[Any]:
    """The records of the tenant's key without those known before, the billed ones first."""
    records = [record for record in tenant.api.records(tenant.key) if record.request_id not in known]
    return sorted(records, key=lambda record: -record.requests)


@pytest.mark.parametrize("operation", WRITES)
def test_every_write_is_answered_again_and_neither_done_nor_billed_again(world: World, operation: str) -> None:
    route, known = BY_NAME[operation], request_ids(world.tenant)
    first = world.call(route, world.tenant.key, headers={HEADER: "k"})
    assert first.status_code in (200, 201)
    assert REPLAYED not in first.headers
    state = world.tenant.state()
    for _ in range(2):
        again = world.call(route, world.tenant.key, headers={HEADER: "k"})
        assert (again.status_code, again.content) == (first.status_code, first.content)
        assert again.headers[REPLAYED] == "true"
        assert again.headers["RateLimit"]
        assert world.tenant.state() == state
    billed, *free = settled(world.tenant, known)
    assert (billed.requests, billed.extra) == (1, {})
    assert billed.micro_usd > 0
    for record in free:
        assert (record.requests, record.tokens, record.vectors, record.micro_usd) == (0, 0, 0, 0)
        assert (record.status, record.extra) == (Status.SUCCESS, {"replayed": True})
        assert record.operation is billed.operation


def test_a_write_without_a_key_is_done_each_time(world: World) -> None:
    for version in (2, 3):
        body = {"vectors": [{"id": "a", "vector": [1, 2, 3]}]}
        assert world.tenant.call("POST", "/c/vectors", json=body).json()["results"][0]["version"] == version


def test_of_twenty_at_once_one_writes_one_is_billed_and_all_get_one_answer(world: World) -> None:
    tenant = world.tenant
    before, known = tenant.api.used(tenant.key)["requests"], request_ids(tenant)
    with ThreadPoolExecutor(20) as threads:
        answers = list(threads.map(lambda _: upsert(tenant, "k", "x", "y"), range(20)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert [answer.headers.get(REPLAYED) for answer in answers].count("true") == 19
    assert versions(tenant) == {"a": 1, "b": 1, "x": 1, "y": 1}
    assert tenant.api.used(tenant.key)["requests"] == before + 1
    records = settled(tenant, known)
    assert [record.requests for record in records] == [1] + [0] * 19
    assert sum(record.vectors for record in records) == 2


@pytest.mark.parametrize(
    "other",
    [
        {"json": {"vectors": [{"id": "new", "vector": [1, 2, 4]}]}},
        {"path": "/c/vectors/new", "method": "PUT", "json": {"vector": [1, 2, 3]}},
        {"path": "/c/add", "json": {"id": "new", "vector": [1, 2, 3]}},
    ],
)
def test_the_key_of_another_request_is_refused(world: World, other: dict[str, Any]) -> None:
    assert upsert(world.tenant, "k").status_code == 200
    contents = world.tenant.contents()
    method, path = other.pop("method", "POST"), other.pop("path", "/c/vectors")
    answer = world.tenant.call(method, path, headers={HEADER: "k"}, **other)
    assert [error["path"] for error in problem(answer, 422, "idempotency_key_reused")["errors"]] == [HEADER]
    assert world.tenant.contents() == contents


def test_a_query_makes_another_request(world: World) -> None:
    assert world.tenant.call("DELETE", "/c/vectors/a", headers={HEADER: "k"}).status_code == 200
    answer = world.tenant.call("DELETE", "/c/vectors/a?namespace=x", headers={HEADER: "k"})
    problem(answer, 422, "idempotency_key_reused")


@pytest.mark.parametrize("key", ["", "x" * 256, "a b", "tab\there", "\x7f"])
def test_a_key_that_is_none_is_refused_before_anything_else(world: World, key: str) -> None:
    state = world.tenant.state()
    assert paths(upsert(world.tenant, key)) == [HEADER]
    assert world.tenant.state() == state
    for good in ("x" * 255, "!", "~", '"quoted"'):
        assert upsert(world.tenant, good, good[:9]).status_code == 200


def test_keys_belong_to_an_api_key(world: World) -> None:
    tenant = world.tenant
    other = tenant.api.create_key(tenant.user, tenant.project, Role.WRITE)
    assert upsert(tenant, "k").json()["inserted"] == 1
    answer = upsert(tenant, "k", key=other)
    assert (answer.json()["updated"], REPLAYED in answer.headers) == (1, False)
    assert upsert(tenant, "k", "different", key=api_key_of_another(tenant.api)).status_code == 404


def api_key_of_another(api: Api) -> Any:
    return api.tenant().key


def test_reads_and_dry_runs_take_no_notice_of_a_key(world: World) -> None:
    tenant = world.tenant
    for top_k in (1, 2):
        answer = tenant.call("POST", "/c/search", json={"vector": [1, 2, 3], "top_k": top_k}, headers={HEADER: "k"})
        assert answer.json()["count"] == top_k
    dry = {"all": True, "dry_run": True}
    for _ in range(2):
        answer = tenant.call("POST", "/c/vectors/delete", json=dry, headers={HEADER: "k"})
        assert (answer.json()["matched"], REPLAYED in answer.headers) == (2, False)


def test_what_was_refused_may_be_tried_again_with_its_key(world: World) -> None:
    tenant = world.tenant
    taken = {"json": {"id": "a", "vector": [1, 2, 3]}, "headers": {HEADER: "k"}}
    for _ in range(2):
        problem(tenant.call("POST", "/c/add", **taken), 409, "vector_exists")
    assert tenant.call("DELETE", "/c/vectors/a", headers={HEADER: "delete"}).status_code == 200
    assert tenant.call("POST", "/c/add", **taken).status_code == 201
    assert tenant.call("POST", "/c/add", **taken).headers[REPLAYED] == "true"


def test_the_answer_is_there_though_the_collection_is_gone(world: World) -> None:
    tenant = world.tenant
    first = upsert(tenant, "k")
    assert tenant.call("DELETE", "/c").status_code == 200
    again = upsert(tenant, "k")
    assert (again.status_code, again.content, again.headers[REPLAYED]) == (200, first.content, "true")


def test_a_client_that_went_away_finds_its_answer(shared_api: Api) -> None:
    world = make_world(shared_api)
    tenant, known = world.tenant, request_ids(world.tenant)
    content = json.dumps(NEW).encode()
    head = (
        f"POST /v1{tenant.base}/c/vectors HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {tenant.key.secret}\r\n"
        f"{HEADER}: k\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    with serving(shared_api) as port, socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(head.encode() + content)
        while "new" not in versions(tenant):
            pass
    # The server has ended, and with it the request that nobody waited for.
    answer = upsert(tenant, "k")
    assert (answer.json()["inserted"], answer.headers[REPLAYED]) == (1, "true")
    assert versions(tenant)["new"] == 1
    assert [record.requests for record in settled(tenant, known)] == [1, 0]


def write_and_die(settings: Settings, tenant_path: str, secret: str) -> None:
    """In a process of its own: upsert, and end at the first call to the ledger after the write is committed."""
    with open_api(settings) as api:
        client = FaultyClient(api.runtime.table._client)
        api.runtime.table._client = client  # type: ignore[assignment]

        def choose(_: str) -> None:
            with psycopg.connect(settings.database_url) as connection:
                if connection.execute("SELECT FROM vecmeter.idempotency_keys").fetchone() is not None:
                    os._exit(9)

        client.choose = choose
        api.call("POST", tenant_path, secret, json=NEW, headers={HEADER: "k"})


def test_a_process_that_dies_between_commit_and_settlement_is_billed_once(api: Api) -> None:
    world = make_world(api)
    tenant = world.tenant
    used, known = api.used(tenant.key), request_ids(tenant)
    arguments = (api.runtime.settings, f"{tenant.base}/c/vectors", tenant.key.secret)
    process = multiprocessing.get_context("spawn").Process(target=write_and_die, args=arguments)
    process.start()
    process.join()
    assert (process.exitcode, versions(tenant)["new"]) == (9, 1)
    answer = upsert(tenant, "k")
    assert (answer.json()["inserted"], answer.headers[REPLAYED]) == (1, "true")
    assert versions(tenant)["new"] == 1
    api.clock.advance(seconds=api.runtime.settings.hold_seconds + 1)
    assert tenant.call("GET").status_code == 200
    records = settled(tenant, known)
    assert {record.status for record in records if record.requests == 1} == {Status.UNKNOWN, Status.SUCCESS}
    assert sum(record.requests for record in records) == 2, "the dead one, the replay at nothing, and the last look"
    assert api.used(tenant.key)["requests"] == used["requests"] + 2
    assert api.used(tenant.key)["micro_usd"] == sum(record.micro_usd for record in api.records(tenant.key))
