"""Keys that are changed and rotated through the API, and privileges that nobody can raise."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import httpx
import pytest

from tests.fixtures.api import Api, Tenant, World, make_world, open_api, problem, settings_for
from vecmeter.ledger.keys import CreatedKey
from vecmeter.ledger.model import SYSTEM_USER, Role


def path_of(key: CreatedKey) -> str:
    return f"/admin/keys/{key.key.api_key_id}"


def patch(world: World, key: CreatedKey, caller: CreatedKey | None = None, **body: Any) -> httpx.Response:
    return world.tenant.api.call("PATCH", path_of(key), caller or world.admin, json=body)


def rotate(world: World, key: CreatedKey, caller: CreatedKey | None = None, **body: Any) -> httpx.Response:
    return world.tenant.api.call("POST", path_of(key) + "/rotate", caller or world.admin, json=body)


def works(tenant: Tenant, secret: CreatedKey | str) -> bool:
    answer = tenant.call("GET", "/c", key=secret)
    assert answer.status_code in (200, 401), answer.text
    return answer.status_code == 200


class TestChanges:
    def test_what_is_named_changes_and_the_rest_stays(self, world: World) -> None:
        api, key = world.tenant.api, world.other
        before = api.call("GET", path_of(key), world.admin).json()
        expires = (api.clock() + timedelta(days=1)).isoformat().replace("+00:00", "Z")
        for body, changed in (
            ({"name": "ingest"}, {"name": "ingest"}),
            ({"roles": ["write", "search", "write"]}, {"roles": ["search", "write"]}),
            ({"expires_at": expires}, {"expires_at": expires}),
        ):
            answer = patch(world, key, **body)
            before |= changed
            assert answer.status_code == 200
            assert answer.json() == before == api.call("GET", path_of(key), world.admin).json()
        answer = patch(world, key, name=None, expires_at=None)
        del before["name"], before["expires_at"]
        assert answer.json() == before == api.call("GET", path_of(key), world.admin).json()
        assert patch(world, key).json() == before

    def test_another_role_holds_for_the_next_request(self, world: World) -> None:
        tenant = world.tenant
        assert works(tenant, world.other)
        patch(world, world.other, roles=["write"])
        problem(tenant.call("GET", "/c", key=world.other), 403, "missing_role")
        patch(world, world.other, roles=["search"])
        assert works(tenant, world.other)

    def test_an_expiry_in_the_past_is_refused_and_changes_nothing(self, world: World) -> None:
        before = world.state()
        answer = patch(world, world.other, name="x", expires_at=world.tenant.api.clock().isoformat())
        assert [error["path"] for error in problem(answer, 422)["errors"]] == ["expires_at"]
        assert world.state() == before

    def test_a_revoked_key_neither_changes_nor_rotates(self, world: World) -> None:
        api = world.tenant.api
        for _ in range(2):
            assert api.call("DELETE", path_of(world.other), world.admin).status_code == 200
        shown = api.call("GET", path_of(world.other), world.admin).json()
        problem(patch(world, world.other, name="x"), 409, "api_key_revoked")
        problem(rotate(world, world.other, grace_seconds=60), 409, "api_key_revoked")
        assert api.call("GET", path_of(world.other), world.admin).json() == shown


class TestRotation:
    def test_the_new_secret_is_shown_once_and_works_at_once_and_the_old_one_no_more(self, world: World) -> None:
        api, tenant, key = world.tenant.api, world.tenant, world.other
        before = api.call("GET", path_of(key), world.admin).json()
        answer = rotate(world, key)
        assert answer.status_code == 200
        body = answer.json()
        secret = body.pop("key")
        assert body == before | {"last4": secret[-4:]}
        assert works(tenant, secret)
        assert not works(tenant, key)
        shown = [api.call("GET", path, world.admin).text for path in (path_of(key), "/admin/keys", "/admin/audit")]
        assert secret[12:-4] not in "".join(shown)

    def test_the_body_may_be_left_out(self, world: World) -> None:
        answer = world.tenant.api.call("POST", path_of(world.other) + "/rotate", world.admin)
        assert answer.status_code == 200
        assert not works(world.tenant, world.other)

    def test_the_old_secret_works_for_the_grace_and_its_end_is_shown_until_then(self, api: Api) -> None:
        world = make_world(api)
        tenant, key = world.tenant, world.other
        body = rotate(world, key, grace_seconds=3600).json()
        ends = (api.clock() + timedelta(hours=1)).isoformat().replace("+00:00", "Z")
        assert body["previous_expires_at"] == ends
        assert api.call("GET", path_of(key), world.admin).json()["previous_expires_at"] == ends
        assert works(tenant, key)
        assert works(tenant, body["key"])
        api.clock.advance(hours=1)
        assert not works(tenant, key)
        assert works(tenant, body["key"])
        assert "previous_expires_at" not in api.call("GET", path_of(key), world.admin).json()

    def test_the_grace_never_outlives_the_expiry_the_key_had(self, api: Api) -> None:
        world = make_world(api)
        expires = api.clock() + timedelta(minutes=30)
        key = api.create_key(world.tenant.user, world.tenant.project, Role.SEARCH, expires_at=expires)
        body = rotate(world, key, grace_seconds=3600).json()
        assert body["previous_expires_at"] == body["expires_at"] == expires.isoformat().replace("+00:00", "Z")
        patch(world, key, expires_at=None)
        api.clock.advance(minutes=30)
        assert not works(world.tenant, key)
        assert works(world.tenant, body["key"])

    def test_a_key_may_rotate_itself_and_goes_on_with_the_new_secret(self, world: World) -> None:
        secret = rotate(world, world.admin, world.admin).json()["key"]
        problem(world.tenant.api.call("GET", "/admin/keys", world.admin), 401)
        assert world.tenant.api.call("GET", "/admin/keys", secret).status_code == 200

    def test_counters_and_limits_stay(self, world: World) -> None:
        api, tenant = world.tenant.api, world.tenant
        key = api.create_key(tenant.user, tenant.project, Role.SEARCH, policy={"daily_requests": 2})
        assert works(tenant, key)
        secret = rotate(world, key).json()["key"]
        assert works(tenant, secret)
        problem(tenant.call("GET", "/c", key=secret), 429, "limit_exceeded")
        assert api.used(key)["requests"] == 2

    def test_the_longest_grace_is_a_setting(self, database_url: str, table_name: str) -> None:
        with open_api(settings_for(database_url, table_name, max_rotation_grace_seconds=60)) as api:
            world = make_world(api)
            before = world.state()
            answer = rotate(world, world.other, grace_seconds=61)
            [error] = problem(answer, 422, "invalid_request")["errors"]
            assert error == {"path": "grace_seconds", "message": "is 61; at most 60 are allowed"}
            assert world.state() == before
            assert rotate(world, world.other, grace_seconds=60).status_code == 200


class TestPrivileges:
    """Whoever creates or changes a key gives it nothing that is not theirs to give."""

    @pytest.fixture
    def confined(self, world: World) -> CreatedKey:
        return world.tenant.api.create_key(world.tenant.user, world.tenant.project, *Role)

    def create(self, world: World, caller: CreatedKey, **body: Any) -> httpx.Response:
        return world.tenant.api.call("POST", "/admin/keys", caller, json={"roles": ["admin"], **body})

    def test_an_admin_of_a_project_makes_no_key_beyond_it(self, world: World, confined: CreatedKey) -> None:
        api, tenant = world.tenant.api, world.tenant
        second, stranger = api.tenant(tenant.user), api.tenant()
        before = [key.api_key_id for key in api.runtime.keys.list()]
        for body in (
            {"user_id": tenant.user},
            {"user_id": tenant.user, "project_id": second.project},
            {"user_id": stranger.user, "project_id": stranger.project},
            {"user_id": stranger.user, "project_id": tenant.project},
            {"user_id": SYSTEM_USER},
            {"user_id": SYSTEM_USER, "project_id": tenant.project},
        ):
            problem(self.create(world, confined, **body), 404)
        assert [key.api_key_id for key in api.runtime.keys.list()] == before
        assert self.create(world, confined, user_id=tenant.user, project_id=tenant.project).status_code == 201

    def test_nobody_but_a_system_admin_makes_a_system_admin(self, world: World, confined: CreatedKey) -> None:
        api = world.tenant.api
        operator = api.create_key(SYSTEM_USER, world.tenant.project, *Role)
        before = {key.api_key_id for key in api.runtime.keys.list(user_id=SYSTEM_USER)}
        for caller in (world.admin, confined, operator):
            for body in ({"user_id": SYSTEM_USER}, {"user_id": SYSTEM_USER, "project_id": world.tenant.project}):
                answer = self.create(world, caller, **body)
                assert answer.status_code in (404, 422)
        assert {key.api_key_id for key in api.runtime.keys.list(user_id=SYSTEM_USER)} == before
        assert self.create(world, world.system, user_id=SYSTEM_USER).status_code == 201

    @pytest.mark.parametrize("field", [{"user_id": SYSTEM_USER}, {"project_id": None}, {"project_id": "other"}])
    def test_no_change_moves_a_key_to_another_user_or_project(
        self, world: World, confined: CreatedKey, field: dict[str, Any]
    ) -> None:
        before = world.tenant.api.runtime.keys.get(confined.key.api_key_id)
        for caller in (confined, world.admin, world.system):
            answer = patch(world, confined, caller, **field)
            assert [error["path"] for error in problem(answer, 422)["errors"]] == list(field)
        assert world.tenant.api.runtime.keys.get(confined.key.api_key_id) == before

    def test_an_operators_key_is_touched_by_system_admins_only(self, world: World, confined: CreatedKey) -> None:
        api = world.tenant.api
        operator = api.create_key(SYSTEM_USER, None, Role.SEARCH)
        before = api.runtime.keys.get(operator.key.api_key_id)
        for caller in (world.admin, confined):
            problem(patch(world, operator, caller, roles=["admin"]), 404, "api_key_not_found")
            problem(rotate(world, operator, caller), 404, "api_key_not_found")
            problem(api.call("DELETE", path_of(operator), caller), 404, "api_key_not_found")
        assert api.runtime.keys.get(operator.key.api_key_id) == before

    def test_who_lost_the_role_gets_it_back_from_another_only(self, world: World, confined: CreatedKey) -> None:
        assert patch(world, confined, confined, roles=["search"]).status_code == 200
        problem(patch(world, confined, confined, roles=["admin"]), 403, "missing_role")
        problem(rotate(world, confined, confined), 403, "missing_role")
        assert patch(world, confined, world.admin, roles=["admin"]).status_code == 200
        assert patch(world, confined, confined, name="back").status_code == 200
