"""The errors Vecmeter raises on purpose. HTTP statuses are given to them in ``http/problems.py`` only.

::

    VecmeterError
    ├── SettingsError                    a setting is missing or wrong (names every one)
    ├── AuthenticationError              no key, malformed, unknown, revoked, expired: one answer for all
    ├── MissingRoleError                 the key lacks the role
    ├── KeyWithoutProjectError           the route is about the key's project, and it has none
    ├── NotFoundError
    │   ├── ProjectNotFoundError
    │   ├── ApiKeyNotFoundError
    │   ├── CollectionNotFoundError
    │   ├── NamespaceNotFoundError       it has no vectors
    │   ├── VectorNotFoundError
    │   └── TaskNotFoundError
    ├── ConflictError
    │   ├── ProjectExistsError
    │   ├── ProjectNotEmptyError         it still has keys or collections
    │   ├── ProjectBeingDeletedError
    │   ├── ApiKeyRevokedError           for good: it neither changes nor rotates
    │   ├── CollectionExistsError
    │   ├── DeletionProtectedError       the collection is protected from being deleted
    │   ├── VectorExistsError
    │   ├── PriceVersionExistsError
    │   └── VersionConflictError         ``if_version`` does not hold
    ├── InvalidRequestError              does not validate, with every offending path
    │   ├── CostExceedsLimitError        can never fit into a limit: retrying is pointless
    │   └── IdempotencyKeyReusedError    the key was sent with another request before
    ├── PayloadTooLargeError
    ├── UnsupportedError             a client of another service asks for what there is not
    ├── LimitExceededError               a quota says no, with the policies it violates
    └── UnavailableError
        ├── OverloadedError              more requests at hand than a server keeps waiting
        ├── DatabaseUnavailableError
        │   ├── DatabaseBusyError        it may well answer; this process has no connection to spare
        │   └── WritesRefusedError       it answers, and takes no writes: its disk is full, or it only reads
        ├── StatementTimeoutError
        ├── CircuitOpenError             it failed too often just now: it is not even asked
        ├── LedgerUnavailableError
        ├── BucketUnavailableError       of the exports
        └── EmbedderUnavailableError
            └── EmbedderNotSetUpError    waiting does not help: a model or a package is missing here
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar


class VecmeterError(Exception):
    """Root of the tree. ``code`` is stable and part of the HTTP contract."""

    code: ClassVar[str] = "internal"
    title: ClassVar[str] = "Internal error"

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class SettingsError(VecmeterError):
    code = "settings"
    title = "Settings are missing or wrong"


class AuthenticationError(VecmeterError):
    code = "unauthorized"
    title = "No valid API key"

    def __init__(self) -> None:
        super().__init__("Send a valid key as 'Authorization: Bearer vm_...' or 'Api-Key: vm_...'.")


class MissingRoleError(VecmeterError):
    code = "missing_role"
    title = "The key lacks the role"


class KeyWithoutProjectError(VecmeterError):
    code = "key_without_project"
    title = "The key belongs to no project"


class NotFoundError(VecmeterError):
    code = "not_found"
    title = "Not found"


class ProjectNotFoundError(NotFoundError):
    code = "project_not_found"
    title = "Project not found"


class ApiKeyNotFoundError(NotFoundError):
    code = "api_key_not_found"
    title = "API key not found"


class CollectionNotFoundError(NotFoundError):
    code = "collection_not_found"
    title = "Collection not found"


class NamespaceNotFoundError(NotFoundError):
    code = "namespace_not_found"
    title = "Namespace not found"


class VectorNotFoundError(NotFoundError):
    code = "vector_not_found"
    title = "Vector not found"


class TaskNotFoundError(NotFoundError):
    code = "task_not_found"
    title = "Maintenance task not found"


class ConflictError(VecmeterError):
    code = "conflict"
    title = "Conflict"


class ProjectExistsError(ConflictError):
    code = "project_exists"
    title = "Project exists already"


class ProjectNotEmptyError(ConflictError):
    code = "project_not_empty"
    title = "Project is in use"


class ProjectBeingDeletedError(ConflictError):
    code = "project_being_deleted"
    title = "Project is being deleted"


class ApiKeyRevokedError(ConflictError):
    code = "api_key_revoked"
    title = "API key is revoked"


class CollectionExistsError(ConflictError):
    code = "collection_exists"
    title = "Collection exists already"


class DeletionProtectedError(ConflictError):
    code = "deletion_protected"
    title = "The collection is protected"


class VectorExistsError(ConflictError):
    code = "vector_exists"
    title = "Vector exists already"


class PriceVersionExistsError(ConflictError):
    code = "price_version_exists"
    title = "The version has other prices"


@dataclass(frozen=True, slots=True)
class Violation:
    """One offending place in a request: ``path`` in dotted form (``vectors.3.id``) and what is wrong there."""

    path: str
    message: str


def first_of(violations: Sequence[Violation]) -> str:
    """The detail of an error with these violations, at least one: the first of them, and how many there are."""
    first = f"{violations[0].path}: {violations[0].message}."
    return first if len(violations) == 1 else f"{first} It is the first of {len(violations)} faults."


class VersionConflictError(ConflictError):
    code = "version_conflict"
    title = "if_version does not hold"

    def __init__(self, violations: tuple[Violation, ...]) -> None:
        first = violations[0]
        more = f" It is the first of {len(violations)}." if len(violations) > 1 else ""
        super().__init__(f"{first.path} {first.message}; nothing is written.{more}")
        self.violations = violations


class InvalidRequestError(VecmeterError):
    code = "invalid_request"
    title = "The request does not validate"

    def __init__(self, detail: str, violations: tuple[Violation, ...] = ()) -> None:
        super().__init__(detail)
        self.violations = violations


class CostExceedsLimitError(InvalidRequestError):
    code = "cost_exceeds_limit"
    title = "The request can never fit into a limit"


class IdempotencyKeyReusedError(InvalidRequestError):
    code = "idempotency_key_reused"
    title = "The Idempotency-Key belongs to another request"


class PayloadTooLargeError(VecmeterError):
    code = "payload_too_large"
    title = "The request is too large"


class UnsupportedError(VecmeterError):
    code = "unsupported"
    title = "This is not there"


@dataclass(frozen=True, slots=True)
class ViolatedPolicy:
    """A limit that said no, in the numbers a caller needs to act on it; None, 0 where there is no window."""

    name: str
    scope: str
    limit: int
    used: int
    remaining: int
    resets_at: datetime | None
    window_seconds: int


class LimitExceededError(VecmeterError):
    code = "limit_exceeded"
    title = "A limit is reached"

    def __init__(self, violated: tuple[ViolatedPolicy, ...], retry_after: int) -> None:
        names = ", ".join(f"{policy.scope} {policy.name}" for policy in violated)
        super().__init__(f"Reached: {names}.")
        self.violated = violated
        self.retry_after = retry_after


class UnavailableError(VecmeterError):
    """A part this request needs does not answer. ``retry_after`` is in seconds."""

    code = "unavailable"
    title = "Temporarily unavailable"

    def __init__(self, detail: str, retry_after: int = 1) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class OverloadedError(UnavailableError):
    code = "overloaded"
    title = "Too many requests at once"


class DatabaseUnavailableError(UnavailableError):
    code = "database_unavailable"
    title = "The database does not answer"


class WritesRefusedError(DatabaseUnavailableError):
    code = "writes_refused"
    title = "The database takes no writes"


class DatabaseBusyError(DatabaseUnavailableError):
    code = "database_busy"
    title = "All connections to the database are in use"


class StatementTimeoutError(UnavailableError):
    code = "statement_timeout"
    title = "The database took too long"


class CircuitOpenError(UnavailableError):
    """Raised at once, before any waiting; ``retry_after`` is when the next probe may go out."""

    code = "circuit_open"
    title = "It failed too often just now"


class LedgerUnavailableError(UnavailableError):
    code = "ledger_unavailable"
    title = "The ledger does not answer"


class BucketUnavailableError(UnavailableError):
    code = "bucket_unavailable"
    title = "The bucket does not take the export"


class EmbedderUnavailableError(UnavailableError):
    code = "embedder_unavailable"
    title = "The embedder does not answer"


class EmbedderNotSetUpError(EmbedderUnavailableError):
    code = "embedder_not_set_up"
    title = "The embedder is not set up here"
