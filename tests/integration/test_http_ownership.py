"""Ownership, on every admin route there is: nobody sees or changes what is not theirs, whatever they are admin of.

The routes are those of the function itself; one that the list of tests/fixtures/routes.py does not have fails here.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import pytest
from fastapi import FastAPI

from admin_function.routes import router
from tests.fixtures.api import Api, World, make_world, problem
from tests.fixtures.routes import BY_NAME, Route
from vecmeter.ledger.keys import CreatedKey
from vecmeter.ledger.model import SYSTEM_USER, Role


@dataclass(frozen=True)
class Discovered:
    """A route as the function's own document has it."""

    method: str
    path: str
    parameters: frozenset[str]


def _discover() -> dict[str, Discovered]:
    app = FastAPI()
    app.include_router(router)
    return {
        operation["operationId"]: Discovered(
            method.upper(), path, frozenset(p["name"] for p in operation.get("parameters", ()) if p["in"] == "query")
        )
        for path, methods in app.openapi()["paths"].items()
        for method, operation in methods.items()
        if path.startswith("/admin/")
    }


DISCOVERED = _discover()
each_route = pytest.mark.parametrize("operation", DISCOVERED)

# What a request about somebody names them by; lists are filtered by it, or not at all.
ABOUT = ("user_id", "project_id", "api_key_id")


@dataclass(frozen=True)
class Callers:
    """Keys that may not, each for a reason of its own."""

    powerless: tuple[CreatedKey, ...]
    """Without the role ``admin``: the user's and the operator's, of the project and of none."""
    elsewhere: tuple[CreatedKey, ...]
    """Admins of another project of the same user: the user's and the operator's."""
    inside: CreatedKey
    """An admin of the project."""


@pytest.fixture(scope="module")
def two(shared_api: Api) -> tuple[World, World]:
    """Two users, each with a project, a collection and keys. No test changes anything of theirs."""
    return make_world(shared_api), make_world(shared_api)


@pytest.fixture(scope="module")
def callers(shared_api: Api, two: tuple[World, World]) -> Callers:
    create, tenant = shared_api.create_key, two[0].tenant
    users, second = (tenant.user, SYSTEM_USER), shared_api.tenant(tenant.user).project
    return Callers(
        tuple(create(user, project, Role.SEARCH, Role.WRITE) for user in users for project in (tenant.project, None)),
        tuple(create(user, second, *Role) for user in users),
        create(tenant.user, tenant.project, *Role),
    )


def is_about_somebody(route: Route) -> bool:
    """Whether the request itself, without a filter, is about something of the world it is sent to."""
    return "{" in route.path + json.dumps(route.body)


def state(world: World) -> Any:
    runtime = world.tenant.api.runtime
    keys = [key.key.api_key_id for key in (world.tenant.key, world.admin, world.other)]
    return (
        world.tenant.contents(),
        [runtime.keys.get_with_counters(name) for name in keys],
        [runtime.keys.get(name) for name in keys],
        list(runtime.projects.list(user_id=world.tenant.user)),
        sorted(key.api_key_id for key in runtime.keys.list(user_id=world.tenant.user)),
        list(runtime.audit.of_user(world.tenant.user)),
    )


def filtered(route: Route, name: str, value: str) -> str:
    return f"{'&' if '?' in route.path else '?'}{name}={value}"


def names_of(world: World) -> list[str]:
    keys = (world.tenant.key, world.admin, world.other)
    return [world.tenant.user, world.tenant.project, *(key.key.api_key_id for key in keys)]


def refused_as_missing(ours: World, theirs: World, route: Route, caller: CreatedKey) -> None:
    """Theirs are answered like those of nobody."""
    answer = problem(theirs.call(route, caller), 404)
    body = json.loads(json.dumps(theirs.body(route)).replace(theirs.tenant.user, "nobody"))
    path = route.path.format(project="missing", key="key_00000000000", collection="c", vector="a")
    nothing = problem(ours.tenant.api.call(route.method, path, caller, json=body), 404)
    assert (answer["code"], answer["title"]) == (nothing["code"], nothing["title"])


@each_route
def test_the_catalogue_has_the_route(operation: str) -> None:
    route, found = BY_NAME[operation], DISCOVERED[operation]
    assert route.method == found.method
    assert re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", found.path), route.path.partition("?")[0])


@each_route
def test_an_admin_neither_sees_nor_changes_anything_of_another_user(two: tuple[World, World], operation: str) -> None:
    """As if it did not exist, or as if the list were empty."""
    (ours, theirs), route = two, BY_NAME[operation]
    before = state(theirs)
    if route.system_only:
        problem(theirs.call(route, ours.admin), 403, "missing_role")
    elif is_about_somebody(route):
        refused_as_missing(ours, theirs, route, ours.admin)
    else:
        answer = theirs.call(route, ours.admin)
        assert answer.status_code == 200
        assert not [name for name in names_of(theirs) if name in answer.text]
        values = dict(zip(ABOUT, (theirs.tenant.user, theirs.tenant.project, theirs.other.key.api_key_id), strict=True))
        for name in DISCOVERED[operation].parameters & set(ABOUT):
            asked = problem(theirs.call(route, ours.admin, query=filtered(route, name, values[name])), 404)
            missing = "key_00000000000" if name == "api_key_id" else "missing"
            nothing = problem(theirs.call(route, ours.admin, query=filtered(route, name, missing)), 404)
            assert (asked["code"], asked["title"]) == (nothing["code"], nothing["title"])
    assert state(theirs) == before


@each_route
def test_a_key_without_the_role_is_refused_though_it_is_of_the_user_or_the_operator(
    two: tuple[World, World], callers: Callers, operation: str
) -> None:
    (world, _), route = two, BY_NAME[operation]
    before = state(world)
    for key in callers.powerless:
        problem(world.call(route, key), 403, "missing_role")
        assert world.tenant.api.used(key)["requests"] == 0
    assert state(world) == before


@each_route
def test_an_admin_of_a_project_stays_inside(two: tuple[World, World], callers: Callers, operation: str) -> None:
    """Neither another project of its user nor what belongs to no project is its own; of the operator's neither."""
    (world, theirs), route = two, BY_NAME[operation]
    before = state(world), state(theirs)
    for caller in callers.elsewhere:
        if route.system_only:
            problem(world.call(route, caller), 403, "missing_role")
        elif is_about_somebody(route):
            refused_as_missing(theirs, world, route, caller)
        else:
            answer = world.call(route, caller)
            assert answer.status_code == 200
            assert not [name for name in names_of(world)[1:] if name in answer.text]
            values = {"project_id": world.tenant.project, "api_key_id": world.admin.key.api_key_id}
            for name in DISCOVERED[operation].parameters & values.keys():
                problem(world.call(route, caller, query=filtered(route, name, values[name])), 404)
    assert (state(world), state(theirs)) == before


@pytest.mark.parametrize(
    "operation", [name for name, route in BY_NAME.items() if name in DISCOVERED and "{key}" in route.path]
)
def test_an_admin_of_a_project_touches_no_key_of_the_whole_user(
    two: tuple[World, World], callers: Callers, operation: str
) -> None:
    (world, _), route = two, BY_NAME[operation]
    before = state(world)
    path = route.path.format(key=world.admin.key.api_key_id)
    answer = world.tenant.api.call(route.method, path, callers.inside, json=world.body(route))
    problem(answer, 404, "api_key_not_found")
    assert state(world) == before


@each_route
def test_an_admin_may_do_to_its_own_what_it_may_not_to_others(world: World, operation: str) -> None:
    """So that what is refused above is refused for whose it is."""
    route = BY_NAME[operation]
    answer = world.call(route, world.key_for(route))
    if operation == "delete_project":
        problem(answer, 409, "project_not_empty")
    elif operation == "create_project":
        assert answer.status_code in (201, 409)
    else:
        assert answer.status_code in (200, 201), answer.text


POLICY_SCOPES = ("user/{user}", "project/{project}", "system/system")


@pytest.mark.parametrize("scope", POLICY_SCOPES)
@pytest.mark.parametrize("operation", ["get_policy", "put_policy", "delete_policy"])
def test_the_limits_of_what_is_not_ones_own_are_neither_seen_nor_changed(
    two: tuple[World, World], callers: Callers, operation: str, scope: str
) -> None:
    """The route is one for every scope, and the catalogue has it for keys."""
    (world, theirs), route = two, BY_NAME[operation]
    api = world.tenant.api
    path = f"/admin/quotas/{scope}".format(user=world.tenant.user, project=world.tenant.project)
    before = state(world), api.call("GET", path, world.system).json()
    expected = (403, "missing_role") if scope == "system/system" else (404, None)
    for caller in (theirs.admin, *callers.elsewhere):
        problem(api.call(route.method, path, caller, json=route.body), *expected)
    for caller in callers.powerless:
        problem(api.call(route.method, path, caller, json=route.body), 403, "missing_role")
    if scope.startswith("user") and operation != "get_policy":  # it binds the user's own admins
        problem(api.call(route.method, path, world.admin, json=route.body), 403, "missing_role")
    assert (state(world)[0], state(world)[2:], api.call("GET", path, world.system).json()) == (
        before[0][0],
        before[0][2:],
        before[1],
    )
