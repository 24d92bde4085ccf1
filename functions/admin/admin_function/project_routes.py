"""Projects and keys."""

from __future__ import annotations

from itertools import islice
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from admin_function.access import listing_scope, require_user, visible_key, visible_project
from admin_function.schemas import (
    CreatedKeyOut,
    KeyBody,
    KeyOut,
    KeysOut,
    KeysParameters,
    PolicyBody,
    ProjectBody,
    ProjectOut,
    ProjectsOut,
    ProjectsParameters,
    StatusOut,
    key_fields,
    project_out,
)
from vecmeter.http.checks import invalid
from vecmeter.http.dependencies import Call, CallDependency
from vecmeter.http.fields import ApiKeyPath, ProjectPath
from vecmeter.http.paging import decode_page_token, page, require_prefix
from vecmeter.http.route import BusinessRoute
from vecmeter.ledger.keys import listing_position
from vecmeter.ledger.model import ApiKey, Operation, Policy, Role

router = APIRouter(tags=["projects and keys"], prefix="/admin", route_class=BusinessRoute)

_PROJECT_POSITION = r"[\w.-]{1,63}#[\w.-]{1,63}"
_KEY_POSITION = _PROJECT_POSITION + r"#key_[0-9A-Za-z]{1,60}"


@router.post(
    "/projects", status_code=201, response_model=ProjectOut, operation_id="create_project", responses={409: {}}
)
def create_project(body: ProjectBody, call: CallDependency) -> Response:
    """Create a project: a tenant's space for collections and keys."""
    with call.admit(Operation.ADMIN, Role.ADMIN) as hold:
        require_user(hold.key, body.user_id, body.project_id)
        project = call.runtime.keys.create_project(project_id=body.project_id, user_id=body.user_id, name=body.name)
        return call.respond(hold, project_out(project), status=201)


@router.get("/projects", response_model=ProjectsOut, operation_id="list_projects")
def list_projects(query: Annotated[ProjectsParameters, Query()], call: CallDependency) -> Response:
    """List the projects one may see."""
    after = decode_page_token(query.page_token, _PROJECT_POSITION)
    with call.admit(Operation.ADMIN, Role.ADMIN) as hold:
        scope = listing_scope(call.runtime.keys, hold.key, user_id=query.user_id)
        require_prefix(after, scope.prefix)
        listed = call.runtime.keys.list_projects(user_id=scope.user_id, after=after)
        found = (project for project in listed if scope.project_id in (None, project.project_id))
        shown, token = page(list(islice(found, query.limit + 1)), query.limit, listing_position)
        return call.respond(hold, ProjectsOut(projects=list(map(project_out, shown)), next_page_token=token))


@router.get("/projects/{id}", response_model=ProjectOut, operation_id="get_project")
def get_project(id: ProjectPath, call: CallDependency) -> Response:
    """Describe a project."""
    with call.admit(Operation.ADMIN, Role.ADMIN) as hold:
        return call.respond(hold, project_out(visible_project(call.runtime.keys, hold.key, id)))


@router.post("/keys", status_code=201, response_model=CreatedKeyOut, operation_id="create_key")
def create_key(body: KeyBody, call: CallDependency) -> Response:
    """Create a key. Its secret is in this answer and nowhere else."""
    with call.admit(Operation.ADMIN, Role.ADMIN) as hold:
        _check_new_key(body, hold.key, call)
        created = call.runtime.keys.create(
            user_id=body.user_id,
            project_id=body.project_id,
            roles=tuple(Role(role) for role in body.roles),
            name=body.name,
            expires_at=body.expires_at,
            policy=(body.quota or PolicyBody()).applied_to(Policy()),
        )
        fields = key_fields(created.key, call.runtime.clock())
        return call.respond(hold, CreatedKeyOut(**fields, key=created.secret), status=201)


@router.get("/keys", response_model=KeysOut, operation_id="list_keys")
def list_keys(query: Annotated[KeysParameters, Query()], call: CallDependency) -> Response:
    """List the keys one may see; never their secrets."""
    after = decode_page_token(query.page_token, _KEY_POSITION)
    with call.admit(Operation.ADMIN, Role.ADMIN) as hold:
        scope = listing_scope(call.runtime.keys, hold.key, user_id=query.user_id, project_id=query.project_id)
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


@router.delete("/keys/{id}", response_model=StatusOut, operation_id="revoke_key")
def revoke_key(id: ApiKeyPath, call: CallDependency) -> Response:
    """Revoke a key for good: its next request is refused everywhere."""
    with call.admit(Operation.ADMIN, Role.ADMIN) as hold:
        visible_key(call.runtime.keys, hold.key, id)
        call.runtime.keys.revoke(id)
        return call.respond(hold, StatusOut())


def _check_new_key(body: KeyBody, caller: ApiKey, call: Call) -> None:
    require_user(caller, body.user_id, body.project_id)
    if body.project_id is not None:
        project = visible_project(call.runtime.keys, caller, body.project_id)
        if project.user_id != body.user_id:
            raise invalid("user_id", f"is not the user of project {body.project_id!r}")
    if body.expires_at is not None and body.expires_at <= call.runtime.clock():
        raise invalid("expires_at", "lies in the past")
