"""What to do next: send, wait and send again, or give up. Without I/O, so that one logic serves both drivers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from vecmeter_client._flow import Answer, Flow, Repeat, Request
from vecmeter_client._operations.service import HEALTH
from vecmeter_client._problems import check, error_of
from vecmeter_client._reading import answered
from vecmeter_client._reports import Health
from vecmeter_client.errors import ApiError, RequestError, RouteNotFoundError, TransportError, VecmeterError

T = TypeVar("T")

_logger = logging.getLogger("vecmeter_client")

# Seconds of a wait that the service did not name: at most this, doubled with each attempt, at most that.
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 8.0
# Of what the service named, so that those it sent away together do not come back together.
_SPREAD = 0.1
_MAY_PASS = frozenset({429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Send:
    """Send a request now, and take at most so many seconds."""

    request: Request
    seconds: float


@dataclass(frozen=True, slots=True)
class Wait:
    """Do nothing for so many seconds."""

    seconds: float


# What a driver is asked to do, and what it says then: the answer or why there is none; None after a wait.
Steps: TypeAlias = Generator[Send | Wait, Answer | TransportError | None, T]


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How long a request may take, and how often it is sent.

    Attributes:
        seconds: of one attempt.
        total_seconds: of all attempts of a request and the waits between them.
        retries: attempts after the first.
        url, prefix: where the service is; for what errors say.
        clock: seconds since some moment.
        chance: a number from 0 to 1.
    """

    seconds: float
    total_seconds: float
    retries: int
    url: str
    prefix: str
    clock: Callable[[], float]
    chance: Callable[[], float]

    def steps(self, flow: Flow[T]) -> Steps[T]:
        """All that an operation takes, and its result."""
        try:
            request = next(flow)
            while True:
                try:
                    answer = yield from self._exchange(request)
                except VecmeterError as error:
                    request = flow.throw(error)
                else:
                    request = flow.send(answer)
        except StopIteration as done:
            result: T = done.value
            return result

    def _exchange(self, request: Request) -> Steps[Answer]:
        """A request and its repetitions. Raises RequestError."""
        ends_at = self.clock() + self.total_seconds
        lost = False
        for attempt in range(1, self.retries + 2):
            outcome = yield Send(request, min(self.seconds, max(ends_at - self.clock(), 0.001)))
            if isinstance(outcome, Answer) and outcome.status < 300:
                check(outcome, self.url)
                return outcome
            assert outcome is not None
            error = error_of(outcome, self.url) if isinstance(outcome, Answer) else outcome
            wait = self._wait(request, error, attempt)
            lost = lost or error.committed is None
            error.attempts = attempt
            if error.committed is False and lost:
                error.committed = None  # this attempt did nothing; one before it may have
            if wait is None or attempt > self.retries or self.clock() + wait >= ends_at:
                raise (yield from self._explained(error, request))
            _logger.info("%s %s: %s; again in %.1f s", request.method, request.path, type(error).__name__, wait)
            yield Wait(wait)
        raise AssertionError("the last attempt returns or raises")

    def _wait(self, request: Request, error: RequestError, attempt: int) -> float | None:
        """Seconds before a request may be sent again; None: it must not, or it would not help."""
        if not isinstance(error, TransportError):
            status = error.status if isinstance(error, ApiError) else 0
            if status not in _MAY_PASS or error.committed or (status == 500 and request.repeat is Repeat.NEVER):
                return None
        if error.committed is None and request.repeat is Repeat.NEVER:
            return None
        named = error.retry_after if isinstance(error, ApiError) else None
        if named is not None:
            return named * (1 + _SPREAD * self.chance())
        longest = min(_LONGEST_WAIT, _FIRST_WAIT * 2.0 ** (attempt - 1))
        return longest * (0.5 + 0.5 * self.chance())

    def _explained(self, error: RequestError, request: Request) -> Steps[RequestError]:
        """Where the service has no such route, say which version it is of."""
        if not isinstance(error, RouteNotFoundError) or not request.versioned:
            return error
        outcome = yield Send(HEALTH.to(), self.seconds)
        if isinstance(outcome, Answer) and outcome.status == 200:
            server = f"Vecmeter {answered(Health, outcome).version}"
        else:
            server = "the service"
        message = (
            f"{server} at {self.url} has no route {request.method} {self.prefix}{request.path}: it is of another "
            f"version than this client speaks, or api_prefix ({self.prefix!r}) is not its own"
        )
        explained = RouteNotFoundError(message)
        explained.__dict__.update(error.__dict__)
        return explained
