"""Exactly once, for requests that die or outlive their hold: what is given up is accounted for, once, and exactly."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.fixtures.faults import Fault, FaultyClient, ProcessDied, at
from tests.fixtures.ledger import ADMISSION, RECORD, SETTLEMENT, Instance, ManualClock, assert_exact
from vecmeter.ledger.holds import SEAL_LIFE
from vecmeter.ledger.keys import CreatedKey
from vecmeter.ledger.metering import BURIED_AT_ONCE, Hold, Outcome
from vecmeter.ledger.model import Operation, Status

CALLS = (ADMISSION, RECORD, SETTLEMENT)
DEATHS = tuple(itertools.product(CALLS, (Fault.DIES_BEFORE, Fault.DIES_AFTER)))


@pytest.fixture
def key(used_key: CreatedKey) -> CreatedKey:
    return used_key


class TestTheDead:
    @pytest.mark.parametrize("death", DEATHS)
    def test_a_process_may_die_between_any_two_steps(
        self,
        instance: Instance,
        another: Instance,
        key: CreatedKey,
        faults: FaultyClient,
        clock: ManualClock,
        death: tuple[int, Fault],
    ) -> None:
        faults.fail(*at(*death))
        with pytest.raises(ProcessDied):
            instance.request(key, tokens=500)
        clock.advance(seconds=61)
        assert another.request(key, tokens=20)
        if death == (ADMISSION, Fault.DIES_BEFORE):
            assert_exact(another, key, success=2)
        elif death in ((ADMISSION, Fault.DIES_AFTER), (RECORD, Fault.DIES_BEFORE)):
            assert_exact(another, key, success=2, unknown=1)
        else:
            assert_exact(another, key, success=3)

    @pytest.mark.parametrize("death", DEATHS)
    def test_who_accounts_for_the_dead_may_die_of_it(
        self,
        instance: Instance,
        another: Instance,
        key: CreatedKey,
        faults: FaultyClient,
        clock: ManualClock,
        death: tuple[int, Fault],
    ) -> None:
        instance.admit(key, tokens=500)
        clock.advance(seconds=61)
        faults.fail(*at(*death))
        with pytest.raises(ProcessDied):
            instance.admit(key, tokens=20)
        clock.advance(seconds=61)
        another.request(key)
        assert_exact(another, key, success=2, unknown=1 if death == (ADMISSION, Fault.DIES_BEFORE) else 2)

    @pytest.mark.parametrize("call", [2, 3, 4])
    def test_two_instances_that_find_the_same_dead_hold_account_for_it_once(
        self,
        instance: Instance,
        another: Instance,
        key: CreatedKey,
        faults: FaultyClient,
        clock: ManualClock,
        call: int,
    ) -> None:
        instance.admit(key, tokens=500)
        clock.advance(seconds=61)
        faults.between(call, lambda: another.request(key))
        instance.request(key)
        assert_exact(instance, key, success=3, unknown=1)

    def test_many_instances_that_find_many_dead_holds_account_for_each_once(
        self, instance: Instance, another: Instance, key: CreatedKey, clock: ManualClock
    ) -> None:
        for tokens in range(12):
            instance.admit(key, tokens=tokens)
        clock.advance(seconds=61)
        with ThreadPoolExecutor(6) as executor:
            list(executor.map(lambda n: (instance, another)[n % 2].request(key, tokens=1), range(12)))
        for _ in range(12 // BURIED_AT_ONCE):
            instance.request(key)
        assert_exact(instance, key, success=17, unknown=12)

    def test_one_request_accounts_for_a_few_of_many_dead(
        self, instance: Instance, key: CreatedKey, faults: FaultyClient, clock: ManualClock
    ) -> None:
        for _ in range(2 * BURIED_AT_ONCE):
            instance.admit(key)
        clock.advance(seconds=61)
        with faults.counted() as calls:
            instance.request(key)
        assert calls == {"update_item": 2 + BURIED_AT_ONCE, "put_item": 1 + BURIED_AT_ONCE}
        instance.request(key)
        assert_exact(instance, key, success=3, unknown=2 * BURIED_AT_ONCE)

    def test_the_dead_of_a_key_that_is_used_no_more_are_accounted_for_when_asked(
        self, instance: Instance, another: Instance, key: CreatedKey, clock: ManualClock
    ) -> None:
        for _ in range(5):
            instance.admit(key, tokens=500)
        instance.keys.revoke(key.key.api_key_id)
        assert another.ledger.bury(key.key.api_key_id) == 0
        clock.advance(seconds=61)
        assert another.ledger.bury(key.key.api_key_id) == 5
        assert another.ledger.bury(key.key.api_key_id) == 0
        assert_exact(another, key, success=1, unknown=5)

    def test_a_dead_request_so_old_that_no_copy_of_it_can_arrive_leaves_no_seal(
        self, instance: Instance, key: CreatedKey, clock: ManualClock
    ) -> None:
        instance.admit(key)
        clock.advance(seconds=61)
        instance.request(key)
        assert [name for name in instance.item(key) if name[0] == "h"]
        instance.admit(key)
        clock.advance(seconds=SEAL_LIFE.total_seconds())
        instance.request(key)
        assert not [name for name in instance.item(key) if name[0] == "h"]
        assert_exact(instance, key, success=3, unknown=2)

    def test_a_record_of_the_dead_says_all_that_is_known(
        self, instance: Instance, faults: FaultyClient, clock: ManualClock
    ) -> None:
        instance.projects.create(project_id="mine", user_id="user-1", name=None)
        key = instance.create_key(project=None)
        dead = instance.admit(key, tokens=500, project_id="mine", operation=Operation.UPSERT)
        clock.advance(seconds=61)
        instance.request(key, project_id="mine")
        record = instance.records(key)[1]
        assert record.status is Status.UNKNOWN
        assert record.request_id == dead.admission.demand.request_id
        assert record.started_at == dead.admission.started_at
        assert (record.user_id, record.project_id, record.operation) == ("user-1", "mine", Operation.UPSERT)
        assert (record.requests, record.tokens) == (1, 500)
        assert record.micro_usd == dead.admission.demand.cost.micro_usd > 0
        assert record.price_version == instance.settings.price_version

    def test_a_hold_lives_as_long_as_the_settings_say(
        self, instance: Instance, key: CreatedKey, clock: ManualClock
    ) -> None:
        slow = instance.admit(key)
        clock.advance(seconds=60)
        instance.request(key)
        assert instance.in_flight(key) == 1
        slow.settle(Outcome())
        assert_exact(instance, key, success=3)

    def test_the_dead_of_yesterday_are_counted_yesterday(
        self, instance: Instance, key: CreatedKey, clock: ManualClock
    ) -> None:
        clock.advance(hours=11, minutes=59, seconds=20)
        with instance.admit(key, tokens=500):
            dead = instance.admit(key, tokens=500)
        clock.advance(minutes=2)
        instance.request(key)
        item = instance.item(key)
        assert (item["d261121"], item["d261122"]) == (3, 1)
        assert (item["t261121"], item.get("t261122", 0)) == (1500, 0)
        assert dead.admission.started_at.day == 21
        assert instance.in_flight(key) == 0


class TestTheSlow:
    """Requests that outlive their hold and settle after they were given up."""

    def slow(self, instance: Instance, key: CreatedKey, clock: ManualClock) -> Hold:
        slow = instance.admit(key, tokens=500)
        clock.advance(seconds=61)
        return slow

    def test_a_request_that_was_only_slow_is_known_after_all_at_the_amounts_it_was_given_up_with(
        self, instance: Instance, another: Instance, key: CreatedKey, clock: ManualClock
    ) -> None:
        slow = self.slow(instance, key, clock)
        another.request(key)
        assert [r.status.value for r in another.records(key)] == ["success", "unknown", "success"]
        assert slow.settle(Outcome(vectors=3, collection="docs", response_bytes=9))
        assert_exact(another, key, success=3)
        record = another.records(key)[1]
        assert (record.collection, record.vectors, record.response_bytes, record.tokens) == ("docs", 3, 9, 500)

    def test_a_request_that_failed_after_it_was_given_up_keeps_the_amounts(
        self, instance: Instance, another: Instance, key: CreatedKey, clock: ManualClock
    ) -> None:
        slow = self.slow(instance, key, clock)
        another.request(key)
        with pytest.raises(ZeroDivisionError), slow:
            1 / 0  # noqa: B018
        assert_exact(another, key, success=2, failure=1)
        assert another.records(key)[1].tokens == 500

    @pytest.mark.parametrize("settles", list(itertools.product([2, 3, 4], ["success", "failure"])))
    def test_a_slow_request_may_settle_at_any_moment_of_its_burial(
        self,
        instance: Instance,
        another: Instance,
        key: CreatedKey,
        faults: FaultyClient,
        clock: ManualClock,
        settles: tuple[int, str],
    ) -> None:
        slow, (call, status) = self.slow(instance, key, clock), settles

        def settle() -> None:
            slow.settle(Outcome(vectors=3)) if status == "success" else slow.__exit__(None, None, None)

        faults.between(call, settle)
        another.request(key)
        found = [record.status.value for record in another.records(key)]
        assert found == ["success", status, "success"]
        assert_exact(another, key, **{name: found.count(name) for name in set(found)})

    @pytest.mark.parametrize("call", [1, 2])
    def test_a_slow_request_may_be_buried_at_any_moment_of_its_settling(
        self,
        instance: Instance,
        another: Instance,
        key: CreatedKey,
        faults: FaultyClient,
        clock: ManualClock,
        call: int,
    ) -> None:
        slow = self.slow(instance, key, clock)
        faults.between(call, lambda: another.request(key))
        slow.settle(Outcome(vectors=3))
        assert_exact(another, key, success=3)

    @pytest.mark.parametrize("fault", list(itertools.product(CALLS, [Fault.LOST_ANSWER, Fault.TIMED_OUT])))
    def test_a_slow_request_may_meet_faults_as_well(
        self,
        instance: Instance,
        another: Instance,
        key: CreatedKey,
        faults: FaultyClient,
        clock: ManualClock,
        fault: tuple[int, Fault],
    ) -> None:
        slow = self.slow(instance, key, clock)
        another.request(key)
        faults.fail(*at(*fault))
        slow.settle(Outcome(vectors=3))
        faults.deliver()
        assert_exact(another, key, success=3)

    def test_a_hold_given_up_while_its_admission_is_repeated_is_not_counted_twice(
        self, instance: Instance, another: Instance, key: CreatedKey, faults: FaultyClient, clock: ManualClock
    ) -> None:
        steps: list[Any] = [Fault.LOST_ANSWER, None]

        def choose(_: str) -> Fault | None:
            step = steps.pop(0) if steps else None
            if not steps:
                faults.recover()
                clock.advance(seconds=61)
                another.request(key)
            return step

        faults.choose = choose
        assert instance.request(key, tokens=500)
        assert_exact(instance, key, success=3)
