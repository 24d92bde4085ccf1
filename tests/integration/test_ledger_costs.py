"""What the ledger costs a request: round trips, write units, bytes of the hot item."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

from tests.fixtures.faults import FaultyClient
from tests.fixtures.ledger import ADMISSION, Instance, ManualClock, item_size
from vecmeter.errors import LimitExceededError
from vecmeter.ledger.keys import CreatedKey
from vecmeter.ledger.metering import Outcome
from vecmeter.ledger.model import Operation
from vecmeter.ledger.signed import ServiceError

WRITE_UNIT_BYTES = 1024


@dataclass
class Meter:
    """A client that asks DynamoDB what each call consumed. A write that fails on its condition is billed as one."""

    client: Any
    units: Counter[str] = field(default_factory=Counter)

    def __getattr__(self, name: str) -> Any:
        call = getattr(self.client, name)

        def metered(**request: Any) -> Any:
            kind = "read" if name in ("get_item", "query") else "write"
            try:
                answer = call(**request, ReturnConsumedCapacity="TOTAL")
            except ServiceError:
                self.units[kind] += 1
                raise
            self.units[kind] += answer["ConsumedCapacity"]["CapacityUnits"]
            return answer

        return metered


@contextmanager
def units(faults: FaultyClient) -> Iterator[Counter[str]]:
    """Capacity units of the block, read and written."""
    plain, meter = faults.client, Meter(faults.client)
    faults.client = meter
    yield meter.units
    faults.client = plain


@pytest.fixture
def key(instance: Instance) -> CreatedKey:
    """A key as large as they usually get: ids like UUIDs, a whole policy, two days and months of counters."""
    key = instance.create_key(
        user="5f0c2d7e-7f5e-4c57-9d0e-0d9b1f3c6a21",
        project="9b1f3c6a-0d9b-4c57-9d0e-5f0c2d7e7f5e",
        expires_at=instance.clock() + timedelta(days=900),
        daily_requests=10_000,
        monthly_requests=300_000,
        daily_tokens=1_000_000,
        monthly_tokens=30_000_000,
        alert_threshold_pct=80,
    )
    item = instance.item(key)
    for window in ("261121", "261120"):
        item |= {f"d{window}": 9_999, f"t{window}": 287_654, f"c{window}": 1_234_567}
    for window in ("2611", "2610"):
        item |= {f"M{window}": 199_111, f"T{window}": 18_765_432, f"C{window}": 98_765_432}
    item |= {"d261121": 5}
    instance.table.put(item)
    instance.request(key)
    return key


class TestRoundTrips:
    def test_a_warm_admission_is_one_call(self, instance: Instance, key: CreatedKey, faults: FaultyClient) -> None:
        with faults.counted() as calls:
            hold = instance.admit(key, tokens=5)
        assert calls == {"update_item": 1}
        hold.settle(Outcome())

    def test_a_whole_request_is_three_calls(self, instance: Instance, key: CreatedKey, faults: FaultyClient) -> None:
        with faults.counted() as calls:
            instance.request(key, tokens=5)
        assert calls == {"update_item": 2, "put_item": 1}

    def test_a_failed_request_is_three_calls(self, instance: Instance, key: CreatedKey, faults: FaultyClient) -> None:
        with faults.counted() as calls, instance.admit(key, tokens=5):
            pass
        assert calls == {"update_item": 2, "put_item": 1}

    def test_a_cold_instance_reads_the_key_once(self, another: Instance, key: CreatedKey, faults: FaultyClient) -> None:
        with faults.counted() as calls:
            another.request(key)
            another.request(key)
        # and marks the hour once
        assert calls == {"get_item": 1, "update_item": 4, "put_item": 2 + 1}

    def test_a_key_of_no_project_reads_the_project(self, instance: Instance, faults: FaultyClient) -> None:
        instance.projects.create(project_id="mine", user_id="user-1", name=None)
        key = instance.create_key(project=None)
        instance.request(key, project_id="mine")
        with faults.counted() as calls:
            instance.request(key, project_id="mine")
        assert calls == {"get_item": 1, "update_item": 2, "put_item": 1}

    def test_counters_of_a_new_day_cost_no_further_call(
        self, instance: Instance, key: CreatedKey, faults: FaultyClient, clock: ManualClock
    ) -> None:
        clock.advance(days=1)
        with faults.counted() as calls:
            instance.request(key)
        # and the mark of a new hour
        assert calls == {"update_item": 2, "put_item": 1 + 1}

    def test_a_view_that_turned_out_old_costs_one_more_call(
        self, instance: Instance, another: Instance, key: CreatedKey, faults: FaultyClient
    ) -> None:
        another.keys.change_policy(key.key.api_key_id, lambda policy: policy)
        with faults.counted() as calls:
            instance.admit(key)
        assert calls == {"update_item": 2}


class TestRefusals:
    def test_a_flood_of_refusals_writes_one_record_and_no_counter(
        self, instance: Instance, another: Instance, faults: FaultyClient
    ) -> None:
        key = instance.create_key(daily_requests=1)
        another.admit(key)
        instance.admissions.authorize(instance.demand(key))
        before = instance.item(key)
        with faults.counted() as calls:
            for _ in range(100):
                with pytest.raises(LimitExceededError):
                    instance.admit(key)
        # the record, and the mark of the hour; the alert, once per window and instance
        assert calls == {"get_item": 100, "put_item": 1 + 1, "transact_write_items": 1}
        assert instance.item(key) == before

    def test_an_instance_that_does_not_know_yet_finds_out_with_one_refused_write(
        self, instance: Instance, another: Instance, faults: FaultyClient
    ) -> None:
        key = instance.create_key(daily_requests=2)
        instance.request(key)
        another.request(key)
        with faults.counted() as calls, pytest.raises(LimitExceededError):
            instance.admit(key)
        # the refused write, the record, the alert
        assert calls == {"update_item": 1, "put_item": 1, "transact_write_items": 1}


class TestWriteUnits:
    def test_a_request_takes_three_write_units_of_which_one_before_the_work(
        self, instance: Instance, key: CreatedKey, faults: FaultyClient
    ) -> None:
        with units(faults) as before_the_work:
            hold = instance.admit(key, tokens=40, operation=Operation.UPSERT)
        assert before_the_work == {"write": 1}
        with units(faults) as after_the_work:
            hold.settle(Outcome(vectors=7, collection="docs", namespace="n", response_bytes=900))
        assert after_the_work == {"write": 2}

    def test_two_hundred_requests_over_midnight_take_six_hundred_units(
        self, instance: Instance, key: CreatedKey, faults: FaultyClient, clock: ManualClock
    ) -> None:
        clock.advance(hours=11, minutes=55)
        with units(faults) as spent:
            for _ in range(200):
                instance.request(key, tokens=40)
                clock.advance(seconds=3)
        # and the marks of two hours
        assert spent == {"write": 600 + 2}

    def test_refusals_take_reads_a_fifth_as_dear(self, instance: Instance, faults: FaultyClient) -> None:
        key = instance.create_key(daily_requests=0)
        with units(faults) as spent:
            for _ in range(50):
                with pytest.raises(LimitExceededError):
                    instance.admit(key)
        assert spent == {"read": 50, "write": 1 + 1}


class TestTheHotItem:
    def test_twenty_requests_in_flight_and_all_counters_fit_into_one_write_unit(
        self, instance: Instance, key: CreatedKey, faults: FaultyClient
    ) -> None:
        holds = [instance.admit(key, tokens=100_000 // 4, operation=Operation.UPSERT) for _ in range(20)]
        item = instance.item(key)
        assert len([name for name in item if name[0] == "h"]) == 20
        assert len([name for name in item if name[1:].isdigit()]) == 12
        assert item_size(item) < WRITE_UNIT_BYTES
        with units(faults) as spent:
            holds[0].settle(Outcome())
        assert spent["write"] == 2

    def test_a_record_of_a_request_fits_into_one_write_unit(self, instance: Instance, key: CreatedKey) -> None:
        with instance.admit(key, tokens=100_000) as hold:
            hold.settle(Outcome(vectors=1000, collection="c" * 63, namespace="n" * 128, response_bytes=6_000_000))
        [record, *_] = instance.table.query(f"R#{key.key.api_key_id}", between=("0", "9"), newest_first=True)
        assert item_size(record) < WRITE_UNIT_BYTES

    def test_what_the_item_weighs_is_what_is_billed(
        self, instance: Instance, key: CreatedKey, faults: FaultyClient
    ) -> None:
        """One attribute of known size takes the item over the edge of a unit, and not a byte earlier."""
        size = item_size(instance.item(key))
        for length, expected in ((WRITE_UNIT_BYTES - size - 3, 1), (WRITE_UNIT_BYTES - size - 2, 2)):
            with units(faults) as spent:
                instance.table.put(instance.item(key) | {"pad": "x" * length})
            assert spent["write"] == expected
            item = instance.item(key)
            del item["pad"]
            instance.table.put(item)


def test_the_first_call_of_a_request_is_its_admission(
    instance: Instance, key: CreatedKey, faults: FaultyClient
) -> None:
    faults.requests.clear()
    instance.request(key)
    names = [name for name, _ in faults.requests]
    assert names == ["update_item", "put_item", "update_item"]
    assert faults.requests[ADMISSION - 1][1]["Key"]["pk"] == {"S": f"K#{key.key.api_key_id}"}
