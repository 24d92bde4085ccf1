"""Who may see what: an admin what its user owns (within its project, if it has one), a system admin everything.

What a caller may not see is answered as if it did not exist.
"""

from __future__ import annotations

from vecmeter.errors import ApiKeyNotFoundError, NotFoundError, ProjectNotFoundError
from vecmeter.ledger.keys import Keys
from vecmeter.ledger.model import ApiKey, Project


def may_see(caller: ApiKey, user_id: str, project_id: str | None) -> bool:
    if caller.is_system_admin:
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


def visible_keys(
    keys: Keys,
    caller: ApiKey,
    *,
    api_key_id: str | None = None,
    project_id: str | None = None,
    user_id: str | None = None,
    after: str = "",
) -> list[ApiKey]:
    """The keys the caller may see, narrowed to one key, a project or a user."""
    if api_key_id is not None:
        found = [visible_key(keys, caller, api_key_id)]
        return [k for k in found if project_id in (None, k.project_id) and user_id in (None, k.user_id)]
    if project_id is not None:
        project = visible_project(keys, caller, project_id)
        found = list(keys.list(user_id=project.user_id, project_id=project_id, after=after))
        return [key for key in found if user_id in (None, key.user_id)]
    if user_id is not None:
        require_user(caller, user_id, caller.project_id)
    scope = user_id if caller.is_system_admin else caller.user_id
    return list(keys.list(user_id=scope, project_id=caller.project_id, after=after))
