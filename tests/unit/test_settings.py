"""Settings: what is read from the environment, and how mistakes in it are told."""

from __future__ import annotations

import dataclasses

import pytest

from vecmeter.errors import SettingsError
from vecmeter.settings import Settings

REQUIRED = {"DATABASE_URL": "postgresql://nowhere", "TABLE_NAME": "ledger"}


def test_two_variables_are_enough() -> None:
    settings = Settings.from_environment(REQUIRED)
    assert (settings.database_url, settings.table_name) == ("postgresql://nowhere", "ledger")
    assert settings.default_daily_requests == 10_000
    assert settings.default_monthly_requests == 300_000
    assert settings.default_daily_tokens == 1_000_000
    assert settings.default_monthly_tokens == 30_000_000


def test_every_mistake_is_named_at_once() -> None:
    wrong = {"MAX_TOP_K": "many", "LOG_LEVEL": "LOUD", "API_PREFIX": "v1", "USAGE_TRACKING_ENABLED": "perhaps"}
    with pytest.raises(SettingsError) as caught:
        Settings.from_environment(wrong)
    for name in (*wrong, "TABLE_NAME", "DATABASE_URL", "DATABASE_SECRET_ARN"):
        assert name in caught.value.detail


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MAX_TOP_K", "0"),
        ("MAX_TOP_K", "10001"),
        ("HOLD_SECONDS", "-1"),
        ("KEY_ENVIRONMENT", "prod"),
        ("API_PREFIX", "/v1/"),
    ],
)
def test_a_value_out_of_range_is_refused(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=name):
        Settings.from_environment(REQUIRED | {name: value})


def test_other_variables_do_not_matter() -> None:
    assert Settings.from_environment(REQUIRED | {"PATH": "/bin"}) == Settings.from_environment(REQUIRED)


def test_settings_cannot_be_changed() -> None:
    settings = Settings.from_environment(REQUIRED)
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.table_name = "other"  # type: ignore[misc]
