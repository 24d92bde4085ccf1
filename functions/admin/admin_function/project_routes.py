"""Projects and keys."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from admin_function.access import require_user, visible_key, visible_keys, visible_project
from admin_function.schemas import (
    CreatedKeyOut,
    KeyBody,
    KeyOut,
    KeysOut,
    KeysQuery,
    PolicyBody,
    ProjectBody,
    ProjectOut,
    ProjectsOut,
    ProjectsQuery,
    StatusOut,
    key_fields,
    project_out,
)
from vecmeter.errors import InvalidRequestError, Violation
from vecmeter.http.dependencies import Call, CallDependency, blocking
from vecmeter.http.paging import decode_page_token, page
from vecmeter.ledger.keys import listing_position
from vecmeter.ledger.model import ApiKey, Operation, Policy, Role

router = APIRouter(tags=["projects and keys"], prefix="/admin")


@router.post("/projects", status_code=201, response_model=ProjectOut, operation_id="create_project")
@blocking
def create_project(body: ProjectBody, call: CallDependency) -> Response:
    """Create a project: a tenant's space for collections and keys."""
    with call.admit(Operation.ADMIN, Role.ADMIN) as hold:
        require_user(hold.key, body.user_id, body.project_id)
        project = call.runtime.keys.create_project(project_id=body.project_id, user_id=body.user_id, name=body.name)
        return call.respond(hold, project_out(project), status=201)


@router.get("/projects", response_model=ProjectsOut, operation_id="list_projects")
@blocking
def list_projects(query: Annotated[ProjectsQuery, Query()], call: CallDependency) -> Response:
    """List the projects one may see."""
    after = decode_page_token(query.page_token)
    with call.admit(Operation.ADMIN, Role.ADMIN) as hold:
        if query.user_id is not None:
            require_user(hold.key, query.user_id, hold.key.project_id)
        scope = query.user_id if hold.key.is_system_admin else hold.key.user_id
        found = [
            project
            for project in call.runtime.keys.list_projects(user_id=scope, after=after)
            if hold.key.project_id in (None, project.project_id)
        ]
        shown, token = page(found, query.limit, listing_position)
        return call.respond(hold, ProjectsOut(projects=list(map(project_out, shown)), next_page_token=token))


@router.get("/projects/{id}", response_model=ProjectOut, operation_id="get_project")
@blocking
def get_project(id: str, call: CallDependency) -> Response:
    with call.admit(Operation.ADMIN, Role.ADMIN) as hold:
        return call.respond(hold, project_out(visible_project(call.runtime.keys, hold.key, id)))


@router.post("/keys", status_code=201, response_model=CreatedKeyOut, operation_id="create_key")
@blocking
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
@blocking
def list_keys(query: Annotated[KeysQuery, Query()], call: CallDependency) -> Response:
    """List the keys one may see; never their secrets."""
    after = decode_page_token(query.page_token)
    with call.admit(Operation.ADMIN, Role.ADMIN) as hold:
        found = visible_keys(
            call.runtime.keys, hold.key, project_id=query.project_id, user_id=query.user_id, after=after
        )
        shown, token = page(found, query.limit, listing_position)
        now = call.runtime.clock()
        items = [KeyOut(**key_fields(key, now)) for key in shown]
        return call.respond(hold, KeysOut(keys=items, next_page_token=token))


@router.get("/keys/{id}", response_model=KeyOut, operation_id="get_key")
@blocking
def get_key(id: str, call: CallDependency) -> Response:
    with call.admit(Operation.ADMIN, Role.ADMIN) as hold:
        key = visible_key(call.runtime.keys, hold.key, id)
        return call.respond(hold, KeyOut(**key_fields(key, call.runtime.clock())))


@router.delete("/keys/{id}", response_model=StatusOut, operation_id="revoke_key")
@blocking
def revoke_key(id: str, call: CallDependency) -> Response:
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
            message = f"is not the user of project {body.project_id!r}"
            raise InvalidRequestError(f"user_id {message}.", (Violation("user_id", message),))
    if body.expires_at is not None and body.expires_at <= call.runtime.clock():
        message = "lies in the past"
        raise InvalidRequestError(f"expires_at {message}.", (Violation("expires_at", message),))
