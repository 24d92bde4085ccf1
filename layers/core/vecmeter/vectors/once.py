"""Writes that take place once, however often they are asked for: the answer is kept in the write's own transaction.

The row of a key is inserted before the work. Whoever comes with the same key meanwhile waits for its transaction: if
that is committed, the kept answer is the answer; if it is undone, nothing has happened, and the next one works.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, LiteralString

from vecmeter.errors import IdempotencyKeyReusedError, Violation
from vecmeter.vectors.connection import Connection, Database

HEADER = "Idempotency-Key"

# Claim a key; a row that is past its time is taken over. Waits for a transaction that has claimed it.
_CLAIM: LiteralString = """
    INSERT INTO vecmeter.idempotency_keys AS k (api_key_id, idempotency_key, fingerprint, receipt_id, kept_until)
    VALUES (%(api_key_id)s, %(key)s, %(fingerprint)s, %(receipt)s, now() + %(keep_for)s)
    ON CONFLICT (api_key_id, idempotency_key) DO UPDATE
    SET fingerprint = excluded.fingerprint, receipt_id = excluded.receipt_id, kept_until = excluded.kept_until,
        status = NULL, body = NULL
    WHERE k.kept_until <= now()
    RETURNING true
"""
_READ: LiteralString = """
    SELECT fingerprint, receipt_id, status, body FROM vecmeter.idempotency_keys
    WHERE api_key_id = %(api_key_id)s AND idempotency_key = %(key)s AND kept_until > now()
"""
_KEEP: LiteralString = """
    UPDATE vecmeter.idempotency_keys SET status = %(status)s, body = %(body)s
    WHERE api_key_id = %(api_key_id)s AND idempotency_key = %(key)s
"""


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """What was answered: the HTTP status and the body."""

    status: int
    body: bytes


class AnsweredBefore(Exception):
    """The write took place for an earlier request, and this one did nothing."""

    def __init__(self, kept: KeptAnswer) -> None:
        super().__init__()
        self.kept = kept


@dataclass(frozen=True, slots=True, kw_only=True)
class Once:
    """The key of a request, and what tells the request from others. ``render`` makes the answer of the write's result.

    Keys belong to an API key: those of others neither collide with them nor read their answers.
    """

    api_key_id: str
    key: str
    fingerprint: bytes
    keep_for: timedelta
    render: Callable[[Any], KeptAnswer]

    def find(self, database: Database) -> KeptAnswer | None:
        """The answer to an earlier request with the key.

        Raises:
            IdempotencyKeyReusedError: it was another request.
        """
        row = database.run(lambda connection: connection.execute(_READ, self._name()).fetchone())
        return None if row is None else self._kept(row)

    def claim(self, connection: Connection, receipt: uuid.UUID) -> None:
        """Take the key for the write of this transaction.

        Raises:
            AnsweredBefore: an earlier request has taken it.
            IdempotencyKeyReusedError: it was another request.
        """
        parameters = {
            **self._name(),
            "fingerprint": self.fingerprint,
            "receipt": receipt,
            "keep_for": self.keep_for,
        }
        if connection.execute(_CLAIM, parameters).fetchone() is not None:
            return
        row = connection.execute(_READ, self._name()).fetchone()
        assert row is not None, "the claim has locked it"
        if row[1] == receipt:
            return  # an earlier try of this very write, whose receipt says so next
        raise AnsweredBefore(self._kept(row))

    def keep(self, connection: Connection, result: Any) -> None:
        """Keep the answer, in the transaction of the write."""
        kept = self.render(result)
        connection.execute(_KEEP, {**self._name(), "status": kept.status, "body": kept.body})

    def _name(self) -> dict[str, Any]:
        return {"api_key_id": self.api_key_id, "key": self.key}

    def _kept(self, row: Any) -> KeptAnswer:
        fingerprint, _, status, body = row
        if bytes(fingerprint) != self.fingerprint:
            message = "was sent with another request before; a key belongs to one request"
            raise IdempotencyKeyReusedError(f"{HEADER} {message}.", (Violation(HEADER, message),))
        return KeptAnswer(status, bytes(body))
