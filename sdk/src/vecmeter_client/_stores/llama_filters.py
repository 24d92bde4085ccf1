"""LlamaIndex's metadata filters in Vecmeter's filter language (docs/filters.md)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from llama_index.core.vector_stores.types import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters

from vecmeter_client.errors import InvalidInputError

Filter = Mapping[str, Any]


def _has_any(key: str, values: list[Any]) -> Filter:
    return {"$or": [{key: {"$contains": value}} for value in values]} if values else {key: {"$in": []}}


def _has_all(key: str, values: list[Any]) -> Filter:
    return {"$and": [{key: {"$contains": value}} for value in values]} if values else {key: {"$nin": []}}


def _is_empty(key: str, _: Any) -> Filter:
    return {"$or": [{key: {"$exists": False}}, {key: {"$in": [None, ""]}}, {key: {"$eq": []}}]}


def _by(operator: str) -> Callable[[str, Any], Filter]:
    return lambda key, value: {key: {operator: value}}


_OPERATORS: dict[FilterOperator, Callable[[str, Any], Filter]] = {
    FilterOperator.EQ: _by("$eq"),
    FilterOperator.NE: _by("$ne"),
    FilterOperator.GT: _by("$gt"),
    FilterOperator.GTE: _by("$gte"),
    FilterOperator.LT: _by("$lt"),
    FilterOperator.LTE: _by("$lte"),
    FilterOperator.IN: _by("$in"),
    FilterOperator.NIN: _by("$nin"),
    FilterOperator.CONTAINS: _by("$contains"),
    FilterOperator.TEXT_MATCH: _by("$contains"),
    FilterOperator.ANY: _has_any,
    FilterOperator.ALL: _has_all,
    FilterOperator.IS_EMPTY: _is_empty,
}
_LISTS = {FilterOperator.IN, FilterOperator.NIN, FilterOperator.ANY, FilterOperator.ALL}


def to_filter(filters: MetadataFilters | None) -> Filter | None:
    """The filter that lets the same through; None: everything. NOT lets through what none of its filters does.

    Raises:
        InvalidInputError: an operator has no equal here, takes a list and got none, or a group within is empty.
    """
    if filters is None or not filters.filters:
        return None
    return _group(filters)


def _group(filters: MetadataFilters) -> Filter:
    if not filters.filters:
        raise InvalidInputError("filters: a group within them is empty")
    each = [_group(one) if isinstance(one, MetadataFilters) else _single(one) for one in filters.filters]
    if filters.condition is FilterCondition.NOT:
        return {"$not": {"$or": each}}
    return {"$or" if filters.condition is FilterCondition.OR else "$and": each}


def _single(one: MetadataFilter) -> Filter:
    make = _OPERATORS.get(one.operator)
    if make is None:
        known = ", ".join(operator.value for operator in _OPERATORS)
        raise InvalidInputError(f"filters: {one.key}: there is no operator {one.operator.value}; there are {known}")
    if one.operator in _LISTS and not isinstance(one.value, list):
        raise InvalidInputError(f"filters: {one.key}: {one.operator.value} takes a list, not {one.value!r}")
    return make(one.key, one.value)
