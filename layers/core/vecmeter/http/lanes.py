"""The threads in which a server works on requests, and how many requests may wait for one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from anyio import CapacityLimiter, to_thread
from anyio.lowlevel import RunVar

from vecmeter.errors import OverloadedError

T = TypeVar("T")

# Reading a body of 6 MB holds the interpreter for tens of milliseconds at a stretch, in which nobody else gets a turn,
# health not either. Many such threads at once would take their stretches one after the other.
LARGE_BODY_BYTES = 256 * 1024
LARGE_AT_ONCE = 2
# At a hundred requests a second the last of them waits for two or three seconds: clients wait no longer.
PLACES = 256


class Lanes:
    """Lanes of one event loop: large bodies in one, everything else in the other."""

    def __init__(self, threads: int) -> None:
        self._small = CapacityLimiter(threads)
        self._large = CapacityLimiter(LARGE_AT_ONCE)
        self._taken = 0

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place for a request, from its arrival to its answer.

        Raises:
            OverloadedError: all are taken.
        """
        if self._taken >= PLACES:
            raise OverloadedError(f"{PLACES} requests are at hand already; try again shortly.")
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1

    async def run(self, work: Callable[[], T], body_bytes: int) -> T:
        """Do ``work`` in a thread, as soon as its lane has one."""
        lane = self._large if body_bytes > LARGE_BODY_BYTES else self._small
        return await to_thread.run_sync(work, limiter=lane)


_of_this_loop: RunVar[Lanes] = RunVar("lanes")


def lanes(threads: int) -> Lanes:
    """The lanes of the running event loop; made with so many threads when it first asks."""
    found = _of_this_loop.get(None)
    if found is None:
        found = Lanes(threads)
        _of_this_loop.set(found)
    return found
