"""Projects and keys: who creates what, who sees what, and that a secret is shown once."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.fixtures.api import Api, World, make_world, problem
from tests.fixtures.routes import ROUTES, Route
from vecmeter.ledger.model import SYSTEM_USER, Role

ADMIN_ROUTES = [route for route in ROUTES if route.role is Role.ADMIN and not route.system_only]


@pytest.fixture
def two(shared_api: Api) -> tuple[World, World]:
    """Two users, each with a project, a collection and keys."""
    return make_world(shared_api), make_world(shared_api)


def create_key(world: World, key: Any, **body: Any) -> Any:
    return world.tenant.api.call("POST", "/admin/keys", key, json=body)


def test_a_project_is_created_described_and_listed(world: World) -> None:
    api, user = world.tenant.api, world.tenant.user
    name = f"{world.tenant.project}-2"
    created = api.call(
        "POST", "/admin/projects", world.admin, json={"project_id": name, "user_id": user, "name": "Two"}
    )
    assert created.status_code == 201
    body = created.json()
    assert datetime.fromisoformat(body["created_at"]) == api.clock()
    assert body == {"project_id": name, "user_id": user, "name": "Two", "created_at": body["created_at"]}
    assert api.call("GET", f"/admin/projects/{name}", world.admin).json() == body
    listed = api.call("GET", "/admin/projects", world.admin).json()
    assert sorted(project["project_id"] for project in listed["projects"]) == sorted([world.tenant.project, name])
    assert api.call("GET", f"/admin/projects?user_id={user}", world.system).json() == listed


def test_two_projects_of_a_name_are_409_whoever_owns_the_first(two: tuple[World, World]) -> None:
    one, other = two
    for world in two:
        body = {"project_id": one.tenant.project, "user_id": world.tenant.user}
        problem(world.tenant.api.call("POST", "/admin/projects", world.admin, json=body), 409, "project_exists")
    owner = one.tenant.api.runtime.projects.get(one.tenant.project).user_id
    assert owner == one.tenant.user != other.tenant.user


def test_a_key_is_shown_once_and_works_at_once(world: World) -> None:
    api, tenant = world.tenant.api, world.tenant
    expires = (api.clock() + timedelta(days=1)).isoformat()
    created = create_key(
        world,
        world.admin,
        user_id=tenant.user,
        project_id=tenant.project,
        roles=["write", "search"],
        name="ci",
        expires_at=expires,
        quota={"daily_requests": 7, "notes": "n"},
    )
    assert created.status_code == 201
    body = created.json()
    secret = body.pop("key")
    key_id = body["api_key_id"]
    assert body == {
        "api_key_id": key_id,
        "prefix": secret[: len(body["prefix"])],
        "last4": secret[-4:],
        "name": "ci",
        "user_id": tenant.user,
        "project_id": tenant.project,
        "roles": ["search", "write"],
        "status": "active",
        "expires_at": expires.replace("+00:00", "Z"),
        "created_at": api.clock().isoformat().replace("+00:00", "Z"),
    }
    assert secret.startswith("vm_live_")
    assert len(body["prefix"]) < len(secret) / 2
    answer = tenant.call("GET", "/c", key=secret)
    assert '"daily_requests";q=7' in answer.headers["ratelimit-policy"]
    # Nobody can ask for it again.
    assert api.call("GET", f"/admin/keys/{key_id}", world.admin).json() == body
    shown = [api.call("GET", path, world.admin).text for path in (f"/admin/keys/{key_id}", "/admin/keys")]
    assert secret[12:-4] not in "".join(shown)
    assert all('"key"' not in text and "secret" not in text and "hash" not in text for text in shown)


def test_a_revoked_key_is_refused_at_its_next_request_and_stays_listed(world: World) -> None:
    api, tenant = world.tenant.api, world.tenant
    path = f"/admin/keys/{tenant.key.key.api_key_id}"
    assert tenant.call("GET", "/c").status_code == 200
    assert api.call("DELETE", path, world.admin).json() == {"status": "ok"}
    problem(tenant.call("GET", "/c"), 401)
    assert api.call("GET", path, world.admin).json()["status"] == "revoked"
    assert api.call("DELETE", path, world.admin).status_code == 200


def test_an_expired_key_is_refused_from_its_expiry_on(api: Api) -> None:
    world = make_world(api)
    tenant = world.tenant
    expires = (api.clock() + timedelta(hours=1)).isoformat()
    body = create_key(world, world.admin, user_id=tenant.user, roles=["search"], expires_at=expires).json()
    api.clock.advance(minutes=59, seconds=59)
    assert tenant.call("GET", "/c", key=body["key"]).status_code == 200
    api.clock.advance(seconds=1)
    problem(tenant.call("GET", "/c", key=body["key"]), 401)
    assert api.call("GET", f"/admin/keys/{body['api_key_id']}", world.admin).json()["status"] == "expired"


def test_keys_are_listed_page_by_page_by_user_and_by_project(world: World) -> None:
    api, tenant = world.tenant.api, world.tenant
    ours = (world.admin, tenant.key, world.other)
    wanted = sorted(key.key.api_key_id for key in ours)
    for key in (world.admin, world.system):
        found, token = [], ""
        while True:
            page = api.call("GET", f"/admin/keys?user_id={tenant.user}&limit=1{token}", key).json()
            found += [entry["api_key_id"] for entry in page["keys"]]
            if "next_page_token" not in page:
                break
            assert len(page["keys"]) == 1
            token = f"&page_token={page['next_page_token']}"
        assert sorted(found) == wanted
    listed = api.call("GET", f"/admin/keys?project_id={tenant.project}", world.admin).json()
    assert sorted(entry["api_key_id"] for entry in listed["keys"]) == sorted(
        key.key.api_key_id for key in (tenant.key, world.other)
    )
    problem(api.call("GET", f"/admin/keys?project_id={tenant.project}&user_id=somebody", world.system), 404)


@pytest.mark.parametrize("route", ADMIN_ROUTES, ids=str)
def test_a_system_admin_may_do_everything_for_everybody(world: World, route: Route) -> None:
    if route.operation == "create_project":
        body = {"project_id": f"{world.tenant.project}-2", "user_id": world.tenant.user}
        assert world.call(route, world.system, json=body).status_code == 201
    elif route.operation == "delete_project":
        problem(world.call(route, world.system), 409, "project_not_empty")
    else:
        assert world.call(route, world.system).status_code in (200, 201)


def test_an_admin_confined_to_a_project_stays_in_it(world: World) -> None:
    api, tenant = world.tenant.api, world.tenant
    second = api.tenant(tenant.user)
    confined = api.create_key(tenant.user, tenant.project, *Role)
    # It sees its project and the keys of it, and neither the other project nor the keys of the whole user.
    assert [p["project_id"] for p in api.call("GET", "/admin/projects", confined).json()["projects"]] == [
        tenant.project
    ]
    listed = api.call("GET", "/admin/keys", confined).json()["keys"]
    assert {key["api_key_id"] for key in listed} == {key.key.api_key_id for key in (tenant.key, world.other, confined)}
    for path in (
        f"/admin/projects/{second.project}",
        f"/admin/keys/{second.key.key.api_key_id}",
        f"/admin/keys/{world.admin.key.api_key_id}",
        f"/admin/usage/quota/{world.admin.key.api_key_id}",
        f"/admin/usage/detailed?project_id={second.project}",
        f"/admin/usage/records?api_key_id={second.key.key.api_key_id}",
        f"/admin/keys?project_id={second.project}",
    ):
        problem(api.call("GET", path, confined), 404)
    problem(api.call("DELETE", f"/admin/keys/{world.admin.key.api_key_id}", confined), 404)
    problem(second.call("GET", key=confined), 404, "project_not_found")
    before = len(list(api.runtime.keys.list(user_id=tenant.user)))
    # It cannot make itself, or anybody, a wider key or another project.
    for body in (
        {"user_id": tenant.user, "roles": ["search"]},
        {"user_id": tenant.user, "project_id": second.project, "roles": ["search"]},
        {"user_id": SYSTEM_USER, "roles": ["admin"]},
        {"user_id": SYSTEM_USER, "project_id": tenant.project, "roles": ["admin"]},
    ):
        problem(create_key(world, confined, **body), 404)
    body = {"project_id": f"{tenant.project}-2", "user_id": tenant.user}
    problem(api.call("POST", "/admin/projects", confined, json=body), 404)
    assert len(list(api.runtime.keys.list(user_id=tenant.user))) == before
    # What it may: a key of its own project.
    made = create_key(world, confined, user_id=tenant.user, project_id=tenant.project, roles=["search"])
    assert made.status_code == 201


def test_a_key_of_the_operator_that_is_confined_to_a_project_is_no_system_admin(two: tuple[World, World]) -> None:
    ours, theirs = two
    api = ours.tenant.api
    confined = api.create_key(SYSTEM_USER, ours.tenant.project, *Role)
    for route in ADMIN_ROUTES:
        if "{" in f"{route.path}{route.body}":  # lists: test_http_ownership.py
            problem(theirs.call(route, confined), 404)
    assert theirs.tenant.project not in api.call("GET", "/admin/projects", confined).text
    problem(theirs.tenant.call("GET", key=confined), 404, "project_not_found")


def test_no_admin_makes_itself_an_operator(world: World) -> None:
    for body in (
        {"user_id": SYSTEM_USER, "roles": ["admin"]},
        {"user_id": SYSTEM_USER, "project_id": world.tenant.project, "roles": ["admin"]},
    ):
        problem(create_key(world, world.admin, **body), 404)
    body = {"project_id": f"{world.tenant.project}-2", "user_id": SYSTEM_USER}
    problem(world.tenant.api.call("POST", "/admin/projects", world.admin, json=body), 404)


def test_a_system_admin_works_in_any_project(world: World) -> None:
    answer = world.tenant.call("POST", "/c/search", key=world.system, json={"vector": [1, 0, 0]})
    assert answer.status_code == 200
    problem(world.tenant.api.call("GET", "/projects/missing/collections", world.system), 404, "project_not_found")
