"""Projects renamed and deleted through the API: not before they are empty, and nothing is left behind."""

from __future__ import annotations

import pytest

from tests.fixtures.api import Tenant, World, problem
from vecmeter.ledger.keys import CreatedKey
from vecmeter.ledger.model import Role


@pytest.fixture
def admin(tenant: Tenant) -> CreatedKey:
    return tenant.api.create_key(tenant.user, None, *Role)


def path_of(tenant: Tenant) -> str:
    return f"/admin/projects/{tenant.project}"


def revoke(tenant: Tenant, admin: CreatedKey, key: CreatedKey) -> None:
    assert tenant.api.call("DELETE", f"/admin/keys/{key.key.api_key_id}", admin).status_code == 200


def test_a_project_is_renamed_and_its_name_taken_away(tenant: Tenant, admin: CreatedKey) -> None:
    before = tenant.api.call("GET", path_of(tenant), admin).json()
    renamed = tenant.api.call("PATCH", path_of(tenant), admin, json={"name": "Second"})
    assert renamed.status_code == 200
    assert renamed.json() == before | {"name": "Second"} == tenant.api.call("GET", path_of(tenant), admin).json()
    assert tenant.api.call("PATCH", path_of(tenant), admin, json={}).json() == renamed.json()
    assert tenant.api.call("PATCH", path_of(tenant), admin, json={"name": None}).json() == before
    assert tenant.api.call("GET", path_of(tenant), admin).json() == before


def test_a_project_in_use_is_409_and_says_by_what(world: World) -> None:
    tenant, api = world.tenant, world.tenant.api
    tenant.collection("d")
    before = world.state()
    body = problem(api.call("DELETE", path_of(tenant), world.admin), 409, "project_not_empty")
    for name in ("collection 'c'", "collection 'd'", tenant.key.key.api_key_id, world.other.key.api_key_id):
        assert name in body["detail"]
    assert world.admin.key.api_key_id not in body["detail"]  # of no project
    after = world.state()
    assert after[0] == before[0]
    assert api.call("GET", path_of(tenant), world.admin).status_code == 200
    assert tenant.call("GET", "/c").status_code == 200


def test_an_empty_project_is_deleted_and_missing_from_then_on(tenant: Tenant, admin: CreatedKey) -> None:
    api = tenant.api
    tenant.collection("c")
    revoke(tenant, admin, tenant.key)
    assert "'c'" in problem(api.call("DELETE", path_of(tenant), admin), 409)["detail"]
    assert tenant.call("DELETE", "/c", key=admin).status_code == 200
    assert api.call("DELETE", path_of(tenant), admin).json() == {"status": "ok"}
    problem(api.call("GET", path_of(tenant), admin), 404, "project_not_found")
    problem(api.call("DELETE", path_of(tenant), admin), 404, "project_not_found")
    problem(api.call("PATCH", path_of(tenant), admin, json={"name": "x"}), 404, "project_not_found")
    problem(tenant.call("GET", key=admin), 404, "project_not_found")
    problem(tenant.call("POST", key=admin, json={"name": "c", "dimension": 3}), 404, "project_not_found")
    assert api.call("GET", "/admin/projects", admin).json() == {"projects": []}
    key = {"user_id": tenant.user, "project_id": tenant.project, "roles": ["search"]}
    problem(api.call("POST", "/admin/keys", admin, json=key), 404, "project_not_found")


def test_an_expired_key_keeps_no_project_from_being_deleted_and_stays_dead(tenant: Tenant, admin: CreatedKey) -> None:
    api = tenant.api
    expired = api.create_key(tenant.user, tenant.project, Role.SEARCH, expires_at=api.clock())
    revoke(tenant, admin, tenant.key)
    assert api.call("DELETE", path_of(tenant), admin).status_code == 200
    path = f"/admin/keys/{expired.key.api_key_id}"
    problem(api.call("PATCH", path, admin, json={"expires_at": None}), 409, "project_being_deleted")
    problem(api.call("POST", path + "/rotate", admin), 409, "project_being_deleted")


def test_the_id_of_a_deleted_project_is_its_users_alone(tenant: Tenant, admin: CreatedKey) -> None:
    api = tenant.api
    revoke(tenant, admin, tenant.key)
    assert api.call("DELETE", path_of(tenant), admin).status_code == 200
    stranger = api.tenant()
    other = api.create_key(stranger.user, None, *Role)
    body = {"project_id": tenant.project, "user_id": stranger.user}
    for caller in (other, api.system_admin()):
        problem(api.call("POST", "/admin/projects", caller, json=body), 409, "project_exists")
    body["user_id"] = tenant.user
    assert api.call("POST", "/admin/projects", admin, json=body).status_code == 201
    assert tenant.call("GET", key=admin).json()["collections"] == []
    # A key that was revoked before stays revoked.
    problem(tenant.call("GET"), 401)


@pytest.mark.parametrize("more", [{}, {"deletion_protection": True}])
def test_a_collection_made_while_its_project_is_deleted_is_taken_back(
    tenant: Tenant, admin: CreatedKey, more: dict[str, bool]
) -> None:
    """The deletion looked before it came, so whoever made it looks afterwards: of the two, one sees the other."""
    revoke(tenant, admin, tenant.key)

    def look() -> list[str]:
        answer = tenant.call("POST", key=admin, json={"name": "late", "dimension": 3, **more})
        problem(answer, 409, "project_being_deleted")
        return []

    tenant.api.runtime.projects.delete(tenant.project, look)
    assert tenant.contents() == {}
    problem(tenant.api.call("GET", path_of(tenant), admin), 404)


def test_a_collection_made_before_the_project_is_looked_through_keeps_it(tenant: Tenant, admin: CreatedKey) -> None:
    revoke(tenant, admin, tenant.key)
    assert tenant.call("POST", key=admin, json={"name": "early", "dimension": 3}).status_code == 201
    problem(tenant.api.call("DELETE", path_of(tenant), admin), 409, "project_not_empty")
    assert tenant.call("GET", "/early", key=admin).status_code == 200
    assert tenant.call("POST", key=admin, json={"name": "later", "dimension": 3}).status_code == 201
