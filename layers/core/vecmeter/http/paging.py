"""Page tokens: where the last page ended, opaque to the caller."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Sequence
from typing import TypeVar

from vecmeter.errors import InvalidRequestError
from vecmeter.http.checks import invalid

T = TypeVar("T")


def page(found: Sequence[T], limit: int, position: Callable[[T], str]) -> tuple[Sequence[T], str | None]:
    """The first ``limit`` of what was found, and the token of the next page if there was more."""
    if len(found) <= limit:
        return found, None
    shown = found[:limit]
    return shown, encode_page_token(position(shown[-1]))


def encode_page_token(position: str) -> str:
    """The token of a page that goes on after a position."""
    return base64.urlsafe_b64encode(position.encode()).decode()


def decode_page_token(token: str | None, form: str, field: str = "page_token") -> str:
    """The position a token stands for; empty for none. ``field`` is what the request calls the token.

    Anybody can make a token, so a position has to have the ``form`` (a regular expression) of those of its list.

    Raises:
        InvalidRequestError: it is no token of this list.
    """
    if token is None:
        return ""
    try:
        position = base64.b64decode(token.encode(), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        position = ""
    if re.fullmatch(form, position, re.ASCII | re.DOTALL) is None:
        raise _not_ours(field)
    return position


def require_prefix(position: str, prefix: str) -> None:
    """Raises InvalidRequestError for a position outside the part of the list that the request is about."""
    if position and not position.startswith(prefix):
        raise _not_ours("page_token")


def _not_ours(field: str) -> InvalidRequestError:
    return invalid(field, "is not a token this list gave")
