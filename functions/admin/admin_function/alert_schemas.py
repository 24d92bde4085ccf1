"""Bodies of the alert routes."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from vecmeter.http.fields import Answer, ApiKeyId, Name, PageParameters, PeriodParameters

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
    alerts: list[AlertOut]
    next_page_token: str | None = None
