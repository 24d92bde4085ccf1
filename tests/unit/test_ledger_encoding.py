"""DynamoDB's typed values: ours are boto3's, for the types the ledger keeps."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from boto3.dynamodb.types import TypeDeserializer, TypeSerializer
from hypothesis import given
from hypothesis import strategies as st

from vecmeter.ledger.encoding import decode, encode
from vecmeter.ledger.model import Operation

NUMBERS = st.integers(-(10**37), 10**37) | st.decimals(-(10**9), 10**9, places=3, allow_nan=False)
VALUES = st.recursive(
    st.text() | st.booleans() | st.binary() | NUMBERS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(min_size=1), inner, max_size=4),
    max_leaves=12,
)
ITEMS = st.dictionaries(st.text(min_size=1), VALUES, max_size=5)


@given(ITEMS)
def test_values_come_back_as_they_were(item: dict[str, Any]) -> None:
    assert decode(encode(item)) == item


@given(ITEMS)
def test_values_are_typed_as_boto3_types_them(item: dict[str, Any]) -> None:
    deserialize = TypeDeserializer().deserialize
    ours, theirs = encode(item), {name: TypeSerializer().serialize(value) for name, value in item.items()}
    assert {n: deserialize(v) for n, v in ours.items()} == {n: deserialize(v) for n, v in theirs.items()}
    assert {n: next(iter(v)) for n, v in ours.items()} == {n: next(iter(v)) for n, v in theirs.items()}


@given(st.integers(-(10**37), 10**37))
def test_a_whole_number_comes_back_as_int(number: int) -> None:
    [found] = decode({"n": {"N": str(number)}}).values()
    assert type(found) is int
    assert found == number


@pytest.mark.parametrize(
    ("text", "expected"),
    [("12.345", Decimal("12.345")), ("1E+3", 1000), ("1.0", 1), ("-0", 0), ("1E-3", Decimal("0.001"))],
)
def test_numbers_in_any_notation_are_read(text: str, expected: object) -> None:
    [found] = decode({"n": {"N": text}}).values()
    assert found == expected
    assert type(found) is type(expected)


def test_true_is_no_number_and_an_enumeration_is_its_text() -> None:
    assert encode({"a": True, "b": 1, "c": Operation.SEARCH}) == {
        "a": {"BOOL": True},
        "b": {"N": "1"},
        "c": {"S": "search"},
    }


def test_none_is_left_out() -> None:
    assert encode({"a": None, "b": {"c": None, "d": 1}}) == {"b": {"M": {"d": {"N": "1"}}}}


@pytest.mark.parametrize("value", [0.5, {1, 2}, object(), [0.5], {"a": 0.5}])
def test_other_types_are_refused(value: object) -> None:
    with pytest.raises(TypeError):
        encode({"a": value})


def test_a_type_the_ledger_never_writes_is_refused() -> None:
    with pytest.raises(TypeError):
        decode({"a": {"SS": ["x"]}})
