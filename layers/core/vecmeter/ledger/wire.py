"""DynamoDB's JSON protocol over kept connections: the calls ``Table`` makes and no more, under boto3's names.

boto3 spends most of a warm request's CPU on what these calls do not need: parameter validation, endpoint rules, event
hooks (docs/adr/0008, 0013).
Protocol: Amazon DynamoDB Developer Guide, "DynamoDB low-level API".
"""

from __future__ import annotations

import base64
import json
from typing import Any

from vecmeter.ledger.access import Access, find_access
from vecmeter.ledger.signed import SignedEndpoint

_API = "DynamoDB_20120810"
_CONTENT_TYPE = "application/x-amz-json-1.0"
CONNECT_SECONDS = 1.0
READ_SECONDS = 3.0


class DynamoDbWire:
    """A client of one endpoint; threads may share it. Each call is tried once.

    Raises ServiceError for an answer that is an error, and NoAnswerError for none.
    """

    def __init__(self, endpoint: str, access: Access, most_idle: int, *, read_seconds: float = READ_SECONDS) -> None:
        self._endpoint = SignedEndpoint(
            endpoint,
            "dynamodb",
            access,
            most_idle,
            content_type=_CONTENT_TYPE,
            connect_seconds=CONNECT_SECONDS,
            read_seconds=read_seconds,
        )
        self.url = self._endpoint.url

    def get_item(self, **request: Any) -> dict[str, Any]:
        return self._call("GetItem", request)

    def put_item(self, **request: Any) -> dict[str, Any]:
        return self._call("PutItem", request)

    def update_item(self, **request: Any) -> dict[str, Any]:
        return self._call("UpdateItem", request)

    def delete_item(self, **request: Any) -> dict[str, Any]:
        return self._call("DeleteItem", request)

    def query(self, **request: Any) -> dict[str, Any]:
        return self._call("Query", request)

    def batch_get_item(self, **request: Any) -> dict[str, Any]:
        return self._call("BatchGetItem", request)

    def batch_write_item(self, **request: Any) -> dict[str, Any]:
        return self._call("BatchWriteItem", request)

    def transact_write_items(self, **request: Any) -> dict[str, Any]:
        return self._call("TransactWriteItems", request)

    def close(self) -> None:
        self._endpoint.close()

    def _call(self, operation: str, request: dict[str, Any]) -> dict[str, Any]:
        body = json.dumps(request, default=_to_base64).encode()
        return self._endpoint.call(f"{_API}.{operation}", body, _from_base64)


def create_wire(most_idle: int, access: Access | None = None) -> DynamoDbWire:
    """A client as boto3 would configure it: see ``find_access``, and AWS_ENDPOINT_URL_DYNAMODB."""
    access = access or find_access()
    return DynamoDbWire(access.endpoint("dynamodb", "DYNAMODB"), access, most_idle)


def _to_base64(value: Any) -> str:
    return base64.b64encode(value).decode()


def _from_base64(value: dict[str, Any]) -> dict[str, Any]:
    """A binary attribute is an object with the one name ``B``, and text is never a bare JSON string in an item."""
    binary = value.get("B")
    if isinstance(binary, str) and len(value) == 1:
        return {"B": base64.b64decode(binary)}
    return value
