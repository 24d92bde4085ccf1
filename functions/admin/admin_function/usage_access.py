"""Whose usage a caller may look at, of what it asks for."""

from __future__ import annotations

from admin_function.access import listing_scope, visible_key
from vecmeter.http.dependencies import sees_everything
from vecmeter.ledger.model import SYSTEM_USER, ApiKey, Operation
from vecmeter.ledger.reports import Selection
from vecmeter.ledger.totals import KeyName
from vecmeter.runtime import Runtime


def visible_usage(
    runtime: Runtime,
    caller: ApiKey,
    *,
    api_key_id: str | None = None,
    project_id: str | None = None,
    user_id: str | None = None,
    operation: Operation | None = None,
) -> Selection:
    """What was asked for as far as the caller may see it. Raises NotFoundError."""
    confined = project_id if sees_everything(caller) else project_id or caller.project_id
    if api_key_id is not None:
        owner = visible_key(runtime.keys, caller, api_key_id).user_id
        if user_id not in (None, owner):
            return Selection(user_ids=())
        return Selection(key=KeyName(owner, api_key_id), project_id=confined, operation=operation)
    scope = listing_scope(runtime.projects, caller, user_id=user_id, project_id=project_id)
    return Selection(user_ids=_users(caller, scope.user_id, user_id), project_id=confined, operation=operation)


def _users(caller: ApiKey, listed: str | None, asked: str | None) -> tuple[str, ...] | None:
    if listed is None:
        return None
    if asked is None and listed != SYSTEM_USER and sees_everything(caller):
        return listed, SYSTEM_USER  # the operator works in any project
    return (listed,)
