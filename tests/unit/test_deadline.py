"""The time of a request: what it may still take, seen from wherever the request is at work."""

from __future__ import annotations

import contextvars
import math
import time
from concurrent.futures import ThreadPoolExecutor

from vecmeter import deadline
from vecmeter.deadline import ACCOUNTING_SECONDS


def test_without_a_request_nothing_is_cut_short() -> None:
    assert deadline.at_most(7.0) == 7.0
    assert deadline.for_work(7.0) == 7.0
    assert deadline.for_work() == math.inf


def test_nothing_takes_longer_than_what_remains() -> None:
    with deadline.within(10.0):
        assert deadline.at_most(2.0) == 2.0
        assert 9.0 < deadline.at_most(60.0) <= 10.0
        assert deadline.for_work(2.0) == 2.0
        assert 9.0 - ACCOUNTING_SECONDS < deadline.for_work(60.0) <= 10.0 - ACCOUNTING_SECONDS
    assert deadline.at_most(60.0) == 60.0


def test_work_leaves_time_to_account_for_it() -> None:
    with deadline.within(ACCOUNTING_SECONDS - 0.5):
        assert deadline.for_work(1.0) == 0.0
        assert deadline.at_most(1.0) == 1.0


def test_a_block_ends_no_later_than_what_is_around_it() -> None:
    with deadline.within(1.0):
        with deadline.within(60.0):
            assert deadline.at_most(60.0) <= 1.0
        with deadline.within(0.5):
            assert deadline.at_most(60.0) <= 0.5
        assert deadline.at_most(60.0) > 0.5


def test_time_that_is_up_leaves_nothing_and_never_less() -> None:
    with deadline.within(-1.0):
        assert deadline.at_most(5.0) == 0.0
        assert deadline.for_work() == 0.0


def test_threads_that_work_for_the_request_have_its_time_and_others_have_none() -> None:
    with ThreadPoolExecutor(1) as threads, deadline.within(1.0):
        of_the_request = threads.submit(contextvars.copy_context().run, deadline.at_most, 60.0)
        on_the_side = threads.submit(deadline.at_most, 60.0)
        assert of_the_request.result() <= 1.0
        assert on_the_side.result() == 60.0


def test_it_costs_next_to_nothing() -> None:
    with deadline.within(10.0):
        started = time.process_time()
        for _ in range(10_000):
            deadline.for_work(5.0)
        assert time.process_time() - started < 0.5, "below 50 microseconds each on the slowest machine"


def test_a_request_has_its_own_time_whatever_is_around_it() -> None:
    with deadline.within(0.0), deadline.of_request(9.0):
        assert deadline.at_most(100.0) > 8
