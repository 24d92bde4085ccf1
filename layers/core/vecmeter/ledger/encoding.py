"""Plain Python values to DynamoDB's typed ones and back.

boto3's serializer does the same for all of DynamoDB's types at three times the CPU, and importing it loads boto3,
which nothing else of a request needs (docs/ledger.md has the measurement).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from enum import StrEnum
from typing import Any

Item = dict[str, Any]

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_ENCODERS: dict[type, Callable[[Any], dict[str, Any]]] = {
    str: lambda value: {"S": value},
    int: lambda value: {"N": str(value)},
    bool: lambda value: {"BOOL": value},
    bytes: lambda value: {"B": value},
    Decimal: lambda value: {"N": format(value, "f")},
    dict: lambda value: {"M": encode(value)},
    list: lambda value: {"L": [_encode_value(element) for element in value]},
}


def encode(values: Mapping[str, Any]) -> dict[str, Any]:
    """Text, whole numbers, Decimal, bool, bytes, and dicts and lists of them; in a dict None is left out.

    Raises:
        TypeError: any other type. Floats are among them: they do not survive DynamoDB's decimals unchanged.
    """
    return {name: _encode_value(value) for name, value in values.items() if value is not None}


def decode(item: Mapping[str, Any]) -> Item:
    """Whole numbers come back as int, others as Decimal."""
    return {name: _decode_value(value) for name, value in item.items()}


def base36(number: int) -> str:
    """Digits and lower-case letters: what ``int(text, 36)`` reads. Short, because names and values are billed."""
    if number < 0:
        raise ValueError("below zero")
    digits: list[str] = []
    while number or not digits:
        number, digit = divmod(number, 36)
        digits.append(_DIGITS[digit])
    return "".join(reversed(digits))


def _encode_value(value: Any) -> dict[str, Any]:
    encoder = _ENCODERS.get(type(value))
    if encoder is not None:
        return encoder(value)
    if isinstance(value, StrEnum):
        return {"S": value.value}
    raise TypeError(f"DynamoDB keeps no {type(value).__name__}")


def _decode_value(typed: Mapping[str, Any]) -> Any:
    [(kind, value)] = typed.items()
    if kind in ("S", "BOOL", "B"):
        return value
    if kind == "N":
        try:
            return int(value)
        except ValueError:
            number = Decimal(value)
            return int(number) if number == number.to_integral_value() else number
    if kind == "M":
        return decode(value)
    if kind == "L":
        return [_decode_value(element) for element in value]
    raise TypeError(f"the ledger keeps no {kind}")
