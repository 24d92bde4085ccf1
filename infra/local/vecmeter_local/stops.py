"""SIGINT, SIGTERM and SIGHUP as requests to stop, for the stack and for each of its workers."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequestedError(Exception):
    """A stop was asked for while the stack was still starting."""


class StopRequests:
    """The first signal asks to stop, each further one runs what hastens the stop."""

    def __init__(self) -> None:
        self.stopping = threading.Event()
        self._hastening: list[Callable[[], None]] = []

    def hasten_with(self, action: Callable[[], None]) -> None:
        self._hastening.append(action)

    def check(self) -> None:
        """Raise StopRequestedError when a stop was asked for; called between the steps of the start."""
        if self.stopping.is_set():
            raise StopRequestedError

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Handle the signals inside the block.

        An ignored SIGHUP stays ignored (nohup). An ignored SIGINT does not: a shell ignores it for whatever a
        script starts with ``&``, and the script means it when it sends one.
        """
        handled = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            handled.append(signal.SIGHUP)
        before = {number: signal.signal(number, self._on_signal) for number in handled}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if not self.stopping.is_set():
            self.stopping.set()
            return
        for action in self._hastening:
            action()
