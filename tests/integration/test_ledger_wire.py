"""The wire to DynamoDB: where it connects, as whom, and whom it trusts."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from botocore.exceptions import NoCredentialsError, NoRegionError
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.fixtures.faults import FaultyEndpoint
from tests.fixtures.ledger import wire_to
from vecmeter.errors import LedgerUnavailableError
from vecmeter.ledger.signed import ServiceError
from vecmeter.ledger.table import Table
from vecmeter.ledger.wire import create_wire


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate of 127.0.0.1 that no authority has signed, and its key, in one file."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = tmp_path / "certificate.pem"
    path.write_bytes(private + signed.public_bytes(pem))
    return path


@pytest.fixture
def tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    return context


def test_a_server_that_cannot_prove_itself_is_told_nothing(
    dynamodb_endpoint: str, table_name: str, tls: ssl.SSLContext
) -> None:
    with FaultyEndpoint(dynamodb_endpoint, [], tls) as endpoint:
        client = wire_to(endpoint.url.replace("127.0.0.1", "localhost"))
        with pytest.raises(LedgerUnavailableError):
            Table(client, table_name, pause=lambda _: None).put({"pk": "p", "sk": "s"})
        client.close()
        assert endpoint.requests == 0


def test_an_authority_that_the_environment_names_is_trusted(
    dynamodb_endpoint: str, table_name: str, tls: ssl.SSLContext, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
    with FaultyEndpoint(dynamodb_endpoint, [], tls) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", endpoint.url.replace("127.0.0.1", "localhost"))
        client = create_wire(2)
        table = Table(client, table_name)
        table.put({"pk": "p", "sk": "s"})
        assert table.get("p", "s") == {"pk": "p", "sk": "s"}
        client.close()


@pytest.mark.parametrize(
    ("variables", "url"),
    [
        ({"AWS_DEFAULT_REGION": "eu-central-1"}, "https://dynamodb.eu-central-1.amazonaws.com/"),
        ({"AWS_DEFAULT_REGION": "cn-north-1"}, "https://dynamodb.cn-north-1.amazonaws.com.cn/"),
        ({"AWS_ENDPOINT_URL": "http://localhost:4566/some/path"}, "http://localhost:4566/"),
        ({"AWS_ENDPOINT_URL": "http://a.test", "AWS_ENDPOINT_URL_DYNAMODB": "http://b.test:1"}, "http://b.test:1/"),
    ],
)
def test_it_connects_where_the_environment_says(
    variables: dict[str, str], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL_DYNAMODB", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    client = create_wire(2)
    assert client.url == url
    client.close()


def test_without_a_region_or_credentials_it_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(NoCredentialsError):
        create_wire(2)
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    with pytest.raises(NoRegionError):
        create_wire(2)


def test_an_error_of_the_service_keeps_its_code_and_message(dynamodb_endpoint: str, table_name: str) -> None:
    client = wire_to(dynamodb_endpoint)
    with pytest.raises(ServiceError) as error:
        client.get_item(TableName=table_name, Key={"wrong": {"S": "x"}})
    client.close()
    assert (error.value.code, error.value.status) == ("ValidationException", 400)
    assert error.value.message
