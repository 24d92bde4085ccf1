"""The errors of this client. Those of the service are named as there, one class for each ``code`` of docs/errors.md.

::

    VecmeterError
    ├── ConfigurationError               url or api_key is missing or malformed (also a ValueError)
    ├── InvalidInputError                what was given cannot be sent (also a ValueError)
    └── RequestError                     a request failed
        ├── TransportError               no answer came
        │   ├── ConnectError             no connection: nothing was sent (also a ConnectionError)
        │   ├── ConnectionLostError      it broke before the answer was there (also a ConnectionError)
        │   └── TimedOutError            the time was up (also a TimeoutError)
        ├── UnexpectedAnswerError        an answer, and none of a Vecmeter this client understands
        └── ApiError                     the service said no
            ├── NotJsonError
            ├── AuthenticationError      no key, malformed, unknown, revoked, expired: one answer for all
            ├── MissingRoleError
            ├── KeyWithoutProjectError   the route is about the key's project, and it has none
            ├── NotFoundError
            │   ├── RouteNotFoundError   a server of another version, or another ``api_prefix``
            │   ├── ProjectNotFoundError
            │   ├── ApiKeyNotFoundError
            │   ├── CollectionNotFoundError
            │   ├── NamespaceNotFoundError
            │   ├── VectorNotFoundError
            │   └── TaskNotFoundError
            ├── MethodNotAllowedError
            ├── ConflictError
            │   ├── ProjectExistsError
            │   ├── ProjectNotEmptyError
            │   ├── ProjectBeingDeletedError
            │   ├── ApiKeyRevokedError
            │   ├── CollectionExistsError
            │   ├── DeletionProtectedError
            │   ├── VectorExistsError
            │   ├── PriceVersionExistsError
            │   └── VersionConflictError     ``if_version`` does not hold: see ``violations``
            ├── InvalidRequestError          does not validate: see ``violations``
            │   ├── CostExceedsLimitError    can never fit into a limit: waiting does not help
            │   └── IdempotencyKeyReusedError
            ├── PayloadTooLargeError
            ├── LimitExceededError           a limit says no: see ``violated_policies`` and ``retry_after``
            ├── UnsupportedError             a client of another service asks for what there is not
            ├── InternalError
            │   └── SettingsError
            └── UnavailableError
                ├── NotReadyError            see ``checks``
                ├── OverloadedError
                ├── DatabaseUnavailableError
                │   ├── DatabaseBusyError
                │   └── WritesRefusedError
                ├── StatementTimeoutError
                ├── CircuitOpenError
                ├── LedgerUnavailableError
                ├── BucketUnavailableError
                └── EmbedderUnavailableError
                    └── EmbedderNotSetUpError
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vecmeter_client._models import Partial


@dataclass(frozen=True, slots=True)
class Violation:
    """One offending place of a request: ``path`` in dotted form (``vectors.3.id``) and what is wrong there."""

    path: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ViolatedPolicy:
    """A limit that said no. Money in US dollars; ``resets_at`` is None where nobody knows."""

    name: str
    scope: str
    limit: float
    used: float
    remaining: float
    resets_at: datetime | None = None


class VecmeterError(Exception):
    """Root of the tree.

    Attributes:
        partial: of a call that makes several requests: what was written before this error, and where to go on.
    """

    partial: Partial | None = None


class ConfigurationError(VecmeterError, ValueError):
    """Raised where a client is made: its url or key is missing or malformed."""


class InvalidInputError(VecmeterError, ValueError):
    """Raised before anything is sent of it; names the item and the field."""


class RequestError(VecmeterError):
    """A request failed, after its repetitions if it had any.

    Attributes:
        committed: whether what it was to write is written: False, True, or None where nobody can tell, because an
            answer was lost on the way.
        attempts: how many times it was sent.
    """

    committed: bool | None = False
    attempts: int = 1


class TransportError(RequestError):
    """No answer came."""


class ConnectError(TransportError, ConnectionError):
    """No connection, so the service knows nothing of the request."""


class ConnectionLostError(TransportError, ConnectionError):
    """The connection broke before the answer was there."""


class TimedOutError(TransportError, TimeoutError):
    """The time of one attempt, or of the whole request, was up."""


class UnexpectedAnswerError(RequestError):
    """An answer came that no Vecmeter gives, or that this version of the client cannot read.

    Attributes:
        status: HTTP status of it; 0 where it could not be read.
    """

    committed: bool | None = None
    status: int = 0


class ApiError(RequestError):
    """The service answered with a problem (RFC 9457).

    Attributes:
        status: HTTP status.
        code: stable name of the problem.
        title, detail: for people.
        request_id: finds the usage record and the log lines; also the header ``X-Request-Id``.
        violations: the offending places, the first 1,000 of them.
        retry_after: seconds, where the service named them.
        violated_policies: the limits that said no.
        checks: of a service that is not ready, its parts and how they are.
        problem: the whole of the problem as it came; empty where a gateway before the service answered.
    """

    code: str = ""
    status: int = 0
    title: str = ""
    detail: str = ""
    request_id: str | None = None
    violations: tuple[Violation, ...] = ()
    retry_after: float | None = None
    violated_policies: tuple[ViolatedPolicy, ...] = ()
    checks: Mapping[str, str] | None = None
    problem: Mapping[str, Any] = MappingProxyType({})


class NotJsonError(ApiError):
    code = "not_json"


class AuthenticationError(ApiError):
    code = "unauthorized"


class MissingRoleError(ApiError):
    code = "missing_role"


class KeyWithoutProjectError(ApiError):
    code = "key_without_project"


class NotFoundError(ApiError):
    code = "not_found"


class RouteNotFoundError(NotFoundError):
    code = "route_not_found"


class ProjectNotFoundError(NotFoundError):
    code = "project_not_found"


class ApiKeyNotFoundError(NotFoundError):
    code = "api_key_not_found"


class CollectionNotFoundError(NotFoundError):
    code = "collection_not_found"


class NamespaceNotFoundError(NotFoundError):
    code = "namespace_not_found"


class VectorNotFoundError(NotFoundError):
    code = "vector_not_found"


class TaskNotFoundError(NotFoundError):
    code = "task_not_found"


class MethodNotAllowedError(ApiError):
    code = "method_not_allowed"


class ConflictError(ApiError):
    code = "conflict"


class ProjectExistsError(ConflictError):
    code = "project_exists"


class ProjectNotEmptyError(ConflictError):
    code = "project_not_empty"


class ProjectBeingDeletedError(ConflictError):
    code = "project_being_deleted"


class ApiKeyRevokedError(ConflictError):
    code = "api_key_revoked"


class CollectionExistsError(ConflictError):
    code = "collection_exists"


class DeletionProtectedError(ConflictError):
    code = "deletion_protected"


class VectorExistsError(ConflictError):
    code = "vector_exists"


class PriceVersionExistsError(ConflictError):
    code = "price_version_exists"


class VersionConflictError(ConflictError):
    code = "version_conflict"


class InvalidRequestError(ApiError):
    code = "invalid_request"


class CostExceedsLimitError(InvalidRequestError):
    code = "cost_exceeds_limit"


class IdempotencyKeyReusedError(InvalidRequestError):
    code = "idempotency_key_reused"


class PayloadTooLargeError(ApiError):
    code = "payload_too_large"


class LimitExceededError(ApiError):
    code = "limit_exceeded"


class UnsupportedError(ApiError):
    code = "unsupported"


class InternalError(ApiError):
    code = "internal"


class SettingsError(InternalError):
    code = "settings"


class UnavailableError(ApiError):
    code = "unavailable"


class NotReadyError(UnavailableError):
    code = "not_ready"


class OverloadedError(UnavailableError):
    code = "overloaded"


class DatabaseUnavailableError(UnavailableError):
    code = "database_unavailable"


class DatabaseBusyError(DatabaseUnavailableError):
    code = "database_busy"


class WritesRefusedError(DatabaseUnavailableError):
    code = "writes_refused"


class StatementTimeoutError(UnavailableError):
    code = "statement_timeout"


class CircuitOpenError(UnavailableError):
    code = "circuit_open"


class LedgerUnavailableError(UnavailableError):
    code = "ledger_unavailable"


class BucketUnavailableError(UnavailableError):
    code = "bucket_unavailable"


class EmbedderUnavailableError(UnavailableError):
    code = "embedder_unavailable"


class EmbedderNotSetUpError(EmbedderUnavailableError):
    code = "embedder_not_set_up"
