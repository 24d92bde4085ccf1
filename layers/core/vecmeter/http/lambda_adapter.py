"""An application as a Lambda handler behind an HTTP API."""

from __future__ import annotations

import os
from typing import Any, Protocol

from fastapi import APIRouter, FastAPI
from mangum import Mangum

from vecmeter.http.app import create_app
from vecmeter.http.problems import MEDIA_TYPE
from vecmeter.logs import configure_logging
from vecmeter.runtime import runtime
from vecmeter.snapshot import register_hooks


class Handler(Protocol):
    def __call__(self, event: Any, context: Any) -> dict[str, Any]: ...


def create_handler(*routers: APIRouter) -> Handler:
    """The handler of a function: settings are checked now, at the start; connections open with the first request."""
    process = runtime()
    register_hooks(process)
    service = os.environ.get("AWS_LAMBDA_FUNCTION_NAME", "vecmeter")
    configure_logging(process.settings.log_level, process.settings.log_format, service)
    return adapt(create_app(process, *routers, service=service, runs_alone=True))


def adapt(app: FastAPI) -> Handler:
    # The lifespan protocol would run once per invocation, and there is nothing to start. Problems are text, too:
    # what Mangum takes for binary goes out in base64.
    return Mangum(app, lifespan="off", text_mime_types=["application/json", MEDIA_TYPE])
