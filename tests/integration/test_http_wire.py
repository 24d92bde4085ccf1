"""The API behind a real server, byte by byte: what a client library would tidy up, and many requests at once."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any

import psycopg
import pytest
from psycopg import sql

from tests.fixtures.api import Api, Tenant, World, make_world, open_api, serving, settings_for


@dataclass(frozen=True)
class Wire:
    """A server of the module's API, spoken to without a client library's help."""

    port: int
    world: World

    @property
    def tenant(self) -> Tenant:
        return self.world.tenant

    def call(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, *, chunked: bool = False
    ) -> tuple[int, dict[str, str], bytes]:
        """``path`` goes out as it is."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        sent = {"Authorization": f"Bearer {self.tenant.key.secret}", **(headers or {})}
        content = json.dumps(body).encode() if isinstance(body, (dict, list)) else body
        try:
            connection.request(method, path, content, sent, encode_chunked=chunked)
            answer = connection.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def json(self, method: str, path: str, body: Any = None) -> Any:
        status, _, content = self.call(method, self.path(path), body)
        assert status < 300, content
        return json.loads(content)

    def path(self, path: str) -> str:
        return f"/v1{self.tenant.base}{path}"


@pytest.fixture(scope="module")
def server(shared_api: Api) -> Iterator[int]:
    with serving(shared_api) as port:
        yield port


@pytest.fixture
def wire(server: int, world: World) -> Wire:
    return Wire(server, world)


IDS = [
    "plain",
    "with/slash",
    "/",
    "//",
    "/lead",
    "trail/",
    "a/b/../c",
    ".",
    "..",
    "a%2Fb",
    "%",
    "%zz",
    "?",
    "a?b=c",
    "#",
    "a b",
    "a+b",
    "é",
    "😀",
    "{id}",
    "x" * 512,
    "😀" * 128,
    "\\",
    "line\nbreak",
    "ends\n",
    "\t",
    "'; DROP TABLE x; --",
    "fetch",
    "delete",
]


@pytest.mark.parametrize("id", IDS, ids=lambda id: ascii(id[:16]))
def test_any_id_can_stand_in_a_path(wire: Wire, id: str) -> None:
    path = "/c/vectors/" + "".join(f"%{byte:02X}" for byte in id.encode())
    assert wire.json("PUT", path, {"vector": [1, 2, 3]})["vector_id"] == id
    assert wire.json("GET", path)["id"] == id
    assert wire.json("PATCH", path, {"set": {"k": 1}})["vector_id"] == id
    assert sorted(row[1] for row in wire.tenant.contents()["c"]) == sorted(["a", "b", id])
    assert wire.json("POST", "/c/search", {"id": id, "top_k": 1})["matches"][0]["id"] == id
    assert wire.json("DELETE", path)["deleted"] == 1
    assert sorted(row[1] for row in wire.tenant.contents()["c"]) == ["a", "b"]


@pytest.mark.parametrize(
    ("sent", "id"), [("with/slash", "with/slash"), ("a//b", "a//b"), ("x/../a", "x/../a"), ("./a", "./a")]
)
def test_an_id_means_what_it_says_and_no_other_path(wire: Wire, sent: str, id: str) -> None:
    assert wire.json("PUT", f"/c/vectors/{sent}", {"vector": [1, 2, 3]})["vector_id"] == id
    assert sorted(row[1] for row in wire.tenant.contents()["c"]) == sorted(["a", "b", id])


@pytest.mark.parametrize(
    "path",
    [
        "/v1/projects/../admin/keys",
        "/v1//projects",
        "//v1/quota/me",
        "/v1/projects/%2e%2e/collections",
        "/v1/%61dmin/keys/",
        "/v1/quota/me/",
        "/V1/quota/me",
        "/v1/quota/me%00",
        "/v1/quota/me%20",
        "/v1/quota%2Fme%2F",
        "/v1",
        "/",
        "",
        "*",
        "/docs",
        "/redoc",
    ],
)
def test_a_path_that_is_nearly_one_is_none(wire: Wire, path: str) -> None:
    status, headers, _ = wire.call("GET", path)
    assert status in (400, 404), status
    if status == 404:
        assert headers["content-type"] == "application/problem+json"
        assert headers["x-request-id"]


def test_a_very_long_url_is_refused_and_harms_nobody(wire: Wire) -> None:
    before = wire.tenant.state()
    for length in (3_000, 60_000, 200_000):
        for path in (f"/c/vectors/{'x' * length}", f"/{'x' * length}", f"/c/vectors?prefix={'x' * length}"):
            try:
                status, _, _ = wire.call("GET", wire.path(path))
            except ConnectionError:
                assert length > 65_536  # the server has hung up before it read all of it
            else:
                assert 400 <= status < 500, (length, status)
    assert wire.tenant.state() == before
    assert wire.call("GET", "/health")[0] == 200


def test_head_has_no_body_and_options_reveals_nothing_to_other_sites(wire: Wire) -> None:
    status, headers, content = wire.call("HEAD", wire.path("/c"))
    assert (status, content) == (405, b"")
    status, headers, _ = wire.call(
        "OPTIONS", wire.path("/c"), headers={"Origin": "https://elsewhere", "Access-Control-Request-Method": "GET"}
    )
    assert status == 405
    assert set(headers["allow"].split(", ")) == {"GET", "PATCH", "DELETE"}
    assert not [name for name in headers if name.startswith("access-control")]


def test_a_chunked_body_is_read_and_one_over_the_limit_is_refused(wire: Wire) -> None:
    chunked = {"Transfer-Encoding": "chunked"}
    content = json.dumps({"ids": ["a"]}).encode()
    status, _, _ = wire.call(
        "POST", wire.path("/c/vectors/fetch"), iter([content[:5], content[5:]]), chunked, chunked=True
    )
    assert status == 200
    before = wire.tenant.contents()
    # The server answers before it has read all of it, so the client may find the connection closed.
    with socket.create_connection(("127.0.0.1", wire.port), timeout=30) as connection:
        head = (
            f"POST {wire.path('/c/vectors')} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {wire.tenant.key.secret}\r\n"
        )
        connection.sendall(head.encode() + b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(100):
            connection.sendall(b"10000\r\n" + b" " * 65_536 + b"\r\n")
        connection.sendall(b"0\r\n\r\n")
        answer = connection.recv(65_536)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"application/problem+json" in answer
    assert wire.tenant.contents() == before


def test_a_body_announced_as_too_large_is_refused_before_it_is_sent(wire: Wire) -> None:
    with socket.create_connection(("127.0.0.1", wire.port), timeout=30) as connection:
        head = (
            f"POST {wire.path('/c/vectors')} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {wire.tenant.key.secret}\r\n"
        )
        connection.sendall(head.encode() + b"Content-Length: 7000000\r\n\r\n")
        assert connection.recv(65_536).startswith(b"HTTP/1.1 413 ")


def test_a_client_that_goes_away_in_the_middle_changes_nothing_and_is_no_error(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    tenant, sent = world.tenant, []
    before = tenant.state()
    messages = [
        {"type": "http.request", "body": b'{"vectors": [{"id": "x"', "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": f"/v1{tenant.base}/c/vectors",
        "query_string": b"",
        "headers": [(b"authorization", f"Bearer {tenant.key.secret}".encode())],
    }
    with caplog.at_level(logging.INFO, "vecmeter"):
        asyncio.run(tenant.api.app(scope, receive, send))
    assert sent == []
    assert tenant.state() == before
    [line] = caplog.records
    assert (line.levelname, line.status) == ("INFO", 499)  # type: ignore[attr-defined]


@pytest.mark.parametrize("client_sent", ["mine", "x" * 5000, "a\tb"])
def test_the_request_id_is_ours_whatever_a_client_sends(wire: Wire, client_sent: str) -> None:
    """It marks a request as counted: a client's word would let it ride for free."""
    seen = set()
    for _ in range(3):
        status, headers, _ = wire.call("GET", wire.path("/c"), headers={"X-Request-Id": client_sent})
        assert status == 200
        seen.add(headers["x-request-id"])
    assert len(seen) == 3
    assert client_sent not in seen


def test_every_kind_of_answer_has_a_request_id_of_its_own(wire: Wire) -> None:
    paths = [
        "/health",
        "/health/ready",
        "/openapi.json",
        "/v1/quota/me",
        "/nothing",
        wire.path("/c"),
        wire.path("/missing"),
    ]
    answers = [wire.call("GET", path) for path in paths]
    bodies: tuple[Any, ...] = (b"{", {}, b" " * 7_000_000)
    answers += [wire.call("POST", wire.path("/c/search"), body) for body in bodies]
    answers += [wire.call("GET", "/v1/quota/me", headers={"Authorization": ""}), wire.call("PUT", "/v1/quota/me")]
    ids = [headers["x-request-id"] for _, headers, _ in answers]
    assert len(set(ids)) == len(ids)


def test_health_answers_at_once_while_slow_requests_fill_every_thread(database_url: str, table_name: str) -> None:
    """Twenty requests wait for a lock: health waits for none of them, and neither does what needs no database."""
    settings = settings_for(database_url, table_name, database_pool_size=20, statement_timeout_ms=20_000)
    with open_api(settings) as api, serving(api) as port:
        world = make_world(api)
        wire = Wire(port, world)
        [(number,)] = api.runtime.database.run(
            lambda c: c.execute("SELECT collection_id FROM vecmeter.collections").fetchall()
        )
        with psycopg.connect(database_url) as lock, ThreadPoolExecutor(20) as pool:
            lock.execute(sql.SQL("LOCK TABLE {}").format(sql.Identifier("vecmeter", f"vectors_{number}")))
            slow = [pool.submit(wire.json, "POST", "/c/search", {"vector": [1, 0, 0]}) for _ in range(20)]
            until_waiting(database_url, 20)
            slowest = max(timed(wire, "/health") for _ in range(50))
            quota = timed(wire, "/v1/quota/me")
            assert not any(request.done() for request in slow)
            lock.rollback()
            wait(slow)
        assert [len(request.result()["matches"]) for request in slow] == [2] * 20
    assert slowest < 0.1
    assert quota < 1


def test_a_connection_that_is_kept_gives_each_request_its_whole_time(database_url: str, table_name: str) -> None:
    """Bodies that make the server stop reading for a moment, for longer than one request may take."""
    settings = settings_for(database_url, table_name, request_timeout_seconds=4)  # 1 of them for the work
    with open_api(settings) as api, serving(api) as port:
        tenant = make_world(api).tenant
        connection = HTTPConnection("127.0.0.1", port, timeout=30)
        vectors = [{"id": f"{i}", "vector": [1, 0, 0], "metadata": {"text": "x" * 4000}} for i in range(50)]
        body, statuses = json.dumps({"vectors": vectors}), []
        ends_at = time.monotonic() + 2
        while time.monotonic() < ends_at:
            headers = {"Authorization": f"Bearer {tenant.key.secret}"}
            connection.request("POST", f"/v1{tenant.base}/c/vectors", body, headers)
            answer = connection.getresponse()
            content = answer.read()
            statuses.append((answer.status, b"" if answer.status == 200 else content))
        connection.close()
    assert set(statuses) == {(200, b"")}


def until_waiting(database_url: str, count: int) -> None:
    """Return once so many connections wait for a lock; the suite's time-out ends the wait if they never do."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    with psycopg.connect(database_url, autocommit=True) as connection:
        while connection.execute(waiting).fetchone() != (count,):
            pass


def timed(wire: Wire, path: str) -> float:
    started = time.perf_counter()
    status, _, _ = wire.call("GET", path)
    assert status == 200
    return time.perf_counter() - started
