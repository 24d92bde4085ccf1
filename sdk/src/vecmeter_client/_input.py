"""What callers give, as the service takes it: numbers in base64, moments as text; and where something is neither."""

from __future__ import annotations

import base64
import sys
from array import array
from collections.abc import Iterable
from datetime import datetime
from math import isfinite
from typing import Any, Protocol, TypeAlias

from vecmeter_client.errors import InvalidInputError


class SupportsFloat(Protocol):
    def __float__(self) -> float: ...


# Any sequence of numbers, with or without a buffer (array, numpy); text is little-endian float32 in base64 already.
Numbers: TypeAlias = Iterable[float | SupportsFloat] | str


def pack(numbers: Numbers, where: str = "vector") -> str:
    """The numbers as little-endian float32 in base64.

    Raises:
        InvalidInputError: naming ``where``: it is no list of numbers, has more than one dimension, or is bytes.
    """
    if isinstance(numbers, str):
        return numbers
    if isinstance(numbers, (bytes, bytearray)):
        raise InvalidInputError(f"{where}: is {type(numbers).__name__}; give numbers, or text of base64")
    return base64.b64encode(_float32(numbers, where)).decode()


def _float32(numbers: Iterable[float | SupportsFloat], where: str) -> bytes:
    values: Any = numbers
    try:
        view = memoryview(values)
    except (TypeError, ValueError):  # no buffer, or one of numbers that only numpy knows: bfloat16
        view = None
    if view is not None:
        if view.ndim != 1:
            raise InvalidInputError(f"{where}: has {view.ndim} dimensions; give one vector")
        if view.format == "f" and sys.byteorder == "little":
            return view.tobytes()
        try:
            values = view.tolist()
        except NotImplementedError:  # half precision, foreign byte order: memoryview reads neither
            values = numbers
    try:
        packed = array("f", values)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidInputError(f"{where}: is no sequence of numbers that float32 can hold: {error}") from None
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def text(value: object, where: str) -> str:
    """The value, where it is text. Raises InvalidInputError naming ``where``."""
    if not isinstance(value, str):
        raise InvalidInputError(f"{where}: is {_kind(value)}; give text")
    if fault := _scalar_fault(value):
        raise InvalidInputError(f"{where}: {fault}")
    return value


def moment(value: datetime | str | None, where: str) -> str | None:
    """ISO 8601 with an offset. Raises InvalidInputError for a datetime without one."""
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise InvalidInputError(f"{where}: {value.isoformat()} has no time zone")
        return value.isoformat()
    return value


def refuse_single_text(values: object, where: str) -> None:
    """Raises InvalidInputError for a text where a list of texts belongs: its characters would be taken for them."""
    if isinstance(values, str):
        raise InvalidInputError(f"{where}: is the text {values!r}; give a list")


def refuse_what_is_no_json(value: Any, where: str) -> None:
    """Raises InvalidInputError naming the first place in a value, below ``where``, that is no JSON."""
    try:
        found = _first_fault(value, where)
    except RecursionError:
        found = (where, "is nested too deeply, or holds itself")
    if found:
        path, fault = found
        raise InvalidInputError(f"{path or 'body'}: {fault}")


def _first_fault(value: Any, path: str) -> tuple[str, str] | None:
    """The path of the first value that is no JSON, and what is wrong with it.

    Stricter than ``json``, which makes text of names that are numbers, and lets NaN and lone surrogates through.
    """
    if isinstance(value, dict):
        prefix = f"{path}." if path else ""
        for name, inner in value.items():
            fault = (
                _scalar_fault(name) if isinstance(name, str) else f"the name is {_kind(name)}; names in JSON are text"
            )
            if found := (f"{prefix}{name!s}", fault) if fault else _first_fault(inner, f"{prefix}{name}"):
                return found
        return None
    if isinstance(value, (list, tuple)):
        prefix = f"{path}." if path else ""
        return next((found for at, one in enumerate(value) if (found := _first_fault(one, f"{prefix}{at}"))), None)
    return (path, fault) if (fault := _scalar_fault(value)) else None


def _scalar_fault(value: object) -> str | None:
    if isinstance(value, str):
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                return "has a lone surrogate, which is not Unicode text"
        return None
    if isinstance(value, float) and not isfinite(value):
        return f"{value!r} is no JSON number"
    return None if value is None or isinstance(value, (int, float)) else f"{_kind(value)} is no JSON"


def _kind(value: object) -> str:
    return type(value).__name__
