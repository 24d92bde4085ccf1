"""The operators of filters: a row of ``OPERATORS`` for each, with the values it takes and what it becomes in SQL.

Types are never converted: a comparison with a field of another type is not true. In the SQL ``[field]`` stands for the
field's name, each ``[value]`` for the next of the condition's values; both become parameters.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import NoneType
from typing import Any, LiteralString

from vecmeter.vectors.field_indexes import INDEXED, NUMBER, TEXT, Ordered, is_within
from vecmeter.vectors.model import FieldType

MAX_LIST = 10_000
# Up to so many values are looked up in the index on all metadata, which is quick for rare ones. PostgreSQL compares
# what it finds there with one value after the other, and estimates each while it plans (docs/filters.md).
LOOKED_UP = 32

_SCALARS = (str, int, float, bool, NoneType)
_DATE = re.compile(r"\d{4}-\d\d-\d\d(T\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:\d\d)?)?", re.ASCII)

# @> is what the index on metadata answers.
_HAS: LiteralString = "[metadata] @> [value]::jsonb"
# For a list or an object @> also holds for a larger one.
_HAS_EXACTLY: LiteralString = _HAS + " AND [metadata] -> [field] = [value]::jsonb"
_HAS_ANY: LiteralString = "[metadata] @> ANY([value]::jsonb[])"
# PostgreSQL hashes a long list.
_IS_ANY: LiteralString = "[metadata] -> [field] = ANY([value]::jsonb[])"
_HAS_KEY: LiteralString = "[metadata] ? [field]"
# The elements of a field that is a list; of no other there are any.
_ANY_ELEMENT_IS: LiteralString = (
    "EXISTS (SELECT FROM jsonb_array_elements("
    "CASE WHEN jsonb_typeof([metadata] -> [field]) = 'array' THEN [metadata] -> [field] END"
    ") AS part (element) WHERE element = ANY([value]::jsonb[]))"
)
# The first half is for lists, and the index on metadata answers it. The other needs the index of a declared field to
# find the texts; without one, it reads them all.
_HAS_PART: LiteralString = (
    _HAS + " OR (" + TEXT.cut + " IS NOT NULL AND strpos([metadata] ->> [field], [value]::text) > 0)"
)


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a filter says of a field. ``type``: the one it is declared with, if it is."""

    field: str
    type: FieldType | None
    value: Any


@dataclass(frozen=True, slots=True)
class Condition:
    expression: LiteralString
    values: tuple[Any, ...]


def _equals(comparison: Comparison) -> Condition:
    value = comparison.value
    if _own_index(comparison.type, value):
        ordered = _ordered(value)
        return Condition(ordered.cut + " = [value]::" + ordered.type, (_parameter(value),))
    if isinstance(value, (list, Mapping)):
        return Condition(_HAS_EXACTLY, (_object(comparison.field, value), _json(value)))
    return Condition(_HAS, (_object(comparison.field, value),))


def _compares(sign: LiteralString) -> Callable[[Comparison], Condition]:
    def compile(comparison: Comparison) -> Condition:
        ordered = _ordered(comparison.value)
        held = ordered.cut if is_within(comparison.value) else ordered.whole
        return Condition(held + " " + sign + " [value]::" + ordered.type, (_parameter(comparison.value),))

    return compile


def _is_one_of(comparison: Comparison) -> Condition:
    own = [item for item in comparison.value if _own_index(comparison.type, item)]
    others = [item for item in comparison.value if not _own_index(comparison.type, item)]
    if not own:
        return _is_one_of_any(comparison.field, others)
    ordered = _ordered(own[0])
    among = Condition(ordered.cut + " = ANY([value]::" + ordered.type + "[])", ([_parameter(item) for item in own],))
    if not others:
        return among
    rest = _is_one_of_any(comparison.field, others)
    return Condition(among.expression + " OR " + rest.expression, among.values + rest.values)


def _is_one_of_any(field: str, values: list[Any]) -> Condition:
    texts = [_json(value) for value in values]
    if len(values) > LOOKED_UP:
        return Condition(_IS_ANY, (texts,))
    return Condition(_IS_ANY + " AND " + _HAS_ANY, (texts, [_object(field, value) for value in values]))


def _has(comparison: Comparison) -> Condition:
    is_list = isinstance(comparison.value, list)
    itself = _is_one_of(comparison) if is_list else _equals(comparison)
    element = _has_element(comparison.field, comparison.value if is_list else [comparison.value])
    own = INDEXED.get(comparison.type) if comparison.type else None
    # What a field's own index holds is no list: it says where there is none to be looked into.
    listed = element.expression if own is None else own.cut + " IS NULL AND " + element.expression
    return Condition("(" + itself.expression + ") OR (" + listed + ")", itself.values + element.values)


def _has_element(field: str, values: list[Any]) -> Condition:
    if len(values) > LOOKED_UP:
        return Condition(_ANY_ELEMENT_IS, ([_json(value) for value in values],))
    return Condition(_HAS_ANY, ([_object(field, [value]) for value in values],))


def _exists(comparison: Comparison) -> Condition:
    return Condition(_HAS_KEY if comparison.value else "NOT " + _HAS_KEY, ())


def _contains(comparison: Comparison) -> Condition:
    part = _object(comparison.field, [comparison.value])
    if isinstance(comparison.value, str):
        return Condition(_HAS_PART, (part, comparison.value))
    return Condition(_HAS, (part,))


@dataclass(frozen=True, slots=True)
class Operator:
    """``refuses`` says what is wrong with a value, if anything; ``negated``: it passes what ``compile`` does not."""

    compile: Callable[[Comparison], Condition]
    refuses: Callable[[Comparison], str | None]
    negated: bool = False


def _nothing(comparison: Comparison) -> None:
    return None


def _no_order(comparison: Comparison) -> str | None:
    if type(comparison.value) not in (str, int, float):
        return "must be a number or a string"
    if comparison.type is FieldType.DATE and type(comparison.value) is str and not _DATE.fullmatch(comparison.value):
        return "must be a date as in ISO 8601, like 2026-11-21 or 2026-11-21T09:30:00Z, for the field is declared so"
    return None


def _no_list(comparison: Comparison) -> str | None:
    if not isinstance(comparison.value, list):
        return "must be a list"
    if len(comparison.value) > MAX_LIST:
        return f"has {len(comparison.value)} values; at most {MAX_LIST} are allowed"
    if not all(type(item) in _SCALARS for item in comparison.value):
        return "must hold strings, numbers, booleans and null only"
    return None


def _no_list_or_scalar(comparison: Comparison) -> str | None:
    if isinstance(comparison.value, list):
        return _no_list(comparison)
    return (
        None if type(comparison.value) in _SCALARS else "must be a string, a number, a boolean, null or a list of these"
    )


def _no_boolean(comparison: Comparison) -> str | None:
    return None if isinstance(comparison.value, bool) else "must be true or false"


def _no_scalar(comparison: Comparison) -> str | None:
    return None if type(comparison.value) in _SCALARS else "must be a string, a number, a boolean or null"


OPERATORS: Mapping[str, Operator] = {
    "$eq": Operator(_equals, _nothing),
    "$ne": Operator(_equals, _nothing, negated=True),
    "$gt": Operator(_compares(">"), _no_order),
    "$gte": Operator(_compares(">="), _no_order),
    "$lt": Operator(_compares("<"), _no_order),
    "$lte": Operator(_compares("<="), _no_order),
    "$in": Operator(_is_one_of, _no_list),
    "$nin": Operator(_is_one_of, _no_list, negated=True),
    "$exists": Operator(_exists, _no_boolean),
    "$contains": Operator(_contains, _no_scalar),
    "$has": Operator(_has, _no_list_or_scalar),
}


def _ordered(value: Any) -> Ordered:
    return TEXT if isinstance(value, str) else NUMBER


def _own_index(declared: FieldType | None, value: Any) -> bool:
    """Whether the index of a field declared so answers which fields have this very value."""
    if declared is None or type(value) not in (str, int, float):
        return False
    return INDEXED.get(declared) is _ordered(value) and is_within(value)


def _parameter(value: Any) -> str:
    return value if isinstance(value, str) else _json(value)


def _object(field: str, value: Any) -> str:
    return _json({field: value})


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
