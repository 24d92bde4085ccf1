"""AWS's signature, version 4, of the one kind of request made here: a POST to ``/`` without a query.

Specification: AWS Identity and Access Management User Guide, "Create a signed AWS API request". What is signed is what
botocore signs, and a test holds the two against each other (docs/adr/0013).
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from datetime import datetime

_ALGORITHM = "AWS4-HMAC-SHA256"


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who signs. ``token``: of temporary credentials, as every role has them."""

    access_key: str
    secret_key: str
    token: str | None = None


class Signer:
    """Signs for one service at one host. Threads may share it."""

    def __init__(self, host: str, region: str, service: str, content_type: str) -> None:
        self._host = host
        self._region = region
        self._service = service
        self._content_type = content_type
        # The key is the same for a day, and for as long as the secret is.
        self._derived = ("", "", b"")

    def headers(self, target: str, body: bytes, credentials: Credentials, now: datetime) -> dict[str, str]:
        """The request's headers, its signature among them. ``now`` is in UTC."""
        moment = f"{now:%Y%m%dT%H%M%SZ}"
        # In the order of their names, as the specification wants them.
        signed = {"content-type": self._content_type, "host": self._host, "x-amz-date": moment}
        if credentials.token:
            signed["x-amz-security-token"] = credentials.token
        signed["x-amz-target"] = target
        names = ";".join(signed)
        lines = "".join([f"{name}:{value}\n" for name, value in signed.items()])
        request = f"POST\n/\n\n{lines}\n{names}\n{hashlib.sha256(body).hexdigest()}"
        day = moment[:8]
        scope = f"{day}/{self._region}/{self._service}/aws4_request"
        text = f"{_ALGORITHM}\n{moment}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
        signature = hmac.digest(self._key(credentials.secret_key, day), text.encode(), "sha256").hex()
        credential = f"{credentials.access_key}/{scope}"
        signed["authorization"] = f"{_ALGORITHM} Credential={credential}, SignedHeaders={names}, Signature={signature}"
        return signed

    def _key(self, secret_key: str, day: str) -> bytes:
        known_secret, known_day, key = self._derived
        if known_secret != secret_key or known_day != day:
            key = signing_key(secret_key, day, self._region, self._service)
            # One assignment: another thread sees all of it or nothing.
            self._derived = (secret_key, day, key)
        return key


def signing_key(secret_key: str, day: str, region: str, service: str) -> bytes:
    key = f"AWS4{secret_key}".encode()
    for part in (day, region, service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key
