"""A table that did not answer is left alone for a moment, except to account for work that is done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from vecmeter.breaker import Circuit, Sign
from vecmeter.errors import CircuitOpenError, LedgerUnavailableError
from vecmeter.ledger.signed import NoAnswerError

AWAY_SECONDS = 2.0

_insists: ContextVar[bool] = ContextVar("insists", default=False)


def circuit_of_ledger() -> Circuit:
    """One call opens it that had no answer to any of its tries: nobody else need wait to learn the same."""
    return Circuit("ledger", failures=1, open_seconds=AWAY_SECONDS)


@contextmanager
def insisting() -> Iterator[None]:
    """Calls in the block are made whatever the state of the circuit: what they account for has taken place."""
    token = _insists.set(True)
    try:
        yield
    finally:
        _insists.reset(token)


@contextmanager
def unless_away(circuit: Circuit, *, tries: int) -> Iterator[None]:
    """Do a call that may be tried so often. Raises LedgerUnavailableError at once while the circuit is open."""
    # A single try may be lost by accident.
    sign_of = _sign_of if tries > 1 else _says_nothing
    try:
        with circuit.guard(sign_of, past=_insists.get()):
            yield
    except CircuitOpenError as error:
        message = "The ledger did not answer just now; try again shortly."
        raise LedgerUnavailableError(message, error.retry_after) from error


def _sign_of(error: Exception) -> Sign:
    """Throttled or refused, it has answered."""
    return Sign.FAILED if isinstance(error.__cause__, NoAnswerError) else Sign.ANSWERED


def _says_nothing(error: Exception) -> Sign:
    return Sign.NOTHING
