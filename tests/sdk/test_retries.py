"""What a client does about a request that fails: the rules by themselves, then both clients by these rules."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from itertools import chain, repeat
from typing import Any

import httpx
import pytest

from tests.sdk.conftest import ClientMaker
from vecmeter_client import (
    ConnectError,
    ConnectionLostError,
    InternalError,
    LimitExceededError,
    RequestError,
    TimedOutError,
    TransportError,
    UnavailableError,
)
from vecmeter_client._flow import Answer, Flow, Repeat, Request
from vecmeter_client._policy import Policy, Send, Wait

READ = Request("GET", "/v1/x")
KEYED = Request("POST", "/v1/x", headers={"Idempotency-Key": "k"}, repeat=Repeat.BY_KEY)
ONCE = Request("POST", "/v1/x", repeat=Repeat.NEVER)
OK = Answer(200, {"content-type": "application/json"}, b"{}")


def problem(status: int, code: str, retry_after: int | None = None, **more: Any) -> Answer:
    headers = {"content-type": "application/problem+json"}
    if retry_after is not None:
        headers["retry-after"] = str(retry_after)
    body = {"code": code, "detail": "d", "title": "t", "status": status, "request_id": "r", **more}
    return Answer(status, headers, json.dumps(body).encode())


def gateway(status: int) -> Answer:
    return Answer(status, {"content-type": "application/json"}, b'{"message": "no"}')


def lost(kind: type[TransportError], committed: bool | None) -> TransportError:
    error = kind("lost")
    error.committed = committed
    return error


REFUSED = lost(ConnectError, False)
BROKEN = lost(ConnectionLostError, None)
LATE = lost(TimedOutError, None)
LIMIT = problem(429, "limit_exceeded", 2)
BUSY = problem(503, "database_unavailable", 1)
GONE = gateway(502)


class World:
    """A clock that only waits and slow answers move, and outcomes in the order they are to come."""

    def __init__(self, *outcomes: Answer | TransportError, slow: float = 0.0, chance: float = 1.0) -> None:
        self.now, self.waits, self.sent = 1000.0, [], []  # type: float, list[float], list[Send]
        self._outcomes: Iterator[Answer | TransportError] = iter(outcomes)
        self._slow, self._chance = slow, chance

    def policy(self, *, retries: int = 3, seconds: float = 30, total: float = 60) -> Policy:
        return Policy(
            seconds=seconds,
            total_seconds=total,
            retries=retries,
            url="http://vecmeter",
            prefix="/v1",
            clock=lambda: self.now,
            chance=lambda: self._chance,
        )

    def run(self, request: Request, **options: Any) -> Answer:
        def flow() -> Flow[Answer]:
            return (yield request)

        steps = self.policy(**options).steps(flow())
        outcome: Answer | TransportError | None = None
        try:
            while True:
                step = steps.send(outcome)
                if isinstance(step, Wait):
                    self.waits.append(step.seconds)
                    self.now += step.seconds
                    outcome = None
                else:
                    self.sent.append(step)
                    self.now += self._slow
                    outcome = next(self._outcomes)
        except StopIteration as done:
            answer: Answer = done.value
            return answer


@pytest.mark.parametrize("request_", [READ, KEYED], ids=["read", "keyed"])
@pytest.mark.parametrize("fault", [REFUSED, BROKEN, LATE, LIMIT, BUSY, GONE, gateway(504), problem(500, "internal")])
def test_what_may_be_repeated_is_and_stays_the_same_request(request_: Request, fault: Answer | TransportError) -> None:
    world = World(fault, fault, OK)
    assert world.run(request_) is OK
    assert [one.request for one in world.sent] == [request_] * 3
    assert all(one.request is request_ for one in world.sent)


@pytest.mark.parametrize("fault", [BROKEN, LATE, GONE, gateway(503), problem(500, "internal")])
def test_what_may_not_be_done_twice_is_not_sent_again_where_nobody_knows_whether_it_was_done(
    fault: Answer | TransportError,
) -> None:
    world = World(fault, OK)
    with pytest.raises(RequestError):
        world.run(ONCE)
    assert len(world.sent) == 1


@pytest.mark.parametrize("fault", [REFUSED, LIMIT, BUSY, gateway(429)])
def test_what_was_not_done_is_sent_again_whatever_it_is(fault: Answer | TransportError) -> None:
    world = World(fault, OK)
    assert world.run(ONCE) is OK


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 409, 413, 422])
def test_a_refusal_that_waiting_does_not_change_is_not_sent_again(status: int) -> None:
    world = World(problem(status, "c"), OK)
    with pytest.raises(RequestError):
        world.run(READ)
    assert len(world.sent) == 1


@pytest.mark.parametrize("status", [500, 503])
def test_what_the_service_says_is_done_is_not_sent_again(status: int) -> None:
    world = World(problem(status, "ledger_unavailable", 1, committed=True), OK)
    with pytest.raises(RequestError) as failed:
        world.run(KEYED)
    assert (failed.value.committed, len(world.sent)) == (True, 1)


def test_a_wait_is_as_long_as_the_service_says_and_a_tenth_more_at_most() -> None:
    for chance, wait in ((0.0, 2.0), (1.0, 2.2)):
        world = World(LIMIT, OK, chance=chance)
        world.run(READ)
        assert world.waits == [pytest.approx(wait)]


def test_waits_that_the_service_does_not_name_double_up_to_eight_seconds_and_are_spread() -> None:
    for chance, waits in ((1.0, [0.5, 1, 2, 4, 8, 8]), (0.0, [0.25, 0.5, 1, 2, 4, 4])):
        world = World(*[BROKEN] * 6, OK, chance=chance)
        world.run(READ, retries=6)
        assert world.waits == waits


def test_a_limit_that_resets_after_the_time_of_the_request_is_an_error_at_once() -> None:
    world = World(problem(429, "limit_exceeded", 60), OK)
    with pytest.raises(LimitExceededError) as failed:
        world.run(READ, total=60)
    assert (failed.value.retry_after, failed.value.attempts, world.waits) == (60, 1, [])


def test_attempts_and_waits_end_with_the_time_of_the_whole_request() -> None:
    world = World(*[LATE] * 9, slow=25.0)
    with pytest.raises(TimedOutError) as failed:
        world.run(READ, retries=8, seconds=25, total=60)
    assert [one.seconds for one in world.sent] == [25, 25, pytest.approx(8.5)]
    assert failed.value.attempts == 3


def test_there_are_as_many_attempts_as_the_client_was_told() -> None:
    for retries in range(4):
        world = World(*[BUSY] * 9)
        with pytest.raises(UnavailableError) as failed:
            world.run(READ, retries=retries)
        assert (len(world.sent), failed.value.attempts, len(world.waits)) == (retries + 1, retries + 1, retries)


def test_a_refusal_after_an_answer_that_was_lost_does_not_say_that_nothing_was_written() -> None:
    world = World(BROKEN, problem(429, "limit_exceeded", 3600))
    with pytest.raises(LimitExceededError) as failed:
        world.run(KEYED)
    assert failed.value.committed is None
    with pytest.raises(LimitExceededError) as failed:
        World(REFUSED, problem(429, "limit_exceeded", 3600)).run(KEYED)
    assert failed.value.committed is False


def test_each_request_of_an_operation_has_the_whole_time() -> None:
    def flow() -> Flow[None]:
        yield READ
        yield READ

    world = World(LATE, OK, LATE, OK, slow=25)
    steps = world.policy(total=60).steps(flow())
    outcomes = iter([LATE, None, OK, LATE, None, OK])
    seconds = [next(steps)]
    for outcome in outcomes:
        world.now += 20
        try:
            seconds.append(steps.send(outcome))
        except StopIteration:
            break
    assert [one.seconds for one in seconds if isinstance(one, Send)] == [30, 20, 30, 20]


def test_a_repetition_is_logged_without_query_body_or_key(caplog: pytest.LogCaptureFixture) -> None:
    request = Request("GET", "/v1/x", query={"page_token": "secret"}, content=b"secret")
    with caplog.at_level(logging.INFO, "vecmeter_client"):
        World(BUSY, OK).run(request)
    assert [record.getMessage() for record in caplog.records] == ["GET /v1/x: DatabaseUnavailableError; again in 1.1 s"]


# Both clients, with httpx's own transport in place of a server.


def answering(*answers: Answer | Exception) -> tuple[list[httpx.Request], Any]:
    """The requests that come, and a transport that answers them: the last answer again and again."""
    seen: list[httpx.Request] = []
    left = chain(answers, repeat(answers[-1]))

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        found = next(left)
        if isinstance(found, Exception):
            raise found
        return httpx.Response(found.status, headers=dict(found.headers), content=found.content)

    return seen, answer


_PUT = Answer(
    200, {"content-type": "application/json"}, b'{"vector_id": "a", "version": 1, "operation": "insert", "later": 1}'
)


def test_a_write_that_is_repeated_carries_the_same_idempotency_key_and_the_next_one_another(
    make_client: ClientMaker,
) -> None:
    seen, answer = answering(httpx.ReadError("gone"), BUSY, _PUT, _PUT)
    notes = make_client("http://vecmeter", "vm_key", script=answer).project("p").collection("c")
    assert notes.put(("a", [1.0])).version == 1
    notes.put(("a", [1.0]))
    keys = [request.headers["Idempotency-Key"] for request in seen]
    assert keys[0] == keys[1] == keys[2] != keys[3]
    assert len({request.content for request in seen}) == 1
    assert len(make_client.waits) == 2


@pytest.mark.parametrize(
    ("fault", "kind", "committed"),
    [
        (httpx.ConnectError("refused"), ConnectError, False),
        (httpx.ConnectTimeout("late"), TimedOutError, False),
        (httpx.PoolTimeout("late"), TimedOutError, False),
        (httpx.ProxyError("no"), ConnectError, False),
        (httpx.ReadTimeout("late"), TimedOutError, None),
        (httpx.WriteTimeout("late"), TimedOutError, None),
        (httpx.ReadError("gone"), ConnectionLostError, None),
        (httpx.WriteError("gone"), ConnectionLostError, None),
        (httpx.RemoteProtocolError("what"), ConnectionLostError, None),
        (httpx.DecodingError("what"), ConnectionLostError, None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_each_fault_on_the_way_is_an_error_of_the_client_and_says_whether_the_service_may_have_done_it(
    make_client: ClientMaker, fault: Exception, kind: type[Exception], committed: bool | None
) -> None:
    _, answer = answering(fault)
    client = make_client("http://vecmeter", "vm_key", script=answer, max_retries=1)
    with pytest.raises(kind) as failed:
        client.usage()
    assert isinstance(failed.value, TransportError)
    assert (failed.value.committed, failed.value.attempts) == (committed, 2)
    assert failed.value.__cause__ is fault
    assert isinstance(failed.value, TimeoutError if kind is TimedOutError else ConnectionError)


def test_an_answer_that_only_drips_ends_with_the_time_of_its_attempt(make_client: ClientMaker) -> None:
    """Each part in time, and no end."""
    import threading
    from socket import create_server

    stop = threading.Event()
    with create_server(("127.0.0.1", 0)) as server:

        def drip() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n"
                )
                while not stop.wait(0.02):
                    try:
                        connection.sendall(b" ")
                    except OSError:
                        return

        thread = threading.Thread(target=drip)
        thread.start()
        client = make_client(f"http://127.0.0.1:{server.getsockname()[1]}", "vm_key", timeout=0.3, max_retries=0)
        with pytest.raises(TimedOutError, match=r"no answer within 0\.3 s"):
            client.usage()
        stop.set()
        thread.join()


def test_an_error_of_the_service_itself_is_raised_when_its_attempts_are_used_up(make_client: ClientMaker) -> None:
    seen, answer = answering(problem(500, "internal"))
    with pytest.raises(InternalError) as failed:
        make_client("http://vecmeter", "vm_key", script=answer).usage()
    assert (len(seen), failed.value.attempts, failed.value.committed) == (4, 4, False)
