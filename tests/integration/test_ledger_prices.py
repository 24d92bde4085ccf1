"""Stored price lists: a version never changes, a switch acts everywhere in half a minute, and nobody waits for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

import pytest

from tests.fixtures.faults import Fault, FaultyClient, ProcessDied, at
from tests.fixtures.ledger import NOON, ManualClock
from vecmeter.errors import LedgerUnavailableError, PriceVersionExistsError
from vecmeter.ledger.prices import REMEMBER, RETRY_AFTER, PriceList, Prices
from vecmeter.ledger.table import Table

DEFAULT = PriceList(version="default-1", search=5, request=1, vector_written=2, token=1)
SPRING = PriceList(version="spring", search=7, request=2, vector_written=3, token=1, storage_gb_hour=4)
SUMMER = replace(SPRING, version="summer", search=9)

Open = Callable[[], Prices]


@pytest.fixture
def open_prices(table: Table, clock: ManualClock) -> Open:
    """Another instance on the test's table."""
    return lambda: Prices(table, DEFAULT, clock)


@pytest.fixture
def prices(open_prices: Open) -> Prices:
    return open_prices()


def switch(prices: Prices, to: PriceList, note: str | None = None) -> None:
    prices.switch(to, by="key_1", note=note)


def history(prices: Prices) -> list[tuple[int, str]]:
    return [(switch.prices.number, switch.prices.version) for switch in prices.switches()]


class TestSwitching:
    def test_the_list_of_the_settings_holds_until_one_is_stored(self, prices: Prices) -> None:
        assert prices.current() == DEFAULT
        assert prices.last_switch() is None
        assert history(prices) == []

    def test_a_switch_acts_on_every_instance_within_half_a_minute(
        self, prices: Prices, open_prices: Open, clock: ManualClock
    ) -> None:
        another = open_prices()
        assert another.current() == DEFAULT
        switch(prices, SPRING, "first list")
        assert prices.current() == replace(SPRING, number=1)
        clock.advance(seconds=REMEMBER.total_seconds() - 1)
        assert another.current() == DEFAULT
        clock.advance(seconds=1)
        assert another.current() == prices.current() == replace(SPRING, number=1)

    def test_every_switch_is_kept_with_its_list_who_when_and_why(self, prices: Prices, clock: ManualClock) -> None:
        for number, (to, note) in enumerate([(SPRING, "first"), (SUMMER, None), (SPRING, "back")], start=1):
            made = prices.switch(to, by=f"key_{number}", note=note)
            assert (made.prices, made.switched_at) == (replace(to, number=number), clock())
            clock.advance(hours=1)
        assert history(prices) == [(3, "spring"), (2, "summer"), (1, "spring")]
        newest, *_, oldest = prices.switches()
        assert (oldest.switched_at, oldest.switched_by, oldest.note) == (NOON, "key_1", "first")
        assert (newest.prices.rates, newest.note) == (SPRING.rates, "back")
        assert [one.prices.number for one in prices.switches(before=3)] == [2, 1]
        assert [one.prices.number for one in prices.switches(before=1)] == []

    def test_the_list_that_holds_already_is_not_switched_to_again(self, prices: Prices, clock: ManualClock) -> None:
        first = prices.switch(SPRING, by="key_1", note="first")
        clock.advance(hours=1)
        assert prices.switch(SPRING, by="key_2", note="again") == first
        assert history(prices) == [(1, "spring")]

    def test_prices_without_a_version_get_the_same_one_each_time(self, prices: Prices) -> None:
        versions = {prices.switch(replace(SPRING, version=""), by="key_1", note=None).prices.version for _ in range(2)}
        versions.add(prices.switch(replace(SUMMER, version=""), by="key_1", note=None).prices.version)
        assert len(versions) == 2
        assert len(history(prices)) == 2

    def test_each_list_is_found_by_its_number(self, prices: Prices, open_prices: Open) -> None:
        for to in (SPRING, SUMMER, SPRING):
            switch(prices, to)
        found = [open_prices().numbered(number) for number in range(4)]
        assert [one.version for one in found] == ["default-1", "spring", "summer", "spring"]
        assert [one.number for one in found] == [0, 1, 2, 3]


class TestVersions:
    def test_a_version_never_changes_its_prices(self, prices: Prices, open_prices: Open) -> None:
        switch(prices, SPRING)
        switch(prices, SUMMER)
        for changed in (replace(SPRING, search=8), replace(SUMMER, storage_gb_hour=0), replace(DEFAULT, token=9)):
            with pytest.raises(PriceVersionExistsError, match=changed.version):
                switch(open_prices(), changed)
        assert history(prices) == [(2, "summer"), (1, "spring")]

    def test_the_list_of_the_settings_can_be_switched_back_to(self, prices: Prices) -> None:
        switch(prices, SPRING)
        switch(prices, DEFAULT)
        assert prices.current() == replace(DEFAULT, number=2)


class TestTogether:
    def test_switches_at_the_same_moment_all_take_place_one_after_the_other(self, open_prices: Open) -> None:
        lists = [replace(SPRING, version=f"v{number}", search=number) for number in range(6)]
        with ThreadPoolExecutor(len(lists)) as threads:
            made = list(threads.map(lambda to: open_prices().switch(to, by="key_1", note=None), lists))
        assert sorted(one.prices.number for one in made) == [1, 2, 3, 4, 5, 6]
        found = history(open_prices())
        assert [number for number, _ in found] == [6, 5, 4, 3, 2, 1]
        assert {version for _, version in found} == {one.version for one in lists}

    def test_of_two_that_give_a_version_different_prices_one_is_refused(self, open_prices: Open) -> None:
        def attempt(search: int) -> bool:
            try:
                switch(open_prices(), replace(SPRING, search=search))
            except PriceVersionExistsError:
                return False
            return True

        with ThreadPoolExecutor(8) as threads:
            assert sum(threads.map(attempt, range(8))) == 1

    @pytest.mark.parametrize("fault", [Fault.DIES_BEFORE, Fault.DIES_AFTER])
    @pytest.mark.parametrize("call", range(1, 6))
    def test_who_switches_may_die_at_any_step_and_the_history_is_whole(
        self, fault: Fault, call: int, prices: Prices, open_prices: Open, faults: FaultyClient
    ) -> None:
        switch(prices, SPRING)
        with faults.failing(*at(call, fault)), suppress(ProcessDied):
            switch(prices, SUMMER)
        switch(open_prices(), SUMMER)
        assert history(prices) == [(2, "summer"), (1, "spring")]
        switch(prices, SPRING)
        assert history(prices) == [(3, "spring"), (2, "summer"), (1, "spring")]

    @pytest.mark.parametrize("fault", [Fault.LOST_ANSWER, Fault.LOST_REQUEST, Fault.THROTTLED, Fault.SERVER_ERROR])
    @pytest.mark.parametrize("call", range(1, 5))
    def test_an_answer_may_be_lost_at_any_step(
        self, fault: Fault, call: int, prices: Prices, faults: FaultyClient
    ) -> None:
        switch(prices, SPRING)
        with faults.failing(*at(call, fault)):
            switch(prices, SUMMER)
        assert history(prices) == [(2, "summer"), (1, "spring")]


class TestReading:
    def test_an_instance_reads_the_list_once_in_half_a_minute(
        self, prices: Prices, faults: FaultyClient, clock: ManualClock
    ) -> None:
        with faults.counted() as calls:
            for _ in range(60):
                prices.current()
                clock.advance(seconds=1)
        assert calls == Counter(get_item=2)

    def test_threads_that_find_it_old_read_it_once(
        self, prices: Prices, faults: FaultyClient, clock: ManualClock
    ) -> None:
        prices.current()
        clock.advance(seconds=31)
        with faults.counted() as calls, ThreadPoolExecutor(16) as threads:
            list(threads.map(lambda _: prices.current(), range(64)))
        assert calls == Counter(get_item=1)

    def test_while_the_table_is_away_the_last_list_known_holds_and_is_asked_for_now_and_then(
        self, prices: Prices, open_prices: Open, faults: FaultyClient, clock: ManualClock
    ) -> None:
        prices.current()
        switch(open_prices(), SPRING)
        faults.go_away()
        clock.advance(minutes=1)
        with faults.counted() as calls:
            assert {prices.current() for _ in range(10)} == {DEFAULT}
        assert calls == Counter(get_item=3)
        faults.recover()
        assert prices.current() == DEFAULT
        clock.advance(seconds=RETRY_AFTER.total_seconds())
        assert prices.current() == replace(SPRING, number=1)

    def test_an_instance_that_knows_no_list_does_not_guess(self, prices: Prices, faults: FaultyClient) -> None:
        faults.go_away()
        with pytest.raises(LedgerUnavailableError):
            prices.current()
        faults.recover()
        assert prices.current() == DEFAULT

    def test_a_clock_that_is_set_back_does_not_keep_an_old_list(
        self, prices: Prices, open_prices: Open, clock: ManualClock
    ) -> None:
        prices.current()
        switch(open_prices(), SPRING)
        clock.advance(hours=-1)
        assert prices.current().version == "spring"
