"""Usage records: what is kept comes back, in order, page by page, and goes when its time has come."""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import timedelta
from itertools import islice
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fixtures.faults import Fault, FaultyClient
from tests.fixtures.ledger import NOON, Instance, ManualClock, totals
from vecmeter.errors import LimitExceededError
from vecmeter.ledger.keys import CreatedKey
from vecmeter.ledger.model import Operation, Status, UsageRecord, from_epoch_ms
from vecmeter.ledger.rollups import Rollups
from vecmeter.ledger.totals import summarize
from vecmeter.ledger.usage import REFUSAL_INTERVAL, UsageLog, record_position

NAMES = st.none() | st.text(max_size=12)
COUNTS = st.integers(0, 10**12)
RECORDS = st.builds(
    UsageRecord,
    request_id=st.just(""),
    started_at=st.integers(1_700_000_000_000, 1_900_000_000_000).map(from_epoch_ms),
    api_key_id=st.just("key_records"),
    user_id=st.text(min_size=1, max_size=12),
    project_id=NAMES,
    operation=st.sampled_from(Operation),
    endpoint=st.text(max_size=12),
    status=st.sampled_from(Status),
    collection=NAMES,
    namespace=NAMES,
    requests=COUNTS,
    tokens=COUNTS,
    vectors=COUNTS,
    request_bytes=COUNTS,
    response_bytes=COUNTS,
    duration_ms=st.integers(0, 10**9).map(lambda n: n / 1000),
    micro_usd=COUNTS,
    price_version=st.text(max_size=12),
    had_filter=st.booleans(),
    cache=NAMES,
    extra=st.dictionaries(
        st.text(max_size=5), st.none() | st.booleans() | st.integers() | st.floats(-9, 9), max_size=3
    ),
)


def record(request_id: str = "r1", **changes: Any) -> UsageRecord:
    plain = UsageRecord(
        request_id=request_id,
        started_at=NOON,
        api_key_id="key_records",
        user_id="user-1",
        project_id="project-1",
        operation=Operation.SEARCH,
        endpoint="POST /search",
        status=Status.SUCCESS,
    )
    return replace(plain, **changes)


def read(instance: Instance, *keys: str, **options: Any) -> list[UsageRecord]:
    year = timedelta(days=3650)
    return list(instance.usage.read(keys or ["key_records"], NOON - year, NOON + year, **options))


def roll_up(instance: Instance) -> None:
    """Roll up all there is, days after it was written."""
    clock: Any = instance.clock
    clock.advance(days=5)
    Rollups(instance.table, instance.usage, clock, 800).roll_up()


class TestRecords:
    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(written=RECORDS)
    def test_a_record_comes_back_as_it_was_written(self, instance: Instance, written: UsageRecord) -> None:
        written = replace(written, request_id=uuid.uuid4().hex)  # one that no other example had
        instance.usage.keep(written)
        assert written in instance.usage.read(
            ["key_records"], written.started_at, written.started_at + timedelta(milliseconds=1)
        )

    def test_a_record_of_a_request_says_what_it_did(self, instance: Instance) -> None:
        key = instance.create_key()
        instance.request(key, tokens=25, vectors=3)
        [kept] = instance.records(key)
        assert kept.duration_ms > 0
        assert replace(kept, duration_ms=0.0, request_id="r") == UsageRecord(
            request_id="r",
            started_at=NOON,
            api_key_id=key.key.api_key_id,
            user_id="user-1",
            project_id="project-1",
            operation=Operation.SEARCH,
            endpoint="POST /v1/projects/{project}/collections/{collection}/search",
            status=Status.SUCCESS,
            collection="docs",
            namespace="",
            requests=1,
            tokens=25,
            vectors=3,
            request_bytes=1000,
            response_bytes=500,
            micro_usd=instance.ledger.price(Operation.SEARCH, tokens=25),
            price_version="default-1",
        )

    def test_the_first_record_of_a_request_stands(self, instance: Instance) -> None:
        first, second = record(tokens=5), record(tokens=7, status=Status.FAILURE)
        assert instance.usage.keep(first) == first
        assert instance.usage.keep(second) == first
        assert read(instance) == [first]

    def test_what_was_unknown_becomes_known_at_the_amounts_that_were_counted(self, instance: Instance) -> None:
        given_up = record(status=Status.UNKNOWN, requests=1, tokens=9, micro_usd=5, price_version="v1")
        known = record(requests=1, tokens=2, micro_usd=1, vectors=8, price_version="v2")
        instance.usage.keep(given_up)
        expected = replace(known, tokens=9, micro_usd=5, price_version="v1")
        assert instance.usage.keep(known) == expected
        assert instance.usage.keep(given_up) == expected
        assert read(instance) == [expected]


class TestReading:
    def test_records_come_newest_first_from_start_up_to_before_the_end(self, instance: Instance) -> None:
        for second in range(5):
            instance.usage.keep(record(f"r{second}", started_at=NOON + timedelta(seconds=second)))
        found = instance.usage.read(["key_records"], NOON + timedelta(seconds=1), NOON + timedelta(seconds=4))
        assert [r.request_id for r in found] == ["r3", "r2", "r1"]
        assert not list(instance.usage.read(["key_records"], NOON + timedelta(seconds=1), NOON))

    def test_pages_over_several_keys_put_together_are_the_list_though_moments_are_shared(
        self, instance: Instance
    ) -> None:
        keys = ["key_a", "key_b", "key_c"]
        for number in range(24):
            moment = NOON + timedelta(milliseconds=number // 8)
            instance.usage.keep(record(f"{number * 7 % 24:02}", api_key_id=keys[number % 3], started_at=moment))
        whole, pages, before = read(instance, *keys), [], ""
        assert [record_position(r) for r in whole] == sorted({record_position(r) for r in whole}, reverse=True)
        while page := list(islice(read(instance, *keys, before=before), 5)):
            pages += page
            before = record_position(page[-1])
        assert pages == whole
        assert len(whole) == 24

    def test_a_page_is_read_as_it_is_consumed(self, instance: Instance, faults: FaultyClient) -> None:
        for number in range(3):
            instance.usage.keep(record(f"r{number}"))
        with faults.counted() as calls:
            next(instance.usage.read(["key_records"], NOON, NOON + timedelta(days=1)))
        assert calls == {"query": 1}


class TestRetention:
    def test_old_records_are_purged_and_others_stay(self, instance: Instance) -> None:
        for day in range(60):
            instance.usage.keep(record(f"r{day}", started_at=NOON - timedelta(days=day)))
        instance.usage.keep(record("other", api_key_id="key_other", started_at=NOON - timedelta(days=59)))
        before = NOON - timedelta(days=29)
        assert instance.usage.purge("user-1", "key_records", before) == 0, "nothing is rolled up"
        roll_up(instance)
        assert instance.usage.purge("user-1", "key_records", before) == 30
        assert len(read(instance)) == 30
        assert len(read(instance, "key_other")) == 1
        assert instance.usage.purge("user-1", "key_records", before) == 0

    def test_records_of_an_hour_that_is_not_rolled_up_are_not_purged_nor_those_after_it(
        self, instance: Instance, clock: ManualClock
    ) -> None:
        for day in range(4):
            instance.usage.keep(record(f"r{day}", started_at=NOON + timedelta(days=day)))
        roll_up(instance)
        instance.usage.keep(record("late", started_at=NOON + timedelta(days=1)))
        assert instance.usage.purge("user-1", "key_records", clock()) == 1
        assert {r.request_id for r in read(instance)} == {"r1", "r2", "r3", "late"}
        roll_up(instance)
        assert instance.usage.purge("user-1", "key_records", clock()) == 4

    def test_only_whole_hours_are_purged(self, instance: Instance) -> None:
        for minute in range(0, 120, 10):
            instance.usage.keep(record(f"r{minute}", started_at=NOON + timedelta(minutes=minute)))
        roll_up(instance)
        assert instance.usage.purge("user-1", "key_records", NOON + timedelta(minutes=110)) == 6

    def test_dynamodb_is_told_when_a_record_has_served(self, instance: Instance, clock: ManualClock) -> None:
        UsageLog(instance.table, 2, clock).keep(record())
        [item] = instance.table.query("R#key_records", between=("0", "9"))
        assert item["ttl"] == int((NOON + timedelta(days=2)).timestamp())


class TestRefusals:
    @pytest.fixture
    def key(self, instance: Instance) -> CreatedKey:
        key = instance.create_key(daily_requests=1)
        instance.request(key)
        return key

    def refuse(self, instance: Instance, key: CreatedKey, times: int = 1) -> None:
        for _ in range(times):
            with pytest.raises(LimitExceededError):
                instance.admit(key)

    def refusals(self, instance: Instance, key: CreatedKey) -> list[int]:
        return [r.requests for r in reversed(instance.records(key)) if r.status is Status.QUOTA_EXCEEDED]

    def test_a_flood_is_summed_into_one_record_per_interval(
        self, instance: Instance, key: CreatedKey, clock: ManualClock
    ) -> None:
        clock.advance(seconds=1)
        self.refuse(instance, key, 50)
        assert self.refusals(instance, key) == [1]
        clock.advance(seconds=REFUSAL_INTERVAL.total_seconds() - 0.001)
        self.refuse(instance, key, 50)
        assert self.refusals(instance, key) == [1]
        clock.advance(milliseconds=1)
        self.refuse(instance, key)
        assert self.refusals(instance, key) == [1, 100]

    def test_a_clock_that_is_set_back_does_not_silence_refusals(
        self, instance: Instance, key: CreatedKey, clock: ManualClock
    ) -> None:
        clock.advance(seconds=100)
        self.refuse(instance, key)
        clock.advance(seconds=-50)
        self.refuse(instance, key)
        assert self.refusals(instance, key) == [1, 1]

    def test_refusals_are_in_no_sum_of_what_was_used(self, instance: Instance, key: CreatedKey) -> None:
        self.refuse(instance, key, 3)
        total = summarize(instance.records(key)).total
        assert (total.requests, total.succeeded, total.refused) == (1, 1, 1)
        assert totals(instance.records(key)) == instance.used(key)

    def test_a_refusal_that_cannot_be_recorded_is_still_a_refusal(
        self, instance: Instance, key: CreatedKey, faults: FaultyClient, caplog: pytest.LogCaptureFixture
    ) -> None:
        faults.fail(*[Fault.AWAY] * 3, on="put_item")
        self.refuse(instance, key)
        [line] = [r for r in caplog.records if r.getMessage() == "usage record not written"]
        assert line.__dict__["usage_record"]["status"] == "quota_exceeded"


class TestSummaries:
    def test_a_summary_adds_up_as_a_whole_and_by_operation_hour_and_endpoint(self) -> None:
        records = [
            record("a", tokens=1, vectors=2, request_bytes=3, response_bytes=4, duration_ms=10.0, micro_usd=5),
            record("b", started_at=NOON + timedelta(minutes=59), status=Status.FAILURE, duration_ms=20.0),
            record("c", started_at=NOON + timedelta(hours=1), operation=Operation.ADD, endpoint="POST /add"),
            record("d", status=Status.QUOTA_EXCEEDED, requests=40),
            record("e", status=Status.UNKNOWN, endpoint="", tokens=9),
        ]
        summary = summarize(records)
        total = summary.total
        assert (total.requests, total.succeeded, total.refused) == (4, 2, 40)
        assert (total.tokens, total.vectors, total.bytes, total.micro_usd) == (10, 2, 7, 5)
        assert (total.avg_duration_ms, total.success_rate) == (7.5, 0.5)
        assert {op: t.requests for op, t in summary.by_operation.items()} == {Operation.SEARCH: 3, Operation.ADD: 1}
        assert {hour: t.requests for hour, t in summary.series.items()} == {NOON: 3, NOON + timedelta(hours=1): 1}
        assert summary.top_endpoints == [("POST /search", 2), ("POST /add", 1)]

    def test_a_repeated_answer_is_no_request_and_a_refusal_of_no_requests_is_one(self) -> None:
        records = [
            record("a", duration_ms=10.0),
            record("b", requests=0, duration_ms=4.0, response_bytes=7),
            record("c", requests=0, status=Status.QUOTA_EXCEEDED),
        ]
        total = summarize(records).total
        assert (total.requests, total.succeeded, total.refused, total.bytes) == (1, 1, 1, 7)
        assert (total.avg_duration_ms, total.success_rate) == (10.0, 1.0)

    def test_nothing_sums_up_to_nothing(self) -> None:
        total = summarize([]).total
        assert (total.requests, total.avg_duration_ms, total.success_rate) == (0, 0.0, 1.0)
