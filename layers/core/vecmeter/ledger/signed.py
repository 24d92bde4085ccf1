"""Signed calls of AWS's JSON protocol over kept connections: what the lean clients of ``wire`` and ``events`` share.

Why neither boto3 nor botocore: docs/adr/0008 and 0013.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from vecmeter.deadline import at_most
from vecmeter.ledger.http1 import Connection
from vecmeter.ledger.signature import Signer

if TYPE_CHECKING:
    import ssl

    from vecmeter.ledger.access import Access

_DEFAULT_PORTS = {"http": 80, "https": 443}


class ServiceError(RuntimeError):
    """The service answered with an error. ``answer``: what came with its code and message."""

    def __init__(self, operation: str, status: int, code: str, message: str, answer: dict[str, Any]) -> None:
        super().__init__(f"{operation}: {code} ({status}): {message}")
        self.status = status
        self.code = code
        self.message = message
        self.answer = answer


class NoAnswerError(ConnectionError):
    """Nobody answered, or the answer was lost on the way: whether the call took effect is not known."""


class SignedEndpoint:
    """One service at one endpoint; threads may share it. Each call is tried once, within the request's time.

    Connections are kept for later calls, which pass over those that were closed meanwhile. Raises ServiceError for an
    answer that is an error, and NoAnswerError for none.
    """

    def __init__(
        self,
        endpoint: str,
        service: str,
        access: Access,
        most_idle: int,
        *,
        content_type: str,
        connect_seconds: float,
        read_seconds: float,
    ) -> None:
        parts = urlsplit(endpoint)
        self.url = f"{parts.scheme}://{parts.netloc}/"
        self._host, self._port = parts.hostname or "", parts.port or _DEFAULT_PORTS[parts.scheme]
        self._tls = _tls_context(access.ca_bundle) if parts.scheme == "https" else None
        self._signer = Signer(_host_header(self._host, parts.port, parts.scheme), access.region, service, content_type)
        self._access = access
        self._most_idle = most_idle
        self._connect_seconds = connect_seconds
        self._read_seconds = read_seconds
        self._idle: deque[Connection] = deque()

    def call(
        self, target: str, body: bytes, object_hook: Callable[[dict[str, Any]], Any] | None = None
    ) -> dict[str, Any]:
        """Call ``target`` (``DynamoDB_20120810.GetItem``) with a JSON body; ``object_hook`` as in ``json.loads``."""
        headers = self._signer.headers(target, body, self._access.credentials(), datetime.now(UTC))
        status, content = self._exchange(body, headers)
        return _decoded(target.rpartition(".")[2], status, content, object_hook)

    def close(self) -> None:
        """Close the connections that nobody uses. The next call opens one."""
        while (connection := self._kept()) is not None:
            connection.close()

    def _exchange(self, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        connection = None
        try:
            connection = self._kept() or self._opened()
            return connection.post(headers, body, read_seconds=_left_of(self._read_seconds))
        except OSError as error:
            raise NoAnswerError(f"no answer from {self.url}: {type(error).__name__}") from error
        finally:
            if connection is not None:
                self._keep(connection)

    def _kept(self) -> Connection | None:
        """The one kept last, which is open most probably."""
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return None
            if not connection.has_news():
                return connection
            connection.close()

    def _opened(self) -> Connection:
        return Connection(self._host, self._port, self._tls, connect_seconds=_left_of(self._connect_seconds))

    def _keep(self, connection: Connection) -> None:
        if connection.reusable and len(self._idle) < self._most_idle:
            self._idle.append(connection)
        else:
            connection.close()


def _left_of(seconds: float) -> float:
    """A time-out, or what remains of the request's time if that is less."""
    left = at_most(seconds)
    if not left:  # a time-out of 0 would not wait at all, which is another error
        raise TimeoutError("no time is left")
    return left


@cache
def _tls_context(ca_bundle: str | None) -> ssl.SSLContext:
    import ssl  # reading the authorities takes some ms: once for all connections

    return ssl.create_default_context(cafile=ca_bundle)


def _host_header(host: str, port: int | None, scheme: str) -> str:
    name = f"[{host}]" if ":" in host else host
    return name if port in (None, _DEFAULT_PORTS[scheme]) else f"{name}:{port}"


def _decoded(
    operation: str, status: int, content: bytes, object_hook: Callable[[dict[str, Any]], Any] | None
) -> dict[str, Any]:
    try:
        answer: dict[str, Any] = json.loads(content, object_hook=object_hook) if content else {}
    except ValueError:
        answer = {}
    if status == 200:
        return answer
    # "com.amazonaws.dynamodb.v20120810#ThrottlingException"; a proxy's own page has none, and 5xx means try again.
    code = str(answer.pop("__type", "")).rpartition("#")[2] or ("InternalServerError" if status >= 500 else str(status))
    message = str(answer.pop("message", answer.pop("Message", "")))
    raise ServiceError(operation, status, code, message, answer)
