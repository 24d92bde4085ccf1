"""Where the service is and whose requests these are, from arguments or the environment; checked before the first."""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import urlsplit

import httpx

from vecmeter_client._drivers import Address
from vecmeter_client._policy import Policy
from vecmeter_client._version import __version__
from vecmeter_client.errors import ConfigurationError

T = TypeVar("T")


def address(url: str | None, api_key: str | None, api_prefix: str) -> Address:
    """Raises ConfigurationError naming what is missing or malformed; never shows the key."""
    url = _given(url, "url", "VECMETER_URL").rstrip("/")
    api_key = _given(api_key, "api_key", "VECMETER_API_KEY")
    try:
        parts = urlsplit(str(httpx.URL(url)))
    except (ValueError, httpx.InvalidURL) as error:
        raise ConfigurationError(f"url: is malformed: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or any(map(str.isspace, url)):
        raise ConfigurationError(f"url: {url!r} does not begin with http:// or https:// and a host")
    if parts.username is not None or parts.password is not None:
        raise ConfigurationError("url: holds a user name or password; the key goes into api_key")
    if parts.query or parts.fragment:
        raise ConfigurationError(f"url: {url!r} holds a query or fragment; give the service's root")
    if not re.fullmatch("[!-~]+", api_key):
        raise ConfigurationError("api_key: has a space, a line break or a character that is not ASCII")
    if api_prefix and not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", api_prefix):
        raise ConfigurationError(f"api_prefix: {api_prefix!r} is neither empty nor a path like /v1")
    headers = {
        "Authorization": f"Bearer {api_key}",
        "User-Agent": f"vecmeter-client/{__version__}",
        "Accept": "application/json",
    }
    return Address(url, api_prefix, headers)


def policy(at: Address, *, timeout: float, total_timeout: float, max_retries: int) -> Policy:
    """Raises ConfigurationError for times that are none and a negative number of retries."""
    for name, seconds in (("timeout", timeout), ("total_timeout", total_timeout)):
        if not 0 < seconds < float("inf"):
            raise ConfigurationError(f"{name}: is {seconds}; give seconds above 0")
    if max_retries < 0:
        raise ConfigurationError(f"max_retries: is {max_retries}; 0 or more are allowed")
    return Policy(
        seconds=timeout,
        total_seconds=total_timeout,
        retries=max_retries,
        url=at.url,
        prefix=at.prefix,
        clock=time.monotonic,
        chance=random.random,
    )


def own_client(http_client: T | None, kind: type[T]) -> T | None:
    """Raises ConfigurationError for a client of the other kind."""
    if http_client is not None and not isinstance(http_client, kind):
        raise ConfigurationError(f"http_client: is {type(http_client).__name__}; give a httpx.{kind.__name__}")
    return http_client


def http_from_environment(make: Callable[[], T]) -> T:
    """Raises ConfigurationError where the environment names proxies or certificates that httpx cannot use."""
    try:
        return make()
    except (ImportError, OSError, ValueError, httpx.InvalidURL) as error:
        what = "the proxies or certificates that the environment names cannot be used"
        raise ConfigurationError(f"http_client: {what}: {error}") from error


def _given(value: str | None, name: str, variable: str) -> str:
    found = value if value is not None else os.environ.get(variable)
    if not found:
        raise ConfigurationError(f"{name}: is not given, and {variable} is not set")
    return found
