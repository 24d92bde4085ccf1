"""What tracing costs, off and on, beside OpenTelemetry's SDK: ``python -m benchmarks.tracing``. CPU throughout."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from tests.fixtures.collector import collecting

from vecmeter.telemetry import EmfMetrics, Metric, RequestMetrics
from vecmeter.tracing import Trace, Tracing

ROUNDS, REQUESTS, STARTS = 9, 2_000, 7
STEPS = (Metric.LEDGER_TIME, Metric.EMBEDDING_TIME, Metric.SEARCH_TIME, Metric.LEDGER_TIME)
# What the search function has loaded anyway, and what one would load besides.
LOADED = "import psycopg, pgvector.psycopg, fastapi, mangum, http.client, queue, secrets, vecmeter.telemetry"
BESIDES = {
    "vecmeter.tracing": "import vecmeter.tracing",
    "OpenTelemetry's API": "import opentelemetry.trace, opentelemetry.propagate",
    "OpenTelemetry's SDK": "import opentelemetry.sdk.trace, opentelemetry.sdk.trace.export",
}


class _Unsent(Tracing):
    def send(self, trace: Trace) -> None:
        pass


class _Nowhere(SpanExporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS


def _emf(tracing: Tracing | None) -> EmfMetrics:
    return EmfMetrics(namespace="bench", service="bench", enabled=False, tracing=tracing)


def _request(emf: EmfMetrics) -> RequestMetrics:
    request = emf.request(headers=[(b"host", b"localhost")])
    for metric in STEPS:
        with request.timed(metric, "step"):
            pass
    return request


def _finished(emf: EmfMetrics) -> None:
    trace = _request(emf)._trace
    assert trace is not None
    trace.finish(method="POST", route="/v1/search", status=200, attributes={"operation": "search", "tokens": 3})


def _by_sdk() -> Callable[[], None]:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(_Nowhere()))
    tracer = provider.get_tracer("bench")

    def request() -> None:
        with tracer.start_as_current_span("request") as span:
            for _ in STEPS:
                with tracer.start_as_current_span("step"):
                    pass
            span.set_attribute("operation", "search")
            span.set_attribute("tokens", 3)

    return request


def _microseconds(work: Callable[[], object], clock: Callable[[], float], times: int = REQUESTS) -> float:
    best = float("inf")
    for _ in range(ROUNDS):
        started = clock()
        for _ in range(times):
            work()
        best = min(best, (clock() - started) / times)
    return best * 1e6


def _imports() -> None:
    best = dict.fromkeys(BESIDES, float("inf"))
    for _ in range(STARTS):
        for name, more in BESIDES.items():
            script = (
                f"import time\n{LOADED}\nstarted = time.process_time()\n{more}\nprint(time.process_time() - started)"
            )
            done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
            best[name] = min(best[name], float(done.stdout))
    for name, seconds in best.items():
        print(f"import {name}: {seconds * 1000:.1f} ms")


def main() -> None:
    off, on = _emf(None), _emf(_Unsent("http://localhost", "bench", inline=True))
    cpu, wall = time.process_time, time.perf_counter
    without = _microseconds(lambda: _request(off), cpu)
    print(f"five spans, off: {without:.1f} us (the clock of four steps alone)")
    print(f"five spans, on: {_microseconds(lambda: _finished(on), cpu) - without:.1f} us more")
    print(f"five spans, SDK: {_microseconds(_by_sdk(), cpu):.1f} us, encoding and sending apart")
    with collecting() as collector:
        sent = _emf(Tracing(collector.endpoint, "bench", inline=True))
        took = _microseconds(lambda: _finished(sent), wall, 200)
        print(f"five spans, on, sent to a collector on loopback: {took:.0f} us from start to end")
    _imports()


if __name__ == "__main__":
    main()
