"""A part that failed too often just now is not asked: what callers see meanwhile, and how it ends."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.fixtures.api import Api, World, make_world, open_api, problem, settings_for
from tests.fixtures.embedders import FakeBedrockClient
from tests.integration.test_http_outages import database_away
from vecmeter.breaker import Circuit
from vecmeter.embedding.registry import _load, get_embedder

SEARCH = {"vector": [1, 2, 3]}
QUERY = "what is kept"
AT_ONCE_SECONDS = 0.5  # on a busy machine; with nothing to wait for it is some milliseconds


@pytest.fixture(params=[1, 4])
def cut_off(request: pytest.FixtureRequest, database_url: str, table_name: str) -> Iterator[tuple[Api, World]]:
    """An API whose circuit opens for a minute, with a world in it."""
    settings = settings_for(
        database_url,
        table_name,
        database_pool_size=request.param,
        database_connect_timeout_seconds=1,
        circuit_open_seconds=60,
        result_cache_mb=0,
    )
    with open_api(settings) as api:
        yield api, make_world(api)


def search(world: World) -> Any:
    return world.tenant.call("POST", "/c/search", json=SEARCH)


def test_after_five_failures_callers_hear_at_once_that_the_database_is_away(cut_off: tuple[Api, World]) -> None:
    api, world = cut_off
    contents, used = world.tenant.contents(), api.used(world.tenant.key)
    with database_away(api.runtime.dsn()):
        for _ in range(5):
            problem(search(world), 503, "database_unavailable")
        for call in (
            lambda: search(world),
            lambda: world.tenant.call("POST", "/c/vectors", json={"vectors": [{"id": "x", **SEARCH}]}),
            lambda: world.tenant.call("GET"),
        ):
            started = time.monotonic()
            answer = call()
            assert time.monotonic() - started < AT_ONCE_SECONDS
            problem(answer, 503, "circuit_open")
            assert 50 <= int(answer.headers["retry-after"]) <= 60
        assert api.call("GET", "/health").status_code == 200
        body = problem(api.call("GET", "/health/ready"), 503, "not_ready")
        assert body["checks"]["database_circuit"] == "open"
    assert world.tenant.contents() == contents, "nothing is written"
    after = api.used(world.tenant.key)
    assert (after["tokens"], after["micro_usd"]) == (used["tokens"], used["micro_usd"]), "nothing is billed"


def test_a_readiness_check_that_finds_the_database_back_closes_the_circuit(cut_off: tuple[Api, World]) -> None:
    api, world = cut_off
    with database_away(api.runtime.dsn()):
        for _ in range(5):
            problem(search(world), 503, "database_unavailable")
    problem(search(world), 503, "circuit_open")
    ready = api.call("GET", "/health/ready")
    assert (ready.status_code, ready.json()["checks"]["database_circuit"]) == (200, "closed")
    assert search(world).status_code == 200


def test_when_the_time_has_come_one_request_closes_it_and_none_is_lost(database_url: str, table_name: str) -> None:
    settings = settings_for(
        database_url, table_name, database_connect_timeout_seconds=1, circuit_open_seconds=1, result_cache_mb=0
    )
    with open_api(settings) as api:
        world = make_world(api)
        with database_away(database_url), ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(lambda _: search(world), range(8)))
            assert {answer.status_code for answer in answers} == {503}
            assert api.runtime.circuits.database.state == "open"
        deadline = time.monotonic() + 20
        while (answer := search(world)).status_code != 200:
            problem(answer, 503, "circuit_open")
            assert time.monotonic() < deadline
        assert api.runtime.circuits.database.state == "closed"


def test_mistakes_of_callers_never_open_it(cut_off: tuple[Api, World]) -> None:
    api, world = cut_off
    for _ in range(10):
        problem(world.tenant.call("POST", "/missing/search", json=SEARCH), 404)
        problem(world.tenant.call("POST", "/c/search", json={"vector": [1, 2]}), 422)
        problem(world.tenant.call("POST", "/c/add", json={"id": "a", **SEARCH}), 409)
    assert set(api.runtime.circuits.states().values()) == {"closed"}
    stats = api.call("POST", "/admin/maintenance/export_stats", api.system_admin(), json={}).json()
    assert stats["circuits"] == {"database": "closed", "embedder": "closed", "ledger": "closed"}


def test_openings_and_refusals_are_on_the_metrics(
    database_url: str, table_name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = settings_for(
        database_url, table_name, database_connect_timeout_seconds=1, metrics_enabled=True, result_cache_mb=0
    )
    with open_api(settings) as api:
        world = make_world(api)
        with database_away(database_url):
            for _ in range(8):
                search(world)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    counted = {name: sum(line.get(name, 0) for line in lines) for name in ("CircuitOpened", "CircuitRefusals")}
    # Each search needs the database once: its collection's definition is known.
    assert counted == {"CircuitOpened": 1, "CircuitRefusals": 3}


ERROR_TYPES = {404: "ResourceNotFoundException", 429: "ThrottlingException"}


@dataclass
class Bedrock:
    """Bedrock's runtime on a port of its own, that does what it is told."""

    status: int = 200
    silent: bool = False
    asked: list[str] = field(default_factory=list)
    client: FakeBedrockClient = field(default_factory=FakeBedrockClient)

    def handler(self) -> type[BaseHTTPRequestHandler]:
        bedrock = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["Content-Length"]))
                bedrock.asked.append(json.loads(content)["inputText"])
                if bedrock.silent:
                    self.connection.settimeout(20)
                    self.rfile.read(1)  # until the client has had enough
                    return
                self._answer(content)

            def _answer(self, content: bytes) -> None:
                body, tokens = b'{"message": "Too many requests"}', "0"
                if bedrock.status == 200:
                    model = self.path.split("/")[2].replace("%3A", ":")
                    answer = bedrock.client.invoke_model(
                        modelId=model, body=content, contentType="application/json", accept="application/json"
                    )
                    body = answer["body"].read()
                    tokens = answer["ResponseMetadata"]["HTTPHeaders"]["x-amzn-bedrock-input-token-count"]
                self.send_response(bedrock.status)
                if bedrock.status in ERROR_TYPES:
                    self.send_header("x-amzn-ErrorType", ERROR_TYPES[bedrock.status])
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.send_header("x-amzn-bedrock-input-token-count", tokens)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        return Handler


@pytest.fixture
def bedrock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bedrock]:
    service = Bedrock()
    server = ThreadingHTTPServer(("127.0.0.1", 0), service.handler())
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL_BEDROCK_RUNTIME", f"http://127.0.0.1:{server.server_port}")
    _load.cache_clear()
    yield service
    server.shutdown()
    thread.join()
    server.server_close()
    for calling in threading.enumerate():
        if calling.name.startswith("bedrock"):
            calling.join()  # one that was given up
    asked: Any = get_embedder("bedrock", None, 256)
    asked.client.close()
    _load.cache_clear()


@pytest.fixture
def embedding(bedrock: Bedrock, database_url: str, table_name: str) -> Iterator[World]:
    """A world whose collection ``texts`` is embedded by Bedrock; query texts are not remembered."""
    settings = settings_for(database_url, table_name, embedding_cache_mb=0, embedding_cache_days=0, result_cache_mb=0)
    with open_api(settings) as api:
        world = make_world(api)
        embedder = {"provider": "bedrock", "model": "amazon.titan-embed-text-v2:0"}
        world.tenant.collection("texts", dimension=256, embedder=embedder)
        world.tenant.write("/texts", {"id": "kept", "document": "kept before"})
        yield world


def embed(world: World) -> Any:
    return world.tenant.call("POST", "/texts/search", json={"text": QUERY})


def write_batch(world: World) -> Any:
    vectors = [{"id": f"new-{n}", "document": f"document {n}"} for n in range(20)]
    return world.tenant.call("POST", "/texts/vectors", json={"vectors": vectors})


def test_an_embedder_that_throttles_is_503_then_left_alone_and_nothing_is_written_or_billed(
    embedding: World, bedrock: Bedrock
) -> None:
    api = embedding.tenant.api
    contents, used = embedding.tenant.contents(), api.used(embedding.tenant.key)
    bedrock.status = 429
    for failure in range(5):
        answer = write_batch(embedding) if failure == 0 else embed(embedding)
        problem(answer, 503, "embedder_unavailable")
        assert int(answer.headers["retry-after"]) == 5
    assert bedrock.asked.count(QUERY) == 4 * 2, "two attempts each"
    for answer in (embed(embedding), write_batch(embedding)):
        problem(answer, 503, "circuit_open")
        assert 1 <= int(answer.headers["retry-after"]) <= 30
    assert bedrock.asked.count(QUERY) == 4 * 2, "it is not asked"
    # What needs no embedder goes on.
    assert search(embedding).status_code == 200
    assert embedding.tenant.contents() == contents
    after = api.used(embedding.tenant.key)
    assert (after["tokens"], after["micro_usd"] > used["micro_usd"]) == (used["tokens"], True)


def test_an_embedder_that_is_back_is_asked_again(
    embedding: World, bedrock: Bedrock, monkeypatch: pytest.MonkeyPatch
) -> None:
    circuit = Circuit("embedder", open_seconds=0.0)
    monkeypatch.setattr(embedding.tenant.api.runtime.embedders, "_circuit", circuit)
    bedrock.status = 503
    for _ in range(5):
        problem(embed(embedding), 503, "embedder_unavailable")
    assert circuit.state == "open"
    bedrock.status = 200
    assert embed(embedding).status_code == 200
    assert circuit.state == "closed"
    assert write_batch(embedding).json()["inserted"] == 20


def test_a_model_that_is_not_set_up_here_does_not_open_it_for_others(embedding: World, bedrock: Bedrock) -> None:
    bedrock.status = 404
    for _ in range(10):
        problem(embed(embedding), 503, "embedder_not_set_up")
    assert embedding.tenant.api.runtime.circuits.embedder.state == "closed"


def test_an_embedder_that_says_nothing_ends_with_the_time_of_the_request(
    bedrock: Bedrock, database_url: str, table_name: str
) -> None:
    settings = settings_for(database_url, table_name, request_timeout_seconds=5, embedding_cache_mb=0)
    with open_api(settings) as api:
        tenant = api.tenant()
        tenant.collection("texts", dimension=256, embedder={"provider": "bedrock"})
        bedrock.silent = True
        started = time.monotonic()
        answer = tenant.call("POST", "/texts/search", json={"text": "anything"})
        assert time.monotonic() - started < 5
        problem(answer, 503, "embedder_unavailable")
        statuses = {record.operation: record.status for record in api.records(tenant.key)}
        assert statuses["search"] == "failure", "and there was time left to account for it"
