"""Both clients under one suite: what a test calls on the blocking client it calls on the asynchronous one, too."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from tests.fixtures.clients import Live
from vecmeter_client import AsyncClient, Client
from vecmeter_client._binding import Awaiting

Script = Callable[[httpx.Request], httpx.Response]


class InStep:
    """An asynchronous client, project or collection whose every method is waited for."""

    def __init__(self, portal: BlockingPortal, target: Any) -> None:
        self._portal, self._target = portal, target

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._target, name)
        if inspect.ismethod(value) or inspect.isfunction(value):
            return lambda *args, **kwargs: self._waited(value(*args, **kwargs))
        return self._waited(value)

    def __repr__(self) -> str:
        return repr(self._target)

    def _waited(self, value: Any) -> Any:
        if inspect.isawaitable(value):
            return self._portal.call(_await, value)
        if hasattr(value, "__anext__"):
            return self._each(value)
        return InStep(self._portal, value) if isinstance(value, Awaiting) else value

    def _each(self, items: Any) -> Iterator[Any]:
        while True:
            try:
                yield self._portal.call(items.__anext__)
            except StopAsyncIteration:
                return


async def _await(value: Any) -> Any:
    return await value


class ClientMaker:
    """Makes clients of one kind. ``waits``: seconds that those did not wait that are not to wait."""

    def __init__(self, portal: BlockingPortal | None, stack: ExitStack) -> None:
        self._portal, self._stack = portal, stack
        self.waits: list[float] = []

    def __call__(self, url: str, key: str, *, script: Script | None = None, waits: bool = True, **options: Any) -> Any:
        """A client; ``script`` answers in place of a server. Without ``waits`` it waits only where a server
        says so, which is for a second at least."""
        if script is not None:
            kind = httpx.Client if self._portal is None else httpx.AsyncClient
            options["http_client"] = self._entered(kind(transport=httpx.MockTransport(script)))
        client = (Client if self._portal is None else AsyncClient)(url, key, **options)
        if script is not None or not waits:
            patient = 1.0 if script is None else float("inf")
            client._driver._sleep = self._skipping(client._driver._sleep, patient)
        self._entered(client)
        return client if self._portal is None else InStep(self._portal, client)

    def _entered(self, context: Any) -> Any:
        if self._portal is not None:
            context = self._portal.wrap_async_context_manager(context)
        return self._stack.enter_context(context)

    def _skipping(self, sleep: Callable[[float], Any], patient: float) -> Callable[[float], Any]:
        def skip(seconds: float) -> Any:
            if seconds >= patient:
                return sleep(seconds)
            self.waits.append(seconds)
            return None if self._portal is None else _nothing()

        return skip


async def _nothing() -> None:
    pass


@pytest.fixture(params=["Client", "AsyncClient"])
def make_client(request: pytest.FixtureRequest) -> Iterator[ClientMaker]:
    """``make_client(url, key, **options)``."""
    with ExitStack() as stack:
        portal = stack.enter_context(start_blocking_portal()) if request.param == "AsyncClient" else None
        yield ClientMaker(portal, stack)


@pytest.fixture
def admin(live: Live, make_client: ClientMaker) -> Any:
    """The operations of a system admin."""
    return make_client(live.url, live.admin_key).admin


@pytest.fixture
def project(live: Live, make_client: ClientMaker) -> Any:
    """A new project, reached with a key of its own that may search and write."""
    name = live.project()
    return make_client(live.url, live.key(name)).project(name)


@pytest.fixture
def notes(project: Any) -> Any:
    """A collection of three dimensions."""
    project.create_collection("notes", dimension=3)
    return project.collection("notes")
