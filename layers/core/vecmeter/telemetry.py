"""Metrics, and the one log line of a request.

Metrics go out as one line of CloudWatch's embedded metric format (EMF) per request, written with Powertools. Tenants
are properties of a line, never dimensions: each value of a dimension would be a metric on the bill. No vector, document
or secret reaches it (docs/metrics.md).
"""

from __future__ import annotations

import json
import logging
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from enum import Enum
from http import HTTPStatus
from typing import TYPE_CHECKING

# The submodules, not the package's own names: those would load the tracer's and the event handlers' as well.
from aws_lambda_powertools.metrics.provider import cold_start
from aws_lambda_powertools.metrics.provider.cloudwatch_emf.cloudwatch import AmazonCloudWatchEMFProvider
from aws_lambda_powertools.metrics.provider.cloudwatch_emf.metric_properties import MetricUnit

from vecmeter.logs import current_request_id

if TYPE_CHECKING:
    from vecmeter.tracing import Trace, Tracing


class Metric(Enum):
    """Every metric there is; ``docs/metrics.md`` is checked against it. The value is name and unit."""

    REQUESTS = ("Requests", MetricUnit.Count)
    LATENCY = ("Latency", MetricUnit.Milliseconds)
    REFUSALS = ("Refusals", MetricUnit.Count)
    ERRORS = ("Errors", MetricUnit.Count)
    SEARCH_TIME = ("SearchTime", MetricUnit.Milliseconds)
    DATABASE_TIME = ("DatabaseTime", MetricUnit.Milliseconds)
    LEDGER_TIME = ("LedgerTime", MetricUnit.Milliseconds)
    EMBEDDING_TIME = ("EmbeddingTime", MetricUnit.Milliseconds)
    VECTORS_WRITTEN = ("VectorsWritten", MetricUnit.Count)
    TOKENS = ("Tokens", MetricUnit.Count)
    COST = ("CostMicroUsd", MetricUnit.Count)
    USAGE_RECORD_FAILURES = ("UsageRecordFailures", MetricUnit.Count)
    ALERT_FAILURES = ("AlertFailures", MetricUnit.Count)
    COLD_STARTS = ("ColdStarts", MetricUnit.Count)
    CACHE_HITS = ("CacheHits", MetricUnit.Count)
    CACHE_MISSES = ("CacheMisses", MetricUnit.Count)
    CACHE_EVICTIONS = ("CacheEvictions", MetricUnit.Count)
    CACHE_BYTES = ("CacheBytes", MetricUnit.Bytes)
    STALE_ANSWERS = ("StaleAnswers", MetricUnit.Count)
    CIRCUIT_OPENED = ("CircuitOpened", MetricUnit.Count)
    CIRCUIT_REFUSALS = ("CircuitRefusals", MetricUnit.Count)
    RECALL = ("Recall", MetricUnit.Percent)
    RECALL_BELOW_TARGET = ("RecallBelowTarget", MetricUnit.Count)
    LIMIT_ALERTS = ("LimitAlerts", MetricUnit.Count)
    SYSTEM_LIMIT_ALERTS = ("SystemLimitAlerts", MetricUnit.Count)
    CPU_TIME = ("CpuTime", MetricUnit.Milliseconds)
    MEMORY = ("MemoryBytes", MetricUnit.Bytes)

    def __init__(self, label: str, unit: MetricUnit) -> None:
        self.label = label
        self.unit: str = unit.value


REFUSED_STATUSES = frozenset({401, 403, 429})
# What a span of such a time is called. The ledger's has two: see ``RequestMetrics.timed``.
_STEPS = {Metric.EMBEDDING_TIME: "embed", Metric.SEARCH_TIME: "retrieve", Metric.DATABASE_TIME: "database"}
_NO_SPAN = nullcontext()
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024
# Not on spans, which go to others: the id of a secret.
_NOT_ON_SPANS = frozenset({"api_key_id", "status"})

# ASCII only: a lone surrogate in a message would otherwise lose the line.
_to_json = json.JSONEncoder(separators=(",", ":"), default=str).encode

_request_log = logging.getLogger("vecmeter.request")


class EmfMetrics:
    """The metrics of one function. Threads may share it: what belongs to a request lives in ``RequestMetrics``."""

    def __init__(self, *, namespace: str, service: str, enabled: bool = True, tracing: Tracing | None = None) -> None:
        # Powertools' Metrics keeps what it collects in class attributes, which requests in threads would share. This
        # provider is only asked to serialize what each request brings; nothing in it changes after these two lines.
        self._provider = AmazonCloudWatchEMFProvider(namespace=namespace, default_dimensions={"service": service})
        # A second set of dimensions: percentiles of a function cannot be put together from those of its operations.
        self._provider.add_dimensions(service=service)
        self._service = service
        self._enabled = enabled
        self._tracing = tracing
        # False with provisioned concurrency, which has no cold starts.
        self._cold = cold_start.is_cold_start
        self._cold_lock = threading.Lock()

    def request(self, operation: str = "unknown", headers: Iterable[tuple[bytes, bytes]] = ()) -> RequestMetrics:
        """What a request will be measured by. ``headers`` may name the trace it belongs to."""
        return RequestMetrics(self, operation, self._tracing.trace(headers) if self._tracing is not None else None)

    def write(self, operation: str, values: dict[Metric, float], properties: dict[str, str | int]) -> None:
        """Write one EMF line to standard output, unless metrics are off."""
        if not self._enabled or not values:
            return
        if self._cold:
            with self._cold_lock:
                cold, self._cold = self._cold, False
            if cold:
                values[Metric.COLD_STARTS] = 1
        line = self._provider.serialize_metric_set(
            metrics={metric.label: {"Unit": metric.unit, "Value": value} for metric, value in values.items()},
            dimensions={"service": self._service, "operation": operation},
            metadata=properties,
        )
        # One write: print() makes two, between which another thread's line can slip in.
        sys.stdout.write(_to_json(line) + "\n")


class RequestMetrics:
    """What one request, or one run of a maintenance task, measures. Used by one thread at a time."""

    __slots__ = ("_cpu_started", "_emf", "_properties", "_trace", "_values", "operation")

    def __init__(self, emf: EmfMetrics, operation: str, trace: Trace | None = None) -> None:
        self._emf = emf
        self._trace = trace
        self._cpu_started = time.process_time()
        self._values: dict[Metric, float] = {}
        self._properties: dict[str, str | int] = {}
        self.operation = operation
        """May be set until ``flush``: the operation is known only once a route is found. Never a tenant's word."""

    @property
    def trace_id(self) -> str | None:
        return self._trace.trace_id if self._trace is not None else None

    def add(self, metric: Metric, value: float) -> None:
        """Add to the request's sum of ``metric``, in the metric's unit."""
        self._values[metric] = self._values.get(metric, 0) + value

    def sum_of(self, metric: Metric) -> float | None:
        """What was added of ``metric`` so far."""
        return self._values.get(metric)

    @contextmanager
    def timed(
        self, metric: Metric, step: str | None = None, clock: Callable[[], float] = time.perf_counter
    ) -> Iterator[None]:
        """Add the milliseconds the block takes, also when it raises. ``clock`` is in seconds.

        Where the request is traced the block is a span, too, called ``step``.
        """
        started = clock()
        try:
            with _NO_SPAN if self._trace is None else self._trace.step(step or _STEPS[metric]):
                yield
        finally:
            self.add(metric, round((clock() - started) * 1000, 3))

    def annotate(
        self,
        *,
        project_id: str | None = None,
        user_id: str | None = None,
        api_key_id: str | None = None,
        collection: str | None = None,
        plan: str | None = None,
        cache: str | None = None,
        query_characters: int | None = None,
        error: str | None = None,
    ) -> None:
        """Properties of the EMF line and of the request's span; the ids are on the log line, too, and ``error``, the
        code of a problem. None leaves one as it is.
        """
        given = {
            "project_id": project_id,
            "user_id": user_id,
            "api_key_id": api_key_id,
            "collection": collection,
            "plan": plan,
            "cache": cache,
            "query_characters": query_characters,
            "error": error,
        }
        self._properties.update({name: value for name, value in given.items() if value is not None})

    def finish(self, *, method: str, route: str, status: int, duration_ms: float) -> None:
        """Count the request and its outcome, write its EMF line and its one log line, send its spans.

        Args:
            route: the template (``/v1/projects/{project}/collections``): a path would carry ids.
        """
        self.add(Metric.REQUESTS, 1)
        self.add(Metric.LATENCY, round(duration_ms, 3))
        if status in REFUSED_STATUSES:
            self.add(Metric.REFUSALS, 1)
        # What there is not, a client of another service asks for: no fault of ours.
        is_fault = status >= 500 and status != HTTPStatus.NOT_IMPLEMENTED
        if is_fault:
            self.add(Metric.ERRORS, 1)
        self._properties["status"] = status
        _request_log.log(
            logging.ERROR if is_fault else logging.INFO,
            "%s %s %d",
            method,
            route,
            status,
            extra={
                "method": method,
                "route": route,
                "status": status,
                "duration_ms": round(duration_ms, 3),
                "operation": self.operation,
                "project_id": self._properties.get("project_id"),
                "user_id": self._properties.get("user_id"),
                "api_key_id": self._properties.get("api_key_id"),
                "error": self._properties.get("error"),
            },
        )
        if self._trace is not None:
            self._trace.finish(method=method, route=route, status=status, attributes=self._attributes())
        self.flush()

    def _attributes(self) -> dict[str, str | int | float]:
        """Of the request's span."""
        named = {name: value for name, value in self._properties.items() if name not in _NOT_ON_SPANS}
        counted = {"tokens": Metric.TOKENS, "cost_micro_usd": Metric.COST, "vectors_written": Metric.VECTORS_WRITTEN}
        amounts = {name: self._values[metric] for name, metric in counted.items() if metric in self._values}
        return {"operation": self.operation, "request_id": current_request_id() or "", **named, **amounts}

    def flush(self) -> None:
        """Write what was added since the last flush as one EMF line, with what it took; nothing if nothing was."""
        if not self._values:
            return
        self.add(Metric.CPU_TIME, round((time.process_time() - self._cpu_started) * 1000, 3))
        self.add(Metric.MEMORY, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT)
        request_id = current_request_id()
        if request_id is not None:
            self._properties["request_id"] = request_id
        if self._trace is not None:
            self._properties["trace_id"] = self._trace.trace_id
        self._emf.write(self.operation, self._values, self._properties)
        self._values = {}
