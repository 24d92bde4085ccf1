"""DynamoDB's JSON protocol over a pooled connection, signed by botocore: the calls ``Table`` makes and no more.

boto3 spends most of a warm request's CPU on what these calls do not need: parameter validation, endpoint rules, event
hooks (docs/adr/0008). Credentials, their refresh and the signature stay botocore's; errors are botocore's too, so that
``Table`` treats this client and boto3's alike.
Protocol: Amazon DynamoDB Developer Guide, "DynamoDB low-level API".
"""

from __future__ import annotations

import base64
import json
import os
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

_API = "DynamoDB_20120810"
_CONTENT_TYPE = "application/x-amz-json-1.0"
CONNECT_SECONDS = 1.0
READ_SECONDS = 3.0


class DynamoDbWire:
    """A client for one region and endpoint; threads may share it. Each call is tried once.

    Raises botocore's ``ClientError`` for an answer that is an error, and its connection errors for none.
    """

    def __init__(
        self,
        endpoint: str,
        region: str,
        credentials: Credentials,
        max_connections: int,
        *,
        read_seconds: float = READ_SECONDS,
    ) -> None:
        parts = urlsplit(endpoint)
        self._url = f"{parts.scheme}://{parts.netloc}/"
        self._credentials = credentials
        self._region = region
        kind = urllib3.HTTPSConnectionPool if parts.scheme == "https" else urllib3.HTTPConnectionPool
        self._pool = kind(
            parts.hostname or "",
            parts.port,
            maxsize=max_connections,
            timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=read_seconds),
            retries=False,
        )

    def get_item(self, **request: Any) -> dict[str, Any]:
        return self._call("GetItem", request)

    def put_item(self, **request: Any) -> dict[str, Any]:
        return self._call("PutItem", request)

    def update_item(self, **request: Any) -> dict[str, Any]:
        return self._call("UpdateItem", request)

    def delete_item(self, **request: Any) -> dict[str, Any]:
        return self._call("DeleteItem", request)

    def query(self, **request: Any) -> dict[str, Any]:
        return self._call("Query", request)

    def batch_write_item(self, **request: Any) -> dict[str, Any]:
        return self._call("BatchWriteItem", request)

    def transact_write_items(self, **request: Any) -> dict[str, Any]:
        return self._call("TransactWriteItems", request)

    def close(self) -> None:
        self._pool.close()

    def _call(self, operation: str, request: dict[str, Any]) -> dict[str, Any]:
        body = json.dumps(request, default=_to_base64).encode()
        headers = {"Content-Type": _CONTENT_TYPE, "X-Amz-Target": f"{_API}.{operation}"}
        signed = AWSRequest(method="POST", url=self._url, data=body, headers=headers)
        SigV4Auth(self._credentials.get_frozen_credentials(), "dynamodb", self._region).add_auth(signed)
        try:
            answer = self._pool.request("POST", "/", body=body, headers=dict(signed.headers.items()))
        except urllib3.exceptions.ReadTimeoutError as error:
            raise ReadTimeoutError(endpoint_url=self._url, error=error) from error
        except (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError) as error:
            raise EndpointConnectionError(endpoint_url=self._url, error=error) from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise ConnectionClosedError(endpoint_url=self._url, error=error) from error
        return _decoded(operation, answer.status, answer.data)


def create_wire(max_connections: int) -> DynamoDbWire:
    """A client as boto3 would configure it: credentials and region by botocore's rules, AWS_ENDPOINT_URL_DYNAMODB.

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
    return DynamoDbWire(_endpoint(region), region, credentials, max_connections)


def _endpoint(region: str) -> str:
    configured = os.environ.get("AWS_ENDPOINT_URL_DYNAMODB") or os.environ.get("AWS_ENDPOINT_URL")
    suffix = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    return configured or f"https://dynamodb.{region}.{suffix}"


def _decoded(operation: str, status: int, content: bytes) -> dict[str, Any]:
    try:
        answer: dict[str, Any] = json.loads(content, object_hook=_from_base64) if content else {}
    except ValueError:
        answer = {}
    if status == 200:
        return answer
    # "com.amazonaws.dynamodb.v20120810#ThrottlingException"; a proxy's own page has none, and 5xx means try again.
    code = str(answer.pop("__type", "")).rpartition("#")[2] or ("InternalServerError" if status >= 500 else str(status))
    error = {"Code": code, "Message": answer.pop("message", answer.pop("Message", ""))}
    raise ClientError({**answer, "Error": error}, operation)  # type: ignore[typeddict-item]


def _to_base64(value: Any) -> str:
    return base64.b64encode(value).decode()


def _from_base64(value: dict[str, Any]) -> dict[str, Any]:
    """A binary attribute is an object with the one name ``B``, and text is never a bare JSON string in an item."""
    binary = value.get("B")
    if isinstance(binary, str) and len(value) == 1:
        return {"B": base64.b64decode(binary)}
    return value
