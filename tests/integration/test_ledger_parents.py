"""Limits that keys share, of their project, their user and the system: never over, and used up before a refusal."""

from __future__ import annotations

import itertools
import random
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from tests.fixtures.faults import Fault, FaultyClient, ProcessDied
from tests.fixtures.ledger import Instance, ManualClock, admit_many, assert_exact, open_instance
from vecmeter.errors import CostExceedsLimitError, LimitExceededError
from vecmeter.ledger.keys import CreatedKey
from vecmeter.ledger.metering import Outcome
from vecmeter.ledger.model import Operation, Scope
from vecmeter.ledger.table import Table

SHARED = [(Scope.PROJECT, "project-1"), (Scope.USER, "user-1"), (Scope.SYSTEM, "system")]


@pytest.fixture(autouse=True)
def _projects(instance: Instance) -> None:
    for number in (1, 2):
        instance.projects.create(project_id=f"project-{number}", user_id=f"user-{number}", name=None)


def admitted(instance: Instance, key: CreatedKey, **changes: Any) -> bool:
    try:
        return instance.request(key, **changes)
    except LimitExceededError:
        return False


def used(instance: Instance, scope: Scope, scope_id: str, name: str) -> int:
    return next(s.used for s in instance.policies.report(scope, scope_id).states if s.name == name)


class TestSharedLimits:
    @pytest.mark.parametrize(("scope", "scope_id"), SHARED)
    @pytest.mark.parametrize("limit", ["daily_requests", "monthly_requests", "requests_per_hour", "searches_per_day"])
    def test_keys_share_a_limit_to_the_last_request(
        self, instance: Instance, another: Instance, scope: Scope, scope_id: str, limit: str
    ) -> None:
        keys = [instance.create_key() for _ in range(4)]
        instance.limit(scope, scope_id, **{limit: 50})
        choose = random.Random(1)
        outcomes = [admitted(choose.choice((instance, another)), choose.choice(keys)) for _ in range(150)]
        assert sum(outcomes) == 50
        assert not any(outcomes[120:])
        assert used(instance, scope, scope_id, limit) == 50

    def test_what_a_key_took_and_left_unused_another_gets(self, instance: Instance) -> None:
        busy, quiet = instance.create_key(), instance.create_key()
        instance.limit(Scope.PROJECT, "project-1", daily_requests=100)
        assert admitted(instance, quiet)
        assert sum(admitted(instance, busy) for _ in range(120)) == 99

    def test_requests_of_different_weights_share_tokens_and_money(self, instance: Instance) -> None:
        keys = [instance.create_key() for _ in range(3)]
        instance.limit(Scope.USER, "user-1", daily_tokens=10_000, daily_cost_usd=1_000_000)
        taken, choose = 0, random.Random(2)
        for _ in range(200):
            tokens = choose.choice([1, 10, 150, 700])
            if admitted(instance, choose.choice(keys), tokens=tokens):
                taken += tokens
            else:
                assert taken + tokens > 10_000
        assert taken <= 10_000
        assert used(instance, Scope.USER, "user-1", "daily_tokens") == taken

    def test_all_scopes_hold_at_once_and_the_tightest_says_no(self, instance: Instance) -> None:
        key = instance.create_key(daily_requests=30)
        instance.limit(Scope.PROJECT, "project-1", daily_requests=20)
        instance.limit(Scope.USER, "user-1", daily_requests=10)
        instance.limit(Scope.SYSTEM, "system", daily_requests=40)
        assert sum(admitted(instance, key) for _ in range(15)) == 10
        with pytest.raises(LimitExceededError) as refusal:
            instance.request(key)
        [violated] = refusal.value.violated
        assert (violated.scope, violated.name, violated.used, violated.limit) == ("user", "daily_requests", 10, 10)

    def test_another_users_keys_are_not_touched(self, instance: Instance) -> None:
        instance.limit(Scope.USER, "user-2", daily_requests=0)
        instance.limit(Scope.PROJECT, "project-2", daily_requests=0)
        assert admitted(instance, instance.create_key())

    def test_a_cost_above_a_shared_limit_can_never_fit(self, instance: Instance) -> None:
        key = instance.create_key()
        instance.limit(Scope.PROJECT, "project-1", writes_per_day=100)
        with pytest.raises(CostExceedsLimitError):
            instance.admit(key, operation=Operation.UPSERT, writes=101)

    def test_a_refusal_by_a_parent_leaves_the_key_as_it_was(self, instance: Instance) -> None:
        key = instance.create_key()
        instance.limit(Scope.PROJECT, "project-1", daily_requests=1)
        instance.limit(Scope.SYSTEM, "system", daily_requests=100)
        instance.request(key)
        with pytest.raises(LimitExceededError):
            instance.admit(key)
        assert_exact(instance, key, success=1, quota_exceeded=1)
        assert used(instance, Scope.SYSTEM, "system", "daily_requests") == 1

    def test_what_a_failed_request_reserved_can_be_used_again(self, instance: Instance) -> None:
        keys = [instance.create_key() for _ in range(2)]
        instance.limit(Scope.PROJECT, "project-1", daily_tokens=1000)
        for number in range(10):
            with instance.admit(keys[number % 2], tokens=600):
                pass
        assert admitted(instance, keys[0], tokens=1000)
        assert not admitted(instance, keys[1], tokens=1)

    def test_a_new_day_opens_the_limit_again(self, instance: Instance, clock: ManualClock) -> None:
        keys = [instance.create_key() for _ in range(2)]
        instance.limit(Scope.PROJECT, "project-1", daily_requests=5)
        for _ in range(2):
            assert sum(admitted(instance, keys[n % 2]) for n in range(12)) == 5
            clock.advance(days=1)

    def test_shared_rolling_limits_hold_in_every_interval(self, instance: Instance, clock: ManualClock) -> None:
        keys = [instance.create_key() for _ in range(3)]
        instance.limit(Scope.SYSTEM, "system", requests_per_minute=12)
        moments, choose = [], random.Random(3)
        for _ in range(400):
            clock.advance(milliseconds=choose.choice([0, 10, 900, 3000, 7000]))
            if admitted(instance, choose.choice(keys)):
                moments.append(clock.now)
            else:
                within = sum(moment > clock.now - timedelta(seconds=66) for moment in moments)
                assert within >= 12, "refused though there was room"
        assert max(sum(m <= other <= m + timedelta(seconds=60) for other in moments) for m in moments) <= 12

    def test_processes_with_keys_of_one_project_never_exceed_its_limit(
        self, instance: Instance, dynamodb_endpoint: str
    ) -> None:
        keys = [instance.create_key() for _ in range(3)]
        instance.limit(Scope.PROJECT, "project-1", daily_requests=200)

        def run(number: int) -> int:
            return admit_many(dynamodb_endpoint, instance.table.name, keys[number % 3].secret, 100)

        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(run, range(8))) == 200


class TestConcurrency:
    @pytest.fixture
    def patient(self, table: Table, instance: Instance) -> Instance:
        """For whom each look comes long after the last one: it never remembers that there was nothing."""
        return open_instance(table, instance.settings, instance.clock, itertools.count(step=10).__next__)

    def test_a_key_has_as_many_requests_in_flight_as_it_may(self, instance: Instance) -> None:
        key = instance.create_key(max_concurrent=2)
        holds = [instance.admit(key) for _ in range(2)]
        with pytest.raises(LimitExceededError) as refusal:
            instance.admit(key)
        assert refusal.value.violated[0].name == "max_concurrent"
        assert refusal.value.retry_after == 1
        holds.pop().settle(Outcome())
        instance.admit(key).settle(Outcome())

    def test_an_instance_that_saw_a_free_place_does_not_take_one_that_is_gone(
        self, instance: Instance, another: Instance
    ) -> None:
        key = instance.create_key(max_concurrent=2)
        assert admitted(another, key)
        for _ in range(2):
            instance.admit(key)
        assert not admitted(another, key)

    @pytest.mark.parametrize(("scope", "scope_id"), SHARED)
    def test_keys_share_the_places_in_flight(
        self, table: Table, patient: Instance, scope: Scope, scope_id: str
    ) -> None:
        instance = patient
        another = open_instance(table, patient.settings, patient.clock, itertools.count(step=10).__next__)
        keys = [instance.create_key() for _ in range(4)]
        instance.limit(scope, scope_id, max_concurrent=5)
        choose, holds = random.Random(4), []
        for _ in range(300):
            if holds and choose.random() < 0.5:
                holds.pop(choose.randrange(len(holds))).settle(Outcome())
                continue
            try:
                holds.append(choose.choice((instance, another)).admit(choose.choice(keys)))
            except LimitExceededError:
                assert len(holds) == 5, "refused though a place was free"
            assert len(holds) <= 5

    def test_dead_requests_do_not_keep_their_places(self, patient: Instance, clock: ManualClock) -> None:
        instance = patient
        first, second = instance.create_key(), instance.create_key()
        instance.limit(Scope.SYSTEM, "system", max_concurrent=2)
        instance.admit(first)
        instance.admit(first)
        with pytest.raises(LimitExceededError):
            instance.admit(second)
        clock.advance(seconds=61)
        assert admitted(instance, second)
        assert [record.status.value for record in instance.records(first)] == ["unknown"] * 2

    def test_dead_requests_of_a_key_do_not_keep_it_out(self, instance: Instance, clock: ManualClock) -> None:
        key = instance.create_key(max_concurrent=1)
        instance.admit(key)
        clock.advance(seconds=61)
        assert admitted(instance, key)


class TestKeysOfNoProject:
    @pytest.fixture
    def operator(self, instance: Instance) -> CreatedKey:
        return instance.create_key(project=None)

    def test_they_share_the_limits_of_the_project_they_work_in(self, instance: Instance, operator: CreatedKey) -> None:
        key = instance.create_key()
        instance.limit(Scope.PROJECT, "project-1", daily_requests=20, requests_per_minute=50, max_concurrent=3)
        outcomes = [admitted(instance, operator if number % 2 else key, project_id="project-1") for number in range(60)]
        assert sum(outcomes) == 20
        assert_exact(instance, operator, success=outcomes[1::2].count(True), quota_exceeded=1)

    def test_their_places_are_free_again(self, instance: Instance, operator: CreatedKey, clock: ManualClock) -> None:
        instance.limit(Scope.PROJECT, "project-1", max_concurrent=1)
        for _ in range(3):
            assert admitted(instance, operator, project_id="project-1")
        instance.admit(operator, project_id="project-1")
        assert not admitted(instance, operator, project_id="project-1")
        clock.advance(seconds=61)
        assert admitted(instance, operator, project_id="project-1")


class TestWhatItCosts:
    def test_a_busy_key_asks_its_parents_seldom(self, instance: Instance, faults: FaultyClient) -> None:
        key = instance.create_key()
        for scope, scope_id in SHARED:
            instance.limit(scope, scope_id, daily_requests=1_000_000, daily_cost_usd=10**12)
        instance.request(key)
        with faults.counted() as calls:
            for _ in range(300):
                instance.request(key)
        # 300 admissions and 300 settlements, and no more than a tenth of the admissions for the parents.
        assert calls["update_item"] <= 630

    def test_a_warm_admission_under_three_parents_is_one_call(self, instance: Instance, faults: FaultyClient) -> None:
        key = instance.create_key()
        for scope, scope_id in SHARED:
            instance.limit(scope, scope_id, daily_requests=1_000_000, requests_per_hour=100_000)
        for _ in range(3):
            instance.request(key)
        with faults.counted() as calls:
            instance.admit(key)
        assert calls == {"update_item": 1}


class TestChanges:
    @pytest.mark.parametrize(("scope", "scope_id"), SHARED)
    def test_a_lowered_limit_is_met_by_the_next_request_everywhere(
        self, instance: Instance, another: Instance, scope: Scope, scope_id: str
    ) -> None:
        keys = [instance.create_key() for _ in range(3)]
        instance.limit(scope, scope_id, daily_requests=1000)
        for key in keys * 5:
            assert admitted(instance, key)
            assert admitted(another, key)
        instance.limit(scope, scope_id, daily_requests=32)
        assert sum(admitted(another, keys[number % 3]) for number in range(10)) == 2

    @pytest.mark.parametrize(("scope", "scope_id"), SHARED)
    def test_a_new_limit_counts_what_was_used_before_it(
        self, instance: Instance, another: Instance, scope: Scope, scope_id: str
    ) -> None:
        keys = [instance.create_key() for _ in range(3)]
        for key in keys * 3:
            assert admitted(another, key)
        instance.limit(scope, scope_id, daily_requests=10, max_concurrent=5)
        assert [admitted(another, key) for key in keys] == [True, False, False]

    def test_a_raised_or_removed_limit_lets_the_next_request_through(
        self, instance: Instance, another: Instance
    ) -> None:
        key = instance.create_key()
        instance.limit(Scope.USER, "user-1", daily_requests=1)
        assert [admitted(another, key), admitted(another, key)] == [True, False]
        instance.limit(Scope.USER, "user-1", daily_requests=2)
        assert [admitted(another, key), admitted(another, key)] == [True, False]
        instance.limit(Scope.USER, "user-1", daily_requests=2, active=False)
        assert admitted(another, key)
        instance.limit(Scope.USER, "user-1", daily_requests=4)
        assert [admitted(another, key), admitted(another, key)] == [True, False]

    def test_places_in_flight_follow_a_lowered_limit(self, instance: Instance, another: Instance) -> None:
        keys = [instance.create_key() for _ in range(2)]
        instance.limit(Scope.PROJECT, "project-1", max_concurrent=8)
        holds = [another.admit(key) for key in keys * 3]
        for _ in range(4):
            holds.pop().settle(Outcome())
        instance.limit(Scope.PROJECT, "project-1", max_concurrent=3)
        holds.append(another.admit(keys[0]))
        for key in keys:
            with pytest.raises(LimitExceededError):
                another.admit(key)
        for hold in holds:
            hold.settle(Outcome())
        assert admitted(another, keys[1])

    def test_keys_created_under_a_limit_share_it(self, instance: Instance, another: Instance) -> None:
        instance.limit(Scope.PROJECT, "project-1", daily_requests=3)
        assert sum(admitted(another, instance.create_key()) for _ in range(6)) == 3

    def test_a_change_that_was_cut_off_is_finished_by_maintenance(
        self, instance: Instance, another: Instance, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        key = instance.create_key()
        assert admitted(another, key)
        with monkeypatch.context() as cut:
            cut.setattr(instance.policies, "propagate", lambda *_: None)
            instance.limit(Scope.USER, "user-1", daily_requests=1)
        assert admitted(another, key)
        clock.advance(minutes=2)
        assert another.policies.finish_pending(clock.now - timedelta(minutes=1)) == 1
        assert not admitted(another, key)
        assert another.policies.finish_pending(clock.now) == 0


def test_a_process_that_dies_while_it_takes_lets_nothing_more_through(
    table: Table, instance: Instance, faults: FaultyClient, clock: ManualClock
) -> None:
    keys = [instance.create_key() for _ in range(2)]
    instance.limit(Scope.PROJECT, "project-1", daily_requests=40, max_concurrent=20)
    count = 0
    for number in range(120):
        mortal = open_instance(table, instance.settings, clock)
        faults.fail(*[None] * (number % 6), (Fault.DIES_BEFORE, Fault.DIES_AFTER)[number % 2])
        try:
            if mortal.request(keys[number % 2]):
                count += 1
        except (LimitExceededError, ProcessDied):
            pass
        faults.recover()
        clock.advance(seconds=61 if number % 7 == 0 else 1)
    for key in keys:
        instance.ledger.bury(key.key.api_key_id)
    clock.advance(seconds=61)
    for key in keys:
        instance.ledger.bury(key.key.api_key_id)
    total = sum(instance.used(key)["requests"] for key in keys)
    assert count <= total <= 40
