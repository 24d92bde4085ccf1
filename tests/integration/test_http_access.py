"""401, 403 and 404: who may not, learns nothing, changes nothing and consumes nothing."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any
from urllib.parse import unquote

import pytest

from tests.fixtures.api import Api, Tenant, World, problem
from tests.fixtures.routes import EVERY_ROUTE, ROUTES, UNSUPPORTED_ROUTES, WITH_BODY, Route
from vecmeter.ledger.keys import generate_secret, parse_secret
from vecmeter.ledger.model import SYSTEM_USER, Role

each_route = pytest.mark.parametrize("route", EVERY_ROUTE, ids=str)


def bad_headers(world: World) -> dict[str, dict[str, str]]:
    """Every way to have no valid key."""
    api, tenant = world.tenant.api, world.tenant
    revoked = api.create_key(tenant.user, tenant.project, *Role)
    api.runtime.keys.revoke(revoked.key.api_key_id)
    expired = api.create_key(tenant.user, tenant.project, *Role, expires_at=api.clock() - timedelta(seconds=1))
    valid = world.key_for(ROUTES[0]).secret
    wrong_checksum = valid[:-1] + ("0" if valid[-1] != "0" else "1")
    _, unknown = generate_secret("live")
    _, other = generate_secret("live")
    # The id of a key that exists, with another secret and a checksum that fits.
    forged = _with_checksum(valid.rsplit("_", 1)[0] + "_" + valid.rsplit("_", 1)[1][:11] + other[-28:-6])
    assert parse_secret(forged).api_key_id == parse_secret(valid).api_key_id
    return {
        "no key": {},
        "empty": {"Authorization": ""},
        "empty bearer": {"Authorization": "Bearer "},
        "wrong scheme": {"Authorization": f"Basic {valid}"},
        "no scheme": {"Authorization": valid},
        "malformed": {"Authorization": "Bearer vm_live_abc"},
        "not ours": {"Authorization": "Bearer sk-0123456789abcdefghijklmnopqrstuvwxyz"},
        "not ASCII": {"Authorization": "Bearer vm_live_é".encode("latin-1").decode("latin-1")},
        "two keys": {"Authorization": f"Bearer {valid} {valid}"},
        "wrong checksum": {"Authorization": f"Bearer {wrong_checksum}"},
        "unknown": {"Authorization": f"Bearer {unknown}"},
        "wrong secret": {"Authorization": f"Bearer {forged}"},
        "revoked": {"Authorization": f"Bearer {revoked.secret}"},
        "expired": {"Authorization": f"Bearer {expired.secret}"},
        "unknown in the other header": {"Api-Key": unknown},
        "in the query's stead": {"Api-Key": ""},
    }


def _with_checksum(body: str) -> str:
    from vecmeter.ledger import keys

    return body + keys._checksum(body)


@each_route
def test_every_way_to_have_no_valid_key_gets_one_answer_that_reveals_nothing(world: World, route: Route) -> None:
    headers = bad_headers(world)
    before = world.state()
    answers = {}
    for name, sent in headers.items():
        answer = world.call(route, headers={key: value.encode("latin-1") for key, value in sent.items()})
        body = problem(answer, 401, "unauthorized")
        assert answer.headers["www-authenticate"] == "Bearer"
        del body["request_id"]
        shown = {k: v for k, v in answer.headers.items() if not k.endswith("request-id")}
        answers[name] = (body, sorted(shown.items()))
    assert len({str(answer) for answer in answers.values()}) == 1, answers
    assert world.state() == before


@pytest.mark.parametrize("route", WITH_BODY, ids=str)
@pytest.mark.parametrize("content", [b"", b"{", b'{"unknown": 1}', b"\xff"], ids=["empty", "broken", "wrong", "binary"])
def test_whoever_sends_no_key_is_told_so_whatever_else_is_wrong(world: World, route: Route, content: bytes) -> None:
    for headers in ({}, {"Authorization": "Bearer vm_live_malformed"}):
        problem(world.call(route, content=content, headers=headers), 401)
    problem(world.call(route, content=b" " * 7_000_000), 401)
    problem(world.call(route, content=content, query="?unknown=1"), 401)


def test_both_headers_carry_a_key(world: World) -> None:
    key = world.tenant.key.secret
    for headers in (
        {"Authorization": f"Bearer {key}"},
        {"authorization": f"bearer  {key} "},
        {"Api-Key": key},
        {"API-KEY": key},
        {"Authorization": "Basic Og==", "Api-Key": key},
    ):
        assert world.tenant.api.call("GET", "/quota/me", headers=headers).status_code == 200, headers


@pytest.mark.parametrize("route", [route for route in EVERY_ROUTE if route.role is not None], ids=str)
def test_a_key_without_the_role_is_refused_and_consumes_nothing(world: World, route: Route) -> None:
    others = tuple(role for role in Role if role is not route.role)
    tenant = world.tenant
    key = tenant.api.create_key(tenant.user, tenant.project, *others)
    before = world.state()
    body = problem(world.call(route, key), 403, "missing_role")
    assert f"'{route.role}'" in body["detail"]
    assert world.state() == before
    assert tenant.api.used(key)["requests"] == 0


def test_the_role_is_asked_before_the_project_is_looked_up(world: World) -> None:
    reader = world.other
    for project in (world.tenant.project, "missing"):
        answer = world.tenant.api.call(
            "POST", f"/projects/{project}/collections", reader, json={"name": "n"} | {"dimension": 1}
        )
        problem(answer, 403, "missing_role")


@pytest.mark.parametrize("route", [route for route in ROUTES if route.system_only], ids=str)
def test_maintenance_is_for_system_admins_only(world: World, route: Route) -> None:
    api, tenant = world.tenant.api, world.tenant
    confined = api.create_key(SYSTEM_USER, tenant.project, *Role)
    for key in (world.admin, confined):
        problem(world.call(route, key), 403, "missing_role")
        assert api.used(key)["requests"] == 0
    assert world.call(route, world.system).status_code == 200


IN_PROJECT = [route for route in ROUTES if "{project}" in route.path and route.role is not Role.ADMIN]


@pytest.mark.parametrize("route", IN_PROJECT, ids=str)
def test_a_project_of_another_is_missing_like_one_that_does_not_exist(world: World, route: Route) -> None:
    api = world.tenant.api
    stranger = api.tenant()
    keys = {
        "of another project": stranger.key,
        "of another user": api.create_key(stranger.user, None, *Role),
        "of the same user, another project": _second_project_key(world),
    }
    before = world.state()
    for name, key in keys.items():
        theirs = problem(world.call(route, key), 404, "project_not_found")
        missing = problem(_call_in(api, world, route, key, "project-00000000"), 404, "project_not_found")
        assert _shape(theirs, world.tenant.project) == _shape(missing, "project-00000000"), name
        assert api.used(key)["requests"] == 0
    assert world.state() == before


def _second_project_key(world: World) -> Any:
    api, user = world.tenant.api, world.tenant.user
    second = api.tenant(user)
    return second.key


def _call_in(api: Api, world: World, route: Route, key: Any, project: str) -> Any:
    path = route.path.format(project=project, collection="c", vector="a")
    return api.call(route.method, path, key, json=route.body)


def _shape(body: dict[str, Any], name: str) -> dict[str, Any]:
    return {k: str(v).replace(name, "?") for k, v in body.items() if k != "request_id"}


IMPOSSIBLE_NAMES = ["-", "a b", "x" * 64, "a%00b", "ä", "a%2Fb", "%F0%9F%92%A5", "a" * 3000, "..", "%2E%2E"]


@pytest.mark.parametrize("route", IN_PROJECT, ids=str)
def test_a_name_nothing_can_have_is_missing(world: World, route: Route) -> None:
    api, key = world.tenant.api, world.key_for(route)
    before = world.state()
    for name in IMPOSSIBLE_NAMES:
        places = {"project": name, "collection": "c", "vector": "a"}
        answers = [api.call(route.method, route.path.format(**places), key, json=route.body)]
        if "{collection}" in route.path:
            places = {"project": world.tenant.project, "collection": name, "vector": "a"}
            answers.append(api.call(route.method, route.path.format(**places), key, json=route.body))
        for answer in answers:
            # Where the name becomes two or none, it is another path: no route, or one for other methods.
            another_path = "/" in unquote(name) or unquote(name) == ".."
            assert answer.status_code in ({404, 405} if another_path else {404}), (name, answer.text)
            problem(answer, answer.status_code)
    assert world.state() == before


@pytest.mark.parametrize("route", [route for route in IN_PROJECT if "{collection}" in route.path], ids=str)
def test_a_missing_collection_is_404_and_nothing_happens(world: World, route: Route) -> None:
    tenant = world.tenant
    contents = tenant.contents()
    path = route.path.format(project=tenant.project, collection="missing", vector="a")
    body = problem(tenant.api.call(route.method, path, tenant.key, json=route.body), 404, "collection_not_found")
    assert "missing" in body["detail"]
    assert tenant.contents() == contents
    # It was admitted before anybody could know: it counts as a request that failed, and costs nothing.
    newest = tenant.api.records(tenant.key)
    [failed] = [record for record in newest if record.request_id == body["request_id"]]
    assert (failed.status, failed.requests, failed.tokens, failed.micro_usd) == ("failure", 1, 0, 0)


@pytest.mark.parametrize("operation", ["get_vector", "patch_vector", "delete_vector"])
def test_a_missing_vector_is_404(world: World, operation: str) -> None:
    [route] = [route for route in ROUTES if route.operation == operation]
    path = route.path.format(project=world.tenant.project, collection="c", vector="missing")
    contents = world.tenant.contents()
    answer = world.tenant.api.call(route.method, path, world.tenant.key, json=route.body)
    assert "missing" in problem(answer, 404, "vector_not_found")["detail"]
    assert world.tenant.contents() == contents


def test_a_search_by_the_id_of_no_vector_is_404(world: World) -> None:
    problem(world.tenant.call("POST", "/c/search", json={"id": "missing"}), 404, "vector_not_found")
    answer = world.tenant.call("POST", "/c/search", json={"id": "a", "namespace": "elsewhere"})
    problem(answer, 404, "vector_not_found")


def test_a_route_that_does_not_exist_is_404_with_and_without_a_key(tenant: Tenant) -> None:
    for path in ("/nothing", "/projects", "/admin", "/projects/p/collections/c/d/e", "/health"):
        for key in (None, tenant.key):
            problem(tenant.api.call("GET", "/" + path if path == "/health" else path, key), 404, "route_not_found")


@pytest.mark.parametrize("path", ["/search/", "/add/", "/"])
def test_a_slash_at_the_end_makes_another_route(world: World, path: str) -> None:
    problem(world.tenant.call("POST", "/c" + path, json={"vector": [1, 2, 3]}), 404, "route_not_found")


@each_route
def test_a_method_the_path_does_not_take_is_405_and_names_those_it_does(world: World, route: Route) -> None:
    known = (*EVERY_ROUTE, *UNSUPPORTED_ROUTES)
    taken = {other.method for other in known if re.fullmatch(_pattern(other.path), _pathname(world.path(route)))}
    api = world.tenant.api
    for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "PROPFIND"} - taken:
        answer = api.call(method, world.path(route), world.system)
        assert answer.status_code == 405
        assert set(answer.headers["allow"].split(", ")) == taken
        if method != "HEAD":
            problem(answer, 405, "method_not_allowed")


def _pathname(path: str) -> str:
    return path.partition("?")[0]


def _pattern(path: str) -> str:
    # The task of maintenance stands in the catalogue by name; ids of vectors may have slashes.
    path = _pathname(path).replace("get_index_stats", "{task}")
    return re.sub(r"\{\w+\}", lambda place: ".*" if place[0] == "{vector}" else "[^/]+", path)
