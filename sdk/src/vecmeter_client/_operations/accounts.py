"""Operations of admins on projects, keys and quotas."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from vecmeter_client._flow import Flow, Pages, Repeat, Request, Route, to_json
from vecmeter_client._input import moment
from vecmeter_client._operations.definitions import UNSET, Unset, listed
from vecmeter_client._places import ServiceAt
from vecmeter_client._reading import answered, spread
from vecmeter_client._reports import CreatedKey, KeyInfo, Policy, PolicyReport, ProjectInfo, QuotaReport, Role, Scope

PROJECTS = "/admin/projects"
KEYS = "/admin/keys"
QUOTAS = "/admin/quotas/{scope}/{id}"

# Not by Idempotency-Key, which the admin routes do not take: a second key would be another key.
CREATE_PROJECT = Route("POST", PROJECTS, Repeat.NEVER)
LIST_PROJECTS = Route("GET", PROJECTS)
GET_PROJECT = Route("GET", PROJECTS + "/{id}")
CHANGE_PROJECT = Route("PATCH", PROJECTS + "/{id}")
DELETE_PROJECT = Route("DELETE", PROJECTS + "/{id}", Repeat.NEVER)
CREATE_KEY = Route("POST", KEYS, Repeat.NEVER)
LIST_KEYS = Route("GET", KEYS)
GET_KEY = Route("GET", KEYS + "/{id}")
CHANGE_KEY = Route("PATCH", KEYS + "/{id}")
REVOKE_KEY = Route("DELETE", KEYS + "/{id}")
ROTATE_KEY = Route("POST", KEYS + "/{id}/rotate", Repeat.NEVER)
GET_POLICY = Route("GET", QUOTAS)
PUT_POLICY = Route("PUT", QUOTAS)
DELETE_POLICY = Route("DELETE", QUOTAS)
KEY_QUOTA = Route("GET", "/admin/usage/quota/{api_key_id}")
SET_KEY_QUOTA = Route("POST", "/admin/usage/quota/{api_key_id}")


def create_project(at: ServiceAt, project_id: str, *, user_id: str, name: str | None = None) -> Flow[ProjectInfo]:
    """Make a project: a tenant's space for collections and keys. Raises ProjectExistsError."""
    answer = yield CREATE_PROJECT.to(body={"project_id": project_id, "user_id": user_id, "name": name})
    return answered(ProjectInfo, answer)


def list_projects(at: ServiceAt, *, user_id: str | None = None, page_size: int = 100) -> Pages[ProjectInfo]:
    """The projects one may see, or a user's of them."""

    def ask(token: str | None) -> Request:
        return LIST_PROJECTS.to(query={"user_id": user_id, "limit": page_size, "page_token": token})

    return listed(ask, "projects", ProjectInfo)


def get_project(at: ServiceAt, project_id: str) -> Flow[ProjectInfo]:
    """Raises ProjectNotFoundError."""
    answer = yield GET_PROJECT.to(project_id)
    return answered(ProjectInfo, answer)


def update_project(at: ServiceAt, project_id: str, *, name: str | None) -> Flow[ProjectInfo]:
    """Rename a project; None takes the name away. Raises ProjectNotFoundError."""
    answer = yield CHANGE_PROJECT.to(project_id, body=to_json({"name": name}))
    return answered(ProjectInfo, answer)


def delete_project(at: ServiceAt, project_id: str) -> Flow[None]:
    """Delete a project that is empty. Raises ProjectNotFoundError, ProjectNotEmptyError."""
    yield DELETE_PROJECT.to(project_id)


def create_key(
    at: ServiceAt,
    *,
    user_id: str,
    project_id: str | None = None,
    roles: Sequence[Role] = ("search", "write"),
    name: str | None = None,
    expires_at: datetime | str | None = None,
    quota: Policy | None = None,
) -> Flow[CreatedKey]:
    """Make a key; its secret is in the answer and nowhere else. Without ``project_id``: for all projects of the user.

    It is not sent again when its answer was lost (``committed`` is None then): look at ``list`` before you repeat it.
    """
    body = {
        "user_id": user_id,
        "project_id": project_id,
        "roles": list(roles),
        "name": name,
        "expires_at": moment(expires_at, "expires_at"),
        "quota": quota,
    }
    answer = yield CREATE_KEY.to(body=body)
    return answered(CreatedKey, answer)


def list_keys(
    at: ServiceAt, *, user_id: str | None = None, project_id: str | None = None, page_size: int = 100
) -> Pages[KeyInfo]:
    """The keys one may see; never their secrets."""

    def ask(token: str | None) -> Request:
        query = {"user_id": user_id, "project_id": project_id, "limit": page_size, "page_token": token}
        return LIST_KEYS.to(query=query)

    return listed(ask, "keys", KeyInfo)


def get_key(at: ServiceAt, api_key_id: str) -> Flow[KeyInfo]:
    """Raises ApiKeyNotFoundError."""
    answer = yield GET_KEY.to(api_key_id)
    return answered(KeyInfo, answer)


def update_key(
    at: ServiceAt,
    api_key_id: str,
    *,
    name: str | Unset | None = UNSET,
    roles: Sequence[Role] | Unset = UNSET,
    expires_at: datetime | str | Unset | None = UNSET,
) -> Flow[KeyInfo]:
    """Change what is given; None takes the name or the expiry away. Raises ApiKeyNotFoundError, ApiKeyRevokedError."""
    body: dict[str, Any] = {}
    if not isinstance(name, Unset):
        body["name"] = name
    if not isinstance(roles, Unset):
        body["roles"] = list(roles)
    if not isinstance(expires_at, Unset):
        body["expires_at"] = moment(expires_at, "expires_at")
    answer = yield CHANGE_KEY.to(api_key_id, body=to_json(body))
    return answered(KeyInfo, answer)


def revoke_key(at: ServiceAt, api_key_id: str) -> Flow[None]:
    """Revoke a key for good: its next request is refused everywhere. Raises ApiKeyNotFoundError."""
    yield REVOKE_KEY.to(api_key_id)


def rotate_key(at: ServiceAt, api_key_id: str, grace_seconds: int = 0) -> Flow[CreatedKey]:
    """A new secret for a key; the present one works for ``grace_seconds`` more. Raises ApiKeyRevokedError."""
    answer = yield ROTATE_KEY.to(api_key_id, body={"grace_seconds": grace_seconds})
    return answered(CreatedKey, answer)


def get_policy(at: ServiceAt, scope: Scope, id: str) -> Flow[PolicyReport]:
    """The limits of a scope. ``id``: of the user, project or key; ``system``; of a collection ``<project>:<name>``."""
    answer = yield GET_POLICY.to(scope, id)
    return spread(PolicyReport, answer, "limits")


def put_policy(at: ServiceAt, scope: Scope, id: str, policy: Policy) -> Flow[PolicyReport]:
    """Replace the limits of a scope; the next request is measured by them, on every instance."""
    answer = yield PUT_POLICY.to(scope, id, body=to_json(policy))
    return spread(PolicyReport, answer, "limits")


def delete_policy(at: ServiceAt, scope: Scope, id: str) -> Flow[None]:
    """Set nothing for a scope: what it inherits holds from its next request on."""
    yield DELETE_POLICY.to(scope, id)


def key_quota(at: ServiceAt, api_key_id: str) -> Flow[QuotaReport]:
    """The limits that hold for a key, and where each of them stands. Raises ApiKeyNotFoundError."""
    answer = yield KEY_QUOTA.to(api_key_id)
    return spread(QuotaReport, answer, "limits")


def change_key_quota(at: ServiceAt, api_key_id: str, policy: Policy) -> Flow[QuotaReport]:
    """Change the limits of a key; what is not given stays, None goes back to what is inherited."""
    answer = yield SET_KEY_QUOTA.to(api_key_id, body=to_json(policy))
    return spread(QuotaReport, answer, "limits")
