"""What FastAPI costs a search beside Starlette alone and Powertools' resolver: import CPU and warm CPU.

    .venv/bin/python -m benchmarks.web_stacks

Each answers the same API Gateway event with the same Pydantic models: two names of the path, a body with 256 numbers,
an answer with ten matches. No ledger, no database: what is measured is the way from the event to the route and back.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from pydantic import BaseModel, ConfigDict

from benchmarks.imports import SETTINGS

PATH = "/v1/projects/{project}/collections/{collection}/search"
STACKS = ("fastapi", "starlette", "powertools")
_WHOLE = "search function"
_MEASURED = """
import time; start = time.process_time()
{statement}
print((time.process_time() - start) * 1000)
"""


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    vector: list[float]
    top_k: int = 10
    namespace: str = ""
    filter: dict[str, Any] | None = None


class Match(BaseModel):
    id: str
    score: float
    metadata: dict[str, Any]


class Answer(BaseModel):
    matches: list[Match]
    namespace: str


def answered(body: Body) -> bytes:
    matches = [Match.model_construct(id=str(at), score=0.5, metadata={"at": at}) for at in range(body.top_k)]
    answer = Answer.model_construct(matches=matches, namespace=body.namespace)
    return answer.model_dump_json(exclude_none=True).encode()


def fastapi() -> Callable[..., Any]:
    from fastapi import FastAPI
    from mangum import Mangum
    from starlette.responses import Response

    app = FastAPI(docs_url=None, redoc_url=None)

    async def search(project: str, collection: str, body: Body) -> Response:
        return Response(answered(body), media_type="application/json")

    # The names of the annotations are this function's own.
    search.__annotations__ = {"project": str, "collection": str, "body": Body, "return": Response}
    app.post(PATH)(search)
    return Mangum(app, lifespan="off")


def starlette() -> Callable[..., Any]:
    from mangum import Mangum
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    async def search(request: Request) -> Response:
        body = Body.model_validate_json(await request.body())
        return Response(answered(body), media_type="application/json")

    return Mangum(Starlette(routes=[Route(PATH, search, methods=["POST"])]), lifespan="off")


def powertools() -> Callable[..., Any]:
    from aws_lambda_powertools.event_handler import APIGatewayHttpResolver, Response

    app = APIGatewayHttpResolver()

    def search(project: str, collection: str) -> Response[bytes]:
        body = Body.model_validate_json(app.current_event.body or "")
        return Response(200, "application/json", answered(body).decode())

    app.post(PATH.replace("{", "<").replace("}", ">"))(search)
    return app.resolve


def import_cpu(stack: str) -> float:
    """CPU milliseconds until a stack, or the whole search function, is ready for its first event."""
    ours = stack == _WHOLE
    statement = "import search_function.handler" if ours else f"from benchmarks import web_stacks as w; w.{stack}()"
    command = [sys.executable, "-c", _MEASURED.format(statement=statement)]
    done = subprocess.run(command, env={**os.environ, **SETTINGS}, check=True, capture_output=True, text=True)
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    from benchmarks.search_request import event  # here, for what it loads is no part of what is measured

    imports: dict[str, list[float]] = {stack: [] for stack in (*STACKS, _WHOLE)}
    for _ in range(rounds):
        for stack, found in imports.items():
            found.append(import_cpu(stack))
    asked = event("/v1/projects/bench/collections/bench/search", "key", {"vector": [0.25] * 256})
    context = SimpleNamespace(aws_request_id="bench", get_remaining_time_in_millis=lambda: 29_000)
    handlers = {stack: globals()[stack]() for stack in STACKS}
    warm: dict[str, list[float]] = {stack: [] for stack in STACKS}
    for turn in range(-100, 1000):
        for stack, handler in handlers.items():
            started = time.thread_time()
            answer = handler(asked, context)
            spent = (time.thread_time() - started) * 1000
            assert len(json.loads(answer["body"])["matches"]) == 10
            if turn >= 0:
                warm[stack].append(spent)
    print(f"{'CPU ms, median':16}{'import':>10}{'a request':>12}")
    print(f"{_WHOLE:16}{statistics.median(imports[_WHOLE]):10.0f}{'':>12}")
    for stack in STACKS:
        print(f"{stack:16}{statistics.median(imports[stack]):10.0f}{statistics.median(warm[stack]):12.3f}")


if __name__ == "__main__":
    main()
