"""Alerts: exactly one per threshold and window, whoever crosses and whatever dies, and never at a request's cost."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from multiprocessing import get_context
from typing import Any

import pytest

from tests.fixtures.faults import Fault, FaultyClient, ProcessDied
from tests.fixtures.ledger import NOON, ManualClock, wire_to
from vecmeter.errors import LedgerUnavailableError, ProjectNotFoundError
from vecmeter.ledger.alert_model import Alert, alert_position
from vecmeter.ledger.alerts import REMEMBERED, TABLE_REST, Alerts
from vecmeter.ledger.model import ApiKey, LimitState, Policy
from vecmeter.ledger.table import Table

MIDNIGHT = datetime(2026, 11, 22, tzinfo=UTC)
TOGETHER = 8


def key(user: str = "user-1", project: str | None = "project-1", api_key_id: str = "key_1") -> ApiKey:
    return ApiKey(
        api_key_id=api_key_id,
        secret_hash=b"",
        revoked=False,
        version=1,
        expires_at=None,
        user_id=user,
        project_id=project,
        roles=frozenset(),
        policy=Policy(),
    )


def state(used: int, limit: int = 100, **changes: Any) -> LimitState:
    values = {"name": "daily_requests", "scope": "key", "scope_id": "key_1", "resets_at": MIDNIGHT}
    return LimitState(**{**values, "window_seconds": 86400, "used": used, "limit": limit, **changes})  # type: ignore[arg-type]


def owner_of(project_id: str) -> str:
    if project_id == "gone":
        raise ProjectNotFoundError("There is none.")
    return f"owner-of-{project_id}"


Open = Callable[[], Alerts]


@pytest.fixture
def open_alerts(table: Table, clock: ManualClock) -> Open:
    """Another instance on the test's table."""
    return lambda: Alerts(table, clock, 90, owner_of)


@pytest.fixture
def alerts(open_alerts: Open) -> Alerts:
    return open_alerts()


@pytest.fixture
def no_lines(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.ERROR, "vecmeter.ledger"):
        yield
    assert caplog.messages == []


def listed(alerts: Alerts, user: str | None = "user-1", now: datetime = NOON) -> list[Alert]:
    found = list(alerts.read(now - timedelta(days=40), now + timedelta(days=40), user_id=user))
    assert len({alert.alert_id for alert in found}) == len(found)
    return found


def thresholds(alerts: Alerts, user: str | None = "user-1") -> list[int]:
    """The thresholds alerted, in the user's list as in the list of all."""
    found = listed(alerts, user)
    everybody = [alert for alert in listed(alerts, None) if user in (None, alert.user_id)]
    assert sorted(found, key=alert_position) == sorted(everybody, key=alert_position)
    return sorted(alert.threshold_pct for alert in found)


def observe_in_process(endpoint: str, table_name: str, sightings: int) -> int:
    client = wire_to(endpoint)
    alerts = Alerts(Table(client, table_name), ManualClock(), 90, owner_of)
    for used in range(sightings):
        alerts.observe(key(), [state(used)], threshold_pct=80)
    client.close()
    return alerts.take_failures()


class TestExactlyOne:
    def test_of_many_that_cross_together_on_many_instances_one_alert_comes(
        self, table: Table, open_alerts: Open, faults: FaultyClient, no_lines: None
    ) -> None:
        instances = [open_alerts() for _ in range(4)]
        with ThreadPoolExecutor(4 * TOGETHER) as threads:
            together = [
                threads.submit(instance.observe, key(), [state(used)], threshold_pct=80)
                for used in (79, 80, 90, 99, 100, 101)
                for instance in instances
                for _ in range(TOGETHER)
            ]
            for sighting in together:
                sighting.result()
        assert thresholds(instances[0]) == [80, 100]
        assert [instance.take_failures() for instance in instances] == [0] * 4

    def test_also_of_processes(self, dynamodb_endpoint: str, table_name: str, alerts: Alerts) -> None:
        with ProcessPoolExecutor(3, mp_context=get_context("spawn")) as processes:
            runs = [processes.submit(observe_in_process, dynamodb_endpoint, table_name, 110) for _ in range(6)]
            assert [run.result() for run in runs] == [0] * 6
        assert thresholds(alerts) == [80, 100]

    @pytest.mark.parametrize("fault", [Fault.DIES_BEFORE, Fault.DIES_AFTER])
    def test_a_process_may_die_before_or_after_writing(
        self, fault: Fault, alerts: Alerts, open_alerts: Open, faults: FaultyClient
    ) -> None:
        with faults.failing(fault), suppress(ProcessDied):
            alerts.observe(key(), [state(80)], threshold_pct=80)
        for instance in (open_alerts(), open_alerts()):
            instance.observe(key(), [state(85)], threshold_pct=80)
        assert thresholds(alerts) == [80]

    @pytest.mark.parametrize("fault", [Fault.LOST_ANSWER, Fault.LOST_REQUEST, Fault.THROTTLED, Fault.SERVER_ERROR])
    def test_a_call_that_fails_is_repeated_and_counts_once(
        self, fault: Fault, alerts: Alerts, faults: FaultyClient
    ) -> None:
        with faults.failing(fault), faults.counted() as calls:
            alerts.observe(key(), [state(80)], threshold_pct=80)
        assert calls == Counter(transact_write_items=2)
        alerts.observe(key(), [state(81)], threshold_pct=80)
        assert thresholds(alerts) == [80]

    def test_a_call_that_arrives_late_makes_no_second_alert(self, alerts: Alerts, faults: FaultyClient) -> None:
        with faults.failing(Fault.TIMED_OUT):
            alerts.observe(key(), [state(80)], threshold_pct=80)
        faults.deliver()
        assert thresholds(alerts) == [80]

    def test_a_jump_over_both_thresholds_makes_both(self, alerts: Alerts) -> None:
        alerts.observe(key(), [state(140)], threshold_pct=80)
        assert thresholds(alerts) == [80, 100]

    def test_a_threshold_of_100_is_one(self, alerts: Alerts) -> None:
        alerts.observe(key(), [state(100)], threshold_pct=100)
        assert thresholds(alerts) == [100]

    @pytest.mark.parametrize(
        ("used", "limit", "pct", "crossed"), [(2, 3, 67, False), (67, 100, 67, True), (7, 9, 77, True)]
    )
    def test_the_threshold_is_exact(self, alerts: Alerts, used: int, limit: int, pct: int, crossed: bool) -> None:
        alerts.observe(key(), [state(used, limit)], threshold_pct=pct)
        assert thresholds(alerts) == ([pct] if crossed else [])


class TestArming:
    def test_a_changed_limit_alerts_again(self, alerts: Alerts) -> None:
        alerts.observe(key(), [state(80)], threshold_pct=80)
        alerts.observe(key(), [state(100, limit=200)], threshold_pct=80)
        assert thresholds(alerts) == [80]
        alerts.observe(key(), [state(160, limit=200)], threshold_pct=80)
        assert {(alert.limit, alert.used) for alert in listed(alerts)} == {(200, 160), (100, 80)}

    def test_each_window_alerts_anew(self, alerts: Alerts, clock: ManualClock) -> None:
        for day in range(3):
            moment = MIDNIGHT + timedelta(days=day)
            alerts.observe(key(), [state(90, resets_at=moment)], threshold_pct=80)
            alerts.observe(key(), [state(95, resets_at=moment)], threshold_pct=80)
            clock.advance(days=1)
        assert [alert.window_start.day for alert in listed(alerts)] == [23, 22, 21]

    def test_scopes_limits_and_keys_are_told_apart(self, alerts: Alerts) -> None:
        month = {"name": "monthly_tokens", "resets_at": datetime(2026, 12, 1, tzinfo=UTC), "window_seconds": 30 * 86400}
        alerts.observe(key(), [state(80), state(80, **month), state(80, scope_id="key_2")], threshold_pct=80)
        alerts.observe(key(), [state(80, scope="user", scope_id="user-1")], threshold_pct=80)
        assert thresholds(alerts) == [80] * 4

    @pytest.mark.parametrize(
        "other",
        [
            {"name": "requests_per_day"},
            {"name": "requests_per_minute", "window_seconds": 60},
            {"name": "max_concurrent", "resets_at": None, "window_seconds": 0},
            {"limit": 0},
        ],
        ids=str,
    )
    def test_what_has_no_calendar_window_or_is_closed_does_not_alert(
        self, alerts: Alerts, faults: FaultyClient, other: dict[str, Any]
    ) -> None:
        with faults.counted() as calls:
            alerts.observe(key(), [state(100, **other)], threshold_pct=80)
        assert calls == Counter()


class TestRepeating:
    def test_it_repeats_once_in_each_hour_since_the_crossing_on_whatever_instances(
        self, alerts: Alerts, open_alerts: Open, clock: ManualClock
    ) -> None:
        instances = [alerts, open_alerts()]
        for _ in range(12 * 3):  # three hours, every five minutes
            for instance in instances:
                instance.observe(key(), [state(90)], threshold_pct=80, repeat_hourly=True)
            clock.advance(minutes=5)
        found = listed(alerts)
        assert [alert.repeat for alert in found] == [2, 1, 0]
        assert [alert.created_at for alert in found] == [NOON + timedelta(hours=hours) for hours in (2, 1, 0)]

    def test_an_instance_that_comes_late_repeats_the_highest_threshold_alone(
        self, alerts: Alerts, open_alerts: Open, clock: ManualClock
    ) -> None:
        alerts.observe(key(), [state(100)], threshold_pct=80, repeat_hourly=True)
        clock.advance(hours=3)
        for _ in range(2):
            open_alerts().observe(key(), [state(100)], threshold_pct=80, repeat_hourly=True)
        assert sorted((alert.threshold_pct, alert.repeat) for alert in listed(alerts)) == [(80, 0), (100, 0), (100, 3)]

    def test_only_the_highest_threshold_repeats(self, alerts: Alerts, clock: ManualClock) -> None:
        for used in (90, 100, 100):
            alerts.observe(key(), [state(used)], threshold_pct=80, repeat_hourly=True)
            clock.advance(hours=1)
        assert [(alert.threshold_pct, alert.repeat) for alert in listed(alerts)] == [(100, 1), (100, 0), (80, 0)]

    def test_it_does_not_repeat_unless_asked_to(self, alerts: Alerts, clock: ManualClock) -> None:
        for _ in range(3):
            alerts.observe(key(), [state(90)], threshold_pct=80)
            clock.advance(hours=1)
        assert thresholds(alerts) == [80]


class TestCost:
    def test_an_instance_writes_once_per_window_and_threshold(self, alerts: Alerts, faults: FaultyClient) -> None:
        with faults.counted() as calls:
            for used in range(100):
                alerts.observe(key(), [state(used)], threshold_pct=80)
        assert calls == Counter(transact_write_items=1)

    def test_what_is_remembered_is_bounded_and_forgetting_makes_no_second_alert(
        self, alerts: Alerts, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert REMEMBERED >= 1000
        monkeypatch.setattr("vecmeter.ledger.alerts.REMEMBERED", 2)
        for _ in range(3):
            for number in range(4):
                alerts.observe(key(), [state(80, scope_id=f"key_{number}")], threshold_pct=80)
        assert thresholds(alerts) == [80] * 4
        assert len(alerts._seen) == 2


class TestHandedOut:
    """Of a parent's limit a request sees what is handed out to keys; what is used of it is read."""

    def test_what_is_handed_out_and_not_used_makes_no_alert(self, alerts: Alerts) -> None:
        alerts.observe(key(), [state(90)], threshold_pct=80, exact=lambda: [state(79)])
        assert thresholds(alerts) == []

    def test_what_is_used_is_alerted_as_used(self, alerts: Alerts) -> None:
        alerts.observe(key(), [state(100)], threshold_pct=80, exact=lambda: [state(81)])
        assert [(alert.threshold_pct, alert.used) for alert in listed(alerts)] == [(80, 81)]

    def test_it_is_read_where_there_is_news_and_not_by_every_request(self, alerts: Alerts, clock: ManualClock) -> None:
        looks: list[int] = []

        def look(used: int) -> list[LimitState]:
            looks.append(used)
            return [state(used)]

        for used in range(60):  # a minute
            alerts.observe(key(), [state(used + 50)], threshold_pct=80, exact=lambda used=used: look(used + 40))  # type: ignore[misc]
            clock.advance(seconds=1)
        # nothing to see before 80 are handed out, nothing more once 80 are known to be used and 100 are not handed out
        assert looks == [70, 80, 90]
        assert thresholds(alerts) == [80]

    def test_a_table_that_is_away_while_it_is_read_fails_no_request(self, alerts: Alerts) -> None:
        def look() -> list[LimitState]:
            raise LedgerUnavailableError("away")

        alerts.observe(key(), [state(90)], threshold_pct=80, exact=look)
        assert alerts.take_failures() == 1


class TestFailures:
    def test_a_table_that_is_away_fails_no_request_and_the_next_one_after_a_rest_tries_again(
        self, alerts: Alerts, faults: FaultyClient, clock: ManualClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        faults.go_away()
        with faults.counted() as calls:
            for _ in range(5):
                alerts.observe(key(), [state(80)], threshold_pct=80)
        assert calls == Counter(transact_write_items=2)
        assert "alert not written" in caplog.messages
        assert (alerts.take_failures(), alerts.take_failures()) == (1, 0)
        faults.recover()
        clock.advance(seconds=TABLE_REST.total_seconds())
        alerts.observe(key(), [state(80)], threshold_pct=80)
        assert thresholds(alerts) == [80]

    def test_a_fault_of_ours_fails_no_request(self, alerts: Alerts, faults: FaultyClient) -> None:
        from tests.fixtures.faults import service_error

        with faults.failing(service_error("AccessDeniedException")):  # type: ignore[arg-type]
            alerts.observe(key(), [state(80)], threshold_pct=80)
        assert alerts.take_failures() == 1


class TestOwners:
    @pytest.mark.parametrize(
        ("scope", "scope_id", "owner"),
        [
            ("key", "key_1", ("user-1", "project-1", "key_1")),
            ("project", "project-9", ("owner-of-project-9", "project-9", None)),
            ("project", "gone", ("user-1", "gone", None)),
            ("user", "user-7", ("user-7", None, None)),
            ("system", "system", ("system", None, None)),
        ],
    )
    def test_an_alert_belongs_to_whose_limit_it_is_not_to_who_came_across_it(
        self, alerts: Alerts, scope: str, scope_id: str, owner: tuple[str, str | None, str | None]
    ) -> None:
        alerts.observe(key(), [state(80, scope=scope, scope_id=scope_id)], threshold_pct=80)
        (alert,) = listed(alerts, owner[0])
        assert (alert.user_id, alert.project_id, alert.api_key_id) == owner


class TestLists:
    def test_an_alert_comes_back_as_it_was_written(self, alerts: Alerts) -> None:
        alerts.observe(key(), [state(90)], threshold_pct=80)
        (alert,) = listed(alerts)
        assert alert == Alert(
            alert_id=alert.alert_id,
            scope="key",
            scope_id="key_1",
            limit_name="daily_requests",
            limit=100,
            used=90,
            threshold_pct=80,
            window_start=datetime(2026, 11, 21, tzinfo=UTC),
            resets_at=MIDNIGHT,
            created_at=NOON,
            user_id="user-1",
            project_id="project-1",
            api_key_id="key_1",
        )
        assert alert.percentage == 90.0

    @pytest.mark.parametrize("user", ["user-1", None])
    def test_they_are_listed_newest_first_over_months_and_go_on_where_a_page_ended(
        self, alerts: Alerts, clock: ManualClock, user: str | None
    ) -> None:
        for day in range(50):
            moment = MIDNIGHT + timedelta(days=day)
            alerts.observe(key(), [state(90, resets_at=moment)], threshold_pct=80)
            clock.advance(days=1)
        end = clock() + timedelta(seconds=1)
        whole = list(alerts.read(NOON, end, user_id=user))
        assert [alert.window_start for alert in whole] == [MIDNIGHT + timedelta(days=day) for day in range(48, -2, -1)]
        rest = list(alerts.read(NOON, end, user_id=user, before=alert_position(whole[9])))
        assert rest == whole[10:]
        recent = list(alerts.read(end - timedelta(days=3), end, user_id=user))
        assert recent == whole[:2]

    def test_a_users_list_has_no_other_users_alerts(self, alerts: Alerts) -> None:
        alerts.observe(key(), [state(90)], threshold_pct=80)
        alerts.observe(key("user-2", api_key_id="key_2"), [state(90, scope_id="key_2")], threshold_pct=80)
        assert [alert.scope_id for alert in listed(alerts, "user-2")] == ["key_2"]
        assert len(listed(alerts, None)) == 2

    def test_it_stays_until_nobody_can_come_across_it_any_more(self, table: Table, clock: ManualClock) -> None:
        alerts = Alerts(table, clock, 1, owner_of)
        month_end = datetime(2026, 12, 1, tzinfo=UTC)
        month = {"name": "monthly_requests", "resets_at": month_end, "window_seconds": 30 * 86400}
        alerts.observe(key(), [state(80, **month)], threshold_pct=80)
        (alert,) = listed(alerts)
        item = table.get(f"ALERT#{alert.alert_id}", "A")
        assert item is not None
        assert item["ttl"] == int((month_end + timedelta(days=1)).timestamp())
