"""The ledger away, or switched off: what still works, and what is left to make up for it."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest

from tests.fixtures.faults import Fault, FaultyClient
from tests.fixtures.ledger import Instance, ManualClock, assert_exact, open_instance, secret_with
from vecmeter.breaker import Circuit
from vecmeter.errors import (
    AuthenticationError,
    LedgerUnavailableError,
    LimitExceededError,
    MissingRoleError,
    ProjectNotFoundError,
)
from vecmeter.ledger.keys import CreatedKey, generate_secret
from vecmeter.ledger.metering import Outcome
from vecmeter.ledger.model import Operation, Role, Status, UsageRecord
from vecmeter.ledger.table import Table
from vecmeter.settings import Settings

NOT_WRITTEN = "usage record not written"


@pytest.fixture
def key(used_key: CreatedKey) -> CreatedKey:
    return used_key


class TestAway:
    @pytest.mark.parametrize("fault", [Fault.AWAY, Fault.THROTTLED, Fault.TIMED_OUT, Fault.SERVER_ERROR])
    @pytest.mark.parametrize("warm", [True, False])
    def test_no_request_is_admitted(
        self, instance: Instance, another: Instance, key: CreatedKey, faults: FaultyClient, fault: Fault, warm: bool
    ) -> None:
        faults.choose = lambda _: fault
        with pytest.raises(LedgerUnavailableError) as unavailable:
            (instance if warm else another).admit(key)
        assert unavailable.value.code == "ledger_unavailable"
        assert unavailable.value.retry_after >= 1

    def test_after_it_all_goes_on(self, instance: Instance, key: CreatedKey, faults: FaultyClient) -> None:
        faults.go_away()
        with pytest.raises(LedgerUnavailableError):
            instance.admit(key)
        faults.recover()
        assert instance.request(key)
        assert_exact(instance, key, success=2)

    def test_a_request_whose_work_is_done_succeeds_and_its_record_is_in_the_log(
        self, instance: Instance, key: CreatedKey, faults: FaultyClient, caplog: pytest.LogCaptureFixture
    ) -> None:
        with instance.admit(key, tokens=500) as hold:
            faults.go_away()
            assert not hold.settle(Outcome(vectors=3, collection="docs", response_bytes=9))
        [line] = [record for record in caplog.records if record.getMessage() == NOT_WRITTEN]
        assert line.levelno == logging.ERROR
        written = UsageRecord(**line.__dict__["usage_record"])
        assert (written.status, written.tokens, written.vectors, written.collection) == (
            Status.SUCCESS,
            500,
            3,
            "docs",
        )
        assert written.micro_usd == hold.cost(3).micro_usd

    def test_a_request_that_failed_meanwhile_fails_with_its_own_error(
        self, instance: Instance, key: CreatedKey, faults: FaultyClient, caplog: pytest.LogCaptureFixture
    ) -> None:
        def work() -> None:
            with instance.admit(key):
                faults.go_away()
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            work()
        assert [r.__dict__["usage_record"]["status"] for r in caplog.records if r.getMessage() == NOT_WRITTEN]

    def test_a_record_from_the_log_can_be_kept_later_before_its_hold_is_given_up_and_after(
        self,
        instance: Instance,
        key: CreatedKey,
        faults: FaultyClient,
        clock: ManualClock,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        early, late = instance.admit(key, tokens=500, operation=Operation.UPSERT), instance.admit(key, tokens=500)
        faults.go_away()
        early.settle(Outcome(vectors=30))
        late.settle(Outcome())
        faults.recover()
        replayed = [
            UsageRecord(**line.__dict__["usage_record"]) for line in caplog.records if line.getMessage() == NOT_WRITTEN
        ]
        instance.usage.keep(replayed[0])
        clock.advance(seconds=61)
        instance.request(key)
        instance.usage.keep(replayed[1])
        assert_exact(instance, key, success=4)
        assert early.cost(30).micro_usd in {record.micro_usd for record in instance.records(key)}

    def test_a_hold_that_could_not_be_released_is_released_by_a_later_request_with_what_was_recorded(
        self, instance: Instance, key: CreatedKey, faults: FaultyClient, clock: ManualClock
    ) -> None:
        with instance.admit(key, tokens=500, operation=Operation.UPSERT) as hold:
            faults.fail(*[Fault.AWAY] * 3, on="update_item")
            assert not hold.settle(Outcome(vectors=30))
        assert instance.in_flight(key) == 1
        clock.advance(seconds=61)
        instance.request(key)
        assert_exact(instance, key, success=3)

    def test_the_dead_can_wait_when_they_cannot_be_accounted_for_now(
        self, instance: Instance, key: CreatedKey, faults: FaultyClient, clock: ManualClock
    ) -> None:
        instance.admit(key, tokens=500)
        clock.advance(seconds=61)
        faults.fail(*[Fault.AWAY] * 3, on="put_item")
        with instance.admit(key) as hold:
            faults.recover()
            hold.settle(Outcome())
        assert instance.in_flight(key) == 1
        instance.request(key)
        assert_exact(instance, key, success=3, unknown=1)

    def test_a_refusal_that_cannot_be_sealed_is_still_a_refusal(
        self, instance: Instance, another: Instance, faults: FaultyClient
    ) -> None:
        key = instance.create_key(daily_requests=2)
        instance.request(key)
        # The first try is lost, the other instance takes the last place, the second try is refused, the seal fails.
        steps = iter([Fault.LOST_REQUEST, "full", *[Fault.AWAY] * 3])

        def choose(_: str) -> Fault | None:
            step = next(steps, None)
            if step == "full":
                faults.recover()
                another.request(key)
                faults.choose = choose
                return None
            return step  # type: ignore[return-value]

        faults.choose = choose
        with pytest.raises(LimitExceededError):
            instance.admit(key)
        assert next(steps, "all done") == "all done"
        faults.recover()
        assert_exact(instance, key, success=2, quota_exceeded=1)

    def test_a_missing_table_is_a_ledger_that_is_away(self, instance: Instance, key: CreatedKey) -> None:
        instance.table.name = "no-such-table"
        with pytest.raises(LedgerUnavailableError):
            instance.admit(key)
        with pytest.raises(LedgerUnavailableError):
            instance.table.ping()


class TestSwitchedOff:
    """USAGE_TRACKING_ENABLED=false."""

    @pytest.fixture
    def off(self, table: Table, settings: Settings, clock: ManualClock) -> Instance:
        return open_instance(table, replace(settings, usage_tracking_enabled=False), clock)

    def test_nothing_is_counted_limited_or_written(self, off: Instance, faults: FaultyClient) -> None:
        key = off.create_key(daily_requests=1, daily_tokens=10)
        before = off.item(key)
        with faults.counted() as calls:
            for _ in range(5):
                assert off.request(key, tokens=500)
            with off.admit(key) as abandoned:
                assert abandoned.limits == ()
        assert calls == {"get_item": 6}
        assert off.item(key) == before
        assert off.records(key) == []

    def test_authentication_stays(self, off: Instance, instance: Instance) -> None:
        key = off.create_key(roles=(Role.SEARCH,))
        with pytest.raises(MissingRoleError):
            off.admit(key, role=Role.WRITE)
        with pytest.raises(ProjectNotFoundError):
            off.admit(key, project_id="other")
        with pytest.raises(AuthenticationError):
            off.admit(generate_secret("live")[1])
        assert off.request(key)
        instance.keys.revoke(key.key.api_key_id)
        with pytest.raises(AuthenticationError):
            off.admit(key)

    def test_switched_on_again_it_counts_from_where_it_was(self, off: Instance, instance: Instance) -> None:
        key = off.create_key(daily_requests=2)
        instance.request(key)
        off.request(key)
        instance.request(key)
        assert instance.used(key)["requests"] == 2
        with pytest.raises(LimitExceededError):
            instance.admit(key)

    def test_a_ledger_that_is_away_cannot_authenticate(self, off: Instance, faults: FaultyClient) -> None:
        key = off.create_key()
        off.request(key)
        faults.go_away()
        with pytest.raises(LedgerUnavailableError):
            off.admit(key)


def test_looking_at_ones_own_meter_is_free(instance: Instance, faults: FaultyClient) -> None:
    key = instance.create_key(daily_requests=1)
    instance.request(key)
    before = instance.item(key)
    with faults.counted() as calls:
        for _ in range(3):
            seen = instance.ledger.authorize(instance.demand(key, role=None, project_id=None))
    assert seen.key.api_key_id == key.key.api_key_id
    assert calls == {"get_item": 3}
    assert instance.item(key) == before


class TestReadsGoOn:
    """OUTAGE_READ_SECONDS above 0, which is the default."""

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return replace(settings, outage_read_seconds=300)

    @pytest.fixture
    def key(self, instance: Instance) -> CreatedKey:
        return instance.create_key()

    def test_a_key_seen_lately_may_read_and_its_record_is_in_the_log(
        self, instance: Instance, key: CreatedKey, faults: FaultyClient, caplog: pytest.LogCaptureFixture
    ) -> None:
        instance.request(key)
        faults.go_away()
        assert instance.request(key, tokens=7) is False, "the ledger did not take it"
        [logged] = [r.usage_record for r in caplog.records if hasattr(r, "usage_record")]
        assert (logged["tokens"], logged["status"], logged["api_key_id"]) == (7, "success", key.key.api_key_id)
        faults.recover()

    def test_what_was_logged_is_counted_once_when_it_is_replayed(
        self, instance: Instance, key: CreatedKey, faults: FaultyClient, caplog: pytest.LogCaptureFixture
    ) -> None:
        instance.request(key)
        faults.go_away()
        for _ in range(2):
            instance.request(key, tokens=7)
        faults.recover()
        logged = [UsageRecord(**r.usage_record) for r in caplog.records if hasattr(r, "usage_record")]
        assert [instance.ledger.replay(record) for record in logged * 2] == [True, True, False, False]
        assert_exact(instance, key, success=3)

    @pytest.mark.parametrize("operation", [Operation.UPSERT, Operation.DELETE, Operation.ADMIN])
    def test_writes_are_refused(
        self, instance: Instance, key: CreatedKey, faults: FaultyClient, operation: Operation
    ) -> None:
        instance.request(key)
        faults.go_away()
        with pytest.raises(LedgerUnavailableError):
            instance.admit(key, operation=operation)

    def test_writes_go_on_where_the_operator_wants_that(
        self, table: Table, settings: Settings, clock: ManualClock, key: CreatedKey, faults: FaultyClient
    ) -> None:
        instance = open_instance(table, replace(settings, outage_write_seconds=60), clock)
        instance.request(key)
        faults.go_away()
        assert instance.request(key, operation=Operation.UPSERT) is False

    def test_keys_not_seen_lately_are_refused(
        self, instance: Instance, another: Instance, key: CreatedKey, faults: FaultyClient, clock: ManualClock
    ) -> None:
        instance.request(key)
        faults.go_away()
        with pytest.raises(LedgerUnavailableError):
            another.admit(key)
        clock.advance(seconds=301)
        with pytest.raises(LedgerUnavailableError):
            instance.admit(key)

    def test_a_wrong_secret_or_a_revoked_key_does_not_get_in(
        self, instance: Instance, key: CreatedKey, faults: FaultyClient
    ) -> None:
        instance.request(key)
        wrong = secret_with(key.key.api_key_id, "0" * 22)
        other = instance.create_key()
        instance.request(other)
        instance.keys.revoke(other.key.api_key_id)
        with pytest.raises(AuthenticationError):
            instance.admit(other)
        faults.go_away()
        for secret in (wrong, other.secret):
            with pytest.raises(AuthenticationError):
                instance.admit(secret)


class TestAnOutageIsRemembered:
    """Who needs the table hears at once that it is away, until somebody's turn comes to look again."""

    @pytest.fixture
    def seconds(self) -> list[float]:
        return [0.0]

    @pytest.fixture
    def instance(self, faults: FaultyClient, settings: Settings, clock: ManualClock, seconds: list[float]) -> Instance:
        client: Any = faults
        circuit = Circuit("ledger", failures=1, open_seconds=2.0, monotonic=lambda: seconds[0])
        table = Table(client, settings.table_name, circuit=circuit, pause=lambda _: None)
        return open_instance(table, replace(settings, outage_read_seconds=300), clock)

    @pytest.fixture
    def key(self, instance: Instance) -> CreatedKey:
        key = instance.create_key()
        instance.request(key)
        return key

    @pytest.mark.parametrize("fault", [Fault.AWAY, Fault.TIMED_OUT, Fault.LOST_ANSWER])
    def test_nobody_waits_for_a_table_that_did_not_answer_just_now(
        self, instance: Instance, key: CreatedKey, faults: FaultyClient, fault: Fault
    ) -> None:
        faults.choose = lambda _: fault
        with pytest.raises(LedgerUnavailableError):
            instance.admit(key, operation=Operation.UPSERT)
        with faults.counted() as calls:
            for _ in range(5):
                assert instance.request(key) is False
                for refused in (
                    lambda: instance.admit(key, operation=Operation.UPSERT),
                    lambda: instance.ledger.authorize(instance.demand(key)),
                    lambda: instance.keys.get(key.key.api_key_id),
                ):
                    with pytest.raises(LedgerUnavailableError) as error:
                        refused()
                    assert error.value.retry_after == 2
        assert not calls

    @pytest.mark.parametrize("fault", [Fault.THROTTLED, Fault.SERVER_ERROR])
    def test_a_table_that_refuses_has_answered_and_other_keys_are_not_kept_from_it(
        self, instance: Instance, key: CreatedKey, faults: FaultyClient, fault: Fault
    ) -> None:
        other = instance.create_key()
        faults.choose = lambda _: fault
        with pytest.raises(LedgerUnavailableError):
            instance.admit(key, operation=Operation.UPSERT)
        faults.recover()
        assert instance.request(other, operation=Operation.UPSERT)

    def test_when_its_time_has_come_one_request_looks_and_if_it_answers_all_goes_on(
        self, instance: Instance, key: CreatedKey, faults: FaultyClient, seconds: list[float]
    ) -> None:
        faults.go_away()
        for seconds[0] in (0.0, 2.1, 4.2):
            with faults.counted() as calls, pytest.raises(LedgerUnavailableError):
                instance.admit(key, operation=Operation.UPSERT)
            assert sum(calls.values()) == 3, "one call with its tries"
        faults.recover()
        with pytest.raises(LedgerUnavailableError):
            instance.admit(key, operation=Operation.UPSERT)
        seconds[0] = 6.3
        assert instance.request(key)
        assert_exact(instance, key, success=2)

    def test_what_is_done_is_accounted_for_though_the_table_was_away_just_now(
        self, instance: Instance, key: CreatedKey, faults: FaultyClient
    ) -> None:
        with instance.admit(key, operation=Operation.UPSERT) as hold:
            with faults.failing(*[Fault.AWAY] * 3), pytest.raises(LedgerUnavailableError):
                instance.admit(key, operation=Operation.UPSERT)
            assert hold.settle(Outcome(vectors=3)), "the record is kept and the hold released"
        assert_exact(instance, key, success=2)
        assert instance.request(key, operation=Operation.UPSERT), "the table answered"

    def test_a_health_check_looks_for_itself(self, instance: Instance, key: CreatedKey, faults: FaultyClient) -> None:
        faults.go_away()
        for _ in range(2):
            with faults.counted() as calls, pytest.raises(LedgerUnavailableError):
                instance.table.ping()
            assert calls
        faults.recover()
        instance.table.ping()
        assert instance.request(key)
