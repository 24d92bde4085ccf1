"""The sweep finds what no request made an alert of: crossings of the dead, of parents, of windows that just ended."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

import pytest

from tests.fixtures.faults import FaultyClient
from tests.fixtures.ledger import Instance, ManualClock
from tests.integration.test_ledger_alerts import listed
from vecmeter.ledger.alerts import Alerts
from vecmeter.ledger.crossing_search import CrossingSearch
from vecmeter.ledger.model import SYSTEM_USER, Scope


@pytest.fixture
def alerts(instance: Instance) -> Alerts:
    return Alerts(instance.table, instance.clock, 90, lambda project: instance.projects.get(project).user_id)


@pytest.fixture
def search(instance: Instance, alerts: Alerts) -> CrossingSearch:
    activity, parents = instance.usage.activity, instance.admissions.parents.items
    return CrossingSearch(alerts, activity, instance.keys, parents, instance.settings, instance.clock)


def found(alerts: Alerts, user: str | None = None) -> list[tuple[str, str, int, int]]:
    return sorted((one.scope, one.limit_name, one.threshold_pct, one.used) for one in listed(alerts, user))


@pytest.fixture(autouse=True)
def unalerted(instance: Instance, another: Instance) -> None:
    """No request gets to write its alerts, as if each had died before it could."""
    for one in (instance, another):
        one.ledger._alerts._table_rests_until = datetime.max.replace(tzinfo=UTC)


def test_a_crossing_that_no_request_alerted_is_found_once(
    instance: Instance, search: CrossingSearch, alerts: Alerts
) -> None:
    key = instance.create_key(daily_requests=5, monthly_requests=100)
    for _ in range(4):
        instance.request(key)
    for _ in range(3):
        search.run()
    assert found(alerts, "user-1") == [("key", "daily_requests", 80, 4)]
    instance.request(key)
    search.run()
    assert found(alerts, "user-1") == [("key", "daily_requests", 80, 4), ("key", "daily_requests", 100, 5)]


def test_the_keys_own_threshold_holds(instance: Instance, search: CrossingSearch, alerts: Alerts) -> None:
    key = instance.create_key(daily_requests=10, alert_threshold_pct=30)
    for _ in range(3):
        instance.request(key)
    search.run()
    assert found(alerts) == [("key", "daily_requests", 30, 3)]


def test_parents_are_found_by_what_was_used_of_them_not_by_what_was_handed_out(
    instance: Instance, another: Instance, search: CrossingSearch, alerts: Alerts, clock: ManualClock
) -> None:
    instance.projects.create(project_id="project-1", user_id="user-1", name=None)
    instance.limit(Scope.PROJECT, "project-1", daily_requests=10)
    instance.limit(Scope.SYSTEM, SYSTEM_USER, monthly_requests=12)
    keys = [instance.create_key(), instance.create_key()]
    for number in range(7):
        (instance, another)[number % 2].request(keys[number % 2])
    assert search.run() == {"keys": 2, "parents": 2}
    assert found(alerts) == []
    instance.request(keys[0])
    clock.advance(minutes=5)
    search.run()
    assert found(alerts) == [("project", "daily_requests", 80, 8)]
    for _ in range(2):
        another.request(keys[1])
    clock.advance(minutes=5)
    search.run()
    assert found(alerts) == [
        ("project", "daily_requests", 80, 8),
        ("project", "daily_requests", 100, 10),
        ("system", "monthly_requests", 80, 10),
    ]


def test_a_window_that_ended_since_the_last_sweep_is_looked_at_once_more(
    instance: Instance, search: CrossingSearch, alerts: Alerts, clock: ManualClock
) -> None:
    key = instance.create_key(daily_requests=5)
    clock.now = datetime(2026, 11, 21, 23, 59, 58, tzinfo=UTC)
    for _ in range(4):
        instance.request(key)
    clock.advance(minutes=4)
    search.run()
    (alert,) = listed(alerts)
    assert (alert.window_start.day, alert.resets_at) == (21, datetime(2026, 11, 22, tzinfo=UTC))
    clock.advance(minutes=15)
    search.run()
    assert len(listed(alerts)) == 1


def test_it_reads_active_keys_and_shared_parents_once(
    instance: Instance, search: CrossingSearch, faults: FaultyClient
) -> None:
    instance.limit(Scope.USER, "user-1", daily_requests=1000)
    keys = [instance.create_key(daily_requests=1000) for _ in range(6)]
    for key in keys[:3]:
        instance.request(key)
    with faults.counted() as calls:
        assert search.run() == {"keys": 3, "parents": 1}
    assert calls == Counter(query=16, get_item=3 + 1)
