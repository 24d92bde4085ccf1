"""Policies: what each scope may use, where it comes from, and how a change reaches every key at once.

A scope's limit is its own policy's, else the default its nearest parent sets for scopes of its kind, else that of the
next parent up to the system. A project's limits on what it keeps may also come from its user's or the system's own.

An admission looks at nothing but the key's item, so that is where the limits of its parents stand: ``inh``. A change
of a parent's policy is written to its own item first (``L#<scope>#<id>``) and then to every key below, each with a new
version, which every instance's next admission of that key meets. It ends when all keys have it; one that was cut off is
in the list of pending changes, and finished by maintenance.
"""

from __future__ import annotations

import logging
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from vecmeter.errors import LedgerUnavailableError, ProjectNotFoundError, VecmeterError
from vecmeter.ledger.accounts import Account
from vecmeter.ledger.allotments import Allotment, Parent, allotments_on, parent_address, parents_of
from vecmeter.ledger.audit import OPERATOR, Actor, Target, policy_facts
from vecmeter.ledger.encoding import Item
from vecmeter.ledger.key_items import key_address, key_from_item
from vecmeter.ledger.keys import CreatedKey, Keys
from vecmeter.ledger.model import SYSTEM_USER, ApiKey, Clock, LimitState, Policy, Project, Scope, epoch_ms
from vecmeter.ledger.parent_items import ParentItems
from vecmeter.ledger.quotas import (
    CONCURRENT_CODE,
    QUOTAS,
    key_limits,
    policy_of,
    policy_to_item,
)
from vecmeter.ledger.resolution import Resolver, policy_on
from vecmeter.ledger.table import WRITE_ATTEMPTS, ConditionFailed, Table
from vecmeter.ledger.transactions import update
from vecmeter.settings import Settings

_logger = logging.getLogger("vecmeter.ledger")

_CHANGE_TRIES = 20
_WRITERS = 8
_PENDING = "PENDING#POLICY"

BELOW: Mapping[Scope, tuple[Scope, ...]] = {
    Scope.SYSTEM: (Scope.USER, Scope.PROJECT, Scope.KEY),
    Scope.USER: (Scope.PROJECT, Scope.KEY),
    Scope.PROJECT: (Scope.KEY,),
    Scope.KEY: (),
}
"""The scopes for which a policy may set defaults."""


def _assistant(scope: Scope) -> Policy:
    """Limits of a chat assistant: a person's pace per key, and an end to what a day may cost."""
    key = Policy(requests_per_minute=10, requests_per_hour=100, requests_per_day=500)
    user = Policy(daily_cost_usd=5_000_000)
    system = Policy(max_concurrent=100, requests_per_hour=1000, daily_cost_usd=100_000_000)
    own = {Scope.KEY: key, Scope.PROJECT: Policy(), Scope.USER: user, Scope.SYSTEM: system}[scope]
    defaults = {Scope.USER: user, Scope.KEY: key}
    return replace(own, defaults={below: defaults[below] for below in BELOW[scope] if below in defaults})


PROFILES: Mapping[str, Callable[[Scope], Policy]] = {"assistant": _assistant}


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitReport:
    """A scope's own policy; what holds for it (public names, money in micro-USD); where each limit stands."""

    scope: Scope
    scope_id: str
    policy: Policy
    effective: dict[str, Any]
    states: tuple[LimitState, ...]
    user_id: str | None = None
    project_id: str | None = None


@dataclass(frozen=True, slots=True)
class _Moved:
    """A key at the moment a change reached it: how it was before, its item after. Both are one if nothing changed."""

    before: ApiKey
    after: ApiKey
    item: Item


class Policies:
    """Reads and changes policies."""

    def __init__(self, table: Table, keys: Keys, parents: ParentItems, settings: Settings, clock: Clock) -> None:
        self._table = table
        self._keys = keys
        self._parents = parents
        self._settings = settings
        self._clock = clock

    def get(self, scope: Scope, scope_id: str) -> Policy:
        """A scope's own policy: an empty one where none is set. Raises ApiKeyNotFoundError."""
        if scope is Scope.KEY:
            return self._keys.get_with_counters(scope_id)[0].policy
        return policy_on(self._table.get(*parent_address(scope, scope_id)))

    def change(
        self, scope: Scope, scope_id: str, change: Callable[[Policy], Policy], actor: Actor = OPERATOR
    ) -> Policy:
        """Change a policy; when this returns, every instance's next request is measured by it.

        Two changes at once both take effect, one after the other. ``change`` may be called again on its own result,
        and must then leave it as it is.
        """
        if scope is Scope.KEY:
            return self._keys.change_policy(scope_id, change, actor).policy
        address = parent_address(scope, scope_id)
        target = self._target(scope, scope_id)
        for _ in range(_CHANGE_TRIES):
            item = self._table.get(*address) or {}
            before, version = policy_on(item), item.get("v", 0)
            policy = change(before)
            facts = policy_facts(before), policy_facts(policy)
            try:
                self._table.transact(
                    update(
                        *address,
                        update="SET lim = :policy ADD v :one",
                        condition="v = :v" if version else "attribute_not_exists(v)",
                        values={":policy": policy_to_item(policy), ":one": 1} | ({":v": version} if version else {}),
                    ),
                    update(
                        _PENDING,
                        f"{scope.value}#{scope_id}",
                        update="SET since = :now, tk = :token",
                        condition="attribute_exists(pk) OR attribute_not_exists(pk)",
                        values={":now": epoch_ms(self._clock()), ":token": uuid.uuid4().hex},
                    ),
                    *self._keys.audit.writes(actor, "policy.set", target, *facts),
                )
            except ConditionFailed:
                continue
            self.propagate(scope, scope_id)
            return policy
        raise LedgerUnavailableError("The policy changes too fast; try again shortly.")

    def propagate(self, scope: Scope, scope_id: str) -> int:
        """Bring a parent's policy to the keys and projects below it; returns to how many keys. Harmless to repeat."""
        user_id = scope_id if scope is Scope.USER else None
        project_id = scope_id if scope is Scope.PROJECT else None
        pending = self._table.get(_PENDING, f"{scope.value}#{scope_id}") or {}
        for project in self._projects_below(scope, scope_id):
            self._give_project(project)
        api_key_ids = [key.api_key_id for key in self._keys.list(user_id=user_id, project_id=project_id)]
        with ThreadPoolExecutor(_WRITERS) as pool:
            reached = list(pool.map(self._give_key, api_key_ids))
        self._settle_parents(reached, {scope, *BELOW[scope]}, {(scope, scope_id)})
        with suppress(ConditionFailed):  # of a later change, which is under way itself
            self._table.delete_if(
                _PENDING,
                f"{scope.value}#{scope_id}",
                condition="tk = :token",
                values={":token": pending.get("tk", "")},
            )
        return len(reached)

    def finish_pending(self, before: datetime) -> int:
        """Bring changes that were cut off to their end; returns how many began before a moment and were left."""
        pending = self.pending(before)
        for scope, scope_id in pending:
            try:
                self.propagate(scope, scope_id)
            except VecmeterError:
                _logger.exception("change of a policy not finished", extra={"scope": scope, "scope_id": scope_id})
        return len(pending)

    def pending(self, before: datetime) -> list[tuple[Scope, str]]:
        """The scopes whose change began before a moment and has not come to its end."""
        items = self._table.query(_PENDING, between=(" ", "~"))
        names = (item["sk"].split("#", 1) for item in items if item["since"] < epoch_ms(before))
        return [(Scope(scope), scope_id) for scope, scope_id in names]

    def create_key(self, **fields: Any) -> CreatedKey:
        """Create a key (see ``Keys.create``) that has what it inherits before anyone has its secret."""
        created = self._keys.create(**fields)
        self.adopt_key(created.key.api_key_id)
        return created

    def create_project(self, **fields: Any) -> Project:
        """Create a project (see ``Projects.create``) that has what it inherits."""
        project = self._keys.projects.create(**fields)
        self._give_project(project.project_id)
        return project

    def adopt_key(self, api_key_id: str) -> None:
        """Give a new key what it inherits. A change meanwhile finds it listed."""
        moved = self._give_key(api_key_id)
        places = {(parent.scope, parent.scope_id) for parent in parents_of(moved.after)}
        changing = [self._table.get(_PENDING, f"{scope.value}#{scope_id}") for scope, scope_id in places]
        # While a change is under way, that counts what all keys have used; a new one has used nothing.
        if not any(changing):
            self._settle_parents([moved], set(), places)

    def report(self, scope: Scope, scope_id: str) -> LimitReport:
        """A scope's policy and where its limits stand. Raises ApiKeyNotFoundError, ProjectNotFoundError."""
        if scope is Scope.KEY:
            return self.of_key(scope_id)
        resolver = Resolver(self._table)
        user_id = self._keys.projects.get(scope_id).user_id if scope is Scope.PROJECT else None
        limits = resolver.limits(scope, scope_id, user_id)
        return LimitReport(
            scope=scope,
            scope_id=scope_id,
            policy=resolver.policy(scope, scope_id),
            effective=policy_of(limits),
            states=self._parents.used(Parent(scope, scope_id, limits), self._clock()),
            user_id=user_id,
        )

    def of_key(self, api_key_id: str) -> LimitReport:
        """A key's limits with those of its parents, and where they stand. Raises ApiKeyNotFoundError."""
        key, item = self._keys.get_with_counters(api_key_id)
        limits = key_limits(key.policy, key.defaults, self._settings)
        now = self._clock()
        states = list(Account(Scope.KEY, api_key_id, limits, item, now).states())
        for parent in parents_of(key):
            states += self._parents.used(parent, now)
        shown = limits or key_limits(replace(key.policy, active=True), key.defaults, self._settings)
        return LimitReport(
            scope=Scope.KEY,
            scope_id=api_key_id,
            policy=key.policy,
            effective=policy_of(shown),
            states=tuple(states),
            user_id=key.user_id,
            project_id=key.project_id,
        )

    def _target(self, scope: Scope, scope_id: str) -> Target:
        if scope is Scope.PROJECT:
            owner = self._keys.projects.get(scope_id).user_id
            return Target(kind="project", id=scope_id, user_id=owner, project_id=scope_id)
        return Target(kind=scope.value, id=scope_id, user_id=scope_id)

    def _projects_below(self, scope: Scope, scope_id: str) -> Iterator[str]:
        if scope is Scope.PROJECT:
            yield scope_id
        else:
            user_id = scope_id if scope is Scope.USER else None
            yield from (project.project_id for project in self._keys.projects.list(user_id=user_id))

    def _give_project(self, project_id: str) -> None:
        """Its limits stand on the project's item, for keys that belong to none."""
        try:
            project = self._keys.projects.get(project_id)
        except ProjectNotFoundError:
            return
        limits = Resolver(self._table).limits(Scope.PROJECT, project_id, project.user_id)
        if limits == project.limits:
            return
        self._table.update(
            f"P#{project_id}",
            "P",
            update="SET lim = :limits",
            condition="attribute_exists(pk)",
            values={":limits": limits},
            attempts=WRITE_ATTEMPTS,
        )

    def _give_key(self, api_key_id: str) -> _Moved:
        for _ in range(_CHANGE_TRIES):
            before, item = self._keys.get_with_counters(api_key_id)
            # Read after the key: a change that comes later finds the key's version raised, or raises it before us.
            inherited = Resolver(self._table).inherited(before)
            if inherited == {name: limits for name, limits in item.get("inh", {}).items() if name != "g"}:
                return _Moved(before, before, item)
            try:
                item, _ = self._table.update(
                    *key_address(api_key_id),
                    update="SET inh = :inherited ADD v :one",
                    condition="v = :v",
                    # Of another generation: what the key has left of its parents no admission uses any more.
                    values={
                        ":inherited": {**inherited, "g": before.generation + 1},
                        ":v": before.version,
                        ":one": 1,
                    },
                    attempts=WRITE_ATTEMPTS,
                )
            except ConditionFailed:
                continue
            return _Moved(before, key_from_item(item), item)
        raise LedgerUnavailableError("The key's configuration changes too fast; try again shortly.")

    def _settle_parents(
        self, reached: Sequence[_Moved], changed: Set[Scope], places: Iterable[tuple[Scope, str]]
    ) -> None:
        """Return to the parents what the keys had left of them, and tell them what was used before they had limits.

        Args:
            changed: the scopes whose limits may have changed.
            places: parents to look at though no key was reached.
        """
        now, wanted = self._clock(), set(places)
        leftovers: dict[tuple[Scope, str], list[Allotment]] = defaultdict(list)
        used: dict[tuple[Scope, str], Counter[str]] = defaultdict(Counter)
        below: dict[tuple[Scope, str], list[str]] = defaultdict(list)
        for each in reached:
            for scope in (Scope.PROJECT, Scope.USER, Scope.SYSTEM):
                place = scope, _parent_id(each.after, scope)
                if scope in changed and place[1]:
                    wanted.add(place)
                    below[place].append(each.after.api_key_id)
                for quota in QUOTAS:
                    used[place][quota.code] += each.item.get(quota.meter.counter(now), 0)
                if each.before.generation != each.after.generation:
                    leftovers[place] += allotments_on(each.item, scope, each.before.generation)
        for (scope, scope_id), left in leftovers.items():
            self._parents.give_back_leftovers(Parent(scope, scope_id, {}), left)
        for scope, scope_id in sorted(wanted):
            parent, version = self._resolved(scope, scope_id)
            if parent is None:
                continue
            if CONCURRENT_CODE in parent.limits:
                for api_key_id in below[scope, scope_id]:
                    self._parents.recount_places(parent, api_key_id)
            self._parents.begin_counting(parent, version, used[scope, scope_id], now)

    def _resolved(self, scope: Scope, scope_id: str) -> tuple[Parent | None, int]:
        """A parent with the limits that hold for it now, and the version of its policy; None: it is gone."""
        version = (self._table.get(*parent_address(scope, scope_id)) or {}).get("v", 0)
        try:
            user_id = self._keys.projects.get(scope_id).user_id if scope is Scope.PROJECT else None
        except ProjectNotFoundError:
            return None, version
        return Parent(scope, scope_id, Resolver(self._table).limits(scope, scope_id, user_id)), version


def _parent_id(key: ApiKey, scope: Scope) -> str:
    return {Scope.PROJECT: key.project_id or "", Scope.USER: key.user_id, Scope.SYSTEM: SYSTEM_USER}[scope]
