"""Bodies of the routes about projects, keys and audit records."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from admin_function.policy_schemas import PolicyBody
from vecmeter.http.fields import Answer, Body, Moment, Name, PageParameters, Text, changes, examples
from vecmeter.ledger.audit import AuditRecord
from vecmeter.ledger.model import ApiKey, Project, Role

Label = Annotated[Text, Field(max_length=200)]
Roles = Annotated[list[Literal["search", "write", "admin"]], Field(min_length=1, max_length=3)]


class ProjectBody(Body):
    """A project: a tenant's space for collections and keys."""

    model_config = examples({"project_id": "acme", "user_id": "alice", "name": "Acme's documents"})

    project_id: Name
    user_id: Name
    name: Label | None = None


class KeyBody(Body):
    """``project_id`` left out: the key reaches every project of its user."""

    model_config = examples(
        {
            "user_id": "alice",
            "project_id": "acme",
            "roles": ["search", "write"],
            "quota": {"daily_requests": 1000},
        }
    )

    user_id: Name
    project_id: Name | None = None
    roles: Roles
    name: Label | None = None
    expires_at: Moment | None = None
    quota: PolicyBody | None = None


class ProjectPatchBody(Body):
    """What is left out stays as it is; null takes the name away."""

    model_config = changes({"name": "Acme's documents"})

    name: Label | None = None


class KeyPatchBody(Body):
    """What is left out stays as it is; null takes the name or the expiry away. User and project never change."""

    model_config = changes({"name": "ingest", "roles": ["write"]}, {"expires_at": "2099-01-01T00:00:00Z"})

    name: Label | None = None
    roles: Roles = Field(default_factory=list)
    expires_at: Moment | None = None

    def applied_to(self, key: ApiKey) -> ApiKey:
        """The key with what this body names replaced."""
        values: dict[str, Any] = {name: getattr(self, name) for name in self.model_fields_set}
        if "roles" in values:
            values["roles"] = frozenset(map(Role, self.roles))
        return replace(key, **values)


class RotateBody(Body):
    """``grace_seconds``: how long the present secret works yet; it ends with the present expiry in any case."""

    model_config = examples({"grace_seconds": 3600}, {})

    grace_seconds: Annotated[int, Field(ge=0)] = 0


class ProjectsParameters(PageParameters):
    user_id: Name | None = None


class KeysParameters(PageParameters):
    user_id: Name | None = None
    project_id: Name | None = None


class AuditParameters(PageParameters):
    target: Annotated[
        str | None,
        Field(pattern=r"^[a-z_]{1,32}:[\w.:-]{1,200}$", description="What was changed: ``key:<id>``, say."),
    ] = None
    user_id: Annotated[Name | None, Field(description="Whose things were changed.")] = None


_PROJECT = {
    "project_id": "acme",
    "user_id": "alice",
    "name": "Acme's documents",
    "created_at": "2026-11-21T12:00:00Z",
}
_KEY: dict[str, Any] = {
    "api_key_id": "key_47Zpx437HfE",
    "prefix": "vm_live_47Zp",
    "last4": "6vjM",
    "user_id": "alice",
    "project_id": "acme",
    "roles": ["search", "write"],
    "status": "active",
    "created_at": "2026-11-21T12:00:00Z",
}


class ProjectOut(Answer):
    model_config = examples(_PROJECT)

    project_id: str
    user_id: str
    name: str | None = None
    created_at: datetime


class ProjectsOut(Answer):
    model_config = examples({"projects": [_PROJECT]})

    projects: list[ProjectOut]
    next_page_token: str | None = None


class KeyOut(Answer):
    model_config = examples(_KEY)

    api_key_id: str
    prefix: str
    last4: str
    name: str | None = None
    user_id: str
    project_id: str | None = None
    roles: list[Role]
    status: Literal["active", "revoked", "expired"]
    expires_at: datetime | None = None
    previous_expires_at: Annotated[
        datetime | None, Field(description="Until then the secret before the last rotation works, too.")
    ] = None
    created_at: datetime | None = None


class CreatedKeyOut(KeyOut):
    model_config = examples(_KEY | {"key": "vm_live_47Zp...6vjM"})

    key: Annotated[str, Field(description="The secret. It is shown only now.")]


class KeysOut(Answer):
    model_config = examples({"keys": [_KEY]})

    keys: list[KeyOut]
    next_page_token: str | None = None


class ActorOut(Answer):
    user_id: str
    api_key_id: str | None = None


class AuditRecordOut(Answer):
    """``before`` and ``after`` hold what differs; nothing before: it is new, nothing after: it is gone."""

    audit_id: str
    at: datetime
    actor: ActorOut
    action: str
    target: str
    user_id: Annotated[str, Field(description="Who owned the target.")]
    project_id: str | None = None
    before: dict[str, Any] | None = None
    after: dict[str, Any] | None = None
    request_id: str | None = None


class AuditRecordsOut(Answer):
    model_config = examples(
        {
            "records": [
                {
                    "audit_id": "42b60091b2c77146",
                    "at": "2026-11-21T12:00:00Z",
                    "actor": {"user_id": "system", "api_key_id": "key_OHiA4kY8A7O"},
                    "action": "project.rename",
                    "target": "project:acme",
                    "user_id": "alice",
                    "project_id": "acme",
                    "before": {"name": "Acme"},
                    "after": {"name": "Acme's documents"},
                    "request_id": "2ebd854f2a98e721",
                }
            ],
            "next_page_token": "MTc5NTI5ODQyMzk1MiNhZmVjZTBiYTE3YmI1NDFk",
        }
    )

    records: list[AuditRecordOut]
    next_page_token: str | None = None


def project_out(project: Project) -> ProjectOut:
    return ProjectOut(
        project_id=project.project_id,
        user_id=project.user_id,
        name=project.name,
        created_at=project.created_at,
    )


def key_fields(key: ApiKey, now: datetime) -> dict[str, Any]:
    expired = key.expires_at is not None and key.expires_at <= now
    previous = key.previous_expires_at
    return {
        "api_key_id": key.api_key_id,
        "prefix": key.prefix,
        "last4": key.last4,
        "name": key.name,
        "user_id": key.user_id,
        "project_id": key.project_id,
        "roles": sorted(key.roles),
        "status": "revoked" if key.revoked else "expired" if expired else "active",
        "expires_at": key.expires_at,
        "previous_expires_at": previous if previous is not None and previous > now else None,
        "created_at": key.created_at,
    }


def audit_record_out(record: AuditRecord) -> AuditRecordOut:
    return AuditRecordOut(
        audit_id=record.audit_id,
        at=record.at,
        actor=ActorOut(user_id=record.actor.user_id, api_key_id=record.actor.api_key_id),
        action=record.action,
        target=str(record.target),
        user_id=record.target.user_id,
        project_id=record.target.project_id,
        before=None if record.before is None else dict(record.before),
        after=None if record.after is None else dict(record.after),
        request_id=record.actor.request_id,
    )
