"""Filters become SQL whose text no value of theirs ever enters; wrong ones are refused by the path of what is wrong."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vecmeter.errors import InvalidRequestError
from vecmeter.vectors.filters import MAX_CONDITIONS, MAX_DEPTH, compile_filter

texts = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\x00"))
fields = texts.filter(lambda name: not name.startswith("$"))
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts
filters = st.dictionaries(fields, scalars | st.lists(scalars, max_size=3), min_size=1, max_size=4)


@pytest.mark.parametrize("empty", [None, {}])
def test_no_filter_and_an_empty_one_let_everything_through(empty: dict[str, Any] | None) -> None:
    assert compile_filter(empty) is None


@given(filters)
def test_no_value_or_name_of_a_filter_enters_the_text_of_the_statement(filter: dict[str, Any]) -> None:
    compiled = compile_filter(filter)
    assert compiled is not None
    equal = r"r\.metadata @> %\(filter_\d+\)s::jsonb"
    whole = equal + r" AND r\.metadata -> %\(filter_\d+\)s = %\(filter_\d+\)s::jsonb"
    condition = rf"\((?:{equal}|{whole})\)"
    assert re.fullmatch(rf"{condition}(?: AND {condition})*", compiled.expression)
    assert re.findall(r"%\((\w+)\)s", compiled.expression) == list(compiled.parameters)


def test_the_ways_to_say_equal_are_one() -> None:
    plain = compile_filter({"a": 1, "b": "x"})
    assert compile_filter({"a": {"$eq": 1}, "b": {"$eq": "x"}}) == plain
    assert compile_filter({"$and": [{"a": 1}, {"$and": [{"b": "x"}]}]}) == plain


@pytest.mark.parametrize(
    ("wrong", "path"),
    [
        ({"$or": [{"a": 1}]}, "filter.$or"),
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


def nested(depth: int) -> dict[str, Any]:
    filter: dict[str, Any] = {"a": 1}
    for _ in range(depth - 1):
        filter = {"$and": [filter]}
    return filter


def test_a_filter_may_be_nested_to_the_limit_and_no_deeper() -> None:
    assert compile_filter(nested(MAX_DEPTH)) is not None
    with pytest.raises(InvalidRequestError, match=f"deeper than {MAX_DEPTH}"):
        compile_filter(nested(MAX_DEPTH + 1))


def test_a_value_nested_without_end_is_refused() -> None:
    value: Any = 1
    for _ in range(100_000):
        value = [value]
    with pytest.raises(InvalidRequestError, match="nested too deep"):
        compile_filter({"a": value})


def test_a_filter_may_have_conditions_to_the_limit_and_no_more() -> None:
    assert compile_filter({f"f{i}": i for i in range(MAX_CONDITIONS)}) is not None
    for many in ({f"f{i}": i for i in range(MAX_CONDITIONS + 1)}, {"$and": [{"a": 1}] * (MAX_CONDITIONS + 1)}):
        with pytest.raises(InvalidRequestError, match=f"at most {MAX_CONDITIONS}"):
            compile_filter(many)
