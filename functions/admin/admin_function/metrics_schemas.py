"""Parameters and answers of the metrics routes."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any

from pydantic import Field

from vecmeter.http.fields import Answer, MeteredAnswer, Parameters, examples, took
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


_SUMS: dict[str, Any] = {
    "requests": 4,
    "succeeded": 4,
    "refused": 0,
    "tokens": 12,
    "vectors": 7,
    "request_bytes": 199,
    "response_bytes": 1777,
    "cost_usd": 2.4e-05,
    "avg_duration_ms": 6.474,
    "durations_ms": {"10": 3, "25": 1, "50": 0, "100": 0, "250": 0, "500": 0, "1000": 0, "2500": 0, "5000": 0}
    | {"more": 0},
}


class MetricsOut(MeteredAnswer):
    """``database`` is missing while it does not answer, with what is read from it."""

    model_config = examples(
        {
            "total": _SUMS,
            "by_operation": {"search": _SUMS},
            "projects": {"acme": _SUMS},
            "keys": {"key_47Zpx437HfE": _SUMS},
            "cache": {"hits": 1, "misses": 3, "stale": 0, "hit_rate": 0.25},
            "active_keys": 2,
            "in_flight": 1,
            "database": {
                "bytes": 8_443_583,
                "connections": 2,
                "max_connections": 200,
                "dead_rows": 0,
                "collections": 1,
                "projects": 1,
                "vectors": 2,
                "stored_bytes": 2110,
            },
            "collections": [
                {"project_id": "acme", "collection": "notes", "vectors": 2, "bytes": 2110, "target_recall": 0.95}
            ],
            "runs": [
                {
                    "task": "vacuum_analyze",
                    "status": "ok",
                    "started_at": "2026-11-21T12:00:00Z",
                    "finished_at": "2026-11-21T12:00:01Z",
                }
            ],
            "usage": took(0.0),
        }
    )

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
