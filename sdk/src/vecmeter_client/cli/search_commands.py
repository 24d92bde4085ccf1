"""``vecmeter search`` and ``recall``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from vecmeter_client import to_dict
from vecmeter_client._models import Included
from vecmeter_client.cli.invocation import Command, Invocation, pass_invocation
from vecmeter_client.cli.output import at, cell, table
from vecmeter_client.cli.parameters import filter_option, namespace_option, numbers

_INCLUDABLE = ("metadata", "document", "vector")


@click.command(cls=Command)
@click.argument("collection")
@click.option("--text", metavar="TEXT", help="Search by a text.")
@click.option("--vector", type=numbers, metavar="NUMBERS", help="Search by numbers: a JSON list, or base64.")
@click.option("--id", "vector_id", metavar="ID", help="Search by a stored vector.")
@click.option("--top-k", type=click.IntRange(min=1), default=10, show_default=True, help="How many matches.")
@click.option("--offset", type=click.IntRange(min=0), default=0, help="Pass over the first ones.")
@filter_option
@namespace_option
@click.option(
    "--mode",
    type=click.Choice(["vector", "text", "hybrid"]),
    default="vector",
    show_default=True,
    help="By meaning, by words, by both.",
)
@click.option("--exact", is_flag=True, help="Compare with every vector.")
@click.option("--ef-search", type=int, metavar="N", help="Candidates in the index.")
@click.option("--min-score", type=float, metavar="SCORE", help="None below it.")
@click.option("--group-by", metavar="FIELD", help="The best of each value of a field of the metadata.")
@click.option(
    "--include", type=click.Choice(_INCLUDABLE), multiple=True, help="What to show; metadata and document unless given."
)
@click.option("--debug", "include_debug", is_flag=True, help="Show the plan, the candidates, the times.")
@pass_invocation
def search(invocation: Invocation, /, collection: str, condition: dict[str, Any] | None, **options: Any) -> None:
    """Search a collection by --text, --vector or --id."""
    by = [name for name in ("text", "vector", "vector_id") if options[name] is not None]
    if len(by) != 1 and not (options["mode"] == "hybrid" and len(by) == 2 and "text" in by):
        raise click.UsageError("Give one of --text, --vector and --id; with --mode hybrid --text and another.")
    shown: Sequence[Included] = options.pop("include") or ("metadata", "document")
    found = invocation.collection(collection).search(
        options.pop("vector"), id=options.pop("vector_id"), filter=condition, include=shown, **options
    )
    invocation.out.document(found, human=_human(to_dict(found), shown))


def _human(found: dict[str, Any], shown: Sequence[str]) -> str:
    columns = ["id", "score", *(name for name in _INCLUDABLE if name in shown)]
    text = table(columns, [[cell(at(match, column)) for column in columns] for match in found["matches"]])
    if debug := found.get("debug"):
        text += "\n\n" + "\n".join(f"{name}  {cell(value)}" for name, value in debug.items())
    return text


@click.command(cls=Command)
@click.argument("collection")
@click.option("--sample", type=click.IntRange(min=1), default=50, show_default=True, help="How many searches.")
@click.option("--top-k", type=click.IntRange(min=1), default=10, show_default=True, help="How many matches each.")
@click.option("--ef-search", type=int, metavar="N", help="Candidates in the index.")
@filter_option
@namespace_option
@pass_invocation
def recall(invocation: Invocation, /, collection: str, condition: dict[str, Any] | None, **options: Any) -> None:
    """Measure how much of what an exact search finds a search finds."""
    invocation.out.document(invocation.collection(collection).recall(filter=condition, **options))
