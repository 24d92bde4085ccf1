"""Who is admitted, who is refused and with what: each refusal leaves the table as it was."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from tests.fixtures.faults import FaultyClient
from tests.fixtures.ledger import Instance, ManualClock, secret_with
from vecmeter.errors import (
    AuthenticationError,
    CostExceedsLimitError,
    LimitExceededError,
    MissingRoleError,
    ProjectNotFoundError,
    VecmeterError,
)
from vecmeter.ledger.keys import CreatedKey, generate_secret, parse_secret
from vecmeter.ledger.model import SYSTEM_USER, Cost, Operation, Role

WRITES = ("put_item", "update_item", "transact_write_items", "batch_write_item", "delete_item")


def refused(instance: Instance, faults: FaultyClient, kind: type[VecmeterError], key: Any, **changes: Any) -> Any:
    """The refusal of a request, after a look at what it left: nothing."""
    before = list(instance.table.query(f"K#{parse_secret(_secret(key)).api_key_id}", between=(" ", "z")))
    with faults.counted() as calls, pytest.raises(kind) as raised:
        instance.admissions.admit(instance.demand(key, **changes))
    assert not [name for name in calls if name in WRITES and name != "update_item"]
    after = list(instance.table.query(f"K#{parse_secret(_secret(key)).api_key_id}", between=(" ", "z")))
    assert after == before
    return raised.value


def _secret(key: CreatedKey | str) -> str:
    return key if isinstance(key, str) else key.secret


class TestWho:
    def test_every_credential_that_opens_nothing_gets_the_same_answer(
        self, instance: Instance, faults: FaultyClient, clock: ManualClock
    ) -> None:
        revoked, expired = instance.create_key(), instance.create_key(expires_at=clock() + timedelta(hours=1))
        instance.keys.revoke(revoked.key.api_key_id)
        clock.advance(hours=1)
        unknown, wrong = generate_secret("live")[1], secret_with(instance.create_key().key.api_key_id, "A" * 22)
        keys = (revoked, expired, unknown, wrong)
        answers = {refused(instance, faults, AuthenticationError, key).detail for key in keys}
        with pytest.raises(AuthenticationError) as malformed:
            instance.demand("vm_live_nonsense")
        assert answers == {malformed.value.detail}

    def test_a_mistyped_key_never_reaches_the_table(self, instance: Instance, faults: FaultyClient) -> None:
        secret = instance.create_key().secret
        with faults.counted() as calls:
            for place in range(len(secret)):
                mistyped = secret[:place] + ("A" if secret[place] != "A" else "B") + secret[place + 1 :]
                with pytest.raises(AuthenticationError):
                    instance.admit(mistyped)
        assert not calls

    def test_a_key_expires_at_its_moment(self, instance: Instance, clock: ManualClock) -> None:
        key = instance.create_key(expires_at=clock() + timedelta(hours=1))
        clock.advance(minutes=59, seconds=59.999)
        assert instance.request(key)
        clock.advance(milliseconds=1)
        with pytest.raises(AuthenticationError):
            instance.admit(key)

    def test_a_wrong_secret_costs_reads_and_never_a_write(self, instance: Instance, faults: FaultyClient) -> None:
        key = instance.create_key()
        instance.request(key)
        wrong = secret_with(key.key.api_key_id, "A" * 22)
        with faults.counted() as calls:
            for _ in range(5):
                with pytest.raises(AuthenticationError):
                    instance.admit(wrong)
        assert calls == {"get_item": 5}

    def test_a_key_without_the_role_is_told_so(self, instance: Instance, faults: FaultyClient) -> None:
        key = instance.create_key(roles=(Role.SEARCH,))
        refused(instance, faults, MissingRoleError, key, role=Role.WRITE, operation=Operation.UPSERT)
        assert instance.request(key)

    def test_a_route_for_any_role_lets_every_key_pass(self, instance: Instance) -> None:
        assert instance.request(instance.create_key(roles=(Role.WRITE,)), role=None)


class TestWhere:
    def test_another_project_is_missing_whether_it_exists_or_not(
        self, instance: Instance, faults: FaultyClient
    ) -> None:
        instance.projects.create(project_id="other", user_id="user-1", name=None)
        key = instance.create_key()
        existing = refused(instance, faults, ProjectNotFoundError, key, project_id="other")
        missing = refused(instance, faults, ProjectNotFoundError, key, project_id="nowhere")
        assert existing.detail.replace("other", "nowhere") == missing.detail

    def test_a_key_without_a_project_reaches_its_users_projects_and_no_others(
        self, instance: Instance, faults: FaultyClient
    ) -> None:
        for project, user in (("mine", "user-1"), ("theirs", "user-2")):
            instance.projects.create(project_id=project, user_id=user, name=None)
        key = instance.create_key(project=None)
        assert instance.request(key, project_id="mine")
        refused(instance, faults, ProjectNotFoundError, key, project_id="theirs")
        refused(instance, faults, ProjectNotFoundError, key, project_id="nowhere")
        assert [record.project_id for record in instance.records(key)] == ["mine"]

    def test_a_system_admin_reaches_every_project(self, instance: Instance, faults: FaultyClient) -> None:
        instance.projects.create(project_id="theirs", user_id="user-2", name=None)
        admin = instance.create_key(user=SYSTEM_USER, project=None, roles=tuple(Role))
        assert instance.request(admin, project_id="theirs")
        refused(instance, faults, ProjectNotFoundError, admin, project_id="nowhere")

    def test_a_system_key_without_the_admin_role_is_no_system_admin(
        self, instance: Instance, faults: FaultyClient
    ) -> None:
        instance.projects.create(project_id="theirs", user_id="user-2", name=None)
        key = instance.create_key(user=SYSTEM_USER, project=None, roles=(Role.SEARCH,))
        refused(instance, faults, ProjectNotFoundError, key, project_id="theirs")

    def test_an_admin_of_a_user_reaches_no_other_users_project(self, instance: Instance, faults: FaultyClient) -> None:
        instance.projects.create(project_id="theirs", user_id="user-2", name=None)
        admin = instance.create_key(project=None, roles=tuple(Role))
        refused(instance, faults, ProjectNotFoundError, admin, project_id="theirs")

    @pytest.mark.parametrize("project", ["x" * 5000, "a#b", "P#mine", "ü"])
    def test_a_path_that_names_no_possible_project_is_a_missing_one(
        self, instance: Instance, faults: FaultyClient, project: str
    ) -> None:
        refused(instance, faults, ProjectNotFoundError, instance.create_key(project=None), project_id=project)


class TestQuotas:
    @pytest.mark.parametrize(
        ("policy", "cost", "used"),
        [
            ({"daily_requests": 3}, Cost(), 3),
            ({"monthly_requests": 3}, Cost(), 3),
            ({"daily_tokens": 30}, Cost(tokens=10), 30),
            ({"monthly_tokens": 39}, Cost(tokens=10), 30),
        ],
    )
    def test_a_quota_admits_exactly_what_fits(
        self, instance: Instance, faults: FaultyClient, policy: dict[str, int], cost: Cost, used: int
    ) -> None:
        key = instance.create_key(**policy)
        for _ in range(3):
            instance.request(key, cost=cost)
        error = refused(instance, faults, LimitExceededError, key, cost=cost)
        [(name, limit)] = policy.items()
        [violated] = error.violated
        assert (violated.name, violated.scope, violated.limit) == (name, "key", limit)
        assert (violated.used, violated.remaining) == (used, limit - used)

    def test_a_cost_fits_up_to_the_last_token(self, instance: Instance, faults: FaultyClient) -> None:
        key = instance.create_key(daily_tokens=100)
        instance.request(key, tokens=60)
        refused(instance, faults, LimitExceededError, key, tokens=41)
        assert instance.request(key, tokens=40)
        assert instance.used(key)["tokens"] == 100
        assert instance.request(key, tokens=0)

    def test_a_refusal_names_every_violated_quota_and_waits_for_the_last(
        self, instance: Instance, faults: FaultyClient, clock: ManualClock
    ) -> None:
        key = instance.create_key(daily_requests=1, monthly_requests=1, daily_tokens=10**6)
        instance.request(key)
        error = refused(instance, faults, LimitExceededError, key)
        assert [policy.name for policy in error.violated] == ["daily_requests", "monthly_requests"]
        assert error.retry_after == (9 * 24 + 12) * 3600
        assert [(p.resets_at - clock()).total_seconds() for p in error.violated] == [12 * 3600, error.retry_after]
        assert [policy.window_seconds for policy in error.violated] == [86400, 30 * 86400]

    @pytest.mark.parametrize(("before_midnight", "seconds"), [({"microseconds": 1}, 1), ({"seconds": 1.5}, 2)])
    def test_the_wait_ends_after_the_window_and_is_never_zero(
        self, instance: Instance, clock: ManualClock, before_midnight: dict[str, float], seconds: int
    ) -> None:
        key = instance.create_key(daily_requests=1)
        clock.advance(hours=12)
        clock.now -= timedelta(**before_midnight)
        instance.request(key)
        with pytest.raises(LimitExceededError) as error:
            instance.admit(key)
        assert error.value.retry_after == seconds
        clock.advance(seconds=seconds)
        assert instance.request(key)

    @pytest.mark.parametrize("quota", ["daily_tokens", "monthly_tokens"])
    def test_a_cost_above_the_whole_quota_is_wrong_and_not_to_be_tried_again(
        self, instance: Instance, faults: FaultyClient, quota: str
    ) -> None:
        key = instance.create_key(**{quota: 100})
        error = refused(instance, faults, CostExceedsLimitError, key, tokens=101)
        assert "101" in error.detail
        assert quota in error.detail
        assert instance.request(key, tokens=100)
        refused(instance, faults, CostExceedsLimitError, key, tokens=101)

    @pytest.mark.parametrize("quota", ["daily_requests", "monthly_requests", "daily_tokens", "monthly_tokens"])
    def test_a_quota_of_zero_is_closed_until_it_is_raised(
        self, instance: Instance, faults: FaultyClient, quota: str
    ) -> None:
        key = instance.create_key(**{quota: 0})
        error = refused(instance, faults, LimitExceededError, key, tokens=5)
        assert [(p.name, p.limit, p.used, p.remaining) for p in error.violated] == [(quota, 0, 0, 0)]

    def test_an_inactive_policy_counts_and_does_not_limit(self, instance: Instance) -> None:
        key = instance.create_key(active=False, daily_requests=1, daily_tokens=1)
        for _ in range(3):
            assert instance.request(key, tokens=50)
        assert instance.used(key)["requests"] == 3
        assert instance.used(key)["tokens"] == 150

    def test_administration_is_counted_and_never_limited(self, instance: Instance) -> None:
        key = instance.create_key(roles=tuple(Role), daily_requests=1)
        for _ in range(3):
            assert instance.request(key, operation=Operation.ADMIN, role=Role.ADMIN)
        assert instance.used(key) == {"requests": 3, "tokens": 0, "micro_usd": 0}

    def test_an_admission_shows_where_each_quota_stands_with_itself_counted(self, instance: Instance) -> None:
        key = instance.create_key(daily_requests=5, daily_tokens=100)
        instance.request(key, tokens=10)
        with instance.admit(key, tokens=20) as hold:
            states = {state.name: (state.limit, state.used, state.remaining) for state in hold.limits}
        assert states["daily_requests"] == (5, 2, 3)
        assert states["daily_tokens"] == (100, 30, 70)
