"""Writes as a route meets them: within the limits of the project's stock, and once per ``Idempotency-Key``.

A client that got no answer sends its request again with the same key: it gets the answer of the first, and neither
writes nor pays again. The answer is kept in the write's own transaction (``vectors/once.py``).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Annotated, TypeVar

from fastapi import Depends, Header, Request
from pydantic import BaseModel
from starlette.responses import Response

from vecmeter.errors import InvalidRequestError, Violation
from vecmeter.http.dependencies import Answered, Call
from vecmeter.http.rate_limit_headers import rate_limit_headers
from vecmeter.ledger.metering import Hold, Outcome
from vecmeter.ledger.model import Cost
from vecmeter.vectors.once import HEADER, AnsweredBefore, KeptAnswer, Once
from vecmeter.vectors.terms import Terms

T = TypeVar("T")

REPLAYED = "Idempotency-Replayed"
MAX_KEY_CHARACTERS = 255
_VISIBLE_ASCII = "[!-~]+"


class WriteCall(Call):
    """A request that writes."""

    def __init__(self, request: Request, key: str | None) -> None:
        super().__init__(request)
        self._key = key

    def write(
        self,
        hold: Hold,
        work: Callable[[Terms], T],
        answer: Callable[[T], BaseModel | None],
        *,
        status: int = 200,
        vectors: Callable[[T], int] = lambda _: 0,
        collection: str | None = None,
        namespace: str | None = None,
        had_filter: bool = False,
    ) -> Response:
        """Do a write on its terms, settle it and render its answer; or answer as the first request with its key was.

        Args:
            work: the write, which is all or nothing.
            answer, vectors: what its result is to the client, and how many vectors it is billed for.
        """
        answered: list[Answered] = []

        def render(result: T) -> KeptAnswer:
            outcome = Outcome(
                vectors=vectors(result), collection=collection, namespace=namespace, had_filter=had_filter
            )
            answered[:] = [self.render(hold, answer(result), status, outcome)]
            return KeptAnswer(status, bytes(answered[0].response.body))

        limits = hold.admission.stock
        once = self._once(hold, render)
        try:
            if once is not None and (kept := self.database(once.find, self.runtime.database)) is not None:
                raise AnsweredBefore(kept)
            result = work(Terms(limits=limits, once=once))
        except AnsweredBefore as before:
            return self._answer_again(hold, before.kept, collection, namespace)
        self._request.state.committed = True
        if not answered:
            render(result)
        return self.settle(hold, answered[0])

    def _once(self, hold: Hold, render: Callable[[T], KeptAnswer]) -> Once | None:
        if self._key is None:
            return None
        return Once(
            api_key_id=hold.key.api_key_id,
            key=self._key,
            fingerprint=_fingerprint(self._request),
            keep_for=timedelta(hours=self.runtime.settings.idempotency_hours),
            render=render,
        )

    def _answer_again(self, hold: Hold, kept: KeptAnswer, collection: str | None, namespace: str | None) -> Response:
        headers = {**rate_limit_headers(hold.limits, self.runtime.clock()), REPLAYED: "true"}
        response = Response(kept.body, status_code=kept.status, headers=headers, media_type="application/json")
        outcome = Outcome(collection=collection, namespace=namespace, response_bytes=len(kept.body), replayed=True)
        return self.settle(hold, Answered(response, outcome, Cost(requests=0)))


def _fingerprint(request: Request) -> bytes:
    """What tells a request from others: method, path, query and body."""
    scope = request.scope
    parts = (scope["method"].encode(), scope["path"].encode(), scope["query_string"], request.state.content)
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.digest()


def _checked(keys: list[str]) -> str | None:
    if not keys:
        return None
    message = None
    if len(keys) > 1:
        message = f"is sent {len(keys)} times; at most once is allowed"
    elif not 1 <= len(keys[0]) <= MAX_KEY_CHARACTERS:
        message = f"has {len(keys[0])} characters; 1 to {MAX_KEY_CHARACTERS} are allowed"
    elif not re.fullmatch(_VISIBLE_ASCII, keys[0]):
        message = "has a character that is not visible ASCII"
    if message:
        raise InvalidRequestError(f"{HEADER} {message}.", (Violation(HEADER, message),))
    return keys[0]


KEY_SCHEMA = {"type": "string", "minLength": 1, "maxLength": MAX_KEY_CHARACTERS, "pattern": f"^{_VISIBLE_ASCII}$"}
_DESCRIPTION = (
    "Makes the request safe to repeat: a repetition with the same key is answered as the first was, with "
    "`Idempotency-Replayed: true`, and neither writes nor costs again."
)


async def _write_call(
    request: Request,
    idempotency_key: Annotated[str | None, Header(alias=HEADER, description=_DESCRIPTION)] = None,
) -> WriteCall:
    # The parameter is for the document; a header that is sent twice shows itself only here.
    return WriteCall(request, _checked(request.headers.getlist(HEADER)))


WriteCallDependency = Annotated[WriteCall, Depends(_write_call)]
