"""``vecmeter maintenance``."""

from __future__ import annotations

from typing import Any

import click

from vecmeter_client import to_dict
from vecmeter_client.cli.failures import ExitCode
from vecmeter_client.cli.invocation import Group, Invocation, pass_invocation

_RUN_COLUMNS = ("run_id", "task", "status", "started_at", "finished_at", "project_id", "collection", "message")

_collection = click.option("--collection", metavar="NAME", help="Only this collection of --project.")


@click.group(cls=Group)
def maintenance() -> None:
    """What looks after the database and the ledger. Takes a system admin's key."""


@maintenance.command("stats")
@pass_invocation
def stats(invocation: Invocation, /) -> None:
    """Show versions, sizes, exact counts, connections, and the last day's requests."""
    invocation.out.document(invocation.client().admin.maintenance.stats())


@maintenance.command("runs")
@click.option("--task", metavar="NAME", help="Only of this task.")
@click.option(
    "--status", type=click.Choice(["running", "ok", "error", "interrupted"]), help="Only those that ended so."
)
@_collection
@pass_invocation
def runs(invocation: Invocation, /, task: str | None, status: str | None, collection: str | None) -> None:
    """List runs, newest first; with --project only those that did something for it."""
    found = invocation.client().admin.maintenance.runs(
        task=task, status=status, project_id=invocation.project_option, collection=collection
    )
    invocation.out.items(found, _RUN_COLUMNS)


@maintenance.command("start")
@click.argument("task")
@_collection
@click.option("--dry-run", is_flag=True, help="Say what would be done, and why.")
@click.option("--force", is_flag=True, help="Do it though no figure asks for it.")
@click.option("--month", metavar="YYYY-MM", help="Of export_usage.")
@click.option("--format", "file_format", type=click.Choice(["csv", "jsonl", "focus"]), help="Of export_usage.")
@pass_invocation
def start(invocation: Invocation, /, task: str, **options: Any) -> int:
    """Run a task now: vacuum_analyze, probe_recall, ... Exits with 1 when it ends in an error."""
    named = {
        "project_id": invocation.project_option,
        "collection": options["collection"],
        "dry_run": options["dry_run"] or None,
        "force": options["force"] or None,
        "month": options["month"],
        "format": options["file_format"],
    }
    given = {name: value for name, value in named.items() if value is not None}
    outcome = invocation.client().admin.maintenance.start(task, **given)
    invocation.out.document(outcome)
    return ExitCode.REFUSED if to_dict(outcome)["status"] == "error" else ExitCode.OK
