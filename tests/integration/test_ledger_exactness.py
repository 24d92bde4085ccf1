"""Exactly once: whatever is repeated, lost, late, slow or dead, the counters are the sum of the records."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import pytest

from tests.fixtures.faults import Fault, FaultyClient, at
from tests.fixtures.ledger import ADMISSION, RECORD, SETTLEMENT, Instance, ManualClock, admit_many, assert_exact
from vecmeter.errors import LedgerUnavailableError, LimitExceededError
from vecmeter.ledger.holds import SEAL_LIFE
from vecmeter.ledger.keys import CreatedKey
from vecmeter.ledger.metering import Hold, Outcome
from vecmeter.ledger.model import Cost, Operation

CALLS = (ADMISSION, RECORD, SETTLEMENT)


@pytest.fixture
def key(used_key: CreatedKey) -> CreatedKey:
    return used_key


class TestConcurrency:
    def test_of_ten_times_the_quota_exactly_the_quota_is_admitted_by_threads_and_processes(
        self, instance: Instance, another: Instance, dynamodb_endpoint: str, table_name: str
    ) -> None:
        quota, processes, threads = 60, 3, 6
        key = instance.create_key(daily_requests=quota)
        share = 10 * quota // (processes + threads) + 1
        spawn = multiprocessing.get_context("spawn")

        def by_thread(number: int) -> int:
            admitted = 0
            for _ in range(share):
                try:
                    admitted += (instance, another)[number % 2].request(key)
                except LimitExceededError:
                    continue
            return admitted

        with ProcessPoolExecutor(processes, mp_context=spawn) as pool, ThreadPoolExecutor(threads) as executor:
            elsewhere = [
                pool.submit(admit_many, dynamodb_endpoint, table_name, key.secret, share) for _ in range(processes)
            ]
            here = list(executor.map(by_thread, range(threads)))
            there = [future.result() for future in elsewhere]
        assert sum(here) + sum(there) == quota
        assert_exact(
            instance, key, success=quota, quota_exceeded=sum(r.status.value != "success" for r in instance.records(key))
        )

    def test_tokens_are_not_over_admitted_by_threads_with_different_costs(self, instance: Instance) -> None:
        key = instance.create_key(daily_tokens=1000)

        def request(number: int) -> int:
            tokens = 7 + number % 13
            try:
                instance.request(key, tokens=tokens)
            except LimitExceededError:
                return 0
            return tokens

        with ThreadPoolExecutor(8) as executor:
            admitted = sum(executor.map(request, range(200)))
        assert admitted == instance.used(key)["tokens"]
        assert 1000 - 19 < admitted <= 1000

    def test_two_requests_that_race_for_the_last_place_are_not_both_admitted(
        self, instance: Instance, another: Instance, faults: FaultyClient
    ) -> None:
        key = instance.create_key(daily_requests=3)
        instance.request(key)
        another.request(key)
        faults.between(ADMISSION, lambda: another.request(key))
        with pytest.raises(LimitExceededError):
            instance.admit(key)
        assert instance.used(key)["requests"] == 3


class TestLostAnswers:
    @pytest.mark.parametrize("fault", [Fault.LOST_ANSWER, Fault.LOST_REQUEST, Fault.SERVER_ERROR, Fault.THROTTLED])
    @pytest.mark.parametrize("call", CALLS)
    @pytest.mark.parametrize("times", [1, 2])
    def test_a_repeated_call_counts_once(
        self, instance: Instance, key: CreatedKey, faults: FaultyClient, call: int, fault: Fault, times: int
    ) -> None:
        faults.fail(*at(call, *[fault] * times))
        assert instance.request(key, tokens=500)
        assert_exact(instance, key, success=2)

    @pytest.mark.parametrize("call", CALLS)
    def test_a_call_that_timed_out_and_arrives_when_all_is_over_changes_nothing(
        self, instance: Instance, key: CreatedKey, faults: FaultyClient, call: int
    ) -> None:
        faults.fail(*at(call, Fault.TIMED_OUT, Fault.TIMED_OUT))
        assert instance.request(key, tokens=500)
        assert faults.deliver() == 0
        assert_exact(instance, key, success=2)

    def test_an_admission_that_arrives_after_its_request_failed_changes_nothing(
        self, instance: Instance, key: CreatedKey, faults: FaultyClient
    ) -> None:
        faults.fail(Fault.TIMED_OUT)
        with pytest.raises(ZeroDivisionError), instance.admit(key, tokens=500):
            1 / 0  # noqa: B018
        assert faults.deliver() == 0
        assert_exact(instance, key, success=1, failure=1)

    def test_the_seal_against_late_copies_goes_with_a_later_admission(
        self, instance: Instance, key: CreatedKey, faults: FaultyClient, clock: ManualClock
    ) -> None:
        faults.fail(Fault.LOST_ANSWER)
        instance.request(key)
        assert [name for name in instance.item(key) if name[0] == "h"]
        clock.advance(seconds=SEAL_LIFE.total_seconds() + 1)
        instance.request(key)
        assert not [name for name in instance.item(key) if name[0] == "h"]

    def test_a_request_that_met_no_fault_leaves_no_seal(self, instance: Instance, key: CreatedKey) -> None:
        assert not [name for name in instance.item(key) if name[0] == "h"]

    def test_a_policy_that_changes_between_two_tries_of_an_admission_does_not_count_it_twice(
        self, instance: Instance, another: Instance, key: CreatedKey, faults: FaultyClient
    ) -> None:
        steps = iter([Fault.LOST_ANSWER, "change"])

        def choose(_: str) -> Fault | None:
            step = next(steps, None)
            if step == "change":
                another.keys.change_policy(key.key.api_key_id, lambda policy: type(policy)(daily_requests=99))
                return None
            return step  # type: ignore[return-value]

        faults.choose = choose
        assert instance.request(key, tokens=500)
        assert_exact(instance, key, success=2)

    def test_a_refused_admission_that_arrives_when_there_is_room_again_is_not_counted(
        self, instance: Instance, another: Instance, faults: FaultyClient
    ) -> None:
        key = instance.create_key(daily_tokens=100)
        instance.request(key)
        hold = None

        def choose(_: str) -> Fault | None:
            nonlocal hold
            if hold is not None:
                return None
            faults.recover()
            hold = another.admit(key, tokens=100)
            return Fault.TIMED_OUT

        faults.choose = choose
        with pytest.raises(LimitExceededError):
            instance.admit(key, tokens=50)
        assert hold is not None
        hold.__exit__(None, None, None)
        assert faults.deliver() == 0
        assert_exact(instance, key, success=1, failure=1, quota_exceeded=1)

    def test_a_refused_admission_that_arrives_before_it_is_sealed_is_released(
        self, instance: Instance, another: Instance, faults: FaultyClient
    ) -> None:
        key = instance.create_key(daily_tokens=100)
        instance.request(key)
        holds: list[Hold] = []
        # The admission, of which the other instance takes all the room (a read and a write); its second try; the seal.
        calls = iter(["admission", "read", "write", "second try", "seal"])

        def choose(_: str) -> Fault | None:
            call = next(calls, None)
            if call == "admission":
                holds.append(another.admit(key, tokens=100))
                return Fault.TIMED_OUT
            if call == "seal":
                holds[0].__exit__(None, None, None)
                assert faults.deliver() == 1
            return None

        faults.choose = choose
        with pytest.raises(LimitExceededError):
            instance.admit(key, tokens=50)
        faults.recover()
        assert_exact(instance, key, success=1, failure=1, quota_exceeded=1)

    def test_an_admission_without_an_answer_is_accounted_as_unknown_or_not_at_all(
        self, instance: Instance, key: CreatedKey, faults: FaultyClient, clock: ManualClock
    ) -> None:
        for fault in (Fault.LOST_ANSWER, Fault.LOST_REQUEST):
            faults.fail(*[fault] * 3)
            with pytest.raises(LedgerUnavailableError):
                instance.admit(key, tokens=500)
        clock.advance(seconds=61)
        instance.request(key)
        assert_exact(instance, key, success=2, unknown=1)


class TestSettling:
    def test_a_failure_costs_one_request_and_nothing_else(
        self, instance: Instance, key: CreatedKey, faults: FaultyClient
    ) -> None:
        before = instance.used(key)
        with pytest.raises(ZeroDivisionError), instance.admit(key, tokens=500):
            1 / 0  # noqa: B018
        assert instance.used(key) == before | {"requests": before["requests"] + 1}
        assert_exact(instance, key, success=1, failure=1)

    def test_leaving_without_settling_is_a_failure(self, instance: Instance, key: CreatedKey) -> None:
        with instance.admit(key, tokens=500):
            pass
        assert_exact(instance, key, success=1, failure=1)

    def test_settling_counts_in_the_windows_of_the_admission(
        self, instance: Instance, key: CreatedKey, clock: ManualClock
    ) -> None:
        clock.advance(days=9, hours=11, minutes=59, seconds=58)
        with instance.admit(key, tokens=500, operation=Operation.UPSERT) as hold:
            clock.advance(seconds=2)
            hold.settle(Outcome(vectors=40))
        item = instance.item(key)
        cost = hold.cost(40).micro_usd
        assert cost > hold.admission.demand.cost.micro_usd
        assert (item["d261130"], item["t261130"], item["c261130"]) == (1, 500, cost)
        assert (item["M2611"], item["T2611"]) == (2, 1500)
        assert not [name for name in item if name.endswith(("261201", "2612"))]
        assert instance.in_flight(key) == 0

    def test_vectors_written_are_billed_as_they_turned_out(self, instance: Instance, key: CreatedKey) -> None:
        before = instance.used(key)["micro_usd"]
        reserved = instance.ledger.price(Operation.UPSERT, vectors=100)
        cost = Cost(vectors=100, micro_usd=reserved)
        with instance.admit(key, operation=Operation.UPSERT, cost=cost) as hold:
            assert instance.used(key)["micro_usd"] == before + reserved
            hold.settle(Outcome(vectors=40))
        assert instance.used(key)["micro_usd"] == before + instance.ledger.price(Operation.UPSERT, vectors=40)
        assert_exact(instance, key, success=2)

    def test_requests_in_flight_are_counted_while_they_are(self, instance: Instance, key: CreatedKey) -> None:
        holds = [instance.admit(key) for _ in range(5)]
        assert instance.in_flight(key) == 5
        for number, hold in enumerate(holds, 1):
            hold.settle(Outcome())
            assert instance.in_flight(key) == 5 - number
        assert_exact(instance, key, success=6)

    def test_a_revoked_key_settles_what_it_began(self, instance: Instance, key: CreatedKey) -> None:
        hold = instance.admit(key, tokens=500)
        instance.keys.revoke(key.key.api_key_id)
        hold.settle(Outcome())
        assert_exact(instance, key, success=2)
