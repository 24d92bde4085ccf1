"""Holds: the marks of requests in flight on their key's item.

A mark is one attribute, ``h<request id>``. While it is there a repeated admission changes nothing, and whatever
became of the request can be accounted from it alone: when it started, what it does and what it reserved. It is kept
short, because every write of the item is billed by the item's size.

A hold that is released becomes a seal, for a while, when a copy of its admission may still be on its way: an attempt
that timed out, say. A seal means nothing but that the admission of this request must not be applied again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from vecmeter.ledger.encoding import base36
from vecmeter.ledger.model import Cost, Operation, epoch_ms, from_epoch_ms

_PREFIX = "h"
_SEAL = "-"
_LETTERS = {
    Operation.SEARCH: "s",
    Operation.ADD: "a",
    Operation.UPSERT: "u",
    Operation.FETCH: "f",
    Operation.UPDATE: "m",
    Operation.DELETE: "d",
    Operation.COLLECTION: "c",
    Operation.ADMIN: "x",
}
_OPERATIONS = {letter: operation for operation, letter in _LETTERS.items()}

# DynamoDB refuses a signature older than 15 minutes, and all tries of an admission go out within one of its start.
SEAL_LIFE = timedelta(minutes=16)


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldMark:
    """A request in flight. ``started_at`` in whole milliseconds; ``project_id`` None: the key's own project.

    ``price_number``: the price list that what is reserved was reckoned by.
    """

    request_id: str
    started_at: datetime
    operation: Operation
    project_id: str | None
    reserved: Cost
    price_number: int = 0

    @property
    def attribute(self) -> str:
        return _PREFIX + self.request_id

    @property
    def text(self) -> str:
        cost = self.reserved
        amounts = [cost.tokens, cost.micro_usd, self.price_number, cost.requests, cost.searches, cost.writes]
        usual = _usual(self.operation)
        while amounts and amounts[-1] == usual[len(amounts) - 1]:
            amounts.pop()
        text = ".".join(map(base36, (epoch_ms(self.started_at), *amounts)))
        return _LETTERS[self.operation] + text + (f"|{self.project_id}" if self.project_id else "")


def seal(started_at: datetime) -> str:
    """What stands in a hold's place until no copy of its admission can arrive any more."""
    return _SEAL + base36(epoch_ms(started_at + SEAL_LIFE))


def dead_holds(item: Mapping[str, Any], now: datetime, life_seconds: int) -> Iterator[HoldMark]:
    """Holds older than a request may get: their functions died, or are slower than anyone waits for."""
    latest_start = now - timedelta(seconds=life_seconds)
    for name, text in item.items():
        if _is_hold(name, text) and not text.startswith(_SEAL):
            mark = _parse(name, text)
            if mark.started_at < latest_start:
                yield mark


def live_holds(item: Mapping[str, Any], now: datetime, life_seconds: int) -> int:
    """How many requests are in flight that may still settle."""
    holds = sum(1 for name, text in item.items() if _is_hold(name, text) and not text.startswith(_SEAL))
    return holds - sum(1 for _ in dead_holds(item, now, life_seconds))


def old_seals(item: Mapping[str, Any], now: datetime) -> Iterator[str]:
    """Attributes of seals that have done their work."""
    for name, text in item.items():
        if _is_hold(name, text) and text.startswith(_SEAL) and from_epoch_ms(int(text[1:], 36)) < now:
            yield name


def _usual(operation: Operation) -> tuple[int, ...]:
    """What a mark leaves out at its end: most requests are one, and of one search or one written vector."""
    return 0, 0, 0, 1, int(operation is Operation.SEARCH), int(operation in (Operation.ADD, Operation.UPSERT))


def _is_hold(name: str, value: Any) -> bool:
    return name.startswith(_PREFIX) and isinstance(value, str)


def _parse(name: str, text: str) -> HoldMark:
    amounts, _, project_id = text.partition("|")
    numbers = [int(digits, 36) for digits in amounts[1:].split(".")]
    operation = _OPERATIONS[amounts[0]]
    tokens, micro_usd, price_number, requests, searches, writes = (*numbers[1:], *_usual(operation)[len(numbers) - 1 :])
    return HoldMark(
        request_id=name[len(_PREFIX) :],
        started_at=from_epoch_ms(numbers[0]),
        operation=operation,
        project_id=project_id or None,
        reserved=Cost(requests=requests, tokens=tokens, micro_usd=micro_usd, searches=searches, writes=writes),
        price_number=price_number,
    )
