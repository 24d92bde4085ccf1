"""Starts again what dies while the stack is up, up to a point."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from vecmeter_local.processes import Child, LocalStackError

# Above what somebody who tries out kills does in a minute, below what a part that cannot start does.
MOST_RESTARTS = 20
WITHIN_SECONDS = 60.0


class Part(Protocol):
    """A part of the stack that runs in a process of its own."""

    name: str

    @property
    def child(self) -> Child | None:
        """The process; None before start and after stop."""

    def start(self) -> object:
        """Start it. Raises LocalStackError."""


class Supervision:
    """Looks after parts. A part that keeps dying ends the stack: after ``MOST_RESTARTS`` within a minute."""

    def __init__(self, parts: Sequence[Part], clock: Callable[[], float] = time.monotonic) -> None:
        self._parts = parts
        self._clock = clock
        self._restarts: dict[str, deque[float]] = {part.name: deque() for part in parts}

    def look(self) -> None:
        """Start each part again that has ended. Call it from the main thread, as ``spawn`` wants it.

        Raises:
            LocalStackError: a part ended too often; shows the end of its log.
        """
        for part in self._parts:
            child = part.child
            if child is None or not child.alive():
                self._start_again(part, child)

    def _start_again(self, part: Part, ended: Child | None) -> None:
        how = f"ended unexpectedly with status {ended.process.returncode}" if ended else "did not start"
        restarts = self._restarts[part.name]
        while restarts and restarts[0] <= self._clock() - WITHIN_SECONDS:
            restarts.popleft()
        if len(restarts) == MOST_RESTARTS:
            what = f"{how}, after {MOST_RESTARTS} new starts within {WITHIN_SECONDS:.0f} s"
            raise ended.failure(what) if ended else LocalStackError(f"{part.name} {what}.")
        restarts.append(self._clock())
        print(
            f"{part.name} {how}; starting it again ({len(restarts)} of {MOST_RESTARTS}).", file=sys.stderr, flush=True
        )
        try:
            part.start()
        except LocalStackError as error:
            print(error, file=sys.stderr, flush=True)
