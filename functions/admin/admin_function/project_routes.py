"""Projects and keys."""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import islice
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from admin_function.access import actor_of, listing_scope, require_user, visible_key, visible_project
from admin_function.key_schemas import (
    CreatedKeyOut,
    KeyBody,
    KeyOut,
    KeyPatchBody,
    KeysOut,
    KeysParameters,
    ProjectBody,
    ProjectOut,
    ProjectPatchBody,
    ProjectsOut,
    ProjectsParameters,
    RotateBody,
    key_fields,
    project_out,
)
from admin_function.policy_schemas import PolicyBody
from admin_function.schemas import StatusOut
from vecmeter.http.checks import invalid
from vecmeter.http.dependencies import Call, CallDependency
from vecmeter.http.fields import ApiKeyPath, ProjectPath
from vecmeter.http.paging import decode_page_token, page, require_prefix
from vecmeter.http.route import BusinessRoute
from vecmeter.ledger.key_items import listing_position
from vecmeter.ledger.model import ApiKey, Operation, Policy, Project, Role
from vecmeter.ledger.projects import project_position
from vecmeter.runtime import Runtime

router = APIRouter(tags=["projects and keys"], prefix="/admin", route_class=BusinessRoute)

# Things that are looked for in a project before it is said that it is in use.
_NAMED_AT_MOST = 100
_PROJECT_POSITION = r"[\w.-]{1,63}#[\w.-]{1,63}"
_KEY_POSITION = _PROJECT_POSITION + r"#key_[0-9A-Za-z]{1,60}"


@router.post(
    "/projects", status_code=201, response_model=ProjectOut, operation_id="create_project", responses={409: {}}
)
def create_project(body: ProjectBody, call: CallDependency) -> Response:
    """Create a project: a tenant's space for collections and keys."""
    with call.admit(Operation.ADMIN, Role.ADMIN) as hold:
        require_user(hold.key, body.user_id, body.project_id)
        project = call.runtime.policies.create_project(
            project_id=body.project_id, user_id=body.user_id, name=body.name, actor=actor_of(hold)
        )
        return call.respond(hold, project_out(project), status=201)


@router.get("/projects", response_model=ProjectsOut, operation_id="list_projects")
def list_projects(query: Annotated[ProjectsParameters, Query()], call: CallDependency) -> Response:
    """List the projects one may see."""
    after = decode_page_token(query.page_token, _PROJECT_POSITION)
    with call.admit(Operation.ADMIN, Role.ADMIN) as hold:
        scope = listing_scope(call.runtime.projects, hold.key, user_id=query.user_id)
        require_prefix(after, scope.prefix)
        listed = call.runtime.projects.list(user_id=scope.user_id, after=after)
        found = (project for project in listed if scope.project_id in (None, project.project_id))
        shown, token = page(list(islice(found, query.limit + 1)), query.limit, project_position)
        return call.respond(hold, ProjectsOut(projects=list(map(project_out, shown)), next_page_token=token))


@router.get("/projects/{id}", response_model=ProjectOut, operation_id="get_project")
def get_project(id: ProjectPath, call: CallDependency) -> Response:
    """Describe a project."""
    with call.admit(Operation.ADMIN, Role.ADMIN) as hold:
        return call.respond(hold, project_out(visible_project(call.runtime.projects, hold.key, id)))


@router.patch("/projects/{id}", response_model=ProjectOut, operation_id="change_project")
def change_project(id: ProjectPath, body: ProjectPatchBody, call: CallDependency) -> Response:
    """Rename a project."""
    with call.admit(Operation.ADMIN, Role.ADMIN) as hold:
        project = visible_project(call.runtime.projects, hold.key, id)
        if "name" in body.model_fields_set:
            project = call.runtime.projects.rename(id, body.name, actor_of(hold))
        return call.respond(hold, project_out(project))


@router.delete("/projects/{id}", response_model=StatusOut, operation_id="delete_project", responses={409: {}})
def delete_project(id: ProjectPath, call: CallDependency) -> Response:
    """Delete a project that has neither collections nor active keys any more. Its id stays its user's."""
    with call.admit(Operation.ADMIN, Role.ADMIN) as hold:
        project = visible_project(call.runtime.projects, hold.key, id)
        call.runtime.projects.delete(id, lambda: _left_in(call.runtime, project), actor_of(hold))
        return call.respond(hold, StatusOut())


@router.post("/keys", status_code=201, response_model=CreatedKeyOut, operation_id="create_key", responses={409: {}})
def create_key(body: KeyBody, call: CallDependency) -> Response:
    """Create a key. Its secret is in this answer and nowhere else."""
    with call.admit(Operation.ADMIN, Role.ADMIN) as hold:
        _check_new_key(body, hold.key, call)
        created = call.runtime.policies.create_key(
            user_id=body.user_id,
            project_id=body.project_id,
            roles=tuple(Role(role) for role in body.roles),
            name=body.name,
            expires_at=body.expires_at,
            policy=(body.quota or PolicyBody()).applied_to(Policy()),
            actor=actor_of(hold),
        )
        fields = key_fields(created.key, call.runtime.clock())
        return call.respond(hold, CreatedKeyOut(**fields, key=created.secret), status=201)


@router.get("/keys", response_model=KeysOut, operation_id="list_keys")
def list_keys(query: Annotated[KeysParameters, Query()], call: CallDependency) -> Response:
    """List the keys one may see; never their secrets."""
    after = decode_page_token(query.page_token, _KEY_POSITION)
    with call.admit(Operation.ADMIN, Role.ADMIN) as hold:
        scope = listing_scope(call.runtime.projects, hold.key, user_id=query.user_id, project_id=query.project_id)
        require_prefix(after, scope.prefix)
        listed = call.runtime.keys.list(user_id=scope.user_id, project_id=scope.project_id, after=after)
        shown, token = page(list(islice(listed, query.limit + 1)), query.limit, listing_position)
        now = call.runtime.clock()
        items = [KeyOut(**key_fields(key, now)) for key in shown]
        return call.respond(hold, KeysOut(keys=items, next_page_token=token))


@router.get("/keys/{id}", response_model=KeyOut, operation_id="get_key")
def get_key(id: ApiKeyPath, call: CallDependency) -> Response:
    """Describe a key; never its secret."""
    with call.admit(Operation.ADMIN, Role.ADMIN) as hold:
        key = visible_key(call.runtime.keys, hold.key, id)
        return call.respond(hold, KeyOut(**key_fields(key, call.runtime.clock())))


@router.patch("/keys/{id}", response_model=KeyOut, operation_id="change_key", responses={409: {}})
def change_key(id: ApiKeyPath, body: KeyPatchBody, call: CallDependency) -> Response:
    """Change the name, the roles or the expiry of a key; its next request is measured by them, on every instance."""
    _check_expiry(body.expires_at, call)
    with call.admit(Operation.ADMIN, Role.ADMIN) as hold:
        visible_key(call.runtime.keys, hold.key, id)
        key = call.runtime.keys.change(id, body.applied_to, actor_of(hold))
        return call.respond(hold, KeyOut(**key_fields(key, call.runtime.clock())))


@router.post("/keys/{id}/rotate", response_model=CreatedKeyOut, operation_id="rotate_key", responses={409: {}})
def rotate_key(id: ApiKeyPath, call: CallDependency, body: RotateBody | None = None) -> Response:
    """Give a key another secret, which is in this answer and nowhere else. Id, counters and limits stay.

    The present secret works on for the grace, and no longer than the key would have; one replaced before ends now.
    """
    grace = body.grace_seconds if body else 0
    limit = call.runtime.settings.max_rotation_grace_seconds
    if grace > limit:
        raise invalid("grace_seconds", f"is {grace}; at most {limit} are allowed")
    with call.admit(Operation.ADMIN, Role.ADMIN) as hold:
        visible_key(call.runtime.keys, hold.key, id)
        rotated = call.runtime.keys.rotate(id, timedelta(seconds=grace), actor_of(hold))
        fields = key_fields(rotated.key, call.runtime.clock())
        return call.respond(hold, CreatedKeyOut(**fields, key=rotated.secret))


@router.delete("/keys/{id}", response_model=StatusOut, operation_id="revoke_key")
def revoke_key(id: ApiKeyPath, call: CallDependency) -> Response:
    """Revoke a key for good: its next request is refused everywhere."""
    with call.admit(Operation.ADMIN, Role.ADMIN) as hold:
        visible_key(call.runtime.keys, hold.key, id)
        call.runtime.keys.revoke(id, actor_of(hold))
        return call.respond(hold, StatusOut())


def _check_new_key(body: KeyBody, caller: ApiKey, call: Call) -> None:
    require_user(caller, body.user_id, body.project_id)
    if body.project_id is not None:
        project = visible_project(call.runtime.projects, caller, body.project_id)
        if project.user_id != body.user_id:
            raise invalid("user_id", f"is not the user of project {body.project_id!r}")
    _check_expiry(body.expires_at, call)


def _check_expiry(expires_at: datetime | None, call: Call) -> None:
    if expires_at is not None and expires_at <= call.runtime.clock():
        raise invalid("expires_at", "lies in the past")


def _left_in(runtime: Runtime, project: Project) -> list[str]:
    """What keeps a project from being deleted, by name."""
    now = runtime.clock()
    keys = runtime.keys.list(user_id=project.user_id, project_id=project.project_id)
    active = (key for key in keys if not key.revoked and (key.expires_at is None or key.expires_at > now))
    collections = runtime.collections.page(project.project_id, after="", limit=_NAMED_AT_MOST)
    return [
        *(f"collection {collection.name!r}" for collection in collections),
        *(f"API key {key.api_key_id!r}" for key in islice(active, _NAMED_AT_MOST)),
    ]
