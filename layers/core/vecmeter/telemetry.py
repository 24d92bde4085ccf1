"""Logs and metrics.

Metrics go out as one line of CloudWatch's embedded metric format (EMF) per request, written with Powertools; logs as
JSON, or as text for a terminal. Tenants are properties of a line, never dimensions: each value of a dimension would
be a metric on the bill. No vector, document or secret reaches either (docs/metrics.md).
"""

from __future__ import annotations

import copy
import json
import logging
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import Enum
from typing import Any, Literal, TextIO

# The submodules, not the package's own names: those would load the tracer's and the event handlers' as well.
from aws_lambda_powertools.logging.formatter import LambdaPowertoolsFormatter
from aws_lambda_powertools.metrics.provider import cold_start
from aws_lambda_powertools.metrics.provider.cloudwatch_emf.cloudwatch import AmazonCloudWatchEMFProvider
from aws_lambda_powertools.metrics.provider.cloudwatch_emf.metric_properties import MetricUnit

from vecmeter import __version__
from vecmeter.errors import VecmeterError


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

    def __init__(self, label: str, unit: MetricUnit) -> None:
        self.label = label
        self.unit: str = unit.value


REFUSED_STATUSES = frozenset({401, 403, 429})

# ASCII only: a lone surrogate in a message would otherwise lose the line.
_to_json = json.JSONEncoder(separators=(",", ":"), default=str).encode

_request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
_request_log = logging.getLogger("vecmeter.request")


@contextmanager
def request_scope(request_id: str) -> Iterator[None]:
    """Every log line written inside carries ``request_id``, in tasks and worker threads of the request too."""
    token = _request_id.set(request_id)
    try:
        yield
    finally:
        _request_id.reset(token)


class EmfMetrics:
    """The metrics of one function. Threads may share it: what belongs to a request lives in ``RequestMetrics``."""

    def __init__(self, *, namespace: str, service: str, enabled: bool = True) -> None:
        # Powertools' Metrics keeps what it collects in class attributes, which requests in threads would share. This
        # provider is only asked to serialize what each request brings; nothing in it changes after these two lines.
        self._provider = AmazonCloudWatchEMFProvider(namespace=namespace, default_dimensions={"service": service})
        # A second set of dimensions: percentiles of a function cannot be put together from those of its operations.
        self._provider.add_dimensions(service=service)
        self._service = service
        self._enabled = enabled
        # False with provisioned concurrency, which has no cold starts.
        self._cold = cold_start.is_cold_start
        self._cold_lock = threading.Lock()

    def request(self, operation: str = "unknown") -> RequestMetrics:
        return RequestMetrics(self, operation)

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

    __slots__ = ("_emf", "_properties", "_values", "operation")

    def __init__(self, emf: EmfMetrics, operation: str) -> None:
        self._emf = emf
        self._values: dict[Metric, float] = {}
        self._properties: dict[str, str | int] = {}
        self.operation = operation
        """May be set until ``flush``: the operation is known only once a route is found. Never a tenant's word."""

    def add(self, metric: Metric, value: float) -> None:
        """Add to the request's sum of ``metric``, in the metric's unit."""
        self._values[metric] = self._values.get(metric, 0) + value

    def sum_of(self, metric: Metric) -> float | None:
        """What was added of ``metric`` so far."""
        return self._values.get(metric)

    @contextmanager
    def timed(self, metric: Metric, clock: Callable[[], float] = time.perf_counter) -> Iterator[None]:
        """Add the milliseconds the block takes, also when it raises. ``clock`` is in seconds."""
        started = clock()
        try:
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
    ) -> None:
        """Properties of the EMF line and, but for the collection, of the log line. None leaves one as it is."""
        given = {
            "project_id": project_id,
            "user_id": user_id,
            "api_key_id": api_key_id,
            "collection": collection,
        }
        self._properties.update({name: value for name, value in given.items() if value is not None})

    def finish(self, *, method: str, route: str, status: int, duration_ms: float) -> None:
        """Count the request and its outcome, write its EMF line and its one log line.

        Args:
            route: the template (``/v1/projects/{project}/collections``): a path would carry ids.
        """
        self.add(Metric.REQUESTS, 1)
        self.add(Metric.LATENCY, round(duration_ms, 3))
        if status in REFUSED_STATUSES:
            self.add(Metric.REFUSALS, 1)
        if status >= 500:
            self.add(Metric.ERRORS, 1)
        self._properties["status"] = status
        _request_log.log(
            logging.ERROR if status >= 500 else logging.INFO,
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
            },
        )
        self.flush()

    def flush(self) -> None:
        """Write what was added since the last flush as one EMF line; nothing if nothing was."""
        request_id = _request_id.get()
        if request_id is not None:
            self._properties["request_id"] = request_id
        self._emf.write(self.operation, self._values, self._properties)
        self._values = {}


def configure_logging(level: str, fmt: Literal["json", "text"] | str, service: str) -> None:
    """Send every log line of this process to one handler: JSON to standard output, or text to standard error.

    Our own loggers (``vecmeter.*``) write from ``level`` on, all others from WARNING on: the debug lines of botocore
    and psycopg show request bodies, signatures and parameters. Calling it again replaces the first call.
    """
    handler = _ProcessHandler("stdout" if fmt == "json" else "stderr")
    handler.setFormatter(_json_formatter(service) if fmt == "json" else _TextFormatter())
    root = logging.getLogger()
    for other in list(root.handlers):
        # Lambda's runtime brings a handler of its own, which would write each line a second time.
        if isinstance(other, _ProcessHandler) or type(other).__module__.startswith("awslambdaric"):
            root.removeHandler(other)
    root.addHandler(handler)
    root.setLevel(max(logging.WARNING, logging.getLevelNamesMapping()[level]))
    logging.getLogger("vecmeter").setLevel(level)


class _ProcessHandler(logging.StreamHandler[TextIO]):
    """Writes to what ``sys.stdout`` or ``sys.stderr`` is at the moment: runtimes and tests replace them."""

    def __init__(self, stream_name: Literal["stdout", "stderr"]) -> None:
        logging.Handler.__init__(self)
        self._stream_name = stream_name

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        stream: TextIO = getattr(sys, self._stream_name)
        return stream


class _JsonFormatter(LambdaPowertoolsFormatter):
    def format(self, record: logging.LogRecord) -> str:
        return _without_secrets(super().format(_prepared(record)))


def _json_formatter(service: str) -> _JsonFormatter:
    return _JsonFormatter(
        json_serializer=_to_json,
        # A message stays what it is: by default one that looks like JSON becomes an object.
        json_deserializer=str,
        log_record_order=["timestamp", "level", "service", "message"],
        use_rfc3339=True,
        utc=True,
        serialize_stacktrace=False,
        location="%(name)s.%(funcName)s:%(lineno)d",
        service=service,
        version=__version__,
    )


class _TextFormatter(logging.Formatter):
    """``12:00:01.250 INFO    vecmeter.request GET /health 200 duration_ms=0.4 operation=health ...``"""

    def format(self, record: logging.LogRecord) -> str:
        record = _prepared(record)
        exception = record.__dict__.pop("exception", None)
        fields = "".join(
            f" {name}={value}"
            for name, value in record.__dict__.items()
            if name not in _NOT_SHOWN_AS_FIELDS and value is not None
        )
        moment = f"{self.formatTime(record, '%H:%M:%S')}.{int(record.msecs):03d}"
        line = f"{moment} {record.levelname:<7} {record.name} {record.getMessage()}{fields}".translate(_CONTROLS)
        text = line if exception is None else f"{line}\n{exception}"
        return _without_secrets(text.encode(errors="backslashreplace").decode())


_NOT_SHOWN_AS_FIELDS = frozenset(
    # The last three are in the message of a request's line.
    [*logging.makeLogRecord({}).__dict__, "message", "asctime", "method", "route", "status"]
)
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), 127)}
_SECRET = re.compile(r"(vm_[a-z]+_)[0-9A-Za-z]{20,}", re.ASCII)


def _without_secrets(line: str) -> str:
    # The last net, for lines other libraries write.
    return _SECRET.sub(r"\1***", line)


def _prepared(record: logging.LogRecord) -> logging.LogRecord:
    """A copy with the request id, and the exception as text that shows no values."""
    record = copy.copy(record)
    record.__dict__.pop("taskName", None)
    if (request_id := _request_id.get()) is not None:
        record.__dict__.setdefault("request_id", request_id)
    if record.exc_info and record.exc_info[1] is not None:
        record.exception = describe_exception(record.exc_info[1])
        record.exception_name = type(record.exc_info[1]).__name__
    record.exc_info = record.exc_text = None
    return record


def describe_exception(error: BaseException, _depth: int = 0) -> str:
    """Traceback, causes and types of an exception, with only those messages that cannot carry request data."""
    parts: list[str] = []
    earlier = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if earlier is not None and _depth < 8:
        link = "The direct cause of" if error.__cause__ else "While handling it"
        parts.append(f"{describe_exception(earlier, _depth + 1)}\n\n{link}:\n")
    parts.append("Traceback (most recent call last):")
    parts.append("".join(traceback.format_tb(error.__traceback__)).rstrip("\n"))
    parts.append(f"{type(error).__module__}.{type(error).__qualname__}: {_safe_message(error)}")
    if isinstance(error, BaseExceptionGroup) and _depth < 8:
        parts.extend(f"  one of them:\n{describe_exception(one, _depth + 1)}" for one in error.exceptions)
    return "\n".join(parts)


# Types whose messages name code, files and hosts. Others (ValueError, KeyError, Pydantic's and PostgreSQL's errors)
# quote the value they stumbled over, which may be a document.
_SAFE_TYPES = (VecmeterError, OSError, ImportError, AttributeError, NameError, TypeError, RuntimeError, MemoryError)


def _safe_message(error: BaseException) -> str:
    # Only an exception of theirs is of their types, and then they are loaded.
    psycopg = sys.modules.get("psycopg")
    if psycopg is not None and isinstance(error, psycopg.Error):
        return _database_message(error, psycopg.OperationalError)
    botocore = sys.modules.get("botocore.exceptions")
    if botocore is not None and isinstance(error, botocore.ClientError | botocore.BotoCoreError):
        return "(withheld)" if isinstance(error, botocore.ParamValidationError) else str(error)
    return str(error) if isinstance(error, _SAFE_TYPES) else "(withheld)"


def _database_message(error: Any, operational: type[Exception]) -> str:
    """SQLSTATE and the names of what is concerned: PostgreSQL's own words quote parameters."""
    if error.sqlstate is None:
        # Never reached the server, or lost it: host and port. A bad connection string is a ProgrammingError.
        return str(error) if isinstance(error, operational) else "(withheld)"
    names = ("schema_name", "table_name", "column_name", "datatype_name", "constraint_name")
    concerned = "".join(f" {name}={value}" for name in names if (value := getattr(error.diag, name)) is not None)
    return f"SQLSTATE {error.sqlstate}{concerned}"
