"""RateLimit and RateLimit-Policy as in draft-ietf-httpapi-ratelimit-headers: structured lists, one member per limit."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import datetime

from vecmeter.errors import ViolatedPolicy
from vecmeter.ledger.model import LimitState

# RFC 9651 ends integers at 15 digits; a limit may be one beyond.
_LARGEST = 999_999_999_999_999
# The draft's units, and our own where it has none.
_UNITS = {"tokens": "tokens", "_usd": "micro-usd", "concurrent": "concurrent-requests"}


def rate_limit_headers(limits: Iterable[LimitState | ViolatedPolicy], now: datetime) -> dict[str, str]:
    """``q`` is the limit, ``qu`` its unit if not requests, ``w`` the window in seconds, ``r`` what remains, ``t`` the
    seconds until it resets. A limit of a scope above the key has the scope before its name. Money is in micro-USD.
    """
    states = list(limits)
    if not states:
        return {}
    return {
        "RateLimit-Policy": ", ".join(map(_policy, states)),
        "RateLimit": ", ".join(_remaining(state, now) for state in states),
    }


def _policy(state: LimitState | ViolatedPolicy) -> str:
    unit = next((unit for part, unit in _UNITS.items() if part in state.name), None)
    parts = [f'"{_name(state)}"', f"q={min(state.limit, _LARGEST)}"]
    if state.window_seconds:
        parts.append(f"w={state.window_seconds}")
    if unit:
        parts.append(f'qu="{unit}"')
    return ";".join(parts)


def _remaining(state: LimitState | ViolatedPolicy, now: datetime) -> str:
    text = f'"{_name(state)}";r={min(state.remaining, _LARGEST)}'
    if state.resets_at is None:
        return text
    return f"{text};t={max(0, math.ceil((state.resets_at - now).total_seconds()))}"


def _name(state: LimitState | ViolatedPolicy) -> str:
    return state.name if state.scope == "key" else f"{state.scope}_{state.name}"
