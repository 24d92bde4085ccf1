"""The lanes of a server: how much is worked on at once, how much may wait, and what is too much."""

from __future__ import annotations

import threading

import anyio
import pytest

from vecmeter.errors import OverloadedError
from vecmeter.http.lanes import LARGE_AT_ONCE, LARGE_BODY_BYTES, PLACES, Lanes

THREADS = 4


class Works:
    """Work that goes on until ``end``; knows how many are at it, and how many were at most."""

    def __init__(self) -> None:
        self.end = threading.Event()
        self.running = self.most = 0
        self._lock = threading.Lock()

    def __call__(self) -> None:
        with self._lock:
            self.running += 1
            self.most = max(self.most, self.running)
        self.end.wait(10)
        with self._lock:
            self.running -= 1


async def until(works: Works, running: int) -> None:
    with anyio.fail_after(10):
        while works.running < running:
            await anyio.sleep(0.001)


@pytest.mark.parametrize(("body_bytes", "at_once"), [(0, THREADS), (LARGE_BODY_BYTES + 1, LARGE_AT_ONCE)])
def test_no_more_requests_are_worked_on_at_once_than_the_lane_has_threads(body_bytes: int, at_once: int) -> None:
    async def scene(works: Works) -> None:
        lanes = Lanes(THREADS)
        async with anyio.create_task_group() as group:
            for _ in range(3 * THREADS):
                group.start_soon(lanes.run, works, body_bytes)
            await until(works, at_once)
            await anyio.wait_all_tasks_blocked()
            works.end.set()

    works = Works()
    anyio.run(scene, works)
    assert works.most == at_once


def test_small_requests_pass_by_large_ones_that_wait() -> None:
    async def scene() -> str:
        lanes, large = Lanes(THREADS), Works()
        async with anyio.create_task_group() as group:
            for _ in range(10):
                group.start_soon(lanes.run, large, LARGE_BODY_BYTES + 1)
            await until(large, LARGE_AT_ONCE)
            answer = await lanes.run(lambda: "small", 100)
            large.end.set()
        return answer

    assert anyio.run(scene) == "small"


def test_beyond_its_places_a_server_refuses_and_a_place_that_is_left_is_given_again() -> None:
    lanes = Lanes(THREADS)
    taken = [lanes.place() for _ in range(PLACES)]
    for place in taken:
        place.__enter__()
    with pytest.raises(OverloadedError), lanes.place():
        raise AssertionError
    taken[0].__exit__(None, None, None)
    with lanes.place():
        pass
