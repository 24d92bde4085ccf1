"""What an operation is made of, without any I/O: a generator of requests that is sent the answers.

An operation is written once. A driver (``_drivers.py``) does what it asks for, blocking or awaiting, and hands back
what it returns; a request that fails is thrown into it, so that it can say how far it came.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Generic, TypeAlias, TypeVar
from urllib.parse import quote

from vecmeter_client._input import refuse_what_is_no_json, text

T = TypeVar("T")

# One for all: json.dumps makes another each time.
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class Repeat(Enum):
    """When a request may be sent again though nobody knows whether the service did it."""

    ALWAYS = "it changes nothing, or leaves the same behind however often it is done"
    BY_KEY = "it carries an Idempotency-Key: the service does it once and answers each as the first"
    NEVER = "a second one would do it twice, or be refused because of the first"


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request. ``path`` begins at the service's root and is percent-encoded."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = field(default=None, repr=False)
    repeat: Repeat = Repeat.ALWAYS
    versioned: bool = True
    """Whether the path goes below the prefix of the API version."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer, all of it. Names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    content: bytes = field(repr=False)


Flow: TypeAlias = Generator[Request, Answer, T]


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some of a list, and the token of what comes after; None: nothing."""

    items: Sequence[T]
    next_token: str | None


# A list as a function from a token to the flow of its page: so at most one page is held.
Pages: TypeAlias = Callable[[str | None], Flow[Page[T]]]


@dataclass(frozen=True, slots=True)
class Route:
    """A route of the service; its path has the places of names in braces."""

    method: str
    path: str
    repeat: Repeat = Repeat.ALWAYS
    versioned: bool = True

    def to(
        self,
        *names: str,
        query: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | bytes | None = None,
    ) -> Request:
        """The request with these names in the path, in order. What is None in the query or body is left out.

        Raises:
            InvalidInputError: a name is no text, or the body holds something that is no JSON.
        """
        path = self.path
        for name in names:
            before, _, rest = path.partition("{")
            place, _, after = rest.partition("}")
            path = before + _in_path(text(name, place)) + after
        headers = {}
        if self.repeat is Repeat.BY_KEY:
            headers["Idempotency-Key"] = secrets.token_hex(16)
        if isinstance(body, Mapping):
            body = to_json({name: value for name, value in body.items() if value is not None})
        if body is not None:
            headers["Content-Type"] = "application/json"
        found = {name: _in_query(value, name) for name, value in (query or {}).items() if value is not None}
        return Request(self.method, path, found, headers, body, self.repeat, self.versioned)


def to_json(value: Any, where: str = "") -> bytes:
    """JSON in UTF-8. Raises InvalidInputError naming the place, below ``where``, of what is none."""
    refuse_what_is_no_json(value, where)
    return _encode(value).encode()


def _in_path(name: str) -> str:
    # A lone dot, or two, would be taken for a step in the path.
    return name.replace(".", "%2E") if name in (".", "..") else quote(name, safe="")


def _in_query(value: object, name: str) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return text(str(value), name)
