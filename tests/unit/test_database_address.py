"""Where the database is: read when it is needed, read again when it stops working, and how the server is verified."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError
from psycopg.conninfo import conninfo_to_dict

from vecmeter.database_address import KEEP_SECONDS, RENEW_SECONDS, DatabaseAddress, database_address
from vecmeter.errors import DatabaseUnavailableError
from vecmeter.settings import Settings

SECRET = {"host": "db.internal", "port": 5433, "dbname": "vecmeter", "username": "app", "password": "it's a secret"}


class Source:
    """A secret that can be rotated or away, and counts how often it is read."""

    def __init__(self) -> None:
        self.dsn, self.away, self.reads, self.now = "first", False, 0, 1000.0

    def __call__(self) -> str:
        self.reads += 1
        if self.away:
            raise DatabaseUnavailableError("The secret cannot be read.")
        return self.dsn


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def address(source: Source) -> DatabaseAddress:
    return DatabaseAddress(source, lambda: source.now)


def test_it_is_read_once_and_not_before_it_is_needed(source: Source, address: DatabaseAddress) -> None:
    assert source.reads == 0
    assert [address.dsn() for _ in range(3)] == ["first"] * 3
    assert source.reads == 1


def test_after_a_rotation_the_first_failure_finds_the_new_one(source: Source, address: DatabaseAddress) -> None:
    address.dsn()
    source.now += RENEW_SECONDS
    source.dsn = "second"
    assert address.renew()
    assert address.dsn() == "second"


def test_while_the_database_is_away_it_is_read_once_a_minute_at_most(source: Source, address: DatabaseAddress) -> None:
    address.dsn()
    for _ in range(300):
        source.now += 1
        assert not address.renew(), "it says the same as ever"
    assert source.reads == 1 + 300 // RENEW_SECONDS


def test_a_new_connection_long_after_finds_the_new_one_without_a_failure(
    source: Source, address: DatabaseAddress
) -> None:
    address.dsn()
    source.dsn = "second"
    source.now += KEEP_SECONDS - 1
    assert address.dsn() == "first"
    source.now += 1
    assert address.dsn() == "second"
    source.away, source.now = True, source.now + KEEP_SECONDS
    assert address.dsn() == "second"


def test_a_secret_that_cannot_be_read_leaves_what_is_known(source: Source, address: DatabaseAddress) -> None:
    address.dsn()
    source.now += RENEW_SECONDS
    source.away = True
    assert not address.renew()
    assert address.dsn() == "first"
    source.away, source.dsn = False, "second"
    assert address.renew(), "and a failure to read it does not count as having read it"


def test_a_secret_that_could_not_be_read_is_read_again_by_the_next(source: Source, address: DatabaseAddress) -> None:
    source.away = True
    with pytest.raises(DatabaseUnavailableError):
        address.dsn()
    source.away = False
    assert address.dsn() == "first"


# --- what is in the secret ---


class SecretsManager:
    def __init__(self, answer: Callable[[], dict[str, str]]) -> None:
        self._answer = answer

    def client(self, service: str, config: Any) -> SecretsManager:
        assert service == "secretsmanager"
        assert config.connect_timeout + config.read_timeout <= 5, "botocore's own are 60 s each"
        return self

    def get_secret_value(self, *, SecretId: str) -> dict[str, str]:
        assert SecretId == "arn"
        return self._answer()


def settings(**more: str) -> Settings:
    return Settings.from_environment({"DATABASE_SECRET_ARN": "arn", "TABLE_NAME": "t", **more})


def parts(monkeypatch: pytest.MonkeyPatch, secret: dict[str, Any], **more: str) -> dict[str, Any]:
    manager = SecretsManager(lambda: {"SecretString": json.dumps(secret)})
    monkeypatch.setattr("boto3.session.Session", lambda: manager)
    return conninfo_to_dict(database_address(settings(**more)).dsn())


def test_the_secret_of_rds_is_understood_and_the_connection_is_encrypted(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = {"host": "db.internal", "port": "5433", "dbname": "vecmeter", "user": "app", "sslmode": "require"}
    assert parts(monkeypatch, SECRET) == expected | {"password": "it's a secret"}
    short = {name: SECRET[name] for name in ("host", "username", "password")}
    found = parts(monkeypatch, short)
    assert (found["port"], found["dbname"]) == ("5432", "postgres")


def test_with_a_root_certificate_the_server_is_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    found = parts(monkeypatch, SECRET, DATABASE_ROOT_CERTIFICATE="/opt/certificates/global-bundle.pem")
    assert (found["sslmode"], found["sslrootcert"]) == ("verify-full", "/opt/certificates/global-bundle.pem")


def test_a_secret_that_is_refused_is_a_database_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> dict[str, str]:
        raise ClientError({"Error": {"Code": "AccessDeniedException", "Message": "no"}}, "GetSecretValue")

    monkeypatch.setattr("boto3.session.Session", lambda: SecretsManager(refused))
    with pytest.raises(DatabaseUnavailableError, match="secret"):
        database_address(settings()).dsn()


def test_database_url_is_taken_as_it_is() -> None:
    address = database_address(Settings.from_environment({"DATABASE_URL": "postgresql://x/y", "TABLE_NAME": "t"}))
    assert address.dsn() == "postgresql://x/y"
    assert not address.renew()
