"""Spans of real requests, at a real receiver."""

from __future__ import annotations

import base64
import json
import logging
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanMessage

from tests.fixtures.api import Api, Tenant, make_world, open_api, settings_for
from tests.fixtures.collector import Collector, ReceivedSpan, collecting
from tests.fixtures.routes import EVERY_ROUTE
from vecmeter import tracing
from vecmeter.logs import configure_logging
from vecmeter.tracing import Origin, Trace, Tracing

W3C = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
AMAZON = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


@pytest.fixture
def traced(database_url: str, table_name: str, collector: Collector) -> Iterator[Tenant]:
    """A tenant of an API that sends its spans before it answers, as functions do."""
    settings = settings_for(database_url, table_name, tracing_endpoint=collector.endpoint)
    with open_api(settings, runs_alone=True) as api:
        tenant = api.tenant()
        tenant.collection("c", embedder={"provider": "built-in"}, dimension=256)
        tenant.write("/c", {"id": "a", "document": "a paper on wings"})
        collector.spans.clear()
        yield tenant


def search(tenant: Tenant, **headers: str) -> Any:
    return tenant.call("POST", "/c/search", json={"text": "secret wings"}, headers=headers)


def by_name(spans: list[ReceivedSpan]) -> dict[str, ReceivedSpan]:
    assert len({span.name for span in spans}) == len(spans)
    return {span.name: span for span in spans}


ROOT = "POST /v1/projects/{project}/collections/{collection}/search"


def test_a_search_is_a_span_with_its_steps_below_it_in_time(traced: Tenant, collector: Collector) -> None:
    before = time.time_ns()
    answer = search(traced)
    after = time.time_ns()
    assert answer.status_code == 200
    root = next(span for span in collector.spans if span.name == ROOT)
    steps = [span for span in collector.spans if span is not root]
    assert sorted(span.name for span in steps) == ["admit", "database", "embed", "retrieve", "settle"]
    assert root.parent_id is None
    assert {span.trace_id for span in collector.spans} == {root.trace_id}
    assert {span.parent_id for span in steps if span.name != "database"} == {root.span_id}
    retrievals = {span.span_id: span for span in steps if span.name == "retrieve"}
    for database in (span for span in steps if span.name == "database"):
        parent = retrievals[database.parent_id or ""]
        assert parent.started_ns <= database.started_ns <= database.ended_ns <= parent.ended_ns
    assert before <= root.started_ns <= root.ended_ns <= after
    assert all(root.started_ns <= span.started_ns < span.ended_ns <= root.ended_ns for span in steps)
    assert next(span.name for span in steps) == "admit"
    assert max(steps, key=lambda span: span.ended_ns).name == "settle"
    assert (root.kind, root.service, root.error) == (2, "test", None)


def test_a_search_that_was_remembered_asks_once_and_one_that_was_outdated_twice(
    traced: Tenant, collector: Collector
) -> None:
    def steps() -> list[str]:
        collector.spans.clear()
        search(traced)
        return sorted(span.name for span in collector.spans if span.name != ROOT)

    steps()
    assert steps() == ["admit", "database", "retrieve", "settle"]
    traced.write("/c", {"id": "b", "document": "another paper"})
    assert steps() == ["admit", "database", "database", "embed", "retrieve", "retrieve", "settle"]


def test_what_is_sent_is_what_the_protocol_says(traced: Tenant, collector: Collector) -> None:
    collector.bodies.clear()
    search(traced, traceparent=W3C)
    # In JSON ids are hexadecimal; everything else is as these messages' own mapping has it.
    body = re.sub(
        r'"(\w+Id)":"([0-9a-f]+)"',
        lambda found: f'"{found[1]}":"{base64.b64encode(bytes.fromhex(found[2])).decode()}"',
        collector.bodies[0],
    )
    message = json_format.Parse(body, ExportTraceServiceRequest())
    spans = message.resource_spans[0].scope_spans[0].spans
    assert {len(span.trace_id) for span in spans} == {16}
    assert {len(span.span_id) for span in spans} == {8}
    assert {(span.name, span.kind) for span in spans if span.kind == SpanMessage.SPAN_KIND_SERVER} == {(ROOT, 2)}
    assert all(span.start_time_unix_nano < span.end_time_unix_nano for span in spans)


def test_the_requests_span_says_what_it_was_and_took(traced: Tenant, collector: Collector) -> None:
    answer = search(traced)
    root = next(span for span in collector.spans if span.name == ROOT)
    assert root.attributes["http.request.method"] == "POST"
    assert root.attributes["http.route"] == "/v1/projects/{project}/collections/{collection}/search"
    assert root.attributes["http.response.status_code"] == 200
    named = {name.removeprefix("vecmeter."): value for name, value in root.attributes.items()}
    assert named["operation"] == "search"
    assert named["request_id"] == answer.headers["x-request-id"]
    assert named["project_id"] == traced.project
    assert named["tokens"] == answer.json()["usage"]["tokens"] == 3
    assert named["cost_micro_usd"] == round(answer.json()["usage"]["cost_usd"] * 1e6)
    assert named["query_characters"] == len("secret wings")
    assert named["plan"] == "exact"
    assert named["cache"] in ("off", "miss")
    assert "api_key_id" not in named


def test_a_refusal_and_a_fault_are_told_apart_and_no_message_goes_out(
    traced: Tenant, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = traced.call("POST", "/missing/search", json={"vector": [1]})
    assert answer.status_code == 404
    root = next(span for span in collector.spans if span.name == ROOT)
    assert (root.error, root.attributes["vecmeter.error"]) == (None, "collection_not_found")
    collector.spans.clear()

    def fails(*_: Any, **__: Any) -> None:
        raise ValueError("patient 4711")

    monkeypatch.setattr(type(traced.api.runtime.searcher), "search_all", fails)
    assert search(traced).status_code == 500
    spans = {span.name: span for span in collector.spans}
    assert (spans[ROOT].error, spans[ROOT].attributes["vecmeter.error"]) == ("500", "internal")
    assert spans["retrieve"].error == "ValueError"
    assert "4711" not in "".join(collector.bodies)


@pytest.mark.parametrize(
    ("headers", "trace_id", "parent_id"),
    [
        ({"traceparent": W3C}, "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"),
        ({"traceparent": W3C + "-more", "X-Amzn-Trace-Id": AMAZON}, W3C[3:35], W3C[36:52]),
        ({"X-Amzn-Trace-Id": AMAZON}, "5759e988bd862e3fe1be46a994272793", "53995c3f42cd8ad8"),
        ({"X-Amzn-Trace-Id": AMAZON.partition(";")[0]}, "5759e988bd862e3fe1be46a994272793", None),
    ],
)
def test_the_trace_of_the_caller_goes_on(
    traced: Tenant, collector: Collector, headers: Mapping[str, str], trace_id: str, parent_id: str | None
) -> None:
    search(traced, **headers)
    root = next(span for span in collector.spans if span.name == ROOT)
    assert (root.trace_id, root.parent_id) == (trace_id, parent_id)


@pytest.mark.parametrize("headers", [{"traceparent": W3C[:-1] + "0"}, {"X-Amzn-Trace-Id": AMAZON[:-1] + "0"}])
def test_what_the_caller_does_not_sample_is_not_sent(
    traced: Tenant, collector: Collector, headers: Mapping[str, str]
) -> None:
    assert search(traced, **headers).status_code == 200
    assert collector.spans == []


@pytest.mark.parametrize(
    "header",
    [
        "",
        "00",
        W3C.upper(),
        W3C + "x",
        "ff" + W3C[2:],
        "00-" + "0" * 32 + W3C[35:],
        W3C[:36] + "0" * 16 + "-01",
        "é" * 55,
    ],
)
def test_a_header_that_names_no_trace_begins_a_new_one(header: str) -> None:
    found = Origin.of([(b"traceparent", header.encode("latin-1"))])
    assert (found.parent_id, found.sampled) == (None, True)
    assert found.trace_id != W3C[3:35]
    assert len(bytes.fromhex(found.trace_id)) == 16
    assert found != Origin.of([])


def test_every_log_line_of_the_request_and_its_metrics_name_the_trace(
    traced: Tenant, capsys: pytest.CaptureFixture[str]
) -> None:
    root, ours = logging.getLogger(), logging.getLogger("vecmeter")
    before = list(root.handlers), root.level, ours.level
    configure_logging("INFO", "json", "test")
    try:
        search(traced, traceparent=W3C)
    finally:
        root.handlers[:] = before[0]
        root.setLevel(before[1])
        ours.setLevel(before[2])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines
    assert {line["trace_id"] for line in lines} == {W3C[3:35]}


def test_a_server_sends_from_a_thread_of_its_own(database_url: str, table_name: str, collector: Collector) -> None:
    settings = settings_for(database_url, table_name, tracing_endpoint=collector.endpoint)
    with open_api(settings) as api:
        tenant = api.tenant()
        for _ in range(5):
            assert tenant.call("GET").status_code == 200
        roots = collector.wait_for_roots(5)
    assert len({span.trace_id for span in roots}) == len(roots) == 5


def test_every_route_is_a_span_of_its_template(database_url: str, table_name: str, collector: Collector) -> None:
    settings = settings_for(database_url, table_name, tracing_endpoint=collector.endpoint)
    with open_api(settings, runs_alone=True) as api:
        world = make_world(api)
        for route in EVERY_ROUTE:
            collector.spans.clear()
            answer = world.call(route, world.key_for(route))
            [root] = [span for span in collector.spans if span.parent_id is None]
            assert root.attributes["http.response.status_code"] == answer.status_code
            assert root.name.startswith(route.method)
            assert world.tenant.project not in root.name


class TestACollectorThatFails:
    def test_nobody_notices_and_it_is_left_alone_for_a_while(
        self, traced: Tenant, collector: Collector, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        collector.status = 500
        collector.bodies.clear()
        for _ in range(3):
            assert search(traced).status_code == 200
        assert len(collector.bodies) == 1
        assert [record.message for record in caplog.records if record.name == "vecmeter.tracing"] == [
            "the collector takes no spans: HTTPException"
        ]
        collector.status = 200
        now = time.monotonic()
        monkeypatch.setattr(tracing.time, "monotonic", lambda: now + tracing.REST_SECONDS)
        search(traced)
        assert collector.spans

    def test_one_that_is_not_there_costs_one_try(self, caplog: pytest.LogCaptureFixture) -> None:
        sender = Tracing("http://127.0.0.1:1/v1/traces", "test", inline=True)
        for _ in range(3):
            Trace(sender, Origin.of([])).finish(method="GET", route="/", status=200, attributes={})
        assert [record.message for record in caplog.records] == ["the collector takes no spans: ConnectionRefusedError"]

    def test_a_server_drops_what_it_cannot_send_and_keeps_no_more_than_so_many(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tracing, "MOST_WAITING", 10)
        sender = Tracing("http://127.0.0.1:1/v1/traces", "test", inline=False)
        monkeypatch.setattr(sender, "_send_waiting", lambda: None)
        for _ in range(50):
            Trace(sender, Origin.of([])).finish(method="GET", route="/", status=200, attributes={})
        assert sender._waiting.qsize() == 10


def test_when_it_is_off_nothing_of_it_is_loaded(api: Api) -> None:
    script = """
import sys
import search_function.routes, vecmeter.http.app
loaded = {"vecmeter.tracing", "opentelemetry.sdk", "prometheus_client", "vecmeter.overview"} & sys.modules.keys()
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", script], check=True)
