"""Answers that are errors, as the classes of ``errors.py``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from vecmeter_client import errors
from vecmeter_client._flow import Answer
from vecmeter_client.errors import ApiError, RequestError, UnexpectedAnswerError, ViolatedPolicy, Violation

_SHOWN = 200
_MEDIA_TYPES = ("application/json", "text/csv", "application/x-ndjson")
# What gateways before the service answer, in words of their own.
_BY_STATUS: Mapping[int, type[ApiError]] = {
    413: errors.PayloadTooLargeError,
    429: errors.LimitExceededError,
    500: errors.InternalError,
    502: errors.UnavailableError,
    503: errors.UnavailableError,
    504: errors.UnavailableError,
}


def _classes(root: type[ApiError]) -> Iterator[type[ApiError]]:
    yield root
    for kind in root.__subclasses__():
        yield from _classes(kind)


def error_of(answer: Answer, url: str) -> RequestError:
    """The error an answer of 300 or above stands for; ``committed`` None where the service did not speak."""
    problem = problem_in(answer)
    if problem is None:
        return _foreign(answer, url)
    code = problem["code"]
    known = {kind.code: kind for kind in _classes(ApiError)}
    kind = known.get(code) or _BY_STATUS.get(answer.status, ApiError)
    detail = str(problem.get("detail", ""))
    request_id = _text(problem.get("request_id"))
    error = kind(f"{detail} ({answer.status} {code}, request {request_id})")
    error.code, error.status, error.problem = code, answer.status, problem
    error.title, error.detail, error.request_id = str(problem.get("title", "")), detail, request_id
    error.violations = tuple(
        Violation(str(one.get("path", "")), str(one.get("message", ""))) for one in _objects(problem.get("errors"))
    )
    error.violated_policies = tuple(map(_policy, _objects(problem.get("violated_policies"))))
    error.retry_after = retry_after(answer)
    error.checks = checks if isinstance(checks := problem.get("checks"), dict) else None
    error.committed = bool(problem.get("committed", False))
    return error


def check(answer: Answer, url: str) -> None:
    """Raises UnexpectedAnswerError for a success in a form in which no Vecmeter answers: a web page, say."""
    if not answer.headers.get("content-type", "").startswith(_MEDIA_TYPES):
        raise _unexpected(answer, url)


def problem_in(answer: Answer) -> dict[str, Any] | None:
    """The problem document of an answer, if it is one."""
    if not answer.headers.get("content-type", "").startswith("application/problem+json"):
        return None
    try:
        content = json.loads(answer.content)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) and isinstance(content.get("code"), str) else None


def retry_after(answer: Answer) -> float | None:
    """Seconds; None where the answer names none, or a date, which Vecmeter never does."""
    try:
        seconds = float(answer.headers.get("retry-after", ""))
    except ValueError:
        return None
    return seconds if 0 <= seconds < float("inf") else None


def _foreign(answer: Answer, url: str) -> RequestError:
    """Not the service's words: those of a gateway before it, or of something else at this address."""
    kind = _BY_STATUS.get(answer.status)
    if kind is None:
        return _unexpected(answer, url)
    error = kind(f"What stands before the service at {url} answered {_shown(answer)}")
    error.status, error.detail, error.title = answer.status, _shown(answer), f"HTTP {answer.status}"
    error.retry_after = retry_after(answer)
    # A gateway that refuses has not passed the request on; one that fails may have.
    error.committed = False if answer.status in (413, 429) else None
    return error


def _unexpected(answer: Answer, url: str) -> UnexpectedAnswerError:
    where = f", to {answer.headers['location']}" if "location" in answer.headers else ""
    error = UnexpectedAnswerError(f"{url} is no Vecmeter, or not its root: it answered {_shown(answer)}{where}")
    error.status = answer.status
    return error


def _shown(answer: Answer) -> str:
    said = " ".join(answer.content[:_SHOWN].decode(errors="replace").split())
    media_type = answer.headers.get("content-type") or "no Content-Type"
    return f"{answer.status}, {media_type}" + (f": {said}" if said else "")


def _policy(one: Mapping[str, Any]) -> ViolatedPolicy:
    try:
        resets_at = datetime.fromisoformat(one.get("resets_at") or "")
    except (TypeError, ValueError):
        resets_at = None
    return ViolatedPolicy(
        name=str(one.get("name", "")),
        scope=str(one.get("scope", "")),
        limit=one.get("limit", 0),
        used=one.get("used", 0),
        remaining=one.get("remaining", 0),
        resets_at=resets_at,
    )


def _objects(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
