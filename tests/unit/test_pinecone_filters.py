"""Filters as Pinecone's clients write them let through what they do there; what is none of theirs is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fixtures.filters import passes, same
from vecmeter.errors import InvalidRequestError
from vecmeter.http.pinecone.filters import MAX_DEPTH, MAX_LIST, native_filter
from vecmeter.vectors.filters import compile_filter

# A record with a list has each of its elements; a record without the field equals nothing.
FILM = {"genre": ["comedy", "documentary"], "year": 2019, "title": "x", "is_new": True}


def taken_on(metadata: Mapping[str, Any], field: str) -> list[Any]:
    value = metadata.get(field)
    return value if isinstance(value, list) else [value] if field in metadata else []


def is_any(found: list[Any], wanted: list[Any]) -> bool:
    return any(same(one, other) for one in found for other in wanted)


def ordered(holds: Callable[[float, float], bool]) -> Callable[[list[Any], Any], bool]:
    return lambda found, wanted: any(type(one) in (int, float) and holds(one, wanted) for one in found)


THEIRS: Mapping[str, Callable[[list[Any], Any], bool]] = {
    "$eq": lambda found, wanted: is_any(found, [wanted]),
    "$ne": lambda found, wanted: not is_any(found, [wanted]),
    "$in": is_any,
    "$nin": lambda found, wanted: not is_any(found, wanted),
    "$gt": ordered(lambda a, b: a > b),
    "$gte": ordered(lambda a, b: a >= b),
    "$lt": ordered(lambda a, b: a < b),
    "$lte": ordered(lambda a, b: a <= b),
    "$exists": lambda found, wanted: bool(found) == wanted,
}


def passes_theirs(filter: Mapping[str, Any], metadata: Mapping[str, Any]) -> bool:
    def holds(name: str, value: Any) -> bool:
        if name == "$and":
            return all(passes_theirs(part, metadata) for part in value)
        if name == "$or":
            return any(passes_theirs(part, metadata) for part in value)
        comparisons = value if isinstance(value, dict) else {"$eq": value}
        return all(THEIRS[operator](taken_on(metadata, name), operand) for operator, operand in comparisons.items())

    return all(holds(name, value) for name, value in filter.items())


fields = st.sampled_from(["a", "b"])
texts = st.sampled_from(["x", "y", "1", "true"])
numbers = st.sampled_from([0, 1, 1.0, 1.5, -2])
scalars = texts | numbers | st.booleans()
records = st.dictionaries(fields, scalars | st.lists(texts, min_size=1, max_size=3))
lists = st.lists(texts, max_size=3) | st.lists(numbers, max_size=3)
OPERANDS = {
    **dict.fromkeys(("$eq", "$ne"), scalars),
    **dict.fromkeys(("$in", "$nin"), lists),
    **dict.fromkeys(("$gt", "$gte", "$lt", "$lte"), numbers),
    "$exists": st.booleans(),
}


@st.composite
def compared(draw: st.DrawFn) -> dict[str, Any]:
    """One or two comparisons: with more, hardly anything passes."""
    operators = draw(st.lists(st.sampled_from(sorted(OPERANDS)), min_size=1, max_size=2, unique=True))
    return {operator: draw(OPERANDS[operator]) for operator in operators}


plain = st.dictionaries(fields, scalars | compared(), min_size=1)
filters = st.recursive(
    plain,
    lambda inner: st.builds(
        lambda beside, joined: {**beside, **joined},
        plain | st.just({}),
        st.dictionaries(st.sampled_from(["$and", "$or"]), st.lists(inner, min_size=1, max_size=3), min_size=1),
    ),
    max_leaves=6,
)


@given(filters, st.lists(records, min_size=1, max_size=8))
def test_a_filter_lets_through_what_it_does_there(filter: dict[str, Any], metadata: list[dict[str, Any]]) -> None:
    native = native_filter(filter)
    assert native is not None
    assert compile_filter(native) is not None
    for record in metadata:
        assert passes(native, record) == passes_theirs(filter, record), native


@pytest.mark.parametrize(
    ("filter", "is_through"),
    [
        ({"genre": "comedy"}, True),
        ({"genre": {"$in": ["documentary", "action"]}}, True),
        ({"$and": [{"genre": "comedy"}, {"genre": "documentary"}]}, True),
        ({"$and": [{"genre": "comedy"}, {"genre": "drama"}]}, False),
        ({"genre": {"$ne": "comedy"}}, False),
        ({"genre": {"$nin": ["drama"]}}, True),
        ({"missing": {"$ne": "x"}, "other": {"$nin": ["x"]}}, True),
        ({"genre": {"$in": []}}, False),
        ({"year": {"$gte": 2019, "$lt": 2019.5}}, True),
        ({"year": "2019"}, False),
        ({"title": {"$gt": 1}}, False),
        ({"is_new": True, "title": {"$exists": True}, "missing": {"$exists": False}}, True),
    ],
)
def test_the_examples_of_their_documentation_hold(filter: dict[str, Any], is_through: bool) -> None:
    native = native_filter(filter)
    assert native is not None
    assert passes(native, FILM) == is_through


EQUAL = "the $eq operator must be followed by a string, boolean or a number"
IN = "the $in operator must be followed by a list of strings or a list of numbers"


@pytest.mark.parametrize(
    ("filter", "path", "message"),
    [
        ({"a": None}, "filter.a", f"{EQUAL}, got null instead"),
        ({"a": ["x"]}, "filter.a", f'{EQUAL}, got ["x"] instead'),
        ({"a": {"$eq": ["x"]}}, "filter.a.$eq", 'got ["x"] instead'),
        ({"a": {"$ne": {}}}, "filter.a.$ne", "got {} instead"),
        ({"a": {"$gt": "1"}}, "filter.a.$gt", 'must be followed by a number, got "1" instead'),
        ({"a": {"$lte": True}}, "filter.a.$lte", "got true instead"),
        ({"a": {"$in": "x"}}, "filter.a.$in", f"{IN}, got \"x\" instead"),
        ({"a": {"$in": ["x", 1]}}, "filter.a.$in", 'got ["x", 1] instead'),
        ({"a": {"$nin": [True]}}, "filter.a.$nin", "got [true] instead"),
        ({"a": {"$exists": 1}}, "filter.a.$exists", "must be followed by a boolean, got 1 instead"),
        ({"a": {"$regex": "x"}}, "filter.a.$regex", "is no operator on fields; known: $eq, $ne,"),
        ({"a": {"$not": {"$eq": 1}}}, "filter.a.$not", "is no operator on fields"),
        ({"a": {"b": 1}}, "filter.a.b", "is no operator on fields"),
        ({"a": {}}, "filter.a", "must be an object of comparisons that is not empty"),
        ({"$not": {"a": 1}}, "filter.$not", "is no operator on filters; known: $and, $or"),
        ({"$and": []}, "filter.$and", "must be a list of filters that is not empty"),
        ({"$or": {"a": 1}}, "filter.$or", "must be a list of filters that is not empty"),
        ({"$or": [{"a": 1}, {}]}, "filter.$or.1", "must be an object that is not empty"),
        ({"$or": [1]}, "filter.$or.0", "must be an object that is not empty"),
        ({"a": "\x00"}, "filter.a", "U+0000"),
        ({"a\x00": 1}, "filter.a\x00", "U+0000"),
        ({"a": {"$in": ["\ud800"]}}, "filter.a.$in", "lone surrogate"),
        ({"a": float("nan")}, "filter.a", "NaN"),
        ({"a": {"$in": ["x"] * (MAX_LIST + 1)}}, "filter.a.$in", f"has {MAX_LIST + 1} values; at most {MAX_LIST} "),
    ],
    ids=lambda value: repr(value)[:40],
)  # fmt: skip
def test_what_is_no_filter_of_theirs_is_refused_with_the_path_and_in_their_words(
    filter: dict[str, Any], path: str, message: str
) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        native_filter(filter)
    [violation] = refused.value.violations
    assert violation.path == path
    assert message in violation.message


def test_no_filter_and_an_empty_one_stay_what_they_are() -> None:
    assert native_filter(None) is None
    assert native_filter({}) == {}


def test_a_list_of_as_many_values_as_theirs_takes_is_a_filter_of_ours() -> None:
    for operator in ("$in", "$nin"):
        assert compile_filter(native_filter({"a": {operator: [str(i) for i in range(MAX_LIST)]}})) is not None


def test_what_is_nested_as_deep_as_allowed_is_a_filter_of_ours_and_deeper_is_refused() -> None:
    filter: dict[str, Any] = {"a": {"$ne": 1}, "b": {"$nin": [1]}}
    for _ in range(MAX_DEPTH - 1):
        filter = {"$or": [filter], "a": 1}
    assert compile_filter(native_filter(filter)) is not None
    with pytest.raises(InvalidRequestError, match=f"nested deeper than {MAX_DEPTH} levels"):
        native_filter({"$and": [filter]})


def test_a_value_shown_in_an_error_is_cut() -> None:
    with pytest.raises(InvalidRequestError) as refused:
        native_filter({"n" * 1000: {"$gt": "x" * 10_000}})
    assert len(refused.value.detail) < 500
