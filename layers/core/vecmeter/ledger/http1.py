"""One connection of HTTP/1.1, for calls that are a POST with a body and an answer with its length.

``http.client`` reads headers with the parser of e-mails, which takes a warm call more CPU than all the rest of it
(docs/adr/0013). What is not as expected here is no answer, and the connection is given up.
"""

from __future__ import annotations

import io
import select
import socket
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl

    from _typeshed import WriteableBuffer

_LONGEST_LINE = 65_536


class BrokenAnswerError(OSError):
    """What came is no answer, or not all of one."""


class _Incoming(io.RawIOBase):
    """What a socket brings until ``ends_at``, by ``time.monotonic``, however many reads that takes."""

    def __init__(self, incoming: socket.socket) -> None:
        self._socket = incoming
        self.ends_at = 0.0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        left = self.ends_at - time.monotonic()
        if left <= 0:
            raise TimeoutError("the answer takes too long")
        self._socket.settimeout(left)
        return self._socket.recv_into(buffer)


class Connection:
    """Used by one thread at a time. Raises OSError for whatever the network does.

    ``reusable``: the answer came whole, and the server has not said that it closes the connection.
    """

    def __init__(self, host: str, port: int, tls: ssl.SSLContext | None, *, connect_seconds: float) -> None:
        self._socket = socket.create_connection((host, port), connect_seconds)
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if tls is not None:
                self._socket = tls.wrap_socket(self._socket, server_hostname=host)
        except BaseException:
            self._socket.close()
            raise
        self._incoming = _Incoming(self._socket)
        self._reader = io.BufferedReader(self._incoming)
        self.reusable = False

    def post(self, headers: Mapping[str, str], body: bytes, *, read_seconds: float) -> tuple[int, bytes]:
        """Status and content of the answer, which is here after ``read_seconds`` or given up. ``headers``: all of them
        but the body's length.
        """
        self.reusable = False
        self._incoming.ends_at = time.monotonic() + read_seconds
        self._socket.settimeout(read_seconds)
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        head = f"POST / HTTP/1.1\r\n{lines}content-length: {len(body)}\r\n\r\n"
        self._socket.sendall(head.encode("latin-1") + body)
        status, length, stays_open = self._head()
        content = self._reader.read(length)
        if length is not None and len(content) < length:
            raise BrokenAnswerError("the answer ended early")
        self.reusable = stays_open
        return status, content

    def has_news(self) -> bool:
        """Whether something arrived that nobody asked for: the end, as servers close what rests too long."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(0))

    def close(self) -> None:
        self._reader.close()
        self._socket.close()

    def _head(self) -> tuple[int, int | None, bool]:
        """Status, length and whether the connection stays open; without a length the answer ends with it."""
        version, _, rest = self._line().partition(b" ")
        status = rest[:3]
        if version not in (b"HTTP/1.1", b"HTTP/1.0") or not status.isdigit() or status < b"200":
            raise BrokenAnswerError("the answer is not HTTP")
        length, stays_open = None, version == b"HTTP/1.1"
        while line := self._line():
            name, _, value = line.partition(b":")
            name, value = name.lower(), value.strip()
            if name == b"content-length" and value.isdigit():
                length = int(value)
            elif name == b"connection":
                stays_open = stays_open and value.lower() != b"close"
            elif name in (b"content-length", b"transfer-encoding"):
                raise BrokenAnswerError("the answer does not say how long it is")
        return int(status), length, stays_open and length is not None

    def _line(self) -> bytes:
        line = self._reader.readline(_LONGEST_LINE)
        if not line.endswith(b"\n"):
            raise BrokenAnswerError("the answer ended early")
        return line.rstrip(b"\r\n")
