"""Counters are the sum of all records there ever were, whenever they are read, and never fall."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from tests.fixtures.faults import Fault, FaultyClient, ProcessDied, at
from tests.fixtures.ledger import NOON, ManualClock
from tests.fixtures.usage import Books, record_at
from tests.integration.test_usage_rollups import histories
from vecmeter.ledger import rollups as rollups_module
from vecmeter.ledger import running_totals
from vecmeter.ledger.activity import HOUR
from vecmeter.ledger.model import Operation, Status
from vecmeter.ledger.rollups import DAY
from vecmeter.ledger.table import ConditionFailed
from vecmeter.ledger.totals import SUMS, KeyName, Totals, Usage, by_operation, grouped
from vecmeter.ledger.usage_counters import UsageCounters

KEY = KeyName("user-1", "key_1")


def counters(books: Books) -> dict[KeyName, Usage]:
    reading = UsageCounters(books.rollups, books.usage, books.clock)
    return reading.read(reading.active())


def total(books: Books, key: KeyName = KEY) -> Totals:
    whole = Totals()
    for totals in counters(books).get(key, {}).values():
        whole.merge(totals)
    return whole


def fallen(before: Mapping[KeyName, Usage], after: Mapping[KeyName, Usage]) -> list[Any]:
    """Amounts that are less than they were."""
    found = []
    for key, usage in before.items():
        for group, totals in usage.items():
            now = after.get(key, {}).get(group, Totals())
            found += [(key, group, name) for name in SUMS if getattr(now, name) < getattr(totals, name)]
            found += [
                (key, group, "durations") for was, is_ in zip(totals.durations, now.durations, strict=True) if is_ < was
            ]
    return found


def without_nothing(usage: Usage) -> Usage:
    return {group: totals for group, totals in usage.items() if totals != Totals()}


def test_they_outlive_records_roll_ups_and_the_key(books: Books, clock: ManualClock, faults: FaultyClient) -> None:
    books.write(*(record_at(NOON + timedelta(minutes=i), f"r{i}") for i in range(20)))
    books.settle()
    before = total(books)
    clock.advance(days=91)
    assert books.usage.purge(*KEY, clock() - timedelta(days=90)) == 20
    for pk, sk in (("U#key_1", "26112112"), ("DAY#261121", "user-1#key_1")):
        books.table.delete(pk, sk)  # as DynamoDB does when their time has come
    assert total(books) == before
    assert before.requests == 20


@pytest.mark.parametrize("call", range(1, 24))
def test_a_roll_up_in_between_the_calls_of_reading_changes_nothing(
    books: Books, other_books: Books, faults: FaultyClient, clock: ManualClock, call: int
) -> None:
    for hour in range(3):
        books.write(record_at(NOON + hour * HOUR, f"r{hour}"))
        clock.advance(hours=1)
    clock.advance(hours=1)

    def rolls_up() -> None:
        faults.recover()
        other_books.rollups.roll_up()

    faults.between(call, rolls_up)
    assert total(books).requests == 3
    faults.recover()
    assert total(books).requests == 3


@pytest.mark.parametrize("call", range(1, 12))
def test_a_roll_up_that_dies_at_any_call_counts_nothing_twice(
    books: Books, faults: FaultyClient, clock: ManualClock, call: int
) -> None:
    books.write(record_at(NOON, "a"))
    clock.advance(hours=2)
    # The first calls of a run look at marks.
    faults.fail(*at(16 + call, Fault.DIES_AFTER))
    with suppress(ProcessDied):
        books.rollups.roll_up()
    faults.recover()
    assert total(books).requests == 1
    books.settle()
    assert (total(books).requests, books.marked()) == (1, [])


def test_of_two_runs_at_once_each_record_is_counted_once(
    books: Books, other_books: Books, faults: FaultyClient, clock: ManualClock
) -> None:
    for call in range(17, 26):
        hour = NOON + call * DAY
        clock.now = hour
        books.write(record_at(hour, f"r{call}"))
        clock.now = hour + 2 * HOUR

        def the_other() -> None:
            faults.recover()
            other_books.rollups.roll_up()

        faults.between(call, the_other)
        books.rollups.roll_up()
        faults.recover()
        books.settle()
    assert total(books).requests == 9


def test_an_hour_that_is_done_anew_is_counted_once(books: Books, clock: ManualClock) -> None:
    books.write(record_at(NOON, "a"), record_at(NOON, "b"))
    books.settle()
    for number in range(3):
        clock.advance(hours=5)
        books.write(record_at(NOON + timedelta(minutes=number), f"late{number}"))
        assert total(books).requests == 3 + number
        books.settle()
        assert (total(books).requests, books.marked()) == (3 + number, [])


def test_an_hour_that_is_rolled_up_in_parts_is_counted_once(
    books: Books, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollups_module, "WORTH_IT", 5)
    for minute in range(60):
        books.write(record_at(clock(), f"r{minute}"))
        clock.advance(minutes=1)
        if minute % 5 == 4:
            books.rollups.roll_up()
            assert total(books).requests == minute + 1
    books.settle()
    assert total(books).requests == 60


@pytest.mark.parametrize("call", range(1, 6))
def test_of_two_hours_of_a_key_that_are_rolled_up_at_once_neither_is_lost(
    books: Books, other_books: Books, faults: FaultyClient, clock: ManualClock, call: int
) -> None:
    books.write(record_at(NOON, "before"))
    books.settle()
    for name in ("first", "second"):
        books.write(record_at(clock(), name))
        clock.advance(hours=1)
    clock.advance(hours=1)
    first, second = books.usage.activity.marks()

    def the_other() -> None:
        faults.recover()
        other_books.rollups._advance(second, dry_run=False)

    faults.between(call, the_other)
    with suppress(ConditionFailed):  # it was overtaken; the next run does it
        books.rollups._advance(first, dry_run=False)
    faults.recover()
    assert total(books).requests == 3
    books.settle()
    assert (total(books).requests, books.marked()) == (3, [])


def test_what_was_rolled_up_before_there_were_totals_is_counted_when_its_hour_is_done_anew(
    books: Books, clock: ManualClock
) -> None:
    books.write(record_at(NOON, "a"))
    books.settle()
    books.table.delete("TOTAL", "user-1#key_1")
    books.table.update("U#key_1", "26112112", update="REMOVE rv", condition="v = :v", values={":v": 1}, attempts=1)
    assert total(books).requests == 0
    books.write(record_at(NOON, "late"))
    assert total(books).requests == 2
    books.settle()
    assert total(books).requests == 2


def test_caches_durations_and_sizes_are_summed(books: Books, clock: ManualClock) -> None:
    books.write(
        record_at(NOON, "a", cache="hit", duration_ms=9.9),
        record_at(NOON, "b", cache="miss", duration_ms=10.0),
        record_at(NOON, "c", cache="stale", duration_ms=10.001),
        record_at(NOON, "d", status=Status.UNKNOWN, duration_ms=0.0),
        record_at(NOON, "e", status=Status.QUOTA_EXCEEDED, duration_ms=3.0, requests=7),
        record_at(NOON, "f", duration_ms=7000.0, operation=Operation.UPSERT),
    )
    for _ in range(2):
        found = total(books)
        assert (found.cache_hits, found.cache_misses, found.stale_answers) == (1, 1, 1)
        assert found.durations == [2, 1, 0, 0, 0, 0, 0, 0, 0, 1]
        assert (found.requests, found.refused, found.request_bytes) == (5, 7, 500)
        books.settle()


def test_a_key_of_ever_more_projects_keeps_what_it_counted_of_each(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running_totals, "MOST_PROJECTS", 2)
    for number in range(5):
        books.write(record_at(books.clock(), f"r{number}", project_id=f"p{number}"))
        books.settle()
    usage = counters(books)[KEY]
    assert {group.project_id: totals.requests for group, totals in usage.items()} == {"p0": 1, "p1": 1, None: 3}


def test_reading_costs_a_call_for_keys_at_rest_and_a_few_for_each_in_use(
    books: Books, faults: FaultyClient, clock: ManualClock
) -> None:
    for number in range(30):
        books.write(record_at(NOON, f"r{number}", api_key_id=f"key_{number}"))
    books.settle()
    with faults.counted() as calls:
        counters(books)
    assert calls == {"query": 16 + 1}
    books.write(record_at(clock(), "new"))
    with faults.counted() as calls:
        counters(books)
    assert calls == {"query": 16 + 1 + 2}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=histories())
def test_at_any_time_they_are_the_sum_of_the_records_and_never_fall(
    books: Books, other_books: Books, monkeypatch: pytest.MonkeyPatch, history: Any
) -> None:
    monkeypatch.setattr(rollups_module, "WORTH_IT", 2)
    books.clock.now = NOON + timedelta(microseconds=1)
    name = uuid.uuid4().hex[:8]
    keys = [KeyName(f"{name}-{number % 2}", f"key_{name}{number}") for number in range(4)]
    before: dict[KeyName, Usage] = {}
    for seconds, records, run in history:
        books.clock.advance(seconds=seconds)
        for number, values in enumerate(records):
            changes = {n: value for n, value in values.items() if n not in ("key", "late")}
            moment = books.clock() - timedelta(seconds=values["late"])
            key = keys[values["key"]]._asdict()
            (books, other_books)[number % 2].write(
                record_at(moment, f"{number}{uuid.uuid4().hex[:8]}", **changes, **key)
            )
        if run:
            books.rollups.roll_up()
        now = counters(books)
        for one in keys:
            written = books.raw([one], books.clock() - timedelta(days=60), books.clock() + HOUR)
            assert without_nothing(now.get(one, {})) == without_nothing(by_operation(grouped(written)))
        assert fallen(before, now) == []
        before = now
