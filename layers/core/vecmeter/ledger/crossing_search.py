"""Finds crossed thresholds that no request made an alert of.

Requests see the limits of their key, and of its parents only what they take from an allotment. And a process may die
after the last request of a window, before it writes. So the sweep looks at every key that was active lately and at
its parents: each key once, each parent once, however many keys share it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from vecmeter.errors import ApiKeyNotFoundError
from vecmeter.ledger.accounts import Account
from vecmeter.ledger.activity import Activity
from vecmeter.ledger.alerts import Alerts
from vecmeter.ledger.allotments import Parent, parents_of
from vecmeter.ledger.keys import Keys
from vecmeter.ledger.model import ApiKey, Clock, Limits, LimitState, Scope
from vecmeter.ledger.parent_items import ParentItems
from vecmeter.ledger.quotas import key_limits, policy_of
from vecmeter.settings import Settings

# A window that ended so lately is looked at once more: its last request may have come after the sweep before.
LOOK_BACK = timedelta(minutes=15)


class CrossingSearch:
    """Looks for crossings and makes their alerts. ``activity`` says which keys were used lately."""

    def __init__(
        self,
        alerts: Alerts,
        activity: Activity,
        keys: Keys,
        parents: ParentItems,
        settings: Settings,
        clock: Clock,
    ) -> None:
        self._alerts = alerts
        self._activity = activity
        self._keys = keys
        self._parents = parents
        self._settings = settings
        self._clock = clock

    def run(self) -> dict[str, int]:
        """Returns how many ``keys`` and ``parents`` were looked at. Raises LedgerUnavailableError."""
        return self._look(self._alerts.observe)

    def unalerted(self) -> list[str]:
        """The crossings that ``run`` would make alerts of. Raises LedgerUnavailableError."""
        found: dict[str, None] = {}

        def note(_: ApiKey, states: Iterable[LimitState], **how: Any) -> None:
            found.update(dict.fromkeys(self._alerts.missing(states, **how)))

        self._look(note)
        return list(found)

    def _look(self, observe: Callable[..., None]) -> dict[str, int]:
        if not self._settings.usage_tracking_enabled:
            return {"keys": 0, "parents": 0}
        parents: dict[tuple[Scope, str], tuple[ApiKey, Parent]] = {}
        looked_at = {mark.api_key_id for mark in self._activity.marks()}
        for api_key_id in sorted(looked_at):
            try:
                key, item = self._keys.get_with_counters(api_key_id)
            except ApiKeyNotFoundError:  # deleted meanwhile
                continue
            limits = key_limits(key.policy, key.defaults, self._settings)
            for moment in self._moments():
                states = Account(Scope.KEY, api_key_id, limits, item, moment).states()
                observe(key, states, **_how(limits))
            parents |= {(parent.scope, parent.scope_id): (key, parent) for parent in parents_of(key)}
        for key, parent in parents.values():
            for moment in self._moments():
                handed_out = self._parents.account(parent, moment).states()
                exact = partial(self._parents.used, parent, moment)
                observe(key, handed_out, **_how(parent.limits), exact=exact)
        return {"keys": len(looked_at), "parents": len(parents)}

    def _moments(self) -> Iterator[datetime]:
        """Now, and where a window ended lately, its end."""
        now = self._clock()
        if (now - LOOK_BACK).date() != now.date():
            yield now - LOOK_BACK
        yield now


def _how(limits: Limits) -> dict[str, Any]:
    policy = policy_of(limits)
    return {"threshold_pct": policy["alert_threshold_pct"], "repeat_hourly": policy["alert_repeat_hourly"]}
