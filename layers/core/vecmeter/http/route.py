"""What every business route does before its own parameters are looked at: the key, the URL, then the body as JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Coroutine, Mapping
from functools import partial, wraps
from typing import Any, ClassVar, ParamSpec
from urllib.parse import unquote_to_bytes

from fastapi import Request
from fastapi.routing import APIRoute, APIRouter
from pydantic_core import from_json
from starlette.convertors import Convertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.responses import Response

from vecmeter import deadline
from vecmeter.errors import AuthenticationError, StatementTimeoutError, Violation
from vecmeter.http.checks import invalid, raise_if_any
from vecmeter.http.lanes import lanes
from vecmeter.ledger.keys import parse_secret

P = ParamSpec("P")


class _VectorIdConvertor(Convertor[str]):
    """The rest of a path, whatever it holds: Starlette's own ``path`` ends at a line break."""

    regex = "(?s:.*)"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("vector_id", _VectorIdConvertor())

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")


class BusinessRoute(APIRoute):
    """A route for whoever has a key, of a plain function that blocks on PostgreSQL and DynamoDB.

    A server runs all of it in one thread, from the JSON to the answer, so that neither waiting nor a body of 6 MB keeps
    other requests waiting; how many at once, and how many may wait: ``lanes``. A Lambda environment has one request
    at a time: there it runs in place, which saves the hop (docs/adr/0004).

    Gives the function ``request.state.credential``, ``request.state.template`` and ``request.state.content``, the body.
    """

    versioned: ClassVar[bool] = True
    """Whether it stands below the prefix of the business routes."""

    def __init__(self, path: str, endpoint: Callable[..., Response], **options: Any) -> None:
        super().__init__(path, _in_place(endpoint), **options)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        template = self.path_format
        takes_parameters = bool(self.dependant.query_params)
        takes_body = self.body_field is not None

        async def run(request: Request) -> Response:
            app = request.app
            request.state.template = app.state.runtime.settings.api_prefix * self.versioned + template
            # Whoever has no key learns nothing about the rest of the request, and costs nothing.
            request.state.credential = parse_secret(_presented_secret(request.headers))
            _refuse_what_is_not_utf8(request)
            if not takes_parameters:
                raise_if_any([Violation(name, "is no parameter of this route") for name in request.query_params])
            request = _JsonRequest(request.scope, request.receive)
            if app.state.runs_alone:
                request.state.content = await request.body() if takes_body else b""
                return await handle(request)
            server = lanes(app.state.threads)
            with server.place():
                request.state.content = await request.body() if takes_body else b""
                return await server.run(partial(_finish, handle(request)), len(request.state.content))

        return run


class UnversionedRoute(BusinessRoute):
    """A route that another program expects in its own place, without the prefix."""

    versioned = False


class UnversionedRouter(APIRouter):
    """The routes of that kind."""

    def __init__(self, **options: Any) -> None:
        super().__init__(route_class=UnversionedRoute, **options)


def _in_place(endpoint: Callable[P, Response]) -> Callable[P, Coroutine[Any, Any, Response]]:
    """As a coroutine, or FastAPI would run it in a thread of its own. Begun only with time for its work: what came too
    late, or waited too long for a thread, would find out nothing about the ledger and the database but that.
    """

    @wraps(endpoint)
    async def run(*arguments: P.args, **named: P.kwargs) -> Response:
        if not deadline.for_work():
            raise StatementTimeoutError("The time of this request was up before its work began.", retry_after=1)
        return endpoint(*arguments, **named)

    return run


def _finish(handling: Coroutine[Any, Any, Response]) -> Response:
    """Run a coroutine that waits for nothing: the body is read, and what blocks does so in place."""
    try:
        handling.send(None)
    except StopIteration as done:
        response: Response = done.value
        return response
    handling.close()
    raise RuntimeError("a business route waited for the event loop")


class _JsonRequest(Request):
    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            self._json = parse_json(await self.body())
        return self._json


def parse_json(body: bytes) -> Any:
    """The value a JSON text stands for. NaN and Infinity are let through, so that validation can name their place.

    Raises:
        HTTPException: 400; the text is not JSON in UTF-8, is nested deeper than 200, or has a number beyond measure.
    """
    try:
        try:
            return from_json(body)
        except ValueError:
            if not _SURROGATE.search(body):
                raise
            # Lone surrogates are JSON, yet not Unicode. What is well-formed without them is safe for the standard
            # library's parser, which lets them through, so that validation can name their place.
            from_json(_SURROGATE.sub(rb"\\u0020", body))
            return json.loads(body)
    except ValueError as error:
        raise HTTPException(400, f"The body is not JSON: {error}.") from None


def _presented_secret(headers: Mapping[str, str]) -> str:
    scheme, _, secret = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and secret:
        return secret.strip()
    api_key = headers.get("api-key")
    if api_key:
        return api_key.strip()
    raise AuthenticationError


def _refuse_what_is_not_utf8(request: Request) -> None:
    """Servers put U+FFFD for what they cannot decode, so that two different ids would become one."""
    parts = {"path": request.scope.get("raw_path") or b"", "query": request.scope["query_string"]}
    for name, raw in parts.items():
        if b"%" not in raw:
            continue
        try:
            unquote_to_bytes(raw).decode()
        except UnicodeDecodeError:
            raise invalid(name, "is not UTF-8") from None
