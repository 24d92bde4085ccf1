"""Parquet, read a batch of rows at a time; positions are rows. Needs pyarrow, the extra ``parquet``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vecmeter_client.cli.files.pyarrow_import import pyarrow_parquet
from vecmeter_client.cli.files.rows import FIELDS, FaultyRow, FileError, Position, Row, as_json, fault_of, parse_json
from vecmeter_client.cli.files.text_source import Columns

_ROWS_AT_ONCE = 500


class Parquet:
    """Columns as in CSV, with types of their own; ``metadata`` is a struct, a map or JSON. Null is no value."""

    unit = " rows"
    word = "row"

    def __init__(self, path: Path, columns: Columns) -> None:
        pq = pyarrow_parquet()
        with path.open("rb") as file:
            self._digest = hashlib.file_digest(file, "sha256").hexdigest()
        try:
            self._file = pq.ParquetFile(path)
        except (OSError, ValueError) as error:  # pyarrow's own errors are ValueErrors
            raise FileError(f"is not Parquet: {error}") from None
        self._columns = columns
        self._names: list[str] = self._file.schema_arrow.names
        columns.check(self._names)
        self.size: int | None = self._file.metadata.num_rows
        self._number = 0

    @property
    def position(self) -> Position:
        return Position(self._number, self._number, self._digest)

    def skip_to(self, *positions: Position) -> Position | None:
        if any(position.digest != self._digest for position in positions):
            return positions[-1]
        self._number = positions[0].offset
        return None

    def rows(self) -> Iterator[Row | FaultyRow]:
        try:
            yield from self._rows()
        except (OSError, ValueError) as error:  # damaged pages, text that is not UTF-8, moments Python has none for
            raise FileError(f"what comes after row {self._number} cannot be read: {error}") from error

    def _rows(self) -> Iterator[Row | FaultyRow]:
        groups, first = self._groups_from(self._number)
        wanted = [name for name in self._names if name not in self._columns.ignored]
        start = self._number
        for batch in self._file.iter_batches(_ROWS_AT_ONCE, row_groups=groups, columns=wanted):
            if first + batch.num_rows > start:
                for cells in batch.slice(max(start - first, 0)).to_pylist():
                    self._number += 1
                    yield self._row(self._number, cells)
            first += batch.num_rows

    def _groups_from(self, row: int) -> tuple[list[int], int]:
        """The row groups that hold what comes after ``row`` rows, and how many rows are before them."""
        metadata = self._file.metadata
        before, group = 0, 0
        while group < metadata.num_row_groups and before + metadata.row_group(group).num_rows <= row:
            before += metadata.row_group(group).num_rows
            group += 1
        return list(range(group, metadata.num_row_groups)), before

    def _row(self, number: int, cells: dict[str, Any]) -> Row | FaultyRow:
        try:
            vector = self._vector({name: cell for name, cell in cells.items() if cell is not None})
        except ValueError as error:
            return FaultyRow(number, str(error), _raw(cells))
        fault = fault_of(vector)
        return FaultyRow(number, fault, _raw(cells)) if fault else Row(number, vector, b"")

    def _vector(self, cells: dict[str, Any]) -> dict[str, Any]:
        columns = self._columns
        taken = {*columns.metadata, *columns.vector}
        vector: dict[str, Any] = {name: cells[name] for name in FIELDS if name in cells and name not in taken}
        if "expires_at" in vector:
            vector["expires_at"] = as_json(vector["expires_at"], "expires_at")
        if columns.vector:
            vector["vector"] = [cells.get(name) for name in columns.vector]
        fields = {field: as_json(cell, name) for name, cell in cells.items() if (field := columns.field_of(name))}
        if "metadata" in vector:
            fields = _metadata(vector.pop("metadata")) | fields
        if fields:
            vector["metadata"] = fields
        return vector

    def header_of_faulty(self) -> bytes:
        return b""

    def close(self) -> None:
        self._file.close()


def _metadata(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        try:
            value = parse_json(value)
        except ValueError as error:
            raise ValueError(f"metadata: {error}") from None
    elif isinstance(value, list) and all(isinstance(pair, tuple) for pair in value):  # how pyarrow gives a map
        value = dict(value)
    elif isinstance(value, dict):  # rows of a struct all have all its fields; what one has not is null
        value = {name: part for name, part in value.items() if part is not None}
    if not isinstance(value, dict):
        raise ValueError("metadata: must be a struct, a map, or a JSON object")
    return {name: as_json(part, f"metadata.{name}") for name, part in value.items()}


def _raw(cells: dict[str, Any]) -> bytes:
    return json.dumps(cells, default=str, ensure_ascii=False).encode(errors="replace") + b"\n"
