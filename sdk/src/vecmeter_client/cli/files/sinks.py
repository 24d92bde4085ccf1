"""Writing vectors to a file, so that the file is there when it is complete and not before."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from vecmeter_client import VecmeterError
from vecmeter_client.cli.files.rows import FIELDS, FileError

_ROWS_AT_ONCE = 500


class Sink(Protocol):
    def write(self, vector: Mapping[str, Any]) -> None:
        """A vector with some of the fields of ``FIELDS``; ``vector`` is a list of numbers."""

    def end(self) -> None:
        """All are written."""


class _JsonLinesSink:
    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, vector: Mapping[str, Any]) -> None:
        self._file.write(_json(vector).encode() + b"\n")

    def end(self) -> None: ...


class _CsvSink:
    """Numbers and metadata as JSON; what a vector has not is an empty cell."""

    def __init__(self, file: BinaryIO, columns: Sequence[str], delimiter: str) -> None:
        self._file = file
        self._columns = columns
        self._delimiter = delimiter
        self._row(columns)

    def write(self, vector: Mapping[str, Any]) -> None:
        if vector.get("document") == "":
            raise FileError(f"the document of {vector['id']!r} is an empty text, which CSV cannot tell from none")
        self._row([self._cell(vector.get(column)) for column in self._columns])

    def _cell(self, value: Any) -> str:
        if value is None:
            return ""
        return value if isinstance(value, str) else _json(value)

    def _row(self, cells: Sequence[str]) -> None:
        text = io.StringIO()
        csv.writer(text, delimiter=self._delimiter, lineterminator="\n").writerow(cells)
        self._file.write(text.getvalue().encode())

    def end(self) -> None: ...


class _ParquetSink:
    """Numbers as a list of float32, metadata as JSON."""

    def __init__(self, file: BinaryIO, columns: Sequence[str]) -> None:
        from vecmeter_client.cli.files.pyarrow_import import pyarrow, pyarrow_parquet

        self._pa = pa = pyarrow()
        kinds = {name: pa.string() for name in FIELDS} | {"vector": pa.list_(pa.float32())}
        self._schema = pa.schema([(name, kinds[name]) for name in columns])
        self._writer = pyarrow_parquet().ParquetWriter(file, self._schema)
        self._rows: list[dict[str, Any]] = []

    def write(self, vector: Mapping[str, Any]) -> None:
        row = {name: vector.get(name) for name in self._schema.names}
        if row.get("metadata") is not None:
            row["metadata"] = _json(row["metadata"])
        self._rows.append(row)
        if len(self._rows) == _ROWS_AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        self._writer.write_batch(self._pa.RecordBatch.from_pylist(self._rows, schema=self._schema))
        self._rows = []

    def end(self) -> None:
        if self._rows:
            self._flush()
        self._writer.close()


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


@contextmanager
def open_sink(path: Path, kind: str, columns: Sequence[str], delimiter: str) -> Iterator[Sink]:
    """A file that gets its name when the block ends well; after an error nothing of it is left.

    Raises:
        FileError: Parquet is to go to a pipe.
        OSError: it cannot be written.
    """
    if str(path) == "-":
        if kind == "parquet":
            raise FileError("Parquet is written to a file, not to a pipe")
        sink = _sink(sys.stdout.buffer, kind, columns, delimiter)
        yield sink
        sink.end()
        sys.stdout.buffer.flush()
        return
    path = path.resolve()  # of a link what it names is replaced, not the link
    part = path.with_name(f"{path.name}.part-{os.getpid()}")
    try:
        with part.open("xb") as file:
            sink = _sink(file, kind, columns, delimiter)
            yield sink
            sink.end()
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError) and not isinstance(error, VecmeterError) and error.filename is None:
            error.filename = str(path)  # a full disk names no file
        raise


def _sink(file: BinaryIO, kind: str, columns: Sequence[str], delimiter: str) -> Sink:
    if kind == "parquet":
        return _ParquetSink(file, columns)
    return _CsvSink(file, columns, delimiter) if kind == "csv" else _JsonLinesSink(file)
