"""The OpenAPI document: what FastAPI makes of the routes, completed with what it cannot know.

That is how a key is sent, that errors are problems, which headers answers carry, and this deployment's limits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fastapi import FastAPI

from vecmeter.http.fields import Problem
from vecmeter.http.idempotency import KEY_SCHEMA
from vecmeter.http.problems import MEDIA_TYPE
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
    "X-Request-Id": {"description": "Id of the request and of its usage record.", "schema": {"type": "string"}},
    "RateLimit": {
        "description": "What remains (r) of each limit, and the seconds (t) until it resets.",
        "schema": {"type": "string"},
    },
    "RateLimit-Policy": {
        "description": "Each limit (q) and the seconds of its window (w).",
        "schema": {"type": "string"},
    },
    "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}},
    "Idempotency-Replayed": {
        "description": "true: it is the answer to an earlier request with the same Idempotency-Key; nothing was done.",
        "schema": {"type": "string", "enum": ["true"]},
    },
    "WWW-Authenticate": {"description": "Bearer", "schema": {"type": "string"}},
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
    for (schema, field), limit in _limits(settings).items():
        if schema in schemas:
            _variant(schemas[schema]["properties"][field]).update(limit)


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for operation in methods.values():
            yield path, operation


def _complete_operation(operation: dict[str, Any], *, is_business: bool) -> None:
    answers = operation["responses"]
    for status, answer in answers.items():
        if status < "400":
            own = answer.get("headers", {})
            answer["headers"] = _refer("headers", "X-Request-Id", "RateLimit", "RateLimit-Policy") | own
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
    if "own usage" not in operation["tags"]:
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
    return {
        "description": description,
        "headers": _refer("headers", *names),
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }


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
