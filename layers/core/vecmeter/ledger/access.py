"""Where and as whom this process calls AWS.

In Lambda the environment says it all, and reading it costs nothing. Everything else (files, profiles, roles of
containers and machines, single sign-on) is left to botocore, which is loaded then and not before (docs/adr/0013).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vecmeter.ledger.signature import Credentials
from vecmeter.ledger.signed import NoAnswerError


@dataclass(frozen=True, slots=True)
class Access:
    """``credentials`` are asked for at each call. ``ca_bundle``: a file of authorities in place of the usual ones."""

    region: str
    credentials: Callable[[], Credentials]
    ca_bundle: str | None = None

    def endpoint(self, prefix: str, service_id: str) -> str:
        """``AWS_ENDPOINT_URL_<SERVICE ID>``, ``AWS_ENDPOINT_URL``, or the service's own in the region."""
        configured = os.environ.get(f"AWS_ENDPOINT_URL_{service_id}") or os.environ.get("AWS_ENDPOINT_URL")
        suffix = "amazonaws.com.cn" if self.region.startswith("cn-") else "amazonaws.com"
        return configured or f"https://{prefix}.{self.region}.{suffix}"


def find_access() -> Access:
    """Region, credentials and CA bundle by botocore's rules.

    Raises:
        NoRegionError, NoCredentialsError, PartialCredentialsError: botocore's, where it finds none.
    """
    region = os.environ.get("AWS_DEFAULT_REGION")
    if region and os.environ.get("AWS_ACCESS_KEY_ID") and os.environ.get("AWS_SECRET_ACCESS_KEY"):
        return Access(region, _from_environment, os.environ.get("AWS_CA_BUNDLE"))
    return _by_botocore()


def _from_environment() -> Credentials:
    """Read anew each time: whoever keeps the environment may renew them."""
    environment = os.environ
    return Credentials(
        environment["AWS_ACCESS_KEY_ID"], environment["AWS_SECRET_ACCESS_KEY"], environment.get("AWS_SESSION_TOKEN")
    )


def _by_botocore() -> Access:
    from botocore.exceptions import CredentialRetrievalError, NoCredentialsError, NoRegionError
    from botocore.session import Session

    session = Session()
    region = session.get_config_variable("region")
    if not region:
        raise NoRegionError
    found = session.get_credentials()
    if found is None:
        raise NoCredentialsError

    def credentials() -> Credentials:
        try:
            now: Any = found.get_frozen_credentials()  # renewed where they run out
        except CredentialRetrievalError as error:
            raise NoAnswerError(str(error)) from error
        return Credentials(now.access_key, now.secret_key, now.token)

    return Access(region, credentials, session.get_config_variable("ca_bundle"))
