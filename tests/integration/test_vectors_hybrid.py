"""A hybrid search is the fusion of the search by vector and the search by words, whichever way it is made."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from tests.fixtures.texts import create_texts, places, scaled, scores, write_texts
from tests.fixtures.vectors import (
    Matrix,
    PlanLog,
    Store,
    as_numbers,
    clustered,
    distances,
    fresh_database,
    numbers,
    recall,
    vector,
    write_all,
)
from vecmeter.vectors import text_search
from vecmeter.vectors.hybrid_search import TEXT_WEIGHT
from vecmeter.vectors.model import Fusion, Metric, Mode, Plan, Query, Vector
from vecmeter.vectors.tables import table_names
from vecmeter_local.postgres import PostgresServer

WORDS = [f"word{number}" for number in range(60)]
COUNT = 2500


class Shelf:
    """2,500 documents of which each word is in some, with an index; and what their parts find."""

    def __init__(self, store: Store, metric: Metric) -> None:
        rng = random.Random(3)
        self.store = store
        self.metric = metric
        self.rows: Matrix = clustered(COUNT, 8)
        self.documents = [" ".join(rng.choices(WORDS, k=rng.randint(3, 30))) for _ in range(COUNT)]
        collection = create_texts(store, dimension=8, metric=metric)
        write_all(
            store,
            collection,
            [
                Vector(id=f"d{at:04}", numbers=as_numbers(row), document=text, metadata={"tenth": at % 10})
                for at, (row, text) in enumerate(zip(self.rows, self.documents, strict=True))
            ],
        )
        self.collection = store.build(collection)
        self.store.rows(f"ANALYZE vecmeter.texts_{collection.collection_id}")

    def near(self, query: Query, among: list[int]) -> dict[str, float]:
        assert query.numbers is not None
        found = distances(self.metric, self.rows[among], query.numbers)
        return {f"d{at:04}": self.metric.score(distance) for at, distance in zip(among, found.tolist(), strict=True)}

    def words(self, query: Query, top_k: int = COUNT) -> dict[str, float]:
        return scores(self.store, self.collection, replace(query, mode=Mode.TEXT, numbers=None, top_k=top_k, offset=0))

    def fused(self, query: Query, weight: float, among: list[int], listed: int = 50) -> dict[str, float]:
        """In Python, from the two lists as they are."""
        words, near = self.words(query), self.near(query, among)
        by_words = places(dict(itertools.islice(words.items(), listed)))
        by_vector = {id: place for id, place in places(near).items() if place <= listed}
        pool = by_words.keys() | by_vector.keys()
        if query.fusion is Fusion.RRF:
            return {
                id: (weight / (60 + by_words[id]) if id in by_words else 0.0)
                + ((1 - weight) / (60 + by_vector[id]) if id in by_vector else 0.0)
                for id in pool
            }
        from_words, from_vector = scaled({id: words.get(id, 0.0) for id in pool}), scaled({id: near[id] for id in pool})
        return {id: weight * from_words[id] + (1 - weight) * from_vector[id] for id in pool}


@pytest.fixture(scope="module", params=list(Metric))
def shelf(request: pytest.FixtureRequest, postgres_server: PostgresServer, template_database: str) -> Iterator[Shelf]:
    with fresh_database(postgres_server, template_database) as dsn:
        store = Store(dsn)
        yield Shelf(store, request.param)
        store.close()


def hybrid(text: str, row: Matrix, **options: object) -> Query:
    return Query(mode=Mode.HYBRID, text=text, numbers=as_numbers(row), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("fusion", list(Fusion))
def test_scores_are_those_of_the_two_lists_fused(shelf: Shelf, fusion: Fusion) -> None:
    everything = list(range(COUNT))
    recalls: list[float] = []
    for weight, at in ((0.0, 5), (0.3, 700), (0.7, 1400), (1.0, 2100)):
        text = " ".join(WORDS[at % 50 : at % 50 + 3])
        query = hybrid(text, shelf.rows[at], fusion=fusion, text_weight=weight, exact=True, top_k=20)
        wanted = shelf.fused(query, weight, everything)

        found = scores(shelf.store, shelf.collection, query)

        assert list(found.values()) == pytest.approx(sorted(wanted.values(), reverse=True)[:20], rel=1e-5, abs=1e-9)
        assert found == pytest.approx({id: wanted[id] for id in found}, rel=1e-5, abs=1e-9)
        recalls.append(recall(scores(shelf.store, shelf.collection, replace(query, exact=False)), found))
    # An index leaves a vector out now and then, and so moves the scale a little.
    assert sum(recalls) / len(recalls) >= 0.9


@pytest.mark.parametrize("few", [10, 5000])
def test_a_filter_holds_for_both_lists(shelf: Shelf, monkeypatch: pytest.MonkeyPatch, few: int) -> None:
    monkeypatch.setattr(text_search, "FEW", few)
    among = list(range(3, COUNT, 10))
    query = hybrid("word1 word2", shelf.rows[17], filter={"tenth": 3}, text_weight=0.5, top_k=30)

    found = scores(shelf.store, shelf.collection, query)

    assert found == pytest.approx(
        dict(sorted(shelf.fused(query, 0.5, among).items(), key=lambda item: -item[1])[:30]), rel=1e-5
    )


def test_an_index_that_delivers_more_makes_the_list_no_longer(shelf: Shelf) -> None:
    for at in range(0, COUNT, 250):
        query = hybrid(WORDS[at % 50], shelf.rows[at], fusion=Fusion.RRF, text_weight=0.9, top_k=50)
        found = scores(shelf.store, shelf.collection, query)
        wanted = scores(shelf.store, shelf.collection, replace(query, exact=True))
        both = found.keys() & wanted.keys()
        assert len(both) >= 45
        # Less than any place in the list brings; a vector that the index leaves out moves the others by one place.
        assert {id: found[id] for id in both} == pytest.approx({id: wanted[id] for id in both}, abs=2e-4)


def test_pages_fit_together_within_the_pool(shelf: Shelf) -> None:
    query = hybrid("word4 word5 word6", shelf.rows[3], top_k=45)
    everything = list(scores(shelf.store, shelf.collection, query))

    pages = [
        list(scores(shelf.store, shelf.collection, replace(query, top_k=15, offset=offset))) for offset in (0, 15, 30)
    ]

    assert list(itertools.chain(*pages)) == everything


def test_there_are_as_many_matches_as_are_wanted_and_as_many_groups(shelf: Shelf) -> None:
    assert len(scores(shelf.store, shelf.collection, hybrid("word1", shelf.rows[0], top_k=400))) == 400
    assert len(scores(shelf.store, shelf.collection, hybrid("word1", shelf.rows[0], top_k=COUNT + 1))) == COUNT
    assert len(scores(shelf.store, shelf.collection, hybrid("word1", shelf.rows[0], group_by="tenth"))) == 10
    assert len(scores(shelf.store, shelf.collection, hybrid("word1", shelf.rows[0], group_by="none", top_k=300))) == 300


def test_it_is_one_statement_and_knows_every_distance(shelf: Shelf) -> None:
    query = hybrid("word7", shelf.rows[9], top_k=100)
    shelf.store.ids(shelf.collection, query)
    log = PlanLog(shelf.store.database)

    result, plans = log.of(lambda: shelf.store.searcher.search(shelf.collection, query))

    assert len([plan for plan in plans if "records_" in plan]) == 1  # and one that sets hnsw.ef_search
    assert result.plan is Plan.HYBRID
    near = shelf.near(query, list(range(COUNT)))
    for match in result.matches:
        assert match.distance is not None
        assert shelf.metric.score(match.distance) == pytest.approx(near[match.id], rel=1e-4, abs=1e-6)


def test_without_words_that_count_it_is_the_search_by_vector(store: Store) -> None:
    collection = create_texts(store, "english", dimension=2)
    store.records.upsert(collection, [vector("a", 1.0, 0.0, document="drum"), vector("b", 0.0, 1.0)])

    for text in ("", "the of", "unheard"):
        assert store.ids(collection, Query(mode=Mode.HYBRID, text=text, numbers=numbers(0.1, 1.0))) == ["b", "a"]


def test_what_is_alone_in_the_pool_scores_as_the_best(store: Store) -> None:
    collection = create_texts(store, "english", dimension=2)
    store.records.upsert(collection, [vector("a", 1.0, 0.0, document="drum")])

    def score(text: str) -> float:
        return scores(store, collection, Query(mode=Mode.HYBRID, text=text, numbers=numbers(0.1, 1.0)))["a"]

    assert score("drums") == pytest.approx(1.0)
    assert score("unheard") == pytest.approx(1 - TEXT_WEIGHT)


def test_neither_another_namespace_nor_what_has_expired_is_found(store: Store) -> None:
    collection = create_texts(store)
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    write_texts(store, collection, {"mine": "drum"})
    write_texts(store, collection, {"gone": "drum"}, expires_at=tomorrow)
    write_texts(store, collection, {"yours": "drum"}, namespace="other")
    for table in table_names(collection.collection_id):
        store.rows(f"UPDATE vecmeter.{table} SET expires_at = now() - interval '1 second' WHERE expires_at IS NOT NULL")

    for fusion in Fusion:
        query = Query(mode=Mode.HYBRID, text="drum", numbers=numbers(1.0, 1.0, 1.0), fusion=fusion)
        assert store.ids(collection, query) == ["mine"]


@pytest.mark.parametrize("mode", [Mode.TEXT, Mode.HYBRID])
@pytest.mark.parametrize("filter", [None, {"a": 1}])
def test_records_are_locked_before_the_other_tables_as_dropping_does(
    open_store: Callable[..., Store], mode: Mode, filter: dict[str, int] | None
) -> None:
    store, looker = open_store(), open_store()
    collection = create_texts(store)
    write_texts(store, collection, {"a": "drum"}, metadata={"a": 1})
    given = None if mode is Mode.TEXT else numbers(1.0, 1.0, 1.0)
    query = Query(mode=mode, text="drum", numbers=given, filter=filter)
    assert store.ids(collection, query) == ["a"]
    records, vectors = table_names(collection.collection_id)[:2]
    with psycopg.connect(store.dsn) as dropper:
        dropper.execute(f"LOCK TABLE vecmeter.{records} IN ACCESS EXCLUSIVE MODE".encode())
        thread = threading.Thread(target=lambda: store.ids(collection, query))
        thread.start()
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = %s::regclass"
        while looker.rows(waiting, [f"vecmeter.{records}"]) == [(0,)]:
            assert thread.is_alive()
        # Nobody who waits for the first table holds another.
        for table in (vectors, f"texts_{collection.collection_id}"):
            dropper.execute(f"LOCK TABLE vecmeter.{table} IN ACCESS EXCLUSIVE MODE NOWAIT".encode())
        dropper.rollback()
        thread.join()
