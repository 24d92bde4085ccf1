"""``vecmeter projects``."""

from __future__ import annotations

import click

from vecmeter_client.cli.invocation import Group, Invocation, pass_invocation
from vecmeter_client.cli.parameters import confirm, yes_option

_COLUMNS = ("project_id", "user_id", "name", "created_at")


@click.group(cls=Group)
def projects() -> None:
    """Projects: the spaces of tenants. Takes a key with the role admin."""


@projects.command("create")
@click.argument("project_id")
@click.option("--user", required=True, metavar="ID", help="Whose it is.")
@click.option("--name", metavar="TEXT", help="For people.")
@pass_invocation
def create(invocation: Invocation, /, project_id: str, user: str, name: str | None) -> None:
    """Create a project."""
    invocation.out.document(invocation.client().admin.projects.create(project_id, user_id=user, name=name))


@projects.command("list")
@click.option("--user", metavar="ID", help="Only this user's.")
@pass_invocation
def list_projects(invocation: Invocation, /, user: str | None) -> None:
    """List projects."""
    invocation.out.items(invocation.client().admin.projects.list(user_id=user), _COLUMNS)


@projects.command("get")
@click.argument("project_id")
@pass_invocation
def get(invocation: Invocation, /, project_id: str) -> None:
    """Show a project."""
    invocation.out.document(invocation.client().admin.projects.get(project_id))


@projects.command("update")
@click.argument("project_id")
@click.option("--name", required=True, metavar="TEXT", help="The new name; empty takes it away.")
@pass_invocation
def update(invocation: Invocation, /, project_id: str, name: str) -> None:
    """Change a project's name."""
    invocation.out.document(invocation.client().admin.projects.update(project_id, name=name or None))


@projects.command("delete")
@click.argument("project_id")
@yes_option
@pass_invocation
def delete(invocation: Invocation, /, project_id: str, yes: bool) -> None:
    """Delete a project that has neither keys nor collections left."""
    confirm(f"Delete the project {project_id}?", yes=yes)
    invocation.client().admin.projects.delete(project_id)
    invocation.out.document({"status": "ok"}, human=f"Deleted the project {project_id}.")
