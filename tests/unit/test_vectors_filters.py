"""Filters become SQL whose text no value of theirs ever enters; wrong ones are refused by the path of what is wrong."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given

from tests.fixtures import filters
from vecmeter.errors import InvalidRequestError
from vecmeter.vectors.filter_operators import MAX_LIST, OPERATORS
from vecmeter.vectors.filters import MAX_CONDITIONS, MAX_DEPTH, MAX_VALUES, compile_filter
from vecmeter.vectors.model import FieldType, FilterableField

# All that a filter's SQL is made of.
PIECES = [r"r\.metadata", r"%\(filter_\d+\)s", r"::(?:jsonb|text|numeric)(?:\[\])?"]
PIECES += ["->>?", "@>", r"\?", "[<>]=?", "=", "[(), ]", "AND", "OR", "NOT", "IS NOT TRUE", "IS NOT NULL", "ANY"]
PIECES += ["CASE WHEN", "THEN", "END", "jsonb_typeof", "'string'", "'number'", 'COLLATE "C"']
PIECES += ["left", "256", "least", "greatest", "-?1e60", "strpos", "0", "IS NULL", "EXISTS", "SELECT FROM"]
PIECES += ["jsonb_array_elements", "'array'", "AS part", "element", "WHERE"]
NO_ORDER: list[Any] = [None, True, [], {}, [1]]
NO_LISTS: list[Any] = [None, 1, "ab", {}, [[]], [{}]]
NO_SCALARS: list[Any] = [[], {}, ["x"]]
NO_BOOLEANS: list[Any] = [None, 1, 0, "true", []]


@pytest.mark.parametrize("empty", [None, {}])
def test_no_filter_and_an_empty_one_let_everything_through(empty: dict[str, Any] | None) -> None:
    assert compile_filter(empty) is None


@given(filters.filters(), filters.declarations)
def test_no_value_or_name_of_a_filter_enters_the_text_of_the_statement(
    filter: dict[str, Any], declared: list[FilterableField]
) -> None:
    compiled = compile_filter(filter, declared)
    assert compiled is not None
    assert re.fullmatch(f"(?:{'|'.join(PIECES)})+", compiled.expression), compiled.expression
    assert sorted(set(re.findall(r"%\((\w+)\)s", compiled.expression))) == sorted(compiled.parameters)


def test_the_ways_to_say_equal_are_one() -> None:
    plain = compile_filter({"a": 1, "b": "x"})
    assert compile_filter({"a": {"$eq": 1}, "b": {"$eq": "x"}}) == plain
    assert compile_filter({"$and": [{"a": 1}, {"$and": [{"b": "x"}]}]}) == plain


@pytest.mark.parametrize(
    ("wrong", "path"),
    [
        ({"$or": []}, "filter.$or"),
        ({"$or": [{"a": 1}, {}]}, "filter.$or.1"),
        ({"$and": [{}]}, "filter.$and.0"),
        ({"$or": [{"a": 1}, {"$or": [{"b": {"$gt": []}}]}]}, "filter.$or.1.$or.0.b.$gt"),
        ({"$not": {}}, "filter.$not"),
        ({"$not": [{"a": 1}]}, "filter.$not"),
        ({"$not": {"a": {"$lt": True}}}, "filter.$not.a.$lt"),
        ({"$gt": 5}, "filter.$gt"),
        ({"a": {"$not": 5}}, "filter.a.$not"),
        ({"a": {"$not": {}}}, "filter.a.$not"),
        ({"a": {"$not": {"b": 1}}}, "filter.a.$not.b"),
        ({"a": {"$and": [{"$gt": 1}]}}, "filter.a.$and"),
        *(({"a": {o: v}}, f"filter.a.{o}") for o in ("$gt", "$gte", "$lt", "$lte") for v in NO_ORDER),
        *(({"a": {o: v}}, f"filter.a.{o}") for o in ("$in", "$nin") for v in NO_LISTS),
        *(({"a": {"$contains": v}}, "filter.a.$contains") for v in NO_SCALARS),
        *(({"a": {"$has": v}}, "filter.a.$has") for v in ({}, [[]], ["x", {}])),
        *(({"a": {"$exists": v}}, "filter.a.$exists") for v in NO_BOOLEANS),
        ({"a": {"$in": [1, float("nan")]}}, "filter.a.$in"),
        ({"a": {"$in": ["\x00"]}}, "filter.a.$in"),
        ({"a": {"$nin": ["\ud800"]}}, "filter.a.$nin"),
        ({"a": {"$gt": float("-inf")}}, "filter.a.$gt"),
        ({"a": {"$lt": "\x00"}}, "filter.a.$lt"),
        ({"a": {"$contains": "\ud800"}}, "filter.a.$contains"),
        ({"a" * 1000: {"$gt": None}}, f"filter.{'a' * 100}.$gt"),
        ({"a": {"$regex": ".*"}}, "filter.a.$regex"),
        ({"a": {"$eq": 1, "b": 2}}, "filter.a.b"),
        ({"$and": []}, "filter.$and"),
        ({"$and": {"a": 1}}, "filter.$and"),
        ({"$and": [{"a": 1}, 7]}, "filter.$and.1"),
        ({"$and": [{"$and": [{"$nor": 1}]}]}, "filter.$and.0.$and.0.$nor"),
        ({"a": float("nan")}, "filter.a"),
        ({"a": [float("inf")]}, "filter.a"),
        ({"a": "\x00"}, "filter.a"),
        ({"a": {"b": ["\x00"]}}, "filter.a"),
        ({"a": {"\x00": 1}}, "filter.a"),
        ({"\x00": 1}, "filter.\x00"),
        ({"a": "\ud800"}, "filter.a"),
        ({"\ud800": 1}, "filter.\ud800"),
        ({"a": {"$eq": "\x00"}}, "filter.a.$eq"),
    ],
)
def test_a_wrong_filter_is_refused_with_the_path_of_what_is_wrong(wrong: dict[str, Any], path: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        compile_filter(wrong)
    assert [violation.path for violation in refused.value.violations] == [path]


def test_a_text_that_only_spells_u0000_is_a_text_like_any_other() -> None:
    compiled = compile_filter({"a": "\\u0000", "\\u0000": 1})
    assert compiled is not None
    assert len(compiled.parameters) == 2


def nested(depth: int, by: str) -> dict[str, Any]:
    filter: dict[str, Any] = {"a": 1}
    for _ in range(depth - 1):
        filter = {by: filter} if by == "$not" else {by: [filter]}
    return filter


def nested_in_a_field(depth: int) -> dict[str, Any]:
    comparisons: dict[str, Any] = {"$gt": 1}
    for _ in range(depth - 1):
        comparisons = {"$not": comparisons}
    return {"a": comparisons}


@pytest.mark.parametrize("by", ["$and", "$or", "$not"])
def test_a_filter_may_be_nested_to_the_limit_and_no_deeper(by: str) -> None:
    assert compile_filter(nested(MAX_DEPTH, by)) is not None
    assert compile_filter(nested_in_a_field(MAX_DEPTH)) is not None
    for depth in (MAX_DEPTH + 1, 100_000):
        for filter in (nested(depth, by), nested_in_a_field(depth)):
            with pytest.raises(InvalidRequestError, match=f"deeper than {MAX_DEPTH}"):
                compile_filter(filter)


def test_a_list_may_have_values_to_the_limit_and_no_more() -> None:
    for operator in ("$in", "$nin", "$has"):
        assert compile_filter({"a": {operator: list(range(MAX_LIST))}}) is not None
        with pytest.raises(InvalidRequestError, match=f"{MAX_LIST + 1} values; at most {MAX_LIST}"):
            compile_filter({"a": {operator: list(range(MAX_LIST + 1))}})


def test_an_unknown_operator_is_told_those_there_are() -> None:
    for wrong, known in (({"$nor": []}, ["$and", "$or", "$not"]), ({"a": {"$regex": "x"}}, [*OPERATORS, "$not"])):
        with pytest.raises(InvalidRequestError) as refused:
            compile_filter(wrong)
        assert refused.value.violations[0].message.endswith("known: " + ", ".join(known))


def test_a_range_of_a_field_declared_a_date_wants_a_date() -> None:
    declared = (FilterableField("day", FieldType.DATE),)
    for right in ("2026-11-21", "2026-11-21T09:30Z", "2026-11-21T09:30:00.125+02:00", "2026-11-21T09:30:00", 5):
        assert compile_filter({"day": {"$gte": right}}, declared) is not None
    for wrong in ("21.11.2026", "2026", "2026-11", "tomorrow", "", "2026-11-21 09:30", "٢٠٢٦-11-21"):
        with pytest.raises(InvalidRequestError, match=r"filter\.day\.\$gte must be a date"):
            compile_filter({"day": {"$gte": wrong}}, declared)
        assert compile_filter({"day": {"$gte": wrong}}) is not None


def test_the_text_of_a_statement_depends_on_no_number_of_values() -> None:
    few, many = (compile_filter({"a": {"$in": list(range(count))}}) for count in (1, 20))
    assert few is not None
    assert many is not None
    assert few.expression == many.expression


def test_a_value_nested_without_end_is_refused() -> None:
    value: Any = 1
    for _ in range(100_000):
        value = [value]
    with pytest.raises(InvalidRequestError, match="nested too deep"):
        compile_filter({"a": value})


def test_a_filter_may_have_conditions_to_the_limit_and_no_more() -> None:
    assert compile_filter({f"f{i}": i for i in range(MAX_CONDITIONS)}) is not None
    for many in ({f"f{i}": i for i in range(MAX_CONDITIONS + 1)}, {"$and": [{"a": 1}] * (MAX_CONDITIONS + 1)}):
        with pytest.raises(InvalidRequestError, match=f"filter has more than {MAX_CONDITIONS} conditions"):
            compile_filter(many)


def test_the_lists_of_a_filter_may_have_values_to_the_limit_and_no_more() -> None:
    full = [{"a": {"$in": list(range(1000))}}] * (MAX_VALUES // 1000)
    assert compile_filter({"$or": full}) is not None
    with pytest.raises(InvalidRequestError, match=f"filter has more than {MAX_VALUES} values"):
        compile_filter({"$or": [*full, {"b": 1}]})
