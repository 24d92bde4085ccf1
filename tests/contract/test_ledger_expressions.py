"""Every expression the ledger sends is one that each engine takes: moto knows the reserved words and unused names."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import pytest

from tests.fixtures.faults import Fault, FaultyClient
from tests.fixtures.ledger import Instance, ManualClock, assert_exact, open_instance
from vecmeter.errors import AuthenticationError, LimitExceededError, ProjectExistsError
from vecmeter.ledger.model import Operation, Scope
from vecmeter.ledger.table import Table
from vecmeter.settings import Settings


@pytest.fixture
def instance(table: Table) -> Instance:
    settings = Settings.from_environment({"DATABASE_URL": "postgresql://nowhere.invalid", "TABLE_NAME": table.name})
    return open_instance(table, settings, ManualClock())


def test_the_whole_life_of_a_key(instance: Instance, tried: FaultyClient) -> None:
    clock = instance.clock
    assert isinstance(clock, ManualClock)
    instance.projects.create(project_id="project-1", user_id="user-1", name="First")
    with pytest.raises(ProjectExistsError):
        instance.projects.create(project_id="project-1", user_id="user-1", name="First")
    key = instance.create_key(project=None, daily_requests=5)
    again = {"project_id": "project-1"}
    assert instance.request(key, tokens=500, **again)
    tried.fail(Fault.LOST_ANSWER)
    assert instance.request(key, tokens=500, operation=Operation.UPSERT, vectors=7, **again)
    instance.admit(key, tokens=500, **again)
    clock.advance(seconds=61)
    with instance.admit(key, tokens=500, **again):
        pass
    assert instance.request(key, **again)
    with pytest.raises(LimitExceededError):
        instance.admit(key, **again)
    assert_exact(instance, key, success=3, failure=1, unknown=1, quota_exceeded=1)
    instance.keys.change_policy(key.key.api_key_id, lambda policy: replace(policy, daily_requests=9, notes="more"))
    clock.advance(days=40)
    assert instance.request(key, **again)
    assert [name for name in instance.item(key) if name[0] in "dh"] == ["d261231"]
    assert [listed.policy.notes for listed in instance.keys.list(user_id="user-1")] == ["more"]
    assert [project.name for project in instance.projects.list()] == ["First"]
    instance.keys.revoke(key.key.api_key_id)
    with pytest.raises(AuthenticationError):
        instance.admit(key, **again)
    records = list(instance.table.query(f"R#{key.key.api_key_id}", between=("0", "9")))
    assert instance.table.delete_many((record["pk"], record["sk"]) for record in records) == 7


def test_limits_of_every_kind_and_scope(instance: Instance) -> None:
    clock = instance.clock
    assert isinstance(clock, ManualClock)
    instance.policies.create_project(project_id="project-2", user_id="user-2", name=None)
    keys = [instance.create_key(user="user-2", project="project-2", requests_per_minute=6) for _ in range(2)]
    everything = {"daily_requests": 10, "requests_per_hour": 9, "max_concurrent": 3, "daily_cost_usd": 10**6}
    for scope, scope_id in ((Scope.PROJECT, "project-2"), (Scope.USER, "user-2"), (Scope.SYSTEM, "system")):
        instance.limit(scope, scope_id, **everything)
    admitted = 0
    for number in range(16):
        clock.advance(seconds=2)
        with suppress(LimitExceededError):
            admitted += instance.request(keys[number % 2], project_id="project-2")
    assert admitted == 9
    with instance.admit(instance.create_key(user="user-2", project=None), operation=Operation.ADMIN):
        pass
    clock.advance(seconds=3800)
    holds = [instance.admit(keys[0], operation=Operation.UPSERT, writes=3, project_id="project-2")]
    for hold in holds:
        with hold:
            pass
    instance.limit(Scope.PROJECT, "project-2", daily_requests=1)
    with pytest.raises(LimitExceededError):
        instance.admit(keys[0], project_id="project-2")
