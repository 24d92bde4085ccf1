"""Errors as Pinecone's clients expect them: ``{"error": {"code", "message", "details"}, "status"}``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

ROOT = "/indexes"
# What their clients call at the root beside indexes; nothing of it is here.
ELSEWHERE = ("/collections", "/backups", "/backup-schedules", "/restore-jobs", "/embed", "/rerank", "/models")
REQUEST_ID = "X-Pinecone-Request-Id"

# Their codes by status; what does not validate is 400 with them, 422 with us.
CODES: Mapping[int, str] = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "FORBIDDEN",
    404: "NOT_FOUND",
    405: "METHOD_NOT_ALLOWED",
    409: "ALREADY_EXISTS",
    413: "PAYLOAD_TOO_LARGE",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
}
# Status and code by our own code, where it is not what the status alone would make of it.
_BY_CODE: Mapping[str, tuple[int, str]] = {
    "deletion_protected": (403, "FORBIDDEN"),
    "project_being_deleted": (409, "ABORTED"),
    "version_conflict": (409, "ABORTED"),
}
_QUOTA_EXCEEDED = (403, "QUOTA_EXCEEDED")
# Seconds. Their clients repeat a 429 by themselves: SDKs 9 and 10 three times, waiting for a minute or more, SDK 7 for
# as long as it is told, until midnight say. A program that has met the limit of a day is to hear of it now.
LONGEST_WAIT = 120
# What their service says, for clients that look for it.
_MESSAGES: Mapping[str, str] = {
    "collection_exists": "Resource already exists.",
    "deletion_protected": "Deletion protection is enabled for this index. Disable deletion protection before retrying.",
}


def is_pinecone(path: str) -> bool:
    """Whether a path is one of those that Pinecone's clients call."""
    return any(path == root or path.startswith(root + "/") for root in (ROOT, *ELSEWHERE))


def envelope(problem: Response, path: str) -> Response:
    """A problem response in their form. ``error.details`` holds the problem itself: limits, paths, our own code."""
    details = json.loads(bytes(problem.body))
    status, code = _status_and_code(problem.status_code, details)
    body = {
        "error": {"code": code, "message": _message(details, path), "details": details},
        "status": status,
    }
    left_out = {"content-type", "content-length"}
    if status == _QUOTA_EXCEEDED[0] or int(problem.headers.get("retry-after", 0)) > LONGEST_WAIT:
        left_out.add("retry-after")
    headers = {name: value for name, value in problem.headers.items() if name not in left_out}
    return Response(json.dumps(body).encode(), status, headers, media_type="application/json")


def _status_and_code(status: int, details: Mapping[str, Any]) -> tuple[int, str]:
    if known := _BY_CODE.get(details["code"]):
        return known
    if _is_full(details.get("violated_policies", ())):
        return _QUOTA_EXCEEDED
    status = 400 if status == 422 else status
    return status, CODES.get(status, "UNKNOWN")


def _is_full(violated: Any) -> bool:
    """Whether what says no is only how much may be kept, which no waiting changes: their clients repeat any 429."""
    return bool(violated) and all(
        policy["resets_at"] is None and policy["name"].startswith("max_") and policy["name"] != "max_concurrent"
        for policy in violated
    )


def _message(details: Mapping[str, Any], path: str) -> str:
    if details["code"] == "collection_not_found":
        return f"Index {path.removeprefix(ROOT).strip('/').partition('/')[0]} not found."
    message: str = _MESSAGES.get(details["code"], details["detail"])
    return message
