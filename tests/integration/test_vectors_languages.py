"""A collection can be given a language, another one, or none, while others write; no document's words are missed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from tests.fixtures.vectors import Store, in_threads, raised, vector
from vecmeter.errors import DatabaseUnavailableError, VectorNotFoundError
from vecmeter.vectors import texts
from vecmeter.vectors.model import Collection, Mode, Query, Vector
from vecmeter.vectors.tables import statement

Open = Callable[..., Store]
DOCUMENTS = ("The dogs were running", "Die Hunde liefen", "running water", "", "to be or not to be")


def documents(count: int, prefix: str = "v") -> list[Vector]:
    return [vector(f"{prefix}{at}", document=DOCUMENTS[at % 5] or None) for at in range(count)]


def speak(store: Store, language: str | None) -> Collection:
    return store.collections.change("acme", "things", lambda c: replace(c, text_search=language))


def assert_all_words_are_indexed(store: Store, collection: Collection) -> None:
    """Each record has its words, in the collection's language, and nothing else has any."""
    number, language = collection.collection_id, collection.text_search
    wrong = store.rows(
        f"SELECT record_id, r.document, t.terms FROM vecmeter.records_{number} r "
        f"FULL JOIN vecmeter.texts_{number} t USING (record_id) WHERE r.record_id IS NULL OR t.record_id IS NULL "
        "OR t.terms <> to_tsvector(%s::text::regconfig, coalesce(r.document, '')) OR r.namespace <> t.namespace",
        [language],
    )
    assert wrong == []


def has_texts(store: Store, collection: Collection) -> bool:
    return bool(store.rows("SELECT to_regclass(%s) IS NOT NULL", [f"vecmeter.texts_{collection.collection_id}"])[0][0])


def test_documents_written_before_are_indexed_and_again_in_another_language_and_no_more(store: Store) -> None:
    collection = store.create()
    store.records.upsert(collection, documents(40))
    for language in ("english", "german", "english"):
        changed = speak(store, language)
        assert (changed.text_search, changed.texts_ready) == (language, True)
        assert_all_words_are_indexed(store, changed)
    assert not has_texts(store, speak(store, None))


def test_the_same_language_again_makes_nothing_anew(store: Store) -> None:
    collection = store.create()
    store.records.upsert(collection, documents(5))
    speak(store, "english")
    numbered = "SELECT to_regclass(%s)::oid"
    name = [f"vecmeter.texts_{collection.collection_id}"]
    before = store.rows(numbered, name)
    speak(store, "english")
    assert store.rows(numbered, name) == before


def test_who_remembers_the_old_language_writes_by_the_new_one(open_store: Open) -> None:
    here, there = open_store(), open_store()
    here.create()
    writes: list[Callable[[Collection], object]] = [
        lambda c: there.records.upsert(c, documents(5)),
        lambda c: there.records.add(c, vector("new", document="swimming dogs")),
        lambda c: there.records.delete_ids(c, "", ["v1"], dry_run=False),
        lambda c: there.records.delete_matching(c, "", {"none": 1}, dry_run=False),
    ]
    languages = ("english", None, "german", "simple")
    for write, language in zip(writes, languages, strict=True):
        there.collections.get("acme", "things")  # remembers
        changed = speak(here, language)
        there.collections.use("acme", "things", write)
        if language is not None:
            assert_all_words_are_indexed(here, changed)


@pytest.mark.parametrize("mode", [Mode.TEXT, Mode.HYBRID])
def test_who_remembers_the_old_language_searches_by_the_new_one(
    open_store: Open, monkeypatch: pytest.MonkeyPatch, mode: Mode
) -> None:
    here, there = open_store(), open_store()
    here.create()
    here.records.upsert(speak(here, "english"), documents(5))

    def scores(text: str) -> dict[str, float]:
        numbers = None if mode is Mode.TEXT else vector("any").numbers
        query = Query(mode=mode, text=text, numbers=numbers, text_weight=None if mode is Mode.TEXT else 1.0)
        result = there.collections.use("acme", "things", lambda c: there.searcher.search(c, query))
        return {match.id: match.score for match in result.matches if match.score > 0}

    assert scores("runs").keys() == {"v0", "v2"}
    speak(here, "german")
    assert scores("lief").keys() == {"v1"}
    assert scores("runs") == {}
    monkeypatch.setattr(texts, "READ_AT_ONCE", 0)
    speak(here, "english")
    # Nobody answers by words of which some are missing; requests are told so before (routes of the search function).
    with pytest.raises(DatabaseUnavailableError):
        scores("runs")


def test_a_large_collection_is_indexed_by_maintenance_while_it_is_written_to(
    open_store: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(texts, "READ_AT_ONCE", 100)
    monkeypatch.setattr(texts, "_READ_AT_A_TIME", 7)
    keeper, writer = open_store(), open_store()
    collection = keeper.create()
    keeper.records.upsert(collection, documents(600))
    changed = speak(keeper, "english")
    assert not changed.texts_ready
    stop = threading.Event()

    def write() -> int:
        done = 0
        while not stop.is_set():
            batch = [vector(f"v{(done * 13 + at) % 700}", document=DOCUMENTS[(done + at) % 5]) for at in range(9)]
            writer.collections.use("acme", "things", lambda c, b=batch: writer.records.upsert(c, b))
            gone = [f"v{(done * 17) % 600}"]
            writer.collections.use(
                "acme", "things", lambda c, g=gone: writer.records.delete_ids(c, "", g, dry_run=False)
            )
            done += 1
        return done

    def fill() -> int:
        try:
            [figure] = keeper.maintenance.build_indexes([changed])["collections"]
            assert figure["action"] == "changed", figure
            assert figure["indexes"] == [{"action": "fill", "text_search": "english"}]
        finally:
            stop.set()
        return 0

    results = in_threads(write, fill)
    assert raised(results) == []
    assert int(results[0]) > 3  # type: ignore[call-overload]
    keeper.clock[0] += 3600
    ready = keeper.collections.get("acme", "things")
    assert ready.texts_ready
    assert_all_words_are_indexed(keeper, ready)
    assert keeper.maintenance.build_indexes([ready])["collections"][0]["action"] == "none"


def test_a_language_taken_back_while_its_words_are_indexed_leaves_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(texts, "READ_AT_ONCE", 1)
    collection = store.create()
    store.records.upsert(collection, documents(20))
    english = speak(store, "english")
    speak(store, None)
    assert store.maintenance.build_indexes([english])["collections"][0]["action"] == "none"
    assert speak(store, "german").texts_ready is False
    store.maintenance.build_indexes([english])
    store.clock[0] += 3600
    german = store.collections.get("acme", "things")
    assert german.texts_ready
    assert_all_words_are_indexed(store, german)


def test_a_language_changed_while_its_words_are_indexed_mixes_no_two_and_misses_none(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it is another one at the end, or the same again: its table is not the one the fill began with."""
    monkeypatch.setattr(texts, "READ_AT_ONCE", 1)
    monkeypatch.setattr(texts, "_READ_AT_A_TIME", 5)
    collection = store.create()
    store.records.upsert(collection, documents(20))
    execute = psycopg.Connection.execute
    for changes in (("german",), (None, "english"), ("german", "english")):
        english, pending = speak(store, "english"), list(changes)
        fill_some = statement(texts._FILL_SOME, english)

        def change_after_one(
            connection: psycopg.Connection,
            query: object,
            *args: Any,
            fill_some: bytes = fill_some,
            pending: list[str | None] = pending,
            **options: Any,
        ) -> Any:
            done = execute(connection, query, *args, **options)  # type: ignore[arg-type]
            if query == fill_some:
                while pending:
                    speak(store, pending.pop(0))
            return done

        with monkeypatch.context() as patched:
            patched.setattr(psycopg.Connection, "execute", change_after_one)
            store.maintenance.build_indexes([english])
        assert not pending
        store.clock[0] += 3600
        store.maintenance.build_indexes([english])
        store.clock[0] += 3600
        final = store.collections.get("acme", "things")
        assert (final.text_search, final.texts_ready) == (changes[-1], True)
        assert_all_words_are_indexed(store, final)
        speak(store, None)


def test_changes_of_the_language_among_writes_of_all_kinds_miss_nothing(open_store: Open) -> None:
    changer, stores = open_store(), [open_store() for _ in range(3)]
    changer.create()
    stop, written = threading.Event(), [0] * len(stores)

    def write(number: int) -> int:
        store, done = stores[number], 0
        while not stop.is_set():
            id = f"w{done % 40}"
            text = DOCUMENTS[(done + number) % 5]
            for work in (
                lambda c, i=id, t=text: store.records.upsert(c, [vector(i, document=t), vector("shared", document=t)]),
                lambda c, i=id: store.records.delete_one(c, "", i),
                lambda c, i=id, t=text: store.records.put(c, vector(i, document=t)),
            ):
                try:
                    store.collections.use("acme", "things", work)
                except VectorNotFoundError:
                    continue
            done += 1
            written[number] = done
        return done

    def change() -> int:
        try:
            for language in (*("english", "german", None) * 6, "simple"):
                speak(changer, language)
                before, deadline = list(written), time.monotonic() + 30
                while time.monotonic() < deadline and any(
                    now == then for now, then in zip(written, before, strict=True)
                ):
                    threading.Event().wait(0.001)
        finally:
            stop.set()
        return 0

    results = in_threads(change, *[lambda number=number: write(number) for number in range(3)])
    assert raised(results) == []
    assert all(int(done) > 0 for done in results[1:])  # type: ignore[call-overload]
    assert_all_words_are_indexed(changer, changer.collections.get("acme", "things"))
    [(deadlocks,)] = changer.rows("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    assert deadlocks == 0


def test_a_change_gives_up_behind_a_long_write_instead_of_making_everybody_wait(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(texts, "_PATIENCE", "SET LOCAL lock_timeout = '50ms'")
    collection = store.create()
    store.records.upsert(collection, documents(3))
    with psycopg.connect(store.dsn) as writer:
        writer.execute(f"UPDATE vecmeter.records_{collection.collection_id} SET version = version".encode())
        with pytest.raises(DatabaseUnavailableError):
            speak(store, "english")
        assert store.collections.get("acme", "things").text_search is None
        writer.rollback()
    assert_all_words_are_indexed(store, speak(store, "english"))
