"""As whom AWS is called: the environment first, read at each call, and botocore's rules for everything else."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from botocore.credentials import RefreshableCredentials
from botocore.exceptions import CredentialRetrievalError, PartialCredentialsError

from vecmeter.ledger.access import find_access
from vecmeter.ledger.signature import Credentials
from vecmeter.ledger.signed import NoAnswerError


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A region and no credentials, whatever the machine has."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))


@pytest.fixture
def botocore_asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    asked: list[str] = []
    monkeypatch.setattr("botocore.session.Session.get_credentials", lambda _: asked.append("credentials"))
    return asked


def test_credentials_of_the_environment_are_read_anew_for_each_call(
    monkeypatch: pytest.MonkeyPatch, botocore_asked: list[str]
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "first")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_CA_BUNDLE", "/authorities.pem")
    access = find_access()
    assert (access.region, access.ca_bundle) == ("eu-central-1", "/authorities.pem")
    assert access.credentials() == Credentials("first", "secret")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "second")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token")
    assert access.credentials() == Credentials("second", "secret", "token")
    assert botocore_asked == []


def test_without_them_a_profile_is_found_as_botocore_finds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    monkeypatch.setenv("AWS_PROFILE", "work")
    (tmp_path / "config").write_text("[profile work]\nregion = ap-south-1\nca_bundle = /ours.pem\n")
    (tmp_path / "credentials").write_text(
        "[work]\naws_access_key_id = of-file\naws_secret_access_key = kept\naws_session_token = lent\n"
    )
    access = find_access()
    assert (access.region, access.ca_bundle) == ("ap-south-1", "/ours.pem")
    assert access.credentials() == Credentials("of-file", "kept", "lent")


def test_half_of_a_key_is_refused_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "alone")
    with pytest.raises(PartialCredentialsError):
        find_access()


def test_credentials_that_cannot_be_renewed_now_are_no_answer(tmp_path: Path) -> None:
    (tmp_path / "credentials").write_text("[default]\naws_access_key_id = a\naws_secret_access_key = b\n")

    def refuse(_: Any) -> None:
        raise CredentialRetrievalError(provider="role", error_msg="try later")

    lasting: Any = RefreshableCredentials("a", "b", "c", None, refuse, "role")
    with (
        patch("botocore.session.Session.get_credentials", return_value=lasting),
        patch.object(RefreshableCredentials, "get_frozen_credentials", refuse),
    ):
        access = find_access()
        with pytest.raises(NoAnswerError, match="try later"):
            access.credentials()
