"""Field types that requests share. Types of bodies are strict: ``"1"`` is no number and ``true`` is none either."""

from __future__ import annotations

import base64
import binascii
import math
import re
import sys
from array import array
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Path
from pydantic import (
    AfterValidator,
    AliasChoices,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    WithJsonSchema,
)

from vecmeter.errors import (
    ApiKeyNotFoundError,
    CollectionNotFoundError,
    NotFoundError,
    PayloadTooLargeError,
    ProjectNotFoundError,
)
from vecmeter.ledger.model import Cost
from vecmeter.vectors.checks import are_ordinary

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
_NAME_HELP = "Letters, digits, '.', '_' and '-'; 1 to 63 characters, the first a letter or digit."
_KEY_ID = r"^key_[0-9A-Za-z]{1,60}$"
MAX_PAGE = 1000
MAX_HOURS = 24 * 366
# No deployment takes more (see the settings): a longer list is refused before each of its items is looked at.
MAX_ITEMS = 10_000
_NUMBER = re.compile(r"\s*[+-]?[\d_]*\.?[\d_]*(e[+-]?\d+)?\s*", re.IGNORECASE)


class Body(BaseModel):
    """A request body: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, populate_by_name=True, arbitrary_types_allowed=True)


def examples(*bodies: dict[str, Any]) -> ConfigDict:
    """The configuration of a body with examples for the API's document."""
    return ConfigDict(json_schema_extra={"examples": list(bodies)})


def changes(*bodies: dict[str, Any]) -> ConfigDict:
    """The same of a body whose fields stay as they are where they are left out: the document names no defaults for
    them, or clients made from it would send these.
    """

    def complete(schema: dict[str, Any]) -> None:
        schema["examples"] = list(bodies)
        for field in schema["properties"].values():
            field.pop("default", None)

    return ConfigDict(json_schema_extra=complete)


def took(cost_usd: float = 1e-06, *, tokens: int = 0, vectors: int = 0) -> dict[str, Any]:
    """``usage`` in the example of an answer."""
    return {"requests": 1, "tokens": tokens, "vectors": vectors, "cost_usd": cost_usd}


class Parameters(BaseModel):
    """The parameters of a query string: unknown ones are refused."""

    model_config = ConfigDict(extra="forbid")


class Answer(BaseModel):
    """A response body."""


class Usage(Answer):
    """What this request took: requests, text tokens, vectors written, deleted or returned, and its price."""

    requests: int = 0
    tokens: int = 0
    vectors: int = 0
    cost_usd: float = 0.0


class MeteredAnswer(Answer):
    """A response body that says what the request took."""

    usage: Usage = Usage()

    def bill(self, cost: Cost) -> None:
        """Say what the request took."""
        self.usage = Usage(
            requests=cost.requests,
            tokens=cost.tokens,
            vectors=cost.vectors,
            cost_usd=cost.micro_usd / 1_000_000,
        )


class ProblemError(Answer):
    """One offending place of the request, in dotted form: ``vectors.3.id``."""

    path: str
    message: str


class ProblemPolicy(Answer):
    """A limit that said no. Budgets are in US dollars; a limit without a window has no moment at which it resets."""

    name: str
    scope: str
    limit: int | float
    used: int | float
    remaining: int | float
    resets_at: datetime | None


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
    committed: bool | None = None


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
    if not are_ordinary(numbers) and not math.isfinite(sum(numbers)):
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


def _storable(text: str) -> str:
    if "\x00" in text:
        raise ValueError("has a character U+0000, which PostgreSQL cannot keep")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError("has a lone surrogate, which is not Unicode text") from None
    return text


def _not_empty(text: str) -> str:
    if not text:
        raise ValueError("must not be empty")
    return text


def _not_a_number(value: Any) -> Any:
    if isinstance(value, int | float) or (isinstance(value, str) and _NUMBER.fullmatch(value)):
        raise ValueError("must be a date and time in ISO 8601, with an offset")
    return value


def _within_measure(value: Any, info: ValidationInfo) -> Any:
    if isinstance(value, list) and len(value) > MAX_ITEMS:
        raise PayloadTooLargeError(f"{info.field_name} has {len(value)} items; at most {MAX_ITEMS} are allowed.")
    return value


def _possible(pattern: str, missing: type[NotFoundError], what: str) -> AfterValidator:
    """For names in paths: one that nothing can have is missing like any other, and is not looked up."""

    def check(name: str) -> str:
        if re.fullmatch(pattern, name) is None:
            raise missing(f"There is no {what} {name!r:.100}.")
        return name

    return AfterValidator(check)


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
# The spellings of the owner's documents are accepted beside ours.
OptionalNumbers = Annotated[Numbers | None, Field(validation_alias=AliasChoices("vector", "embedding", "query_vector"))]
Text = Annotated[str, AfterValidator(_storable)]
VectorId = Annotated[str, AfterValidator(_storable), Field(min_length=1)]
Namespace = Annotated[str, AfterValidator(_storable)]
Metadata = Annotated[dict[str, Any], Field(description="Any JSON object.")]
Filter = Annotated[
    dict[str, Any],
    Field(
        description='A predicate over metadata: {"field": value} or {"field": {"$gt": value}}; all must hold. '
        "Operators: $eq $ne $gt $gte $lt $lte $in $nin $exists $contains $has $and $or $not; see docs/filters.md.",
        examples=[{"kind": "invoice", "amount": {"$gte": 100}}],
    ),
]
OptionalFilter = Annotated[Filter | None, Field(validation_alias=AliasChoices("filter", "metadata_filter"))]
Moment = Annotated[
    AwareDatetime,
    # Pydantic would take a number, also one in quotes, for seconds since 1970.
    BeforeValidator(_not_a_number),
    Field(strict=False, description="ISO 8601 with an offset, e.g. 2026-11-21T00:00:00Z"),
]
Name = Annotated[str, Field(pattern=NAME, description=_NAME_HELP)]
ApiKeyId = Annotated[str, Field(pattern=_KEY_ID)]
WithinMeasure = BeforeValidator(_within_measure)

ProjectPath = Annotated[
    str,
    _possible(NAME, ProjectNotFoundError, "project"),
    Path(description="Project id.", examples=["acme"], json_schema_extra={"pattern": NAME}),
]
VectorPath = Annotated[
    str, AfterValidator(_not_empty), AfterValidator(_storable), Path(description="Vector id.", examples=["a"])
]
CollectionPath = Annotated[
    str,
    _possible(NAME, CollectionNotFoundError, "collection"),
    Path(description="Collection name.", examples=["notes"], json_schema_extra={"pattern": NAME}),
]
ApiKeyPath = Annotated[
    str,
    _possible(_KEY_ID, ApiKeyNotFoundError, "API key"),
    Path(description="API key id.", examples=["key_47Zpx437HfE"], json_schema_extra={"pattern": _KEY_ID}),
]


class PageParameters(Parameters):
    limit: Annotated[int, Field(ge=1, le=MAX_PAGE, description="Most entries of the page.")] = 100
    page_token: Annotated[str | None, Field(description="``next_page_token`` of the page before.")] = None


class PeriodParameters(Parameters):
    hours: Annotated[int, Field(ge=1, le=MAX_HOURS, description="The last so many hours.")] = 24
