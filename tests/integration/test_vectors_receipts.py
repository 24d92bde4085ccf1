"""A write takes place once and is answered truly, at whichever point of it the connection breaks."""

from __future__ import annotations

import itertools
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from tests.fixtures.cut_line import CutLine, Fault, cut_line
from tests.fixtures.vectors import Store, in_threads, index_of, numbers, raised, vector
from vecmeter.errors import (
    CollectionExistsError,
    CollectionNotFoundError,
    DatabaseUnavailableError,
    StatementTimeoutError,
    VectorExistsError,
    VectorNotFoundError,
)
from vecmeter.vectors import stock, terms
from vecmeter.vectors.connection import Connection
from vecmeter.vectors.model import Collection, IndexType, Metric, Patch, Query
from vecmeter.vectors.once import KeptAnswer, Once
from vecmeter.vectors.tables import table_names
from vecmeter.vectors.terms import FREE, Terms

Write = Callable[[Store, Collection], object]


@pytest.fixture
def line(database_url: str) -> Iterator[CutLine]:
    with tempfile.TemporaryDirectory(prefix="vecmeter-line-") as name, cut_line(Path(name), database_url) as line:
        yield line


@pytest.fixture
def cut_store(line: CutLine) -> Iterator[Store]:
    """A store whose every byte passes the line."""
    store = Store(line.dsn, connect_timeout_seconds=2)
    yield store
    store.close()


def prepared(store: Store) -> Collection:
    collection = store.create(index=index_of(IndexType.NONE))
    batch = [vector(id, metadata={"even": id in "bd"}, document="old") for id in "abcd"]
    store.records.upsert(collection, batch)
    return collection


def create(store: Store, collection: Collection, on: Terms = FREE) -> object:
    options = {"dimension": 3, "metric": Metric.L2, "index": index_of(), "embedder": None, "on": on}
    made = store.collections.create("acme", "new", **options)  # type: ignore[arg-type]
    return made.name, made.dimension


def on_terms() -> Terms:
    """There is room for one more vector and one more collection, and the request has a key."""
    limits = {"max_vectors": 5, "max_storage_bytes": 200, "max_collections": 2}
    render = lambda result: KeptAnswer(200, str(getattr(result, "name", result)).encode())  # noqa: E731
    once = Once(api_key_id="key", key="k", fingerprint=b"f", keep_for=timedelta(hours=1), render=render)
    return Terms(limits=limits, once=once)


# Each write with the number of requests it sends at least.
WRITES: dict[str, tuple[Write, int]] = {
    "upsert": (lambda s, c: s.records.upsert(c, [vector("a", 3.0, 1.0, 1.0), vector("new"), vector("b")]), 1),
    "upsert on terms": (lambda s, c: s.records.upsert(c, [vector("a"), vector("new")], on_terms()), 7),
    "add": (lambda s, c: s.records.add(c, vector("new")), 1),
    "add on terms": (lambda s, c: s.records.add(c, vector("new"), on_terms()), 7),
    "patch": (lambda s, c: s.records.patch(c, "", "a", Patch(set={"x": 1}, unset=["even"])), 3),
    "upsert with a condition": (lambda s, c: s.records.upsert(c, [vector("a", 3.0, 1.0, 1.0, if_version=1)]), 3),
    "update by filter": (lambda s, c: s.records.update_matching(c, "", {"even": True}, Patch(set={"x": 1})), 3),
    "patch on terms": (lambda s, c: s.records.patch(c, "", "a", Patch(set={"x": "more"}), on=on_terms()), 7),
    "delete ids": (lambda s, c: s.records.delete_ids(c, "", ["a", "b", "missing"], dry_run=False), 1),
    "delete once": (lambda s, c: s.records.delete_one(c, "", "a", on=on_terms()), 5),
    "delete by filter": (lambda s, c: s.records.delete_matching(c, "", {"even": True}, dry_run=False), 1),
    "create": (create, 7),
    "create on terms": (lambda s, c: create(s, c, on_terms()), 11),
    "drop": (lambda s, c: s.collections.drop("acme", "things"), 10),
    "drop once": (lambda s, c: s.collections.drop("acme", "things", on_terms()), 12),
}


def state(store: Store, collection: Collection) -> object:
    """All that writes leave: names of collections, and the rows of this one's tables, if it has any."""
    names = {name for (name,) in store.rows("SELECT name FROM vecmeter.collections")}
    kept = store.rows("SELECT idempotency_key, body FROM vecmeter.idempotency_keys")
    used = store.database.run(lambda connection: stock.read_used(connection, collection))
    records, vectors = table_names(collection.collection_id)
    if "things" not in names:
        remains = "SELECT relname FROM pg_class WHERE relname LIKE %s OR relname LIKE %s"
        return names, kept, used.vectors, store.rows(remains, [f"{records}%", f"{vectors}%"])
    text = (
        f"SELECT r.id, r.version, r.document, r.metadata, v.embedding::text FROM vecmeter.{records} r "
        f"FULL JOIN vecmeter.{vectors} v USING (record_id) ORDER BY r.id"
    )
    return names, kept, used.vectors, used.bytes, store.rows(text)


@pytest.mark.parametrize("fault", list(Fault))
@pytest.mark.parametrize("write", WRITES)
def test_a_write_whose_connection_breaks_takes_place_once_and_says_what_it_did(
    store: Store, cut_store: Store, line: CutLine, write: str, fault: Fault
) -> None:
    work, least = WRITES[write]
    # First what the write does when nothing breaks.
    collection = prepared(store)
    wanted_answer = work(store, collection)
    wanted_state = state(store, collection)
    for request_number in itertools.count(1):
        clear(store)
        collection = prepared(store)
        cut_store.collections.list_all()  # it is connected
        line.happened.clear()
        line.plan(fault, request_number)
        answer = work(cut_store, collection)
        assert (answer, state(store, collection)) == (wanted_answer, wanted_state), f"broken at {request_number}"
        if not line.happened.is_set():
            break
    assert request_number > least, "the write sent fewer requests than that"


def test_a_write_that_is_repeated_is_not_refused_for_the_room_it_has_taken_itself(
    cut_store: Store, line: CutLine
) -> None:
    collection, measured = prepared(cut_store), []
    change = stock.Change(vectors=0, bytes=0, all_vectors=0, all_bytes=0)

    def work(connection: Connection, receipt: uuid.UUID, _: bool) -> terms.Done:
        connection.execute("INSERT INTO vecmeter.receipts (receipt_id, answer) VALUES (%s, '{7}')", [receipt])
        return terms.Done([7], change, stock.CollectionLimits())

    line.plan(Fault.LOST_ANSWER, 3)  # the commit
    bound = Terms(limits={"max_vectors": 4})
    assert terms.write(cut_store.database, collection, work, list, bound, foresee=measured.append) == [7]
    assert line.happened.is_set()
    assert len(measured) == 1


def clear(store: Store) -> None:
    store.rows("DELETE FROM vecmeter.idempotency_keys")
    for collection in store.collections.list_all():
        store.collections.drop(collection.project_id, collection.name)


@pytest.mark.parametrize("fault", list(Fault))
def test_what_a_write_refuses_it_refuses_after_a_break_too(cut_store: Store, line: CutLine, fault: Fault) -> None:
    collection = prepared(cut_store)
    refused: list[tuple[type[Exception], Write]] = [
        (VectorExistsError, lambda s, c: s.records.add(c, vector("a"))),
        (VectorNotFoundError, lambda s, c: s.records.patch(c, "", "missing", Patch(set={"x": 1}))),
        (CollectionExistsError, lambda s, c: s.create("things")),
        (CollectionNotFoundError, lambda s, c: s.collections.drop("acme", "missing")),
    ]
    before = state(cut_store, collection)
    for error, work in refused:
        line.plan(fault)
        with pytest.raises(error):
            work(cut_store, collection)
        assert line.happened.is_set()
        assert state(cut_store, collection) == before


def test_a_write_that_is_still_running_on_the_lost_connection_is_waited_for(
    open_store: Callable[..., Store], cut_store: Store, line: CutLine
) -> None:
    looker, collection = open_store(), prepared(cut_store)
    records, _ = table_names(collection.collection_id)
    with psycopg.connect(looker.dsn) as holder:
        holder.execute(f"SELECT FROM vecmeter.{records} WHERE id = 'a' FOR UPDATE".encode())
        line.plan(Fault.ABANDONED)
        results: list[object] = []
        thread = threading.Thread(target=lambda: results.append(cut_store.records.upsert(collection, [vector("a")])))
        thread.start()
        # Both the abandoned write and its repetition wait for the row.
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        while looker.rows(waiting) != [(2,)]:
            assert thread.is_alive()
        holder.rollback()
        thread.join()
    assert [(w.id, w.inserted, w.version) for w in results[0]] == [("a", False, 2)]  # type: ignore[attr-defined]
    assert cut_store.records.fetch(collection, "", ["a"])[0].version == 2


def test_where_no_connection_follows_the_answer_says_that_nobody_knows(cut_store: Store, line: CutLine) -> None:
    collection = prepared(cut_store)
    line.plan(Fault.LOST_ANSWER, then_refuse=True)
    with pytest.raises(DatabaseUnavailableError, match="not known"):
        cut_store.records.upsert(collection, [vector("new")])
    # While it is certain that nothing was done before, the answer does not speak of doubt.
    with pytest.raises(DatabaseUnavailableError) as certain:
        cut_store.records.upsert(collection, [vector("other")])
    assert "not known" not in certain.value.detail
    line.refuse(False)
    assert [found.id for found in cut_store.records.fetch(collection, "", ["new", "other"])] == ["new"]


def test_a_connection_that_comes_back_in_time_lets_the_write_end_well(cut_store: Store, line: CutLine) -> None:
    collection = prepared(cut_store)
    line.plan(Fault.LOST_ANSWER, then_refuse=True)
    timer = threading.Timer(0.3, line.refuse, [False])
    timer.start()
    assert cut_store.records.upsert(collection, [vector("new")])[0].version == 1
    timer.join()


def test_a_write_that_takes_too_long_wrote_nothing(open_store: Callable[..., Store]) -> None:
    looker, store = open_store(), open_store(statement_timeout_ms=100)
    collection = prepared(looker)
    records, _ = table_names(collection.collection_id)
    with psycopg.connect(looker.dsn) as holder:
        holder.execute(f"SELECT FROM vecmeter.{records} WHERE id = 'd' FOR UPDATE".encode())
        with pytest.raises(StatementTimeoutError):
            store.records.upsert(collection, [vector(id, document="new") for id in "abcd"])
        with pytest.raises(StatementTimeoutError):
            store.records.delete_matching(collection, "", None, dry_run=False)
        holder.rollback()
    assert {found.document for found in store.records.fetch(collection, "", list("abcd"))} == {"old"}
    assert [found.version for found in store.records.fetch(collection, "", list("abcd"))] == [1, 1, 1, 1]


@pytest.mark.parametrize("fault", [Fault.LOST_REQUEST, Fault.LOST_ANSWER])
def test_a_read_whose_connection_breaks_is_made_again_once(cut_store: Store, line: CutLine, fault: Fault) -> None:
    collection = prepared(cut_store)
    query = Query(numbers=numbers(1.0, 2.0, 3.0))
    wanted = cut_store.ids(collection, query)
    line.plan(fault)
    assert cut_store.ids(collection, query) == wanted
    assert line.happened.is_set()
    line.plan(fault, then_refuse=True)
    with pytest.raises(DatabaseUnavailableError):
        cut_store.search(collection, query)
    line.refuse(False)
    assert cut_store.ids(collection, query) == wanted


def test_every_write_leaves_one_receipt_and_refused_ones_none_that_says_otherwise(store: Store) -> None:
    collection = prepared(store)
    count = lambda: store.rows("SELECT count(*) FROM vecmeter.receipts")[0][0]  # noqa: E731
    before = count()
    store.records.upsert(collection, [vector("a"), vector("z")])
    store.records.patch(collection, "", "a", Patch(set={"x": 1}))
    assert store.records.delete_ids(collection, "", ["a", "z"], dry_run=False) == 2
    assert count() == before + 3
    answers = store.rows("SELECT answer FROM vecmeter.receipts ORDER BY receipt_id DESC LIMIT 3")
    assert answers == [([2, 3],), ([1, 3],), ([2, 1],)], "how many and the newest version; the versions"
    with pytest.raises(StatementTimeoutError):
        store.database.write(lambda connection, receipt: _cancelled(connection, str(receipt)))
    assert count() == before + 3


def _cancelled(connection: psycopg.Connection[object], receipt: str) -> list[int]:
    with connection.transaction():
        connection.execute("INSERT INTO vecmeter.receipts (receipt_id, answer) VALUES (%s, '{}')", [receipt])
        connection.execute("SET LOCAL statement_timeout = 10")
        connection.execute("SELECT pg_sleep(10)")
    return []


def test_many_writers_on_breaking_lines_count_every_write_once(
    open_store: Callable[..., Store], database_url: str
) -> None:
    looker = open_store()
    collection = prepared(looker)
    rounds, writers = 10, 4

    def work(number: int) -> int:
        with tempfile.TemporaryDirectory(prefix="vecmeter-line-") as name, cut_line(Path(name), database_url) as line:
            store, inserted = Store(line.dsn), 0
            for round in range(rounds):
                if round % 2:
                    line.plan(list(Fault)[(round + number) % len(Fault)])
                inserted += sum(w.inserted for w in store.records.upsert(collection, [vector("x"), vector("y")]))
            store.close()
            return inserted

    results = in_threads(*[lambda number=number: work(number) for number in range(writers)])
    assert raised(results) == []
    assert sum(results) == 2, "each id was inserted once"  # type: ignore[arg-type]
    assert [found.version for found in looker.records.fetch(collection, "", ["x", "y"])] == [rounds * writers] * 2
