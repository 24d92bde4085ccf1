"""The two ways to have work done without waiting for it: by the maintenance function, or by a thread."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

from vecmeter.errors import UnavailableError
from vecmeter.vectors.model import Collection

_logger = logging.getLogger("vecmeter.maintenance")

# Who wrote waits for this call: rather late by the schedule than long.
_CONNECT_SECONDS = 1
_READ_SECONDS = 2
_PATIENCE_SECONDS = 5.0
_RETRY_AFTER_SECONDS = 10


class MaintenanceFunction:
    """Invokes it asynchronously. ``client``: makes boto3's client of Lambda, at the first use."""

    def __init__(self, function_name: str, client: Callable[[], Any]) -> None:
        self._function_name = function_name
        self._make_client = client
        self._client: Any = None

    def start(self, task: str, options: Mapping[str, Any]) -> None:
        """Have it run a task. Raises UnavailableError."""
        payload = json.dumps({"task": task, "options": dict(options)}).encode()
        try:
            if self._client is None:
                self._client = self._make_client()
            self._client.invoke(FunctionName=self._function_name, InvocationType="Event", Payload=payload)
        except Exception as error:  # boto3 is not loaded here, so its errors have no name
            message = "The maintenance function cannot be invoked; the schedule goes on."
            raise UnavailableError(message, retry_after=_RETRY_AFTER_SECONDS) from error

    def close(self) -> None:
        if self._client is not None:
            self._client.close()


class FunctionBuilds:
    """Has the maintenance function build indexes."""

    def __init__(self, function: MaintenanceFunction) -> None:
        self._function = function

    def start(self, collection: Collection) -> None:
        options = {"project_id": collection.project_id, "collection": collection.name}
        self._function.start("build_indexes", options)

    def close(self) -> None:
        self._function.close()


def lambda_client() -> Any:
    """A client of Lambda that gives up early."""
    import boto3  # only where something is invoked: it takes long to load
    from botocore.config import Config

    once: Any = {"mode": "standard", "total_max_attempts": 1}
    config = Config(connect_timeout=_CONNECT_SECONDS, read_timeout=_READ_SECONDS, retries=once)
    return boto3.client("lambda", config=config)


class ThreadBuilds:
    """Runs ``build`` in threads of this process, one for a collection at a time, until it returns True: it is done."""

    def __init__(self, build: Callable[[Collection], bool], again_seconds: float = 5.0) -> None:
        self._build = build
        self._again_seconds = again_seconds
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._running: dict[int, threading.Thread] = {}
        self._again: set[int] = set()

    def start(self, collection: Collection) -> None:
        number = collection.collection_id
        with self._lock:
            if number in self._running:
                self._again.add(number)  # it may have looked already at what has changed since
                return
            thread = threading.Thread(target=self._run, args=[collection], name=f"build {number}", daemon=True)
            self._running[number] = thread
            thread.start()

    def close(self) -> None:
        """A build that takes longer ends with its connection, and is begun anew another time."""
        self._closing.set()
        for thread in list(self._running.values()):
            thread.join(_PATIENCE_SECONDS)

    def _run(self, collection: Collection) -> None:
        while True:
            try:
                while not self._build(collection) and not self._closing.wait(self._again_seconds):
                    pass
            except Exception:  # whatever it is, nobody waits for it, and the schedule builds what is missing
                _logger.exception("build failed", extra={"collection_id": collection.collection_id})
            with self._lock:
                if collection.collection_id not in self._again:
                    del self._running[collection.collection_id]
                    return
                self._again.discard(collection.collection_id)
