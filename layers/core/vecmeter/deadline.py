"""When the request at hand must be answered: nothing it waits for may take longer than what remains.

The time is known to the request alone, in whichever thread works for it. Tasks and threads begun on the side have none,
and keep to their own time-outs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar

# What work leaves to the usage record and the settlement, which also follow work that ran out of time.
ACCOUNTING_SECONDS = 3.0

_done_by: ContextVar[float] = ContextVar("done_by", default=math.inf)


def of_request(seconds: float) -> AbstractContextManager[None]:
    """Have a request done in so many seconds.

    Nothing is around it: a server that begins it in the context of the one before on the same connection, as uvicorn
    does after it stopped reading for a while, must not hand that one's time on.
    """
    return _done(time.monotonic() + seconds)


def within(seconds: float) -> AbstractContextManager[None]:
    """Have the block done in so many seconds, or when what is around it must be done, if that is sooner."""
    return _done(min(_done_by.get(), time.monotonic() + seconds))


@contextmanager
def _done(by: float) -> Iterator[None]:
    token = _done_by.set(by)
    try:
        yield
    finally:
        _done_by.reset(token)


def at_most(seconds: float) -> float:
    """``seconds``, or what remains if that is less; never below 0."""
    return min(seconds, max(0.0, _done_by.get() - time.monotonic()))


def for_work(seconds: float = math.inf) -> float:
    """The same for what is done before the accounting."""
    return min(seconds, max(0.0, _done_by.get() - ACCOUNTING_SECONDS - time.monotonic()))
