"""An overview as Prometheus reads it: text, or OpenMetrics where it asks for that."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client import exposition as text_format
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from vecmeter import __version__
from vecmeter.ledger.model import Operation
from vecmeter.ledger.totals import DURATION_BOUNDS_MS, Totals
from vecmeter.overview import Overview
from vecmeter.vectors.state import CollectionState, DatabaseState, LastRun

_Amount = Callable[[Totals], float]

# Name without "_total", meaning, and where it comes from.
_COUNTERS: tuple[tuple[str, str, _Amount], ...] = (
    ("requests", "Requests admitted", lambda t: t.requests),
    ("requests_succeeded", "Requests that did what was asked", lambda t: t.succeeded),
    ("requests_refused", "Requests turned away by a limit", lambda t: t.refused),
    ("tokens", "Tokens of text", lambda t: t.tokens),
    ("vectors", "Vectors written, deleted or returned", lambda t: t.vectors),
    ("request_bytes", "Bytes of request bodies", lambda t: t.request_bytes),
    ("response_bytes", "Bytes of response bodies", lambda t: t.bytes - t.request_bytes),
    ("cost_usd", "US dollars billed", lambda t: t.micro_usd / 1_000_000),
)
_OF_TENANTS = ("requests", "requests_refused", "tokens", "vectors", "cost_usd")


def render(overview: Overview, accept: str) -> tuple[bytes, str]:
    """The text, and its content type, by what the ``Accept`` header takes."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(overview))
    if "application/openmetrics-text" in accept:
        # Without annotations in the library.
        text: bytes = openmetrics.generate_latest(registry, version="1.0.0")  # type: ignore[no-untyped-call]
        return text, openmetrics.CONTENT_TYPE_LATEST
    return generate_latest(registry), text_format.CONTENT_TYPE_PLAIN_0_0_4


class _Families(Collector):
    def __init__(self, overview: Overview) -> None:
        self._overview = overview

    def describe(self) -> Iterable[Metric]:
        """Nothing: a registry that lives for one text need not know names beforehand."""
        return ()

    def collect(self) -> Iterator[Metric]:
        overview = self._overview
        yield _gauge("build", "Always 1", {(__version__,): 1}, "version")
        yield from _counters("", _COUNTERS, overview.operations, "operation")
        yield _durations(overview.operations)
        yield _cache_answers(overview.total)
        of_tenants = [counter for counter in _COUNTERS if counter[0] in _OF_TENANTS]
        yield from _counters("project_", of_tenants, overview.projects, "project_id")
        yield from _counters("key_", of_tenants, overview.keys, "api_key_id")
        yield _gauge("requests_in_flight", "Requests admitted and not settled", {(): overview.in_flight})
        yield _gauge("keys_active", "Keys used in the last hour or so", {(): overview.active_keys})
        yield _gauge("database_up", "Whether the database answered", {(): overview.database is not None})
        if overview.database is not None:
            yield from _database(overview.database)


def _counters(
    prefix: str,
    counters: Iterable[tuple[str, str, _Amount]],
    totals: Mapping[Operation, Totals] | Mapping[str, Totals],
    label: str,
) -> Iterator[Metric]:
    for name, meaning, amount in counters:
        family = CounterMetricFamily(f"vecmeter_{prefix}{name}", meaning, labels=[label])
        for value, sums in totals.items():
            family.add_metric([value], amount(sums))
        yield family


def _durations(operations: Mapping[Operation, Totals]) -> Metric:
    family = HistogramMetricFamily(
        "vecmeter_request_duration_seconds", "From admission until the answer was ready", labels=["operation"]
    )
    bounds = [*(str(bound / 1000) for bound in DURATION_BOUNDS_MS), "+Inf"]
    for operation, totals in operations.items():
        buckets = list(zip(bounds, map(float, itertools.accumulate(totals.durations)), strict=True))
        family.add_metric([operation.value], buckets, totals.duration_us / 1_000_000)
    return family


def _cache_answers(total: Totals) -> Metric:
    family = CounterMetricFamily(
        "vecmeter_cache_answers", "Searches answered from memory, from the database, or stale", labels=["result"]
    )
    for result, count in (("hit", total.cache_hits), ("miss", total.cache_misses), ("stale", total.stale_answers)):
        family.add_metric([result], count)
    return family


def _database(state: DatabaseState) -> Iterator[Metric]:
    totals = state.totals
    yield _gauge("database_bytes", "Bytes of the database on disk", {(): totals.bytes})
    yield _gauge("database_connections", "Connections to the database", {(): totals.connections})
    yield _gauge("database_connections_most", "Connections it takes", {(): totals.max_connections})
    yield _gauge("database_dead_rows", "Rows that vacuum has yet to remove", {(): totals.dead_rows})
    yield _gauge("projects", "Projects that have collections", {(): totals.projects})
    yield _gauge("collections", "Collections", {(): totals.collections})
    yield _gauge("vectors_stored", "Vectors stored", {(): totals.vectors})
    yield _gauge("stored_bytes", "Bytes stored, as limits count them", {(): totals.stored_bytes})
    yield from _collections(state.collections)
    yield from _tasks(state.runs)


def _collections(collections: Iterable[CollectionState]) -> Iterator[Metric]:
    labels = ("project_id", "collection")
    named: dict[tuple[str, ...], CollectionState] = {(one.project_id, one.collection): one for one in collections}
    recall = {name: one.recall for name, one in named.items() if one.recall is not None}
    target = {name: one.target_recall for name, one in named.items() if one.target_recall is not None}
    yield _gauge("collection_vectors", "Vectors stored", {name: one.vectors for name, one in named.items()}, *labels)
    yield _gauge("collection_bytes", "Bytes stored", {name: one.bytes for name, one in named.items()}, *labels)
    yield _gauge("collection_recall", "Lowest recall measured of its indexes", recall, *labels)
    yield _gauge("collection_recall_target", "Recall it is to have", target, *labels)


def _tasks(runs: Iterable[LastRun]) -> Iterator[Metric]:
    named: dict[tuple[str, ...], LastRun] = {(run.task,): run for run in runs}
    ended = {name: run.finished_at.timestamp() for name, run in named.items()}
    failed = {name: run.status != "ok" for name, run in named.items()}
    took = {name: (run.finished_at - run.started_at).total_seconds() for name, run in named.items()}
    yield _gauge("task_ended_timestamp_seconds", "When the task's last run ended", ended, "task")
    yield _gauge("task_failed", "Whether it failed", failed, "task")
    yield _gauge("task_duration_seconds", "How long it took", took, "task")


def _gauge(name: str, meaning: str, values: Mapping[tuple[str, ...], float], *labels: str) -> Metric:
    family = GaugeMetricFamily(f"vecmeter_{name}", meaning, labels=labels)
    for label_values, value in values.items():
        family.add_metric(label_values, value)
    return family
