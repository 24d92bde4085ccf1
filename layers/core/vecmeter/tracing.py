"""Spans of requests, sent to an OpenTelemetry collector as OTLP in JSON over HTTP (docs/tracing.md).

A request is a span, and each of its steps a span below it. What calls us may name the trace it belongs to. Spans carry
figures, and ids and names that stand in log lines, too; never a text, a vector, a secret or an id of one.

This module is loaded only where tracing is on: OpenTelemetry's own SDK and exporter would cost what ADR 0017 says.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import re
import secrets
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

from vecmeter import __version__

Value = str | int | float | bool
Headers = Iterable[tuple[bytes, bytes]]

# A collector stands beside the function. One that does not answer must not keep requests waiting, so after a failure
# nothing is sent for a while.
SEND_SECONDS = 0.5
REST_SECONDS = 30.0
# Traces that wait for the sender in a server; what is beyond is dropped, and sent together.
MOST_WAITING = 1_000
MOST_AT_ONCE = 100

_SERVER, _INTERNAL = 2, 1
_FAILED = 2
_W3C = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?", re.ASCII)
_AMAZON = re.compile(r"Root=1-([0-9a-f]{8})-([0-9a-f]{24})", re.ASCII)
_AMAZON_PARENT = re.compile(r"Parent=([0-9a-f]{16})", re.ASCII)
_logger = logging.getLogger("vecmeter.tracing")


@dataclass(frozen=True, slots=True)
class Origin:
    """The trace a request belongs to, and the span that called it, if one did."""

    trace_id: str
    parent_id: str | None
    sampled: bool = True

    @classmethod
    def of(cls, headers: Headers) -> Origin:
        """What ``traceparent`` says, else ``X-Amzn-Trace-Id``; a new trace where neither says anything valid."""
        given = {
            name: value.decode("latin-1") for name, value in headers if name in (b"traceparent", b"x-amzn-trace-id")
        }
        w3c = _W3C.fullmatch(given.get(b"traceparent", "").strip())
        if w3c and not w3c[0].startswith("ff") and w3c[1].strip("0") and w3c[2].strip("0"):
            return cls(w3c[1], w3c[2], bool(int(w3c[3], 16) & 1))
        amazon = given.get(b"x-amzn-trace-id", "")
        if root := _AMAZON.search(amazon):
            parent = _AMAZON_PARENT.search(amazon)
            return cls(root[1] + root[2], parent[1] if parent else None, "Sampled=0" not in amazon)
        return cls(secrets.token_hex(16), None)


@dataclass(slots=True)
class Span:
    name: str
    parent_id: str | None
    started_ns: int
    kind: int = _INTERNAL
    span_id: str = field(default_factory=lambda: secrets.token_hex(8))
    ended_ns: int = 0
    error: str | None = None
    attributes: Mapping[str, Value] = field(default_factory=dict)


class Trace:
    """The spans of one request. Used by one thread at a time."""

    def __init__(self, tracing: Tracing, origin: Origin) -> None:
        self._tracing = tracing
        # Durations by the clock that is never set, all from one reading of the one that tells the time.
        self._offset = time.time_ns() - time.perf_counter_ns()
        self.trace_id = origin.trace_id
        self.root = Span("request", origin.parent_id, self._now(), _SERVER)
        self.spans = [self.root]
        self._open = [self.root]

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """A span below the one that is open now; an exception marks it as failed, by its type alone."""
        span = Span(name, self._open[-1].span_id, self._now())
        self.spans.append(span)
        self._open.append(span)
        try:
            yield
        except BaseException as error:
            span.error = type(error).__name__
            raise
        finally:
            span.ended_ns = self._now()
            self._open.remove(span)

    def finish(self, *, method: str, route: str, status: int, attributes: Mapping[str, Value]) -> None:
        """End the request's own span, and send all of them."""
        self.root.name = f"{method} {route}"
        self.root.ended_ns = self._now()
        self.root.error = str(status) if status >= 500 else None
        http: dict[str, Value] = {
            "http.request.method": method,
            "http.route": route,
            "http.response.status_code": status,
        }
        self.root.attributes = http | {f"vecmeter.{name}": value for name, value in attributes.items()}
        self._tracing.send(self)

    def _now(self) -> int:
        return self._offset + time.perf_counter_ns()


class Tracing:
    """Starts traces and sends them. ``inline``: before the request is answered, for Lambda stops the process then."""

    def __init__(self, endpoint: str, service: str, *, inline: bool) -> None:
        self._url = urlsplit(endpoint)
        self._service = service
        self._inline = inline
        self._waiting: queue.Queue[Trace] = queue.Queue(MOST_WAITING)
        self._lock = threading.Lock()
        self._sender: threading.Thread | None = None
        self._rests_until = 0.0

    def trace(self, headers: Headers) -> Trace | None:
        """A trace for a request; None where its caller has decided that it is not sampled."""
        origin = Origin.of(headers)
        return Trace(self, origin) if origin.sampled else None

    def send(self, trace: Trace) -> None:
        if self._inline:
            self._deliver([trace])
            return
        try:
            self._waiting.put_nowait(trace)
        except queue.Full:
            return
        with self._lock:
            if self._sender is None:
                self._sender = threading.Thread(target=self._send_waiting, name="traces", daemon=True)
                self._sender.start()

    def _send_waiting(self) -> None:
        while True:
            traces = [self._waiting.get()]
            while len(traces) < MOST_AT_ONCE and not self._waiting.empty():
                traces.append(self._waiting.get())
            self._deliver(traces)

    def _deliver(self, traces: Iterable[Trace]) -> None:
        if time.monotonic() < self._rests_until:
            return
        try:
            self._post(encode(self._service, traces))
        except (OSError, HTTPException) as error:
            self._rests_until = time.monotonic() + REST_SECONDS
            _logger.warning("the collector takes no spans: %s", type(error).__name__)

    def _post(self, body: bytes) -> None:
        kind = HTTPSConnection if self._url.scheme == "https" else HTTPConnection
        connection = kind(self._url.hostname or "", self._url.port, timeout=SEND_SECONDS)
        try:
            connection.request("POST", self._url.path or "/", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            if answer.status >= 400:
                raise HTTPException(f"status {answer.status}")
        finally:
            connection.close()


def encode(service: str, traces: Iterable[Trace]) -> bytes:
    """The body of a request to a collector: OTLP/HTTP, in JSON."""
    resource = {
        "service.name": service,
        "service.version": __version__,
        **({"cloud.region": region} if (region := os.environ.get("AWS_REGION")) else {}),
    }
    scope = {"name": "vecmeter", "version": __version__}
    spans = [_encoded(trace.trace_id, span) for trace in traces for span in trace.spans]
    scoped = [{"scope": scope, "spans": spans}]
    content = {"resourceSpans": [{"resource": {"attributes": _attributes(resource)}, "scopeSpans": scoped}]}
    return json.dumps(content, separators=(",", ":")).encode()


def _encoded(trace_id: str, span: Span) -> dict[str, Any]:
    encoded: dict[str, Any] = {
        "traceId": trace_id,
        "spanId": span.span_id,
        "name": span.name,
        "kind": span.kind,
        # 64 bits are text in JSON.
        "startTimeUnixNano": str(span.started_ns),
        "endTimeUnixNano": str(span.ended_ns or span.started_ns),
        "attributes": _attributes(span.attributes),
    }
    if span.parent_id is not None:
        encoded["parentSpanId"] = span.parent_id
    if span.error is not None:
        encoded["status"] = {"code": _FAILED, "message": span.error}
    return encoded


def _attributes(values: Mapping[str, Value]) -> list[dict[str, Any]]:
    return [{"key": name, "value": _value(value)} for name, value in values.items()]


def _value(value: Value) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": value}
    return {"stringValue": value}
