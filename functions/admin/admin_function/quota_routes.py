"""Policies of every scope: what a key, a project, a user, the system or one collection may use."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path
from starlette.responses import Response

from admin_function.access import actor_of, require_user, visible_key, visible_project
from admin_function.policy_schemas import (
    CollectionPolicyBody,
    CollectionPolicyOut,
    PolicyBody,
    PolicyOut,
    collection_policy_out,
    policy_out,
)
from admin_function.schemas import StatusOut
from vecmeter.errors import CollectionNotFoundError, MissingRoleError, NotFoundError
from vecmeter.http.dependencies import Call, CallDependency, sees_everything
from vecmeter.http.route import BusinessRoute
from vecmeter.ledger.metering import Hold
from vecmeter.ledger.model import SYSTEM_USER, Operation, Policy, Role, Scope

router = APIRouter(tags=["quotas"], prefix="/admin/quotas", route_class=BusinessRoute)

ScopePath = Annotated[Scope, Path(description="Whose limits.", examples=["project"])]
ScopeId = Annotated[
    str,
    Path(description="Id of the project, user or key; for the system, `system`.", examples=["acme"], max_length=200),
]
CollectionId = Annotated[str, Path(description="`<project>:<collection>`", examples=["acme:notes"], max_length=200)]


@router.get("/collection/{id}", response_model=CollectionPolicyOut, operation_id="get_collection_policy")
def get_collection_policy(id: CollectionId, call: CallDependency) -> Response:
    """The limits of one collection, whatever its project may keep."""
    with call.admit(Operation.ADMIN, Role.ADMIN) as hold:
        project, name = _visible_collection(id, hold, call)
        return call.respond(hold, collection_policy_out(id, call.runtime.collections.get_limits(project, name)))


@router.put("/collection/{id}", response_model=CollectionPolicyOut, operation_id="put_collection_policy")
def put_collection_policy(id: CollectionId, body: CollectionPolicyBody, call: CallDependency) -> Response:
    """Limit one collection; the next write keeps to it."""
    with call.admit(Operation.ADMIN, Role.ADMIN) as hold:
        project, name = _visible_collection(id, hold, call)
        limits = call.runtime.collections.set_limits(
            project, name, max_vectors=body.max_vectors, max_storage_bytes=body.max_storage_bytes
        )
        return call.respond(hold, collection_policy_out(id, limits))


@router.delete("/collection/{id}", response_model=StatusOut, operation_id="delete_collection_policy")
def delete_collection_policy(id: CollectionId, call: CallDependency) -> Response:
    """Limit one collection no longer."""
    with call.admit(Operation.ADMIN, Role.ADMIN) as hold:
        call.runtime.collections.set_limits(*_visible_collection(id, hold, call))
        return call.respond(hold, StatusOut())


@router.get("/{scope}/{id}", response_model=PolicyOut, operation_id="get_policy")
def get_policy(scope: ScopePath, id: ScopeId, call: CallDependency) -> Response:
    """A scope's own policy, what holds for it with all that is inherited, and where each limit stands."""
    with call.admit(Operation.ADMIN, Role.ADMIN) as hold:
        scope_id = _visible(scope, id, hold, call)
        return call.respond(hold, policy_out(call.runtime.policies.report(scope, scope_id)))


@router.put("/{scope}/{id}", response_model=PolicyOut, operation_id="put_policy")
def put_policy(scope: ScopePath, id: ScopeId, body: PolicyBody, call: CallDependency) -> Response:
    """Replace a scope's policy. When this answers, the next request is measured by it, on every instance."""
    body.check(scope)
    with call.admit(Operation.ADMIN, Role.ADMIN) as hold:
        scope_id = _changeable(scope, id, hold, call)
        policies = call.runtime.policies
        policies.change(scope, scope_id, lambda _: body.applied_to(Policy(), scope), actor_of(hold))
        return call.respond(hold, policy_out(policies.report(scope, scope_id)))


@router.delete("/{scope}/{id}", response_model=StatusOut, operation_id="delete_policy")
def delete_policy(scope: ScopePath, id: ScopeId, call: CallDependency) -> Response:
    """Set nothing for a scope: what it inherits holds from its next request on."""
    with call.admit(Operation.ADMIN, Role.ADMIN) as hold:
        scope_id = _changeable(scope, id, hold, call)
        call.runtime.policies.change(scope, scope_id, lambda _: Policy(), actor_of(hold))
        return call.respond(hold, StatusOut())


def _visible(scope: Scope, id: str, hold: Hold, call: Call) -> str:
    """The id of a scope whose limits the caller may see. Raises NotFoundError, MissingRoleError."""
    if scope is Scope.SYSTEM:
        if not sees_everything(hold.key):
            raise MissingRoleError("This needs a key of a system admin.")
        return SYSTEM_USER
    if scope is Scope.KEY:
        return visible_key(call.runtime.keys, hold.key, id).api_key_id
    if scope is Scope.PROJECT:
        return visible_project(call.runtime.projects, hold.key, id).project_id
    require_user(hold.key, id)
    return id


def _changeable(scope: Scope, id: str, hold: Hold, call: Call) -> str:
    """The same of a scope whose limits the caller may change: a user's bound its own admins."""
    scope_id = _visible(scope, id, hold, call)
    if scope is Scope.USER and not sees_everything(hold.key):
        raise MissingRoleError("This needs a key of a system admin.")
    return scope_id


def _visible_collection(id: str, hold: Hold, call: Call) -> tuple[str, str]:
    project, _, name = id.partition(":")
    try:
        visible_project(call.runtime.projects, hold.key, project)
    except NotFoundError:
        raise CollectionNotFoundError(f"There is no collection {id!r}.") from None
    return project, name
