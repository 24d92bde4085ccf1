"""Roll-ups say what the records say: at any time, for any stretch of time, whoever asks, whatever was late or died."""

from __future__ import annotations

import uuid
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fixtures.faults import Fault, FaultyClient, ProcessDied, at
from tests.fixtures.ledger import NOON, ManualClock
from tests.fixtures.usage import Books, expected, plain, record_at
from vecmeter.errors import LedgerUnavailableError
from vecmeter.ledger import rollups as rollups_module
from vecmeter.ledger.activity import HOUR, LATE_AFTER, SETTLED_AFTER, Activity
from vecmeter.ledger.model import Operation, Status
from vecmeter.ledger.reports import Selection
from vecmeter.ledger.rollups import DAY, Step
from vecmeter.ledger.totals import KeyName, Totals, grouped, hour_of

KEY = KeyName("user-1", "key_1")
ONE_KEY = Selection(key=KEY)
LONG = timedelta(days=60)


def total(books: Books, selection: Selection = ONE_KEY) -> Totals:
    now = books.clock()
    return books.reports.summary(selection, now - LONG, now + HOUR).total


def is_exact(books: Books, *, start: datetime | None = None, end: datetime | None = None) -> None:
    start, end = start or books.clock() - LONG, end or books.clock() + HOUR
    found = books.reports.summary(ONE_KEY, start, end)
    assert plain(found) == plain(expected(books, ONE_KEY, [KEY], start, end))


@st.composite
def histories(draw: st.DrawFn) -> list[Any]:
    """Steps: how far time goes on, then what is written, some of it late, and whether there is a run."""
    record = st.fixed_dictionaries(
        {
            "key": st.integers(0, 3),
            "late": st.sampled_from([0, 0, 0, 1, 100, 4000, 90_000, 400_000]),
            "operation": st.sampled_from(list(Operation)[:3]),
            "project_id": st.sampled_from(["p1", "p2"]),
            "endpoint": st.sampled_from(["POST /a", "POST /b", ""]),
            "status": st.sampled_from(Status),
            "requests": st.sampled_from([1, 1, 1, 0, 7]),
            "tokens": st.integers(0, 10**6),
            "micro_usd": st.integers(0, 10**9),
            "duration_ms": st.integers(0, 10**7).map(lambda n: n / 1000),
        }
    )
    step = st.tuples(
        st.sampled_from([0, 7, 300, 1500, 3600, 20_000, 86_400, 300_000]), st.lists(record, max_size=4), st.booleans()
    )
    return draw(st.lists(step, min_size=1, max_size=8))


QUESTIONS = st.fixed_dictionaries(
    {
        "back": st.just(0) | st.integers(0, 3 * 86_400_000),
        "length": st.sampled_from([1, 86_400_000, 10 * 86_400_000, 40 * 86_400_000]) | st.integers(1, 20 * 86_400_000),
        "whose": st.sampled_from(["key", "user", "both users", "all"]),
        "project": st.sampled_from([None, "p1"]),
        "operation": st.sampled_from([None, Operation.SEARCH]),
    }
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=histories(), questions=st.lists(QUESTIONS, min_size=1, max_size=4))
def test_any_window_of_anybody_sums_up_as_its_records_do(
    books: Books, other_books: Books, monkeypatch: pytest.MonkeyPatch, history: Any, questions: Any
) -> None:
    monkeypatch.setattr(rollups_module, "WORTH_IT", 2)  # so that hours are rolled up in parts, too
    books.clock.now = NOON + timedelta(microseconds=1)
    name = uuid.uuid4().hex[:8]  # of users that no other example has
    users = [f"{name}-1", f"{name}-2"]
    keys = [KeyName(users[number % 2], f"key_{name}{number}") for number in range(4)]
    for seconds, records, run in history:
        books.clock.advance(seconds=seconds)
        for number, values in enumerate(records):
            key, late = keys[values["key"]], timedelta(seconds=values["late"])
            changes = {n: value for n, value in values.items() if n not in ("key", "late")}
            written = record_at(books.clock() - late, f"{number}{uuid.uuid4().hex[:8]}", **changes, **key._asdict())
            (books, other_books)[number % 2].write(written)
        if run:
            books.rollups.roll_up()
    for question in questions:
        end = books.clock() - timedelta(milliseconds=question["back"] - 1000)
        start = end - timedelta(milliseconds=question["length"])
        narrowed = Selection(project_id=question["project"], operation=question["operation"])
        selection, selected = {
            "key": (replace(narrowed, key=keys[0]), keys[:1]),
            "user": (replace(narrowed, user_ids=(users[0],)), keys[::2]),
            "both users": (replace(narrowed, user_ids=tuple(users)), keys),
            "all": (narrowed, books.reports.keys(narrowed, start, end)),
        }[question["whose"]]
        found = books.reports.summary(selection, start, end)
        assert plain(found) == plain(expected(books, selection, selected, start, end))
        whole = Totals()
        for portion in books.reports.portions(selection, start, end, by_day=True):
            whole.merge(portion.totals)
        assert whole == found.total


def test_all_keys_with_records_are_found(books: Books, clock: ManualClock) -> None:
    for number in range(12):
        books.write(record_at(clock(), "r", user_id=f"user-{number % 5}", api_key_id=f"key_{number}"))
        clock.advance(hours=5)
        if number % 3 == 0:
            books.rollups.roll_up()
    found = books.reports.keys(Selection(), NOON, clock())
    assert sorted(found) == sorted(KeyName(f"user-{number % 5}", f"key_{number}") for number in range(12))
    assert [key.api_key_id for key in books.reports.keys(Selection(user_ids=("user-1",)), NOON, clock())] == [
        "key_1", "key_11", "key_6"
    ]  # fmt: skip


class TestClosing:
    def test_an_hour_is_rolled_up_for_good_once_nothing_of_it_can_still_arrive(
        self, books: Books, clock: ManualClock
    ) -> None:
        books.write(record_at(NOON + timedelta(minutes=59), "a"))
        clock.now = NOON + HOUR + SETTLED_AFTER - timedelta(milliseconds=1)
        assert books.rollups.roll_up()[Step.CLOSED] == 0
        clock.advance(milliseconds=1)
        assert books.rollups.roll_up()[Step.CLOSED] == 1
        assert books.marked() == []
        [hour] = books.rollups.hours("key_1", NOON, NOON + HOUR)
        assert hour.usage == grouped([record_at(NOON, "a")])
        [day] = books.rollups.days(NOON.replace(hour=0))
        assert (day.user_id, day.api_key_id, day.usage) == ("user-1", "key_1", hour.usage)

    def test_a_copy_that_arrives_as_late_as_it_may_is_counted(
        self, books: Books, faults: FaultyClient, clock: ManualClock
    ) -> None:
        """The last moment for a record that is not late, and the oldest signature DynamoDB takes."""
        books.write(record_at(NOON, "a"))
        started = NOON + HOUR - timedelta(milliseconds=1)
        clock.now = started + LATE_AFTER
        faults.fail(*[Fault.TIMED_OUT] * 3, on="put_item")
        with pytest.raises(LedgerUnavailableError):
            books.write(record_at(started, "b"))
        faults.recover()
        clock.advance(minutes=15)
        books.rollups.roll_up()
        assert faults.deliver() == 1
        books.settle()
        assert total(books).requests == 2
        is_exact(books)

    def test_rolling_up_again_changes_nothing(self, books: Books) -> None:
        books.write(*(record_at(NOON + timedelta(minutes=i), f"r{i}") for i in range(50)))
        books.settle()
        before = list(books.rollups.hours("key_1", NOON, NOON + HOUR)), list(books.rollups.days(NOON.replace(hour=0)))
        assert books.rollups.roll_up() == Counter({step.value: 0 for step in Step})
        assert before == (
            list(books.rollups.hours("key_1", NOON, NOON + HOUR)), list(books.rollups.days(NOON.replace(hour=0)))
        )  # fmt: skip
        is_exact(books)

    def test_keys_that_did_nothing_cost_nothing(self, books: Books, faults: FaultyClient, clock: ManualClock) -> None:
        for key in range(30):
            books.write(record_at(NOON, f"r{key}", api_key_id=f"key_{key}", user_id=f"user-{key}"))
        books.settle()
        with faults.counted() as calls:
            books.rollups.roll_up()
        assert calls == {"query": 16}  # the marks of every shard, of which there is none
        clock.advance(days=1)
        books.write(record_at(clock(), "new"))
        clock.advance(hours=2)
        with faults.counted() as calls:
            books.rollups.roll_up()
        # the hour and its records, the running total, the day's roll-up, its hours; then three writes, two as one
        written = {"transact_write_items": 1, "update_item": 1, "delete_item": 1}
        assert calls == {"query": 16 + 3, "get_item": 2, **written}

    def test_a_busy_hour_is_rolled_up_as_it_goes_and_each_record_read_once(
        self, books: Books, faults: FaultyClient, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(rollups_module, "WORTH_IT", 10)
        read: Counter[str] = Counter()
        onwards = books.usage.read_onwards

        def counted(*arguments: Any, **named: Any) -> Any:
            for record in onwards(*arguments, **named):
                read[record.request_id] += 1
                yield record

        monkeypatch.setattr(books.usage, "read_onwards", counted)
        for minute in range(60):
            books.write(record_at(clock(), f"r{minute}"))
            clock.advance(minutes=1)
            if minute % 5 == 4:
                books.rollups.roll_up()
                in_parts = dict(read)
                is_exact(books)
                read.clear()
                read.update(in_parts)
        books.settle()
        assert sum(read.values()) < 2 * 60
        is_exact(books)

    def test_a_key_of_no_project_is_told_apart_by_project(self, books: Books) -> None:
        for number in range(20):
            books.write(record_at(NOON, f"r{number}", project_id=f"p{number % 4}", micro_usd=number))
        books.settle()
        for number in range(4):
            found = total(books, replace(ONE_KEY, project_id=f"p{number}"))
            assert (found.requests, found.micro_usd) == (5, sum(range(number, 20, 4)))


class TestLate:
    @pytest.mark.parametrize("days", [0, 1, 40])
    def test_a_record_that_comes_after_its_hour_was_closed_is_counted(
        self, books: Books, other_books: Books, clock: ManualClock, days: int
    ) -> None:
        books.write(record_at(NOON, "a"))
        books.settle()
        clock.advance(days=days)
        other_books.write(record_at(NOON + timedelta(minutes=5), "late", micro_usd=77))
        whole_days = Selection(user_ids=("user-1",))
        assert total(books).micro_usd == total(books, whole_days).micro_usd == 82
        is_exact(books)
        books.rollups.roll_up()
        is_exact(books)
        assert total(books, whole_days).micro_usd == 82
        books.settle()
        assert books.marked() == []
        assert total(books).micro_usd == total(books, whole_days).micro_usd == 82
        [day] = books.rollups.days(NOON.replace(hour=0))
        assert sum(totals.micro_usd for totals in day.usage.values()) == 82

    def test_what_was_unknown_and_turns_out_otherwise_is_counted_as_that(
        self, books: Books, clock: ManualClock
    ) -> None:
        dead = record_at(NOON, "a", status=Status.UNKNOWN, endpoint="", vectors=0, duration_ms=0.0)
        clock.advance(minutes=2)
        books.write(dead)
        books.settle()
        assert total(books).succeeded == 0
        books.write(record_at(NOON, "a"))
        books.settle()
        assert (total(books).succeeded, total(books).requests) == (1, 1)
        is_exact(books)

    def test_a_late_record_between_the_reading_and_the_closing_leaves_the_mark(
        self, books: Books, other_books: Books, faults: FaultyClient, clock: ManualClock
    ) -> None:
        """However the two runs interleave, and with each step of the roll-up as the moment."""
        for call in range(1, 24):
            hour = NOON + call * DAY
            clock.now = hour
            books.write(record_at(hour, f"r{call}"))
            clock.now = hour + 2 * HOUR
            faults.between(call, lambda h=hour, c=call: _plainly(faults, other_books, record_at(h, f"late{c}")))  # type: ignore[misc]
            books.rollups.roll_up()
            faults.recover()
            is_exact(books)
            books.settle()
            assert books.marked() == []
            is_exact(books)
        assert total(books).requests == 2 * 23

    def test_a_copy_of_a_late_record_that_arrives_as_late_as_it_may_is_counted(
        self, books: Books, faults: FaultyClient, clock: ManualClock
    ) -> None:
        books.write(record_at(NOON, "a"))
        books.settle()
        faults.fail(*at(2, *[Fault.TIMED_OUT] * 3), on="put_item")
        with pytest.raises(LedgerUnavailableError):
            books.write(record_at(NOON, "late"))
        faults.recover()
        books.rollups.roll_up()
        clock.advance(minutes=15)
        books.rollups.roll_up()
        assert faults.deliver() == 1
        is_exact(books)
        books.settle()
        assert total(books).requests == 2

    def test_a_record_whose_announcement_fails_is_not_written(self, books: Books, faults: FaultyClient) -> None:
        faults.fail(*[Fault.AWAY] * 3)
        with pytest.raises(LedgerUnavailableError):
            books.write(record_at(NOON, "a"))
        assert books.raw([KEY], NOON, NOON + HOUR) == []

    def test_a_process_that_stood_still_announces_afterwards(
        self, books: Books, faults: FaultyClient, clock: ManualClock
    ) -> None:
        books.write(record_at(NOON, "a"))

        def stands_still() -> None:
            clock.advance(hours=3)
            faults.recover()
            books.rollups.roll_up()

        faults.between(1, stands_still)
        books.write(record_at(NOON, "b"))
        is_exact(books)
        books.settle()
        assert total(books).requests == 2

    @pytest.mark.parametrize("call", [1, 2])
    def test_a_process_that_dies_of_writing_a_late_record_has_announced_it(
        self, books: Books, faults: FaultyClient, call: int
    ) -> None:
        books.write(record_at(NOON, "a"))
        books.settle()
        faults.fail(*at(call, Fault.DIES_AFTER))
        with pytest.raises(ProcessDied):
            books.write(record_at(NOON, "late"))
        faults.recover()
        is_exact(books)
        books.settle()
        assert total(books).requests == call
        is_exact(books)

    def test_what_comes_when_the_other_records_are_gone_does_not_undo_the_roll_up(
        self, books: Books, clock: ManualClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        books.write(record_at(NOON, "a"))
        books.settle()
        clock.advance(days=90)
        books.usage.purge(*KEY, clock() - timedelta(days=90) + HOUR)
        books.write(record_at(NOON, "late"))
        clock.advance(hours=1)
        assert books.rollups.roll_up()[Step.TOO_LATE] == 1
        assert "came too late" in caplog.text
        assert books.reports.summary(ONE_KEY, NOON, NOON + HOUR).total.requests == 1


def _plainly(faults: FaultyClient, books: Books, record: Any) -> None:
    faults.recover()
    books.write(record)


class TestFaults:
    @pytest.mark.parametrize("fault", [Fault.DIES_BEFORE, Fault.DIES_AFTER, Fault.LOST_ANSWER, Fault.AWAY])
    def test_a_run_may_die_at_any_call_and_the_next_one_makes_it_good(
        self, books: Books, faults: FaultyClient, clock: ManualClock, fault: Fault
    ) -> None:
        for call in range(1, 25):
            clock.now = NOON + call * DAY
            books.write(*(record_at(clock(), f"{call}-{i}", micro_usd=i) for i in range(3)))
            clock.advance(hours=2)
            faults.fail(*at(call, *[fault] * (3 if fault is Fault.AWAY else 1)))
            with suppress(ProcessDied, LedgerUnavailableError):
                books.rollups.roll_up()
            faults.recover()
            is_exact(books)
            books.rollups.roll_up()
            assert books.marked() == []
            is_exact(books)
            days = books.rollups.days(books.clock().replace(hour=0))
            assert [totals.requests for day in days for totals in day.usage.values()] == [3]

    def test_a_run_that_was_held_up_does_not_put_older_sums_in_place_of_newer(
        self, books: Books, other_books: Books, faults: FaultyClient, clock: ManualClock
    ) -> None:
        for call in range(1, 24):
            hour = NOON + call * DAY
            clock.now = hour
            books.write(record_at(hour, f"r{call}"))
            clock.now = hour + 2 * HOUR

            def meanwhile(h: datetime = hour, c: int = call) -> None:
                faults.recover()
                other_books.write(record_at(h, f"late{c}", micro_usd=1000))
                clock.advance(hours=1)
                other_books.rollups.roll_up()

            faults.between(call, meanwhile)
            books.rollups.roll_up()
            faults.recover()
            is_exact(books)
            books.settle()
            is_exact(books)
            assert [
                totals.requests for day in books.rollups.days(hour.replace(hour=0)) for totals in day.usage.values()
            ] == [2]


class TestReading:
    def test_a_month_is_read_by_the_day_and_not_by_the_record(
        self, books: Books, faults: FaultyClient, clock: ManualClock
    ) -> None:
        days, per_hour = 12, 6
        for hour in range(days * 6):
            clock.now = NOON.replace(hour=0) + hour * 4 * HOUR
            books.write(*(record_at(clock(), f"{hour}-{i}") for i in range(per_hour)))
        books.settle()
        end = clock()
        start = end - timedelta(days=days)
        for selection, most in ((ONE_KEY, 150), (Selection(user_ids=("user-1",)), 60)):
            with items_read(faults) as read:
                found = books.reports.summary(selection, start, end)
            assert plain(found) == plain(expected(books, selection, [KEY], start, end))
            assert found.total.requests > days * 6 * per_hour - 10
            assert read[0] < most

    def test_an_hour_partly_in_the_window_is_read_from_its_records(self, books: Books) -> None:
        books.write(*(record_at(NOON + timedelta(minutes=i), f"r{i}") for i in range(120)))
        books.settle()
        for minutes in (0, 1, 30, 59, 60, 61):
            is_exact(books, start=NOON + timedelta(minutes=minutes), end=NOON + timedelta(minutes=90))
            is_exact(books, start=NOON, end=NOON + timedelta(minutes=minutes))

    def test_series_go_by_the_hour_for_a_week_and_by_the_day_beyond(self, books: Books, clock: ManualClock) -> None:
        books.write(record_at(NOON + timedelta(minutes=5), "a"))
        clock.advance(minutes=10)
        week = timedelta(days=7)
        assert list(books.reports.summary(ONE_KEY, clock() - week, clock()).series) == [NOON]
        longer = books.reports.summary(ONE_KEY, clock() - week - HOUR, clock())
        assert list(longer.series) == [NOON.replace(hour=0)]

    def test_roll_ups_outlive_records_and_are_counted_in_whole_hours(self, books: Books, clock: ManualClock) -> None:
        for minute in range(0, 180, 10):
            books.write(record_at(clock(), f"r{minute}"))
            clock.advance(minutes=10)
        books.settle()
        clock.advance(days=95)
        assert books.usage.purge(*KEY, clock() - timedelta(days=90)) == 18
        start, end = books.reports.window(NOON + timedelta(minutes=30), NOON + timedelta(minutes=90))
        assert (start, end) == (NOON, NOON + 2 * HOUR)
        assert (
            books.reports.summary(ONE_KEY, NOON + timedelta(minutes=30), NOON + timedelta(minutes=90)).total.requests
            == 12
        )
        assert books.reports.summary(Selection(), NOON - timedelta(days=20), clock()).total.requests == 18


def items_read(faults: FaultyClient) -> Any:
    """Counts the items that queries and reads of the block returned."""

    @contextmanager
    def counting() -> Any:
        client, read = faults.client, [0]

        class Counted:
            def __getattr__(self, name: str) -> Any:
                call = getattr(client, name)

                def counted(**request: Any) -> Any:
                    answer = call(**request)
                    read[0] += len(answer.get("Items", ())) + ("Item" in answer)
                    return answer

                return counted

        faults.client = Counted()
        yield read
        faults.client = client

    return counting()


class TestCosts:
    def test_the_mark_of_an_hour_is_written_once_by_an_instance(
        self, books: Books, other_books: Books, faults: FaultyClient, clock: ManualClock
    ) -> None:
        with faults.counted() as calls:
            books.write(*(record_at(clock(), f"r{i}") for i in range(20)))
        assert calls == {"put_item": 21}
        with faults.counted() as calls:
            other_books.write(*(record_at(clock(), f"o{i}") for i in range(20)))
        assert calls == {"put_item": 21}
        clock.now = hour_of(clock()) + HOUR
        with faults.counted() as calls:
            books.write(*(record_at(clock(), f"n{i}") for i in range(20)))
        assert calls == {"put_item": 21}

    def test_what_an_instance_remembers_is_bounded(
        self, books: Books, monkeypatch: pytest.MonkeyPatch, faults: FaultyClient
    ) -> None:
        monkeypatch.setattr("vecmeter.ledger.activity.REMEMBERED_MARKS", 5)
        for key in range(10):
            books.write(record_at(NOON, f"r{key}", api_key_id=f"key_{key}"))
        assert len(books.usage.activity._ensured) == 5
        assert isinstance(books.usage.activity, Activity)
        with faults.counted() as calls:
            books.write(record_at(NOON, "again", api_key_id="key_0"))
        assert calls == {"put_item": 2}
