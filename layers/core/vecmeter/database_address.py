"""Where the database is and how to get in: by DATABASE_URL, or by the secret that DATABASE_SECRET_ARN names."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from vecmeter.errors import DatabaseUnavailableError
from vecmeter.settings import Settings

# A secret is read again after a connection failed, for it may have been rotated, but not more often than this.
RENEW_SECONDS = 60.0
# And for a new connection when it was read so long ago, by whoever does not ask for that after a failure.
KEEP_SECONDS = 600.0
_CONNECT_SECONDS = 1
_READ_SECONDS = 3


class DatabaseAddress:
    """A DSN that is read when it is first needed, and again when it stops working. Threads may share it."""

    def __init__(self, read: Callable[[], str], monotonic: Callable[[], float] = time.monotonic) -> None:
        self._read = read
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._known: str | None = None
        self._read_at = -math.inf

    def dsn(self) -> str:
        """Raises DatabaseUnavailableError: it cannot be read."""
        with self._lock:
            if self._known is None:
                return self._read_now()
            if self._monotonic() >= self._read_at + KEEP_SECONDS:
                with suppress(DatabaseUnavailableError):
                    return self._read_now()
            return self._known

    def renew(self) -> bool:
        """Read it again, unless that was done just now. Returns whether it is another one."""
        with self._lock:
            if self._monotonic() < self._read_at + RENEW_SECONDS:
                return False
            before = self._known
            try:
                return self._read_now() != before
            except DatabaseUnavailableError:
                return False

    def _read_now(self) -> str:
        self._known = self._read()
        self._read_at = self._monotonic()
        return self._known


def database_address(settings: Settings) -> DatabaseAddress:
    if settings.database_url:
        return DatabaseAddress(lambda: settings.database_url)
    return DatabaseAddress(lambda: _from_secret(settings))


def _from_secret(settings: Settings) -> str:
    """The DSN in a secret of the shape that RDS gives its secrets."""
    # Only with a secret.
    from boto3.session import Session
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError
    from psycopg.conninfo import make_conninfo

    config = Config(
        connect_timeout=_CONNECT_SECONDS,
        read_timeout=_READ_SECONDS,
        retries={"mode": "standard", "total_max_attempts": 2},
    )
    try:
        client = Session().client("secretsmanager", config=config)
        answer = client.get_secret_value(SecretId=settings.database_secret_arn)
    except (BotoCoreError, ClientError) as error:
        raise DatabaseUnavailableError("The secret of the database cannot be read; try again shortly.") from error
    secret = json.loads(answer["SecretString"])
    certificate = settings.database_root_certificate
    verified = {"sslmode": "verify-full", "sslrootcert": certificate} if certificate else {"sslmode": "require"}
    return make_conninfo(
        host=secret["host"],
        port=secret.get("port", 5432),
        dbname=secret.get("dbname", "postgres"),
        user=secret["username"],
        password=secret["password"],
        **verified,
    )
