"""What surrounds every route: its id, its time, the size of its body, its metrics and log line, the last net."""

from __future__ import annotations

import logging
import re
import secrets
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vecmeter import deadline
from vecmeter.breaker import Circuits
from vecmeter.errors import PayloadTooLargeError
from vecmeter.http.pinecone.errors import REQUEST_ID, envelope, is_pinecone
from vecmeter.http.problems import problem
from vecmeter.logs import request_scope
from vecmeter.settings import Settings
from vecmeter.telemetry import EmfMetrics, Metric, RequestMetrics

_logger = logging.getLogger("vecmeter.http")
_JSON = b"application/json"
_CLIENT_WENT_AWAY = 499  # nobody is told; for the log and the metrics, and no fault of ours
# What a function needs to render its answer and hand it over before Lambda ends it.
_HAND_OVER_SECONDS = 0.5


class RequestEdge:
    """ASGI middleware. Gives routes ``request.state``: ``request_id``, ``body_bytes`` (read so far) and ``metrics``.

    It takes from there ``template``, the route as the API's documents write it, and ``committed``: the work is done,
    whatever becomes of the answer.
    """

    def __init__(self, app: ASGIApp, *, emf: EmfMetrics, settings: Settings, circuits: Circuits) -> None:
        self._app = app
        self._emf = emf
        self._circuits = circuits
        self._max_body_bytes = settings.max_body_bytes
        self._seconds = float(settings.request_timeout_seconds)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = secrets.token_hex(8)
        metrics = self._emf.request(headers=scope["headers"])
        state = {
            "request_id": request_id,
            "body_bytes": 0,
            "metrics": metrics,
            "limits": (),
            "committed": False,
            "template": None,
        }
        scope["state"] = {**scope.get("state", {}), **state}
        _call_it_json(scope)
        status, started_at = 0, time.perf_counter()

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                if is_pinecone(scope["path"]):
                    headers[REQUEST_ID] = request_id
            await send(message)

        with request_scope(request_id, metrics.trace_id), deadline.of_request(self._time_of(scope)):
            try:
                await self._app(scope, self._counted(scope, receive), send_with_id)
            except ClientDisconnect:
                status = _CLIENT_WENT_AWAY
            except Exception:
                # The last net, so that the client gets a problem and Lambda's caller no bare 502.
                _logger.exception("unhandled error")
                metrics.annotate(error="internal")
                if status:
                    raise
                failed = _internal_error(request_id, scope["state"]["committed"])
                spoken = envelope(failed, scope["path"]) if is_pinecone(scope["path"]) else failed
                await spoken(scope, receive, send_with_id)
            finally:
                self._measure_circuits(metrics)
                metrics.finish(
                    method=scope["method"],
                    route=scope["state"]["template"] or getattr(scope.get("route"), "path", "unknown"),
                    status=status,
                    duration_ms=(time.perf_counter() - started_at) * 1000,
                )

    def _time_of(self, scope: Scope) -> float:
        """How long this request may take."""
        context = scope.get("aws.context")
        if context is None:
            return self._seconds
        left: float = context.get_remaining_time_in_millis() / 1000
        return min(self._seconds, left - _HAND_OVER_SECONDS)

    def _measure_circuits(self, metrics: RequestMetrics) -> None:
        """What circuits did meanwhile is on the line of whoever comes first: it belongs to the process."""
        opened, refused = self._circuits.take_counts()
        if opened:
            metrics.add(Metric.CIRCUIT_OPENED, opened)
        if refused:
            metrics.add(Metric.CIRCUIT_REFUSALS, refused)

    def _counted(self, scope: Scope, receive: Receive) -> Receive:
        announced = Headers(scope=scope).get("content-length", "0")
        too_large = PayloadTooLargeError(f"The body is longer than {self._max_body_bytes} bytes.")

        async def counted() -> Message:
            if _number(announced) > self._max_body_bytes:
                raise too_large
            message = await receive()
            if message["type"] == "http.request":
                scope["state"]["body_bytes"] += len(message.get("body", b""))
                if scope["state"]["body_bytes"] > self._max_body_bytes:
                    raise too_large
            return message

        return counted


def _call_it_json(scope: Scope) -> None:
    """The API speaks JSON only, so a body is read as JSON whatever its label: curl calls it a form by default."""
    if scope["method"] in ("POST", "PUT", "PATCH"):
        others = [header for header in scope["headers"] if header[0] != b"content-type"]
        scope["headers"] = [*others, (b"content-type", _JSON)]


def _number(announced: str) -> int:
    # Headers come from anywhere: "²" is a digit, too, and a number may have more digits than int() takes.
    return int(announced) if re.fullmatch(r"[0-9]{1,18}", announced) else 0


def _internal_error(request_id: str, committed: bool) -> Response:
    return problem(
        status=500,
        code="internal",
        title="Internal error",
        detail="This is a fault of the service. The request id finds it in the logs.",
        request_id=request_id,
        extra={"committed": True} if committed else None,
    )
