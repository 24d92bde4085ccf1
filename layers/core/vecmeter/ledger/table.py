"""The ledger's one DynamoDB table. Every call names how often it may be tried: an ``ADD`` is not idempotent.

The client is built with a single attempt (botocore's default for DynamoDB is ten); what may be repeated is
repeated here, where the caller has said that it may.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from boto3.dynamodb.types import Binary, TypeDeserializer, TypeSerializer
from botocore.exceptions import BotoCoreError, ClientError

from vecmeter.errors import LedgerUnavailableError

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.client import DynamoDBClient

    from vecmeter.ledger.wire import DynamoDbWire

Item = dict[str, Any]
T = TypeVar("T")

READ_ATTEMPTS = 3
WRITE_ATTEMPTS = 3
BACKOFF_SECONDS = 0.05

_serialize = TypeSerializer().serialize
_deserialize = TypeDeserializer().deserialize

# Only these say "not now"; a ValidationException or an AccessDenied is a fault of ours and must surface as one.
_TEMPORARY = frozenset(
    {
        "InternalServerError",
        "LimitExceededException",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "ServiceUnavailable",
        "ThrottlingException",
        "TransactionInProgressException",
    }
)


class ConditionFailed(Exception):
    """A condition did not hold. ``items`` are the items as they were, None where there was none."""

    def __init__(self, items: Sequence[Item | None]) -> None:
        super().__init__("a condition did not hold")
        self.items = items

    @property
    def item(self) -> Item | None:
        return self.items[0]


def create_client(max_connections: int = 10) -> DynamoDBClient:
    """A client with one attempt per call and time-outs that leave room to answer (1 s to connect, 3 s to read)."""
    import boto3  # not needed by whoever brings a client of their own
    from botocore.config import Config

    return boto3.client(
        "dynamodb",
        config=Config(
            retries={"total_max_attempts": 1},
            connect_timeout=1,
            read_timeout=3,
            max_pool_connections=max_connections,
            tcp_keepalive=True,
        ),
    )


def create_table(client: DynamoDBClient, name: str) -> None:
    """Create the table as infra/ledger.yaml declares it (a test compares the two), for the local stack and tests."""
    client.create_table(
        TableName=name,
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
        AttributeDefinitions=[
            {"AttributeName": "pk", "AttributeType": "S"},
            {"AttributeName": "sk", "AttributeType": "S"},
        ],
        BillingMode="PAY_PER_REQUEST",
    )
    client.get_waiter("table_exists").wait(TableName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 30})
    client.update_time_to_live(TableName=name, TimeToLiveSpecification={"Enabled": True, "AttributeName": "ttl"})


class Table:
    """The calls the ledger makes, in plain Python values. Raises LedgerUnavailableError when there is no answer."""

    def __init__(self, client: DynamoDBClient | DynamoDbWire, name: str) -> None:
        self._client = client
        self.name = name

    def get(self, pk: str, sk: str) -> Item | None:
        """The item as every write acknowledged so far left it (strongly consistent), or None."""
        answer = self._call(
            lambda: self._client.get_item(TableName=self.name, Key=_key(pk, sk), ConsistentRead=True),
            attempts=READ_ATTEMPTS,
        )
        return decode(answer["Item"]) if "Item" in answer else None

    def put(self, item: Item) -> None:
        """Write the whole item, whatever was there: repeating it changes nothing."""
        self._call(lambda: self._client.put_item(TableName=self.name, Item=encode(item)), attempts=WRITE_ATTEMPTS)

    def update(
        self,
        pk: str,
        sk: str,
        *,
        update: str,
        condition: str,
        values: Mapping[str, Any],
        names: Mapping[str, str] | None = None,
        attempts: int,
    ) -> Item:
        """One conditional update; returns the item after it.

        Raises:
            ConditionFailed: with the item as it was, so that a refusal costs no further read.
        """
        request: dict[str, Any] = {
            "TableName": self.name,
            "Key": _key(pk, sk),
            "UpdateExpression": update,
            "ConditionExpression": condition,
            "ExpressionAttributeValues": encode(values),
            "ReturnValues": "ALL_NEW",
            "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
        }
        if names:
            request["ExpressionAttributeNames"] = dict(names)
        answer = self._call(lambda: self._client.update_item(**request), attempts=attempts)
        return decode(answer["Attributes"])

    def insert(self, *items: Item) -> None:
        """Write new items, all or none.

        Raises:
            ConditionFailed: one of them exists already.
        """
        puts: Any = [
            {
                "Put": {
                    "TableName": self.name,
                    "Item": encode(item),
                    "ConditionExpression": "attribute_not_exists(pk)",
                    "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
                }
            }
            for item in items
        ]
        # One attempt: after a lost answer a repetition would report our own items as existing ones.
        self._call(lambda: self._client.transact_write_items(TransactItems=puts), attempts=1)

    def delete(self, pk: str, sk: str) -> None:
        self._call(lambda: self._client.delete_item(TableName=self.name, Key=_key(pk, sk)), attempts=WRITE_ATTEMPTS)

    def delete_many(self, keys: Iterable[tuple[str, str]]) -> int:
        """Delete items in batches of 25 (what one BatchWriteItem takes); returns how many were asked for."""
        deleted = 0
        remaining = iter(keys)
        while batch := list(itertools.islice(remaining, 25)):
            pending: Any = {self.name: [{"DeleteRequest": {"Key": _key(pk, sk)}} for pk, sk in batch]}
            while pending:
                request = pending
                answer = self._call(
                    lambda request=request: self._client.batch_write_item(RequestItems=request),  # type: ignore[misc]
                    attempts=WRITE_ATTEMPTS,
                )
                pending = answer["UnprocessedItems"]
            deleted += len(batch)
        return deleted

    def query(
        self, pk: str, *, between: tuple[str, str], newest_first: bool = False, page_size: int | None = None
    ) -> Iterator[Item]:
        """Items of one partition whose sort keys lie in ``between`` (both ends included), page by page as consumed."""
        request: dict[str, Any] = {
            "TableName": self.name,
            "KeyConditionExpression": "pk = :pk AND sk BETWEEN :low AND :high",
            "ExpressionAttributeValues": encode({":pk": pk, ":low": between[0], ":high": between[1]}),
            "ConsistentRead": True,
            "ScanIndexForward": not newest_first,
        }
        if page_size:
            request["Limit"] = page_size
        while True:
            answer = self._call(lambda: self._client.query(**request), attempts=READ_ATTEMPTS)
            yield from map(decode, answer["Items"])
            if "LastEvaluatedKey" not in answer:
                return
            request["ExclusiveStartKey"] = answer["LastEvaluatedKey"]

    def ping(self) -> None:
        """Raise LedgerUnavailableError unless the table answers."""
        self.get("ping", "ping")

    def _call(self, call: Callable[[], T], *, attempts: int) -> T:
        for attempt in range(1, attempts + 1):
            try:
                return call()
            except ClientError as error:
                refusal = _condition_failure(error)
                if refusal is not None:
                    raise refusal from None
                code = error.response["Error"]["Code"]
                if code not in _TEMPORARY and code != "TransactionCanceledException":
                    raise
                reason: Exception = error
            except BotoCoreError as error:
                reason = error
            if attempt < attempts:
                time.sleep(BACKOFF_SECONDS * 2 ** (attempt - 1))
        raise LedgerUnavailableError("The ledger does not answer; try again shortly.") from reason


def encode(values: Mapping[str, Any]) -> dict[str, Any]:
    """Plain values to DynamoDB's typed ones; None is left out."""
    return {name: _serialize(value) for name, value in values.items() if value is not None}


def decode(item: Mapping[str, Any]) -> Item:
    """DynamoDB's typed values to plain ones: numbers as Decimal, binary as bytes."""
    return {name: _plain(_deserialize(value)) for name, value in item.items()}


def _plain(value: Any) -> Any:
    wrapped: Any = value
    return wrapped.value if isinstance(value, Binary) else value


def _key(pk: str, sk: str) -> dict[str, Any]:
    return {"pk": {"S": pk}, "sk": {"S": sk}}


def _condition_failure(error: ClientError) -> ConditionFailed | None:
    response: Any = error.response
    if response["Error"]["Code"] == "ConditionalCheckFailedException":
        item = response.get("Item")
        return ConditionFailed([decode(item) if item else None])
    reasons = response.get("CancellationReasons", [])
    if any(reason.get("Code") == "ConditionalCheckFailed" for reason in reasons):
        return ConditionFailed([decode(r["Item"]) if r.get("Item") else None for r in reasons])
    return None
