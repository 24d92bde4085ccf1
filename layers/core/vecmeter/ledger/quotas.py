"""Quotas: allowances per calendar day and month (UTC). A quota is a row of data; its counter's name carries the window.

A new day starts by itself because its counter has another name; the old one is removed by a later admission.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Literal

from vecmeter.ledger.model import ApiKey, Cost, LimitState, Policy
from vecmeter.settings import Settings


class Window(StrEnum):
    DAY = "day"
    MONTH = "month"

    def start(self, now: datetime) -> datetime:
        day = datetime(now.year, now.month, now.day, tzinfo=UTC)
        return day if self is Window.DAY else day.replace(day=1)

    def end(self, now: datetime) -> datetime:
        if self is Window.DAY:
            return self.start(now) + timedelta(days=1)
        return (self.start(now) + timedelta(days=32)).replace(day=1)

    def seconds(self, now: datetime) -> int:
        return int((self.end(now) - self.start(now)).total_seconds())

    def counter(self, letter: str, now: datetime) -> str:
        """Name of the attribute that counts in this window: ``d261121``, ``M2611``."""
        return letter + now.strftime("%y%m%d" if self is Window.DAY else "%y%m")


@dataclass(frozen=True, slots=True)
class Meter:
    """Something counted per window on the key's item: ``letter`` starts the attribute's name (names are billed)."""

    letter: str
    window: Window
    amount: Literal["requests", "tokens", "micro_usd"]

    def counter(self, now: datetime) -> str:
        return self.window.counter(self.letter, now)

    def of(self, cost: Cost) -> int:
        value: int = getattr(cost, self.amount)
        return value


@dataclass(frozen=True, slots=True)
class Quota:
    """A limit on a meter. ``name`` is the policy's field, ``code`` its short name on the item."""

    name: str
    code: str
    meter: Meter


DAILY_REQUESTS = Quota("daily_requests", "dr", Meter("d", Window.DAY, "requests"))
MONTHLY_REQUESTS = Quota("monthly_requests", "mr", Meter("M", Window.MONTH, "requests"))
DAILY_TOKENS = Quota("daily_tokens", "dt", Meter("t", Window.DAY, "tokens"))
MONTHLY_TOKENS = Quota("monthly_tokens", "mt", Meter("T", Window.MONTH, "tokens"))

QUOTAS = (DAILY_REQUESTS, MONTHLY_REQUESTS, DAILY_TOKENS, MONTHLY_TOKENS)
COST_METERS = (Meter("c", Window.DAY, "micro_usd"), Meter("C", Window.MONTH, "micro_usd"))
METERS = (*(quota.meter for quota in QUOTAS), *COST_METERS)

_POLICY_CODES = {"active": "a", "notes": "no", "alert_threshold_pct": "at"} | {q.name: q.code for q in QUOTAS}


def effective_limits(key: ApiKey, settings: Settings) -> tuple[tuple[Quota, int], ...]:
    """The quotas that hold for a key: its own policy's, else the settings' defaults; none when switched off."""
    if not key.policy.active:
        return ()
    return tuple((quota, _limit_of(quota, key.policy, settings)) for quota in QUOTAS)


def limit_state(quota: Quota, limit: int, counters: Mapping[str, Any], now: datetime) -> LimitState:
    """One quota in numbers, from the counters of the key's item."""
    window = quota.meter.window
    return LimitState(
        name=quota.name,
        scope="key",
        limit=limit,
        used=counters.get(quota.meter.counter(now), 0),
        resets_at=window.end(now),
        window_seconds=window.seconds(now),
    )


def effective_policy(key: ApiKey, settings: Settings) -> dict[str, Any]:
    """The policy as it acts, defaults filled in, under its public names."""
    limits = {quota.name: _limit_of(quota, key.policy, settings) for quota in QUOTAS}
    return {
        "active": key.policy.active,
        "notes": key.policy.notes,
        **limits,
        "alert_threshold_pct": 80 if key.policy.alert_threshold_pct is None else key.policy.alert_threshold_pct,
    }


def policy_to_item(policy: Policy) -> dict[str, Any]:
    """The policy under its short names, what is not set left out."""
    values = {code: getattr(policy, name) for name, code in _POLICY_CODES.items()}
    if policy.active:
        del values["a"]
    return {code: value for code, value in values.items() if value is not None}


def policy_from_item(stored: Mapping[str, Any]) -> Policy:
    values: dict[str, Any] = {name: stored[code] for name, code in _POLICY_CODES.items() if code in stored}
    return Policy(**values)


def _limit_of(quota: Quota, policy: Policy, settings: Settings) -> int:
    own: int | None = getattr(policy, quota.name)
    if own is not None:
        return own
    default: int = getattr(settings, f"default_{quota.name}")
    return default
