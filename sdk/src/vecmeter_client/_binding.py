"""From an operation, written once, to the methods of both clients, with its parameters and result for type checkers.

::

    class Collection(Blocking[CollectionAt]):
        search = blocking(ops.search)            # (vector=None, *, ...) -> SearchResult

    class AsyncCollection(Awaiting[CollectionAt]):
        search = awaited(ops.search)             # the same -> Coroutine[Any, Any, SearchResult]
"""

from __future__ import annotations

import inspect
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from functools import wraps
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from vecmeter_client._drivers import AwaitingDriver, BlockingDriver
from vecmeter_client._flow import Flow, Pages

A = TypeVar("A")
P = ParamSpec("P")
T = TypeVar("T")


class Blocking(Generic[A]):
    """Operations at a place, done by a blocking driver."""

    def __init__(self, at: A, driver: BlockingDriver) -> None:
        self._at, self._driver = at, driver

    def __repr__(self) -> str:
        return f"<{type(self).__name__}{self._at} of {self._driver.address.url}>"


class Awaiting(Generic[A]):
    """Operations at a place, done by an awaiting driver."""

    def __init__(self, at: A, driver: AwaitingDriver) -> None:
        self._at, self._driver = at, driver

    def __repr__(self) -> str:
        return f"<{type(self).__name__}{self._at} of {self._driver.address.url}>"


def blocking(operation: Callable[Concatenate[A, P], Flow[T]]) -> Callable[Concatenate[Blocking[A], P], T]:
    """A method that does an operation and returns its result."""

    @wraps(operation)
    def method(self: Blocking[A], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._driver.run(operation(self._at, *args, **kwargs))

    return _shown(method, operation, "{}")


def awaited(
    operation: Callable[Concatenate[A, P], Flow[T]],
) -> Callable[Concatenate[Awaiting[A], P], Coroutine[Any, Any, T]]:
    """A method that does an operation when it is awaited."""

    @wraps(operation)
    async def method(self: Awaiting[A], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._driver.run(operation(self._at, *args, **kwargs))

    return _shown(method, operation, "{}")


def iterated(operation: Callable[Concatenate[A, P], Pages[T]]) -> Callable[Concatenate[Blocking[A], P], Iterator[T]]:
    """A method that returns an iterator over a list; it asks for a page when it comes to it."""

    @wraps(operation)
    def method(self: Blocking[A], /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        return self._driver.iterate(operation(self._at, *args, **kwargs))

    return _shown(method, operation, "Iterator[{}]")


def awaited_each(
    operation: Callable[Concatenate[A, P], Pages[T]],
) -> Callable[Concatenate[Awaiting[A], P], AsyncIterator[T]]:
    """A method that returns an asynchronous iterator over a list."""

    @wraps(operation)
    def method(self: Awaiting[A], /, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[T]:
        return self._driver.iterate(operation(self._at, *args, **kwargs))

    return _shown(method, operation, "AsyncIterator[{}]")


M = TypeVar("M", bound=Callable[..., Any])


def _shown(method: M, operation: Callable[..., Any], form: str) -> M:
    """Let ``help()`` and shells show the method's own signature."""
    signature = inspect.signature(operation)
    [_, *parameters] = signature.parameters.values()
    result = re.sub(r"^\w+\[(.*)\]$", r"\1", str(signature.return_annotation))
    shown = signature.replace(
        parameters=[inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY), *parameters],
        return_annotation=form.format(result),
    )
    method.__signature__ = shown  # type: ignore[attr-defined]
    return method
