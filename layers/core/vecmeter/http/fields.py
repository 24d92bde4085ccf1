"""Field types that request bodies share. Types are strict: ``"1"`` is no number and ``true`` is none either."""

from __future__ import annotations

import base64
import binascii
import math
import sys
from array import array
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Path
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
_NAME_HELP = "Letters, digits, '.', '_' and '-'; 1 to 63 characters, the first a letter or digit."


class Body(BaseModel):
    """A request body: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, populate_by_name=True, arbitrary_types_allowed=True)


class Answer(BaseModel):
    """A response body."""

    model_config = ConfigDict(extra="forbid")


class Usage(Answer):
    """What this request took: requests, text tokens, vectors written, deleted or returned, and its price."""

    requests: int = 0
    tokens: int = 0
    vectors: int = 0
    cost_usd: float = 0.0


class MeteredAnswer(Answer):
    """A response body that says what the request took."""

    usage: Usage = Usage()


class ProblemError(Answer):
    path: str
    message: str


class ProblemPolicy(Answer):
    name: str
    scope: str
    limit: int
    used: int
    remaining: int
    resets_at: datetime


class Problem(Answer):
    """An error as RFC 9457 describes it."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    errors: list[ProblemError] | None = None
    violated_policies: list[ProblemPolicy] | None = None
    checks: dict[str, str] | None = None


def _parse_numbers(value: Any) -> array[float]:
    if isinstance(value, str):
        numbers = _from_base64(value)
    elif isinstance(value, list):
        if not set(map(type, value)) <= {int, float}:
            raise ValueError("must hold numbers only")
        try:
            numbers = array("f", value)
        except OverflowError:
            raise ValueError("holds a number beyond float32") from None
    else:
        raise ValueError("must be a list of numbers, or little-endian float32 in base64")
    if not numbers:
        raise ValueError("must not be empty")
    # A sum of float32 cannot overflow a double, so it is finite exactly when all of them are.
    if not math.isfinite(sum(numbers)):
        raise ValueError("holds NaN, infinity or a number beyond float32")
    return numbers


def _from_base64(text: str) -> array[float]:
    try:
        packed = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("is not base64") from None
    if len(packed) % 4:
        raise ValueError("is not a whole number of float32")
    numbers = array("f")
    numbers.frombytes(packed)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def _without_nul(text: str) -> str:
    if "\x00" in text:
        raise ValueError("has a character U+0000, which PostgreSQL cannot keep")
    return text


if TYPE_CHECKING:
    Numbers = array[float]
else:  # array cannot be subscripted before Python 3.12
    Numbers = Annotated[
        Any,
        BeforeValidator(_parse_numbers),
        WithJsonSchema(
            {
                "anyOf": [
                    {"type": "array", "items": {"type": "number"}, "minItems": 1},
                    {"type": "string", "contentEncoding": "base64", "minLength": 1},
                ],
                "description": "The numbers, or the same as little-endian float32 in base64.",
            }
        ),
    ]
Text = Annotated[str, AfterValidator(_without_nul)]
VectorId = Annotated[str, AfterValidator(_without_nul), Field(min_length=1)]
Namespace = Annotated[str, AfterValidator(_without_nul)]
Metadata = Annotated[dict[str, Any], Field(description="Any JSON object.")]
Filter = Annotated[dict[str, Any], Field(description='Equality over metadata: {"field": value}; all must hold.')]
Name = Annotated[str, Field(pattern=_NAME, description=_NAME_HELP)]

ProjectPath = Annotated[str, Path(description="Project id.")]
CollectionPath = Annotated[str, Path(description="Collection name.")]
