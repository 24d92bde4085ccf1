"""Page tokens: where the last page ended, opaque to the caller."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import TypeVar

from vecmeter.errors import InvalidRequestError, Violation

T = TypeVar("T")


def page(found: Sequence[T], limit: int, position: Callable[[T], str]) -> tuple[Sequence[T], str | None]:
    """The first ``limit`` of what was found, and the token of the next page if there was more."""
    if len(found) <= limit:
        return found, None
    shown = found[:limit]
    token = base64.urlsafe_b64encode(position(shown[-1]).encode()).decode()
    return shown, token


def decode_page_token(token: str | None) -> str:
    """The position a token stands for; empty for none. Raises InvalidRequestError for what is no token."""
    if token is None:
        return ""
    try:
        position = base64.urlsafe_b64decode(token.encode()).decode()
        if "\x00" in position:
            raise ValueError(position)
    except (binascii.Error, ValueError):
        message = "is not a token this API gave"
        raise InvalidRequestError(f"page_token {message}.", (Violation("page_token", message),)) from None
    return position
