"""What a thread costs a request: a trivial route, run in place and in a thread, in turn in one process.

    .venv/bin/python -m benchmarks.thread_hop

CPU of the whole process per request, threads included; no server, no network. What counts is the ratio.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from fastapi import APIRouter, FastAPI
from pydantic import BaseModel
from starlette.responses import Response

from vecmeter.http.route import BusinessRoute
from vecmeter.ledger.keys import generate_secret

CONTENT = b'{"vector": [0.1, 0.2, 0.3], "top_k": 10}'


class Body(BaseModel):
    vector: list[float]
    top_k: int


def trivial(body: Body) -> Response:
    return Response(b"{}", media_type="application/json")


async def trivial_coroutine(body: Body) -> Response:
    return Response(b"{}", media_type="application/json")


def application(endpoint: Callable[..., Any], *, business: bool, runs_alone: bool = False) -> FastAPI:
    app = FastAPI()
    app.state.runtime = SimpleNamespace(settings=SimpleNamespace(api_prefix=""))
    app.state.runs_alone = runs_alone
    app.state.threads = 24
    router = APIRouter(route_class=BusinessRoute) if business else APIRouter()
    router.post("/trivial")(endpoint)
    app.include_router(router)
    return app


VARIANTS = {
    "FastAPI, async def: in place": application(trivial_coroutine, business=False),
    "FastAPI, def: its thread": application(trivial, business=False),
    "BusinessRoute, in place (Lambda)": application(trivial, business=True, runs_alone=True),
    "BusinessRoute, in a thread (server)": application(trivial, business=True),
}


async def request(app: FastAPI, secret: str) -> None:
    messages = [{"type": "http.request", "body": CONTENT, "more_body": False}]
    statuses: list[int] = []

    async def receive() -> Any:
        return messages.pop()

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    headers = [(b"authorization", f"Bearer {secret}".encode()), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/trivial", "query_string": b"", "headers": headers, "state": {}}
    await app(scope, receive, send)
    assert statuses == [200], statuses


async def measure(rounds: int) -> dict[str, list[float]]:
    _, secret = generate_secret("test")
    figures: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for turn in range(rounds + 200):
        for name, app in VARIANTS.items():
            cpu = time.process_time()
            await request(app, secret)
            if turn >= 200:
                figures[name].append((time.process_time() - cpu) * 1000)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3000)
    figures = asyncio.run(measure(parser.parse_args().rounds))
    least = statistics.mean(figures["FastAPI, async def: in place"])
    print(f"{'CPU per request':38}{'mean ms':>9}{'median':>9}{'ratio':>8}")
    for name, cpu in figures.items():
        mean = statistics.mean(cpu)
        print(f"{name:38}{mean:9.3f}{statistics.median(cpu):9.3f}{mean / least:8.2f}")


if __name__ == "__main__":
    main()
