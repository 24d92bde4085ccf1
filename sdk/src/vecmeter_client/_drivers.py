"""The two that do what operations ask for: one blocks, the other awaits. Neither decides anything."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import httpx

from vecmeter_client._flow import Answer, Flow, Pages
from vecmeter_client._policy import Policy, Send, Wait
from vecmeter_client.errors import (
    ConnectError,
    ConnectionLostError,
    TimedOutError,
    TransportError,
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Address:
    """Where requests go and what they say of the client."""

    url: str
    prefix: str
    headers: dict[str, str] = field(repr=False)  # the key is in them

    def request(self, client: httpx.Client | httpx.AsyncClient, step: Send) -> httpx.Request:
        request = step.request
        return client.build_request(
            request.method,
            self.url + (self.prefix if request.versioned else "") + request.path,
            params=dict(request.query) or None,
            headers={**self.headers, **request.headers},
            content=request.content,
            timeout=step.seconds,
        )


class BlockingDriver:
    """Runs operations on an ``httpx.Client``. Keeps no state of its own, so threads may share it."""

    def __init__(
        self,
        http: httpx.Client,
        address: Address,
        policy: Policy,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.http, self.address, self.policy, self._sleep = http, address, policy, sleep

    def run(self, flow: Flow[T]) -> T:
        steps = self.policy.steps(flow)
        try:
            step = next(steps)
            while True:
                step = steps.send(self._do(step))
        except StopIteration as done:
            result: T = done.value
            return result

    def iterate(self, pages: Pages[T]) -> Iterator[T]:
        """The items of a list, page by page."""
        token: str | None = None
        while True:
            page = self.run(pages(token))
            yield from page.items
            if (token := page.next_token) is None:
                return

    def _do(self, step: Send | Wait) -> Answer | TransportError | None:
        if isinstance(step, Wait):
            self._sleep(step.seconds)
            return None
        try:
            with _ours(step):
                return self._exchange(step)
        except TransportError as error:
            return error

    def _exchange(self, step: Send) -> Answer:
        ends_at = self.policy.clock() + step.seconds
        response = self.http.send(self.address.request(self.http, step), stream=True, follow_redirects=False)
        try:
            parts = []
            for part in response.iter_bytes():
                parts.append(part)
                if self.policy.clock() > ends_at:  # each part came in time, and all of them do not
                    raise httpx.ReadTimeout("")
        finally:
            response.close()
        return _answer(response, b"".join(parts))


class AwaitingDriver:
    """Runs operations on an ``httpx.AsyncClient``, on asyncio. Keeps no state of its own."""

    def __init__(
        self,
        http: httpx.AsyncClient,
        address: Address,
        policy: Policy,
        sleep: Callable[[float], Awaitable[None]] | None = None,
    ) -> None:
        import asyncio  # for those alone who use it

        self.http, self.address, self.policy = http, address, policy
        self._sleep, self._within = sleep or asyncio.sleep, asyncio.timeout

    async def run(self, flow: Flow[T]) -> T:
        steps = self.policy.steps(flow)
        try:
            step = next(steps)
            while True:
                step = steps.send(await self._do(step))
        except StopIteration as done:
            result: T = done.value
            return result

    async def iterate(self, pages: Pages[T]) -> AsyncIterator[T]:
        token: str | None = None
        while True:
            page = await self.run(pages(token))
            for item in page.items:
                yield item
            if (token := page.next_token) is None:
                return

    async def _do(self, step: Send | Wait) -> Answer | TransportError | None:
        if isinstance(step, Wait):
            await self._sleep(step.seconds)
            return None
        try:
            with _ours(step):
                async with self._within(step.seconds):
                    response = await self.http.send(self.address.request(self.http, step), follow_redirects=False)
        except TransportError as error:
            return error
        return _answer(response, response.content)


def _answer(response: httpx.Response, content: bytes) -> Answer:
    return Answer(response.status_code, {name.lower(): value for name, value in response.headers.items()}, content)


@contextmanager
def _ours(step: Send) -> Iterator[None]:
    """httpx's errors as ours; ``committed`` None: whether the service did it, nobody knows."""
    what = f"{step.request.method} {step.request.path}"
    ours: TransportError
    try:
        yield
    except (httpx.ConnectTimeout, httpx.PoolTimeout) as error:
        ours = TimedOutError(f"{what}: no connection within {step.seconds:.1f} s")
        raise ours from error
    except (httpx.ConnectError, httpx.ProxyError, httpx.UnsupportedProtocol) as error:
        ours = ConnectError(f"{what}: no connection: {error}")
        raise ours from error
    except (httpx.TimeoutException, TimeoutError) as error:
        ours = TimedOutError(f"{what}: no answer within {step.seconds:.1f} s")
        ours.committed = None
        raise ours from error
    except httpx.RequestError as error:
        ours = ConnectionLostError(f"{what}: the connection broke before the answer was there: {error}")
        ours.committed = None
        raise ours from error
