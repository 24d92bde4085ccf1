"""Who reaches what on Pinecone's wire, where its indexes are, and what there is not."""

from __future__ import annotations

import dataclasses
from datetime import timedelta

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute, iter_route_contexts

from tests.fixtures.api import SEARCH_ROUTERS, UPSERT_ROUTERS, Api, Tenant, World, make_world, open_api, problem
from tests.fixtures.pinecone_indexes import NEW, Wire, wanted
from tests.fixtures.routes import PINECONE_ROUTES, UNSUPPORTED_ROUTES, Route
from vecmeter.http.route import UnversionedRouter
from vecmeter.ledger.model import SYSTEM_USER, Role

OF_AN_INDEX = [route for route in PINECONE_ROUTES if "{collection}" in route.path]


def test_every_route_that_is_served_is_known_here() -> None:
    app = FastAPI(openapi_url=None)
    for router in (*SEARCH_ROUTERS, *UPSERT_ROUTERS):
        if isinstance(router, UnversionedRouter):
            app.include_router(router)
    served = [
        (method, route)
        for route in iter_route_contexts(app.routes)
        if isinstance(route.original_route, APIRoute)
        for method in (route.methods or set()) - {"HEAD"}
    ]
    assert len(served) == len(PINECONE_ROUTES) + len(UNSUPPORTED_ROUTES)
    for known in (*PINECONE_ROUTES, *UNSUPPORTED_ROUTES):
        path = known.path.partition("?")[0].format(collection="c", vector="a")
        assert [method for method, route in served if method == known.method and _takes(route, path)], known


def _takes(route: object, path: str) -> bool:
    return bool(route.path_regex.fullmatch(path))  # type: ignore[attr-defined]


@pytest.mark.parametrize("route", OF_AN_INDEX, ids=str)
def test_an_index_of_another_project_is_missing_like_one_that_does_not_exist(world: World, route: Route) -> None:
    api = world.tenant.api
    stranger, second = api.tenant(), api.tenant(world.tenant.user)
    before = world.tenant.state()
    for key in (stranger.key, second.key):
        answer = world.call(route, key)
        problem(answer, 404, "collection_not_found")
        assert answer.json()["error"]["message"] == "Index c not found."
    assert world.tenant.state() == before


def test_indexes_of_one_name_in_two_projects_are_two(world: World) -> None:
    api = world.tenant.api
    other = make_world(api)
    before = other.tenant.contents()
    mine = Wire(world.tenant)
    records = {"vectors": [{"id": "mine", "values": [1, 2, 3]}]}
    assert mine.call("POST", "/indexes/c/vectors/upsert", records).status_code == 200
    assert mine.call("DELETE", "/indexes/c").status_code == 202
    assert other.tenant.contents() == before
    assert Wire(other.tenant).names() == ["c"]


@pytest.mark.parametrize("route", PINECONE_ROUTES, ids=str)
def test_a_key_of_no_project_is_told_so_and_consumes_nothing(shared_world: World, route: Route) -> None:
    api, tenant = shared_world.tenant.api, shared_world.tenant
    for key in (api.create_key(tenant.user, None, *Role), api.create_key(SYSTEM_USER, None, *Role)):
        answer = shared_world.call(route, key)
        problem(answer, 403, "key_without_project")
        assert api.used(key)["requests"] == 0


@pytest.mark.parametrize("route", PINECONE_ROUTES, ids=str)
def test_every_answer_names_its_request_as_their_clients_read_it(world: World, route: Route) -> None:
    answer = world.call(route, world.tenant.key)
    assert answer.headers["x-pinecone-request-id"] == answer.headers["x-request-id"]
    assert answer.headers["ratelimit"]
    native = world.tenant.api.call("GET", "/quota/me", world.tenant.key)
    assert "x-pinecone-request-id" not in native.headers


@pytest.mark.parametrize("route", UNSUPPORTED_ROUTES, ids=str)
def test_what_there_is_not_is_501_for_whoever_has_a_key_and_free(shared_world: World, route: Route) -> None:
    api, tenant = shared_world.tenant.api, shared_world.tenant
    expired = api.create_key(tenant.user, tenant.project, *Role, expires_at=api.clock() - timedelta(seconds=1))
    before = shared_world.state()
    answer = shared_world.call(route, tenant.key, content=b"whatever", query="?limit=5")
    problem(answer, 501, "unsupported")
    assert answer.json()["error"]["code"] == "UNIMPLEMENTED"
    for key in (None, "vm_live_none", expired):
        problem(shared_world.call(route, key), 401, "unauthorized")
    assert shared_world.state() == before


def test_a_path_of_theirs_that_nobody_knows_is_404_in_their_form(tenant: Tenant) -> None:
    for path in ("/indexes/c/nothing", "/indexes/c/vectors", "/embed/more", "/indexes/"):
        problem(tenant.api.call("GET", path, tenant.key), 404, "route_not_found")


@pytest.mark.parametrize(
    ("headers", "host"),
    [
        ({}, "http://testserver/indexes/docs"),
        (
            {"host": "id.execute-api.eu-west-1.amazonaws.com", "x-forwarded-proto": "https"},
            "id.execute-api.eu-west-1.amazonaws.com/indexes/docs",
        ),
        ({"host": "127.0.0.1:8000"}, "http://127.0.0.1:8000/indexes/docs"),
        ({"host": "[::1]:8000"}, "http://[::1]:8000/indexes/docs"),
        ({"host": "vectors.example.com", "x-forwarded-proto": "https, http"}, "vectors.example.com/indexes/docs"),
        ({"x-forwarded-proto": "gopher"}, "http://testserver/indexes/docs"),
        ({"host": 'evil.example.com/"><script>'}, "http://testserver:80/indexes/docs"),
    ],
)
def test_the_host_of_an_index_is_where_the_request_reached_the_service(
    tenant: Tenant, headers: dict[str, str], host: str
) -> None:
    wire = Wire(tenant)
    assert wire.made("docs")["host"] == "http://testserver/indexes/docs"
    sent = {"Api-Key": tenant.key.secret, **headers}
    answer = tenant.api.call("GET", "/indexes/docs", headers=sent)
    assert answer.json()["host"] == host


@pytest.mark.parametrize(
    ("public_url", "host"),
    [
        ("https://vectors.example.com", "vectors.example.com/indexes/docs"),
        ("https://example.com/vectors/v1", "example.com/vectors/v1/indexes/docs"),
        ("http://127.0.0.1:9000", "http://127.0.0.1:9000/indexes/docs"),
    ],
)
def test_a_public_url_is_the_host_whatever_the_request_says(tenant: Tenant, public_url: str, host: str) -> None:
    with open_api(dataclasses.replace(tenant.api.runtime.settings, public_url=public_url)) as api:
        wire = Wire(Tenant(api, tenant.user, tenant.project, tenant.key))
        assert wire.made("docs")["host"] == host
        assert wire.describe("docs", NEW)["host"] == host
        assert wire.call("GET", "/indexes").json()["indexes"][0]["host"] == host


def test_what_fails_on_our_side_is_said_in_their_form(api: Api) -> None:
    wire = Wire(api.tenant())
    with api.runtime.database.connection() as connection:
        connection.execute("ALTER TABLE vecmeter.collections RENAME COLUMN tags TO labels")
    answer = wire.call("POST", "/indexes", wanted("docs"))
    problem(answer, 500, "internal")
    assert answer.json()["error"]["code"] == "INTERNAL"
