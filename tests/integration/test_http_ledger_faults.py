"""A ledger that is silent, gone or slow behind real sockets: what callers see, and that the account is right after."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from tests.fixtures.api import Api, World, make_world, open_api, problem, settings_for
from tests.fixtures.faults import FaultyEndpoint, Reply
from vecmeter.ledger.model import UsageRecord
from vecmeter.ledger.outages import AWAY_SECONDS

LONGEST_SECONDS = 5.0  # the 4 s that docs/resilience.md promises, on a busy machine
AT_ONCE_SECONDS = 0.7  # on a busy machine; with nothing to wait for it is some milliseconds
UNANSWERED = pytest.mark.parametrize("treatment", [Reply.SILENCE, Reply.CLOSE])


@dataclass
class Line:
    """What happens to each call of the ledger, after a pause."""

    treatment: Reply = Reply.PASS
    pause: float = 0.0

    def __call__(self) -> Reply:
        treatment, pause = self.treatment, self.pause
        time.sleep(pause)
        return treatment


@pytest.fixture
def line() -> Line:
    return Line()


@pytest.fixture
def behind(
    line: Line, database_url: str, table_name: str, dynamodb_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Api, World]]:
    """An API that reaches the ledger over the line, with a world whose key it has seen."""
    with FaultyEndpoint(dynamodb_endpoint, iter(line, None)) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", endpoint.url)
        with open_api(settings_for(database_url, table_name, result_cache_mb=0)) as api:
            yield api, make_world(api)
            line.treatment, line.pause = Reply.PASS, 0.0


def write(world: World, id: str) -> Any:
    return world.tenant.call("POST", "/c/vectors", json={"vectors": [{"id": id, "vector": [1, 2, 3]}]})


def search(world: World) -> Any:
    return world.tenant.call("POST", "/c/search", json={"vector": [1, 2, 3]})


@contextmanager
def taking(least: float, most: float) -> Iterator[None]:
    started = time.monotonic()
    yield
    assert least <= time.monotonic() - started < most


@UNANSWERED
def test_one_caller_finds_the_ledger_away_and_the_others_do_not_wait_for_it(
    behind: tuple[Api, World], line: Line, treatment: Reply, caplog: pytest.LogCaptureFixture
) -> None:
    api, world = behind
    contents = world.tenant.contents()
    line.treatment = treatment
    with taking(0.0, LONGEST_SECONDS):
        problem(write(world, "first"), 503, "ledger_unavailable")
    for n in range(3):
        with taking(0.0, AT_ONCE_SECONDS):
            answer = write(world, f"next-{n}")
        problem(answer, 503, "ledger_unavailable")
        assert 1 <= int(answer.headers["retry-after"]) <= AWAY_SECONDS
        with taking(0.0, AT_ONCE_SECONDS):
            assert search(world).json()["count"] == 2, "reads go on for keys seen lately"
        with taking(0.0, AT_ONCE_SECONDS):
            assert api.call("GET", "/health").status_code == 200
    line.treatment = Reply.PASS
    assert world.tenant.contents() == contents, "what is refused writes nothing"
    give_up_at = time.monotonic() + AWAY_SECONDS + LONGEST_SECONDS + 5
    while write(world, "after").status_code != 200:
        assert time.monotonic() < give_up_at
    assert world.tenant.contents() != contents
    # Searches that went on uncounted are in the log, and are counted once from there.
    logged = [UsageRecord(**r.__dict__["usage_record"]) for r in caplog.records if "usage_record" in r.__dict__]
    assert [(record.operation, record.status) for record in logged] == [("search", "success")] * 3
    assert [api.runtime.ledger.replay(record) for record in logged * 2] == [True] * 3 + [False] * 3


def test_a_ledger_that_falls_silent_during_the_work_leaves_the_work_done_and_its_record_in_the_log(
    behind: tuple[Api, World], line: Line, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    api, world = behind
    upsert = api.runtime.records.upsert

    def then_silence(*arguments: Any, **named: Any) -> Any:
        done = upsert(*arguments, **named)
        line.treatment = Reply.SILENCE
        return done

    monkeypatch.setattr(type(api.runtime.records), "upsert", lambda _, *a, **n: then_silence(*a, **n))
    with taking(0.0, LONGEST_SECONDS), caplog.at_level(logging.ERROR, "vecmeter.ledger"):
        assert write(world, "kept").json()["inserted"] == 1
    line.treatment = Reply.PASS
    assert any(id == "kept" for _, id, *_ in world.tenant.contents()["c"])
    [logged] = [r.__dict__["usage_record"] for r in caplog.records if "usage_record" in r.__dict__]
    assert (logged["status"], logged["vectors"]) == ("success", 1)


def test_a_slow_ledger_makes_requests_slow_and_every_one_is_counted_once(behind: tuple[Api, World], line: Line) -> None:
    api, world = behind
    before = api.used(world.tenant.key)["requests"]
    line.pause = 0.7
    with ThreadPoolExecutor(5) as clients:
        writes = [clients.submit(write, world, f"slow-{n}") for n in range(4)]
        with taking(0.0, AT_ONCE_SECONDS):
            assert api.call("GET", "/health").status_code == 200
        assert [one.result().status_code for one in writes] == [200] * 4
    line.pause = 0.0
    assert api.used(world.tenant.key)["requests"] == before + 4
    records = [record.status for record in api.records(world.tenant.key)[:4]]
    assert records == ["success"] * 4
    assert api.runtime.circuits.ledger.state == "closed"
