"""The environment variables of the local composition."""

from __future__ import annotations

from collections.abc import Mapping

TABLE = "vecmeter"

_DEFAULTS = {
    "TABLE_NAME": TABLE,
    "LOG_FORMAT": "text",
    "KEY_ENVIRONMENT": "local",
    "EMBEDDER_PROVIDER": "built-in",
    "DATABASE_POOL_SIZE": "8",
    "METRICS_ENABLED": "false",
    "CIRCUIT_OPEN_SECONDS": "5",  # what dies is started again within seconds
}
_DUMMY_AWS = {
    "AWS_ACCESS_KEY_ID": "local",
    "AWS_SECRET_ACCESS_KEY": "local",
    "AWS_REGION": "us-east-1",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


def composition_environment(
    callers: Mapping[str, str], *, database_url: str, dynamodb_endpoint: str, emulated: bool, log_level: str
) -> dict[str, str]:
    """The caller's environment, completed for a local stack: what the caller set wins.

    With the emulator, the caller's AWS variables give way to dummy ones, unless Bedrock embeds: an AWS profile whose
    login has expired would otherwise keep a stack from starting that talks to no AWS at all, and a table made under
    one region is not seen under another.
    """
    environment = _DEFAULTS | {"LOG_LEVEL": log_level} | dict(callers)
    environment["DATABASE_URL"] = database_url
    environment["AWS_ENDPOINT_URL_DYNAMODB"] = dynamodb_endpoint
    if not emulated:
        return environment
    if environment["EMBEDDER_PROVIDER"] == "bedrock":
        return _DUMMY_AWS | environment
    kept = {
        name: value
        for name, value in environment.items()
        if not name.startswith("AWS_") or name == "AWS_ENDPOINT_URL_DYNAMODB"
    }
    return kept | _DUMMY_AWS
