"""Errors as RFC 9457 problems: the one place where an error is given an HTTP status."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from itertools import islice
from typing import Any

from starlette.responses import Response

from vecmeter import errors
from vecmeter.errors import VecmeterError, Violation
from vecmeter.http.rate_limit_headers import rate_limit_headers
from vecmeter.ledger.model import LimitState
from vecmeter.ledger.quotas import in_public_units

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:vecmeter:problem:"
# An answer has an end, too: of a batch as large as the default allows, every vector can still be named.
MAX_LISTED = 1000
_MAX_CHARACTERS = 500

# From the root of the tree outwards: an error takes the status of its nearest class here.
STATUSES: Mapping[type[VecmeterError], int] = {
    VecmeterError: 500,
    errors.SettingsError: 500,
    errors.AuthenticationError: 401,
    errors.MissingRoleError: 403,
    errors.KeyWithoutProjectError: 403,
    errors.NotFoundError: 404,
    errors.ConflictError: 409,
    errors.InvalidRequestError: 422,
    errors.PayloadTooLargeError: 413,
    errors.LimitExceededError: 429,
    errors.UnsupportedError: 501,
    errors.UnavailableError: 503,
}


# Problems that are no error of ours: what the edge itself answers, by status and code.
HTTP_PROBLEMS: Mapping[tuple[int, str], str] = {
    (400, "not_json"): "The body is not JSON",
    (404, "route_not_found"): "There is no such route",
    (405, "method_not_allowed"): "The route does not take this method",
    (500, "internal"): "Internal error",
    (503, "not_ready"): "Not ready",
}


def status_of(kind: type[VecmeterError]) -> int:
    return next(STATUSES[parent] for parent in kind.__mro__ if parent in STATUSES)


def problem(
    *,
    status: int,
    code: str,
    title: str,
    detail: str,
    request_id: str,
    violations: Iterable[Violation] = (),
    extra: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """A problem response; ``errors`` lists the offending paths, the first 1,000 of them."""
    body: dict[str, Any] = {
        "type": TYPE_PREFIX + code,
        "title": title,
        "status": status,
        "detail": _short(detail),
        "code": code,
        "request_id": request_id,
    }
    listed = [{"path": _short(v.path), "message": _short(v.message)} for v in islice(violations, MAX_LISTED)]
    if listed:
        body["errors"] = listed
    body.update(extra or {})
    # Client input may stand in a detail; what is not valid Unicode in it must not turn the answer into a failure.
    content = json.dumps(body, ensure_ascii=False).encode(errors="replace")
    return Response(content, status_code=status, headers=dict(headers or {}), media_type=MEDIA_TYPE)


def http_problem(
    status: int, request_id: str, detail: str | None = None, headers: Mapping[str, str] | None = None
) -> Response:
    """The problem response of an HTTP error that is none of ours."""
    code, title = next(
        ((code, title) for (known, code), title in HTTP_PROBLEMS.items() if known == status),
        ("http_error", HTTPStatus(status).phrase),
    )
    return problem(
        status=status, code=code, title=title, detail=detail or f"{title}.", request_id=request_id, headers=headers
    )


def problem_of(
    error: VecmeterError,
    request_id: str,
    now: datetime,
    limits: Iterable[LimitState] = (),
    *,
    committed: bool = False,
) -> Response:
    """The problem response of one of our errors.

    Args:
        limits: as they stand, where the request was admitted before it failed.
        committed: the work was done before the failure.
    """
    status = status_of(type(error))
    extra: dict[str, Any] = {"committed": True} if committed and status >= 500 else {}
    headers = rate_limit_headers(limits, now)
    violations: tuple[Violation, ...] = ()
    if isinstance(error, errors.InvalidRequestError | errors.VersionConflictError):
        violations = error.violations
    if isinstance(error, errors.AuthenticationError):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, (errors.LimitExceededError, errors.UnavailableError)):
        headers["Retry-After"] = str(error.retry_after)
    if isinstance(error, errors.LimitExceededError):
        headers |= rate_limit_headers(error.violated, now)
        extra["violated_policies"] = [
            {
                "name": policy.name,
                "scope": policy.scope,
                "limit": in_public_units(policy.name, policy.limit),
                "used": in_public_units(policy.name, policy.used),
                "remaining": in_public_units(policy.name, policy.remaining),
                "resets_at": policy.resets_at and policy.resets_at.astimezone(UTC).isoformat().replace("+00:00", "Z"),
            }
            for policy in error.violated
        ]
    return problem(
        status=status,
        code=error.code,
        title=error.title,
        detail=error.detail,
        request_id=request_id,
        violations=violations,
        extra=extra,
        headers=headers,
    )


def _short(text: str) -> str:
    """Client input may stand in it, a field's name of a megabyte, say."""
    return text if len(text) <= _MAX_CHARACTERS else text[: _MAX_CHARACTERS - 1] + "…"
