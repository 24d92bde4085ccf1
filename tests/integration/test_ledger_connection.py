"""The ledger's connections: what counts as an answer, which connection is used again, how long a call may wait."""

from __future__ import annotations

import itertools
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vecmeter.deadline import within
from vecmeter.ledger.access import Access
from vecmeter.ledger.signature import Credentials
from vecmeter.ledger.signed import NoAnswerError, ServiceError, SignedEndpoint

BODY = b'{"Item": {"n": {"N": "1"}}}'
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
WAIT_SECONDS = 5.0


class ScriptedServer:
    """Sends what it is told as the answer to one request after the other, in pieces; an empty one ends the connection.

    ``together``: how many requests must be there before the first of them is answered. ``pause``: seconds before each
    piece.
    """

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.answers: list[tuple[bytes, ...]] = []
        self.requests: list[bytes] = []
        self.connections = 0
        self.ended: list[socket.socket] = []
        self.together = threading.Barrier(1)
        self.pause = 0.0
        self.open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.hang_up()
        self._thread.join()

    def hang_up(self) -> None:
        for one in self.open:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        serving = []
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                break
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.connections += 1
            self.open.append(client)
            serving.append(threading.Thread(target=self._serve, args=(client,), daemon=True))
            serving[-1].start()
        for thread in serving:
            thread.join()

    def _serve(self, client: socket.socket) -> None:
        with client, client.makefile("rb") as reader, suppress(OSError):
            while head := b"".join(itertools.takewhile(bytes.strip, iter(reader.readline, b""))):
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                self.requests.append(head + b"\r\n" + reader.read(length))
                self.together.wait(WAIT_SECONDS)
                answer = self.answers.pop(0)
                for piece in answer:
                    time.sleep(self.pause)
                    client.sendall(piece)
                if answer[-1:] == (b"",):
                    break
        self.ended.append(client)


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    server = ScriptedServer()
    yield server
    server.close()


@pytest.fixture
def endpoint(server: ScriptedServer) -> Iterator[SignedEndpoint]:
    endpoint = open_endpoint(server.url)
    yield endpoint
    endpoint.close()


def open_endpoint(url: str, most_idle: int = 2) -> SignedEndpoint:
    return SignedEndpoint(
        url,
        "dynamodb",
        Access("us-east-1", lambda: Credentials("key", "secret", "token")),
        most_idle,
        content_type="application/x-amz-json-1.0",
        connect_seconds=WAIT_SECONDS,
        read_seconds=WAIT_SECONDS,
    )


def call(endpoint: SignedEndpoint, body: bytes = b"{}") -> dict[str, Any]:
    return endpoint.call("DynamoDB_20120810.GetItem", body)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(cuts=st.sets(st.integers(1, len(ANSWER) - 1), max_size=6))
def test_an_answer_is_the_same_in_however_many_pieces_it_comes(
    server: ScriptedServer, endpoint: SignedEndpoint, cuts: set[int]
) -> None:
    at = [0, *sorted(cuts), len(ANSWER)]
    server.answers.append(tuple(ANSWER[start:end] for start, end in itertools.pairwise(at)))
    assert call(endpoint) == json.loads(BODY)
    assert server.connections == 1


def test_a_request_arrives_as_it_was_signed(server: ScriptedServer, endpoint: SignedEndpoint) -> None:
    server.answers = [(ANSWER,)]
    call(endpoint, b'{"TableName": "t"}')
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    assert first == "POST / HTTP/1.1"
    assert body == b'{"TableName": "t"}'
    assert headers["host"] == server.url.removeprefix("http://")
    assert headers["x-amz-security-token"] == "token"
    assert headers["x-amz-target"] == "DynamoDB_20120810.GetItem"
    assert headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=key/")


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n" + BODY,
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n" + BODY,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1b\r\n" + BODY + b"\r\n0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" + ANSWER,
        b"HTTP/2 200\r\nContent-Length: 2\r\n\r\n{}",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"x" * 100_000,
    ],
    ids=lambda answer: answer[:40].decode(),
)
def test_what_is_no_whole_answer_is_none_and_ends_its_connection(
    server: ScriptedServer, endpoint: SignedEndpoint, answer: bytes
) -> None:
    server.answers = [(answer, b""), (ANSWER,)]
    with pytest.raises(NoAnswerError):
        call(endpoint)
    assert call(endpoint) == json.loads(BODY)
    assert server.connections == 2


@pytest.mark.parametrize(
    ("answer", "connections"),
    [
        (ANSWER, 1),
        (ANSWER.replace(b"\r\n\r\n", b"\r\nConnection: keep-alive\r\nX-Amz-Crc32: 7\r\n\r\n", 1), 1),
        (ANSWER.replace(b"\r\n\r\n", b"\r\nconnection: Close\r\n\r\n", 1), 2),
        (ANSWER.replace(b"1.1", b"1.0", 1), 2),
    ],
)
def test_a_connection_is_used_again_unless_the_server_ends_it(
    server: ScriptedServer, endpoint: SignedEndpoint, answer: bytes, connections: int
) -> None:
    server.answers = [(answer,), (ANSWER,)]
    assert call(endpoint) == call(endpoint) == json.loads(BODY)
    assert server.connections == connections


def test_an_answer_without_a_length_ends_with_its_connection(server: ScriptedServer, endpoint: SignedEndpoint) -> None:
    server.answers = [(b"HTTP/1.1 200 OK\r\n\r\n" + BODY, b""), (ANSWER,)]
    assert call(endpoint) == call(endpoint) == json.loads(BODY)


def test_a_connection_that_was_closed_while_it_rested_is_passed_over(
    server: ScriptedServer, endpoint: SignedEndpoint
) -> None:
    server.answers = [(ANSWER,), (ANSWER,)]
    call(endpoint)
    server.hang_up()
    assert call(endpoint) == json.loads(BODY)
    assert (len(server.requests), server.connections) == (2, 2)


def test_an_error_is_an_answer_and_keeps_its_connection(server: ScriptedServer, endpoint: SignedEndpoint) -> None:
    body = b'{"__type": "com.amazonaws.dynamodb.v20120810#ThrottlingException", "message": "slowly"}'
    server.answers = [(b"HTTP/1.1 400 Bad Request\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body),), (ANSWER,)]
    with pytest.raises(ServiceError, match=r"^GetItem: ThrottlingException \(400\): slowly$"):
        call(endpoint)
    assert call(endpoint) == json.loads(BODY)
    assert server.connections == 1


def test_an_endpoint_that_was_closed_connects_anew(server: ScriptedServer, endpoint: SignedEndpoint) -> None:
    server.answers = [(ANSWER,), (ANSWER,)]
    call(endpoint)
    endpoint.close()
    assert call(endpoint) == json.loads(BODY)
    assert server.connections == 2


def test_no_more_connections_rest_than_may(server: ScriptedServer) -> None:
    endpoint = open_endpoint(server.url, most_idle=2)
    server.answers = [(ANSWER,)] * 5
    server.together = threading.Barrier(5)
    with ThreadPoolExecutor(5) as threads:
        assert list(threads.map(lambda _: call(endpoint), range(5))) == [json.loads(BODY)] * 5
    assert server.connections == 5
    end_waiting = time.monotonic() + WAIT_SECONDS
    while len(server.ended) < 3 and time.monotonic() < end_waiting:
        time.sleep(0.01)
    assert len(server.ended) == 3
    endpoint.close()


def test_a_call_waits_no_longer_than_its_request_may_take(server: ScriptedServer, endpoint: SignedEndpoint) -> None:
    server.answers = [()]
    started = time.monotonic()
    with within(0.2), pytest.raises(NoAnswerError, match="TimeoutError"):
        call(endpoint)
    assert time.monotonic() - started < WAIT_SECONDS / 2
    with within(0.0), pytest.raises(NoAnswerError, match="TimeoutError"):
        call(endpoint)
    assert len(server.requests) == 1


def test_an_answer_that_trickles_is_waited_for_no_longer_than_one_that_does_not_come(
    server: ScriptedServer, endpoint: SignedEndpoint
) -> None:
    server.answers, server.pause = [tuple(ANSWER[at : at + 1] for at in range(len(ANSWER)))], 0.05
    started = time.monotonic()
    with within(0.4), pytest.raises(NoAnswerError, match="TimeoutError"):
        call(endpoint)
    assert 0.4 <= time.monotonic() - started < 0.05 * len(ANSWER) / 2


def test_a_connection_whose_answer_may_still_come_is_never_used_again(
    server: ScriptedServer, endpoint: SignedEndpoint
) -> None:
    server.answers = [(), (ANSWER,)]
    with within(0.2), pytest.raises(NoAnswerError):
        call(endpoint)
    assert call(endpoint) == json.loads(BODY)
    assert server.connections == 2
