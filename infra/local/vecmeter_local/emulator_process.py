"""What runs in the emulator's process: ministack on an inherited socket, saved whenever it has been idle for a while.

ministack writes its state only when it ends in order. The ledger holds the keys, so a process that is killed or a
machine that goes down would take them along; saving in idle moments bounds the loss to what happened since.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from importlib import import_module
from typing import Any

from hypercorn.asyncio import serve
from hypercorn.config import Config

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_LOOK_EVERY_SECONDS = 0.25
_IDLE_SECONDS = 1.0
_LONGEST_UNSAVED_SECONDS = 60.0
# Of the time under unbroken load, at most one part in so many goes into saving.
_SAVING_SHARE = 50


class SavedWhenIdle:
    """ASGI application that passes everything to the emulator and saves its tables between requests."""

    def __init__(self, application: Application) -> None:
        self._application = application
        self._requests = 0
        self._saved_requests = 0
        self._last_request = 0.0
        self._next_forced_save = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            if self._requests == self._saved_requests:
                self._next_forced_save = max(self._next_forced_save, time.monotonic() + _LONGEST_UNSAVED_SECONDS)
            self._requests += 1
            self._last_request = time.monotonic()
        await self._application(scope, receive, send)

    async def save_until(self, stopping: asyncio.Event) -> None:
        """Save now and then; a save under way is finished before it returns."""
        while not stopping.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), _LOOK_EVERY_SECONDS)
            now = time.monotonic()
            if self._requests == self._saved_requests:
                continue
            if now - self._last_request >= _IDLE_SECONDS:
                # In a thread: a request that comes now is answered at once, and the copy it disturbs is dropped.
                await asyncio.to_thread(self._save_if_undisturbed)
            elif now >= self._next_forced_save:
                self._save_if_undisturbed()
                self._next_forced_save = now + _SAVING_SHARE * (time.monotonic() - now)

    def _save_if_undisturbed(self) -> None:
        requests = self._requests
        try:
            state = import_module("ministack.services.dynamodb").get_state()
        except RuntimeError:  # a table changed while it was copied
            return
        if self._requests == requests:
            import_module("ministack.core.persistence").save_state("dynamodb", state)
            self._saved_requests = requests


async def _run(descriptor: int) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    application = SavedWhenIdle(import_module("ministack.app").app)
    config = Config()
    config.bind = [f"fd://{descriptor}"]
    config.keep_alive_timeout = 75
    config.loglevel = "WARNING"

    async def stop() -> None:
        # Two saves at once would write to the same file, and ending in order saves once more.
        await application.save_until(stopping)

    await serve(application, config, shutdown_trigger=stop)  # type: ignore[arg-type]


if __name__ == "__main__":
    asyncio.run(_run(int(sys.argv[1])))
