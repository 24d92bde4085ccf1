"""The ledger's one DynamoDB table. Every call names how often it may be tried: an ``ADD`` is not idempotent.

The clients try each call once (botocore's default for DynamoDB is ten); what may be repeated is repeated here, where
the caller has said that it may.
"""

from __future__ import annotations

import itertools
import logging
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from vecmeter import deadline
from vecmeter.breaker import Circuit
from vecmeter.errors import LedgerUnavailableError
from vecmeter.ledger import transactions
from vecmeter.ledger.encoding import Item, decode, encode
from vecmeter.ledger.outages import circuit_of_ledger, insisting, unless_away
from vecmeter.ledger.signed import NoAnswerError, ServiceError
from vecmeter.ledger.transactions import Write, key_of

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.client import DynamoDBClient

    from vecmeter.ledger.wire import DynamoDbWire

_logger = logging.getLogger("vecmeter.ledger")

T = TypeVar("T")

READ_ATTEMPTS = 3
WRITE_ATTEMPTS = 3
BACKOFF_SECONDS = 0.05
# The longest all tries of a call take together.
CALL_SECONDS = 4.0
# A batch whose items DynamoDB keeps leaving over, with a longer pause after each round (1.6 s in all).
BATCH_ROUNDS = 6
# DynamoDB's own limits on the two parts of a key, in bytes of UTF-8.
_LONGEST_PK, _LONGEST_SK = 2048, 1024

# Only these say "not now"; a ValidationException or an AccessDenied is a fault of ours and must surface as one.
_TEMPORARY = frozenset(
    {
        "InternalServerError",
        "LimitExceededException",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "ServiceUnavailable",
        "ThrottlingException",
        "TransactionConflictException",
        "TransactionInProgressException",
    }
)
# Of a cancelled transaction: the items that were not at fault, and those that say "not now".
_TEMPORARY_REASONS = frozenset({"None", "TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded"})


class ConditionFailed(Exception):
    """A condition did not hold. ``items`` are the items as they were, None where there was none.

    ``tries`` above 1: an earlier try, whose answer was lost, may have been applied; it may be why (a transaction is
    never why: see ``Table.transact``). ``failed``: the places, in the transaction, of the writes whose conditions did
    not hold; for those that did ``items`` has None.
    """

    def __init__(self, items: Sequence[Item | None], failed: frozenset[int] = frozenset({0})) -> None:
        super().__init__("a condition did not hold")
        self.items = items
        self.failed = failed
        self.tries = 1

    @property
    def item(self) -> Item | None:
        return self.items[0]


class Updated(NamedTuple):
    """An item after an update. ``tries`` above 1: an earlier one may still arrive, and finds the item as it is now."""

    item: Item
    tries: int


def create_client(max_connections: int = 10) -> DynamoDBClient:
    """A boto3 client with one attempt per call, to make the table with."""
    import boto3  # not needed to use it
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
    """The calls the ledger makes, in plain Python values.

    Raises LedgerUnavailableError when there is no answer within ``CALL_SECONDS``, or the request's own time; at once
    while ``circuit`` is open.
    """

    def __init__(
        self,
        client: DynamoDbWire,
        name: str,
        *,
        circuit: Circuit | None = None,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._client = client
        self._circuit = circuit or circuit_of_ledger()
        self._pause = pause
        self.name = name

    def get(self, pk: str, sk: str) -> Item | None:
        """The item as every write acknowledged so far left it (strongly consistent), or None."""
        if _too_long(pk, _LONGEST_PK) or _too_long(sk, _LONGEST_SK):
            return None
        answer, _ = self._call(
            lambda: self._client.get_item(TableName=self.name, Key=key_of(pk, sk), ConsistentRead=True),
            attempts=READ_ATTEMPTS,
        )
        return decode(answer["Item"]) if "Item" in answer else None

    def put(self, item: Item) -> None:
        """Write the whole item, whatever was there: repeating it changes nothing."""
        self._call(lambda: self._client.put_item(TableName=self.name, Item=encode(item)), attempts=WRITE_ATTEMPTS)

    def put_new(self, item: Item) -> None:
        """Write the item unless there is one. After a lost answer the one that is there may be this very one.

        Raises:
            ConditionFailed: with the item that is there.
        """
        self._call(
            lambda: self._client.put_item(
                TableName=self.name,
                Item=encode(item),
                ConditionExpression="attribute_not_exists(pk)",
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            ),
            attempts=WRITE_ATTEMPTS,
        )

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
    ) -> Updated:
        """One conditional update; returns the item after it.

        Raises:
            ConditionFailed: with the item as it was, so that a refusal costs no further read.
        """
        request: dict[str, Any] = {
            "TableName": self.name,
            "Key": key_of(pk, sk),
            "UpdateExpression": update,
            "ConditionExpression": condition,
            "ExpressionAttributeValues": encode(values),
            "ReturnValues": "ALL_NEW",
            "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
        }
        if names:
            request["ExpressionAttributeNames"] = dict(names)
        answer, tries = self._call(lambda: self._client.update_item(**request), attempts=attempts)
        return Updated(decode(answer["Attributes"]), tries)

    def insert(self, *items: Item, attempts: int = WRITE_ATTEMPTS) -> None:
        """Write new items, all or none.

        Raises:
            ConditionFailed: one of them exists already.
        """
        self.transact(*map(transactions.insert, items), attempts=attempts)

    def transact(self, *writes: Write, attempts: int = WRITE_ATTEMPTS) -> None:
        """Apply all writes or none.

        A token makes the tries one transaction for the ten minutes after it was applied: a try after a lost answer
        succeeds without being applied again, instead of finding its own writes in the way.

        Raises:
            ConditionFailed: a condition did not hold, and nothing was written, by an earlier try neither.
        """
        asked = {"TableName": self.name, "ReturnValuesOnConditionCheckFailure": "ALL_OLD"}
        items: Any = [{write.kind: {**asked, **write.request}} for write in writes]
        token = uuid.uuid4().hex
        self._call(
            lambda: self._client.transact_write_items(TransactItems=items, ClientRequestToken=token),
            attempts=attempts,
        )

    def delete(self, pk: str, sk: str) -> None:
        self._call(lambda: self._client.delete_item(TableName=self.name, Key=key_of(pk, sk)), attempts=WRITE_ATTEMPTS)

    def delete_if(self, pk: str, sk: str, *, condition: str, values: Mapping[str, Any]) -> None:
        """Delete the item if the condition holds. After a lost answer it may fail because the item is gone already.

        Raises:
            ConditionFailed: with the item that is there.
        """
        self._call(
            lambda: self._client.delete_item(
                TableName=self.name,
                Key=key_of(pk, sk),
                ConditionExpression=condition,
                ExpressionAttributeValues=encode(values),
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            ),
            attempts=WRITE_ATTEMPTS,
        )

    def delete_many(self, keys: Iterable[tuple[str, str]]) -> int:
        """Delete items, all of them different, 25 at a time (what one BatchWriteItem takes); returns how many."""
        deleted = 0
        remaining = iter(keys)
        while batch := list(itertools.islice(remaining, 25)):
            self._delete_batch([{"DeleteRequest": {"Key": key_of(pk, sk)}} for pk, sk in batch])
            deleted += len(batch)
        return deleted

    def get_some(self, keys: Iterable[tuple[str, str]]) -> list[Item]:
        """Of these keys' items those that a single call per 100 brings, perhaps not as the last write left them.

        For what can be done without: nothing is asked for twice. Raises LedgerUnavailableError.
        """
        found: list[Item] = []
        remaining = iter(dict.fromkeys(keys))
        while batch := list(itertools.islice(remaining, 100)):
            asked: Any = {self.name: {"Keys": [key_of(pk, sk) for pk, sk in batch]}}
            answer, _ = self._call(lambda asked=asked: self._client.batch_get_item(RequestItems=asked), attempts=1)  # type: ignore[misc]
            found += map(decode, answer["Responses"].get(self.name, ()))
        return found

    def put_some(self, items: Iterable[Item]) -> None:
        """Write items, all of them different, 25 a call; what DynamoDB leaves over is left. As ``get_some``."""
        remaining = iter(items)
        while batch := list(itertools.islice(remaining, 25)):
            asked: Any = {self.name: [{"PutRequest": {"Item": encode(item)}} for item in batch]}
            self._call(lambda asked=asked: self._client.batch_write_item(RequestItems=asked), attempts=1)  # type: ignore[misc]

    def query(
        self, pk: str, *, between: tuple[str, str], newest_first: bool = False, page_size: int | None = None
    ) -> Iterator[Item]:
        """Items of one partition whose sort keys lie in ``between`` (both ends included), page by page as consumed."""
        low, high = between
        if low > high or _too_long(low, _LONGEST_SK) or _too_long(high, _LONGEST_SK):
            return  # DynamoDB calls such a range an error; there is nothing in it
        request: dict[str, Any] = {
            "TableName": self.name,
            "KeyConditionExpression": "pk = :pk AND sk BETWEEN :low AND :high",
            "ExpressionAttributeValues": encode({":pk": pk, ":low": low, ":high": high}),
            "ConsistentRead": True,
            "ScanIndexForward": not newest_first,
        }
        if page_size:
            request["Limit"] = page_size
        while True:
            answer, _ = self._call(lambda: self._client.query(**request), attempts=READ_ATTEMPTS)
            yield from map(decode, answer["Items"])
            if "LastEvaluatedKey" not in answer:
                return
            request["ExclusiveStartKey"] = answer["LastEvaluatedKey"]

    def ping(self) -> None:
        """Raise LedgerUnavailableError unless the table answers now."""
        with insisting():
            self.get("ping", "ping")

    def close(self) -> None:
        """Close the client's connections."""
        self._client.close()

    def _delete_batch(self, requests: list[Any]) -> None:
        for round_number in range(BATCH_ROUNDS):
            pending = {self.name: requests}
            answer, _ = self._call(
                lambda pending=pending: self._client.batch_write_item(RequestItems=pending),  # type: ignore[misc]
                attempts=WRITE_ATTEMPTS,
            )
            requests = answer.get("UnprocessedItems", {}).get(self.name, [])
            if not requests:
                return
            self._pause(BACKOFF_SECONDS * 2**round_number)
        raise LedgerUnavailableError("The ledger does not keep up; try again shortly.")

    def _call(self, call: Callable[[], T], *, attempts: int) -> tuple[T, int]:
        if not deadline.at_most(CALL_SECONDS):
            raise LedgerUnavailableError("The time of this request was up before the ledger was asked.")
        with unless_away(self._circuit, tries=attempts), deadline.within(CALL_SECONDS):
            return self._tried(call, attempts)

    def _tried(self, call: Callable[[], T], attempts: int) -> tuple[T, int]:
        for attempt in range(1, attempts + 1):
            try:
                return call(), attempt
            except ServiceError as error:
                refusal = _condition_failure(error)
                if refusal is not None:
                    refusal.tries = attempt
                    raise refusal from None
                if error.code == "ResourceNotFoundException":
                    _logger.error("the ledger's table is missing", extra={"table": self.name})
                    raise LedgerUnavailableError("The ledger does not answer.") from error
                if not _is_temporary(error):
                    raise
                reason: Exception = error
            except NoAnswerError as error:
                reason = error
            pause = BACKOFF_SECONDS * 2 ** (attempt - 1)
            if attempt == attempts or deadline.at_most(pause) < pause:
                break
            self._pause(pause)
        raise LedgerUnavailableError("The ledger does not answer; try again shortly.") from reason


def _too_long(part: str, longest: int) -> bool:
    """Whether no key can have this part, which may come from a path or a page token; errors of DynamoDB otherwise."""
    return len(part) > longest // 4 and len(part.encode()) > longest


def _is_temporary(error: ServiceError) -> bool:
    if error.code == "TransactionCanceledException":
        reasons = error.answer["CancellationReasons"]
        return all((reason.get("Code") or "None") in _TEMPORARY_REASONS for reason in reasons)
    return error.code in _TEMPORARY or error.status >= 500


def _condition_failure(error: ServiceError) -> ConditionFailed | None:
    if error.code == "ConditionalCheckFailedException":
        item = error.answer.get("Item")
        return ConditionFailed([decode(item) if item else None])
    reasons = error.answer.get("CancellationReasons", [])
    failed = frozenset(place for place, r in enumerate(reasons) if r.get("Code") == "ConditionalCheckFailed")
    if failed:
        return ConditionFailed([decode(r["Item"]) if r.get("Item") else None for r in reasons], failed)
    return None
