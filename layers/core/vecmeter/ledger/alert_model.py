"""What an alert is: the crossing of a threshold, its id, and its way to and from the table."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from vecmeter.errors import ViolatedPolicy
from vecmeter.ledger.encoding import Item
from vecmeter.ledger.model import SYSTEM_USER, ApiKey, LimitState, Scope, epoch_ms, from_epoch_ms

FULL_PCT = 100
# A limit that refuses a request is used up as far as this: what is left is too small for what is asked of it.
REFUSING_PCT = 99

Exact = Callable[[], Iterable[LimitState]]
"""Reads where limits stand, of which something else was seen that may overstate it."""

# Attribute names are billed; these are the alert's fields under theirs.
_SHORT = {
    "scope": "s",
    "scope_id": "i",
    "limit_name": "q",
    "limit": "l",
    "used": "n",
    "threshold_pct": "t",
    "repeat": "r",
    "user_id": "u",
    "project_id": "p",
    "api_key_id": "k",
}
_MOMENTS = {"window_start": "ws", "resets_at": "re", "created_at": "c"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """A limit that was seen at or above ``threshold_pct`` percent. Budgets in micro-USD.

    ``user_id``: whose it is; ``project_id``, ``api_key_id``: the project and key it is about, None where it is about
    more than one. ``repeat``: 0 for the crossing, else the hours since, where alerts repeat.
    """

    alert_id: str
    scope: str
    scope_id: str
    limit_name: str
    limit: int
    used: int
    threshold_pct: int
    window_start: datetime
    resets_at: datetime
    created_at: datetime
    user_id: str
    project_id: str | None
    api_key_id: str | None
    repeat: int = 0

    @property
    def percentage(self) -> float:
        return round(100 * self.used / self.limit, 2)


class Crossing(NamedTuple):
    """What makes two sightings the same crossing. Another limit in the same window is another crossing."""

    scope: str
    scope_id: str
    limit_name: str
    window_start: datetime
    limit: int
    threshold_pct: int


def alert_position(alert: Alert) -> str:
    """Where an alert stands in a list."""
    return f"{sort_moment(alert.created_at)}#{alert.alert_id}"


def alert_fields(alert: Alert) -> dict[str, Any]:
    """An alert as the API and the event show it: budgets in US dollars."""
    in_usd = alert.limit_name.endswith("_usd")
    return {
        "alert_id": alert.alert_id,
        "scope": alert.scope,
        "scope_id": alert.scope_id,
        "limit_name": alert.limit_name,
        "limit": alert.limit / 1_000_000 if in_usd else alert.limit,
        "used": alert.used / 1_000_000 if in_usd else alert.used,
        "percentage": alert.percentage,
        "threshold_pct": alert.threshold_pct,
        "window_start": alert.window_start,
        "resets_at": alert.resets_at,
        "created_at": alert.created_at,
        "repeat": alert.repeat,
    }


def crossings(state: LimitState, threshold_pct: int) -> list[Crossing]:
    """The thresholds at or above which a calendar limit stands, the highest last. A limit of 0 is a closed door."""
    if state.limit <= 0 or state.resets_at is None or state.used * 100 < state.limit * min(threshold_pct, FULL_PCT):
        return []
    if not state.name.startswith(("daily_", "monthly_")):
        return []
    window_start = state.resets_at - timedelta(seconds=state.window_seconds)
    return [
        Crossing(str(state.scope), state.scope_id, state.name, window_start, state.limit, pct)
        for pct in sorted({threshold_pct, FULL_PCT})
        if state.used * 100 >= state.limit * pct
    ]


def refusal(key: ApiKey, project_id: str | None, policy: ViolatedPolicy) -> tuple[LimitState, Crossing] | None:
    """What a refused request shows: the limit that said no, where it is as good as used up.

    Args:
        project_id: where the request went.
    """
    owners = {Scope.KEY: key.api_key_id, Scope.PROJECT: project_id, Scope.USER: key.user_id, Scope.SYSTEM: SYSTEM_USER}
    scope_id = owners.get(Scope(policy.scope)) or ""
    state = LimitState(
        name=policy.name,
        scope=policy.scope,
        scope_id=scope_id,
        limit=policy.limit,
        used=policy.used,
        resets_at=policy.resets_at,
        window_seconds=policy.window_seconds,
    )
    seen = crossings(replace(state, used=policy.limit), FULL_PCT)
    return (state, seen[0]) if seen and policy.used * 100 >= policy.limit * REFUSING_PCT else None


def alert_id_of(crossing: Crossing, repeat: int) -> str:
    parts = (*crossing._replace(window_start=epoch_ms(crossing.window_start)), repeat)  # type: ignore[arg-type]
    return f"alert_{hashlib.sha256('#'.join(map(str, parts)).encode()).hexdigest()[:24]}"


def alert_to_item(alert: Alert, ttl: int) -> Item:
    item: Item = {"id": alert.alert_id, "ttl": ttl}
    item |= {short: getattr(alert, name) for name, short in _SHORT.items() if getattr(alert, name) is not None}
    return item | {short: epoch_ms(getattr(alert, name)) for name, short in _MOMENTS.items()}


def alert_from_item(item: Item) -> Alert:
    values: dict[str, Any] = {name: item.get(short) for name, short in _SHORT.items()}
    values |= {name: from_epoch_ms(item[short]) for name, short in _MOMENTS.items()}
    return Alert(alert_id=item["id"], **values)


def sort_moment(moment: datetime) -> str:
    return f"{epoch_ms(moment):013d}"
