"""The OpenAPI document: what FastAPI makes of the routes, completed with what it cannot know.

That is how a key is sent, that errors are problems and which codes they have, which headers answers carry, and this
deployment's limits.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from fastapi import FastAPI

from vecmeter import errors
from vecmeter.errors import VecmeterError, ViolatedPolicy, Violation
from vecmeter.http.fields import Problem
from vecmeter.http.idempotency import KEY_SCHEMA
from vecmeter.http.problems import HTTP_PROBLEMS, MEDIA_TYPE, http_problem, problem_of, status_of
from vecmeter.settings import Settings
from vecmeter.vectors.once import HEADER

_DESCRIPTION = (
    "Metered vector search. Every answer carries `X-Request-Id`, which finds its usage record; every metered one says "
    "what it took (`usage`) and what is left (`RateLimit`, `RateLimit-Policy`). Errors are problems as in RFC 9457; "
    "`code` is stable. Nothing is written when the answer is 4xx or 5xx, unless a 5xx says `committed: true`."
)
_SECURITY_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "vm_..."},
    "apiKey": {"type": "apiKey", "in": "header", "name": "Api-Key"},
}
_SERVERS = (
    {"url": "/", "description": "The service this document was fetched from."},
    {"url": "http://127.0.0.1:8000", "description": "The local stack: make run."},
    {
        "url": "https://{api}.execute-api.{region}.amazonaws.com",
        "description": "A deployment.",
        "variables": {"api": {"default": "your-api"}, "region": {"default": "us-east-1"}},
    },
)
_TAGS = {
    "health": "Whether the service and what it needs answer. No key is needed.",
    "search": "Search by vector, by text, by a stored vector; measure recall.",
    "collections": "Sets of vectors of one dimension and metric.",
    "namespaces": "Partitions of a collection: one for each end customer, say.",
    "vectors": "Write, fetch, list, change and delete vectors. Writes take an `Idempotency-Key`.",
    "own usage": "What the calling key used, what it cost and what is left. Looking is free.",
    "projects and keys": "Projects of tenants, and the keys that reach them. Role `admin`.",
    "audit": "Who changed keys, projects and limits. Role `admin`.",
    "usage": "What keys used, and the alerts of their limits. Role `admin`.",
    "costs": "What days and users cost; the prices. Role `admin`.",
    "quotas": "Limits of the system, users, projects, keys and collections. Role `admin`.",
    "maintenance": "Maintenance by hand, and its history. For system admins.",
    "metrics": "The whole service in numbers. For system admins.",
}
# Not counted, so neither refused by a limit nor told what is left of one.
_FREE = {"own_usage", "own_quota", "own_costs", "prometheus"}
_PROBLEMS = {
    "400": ("NotJson", "The body is not JSON."),
    "401": ("NoValidKey", "No key, or a malformed, unknown, revoked or expired one: the answer is the same."),
    "403": ("RoleMissing", "The key lacks the role."),
    "404": ("NotFound", "Missing, or not yours: the answer is the same."),
    "409": ("Conflict", "It exists already, or its present state does not allow this."),
    "413": ("TooLarge", "The body is too large, a list in it too long, or the answer would be too large."),
    "422": ("Invalid", "The request does not validate; `errors` names every offending path."),
    "429": ("LimitReached", "A limit says no; `violated_policies` says which."),
    "500": ("Internal", "A fault of the service."),
    "503": ("Unavailable", "The database, the ledger or the embedder does not answer."),
}
_ALWAYS = ("401", "422", "500", "503")
_HEADERS: Mapping[str, Mapping[str, Any]] = {
    "X-Request-Id": {
        "description": "Id of the request and of its usage record.",
        "required": True,
        "schema": {"type": "string"},
    },
    "RateLimit": {
        "description": "What remains (r) of each limit, and the seconds (t) until it resets.",
        "schema": {"type": "string"},
    },
    "RateLimit-Policy": {
        "description": "Each limit (q) and the seconds of its window (w).",
        "schema": {"type": "string"},
    },
    "Retry-After": {"description": "Seconds to wait.", "required": True, "schema": {"type": "integer"}},
    "Idempotency-Replayed": {
        "description": "true: it is the answer to an earlier request with the same Idempotency-Key; nothing was done.",
        "schema": {"type": "string", "enum": ["true"]},
    },
    "WWW-Authenticate": {"description": "Bearer", "required": True, "schema": {"type": "string"}},
}


def describe(app: FastAPI, settings: Settings) -> None:
    """Let the application's document be the completed one."""
    plain = app.openapi

    def complete() -> dict[str, Any]:
        if app.openapi_schema is None:
            _complete(plain(), settings)
        return app.openapi_schema or {}

    app.openapi = complete  # type: ignore[method-assign]


def _complete(document: dict[str, Any], settings: Settings) -> None:
    document["info"]["description"] = _DESCRIPTION
    document["servers"] = [*_SERVERS]
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(problem.pop("$defs"))
    schemas["Problem"] = problem
    components["securitySchemes"] = _SECURITY_SCHEMES
    components["headers"] = dict(_HEADERS)
    components["responses"] = {name: _problem(status, text) for status, (name, text) in _PROBLEMS.items()}
    for path, operation in _operations(document):
        _complete_operation(operation, is_business=not path.startswith("/health"))
    used = {tag for _, operation in _operations(document) for tag in operation["tags"]}
    document["tags"] = [{"name": tag, "description": _TAGS[tag]} for tag in _TAGS if tag in used]
    for (schema, field), limit in _limits(settings).items():
        if schema in schemas:
            _variant(schemas[schema]["properties"][field]).update(limit)


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for operation in methods.values():
            yield path, operation


def _complete_operation(operation: dict[str, Any], *, is_business: bool) -> None:
    answers = operation["responses"]
    operation["summary"] = operation["operationId"].replace("_", " ").capitalize()
    is_metered = is_business and operation["operationId"] not in _FREE
    carried = ["X-Request-Id", *(("RateLimit", "RateLimit-Policy") if is_metered else ())]
    for status, answer in answers.items():
        if status < "400":
            answer["headers"] = _refer("headers", *carried) | answer.get("headers", {})
    if not is_business:
        answers.pop("422", None)
        answers.update({status: _reference(status) for status in answers if status >= "400"})
        return
    for parameter in operation.get("parameters", ()):
        if parameter["name"] == HEADER:
            parameter["schema"] = KEY_SCHEMA
            replayed = _refer("headers", "Idempotency-Replayed")
            for answer in (answer for status, answer in answers.items() if status < "400"):
                answer["headers"] |= replayed
    operation["security"] = [{name: []} for name in _SECURITY_SCHEMES]
    statuses = {*_ALWAYS, *(status for status in answers if status >= "400")}
    if "requestBody" in operation:
        statuses.add("400")
        # One that may be left out, which is not the same as null to whoever makes a client from this.
        content = operation["requestBody"]["content"]["application/json"]
        content["schema"] = _variant(content["schema"])
    if is_metered:
        statuses |= {"403", "404", "413", "429"}
    answers.update({status: _reference(status) for status in sorted(statuses)})


def _problem(status: str, description: str) -> dict[str, Any]:
    names = ["X-Request-Id"]
    if status in ("429", "503"):
        names.append("Retry-After")
    if status == "429":
        names += ["RateLimit", "RateLimit-Policy"]
    if status == "401":
        names.append("WWW-Authenticate")
    codes = sorted({f"`{code}`" for code in _codes(int(status))})
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        "description": f"{description} `code`: {', '.join(codes)}.",
        "headers": _refer("headers", *names),
        "content": {MEDIA_TYPE: {"schema": schema, "example": _example(int(status))}},
    }


def _codes(status: int) -> Iterator[str]:
    """The codes of the problems with a status."""
    kinds: list[type[VecmeterError]] = [VecmeterError]
    for kind in kinds:
        kinds += (below for below in kind.__subclasses__() if below.__module__ == errors.__name__)
        if status_of(kind) == status:
            yield kind.code
    yield from (code for known, code in HTTP_PROBLEMS if known == status)


def _example(status: int) -> dict[str, Any]:
    """A problem with a status, as it is answered."""
    now, request_id = datetime(2026, 11, 21, 12, tzinfo=UTC), "e1391c9fbabe5487"
    midnight = datetime(2026, 11, 22, tzinfo=UTC)
    reached = ViolatedPolicy("daily_requests", "key", 100, 100, 0, midnight, window_seconds=86_400)
    too_many = Violation("top_k", "is 20000; at most 10000 is allowed")
    raised: Mapping[int, VecmeterError] = {
        401: errors.AuthenticationError(),
        403: errors.MissingRoleError("This needs a key with the role 'write'."),
        404: errors.CollectionNotFoundError("There is no collection 'notes'."),
        409: errors.CollectionExistsError("Collection 'notes' exists already."),
        413: errors.PayloadTooLargeError("vectors has 1001 items; at most 1000 are allowed."),
        422: errors.InvalidRequestError(f"{too_many.path}: {too_many.message}.", (too_many,)),
        429: errors.LimitExceededError((reached,), retry_after=43_200),
        503: errors.DatabaseUnavailableError("The database does not answer."),
    }
    found = problem_of(raised[status], request_id, now) if status in raised else http_problem(status, request_id)
    example: dict[str, Any] = json.loads(bytes(found.body))
    return example


def _refer(kind: str, *names: str) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/{kind}/{name}"} for name in names}


def _reference(status: str) -> dict[str, str]:
    return {"$ref": f"#/components/responses/{_PROBLEMS[status][0]}"}


def _limits(settings: Settings) -> dict[tuple[str, str], dict[str, Any]]:
    """The limits that are settings, where they act in bodies. Those in bytes are said in characters, the most these
    can be."""
    ids = {"maxItems": settings.max_batch_vectors}
    name = {"maxLength": settings.max_id_bytes, "x-max-bytes": settings.max_id_bytes}
    document = {"maxLength": settings.max_document_characters}
    metadata = {"x-max-bytes": settings.max_metadata_bytes}
    return {
        ("CollectionBody", "dimension"): {"maximum": settings.max_dimension},
        ("SearchBody", "top_k"): {"maximum": settings.max_top_k},
        ("RecallBody", "top_k"): {"maximum": settings.max_top_k - 1},
        ("RecallBody", "namespace"): name,
        ("SearchBody", "text"): {"maxLength": settings.max_query_characters},
        ("SearchBody", "id"): name,
        ("BatchBody", "vectors"): ids,
        ("FetchBody", "ids"): ids,
        ("DeleteBody", "ids"): ids,
        ("VectorBody", "id"): name,
        ("VectorBody", "document"): document,
        ("VectorBody", "metadata"): metadata,
        ("PutBody", "document"): document,
        ("PutBody", "metadata"): metadata,
        ("PatchBody", "set"): metadata,
        ("PatchBody", "document"): document,
        ("UpdateBody", "set"): metadata,
        **{(body, "namespace"): name for body in ("SearchBody", "BatchBody", "FetchBody", "DeleteBody", "VectorBody")},
        **{(body, "namespace"): name for body in ("PutBody", "PatchBody", "UpdateBody")},
    }


def _variant(schema: dict[str, Any]) -> dict[str, Any]:
    """The part of a field's schema that is not null."""
    variants: list[dict[str, Any]] = schema.get("anyOf", [schema])
    return variants[0]
