"""Which format a file is in, and what reads and writes it."""

from __future__ import annotations

import sys
from pathlib import Path

from vecmeter_client.cli.files.rows import FileError, Source
from vecmeter_client.cli.files.text_source import Columns, Csv, JsonLines

FORMATS = ("jsonl", "csv", "parquet")
_SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}


def format_of(path: Path) -> str:
    """By the suffix; of stdin and stdout JSON Lines. Raises FileError."""
    if str(path) == "-":
        return "jsonl"
    try:
        return _SUFFIXES[path.suffix.lower()]
    except KeyError:
        raise FileError(f"{path}: the suffix tells no format: {', '.join(_SUFFIXES)}; name one with --format") from None


def delimiter_of(path: Path, given: str | None) -> str:
    """Raises FileError for one that is not a single character."""
    delimiter = given if given is not None else ("\t" if path.suffix.lower() == ".tsv" else ",")
    if delimiter == "\\t":
        return "\t"
    if len(delimiter) != 1 or delimiter in '"\r\n':
        raise FileError(f"--delimiter must be a single character other than a quote or a line's end, not {delimiter!r}")
    return delimiter


def open_source(path: Path, kind: str, columns: Columns, delimiter: str | None) -> Source:
    """The file, ready to be read from its first row on.

    Raises:
        FileError: it is not of this format, its columns are not what they should be, or an option is of another format.
        OSError: it cannot be opened.
    """
    if kind == "jsonl" and columns != Columns():
        raise FileError("columns are of CSV and Parquet; JSON Lines have none")
    if kind != "csv" and (delimiter is not None or columns.infer_types):
        raise FileError(f"--delimiter and --infer-types are of CSV; {path} is {kind}")
    is_stdin = str(path) == "-"
    if kind == "parquet":
        from vecmeter_client.cli.files.parquet_source import Parquet  # loads pyarrow

        if is_stdin or (path.exists() and not path.is_file()):
            raise FileError("Parquet is read from a file, not from a pipe")
        return Parquet(path, columns)
    file = sys.stdin.buffer if is_stdin else path.open("rb")
    try:
        size = path.stat().st_size if not is_stdin and path.is_file() else None
        if kind == "csv":
            return Csv(file, size, columns, delimiter_of(path, delimiter))
        return JsonLines(file, size)
    except BaseException:
        file.close()
        raise
