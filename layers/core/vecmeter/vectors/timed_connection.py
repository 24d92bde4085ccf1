"""A connection whose statements end when the time of the request is up: cancelled in the database, not abandoned."""

from __future__ import annotations

import math
import select
from contextlib import suppress
from typing import Any, TypeVar

import psycopg
from psycopg import errors as pg
from psycopg.abc import PQGen

from vecmeter import deadline

T = TypeVar("T")

# psycopg's own: how often a wait looks whether it is to go on.
_INTERVAL_SECONDS = 0.1
# To send a cancellation, and then again to see what came of it.
_CANCEL_SECONDS = 0.5


class NoReactionError(psycopg.OperationalError):
    """The time was up, and a cancellation changed nothing: the server hangs, or a proxy keeps cancellations back."""


class TimedConnection(psycopg.Connection[Any]):
    """Every wait of psycopg for the server goes through ``wait``, so a time limit costs no round trip and no thread."""

    def wait(self, gen: PQGen[T], interval: float = _INTERVAL_SECONDS, timeout: float | None = None) -> T:
        left = deadline.for_work()
        if left == math.inf:
            return super().wait(gen, interval, timeout)
        try:
            return super().wait(gen, interval, left)
        except pg._WaitTimeout:  # the name that the documentation of ``wait`` gives
            return self._cancel_and_wait(gen, interval)

    def ended_by_server(self) -> bool:
        """Whether an idle connection has something to read, which for one at rest is its end. No round trip."""
        if self.closed:
            return True
        poll = select.poll()
        poll.register(self.fileno(), select.POLLIN)
        return bool(poll.poll(0))

    def _cancel_and_wait(self, gen: PQGen[T], interval: float) -> T:
        """The statement's own end: it was cancelled, or it was just done."""
        with suppress(psycopg.Error):
            self.cancel_safe(timeout=_CANCEL_SECONDS)
        try:
            return super().wait(gen, interval, _CANCEL_SECONDS)
        except pg._WaitTimeout:
            self.close()
            raise NoReactionError("no reaction to a cancellation") from None
