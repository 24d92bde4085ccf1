"""Clients of the stack that the environment names: synchronous, or asynchronous and called like it."""

from __future__ import annotations

import inspect
import itertools
import os
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import pinecone
from pinecone import AsyncPinecone, Pinecone, RetryConfig, ServerlessSpec

URL = os.environ["VECMETER_URL"]
KEY = os.environ["VECMETER_API_KEY"]
PROJECT = os.environ["VECMETER_PROJECT"]
SPEC = ServerlessSpec(cloud="aws", region="us-east-1")
MAJOR = int(pinecone.__version__.split(".")[0])
"""Of the SDK: 9 speaks the API of 2025-10, 10 that of 2026-07."""
ONCE = RetryConfig(max_retries=0)
"""Refusals are told, not retried."""

numbers = itertools.count(1)


class Awaited:
    """The asynchronous client, called like the synchronous one: coroutines are run, iterations collected."""

    def __init__(self, target: Any, run: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self._target = target
        self._run = run

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        return self._call(found) if callable(found) else self._wrapped(found)

    def _call(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*positional: Any, **named: Any) -> Any:
            result = function(*positional, **named)
            if inspect.isawaitable(result):
                result = self._run(_awaiting(result))
            if hasattr(result, "__aiter__"):
                return self._run(_collected(result))
            return self._wrapped(result)

        return call

    def _wrapped(self, value: Any) -> Any:
        return Awaited(value, self._run) if type(value).__module__.startswith("pinecone.async_client") else value


async def _awaiting(result: Any) -> Any:
    return await result


async def _collected(result: Any) -> list[Any]:
    return [item async for item in result]


@dataclass(frozen=True)
class Account:
    """Clients of the stack by a key's secret; ``kind``: sync or async."""

    kind: str
    run: Callable[[Coroutine[Any, Any, Any]], Any]
    opened: list[Any] = field(default_factory=list)

    def client(self, key: str = KEY, *, host: str = URL, headers: dict[str, str] | None = None) -> Any:
        options: dict[str, Any] = {"host": host, "additional_headers": headers, "retry_config": ONCE}
        if self.kind == "sync":
            client: Any = Pinecone(api_key=key, **options)
        else:
            client = Awaited(AsyncPinecone(api_key=key, **options), self.run)
        self.opened.append(client)
        return client

    def new_index(self, client: Any, *, dimension: int = 3, metric: str = "cosine", **more: Any) -> Any:
        """A new index of the client's project, opened by its name."""
        name = f"{self.kind}-{next(numbers)}"
        client.create_index(name=name, dimension=dimension, metric=metric, spec=SPEC, **more)
        return client.index(name)
