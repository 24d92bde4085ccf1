"""What changes with time and by command: windows that start anew, keys and policies as the next request sees them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from tests.fixtures.faults import FaultyClient
from tests.fixtures.ledger import Instance, ManualClock
from vecmeter.errors import (
    AuthenticationError,
    CostExceedsLimitError,
    LedgerUnavailableError,
    LimitExceededError,
    VecmeterError,
)
from vecmeter.ledger.keys import CreatedKey


class TestWindows:
    def test_a_day_starts_anew_at_midnight_and_the_month_goes_on(self, instance: Instance, clock: ManualClock) -> None:
        key = instance.create_key(daily_requests=2, monthly_requests=3, daily_tokens=20)
        for _ in range(2):
            instance.request(key, tokens=10)
        clock.advance(hours=11, minutes=59, seconds=59.999)
        with pytest.raises(LimitExceededError):
            instance.admit(key)
        clock.advance(milliseconds=1)
        assert instance.request(key, tokens=10)
        assert (instance.used(key)["requests"], instance.used(key, "month")["requests"]) == (1, 3)
        with pytest.raises(LimitExceededError) as error:
            instance.admit(key)
        assert [policy.name for policy in error.value.violated] == ["monthly_requests"]

    def test_a_month_starts_anew_at_its_end(self, instance: Instance, clock: ManualClock) -> None:
        key = instance.create_key(monthly_requests=1)
        instance.request(key)
        clock.advance(days=9, hours=11, minutes=59, seconds=59.999)
        with pytest.raises(LimitExceededError) as error:
            instance.admit(key)
        assert error.value.retry_after == 1
        clock.advance(milliseconds=1)
        assert instance.request(key)

    def test_counters_of_past_windows_go_with_a_later_admission_and_the_previous_ones_stay(
        self, instance: Instance, clock: ManualClock
    ) -> None:
        key = instance.create_key()
        names = []
        for day in range(4):
            instance.request(key, tokens=7)
            names.append({name for name in instance.item(key) if name[0] in "dtc" and name[1:].isdigit()})
            assert len(names[day]) == 3 * min(day + 1, 2)
            clock.advance(days=1)
        assert names[3] == {f"{letter}{day}" for letter in "dtc" for day in (261123, 261124)}
        clock.advance(days=40)
        instance.request(key, tokens=7)
        months = {name for name in instance.item(key) if name[0] in "MTC"}
        assert months == {f"{letter}{month}" for letter in "MTC" for month in (2701,)}

    def test_the_previous_month_stays_through_the_present_one(self, instance: Instance, clock: ManualClock) -> None:
        key = instance.create_key()
        instance.request(key)
        clock.advance(days=10)
        for _ in range(2):
            instance.request(key)
        assert {name for name in instance.item(key) if name[0] == "M"} == {"M2611", "M2612"}
        assert instance.item(key)["M2611"] == 1

    def test_an_instance_whose_clock_runs_behind_keeps_what_is_ahead_of_it(
        self, instance: Instance, another: Instance, clock: ManualClock
    ) -> None:
        key = instance.create_key()
        clock.advance(days=30)
        instance.request(key)
        ahead = {name: value for name, value in instance.item(key).items() if name[1:].isdigit()}
        clock.advance(days=-29)
        another.request(key)
        another.request(key)
        assert ahead.items() <= instance.item(key).items()

    def test_cleaning_up_takes_nothing_but_counters(self, instance: Instance, clock: ManualClock) -> None:
        """Attributes to come whose names start like counters, and every one there is."""
        key = instance.create_key(expires_at=clock() + timedelta(days=900), notes="n", daily_requests=9)
        others = {"d": 1, "dx200101": 2, "M20-1": 3, "tag": 4, "C": 5, "q3": 7, "a1": 8}
        kept = instance.item(key) | others
        instance.table.put(kept | {"d200101": 9, "T2001": 9, "hold": 1})
        instance.request(key)
        found = instance.item(key)
        assert kept.items() <= found.items()
        assert "d200101" not in found
        assert "T2001" not in found
        assert found["hold"] == 1


class TestChanges:
    """Two instances, both with a view of the key: a change through one is seen by the next request on the other."""

    @pytest.fixture
    def key(self, instance: Instance, another: Instance) -> CreatedKey:
        key = instance.create_key(daily_requests=10)
        instance.request(key)
        another.request(key)
        return key

    def test_a_revoked_key_is_refused(self, instance: Instance, another: Instance, key: CreatedKey) -> None:
        instance.keys.revoke(key.key.api_key_id)
        with pytest.raises(AuthenticationError):
            another.admit(key)
        assert another.used(key)["requests"] == 2

    @pytest.mark.parametrize(
        ("change", "refusal"),
        [
            (lambda policy: replace(policy, daily_requests=2), LimitExceededError),
            (lambda policy: replace(policy, daily_requests=0), LimitExceededError),
            (lambda policy: replace(policy, monthly_requests=1), LimitExceededError),
            (lambda policy: replace(policy, daily_tokens=4), CostExceedsLimitError),
        ],
    )
    def test_a_lower_limit_holds(
        self,
        instance: Instance,
        another: Instance,
        key: CreatedKey,
        change: Callable[[Any], Any],
        refusal: type[VecmeterError],
    ) -> None:
        instance.keys.change_policy(key.key.api_key_id, change)
        with pytest.raises(refusal):
            another.admit(key, tokens=5)
        assert another.used(key)["requests"] == 2

    def test_a_raised_limit_opens(self, instance: Instance, another: Instance, key: CreatedKey) -> None:
        instance.keys.change_policy(key.key.api_key_id, lambda policy: replace(policy, daily_requests=2))
        for refusing in (instance, another):
            with pytest.raises(LimitExceededError):
                refusing.admit(key)
        instance.keys.change_policy(key.key.api_key_id, lambda policy: replace(policy, daily_requests=3))
        assert another.request(key)
        with pytest.raises(LimitExceededError):
            instance.admit(key)

    def test_a_cost_that_did_not_fit_fits_once_the_limit_is_raised(
        self, instance: Instance, another: Instance, key: CreatedKey
    ) -> None:
        instance.keys.change_policy(key.key.api_key_id, lambda policy: replace(policy, daily_tokens=4))
        with pytest.raises(CostExceedsLimitError):
            another.admit(key, tokens=5)
        instance.keys.change_policy(key.key.api_key_id, lambda policy: replace(policy, daily_tokens=5))
        assert another.request(key, tokens=5)

    def test_a_key_that_expired_is_refused_by_who_saw_it_alive(
        self, instance: Instance, another: Instance, clock: ManualClock
    ) -> None:
        key = instance.create_key(expires_at=clock() + timedelta(hours=1))
        another.request(key)
        clock.advance(hours=2)
        with pytest.raises(AuthenticationError):
            another.admit(key)

    def test_what_one_instance_counts_the_other_measures_by(
        self, instance: Instance, another: Instance, key: CreatedKey
    ) -> None:
        for _ in range(8):
            instance.request(key)
        with pytest.raises(LimitExceededError):
            another.admit(key)
        assert another.used(key)["requests"] == 10

    def test_a_key_created_elsewhere_is_known_at_once(self, instance: Instance, another: Instance) -> None:
        assert another.request(instance.create_key())

    def test_a_configuration_that_never_stands_still_admits_nobody(
        self, instance: Instance, another: Instance, key: CreatedKey, faults: FaultyClient
    ) -> None:
        def disturb(name: str) -> None:
            if name == "update_item":
                faults.recover()
                another.keys.change_policy(key.key.api_key_id, lambda policy: policy)
                faults.choose = disturb

        faults.choose = disturb
        with pytest.raises(LedgerUnavailableError):
            instance.admit(key)
        faults.recover()
        assert instance.used(key)["requests"] == 2
