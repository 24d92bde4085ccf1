"""What ``Table`` promises, with every client it is used with: our wire and boto3 against ministack, boto3 against moto.

moto runs in this process and only where one thread is enough; it takes no notice of a transaction's token, so what
depends on the token is not asked of it.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from tests.fixtures.faults import Fault, FaultyClient, service_error
from vecmeter.errors import LedgerUnavailableError
from vecmeter.ledger import transactions
from vecmeter.ledger.table import BACKOFF_SECONDS, BATCH_ROUNDS, ConditionFailed, Table

MINISTACK = ("wire", "boto3")


def item(sk: str = "a", **attributes: Any) -> dict[str, Any]:
    return {"pk": "p", "sk": sk, **attributes}


ALWAYS = "attribute_exists(pk) OR attribute_not_exists(pk)"


def one_of_each() -> list[transactions.Write]:
    """A put, an update, a delete and a check, of the items a to d; those but the first are to have n = 1."""
    one: dict[str, Any] = {"condition": "#n = :one", "names": {"#n": "n"}}
    return [
        transactions.insert(item("a", n=7)),
        transactions.update("p", "b", update="ADD #n :two", values={":one": 1, ":two": 2}, **one),
        transactions.delete("p", "c", values={":one": 1}, **one),
        transactions.check("p", "d", values={":one": 1}, **one),
    ]


def add_one(table: Table, *, room: int) -> dict[str, Any]:
    return table.update(
        "p",
        "a",
        update="ADD #n :one",
        condition="attribute_not_exists(#n) OR #n <= :room",
        names={"#n": "n"},
        values={":one": 1, ":room": room},
        attempts=3,
    ).item


class TestItems:
    def test_what_is_put_is_read_back_at_once(self, table: Table) -> None:
        assert table.get("p", "a") is None
        table.put(item(n=1))
        table.put(item(m=2))
        assert table.get("p", "a") == item(m=2)
        table.delete("p", "a")
        table.delete("p", "a")
        assert table.get("p", "a") is None

    def test_every_type_comes_back_as_it_was(self, table: Table) -> None:
        values = item(
            text="é\U0001f600",
            empty="",
            whole=-(10**30) - 1,
            fraction=Decimal("12.345"),
            zero=0,
            yes=True,
            no=False,
            binary=bytes(range(256)),
            nested={"a": [1, "b", {"c": b"\x00"}], "d": {}},
        )
        table.put(values | {"nothing": None})
        found = table.get("p", "a")
        assert found == values
        assert found is not None
        assert type(found["whole"]) is type(found["zero"]) is int
        assert type(found["yes"]) is bool

    def test_a_float_is_refused_before_it_loses_digits(self, table: Table) -> None:
        with pytest.raises(TypeError, match="float"):
            table.put(item(n=0.1))

    def test_a_key_that_cannot_exist_is_not_found(self, table: Table, tried: FaultyClient) -> None:
        assert table.get("p" * 2049, "a") is None
        assert table.get("p", "é" * 513) is None
        assert not tried.calls

    def test_put_new_keeps_what_is_there_and_shows_it(self, table: Table) -> None:
        table.put_new(item(n=1))
        with pytest.raises(ConditionFailed) as failed:
            table.put_new(item(n=2))
        assert failed.value.item == table.get("p", "a") == item(n=1)


class TestConditionalUpdates:
    def test_an_update_returns_the_item_after_it(self, table: Table) -> None:
        table.put(item(other="x"))
        assert add_one(table, room=9) == item(other="x", n=1)

    def test_a_failed_condition_shows_the_item_as_it_was_and_changes_nothing(self, table: Table) -> None:
        table.put(item(n=5, binary=b"\x00"))
        with pytest.raises(ConditionFailed) as failed:
            add_one(table, room=4)
        assert failed.value.item == table.get("p", "a") == item(n=5, binary=b"\x00")
        assert failed.value.tries == 1

    def test_a_failed_condition_on_a_missing_item_shows_none_and_creates_none(self, table: Table) -> None:
        with pytest.raises(ConditionFailed) as failed:
            table.update("p", "a", update="SET a = :a", condition="attribute_exists(pk)", values={":a": 1}, attempts=1)
        assert failed.value.item is None
        assert table.get("p", "a") is None

    def test_an_update_says_how_many_tries_it_took(self, table: Table, tried: FaultyClient) -> None:
        arguments: Any = {"update": "SET a = :a", "condition": "attribute_not_exists(a)", "values": {":a": 1}}
        assert table.update("p", "a", **arguments, attempts=3).tries == 1
        tried.fail(Fault.LOST_REQUEST, Fault.THROTTLED)
        assert table.update("p", "b", **arguments, attempts=3).tries == 3
        tried.fail(Fault.LOST_ANSWER)
        with pytest.raises(ConditionFailed) as failed:
            table.update("p", "c", **arguments, attempts=3)
        assert failed.value.tries == 2
        assert failed.value.item == {"pk": "p", "sk": "c", "a": 1}


class TestTransactions:
    def test_an_insert_writes_all_items_or_none(self, table: Table) -> None:
        table.put(item("b", n=1))
        with pytest.raises(ConditionFailed) as failed:
            table.insert(item("a"), item("b"))
        assert failed.value.items == [None, item("b", n=1)]
        assert table.get("p", "a") is None
        table.insert(item("a"), item("c"))
        assert [found["sk"] for found in table.query("p", between=("a", "z"))] == ["a", "b", "c"]

    @pytest.mark.parametrize("faulty", MINISTACK, indirect=True)
    @pytest.mark.parametrize("fault", [Fault.LOST_ANSWER, Fault.LOST_REQUEST, Fault.SERVER_ERROR])
    def test_an_insert_whose_answer_was_lost_succeeds(self, table: Table, tried: FaultyClient, fault: Fault) -> None:
        tried.fail(fault, fault)
        table.insert(item("a"), item("b"))
        assert tried.calls["transact_write_items"] == 3
        assert table.get("p", "b") == item("b")

    @pytest.mark.parametrize("faulty", MINISTACK, indirect=True)
    def test_two_inserts_of_the_same_items_are_not_taken_for_one(self, table: Table) -> None:
        table.insert(item("a"))
        with pytest.raises(ConditionFailed):
            table.insert(item("a"))

    @pytest.mark.parametrize(
        ("reasons", "expected"),
        [
            (["None", "TransactionConflict"], LedgerUnavailableError),
            (["ThrottlingError", "ProvisionedThroughputExceeded"], LedgerUnavailableError),
            (["TransactionConflict", "ConditionalCheckFailed"], ConditionFailed),
            (["None", "ValidationError"], None),
        ],
    )
    def test_a_cancelled_transaction_is_tried_again_only_when_that_can_help(
        self, table: Table, tried: FaultyClient, reasons: list[str], expected: type[Exception] | None
    ) -> None:
        cancelled = service_error("TransactionCanceledException", CancellationReasons=[{"Code": c} for c in reasons])
        tried.fail(cancelled, cancelled, cancelled)
        with pytest.raises(expected or type(cancelled)):
            table.insert(item("a"))
        assert tried.calls["transact_write_items"] == (3 if expected is LedgerUnavailableError else 1)

    def test_a_transaction_applies_every_kind_of_write(self, table: Table) -> None:
        for sk in "bcd":
            table.put(item(sk, n=1))
        table.transact(*one_of_each())
        assert [(found["sk"], found["n"]) for found in table.query("p", between=("a", "z"))] == [
            ("a", 7),
            ("b", 3),
            ("d", 1),
        ]

    @pytest.mark.parametrize("place", range(4))
    def test_a_transaction_with_one_condition_that_fails_changes_nothing_and_says_which(
        self, table: Table, place: int
    ) -> None:
        for sk in "bcd":
            table.put(item(sk, n=1))
        wrong = item("abcd"[place], n=5)
        table.put(wrong)
        before = list(table.query("p", between=("a", "z")))
        with pytest.raises(ConditionFailed) as failed:
            table.transact(*one_of_each())
        assert failed.value.failed == {place}
        assert failed.value.items == [wrong if other == place else None for other in range(4)]
        assert list(table.query("p", between=("a", "z"))) == before

    def test_a_condition_that_fails_for_want_of_an_item_is_told_from_one_that_holds(self, table: Table) -> None:
        with pytest.raises(ConditionFailed) as failed:
            table.transact(
                transactions.insert(item("a")),
                transactions.check("p", "b", condition="attribute_exists(pk)"),
                transactions.check("p", "c", condition="attribute_not_exists(pk)"),
            )
        assert failed.value.failed == {1}
        assert failed.value.items == [None, None, None]

    @pytest.mark.parametrize("faulty", MINISTACK, indirect=True)
    @pytest.mark.parametrize("fault", [Fault.LOST_ANSWER, Fault.LOST_REQUEST, Fault.SERVER_ERROR, Fault.TIMED_OUT])
    def test_a_transaction_whose_answer_was_lost_is_applied_once(
        self, table: Table, tried: FaultyClient, fault: Fault
    ) -> None:
        tried.fail(fault, fault)
        table.transact(transactions.update("p", "a", update="ADD n :one", condition=ALWAYS, values={":one": 1}))
        assert tried.calls["transact_write_items"] == 3
        tried.deliver()
        assert table.get("p", "a") == item(n=1)

    @pytest.mark.parametrize("faulty", MINISTACK, indirect=True)
    def test_two_transactions_that_are_alike_are_two(self, table: Table) -> None:
        for _ in range(2):
            table.transact(transactions.update("p", "a", update="ADD n :one", condition=ALWAYS, values={":one": 1}))
        assert table.get("p", "a") == item(n=2)


class TestQueries:
    def test_a_range_is_read_in_order_both_ends_included(self, table: Table) -> None:
        for sk in "badce":
            table.put(item(sk))
        table.put({"pk": "other", "sk": "b"})
        assert [found["sk"] for found in table.query("p", between=("b", "d"))] == ["b", "c", "d"]
        assert [found["sk"] for found in table.query("p", between=("b", "d"), newest_first=True)] == ["d", "c", "b"]

    def test_the_order_is_that_of_bytes(self, table: Table) -> None:
        keys = ["A", "a", "a#", "a-", "a.b", "a_", "ab", "b"]
        for sk in reversed(keys):
            table.put(item(sk))
        assert [found["sk"] for found in table.query("p", between=(" ", "\x7f"))] == sorted(keys) == keys

    def test_pages_are_read_as_they_are_consumed(self, table: Table, tried: FaultyClient) -> None:
        for number in range(7):
            table.put(item(f"{number}"))
        found = table.query("p", between=("0", "9"), page_size=3)
        assert [next(found)["sk"] for _ in range(3)] == ["0", "1", "2"]
        assert tried.calls["query"] == 1
        assert [one["sk"] for one in found] == ["3", "4", "5", "6"]
        assert tried.calls["query"] == 3

    @pytest.mark.parametrize("between", [("b", "a"), ("é" * 513, "\U0001f600"), ("a", "b" * 1025)])
    def test_a_range_that_can_hold_nothing_is_empty(
        self, table: Table, tried: FaultyClient, between: tuple[str, str]
    ) -> None:
        table.put(item("a"))
        assert list(table.query("p", between=between)) == []
        assert tried.calls["query"] == 0

    def test_reads_are_consistent(self, table: Table, tried: FaultyClient) -> None:
        table.get("p", "a")
        list(table.query("p", between=("a", "b")))
        assert all(request["ConsistentRead"] for _, request in tried.requests)


class TestDeletingMany:
    def test_more_than_a_batch_is_deleted(self, table: Table, tried: FaultyClient) -> None:
        for number in range(60):
            table.put(item(f"{number:02}"))
        assert table.delete_many(("p", f"{number:02}") for number in range(55)) == 55
        assert [found["sk"] for found in table.query("p", between=("0", "9"))] == [f"{n}" for n in range(55, 60)]
        assert tried.calls["batch_write_item"] == 3

    def test_what_dynamodb_leaves_over_is_sent_again(
        self, table: Table, tried: FaultyClient, pauses: list[float]
    ) -> None:
        for sk in "abc":
            table.put(item(sk))
        _leave_over(tried, rounds=2)
        assert table.delete_many([("p", "a"), ("p", "b"), ("p", "c")]) == 3
        assert list(table.query("p", between=("a", "z"))) == []
        assert pauses == [BACKOFF_SECONDS, 2 * BACKOFF_SECONDS]

    def test_a_table_that_takes_nothing_is_unavailable(self, table: Table, tried: FaultyClient) -> None:
        _leave_over(tried, rounds=1000)
        with pytest.raises(LedgerUnavailableError):
            table.delete_many([("p", "a"), ("p", "b")])
        assert tried.calls["batch_write_item"] == BATCH_ROUNDS


def _leave_over(tried: FaultyClient, rounds: int) -> None:
    """Make BatchWriteItem take one item less than it was given, so many times, and nothing of one item."""
    real = tried.client

    class Overloaded:
        def __init__(self) -> None:
            self.rounds = rounds

        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

        def batch_write_item(self, RequestItems: dict[str, list[Any]]) -> Any:
            if not self.rounds:
                return real.batch_write_item(RequestItems=RequestItems)
            self.rounds -= 1
            [(table, requests)] = RequestItems.items()
            if requests[1:]:
                real.batch_write_item(RequestItems={table: requests[1:]})
            return {"UnprocessedItems": {table: requests[:1]}}

    tried.client = Overloaded()
