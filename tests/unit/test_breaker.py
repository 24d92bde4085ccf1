"""Circuits: when they open, whom they let through, and that they close again."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vecmeter.breaker import Circuit, Circuits, Sign
from vecmeter.errors import CircuitOpenError

WINDOW, OPEN = 60.0, 30.0


class Away(Exception):
    pass


class Refused(Exception):
    pass


class Hung(Exception):
    pass


class NotAsked(Exception):
    pass


SIGNS: dict[type[Exception], Sign] = {
    Away: Sign.FAILED,
    Refused: Sign.ANSWERED,
    Hung: Sign.HUNG,
    NotAsked: Sign.NOTHING,
}


class Clocked:
    """A circuit whose time stands still until it is moved."""

    def __init__(self, failures: int = 5) -> None:
        self.now = 0.0
        self.circuit = Circuit(
            "service", failures=failures, window_seconds=WINDOW, open_seconds=OPEN, monotonic=lambda: self.now
        )

    def call(self, error: type[Exception] | None = None, *, past: bool = False) -> str:
        """The outcome of a call that ends so: "done", the error's name, or "refused"."""
        try:
            with self.circuit.guard(lambda e: SIGNS[type(e)], past=past):
                if error is not None:
                    raise error
        except CircuitOpenError:
            return "turned away"
        except tuple(SIGNS) as raised:
            return type(raised).__name__
        return "done"

    def fail(self, times: int) -> None:
        for _ in range(times):
            assert self.call(Away) == "Away"


def test_five_failures_in_a_minute_open_it_and_four_do_not() -> None:
    service = Clocked()
    service.fail(4)
    assert service.circuit.state == "closed"
    service.fail(1)
    assert service.circuit.state == "open"
    assert service.call() == "turned away"


def test_failures_that_lie_further_apart_do_not_add_up() -> None:
    service = Clocked()
    service.fail(4)
    service.now = WINDOW + 0.001
    service.fail(4)
    assert service.circuit.state == "closed"
    service.now += WINDOW / 2
    service.fail(1)
    assert service.circuit.state == "open"


def test_successes_in_between_do_not_forget_failures() -> None:
    service = Clocked()
    for _ in range(5):
        assert service.call() == "done"
        service.fail(1)
    assert service.circuit.state == "open"


@pytest.mark.parametrize("error", [Refused, NotAsked])
def test_what_is_no_failure_of_the_service_never_opens_it(error: type[Exception]) -> None:
    service = Clocked()
    for _ in range(100):
        assert service.call(error) == error.__name__
    assert service.circuit.state == "closed"


def test_a_service_that_hangs_opens_it_at_once() -> None:
    service = Clocked()
    assert service.call(Hung) == "Hung"
    assert service.call() == "turned away"


def test_who_is_turned_away_is_told_when_it_is_tried_again() -> None:
    service = Clocked()
    service.fail(5)
    told = []
    for service.now in (0.0, 12.3, OPEN - 0.001):
        with pytest.raises(CircuitOpenError) as refusal, service.circuit.guard(lambda _: Sign.FAILED):
            pytest.fail("it is open")
        told.append(refusal.value.retry_after)
    assert told == [30, 18, 1]


def test_after_its_time_one_call_gets_through_and_closes_it() -> None:
    service = Clocked()
    service.fail(5)
    service.now = OPEN
    assert service.call() == "done"
    assert service.circuit.state == "closed"
    service.fail(4)
    assert service.circuit.state == "closed", "what was before is forgotten"


@pytest.mark.parametrize("error", [Away, Hung])
def test_a_probe_that_fails_opens_it_again_for_the_whole_time(error: type[Exception]) -> None:
    service = Clocked()
    service.fail(5)
    service.now = OPEN + 5
    assert service.call(error) == error.__name__
    service.now += OPEN - 0.001
    assert service.call() == "turned away"
    service.now += 0.002
    assert service.call() == "done"


def test_a_probe_that_learned_nothing_leaves_its_place_to_the_next() -> None:
    service = Clocked()
    service.fail(5)
    service.now = OPEN
    assert service.call(NotAsked) == "NotAsked"
    assert service.circuit.state == "half-open"
    assert service.call(Refused) == "Refused"
    assert service.circuit.state == "closed"


def test_of_many_threads_one_is_the_probe_and_the_others_do_not_wait_for_it() -> None:
    service = Clocked()
    service.fail(5)
    service.now = OPEN
    probing, answered = threading.Event(), threading.Event()

    def probe() -> None:
        with service.circuit.guard(lambda _: Sign.FAILED):
            probing.set()
            assert answered.wait(timeout=20)

    with ThreadPoolExecutor(9) as threads:
        first = threads.submit(probe)
        assert probing.wait(timeout=20)
        outcomes = list(threads.map(lambda _: service.call(), range(8)))
        answered.set()
        first.result(timeout=20)
    assert outcomes == ["turned away"] * 8
    assert service.call() == "done"


def test_calls_run_beside_each_other() -> None:
    service = Clocked()
    together = threading.Barrier(8)

    def work() -> None:
        with service.circuit.guard(lambda _: Sign.FAILED):
            together.wait(timeout=20)

    with ThreadPoolExecutor(8) as threads:
        for outcome in [threads.submit(work) for _ in range(8)]:
            outcome.result(timeout=20)


@pytest.mark.parametrize("late", [None, Away, Hung])
def test_what_began_before_it_opened_does_not_decide_when_it_ends_after(late: type[Exception] | None) -> None:
    service = Clocked()

    def call_that_ends_late() -> None:
        with service.circuit.guard(lambda e: SIGNS[type(e)]):
            service.fail(5)
            service.now = 10.0
            if late:
                raise late

    if late:
        with pytest.raises(late):
            call_that_ends_late()
    else:
        call_that_ends_late()
    assert service.circuit.state == "open"
    service.now = OPEN
    assert service.call() == "done", "30 s after it opened, not after the last failure"


class TestLookingPastIt:
    def test_an_answer_closes_it_whenever_it_comes(self) -> None:
        service = Clocked()
        service.fail(5)
        assert service.call(past=True) == "done"
        assert service.circuit.state == "closed"

    def test_no_answer_neither_opens_it_again_nor_prolongs_it(self) -> None:
        service = Clocked()
        service.fail(5)
        for service.now in (10.0, 20.0, 29.0):
            assert service.call(Away, past=True) == "Away"
        service.now = OPEN
        assert service.call() == "done"

    def test_it_counts_as_a_failure_while_it_is_closed(self) -> None:
        service = Clocked()
        for _ in range(5):
            service.call(Away, past=True)
        assert service.circuit.state == "open"

    def test_it_does_not_take_the_place_of_a_probe(self) -> None:
        service = Clocked()
        service.fail(5)
        service.now = OPEN
        with service.circuit.guard(lambda _: Sign.FAILED):
            assert service.call(Away, past=True) == "Away"
            assert service.call() == "turned away", "the probe is under way"
        assert service.circuit.state == "closed"


def test_openings_and_refusals_are_counted_once_over_all_circuits() -> None:
    one, other, third = Clocked(), Clocked(failures=1), Clocked()
    circuits = Circuits(database=one.circuit, embedder=other.circuit, ledger=third.circuit)
    one.fail(5)
    other.fail(1)
    one.call()
    one.call()
    assert circuits.take_counts() == (2, 2)
    assert circuits.take_counts() == (0, 0)
    other.now = OPEN
    other.call(Away)
    assert circuits.take_counts() == (1, 0), "opened again"


STEPS = st.lists(
    st.tuples(
        st.sampled_from([None, Away, Refused, Hung, NotAsked]), st.sampled_from([0.0, 1.0, 14.0, 29.0, 31.0, 59.0])
    )
)


@given(STEPS)
def test_for_any_history_it_does_what_its_description_says(
    steps: list[tuple[type[Exception] | None, float]],
) -> None:
    service = Clocked(failures=3)
    failures: list[float] = []
    opened_at: float | None = None
    for error, pause in steps:
        service.now += pause
        turned_away = opened_at is not None and service.now < opened_at + OPEN
        outcome = service.call(error)
        assert (outcome == "turned away") == turned_away
        if turned_away:
            continue
        if error in (Away, Hung):
            failures = [*(at for at in failures if at >= service.now - WINDOW), service.now]
            if error is Hung or len(failures) >= 3 or opened_at is not None:
                opened_at = service.now
        elif opened_at is not None and error is not NotAsked:
            opened_at, failures = None, []
    assert (service.circuit.state == "closed") == (opened_at is None)


def test_no_history_locks_it_for_ever() -> None:
    """Whatever ends a call, the next one after the time is let through."""
    endings: list[Callable[[], None]] = [SystemExit, KeyboardInterrupt, Away, Refused, NotAsked]  # type: ignore[list-item]
    for ending in endings:
        service = Clocked()
        service.fail(5)
        service.now = OPEN
        with pytest.raises(ending), service.circuit.guard(lambda e: SIGNS[type(e)]):  # type: ignore[call-overload]
            raise ending  # type: ignore[misc]
        service.now += OPEN
        assert service.call() == "done"
