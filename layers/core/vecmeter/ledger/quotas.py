"""The kinds of limits there are. A limit is a row of data here; policies name them, items abbreviate them.

A calendar quota counts in one attribute per window, whose name carries the window: a new day starts by itself because
its counter has another name, and the old one is removed by a later admission. A rolling quota is kept in cells: see
``rolling.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from vecmeter.ledger.model import Cost, Limits, Policy, Scope
from vecmeter.settings import Settings

Amount = Literal["requests", "tokens", "micro_usd", "searches", "writes"]

DEFAULT_ALERT_THRESHOLD_PCT = 80


class Window(StrEnum):
    DAY = "day"
    MONTH = "month"

    def start(self, now: datetime) -> datetime:
        return _span(self, now.date()).start

    def end(self, now: datetime) -> datetime:
        return _span(self, now.date()).end

    def seconds(self, now: datetime) -> int:
        return _span(self, now.date()).seconds

    def tag(self, now: datetime) -> str:
        """``261121`` or ``2611``: what names the window in an attribute's name."""
        return _span(self, now.date()).tag


class _Span(NamedTuple):
    start: datetime
    end: datetime
    seconds: int
    tag: str


@lru_cache(maxsize=64)  # each request asks some sixty times, nearly always for today
def _span(window: Window, day: date) -> _Span:
    start = datetime(day.year, day.month, day.day, tzinfo=UTC)
    if window is Window.DAY:
        end, tag = start + timedelta(days=1), f"{day:%y%m%d}"
    else:
        start = start.replace(day=1)
        end, tag = (start + timedelta(days=32)).replace(day=1), f"{day:%y%m}"
    return _Span(start, end, int((end - start).total_seconds()), tag)


@dataclass(frozen=True, slots=True)
class Meter:
    """Something counted per calendar window: ``letter`` starts the attribute's name (names are billed)."""

    letter: str
    window: Window
    amount: Amount

    def counter(self, now: datetime) -> str:
        """Name of the attribute that counts in this window: ``d261121``, ``M2611``."""
        return self.letter + self.window.tag(now)

    def of(self, cost: Cost) -> int:
        value: int = getattr(cost, self.amount)
        return value


@dataclass(frozen=True, slots=True)
class Quota:
    """A limit per calendar window. ``name`` is the policy's field, ``code`` its short name on the items."""

    name: str
    code: str
    meter: Meter

    def of(self, cost: Cost) -> int:
        return self.meter.of(cost)


@dataclass(frozen=True, slots=True)
class RollingQuota:
    """A limit on every interval of ``seconds``, counted in cells of ``cell`` seconds."""

    name: str
    code: str
    amount: Amount
    seconds: int
    cell: int

    def of(self, cost: Cost) -> int:
        value: int = getattr(cost, self.amount)
        return value


QUOTAS = (
    Quota("daily_requests", "dr", Meter("d", Window.DAY, "requests")),
    Quota("monthly_requests", "mr", Meter("M", Window.MONTH, "requests")),
    Quota("daily_tokens", "dt", Meter("t", Window.DAY, "tokens")),
    Quota("monthly_tokens", "mt", Meter("T", Window.MONTH, "tokens")),
    Quota("daily_cost_usd", "dc", Meter("c", Window.DAY, "micro_usd")),
    Quota("monthly_cost_usd", "mc", Meter("C", Window.MONTH, "micro_usd")),
)
ROLLING_QUOTAS = (
    RollingQuota("requests_per_minute", "rm", "requests", 60, 5),
    RollingQuota("requests_per_hour", "rh", "requests", 3600, 150),
    RollingQuota("requests_per_day", "rd", "requests", 86400, 3600),
    RollingQuota("searches_per_day", "sd", "searches", 86400, 3600),
    RollingQuota("writes_per_day", "wd", "writes", 86400, 3600),
)
# What goes beyond requests_per_minute, in any hour.
BURST = RollingQuota("burst_requests", "br", "requests", 3600, 150)
PER_MINUTE = ROLLING_QUOTAS[0]
MAX_CONCURRENT, CONCURRENT_CODE = "max_concurrent", "cc"
METERS = tuple(quota.meter for quota in QUOTAS)
COST_METERS = tuple(meter for meter in METERS if meter.amount == "micro_usd")
COUNTED_QUOTAS: tuple[Quota | RollingQuota, ...] = (*QUOTAS, *ROLLING_QUOTAS)
MONEY = frozenset(quota.name for quota in QUOTAS if quota.meter.amount == "micro_usd")

STOCK_CODES = {
    "sv": "max_vectors",
    "sb": "max_storage_bytes",
    "sc": "max_collections",
    "sk": "max_vectors_per_collection",
}
LIMIT_CODES = (
    {q.code: q.name for q in COUNTED_QUOTAS}
    | {BURST.code: BURST.name, CONCURRENT_CODE: MAX_CONCURRENT}
    | STOCK_CODES
    | {"at": "alert_threshold_pct", "ar": "alert_repeat_hourly"}
)
_POLICY_CODES = LIMIT_CODES | {"a": "active", "no": "notes", "pf": "profile"}
# What the settings say for a key for which no policy says anything.
_SETTINGS_DEFAULTS = ("dr", "mr", "dt", "mt")


def in_public_units(name: str, value: int) -> int | float:
    """A limit's number as callers see it: dollars, where the ledger has micro-USD."""
    return value / 1_000_000 if name in MONEY else value


def own_limits(policy: Policy) -> Limits:
    """What a policy itself sets, by short names."""
    values = {code: getattr(policy, name) for code, name in LIMIT_CODES.items()}
    return {code: int(value) for code, value in values.items() if value is not None}


def key_limits(policy: Policy, inherited: Limits, settings: Settings) -> Limits:
    """The limits that hold for a key: its own policy's, else inherited, else the settings'; none when switched off."""
    if not policy.active:
        return {}
    defaults = {code: getattr(settings, f"default_{LIMIT_CODES[code]}") for code in _SETTINGS_DEFAULTS}
    return {**defaults, **inherited, **own_limits(policy)}


def policy_of(limits: Limits) -> dict[str, Any]:
    """Limits under their public names, as they act: money still in micro-USD."""
    values: dict[str, Any] = {name: limits[code] for code, name in LIMIT_CODES.items() if code in limits}
    values.setdefault("alert_threshold_pct", DEFAULT_ALERT_THRESHOLD_PCT)
    values["alert_repeat_hourly"] = bool(values.get("alert_repeat_hourly", False))
    return values


def policy_to_item(policy: Policy) -> dict[str, Any]:
    """The policy under its short names, what is not set left out; those of the scopes below under ``d``."""
    values = {code: getattr(policy, name) for code, name in _POLICY_CODES.items()}
    if policy.active:
        del values["a"]
    item = {code: value for code, value in values.items() if value is not None}
    below = {scope.letter: policy_to_item(default) for scope, default in policy.defaults.items()}
    return item | ({"d": below} if below else {})


def policy_from_item(stored: Mapping[str, Any]) -> Policy:
    values: dict[str, Any] = {name: stored[code] for code, name in _POLICY_CODES.items() if code in stored}
    below = stored.get("d", {})
    defaults = {scope: policy_from_item(below[scope.letter]) for scope in Scope if scope.letter in below}
    return Policy(**values, defaults=defaults)


POLICY_LIMITS = tuple(field.name for field in fields(Policy) if field.name in set(LIMIT_CODES.values()))
