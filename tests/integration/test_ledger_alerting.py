"""Requests alert by themselves: those that cross a threshold together make one alert, and the others notice nothing."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from tests.fixtures.faults import Fault, FaultyClient, ProcessDied, at
from tests.fixtures.ledger import Instance, ManualClock, open_instance
from tests.integration.test_ledger_alerts import listed
from vecmeter.errors import LimitExceededError
from vecmeter.ledger.alerts import LOOK_EVERY, Alerts
from vecmeter.ledger.keys import CreatedKey
from vecmeter.ledger.model import Operation, Scope


@pytest.fixture
def reader(instance: Instance) -> Alerts:
    return Alerts(instance.table, instance.clock, 90, lambda project: instance.projects.get(project).user_id)


def found(reader: Alerts) -> list[tuple[str, str, int]]:
    return sorted((one.scope, one.limit_name, one.threshold_pct) for one in listed(reader))


def request(instance: Instance, key: CreatedKey) -> None:
    with suppress(LimitExceededError):
        instance.request(key)


def test_many_requests_on_many_instances_that_cross_together_make_one_alert_per_threshold(
    instance: Instance, reader: Alerts
) -> None:
    key = instance.create_key(daily_requests=40, monthly_requests=50)
    instances = [open_instance(instance.table, instance.settings, instance.clock) for _ in range(4)]
    with ThreadPoolExecutor(12) as threads:
        together = [threads.submit(request, one, key) for _ in range(15) for one in instances]
        for done in together:
            done.result()
    assert instance.used(key)["requests"] == 40
    assert found(reader) == [
        ("key", "daily_requests", 80),
        ("key", "daily_requests", 100),
        ("key", "monthly_requests", 80),
    ]


def test_a_limit_shared_by_keys_alerts_when_it_is_used_and_once(
    instance: Instance, reader: Alerts, clock: ManualClock
) -> None:
    instance.projects.create(project_id="project-1", user_id="user-1", name=None)
    instance.limit(Scope.PROJECT, "project-1", daily_requests=200)
    keys = [instance.create_key() for _ in range(4)]
    instances = [open_instance(instance.table, instance.settings, instance.clock) for _ in range(2)]
    for number in range(200):
        instances[number % 2].request(keys[number % 4])
        used = number + 1
        if used < 160:
            assert found(reader) == [], used
        clock.advance(seconds=LOOK_EVERY.total_seconds() / 10)
    alerted = {one.threshold_pct: one.used for one in listed(reader)}
    # Within the time in which it is looked at once: ten requests here, of each instance.
    assert 160 <= alerted[80] <= 172
    assert set(alerted) in ({80}, {80, 100})


def test_the_limit_of_a_project_alerts_also_where_a_key_of_the_whole_user_reaches_it(
    instance: Instance, reader: Alerts, clock: ManualClock
) -> None:
    instance.projects.create(project_id="project-1", user_id="user-1", name=None)
    instance.limit(Scope.PROJECT, "project-1", daily_requests=10)
    key = instance.create_key(project=None)
    for _ in range(8):
        instance.request(key, project_id="project-1")
        clock.advance(seconds=LOOK_EVERY.total_seconds())
    assert found(reader) == [("project", "daily_requests", 80)]


def test_a_request_that_crosses_makes_one_call_more_and_the_next_ones_none(
    instance: Instance, faults: FaultyClient
) -> None:
    key = instance.create_key(daily_requests=10)
    instance.request(key)
    made = []
    for _ in range(9):
        with faults.counted() as calls:
            instance.request(key)
        made.append(calls)
    usual = Counter(update_item=2, put_item=1)
    crossing = usual + Counter(transact_write_items=1)
    assert made == [usual] * 6 + [crossing, usual, crossing]


@pytest.mark.parametrize("fault", [Fault.DIES_BEFORE, Fault.DIES_AFTER])
def test_the_request_that_crosses_may_die_between_settling_and_writing(
    instance: Instance, another: Instance, reader: Alerts, faults: FaultyClient, fault: Fault
) -> None:
    key = instance.create_key(daily_requests=10)
    for _ in range(7):
        instance.request(key)
    with faults.failing(*at(4, fault)), suppress(ProcessDied):
        instance.request(key)
    another.request(key)
    assert found(reader) == [("key", "daily_requests", 80)]


def test_a_request_succeeds_though_its_alert_cannot_be_written(
    instance: Instance, reader: Alerts, faults: FaultyClient, clock: ManualClock
) -> None:
    key = instance.create_key(daily_requests=10)
    for _ in range(7):
        instance.request(key)
    faults.fail(*[Fault.AWAY] * 9, on="transact_write_items")
    assert instance.request(key)
    faults.recover()
    clock.advance(seconds=10)
    assert instance.request(key)
    assert found(reader) == [("key", "daily_requests", 80)]


def test_a_limit_that_refuses_alerts_as_used_up_though_a_little_is_left_and_once(
    instance: Instance, another: Instance, reader: Alerts, faults: FaultyClient
) -> None:
    key = instance.create_key(daily_tokens=1000)
    instance.request(key, tokens=995)
    assert found(reader) == [("key", "daily_tokens", 80)]
    for one in (instance, another) * 3:
        with pytest.raises(LimitExceededError):
            one.request(key, tokens=10)
    assert found(reader) == [("key", "daily_tokens", 80), ("key", "daily_tokens", 100)]
    with faults.counted() as calls, pytest.raises(LimitExceededError):
        instance.request(key, tokens=10)
    assert not calls["transact_write_items"]


def test_a_request_too_large_for_what_is_left_does_not_use_up_a_limit(instance: Instance, reader: Alerts) -> None:
    key = instance.create_key(daily_tokens=1000)
    instance.request(key, tokens=700)
    with pytest.raises(LimitExceededError):
        instance.request(key, tokens=400)
    assert found(reader) == []


def test_a_refusal_alerts_the_parent_that_refused(instance: Instance, reader: Alerts) -> None:
    instance.projects.create(project_id="project-1", user_id="user-1", name=None)
    instance.limit(Scope.PROJECT, "project-1", daily_tokens=1000)
    key = instance.create_key()
    instance.request(key, tokens=995)
    with pytest.raises(LimitExceededError):
        instance.request(key, tokens=10)
    assert ("project", "daily_tokens", 100) in found(reader)


def test_a_refusal_is_a_refusal_though_its_alert_cannot_be_written(
    instance: Instance, reader: Alerts, faults: FaultyClient
) -> None:
    key = instance.create_key(daily_tokens=1000)
    instance.request(key, tokens=995)
    faults.fail(*[Fault.AWAY] * 9, on="transact_write_items")
    with pytest.raises(LimitExceededError):
        instance.request(key, tokens=10)
    faults.recover()


def test_budgets_alert(instance: Instance, reader: Alerts) -> None:
    price = instance.ledger.price(Operation.SEARCH)
    key = instance.create_key(daily_cost_usd=10 * price)
    for _ in range(8):
        instance.request(key)
    assert found(reader) == [("key", "daily_cost_usd", 80)]


def test_a_policy_says_from_where_on_and_whether_to_repeat(
    instance: Instance, reader: Alerts, clock: ManualClock
) -> None:
    key = instance.create_key(daily_requests=10, alert_threshold_pct=50, alert_repeat_hourly=True)
    for _ in range(6):
        instance.request(key)
        clock.advance(minutes=30)
    assert [(one.threshold_pct, one.used, one.repeat) for one in listed(reader)] == [(50, 5, 0)]
    instance.request(key)
    assert [(one.threshold_pct, one.used, one.repeat) for one in listed(reader)] == [(50, 7, 1), (50, 5, 0)]
