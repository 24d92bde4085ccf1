"""A filter lets through what a strict comparison in Python lets through, and nothing in it is ever taken for SQL."""

from __future__ import annotations

import uuid
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fixtures.vectors import Store, numbers, vector
from vecmeter.vectors.filters import MAX_CONDITIONS
from vecmeter.vectors.model import Collection, IndexDefinition, IndexType, Query

# Few names and values that are easily taken for each other, so that random filters do match.
NAMES = [
    "a",
    "b",
    "a.b",
    "",
    " ",
    "A",
    "ä",
    "日本",
    "'",
    '"',
    "\\",
    "%",
    "%s",
    "%(namespace)s",
    "{}",
    "{records}",
    "[filter]",
]
NAMES += ["[query]", "--", "; DROP TABLE x", "' OR true --", "a\nb", "null", "true", "1", "0"]
SCALARS: list[Any] = [
    0,
    1,
    -1,
    1.0,
    0.0,
    -0.0,
    1.5,
    10**20,
    1e20,
    2**53 + 1,
    1e-7,
    True,
    False,
    None,
    "",
    "1",
    "1.0",
    "true",
]
SCALARS += ["null", "a", "A", "a ", "ä", "a\u0308", *NAMES]
values = st.recursive(
    st.sampled_from(SCALARS),
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(st.sampled_from(NAMES), parts, max_size=2),
    max_leaves=4,
)
objects = st.dictionaries(st.sampled_from(NAMES), values, max_size=4)
simple_filters = st.dictionaries(st.sampled_from(NAMES), values, min_size=1, max_size=2)
filters = st.recursive(
    simple_filters | simple_filters.map(lambda f: {name: {"$eq": value} for name, value in f.items()}),
    lambda parts: st.lists(parts, min_size=1, max_size=2).map(lambda both: {"$and": both}),
    max_leaves=3,
)


def same(left: Any, right: Any) -> bool:
    """Equal as JSON values: ``true`` is not 1, ``"1"`` is not 1, 1 is 1.0."""
    if isinstance(left, bool) or isinstance(right, bool) or left is None or right is None:
        return left is right
    if isinstance(left, (int, float)) and isinstance(right, (int, float)):
        return Decimal(repr(left)) == Decimal(repr(right))
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    return isinstance(left, str) and isinstance(right, str) and left == right


def lets_through(filter: dict[str, Any], metadata: dict[str, Any]) -> bool:
    for name, value in filter.items():
        if name == "$and":
            if not all(lets_through(part, metadata) for part in value):
                return False
            continue
        wanted = value["$eq"] if isinstance(value, dict) and "$eq" in value else value
        if name not in metadata or not same(metadata[name], wanted):
            return False
    return True


def assert_filter_is_right(
    store: Store, collection: Collection, namespace: str, filter: dict[str, Any], right: set[str]
) -> None:
    matches = store.search(collection, Query(numbers=numbers(1.0, 0.0), namespace=namespace, filter=filter, top_k=1000))
    assert {match.id for match in matches} == right
    assert store.records.delete_matching(collection, namespace, filter, dry_run=True) == len(right)


@given(metadata=st.lists(objects, min_size=1, max_size=8), filter=filters, chosen=st.data())
@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_a_filter_lets_through_what_a_strict_comparison_does(
    store: Store, metadata: list[dict[str, Any]], filter: dict[str, Any], chosen: st.DataObject
) -> None:
    page = store.collections.page("acme", after="", limit=1)
    collection = page[0] if page else store.create(dimension=2, index=IndexDefinition(type=IndexType.NONE))
    namespace = uuid.uuid4().hex
    batch = [vector(f"v{i}", 1.0, 0.0, namespace=namespace, metadata=item) for i, item in enumerate(metadata)]
    store.records.upsert(collection, batch)
    # A random filter, and one made of what is stored, which is sure to let something through.
    some = chosen.draw(st.sampled_from(metadata))
    stored = (
        {name: some[name] for name in chosen.draw(st.lists(st.sampled_from(sorted(some)), unique=True)) if name}
        if some
        else {}
    )
    for tried in (filter, {name: {"$eq": value} for name, value in stored.items()}):
        if tried:
            right = {f"v{i}" for i, item in enumerate(metadata) if lets_through(tried, item)}
            assert_filter_is_right(store, collection, namespace, tried, right)


SUSPECTS: list[Any] = [
    True, False, 1, 0, 1.0, "1", "true", "True", None, "null", "", [], [1], [True], [1, 2], [2, 1], {}, {"x": 1},
    {"x": 1, "y": 2}, {"x": {"y": 1}}, [[1]], [{"x": 1}], [None], 1.5, "1.5", -1, 10**25,
]  # fmt: skip


def test_values_that_resemble_each_other_are_told_apart(store: Store) -> None:
    collection = store.create(dimension=2)
    batch = [vector(f"v{i}", 1.0, 0.0, metadata={"f": value}) for i, value in enumerate(SUSPECTS)]
    store.records.upsert(collection, [*batch, vector("missing", 1.0, 0.0, metadata={"other": 1})])
    for wanted in SUSPECTS:
        right = {f"v{i}" for i, value in enumerate(SUSPECTS) if same(value, wanted)}
        assert_filter_is_right(store, collection, "", {"f": {"$eq": wanted}}, right)


@pytest.mark.parametrize("name", NAMES)
def test_names_are_taken_literally(store: Store, name: str) -> None:
    collection = store.create(dimension=2)
    batch = [vector(f"v{i}", 1.0, 0.0, metadata={other: other}) for i, other in enumerate(NAMES)]
    store.records.upsert(collection, batch)
    for value in NAMES:
        right = {f"v{NAMES.index(name)}"} if value == name else set()
        assert_filter_is_right(store, collection, "", {name: value}, right)
    assert store.records.delete_matching(collection, "", {name: name}, dry_run=False) == 1
    assert store.collections.size(collection).count == len(NAMES) - 1


def test_all_conditions_of_a_filter_must_hold(store: Store) -> None:
    collection = store.create(dimension=2)
    batch = [vector(f"v{i}", 1.0, 0.0, metadata={"a": i % 2, "b": i % 3}) for i in range(12)]
    store.records.upsert(collection, batch)
    for filter in ({"a": 1, "b": 2}, {"$and": [{"a": 1}, {"b": 2}]}, {"a": 1, "$and": [{"b": {"$eq": 2}}]}):
        assert_filter_is_right(store, collection, "", filter, {"v5", "v11"})


def test_a_filter_with_as_many_conditions_as_allowed_runs(store: Store) -> None:
    collection = store.create(dimension=2)
    metadata = {f"f{i}": [i] for i in range(MAX_CONDITIONS)}
    store.records.upsert(collection, [vector("v", 1.0, 0.0, metadata=metadata), vector("w", 1.0, 0.0)])
    assert_filter_is_right(store, collection, "", metadata, {"v"})
