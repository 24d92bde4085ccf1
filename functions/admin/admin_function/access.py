"""Who may see what: an admin what its user owns (within its project, if it has one), a system admin everything.

What a caller may not see is answered as if it did not exist.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from admin_function.schemas import UsageParameters
from vecmeter.errors import ApiKeyNotFoundError, NotFoundError, ProjectNotFoundError
from vecmeter.http.dependencies import sees_everything
from vecmeter.ledger.keys import Keys
from vecmeter.ledger.model import SYSTEM_USER, ApiKey, Project, UsageRecord
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


def visible_project(keys: Keys, caller: ApiKey, project_id: str) -> Project:
    """The project, if it exists and the caller may see it. Raises ProjectNotFoundError."""
    project = keys.get_project(project_id)
    if not may_see(caller, project.user_id, project_id):
        raise ProjectNotFoundError(f"There is no project {project_id!r}.")
    return project


def require_user(caller: ApiKey, user_id: str, project_id: str | None = None) -> None:
    """Raises NotFoundError unless the caller may act for the user."""
    if not may_see(caller, user_id, project_id):
        raise NotFoundError(f"There is no user {user_id!r}.")


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
    keys: Keys, caller: ApiKey, *, user_id: str | None = None, project_id: str | None = None
) -> ListingScope:
    """What the caller may list of what it asked for. Raises NotFoundError."""
    if user_id is not None:
        require_user(caller, user_id, caller.project_id)
    if project_id is not None:
        owner = visible_project(keys, caller, project_id).user_id
        if user_id not in (None, owner):
            raise ProjectNotFoundError(f"User {user_id!r} has no project {project_id!r}.")
        return ListingScope(owner, project_id)
    if sees_everything(caller):
        return ListingScope(user_id, None)
    return ListingScope(caller.user_id, caller.project_id)


def usage_records(
    runtime: Runtime, caller: ApiKey, query: UsageParameters, start: datetime, end: datetime, *, before: str = ""
) -> Iterator[UsageRecord]:
    """The records asked for that the caller may see, newest first. Raises NotFoundError."""
    project_id = query.project_id if sees_everything(caller) else query.project_id or caller.project_id
    api_key_ids = [key.api_key_id for key in _keys_with_usage(runtime.keys, caller, query)]
    return (
        record
        for record in runtime.usage.read(api_key_ids, start, end, before=before)
        if query.operation in (None, record.operation)
        and project_id in (None, record.project_id)
        and query.user_id in (None, record.user_id)
    )


def _keys_with_usage(keys: Keys, caller: ApiKey, query: UsageParameters) -> Iterable[ApiKey]:
    """The keys whose records may be among those asked for: keys of a whole user work in its projects, too."""
    if query.api_key_id is not None:
        return [visible_key(keys, caller, query.api_key_id)]
    scope = listing_scope(keys, caller, user_id=query.user_id, project_id=query.project_id)
    found = list(keys.list(user_id=scope.user_id))
    if scope.user_id not in (None, SYSTEM_USER) and sees_everything(caller):
        found += keys.list(user_id=SYSTEM_USER)  # the operator works in any project
    return found
