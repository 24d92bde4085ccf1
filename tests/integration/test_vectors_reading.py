"""What was written comes back as it was: numbers, texts, JSON values; lists are complete and in order."""

from __future__ import annotations

import json
import math
import struct
import uuid
from array import array
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fixtures.vectors import FORCED, Store, vector
from vecmeter.vectors.model import Patch, Query, Vector
from vecmeter.vectors.tables import statement
from vecmeter.vectors.write_input import compact_json
from vecmeter.vectors.write_statements import METADATA_BYTES

# Each example works in a namespace of its own, so one database serves them all.
on_one_database = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
# All of Unicode but U+0000, which PostgreSQL cannot keep, and lone surrogates, which are not text.
texts = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\x00"))
ids = texts.filter(lambda text: 1 <= len(text.encode()) <= 512)
float32s = st.floats(width=32, allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False).filter(lambda x: math.copysign(1, x) > 0 or x != 0)
    | texts,
    lambda children: st.lists(children, max_size=4) | st.dictionaries(texts, children, max_size=4),
    max_leaves=12,
)


def by_value(value: Any) -> Any:
    """A JSON value to compare by: PostgreSQL keeps what a number says, not whether it was written 1e20 or in full."""
    if isinstance(value, dict):
        return {key: by_value(part) for key, part in value.items()}
    if isinstance(value, list):
        return [by_value(part) for part in value]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return Decimal(repr(value))
    return value


def bits(values: Any) -> list[bytes]:
    return [struct.pack("<f", value) for value in values]


@given(st.lists(float32s, min_size=4, max_size=4))
@on_one_database
def test_every_float32_comes_back_with_the_same_bits(store: Store, values: list[float]) -> None:
    collection = first_collection(store, dimension=4)
    written = array("f", values)
    store.records.upsert(collection, [Vector(id="v", numbers=written)])
    store.records.upsert(collection, [Vector(id="v", numbers=written, document="again")])
    [found] = store.records.fetch(collection, "", ["v"])
    assert bits(found.numbers) == bits(written)


def test_a_zero_that_changes_its_sign_is_written(store: Store) -> None:
    collection = store.create(dimension=2)
    for zero in (0.0, -0.0, 0.0):
        store.records.upsert(collection, [Vector(id="v", numbers=array("f", [zero, 1.0]))])
        [found] = store.records.fetch(collection, "", ["v"])
        assert bits(found.numbers) == bits([zero, 1.0])


@pytest.mark.parametrize(
    "value",
    [0.0, -0.0, 1e-45, -1e-45, 1.1754942e-38, 1.17549435e-38, 3.4028235e38, -3.4028235e38, 0.1, 1 / 3, 16777217.0],
)
def test_the_edges_of_float32_come_back_with_the_same_bits(store: Store, value: float) -> None:
    collection = store.create(dimension=2)
    written = array("f", [value, 1.0])
    store.records.upsert(collection, [Vector(id="v", numbers=written)])
    [found] = store.records.fetch(collection, "", ["v"])
    assert bits(found.numbers) == bits(written)


@given(id=ids, namespace=texts.filter(lambda t: len(t.encode()) <= 512), document=st.none() | texts)
@on_one_database
def test_any_unicode_serves_as_id_namespace_and_document(
    store: Store, id: str, namespace: str, document: str | None
) -> None:
    collection = first_collection(store)
    store.records.delete_matching(collection, namespace, None, dry_run=False)
    written = store.records.upsert(collection, [vector(id, namespace=namespace, document=document)])
    assert [(w.id, w.namespace) for w in written] == [(id, namespace)]
    [found] = store.records.fetch(collection, namespace, [id, id + "x"])
    assert (found.id, found.namespace, found.document) == (id, namespace, document)
    assert store.records.list_ids(collection, namespace, prefix=id, after="", limit=5) == [id]
    query = Query(id=id, namespace=namespace, include_document=True)
    assert [(m.id, m.document) for m in store.search(collection, query)] == [(id, document)]
    assert store.records.delete_ids(collection, namespace, [id], dry_run=False) == 1


@given(st.dictionaries(texts, json_values, max_size=5))
@on_one_database
def test_any_json_object_comes_back_as_metadata(store: Store, metadata: dict[str, Any]) -> None:
    collection = first_collection(store)
    store.records.upsert(collection, [vector("v", metadata=metadata)])
    assert by_value(store.records.fetch(collection, "", ["v"])[0].metadata) == by_value(metadata)
    [match] = store.search(collection, Query(id="v"))
    assert by_value(match.metadata) == by_value(metadata)


@given(
    before=st.dictionaries(texts, json_values, max_size=4),
    change=st.dictionaries(texts, json_values, max_size=4),
    data=st.data(),
)
@on_one_database
def test_a_patch_is_what_the_same_change_of_a_dictionary_is(
    store: Store, before: dict[str, Any], change: dict[str, Any], data: st.DataObject
) -> None:
    collection = first_collection(store)
    unset = data.draw(st.lists(st.sampled_from(sorted(before)) | texts if before else texts, max_size=3))
    store.records.upsert(collection, [vector("v", metadata=before)])
    store.records.patch(collection, "", "v", Patch(set=change, unset=unset))
    expected = {field: value for field, value in before.items() if field not in unset} | change
    assert by_value(store.records.fetch(collection, "", ["v"])[0].metadata) == by_value(expected)


# Numbers in the one form in which PostgreSQL writes them, too.
plain_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | texts,
    lambda children: st.lists(children, max_size=4) | st.dictionaries(texts, children, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(texts, plain_values, max_size=5))
@on_one_database
def test_the_size_of_metadata_is_that_of_its_shortest_json(store: Store, metadata: dict[str, Any]) -> None:
    size = len(json.dumps(metadata, ensure_ascii=False, separators=(",", ":")).encode())
    assert len(compact_json(metadata).encode()) == size
    said = f"SELECT {METADATA_BYTES} FROM (SELECT %(metadata)s::jsonb AS metadata) r"
    assert store.rows(said, {"metadata": compact_json(metadata), "max_metadata_bytes": 0}) == [(size,)]


@given(st.sets(ids, max_size=25), st.data())
@on_one_database
def test_a_list_by_prefix_is_complete_and_in_the_order_of_code_points(
    store: Store, written: set[str], data: st.DataObject
) -> None:
    collection = first_collection(store)
    namespace = uuid.uuid4().hex
    store.records.upsert(collection, [vector(id, namespace=namespace) for id in written])
    store.records.upsert(collection, [vector(id, namespace=namespace + "x") for id in written])
    whole = st.sampled_from(sorted(written)) if written else st.just("a")
    prefix = data.draw(whole.flatmap(lambda id: st.integers(0, len(id)).map(lambda cut: id[:cut])) | texts)
    pages, after, limit = [], "", data.draw(st.integers(1, 7))
    while page := store.records.list_ids(collection, namespace, prefix=prefix, after=after, limit=limit):
        assert len(page) <= limit
        pages += page
        after = page[-1]
    assert pages == sorted(id for id in written if id.startswith(prefix))


@pytest.mark.parametrize("prefix", ["a\U0010ffff", "\U0010ffff", "\ud7ff", "퟿\U0010ffff", "%", "_", "\\", "a"])
def test_a_prefix_at_an_edge_of_unicode_finds_what_starts_with_it(store: Store, prefix: str) -> None:
    collection = store.create()
    written = {p + rest for p in (prefix, "a", "b", "\ue000", "\U0010ffff", "퟿") for rest in ("", "a", "\U0010ffff")}
    store.records.upsert(collection, [vector(id) for id in written])
    found = store.records.list_ids(collection, "", prefix=prefix, after="", limit=100)
    assert found == sorted(id for id in written if id.startswith(prefix))


def test_a_list_by_prefix_reads_no_further_than_its_last_id(store: Store) -> None:
    collection = store.create()
    store.records.upsert(collection, [vector(f"a{i}") for i in range(5)])
    for start in range(0, 5000, 1000):
        store.records.upsert(collection, [vector(f"z{i}") for i in range(start, start + 1000)])
    store.maintenance.vacuum_analyze([collection], FORCED)
    for mode in ("force_custom_plan", "force_generic_plan"):
        buffers = buffers_of_list(store, collection, mode)
        assert buffers < 10, buffers


def test_fetch_answers_in_the_order_asked_without_doubles_or_what_is_missing(store: Store) -> None:
    collection = store.create()
    store.records.upsert(collection, [vector(id) for id in "abcd"])
    assert [found.id for found in store.records.fetch(collection, "", ["d", "a", "x", "d", "b"])] == ["d", "a", "b"]
    assert store.records.fetch(collection, "elsewhere", ["a"]) == []
    assert store.records.fetch(collection, "", []) == []


def first_collection(store: Store, **options: Any) -> Any:
    """The collection that all examples of a property share."""
    for found in store.collections.page("acme", after="", limit=1):
        return found
    return store.create(**options)


def buffers_of_list(store: Store, collection: Any, mode: str) -> int:
    from vecmeter.vectors import records

    text = statement(records._LIST.replace("[below]", "AND r.id < %(below)s"), collection).decode()
    for name, place in (("namespace", "$1"), ("after", "$2"), ("prefix", "$3"), ("below", "$4"), ("limit", "$5")):
        text = text.replace(f"%({name})s", place)

    def explain(connection: Any) -> int:
        connection.execute(f"SET plan_cache_mode = {mode}")
        connection.execute(f"PREPARE listing (text, text, text, text, int) AS {text}")
        lines = connection.execute(
            "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE listing ('', '', 'a', 'b', 100)"
        ).fetchone()[0]
        connection.execute("DEALLOCATE listing")
        return int(lines[0]["Plan"]["Shared Hit Blocks"] + lines[0]["Plan"]["Shared Read Blocks"])

    result: Callable[..., int] = store.database.run
    return result(explain)
