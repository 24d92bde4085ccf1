"""Indexes of declared fields: ranges and equality are answered by them, and no value is too long to be written."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.fixtures.vectors import PlanLog, Store, executed_scans, fresh_database, numbers
from vecmeter.vectors.checks import MAX_FIELD_BYTES, MAX_FILTERABLE, check_filterable
from vecmeter.vectors.field_indexes import (
    create_index,
    create_index_concurrently,
    drop_index,
    index_name,
    indexed_fields,
)
from vecmeter.vectors.filters import compile_filter
from vecmeter.vectors.model import Collection, FieldType, FilterableField, IndexDefinition, IndexType, Query
from vecmeter.vectors.tables import statement
from vecmeter_local.postgres import PostgresServer

COUNT = 20_000
PRICE = FilterableField("price", FieldType.NUMBER)
TITLE = FilterableField("title", FieldType.STRING)
DAY = FilterableField("day", FieldType.DATE)
FLAG = FilterableField("flag", FieldType.BOOLEAN)
TAGS = FilterableField("tags", FieldType.STRING)
DECLARED = (PRICE, TITLE, DAY, FLAG, TAGS)
_CANDIDATES = "SELECT r.record_id FROM {records} r WHERE r.namespace = %(namespace)s AND [filter] LIMIT 2000"


class Shop:
    """20,000 records in two namespaces, with an index for each declared field."""

    def __init__(self, dsn: str) -> None:
        self.store = Store(dsn)
        self.collection = self.store.create(dimension=2, index=IndexDefinition(type=IndexType.NONE))
        self.connection = psycopg.connect(dsn, autocommit=True, options="-c plan_cache_mode=force_custom_plan")
        texts = "INSERT INTO {records} (namespace, id, metadata) SELECT i %% 2, i, m FROM unnest(%s::jsonb[]) "
        metadata = [json.dumps(self.metadata(position)) for position in range(COUNT)]
        self.connection.execute(statement(texts + "WITH ORDINALITY AS t (m, i)", self.collection), [metadata])
        for field in DECLARED:
            if field.type is not FieldType.BOOLEAN:
                self.connection.execute(create_index(self.collection, field))
        self.connection.execute(statement("ANALYZE {records}", self.collection))

    @staticmethod
    def metadata(position: int) -> dict[str, Any]:
        return {
            "price": (position * 7919) % COUNT / 4,
            "title": f"title {(position * 7919) % COUNT:05d}",
            "day": f"{1900 + position % 100}-{1 + position % 12:02d}-{1 + position % 28:02d}",
            "flag": position % 1000 == 0,
            "tags": [f"t{position % 500}", "all"],
        }

    def scans(self, filter: dict[str, Any], declared: tuple[FilterableField, ...] = DECLARED) -> set[str]:
        """The indexes by which a search finds its candidates."""
        compiled = compile_filter(filter, declared)
        assert compiled is not None
        text = statement(_CANDIDATES.replace("[filter]", compiled.expression), self.collection)
        explain = b"EXPLAIN (ANALYZE, TIMING OFF, SUMMARY OFF) " + text
        rows = self.connection.execute(explain, {"namespace": "1", **compiled.parameters}).fetchall()
        return executed_scans("\n".join(row[0] for row in rows))

    def index(self, field: FilterableField) -> str:
        return index_name(self.collection.collection_id, field)


@pytest.fixture(scope="module")
def shop(postgres_server: PostgresServer, template_database: str) -> Iterator[Shop]:
    with fresh_database(postgres_server, template_database) as dsn:
        made = Shop(dsn)
        yield made
        made.connection.close()
        made.store.close()


@pytest.mark.parametrize(
    ("field", "comparison"),
    [
        (PRICE, {"$gt": 4990}),
        (PRICE, {"$gte": 100, "$lt": 110.5}),
        (PRICE, {"$lte": -0.5}),
        (PRICE, {"$eq": 17.25}),
        (PRICE, {"$in": [1, 2.5, 3]}),
        (TITLE, {"$gte": "title 000", "$lt": "title 0002"}),
        (TITLE, {"$eq": "title 00017"}),
        (TITLE, {"$in": [f"title {number:05d}" for number in range(1000, 2000)]}),
        (DAY, {"$gte": "1999-01-01"}),
        (DAY, {"$gte": "1950-01-01", "$lt": "1950-12-31"}),
    ],
)
def test_an_index_of_a_declared_field_answers(shop: Shop, field: FilterableField, comparison: dict[str, Any]) -> None:
    assert shop.scans({field.field: comparison}) == {shop.index(field)}


def test_conditions_on_several_indexes_are_put_together(shop: Shop) -> None:
    every = f"records_{shop.collection.collection_id}_metadata"
    either = {"$or": [{"price": {"$lt": 2}}, {"title": "title 00017"}, {"flag": True}]}
    assert shop.scans(either) == {shop.index(PRICE), shop.index(TITLE), every}
    assert shop.scans({"flag": True}) == {every}
    # Tags are in lists: the index says that no field of them is a text that would have to be searched.
    assert shop.scans({"tags": {"$contains": "t17"}}) == {shop.index(TAGS), every}


def test_a_value_or_a_list_that_has_it_is_found_by_indexes(shop: Shop) -> None:
    every = f"records_{shop.collection.collection_id}_metadata"
    for filter in ({"title": {"$has": "title 00017"}}, {"title": {"$has": ["title 00017", "title 00018"]}}):
        # No title is a list: the field's own index says so, and nothing else has to be asked.
        assert shop.scans(filter) == {shop.index(TITLE)}, filter
        assert shop.scans(filter, ()) == {every}, filter
    for filter in ({"tags": {"$has": "t17"}}, {"tags": {"$has": ["t17", "t18"]}}):
        assert every in shop.scans(filter) <= {every, shop.index(TAGS)}, filter
        assert shop.scans(filter, ()) == {every}, filter


def test_without_declared_fields_equal_and_few_of_are_answered_by_the_index_on_all_metadata(shop: Shop) -> None:
    every = f"records_{shop.collection.collection_id}_metadata"
    for filter in (
        {"title": "title 00017"},
        {"$or": [{"title": "title 00017"}, {"price": 2, "day": "1950-03-03"}]},
        {"title": {"$in": [f"title {number:05d}" for number in range(20)]}},
        {"tags": {"$contains": 17}},
        {"$and": [{"title": {"$eq": "title 00017"}}, {"flag": {"$ne": True}}]},
    ):
        assert shop.scans(filter, ()) == {every}, filter


def test_searches_and_counts_of_a_collection_go_by_its_declared_fields(shop: Shop) -> None:
    declared = dataclasses.replace(shop.collection, filterable=DECLARED)
    filter = {"price": {"$gte": 100, "$lt": 110.5}}
    query = Query(numbers=numbers(1.0, 2.0), namespace="1", filter=filter)
    log = PlanLog(shop.store.database)
    for work in (
        lambda: shop.store.search(declared, query),
        lambda: shop.store.records.delete_matching(declared, "1", filter, dry_run=True),
    ):
        _, [plan] = log.of(work)
        scans = {name for name in executed_scans(plan) if "records" in name}
        assert shop.index(PRICE) in scans
        assert f"seq:records_{declared.collection_id}" not in scans


def test_texts_are_in_order_of_code_points_whatever_the_database_sorts_by(shop: Shop) -> None:
    found = index_definitions(shop.store, shop.collection)
    for field in (TITLE, DAY, TAGS):
        assert 'COLLATE "C"' in found[shop.index(field)]
    for length in (1, 1000):
        compiled = compile_filter({"title": {"$gt": "x" * length}})
        assert compiled is not None
        assert 'COLLATE "C" > ' in " ".join(compiled.expression.split())


@pytest.mark.parametrize("field", [PRICE, TITLE, DAY], ids=lambda field: field.field)
def test_values_of_any_length_can_be_written_to_an_indexed_field(store: Store, field: FilterableField) -> None:
    collection = store.create(dimension=2)
    store.rows(create_index(collection, field).decode())
    rng = random.Random(5)
    incompressible = "".join(chr(rng.randrange(0x10000, 0x110000)) for _ in range(10_000))
    digits = int("".join(str(rng.randrange(1, 10)) for _ in range(4000)))
    values: list[Any] = [incompressible, digits, -digits, 5e-324, -1.7976931348623157e308, 1.2345678901234567e-300]
    values += [None, True, [incompressible], {"x": digits}, ""]
    longest_namespace = incompressible[:256]
    insert = f"INSERT INTO vecmeter.records_{collection.collection_id} (namespace, id, metadata) VALUES (%s, %s, %s)"
    for number, value in enumerate(values):
        store.rows(insert, [longest_namespace, str(number), json.dumps({field.field: value})])
    assert store.collections.size(collection).count == len(values)


def index_definitions(store: Store, collection: Collection) -> dict[str, str]:
    found = store.rows(
        "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = %s AND indexname LIKE '%%field%%'",
        [f"records_{collection.collection_id}"],
    )
    return dict(found)


@pytest.mark.parametrize(
    "name", ["a", "a.b", "'; DROP TABLE x; --", '"', "\\", "{}", "%s", "日本", "[value]", "ä" * 127]
)
def test_an_index_is_made_and_dropped_for_a_field_of_any_name(store: Store, name: str) -> None:
    collection = store.create(dimension=2)
    fields = [FilterableField(name, kind) for kind in (FieldType.STRING, FieldType.NUMBER)]
    assert not check_filterable(fields[:1])
    store.rows(create_index(collection, fields[0]).decode())
    store.rows(create_index_concurrently(collection, fields[1]).decode())
    wanted = {index_name(collection.collection_id, field) for field in fields}
    assert len(wanted) == 2
    assert index_definitions(store, collection).keys() == wanted
    for field in fields:
        for _ in range(2):
            store.rows(drop_index(collection, field).decode())
    assert index_definitions(store, collection) == {}


def test_true_and_false_need_no_index_of_their_own(shop: Shop) -> None:
    declared = dataclasses.replace(shop.collection, filterable=DECLARED)
    assert indexed_fields(declared) == [field for field in DECLARED if field != FLAG]


def test_fields_that_cannot_be_declared_are_named() -> None:
    def faults(*names: str) -> list[str]:
        return [one.path for one in check_filterable([FilterableField(name, FieldType.STRING) for name in names])]

    assert faults("a", "a.b", "x" * MAX_FIELD_BYTES, " ") == []
    assert faults("a", "b", "a", "", "$x", "x" * (MAX_FIELD_BYTES + 1), "\x00", "\ud800") == [
        f"filterable.{index}.field" for index in range(2, 8)
    ]
    assert faults(*(str(number) for number in range(MAX_FILTERABLE))) == []
    assert faults(*(str(number) for number in range(MAX_FILTERABLE + 1))) == ["filterable"]
