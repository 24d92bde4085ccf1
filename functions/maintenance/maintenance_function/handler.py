"""Entry point of the maintenance function: ``{"task": name, "options": {...}}`` from EventBridge Scheduler or by hand.

No FastAPI in this process.
"""

from __future__ import annotations

import os
import time
from typing import Any

from vecmeter.errors import InvalidRequestError, Violation
from vecmeter.runtime import runtime
from vecmeter.tasks import run_task
from vecmeter.telemetry import EmfMetrics, Metric, configure_logging, request_scope

_process = runtime()
_SERVICE = os.environ.get("AWS_LAMBDA_FUNCTION_NAME", "vecmeter")
configure_logging(_process.settings.log_level, _process.settings.log_format, _SERVICE)
_emf = EmfMetrics(
    namespace=_process.settings.metrics_namespace,
    service=_SERVICE,
    enabled=_process.settings.metrics_enabled,
)


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Run the event's task and return its outcome; an event that names none fails the invocation."""
    name, options = event.get("task"), event.get("options") or {}
    if not isinstance(name, str) or not isinstance(options, dict):
        violation = Violation("task", 'must be a string beside an object "options"')
        raise InvalidRequestError("The event does not name a task.", (violation,))
    with request_scope(context.aws_request_id):
        metrics, started = _emf.request(name), time.perf_counter()
        outcome = run_task(_process, name, options)
        metrics.add(Metric.REQUESTS, 1)
        metrics.add(Metric.LATENCY, (time.perf_counter() - started) * 1000)
        metrics.add(Metric.ERRORS, 0 if outcome["status"] == "ok" else 1)
        metrics.flush()
    return outcome
