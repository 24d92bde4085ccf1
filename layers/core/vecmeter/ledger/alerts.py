"""Alerts: a threshold of a calendar quota or budget was crossed. One alert per threshold and window, however many
requests cross it together and on however many instances.

Nobody looks for the request that crossed. Each settlement shows where the limits stand, and each instance that sees
one at or above a threshold makes sure that its alert is there, once: the alert's id is made of scope, limit, window
and threshold, and it is written under the condition that there is none. So a process may die between crossing and
writing: the next request of that window, anywhere, finds the limit above the threshold still.

An alert is written with an entry in its owner's list, one in the list of all and, if there is a bus to tell, one among
the pending, in one transaction. Who wrote it tells the bus at once; what stays pending is told by the sweep.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from vecmeter.errors import LedgerUnavailableError, ProjectNotFoundError, UnavailableError, ViolatedPolicy
from vecmeter.ledger.alert_model import (
    Alert,
    Crossing,
    Exact,
    alert_fields,
    alert_from_item,
    alert_id_of,
    alert_position,
    alert_to_item,
    crossings,
    refusal,
    sort_moment,
)
from vecmeter.ledger.encoding import Item
from vecmeter.ledger.events import MOST_AT_ONCE, Event, EventBus, EventsRefused
from vecmeter.ledger.model import SYSTEM_USER, ApiKey, Clock, LimitState, Scope, epoch_ms, from_epoch_ms
from vecmeter.ledger.signed import ServiceError
from vecmeter.ledger.table import WRITE_ATTEMPTS, ConditionFailed, Table

DETAIL_TYPE = "Vecmeter limit alert"
REPEAT_AFTER = timedelta(hours=1)
# Thresholds an instance knows to be alerted; one that it forgets costs a refused write, and no second alert.
REMEMBERED = 10_000
# Where less than is seen may be used, it is read; not by every request, for each look reads all keys that share it.
LOOK_EVERY = timedelta(seconds=10)
# Two of those who cross together may be in each other's way; the second try finds the alert there.
ATTEMPTS = 2
# After a failure nothing is tried for a while: each request would wait for a table or a bus that is away. The next
# request after that tries again; the bus is told by the sweep.
TABLE_REST = timedelta(seconds=10)
BUS_REST = timedelta(seconds=60)
# The sweep leaves an alert to who wrote it for so long.
GRACE = timedelta(seconds=60)

_PENDING = "ALERTS#PENDING"
_LONG_AGO = datetime.min.replace(tzinfo=UTC)
_logger = logging.getLogger("vecmeter.ledger")


class _Seen(NamedTuple):
    """When the crossing was alerted, and the last hour since in which it was repeated."""

    first: datetime
    repeat: int


class Alerts:
    """Makes, lists and publishes alerts. Threads may share it.

    Args:
        owner_of: the user of a project; raises ProjectNotFoundError.
        bus: None keeps alerts to the API.
    """

    def __init__(
        self,
        table: Table,
        clock: Clock,
        retention_days: int,
        owner_of: Callable[[str], str],
        bus: EventBus | None = None,
    ) -> None:
        self._table = table
        self._clock = clock
        self._retention = timedelta(days=retention_days)
        self._owner_of = owner_of
        self._bus = bus
        self._seen: OrderedDict[Crossing, _Seen] = OrderedDict()
        self._looked: OrderedDict[tuple[str, str], datetime] = OrderedDict()
        self._lock = threading.Lock()
        self._table_rests_until = self._bus_rests_until = _LONG_AGO
        self._failures = 0
        self._written: Counter[Scope] = Counter()

    def observe(
        self,
        key: ApiKey,
        states: Iterable[LimitState],
        *,
        threshold_pct: int,
        repeat_hourly: bool = False,
        exact: Exact | None = None,
    ) -> None:
        """Make sure of the alerts of limits that a request left at or above ``threshold_pct`` or 100 percent.

        Never raises for the ledger or the bus: the next request tries again. A sighting that is not new costs nothing.

        Args:
            key: whose request it was.
            states: limits of any scope and kind, after the request; only daily and monthly ones alert.
            repeat_hourly: alert again, of the highest threshold, at most once in each hour since it was crossed.
            exact: where ``states`` may overstate what is used, as what is handed out does. Nothing is alerted without
                it; it is asked when there is news, once in ``LOOK_EVERY``, and the sweep asks it, too.
        """
        with self._failing_alone():
            news = [state for state in states if self._news(state, threshold_pct, repeat_hourly)]
            if exact is not None and news:
                news = [*exact()] if self._may_look(news[0]) else []
            for state in news:
                for crossing in self._news(state, threshold_pct, repeat_hourly):
                    self._ensure(key, state, crossing)
                if repeat_hourly and (crossed := crossings(state, threshold_pct)):
                    self._repeat(key, state, crossed[-1])

    def missing(
        self, states: Iterable[LimitState], *, threshold_pct: int, repeat_hourly: bool, exact: Exact | None = None
    ) -> Iterator[str]:
        """What ``observe`` would make alerts of, as the table has it. Raises LedgerUnavailableError."""
        crossed = [state for state in states if crossings(state, threshold_pct)]
        for state in exact() if exact is not None and crossed else crossed:
            found = crossings(state, threshold_pct)
            for crossing in found:
                first = self._table.get(*_address(alert_id_of(crossing, 0)))
                hours = 0 if first is None else (self._clock() - alert_from_item(first).created_at) // REPEAT_AFTER
                repeats = repeat_hourly and hours > 0 and crossing is found[-1]
                if first is None or (repeats and self._table.get(*_address(alert_id_of(crossing, hours))) is None):
                    yield f"{state.scope} {state.scope_id}: {crossing.threshold_pct} % of {state.name}, {state.limit}"

    def observe_refusal(self, key: ApiKey, project_id: str | None, violated: Iterable[ViolatedPolicy]) -> None:
        """The same for a request that limits refused: what is left of them may never be used.

        Args:
            project_id: where the request went.
        """
        for policy in violated:
            found = refusal(key, project_id, policy)
            if found is not None and found[1] not in self._seen and self._clock() >= self._table_rests_until:
                with self._failing_alone():
                    self._ensure(key, *found)

    @contextmanager
    def _failing_alone(self) -> Iterator[None]:
        """What goes wrong with an alert is none of the request's business."""
        try:
            yield
        except (LedgerUnavailableError, ServiceError):
            _logger.exception("alert not written")
            self._table_rests_until = self._clock() + TABLE_REST
            self._count_failures(1)

    def take_failures(self) -> int:
        """Alerts that could not be written or told since this was asked last."""
        with self._lock:
            failures, self._failures = self._failures, 0
        return failures

    def take_written(self) -> Counter[Scope]:
        """Alerts that were written since this was asked last, by the scope of the limit."""
        with self._lock:
            written, self._written = self._written, Counter()
        return written

    def read(self, start: datetime, end: datetime, *, user_id: str | None = None, before: str = "") -> Iterator[Alert]:
        """Alerts created in [start, end) that are a user's, or of all users, newest first.

        Args:
            before: the ``alert_position`` of the last alert seen, to go on after it.
        """
        low, high = sort_moment(start), min(sort_moment(end), before) if before else sort_moment(end)
        for partition in [_list_of(user_id)] if user_id is not None else _months(start, end):
            for item in self._table.query(partition, between=(low, high), newest_first=True):
                if not before or item["sk"] < before:
                    yield alert_from_item(item)

    def publish_pending(self) -> dict[str, int]:
        """Tell the bus what it was not told; returns how many were ``published``. The sweep does this.

        An alert may be told twice, when an answer was lost: its id tells the two apart.

        Raises:
            UnavailableError: the bus takes no events; they stay pending.
        """
        published = failed = 0
        pending = self._pending()
        while batch := list(itertools.islice(pending, MOST_AT_ONCE)):
            untold = [item for item in batch if "sent" not in item]
            taken = self._put(list(map(alert_from_item, untold))) if self._bus and untold else []
            done = [item for item, accepted in zip(untold, taken, strict=False) if accepted]
            told = [item for item in batch if "sent" in item]
            self._table.delete_many((item["pk"], item["sk"]) for item in (*told, *done))
            published += len(done)
            failed += len(taken) - len(done)
        if failed:
            raise UnavailableError(f"EventBridge did not take {failed} alerts; they stay pending.")
        return {"published": published}

    def count_pending(self) -> int:
        """How many ``publish_pending`` would tell the bus."""
        return sum(1 for item in self._pending() if "sent" not in item)

    def _pending(self) -> Iterator[Item]:
        return iter(self._table.query(_PENDING, between=("0", sort_moment(self._clock() - GRACE))))

    def close(self) -> None:
        if self._bus is not None:
            self._bus.close()

    def _news(self, state: LimitState, threshold_pct: int, repeat_hourly: bool) -> list[Crossing]:
        """Crossings this instance knows no alert of; also the highest one, where it is time to repeat it."""
        crossed = crossings(state, threshold_pct)
        if not crossed or self._clock() < self._table_rests_until:
            return []
        return [
            crossing
            for crossing in crossed
            if crossing not in self._seen or (repeat_hourly and crossing is crossed[-1] and self._is_due(crossing))
        ]

    def _is_due(self, crossing: Crossing) -> bool:
        seen = self._seen[crossing]
        return self._hours_since(seen) > seen.repeat

    def _hours_since(self, seen: _Seen) -> int:
        return (self._clock() - seen.first) // REPEAT_AFTER

    def _may_look(self, state: LimitState) -> bool:
        now, scope = self._clock(), (str(state.scope), state.scope_id)
        with self._lock:
            last = self._looked.pop(scope, _LONG_AGO)
            may = not timedelta(0) <= now - last < LOOK_EVERY
            self._looked[scope] = now if may else last
            if len(self._looked) > REMEMBERED:
                self._looked.popitem(last=False)
        return may

    def _ensure(self, key: ApiKey, state: LimitState, crossing: Crossing) -> None:
        if crossing not in self._seen:
            self._remember(crossing, _Seen(self._write(self._alert(key, state, crossing, 0)), 0))

    def _repeat(self, key: ApiKey, state: LimitState, crossing: Crossing) -> None:
        seen = self._seen.get(crossing)
        if seen is None:  # forgotten meanwhile
            return
        hours = self._hours_since(seen)
        if hours > seen.repeat:
            self._write(self._alert(key, state, crossing, hours))
            self._remember(crossing, _Seen(seen.first, hours))

    def _write(self, alert: Alert) -> datetime:
        """Write an alert unless it is there; returns when the one that stands was created."""
        content = alert_to_item(alert, int(max(alert.created_at + self._retention, _day_after(alert)).timestamp()))
        position = alert_position(alert)
        items: list[Item] = [
            # first: whether it is there tells whether there is an alert
            dict(zip(("pk", "sk"), _address(alert.alert_id), strict=True)) | content,
            {"pk": _list_of(alert.user_id), "sk": position, **content},
            {"pk": _month(alert.created_at), "sk": position, **content},
        ]
        if self._bus is not None:
            items.append({"pk": _PENDING, "sk": position, **content})
        try:
            self._table.insert(*items, attempts=ATTEMPTS)
        except ConditionFailed as known:
            return alert_from_item(known.item).created_at if known.item else alert.created_at
        with self._lock:
            self._written[Scope(alert.scope)] += 1
        self._publish(alert)
        return alert.created_at

    def _publish(self, alert: Alert) -> None:
        """At once, by who wrote it. What goes wrong is left to the sweep."""
        if self._bus is None or self._clock() < self._bus_rests_until:
            return
        if self._put([alert]) != [True]:
            self._bus_rests_until = self._clock() + BUS_REST
            return
        try:
            self._table.update(
                _PENDING,
                alert_position(alert),
                update="SET sent = :now",
                # not taken away by a sweep, which told it too
                condition="attribute_exists(pk)",
                values={":now": epoch_ms(self._clock())},
                attempts=WRITE_ATTEMPTS,  # repeating it says the same once more
            )
        except ConditionFailed:
            return

    def _put(self, alerts: list[Alert]) -> list[bool]:
        assert self._bus is not None
        try:
            taken = self._bus.put(list(map(_event, alerts)))
        except EventsRefused as refused:
            _logger.error("alerts not published", extra={"alerts": len(alerts), "reason": str(refused)})
            taken = [False] * len(alerts)
        self._count_failures(taken.count(False))
        return taken

    def _alert(self, key: ApiKey, state: LimitState, crossing: Crossing, repeat: int) -> Alert:
        assert state.resets_at is not None
        user_id, project_id, api_key_id = self._owner(key, crossing)
        return Alert(
            alert_id=alert_id_of(crossing, repeat),
            **crossing._asdict(),
            used=state.used,
            resets_at=state.resets_at,
            created_at=from_epoch_ms(epoch_ms(self._clock())),
            user_id=user_id,
            project_id=project_id,
            api_key_id=api_key_id,
            repeat=repeat,
        )

    def _owner(self, key: ApiKey, crossing: Crossing) -> tuple[str, str | None, str | None]:
        """User, project and key that an alert belongs to: the scope's, not those of whose request came across it."""
        match crossing.scope:
            case "key":
                return key.user_id, key.project_id, key.api_key_id
            case "project":
                try:
                    return self._owner_of(crossing.scope_id), crossing.scope_id, None
                except ProjectNotFoundError:  # deleted meanwhile
                    return key.user_id, crossing.scope_id, None
            case "user":
                return crossing.scope_id, None, None
            case _:
                return SYSTEM_USER, None, None

    def _count_failures(self, failures: int) -> None:
        with self._lock:
            self._failures += failures

    def _remember(self, crossing: Crossing, seen: _Seen) -> None:
        with self._lock:
            # Taken out first, so that the one written longest ago stands first.
            self._seen.pop(crossing, None)
            self._seen[crossing] = seen
            if len(self._seen) > REMEMBERED:
                self._seen.popitem(last=False)


def _event(alert: Alert) -> Event:
    fields = {name: _text(value) for name, value in alert_fields(alert).items()}
    owner = {"user_id": alert.user_id, "project_id": alert.project_id, "api_key_id": alert.api_key_id}
    return Event(DETAIL_TYPE, fields | owner, alert.created_at)


def _text(value: Any) -> Any:
    return value.isoformat().replace("+00:00", "Z") if isinstance(value, datetime) else value


def _address(alert_id: str) -> tuple[str, str]:
    return f"ALERT#{alert_id}", "A"


def _list_of(user_id: str) -> str:
    return f"ALERTS#U#{user_id}"


def _month(moment: datetime) -> str:
    """The list of all users' alerts is cut by months, so that no partition grows for ever."""
    return f"ALERTS#{moment:%y%m}"


def _months(start: datetime, end: datetime) -> Iterator[str]:
    """Partitions of the list of all users, the newest first."""
    month = end
    while month >= start.replace(day=1, hour=0, minute=0, second=0, microsecond=0):
        yield _month(month)
        month = month.replace(day=1) - timedelta(days=1)


def _day_after(alert: Alert) -> datetime:
    """Until then an instance whose clock runs behind may come across the crossing."""
    return alert.resets_at + timedelta(days=1)
