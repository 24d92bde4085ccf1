"""Filters: a JSON predicate over metadata, compiled to SQL with parameters.

A filter is an object whose entries must all hold: ``{"field": value}``, ``{"field": {"$gt": value, ...}}``,
``{"$and": [filter, ...]}``, ``{"$or": [filter, ...]}``, ``{"$not": filter}``. What each operator asks for is in
``filter_operators``, and for users in docs/filters.md.

A comparison with a missing field is NULL in SQL. Every negation is therefore ``IS NOT TRUE``: so a filter is TRUE for
exactly what passes, however deep its negations are, and never mind whether it is false or NULL for the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

from vecmeter.errors import InvalidRequestError, Violation
from vecmeter.vectors.checks import unstorable
from vecmeter.vectors.filter_operators import OPERATORS, Comparison, Condition
from vecmeter.vectors.model import FieldType, FilterableField

MAX_DEPTH = 16
MAX_CONDITIONS = 256
# In all conditions together.
MAX_VALUES = 10_000
# Of a field's name in the path of what is wrong: names may be as long as requests.
_SHOWN = 100

# What holds of several filters, by the operator that takes a list of them.
_JOINED: Mapping[str, LiteralString] = {"$and": " AND ", "$or": " OR "}
_NOT = "$not"


@dataclass(frozen=True, slots=True)
class CompiledFilter:
    """An SQL expression over ``r.metadata`` that is TRUE for what passes, and NULL or false for all else.

    ``parameters``: the values of its named parameters ``filter_0``, ...
    """

    expression: LiteralString
    parameters: dict[str, Any]


def compile_filter(filter: Mapping[str, Any] | None, fields: Sequence[FilterableField] = ()) -> CompiledFilter | None:
    """The SQL of a filter; None for one that lets everything through: None and ``{}``.

    ``fields``: those the collection declares filterable; how they are compared is what their indexes answer.

    Raises:
        InvalidRequestError: naming the path of what is wrong.
    """
    if not filter:
        return None
    return _Compilation(fields).compile(filter)


class _Compilation:
    """One filter on its way to SQL: the parameters, and the number of conditions and values so far."""

    def __init__(self, fields: Sequence[FilterableField]) -> None:
        self._types: dict[str, FieldType] = {field.field: field.type for field in fields}
        self._parameters: dict[str, Any] = {}
        self._conditions = 0
        self._values = 0

    def compile(self, filter: Mapping[str, Any]) -> CompiledFilter:
        return CompiledFilter(self._filter(filter, "filter", 1), self._parameters)

    def _filter(self, filter: Any, path: str, depth: int) -> LiteralString:
        if not isinstance(filter, Mapping) or not filter:
            raise _invalid(path, "must be an object that is not empty")
        if depth > MAX_DEPTH:
            raise _invalid(path, f"is nested deeper than {MAX_DEPTH} levels")
        return _joined(" AND ", self._entries(filter, path, depth))

    def _entries(self, filter: Mapping[str, Any], path: str, depth: int) -> Iterator[LiteralString]:
        for name, value in filter.items():
            at = f"{path}.{name[:_SHOWN]}"
            if name in _JOINED:
                if not isinstance(value, list) or not value:
                    raise _invalid(at, "must be a list of filters that is not empty")
                parts = (self._filter(part, f"{at}.{index}", depth + 1) for index, part in enumerate(value))
                yield _joined(_JOINED[name], parts)
            elif name == _NOT:
                yield _negated(self._filter(value, at, depth + 1))
            elif name.startswith("$"):
                raise _invalid(at, f"is no operator on filters; known: {', '.join([*_JOINED, _NOT])}")
            elif isinstance(value, Mapping) and any(key.startswith("$") for key in value):
                yield self._comparisons(name, value, at, depth)
            else:
                yield self._condition("$eq", name, value, at)

    def _comparisons(self, field: str, comparisons: Any, path: str, depth: int) -> LiteralString:
        if not isinstance(comparisons, Mapping) or not comparisons:
            raise _invalid(path, "must be an object of comparisons that is not empty")
        if depth > MAX_DEPTH:
            raise _invalid(path, f"is nested deeper than {MAX_DEPTH} levels")
        parts = []
        for operator, value in comparisons.items():
            at = f"{path}.{operator[:_SHOWN]}"
            if operator == _NOT:
                parts.append(_negated(self._comparisons(field, value, at, depth + 1)))
            elif operator in OPERATORS:
                parts.append(self._condition(operator, field, value, at))
            else:
                raise _invalid(at, f"is no operator on fields; known: {', '.join([*OPERATORS, _NOT])}")
        return _joined(" AND ", parts)

    def _condition(self, name: str, field: str, value: Any, path: str) -> LiteralString:
        operator = OPERATORS[name]
        comparison = Comparison(field, self._types.get(field), value)
        if fault := unstorable([field, value]) or operator.refuses(comparison):
            raise _invalid(path, fault)
        self._count(value)
        expression = self._with_parameters(operator.compile(comparison), field)
        return _negated(expression) if operator.negated else expression

    def _count(self, value: Any) -> None:
        """Before it is compiled: a request has room for a hundred thousand conditions."""
        self._conditions += 1
        self._values += len(value) if isinstance(value, list) else 1
        if self._conditions > MAX_CONDITIONS:
            raise _invalid("filter", f"has more than {MAX_CONDITIONS} conditions")
        if self._values > MAX_VALUES:
            raise _invalid("filter", f"has more than {MAX_VALUES} values")

    def _with_parameters(self, condition: Condition, field: str) -> LiteralString:
        expression = condition.expression.replace("[metadata]", "r.metadata")
        if "[field]" in expression:
            expression = expression.replace("[field]", self._parameter(field) + "::text")
        for value in condition.values:
            expression = expression.replace("[value]", self._parameter(value), 1)
        return "(" + expression + ")"

    def _parameter(self, value: Any) -> LiteralString:
        name = f"filter_{len(self._parameters)}"
        self._parameters[name] = value
        return f"%({name})s"


def _joined(operator: LiteralString, parts: Iterable[LiteralString]) -> LiteralString:
    whole = list(parts)
    return whole[0] if len(whole) == 1 else "(" + operator.join(whole) + ")"


def _negated(expression: LiteralString) -> LiteralString:
    return "(" + expression + " IS NOT TRUE)"


def _invalid(path: str, message: str) -> InvalidRequestError:
    return InvalidRequestError(f"{path} {message}.", (Violation(path, message),))
