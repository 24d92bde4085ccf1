"""GET /admin/audit: who changed what, newest first, page by page, and nobody sees what is not theirs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import pytest

from tests.fixtures.api import Api, World, make_world, problem
from vecmeter.ledger.keys import CreatedKey
from vecmeter.ledger.model import Role


@pytest.fixture
def world(api: Api) -> World:
    """With changes by its admin, one a second, to a key, and a project of its own."""
    return make_world(api)


def changes(world: World) -> Iterator[tuple[str, str]]:
    """Make a change of every kind; yields each with its target."""
    api, tenant, admin = world.tenant.api, world.tenant, world.admin

    def call(method: str, path: str, **body: Any) -> Any:
        api.clock.advance(seconds=1)
        answer = api.call(method, path, admin, json=body or None)
        assert answer.status_code < 300, answer.text
        return answer.json()

    created = call("POST", "/admin/keys", user_id=tenant.user, project_id=tenant.project, roles=["search"])
    path, target = f"/admin/keys/{created['api_key_id']}", f"key:{created['api_key_id']}"
    yield "key.create", target
    call("PATCH", path, name="n")
    yield "key.change", target
    call("POST", path + "/rotate", grace_seconds=60)
    yield "key.rotate", target
    call("POST", f"/admin/usage/quota/{created['api_key_id']}", daily_requests=7)
    yield "policy.set", target
    call("DELETE", path)
    yield "key.revoke", target
    call("POST", "/admin/projects", project_id=f"{tenant.project}-2", user_id=tenant.user)
    yield "project.create", f"project:{tenant.project}-2"
    call("PATCH", f"/admin/projects/{tenant.project}-2", name="Two")
    yield "project.change", f"project:{tenant.project}-2"
    call("DELETE", f"/admin/projects/{tenant.project}-2")
    yield "project.delete", f"project:{tenant.project}-2"


def listed(world: World, caller: CreatedKey, query: str = "") -> list[Any]:
    answer = world.tenant.api.call("GET", f"/admin/audit{query}", caller)
    assert answer.status_code == 200, answer.text
    records: list[Any] = answer.json()["records"]
    return records


def test_every_change_is_listed_newest_first_with_who_made_it(world: World) -> None:
    made = list(changes(world))
    records = listed(world, world.admin, f"?limit={len(made)}")
    assert [(record["action"], record["target"]) for record in records] == made[::-1]
    actor = {"user_id": world.tenant.user, "api_key_id": world.admin.key.api_key_id}
    assert {str(record["actor"]) for record in records} == {str(actor)}
    assert {record["user_id"] for record in records} == {world.tenant.user}
    # Each names the request that made it, under the id which that request's usage record has.
    requests = {record.request_id for record in world.tenant.api.records(world.admin)}
    assert len({record["request_id"] for record in records} & requests) == len(made)
    assert records[0]["before"] == {"user_id": world.tenant.user, "name": "Two"}
    assert "after" not in records[0]


def test_a_record_is_as_the_contract_has_it(world: World) -> None:
    api, key = world.tenant.api, world.other.key.api_key_id
    api.clock.advance(seconds=1)
    answer = api.call("PATCH", f"/admin/keys/{key}", world.admin, json={"name": "n", "roles": ["write"]})
    [record] = listed(world, world.admin, "?limit=1")
    assert record == {
        "audit_id": record["audit_id"],
        "at": api.clock().isoformat().replace("+00:00", "Z"),
        "actor": {"user_id": world.tenant.user, "api_key_id": world.admin.key.api_key_id},
        "action": "key.change",
        "target": f"key:{key}",
        "user_id": world.tenant.user,
        "project_id": world.tenant.project,
        "before": {"name": None, "roles": ["search"]},
        "after": {"name": "n", "roles": ["write"]},
        "request_id": answer.headers["x-request-id"],
    }


def test_pages_put_together_are_the_list(world: World) -> None:
    list(changes(world))
    for query in ("", f"user_id={world.tenant.user}", f"target=key:{world.other.key.api_key_id}"):
        for caller in (world.admin, world.system):
            whole = listed(world, caller, f"?limit=1000&{query}")
            found, token = [], ""
            while True:
                body = world.tenant.api.call("GET", f"/admin/audit?limit=2&{query}{token}", caller).json()
                found += body["records"]
                if "next_page_token" not in body:
                    break
                assert len(body["records"]) == 2
                token = f"&page_token={body['next_page_token']}"
            assert found == whole
            assert len(whole) == 1 if "target" in query else len(whole) > 8


def test_the_history_of_a_thing_outlives_it(world: World) -> None:
    list(changes(world))
    target = f"project:{world.tenant.project}-2"
    for caller in (world.admin, world.system):
        actions = [record["action"] for record in listed(world, caller, f"?target={target}")]
        assert actions == ["project.delete", "project.change", "project.create"]


def test_nobody_sees_what_became_of_the_things_of_another(api: Api, world: World) -> None:
    other = make_world(api)
    made = list(changes(world))
    for target in {target for _, target in made} | {"key:key_00000000000", "project:missing"}:
        assert listed(other, other.admin, f"?target={target}") == []
        problem(api.call("GET", f"/admin/audit?target={target}&user_id={world.tenant.user}", other.admin), 404)
    assert not [record for record in listed(other, other.admin) if record["user_id"] != other.tenant.user]
    everything = listed(other, other.system, "?limit=1000")
    assert {world.tenant.user, other.tenant.user, "system"} <= {record["user_id"] for record in everything}
    ours = listed(world, world.admin, "?limit=1000")
    assert ours == [record for record in everything if record["user_id"] == world.tenant.user]
    assert ours == listed(world, world.system, f"?limit=1000&user_id={world.tenant.user}")


def test_an_admin_of_a_project_sees_the_changes_in_it(world: World) -> None:
    confined = world.tenant.api.create_key(world.tenant.user, world.tenant.project, *Role)
    list(changes(world))
    for query in ("?limit=1000", f"?limit=1000&user_id={world.tenant.user}"):
        found = listed(world, confined, query)
        assert {record["project_id"] for record in found} == {world.tenant.project}
        assert world.admin.key.api_key_id not in {record["target"].split(":")[1] for record in found}
    assert listed(world, confined, f"?target=project:{world.tenant.project}-2") == []
    assert listed(world, confined, f"?target=key:{world.admin.key.api_key_id}") == []


def test_a_refused_change_is_not_recorded(world: World) -> None:
    api, key = world.tenant.api, world.other.key.api_key_id
    before = listed(world, world.system, "?limit=1000")
    problem(api.call("DELETE", f"/admin/projects/{world.tenant.project}", world.admin), 409)
    problem(api.call("PATCH", f"/admin/keys/{key}", world.admin, json={"roles": []}), 422)
    problem(api.call("DELETE", f"/admin/keys/{key}", world.other), 403)
    problem(api.call("POST", "/admin/keys", world.admin, json={"user_id": "system", "roles": ["admin"]}), 404)
    api.call("PATCH", f"/admin/keys/{key}", world.admin, json={})
    assert listed(world, world.system, "?limit=1000") == before


def test_no_secret_and_no_hash_of_one_is_shown(world: World) -> None:
    secrets = [key.secret for key in (world.admin, world.other, world.system, world.tenant.key)]
    for grace in (60, 0):
        path = f"/admin/keys/{world.other.key.api_key_id}/rotate"
        secrets.append(world.tenant.api.call("POST", path, world.admin, json={"grace_seconds": grace}).json()["key"])
    shown = world.tenant.api.call("GET", "/admin/audit?limit=1000", world.system).text
    for secret in secrets:
        assert secret[12:-4] not in shown
        assert hashlib.sha256(secret.encode()).hexdigest() not in shown
