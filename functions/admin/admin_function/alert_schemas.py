"""Bodies of the alert routes."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from vecmeter.http.fields import Answer, ApiKeyId, Name, PageParameters, PeriodParameters, examples

Amount = Annotated[int | float, Field(description="In US dollars where the limit is a budget.")]


class AlertsParameters(PeriodParameters, PageParameters):
    api_key_id: ApiKeyId | None = None
    project_id: Name | None = None
    user_id: Name | None = None


class AlertOut(Answer):
    """A limit that was seen at or above a threshold: the first time in its window, or ``repeat`` hours after that."""

    alert_id: str
    scope: Literal["key", "project", "user", "system"]
    scope_id: str
    limit_name: str
    limit: Amount
    used: Amount
    percentage: float
    threshold_pct: int
    window_start: datetime
    resets_at: datetime
    created_at: datetime
    repeat: int


class AlertsOut(Answer):
    model_config = examples(
        {
            "alerts": [
                {
                    "alert_id": "alert_5d41402abc4b2a76b9719d91",
                    "scope": "key",
                    "scope_id": "key_47Zpx437HfE",
                    "limit_name": "daily_requests",
                    "limit": 1000,
                    "used": 800,
                    "percentage": 80.0,
                    "threshold_pct": 80,
                    "window_start": "2026-11-21T00:00:00Z",
                    "resets_at": "2026-11-22T00:00:00Z",
                    "created_at": "2026-11-21T12:00:00Z",
                    "repeat": 0,
                }
            ]
        }
    )

    alerts: list[AlertOut]
    next_page_token: str | None = None
