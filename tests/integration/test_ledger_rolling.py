"""Rolling limits: in no interval of the window's length is more admitted than the limit, whatever the pattern."""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.fixtures.ledger import NOON, Instance, ManualClock, open_instance
from vecmeter.errors import CostExceedsLimitError, LimitExceededError
from vecmeter.ledger.keys import CreatedKey
from vecmeter.ledger.model import Operation, Scope
from vecmeter.ledger.quotas import ROLLING_QUOTAS
from vecmeter.ledger.table import Table

PER_MINUTE = timedelta(seconds=60)


def admitted(instance: Instance, key: CreatedKey, **changes: Any) -> bool:
    try:
        return instance.request(key, **changes)
    except LimitExceededError:
        return False


def most_within(moments: list[datetime], window: timedelta) -> int:
    """The most admissions in any interval of the window's length, its ends included."""
    return max((sum(start <= moment <= start + window for moment in moments) for start in moments), default=0)


class TestRollingWindows:
    @pytest.mark.parametrize("quota", ROLLING_QUOTAS[:4], ids=lambda quota: quota.name)
    def test_the_limit_is_admitted_at_once_and_nothing_more_until_it_leaves(
        self, instance: Instance, clock: ManualClock, quota: Any
    ) -> None:
        key = instance.create_key(**{quota.name: 3})
        assert [admitted(instance, key) for _ in range(5)] == [True, True, True, False, False]
        clock.advance(seconds=quota.seconds)
        assert not admitted(instance, key)
        clock.advance(seconds=quota.cell + 1)
        assert [admitted(instance, key) for _ in range(4)] == [True, True, True, False]

    def test_at_the_edge_of_a_minute_there_is_no_second_helping(self, instance: Instance, clock: ManualClock) -> None:
        """Fixed windows let 2 N through here."""
        key = instance.create_key(requests_per_minute=10)
        clock.now = NOON + timedelta(seconds=59.9)
        moments = []
        for _ in range(40):
            if admitted(instance, key):
                moments.append(clock.now)
            clock.advance(milliseconds=10)
        assert len(moments) == 10

    def test_after_retry_after_there_is_room(self, instance: Instance, clock: ManualClock) -> None:
        key = instance.create_key(requests_per_minute=3)
        for _ in range(3):
            instance.request(key)
            clock.advance(seconds=7)
        with pytest.raises(LimitExceededError) as refusal:
            instance.request(key)
        [violated] = refusal.value.violated
        assert (violated.name, violated.limit, violated.used) == ("requests_per_minute", 3, 3)
        assert violated.window_seconds == 60
        clock.advance(seconds=refusal.value.retry_after - 1)
        assert not admitted(instance, key)
        clock.advance(seconds=1)
        assert admitted(instance, key)

    def test_refused_requests_consume_nothing(self, instance: Instance, clock: ManualClock) -> None:
        key = instance.create_key(requests_per_minute=2)
        for _ in range(2):
            instance.request(key)
        before = instance.item(key)
        for _ in range(5):
            assert not admitted(instance, key)
        assert instance.item(key) == before
        clock.advance(seconds=66)
        assert admitted(instance, key)

    def test_a_batch_weighs_as_many_writes_as_it_has_vectors(self, instance: Instance) -> None:
        key = instance.create_key(writes_per_day=500)
        write = {"operation": Operation.UPSERT}
        assert admitted(instance, key, writes=400, vectors=400, **write)
        assert not admitted(instance, key, writes=101, vectors=101, **write)
        assert admitted(instance, key, writes=100, vectors=100, **write)
        assert admitted(instance, key), "a search is no write"
        with pytest.raises(CostExceedsLimitError):
            instance.admit(key, writes=501, **write)

    def test_writes_that_failed_give_their_room_back(self, instance: Instance, clock: ManualClock) -> None:
        key = instance.create_key(writes_per_day=10, requests_per_hour=10)
        for later in (0, 3, 3601, 4000):
            clock.advance(seconds=later)
            with instance.admit(key, operation=Operation.UPSERT, writes=8):
                clock.advance(seconds=later / 2)
        assert admitted(instance, key, operation=Operation.UPSERT, writes=10, vectors=10)
        assert not admitted(instance, key, operation=Operation.UPSERT, writes=1, vectors=1)

    def test_searches_count_searches_only(self, instance: Instance) -> None:
        key = instance.create_key(searches_per_day=1)
        assert admitted(instance, key)
        assert not admitted(instance, key)
        assert admitted(instance, key, operation=Operation.FETCH)

    def test_a_changed_limit_counts_what_was_used_under_the_old_one(
        self, instance: Instance, another: Instance
    ) -> None:
        key = instance.create_key(requests_per_minute=5)
        for _ in range(4):
            assert admitted(another, key)
        instance.limit(Scope.KEY, key.key.api_key_id, requests_per_minute=4)
        assert not admitted(another, key)
        instance.limit(Scope.KEY, key.key.api_key_id, requests_per_minute=6)
        assert [admitted(another, key) for _ in range(3)] == [True, True, False]

    def test_a_slow_clock_does_not_open_a_second_window(
        self, table: Table, instance: Instance, clock: ManualClock
    ) -> None:
        behind = ManualClock(clock.now - timedelta(seconds=30))
        slow = open_instance(table, instance.settings, behind)
        key = instance.create_key(requests_per_minute=4)
        assert [admitted(each, key) for each in (instance, slow, instance, slow)] == [True] * 4
        assert not admitted(slow, key)
        behind.advance(seconds=62)
        clock.advance(seconds=62)
        assert not admitted(slow, key), "what was counted late leaves late"


class TestBurst:
    def test_a_burst_goes_beyond_the_minute_once_an_hour(self, instance: Instance, clock: ManualClock) -> None:
        key = instance.create_key(requests_per_minute=2, burst_requests=3)
        assert [admitted(instance, key) for _ in range(6)] == [True] * 5 + [False]
        clock.advance(seconds=66)
        assert [admitted(instance, key) for _ in range(3)] == [True, True, False]
        clock.advance(seconds=3600 + 151)
        assert [admitted(instance, key) for _ in range(6)] == [True] * 5 + [False]


# LEDGER_SHRINK=0 shows a failing pattern as it was found.
PHASES = [
    phase for phase in Phase if os.environ.get("LEDGER_SHRINK") != "0" or phase not in (Phase.shrink, Phase.explain)
]


@settings(max_examples=60, deadline=None, phases=PHASES, suppress_health_check=list(HealthCheck))
@given(
    limit=st.integers(1, 6),
    pattern=st.lists(
        st.tuples(st.sampled_from([0, 1, 3, 40, 900, 4999, 5000, 5001, 21_000, 59_000, 61_000]), st.integers(1, 4)),
        min_size=1,
        max_size=40,
    ),
    start=st.integers(0, 60_000),
)
def test_in_no_minute_is_more_admitted_than_the_limit(
    instance: Instance, another: Instance, clock: ManualClock, limit: int, pattern: list[tuple[int, int]], start: int
) -> None:
    """And nothing is refused that would fit if every cell, and the tolerance, counted whole."""
    key = instance.create_key(requests_per_minute=limit)
    clock.now = NOON + timedelta(milliseconds=start)
    moments: list[datetime] = []
    for number, (pause, requests) in enumerate(pattern):
        clock.advance(milliseconds=pause)
        for _ in range(requests):
            if admitted((instance, another)[number % 2], key):
                moments.append(clock.now)
            else:
                assert sum(moment > clock.now - timedelta(seconds=66) for moment in moments) >= limit
    assert most_within(moments, PER_MINUTE) <= limit
