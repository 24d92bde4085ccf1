"""Parameters and answers of the metrics routes."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any

from pydantic import Field

from vecmeter.http.fields import Answer, MeteredAnswer, Parameters
from vecmeter.ledger.totals import DURATION_BOUNDS_MS, Totals
from vecmeter.overview import Overview


class MetricsParameters(Parameters):
    top: Annotated[
        int, Field(ge=0, le=1000, description="Most projects, keys and collections to list: those in use most.")
    ] = 100


class SumsOut(Answer):
    """``durations_ms``: requests by the first bound, in milliseconds, that they did not take longer than."""

    requests: int
    succeeded: int
    refused: int
    tokens: int
    vectors: int
    request_bytes: int
    response_bytes: int
    cost_usd: float
    avg_duration_ms: float
    durations_ms: dict[str, int]


class CacheOut(Answer):
    """``hit_rate``: of the searches that a cache was asked about."""

    hits: int
    misses: int
    stale: int
    hit_rate: float


class DatabaseOut(Answer):
    bytes: int
    connections: int
    max_connections: int
    dead_rows: int
    collections: int
    projects: int
    vectors: int
    stored_bytes: int


class CollectionStateOut(Answer):
    project_id: str
    collection: str
    vectors: int
    bytes: int
    recall: float | None = None
    target_recall: float | None = None


class LastRunOut(Answer):
    task: str
    status: str
    started_at: datetime
    finished_at: datetime


class MetricsOut(MeteredAnswer):
    """``database`` is missing while it does not answer, with what is read from it."""

    total: SumsOut
    by_operation: dict[str, SumsOut]
    projects: dict[str, SumsOut]
    keys: dict[str, SumsOut]
    cache: CacheOut
    active_keys: int
    in_flight: int
    database: DatabaseOut | None = None
    collections: list[CollectionStateOut]
    runs: list[LastRunOut]


def metrics_out(overview: Overview) -> MetricsOut:
    state, total = overview.database, overview.total
    return MetricsOut(
        total=_sums(total),
        by_operation={operation.value: _sums(totals) for operation, totals in overview.operations.items()},
        projects={project_id: _sums(totals) for project_id, totals in overview.projects.items()},
        keys={api_key_id: _sums(totals) for api_key_id, totals in overview.keys.items()},
        cache=_cache(total),
        active_keys=overview.active_keys,
        in_flight=overview.in_flight,
        database=DatabaseOut(**asdict(state.totals)) if state else None,
        collections=[CollectionStateOut(**asdict(one)) for one in state.collections] if state else [],
        runs=[LastRunOut(**asdict(run)) for run in state.runs] if state else [],
    )


def _cache(total: Totals) -> CacheOut:
    asked = total.cache_hits + total.cache_misses + total.stale_answers
    return CacheOut(
        hits=total.cache_hits,
        misses=total.cache_misses,
        stale=total.stale_answers,
        hit_rate=round(total.cache_hits / asked, 6) if asked else 0.0,
    )


def _sums(totals: Totals) -> SumsOut:
    bounds: list[Any] = [*DURATION_BOUNDS_MS, "more"]
    return SumsOut(
        requests=totals.requests,
        succeeded=totals.succeeded,
        refused=totals.refused,
        tokens=totals.tokens,
        vectors=totals.vectors,
        request_bytes=totals.request_bytes,
        response_bytes=totals.bytes - totals.request_bytes,
        cost_usd=totals.micro_usd / 1_000_000,
        avg_duration_ms=totals.avg_duration_ms,
        durations_ms={str(bound): count for bound, count in zip(bounds, totals.durations, strict=True)},
    )
