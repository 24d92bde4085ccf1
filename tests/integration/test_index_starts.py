"""After a bulk write indexes are built without waiting for the schedule, and no write waits or fails for that."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.fixtures.api import open_api, settings_for
from tests.fixtures.vectors import Store, as_numbers, clustered, in_threads, vector, write_all
from vecmeter.build_starts import FunctionBuilds, MaintenanceFunction, ThreadBuilds
from vecmeter.tasks import run_task
from vecmeter.vectors.bulk_writes import BulkWrites
from vecmeter.vectors.model import Collection, Vector
from vecmeter.vectors.records import Records

THRESHOLD = 100


class Recorder:
    """Notes which collections a build was started for."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.closed = False

    def start(self, collection: Collection) -> None:
        self.started.append(collection.name)

    def close(self) -> None:
        self.closed = True


class Broken(Recorder):
    def start(self, collection: Collection) -> None:
        raise RuntimeError("no way to the function")


class FakeLambda:
    """Boto3's client as far as it is used."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.closed = False

    def invoke(self, **call: Any) -> None:
        self.calls.append(call)

    def close(self) -> None:
        self.closed = True


def batch(count: int, start: int = 0) -> list[Vector]:
    return [vector(f"v{at}") for at in range(start, start + count)]


def writing(store: Store, bulk_writes: BulkWrites) -> Records:
    return Records(store.database, 40_960, bulk_writes.wrote)


# --- when ---


def test_a_build_is_started_when_half_the_threshold_was_written_and_the_count_begins_anew(store: Store) -> None:
    recorder = Recorder()
    records = writing(store, BulkWrites(THRESHOLD, recorder))
    one, other = store.create("one"), store.create("other")
    records.upsert(one, batch(49))
    records.upsert(other, batch(49))
    assert recorder.started == []
    records.add(one, vector("new"))
    assert recorder.started == ["one"]
    records.upsert(one, batch(49))
    assert recorder.started == ["one"]
    records.upsert(other, batch(200))
    assert recorder.started == ["one", "other"]


def test_what_many_threads_write_is_counted_to_the_last_vector(store: Store) -> None:
    recorder = Recorder()
    bulk_writes, collection = BulkWrites(THRESHOLD, recorder), store.create()
    work = lambda: [bulk_writes.wrote(collection, 1) for _ in range(500)]  # noqa: E731
    in_threads(*[work] * 8)
    assert len(recorder.started) == 8 * 500 // 50


def test_a_refused_write_counts_for_nothing(store: Store) -> None:
    recorder = Recorder()
    records, collection = writing(store, BulkWrites(2, recorder)), store.create()
    with pytest.raises(Exception, match="refuses a value"):
        records.upsert(collection, [vector("a", 1.0, 2.0)])
    assert recorder.started == []


def test_a_start_that_fails_is_logged_and_the_write_stands(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    records, collection = writing(store, BulkWrites(THRESHOLD, Broken())), store.create()
    with caplog.at_level(logging.ERROR, "vecmeter.maintenance"):
        assert len(records.upsert(collection, batch(60))) == 60
    assert "build not started" in caplog.text
    assert store.collections.size(collection).count == 60


def test_an_instance_without_a_way_to_build_leaves_it_to_the_schedule(store: Store) -> None:
    records = writing(store, BulkWrites(1, None))
    assert len(records.upsert(store.create(), batch(5))) == 5


# --- by the function ---


def test_the_function_is_invoked_asynchronously_with_an_event_it_understands(store: Store) -> None:
    fake, made = FakeLambda(), []

    def client() -> FakeLambda:
        made.append(1)
        return fake

    builds = FunctionBuilds(MaintenanceFunction("stack-MaintenanceFunction-1", client))
    assert made == [], "nothing is loaded before it is needed"
    records, collection = writing(store, BulkWrites(THRESHOLD, builds)), store.create()
    for start in (0, 60):
        records.upsert(collection, batch(60, start))
    assert (len(made), len(fake.calls)) == (1, 2)
    call = fake.calls[0]
    assert (call["FunctionName"], call["InvocationType"]) == ("stack-MaintenanceFunction-1", "Event")
    event = {"task": "build_indexes", "options": {"project_id": "acme", "collection": "things"}}
    assert json.loads(call["Payload"]) == event
    builds.close()
    assert fake.closed


def test_the_task_takes_the_options_of_that_event(database_url: str, table_name: str) -> None:
    with open_api(settings_for(database_url, table_name)) as api:
        tenant = api.tenant()
        tenant.collection("c")
        outcome = run_task(api.runtime, "build_indexes", {"project_id": tenant.project, "collection": "c"})
        assert (outcome["status"], [one["collection"] for one in outcome["collections"]]) == ("ok", ["c"])


# --- by a thread ---


def until(holds: Callable[[], bool]) -> None:
    for _ in range(6000):
        if holds():
            return
        threading.Event().wait(0.005)
    raise AssertionError("not in 30 s")


def test_a_write_does_not_wait_for_the_thread_that_builds(store: Store) -> None:
    go_on, began = threading.Event(), threading.Event()
    built: list[str] = []

    def build(collection: Collection) -> bool:
        began.set()
        assert go_on.wait(30)
        built.append(collection.name)
        return True

    builds = ThreadBuilds(build)
    records, collection = writing(store, BulkWrites(THRESHOLD, builds)), store.create()
    records.upsert(collection, batch(60))
    assert began.wait(30)
    for start in (0, 100, 200):
        records.upsert(collection, batch(60, start))
    assert built == []
    go_on.set()
    until(lambda: len(built) == 2)
    builds.close()
    assert built == ["things"] * 2, "what was written during a build is looked at once more, not three times"


def test_a_thread_that_fails_is_logged_and_the_next_one_builds(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    works: list[Callable[[], bool]] = [lambda: True, lambda: (_ for _ in ()).throw(RuntimeError("away"))]
    builds = ThreadBuilds(lambda collection: works.pop()())
    collection = store.create()
    with caplog.at_level(logging.ERROR, "vecmeter.maintenance"):
        builds.start(collection)
        until(lambda: "build failed" in caplog.text)
        builds.close()
    builds.start(collection)
    until(lambda: not works)
    builds.close()


def test_a_build_that_is_put_off_is_tried_again_until_it_is_done(store: Store) -> None:
    answers = [True, False, False]
    builds = ThreadBuilds(lambda collection: answers.pop(), again_seconds=0.001)
    builds.start(store.create())
    until(lambda: not answers)
    builds.close()


def test_a_server_that_takes_a_bulk_write_has_the_index_soon(store: Store) -> None:
    store.index_from(1000)
    builds = ThreadBuilds(store.maintenance.build_soon)
    store.records = writing(store, BulkWrites(1000, builds))
    collection = store.create(dimension=16)
    rows = clustered(1200, 16)
    write_all(store, collection, [Vector(id=f"v{at}", numbers=as_numbers(row)) for at, row in enumerate(rows)], 600)
    count = "SELECT vectors FROM vecmeter.hnsw_indexes WHERE state = 'ready'"
    until(lambda: store.rows(count) == [(1200,)])
    builds.close()
