"""JSON Lines and CSV, read as a stream of lines whose bytes are counted and hashed on the way."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from vecmeter_client.cli.files.rows import FIELDS, FaultyRow, FileError, Position, Row, fault_of, parse_json

# A line is held in memory. A request ends at 6 MB; 16,000 numbers written out are 0.4 MB.
MAX_LINE_BYTES = 8 * 1024 * 1024
_CHUNK = 1024 * 1024
_BOM = b"\xef\xbb\xbf"
_JSON_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?")


class _Lines(Iterator[str]):
    """Lines of a file from where it stands; the bytes of those taken since ``begin`` are ``raw``."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.offset = 0
        self.number = 0
        self._taken: list[bytes] = []
        self.is_text = True

    def begin(self) -> None:
        self._taken, self.is_text = [], True

    @property
    def raw(self) -> bytes:
        return b"".join(self._taken)

    def __next__(self) -> str:
        line = self._file.readline(MAX_LINE_BYTES + 1)
        if not line:
            raise StopIteration
        if len(line) > MAX_LINE_BYTES:
            raise FileError(f"line {self.number + 1} is longer than {MAX_LINE_BYTES:,} bytes, the most a line may have")
        self._hash.update(line)
        if not self.offset:
            line, self.offset = line.removeprefix(_BOM), len(line)
        else:
            self.offset += len(line)
        self.number += 1
        self._taken.append(line)
        try:
            return line.decode()
        except UnicodeDecodeError:
            self.is_text = False
            return line.decode(errors="replace")

    @property
    def position(self) -> Position:
        return Position(self.offset, self.number, self._hash.hexdigest())

    def skip_to(self, *positions: Position) -> Position | None:
        """See ``Source.skip_to``."""
        copy = self._hash.copy()
        reached = self.offset
        for position in positions:
            while reached < position.offset and (chunk := self._file.read(min(_CHUNK, position.offset - reached))):
                copy.update(chunk)
                reached += len(chunk)
            if reached != position.offset or copy.hexdigest() != position.digest:
                return position
            if position is positions[0]:
                self._hash = copy.copy()
        self._file.seek(positions[0].offset)
        self.offset, self.number = positions[0].offset, positions[0].number
        return None


class JsonLines:
    """A JSON object per line; blank lines are passed over."""

    unit = "B"
    word = "line"

    def __init__(self, file: BinaryIO, size: int | None) -> None:
        self._file = file
        self.size = size
        self._lines = _Lines(file)

    @property
    def position(self) -> Position:
        return self._lines.position

    def skip_to(self, *positions: Position) -> Position | None:
        return self._lines.skip_to(*positions)

    def rows(self) -> Iterator[Row | FaultyRow]:
        while True:
            self._lines.begin()
            line = next(self._lines, None)
            if line is None:
                return
            if line.strip():
                yield self._row(line)

    def _row(self, line: str) -> Row | FaultyRow:
        number, raw = self._lines.number, self._lines.raw
        if not self._lines.is_text:
            return FaultyRow(number, "is not UTF-8", raw)
        try:
            vector = parse_json(line)
        except ValueError as error:
            return FaultyRow(number, str(error), raw)
        if not isinstance(vector, dict):
            return FaultyRow(number, "is not a JSON object", raw)
        fault = fault_of(vector)
        return FaultyRow(number, fault, raw) if fault else Row(number, vector, raw)

    def header_of_faulty(self) -> bytes:
        return b""

    def close(self) -> None:
        self._file.close()


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns of a table are what; of those not named here, ``FIELDS`` and ``metadata.*`` are known."""

    vector: Sequence[str] = ()
    metadata: Sequence[str] = ()
    ignored: Sequence[str] = ()
    infer_types: bool = False

    def check(self, header: Sequence[str]) -> None:
        """Raises FileError naming every column that is missing, unknown or there twice."""
        if twice := sorted({name for name in header if header.count(name) > 1}):
            raise FileError(f"the columns {', '.join(twice)} are there more than once")
        if missing := [name for name in (*self.vector, *self.metadata, *self.ignored) if name not in header]:
            raise FileError(f"there is no column {', '.join(missing)}; there are {', '.join(header)}")
        if "id" not in header:
            raise FileError(f"there is no column id; there are {', '.join(header)}")
        if self.vector and "vector" in header and "vector" not in (*self.vector, *self.metadata, *self.ignored):
            raise FileError(
                "there is a column vector beside --vector-columns: name it in --ignore-columns, or leave them out"
            )
        fields = [field for name in header if name not in self.ignored and (field := self.field_of(name))]
        if twice := sorted({field for field in fields if fields.count(field) > 1}):
            raise FileError(f"more than one column is the field {', '.join(twice)} of the metadata")
        if unknown := [name for name in header if not self._is_known(name)]:
            raise FileError(
                f"nothing is said of the columns {', '.join(unknown)}: known are {', '.join(FIELDS)} and metadata.*; "
                "name others in --metadata-columns, --vector-columns or --ignore-columns"
            )

    def _is_known(self, name: str) -> bool:
        named = (*FIELDS, *self.vector, *self.metadata, *self.ignored)
        return name in named or (name.startswith("metadata.") and name != "metadata.")

    def field_of(self, name: str) -> str | None:
        """The field of the metadata that a column is, if it is one."""
        if name in self.metadata:
            return name.removeprefix("metadata.")
        return name.removeprefix("metadata.") if name.startswith("metadata.") else None


class Csv:
    """Comma-separated values with a header; an empty cell is no value."""

    unit = "B"
    word = "line"

    def __init__(self, file: BinaryIO, size: int | None, columns: Columns, delimiter: str) -> None:
        self._file = file
        self.size = size
        self._columns = columns
        self._delimiter = delimiter
        self._lines = _Lines(file)
        csv.field_size_limit(MAX_LINE_BYTES)
        try:
            self._header = next(self._reader(), [])
        except csv.Error as error:
            raise FileError(f"the header is not CSV: {error}") from None
        if not self._lines.is_text:
            raise FileError("the header is not UTF-8")
        self._raw_header = self._lines.raw
        columns.check(self._header)

    def _reader(self) -> Iterator[list[str]]:
        return csv.reader(self._lines, delimiter=self._delimiter, strict=True)

    @property
    def position(self) -> Position:
        return self._lines.position

    def skip_to(self, *positions: Position) -> Position | None:
        return self._lines.skip_to(*positions)

    def rows(self) -> Iterator[Row | FaultyRow]:
        reader = self._reader()
        while True:
            self._lines.begin()
            number = self._lines.number + 1
            try:
                cells = next(reader, None)
            except csv.Error as error:
                yield FaultyRow(number, f"is not CSV: {error}", self._lines.raw)
                continue
            if cells is None:
                return
            if cells:
                yield self._row(number, cells)

    def _row(self, number: int, cells: list[str]) -> Row | FaultyRow:
        raw = self._lines.raw
        if not self._lines.is_text:
            return FaultyRow(number, "is not UTF-8", raw)
        if len(cells) != len(self._header):
            return FaultyRow(number, f"has {len(cells)} cells; the header has {len(self._header)}", raw)
        try:
            vector = self._vector({name: cell for name, cell in zip(self._header, cells, strict=True) if cell})
        except ValueError as error:
            return FaultyRow(number, str(error), raw)
        fault = fault_of(vector)
        return FaultyRow(number, fault, raw) if fault else Row(number, vector, raw)

    def _vector(self, cells: dict[str, str]) -> dict[str, Any]:
        columns = self._columns
        taken = {*columns.metadata, *columns.ignored, *columns.vector}
        vector: dict[str, Any] = {name: cells[name] for name in FIELDS if name in cells and name not in taken}
        if vector.get("vector", "").lstrip().startswith("["):
            vector["vector"] = _part(vector["vector"], "vector")
        if columns.vector:
            vector["vector"] = [_number(cells.get(name, ""), name) for name in columns.vector]
        fields = {field: self._value(cell) for name, cell in cells.items() if (field := self._field_of(name))}
        if "metadata" in vector:
            vector["metadata"] = _part(vector["metadata"], "metadata")
            if isinstance(vector["metadata"], dict):
                fields = vector["metadata"] | fields
        if fields:
            vector["metadata"] = fields
        return vector

    def _field_of(self, name: str) -> str | None:
        return None if name in self._columns.ignored else self._columns.field_of(name)

    def _value(self, cell: str) -> str | int | float | bool:
        if not self._columns.infer_types:
            return cell
        if cell in ("true", "false") or _JSON_NUMBER.fullmatch(cell):
            value: int | float | bool = json.loads(cell)
            return value
        return cell

    def header_of_faulty(self) -> bytes:
        return self._raw_header

    def close(self) -> None:
        self._file.close()


def _part(text: str, name: str) -> Any:
    try:
        return parse_json(text)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _number(cell: str, name: str) -> float:
    if not _JSON_NUMBER.fullmatch(cell):
        raise ValueError(f"{name}: {cell!r} is no number")
    return float(cell)
