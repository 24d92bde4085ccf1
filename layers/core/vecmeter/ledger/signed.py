"""Signed calls of AWS's JSON protocol over a pooled connection: what the lean clients of ``wire`` and ``events`` share.

Credentials, their refresh and the signature are botocore's, its errors too (docs/adr/0008 says why not boto3).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import urllib3
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    EndpointConnectionError,
    NoCredentialsError,
    NoRegionError,
    ReadTimeoutError,
)


@dataclass(frozen=True, slots=True)
class Access:
    """Where and as whom this process calls AWS. ``ca_bundle``: a file of authorities in place of the usual ones."""

    region: str
    credentials: Credentials
    ca_bundle: str | None = None

    def endpoint(self, prefix: str, service_id: str) -> str:
        """``AWS_ENDPOINT_URL_<SERVICE ID>``, ``AWS_ENDPOINT_URL``, or the service's own in the region."""
        configured = os.environ.get(f"AWS_ENDPOINT_URL_{service_id}") or os.environ.get("AWS_ENDPOINT_URL")
        suffix = "amazonaws.com.cn" if self.region.startswith("cn-") else "amazonaws.com"
        return configured or f"https://{prefix}.{self.region}.{suffix}"


def find_access() -> Access:
    """Region, credentials and CA bundle by botocore's rules.

    Raises:
        NoRegionError, NoCredentialsError: botocore finds none.
    """
    from botocore.session import Session  # its own rules for credentials: environment, files, roles

    session = Session()
    region = session.get_config_variable("region")
    if not region:
        raise NoRegionError
    credentials = session.get_credentials()
    if credentials is None:
        raise NoCredentialsError
    return Access(region, credentials, session.get_config_variable("ca_bundle"))


class SignedEndpoint:
    """One service at one endpoint; threads may share it. Each call is tried once.

    Raises botocore's ``ClientError`` for an answer that is an error, and its connection errors for none.
    """

    def __init__(
        self,
        endpoint: str,
        service: str,
        access: Access,
        max_connections: int,
        *,
        content_type: str,
        connect_seconds: float,
        read_seconds: float,
    ) -> None:
        parts = urlsplit(endpoint)
        self.url = f"{parts.scheme}://{parts.netloc}/"
        self._service = service
        self._access = access
        self._content_type = content_type
        options: Any = {
            "maxsize": max_connections,
            "timeout": urllib3.Timeout(connect=connect_seconds, read=read_seconds),
            "retries": False,
        }
        host = parts.hostname or ""
        self._pool: urllib3.HTTPConnectionPool
        if parts.scheme == "https":
            self._pool = urllib3.HTTPSConnectionPool(host, parts.port, ca_certs=access.ca_bundle, **options)
        else:
            self._pool = urllib3.HTTPConnectionPool(host, parts.port, **options)

    def call(
        self, target: str, body: bytes, object_hook: Callable[[dict[str, Any]], Any] | None = None
    ) -> dict[str, Any]:
        """Call ``target`` (``DynamoDB_20120810.GetItem``) with a JSON body; ``object_hook`` as in ``json.loads``."""
        headers = {"Content-Type": self._content_type, "X-Amz-Target": target}
        signed = AWSRequest(method="POST", url=self.url, data=body, headers=headers)
        credentials = self._access.credentials.get_frozen_credentials()
        SigV4Auth(credentials, self._service, self._access.region).add_auth(signed)
        try:
            answer = self._pool.request("POST", "/", body=body, headers=dict(signed.headers.items()))
        except urllib3.exceptions.ReadTimeoutError as error:
            raise ReadTimeoutError(endpoint_url=self.url, error=error) from error
        except (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError) as error:
            raise EndpointConnectionError(endpoint_url=self.url, error=error) from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise ConnectionClosedError(endpoint_url=self.url, error=error) from error
        return _decoded(target.rpartition(".")[2], answer.status, answer.data, object_hook)

    def close(self) -> None:
        self._pool.close()


def _decoded(
    operation: str, status: int, content: bytes, object_hook: Callable[[dict[str, Any]], Any] | None
) -> dict[str, Any]:
    try:
        answer: dict[str, Any] = json.loads(content, object_hook=object_hook) if content else {}
    except ValueError:
        answer = {}
    if status == 200:
        return answer
    # "com.amazonaws.dynamodb.v20120810#ThrottlingException"; a proxy's own page has none, and 5xx means try again.
    code = str(answer.pop("__type", "")).rpartition("#")[2] or ("InternalServerError" if status >= 500 else str(status))
    error = {"Code": code, "Message": answer.pop("message", answer.pop("Message", ""))}
    raise ClientError({**answer, "Error": error}, operation)  # type: ignore[typeddict-item]
