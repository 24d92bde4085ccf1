"""Filters as Pinecone's clients write them, in terms of our own (docs/filters.md).

A record whose field is a list takes on each of its elements with them: ``$has``, where ours compares lists as a whole.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from vecmeter.http.checks import invalid
from vecmeter.vectors.checks import unstorable

# Of one $in or $nin.
MAX_LIST = 10_000
# So that what becomes of it is within the nesting of our own.
MAX_DEPTH = 7
# Of a value, or of a field's name, in what is said of it.
_SHOWN = 100


def native_filter(filter: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What the filter of a request is in our language. ``{}`` and None let everything through, and stay what they are.

    Raises:
        InvalidRequestError: naming the path of what is no filter of theirs.
    """
    if filter is None:
        return None
    return _joined(filter, "filter", 1) if filter else {}


def _joined(filter: Any, path: str, depth: int) -> dict[str, Any]:
    if not isinstance(filter, Mapping) or not filter:
        raise invalid(path, "must be an object that is not empty")
    if depth > MAX_DEPTH:
        raise invalid(path, f"is nested deeper than {MAX_DEPTH} levels")
    conditions = list(_conditions(filter, path, depth))
    return conditions[0] if len(conditions) == 1 else {"$and": conditions}


def _conditions(filter: Mapping[str, Any], path: str, depth: int) -> Iterator[dict[str, Any]]:
    for name, value in filter.items():
        at = f"{path}.{name[:_SHOWN]}"
        if name in ("$and", "$or"):
            if not isinstance(value, list) or not value:
                raise invalid(at, "must be a list of filters that is not empty")
            parts = [_joined(part, f"{at}.{index}", depth + 1) for index, part in enumerate(value)]
            yield {name: parts}
        elif name.startswith("$"):
            raise invalid(at, "is no operator on filters; known: $and, $or")
        elif fault := unstorable(name):
            raise invalid(at, fault)
        elif isinstance(value, Mapping):
            if not value:
                raise invalid(at, "must be an object of comparisons that is not empty")
            yield from (_comparison(name, operator, operand, at) for operator, operand in value.items())
        else:
            yield _comparison(name, "$eq", value, at, implied=True)


def _comparison(field: str, operator: str, value: Any, path: str, *, implied: bool = False) -> dict[str, Any]:
    at = path if implied else f"{path}.{operator[:_SHOWN]}"
    if operator not in _OPERATORS:
        raise invalid(at, f"is no operator on fields; known: {', '.join(_OPERATORS)}")
    wanted, is_one, native = _OPERATORS[operator]
    if not is_one(value):
        raise invalid(at, f"the {operator} operator must be followed by {wanted}, got {_shown(value)} instead")
    if isinstance(value, list) and len(value) > MAX_LIST:
        raise invalid(at, f"has {len(value)} values; at most {MAX_LIST} are allowed")
    if fault := unstorable(value):
        raise invalid(at, fault)
    return {field: native(value)}


def _is_scalar(value: Any) -> bool:
    return type(value) in (str, bool, int, float)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _is_list(value: Any) -> bool:
    return isinstance(value, list) and (all(map(_is_number, value)) or all(type(item) is str for item in value))


def _is_boolean(value: Any) -> bool:
    return isinstance(value, bool)


def _has(value: Any) -> dict[str, Any]:
    return {"$has": value}


def _has_not(value: Any) -> dict[str, Any]:
    return {"$not": {"$has": value}}


def _same(operator: str) -> Callable[[Any], dict[str, Any]]:
    return lambda value: {operator: value}


_SCALAR = ("a string, boolean or a number", _is_scalar)
_NUMBER = ("a number", _is_number)
_LIST = ("a list of strings or a list of numbers", _is_list)

# What an operator must be followed by, as text and as a test, and what becomes of it.
_OPERATORS: Mapping[str, tuple[str, Callable[[Any], bool], Callable[[Any], dict[str, Any]]]] = {
    "$eq": (*_SCALAR, _has),
    "$ne": (*_SCALAR, _has_not),
    "$gt": (*_NUMBER, _same("$gt")),
    "$gte": (*_NUMBER, _same("$gte")),
    "$lt": (*_NUMBER, _same("$lt")),
    "$lte": (*_NUMBER, _same("$lte")),
    "$in": (*_LIST, _has),
    "$nin": (*_LIST, _has_not),
    "$exists": ("a boolean", _is_boolean, _same("$exists")),
}


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
