"""Vacuum and rebuilds are done where what was measured asks for them; a dry run says so and changes nothing."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fixtures.vectors import (
    DRY_RUN,
    FORCED,
    Store,
    as_numbers,
    clustered,
    hnsw_index,
    index_of,
    write_all,
)
from vecmeter.vectors.index_rows import Serving
from vecmeter.vectors.model import Collection, IndexType, Vector
from vecmeter.vectors.reindex import Condition, ReindexThresholds
from vecmeter.vectors.tables import table_names

ROWS = clustered(3000, 16)


def vectors(start: int, count: int) -> list[Vector]:
    return [Vector(id=f"v{at}", numbers=as_numbers(ROWS[at])) for at in range(start, start + count)]


def filled(store: Store, count: int, **options: Any) -> Collection:
    collection = store.create(dimension=16, **options)
    write_all(store, collection, vectors(0, count))
    return collection


def counted(store: Store) -> None:
    """Have PostgreSQL count what this session wrote now, not within a second."""
    store.database.run(lambda connection: connection.execute("SELECT pg_stat_force_next_flush()"))


def only(figures: dict[str, Any]) -> dict[str, Any]:
    [figure] = figures["collections"]
    return dict(figure)


def relation(store: Store, collection: Collection) -> int:
    """Which file an index is: another one once it was built anew."""
    [(number,)] = store.rows("SELECT %s::regclass::oid", [f"vecmeter.{hnsw_index(store, collection)}"])
    return int(number)


# --- vacuum ---


def test_only_tables_that_need_it_are_vacuumed_and_a_dry_run_says_which_and_why(store: Store) -> None:
    collection = filled(store, 600, index=index_of(IndexType.NONE))
    store.maintenance.vacuum_analyze([collection], FORCED)
    records, numbers = table_names(collection.collection_id)
    # Of the records alone rows die: a change of metadata leaves the vectors as they are.
    for version in range(2):
        for at in range(0, 600, 6):
            store.rows(
                f"UPDATE vecmeter.{records} SET metadata = jsonb_build_object('k', %s::int) WHERE id = %s",
                [version, f"v{at}"],
            )
    for orders, action in ((DRY_RUN, "planned"), (None, "vacuumed")):
        figure = only(store.maintenance.vacuum_analyze([collection], *([orders] if orders else [])))
        assert figure["action"] == action
        told = {table["table"]: (table["action"], table["reason"]) for table in figure["tables"]}
        assert told[numbers] == ("none", "0 % of its rows are dead, less than 10 %")
        assert told[records][0] == "vacuum"
        assert "of its rows are dead" in told[records][1]
        assert figure["dead_tuples_before"] >= 67
    assert figure["dead_tuples_after"] == 0
    assert only(store.maintenance.vacuum_analyze([collection]))["action"] == "none"


def test_rows_that_changed_without_dying_are_analyzed_only(store: Store) -> None:
    collection = filled(store, 300, index=index_of(IndexType.NONE))
    counted(store)
    figure = only(store.maintenance.vacuum_analyze([collection]))
    assert figure["action"] == "analyzed"
    assert {table["action"] for table in figure["tables"]} == {"analyze"}
    names = list(table_names(collection.collection_id))
    analyzed = store.rows(
        "SELECT last_vacuum IS NULL, last_analyze IS NOT NULL FROM pg_stat_user_tables WHERE relname = ANY(%s)", [names]
    )
    assert analyzed == [(True, True)] * 2


# --- rebuilds ---


def serving(**of: Any) -> Serving:
    usual = {
        "index_id": 1, "namespace": None, "built_vectors": 1000, "built_at": None, "built_bytes": 10 * 2**20,
        "built_changes": 1000, "probed_recall": 0.9, "probed_at": None, "probed_changes": 1000, "bytes": 10 * 2**20,
        "changes": 1000,
    }  # fmt: skip
    return Serving(**{**usual, **of})


@pytest.mark.parametrize(
    ("condition", "reason"),
    [
        (Condition(serving(probed_recall=None), 1000), None),
        (Condition(serving(probed_recall=0.96), 1999), None),
        (Condition(serving(), 2000), "2000 vectors, 1000 when it was built"),
        (Condition(serving(built_vectors=None, built_bytes=None), 2000), None),
        (Condition(serving(probed_recall=None), 667), None),
        (Condition(serving(probed_recall=None), 666), "it takes 10485760 bytes, a fresh one 6983516"),
        (Condition(serving(probed_recall=None, bytes=2**17, built_bytes=2**17), 10), None),
        # Of the same vectors the same graph would come out again.
        (Condition(serving(changes=1049), 1000), None),
        (Condition(serving(changes=1050), 1000), "its recall is 0.900, below 0.95"),
        (Condition(serving(changes=3), 1000), "its recall is 0.900, below 0.95"),
        (Condition(serving(built_changes=None), 1000), "its recall is 0.900, below 0.95"),
    ],
)
def test_growth_bloat_and_recall_decide_and_are_the_reason(condition: Condition, reason: str | None) -> None:
    assert condition.why_anew(ReindexThresholds(), target_recall=0.95) == reason


def test_an_index_of_vectors_that_are_mostly_gone_is_built_anew_and_takes_less_room(store: Store) -> None:
    collection = store.build(filled(store, 3000))
    before = relation(store, collection)
    figure = only(store.maintenance.reindex_hnsw([collection]))
    assert figure["action"] == "none"
    [told] = figure["indexes"]
    assert (told["vectors"], told["vectors_when_built"], told["growth"], told["bloat"]) == (3000, 3000, 0.0, 0.0)
    assert relation(store, collection) == before
    store.records.delete_ids(collection, "", [f"v{at}" for at in range(2000)], dry_run=False)
    planned = only(store.maintenance.reindex_hnsw([collection], DRY_RUN))
    assert planned["action"] == "planned"
    assert planned["indexes"][0]["reason"].startswith(f"it takes {told['bytes']} bytes, a fresh one ")
    assert relation(store, collection) == before
    done = only(store.maintenance.reindex_hnsw([collection]))
    assert (done["action"], done["indexes"][0]["bloat"]) == ("reindexed", 2.0)
    assert relation(store, collection) != before
    again = only(store.maintenance.reindex_hnsw([collection]))
    assert again["action"] == "none"
    assert again["indexes"][0]["bytes"] < told["bytes"] / 2


def test_a_rebuild_is_forced_by_hand_though_nothing_asks_for_it(store: Store) -> None:
    collection = store.build(filled(store, 1000))
    before = relation(store, collection)
    assert only(store.maintenance.reindex_hnsw([collection], FORCED))["indexes"][0]["reason"] == "it is forced"
    assert relation(store, collection) != before


def test_a_recall_that_fell_with_many_changes_asks_for_a_rebuild_and_a_rebuild_forgets_it(store: Store) -> None:
    collection = store.build(filled(store, 1000))
    store.rows("UPDATE vecmeter.hnsw_indexes SET probed_recall = 0.5, probed_at = now()")
    counted(store)
    assert only(store.maintenance.reindex_hnsw([collection], DRY_RUN))["action"] in ("none", "planned")
    store.rows("UPDATE vecmeter.hnsw_indexes SET built_changes = 0")
    done = only(store.maintenance.reindex_hnsw([collection]))
    assert done["indexes"][0]["reason"] == "its recall is 0.500, below 0.95"
    assert store.rows("SELECT probed_recall, probed_at FROM vecmeter.hnsw_indexes") == [(None, None)]
    assert only(store.maintenance.reindex_hnsw([collection]))["action"] == "none"


# --- dry runs of the others ---


def test_dry_runs_of_sweeps_and_recounts_say_what_they_would_do_and_do_not(store: Store) -> None:
    collection = filled(store, 10)
    records, numbers = table_names(collection.collection_id)
    for table in (records, numbers):
        store.rows(f"UPDATE vecmeter.{table} SET expires_at = now() - interval '1 hour' WHERE record_id <= 4")
    store.rows("UPDATE vecmeter.stock SET vectors = vectors + 5")
    assert only(store.maintenance.purge_expired([collection], DRY_RUN)).items() >= {"expired": 4}.items()
    assert only(store.maintenance.recount_stock([collection], DRY_RUN))["corrected"]["vectors"] == -5
    assert store.rows(f"SELECT count(*) FROM vecmeter.{records}") == [(10,)]
    assert only(store.maintenance.recount_stock([collection]))["corrected"]["vectors"] == -5
    assert only(store.maintenance.recount_stock([collection]))["corrected"]["vectors"] == 0
    assert only(store.maintenance.purge_expired([collection]))["deleted"] == 4
    assert only(store.maintenance.purge_expired([collection], DRY_RUN))["action"] == "none"


def test_a_dry_run_of_builds_names_fields_texts_and_leftovers_as_well(store: Store) -> None:
    collection = filled(store, 10)
    records, _ = table_names(collection.collection_id)
    store.rows('UPDATE vecmeter.collections SET filterable = \'[{"field": "n", "type": "number"}]\'')
    store.rows("UPDATE vecmeter.collections SET text_search = 'english', texts_ready = false")
    store.rows(f"CREATE INDEX records_{collection.collection_id}_field_0000 ON vecmeter.{records} (id)")
    figure = only(store.maintenance.build_indexes([collection], DRY_RUN))
    assert figure["action"] == "planned"
    assert [(one["action"], one.get("field"), one.get("text_search")) for one in figure["indexes"]] == [
        ("fill", None, "english"),
        ("build", "n", None),
        ("drop", None, None),
    ]
    assert only(store.maintenance.build_indexes([collection], DRY_RUN)) == figure
