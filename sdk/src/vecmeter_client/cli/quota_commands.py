"""``vecmeter quotas``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import click

from vecmeter_client import Policy, PolicyReport, to_dict
from vecmeter_client._reports import Scope
from vecmeter_client.cli.invocation import Group, Invocation, pass_invocation
from vecmeter_client.cli.output import cell, table
from vecmeter_client.cli.parameters import assignment, confirm, named_once, yes_option

SCOPES = ("key", "project", "user", "system", "collection")
_SHOWN_APART = {"quotas", "effective", "scope", "id"}
_COLUMNS = ("scope", "limit", "used", "remaining", "percentage", "resets_at")

_scope = click.argument("scope", type=click.Choice(SCOPES))
_id = click.argument("scope_id", metavar="ID")


@click.group(cls=Group)
def quotas() -> None:
    """Limits and budgets: of keys, projects, users, the system, collections.

    The ID of the system is `system`, that of a collection PROJECT:COLLECTION.
    """


@quotas.command("own")
@pass_invocation
def own(invocation: Invocation, /) -> None:
    """Show what the key itself may still use."""
    report = invocation.client().quota()
    invocation.out.document(report, human=_human(to_dict(report)))


@quotas.command("get")
@_scope
@_id
@pass_invocation
def get(invocation: Invocation, /, scope: Scope, scope_id: str) -> None:
    """Show the limits of a scope and where they stand."""
    policy = invocation.client().admin.quotas.get(scope, scope_id)
    invocation.out.document(policy, human=_human(to_dict(policy)))


@quotas.command("set")
@_scope
@_id
@click.argument("assignments", type=assignment, nargs=-1, required=True, metavar="NAME=VALUE...")
@pass_invocation
def set_limits(invocation: Invocation, /, scope: Scope, scope_id: str, assignments: Sequence[tuple[str, Any]]) -> None:
    """Change limits of a scope; what is not named stays, `NAME=none` takes a limit away.

    \b
    vecmeter quotas set key key_abc daily_requests=1000 daily_cost_usd=0.5
    vecmeter quotas set user alice 'defaults={"key": {"requests_per_minute": 10}}'
    """
    named = named_once(assignments)
    admin = invocation.client().admin
    wanted = _own(admin.quotas.get(scope, scope_id)) | named
    wanted = {name: value for name, value in wanted.items() if value is not None}
    policy = admin.quotas.put(scope, scope_id, cast(Policy, wanted))
    invocation.out.document(policy, human=_human(to_dict(policy)))


@quotas.command("delete")
@_scope
@_id
@yes_option
@pass_invocation
def delete(invocation: Invocation, /, scope: Scope, scope_id: str, yes: bool) -> None:
    """Take all own limits of a scope away; those it inherits stay."""
    confirm(f"Take all limits of the {scope} {scope_id} away?", yes=yes)
    invocation.client().admin.quotas.delete(scope, scope_id)
    invocation.out.document({"status": "ok"}, human=f"The {scope} {scope_id} has no limits of its own now.")


def _own(report: PolicyReport) -> dict[str, Any]:
    """What the scope sets itself, as a PUT takes it; a collection knows limits alone."""
    limits = {name: value for name, value in report.limits.items() if value is not None}
    if report.scope == "collection":
        return limits
    others = {"active": report.active, "notes": report.notes, "defaults": report.defaults}
    return limits | {name: value for name, value in others.items() if value not in (None, {})}


def _human(policy: Mapping[str, Any]) -> str:
    """Its own settings, then where each limit stands, inherited ones among them."""
    own_settings = [
        (name, value) for name, value in policy.items() if name not in _SHOWN_APART and value not in (None, {})
    ]
    width = max((len(name) for name, _ in own_settings), default=0)
    lines = [f"{name.ljust(width)}  {cell(value)}" for name, value in own_settings]
    stands: Mapping[str, Mapping[str, Any]] = policy.get("quotas") or {}
    if stands:
        rows = [[name, *(cell(quota.get(column)) for column in _COLUMNS)] for name, quota in stands.items()]
        lines += ["", table(["limit", "of", *_COLUMNS[1:]], rows)]
    return "\n".join(lines).strip() or "No limits."
