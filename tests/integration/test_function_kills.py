"""A function that is killed at any step of a write: nothing acknowledged is lost, everything is accounted for once."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.api import settings_for
from tests.fixtures.cut_line import CutLine, cut_line
from tests.fixtures.cut_line import Fault as LineFault
from tests.fixtures.faults import FaultyEndpoint, Reply
from tests.fixtures.killed_function import Function
from tests.fixtures.ledger import Instance, open_instance, totals
from vecmeter.ledger.keys import CreatedKey
from vecmeter.ledger.model import Role
from vecmeter.runtime import Runtime, build_runtime, utc_now
from vecmeter.vectors.model import IndexDefinition, Metric

NOT_ARRIVED, DONE = "before it arrives", "after it is done"


@dataclass
class Scene:
    """The function, killed when told to, between its services; and the tenant it serves."""

    runtime: Runtime
    late: Instance
    key: CreatedKey
    database: CutLine = field(init=False)
    function: Function = field(init=False)
    ledger_calls: int = 0
    killed_at: tuple[int, str] | None = None

    def kill(self) -> None:
        self.function.kill()

    def write(self, vector_id: str) -> dict[str, Any] | None:
        """What the client sees of writing a vector under an Idempotency-Key: None, when the function was killed."""
        event = json.loads(Path("tests/events/upsert.json").read_text())
        body = json.dumps({"vectors": [{"id": vector_id, "vector": [1, 0, 0]}]})
        event |= {"rawPath": "/v1/projects/p/collections/c/vectors", "body": body}
        event["headers"] |= {
            "authorization": f"Bearer {self.key.secret}",
            "idempotency-key": f"write-{vector_id}",
            "content-length": str(len(body)),
        }
        event["requestContext"]["http"]["path"] = event["rawPath"]
        self.ledger_calls = 0
        return self.function.invoke(event)

    def replies(self) -> Iterator[Reply]:
        """Of the ledger, to each call of the function."""
        while True:
            self.ledger_calls += 1
            if self.killed_at is None or self.killed_at[0] != self.ledger_calls:
                yield Reply.PASS
                continue
            reply = Reply.CLOSE if self.killed_at[1] == NOT_ARRIVED else Reply.APPLY_AND_CLOSE
            self.kill()  # from here on the test may plan the next death
            yield reply

    def versions(self, vector_id: str) -> list[int]:
        """Of a vector that was written once: [1]."""
        return self.runtime.collections.use(
            "p", "c", lambda c: [vector.version for vector in self.runtime.records.fetch(c, "", [vector_id])]
        )

    def assert_accounted_for_once(self) -> Counter[str]:
        """Bury the dead; then the counters are what the records sum up to. The records by status."""
        buried = self.late.ledger.bury(self.key.key.api_key_id)
        assert buried <= 1
        assert self.late.ledger.bury(self.key.key.api_key_id) == 0
        assert self.late.in_flight(self.key) == 0
        records = self.late.records(self.key)
        assert len({record.request_id for record in records}) == len(records)
        assert self.late.used(self.key, "month") == totals(records)
        return Counter(record.status.value for record in records)


@pytest.fixture
def scene(tmp_path: Path, database_url: str, table_name: str, dynamodb_endpoint: str) -> Iterator[Scene]:
    settings = settings_for(database_url, table_name, database_pool_size=1)
    runtime = build_runtime(settings)
    runtime.projects.create(project_id="p", user_id="u", name=None)
    key = runtime.keys.create(user_id="u", project_id="p", roles=(Role.WRITE,))
    runtime.collections.create("p", "c", dimension=3, metric=Metric.COSINE, index=IndexDefinition(), embedder=None)
    late = open_instance(runtime.table, settings, lambda: utc_now() + timedelta(minutes=2))
    scene = Scene(runtime, late, key)
    with (
        cut_line(tmp_path, database_url, at_fault=scene.kill) as database,
        FaultyEndpoint(dynamodb_endpoint, scene.replies()) as ledger,
        Function(
            "upsert_function.handler.handler",
            {
                "DATABASE_URL": database.dsn,
                "AWS_ENDPOINT_URL_DYNAMODB": ledger.url,
                "TABLE_NAME": table_name,
                "DATABASE_POOL_SIZE": "1",
                "METRICS_ENABLED": "false",
                "LOG_LEVEL": "ERROR",
            },
        ) as function,
    ):
        scene.database, scene.function = database, function
        yield scene
    runtime.close()


def acknowledged(answer: dict[str, Any] | None) -> bool:
    return answer is not None and answer["statusCode"] == 200


@pytest.mark.parametrize("when", [NOT_ARRIVED, DONE])
def test_a_function_may_be_killed_at_any_call_of_the_ledger(scene: Scene, when: str) -> None:
    assert acknowledged(scene.write("unharmed"))
    calls, statuses = scene.ledger_calls, Counter({"success": 1})
    assert calls >= 4  # the key's item, admission, record, settlement
    for number in range(1, calls + 1):
        vector_id = f"vector-{number}"
        scene.killed_at = (number, when)
        assert scene.write(vector_id) is None
        scene.killed_at = None
        after_death = scene.assert_accounted_for_once() - statuses
        assert after_death in ({}, {"unknown": 1}, {"success": 1})
        assert scene.versions(vector_id) == [1] or "success" not in after_death
        assert acknowledged(scene.write(vector_id))
        assert scene.versions(vector_id) == [1]
        statuses += after_death + Counter({"success": 1})
        assert scene.assert_accounted_for_once() == statuses
    assert statuses["unknown"] >= 1
    assert statuses["success"] > calls + 1, "no death fell between the record and the release of the hold"


@pytest.mark.parametrize("fault", [LineFault.LOST_REQUEST, LineFault.LOST_ANSWER])
def test_a_function_may_be_killed_at_any_statement(scene: Scene, fault: LineFault) -> None:
    before = scene.database.requests
    assert acknowledged(scene.write("unharmed"))
    statements, done = scene.database.requests - before, Counter[bool]()
    for number in range(1, statements + 1):
        vector_id = f"vector-{number}"
        scene.database.plan(fault, number)
        assert scene.write(vector_id) is None
        assert scene.assert_accounted_for_once() == {"success": number, "unknown": number}
        done[scene.versions(vector_id) == [1]] += 1
        assert acknowledged(scene.write(vector_id))
        assert scene.versions(vector_id) == [1]
        assert scene.assert_accounted_for_once() == {"success": number + 1, "unknown": number}
    assert done[False] >= 1
    assert (done[True] >= 1) is (fault is LineFault.LOST_ANSWER), "only what reached the server can be committed"
