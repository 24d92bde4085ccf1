"""EventBridge's PutEvents by a lean signed call: what the ledger tells the outside world.

Nobody waits for it: a call is tried once and gives up early, because who could not be told now is told by the sweep.
Protocol: Amazon EventBridge API Reference, "PutEvents" (``AWSEvents``, JSON 1.1).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from vecmeter.ledger.access import Access
from vecmeter.ledger.signed import NoAnswerError, ServiceError, SignedEndpoint

SOURCE = "vecmeter"
# What one PutEvents takes.
MOST_AT_ONCE = 10
_TARGET = "AWSEvents.PutEvents"
_CONTENT_TYPE = "application/x-amz-json-1.1"
# A request that crosses a threshold waits for this call: rather late by the sweep than long.
CONNECT_SECONDS = 0.5
READ_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Event:
    """``detail``: a JSON object. ``time``: when it happened."""

    detail_type: str
    detail: Mapping[str, Any]
    time: datetime


class EventsRefused(Exception):
    """The bus did not answer, or refused the call as a whole."""


class EventBus(Protocol):
    """Where events go."""

    def put(self, events: Sequence[Event]) -> list[bool]:
        """Put up to 10 events; for each whether it was taken. Raises EventsRefused."""

    def close(self) -> None:
        """Close the connections."""


class EventBridge:
    """One bus of EventBridge; threads may share it. After a lost answer events may be there, though refused here."""

    def __init__(self, endpoint: SignedEndpoint, bus_name: str) -> None:
        self._endpoint = endpoint
        self._bus_name = bus_name

    def put(self, events: Sequence[Event]) -> list[bool]:
        body = json.dumps({"Entries": list(map(self._entry, events))}).encode()
        try:
            answer = self._endpoint.call(_TARGET, body)
        except (ServiceError, NoAnswerError) as error:
            raise EventsRefused(str(error)) from error
        entries = answer.get("Entries")
        if not isinstance(entries, list) or len(entries) != len(events):
            raise EventsRefused("EventBridge's answer does not say what it took")
        return ["EventId" in entry for entry in entries]

    def close(self) -> None:
        self._endpoint.close()

    def _entry(self, event: Event) -> dict[str, Any]:
        return {
            "EventBusName": self._bus_name,
            "Source": SOURCE,
            "DetailType": event.detail_type,
            "Time": int(event.time.timestamp()),
            "Detail": json.dumps(event.detail, separators=(",", ":")),
        }


def create_event_bridge(bus_name: str, access: Access) -> EventBridge:
    """The bus of that name; AWS_ENDPOINT_URL_EVENTBRIDGE or AWS_ENDPOINT_URL as boto3 reads them."""
    endpoint = SignedEndpoint(
        access.endpoint("events", "EVENTBRIDGE"),
        "events",
        access,
        2,
        content_type=_CONTENT_TYPE,
        connect_seconds=CONNECT_SECONDS,
        read_seconds=READ_SECONDS,
    )
    return EventBridge(endpoint, bus_name)
