"""Policies: where a limit comes from, profiles, and what holds for whom."""

from __future__ import annotations

import pytest

from tests.fixtures.ledger import Instance, ManualClock
from vecmeter.errors import LimitExceededError, ProjectNotFoundError
from vecmeter.ledger.keys import CreatedKey
from vecmeter.ledger.model import Operation, Policy, Scope
from vecmeter.ledger.policies import PROFILES


@pytest.fixture(autouse=True)
def _project(instance: Instance) -> None:
    instance.policies.create_project(project_id="project-1", user_id="user-1", name=None)


@pytest.fixture
def key(instance: Instance) -> CreatedKey:
    return instance.create_key()


def limits_of(instance: Instance, key: CreatedKey) -> dict[tuple[str, str], int]:
    """Every limit a key meets, by scope and name, its settings' defaults left out."""
    states = instance.policies.of_key(key.key.api_key_id).states
    defaults = (10_000, 300_000, 1_000_000, 30_000_000)
    return {(s.scope, s.name): s.limit for s in states if not (s.scope == "key" and s.limit in defaults)}


class TestResolution:
    def test_a_keys_limit_is_its_own_else_its_projects_else_its_users_else_the_systems_default(
        self, instance: Instance, key: CreatedKey
    ) -> None:
        def default(limit: int) -> dict[Scope, Policy]:
            return {Scope.KEY: Policy(requests_per_minute=limit)}

        found = []
        for scope, scope_id, policy in (
            (Scope.SYSTEM, "system", {"defaults": default(40)}),
            (Scope.USER, "user-1", {"defaults": default(30)}),
            (Scope.PROJECT, "project-1", {"defaults": default(20)}),
            (Scope.KEY, key.key.api_key_id, {"requests_per_minute": 10}),
        ):
            instance.limit(scope, scope_id, **policy)
            found.append(limits_of(instance, key)["key", "requests_per_minute"])
        assert found == [40, 30, 20, 10]

    def test_a_projects_and_a_users_limits_come_from_above_unless_they_set_them(
        self, instance: Instance, key: CreatedKey
    ) -> None:
        defaults = {Scope.PROJECT: Policy(daily_requests=7, daily_tokens=70), Scope.USER: Policy(daily_cost_usd=700)}
        instance.limit(Scope.SYSTEM, "system", defaults=defaults)
        assert limits_of(instance, key) == {
            ("project", "daily_requests"): 7,
            ("project", "daily_tokens"): 70,
            ("user", "daily_cost_usd"): 700,
        }
        instance.limit(Scope.USER, "user-1", daily_cost_usd=5, defaults={Scope.PROJECT: Policy(daily_tokens=50)})
        instance.limit(Scope.PROJECT, "project-1", daily_requests=3)
        assert limits_of(instance, key) == {
            ("project", "daily_requests"): 3,
            ("project", "daily_tokens"): 50,
            ("user", "daily_cost_usd"): 5,
        }

    def test_what_a_project_may_keep_comes_from_itself_else_its_user_else_the_system(
        self, instance: Instance, key: CreatedKey
    ) -> None:
        found = []
        for scope, scope_id, limits in (
            (Scope.SYSTEM, "system", {"max_vectors": 30, "max_collections": 3}),
            (Scope.USER, "user-1", {"max_vectors": 20}),
            (Scope.PROJECT, "project-1", {"max_vectors": 10}),
        ):
            instance.limit(scope, scope_id, **limits)
            with instance.admit(key) as hold:
                found.append(dict(hold.admission.stock))
        assert found == [{"max_vectors": n, "max_collections": 3} for n in (30, 20, 10)]

    def test_switched_off_a_scope_has_no_limits_and_sets_none(self, instance: Instance, key: CreatedKey) -> None:
        places = (Scope.SYSTEM, "system"), (Scope.PROJECT, "project-1"), (Scope.KEY, key.key.api_key_id)
        for scope, scope_id in places:
            instance.limit(scope, scope_id, daily_requests=0, active=False, notes="on holiday")
        assert instance.request(key)
        assert instance.policies.get(Scope.PROJECT, "project-1").notes == "on holiday"

    def test_another_users_and_projects_policies_do_not_matter(self, instance: Instance, key: CreatedKey) -> None:
        instance.policies.create_project(project_id="project-2", user_id="user-2", name=None)
        instance.limit(Scope.USER, "user-2", daily_requests=1)
        instance.limit(Scope.PROJECT, "project-2", daily_requests=1)
        assert limits_of(instance, key) == {}

    def test_a_project_that_is_not_there_has_no_policy(self, instance: Instance) -> None:
        with pytest.raises(ProjectNotFoundError):
            instance.limit(Scope.PROJECT, "project-9", daily_requests=1)

    def test_changes_of_a_parents_policy_are_recorded_with_who_made_them(
        self, instance: Instance, clock: ManualClock
    ) -> None:
        for limit in (5, 6):
            clock.advance(seconds=1)
            instance.limit(Scope.PROJECT, "project-1", daily_requests=limit)
        [second, first, _] = instance.audit.of_target("project:project-1")
        assert (first.action, first.before, first.after) == ("policy.set", {}, {"daily_requests": 5})
        assert (second.before, second.after) == ({"daily_requests": 5}, {"daily_requests": 6})


class TestTheAssistantProfile:
    def test_for_the_system_it_bounds_the_system_its_users_and_their_keys(
        self, instance: Instance, key: CreatedKey
    ) -> None:
        instance.policies.change(Scope.SYSTEM, "system", lambda _: PROFILES["assistant"](Scope.SYSTEM))
        assert limits_of(instance, key) == {
            ("key", "requests_per_minute"): 10,
            ("key", "requests_per_hour"): 100,
            ("key", "requests_per_day"): 500,
            ("user", "daily_cost_usd"): 5_000_000,
            ("system", "requests_per_hour"): 1000,
            ("system", "daily_cost_usd"): 100_000_000,
            ("system", "max_concurrent"): 100,
        }
        admitted = 0
        for _ in range(15):
            try:
                admitted += instance.request(key)
            except LimitExceededError as refusal:
                assert [policy.name for policy in refusal.violated] == ["requests_per_minute"]  # noqa: PT017
        assert admitted == 10

    @pytest.mark.parametrize("scope", Scope)
    def test_every_scope_has_one(self, scope: Scope) -> None:
        assert PROFILES["assistant"](scope) != PROFILES["assistant"](Scope.SYSTEM) or scope is Scope.SYSTEM


def test_a_budget_in_dollars_is_not_exceeded_by_a_micro_dollar(instance: Instance, key: CreatedKey) -> None:
    cost = instance.ledger.price(Operation.SEARCH, tokens=1000)
    instance.limit(Scope.KEY, key.key.api_key_id, daily_cost_usd=3 * cost + 1)
    for _ in range(3):
        instance.request(key, tokens=1000)
    with pytest.raises(LimitExceededError) as refusal:
        instance.request(key, tokens=1000)
    assert refusal.value.violated[0].used == 3 * cost
