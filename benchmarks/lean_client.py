"""The leanest client we know of for the same work: psycopg, and DynamoDB's wire over a plain socket, signed by hand.

It does what a search costs at least: the admission's update, the search statement, then settle and record side by
side. It decides nothing, checks nothing and renders nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import socket
import threading
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

_REGION, _SERVICE = "us-east-1", "dynamodb"


class LeanDynamoDb:
    """Signature version 4 with the signing key kept for the day; one connection per thread."""

    def __init__(self, endpoint: str, access_key: str, secret_key: str) -> None:
        self._host = urlsplit(endpoint).netloc
        self._access_key = access_key
        self._secret_key = secret_key
        self._day = ""
        self._signing_key = b""
        self._local = threading.local()

    def call(self, operation: str, request: dict[str, Any]) -> dict[str, Any]:
        body = json.dumps(request).encode()
        target = f"DynamoDB_20120810.{operation}"
        lines = "".join(f"{name}: {value}\r\n" for name, value in self._headers(target, body).items())
        head = f"POST / HTTP/1.1\r\nHost: {self._host}\r\n{lines}Content-Length: {len(body)}\r\n\r\n"
        connection, reader = self._connected()
        connection.sendall(head.encode() + body)
        status, length = reader.readline().split()[1], 0
        while (line := reader.readline()) != b"\r\n":
            if line[:15].lower() == b"content-length:":
                length = int(line[15:])
            elif line[:17].lower() == b"connection: close":  # the emulator does so after a thousand requests
                del self._local.connection
        content = reader.read(length)
        if status != b"200":
            raise RuntimeError(content)
        decoded: dict[str, Any] = json.loads(content)
        return decoded

    def _connected(self) -> tuple[socket.socket, Any]:
        """This thread's connection."""
        if not hasattr(self._local, "connection"):
            parts = urlsplit(f"//{self._host}")
            self._local.connection = socket.create_connection((parts.hostname, parts.port))
            self._local.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._local.reader = self._local.connection.makefile("rb")
        return self._local.connection, self._local.reader

    def _headers(self, target: str, body: bytes) -> dict[str, str]:
        moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        day = moment[:8]
        if day != self._day:
            key = f"AWS4{self._secret_key}".encode()
            for part in (day, _REGION, _SERVICE, "aws4_request"):
                key = hmac.digest(key, part.encode(), "sha256")
            self._day, self._signing_key = day, key
        signed = "content-type;host;x-amz-date;x-amz-target"
        canonical = (
            "POST\n/\n\ncontent-type:application/x-amz-json-1.0\n"
            f"host:{self._host}\nx-amz-date:{moment}\nx-amz-target:{target}\n\n{signed}\n{hashlib.sha256(body).hexdigest()}"
        )
        scope = f"{day}/{_REGION}/{_SERVICE}/aws4_request"
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        to_sign = f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{digest}"
        signature = hmac.digest(self._signing_key, to_sign.encode(), "sha256").hex()
        return {
            "Content-Type": "application/x-amz-json-1.0",
            "X-Amz-Date": moment,
            "X-Amz-Target": target,
            "Authorization": f"AWS4-HMAC-SHA256 Credential={self._access_key}/{scope}, "
            f"SignedHeaders={signed}, Signature={signature}",
        }
