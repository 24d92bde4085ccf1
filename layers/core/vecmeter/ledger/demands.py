"""What a request asks of the ledger, and what it gets: admission or refusal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from vecmeter.errors import LimitExceededError, ViolatedPolicy
from vecmeter.ledger.accounts import Shortage
from vecmeter.ledger.allotments import Parent
from vecmeter.ledger.holds import HoldMark
from vecmeter.ledger.keys import Credential
from vecmeter.ledger.model import ApiKey, Cost, LimitState, Operation, Role
from vecmeter.ledger.prices import PriceList


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What a request asks for. ``role`` None: any key will do; ``project_id`` None: the route belongs to no project.

    ``request_id`` must be ours: it marks the request as counted, so a client's word would let it ride for free.
    ``prices``: the list that the cost was reckoned by and the request is billed by; None: the current one.
    ``in_own_project``: the route concerns the key's project, so the key must belong to one.
    """

    request_id: str
    credential: Credential
    role: Role | None
    operation: Operation
    endpoint: str
    project_id: str | None
    request_bytes: int
    cost: Cost
    prices: PriceList | None = None
    in_own_project: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """An admitted request. Its cost is counted already, in the windows of ``started_at`` (whole milliseconds).

    ``repeated``: it took more than one try, so that a copy of the admission may still be on its way.
    ``dead_holds``: what the admission's answer showed of requests that never settled. ``uncounted``: the ledger was
    away. ``stock``: limits on what the
    project may keep, by their public names.
    """

    demand: Demand
    key: ApiKey
    started_at: datetime
    limits: tuple[LimitState, ...]
    repeated: bool = False
    dead_holds: tuple[HoldMark, ...] = ()
    uncounted: bool = False
    project: Parent | None = None
    stock: Mapping[str, int] = field(default_factory=dict)

    @property
    def project_id(self) -> str | None:
        return self.demand.project_id or self.key.project_id

    @property
    def own_project(self) -> str:
        """The project of a request that is about the key's own."""
        assert self.key.project_id is not None, "in_own_project admits none without"
        return self.key.project_id

    @property
    def mark(self) -> HoldMark:
        return mark_of(self.demand, self.key, self.started_at)


class Crowded(Exception):
    """Too many requests in flight, some of which may be dead: those of these keys. Otherwise it is a refusal."""

    def __init__(self, refusal: LimitExceededError, api_key_ids: Iterable[str]) -> None:
        super().__init__(refusal.detail)
        self.refusal = refusal
        self.api_key_ids = tuple(api_key_ids)


def refusal(shortages: Iterable[Shortage], now: datetime, crowded: Iterable[str] = ()) -> LimitExceededError | Crowded:
    """What says no, in numbers; ``crowded``: keys whose requests in flight may be dead."""
    found = list(shortages)
    room_at = max(shortage.room_at for shortage in found)
    states = [shortage.state for shortage in found]
    error = LimitExceededError(
        tuple(
            ViolatedPolicy(s.name, s.scope, s.limit, s.used, s.remaining, s.resets_at, s.window_seconds) for s in states
        ),
        retry_after=max(1, math.ceil((room_at - now).total_seconds())),
    )
    return Crowded(error, crowded) if any(state.resets_at is None for state in states) else error


def mark_of(demand: Demand, key: ApiKey, now: datetime) -> HoldMark:
    return HoldMark(
        request_id=demand.request_id,
        started_at=now,
        operation=demand.operation,
        project_id=demand.project_id if key.project_id is None else None,
        reserved=demand.cost,
        price_number=demand.prices.number if demand.prices else 0,
    )
