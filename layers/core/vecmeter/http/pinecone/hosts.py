"""Where an index is: its ``host``, below which its clients find the data plane."""

from __future__ import annotations

import os
import re
from typing import Annotated

from fastapi import Depends, Request

from vecmeter.http.pinecone.errors import ROOT

_HOST = re.compile(r"[A-Za-z0-9.\-]+(:\d{1,5})?|\[[0-9A-Fa-f:.]+\](:\d{1,5})?")


class Hosts:
    """The hosts of indexes, as the client of one request reaches them; ``region`` is the deployment's."""

    def __init__(self, base: str, region: str) -> None:
        self._base = base
        self.region = region

    def of(self, index: str) -> str:
        """``<service>/indexes/<index>``. Clients take one without a scheme for https, and so do theirs name it."""
        return f"{self._base}{ROOT}/{index}"


async def _hosts(request: Request) -> Hosts:
    """By the setting, or else by how the request itself came here."""
    settings = request.app.state.runtime.settings
    base = settings.public_url or _url_of(request)
    return Hosts(base.removeprefix("https://"), _region())


def _region() -> str:
    return os.environ.get("AWS_REGION") or "us-east-1"


def _url_of(request: Request) -> str:
    # Of several proxies, the one the client spoke to comes first.
    forwarded = request.headers.get("x-forwarded-proto", "").partition(",")[0].strip().lower()
    scheme = forwarded if forwarded in ("http", "https") else request.url.scheme
    host = request.headers.get("host", "")
    if _HOST.fullmatch(host) is None:
        address, port = request.scope.get("server") or ("localhost", None)
        host = f"{address}:{port}" if port else address
    return f"{scheme}://{host}"


HostsDependency = Annotated[Hosts, Depends(_hosts)]
