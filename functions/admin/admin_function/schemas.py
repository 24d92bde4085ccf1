"""Bodies of the admin routes, and their way to and from the ledger's own types."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from vecmeter.http.fields import (
    Answer,
    Body,
    Name,
    Text,
    examples,
)


class TaskBody(Body):
    """The collections a task is about: all, a project's, or one; whether to say only what is to be done; or the month
    and format of an export.
    """

    model_config = examples({}, {"project_id": "acme", "collection": "notes"}, {"month": "2026-11", "format": "csv"})

    project_id: Name | None = None
    collection: Name | None = None
    dry_run: Literal["true", "false"] | None = None
    month: Text | None = None
    format: Text | None = None


class StatusOut(Answer):
    status: Literal["ok"] = "ok"


class RunOut(Answer):
    run_id: int
    task: str
    status: str
    message: str
    error: str | None = None
    figures: dict[str, Any]
    started_at: datetime
    finished_at: datetime


class RunsOut(Answer):
    runs: list[RunOut]
    next_page_token: str | None = None


class TaskOut(BaseModel):
    """The outcome of a task, with figures of its own."""

    model_config = ConfigDict(extra="allow")

    task: str
    status: Literal["ok", "error"]
    message: str
    error: str | None = None
