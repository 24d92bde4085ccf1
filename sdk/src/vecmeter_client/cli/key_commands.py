"""``vecmeter keys``."""

from __future__ import annotations

from typing import Any, cast

import click

from vecmeter_client import Policy
from vecmeter_client.cli.invocation import Group, Invocation, pass_invocation
from vecmeter_client.cli.parameters import assignment, confirm, named_once, yes_option

_COLUMNS = ("api_key_id", "name", "user_id", "project_id", "roles", "status", "last4", "expires_at")
_ONCE = "The secret is shown once; nobody can look it up."


@click.group(cls=Group)
def keys() -> None:
    """API keys. Takes a key with the role admin."""


@keys.command("create")
@click.option("--user", required=True, metavar="ID", help="Whose it is.")
@click.option("--no-project", is_flag=True, help="Instead of --project: a key for all projects of the user.")
@click.option(
    "--role",
    "roles",
    type=click.Choice(["search", "write", "admin"]),
    multiple=True,
    required=True,
    help="What it may; may be given several times.",
)
@click.option("--name", metavar="TEXT", help="For people.")
@click.option("--expires-at", metavar="MOMENT", help="ISO 8601 with an offset.")
@click.option(
    "--limit",
    "limits",
    type=assignment,
    metavar="NAME=VALUE",
    multiple=True,
    help="As in `quotas set`; may be given several times.",
)
@pass_invocation
def create(invocation: Invocation, /, user: str, no_project: bool, **options: Any) -> None:
    """Create a key of the project in --project. The secret is in the answer, once."""
    if no_project == (invocation.project_option is not None):
        raise click.UsageError("Give either --project ID or --no-project; the environment's project is not taken here.")
    created = invocation.client().admin.keys.create(
        user_id=user,
        project_id=invocation.project_option,
        roles=options["roles"],
        name=options["name"],
        expires_at=options["expires_at"],
        quota=cast(Policy, named_once(options["limits"])) or None,
    )
    invocation.out.document(created)
    invocation.out.note(_ONCE)


@keys.command("list")
@click.option("--user", metavar="ID", help="Only this user's.")
@pass_invocation
def list_keys(invocation: Invocation, /, user: str | None) -> None:
    """List keys; with --project only those of the project."""
    found = invocation.client().admin.keys.list(user_id=user, project_id=invocation.project_option)
    invocation.out.items(found, _COLUMNS)


@keys.command("get")
@click.argument("api_key_id")
@pass_invocation
def get(invocation: Invocation, /, api_key_id: str) -> None:
    """Show a key; never its secret."""
    invocation.out.document(invocation.client().admin.keys.get(api_key_id))


@keys.command("rotate")
@click.argument("api_key_id")
@click.option(
    "--grace",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="SECONDS",
    help="How long the old secret works on.",
)
@pass_invocation
def rotate(invocation: Invocation, /, api_key_id: str, grace: int) -> None:
    """Give a key a new secret. It is in the answer, once."""
    invocation.out.document(invocation.client().admin.keys.rotate(api_key_id, grace_seconds=grace))
    invocation.out.note(_ONCE)


@keys.command("revoke")
@click.argument("api_key_id")
@yes_option
@pass_invocation
def revoke(invocation: Invocation, /, api_key_id: str, yes: bool) -> None:
    """Revoke a key, for good."""
    confirm(f"Revoke the key {api_key_id} for good?", yes=yes)
    invocation.client().admin.keys.revoke(api_key_id)
    invocation.out.document({"status": "ok"}, human=f"Revoked {api_key_id}.")
