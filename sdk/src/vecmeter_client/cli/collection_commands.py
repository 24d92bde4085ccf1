"""``vecmeter collections``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

from vecmeter_client import to_dict
from vecmeter_client._models import Metric
from vecmeter_client.cli.invocation import Group, Invocation, pass_invocation
from vecmeter_client.cli.output import counted
from vecmeter_client.cli.parameters import Function, confirm, named_once, yes_option

_COLUMNS = (
    "name",
    "dimension",
    "metric",
    "index.type",
    "index.state",
    "embedder.provider",
    "text_search",
    "created_at",
)
# Of a list the service does not tell them.
_TOLD_OF_ONE_ALONE = ("indexes", "namespaces", "usage")
_INDEX_FIELDS = {
    "index_type": "type",
    "m": "m",
    "ef_construction": "ef_construction",
    "storage": "storage",
    "ef_search": "ef_search",
}


def _filterable(text: str) -> dict[str, str]:
    field, _, kind = text.rpartition(":")
    if not field:
        raise click.BadParameter(f"{text!r} must read FIELD:TYPE, as in year:number")
    return {"field": field, "type": kind}


def _tag(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise click.BadParameter(f"{text!r} must read NAME=TEXT")
    return name, value


def _definition_options(function: Function) -> Function:
    """What can be said when a collection is created and changed later."""
    options: Sequence[Callable[[Function], Function]] = (
        click.option("--target-recall", type=float, metavar="SHARE", help="What searches ought to find: 0.95."),
        click.option(
            "--text-search", metavar="LANGUAGE", help="Keep the words of documents: english, german, simple, ..."
        ),
        click.option(
            "--filterable",
            type=_filterable,
            multiple=True,
            metavar="FIELD:TYPE",
            help="A field with an index of its own; several times.",
        ),
        click.option("--deletion-protection/--no-deletion-protection", default=None, help="Whether it can be deleted."),
        click.option("--tag", "tags", type=_tag, multiple=True, metavar="NAME=TEXT", help="For people; several times."),
        click.option("--index", "index_type", type=click.Choice(["hnsw", "none"]), help="Kind of index."),
        click.option("--m", type=int, metavar="N", help="Links per node of the index."),
        click.option("--ef-construction", type=int, metavar="N", help="Candidates while building."),
        click.option("--storage", type=click.Choice(["float", "half", "binary"]), help="What the index holds."),
        click.option("--ef-search", type=int, metavar="N", help="Candidates of searches that name none."),
    )
    for option in reversed(options):
        function = option(function)
    return function


def _index(options: dict[str, Any]) -> dict[str, Any] | None:
    named = {field: options.pop(name) for name, field in _INDEX_FIELDS.items()}
    return {field: value for field, value in named.items() if value is not None} or None


@click.group(cls=Group)
def collections() -> None:
    """Collections of --project: named sets of vectors with one dimension and metric."""


@collections.command("create")
@click.argument("name")
@click.option(
    "--dimension", type=click.IntRange(min=1), metavar="N", help="May be left out where an embedder knows it."
)
@click.option("--metric", type=click.Choice(["cosine", "l2", "inner_product"]), default="cosine", show_default=True)
@click.option("--embedder", metavar="PROVIDER[:MODEL]", help="Makes vectors of documents: built-in, bedrock, none.")
@_definition_options
@pass_invocation
def create(
    invocation: Invocation, /, name: str, dimension: int | None, metric: Metric, embedder: str | None, **options: Any
) -> None:
    """Create a collection."""
    provider, _, model = (embedder or "").partition(":")
    created = invocation.project().create_collection(
        name,
        dimension=dimension,
        metric=metric,
        index=_index(options),
        embedder={"provider": provider} | ({"model": model} if model else {}) if embedder else None,
        text_search=options["text_search"],
        filterable=list(options["filterable"]),
        target_recall=options["target_recall"],
        deletion_protection=bool(options["deletion_protection"]),
        tags=named_once(options["tags"]) or None,
    )
    invocation.out.document(created)


@collections.command("list")
@pass_invocation
def list_collections(invocation: Invocation, /) -> None:
    """List collections."""
    found = map(to_dict, invocation.project().collections())
    invocation.out.items(
        ({name: value for name, value in one.items() if name not in _TOLD_OF_ONE_ALONE} for one in found), _COLUMNS
    )


@collections.command("describe")
@click.argument("name")
@pass_invocation
def describe(invocation: Invocation, /, name: str) -> None:
    """Show a collection: definition, exact count, bytes, indexes, largest namespaces."""
    invocation.out.document(invocation.collection(name).describe())


@collections.command("change")
@click.argument("name")
@_definition_options
@click.option("--no-text-search", is_flag=True, help="Keep no words any more.")
@click.option("--no-filterable", is_flag=True, help="No field has an index of its own any more.")
@pass_invocation
def change(invocation: Invocation, /, name: str, no_text_search: bool, no_filterable: bool, **options: Any) -> None:
    """Change a collection; what is not named stays. --filterable and --tag name all of them anew. Indexes follow."""
    if no_text_search and options["text_search"]:
        raise click.UsageError("--text-search and --no-text-search exclude each other.")
    if no_filterable and options["filterable"]:
        raise click.UsageError("--filterable and --no-filterable exclude each other.")
    names = ("target_recall", "text_search", "deletion_protection")
    fields: dict[str, Any] = {"index": _index(options), "tags": named_once(options["tags"]) or None}
    fields |= {name: options[name] for name in names}
    fields = {field: value for field, value in fields.items() if value is not None}
    if no_text_search:
        fields["text_search"] = None
    if no_filterable or options["filterable"]:
        fields["filterable"] = list(options["filterable"])
    if not fields:
        raise click.UsageError("Nothing to change was named.")
    invocation.out.document(invocation.collection(name).change(**fields))


@collections.command("delete")
@click.argument("name")
@yes_option
@pass_invocation
def delete(invocation: Invocation, /, name: str, yes: bool) -> None:
    """Delete a collection with all its vectors."""
    confirm(f"Delete the collection {name} and all its vectors?", yes=yes)
    invocation.project().delete_collection(name)
    invocation.out.document({"status": "ok"}, human=f"Deleted the collection {name}.")


@collections.command("namespaces")
@click.argument("name")
@pass_invocation
def namespaces(invocation: Invocation, /, name: str) -> None:
    """List the namespaces of a collection and how many vectors each has."""
    invocation.out.items(invocation.collection(name).namespaces(), ("namespace", "count"))


@collections.command("delete-namespace")
@click.argument("name")
@click.argument("namespace")
@yes_option
@pass_invocation
def delete_namespace(invocation: Invocation, /, name: str, namespace: str, yes: bool) -> None:
    """Delete a namespace of a collection with all its vectors."""
    confirm(f"Delete the namespace {namespace!r} of {name} and all its vectors?", yes=yes)
    deleted = invocation.collection(name).delete_namespace(namespace)
    content = {"namespace": namespace, "deleted": deleted}
    invocation.out.document(content, human=f"Deleted {counted(deleted, 'vector')}.")
