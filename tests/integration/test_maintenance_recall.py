"""Recall is measured by searches, and ``ef_search`` is made what the target asks: on vectors that have neighbours."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fixtures.vectors import DRY_RUN, FORCED, Store, as_numbers, clustered, fresh_database, write_all
from vecmeter.vectors import probing, tuning
from vecmeter.vectors.model import Collection, IndexDefinition, Plan, Query, Vector
from vecmeter.vectors.probing import Prober
from vecmeter.vectors.tuning import STEPS, choose
from vecmeter.vectors.turns import Orders
from vecmeter.vectors.vector_search import ef_search_of
from vecmeter_local.postgres import PostgresServer

COUNT, DIMENSION = 4500, 48
ROWS = clustered(COUNT, DIMENSION, clusters=6, spread=1.0)


@pytest.fixture(scope="module")
def template(postgres_server: PostgresServer, template_database: str) -> Iterator[str]:
    """A database with a collection whose index was built with so few links that its recall depends on ``ef_search``."""
    with fresh_database(postgres_server, template_database) as dsn:
        store = Store(dsn, most_namespaces=1)
        collection = store.create(dimension=DIMENSION, index=IndexDefinition(m=6, ef_construction=16))
        vectors = [
            Vector(id=f"v{at}", numbers=as_numbers(row), namespace="" if at % 3 == 0 else "own")
            for at, row in enumerate(ROWS)
        ]
        write_all(store, collection, vectors)
        store.build(collection)
        store.close()
        yield dsn.rsplit("/", 1)[1].split("?")[0]


@pytest.fixture
def sparse(postgres_server: PostgresServer, template: str) -> Iterator[Store]:
    with fresh_database(postgres_server, template) as dsn:
        store = Store(dsn, most_namespaces=1)
        store.prober = Prober(store.searcher, searches=60)
        store.maintain()
        yield store
        store.close()


def collection_of(store: Store) -> Collection:
    store.clock[0] += 3600
    return store.collections.get("acme", "things")


def only(figures: dict[str, Any]) -> dict[str, Any]:
    [figure] = figures["collections"]
    return dict(figure)


def aim(store: Store, target: float) -> Collection:
    store.collections.change("acme", "things", lambda c: replace(c, target_recall=target))
    return collection_of(store)


# --- measuring ---


def test_the_recall_of_every_index_is_measured_and_kept(sparse: Store) -> None:
    collection = aim(sparse, 0.99)
    outcome = sparse.maintenance.probe_recall([collection])
    figure = only(outcome)
    assert figure["action"] == "probed"
    told = {one["namespace"]: one["recall"] for one in figure["indexes"]}
    assert set(told) == {None, "own"}
    assert all(0.7 < recall < 0.99 for recall in told.values()), told
    assert (outcome["recall"], outcome["below_target"]) == (min(told.values()), 1)
    kept = {one.namespace: one.probed_recall for one in sparse.descriptions.indexes(collection)}
    assert kept == {namespace: pytest.approx(recall, abs=1e-4) for namespace, recall in told.items()}
    again = sparse.maintenance.probe_recall([collection])
    assert (only(again)["action"], again["below_target"]) == ("none", 1), "nothing has changed: it is too low yet"
    assert only(sparse.maintenance.probe_recall([collection], FORCED))["action"] == "probed"


def test_what_is_measured_is_what_searches_that_ask_the_index_find(sparse: Store) -> None:
    collection = collection_of(sparse)
    for namespace, plan in ((None, {Plan.HNSW, Plan.ADAPTIVE}), ("own", {Plan.PARTIAL})):
        sample = sparse.prober.sample(collection, namespace, Orders())
        assert len(sample.queries) == 60
        assert {sparse.searcher.search(collection, query).plan for query in sample.queries} <= plan
        by_ef = [sample.recall(sparse.searcher, collection, ef_search) for ef_search in (40, 200, 1000)]
        assert by_ef == sorted(by_ef)
        assert by_ef[0] < by_ef[2]
        assert sample.recall(sparse.searcher, collection) == sample.recall(sparse.searcher, collection, 100)


def test_a_dry_run_names_what_would_be_measured_and_a_collection_without_index_nothing(sparse: Store) -> None:
    plain = sparse.create("plain", dimension=3)
    figures = sparse.maintenance.probe_recall([collection_of(sparse), plain], DRY_RUN)
    planned, none = figures["collections"]
    assert (planned["action"], [one["reason"] for one in planned["indexes"]]) == (
        "planned",
        ["it was never measured"] * 2,
    )
    assert (none["action"], none["reason"]) == ("none", "there is no HNSW index")
    assert figures["recall"] is None


def test_measuring_ends_with_its_time_and_concludes_nothing_from_few(sparse: Store) -> None:
    ticks = iter(range(10**6))
    sparse.prober = Prober(sparse.searcher, searches=60, seconds=5, clock=lambda: float(next(ticks)))
    sparse.maintain()
    figure = only(sparse.maintenance.probe_recall([collection_of(sparse)]))
    assert {one["sample"] for one in figure["indexes"]} <= set(range(6))
    assert all("recall" not in one and "could be measured" in one["reason"] for one in figure["indexes"])
    assert (
        only(sparse.maintenance.tune_ef_search([collection_of(sparse)]))["reason"]
        == "too few searches could be measured"
    )


def test_the_indexes_measured_longest_ago_come_first(sparse: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "MOST_INDEXES", 1)
    order = [only(sparse.maintenance.probe_recall([collection_of(sparse)], FORCED))["indexes"] for _ in range(3)]
    assert [[one["namespace"] for one in told] for told in order] == [[None], ["own"], [None]]


# --- tuning ---


def test_ef_search_is_raised_until_the_target_is_reached_and_searches_take_it(sparse: Store) -> None:
    collection = aim(sparse, 0.97)
    planned = only(sparse.maintenance.tune_ef_search([collection], DRY_RUN))
    assert planned["action"] == "planned"
    assert collection_of(sparse).tuned_ef_search is None
    figure = only(sparse.maintenance.tune_ef_search([collection]))
    assert (figure["action"], figure["ef_search_before"], figure["target_reached"]) == ("tuned", 100, True)
    assert figure["ef_search"] == planned["ef_search"] > 100
    assert figure["recall"] >= 0.97
    tuned = collection_of(sparse)
    assert tuned.tuned_ef_search == figure["ef_search"]
    # On searches that it was not made for.
    fresh = replace(sparse.prober, searches=150)
    for namespace in (None, "own"):
        assert fresh.sample(tuned, namespace, Orders()).recall(sparse.searcher, tuned) > 0.95
    again = only(sparse.maintenance.tune_ef_search([tuned]))
    assert (again["action"], again["reason"]) == ("none", "little has changed since it was tuned")


def test_what_the_request_or_the_collection_says_comes_before_what_was_tuned(sparse: Store) -> None:
    collection = replace(collection_of(sparse), tuned_ef_search=300)
    query = Query(numbers=as_numbers(ROWS[0]))
    assert ef_search_of(collection, query, 10) == 300
    assert ef_search_of(collection, replace(query, ef_search=50), 10) == 50
    assert ef_search_of(replace(collection, ef_search=70), query, 10) == 70
    assert ef_search_of(collection, query, 400) == 800
    sparse.collections.change("acme", "things", lambda c: replace(c, ef_search=70))
    figure = only(sparse.maintenance.tune_ef_search([collection_of(sparse)], FORCED))
    assert (figure["action"], figure["reason"]) == ("none", "ef_search is set to 70")


def test_ef_search_is_lowered_only_with_room_to_spare_and_not_up_and_down(sparse: Store) -> None:
    collection = aim(sparse, 0.95)
    high = only(sparse.maintenance.tune_ef_search([collection]))["ef_search"]
    collection = aim(sparse, 0.6)
    assert only(sparse.maintenance.tune_ef_search([collection], DRY_RUN))["reason"] == "the target recall was 0.95"
    figure = only(sparse.maintenance.tune_ef_search([collection]))
    assert figure["ef_search"] < high
    assert figure["recall"] >= 0.6 + tuning.MARGIN
    values = {only(sparse.maintenance.tune_ef_search([collection_of(sparse)], FORCED))["ef_search"] for _ in range(3)}
    assert values == {figure["ef_search"]}


@pytest.mark.parametrize(
    ("recalls", "before", "chosen"),
    [
        ({40: 0.94, 60: 0.952, 80: 0.955, 100: 0.957}, 100, 100),
        ({40: 0.94, 60: 0.961, 80: 0.97, 100: 0.98}, 100, 60),
        ({40: 0.94, 60: 0.952, 80: 0.97, 100: 0.98}, 100, 80),
        ({40: 0.94, 60: 0.952, 80: 0.97, 100: 0.98}, 40, 60),
    ],
)
def test_a_value_that_just_reaches_the_target_is_enough_to_raise_to_and_not_to_lower_to(
    sparse: Store, monkeypatch: pytest.MonkeyPatch, recalls: dict[int, float], before: int, chosen: int
) -> None:
    def recall(sample: probing.Sample, searcher: object, collection: Collection, ef_search: int) -> float:
        return recalls.get(ef_search, 0.99)

    sparse.rows("UPDATE vecmeter.collections SET tuned_ef_search = %s", [before])
    monkeypatch.setattr(probing.Sample, "recall", recall)
    assert only(sparse.maintenance.tune_ef_search([aim(sparse, 0.95)], FORCED))["ef_search"] == chosen


def test_an_index_built_since_and_a_recall_below_the_target_are_reasons_to_tune_again(sparse: Store) -> None:
    collection = aim(sparse, 0.9)
    sparse.maintenance.tune_ef_search([collection])
    sparse.rows("UPDATE vecmeter.hnsw_indexes SET probed_recall = 0.2, probed_at = now()")
    assert only(sparse.maintenance.tune_ef_search([collection], DRY_RUN))["reason"] == "its recall is below the target"
    sparse.rows("UPDATE vecmeter.hnsw_indexes SET built_at = now()")
    assert only(sparse.maintenance.tune_ef_search([collection], DRY_RUN))["reason"] == "an index was built since"


def curve(least: int, top: float) -> Any:
    """A recall that grows with ef_search, and is 0.95 from ``least`` on."""
    return lambda ef_search: min(top, 0.95 * ef_search / least)


@given(st.integers(1, 1000), st.integers(1, 1000))
def test_what_is_chosen_is_the_least_step_that_holds_in_both_halves(measured: int, checked: int) -> None:
    asked: list[int] = []

    def measure(ef_search: int) -> float:
        asked.append(ef_search)
        return float(curve(measured, 1.0)(ef_search))

    chosen = choose(measure, curve(checked, 1.0), 0.95)
    assert chosen.reached
    assert chosen.ef_search == min(step for step in STEPS if step >= max(measured, checked))
    assert len(asked) <= 4


def test_where_no_step_reaches_the_target_it_is_not_paid_for() -> None:
    """Ten times the work for a thousandth more is no bargain."""
    flat = lambda ef_search: 0.9 if ef_search < 150 else 0.93 + ef_search / 10**6  # noqa: E731
    chosen = choose(flat, flat, 0.95)
    assert (chosen.ef_search, chosen.reached) == (150, False)
