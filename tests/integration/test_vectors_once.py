"""A write with a key takes place once, however often and from wherever it is asked for, and is answered the same."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from tests.fixtures.vectors import Store, in_threads, raised, vector
from vecmeter.errors import CollectionExistsError, IdempotencyKeyReusedError, VectorExistsError, VectorNotFoundError
from vecmeter.vectors.model import Patch
from vecmeter.vectors.once import HEADER, AnsweredBefore, KeptAnswer, Once
from vecmeter.vectors.terms import Terms

Open = Callable[..., Store]
RECEIPT = uuid.UUID(int=7)


def once(key: str = "k", *, of: str = "key_1", request: bytes = b"request", hours: float = 1) -> Terms:
    render = lambda result: KeptAnswer(200, repr(result).encode())  # noqa: E731
    return Terms(once=Once(api_key_id=of, key=key, fingerprint=request, keep_for=timedelta(hours=hours), render=render))


def kept_answer(work: Callable[[], Any]) -> bytes:
    """What a repetition is answered."""
    with pytest.raises(AnsweredBefore) as before:
        work()
    return before.value.kept.body


def test_of_many_at_once_one_writes_and_all_get_its_answer(open_store: Open) -> None:
    stores = [open_store() for _ in range(8)]
    collection = stores[0].create()

    def work(store: Store) -> bytes:
        try:
            return repr(store.records.upsert(collection, [vector("a"), vector("b")], once())).encode()
        except AnsweredBefore as before:
            return before.kept.body

    answers = in_threads(*[lambda store=store: work(store) for store in stores for _ in range(3)])
    assert raised(answers) == []
    assert len(set(map(str, answers))) == 1
    assert [found.version for found in stores[0].records.fetch(collection, "", ["a", "b"])] == [1, 1]


def test_the_same_key_with_another_request_is_refused_and_nothing_is_written(store: Store) -> None:
    collection = store.create()
    store.records.add(collection, vector("a"), once())
    assert kept_answer(lambda: store.records.add(collection, vector("a"), once()))
    other = once(request=b"another")
    with pytest.raises(IdempotencyKeyReusedError) as refused:
        store.records.add(collection, vector("b"), other)
    assert [violation.path for violation in refused.value.violations] == [HEADER]
    assert other.once is not None
    with pytest.raises(IdempotencyKeyReusedError):
        other.once.find(store.database)
    assert store.records.list_ids(collection, "", prefix="", after="", limit=9) == ["a"]


def test_keys_of_different_api_keys_do_not_meet(store: Store) -> None:
    collection = store.create()
    for owner in ("key_1", "key_2"):
        terms = once(of=owner, request=owner.encode())
        assert terms.once is not None
        assert terms.once.find(store.database) is None
        store.records.upsert(collection, [vector("a")], terms)
    assert store.records.fetch(collection, "", ["a"])[0].version == 2


def test_what_was_refused_is_not_kept_and_may_be_tried_again(store: Store) -> None:
    collection = store.create()
    store.records.add(collection, vector("a"))
    for error, work in (
        (VectorExistsError, lambda: store.records.add(collection, vector("a"), once())),
        (VectorNotFoundError, lambda: store.records.patch(collection, "", "b", Patch(set={"k": 1}), on=once())),
        (VectorNotFoundError, lambda: store.records.delete_one(collection, "", "b", on=once())),
        (
            CollectionExistsError,
            lambda: store.collections.create("acme", "things", **definition(collection), on=once()),
        ),
    ):
        with pytest.raises(error):
            work()
        assert store.rows("SELECT count(*) FROM vecmeter.idempotency_keys") == [(0,)]
    store.records.delete_one(collection, "", "a", on=once("delete"))
    assert store.records.add(collection, vector("a"), once()).inserted


def definition(collection: Any) -> dict[str, Any]:
    return {name: getattr(collection, name) for name in ("dimension", "metric", "index", "embedder")}


def test_a_key_whose_first_request_was_undone_is_free_for_the_one_that_waited(open_store: Open) -> None:
    store, looker = open_store(), open_store()
    collection = store.create()
    first, second = once(), once()
    results: list[Any] = []
    with psycopg.connect(store.dsn) as holder:
        assert first.once is not None
        first.once.claim(holder, RECEIPT)
        waiter = threading.Thread(
            target=lambda: results.append(store.records.upsert(collection, [vector("a")], second))
        )
        waiter.start()
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        while looker.rows(waiting) != [(1,)]:
            assert waiter.is_alive()
        holder.rollback()
        waiter.join()
    assert [written.inserted for written in results[0]] == [True]


def test_an_answer_is_forgotten_when_its_time_is_over(store: Store) -> None:
    collection = store.create()
    store.records.upsert(collection, [vector("a")], once())
    store.rows("UPDATE vecmeter.idempotency_keys SET kept_until = now() - interval '1 second'")
    again = once(request=b"another")
    assert again.once is not None
    assert again.once.find(store.database) is None
    assert store.records.upsert(collection, [vector("a")], again)[0].version == 2
    assert kept_answer(lambda: store.records.upsert(collection, [vector("a")], again))
    [(now,)] = store.rows("SELECT now()")
    assert store.maintenance.forget(now)["answers_deleted"] == 0
    assert store.maintenance.forget(now + timedelta(hours=1, seconds=1))["answers_deleted"] == 1


def test_a_repetition_is_answered_though_what_it_wrote_is_gone(store: Store) -> None:
    collection = store.create()
    answers = {
        "create": lambda: store.collections.create("acme", "new", **definition(collection), on=once("create")),
        "drop": lambda: store.collections.drop("acme", "new", once("drop")),
    }
    for work in answers.values():
        work()
    assert b"name='new'" in kept_answer(answers["create"])
    assert kept_answer(answers["drop"]) == b"None"
    assert [found.name for found in store.collections.list_all()] == ["things"]
