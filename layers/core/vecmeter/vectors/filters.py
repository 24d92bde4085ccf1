"""Filters: a JSON predicate over metadata, compiled to SQL with parameters.

A filter is an object whose entries must all hold: ``{"field": value}``, ``{"field": {"$eq": value}}`` or
``{"$and": [filter, ...]}``. Comparison is strict about types: ``true`` is not 1 and ``"1"`` is not 1. A missing
field equals nothing, ``null`` neither.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, LiteralString

from vecmeter.errors import InvalidRequestError, Violation

MAX_DEPTH = 16
MAX_CONDITIONS = 256


@dataclass(frozen=True, slots=True)
class CompiledFilter:
    """A boolean SQL expression over ``r.metadata`` and the values of its named parameters ``filter_0``, ..."""

    expression: LiteralString
    parameters: dict[str, str]


@dataclass(frozen=True, slots=True)
class Condition:
    """One comparison; each ``%s`` of the expression stands for the next parameter."""

    expression: LiteralString
    parameters: tuple[str, ...]


def _equals(field: str, value: Any) -> Condition:
    wanted = json.dumps({field: value}, ensure_ascii=False, allow_nan=False)
    # @> is what the index on metadata answers; for a list or an object it also holds for a larger one.
    if isinstance(value, (list, dict)):
        exact = json.dumps(value, ensure_ascii=False, allow_nan=False)
        return Condition("r.metadata @> %s::jsonb AND r.metadata -> %s = %s::jsonb", (wanted, field, exact))
    return Condition("r.metadata @> %s::jsonb", (wanted,))


OPERATORS: Mapping[str, Callable[[str, Any], Condition]] = {"$eq": _equals}


def compile_filter(filter: Mapping[str, Any] | None) -> CompiledFilter | None:
    """The SQL of a filter; None for one that lets everything through.

    Raises:
        InvalidRequestError: naming the path of what is wrong.
    """
    if not filter:
        return None
    conditions = list(_conditions(filter, "filter", 1))
    if len(conditions) > MAX_CONDITIONS:
        raise _invalid("filter", f"has {len(conditions)} conditions; at most {MAX_CONDITIONS} are allowed")
    if not conditions:
        return None
    expression: LiteralString = " AND ".join([f"({condition.expression})" for condition in conditions])
    values = [value for condition in conditions for value in condition.parameters]
    names = [f"filter_{index}" for index in range(len(values))]
    for name in names:
        expression = expression.replace("%s", f"%({name})s", 1)
    return CompiledFilter(expression, dict(zip(names, values, strict=True)))


def _conditions(filter: Any, path: str, depth: int) -> Iterator[Condition]:
    if not isinstance(filter, Mapping):
        raise _invalid(path, "must be an object")
    if depth > MAX_DEPTH:
        raise _invalid(path, f"is nested deeper than {MAX_DEPTH} levels")
    for name, value in filter.items():
        if name == "$and":
            if not isinstance(value, list) or not value:
                raise _invalid(f"{path}.$and", "must be a list of filters that is not empty")
            for index, part in enumerate(value):
                yield from _conditions(part, f"{path}.$and.{index}", depth + 1)
        elif name.startswith("$"):
            raise _invalid(f"{path}.{name}", f"is not an operator known here; known: {_known()}")
        elif isinstance(value, Mapping) and any(key.startswith("$") for key in value):
            yield from _comparisons(name, value, f"{path}.{name}")
        else:
            yield _condition("$eq", name, value, f"{path}.{name}")


def _comparisons(field: str, comparisons: Mapping[str, Any], path: str) -> Iterator[Condition]:
    for operator, value in comparisons.items():
        if operator not in OPERATORS:
            raise _invalid(f"{path}.{operator}", f"is not an operator known here; known: {_known()}")
        yield _condition(operator, field, value, f"{path}.{operator}")


def _condition(operator: str, field: str, value: Any, path: str) -> Condition:
    try:
        condition = OPERATORS[operator](field, value)
        for text in condition.parameters:
            text.encode()
        has_nul = _has_nul([field, value])
    except (ValueError, RecursionError) as error:
        raise _invalid(path, "is not a JSON value, or is nested too deep") from error
    if has_nul:
        raise _invalid(path, "has a character U+0000, which PostgreSQL cannot keep")
    return condition


def _has_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\x00" in value
    if isinstance(value, Mapping):
        return any(_has_nul(key) or _has_nul(part) for key, part in value.items())
    return isinstance(value, list) and any(map(_has_nul, value))


def _known() -> str:
    return ", ".join(["$and", *OPERATORS])


def _invalid(path: str, message: str) -> InvalidRequestError:
    return InvalidRequestError(f"{path} {message}.", (Violation(path, message),))
