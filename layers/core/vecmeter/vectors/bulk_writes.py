"""Notices when a collection has been written so much to that its indexes should be looked at, before maintenance would.

Counted in memory, for each instance: what several of them or a restart make it miss, the schedule finds.
"""

from __future__ import annotations

import logging
import threading
from typing import Protocol

from vecmeter.vectors.model import Collection

_logger = logging.getLogger("vecmeter.maintenance")


class StartBuild(Protocol):
    """Has ``build_indexes`` run for a collection, and does not wait for it."""

    def start(self, collection: Collection) -> None:
        """Raises whatever goes wrong."""

    def close(self) -> None:
        """Wait for what runs in this process."""


class BulkWrites:
    """Counts what this instance writes. Where building starts is none of its business; ``build`` None: nowhere."""

    def __init__(self, index_threshold: int, build: StartBuild | None) -> None:
        self._enough = max(1, index_threshold // 2)
        self._build = build
        self._lock = threading.Lock()
        self._written: dict[int, int] = {}

    def wrote(self, collection: Collection, vectors: int) -> None:
        """So many vectors more were written to the collection: look at its indexes if that is enough by now."""
        with self._lock:
            written = self._written.get(collection.collection_id, 0) + vectors
            self._written[collection.collection_id] = written if written < self._enough else 0
        if written >= self._enough:
            self.look_at(collection)

    def look_at(self, collection: Collection) -> None:
        """Look at the collection's indexes soon. What goes wrong is logged: the schedule will look at them anyway."""
        if self._build is None:
            return
        try:
            self._build.start(collection)
        except Exception:  # whatever it is, a write that is done does not fail for it
            _logger.exception("build not started", extra={"collection_id": collection.collection_id})

    def close(self) -> None:
        if self._build is not None:
            self._build.close()
