"""One worker of the local server: the routers of the three HTTP functions on the socket that all workers share."""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
from pathlib import Path

from vecmeter_local.processes import Child, claim, spawn
from vecmeter_local.stops import StopRequests

_LOOK_SECONDS = 0.2
# Requests in flight get 20 s, then what the worker builds for itself is given up.
_STOP_SIGNALS = ((signal.SIGTERM, 30.0),)


class Worker:
    """The process of one worker, numbered from 1. What it writes goes where the stack's own output goes."""

    def __init__(self, folder: Path, number: int, listener: socket.socket) -> None:
        self.name = f"Worker {number}"
        self._lock = folder / f"worker-{number}.lock"
        self._listener = listener
        self._child: Child | None = None

    @property
    def child(self) -> Child | None:
        """The running process; None before start and after stop."""
        return self._child

    def start(self) -> None:
        """Start the process, which takes requests as soon as it can; its environment is the stack's."""
        self._child = spawn(
            self.name,
            [sys.executable, "-m", "vecmeter_local.worker", str(self._listener.fileno())],
            lock=claim(self._lock, _STOP_SIGNALS),
            stop_signals=_STOP_SIGNALS,
            environment=os.environ,
            pass_fds=(self._listener.fileno(),),
        )

    def stop(self) -> None:
        """Let the requests in flight finish and end the process; without effect when it does not run."""
        if self._child is not None:
            self._child.stop()
            self._child = None

    def hasten(self) -> None:
        """Cut the requests in flight off, now or as soon as the process is asked to stop."""
        if self._child is not None:
            # Not the signal that asks it to stop: two of the same that come close together are one.
            self._child.signal(signal.SIGINT)


def serve(descriptor: int) -> None:
    """Take requests until asked to stop, and finish those in flight."""
    from admin_function.metrics_routes import exposition
    from admin_function.routes import router as admin
    from search_function.pinecone.routes import router as pinecone_search
    from search_function.routes import router as search
    from upsert_function.pinecone.routes import router as pinecone_upsert
    from upsert_function.routes import router as upsert
    from vecmeter.http.app import create_app
    from vecmeter.logs import configure_logging
    from vecmeter.runtime import runtime
    from vecmeter_local.server import HttpServer

    wired = runtime()
    configure_logging(wired.settings.log_level, wired.settings.log_format, "local")
    stops = StopRequests()
    with stops.handled(), socket.socket(fileno=descriptor) as listener:
        routers = (search, upsert, admin, exposition, pinecone_search, pinecone_upsert)
        server = HttpServer(create_app(wired, *routers, service="local"), listener)
        stops.hasten_with(server.hasten)
        # What is there now stays: looking through it for garbage again and again would hold up every request.
        gc.collect()
        gc.freeze()
        server.start()
        while server.alive() and not stops.stopping.wait(_LOOK_SECONDS):
            pass
        server.stop()
        wired.close()


if __name__ == "__main__":
    serve(int(sys.argv[1]))
