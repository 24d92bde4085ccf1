"""Audit records: who changed what, when, and how it was before. Written in the transaction of the change itself.

A record is kept three times, because it is asked for in three ways and rarely written: with its target, with the user
who owns the target, and for the operator with everybody's. Each is read newest first by one query; the last is spread
over ``_SHARDS`` partitions, so that no partition takes every change there is.
"""

from __future__ import annotations

import dataclasses
import heapq
import json
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from vecmeter.ledger.encoding import Item
from vecmeter.ledger.model import SYSTEM_USER, Clock, Policy, epoch_ms, from_epoch_ms
from vecmeter.ledger.table import Table
from vecmeter.ledger.transactions import Write, insert

_BY_TARGET, _BY_OWNER, _OF_ALL = "AUDIT#T#", "AUDIT#U#", "AUDIT#S#"
_SHARDS = 8
# Records a query reads at a time: somewhat more than a page of most callers.
_READ_AHEAD = 120

_PLAIN: Mapping[str, Any] = {"active": True, "defaults": {}}  # what a policy says when it says nothing

Facts = Mapping[str, Any]
"""What JSON can hold of a thing's state, by its public names. Never a secret, nor the hash of one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """Who makes a change. ``api_key_id`` and ``request_id`` None: no request of the API, but a task of the operator."""

    user_id: str
    api_key_id: str | None = None
    request_id: str | None = None


OPERATOR = Actor(user_id=SYSTEM_USER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is changed, and whose it is: who may see the thing may see what became of it.

    ``user_id``: the owner, ``system`` for what is the operator's; ``project_id`` None: it belongs to no project.
    """

    kind: str
    id: str
    user_id: str
    project_id: str | None = None

    def __str__(self) -> str:
        return f"{self.kind}:{self.id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRecord:
    """One change. ``before`` and ``after`` hold what differs; None: there was nothing before, or is nothing after."""

    audit_id: str
    at: datetime
    actor: Actor
    action: str
    target: Target
    before: Facts | None
    after: Facts | None


class AuditLog:
    """Makes the writes that record a change, and reads what was recorded."""

    def __init__(self, table: Table, clock: Clock, retention_days: int) -> None:
        self._table = table
        self._clock = clock
        self._retention = timedelta(days=retention_days)

    def writes(
        self, actor: Actor, action: str, target: Target, before: Facts | None, after: Facts | None
    ) -> tuple[Write, ...]:
        """What to add to the transaction of a change (``Table.transact``), so that neither is without the other.

        Args:
            action: what is done to which kind of thing: ``key.rotate``.
            before, after: its state; what is equal in both is left out.
        """
        now = self._clock()
        audit_id = secrets.token_hex(8)
        before, after = _difference(before, after)
        record: Item = {
            "sk": f"{_moment(now)}#{audit_id}",
            "ac": action,
            "tk": target.kind,
            "ti": target.id,
            "u": target.user_id,
            "p": target.project_id,
            "au": actor.user_id,
            "ak": actor.api_key_id,
            "rq": actor.request_id,
            "b": _dumped(before),
            "a": _dumped(after),
            "ttl": int((now + self._retention).timestamp()),
        }
        shard = int(audit_id, 16) % _SHARDS
        partitions = (f"{_BY_TARGET}{target}", _BY_OWNER + target.user_id, f"{_OF_ALL}{shard}")
        return tuple(insert({"pk": pk, **record}) for pk in partitions)

    def of_target(self, target: str, *, before: str = "") -> Iterator[AuditRecord]:
        """What was done to a thing (``key:key_...``), newest first, whoever owned it at the time.

        Args:
            before: the ``audit_position`` of the last record seen, to go on after it.
        """
        return map(_from_item, self._newest_first(_BY_TARGET + target, before))

    def of_user(self, user_id: str, *, before: str = "") -> Iterator[AuditRecord]:
        """What was done to all that a user owns, newest first."""
        return map(_from_item, self._newest_first(_BY_OWNER + user_id, before))

    def of_all(self, *, before: str = "") -> Iterator[AuditRecord]:
        """What was done to anything, newest first."""
        shards = [self._newest_first(f"{_OF_ALL}{shard}", before) for shard in range(_SHARDS)]
        return map(_from_item, heapq.merge(*shards, key=lambda item: str(item["sk"]), reverse=True))

    def _newest_first(self, pk: str, before: str) -> Iterator[Item]:
        # TTL deletes late: what is past its time is not shown any more.
        low = _moment(self._clock() - self._retention)
        found = self._table.query(pk, between=(low, before or "9"), newest_first=True, page_size=_READ_AHEAD)
        return (item for item in found if item["sk"] != before)


def policy_facts(policy: Policy) -> Facts:
    """What a policy sets, by its public names; money in USD."""
    facts: dict[str, Any] = {}
    for field in dataclasses.fields(policy):
        value = getattr(policy, field.name)
        if value is None or value == _PLAIN.get(field.name):
            continue
        if isinstance(value, Mapping):
            facts[field.name] = {str(name): policy_facts(part) for name, part in value.items()}
        else:
            facts[field.name] = value / 1_000_000 if field.name.endswith("_usd") else value
    return facts


def audit_position(record: AuditRecord) -> str:
    """Where a record stands in every list it is in."""
    return f"{_moment(record.at)}#{record.audit_id}"


def _difference(before: Facts | None, after: Facts | None) -> tuple[Facts | None, Facts | None]:
    if before is None or after is None:
        return before, after
    changed = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return {n: before[n] for n in changed if n in before}, {n: after[n] for n in changed if n in after}


def _dumped(facts: Facts | None) -> str | None:
    return None if facts is None else json.dumps(facts, separators=(",", ":"), ensure_ascii=False)


def _loaded(text: str | None) -> Facts | None:
    return None if text is None else json.loads(text)


def _moment(moment: datetime) -> str:
    return f"{epoch_ms(moment):013d}"


def _from_item(item: Item) -> AuditRecord:
    at, audit_id = item["sk"].split("#", 1)
    return AuditRecord(
        audit_id=audit_id,
        at=from_epoch_ms(int(at)),
        actor=Actor(user_id=item["au"], api_key_id=item.get("ak"), request_id=item.get("rq")),
        action=item["ac"],
        target=Target(kind=item["tk"], id=item["ti"], user_id=item["u"], project_id=item.get("p")),
        before=_loaded(item.get("b")),
        after=_loaded(item.get("a")),
    )
