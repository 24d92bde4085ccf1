"""A filter lets through what its meaning in Python does, and nothing in it is ever taken for SQL."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql

from tests.fixtures import filters
from tests.fixtures.filters import NAMES, passes
from tests.fixtures.vectors import Store, numbers, vector
from vecmeter.vectors.field_indexes import create_index
from vecmeter.vectors.filter_operators import LOOKED_UP, MAX_LIST
from vecmeter.vectors.filters import MAX_CONDITIONS, compile_filter
from vecmeter.vectors.model import Collection, FieldType, FilterableField, IndexDefinition, IndexType, Query
from vecmeter.vectors.tables import statement

_INSERT = """
    INSERT INTO {records} (namespace, id, metadata)
    SELECT %(namespace)s, given.id, given.metadata
    FROM unnest(%(ids)s::text[], %(metadata)s::jsonb[]) AS given (id, metadata)
"""
_SELECT = "SELECT r.id FROM {records} r WHERE r.namespace = %(namespace)s AND "


class Filtered:
    """The records of a collection whose fields ``a`` and ``b`` have an index for texts and one for numbers."""

    def __init__(self, connection: psycopg.Connection, collection: Collection) -> None:
        self._connection = connection
        self._collection = collection
        for name in ("a", "b"):
            for kind in (FieldType.STRING, FieldType.NUMBER):
                connection.execute(create_index(collection, FilterableField(name, kind)))

    def insert(self, metadata: Sequence[Any]) -> str:
        """Into a namespace of their own, with their positions as ids."""
        namespace = uuid.uuid4().hex
        values = {
            "namespace": namespace,
            "ids": [str(position) for position in range(len(metadata))],
            "metadata": [json.dumps(item) for item in metadata],
        }
        self._connection.execute(statement(_INSERT, self._collection), values)
        return namespace

    def passing(self, namespace: str, filter: Any, declared: Sequence[FilterableField], *, by_index: bool) -> set[int]:
        compiled = compile_filter(filter, declared)
        assert compiled is not None
        self._connection.execute(sql.SQL("SET enable_seqscan = {}").format(sql.Literal(not by_index)))
        text = statement(_SELECT + compiled.expression, self._collection)
        rows = self._connection.execute(text, {"namespace": namespace, **compiled.parameters}).fetchall()
        return {int(row[0]) for row in rows}


@pytest.fixture
def filtered(store: Store) -> Iterator[Filtered]:
    collection = store.create(dimension=2, index=IndexDefinition(type=IndexType.NONE))
    options = "-c plan_cache_mode=force_custom_plan"
    with psycopg.connect(store.dsn, autocommit=True, options=options, prepare_threshold=5) as connection:
        yield Filtered(connection, collection)


@given(stored=st.lists(filters.metadata, min_size=1, max_size=8), declared=filters.declarations, chosen=st.data())
@settings(
    max_examples=400,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_every_filter_lets_through_what_it_means_whatever_fields_are_declared(
    filtered: Filtered, stored: list[dict[str, Any]], declared: list[FilterableField], chosen: st.DataObject
) -> None:
    filter = chosen.draw(filters.filters(stored), label="filter")
    namespace = filtered.insert(stored)
    right = {position for position, item in enumerate(stored) if passes(filter, item)}
    for fields in ((), declared):
        for by_index in (False, True):
            assert filtered.passing(namespace, filter, fields, by_index=by_index) == right


SUSPECTS: list[Any] = [
    True, False, 1, 0, 1.0, "1", "true", "True", None, "null", "", [], [1], [True], [1, 2], [2, 1], {}, {"x": 1},
    {"x": 1, "y": 2}, {"x": {"y": 1}}, [[1]], [{"x": 1}], [None], ["1"], ["null"], 1.5, "1.5", -1, 10**25, "10", "9",
    *filters.LONG_TEXTS, *filters.LONG_NUMBERS,
]  # fmt: skip
SUSPICIOUS_SCALARS = [value for value in SUSPECTS if not isinstance(value, (list, dict))]
SUSPICIOUS_FILTERS: list[Any] = [
    *({operator: value} for operator in ("$eq", "$ne") for value in SUSPECTS),
    *({operator: [value]} for operator in ("$in", "$nin") for value in SUSPICIOUS_SCALARS),
    *({operator: []} for operator in ("$in", "$nin")),
    *({operator: SUSPICIOUS_SCALARS} for operator in ("$in", "$nin")),
    *({"$contains": value} for value in SUSPICIOUS_SCALARS),
    *({"$has": value} for value in SUSPICIOUS_SCALARS),
    *({"$has": value} for value in ([], [1], ["1", None], SUSPICIOUS_SCALARS)),
    *({"$exists": value} for value in (True, False)),
    *(
        {operator: value}
        for operator in ("$gt", "$gte", "$lt", "$lte")
        for value in SUSPICIOUS_SCALARS
        if isinstance(value, (str, int, float)) and not isinstance(value, bool)
    ),
]


@pytest.mark.parametrize("kind", [None, FieldType.STRING, FieldType.NUMBER, FieldType.BOOLEAN])
def test_values_that_resemble_each_other_are_told_apart(filtered: Filtered, kind: FieldType | None) -> None:
    declared = [FilterableField("a", kind)] if kind else []
    stored = [{"a": value} for value in SUSPECTS] + [{"other": 1}]
    namespace = filtered.insert(stored)
    for comparison in SUSPICIOUS_FILTERS:
        for filter in ({"a": comparison}, {"a": {"$not": comparison}}):
            right = {position for position, item in enumerate(stored) if passes(filter, item)}
            assert filtered.passing(namespace, filter, declared, by_index=True) == right, filter


def test_a_negation_passes_exactly_what_its_filter_does_not_missing_fields_included(filtered: Filtered) -> None:
    stored: list[dict[str, Any]] = [{"a": 1}, {"a": "x"}, {"a": None}, {"a": []}, {"b": 1}, {}]
    namespace = filtered.insert(stored)
    everything = set(range(len(stored)))
    for comparison in ({"$gt": 0}, {"$eq": 1}, {"$in": [1]}, {"$contains": "x"}, {"$has": [1, "x"]}, {"$exists": True}):
        held = filtered.passing(namespace, {"a": comparison}, (), by_index=False)
        for negation in ({"$not": {"a": comparison}}, {"a": {"$not": comparison}}):
            assert filtered.passing(namespace, negation, (), by_index=False) == everything - held
            assert filtered.passing(namespace, {"$not": negation}, (), by_index=False) == held
    assert filtered.passing(namespace, {"a": {"$ne": 1}}, (), by_index=False) == everything - {0}
    assert filtered.passing(namespace, {"a": {"$nin": [1, "x"]}}, (), by_index=False) == everything - {0, 1}


@pytest.mark.parametrize("count", [0, 1, LOOKED_UP, LOOKED_UP + 1, MAX_LIST])
@pytest.mark.parametrize("kind", [None, FieldType.STRING, FieldType.NUMBER])
def test_lists_of_any_length_are_looked_up(filtered: Filtered, count: int, kind: FieldType | None) -> None:
    declared = [FilterableField("a", kind)] if kind else []
    stored = [{"a": value} for number in range(min(count, 1000) + 2) for value in (number, str(number))]
    namespace = filtered.insert(stored)
    wanted: list[Any] = [number if number % 3 else str(number) for number in range(count)]
    right = {2 * position + isinstance(value, str) for position, value in enumerate(wanted)} & set(range(len(stored)))
    for operator in ("$in", "$has"):
        assert filtered.passing(namespace, {"a": {operator: wanted}}, declared, by_index=False) == right
    others = set(range(len(stored))) - right
    assert filtered.passing(namespace, {"a": {"$nin": wanted}}, declared, by_index=False) == others


def test_dates_in_one_form_of_iso_8601_are_in_order(filtered: Filtered) -> None:
    days = ["2025-12-31", "2026-01-01", "2026-11-21", "2026-11-21T09:30:00Z", "2027-01-01"]
    namespace = filtered.insert([{"a": day} for day in days] + [{"a": 2026}, {}])
    for declared in ((), (FilterableField("a", FieldType.DATE),)):
        year = {"a": {"$gte": "2026-01-01", "$lt": "2027-01-01"}}
        assert filtered.passing(namespace, year, declared, by_index=True) == {1, 2, 3}
        assert filtered.passing(namespace, {"a": days[3]}, declared, by_index=True) == {3}


@pytest.mark.parametrize("count", [1, LOOKED_UP, LOOKED_UP + 1, MAX_LIST])
@pytest.mark.parametrize("kind", [None, FieldType.STRING, FieldType.NUMBER])
def test_a_list_is_found_by_any_of_its_elements(filtered: Filtered, count: int, kind: FieldType | None) -> None:
    declared = [FilterableField("a", kind)] if kind else []
    stored: list[dict[str, Any]] = [
        {"a": ["x", "y"]},
        {"a": "y"},
        {"a": [["y"], {"y": "y"}]},
        {"a": {"y": 1}},
        {"b": "y"},
    ]
    namespace = filtered.insert(stored)
    for wanted in ([f"{number}" for number in range(count - 1)] + ["y"], *([] if count > 1 else ["y"])):
        for by_index in (True, False):
            assert filtered.passing(namespace, {"a": {"$has": wanted}}, declared, by_index=by_index) == {0, 1}
            assert filtered.passing(namespace, {"a": {"$not": {"$has": wanted}}}, declared, by_index=by_index) == {
                2,
                3,
                4,
            }


@pytest.mark.parametrize("pattern", ["%", "_", "a%", "(?i)A", ".*", "\\", "[ab]"])
def test_a_part_of_a_text_is_no_pattern(filtered: Filtered, pattern: str) -> None:
    stored = [{"a": "abc"}, {"a": f"x{pattern}y"}, {"a": [pattern]}, {"a": ["abc"]}, {"a": {pattern: 1}}]
    namespace = filtered.insert(stored)
    assert filtered.passing(namespace, {"a": {"$contains": pattern}}, (), by_index=False) == {1, 2}


def assert_filter_is_right(
    store: Store, collection: Collection, namespace: str, filter: dict[str, Any], right: set[str]
) -> None:
    matches = store.search(collection, Query(numbers=numbers(1.0, 0.0), namespace=namespace, filter=filter, top_k=1000))
    assert {match.id for match in matches} == right
    assert store.records.delete_matching(collection, namespace, filter, dry_run=True) == len(right)


@given(stored=st.lists(filters.metadata, min_size=1, max_size=8), chosen=st.data())
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_searches_and_deletes_go_by_the_filter(
    store: Store, stored: list[dict[str, Any]], chosen: st.DataObject
) -> None:
    filter = chosen.draw(filters.filters(stored), label="filter")
    page = store.collections.page("acme", after="", limit=1)
    collection = page[0] if page else store.create(dimension=2, index=IndexDefinition(type=IndexType.NONE))
    namespace = uuid.uuid4().hex
    batch = [vector(f"v{i}", 1.0, 0.0, namespace=namespace, metadata=item) for i, item in enumerate(stored)]
    store.records.upsert(collection, batch)
    right = {f"v{i}" for i, item in enumerate(stored) if passes(filter, item)}
    assert_filter_is_right(store, collection, namespace, filter, right)


@pytest.mark.parametrize("name", NAMES)
def test_names_are_taken_literally(store: Store, name: str) -> None:
    collection = store.create(dimension=2)
    batch = [vector(f"v{i}", 1.0, 0.0, metadata={other: other}) for i, other in enumerate(NAMES)]
    store.records.upsert(collection, batch)
    for value in NAMES:
        right = {f"v{NAMES.index(name)}"} if value == name else set()
        assert_filter_is_right(store, collection, "", {name: value}, right)
        assert_filter_is_right(store, collection, "", {name: {"$gte": value, "$lte": value}}, right)
    assert store.records.delete_matching(collection, "", {name: name}, dry_run=False) == 1
    assert store.collections.size(collection).count == len(NAMES) - 1


def test_a_filter_with_as_many_conditions_as_allowed_runs(store: Store) -> None:
    collection = store.create(dimension=2)
    metadata = {f"f{i}": [i] for i in range(MAX_CONDITIONS)}
    store.records.upsert(collection, [vector("v", 1.0, 0.0, metadata=metadata), vector("w", 1.0, 0.0)])
    assert_filter_is_right(store, collection, "", metadata, {"v"})
