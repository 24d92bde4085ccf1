"""Who may see what: an admin what its user owns (within its project, if it has one), a system admin everything.

What a caller may not see is answered as if it did not exist.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from vecmeter.errors import ApiKeyNotFoundError, NotFoundError, ProjectNotFoundError
from vecmeter.http.dependencies import sees_everything
from vecmeter.ledger.audit import Actor, AuditRecord
from vecmeter.ledger.keys import Keys
from vecmeter.ledger.metering import Hold
from vecmeter.ledger.model import ApiKey, Project
from vecmeter.ledger.projects import Projects
from vecmeter.runtime import Runtime


def may_see(caller: ApiKey, user_id: str, project_id: str | None) -> bool:
    if sees_everything(caller):
        return True
    return caller.user_id == user_id and caller.project_id in (None, project_id)


def visible_key(keys: Keys, caller: ApiKey, api_key_id: str) -> ApiKey:
    """The key, if it exists and the caller may see it. Raises ApiKeyNotFoundError."""
    key = keys.get(api_key_id)
    if not may_see(caller, key.user_id, key.project_id):
        raise ApiKeyNotFoundError(f"There is no API key {api_key_id!r}.")
    return key


def visible_project(projects: Projects, caller: ApiKey, project_id: str) -> Project:
    """The project, if it exists and the caller may see it. Raises ProjectNotFoundError."""
    project = projects.get(project_id)
    if not may_see(caller, project.user_id, project_id):
        raise ProjectNotFoundError(f"There is no project {project_id!r}.")
    return project


def require_user(caller: ApiKey, user_id: str, project_id: str | None = None) -> None:
    """Raises NotFoundError unless the caller may act for the user."""
    if not may_see(caller, user_id, project_id):
        raise NotFoundError(f"There is no user {user_id!r}.")


def actor_of(hold: Hold) -> Actor:
    """Who makes the changes of a request, for their audit records."""
    return Actor(user_id=hold.key.user_id, api_key_id=hold.key.api_key_id, request_id=hold.admission.demand.request_id)


@dataclass(frozen=True, slots=True)
class ListingScope:
    """Whose projects or keys are listed: a user's or everybody's, of one project or all."""

    user_id: str | None
    project_id: str | None

    @property
    def prefix(self) -> str:
        """What every position in the listing begins with."""
        return f"{self.user_id}#" if self.user_id is not None else ""


def listing_scope(
    projects: Projects, caller: ApiKey, *, user_id: str | None = None, project_id: str | None = None
) -> ListingScope:
    """What the caller may list of what it asked for. Raises NotFoundError."""
    if user_id is not None:
        require_user(caller, user_id, caller.project_id)
    if project_id is not None:
        owner = visible_project(projects, caller, project_id).user_id
        if user_id not in (None, owner):
            raise ProjectNotFoundError(f"User {user_id!r} has no project {project_id!r}.")
        return ListingScope(owner, project_id)
    if sees_everything(caller):
        return ListingScope(user_id, None)
    return ListingScope(caller.user_id, caller.project_id)


def audit_records(
    runtime: Runtime, caller: ApiKey, *, target: str | None, user_id: str | None, before: str
) -> Iterator[AuditRecord]:
    """The changes asked for whose targets the caller may see, or might while they existed, newest first.

    Raises NotFoundError.
    """
    if user_id is not None:
        require_user(caller, user_id, caller.project_id)
    if target is not None:
        found = runtime.audit.of_target(target, before=before)
    elif user_id is None and sees_everything(caller):
        found = runtime.audit.of_all(before=before)
    else:
        found = runtime.audit.of_user(user_id or caller.user_id, before=before)
    return (
        record
        for record in found
        if may_see(caller, record.target.user_id, record.target.project_id) and user_id in (None, record.target.user_id)
    )
