"""What holds for whom: a scope's own policy, what its parents set for it, and what a key's item says of both."""

from __future__ import annotations

from vecmeter.ledger.allotments import parent_address
from vecmeter.ledger.encoding import Item
from vecmeter.ledger.model import SYSTEM_USER, ApiKey, Limits, Policy, Scope
from vecmeter.ledger.quotas import STOCK_CODES, own_limits, policy_from_item
from vecmeter.ledger.table import Table


class Resolver:
    """Resolves what holds for whom; reads each policy once."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._policies: dict[tuple[Scope, str], Policy] = {}

    def policy(self, scope: Scope, scope_id: str) -> Policy:
        if (scope, scope_id) not in self._policies:
            self._policies[scope, scope_id] = policy_on(self._table.get(*parent_address(scope, scope_id)))
        return self._policies[scope, scope_id]

    def limits(self, scope: Scope, scope_id: str, user_id: str | None) -> Limits:
        """What holds for a parent; nothing when its policy is switched off."""
        own = self.policy(scope, scope_id)
        if not own.active:
            return {}
        above = [self.policy(Scope.SYSTEM, SYSTEM_USER)]
        if scope is Scope.SYSTEM:
            return own_limits(own)
        if scope is Scope.PROJECT and user_id is not None:
            above.append(self.policy(Scope.USER, user_id))
        inherited: dict[str, int] = {}
        for policy in above:
            if scope is Scope.PROJECT:
                inherited |= {code: n for code, n in own_limits(policy).items() if code in STOCK_CODES}
            inherited |= _default(policy, scope)
        return inherited | dict(own_limits(own))

    def inherited(self, key: ApiKey) -> dict[str, Limits]:
        """What stands on a key's item: the defaults for it, and its parents' limits, by the scopes' letters."""
        parents = {Scope.SYSTEM: SYSTEM_USER, Scope.USER: key.user_id}
        if key.project_id is not None:
            parents[Scope.PROJECT] = key.project_id
        defaults: dict[str, int] = {}
        for scope, scope_id in parents.items():
            defaults |= _default(self.policy(scope, scope_id), Scope.KEY)
        found = {scope.letter: self.limits(scope, scope_id, key.user_id) for scope, scope_id in parents.items()}
        return {letter: limits for letter, limits in {**found, Scope.KEY.letter: defaults}.items() if limits}


def _default(policy: Policy, scope: Scope) -> Limits:
    below = policy.defaults.get(scope)
    return own_limits(below) if below is not None and policy.active else {}


def policy_on(item: Item | None) -> Policy:
    return policy_from_item((item or {}).get("lim", {}))
