"""Operations on the service as a whole: its health, and what the calling key used and may use."""

from __future__ import annotations

from datetime import datetime

from vecmeter_client._flow import Flow, Route
from vecmeter_client._input import moment
from vecmeter_client._places import ServiceAt
from vecmeter_client._reading import answered, spread
from vecmeter_client._reports import Health, OwnCosts, QuotaReport, Readiness, UsageReport

HEALTH = Route("GET", "/health", versioned=False)
READY = Route("GET", "/health/ready", versioned=False)
USAGE = Route("GET", "/usage/me")
COSTS = Route("GET", "/costs/me")
QUOTA = Route("GET", "/quota/me")


def health(at: ServiceAt) -> Flow[Health]:
    """Whether the service answers, and its version; needs no key."""
    answer = yield HEALTH.to()
    return answered(Health, answer)


def ready(at: ServiceAt) -> Flow[Readiness]:
    """Whether all it needs answers, too. Raises NotReadyError, whose ``checks`` say what does not."""
    answer = yield READY.to()
    return answered(Readiness, answer)


def usage(
    at: ServiceAt, hours: int = 24, *, start: datetime | str | None = None, end: datetime | str | None = None
) -> Flow[UsageReport]:
    """What the calling key used in the last ``hours``, or from ``start`` to ``end``. Looking is free."""
    query = {"hours": hours, "start": moment(start, "start"), "end": moment(end, "end")}
    answer = yield USAGE.to(query=query)
    return answered(UsageReport, answer)


def costs(at: ServiceAt, days: int = 30) -> Flow[OwnCosts]:
    """What the calling key cost today, this month, and on each of the last ``days``. Looking is free."""
    answer = yield COSTS.to(query={"days": days})
    return answered(OwnCosts, answer)


def quota(at: ServiceAt) -> Flow[QuotaReport]:
    """The calling key's limits and what is left of them. Looking is free."""
    answer = yield QUOTA.to()
    return spread(QuotaReport, answer, "limits")
