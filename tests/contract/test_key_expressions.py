"""Every expression that changes keys and projects is one that each engine takes: see test_ledger_expressions.py."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from tests.fixtures.ledger import Instance, ManualClock, open_instance
from vecmeter.errors import ProjectBeingDeletedError, ProjectNotEmptyError, ProjectNotFoundError
from vecmeter.ledger.model import Role
from vecmeter.ledger.table import Table
from vecmeter.settings import Settings


@pytest.fixture
def instance(table: Table) -> Instance:
    settings = Settings.from_environment({"DATABASE_URL": "postgresql://nowhere.invalid", "TABLE_NAME": table.name})
    return open_instance(table, settings, ManualClock())


def test_every_change_of_a_key(instance: Instance) -> None:
    clock = instance.clock
    assert isinstance(clock, ManualClock)
    instance.projects.create(project_id="project-1", user_id="user-1", name=None)
    key = instance.create_key(expires_at=clock() + timedelta(days=9))
    name = key.key.api_key_id
    for change in (
        {"name": "n"},
        {"name": None, "roles": frozenset({Role.SEARCH, Role.ADMIN})},
        {"name": "m", "expires_at": None},
    ):
        changed = instance.keys.change(name, lambda found, change=change: replace(found, **change))  # type: ignore[misc]
        assert instance.keys.get(name) == changed
    secret = instance.keys.rotate(name, timedelta(hours=1)).secret
    assert instance.request(key.secret)
    assert instance.request(secret)
    clock.advance(hours=2)
    assert instance.keys.rotate(name, timedelta(0)).key.name == "m"
    assert not {"s2", "x2"} & instance.item(key).keys()
    instance.keys.change_policy(name, lambda policy: replace(policy, daily_requests=9))
    instance.keys.revoke(name)
    actions = ["key.change"] * 3 + ["key.create", "key.revoke", "policy.set"] + ["key.rotate"] * 2
    assert sorted(record.action for record in instance.audit.of_target(f"key:{name}")) == sorted(actions)


def test_every_change_of_a_project(instance: Instance) -> None:
    projects = instance.projects
    for round_number in range(2):  # the second time it is made of one that was deleted
        projects.create(project_id="p", user_id="u", name="First" if round_number else None)
        assert projects.rename("p", "Second").name == "Second"
        assert projects.rename("p", None) == projects.get("p")
        with pytest.raises(ProjectNotEmptyError):
            projects.delete("p", lambda: ["something"])
        assert projects.is_open("p")

        def look() -> list[str]:
            assert not projects.is_open("p")
            with pytest.raises(ProjectBeingDeletedError):
                instance.create_key(user="u", project="p")
            return []

        projects.delete("p", look)
        with pytest.raises(ProjectNotFoundError):
            projects.get("p")
        assert list(projects.list()) == []
    assert len(list(instance.audit.of_all())) == len(list(instance.audit.of_user("u"))) == 8
