"""Entry point of the maintenance function: ``{"task": name, "options": {...}}`` from EventBridge Scheduler or by hand,
and CloudFormation's custom resource that migrates on deploy.

No FastAPI in this process.
"""

from __future__ import annotations

import os
import time
from typing import Any

from maintenance_function import on_deploy
from vecmeter.errors import InvalidRequestError, Violation
from vecmeter.ledger.model import Scope
from vecmeter.logs import configure_logging, request_scope
from vecmeter.runtime import runtime
from vecmeter.tasks import run_task
from vecmeter.telemetry import EmfMetrics, Metric

_process = runtime()
_SERVICE = os.environ.get("AWS_LAMBDA_FUNCTION_NAME", "vecmeter")
configure_logging(_process.settings.log_level, _process.settings.log_format, _SERVICE)
_emf = EmfMetrics(
    namespace=_process.settings.metrics_namespace,
    service=_SERVICE,
    enabled=_process.settings.metrics_enabled,
)
# Of the function's time, for what comes after the task: its row of history, its metrics.
_SPARE_SECONDS = 15.0


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Run the event's task and return its outcome; an event that names none fails the invocation."""
    with request_scope(context.aws_request_id):
        if "ResponseURL" in event:  # CloudFormation waits there for an answer
            on_deploy.answer(event, lambda: _run("migrate", {}, context))
            return {}
        name, options = event.get("task"), event.get("options") or {}
        if not isinstance(name, str) or not isinstance(options, dict):
            violation = Violation("task", 'must be a string beside an object "options"')
            raise InvalidRequestError("The event does not name a task.", (violation,))
        return _run(name, options, context)


def _run(name: str, options: dict[str, Any], context: Any) -> dict[str, Any]:
    metrics, started = _emf.request(name), time.perf_counter()
    ends_at = time.monotonic() + context.get_remaining_time_in_millis() / 1000 - _SPARE_SECONDS
    outcome = run_task(_process, name, options, ends_at=ends_at)
    metrics.add(Metric.REQUESTS, 1)
    metrics.add(Metric.LATENCY, (time.perf_counter() - started) * 1000)
    metrics.add(Metric.ERRORS, 0 if outcome["status"] == "ok" else 1)
    if outcome.get("recall") is not None:
        metrics.add(Metric.RECALL, outcome["recall"] * 100)
        metrics.add(Metric.RECALL_BELOW_TARGET, outcome["below_target"])
    if written := _process.alerts.take_written():
        metrics.add(Metric.LIMIT_ALERTS, written.total())
        metrics.add(Metric.SYSTEM_LIMIT_ALERTS, written[Scope.SYSTEM])
    metrics.flush()
    return outcome
