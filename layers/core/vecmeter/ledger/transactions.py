"""The writes of a transaction: all of them are applied or none. Each states its condition where it is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from vecmeter.ledger.encoding import Item, encode


@dataclass(frozen=True, slots=True)
class Write:
    """One item's part in a transaction: DynamoDB's request, but for the table's name. No two may be about one item."""

    kind: Literal["Put", "Update", "Delete", "ConditionCheck"]
    request: dict[str, Any]


def key_of(pk: str, sk: str) -> dict[str, Any]:
    """The primary key as DynamoDB takes it."""
    return {"pk": {"S": pk}, "sk": {"S": sk}}


def insert(item: Item) -> Write:
    """Write the item, on condition that there is none."""
    return Write("Put", {"Item": encode(item), "ConditionExpression": "attribute_not_exists(pk)"})


def update(
    pk: str,
    sk: str,
    *,
    update: str,
    condition: str,
    values: Mapping[str, Any] | None = None,
    names: Mapping[str, str] | None = None,
) -> Write:
    """Change an item, or make it where the condition allows that."""
    return Write("Update", {"UpdateExpression": update, **_conditional(pk, sk, condition, values, names)})


def delete(
    pk: str,
    sk: str,
    *,
    condition: str,
    values: Mapping[str, Any] | None = None,
    names: Mapping[str, str] | None = None,
) -> Write:
    return Write("Delete", _conditional(pk, sk, condition, values, names))


def check(
    pk: str,
    sk: str,
    *,
    condition: str,
    values: Mapping[str, Any] | None = None,
    names: Mapping[str, str] | None = None,
) -> Write:
    """Let the transaction happen only while an item, which it leaves alone, fulfils the condition."""
    return Write("ConditionCheck", _conditional(pk, sk, condition, values, names))


def _conditional(
    pk: str, sk: str, condition: str, values: Mapping[str, Any] | None, names: Mapping[str, str] | None
) -> dict[str, Any]:
    request: dict[str, Any] = {"Key": key_of(pk, sk), "ConditionExpression": condition}
    # DynamoDB refuses empty ones.
    if values:
        request["ExpressionAttributeValues"] = encode(values)
    if names:
        request["ExpressionAttributeNames"] = dict(names)
    return request
