"""What tenants entrust to us is in no log line, no metric, no span and no exposition, whatever happens.

Every route is driven with recognisable contents, in health and in failure; then all that was written is searched.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.fixtures.api import World, make_world, open_api, settings_for
from tests.fixtures.collector import Collector, collecting
from tests.fixtures.routes import BY_NAME, ROUTES, WITH_BODY, Route
from tests.integration.test_http_outages import database_away
from vecmeter.ledger.keys import parse_secret
from vecmeter.logs import configure_logging
from vecmeter.vectors.connection import Connection

DOCUMENT, QUERY, METADATA, FIELD = "canary-document", "canary-query", "canary-metadata", "canary_field"
VECTOR_ID, NAMESPACE, PRESENTED = "canary-id", "canary-namespace", "canary-idempotency"
NUMBERS = [0.918273645, -0.536475869, 0.102938475]
# As float32, too, and however it is rounded.
DIGITS = ("0.91827", "0.53647", "0.10293")
FOREIGN_KEY = "vm_live_" + "c4nary" * 6 + "xyz"
VECTOR = {"id": VECTOR_ID, "vector": NUMBERS, "document": DOCUMENT, "metadata": {FIELD: METADATA}}

BODIES: dict[str, Any] = {
    "upsert_vectors": {"vectors": [VECTOR], "namespace": NAMESPACE},
    "add_vector": VECTOR,
    "put_vector": {"vector": NUMBERS, "document": DOCUMENT, "metadata": {FIELD: METADATA}},
    "fetch_vectors": {"ids": [VECTOR_ID]},
    "patch_vector": {"set": {FIELD: METADATA}, "document": DOCUMENT},
    "update_vectors": {"filter": {FIELD: METADATA}, "set": {FIELD: METADATA}},
    "delete_vectors": {"filter": {FIELD: METADATA}},
    "search": {"vector": NUMBERS, "filter": {FIELD: METADATA}, "include": ["metadata", "document", "vector"]},
    "search_batch": {"searches": [{"vector": NUMBERS}, {"id": VECTOR_ID, "namespace": NAMESPACE}]},
    "measure_recall": {"queries": [NUMBERS]},
}


@dataclass
class Watch:
    """A world, and all that it writes."""

    world: World
    collector: Collector
    capture: pytest.CaptureFixture[str]
    read: list[str] = field(default_factory=list)
    requests: int = 0

    def call(self, route: Route, *, key: Any = "own", **more: Any) -> int:
        self.requests += 1
        headers = {"Idempotency-Key": f"{PRESENTED}-{self.requests}"} if route.method != "GET" else {}
        sent = self.world.key_for(route) if key == "own" else key
        return self.world.call(route, sent, headers=headers, **more).status_code

    def written(self) -> str:
        """Log lines, EMF lines, spans, and what the two routes of metrics say."""
        api, system = self.world.tenant.api, self.world.system
        exposed = [api.call("GET", path, system).text for path in ("/prometheus", "/admin/metrics")]
        self.requests += 2
        output = self.capture.readouterr()
        return "\n".join([output.out, output.err, *self.collector.bodies, *exposed])

    def secrets(self) -> set[str]:
        keys = (self.world.tenant.key, self.world.admin, self.world.system, self.world.other)
        return {key.secret for key in keys} | {parse_secret(key.secret).secret_hash.hex() for key in keys}


@pytest.fixture(params=["json", "text"])
def watch(
    request: pytest.FixtureRequest, database_url: str, table_name: str, capsys: pytest.CaptureFixture[str]
) -> Iterator[Watch]:
    root, ours = logging.getLogger(), logging.getLogger("vecmeter")
    before = list(root.handlers), root.level, ours.level
    with collecting() as collector:
        settings = settings_for(
            database_url,
            table_name,
            metrics_enabled=True,
            tracing_endpoint=collector.endpoint,
            database_connect_timeout_seconds=1,
            circuit_failures=1000,  # what a circuit refuses at once would be no failure to log
        )
        with open_api(settings, runs_alone=True) as api:
            world = make_world(api)
            capsys.readouterr()
            collector.spans.clear()
            configure_logging("DEBUG", request.param, "test")
            yield Watch(world, collector, capsys)
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    ours.setLevel(before[2])


def found_in(text: str, watch: Watch) -> set[str]:
    canaries = {DOCUMENT, QUERY, METADATA, FIELD, VECTOR_ID, NAMESPACE, PRESENTED, "c4nary", *DIGITS}
    return {canary for canary in canaries | watch.secrets() if canary in text}


def drive(watch: Watch) -> None:
    """Every route as it is meant, those last that take something away; wrong; and without a key of ours."""
    for route in sorted(ROUTES, key=lambda route: route.method == "DELETE"):
        watch.call(route, json=BODIES.get(route.operation, watch.world.body(route)))
    tenant = watch.world.tenant
    for path in (f"/c/vectors/{VECTOR_ID}", f"/c/vectors?namespace={NAMESPACE}&prefix={VECTOR_ID}"):
        watch.requests += 1
        tenant.call("GET", path)
    for route in WITH_BODY:
        assert watch.call(route, json={FIELD: QUERY, "vector": QUERY, "text": QUERY}) in (400, 404, 409, 422)
        assert watch.call(route, content=f'{{"text": "{QUERY}'.encode()) == 400
        assert watch.call(route, key=FOREIGN_KEY, json=BODIES.get(route.operation, {})) == 401


def fail(watch: Watch, monkeypatch: pytest.MonkeyPatch, database_url: str) -> None:
    """Searches and writes while something is broken in a way that quotes what it was given."""
    runtime = watch.world.tenant.api.runtime
    work = [BY_NAME[name] for name in ("search", "upsert_vectors", "update_vectors")]

    def quotes(*_: Any, **__: Any) -> Any:
        raise ValueError(f"cannot use {DOCUMENT} {NUMBERS} {METADATA}")

    def asks_in_vain(connection: Connection) -> Any:
        return connection.execute("SELECT %s::int", [DOCUMENT])

    with monkeypatch.context() as patched:
        patched.setattr(type(runtime.collections), "use", quotes)
        statuses = {watch.call(route, json=BODIES[route.operation]) for route in work}
        patched.setattr(type(runtime.collections), "use", lambda *_, **__: runtime.database.run(asks_in_vain))
        statuses |= {watch.call(route, json=BODIES[route.operation]) for route in work}
    assert 500 in statuses
    with database_away(database_url):
        # A search that is remembered is answered still.
        assert 503 in {watch.call(route, json=BODIES[route.operation]) for route in work}


def test_nothing_entrusted_is_written_anywhere(
    watch: Watch, monkeypatch: pytest.MonkeyPatch, database_url: str
) -> None:
    fail(watch, monkeypatch, database_url)
    drive(watch)
    text = watch.written()
    assert found_in(text, watch) == set()
    # It was all there to be searched: a line of each request, its metrics and its span.
    api = watch.world.tenant.api
    assert text.count("duration_ms") >= watch.requests
    assert text.count('"_aws"') == watch.requests
    roots = [span for span in watch.collector.spans if span.parent_id is None]
    assert len(roots) == watch.requests
    assert {span.attributes["http.response.status_code"] for span in roots} >= {200, 400, 401, 422, 500, 503}
    assert "Traceback" in text
    assert api.runtime.settings.api_prefix in text


def test_the_search_finds_what_is_written(watch: Watch) -> None:
    logging.getLogger("vecmeter.test").warning("%s %s", json.dumps(VECTOR), watch.world.system.secret[8:])
    assert {DOCUMENT, METADATA, FIELD, VECTOR_ID, *DIGITS} <= found_in(watch.written(), watch)
