"""``vecmeter import``."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from vecmeter_client import LimitExceededError, MissingRoleError, VecmeterError, to_dict
from vecmeter_client.cli.failures import StoppedError
from vecmeter_client.cli.files.formats import FORMATS, format_of, open_source
from vecmeter_client.cli.files.rows import FileError, Position, Source
from vecmeter_client.cli.files.text_source import Columns
from vecmeter_client.cli.import_journal import Journal, Tally, open_journal, without_journal
from vecmeter_client.cli.import_run import Import, SkippedRows, room_after, wait
from vecmeter_client.cli.invocation import Command, Invocation, pass_invocation
from vecmeter_client.cli.output import counted
from vecmeter_client.cli.parameters import comma_separated, namespace_option

_HOUR = 3600.0


@click.command("import", cls=Command)
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@click.argument("collection")
@namespace_option
@click.option(
    "--format", "file_format", type=click.Choice(FORMATS), help="Else by the file's suffix; JSON Lines of stdin."
)
@click.option(
    "--batch-size", type=click.IntRange(1, 1000), default=500, show_default=True, help="Vectors of a request."
)
@click.option(
    "--journal",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where to keep how far it came; else FILE.vecmeter-import.",
)
@click.option("--restart", is_flag=True, help="Begin anew, whatever was imported before.")
@click.option(
    "--skip-invalid",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write rows that are no vectors there and go on.",
)
@click.option(
    "--max-wait",
    type=click.FloatRange(min=0),
    default=_HOUR,
    metavar="SECONDS",
    help="Stop at a limit that has no room for longer; 3600 unless given.",
)
@click.option("--delimiter", default=None, metavar="CHARACTER", help="Of CSV; else a comma, or the tab of .tsv.")
@click.option(
    "--vector-columns",
    type=comma_separated,
    metavar="A,B,C",
    help="Tables: the columns that hold the numbers.",
)
@click.option(
    "--metadata-columns",
    type=comma_separated,
    metavar="A,B,C",
    help="Tables: columns that are metadata, beside metadata.*.",
)
@click.option("--ignore-columns", type=comma_separated, metavar="A,B,C", help="Tables: columns to pass over.")
@click.option("--infer-types", is_flag=True, help="CSV: metadata that reads like a number, true or false is one.")
@pass_invocation
def import_file(invocation: Invocation, /, file: Path, collection: str, **options: Any) -> None:
    """Import vectors from a JSON Lines, CSV or Parquet FILE, or from stdin (-).

    An import that was ended goes on where it stopped when the same command runs again: a file beside FILE keeps how far
    it came, and is deleted when it is done.
    """
    columns = Columns(
        vector=options["vector_columns"] or (),
        metadata=options["metadata_columns"] or (),
        ignored=options["ignore_columns"] or (),
        infer_types=options["infer_types"],
    )
    kind = options["file_format"] or format_of(file)
    reading = _Reading(file, kind, columns, options["delimiter"])
    if not reading.is_repeatable and (options["journal"] or options["restart"]):
        raise click.UsageError("What is read from a pipe cannot be gone on with: no --journal, no --restart.")
    target = _target(invocation, collection, options["max_wait"])
    target |= {"namespace": options["namespace"]} | reading.described()
    with closing(reading.open()) as source, _journal(reading, target, options) as journal:
        resumed = _go_to(source, journal, file)
        with (
            _display(invocation, source, file) as display,
            _skipped(options["skip_invalid"], source, journal) as skipped,
        ):
            run = Import(
                source=source,
                collection=invocation.collection(collection, max_retries=0),  # it waits by itself, and says so
                namespace=options["namespace"],
                batch_size=options["batch_size"],
                longest_wait=options["max_wait"],
                journal=journal,
                display=display,
                skipped=skipped,
            )
            try:
                tally = run.run()
            except (VecmeterError, StoppedError, FileError, OSError, KeyboardInterrupt) as error:
                error.add_note(_so_far(journal, reading))
                raise
        journal.finish()
    _show(invocation, tally, resumed, collection)


@dataclass(frozen=True, slots=True)
class _Reading:
    file: Path
    kind: str
    columns: Columns
    delimiter: str | None

    @property
    def is_repeatable(self) -> bool:
        return str(self.file) != "-" and (not self.file.exists() or self.file.is_file())

    def open(self) -> Source:
        return open_source(self.file, self.kind, self.columns, self.delimiter)

    def described(self) -> dict[str, Any]:
        return {
            "format": self.kind,
            "delimiter": self.delimiter,
            "vector_columns": self.columns.vector,
            "metadata_columns": self.columns.metadata,
            "ignore_columns": self.columns.ignored,
            "infer_types": self.columns.infer_types,
        }


def _target(invocation: Invocation, name: str, longest_wait: float) -> dict[str, Any]:
    """Which collection it is; one that was made anew since is another. Ends the import if there is none."""
    collection = invocation.collection(name)
    while True:
        try:
            created_at = collection.describe().created_at.isoformat()
        except MissingRoleError:  # a key that may only write cannot look
            created_at = None
        except LimitExceededError as error:
            wait(*room_after(error, longest_wait), lambda text: invocation.out.note(f"vecmeter: {text}"))
            continue
        return {"collection": f"{collection.project}/{name}", "created_at": created_at}


@contextmanager
def _journal(reading: _Reading, target: Mapping[str, Any], options: Mapping[str, Any]) -> Iterator[Journal]:
    if not reading.is_repeatable:
        yield without_journal()
        return
    path = options["journal"] or reading.file.with_name(reading.file.name + ".vecmeter-import")
    with closing(open_journal(path, target, restart=options["restart"])) as journal:
        yield journal


def _go_to(source: Source, journal: Journal, file: Path) -> Position | None:
    """Go to where the run before came to, if there was one, and return it.

    Raises:
        FileError: what was sent of the file is no longer what it says.
    """
    if journal.is_new:
        return None
    start = journal.done or source.position
    changed = source.skip_to(start, *([journal.sent] if journal.sent else []))
    if changed is not None:
        raise FileError(
            f"{file} has changed since its import began, within the {changed.number:,} {source.word}s that were sent; "
            "--restart imports it from its beginning"
        )
    return journal.done


@contextmanager
def _skipped(path: Path | None, source: Source, journal: Journal) -> Iterator[SkippedRows | None]:
    if path is None:
        yield None
        return
    with closing(SkippedRows(path, source, journal)) as skipped:
        yield skipped


class _Bar:
    """A bar on a terminal's stderr; nothing elsewhere, but for what is to be said."""

    def __init__(self, bar: tqdm[Any], *, quiet: bool) -> None:
        self._bar = bar
        self._quiet = quiet

    def moved(self, position: Position, tally: Tally) -> None:
        self._bar.update(position.offset - self._bar.n)
        self._bar.set_postfix_str(f"{tally.inserted + tally.updated:,} vectors", refresh=False)

    def note(self, text: str) -> None:
        if not self._quiet:
            tqdm.write(f"vecmeter: {text}", file=sys.stderr)


@contextmanager
def _display(invocation: Invocation, /, source: Source, file: Path) -> Iterator[_Bar]:
    is_hidden = invocation.out.is_json or not sys.stderr.isatty()
    bar = tqdm(
        total=source.size,
        initial=source.position.offset,
        unit=source.unit,
        unit_scale=True,
        desc=file.name,
        file=sys.stderr,
        disable=is_hidden,
    )
    with bar:
        yield _Bar(bar, quiet=invocation.out.is_json)


def _so_far(journal: Journal, reading: _Reading) -> str:
    tally = journal.tally
    said = f"imported so far: {counted(tally.inserted + tally.updated, 'vector')}"
    return f"{said}; the same command goes on from there" if reading.is_repeatable else said


def _show(invocation: Invocation, /, tally: Tally, resumed: Position | None, collection: str) -> None:
    content = {
        "inserted": tally.inserted,
        "updated": tally.updated,
        "skipped": tally.skipped,
        "resumed_after": resumed.number if resumed else None,
        "usage": to_dict(tally.usage),
    }
    total = tally.inserted + tally.updated
    human = (
        f"Imported {counted(total, 'vector')} into {collection}: {tally.inserted:,} inserted, {tally.updated:,} updated"
    )
    if tally.skipped:
        human += f", {tally.skipped:,} skipped"
    invocation.out.document(content, human=f"{human}; ${tally.usage.cost_usd:.6f}.")
