"""The local HTTP server in a process of its own, on the parts the environment names; prints its port."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import threading

from search_function.routes import router as search
from upsert_function.routes import router as upsert
from vecmeter.http.app import create_app
from vecmeter.runtime import build_runtime
from vecmeter.settings import Settings
from vecmeter_local.server import HttpServer, listen


def main() -> None:
    settings = dataclasses.replace(Settings.from_environment(os.environ), database_pool_size=8, metrics_enabled=False)
    runtime = build_runtime(settings)
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    with listen("127.0.0.1", 0) as listener:
        server = HttpServer(create_app(runtime, search, upsert, service="bench"), listener)
        server.start()
        sys.stdout.write(f"{listener.getsockname()[1]}\n")
        sys.stdout.flush()
        ended.wait()
        server.stop()
    runtime.close()


if __name__ == "__main__":
    main()
