"""Alerts on EventBridge: told once where nothing fails, at least once where something does, and nobody waits for it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress

import pytest

from tests.fixtures.events import Bus, bridge_to
from tests.fixtures.faults import Fault, FaultyClient, FaultyEndpoint, ProcessDied, Reply
from tests.fixtures.ledger import ManualClock
from tests.integration.test_ledger_alerts import key, owner_of, state
from vecmeter.errors import UnavailableError
from vecmeter.ledger.alerts import BUS_REST, GRACE, Alerts
from vecmeter.ledger.events import READ_SECONDS, Event, EventsRefused
from vecmeter.ledger.table import Table

Open = Callable[..., Alerts]


@pytest.fixture
def open_alerts(table: Table, clock: ManualClock, bus: Bus, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """An instance whose calls to EventBridge meet with these replies, then pass."""
    with ExitStack() as opened:

        def open_one(*replies: Reply) -> Alerts:
            endpoint = opened.enter_context(FaultyEndpoint(bus.endpoint, replies))
            alerts = Alerts(table, clock, 90, owner_of, bridge_to(endpoint.url, bus.name, monkeypatch))
            opened.callback(alerts.close)
            return alerts

        yield open_one


def sweep(alerts: Alerts, clock: ManualClock) -> int:
    clock.advance(seconds=GRACE.total_seconds() + 1)
    return alerts.publish_pending()["published"]


def test_a_crossing_is_told_at_once_in_the_alerts_own_numbers(open_alerts: Open, bus: Bus) -> None:
    alerts = open_alerts()
    alerts.observe(key(), [state(90)], threshold_pct=80)
    (event,) = bus.received()
    assert (event["source"], event["detail-type"]) == ("vecmeter", "Vecmeter limit alert")
    assert event["detail"].pop("alert_id").startswith("alert_")
    assert event["detail"] == {
        "scope": "key",
        "scope_id": "key_1",
        "limit_name": "daily_requests",
        "limit": 100,
        "used": 90,
        "percentage": 90.0,
        "threshold_pct": 80,
        "window_start": "2026-11-21T00:00:00Z",
        "resets_at": "2026-11-22T00:00:00Z",
        "created_at": "2026-11-21T12:00:00Z",
        "user_id": "user-1",
        "project_id": "project-1",
        "api_key_id": "key_1",
        "repeat": 0,
    }


def test_of_many_that_cross_together_one_event_comes_and_the_sweep_adds_none(
    open_alerts: Open, bus: Bus, clock: ManualClock
) -> None:
    instances = [open_alerts() for _ in range(3)]
    with ThreadPoolExecutor(12) as threads:
        together = [
            threads.submit(instance.observe, key(), [state(used)], threshold_pct=80)
            for used in (80, 90, 100)
            for instance in instances
            for _ in range(4)
        ]
        for sighting in together:
            sighting.result()
    assert [sweep(instance, clock) for instance in instances] == [0, 0, 0]
    assert sorted(detail["threshold_pct"] for detail in bus.details()) == [80, 100]


@pytest.mark.parametrize("reply", [Reply.CLOSE, Reply.SILENCE, Reply.BAD_GATEWAY, Reply.HALF, Reply.APPLY_AND_CLOSE])
def test_what_could_not_be_told_is_told_by_the_sweep(
    open_alerts: Open, bus: Bus, clock: ManualClock, reply: Reply
) -> None:
    alerts = open_alerts(reply)
    started = time.monotonic()
    alerts.observe(key(), [state(80)], threshold_pct=80)
    assert time.monotonic() - started < READ_SECONDS + 1
    assert alerts.take_failures() == 1
    assert (sweep(alerts, clock), sweep(alerts, clock)) == (1, 0)
    # Where the answer was lost it was told twice; the id tells that it is one alert.
    details = bus.details()
    assert len(details) == (2 if reply in (Reply.HALF, Reply.APPLY_AND_CLOSE) else 1)
    assert len({detail["alert_id"] for detail in details}) == 1


def test_who_wrote_it_may_die_before_telling(
    open_alerts: Open, bus: Bus, clock: ManualClock, faults: FaultyClient
) -> None:
    with faults.failing(Fault.DIES_AFTER), suppress(ProcessDied):
        open_alerts().observe(key(), [state(80)], threshold_pct=80)
    assert bus.details() == []
    another = open_alerts()
    another.observe(key(), [state(81)], threshold_pct=80)
    assert sweep(another, clock) == 1
    assert len(bus.details()) == 1


def test_who_told_may_die_before_saying_so(
    open_alerts: Open, bus: Bus, clock: ManualClock, faults: FaultyClient
) -> None:
    with faults.failing(None, Fault.DIES_BEFORE), suppress(ProcessDied):
        open_alerts().observe(key(), [state(80)], threshold_pct=80)
    assert sweep(open_alerts(), clock) == 1
    assert len({detail["alert_id"] for detail in bus.details()}) == 1


def test_the_sweep_leaves_a_fresh_alert_to_who_wrote_it(open_alerts: Open, faults: FaultyClient) -> None:
    alerts = open_alerts()
    with faults.failing(Fault.DIES_AFTER), suppress(ProcessDied):
        alerts.observe(key(), [state(80)], threshold_pct=80)
    assert alerts.publish_pending() == {"published": 0}


def test_a_bus_that_is_away_is_asked_once_in_a_while(open_alerts: Open, bus: Bus, clock: ManualClock) -> None:
    alerts = open_alerts(*[Reply.CLOSE] * 2)
    for number in range(5):
        alerts.observe(key(), [state(80, scope_id=f"key_{number}")], threshold_pct=80)
    assert alerts.take_failures() == 1
    clock.advance(seconds=BUS_REST.total_seconds())
    alerts.observe(key(), [state(80, scope_id="key_5")], threshold_pct=80)
    assert alerts.take_failures() == 1
    assert sweep(alerts, clock) == 6
    assert len(bus.details()) == 6


def test_the_sweep_says_when_the_bus_takes_nothing_and_keeps_all(
    open_alerts: Open, bus: Bus, clock: ManualClock
) -> None:
    alerts = open_alerts(*[Reply.CLOSE] * 4)
    for number in range(25):
        alerts.observe(key(), [state(80, scope_id=f"key_{number}")], threshold_pct=80)
    with pytest.raises(UnavailableError, match="25"):
        sweep(alerts, clock)
    assert sweep(alerts, clock) == 25
    assert sweep(alerts, clock) == 0
    assert len({detail["scope_id"] for detail in bus.details()}) == 25


def test_an_event_that_is_refused_among_others_stays_pending(
    table: Table, clock: ManualClock, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EventBridge answers 200 for a call of which it took a part."""
    bridge = bridge_to(bus.endpoint, "arn:aws:events:us-east-1:000000000000:rule/no-bus", monkeypatch)
    alerts = Alerts(table, clock, 90, owner_of, bridge)
    alerts.observe(key(), [state(80)], threshold_pct=80)
    with pytest.raises(UnavailableError):
        sweep(alerts, clock)
    alerts.close()


def test_without_a_bus_nothing_is_kept_pending(
    table: Table, clock: ManualClock, open_alerts: Open, bus: Bus, faults: FaultyClient
) -> None:
    with faults.counted() as calls:
        Alerts(table, clock, 90, owner_of).observe(key(), [state(80)], threshold_pct=80)
    assert calls == Counter(transact_write_items=1)
    assert sweep(open_alerts(), clock) == 0


def test_a_lost_event_is_an_error_of_the_bus(bus: Bus, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    bridge = bridge_to("http://127.0.0.1:9", bus.name, monkeypatch)
    with pytest.raises(EventsRefused):
        bridge.put([Event("Vecmeter limit alert", {}, clock())])
    bridge.close()
