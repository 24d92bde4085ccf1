"""RateLimit and RateLimit-Policy as in draft-ietf-httpapi-ratelimit-headers: structured lists, one member per limit."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import datetime

from vecmeter.errors import ViolatedPolicy
from vecmeter.ledger.model import LimitState

# RFC 9651 ends integers at 15 digits; a limit may be one beyond.
_LARGEST = 999_999_999_999_999


def rate_limit_headers(limits: Iterable[LimitState | ViolatedPolicy], now: datetime) -> dict[str, str]:
    """``q`` is the limit, ``w`` the window in seconds, ``r`` what remains, ``t`` seconds until it resets."""
    states = list(limits)
    if not states:
        return {}
    return {
        "RateLimit-Policy": ", ".join(f'"{s.name}";q={min(s.limit, _LARGEST)};w={s.window_seconds}' for s in states),
        "RateLimit": ", ".join(
            f'"{s.name}";r={min(s.remaining, _LARGEST)};t={max(0, math.ceil((s.resets_at - now).total_seconds()))}'
            for s in states
        ),
    }
