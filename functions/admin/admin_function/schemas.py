"""Bodies of the admin routes, and their way to and from the ledger's own types."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from vecmeter.http.checks import invalid
from vecmeter.http.fields import (
    Answer,
    Body,
    Name,
    PageParameters,
    Text,
    examples,
)

# The task says whether it is one.
Switch = Annotated[Any, WithJsonSchema({"anyOf": [{"type": "boolean"}, {"type": "string", "enum": ["true", "false"]}]})]


class TaskBody(Body):
    """The collections a task is about: all, a project's, or one; whether to say only what is to be done, or to do it
    though nothing measured asks for it; or the month and format of an export.
    """

    model_config = examples(
        {},
        {"project_id": "acme", "collection": "notes", "dry_run": True},
        {"project_id": "acme", "force": True},
        {"month": "2026-11", "format": "csv"},
    )

    project_id: Name | None = None
    collection: Name | None = None
    dry_run: Switch | None = None
    force: Switch | None = None
    month: Text | None = None
    format: Text | None = None


class RunsParameters(PageParameters):
    """Runs of a task, with a status, and those that were asked for a project or collection alone or did something for
    it.
    """

    task: Text | None = None
    status: Literal["running", "ok", "error", "interrupted"] | None = None
    project_id: Name | None = None
    collection: Name | None = None

    def check(self) -> None:
        """Raises InvalidRequestError."""
        if self.collection is not None and self.project_id is None:
            raise invalid("project_id", "must be given with collection")


class StatusOut(Answer):
    model_config = examples({"status": "ok"})

    status: Literal["ok"] = "ok"


class RunOut(Answer):
    run_id: int
    task: str
    status: Annotated[str, Field(description="running; ok; error; interrupted: it died, the next run carries on")]
    message: str
    error: str | None = None
    figures: dict[str, Any]
    started_at: datetime
    finished_at: datetime | None = None
    project_id: Annotated[str | None, Field(description="Asked for this project alone.")] = None
    collection: Annotated[str | None, Field(description="Asked for this collection alone.")] = None


class RunsOut(Answer):
    model_config = examples(
        {
            "runs": [
                {
                    "run_id": 7,
                    "task": "vacuum_analyze",
                    "status": "ok",
                    "message": "1 collection",
                    "figures": {"task": "vacuum_analyze"},
                    "started_at": "2026-11-21T12:00:00Z",
                    "finished_at": "2026-11-21T12:00:01Z",
                }
            ]
        }
    )

    runs: list[RunOut]
    next_page_token: str | None = None


class TaskOut(BaseModel):
    """The outcome of a task, with figures of its own."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [
                {
                    "task": "get_index_stats",
                    "status": "ok",
                    "message": "index statistics",
                    "collections": [{"project_id": "acme", "collection": "notes", "indexes": []}],
                }
            ]
        },
    )

    task: str
    status: Annotated[Literal["ok", "error", "started"], Field(description="started: see the history of runs")]
    message: str
    error: str | None = None
