"""AWS's signature: ours is botocore's, header by header."""

from __future__ import annotations

from datetime import UTC, datetime
from unittest.mock import patch

import botocore.credentials
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from hypothesis import given
from hypothesis import strategies as st

from vecmeter.ledger.signature import Credentials, Signer, signing_key

CONTENT_TYPE = "application/x-amz-json-1.0"
HOSTS = {
    "dynamodb.us-east-1.amazonaws.com": "https://dynamodb.us-east-1.amazonaws.com/",
    "localhost:4566": "http://localhost:4566/",
    "[::1]:8000": "http://[::1]:8000/",
}
printable = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=60)
credentials = st.builds(Credentials, printable, st.text(min_size=1, max_size=60), st.none() | printable)
moments = st.integers(0, 2**32).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))


def by_botocore(host: str, region: str, target: str, body: bytes, who: Credentials, now: datetime) -> dict[str, str]:
    headers = {"Content-Type": CONTENT_TYPE, "X-Amz-Target": target}
    request = AWSRequest(method="POST", url=HOSTS[host], data=body, headers=headers)
    signer = botocore.credentials.Credentials(who.access_key, who.secret_key, who.token)
    with patch("botocore.auth.get_current_datetime", return_value=now):
        SigV4Auth(signer, "dynamodb", region).add_auth(request)
    return {"host": host} | {name.lower(): value for name, value in request.headers.items()}


@given(
    host=st.sampled_from(list(HOSTS)),
    region=st.sampled_from(["us-east-1", "eu-central-1", "cn-north-1"]),
    target=printable,
    body=st.binary(),
    who=credentials,
    now=moments,
)
def test_a_request_carries_the_headers_that_botocore_would_give_it(
    host: str, region: str, target: str, body: bytes, who: Credentials, now: datetime
) -> None:
    signer = Signer(host, region, "dynamodb", CONTENT_TYPE)
    assert signer.headers(target, body, who, now) == by_botocore(host, region, target, body, who, now)


@given(st.lists(st.tuples(credentials, moments), min_size=2, max_size=6))
def test_a_signer_follows_changed_credentials_and_the_date(requests: list[tuple[Credentials, datetime]]) -> None:
    host, region, target = "localhost:4566", "us-east-1", "DynamoDB_20120810.GetItem"
    signer = Signer(host, region, "dynamodb", CONTENT_TYPE)
    for who, now in [*requests, *requests]:
        assert signer.headers(target, b"{}", who, now) == by_botocore(host, region, target, b"{}", who, now)


def test_the_signing_key_is_that_of_the_example_aws_publishes() -> None:
    key = signing_key("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "20150830", "us-east-1", "iam")
    assert key.hex() == "c4afb1cc5771d871763a393e44b703571b55cc28424d1a5e86da6ed3c154a4b9"
