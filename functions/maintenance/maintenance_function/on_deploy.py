"""CloudFormation's custom resource ``Migration``: a deployment migrates the database before it serves new code.

Protocol: AWS CloudFormation User Guide, "Custom resource request and response reference".
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

_logger = logging.getLogger("vecmeter.maintenance")

# A cluster that is starting, waking up or failing over; a table that others hold for longer than the lock's time-out.
_NOT_NOW = frozenset(
    {"OperationalError", "ConnectionTimeout", "CannotConnectNow", "LockNotAvailable", "database_unavailable"}
)
PATIENCE_SECONDS = 180.0
PAUSE_SECONDS = 5.0
_ANSWER_SECONDS = 10
# Of an answer as a whole CloudFormation takes 4 KB.
_LONGEST_REASON = 1000


def answer(
    event: Mapping[str, Any],
    migrate: Callable[[], Mapping[str, Any]],
    *,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Do what CloudFormation asks for, and tell it how that ended, whatever happened: it would wait for an answer.

    Where it cannot be told this raises: Lambda then runs the event again, which does no harm.
    """
    failure = None if event["RequestType"] == "Delete" else _failure(migrate, clock, pause)
    body = {
        "Status": "SUCCESS" if failure is None else "FAILED",
        "Reason": (failure or "database is up to date")[:_LONGEST_REASON],
        "PhysicalResourceId": event.get("PhysicalResourceId") or "database-schema",
        "StackId": event["StackId"],
        "RequestId": event["RequestId"],
        "LogicalResourceId": event["LogicalResourceId"],
    }
    _put(event["ResponseURL"], json.dumps(body).encode())


def _failure(
    migrate: Callable[[], Mapping[str, Any]], clock: Callable[[], float], pause: Callable[[float], None]
) -> str | None:
    give_up_at = clock() + PATIENCE_SECONDS
    while True:
        try:
            outcome = migrate()
        except Exception as error:  # also a fault of ours must not leave the deployment waiting
            _logger.exception("migration failed")
            return f"migrate raised {type(error).__name__}; its log says where"
        if outcome["status"] == "ok":
            return None
        if outcome["error"] not in _NOT_NOW or clock() >= give_up_at:
            return f"{outcome['message']}: {outcome['error']}; its log says where"
        pause(PAUSE_SECONDS)


def _put(url: str, body: bytes) -> None:
    from urllib.request import Request, urlopen  # only deployments need it

    # The address is signed for an empty content type.
    request = Request(url, data=body, method="PUT", headers={"Content-Type": ""})  # noqa: S310  CloudFormation's own
    with urlopen(request, timeout=_ANSWER_SECONDS):  # noqa: S310
        pass
