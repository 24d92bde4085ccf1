"""Circuit breakers: a service that failed too often just now is not asked for a while; who needs it hears so at once.

The states and their transitions are pybreaker's. Its ``call`` is not put around the work: it holds a lock as long as
the work takes, and lets one success forget all failures (docs/adr/0015).
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from pybreaker import (
    STATE_CLOSED,
    STATE_OPEN,
    CircuitBreaker,
    CircuitBreakerListener,
    CircuitMemoryStorage,
)

from vecmeter.errors import CircuitOpenError

_logger = logging.getLogger("vecmeter.circuits")


class Sign(Enum):
    """What the outcome of some work says of the service it needed."""

    ANSWERED = auto()  # also where it refused: a caller's mistakes are no failures of the service
    NOTHING = auto()  # it was not asked, or the outcome is not its doing
    FAILED = auto()
    HUNG = auto()  # it let all the time pass: one more such failure is one too many


class Circuit:
    """The way to one service, for all threads of a process.

    Closed, until there were ``failures`` within ``window_seconds``; then open for ``open_seconds``, in which nobody
    gets through; then half-open: one gets through, and closes the circuit or opens it again.
    """

    def __init__(
        self,
        name: str,
        *,
        failures: int = 5,
        window_seconds: float = 60.0,
        open_seconds: float = 30.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self._open_seconds = open_seconds
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._probing = False
        self._refused = 0
        self._openings = _Openings(monotonic)
        self._breaker = CircuitBreaker(
            fail_max=failures,
            state_storage=_FailuresInWindow(window_seconds, monotonic),
            listeners=[self._openings],
            name=name,
            throw_new_error_on_trip=False,
        )

    @property
    def state(self) -> str:
        """``closed``, ``open`` or ``half-open``."""
        return self._breaker.current_state

    @contextmanager
    def guard(self, sign_of: Callable[[Exception], Sign], *, past: bool = False) -> Iterator[None]:
        """Do the block, which needs the service, unless the circuit is open.

        Args:
            sign_of: what an error of the block says of the service.
            past: to see whether it answers, whatever the state. If it does, the circuit is closed.

        Raises:
            CircuitOpenError: at once; the block is not begun.
        """
        probe = not past and self._enter()
        sign = Sign.NOTHING
        try:
            yield
            sign = Sign.ANSWERED
        except Exception as error:
            sign = sign_of(error)
            raise
        finally:
            if probe or sign is not Sign.ANSWERED or self.state != STATE_CLOSED:
                self._leave(sign, decides=probe or (past and sign is Sign.ANSWERED), probe=probe)

    def take_counts(self) -> tuple[int, int]:
        """How often it opened, and how many it turned away, since this was asked last."""
        with self._lock:
            counts = self._openings.count, self._refused
            self._openings.count = self._refused = 0
        return counts

    def _enter(self) -> bool:
        """Whether who enters is the probe."""
        if self.state == STATE_CLOSED:
            return False
        with self._lock:
            if self.state == STATE_CLOSED:
                return False
            wait = self._openings.last + self._open_seconds - self._monotonic()
            if self._probing or wait > 0:
                self._refused += 1
                raise _refusal(self.name, max(1, math.ceil(wait)))
            self._breaker.half_open()
            self._probing = True
            return True

    def _leave(self, sign: Sign, *, decides: bool, probe: bool) -> None:
        with self._lock:
            if probe:
                self._probing = False
            if self.state != STATE_CLOSED and not decides:
                return  # it began before the circuit opened, and says nothing new
            if sign is Sign.ANSWERED:
                self._breaker.close()
            elif sign is Sign.HUNG:
                self._breaker.open()
            elif sign is Sign.FAILED:
                with suppress(_FailedError):
                    self._breaker.call(_fail)


@dataclass(frozen=True, slots=True)
class Circuits:
    """Those of a process."""

    database: Circuit
    embedder: Circuit
    ledger: Circuit

    def states(self) -> dict[str, str]:
        return {circuit.name: circuit.state for circuit in self._all()}

    def take_counts(self) -> tuple[int, int]:
        """The sums of ``Circuit.take_counts``."""
        counts = [circuit.take_counts() for circuit in self._all()]
        return sum(opened for opened, _ in counts), sum(refused for _, refused in counts)

    def _all(self) -> tuple[Circuit, ...]:
        return self.database, self.embedder, self.ledger


class _FailuresInWindow(CircuitMemoryStorage):
    """Failures are forgotten as they grow old, not by a success: what fails every other call is in trouble, too."""

    def __init__(self, window_seconds: float, monotonic: Callable[[], float]) -> None:
        super().__init__(STATE_CLOSED)
        self._window = window_seconds
        self._monotonic = monotonic
        self._times: deque[float] = deque()

    def increment_counter(self) -> None:
        self._times.append(self._monotonic())

    def reset_counter(self) -> None:
        self._times.clear()

    @property
    def counter(self) -> int:
        oldest = self._monotonic() - self._window
        while self._times and self._times[0] < oldest:
            self._times.popleft()
        return len(self._times)


class _Openings(CircuitBreakerListener):
    """When the circuit opened last, and how often; opening again after a probe counts."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self.last = -math.inf
        self.count = 0

    def state_change(self, cb: CircuitBreaker, old_state: Any, new_state: Any) -> None:
        if new_state.name == STATE_OPEN:
            self.last = self._monotonic()
            self.count += 1
            _logger.warning("circuit opened", extra={"circuit": cb.name})
        elif new_state.name == STATE_CLOSED:
            _logger.warning("circuit closed", extra={"circuit": cb.name})


class _FailedError(Exception):
    """Stands for a failure where pybreaker wants to see one."""


def _fail() -> None:
    raise _FailedError


def _refusal(name: str, seconds: int) -> CircuitOpenError:
    return CircuitOpenError(f"The {name} failed too often just now; it is asked again in {seconds} s.", seconds)
