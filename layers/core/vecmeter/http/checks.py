"""What requests must keep within by the settings of this deployment, and what of JSON can be kept at all.

These run before a request is admitted: one that does not validate consumes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vecmeter.errors import InvalidRequestError, PayloadTooLargeError, Violation, first_of
from vecmeter.settings import Settings
from vecmeter.vectors.checks import has_nul
from vecmeter.vectors.filters import compile_filter
from vecmeter.vectors.model import FilterableField
from vecmeter.vectors.write_input import compact_json


def raise_if_any(violations: Sequence[Violation]) -> None:
    """Raises InvalidRequestError naming every path, unless there is none."""
    if violations:
        raise InvalidRequestError(first_of(violations), tuple(violations))


def invalid(path: str, message: str) -> InvalidRequestError:
    """The error for a request with this one fault."""
    return InvalidRequestError(f"{path}: {message}.", (Violation(path, message),))


def check_count(field: str, count: int, settings: Settings) -> None:
    """Raises PayloadTooLargeError for more vectors or ids than one request may have."""
    if count > settings.max_batch_vectors:
        raise PayloadTooLargeError(f"{field} has {count} items; at most {settings.max_batch_vectors} are allowed.")


def name_violations(names: Mapping[str, str | None], settings: Settings) -> Iterator[Violation]:
    """Ids and namespaces, by their paths, that are over their limit."""
    for path, name in names.items():
        size = len(name.encode()) if name else 0
        if size > settings.max_id_bytes:
            yield Violation(path, f"is {size} bytes long; at most {settings.max_id_bytes} are allowed")


def id_violations(ids: Sequence[str], path: str, settings: Settings) -> Iterator[Violation]:
    return name_violations({f"{path}.{index}": id for index, id in enumerate(ids)}, settings)


def length_violations(path: str, text: str | None, limit: int) -> Iterator[Violation]:
    if text is not None and len(text) > limit:
        yield Violation(path, f"has {len(text)} characters; at most {limit} are allowed")


def metadata_violations(metadata: Mapping[str, Any], path: str, limit: int) -> Iterator[Violation]:
    """Metadata over its limit, or with what JSON or PostgreSQL cannot hold."""
    try:
        text = compact_json(metadata)
        size = len(text.encode())
    except UnicodeEncodeError:
        yield Violation(path, "has a lone surrogate, which is not Unicode text")
        return
    except ValueError:
        yield Violation(path, "holds NaN or infinity, which JSON cannot keep")
        return
    if size > limit:
        yield Violation(path, f"is {size} bytes long; at most {limit} are allowed")
    elif "\\u0000" in text and has_nul(metadata):
        yield Violation(path, "has a character U+0000, which PostgreSQL cannot keep")


def filter_violations(filter: Mapping[str, Any] | None, fields: Sequence[FilterableField] = ()) -> Iterator[Violation]:
    """What is wrong with a filter; ``fields``: those the collection declares filterable, where it is known."""
    try:
        compile_filter(filter, fields)
    except InvalidRequestError as error:
        yield from error.violations
