"""The HTTP server of the local stack: uvicorn in a thread, on a socket opened before anything else starts."""

from __future__ import annotations

import asyncio
import errno
import socket
import threading
import time
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException
from typing import TYPE_CHECKING

from vecmeter_local.processes import LocalStackError

if TYPE_CHECKING:
    from fastapi import FastAPI

_DRAIN_SECONDS = 20
# Connections that wait to be taken; the kernel's own bound may be lower.
_BACKLOG = 1024
_READY_SECONDS = 60.0
_POLL_SECONDS = 0.02


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one.

    Raises:
        LocalStackError: the port is taken, or the address is none of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise LocalStackError(
                f"Port {port} of {host} is taken by another process. Give another one with --port N, or --port 0 for "
                "any free one ('make run PORT=N')."
            ) from None
        raise LocalStackError(f"Cannot listen on {host} port {port}: {error.strerror}.") from None
    # Set on a listener, it holds for its connections; without it an answer may wait 40 ms for an ACK.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def url_of(listener: socket.socket) -> str:
    """The URL at which this machine reaches the socket."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)  # noqa: S104 - shown, not bound
    return f"http://{f'[{host}]' if ':' in host and '[' not in host else host}:{port}"


def wait_until_ready(listener: socket.socket, alive: Callable[[], bool]) -> None:
    """Return once ``GET /health/ready`` answers 200 on a socket, or nobody is ``alive`` to answer it.

    Raises:
        LocalStackError: it does not within 60 s; shows its last answer.
    """
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - asked, not bound
    deadline = time.monotonic() + _READY_SECONDS
    last = "no answer"
    while time.monotonic() < deadline and alive():
        connection = HTTPConnection(host, port, timeout=1)
        try:
            connection.request("GET", "/health/ready")
            answer = connection.getresponse()
            if answer.status == 200:
                return
            last = f"{answer.status} {answer.read().decode(errors='replace')}"
        except (OSError, HTTPException) as error:
            last = str(error)
        finally:
            connection.close()
        time.sleep(_POLL_SECONDS)
    raise LocalStackError(f"The server does not become ready: {last}")


class HttpServer:
    """Serves an application from a thread until told to stop."""

    def __init__(self, app: FastAPI, listener: socket.socket) -> None:
        import uvicorn

        config = uvicorn.Config(
            app,
            lifespan="off",
            access_log=False,
            log_config=None,
            log_level="warning",
            backlog=_BACKLOG,
            timeout_graceful_shutdown=_DRAIN_SECONDS,
            server_header=False,
        )
        self._server = uvicorn.Server(config)
        self._listener = listener
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._serve, name="http", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def alive(self) -> bool:
        return self._thread.is_alive()

    def stop(self) -> None:
        """Refuse new connections, let requests in flight finish (20 s at most), and end."""
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join()

    def hasten(self) -> None:
        """Do not wait for requests in flight any longer: cut their connections."""
        self._server.force_exit = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._cut_connections)

    def _serve(self) -> None:
        asyncio.run(self._run())

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        await self._server.serve(sockets=[self._listener])

    def _cut_connections(self) -> None:
        # From Python 3.12 on, a closed server waits for its connections, whatever force_exit says.
        for connection in list(self._server.server_state.connections):
            connection.transport.abort()
