"""A TCP connection to a server that loses a request or an answer on demand: the faults of a real network."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from urllib.parse import urlsplit


class Fault(Enum):
    LOST_REQUEST = "the connection breaks before the server gets it"
    LOST_ANSWER = "the server does it, and the connection breaks before its answer arrives"


class LossyLine:
    """Passes bytes between clients and a server. ``faults`` happen to the next requests, one each; None: none."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._server = (parts.hostname, parts.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.faults: list[Fault | None] = []
        self._passing: list[threading.Thread] = []
        self._open: list[socket.socket] = []
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepting.join()
        for side in self._open:
            with suppress(OSError):  # closed already
                side.shutdown(socket.SHUT_RDWR)
        for thread in self._passing:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._server)
            self._open += [client, server]
            lost = threading.Event()
            for pass_on in (self._requests, self._answers):
                thread = threading.Thread(target=pass_on, args=(client, server, lost))
                self._passing.append(thread)
                thread.start()

    def _requests(self, client: socket.socket, server: socket.socket, lost: threading.Event) -> None:
        with suppress(OSError):
            while data := client.recv(1 << 16):
                # A request begins with its method; what goes on in another segment is JSON, or the rest of base64.
                if data.split(b" ", 1)[0] in (b"GET", b"POST", b"PUT", b"PATCH", b"DELETE") and self.faults:
                    fault = self.faults.pop(0)
                    if fault is Fault.LOST_REQUEST:
                        break
                    if fault is Fault.LOST_ANSWER:
                        lost.set()
                server.sendall(data)
        _end(client, server)

    def _answers(self, client: socket.socket, server: socket.socket, lost: threading.Event) -> None:
        with suppress(OSError):
            while (data := server.recv(1 << 16)) and not lost.is_set():
                client.sendall(data)
        _end(client, server)


def _end(*sides: socket.socket) -> None:
    for side in sides:
        with suppress(OSError):
            side.shutdown(socket.SHUT_RDWR)
    for side in sides:
        side.close()


@contextmanager
def lossy_line(url: str) -> Iterator[LossyLine]:
    line = LossyLine(url)
    try:
        yield line
    finally:
        line.close()
