"""What runs in the emulator's process: ministack on an inherited socket, with a journal of every write to DynamoDB.

ministack writes its state only when it ends in order. The ledger holds the keys and says what was used: it must not
forget what it acknowledged, so each write is in a journal before it is done, and done again after a start.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Coroutine
from contextlib import suppress
from copy import deepcopy
from importlib import import_module
from pathlib import Path
from typing import Any

from hypercorn.asyncio import serve
from hypercorn.config import Config

from vecmeter_local.journal import Journal, Request

_LOOK_EVERY_SECONDS = 0.25
_IDLE_SECONDS = 1.0
# Saving copies every table; a start does a thousand requests again in less than a second.
_WORTH_SAVING = 1_000
_READS = frozenset({"GetItem", "BatchGetItem", "TransactGetItems", "Query", "Scan"})


class JournaledDynamoDb:
    """Stands between the emulator and its DynamoDB: ``install`` puts its methods in the place of the module's."""

    def __init__(self, folder: Path) -> None:
        self._service: Any = import_module("ministack.services.dynamodb")
        self._responses = import_module("ministack.core.responses")
        self._persistence = import_module("ministack.core.persistence")
        self._handle = self._service.handle_request
        self._get_state = self._service.get_state
        self._load_state = self._service.load_persisted_state
        self._saved = folder / "dynamodb.json"
        self._journal = Journal(folder)
        self._last_write = 0.0

    def install(self) -> None:
        self._service.handle_request = self.handle
        self._service.get_state = self.state
        self._service.load_persisted_state = self.restore
        if not self._saved.exists():
            # It is restored from only where there is one.
            self._persistence.save_state("dynamodb", self.state())

    async def handle(self, method: str, path: str, headers: dict[str, str], body: bytes, query: Any) -> Any:
        """Journal what is not a read, then pass it on. Nothing waits in between, so the journal has the order."""
        target = headers.get("x-amz-target", "")
        if target.rpartition(".")[2] not in _READS:
            account, region = self._responses.get_account_id(), self._responses.get_region()
            try:
                self._journal.append(Request(account, region, target, body.decode()))
            except OSError as error:
                return self._responses.error_response_json("InternalServerError", f"The journal: {error}.", 500)
            self._last_write = time.monotonic()
        return await self._handle(method, path, headers, body, query)

    def state(self) -> dict[str, Any]:
        """What is to be saved, with the journal that follows it. Raises OSError."""
        return self._with_journal(self._copy())

    def restore(self, data: dict[str, Any]) -> None:
        """Take up a saved state, and do again what was written since."""
        self._load_state(data)
        self._service._txn_idempotency.update(data.get("transaction_tokens", {}))
        first = int(data.get("journal", 0))
        for request in self._journal.since(first):
            with self._responses.request_scope(request.account, request.region):
                _finish(self._handle("POST", "/", {"x-amz-target": request.target}, request.body.encode(), {}))
        self._journal.forget_before(first)

    async def keep_until(self, stopping: asyncio.Event) -> None:
        """Bring the journal to the disk, and save in idle moments; a save under way is finished before it returns."""
        synced = 0
        while not stopping.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), _LOOK_EVERY_SECONDS)
            if self._journal.requests != synced:
                synced = self._journal.requests
                await asyncio.to_thread(self._journal.sync)
            if synced >= _WORTH_SAVING and time.monotonic() - self._last_write >= _IDLE_SECONDS:
                await self._save_if_undisturbed()

    async def _save_if_undisturbed(self) -> None:
        requests = self._journal.requests
        # In a thread: a request that comes now is answered at once, and the copy it disturbs is dropped.
        try:
            copied = await asyncio.to_thread(self._copy)
        except RuntimeError:  # a table changed while it was copied
            return
        if self._journal.requests != requests:
            return
        try:
            state = self._with_journal(copied)
        except OSError:  # no room: the journal so far stays
            return
        before = self._saved.stat().st_ino
        await asyncio.to_thread(self._persistence.save_state, "dynamodb", state)
        if self._saved.stat().st_ino != before:  # it logs a failure and says nothing
            self._journal.forget_before(state["journal"])

    def _copy(self) -> dict[str, Any]:
        # A repeated transaction must stay known as one.
        return {**self._get_state(), "transaction_tokens": deepcopy(self._service._txn_idempotency)}

    def _with_journal(self, state: dict[str, Any]) -> dict[str, Any]:
        return {**state, "journal": self._journal.turn()}


def _finish(handling: Coroutine[Any, Any, Any]) -> None:
    """Run a coroutine that waits for nothing."""
    try:
        handling.send(None)
    except StopIteration:
        return
    handling.close()
    raise RuntimeError("DynamoDB's emulation waited for the event loop")


async def _run(descriptor: int) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    dynamodb = JournaledDynamoDb(Path(os.environ["STATE_DIR"]))
    dynamodb.install()
    config = Config()
    config.bind = [f"fd://{descriptor}"]
    config.backlog = 1024
    config.keep_alive_timeout = 75
    config.loglevel = "WARNING"
    config.startup_timeout = 3600  # a long journal takes its time

    async def stop() -> None:
        # Two saves at once would write to the same file, and ending in order saves once more.
        await dynamodb.keep_until(stopping)

    await serve(import_module("ministack.app").app, config, shutdown_trigger=stop)


if __name__ == "__main__":
    asyncio.run(_run(int(sys.argv[1])))
