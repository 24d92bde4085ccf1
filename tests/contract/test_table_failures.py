"""What ``Table`` makes of calls that fail: by injected faults, and with real connections that break."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ConnectionClosedError, EndpointConnectionError, ReadTimeoutError

from tests.fixtures.boto3_client import Boto3Client
from tests.fixtures.faults import Fault, FaultyClient, FaultyEndpoint, Reply, service_error
from tests.fixtures.ledger import never_open, wire_to
from vecmeter.errors import LedgerUnavailableError
from vecmeter.ledger import transactions
from vecmeter.ledger.signed import ServiceError
from vecmeter.ledger.table import BACKOFF_SECONDS, Table, create_client

TEMPORARY = [
    Fault.LOST_REQUEST,
    Fault.TIMED_OUT,
    Fault.THROTTLED,
    Fault.SERVER_ERROR,
    Fault.AWAY,
    *(
        service_error(code)
        for code in (
            "ProvisionedThroughputExceededException",
            "RequestLimitExceeded",
            "TransactionConflictException",
            "TransactionInProgressException",
            "InternalServerError",
        )
    ),
    service_error("502", status=502),
]
PERMANENT = [
    service_error("ValidationException"),
    service_error("AccessDeniedException"),
    service_error("UnrecognizedClientException"),
    TypeError("no type of DynamoDB's"),
]


def _name(case: Any) -> str:
    if isinstance(case, Fault):
        return case.name.lower()
    return case.code if isinstance(case, ServiceError) else type(case).__name__


def item(sk: str = "a", **attributes: Any) -> dict[str, Any]:
    return {"pk": "p", "sk": sk, **attributes}


def add_one(table: Table, *, attempts: int = 3) -> dict[str, Any]:
    return table.update(
        "p",
        "a",
        update="ADD #n :one",
        condition="attribute_not_exists(#other)",
        names={"#n": "n", "#other": "other"},
        values={":one": 1},
        attempts=attempts,
    ).item


CALLS: dict[str, Callable[[Table], Any]] = {
    "get": lambda table: table.get("p", "a"),
    "put": lambda table: table.put(item()),
    "put_new": lambda table: table.put_new(item("new")),
    "update": lambda table: add_one(table, attempts=3),
    "insert": lambda table: table.insert(item("new")),
    "transact": lambda table: table.transact(transactions.check("p", "a", condition="attribute_not_exists(pk)")),
    "delete": lambda table: table.delete("p", "a"),
    "delete_many": lambda table: table.delete_many([("p", "a")]),
    "query": lambda table: list(table.query("p", between=("a", "b"))),
}


class TestFailures:
    @pytest.mark.parametrize("faulty", ["wire"], indirect=True)
    @pytest.mark.parametrize("fault", TEMPORARY, ids=_name)
    @pytest.mark.parametrize("call", CALLS)
    def test_what_is_temporary_is_tried_three_times_and_then_unavailable(
        self, table: Table, tried: FaultyClient, pauses: list[float], call: str, fault: Any
    ) -> None:
        tried.choose = lambda _: fault
        with pytest.raises(LedgerUnavailableError):
            CALLS[call](table)
        assert sum(tried.calls.values()) == 3
        assert pauses == [BACKOFF_SECONDS, 2 * BACKOFF_SECONDS]

    @pytest.mark.parametrize("faulty", ["wire"], indirect=True)
    @pytest.mark.parametrize("fault", PERMANENT, ids=_name)
    @pytest.mark.parametrize("call", CALLS)
    def test_a_fault_of_ours_surfaces_as_itself_at_once(
        self, table: Table, tried: FaultyClient, call: str, fault: Exception
    ) -> None:
        tried.choose = lambda _: fault
        with pytest.raises(type(fault)):
            CALLS[call](table)
        assert sum(tried.calls.values()) == 1

    def test_a_caller_that_allows_one_try_gets_one(
        self, table: Table, tried: FaultyClient, pauses: list[float]
    ) -> None:
        table.put(item(n=0))
        tried.fail(Fault.LOST_ANSWER)
        with pytest.raises(LedgerUnavailableError):
            add_one(table, attempts=1)
        assert tried.calls["update_item"] == 1
        assert not pauses
        assert table.get("p", "a") == item(n=1)

    def test_a_missing_table_is_a_ledger_that_is_away(self, table: Table, tried: FaultyClient) -> None:
        table.name = "no-such-table"
        with pytest.raises(LedgerUnavailableError) as unavailable:
            table.ping()
        assert "no-such-table" not in unavailable.value.detail
        assert tried.calls["get_item"] == 1

    def test_an_answering_table_passes_the_ping(self, table: Table) -> None:
        table.ping()


class TestSockets:
    """The same with real connections, by the clients as they are configured."""

    @pytest.fixture(params=("wire", "boto3"))
    def connect(self, request: pytest.FixtureRequest, dynamodb_endpoint: str, table_name: str) -> Iterator[Any]:
        with ExitStack() as parts:

            def connect(*replies: Reply) -> tuple[Table, FaultyEndpoint]:
                endpoint = parts.enter_context(FaultyEndpoint(dynamodb_endpoint, replies))
                client = self._client(request.param, endpoint.url)
                parts.callback(client.close)
                return Table(client, table_name, circuit=never_open(), pause=lambda _: None), endpoint

            yield connect

    def _client(self, kind: str, endpoint: str) -> Any:
        if kind == "wire":
            return wire_to(endpoint, read_seconds=0.5)
        config = Config(retries={"total_max_attempts": 1}, connect_timeout=1, read_timeout=0.5)
        return Boto3Client(boto3.client("dynamodb", endpoint_url=endpoint, config=config))

    @pytest.mark.parametrize("reply", [r for r in Reply if r not in (Reply.PASS, Reply.APPLY_AND_CLOSE, Reply.HALF)])
    def test_a_call_that_did_not_arrive_is_tried_again(self, connect: Any, reply: Reply) -> None:
        table, endpoint = connect(reply, reply)
        assert add_one(table) == item(n=1)
        assert endpoint.requests == 3

    @pytest.mark.parametrize("reply", [Reply.APPLY_AND_CLOSE, Reply.HALF])
    def test_an_answer_that_was_lost_is_tried_again_and_finds_the_call_applied(
        self, connect: Any, reply: Reply
    ) -> None:
        table, endpoint = connect(reply)
        assert add_one(table) == item(n=2)
        assert endpoint.requests == 2

    @pytest.mark.parametrize("reply", [r for r in Reply if r is not Reply.PASS])
    def test_no_answer_after_all_tries_is_an_unavailable_ledger(self, connect: Any, reply: Reply) -> None:
        table, endpoint = connect(*[reply] * 9)
        with pytest.raises(LedgerUnavailableError):
            add_one(table)
        assert endpoint.requests == 3

    def test_a_connection_is_used_again(self, connect: Any) -> None:
        table, endpoint = connect()
        for _ in range(3):
            add_one(table)
        assert endpoint.connections == 1

    def test_a_port_where_nobody_listens_is_an_unavailable_ledger(self, connect: Any) -> None:
        table, endpoint = connect()
        endpoint.close()
        with pytest.raises(LedgerUnavailableError):
            table.ping()


def test_the_client_of_the_local_stack_tries_once(dynamodb_endpoint: str, table_name: str) -> None:
    with FaultyEndpoint(dynamodb_endpoint, [Reply.CLOSE]) as endpoint, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL_DYNAMODB", endpoint.url)
        client = create_client()
        with pytest.raises((ConnectionClosedError, EndpointConnectionError, ReadTimeoutError)):
            client.describe_table(TableName=table_name)
        client.close()
        assert endpoint.requests == 1
