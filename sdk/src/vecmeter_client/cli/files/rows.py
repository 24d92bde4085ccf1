"""What a file holds, row by row: vectors as the API takes them, and what is wrong with those that are none."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Protocol

FIELDS = ("id", "vector", "document", "metadata", "namespace", "expires_at")


@dataclass(frozen=True, slots=True)
class Position:
    """Where a row ends: ``offset`` in bytes (text) or rows (Parquet), ``number`` of the line or row it ends at.

    ``digest`` is that of all bytes up to there, of a Parquet file that of all there are.
    """

    offset: int
    number: int
    digest: str


@dataclass(frozen=True, slots=True)
class Row:
    """A vector with the fields of ``FIELDS``; ``number`` is that of its line (text) or row (Parquet), from 1."""

    number: int
    vector: dict[str, Any]
    raw: bytes


@dataclass(frozen=True, slots=True)
class FaultyRow:
    """A row that is no vector."""

    number: int
    fault: str
    raw: bytes


class Source(Protocol):
    """A file being read; ``size`` is what ``position.offset`` ends at, where that is known, in ``unit``s.

    ``word`` is what a row is called.
    """

    size: int | None
    unit: str
    word: str

    @property
    def position(self) -> Position:
        """Where the last row that was read ends."""

    def rows(self) -> Iterator[Row | FaultyRow]:
        """What comes after ``position``."""

    def skip_to(self, *positions: Position) -> Position | None:
        """Go to the first of the positions, which ascend.

        Returns the one up to which the file is not what it was, if there is one; nothing can be read then.
        """

    def header_of_faulty(self) -> bytes:
        """What a file of this format with the rows that were left out begins with."""

    def close(self) -> None: ...


class FileError(Exception):
    """A file cannot be read or written as asked, with the reason; for the whole of it, not for a row."""


def fault_of(vector: Mapping[str, Any]) -> str | None:
    """Why a row is no vector, as far as that can be told without the collection."""
    if unknown := vector.keys() - set(FIELDS):
        return f"has the field {min(unknown)!r}; there are {', '.join(FIELDS)}"
    if not isinstance(vector.get("id"), str) or not vector["id"]:
        return "id: must be a text that is not empty" if "id" in vector else "id: is missing"
    if vector.get("vector") is None and vector.get("document") is None:
        return "has neither vector nor document"
    for name in ("document", "namespace", "expires_at"):
        if not isinstance(vector.get(name), str | None):
            return f"{name}: must be a text"
    if not isinstance(vector.get("metadata"), dict | None):
        return "metadata: must be an object"
    return _fault_of_numbers(vector.get("vector"))


def _fault_of_numbers(numbers: Any) -> str | None:
    if numbers is None or isinstance(numbers, str):  # base64, which the service checks
        return None
    # A set of types: a loop over the numbers would take as long as parsing them did.
    if not isinstance(numbers, list) or not set(map(type, numbers)) <= {int, float}:
        return "vector: must be a list of numbers, or base64"
    return None if numbers else "vector: is empty"


def parse_json(text: str | bytes) -> Any:
    """Raises ValueError, which says what is wrong; NaN and Infinity are no JSON."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8") from None
    except RecursionError:
        raise ValueError("is nested too deep") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error.msg} at column {error.colno}") from None


def _refuse(constant: str) -> Any:
    raise ValueError(f"is not JSON: {constant} is no JSON number")


def as_json(value: Any, path: str) -> Any:
    """The value as JSON has it: moments as ISO 8601. Raises ValueError for what JSON has no word for."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        raise ValueError(f"{path}: is {value}, which is no JSON number")
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, dict):
        return {str(name): as_json(part, f"{path}.{name}") for name, part in value.items()}
    if isinstance(value, list):
        return [as_json(part, f"{path}.{index}") for index, part in enumerate(value)]
    raise ValueError(f"{path}: is of the type {type(value).__name__}, which JSON does not have")
