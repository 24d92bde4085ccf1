"""``vecmeter export``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from vecmeter_client import Collection, StoredVector, to_dict
from vecmeter_client.cli.files.formats import FORMATS, delimiter_of, format_of
from vecmeter_client.cli.files.rows import FIELDS
from vecmeter_client.cli.files.sinks import open_sink
from vecmeter_client.cli.invocation import Command, Invocation, pass_invocation
from vecmeter_client.cli.output import counted
from vecmeter_client.cli.parameters import namespace_option

_PAGE = 500


@click.command(cls=Command)
@click.argument("collection")
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True, dir_okay=False))
@namespace_option
@click.option("--all-namespaces", is_flag=True, help="All there are, instead of one.")
@click.option("--prefix", default="", metavar="TEXT", help="Only ids that begin with it.")
@click.option("--no-vectors", is_flag=True, help="Without the numbers.")
@click.option(
    "--format", "file_format", type=click.Choice(FORMATS), help="Else by the file's suffix; JSON Lines to stdout."
)
@click.option("--delimiter", default=None, metavar="CHARACTER", help="Of CSV; else a comma, or the tab of .tsv.")
@click.option("--overwrite", is_flag=True, help="Replace FILE if it is there.")
@pass_invocation
def export(invocation: Invocation, /, collection: str, file: Path, **options: Any) -> None:
    """Export vectors of a COLLECTION to a JSON Lines, CSV or Parquet FILE, or to stdout (-)."""
    is_stdout = str(file) == "-"
    kind = options["file_format"] or format_of(file)
    if kind != "csv" and options["delimiter"] is not None:
        raise click.UsageError("--delimiter is of CSV.")
    if options["all_namespaces"] and options["namespace"]:
        raise click.UsageError("--namespace and --all-namespaces exclude each other.")
    if file.exists() and not is_stdout and not file.is_file():
        raise click.UsageError(f"{file} is no file that can be replaced; - is stdout.")
    if file.exists() and not is_stdout and not options["overwrite"]:
        raise click.UsageError(f"{file} is there already: say --overwrite.")
    found = invocation.collection(collection)
    names = [one.namespace for one in found.namespaces()] if options["all_namespaces"] else [options["namespace"]]
    total = found.describe().count if options["all_namespaces"] and not options["prefix"] else None
    columns = [name for name in FIELDS if name != "vector" or not options["no_vectors"]]
    count = 0
    hidden = invocation.out.is_json or is_stdout or not sys.stderr.isatty()
    with (
        open_sink(file, kind, columns, delimiter_of(file, options["delimiter"])) as sink,
        tqdm(total=total, unit=" vectors", desc=file.name, file=sys.stderr, disable=hidden) as bar,
    ):
        for vector in _vectors(found, names, options["prefix"]):
            sink.write(_row(vector, columns))
            count += 1
            bar.update()
    if not is_stdout:
        content = {"vectors": count, "file": str(file), "namespaces": names}
        invocation.out.document(content, human=f"Exported {counted(count, 'vector')} to {file}.")


def _vectors(collection: Collection, namespaces: list[str], prefix: str) -> Iterator[StoredVector]:
    for namespace in namespaces:
        yield from collection.export(namespace=namespace, prefix=prefix, page_size=_PAGE)


def _row(vector: StoredVector, columns: list[str]) -> dict[str, Any]:
    """As an import takes it: what the vector has not, and the default namespace, is left out."""
    row = {name: value for name, value in to_dict(vector).items() if name in columns}
    return {
        name: row[name]
        for name in columns
        if row.get(name) not in (None, {}) and (name, row[name]) != ("namespace", "")
    }
