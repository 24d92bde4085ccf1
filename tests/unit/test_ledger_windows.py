"""Calendar windows in UTC, the names of their counters, and what a policy's limits come to."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vecmeter.ledger.accounts import Account, amounts_of
from vecmeter.ledger.model import Cost, Policy, Scope, epoch_ms, from_epoch_ms
from vecmeter.ledger.quotas import (
    METERS,
    POLICY_LIMITS,
    Window,
    key_limits,
    policy_from_item,
    policy_of,
    policy_to_item,
)
from vecmeter.settings import Settings

# Hypothesis wants its bounds naive.
MOMENTS = st.datetimes(datetime(2020, 1, 1), datetime(2099, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001
LIMITS = st.none() | st.integers(0, 10**15)
DEFAULTS = Settings.from_environment({"DATABASE_URL": "postgresql://nowhere.invalid", "TABLE_NAME": "t"})
NUMBERS = [name for name in POLICY_LIMITS if not name.startswith("alert_")]
LIMITED = st.fixed_dictionaries({}, optional=dict.fromkeys(NUMBERS, LIMITS)).map(lambda limits: Policy(**limits))
POLICIES = st.builds(
    Policy,
    active=st.booleans(),
    notes=st.none() | st.text(max_size=20),
    profile=st.none() | st.just("assistant"),
    alert_threshold_pct=st.none() | st.integers(1, 100),
    alert_repeat_hourly=st.none() | st.booleans(),
    defaults=st.dictionaries(st.sampled_from(Scope), LIMITED, max_size=3),
    **dict.fromkeys(NUMBERS, LIMITS),
)


@given(MOMENTS, st.sampled_from(Window))
def test_a_moment_lies_in_its_window(now: datetime, window: Window) -> None:
    start, end = window.start(now), window.end(now)
    assert start <= now < end
    assert start.tzinfo is end.tzinfo is UTC
    assert window.start(end) == end
    assert window.end(start) == end
    assert window.seconds(now) == (end - start).total_seconds()


@given(MOMENTS, MOMENTS, st.sampled_from(METERS))
def test_two_moments_share_a_counter_exactly_when_they_share_the_window(
    a: datetime, b: datetime, meter: object
) -> None:
    same_window = meter.window.start(a) == meter.window.start(b)
    assert (meter.counter(a) == meter.counter(b)) is same_window


@given(MOMENTS)
def test_no_two_meters_share_a_counter(now: datetime) -> None:
    assert len({meter.counter(now) for meter in METERS}) == len(METERS)


@pytest.mark.parametrize(
    ("moment", "window", "tag", "end"),
    [
        (datetime(2026, 12, 31, 23, 59, 59, 999999, UTC), Window.DAY, "261231", datetime(2027, 1, 1, tzinfo=UTC)),
        (datetime(2026, 12, 31, 23, 59, 59, 999999, UTC), Window.MONTH, "2612", datetime(2027, 1, 1, tzinfo=UTC)),
        (datetime(2028, 2, 29, tzinfo=UTC), Window.MONTH, "2802", datetime(2028, 3, 1, tzinfo=UTC)),
        (datetime(2027, 1, 31, tzinfo=UTC), Window.MONTH, "2701", datetime(2027, 2, 1, tzinfo=UTC)),
        (datetime(2027, 1, 1, tzinfo=UTC), Window.DAY, "270101", datetime(2027, 1, 2, tzinfo=UTC)),
    ],
)
def test_windows_end_at_midnight_and_at_the_end_of_the_month(
    moment: datetime, window: Window, tag: str, end: datetime
) -> None:
    assert window.tag(moment) == tag
    assert window.end(moment) == end


@given(st.integers(0, 4_000_000_000_000))
def test_milliseconds_survive_the_way_to_a_moment_and_back(milliseconds: int) -> None:
    assert epoch_ms(from_epoch_ms(milliseconds)) == milliseconds


@given(MOMENTS)
def test_a_moment_loses_less_than_a_millisecond(moment: datetime) -> None:
    assert timedelta(0) <= moment - from_epoch_ms(epoch_ms(moment)) < timedelta(milliseconds=1)


@given(POLICIES)
def test_a_policy_comes_back_from_the_item_as_it_was(policy: Policy) -> None:
    assert policy_from_item(policy_to_item(policy)) == policy


@given(POLICIES, st.dictionaries(st.sampled_from(["dr", "mt", "rm"]), st.integers(0, 10**15)))
def test_a_limit_is_the_policys_own_else_inherited_else_the_default(policy: Policy, inherited: dict[str, int]) -> None:
    names = {"dr": "daily_requests", "mt": "monthly_tokens", "rm": "requests_per_minute"}
    shown = policy_of(key_limits(policy, inherited, DEFAULTS))
    for name in NUMBERS:
        own = getattr(policy, name)
        above = {names[code]: limit for code, limit in inherited.items()}
        expected = own if own is not None else above.get(name, getattr(DEFAULTS, f"default_{name}", None))
        assert shown.get(name) == (expected if policy.active else None)


def test_the_defaults_are_those_the_documents_promise() -> None:
    shown = policy_of(key_limits(Policy(), {}, DEFAULTS))
    assert shown == {
        "daily_requests": 10_000,
        "monthly_requests": 300_000,
        "daily_tokens": 1_000_000,
        "monthly_tokens": 30_000_000,
        "alert_threshold_pct": 80,
        "alert_repeat_hourly": False,
    }


def test_remaining_is_never_below_zero() -> None:
    now = datetime(2026, 11, 21, tzinfo=UTC)
    [state] = Account(Scope.KEY, "key_1", {"dr": 5}, {"d261121": 7, "d261120": 1}, now).states()
    assert (state.used, state.remaining) == (7, 0)


def test_each_quota_counts_its_own_amount() -> None:
    cost = Cost(requests=1, tokens=2, vectors=3, micro_usd=4, searches=5, writes=6)
    assert amounts_of(cost) == {
        **dict.fromkeys(("dr", "mr", "rm", "rh", "rd", "cc"), 1),
        **dict.fromkeys(("dt", "mt"), 2),
        **dict.fromkeys(("dc", "mc"), 4),
        "sd": 5,
        "wd": 6,
    }
