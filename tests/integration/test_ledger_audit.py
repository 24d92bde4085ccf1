"""Audit records: never a change without its record, or a record without its change; no secrets; newest first."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from itertools import islice
from typing import Any

import pytest

from tests.fixtures.faults import Fault, FaultyClient, ProcessDied
from tests.fixtures.ledger import Instance, ManualClock
from vecmeter.errors import LedgerUnavailableError, VecmeterError
from vecmeter.ledger.audit import OPERATOR, Actor, AuditLog, AuditRecord, Target, audit_position, policy_facts
from vecmeter.ledger.keys import CreatedKey
from vecmeter.ledger.model import Policy, Role, Scope
from vecmeter.ledger.table import Table

ADMIN = Actor(user_id="user-1", api_key_id="key_admin", request_id="request-1")
HOUR = timedelta(hours=1)
CHANGES: dict[str, Callable[[Instance, str], Any]] = {
    "key.create": lambda i, _: i.keys.create(user_id="user-1", project_id="project-1", roles=("search",), actor=ADMIN),
    "key.change": lambda i, key: i.keys.change(key, lambda found: replace(found, name="renamed"), ADMIN),
    "key.rotate": lambda i, key: i.keys.rotate(key, HOUR, ADMIN),
    "key.revoke": lambda i, key: i.keys.revoke(key, ADMIN),
    "policy.set": lambda i, key: i.keys.change_policy(key, lambda p: replace(p, daily_requests=7), ADMIN),
    "project.create": lambda i, _: i.projects.create(project_id="new", user_id="user-1", name="New", actor=ADMIN),
    "project.change": lambda i, _: i.projects.rename("project-2", "Renamed", ADMIN),
    "project.delete": lambda i, _: i.projects.delete("project-2", list, ADMIN),
}
each_change = pytest.mark.parametrize("action", CHANGES)


@pytest.fixture
def key(instance: Instance, clock: ManualClock) -> CreatedKey:
    """A key of project-1, beside an empty project-2."""
    for name in ("project-1", "project-2"):
        instance.projects.create(project_id=name, user_id="user-1", name="Old")
    key = instance.create_key()
    clock.advance(seconds=1)
    return key


def everything(instance: Instance, client: Any) -> list[dict[str, Any]]:
    found = client.scan(TableName=instance.table.name, ConsistentRead=True)
    return sorted(found["Items"], key=lambda item: (item["pk"]["S"], item["sk"]["S"]))


def split(items: list[dict[str, Any]]) -> tuple[list[Any], list[Any]]:
    """The state of keys and projects, without the marks of a deletion under way; the audit records."""
    records = [item for item in items if item["pk"]["S"].startswith("AUDIT#")]
    state = [{k: v for k, v in item.items() if k not in ("c", "k")} for item in items if item not in records]
    return state, records


@each_change
def test_a_change_and_its_record_are_written_together_or_not_at_all(
    instance: Instance, key: CreatedKey, faults: FaultyClient, dynamodb_client: Any, action: str
) -> None:
    """The process dies before or after each of its calls; whatever is there then, it is both or none of them."""
    name = key.key.api_key_id
    for call in range(1, 9):
        for fault in (Fault.DIES_BEFORE, Fault.DIES_AFTER):
            state, records = split(everything(instance, dynamodb_client))
            faults.fail(*[None] * (call - 1), fault)
            with suppress(ProcessDied, VecmeterError):
                CHANGES[action](instance, name)
            faults.recover()
            instance.clock.advance(seconds=61)  # type: ignore[attr-defined]
            new_state, new_records = split(everything(instance, dynamodb_client))
            assert (new_state != state) is (len(new_records) == len(records) + 3)
            assert (new_state == state) is (new_records == records)


@each_change
@pytest.mark.parametrize("fault", [Fault.LOST_ANSWER, Fault.SERVER_ERROR, Fault.TIMED_OUT, Fault.THROTTLED])
def test_a_change_whose_answer_was_lost_is_recorded_once(
    instance: Instance, key: CreatedKey, faults: FaultyClient, action: str, fault: Fault
) -> None:
    before = len(list(instance.audit.of_all()))
    faults.fail(fault, fault, on="transact_write_items")
    CHANGES[action](instance, key.key.api_key_id)
    faults.deliver()
    assert len(list(instance.audit.of_all())) == len(list(instance.audit.of_user("user-1"))) == before + 1


@each_change
def test_a_change_that_is_not_made_is_not_recorded(
    instance: Instance, key: CreatedKey, faults: FaultyClient, dynamodb_client: Any, action: str
) -> None:
    before = split(everything(instance, dynamodb_client))
    faults.fail(*[Fault.LOST_REQUEST] * 3, on="transact_write_items")
    with pytest.raises(LedgerUnavailableError):
        CHANGES[action](instance, key.key.api_key_id)
    assert split(everything(instance, dynamodb_client)) == before


@each_change
def test_a_record_says_who_did_what_to_what_and_when(instance: Instance, key: CreatedKey, action: str) -> None:
    changed = CHANGES[action](instance, key.key.api_key_id)
    [record] = islice(instance.audit.of_user("user-1"), 1)
    assert (record.actor, record.action, record.at) == (ADMIN, action, instance.clock())
    target = {
        "key": f"key:{key.key.api_key_id}",
        "policy": f"key:{key.key.api_key_id}",
        "project": "project:project-2",
    }[action.split(".", maxsplit=1)[0]]
    if action.endswith("create"):
        target = f"key:{changed.key.api_key_id}" if action == "key.create" else "project:new"
    assert str(record.target) == target
    assert record.target.user_id == "user-1"
    assert record.target.project_id == {"project-2": "project-2", "new": "new"}.get(record.target.id, "project-1")
    assert [record] == list(islice(instance.audit.of_target(target), 1)) == list(islice(instance.audit.of_all(), 1))


def test_a_record_holds_what_differs_before_and_after(instance: Instance, key: CreatedKey, clock: ManualClock) -> None:
    name = key.key.api_key_id

    def newest() -> tuple[Any, Any]:
        clock.advance(seconds=1)
        [record] = islice(instance.audit.of_user("user-1"), 1)
        return record.before, record.after

    expires = clock() + HOUR
    instance.keys.change(
        name, lambda found: replace(found, name="n", roles=frozenset({Role.SEARCH}), expires_at=expires)
    )
    assert newest() == (
        {"name": None, "roles": ["search", "write"], "expires_at": None},
        {"name": "n", "roles": ["search"], "expires_at": expires.isoformat()},
    )
    rotated = instance.keys.rotate(name, HOUR)
    assert newest()[1] == {
        "last4": rotated.secret[-4:],
        "previous_expires_at": rotated.key.previous_expires_at.isoformat(),  # type: ignore[union-attr]
    }
    instance.keys.change_policy(name, lambda policy: replace(policy, daily_requests=7, notes="for now"))
    assert newest() == ({"policy": {}}, {"policy": {"daily_requests": 7, "notes": "for now"}})
    instance.keys.revoke(name)
    assert newest() == ({"status": "active"}, {"status": "revoked"})
    instance.projects.rename("project-2", None)
    assert newest() == ({"name": "Old"}, {"name": None})
    instance.projects.delete("project-2", list)
    assert newest() == ({"user_id": "user-1", "name": None}, None)
    instance.projects.create(project_id="project-2", user_id="user-1", name="Again")
    assert newest() == (None, {"user_id": "user-1", "name": "Again"})


def test_what_changes_nothing_is_not_recorded(instance: Instance, key: CreatedKey) -> None:
    instance.keys.revoke(key.key.api_key_id)
    before = list(instance.audit.of_all())
    instance.keys.revoke(key.key.api_key_id)
    instance.projects.rename("project-2", "Old")
    assert list(instance.audit.of_all()) == before


def test_no_secret_and_no_hash_of_one_is_in_any_record(
    instance: Instance, key: CreatedKey, dynamodb_client: Any
) -> None:
    secrets = [key.secret]
    for grace in (HOUR, timedelta(0), HOUR):
        secrets.append(instance.keys.rotate(key.key.api_key_id, grace, ADMIN).secret)
    instance.keys.change(key.key.api_key_id, lambda found: replace(found, name="n"), ADMIN)
    instance.keys.revoke(key.key.api_key_id, ADMIN)
    _, stored = split(everything(instance, dynamodb_client))
    assert len(stored) == 3 * 8
    shown = repr(stored) + repr(list(instance.audit.of_all()))
    for secret in secrets:
        digest = hashlib.sha256(secret.encode()).digest()
        hidden = secret[len("vm_live_") + 11 : -4]
        for form in (hidden, digest.hex(), base64.b64encode(digest).decode(), repr(digest)[2:-1]):
            assert form not in shown


def test_a_policy_is_recorded_under_its_public_names_with_money_in_usd() -> None:
    policy = Policy(
        active=False,
        daily_cost_usd=5_500_000,
        max_concurrent=0,
        notes="n",
        defaults={Scope.KEY: Policy(daily_requests=3, monthly_cost_usd=1)},
    )
    assert policy_facts(policy) == {
        "active": False,
        "daily_cost_usd": 5.5,
        "max_concurrent": 0,
        "notes": "n",
        "defaults": {"key": {"daily_requests": 3, "monthly_cost_usd": 0.000001}},
    }
    assert policy_facts(Policy()) == {}


@each_change
def test_a_change_costs_two_write_units_for_each_item_of_its_transaction(
    instance: Instance, key: CreatedKey, faults: FaultyClient, action: str
) -> None:
    """The item, its directory entry, three copies of the record, and the project that a key must find open."""
    units: list[float] = []
    transact = faults.client.transact_write_items

    def metered(**request: Any) -> Any:
        answer = transact(**request, ReturnConsumedCapacity="TOTAL")
        units.extend(consumed["CapacityUnits"] for consumed in answer["ConsumedCapacity"])
        return answer

    faults.client.transact_write_items = metered
    CHANGES[action](instance, key.key.api_key_id)
    beside_the_records = {"key.create": 6, "key.change": 6, "key.rotate": 6, "project.change": 2}.get(action, 4)
    assert units == [beside_the_records + 6]


class TestLists:
    @pytest.fixture
    def log(self, instance: Instance, clock: ManualClock) -> list[AuditRecord]:
        """Changes of three users' things, one a second; newest first."""
        for number in range(30):
            clock.advance(seconds=1)
            target = Target(kind="key", id=f"k{number % 5}", user_id=f"user-{number % 3}")
            instance.table.transact(
                *instance.audit.writes(ADMIN, "key.change", target, {"n": number}, {"n": number + 1})
            )
        found = list(instance.audit.of_all())
        assert [record.before for record in found] == [{"n": number} for number in reversed(range(30))]
        return found

    def test_everybody_finds_theirs_newest_first(self, instance: Instance, log: list[AuditRecord]) -> None:
        for user in range(3):
            assert list(instance.audit.of_user(f"user-{user}")) == [
                r for r in log if r.target.user_id == f"user-{user}"
            ]
        for key in range(5):
            assert list(instance.audit.of_target(f"key:k{key}")) == [r for r in log if r.target.id == f"k{key}"]
        assert not list(instance.audit.of_user("user"))
        assert not list(instance.audit.of_target("key:k"))

    @pytest.mark.parametrize("size", [1, 4, 30])
    def test_pages_put_together_are_the_list(self, instance: Instance, log: list[AuditRecord], size: int) -> None:
        for read in (
            instance.audit.of_all,
            lambda before: instance.audit.of_user("user-1", before=before),
            lambda before: instance.audit.of_target("key:k1", before=before),
        ):
            pages: list[AuditRecord] = []
            before = ""
            while page := list(islice(read(before=before), size)):
                pages += page
                before = audit_position(page[-1])
            assert pages == list(read(before=""))

    def test_changes_of_everybody_are_spread_over_partitions(
        self, instance: Instance, log: list[AuditRecord], dynamodb_client: Any
    ) -> None:
        _, stored = split(everything(instance, dynamodb_client))
        shards = [item["pk"]["S"] for item in stored if item["pk"]["S"].startswith("AUDIT#S#")]
        assert len(shards) == len(log)
        assert len(set(shards)) > 4

    def test_a_record_is_kept_for_the_retention_and_not_shown_beyond_it(
        self, table: Table, clock: ManualClock, dynamodb_client: Any, instance: Instance
    ) -> None:
        audit = AuditLog(table, clock, retention_days=30)
        made_at = clock()
        table.transact(*audit.writes(OPERATOR, "key.change", Target(kind="key", id="k", user_id="u"), None, {}))
        _, stored = split(everything(instance, dynamodb_client))
        assert {item["ttl"]["N"] for item in stored} == {str(int((made_at + timedelta(days=30)).timestamp()))}
        clock.advance(days=30)
        assert len(list(audit.of_user("u"))) == 1
        clock.advance(milliseconds=1)
        for found in (audit.of_user("u"), audit.of_target("key:k"), audit.of_all()):
            assert not list(found)

    def test_facts_of_every_kind_come_back_as_they_were(self, instance: Instance) -> None:
        facts = {"text": 'é"\n', "number": 1, "fraction": 0.25, "list": [1, {"a": None}], "yes": True}
        target = Target(kind="policy", id="user:u", user_id="u")
        instance.table.transact(*instance.audit.writes(OPERATOR, "policy.set", target, {}, facts))
        [record] = instance.audit.of_target("policy:user:u")
        assert json.dumps(record.after) == json.dumps(facts)
        assert record.before == {}
        assert record.actor == OPERATOR
