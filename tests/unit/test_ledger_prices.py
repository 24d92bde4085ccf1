"""What a request costs, in whole micro-USD."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vecmeter.ledger.model import Operation
from vecmeter.ledger.prices import PriceList
from vecmeter.settings import Settings

PRICES = st.integers(0, 10**12)
LISTS = st.builds(PriceList, version=st.just("v1"), search=PRICES, request=PRICES, vector_written=PRICES, token=PRICES)
COUNTS = st.integers(0, 10**6)
WRITES = (Operation.ADD, Operation.UPSERT, Operation.UPDATE)


@given(LISTS, st.sampled_from(Operation), COUNTS, COUNTS)
def test_a_cost_is_the_exact_price_rounded_up_once(
    prices: PriceList, operation: Operation, tokens: int, vectors: int
) -> None:
    base = prices.search if operation is Operation.SEARCH else prices.request
    written = vectors if operation in WRITES else 0
    exact = Fraction(base + written * prices.vector_written + tokens * prices.token, 10**6)
    cost = prices.micro_usd(operation, tokens=tokens, vectors=vectors)
    assert cost == 0 if operation is Operation.ADMIN else exact <= cost < exact + 1


@pytest.mark.parametrize("operation", [o for o in Operation if o is not Operation.ADMIN])
def test_a_price_below_one_micro_dollar_never_becomes_free(operation: Operation) -> None:
    prices = PriceList(version="v1", search=1, request=1, vector_written=0, token=0)
    assert prices.micro_usd(operation) == 1


def test_the_price_list_is_that_of_the_settings() -> None:
    settings = Settings.from_environment(
        {
            "DATABASE_URL": "postgresql://nowhere.invalid",
            "TABLE_NAME": "t",
            "PRICE_VERSION": "2026-11",
            "PRICE_SEARCH": "7000000",
            "PRICE_REQUEST": "2000000",
            "PRICE_VECTOR_WRITTEN": "3000000",
            "PRICE_TOKEN": "500000",
            "PRICE_STORAGE_GB_HOUR": "137000000",
        }
    )
    prices = PriceList.from_settings(settings)
    assert prices.version == "2026-11"
    assert prices.micro_usd(Operation.SEARCH, tokens=4, vectors=10) == 9
    assert prices.micro_usd(Operation.UPSERT, tokens=4, vectors=10) == 34
    assert prices.storage_micro_usd(2_000_000_000) == 274


@given(LISTS, st.integers(0, 10**15), PRICES)
def test_storage_is_the_exact_price_of_the_gb_hours_rounded_up_once(prices: PriceList, stored: int, price: int) -> None:
    cost = replace(prices, storage_gb_hour=price).storage_micro_usd(stored)
    exact = Fraction(stored * price, 10**9 * 10**6)
    assert exact <= cost < exact + 1
