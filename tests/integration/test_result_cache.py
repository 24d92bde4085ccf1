"""A remembered answer is given again only while a search would find the same; whoever wrote, wherever."""

from __future__ import annotations

import dataclasses
import threading
import time
import uuid
from array import array
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg import sql

from tests.fixtures.vectors import Store, in_threads, raised, vector
from vecmeter.vectors import revisions
from vecmeter.vectors.connection import configure
from vecmeter.vectors.model import Collection, Mode, Patch, Query, SearchResult
from vecmeter.vectors.result_cache import ENTRY_BYTES, LARGEST_PART, ResultCache, key_of
from vecmeter.vectors.tables import table_names
from vecmeter.vectors.write_statements import DELETE

Open = Callable[..., Store]
MEGABYTE = 2**20
OLD = vector("a", 1, 0, 0, metadata={"kind": "old"})
ANY = Query(numbers=array("f", [1, 0, 0]), stamped=True, include_document=True, include_vector=True)


class Instance:
    """One process of ours: searches through a cache of its own."""

    def __init__(self, store: Store, most_bytes: int = MEGABYTE, seconds: float = 3600.0) -> None:
        self.store = store
        self.clock = [0.0]
        self.cache = ResultCache(store.database, most_bytes, seconds, lambda: self.clock[0])

    def search(self, collection: Collection, query: Query = ANY) -> tuple[SearchResult, bool]:
        """What is found, and whether it was remembered."""
        key = key_of(collection, query)
        [known] = self.cache.find(collection, [key])
        if known is not None:
            return known, True
        found = self.store.searcher.search(collection, query)
        self.cache.keep(collection, key, found)
        return found, False

    def ids(self, collection: Collection, query: Query = ANY) -> tuple[list[str], bool]:
        found, remembered = self.search(collection, query)
        return [match.id for match in found.matches], remembered


@pytest.fixture
def here(open_store: Open) -> Instance:
    return Instance(open_store())


@pytest.fixture
def there(open_store: Open) -> Instance:
    return Instance(open_store())


@pytest.fixture
def things(here: Instance) -> Collection:
    collection = here.store.create()
    here.store.records.upsert(collection, [OLD, vector("b", 0, 1, 0)])
    return collection


@pytest.fixture
def statements(here: Instance) -> Iterator[Callable[[], int]]:
    """How many times this process has asked the database for anything."""
    times = [0]
    run = here.store.database.run

    def counted(work: Any) -> Any:
        times[0] += 1
        return run(work)

    here.store.database.run = counted  # type: ignore[method-assign]
    yield lambda: times[0]
    del here.store.database.run  # type: ignore[method-assign]


def test_an_answer_is_remembered_whole(here: Instance, things: Collection) -> None:
    query = dataclasses.replace(ANY, counted=True)
    first, remembered = here.search(things, query)
    again, remembered_again = here.search(things, query)
    assert (remembered, remembered_again) == (False, True)
    assert again == first
    assert first.candidates == first.candidates_before == 2
    assert first.matches[0].metadata == {"kind": "old"}


def test_a_search_asks_once_whether_remembered_or_not(
    here: Instance, things: Collection, statements: Callable[[], int]
) -> None:
    asked = []
    for _ in range(3):
        before = statements()
        here.search(things)
        asked.append(statements() - before)
    assert asked == [1, 1, 1]


def test_a_write_makes_each_process_ask_twice_once_and_not_for_each_answer(
    here: Instance, there: Instance, things: Collection, statements: Callable[[], int]
) -> None:
    queries = [dataclasses.replace(ANY, top_k=top_k) for top_k in (1, 2, 3)]
    for query in queries:
        here.search(things, query)
    there.store.records.add(things, vector("c"))
    before = statements()
    assert [here.search(things, query)[1] for query in queries] == [False] * 3
    assert statements() - before == 4, "the first asks whether it holds; the others know"


def test_several_searches_are_confirmed_in_one_request(
    here: Instance, things: Collection, statements: Callable[[], int]
) -> None:
    queries = [dataclasses.replace(ANY, top_k=top_k) for top_k in (1, 2)]
    for query in queries:
        here.search(things, query)
    before = statements()
    keys = [key_of(things, query) for query in [*queries, dataclasses.replace(ANY, top_k=3)]]
    known = here.cache.find(things, keys)
    assert [result is not None for result in known] == [True, True, False]
    assert statements() - before == 1


WRITES: dict[str, Callable[[Store, Collection], Any]] = {
    "upsert": lambda store, c: store.records.upsert(c, [vector("new")]),
    "upsert of the same again": lambda store, c: store.records.upsert(c, [OLD]),
    "add": lambda store, c: store.records.add(c, vector("new")),
    "patch of metadata": lambda store, c: store.records.patch(c, "", "a", Patch(set={"kind": "new"})),
    "patch of the vector": lambda store, c: store.records.patch(c, "", "a", Patch(numbers=array("f", [0, 1, 0]))),
    "update by filter": lambda store, c: store.records.update_matching(c, "", {"kind": "old"}, Patch(unset=["kind"])),
    "delete of one": lambda store, c: store.records.delete_one(c, "", "a"),
    "delete of ids": lambda store, c: store.records.delete_ids(c, "", ["a"], dry_run=False),
    "delete by filter": lambda store, c: store.records.delete_matching(c, "", {"kind": "old"}, dry_run=False),
    "delete of a namespace": lambda store, c: store.records.delete_namespace(c, ""),
    "change of the definition": lambda store, c: store.collections.change(
        c.project_id, c.name, lambda before: dataclasses.replace(before, text_search="english")
    ),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_every_kind_of_write_is_seen_by_the_next_search_elsewhere(
    write: Callable[[Store, Collection], Any], here: Instance, there: Instance, things: Collection
) -> None:
    assert here.search(things)[1] is False
    assert here.search(things)[1] is True
    write(there.store, things)
    found, remembered = here.search(things)
    assert not remembered
    assert found.matches == there.store.search(things, ANY)


def test_what_is_outdated_takes_no_memory_once_it_is_known(here: Instance, there: Instance, things: Collection) -> None:
    here.search(things)
    assert here.cache.size > 0
    there.store.records.add(things, vector("c"))
    here.cache.find(things, [key_of(things, ANY)])
    assert here.cache.size == 0


def test_what_writes_nothing_leaves_answers_as_they_are(here: Instance, there: Instance, things: Collection) -> None:
    here.search(things)
    records = there.store.records
    assert records.delete_ids(things, "", ["none"], dry_run=False) == 0
    assert records.delete_ids(things, "", ["a"], dry_run=True) == 1
    assert records.update_matching(things, "", {"kind": "none"}, Patch(set={"k": 1})) == 0
    there.store.maintenance.purge_expired([things])
    there.store.maintenance.vacuum_analyze([things])
    assert here.search(things)[1] is True


def test_writes_to_another_collection_leave_answers_as_they_are(here: Instance, things: Collection) -> None:
    other = here.store.create("other")
    here.search(things)
    here.store.records.add(other, vector("a"))
    here.store.collections.drop(other.project_id, other.name)
    assert here.search(things)[1] is True


def test_a_write_that_was_undone_leaves_answers_as_they_are(here: Instance, things: Collection) -> None:
    here.search(things)
    conditional = dataclasses.replace(vector("a"), if_version=7)
    assert raised(in_threads(lambda: here.store.records.upsert(things, [conditional])))
    assert here.search(things)[1] is True


def test_a_collection_dropped_and_made_again_is_another(here: Instance, there: Instance, things: Collection) -> None:
    here.search(things)
    there.store.collections.drop(things.project_id, things.name)
    assert here.cache.find(things, [key_of(things, ANY)]) == [None]
    again = there.store.create(things.name)
    assert here.search(again)[0].matches == []


def test_a_write_that_commits_after_the_search_and_before_the_question_is_seen(
    here: Instance, things: Collection
) -> None:
    delete = DELETE.of(things, "r.id = ANY(%(ids)s)")
    with psycopg.connect(here.store.dsn) as writer:
        writer.execute(delete, {"namespace": "", "ids": ["a"], "receipt": uuid.uuid4()})
        assert here.ids(things) == (["a", "b"], False), "it is not committed: it is not so"
        assert here.ids(things) == (["a", "b"], True)
        writer.commit()
    assert here.ids(things) == (["b"], False)


def test_an_answer_is_as_of_the_snapshot_it_was_found_in(here: Instance, things: Collection) -> None:
    """A search that began before a write, and ended after it was acknowledged, is not remembered as of after it."""
    records = sql.Identifier("vecmeter", f"records_{things.collection_id}")
    with psycopg.connect(here.store.dsn, autocommit=True) as snapshot:
        configure(snapshot)
        snapshot.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        snapshot.execute(sql.SQL("SELECT count(*) FROM {}").format(records))
        here.store.records.delete_ids(things, "", ["a"], dry_run=False)
        late = Instance(here.store)
        late.store.database.run = lambda work: work(snapshot)  # type: ignore[method-assign, assignment]
        try:
            assert late.ids(things) == (["a", "b"], False)
        finally:
            del late.store.database.run  # type: ignore[method-assign]
            snapshot.execute("COMMIT")
    assert late.ids(things) == (["b"], False)


def test_writers_at_once_do_not_wait_and_each_is_counted(open_store: Open, here: Instance, things: Collection) -> None:
    waiting = [open_store() for _ in range(4)]
    connections = [psycopg.connect(store.dsn) for store in waiting]
    before = here.store.database.run(lambda connection: revisions.check(connection, things)).revision
    assert before is not None
    for connection in connections:
        connection.execute("SET lock_timeout = '1s'")
        revisions.change(connection, things)
    here.store.records.add(things, vector("while four have theirs in hand"))
    for connection in connections:
        connection.commit()
        connection.close()
    after = here.store.database.run(lambda connection: revisions.check(connection, things)).revision
    assert after is not None
    assert after >= before + 5
    rows = "SELECT count(*) FROM vecmeter.revisions WHERE collection_id = %s"
    assert here.store.rows(rows, [things.collection_id]) == [(5,)]


def test_rows_of_revisions_do_not_become_more_than_writers_at_once(here: Instance, things: Collection) -> None:
    for number in range(30):
        here.store.records.add(things, vector(f"v{number}"))
    rows = "SELECT count(*) FROM vecmeter.revisions WHERE collection_id = %s"
    assert here.store.rows(rows, [things.collection_id]) == [(1,)]


def test_a_database_restored_to_what_it_was_does_not_confirm_what_it_has_lost(
    here: Instance, things: Collection
) -> None:
    number = things.collection_id
    saved = here.store.rows("SELECT slot, revision FROM vecmeter.revisions WHERE collection_id = %s", [number])
    here.store.records.add(things, vector("lost"))
    assert "lost" in here.ids(things)[0]
    for slot, revision in saved:
        here.store.rows("UPDATE vecmeter.revisions SET revision = %s WHERE slot = %s", [revision, slot])
    for table in table_names(number):
        here.store.rows(f"DELETE FROM vecmeter.{table} WHERE record_id = (SELECT max(record_id) FROM vecmeter.{table})")
    here.store.records.add(things, vector("new"))
    assert here.ids(things) == (["a", "new", "b"], False)
    assert here.ids(things)[1] is True, "and what is found from then on is remembered"


def test_a_sweep_is_seen_by_searches_whose_scores_go_by_all_documents(here: Instance, there: Instance) -> None:
    project, name = "acme", "texts"
    here.store.create(name)
    here.store.collections.change(project, name, lambda before: dataclasses.replace(before, text_search="english"))
    collection = here.store.collections.get(project, name)
    texts = {"a": "a cat sat", "b": "a dog ran", "gone": "many cats and many dogs"}
    here.store.records.upsert(collection, [vector(id, document=text) for id, text in texts.items()])
    for table in table_names(collection.collection_id):
        expire = f"UPDATE vecmeter.{table} SET expires_at = now() - interval '1 s' WHERE record_id = 3"
        here.store.rows(expire)
    query = Query(mode=Mode.TEXT, text="cat", stamped=True)
    before, _ = here.search(collection, query)
    assert [match.id for match in before.matches] == ["a"]
    assert there.store.maintenance.purge_expired([collection])["collections"][0]["deleted"] == 1
    after, remembered = here.search(collection, query)
    assert not remembered
    assert after.matches == there.store.search(collection, query) != before.matches


def test_what_expires_is_not_remembered_beyond_its_time(here: Instance, things: Collection) -> None:
    soon = datetime.now(UTC) + timedelta(hours=1)
    here.store.records.add(things, dataclasses.replace(vector("brief"), expires_at=soon))
    assert here.ids(things) == (["a", "brief", "b"], False)
    assert here.ids(things)[1] is True
    # As if the hour had passed, which no write says.
    entry = here.cache._entries[key_of(things, ANY)]
    assert entry.stamp.next_expiry == soon
    past = dataclasses.replace(entry.stamp, next_expiry=datetime.now(UTC) - timedelta(seconds=1))
    here.cache._entries[key_of(things, ANY)] = dataclasses.replace(entry, stamp=past)
    assert here.search(things)[1] is False


def test_an_answer_holds_until_the_moment_a_vector_expires_by_the_clock_of_the_database(
    here: Instance, things: Collection
) -> None:
    expires_at = datetime.now(UTC) + timedelta(seconds=0.7)
    here.store.records.add(things, dataclasses.replace(vector("brief"), expires_at=expires_at))
    here.search(things)
    end = time.monotonic() + 10
    while True:
        found, remembered = here.search(things)
        [(now,)] = here.store.rows("SELECT now()")
        assert time.monotonic() < end
        if "brief" not in [match.id for match in found.matches]:
            break
        assert now < expires_at + timedelta(seconds=0.5), "answered before, or hardly after"
    assert not remembered
    assert found.matches == here.store.search(things, ANY)


def test_answers_end_with_their_time(here: Instance, things: Collection) -> None:
    here.search(things)
    here.clock[0] = 3599.9
    assert here.search(things)[1] is True
    here.clock[0] = 3600.0
    assert here.search(things)[1] is False


def test_the_bound_is_held_and_what_was_used_last_stays(open_store: Open, things: Collection) -> None:
    most = 100 * (ENTRY_BYTES + 1000)
    here = Instance(open_store(), most)
    queries = [Query(numbers=array("f", [1, number, 0]), stamped=True, include_document=True) for number in range(400)]
    for number, query in enumerate(queries):
        here.search(things, query)
        here.search(things, queries[0])
        assert here.cache.size <= most
        assert here.search(things, queries[0])[1], number
    assert here.cache.take_evictions() > 100
    assert here.cache.take_evictions() == 0


def test_one_large_answer_drives_out_no_others(open_store: Open, things: Collection) -> None:
    here = Instance(open_store(), LARGEST_PART * 20_000)
    here.store.records.upsert(things, [vector("long", 0, 0, 1, document="x" * 20_000)])
    assert here.search(things)[1] is False
    assert here.search(things)[1] is False
    assert here.cache.size == 0


def test_threads_share_it(here: Instance, things: Collection, open_store: Open) -> None:
    shared = Instance(open_store(size=4), 20 * (ENTRY_BYTES + 400))
    queries = [Query(numbers=array("f", [1, number, 0]), top_k=100, stamped=True) for number in range(40)]
    writes = threading.Event()

    def search() -> None:
        while not writes.is_set():
            for query in queries:
                found, _ = shared.search(things, query)
                assert {match.id for match in found.matches} >= {"a", "b"}

    def write() -> None:
        for number in range(40):
            here.store.records.add(things, vector(f"v{number}"))
        writes.set()

    assert raised(in_threads(write, search, search, search)) == []
    assert len(shared.search(things, dataclasses.replace(ANY, top_k=100))[0].matches) == 42


def test_clearing_reaches_every_process(here: Instance, there: Instance, things: Collection) -> None:
    other = here.store.create("other")
    for instance in (here, there):
        instance.search(things)
        instance.search(other)
    assert here.store.database.run(lambda connection: revisions.change_all(connection, [things])) == 1
    assert [there.search(things)[1], there.search(other)[1]] == [False, True]
    assert [here.search(things)[1], here.search(other)[1]] == [False, True]


def test_no_answer_that_is_known_to_be_outdated_is_given_without_the_database(
    here: Instance, there: Instance, things: Collection
) -> None:
    queries = [ANY, dataclasses.replace(ANY, top_k=1)]
    for query in queries:
        here.search(things, query)
    here.clock[0] = 7.5
    stale = here.cache.unconfirmed(key_of(things, ANY))
    assert stale is not None
    assert (stale.age, [match.id for match in stale.result.matches]) == (7.5, ["a", "b"])
    there.store.records.delete_ids(things, "", ["a"], dry_run=False)
    here.search(things, queries[1])
    assert here.cache.unconfirmed(key_of(things, ANY)) is None
    assert here.cache.unconfirmed(key_of(things, queries[1])) is not None
